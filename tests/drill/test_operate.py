"""docs/operate.md, word by word: its commands, as they stand there, make three sites that train and distil over TLS on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from limbeck.client import ledger
from limbeck.client.site import Site
from limbeck.deployment import status

GUIDE = Path(__file__).parents[2] / "docs" / "operate.md"
SECONDS = 600


def commands() -> str:
    """Every block that is to be copied, in order, on a port that is free here."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), flags=re.M | re.S)
    assert len(blocks) == 10
    text = "".join(blocks)
    assert text.count("--port 7443") == 1
    return text.replace("--port 7443", f"--port {port}")


def test_the_guide_leads_from_an_empty_folder_to_a_student(tmp_path: Path) -> None:
    # The command, and nothing else of this environment.
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "limbeck"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m limbeck.cli.main "$@"\n')
    command.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": f"{command.parent}:/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["bash", "-eu", "-c", commands()],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=SECONDS)
    finally:
        # Whatever is left of it, also where it failed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    # Its last command waits until all sites have ended.
    assert process.returncode == 0, told
    run = status.read(status.locate(home / "federation" / "coordinator"))
    assert (run.state, run.counts) == ("finished", {"answered": 3})
    assert run.privacy is not None
    for name in ("north", "south", "west"):
        log = (home / f"{name}.log").read_text()
        assert "Traceback" not in log
        assert f"the run of plan {run.plan_hash[:16]} is finished" in log
        book = ledger.read(Site(home / "federation" / "sites" / name).ledger)
        assert len(book.schedules) == 1
        assert book.spent() == run.privacy.epsilon
    assert (home / "federation" / "coordinator" / "run" / "student").is_dir()
    north = ledger.read(Site(home / "federation" / "sites" / "north").ledger)
    assert ledger.read(home / "north-backup" / "records.npz.ledger").head == north.head
    assert north.head in told.splitlines()
    assert "allowed" in told
