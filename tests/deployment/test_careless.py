"""What a careless operator does, and what another user of the machine can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from helpers import sites
from limbeck.base import files
from limbeck.base.errors import SettingError
from limbeck.client.ledger import Ledger, close_idle
from limbeck.client.site import Site
from limbeck.deployment import bringup, doctor
from limbeck.deployment.doctor import Finding, Outcome, shared
from limbeck.protos import codec
from limbeck.server import app as server_app


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users of this machine can come to, as the temporary folder of tests is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if shared.is_shielded(folder):
        pytest.fail(f"Expected a temporary folder that others can come to, got {folder}.")
    yield folder
    shutil.rmtree(folder)


def used(folder: Path) -> Path:
    """The folder of a site of which everything that a site keeps is there."""
    site: Site
    site, plan = sites.make(folder / "site"), sites.plan()
    with Ledger(site.ledger, site.budget) as ledger:
        entry = ledger.reserve(codec.plan_hash(plan), "teacher", plan.teaching, plan.counts)
    close_idle()
    site.transcript.append("taught", codec.plan_hash(plan), entry, b"x")
    state = site.state(codec.plan_hash(plan))
    state.mkdir(parents=True)
    (state / "teacher.safetensors").write_bytes(b"x")
    for path in [site.folder, *site.folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return site.folder


def about_files(folder: Path) -> list[Finding]:
    findings = doctor.examine(folder, now=datetime.now(UTC), network=False)
    return [each for each in findings if each.check == "files"]


def test_a_doctor_says_what_others_can_read_or_change(open_folder: Path) -> None:
    folder = used(open_folder)
    assert about_files(folder) == []
    folder.chmod(0o755)
    assert about_files(folder) == []
    (kept,) = folder.glob("state/*/*")
    private = ["records.npz.ledger", "records.npz.ledger.head", "transcript.jsonl", str(kept.relative_to(folder))]
    for name in private:
        (folder / name).chmod(0o644)
        (finding,) = about_files(folder)
        assert finding.outcome is Outcome.WARN
        # A database that is open has files beside it, of its own mode.
        assert f"Others than its owner can read {folder / name}" in finding.found
        assert f"chmod -R go= {folder}" in finding.advice
        for path in folder.glob(f"{name}*"):
            path.chmod(0o600)
    for name in ("policy.toml", "site.toml", "transfer", *private):
        for mode in (0o620, 0o602):
            (folder / name).chmod(mode)
            assert [each.outcome for each in about_files(folder)] == [Outcome.FAIL]
        (folder / name).chmod(0o700 if (folder / name).is_dir() else 0o600)
    (folder / "policy.toml").chmod(0o644)
    assert about_files(folder) == []
    for name in private:
        (folder / name).chmod(0o666)
    (finding,) = about_files(folder)
    assert "more." in finding.found
    # Nobody else comes to what lies in a folder of its owner alone.
    folder.chmod(0o700)
    assert about_files(folder) == []


def test_a_coordinators_folder_is_looked_through_too(open_folder: Path) -> None:
    bringup.init(bringup.Federation(server=("localhost",), sites=("A",)), open_folder / "f", now=datetime.now(UTC))
    for path in [open_folder / "f", *(open_folder / "f").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o600)
    folder = open_folder / "f" / "coordinator"
    (folder / "run").chmod(0o700)
    assert about_files(folder) == []
    (folder / "run" / "record.json").touch()
    # A command that ran in this process before has restricted what it creates.
    (folder / "run" / "record.json").chmod(0o644)
    (folder / "revoked").chmod(0o602)
    assert [each.outcome for each in about_files(folder)] == [Outcome.FAIL, Outcome.WARN]


def test_two_coordinators_never_work_in_one_folder(tmp_path: Path) -> None:
    """Whatever carries their messages, and whatever port they listen at."""
    site = sites.make(tmp_path / "site")
    (tmp_path / "plan.pb").write_bytes(codec.encode_request(sites.offer()))
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").write_text('{"kind": "start", "time": 1.0}\n{"kind": "torn')
    config: dict[str, bool | float | int | str] = {
        "plan": str(tmp_path / "plan.pb"), "transfer-sets": str(site.folder / "transfer"), "folder": str(run),
    }  # fmt: skip
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    holder = "import sys; from pathlib import Path; from limbeck.base.files import alone\n"
    holder += "with alone(Path(sys.argv[1]), 'coordinator'): print('held', flush=True); sys.stdin.read()"
    lock = str(run / server_app.LOCK)
    with subprocess.Popen([sys.executable, "-c", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SettingError, match=f"Expected no other coordinator in {run}, found one running"):
            server_app.main(cast(Grid, None), context)
        # Not even the torn line was dropped.
        assert (run / "events.jsonl").read_text().endswith('{"kind": "torn')
        other.kill()
    # One that was killed holds nothing.
    with files.alone(run / server_app.LOCK, "coordinator"):
        pass


def test_durable_files_follow_no_link_that_another_user_put_there(tmp_path: Path) -> None:
    """Neither where the file is to be, nor where its temporary one might be guessed to be."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("state.pb", ".state.pb", ".state.pb.tmp", f".state.pb.{os.getpid()}"):
        (folder / name).symlink_to(victim)
    files.write_durably(folder / "state.pb", b"new")
    assert victim.read_text() == "precious"
    assert not (folder / "state.pb").is_symlink()
    assert (folder / "state.pb").stat().st_mode & 0o777 == 0o600
    (folder / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="Expected no file at"):
        files.create_private(folder / "key", b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_a_federation_is_written_over_nothing(tmp_path: Path) -> None:
    federation = bringup.Federation(server=("localhost",), sites=("A",))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "empty", "dangling"):
        with pytest.raises(SettingError, match="it was left as it is"):
            bringup.init(federation, tmp_path / name, now=datetime.now(UTC))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "empty", "file"]


def test_a_site_whose_daemon_runs_has_no_second_one(tmp_path: Path) -> None:
    """See also test_site.py; here by the lock alone, which a killed daemon does not keep."""
    site = Site(sites.make(tmp_path / "site").folder)
    site.link_state.mkdir(exist_ok=True)
    lock = site.daemon_lock
    with (
        files.alone(lock, "daemon of the site"),
        pytest.raises(SettingError, match="Expected no other daemon of the site"),
        files.alone(lock, "daemon of the site"),
    ):
        raise AssertionError("two of them")
