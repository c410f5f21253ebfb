"""What a SuperLink says is shown beside the run's folder, as Flower's command said it once (flower-1.41/), and never in its way."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import recorded_runs
from helpers.pages import CHROMIUM, FLAGS, get
from limbeck.base.errors import CertificateError, DataError, RunError, SettingError
from limbeck.cli.main import app
from limbeck.deployment import flower, keys, status, superlink_status, watch
from limbeck.deployment.superlink_status import Asker, Note, SuperLinkStatus
from limbeck.experiments.faults.linked import HANG_SECONDS, until

RECORDED = Path(__file__).parent / "flower-1.41"
RUN = 16494868309796424365
TODAY = datetime(2026, 11, 25, tzinfo=UTC).timestamp()


def flwr(folder: Path, *, nodes: str = "nodes.json", run: str = "run-failed.json") -> None:
    """In the place of Flower's command, one that says what the real one said."""
    program = folder / "flwr"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in supernode) cat {RECORDED / nodes};; ls) cat {RECORDED / run};; *) exit 1;; esac\n'
    )
    program.chmod(0o755)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder whose SuperLink answers as it was recorded."""
    folder = tmp_path / "superlink"
    folder.mkdir()
    shutil.copy(RECORDED / "names.json", folder / flower.NAMES)
    flower.connect(folder, address="127.0.0.1:8000", ca=Path("ca.pem"))
    out = recorded_runs.make(tmp_path / "run")
    Note(folder=folder, run=RUN).write(out)
    flwr(folder)
    monkeypatch.setattr(flower, "_program", lambda name: str(folder / name))
    return out


def asked(out: Path) -> SuperLinkStatus:
    note = superlink_status.read_note(out)
    assert note is not None
    return superlink_status.ask(note, now=lambda: TODAY + 12_600)


def test_nodes_have_their_sites_names_and_those_that_are_away_come_first(out: Path) -> None:
    own = asked(out)
    assert [(node.name, node.state) for node in own.nodes] == [
        ("site-01", "offline"),
        ("site-02", "offline"),
        ("site-03", "registered"),
        ("site-00", "online"),
    ]
    assert [node.since for node in own.nodes] == [
        datetime(2026, 11, 25, 3, *minutes, tzinfo=UTC).timestamp() for minutes in ((29, 13), (25, 12), (28, 58), (27, 44))
    ]
    assert own.online == 1


def test_a_node_that_was_registered_elsewhere_goes_by_its_id() -> None:
    found = json.loads((RECORDED / "nodes.json").read_text())["nodes"]
    assert {node.name for node in superlink_status.parse_nodes(found, {})} == {
        own["node-id"] for own in found if own["status"] != "unregistered"
    }


def test_a_server_app_that_died_without_a_word_is_told_by_its_superlink(out: Path) -> None:
    own = asked(out)
    assert (own.state, own.details, own.failed) == ("finished:failed", "No heartbeat received from the task", True)
    page = watch.fragment(out, asker=settled(out, own), now=TODAY)
    assert "</span>stopped</p>" in page
    assert "The SuperLink says finished:failed: No heartbeat received from the task" in page
    assert "<code>limbeck flower run</code> again goes on after the last finished stage" in page
    # What the folder says to be finished stays so.
    finished = status.read(recorded_runs.make(out.parent / "other", end="end"), superlink=own)
    assert finished.state == "finished"
    result = CliRunner().invoke(app, ["status", str(out)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "is finished:failed, No heartbeat received from the task; 1 of 4 nodes online." in result.output
    assert json.loads(CliRunner().invoke(app, ["status", str(out), "--json"]).output)["superlink"]["run"] == RUN


def told(asker: Asker, out: Path) -> SuperLinkStatus:
    """What an asker says when it has its answer."""

    def latest() -> SuperLinkStatus | None:
        found = asker.latest(out)
        return found if found is not None and found.asked is not None else None

    return until(latest)


def settled(out: Path, own: SuperLinkStatus) -> Asker:
    """An asker that has had its answer."""
    answered = threading.Event()

    def answer(_: Note) -> SuperLinkStatus:
        answered.set()
        return own

    asker = Asker(answer)
    asker.latest(out)
    assert answered.wait(HANG_SECONDS)
    told(asker, out)
    return asker


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("echo nonsense", "nonsense"),
        (
            """echo '{"success": false, "error-message": "tried\\n\\nThe SuperLink is unavailable."}'""",
            "The SuperLink is unavailable.",
        ),
        ("""echo '{"success": true, "runs": [{}], "nodes": []}'""", "Expected Flower's status"),
        ("exec sleep 3600", "within 0.5 s"),
    ],
)
def test_a_superlink_that_does_not_answer_is_a_notice_beside_what_the_folder_says(
    program: str, told: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out.parent / "superlink" / "flwr").write_text(f"#!/bin/sh\n{program}\n")
    monkeypatch.setattr(superlink_status, "ASK_SECONDS", 0.5 if "sleep" in program else HANG_SECONDS)
    own = asked(out)
    assert told in own.error
    page = watch.fragment(out, asker=settled(out, own), now=TODAY)
    assert "It does not answer" in page
    assert "Stage 3: sites answer" in page
    result = CliRunner().invoke(app, ["status", str(out)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "The SuperLink does not answer" in result.output
    assert "6 answered" in result.output


def test_nobody_who_looks_waits_and_many_who_look_ask_once(out: Path) -> None:
    begun, may_answer, asked_for = threading.Semaphore(0), threading.Event(), []

    def slow(note: Note) -> SuperLinkStatus:
        asked_for.append(note)
        begun.release()
        assert may_answer.wait(HANG_SECONDS)
        return SuperLinkStatus(run=note.run, state="running", asked=TODAY)

    asker = Asker(slow, period=1e6)
    for _ in range(5):
        found = asker.latest(out)
        assert found is not None
        assert found.asked is None
        assert "It is being asked" in watch.fragment(out, asker=asker, now=TODAY)
    assert begun.acquire(timeout=HANG_SECONDS)
    may_answer.set()
    assert told(asker, out).state == "running"
    assert len(asked_for) == 1


def test_a_run_without_a_superlink_asks_nobody(tmp_path: Path) -> None:
    def never(_: Note) -> SuperLinkStatus:
        raise AssertionError

    out = recorded_runs.make(tmp_path / "run")
    assert Asker(never).latest(out) is None
    assert "SuperLink" not in watch.fragment(out, asker=Asker(never), now=TODAY)


def test_a_run_that_flower_has_not_begun_yet_is_shown_and_a_broken_note_is_an_error(out: Path, tmp_path: Path) -> None:
    for path in out.iterdir():
        if path.name != superlink_status.NOTE:
            path.unlink()
    assert status.locate(tmp_path) == out
    page = watch.fragment(out, asker=settled(out, asked(out)), now=TODAY)
    assert "site-03" in page
    assert "Not started yet" in watch.fragment(out, asker=Asker(), now=TODAY)
    for broken in ("{", "[]", '{"folder": "x"}', '{"folder": 1, "run": 2}'):
        (out / superlink_status.NOTE).write_text(broken)
        with pytest.raises(RunError, match=r"Expected a SuperLink's folder and a run's id in .*superlink.json"):
            superlink_status.read_note(out)
        assert "superlink.json" in watch.fragment(out, asker=Asker(), now=TODAY)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_what_the_superlink_says_when_it_has_said_it(out: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with watch.serve(out, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        picture = tmp_path / "page.png"
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2600"]
        url = f"http://127.0.0.1:{server.server_port}/"
        done = subprocess.run(
            [*command, "--virtual-time-budget=8000", f"--screenshot={picture}", "--dump-dom", url],
            check=True,
            capture_output=True,
            timeout=HANG_SECONDS,
            text=True,
        )
        found: dict[str, Any] = json.loads(get(server.server_port, "/status.json")[2])
        server.shutdown()
        thread.join()
    for told in ("1<small> of 4 nodes online", "finished:failed", "<b>site-03</b>", "No heartbeat received"):
        assert told in done.stdout
    assert found["superlink"]["nodes"][3]["state"] == "online"


# Where the SuperLink is reached.


def test_what_is_not_there_is_said_before_anything_is_written(out: Path, tmp_path: Path) -> None:
    authority = keys.init(tmp_path / "keys", names=["localhost"], now=datetime.now(UTC))
    certificate = authority.node("a", now=datetime.now(UTC)) / "a.pem"
    absent = tmp_path / "absent"
    for arguments in (["register", str(certificate)], ["run", str(out / "plan.pb"), "--transfer-sets", "t", "--out", "o"]):
        result = CliRunner().invoke(app, ["flower", *arguments, "--folder", str(absent)])
        assert isinstance(result.exception, SettingError)
        assert str(result.exception).startswith("Expected the folder of a SuperLink, as limbeck flower superlink makes it")
    assert not absent.exists()
    arguments = ["flower", "run", "absent.pb", "--transfer-sets", "t", "--out", "o", "--folder", str(tmp_path / "superlink")]
    assert isinstance(CliRunner().invoke(app, arguments).exception, DataError)
    shutil.rmtree(tmp_path / "superlink")
    assert asked(out).error.startswith("Expected the folder of a SuperLink")


def test_the_superlinks_own_programs_reach_it_under_a_name_of_its_certificate(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for names, addresses, host, expected in (
        (["a.example"], ["127.0.0.1"], "0.0.0.0", "127.0.0.1"),
        (["localhost"], [], "0.0.0.0", "localhost"),
        (["a.example"], ["10.0.0.7"], "10.0.0.7", "10.0.0.7"),
        (["a.example"], ["10.0.0.7"], "0.0.0.0", None),
        (["a.example"], [], "127.0.0.1", None),
    ):
        folder = tmp_path / f"{names[0]}-{'-'.join(addresses)}-{host}"
        keys.init(folder, names=names, addresses=addresses, now=now)
        own = folder / "server"
        tls = flower.Tls(ca=own / "ca.pem", certificate=own / "server.pem", key=own / "server.key")
        if expected is None:
            with pytest.raises(CertificateError, match=r"limbeck keys init --server-ip 127\.0\.0\.1"):
                flower.superlink(folder / "superlink", host=host, port=8000, tls=tls)
            continue
        commands = flower.superlink(folder / "superlink", host=host, port=8000, tls=tls).commands
        assert f"{expected}:8000" in commands["superexec"]
        assert stat.S_IMODE((folder / "superlink" / "superexec-secret").stat().st_mode) == 0o600
        (tmp_path / "other.key").unlink(missing_ok=True)
        shutil.copy(folder / "ca.key", tmp_path / "other.key")
        wrong = flower.Tls(ca=own / "ca.pem", certificate=own / "server.pem", key=tmp_path / "other.key")
        with pytest.raises(CertificateError, match="Expected the private key of the certificate"):
            flower.superlink(folder / "again", host=host, port=8000, tls=wrong)
