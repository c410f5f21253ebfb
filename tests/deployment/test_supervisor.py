"""What a supervisor starts is started again when it ends, and does not outlive its supervisor."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from limbeck.base.errors import SettingError
from limbeck.deployment.supervisor import Supervisor
from limbeck.experiments.faults.linked import HANG_SECONDS, until

PYTHON = sys.executable


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def noting(path: Path, then: str) -> list[str]:
    """A process that notes its id, then does something."""
    code = f"import os, sys, time; open({str(path)!r}, 'a').write(f'{{os.getpid()}}\\n'); print('here'); sys.stdout.flush(); {then}"
    return [PYTHON, "-c", code]


def test_what_ends_is_started_again_after_the_delay_and_what_runs_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commands = {
        "ends": noting(tmp_path / "ends", "sys.exit(3)"),
        "runs": noting(tmp_path / "runs", "time.sleep(3600)"),
    }
    supervisor = Supervisor(commands, environment=os.environ, logs=tmp_path / "logs", delay=0.3)
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    with caplog.at_level(logging.WARNING, "limbeck"):
        thread.start()
        until(lambda: len(pids(tmp_path / "ends")) >= 3)
        stop.set()
        thread.join()
    assert len(pids(tmp_path / "runs")) == 1
    assert not alive(pids(tmp_path / "runs")[0])
    assert "ends ended with status 3 and is started again in 0.3 s" in caplog.text
    assert (tmp_path / "logs" / "ends.log").read_text().count("here") == len(pids(tmp_path / "ends"))


def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    command = noting(tmp_path / "child", "time.sleep(3600)")
    code = (
        "import os, threading; from pathlib import Path; from limbeck.deployment.supervisor import Supervisor;"
        f"Supervisor({{'child': {command!r}}}, environment=os.environ, logs=Path({str(tmp_path)!r})).run(threading.Event())"
    )
    supervisor = subprocess.Popen([PYTHON, "-c", code])
    until(lambda: len(pids(tmp_path / "child")) == 1)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    until(lambda: not alive(pids(tmp_path / "child")[0]))


def test_what_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.deployment.supervisor.GRACE_SECONDS", 0.2)
    then = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w'); time.sleep(3600)"
    monkeypatch.chdir(tmp_path)
    supervisor = Supervisor({"deaf": noting(tmp_path / "deaf", then)}, environment=os.environ, logs=tmp_path)
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    until((tmp_path / "ready").exists)
    stop.set()
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()
    assert not alive(pids(tmp_path / "deaf")[0])


def test_a_negative_delay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Expected delay >= 0, got -1"):
        Supervisor({}, environment={}, logs=tmp_path, delay=-1)
