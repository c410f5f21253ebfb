"""Whatever the umask that a command was started with, the files that it makes are their owner's alone."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

from limbeck.experiments.faults.linked import COORDINATOR, Federation
from limbeck.server.events import StageFinished
from limbeck.simulations.scenario import load

# Runs what follows with a umask that forbids nothing.
OPEN = ["sh", "-c", 'umask 0; exec "$@"', "sh"]
SETTINGS = [
    "data.private=300",
    "data.public=40",
    "data.test=20",
    "run.workers=1",
    "student.dense_control=false",
    "student.epochs=2",
]


def open_to_others(folder: Path, known: frozenset[Path] = frozenset()) -> dict[str, str]:
    """Files and folders, but those known before, that others than their owner may do anything with, and how."""
    found = [path for path in [folder, *folder.rglob("*")] if path not in known and not path.is_symlink()]
    modes = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in found}
    return {name: f"{mode:03o}" for name, mode in modes.items() if mode & 0o077}


def test_a_site_and_its_coordinator_leave_nothing_that_others_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [*SETTINGS, "run.minimum_clients=1"]
    with Federation(folder, load("digits-tiny", settings), settings={"join_seconds": 0.5}) as federation:
        federation.before = dict.fromkeys((COORDINATOR, *federation.sites), OPEN)
        # The logs are the test's own.
        known = frozenset(
            [*folder.rglob("*"), folder, folder / "serve.log", *(folder / f"{name}.log" for name in federation.sites)]
        )
        site, coordinator = federation.site("site-00"), federation.serve()
        federation.wait_for(StageFinished)
        # A database that is open has its log and its index beside it.
        open_now = open_to_others(folder, known)
        assert coordinator.wait(120) == 0, (folder / "serve.log").read_text()
        site.send_signal(signal.SIGTERM)
        assert site.wait(60) == 0
    made = {path.name for path in folder.rglob("*") if path not in known}
    assert {"daemon.lock", "working.lock", "transcript.jsonl", "events.jsonl", "answers", "records.npz.ledger.head"} <= made
    assert {".ledger", ".onnx", ".safetensors", ".lock"} <= {path.suffix for path in folder.rglob("*") if path not in known}
    assert open_now == open_to_others(folder, known) == {}


EACH = """
import os, sys
from limbeck.cli.main import main
for line in sys.argv[1:]:
    os.umask(0)
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""
COMMANDS = [
    "deploy init --server localhost --clients a,b --out deployed",
    "keys init --server localhost authority",
    "keys request north --out deep/keys",
    "keys plan deep/author/plan.key",
    "policy init policy.toml",
    "teacher init my_teacher.py",
    " ".join(["simulate digits-tiny --prepare-only --out deep/run", *(f"--set {setting}" for setting in SETTINGS)]),
]


def test_what_commands_write_is_their_users_alone(tmp_path: Path) -> None:
    """One process for all: what each begins with is the same."""
    tmp_path.chmod(0o700)
    subprocess.run([sys.executable, "-c", EACH, *COMMANDS], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"deployed", "authority", "deep", "policy.toml", "my_teacher.py"}
    assert len(list((tmp_path / "deep" / "run").rglob("records.npz"))) == 3
    assert open_to_others(tmp_path) == {}
