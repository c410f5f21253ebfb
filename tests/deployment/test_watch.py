"""Status and the live page say what the run's files say, to this machine only, and nothing that a peer wrote is more than text."""

from __future__ import annotations

import contextlib
import html.parser
import json
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from typer.testing import CliRunner

from helpers import recorded_runs
from helpers.pages import CHROMIUM, FLAGS, get
from helpers.plans import PLAN
from limbeck.base.errors import DataError, RunError, SettingError, TooFewClients
from limbeck.cli.main import app
from limbeck.deployment import status, tested, watch
from limbeck.deployment.bringup import TEMPLATES
from limbeck.experiments.faults.linked import HANG_SECONDS, until
from limbeck.plans import accounting
from limbeck.protos.messages import Offer
from limbeck.server import checkpoint, student
from limbeck.server.coordinator import Coordinator, Patience
from limbeck.server.events import Continued, Events, Joined, Progress, Resumed, Started, Stopped
from limbeck.server.pruning import Masks
from limbeck.server.states import AGREE, TEACH, Phase, RefusedReply, Step

THIRD = Phase(Step.ANSWERS, 2)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\" ' & {{ 7*7 }}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return recorded_runs.make(tmp_path / "run")


def steps(own: status.Status) -> str:
    return " ".join(f"{step.name}:{step.state[0]}" for step in own.steps)


def test_a_run_in_its_third_stage(folder: Path) -> None:
    own = status.read(folder)
    assert (own.state, own.name) == ("running", "pneumonia-2026")
    assert own.active is not None
    assert (own.active.name, own.active.done, own.active.total) == ("answers 3", 4, 6)
    assert steps(own) == (
        "agree:d teach:d answers 1:d distil 1:d answers 2:d distil 2:d answers 3:a distil 3:w answers 4:w distil 4:w export:w"
    )
    assert own.counts == {"answered": 6, "declined": 1, "left out": 1, "lost": 1}
    reasons = {client.name: (client.state, client.reason) for client in own.clients if client.reason}
    assert reasons["riverside"] == ("declined", "agree: the privacy budget does not allow it")
    assert reasons["west"] == ("lost", "answers 2: no answer within 3600 s")
    assert reasons["st-anna"][0] == "left out"
    assert [(stage.clients, stage.loss) for stage in own.stages] == [(7, 0.84), (6, pytest.approx(0.64))]
    record = json.loads((folder / "record.json").read_text())["clients"]
    assert own.bytes_up == sum(client["bytes_up"] for client in record.values())


def test_the_cost_is_the_plans_with_its_terms_and_those_without_a_guarantee_are_named(folder: Path) -> None:
    own = status.read(folder).privacy
    assert own is not None
    assert own.epsilon == accounting.epsilon(((PLAN.teaching, PLAN.counts),), 1e-5)
    assert (own.delta, own.unit, own.adjacency, own.sites, own.without) == (1e-5, "record", "add-remove-one", 7, ())
    record = json.loads((folder / "record.json").read_text())
    for guarantee in ("none", "seeded-noise"):
        record["clients"]["north"]["guarantee"] = guarantee
        (folder / "record.json").write_text(json.dumps(record))
        changed = status.read(folder).privacy
        assert changed is not None
        assert (changed.sites, changed.without) == (6, ("north",))
        page = watch.fragment(folder, now=0.0)
        assert "<b>No guarantee</b> holds for the records of north" in page
        assert f'<span class="tag bad">{guarantee}</span>' in page


def test_a_plan_of_another_hash_beside_the_run_is_not_its_plan(folder: Path) -> None:
    recorded_runs.make(folder.parent / "other", replace(recorded_runs.RUN_PLAN, name="another"))
    shutil.copy(folder.parent / "other" / "plan.pb", folder / "plan.pb")
    own = status.read(folder)
    assert (own.plan, own.privacy, own.name) == (None, None, "run")
    assert len([step for step in own.steps if step.name.startswith("answers")]) == 4
    (folder / "plan.pb").write_bytes(b"x")
    assert status.read(folder).plan is None
    (folder / "plan.pb").unlink()
    recorded_runs.make(folder.parent / "same")
    shutil.move(folder.parent / "same" / "plan.pb", folder.parent / "plan.pb")
    assert status.read(folder).name == "pneumonia-2026"


@pytest.mark.parametrize(("end", "state"), [("end", "finished"), ("stopped", "stopped")])
def test_how_a_run_ended(end: str, state: str, tmp_path: Path) -> None:
    own = status.read(recorded_runs.make(tmp_path / "run", end=end))
    assert (own.state, own.active) == (state, None)
    assert own.why == ("" if end == "end" else "Expected at least 2 sites after 'teach', got 1.")
    assert all(step.state == "done" for step in own.steps) == (end == "end")
    assert f"</span>{state}</p>" in watch.fragment(tmp_path, now=0.0)


def test_a_coordinator_without_enough_sites_leaves_the_reason_for_its_stop(tmp_path: Path) -> None:
    class Nobody:
        def get_node_ids(self) -> list[int]:
            return []

        def push_messages(self, messages: list[object]) -> list[str]:
            assert not messages
            return []

    offer = Offer(plan=recorded_runs.RUN_PLAN)
    patience = Patience(expected=0, join=0.0, pause=0.0)
    with pytest.raises(TooFewClients):
        Coordinator(cast(Any, Nobody()), offer, torch.arange(20 * 64.0).view(20, 8, 8), tmp_path, patience).run()
    own = status.read(tmp_path)
    assert (own.state, own.why[:44]) == ("stopped", "Expected at least 2 sites after 'agree', got")


def test_a_paused_run_is_paused_until_it_says_otherwise_also_while_it_asks_again(tmp_path: Path) -> None:
    folder = recorded_runs.make(tmp_path / "run", end="paused")
    events = Events(folder / "events.jsonl")
    events(Progress(phase=THIRD, done=1, total=1))
    events(Progress(phase=THIRD, done=0, total=1))
    own = status.read(folder)
    assert (own.state, own.why) == ("paused", "Stage 3: sites answer: 1 of at least 2 sites")
    assert own.active is not None
    assert "goes on by itself" in watch.fragment(folder, now=0.0)
    events(Continued(phase=THIRD, sites=2))
    assert (status.read(folder).state, status.read(folder).why) == ("running", "")


def test_a_resumed_run_does_not_count_what_an_earlier_start_did_as_under_way(folder: Path) -> None:
    events = Events(folder / "events.jsonl")
    events(Started(plan="00", stages=4))
    assert steps(status.read(folder)).startswith("agree:a teach:w answers 1:d distil 1:d answers 2:d distil 2:d answers 3:w")
    for phase in (AGREE, TEACH):
        events(Progress(phase=phase, done=6, total=6))
    events(Resumed(after_stage=1))
    own = status.read(folder)
    assert own.active is not None
    assert own.active.name == "answers 3"
    assert own.log[-1].text == "goes on after stage 2"


def test_torn_lines_and_lines_of_something_else_are_passed_over(folder: Path) -> None:
    before = status.read(folder)
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "progress", "time"\n[]\n"x"\n\xff\xfe\n{"kind": 3, "time": 0}\n{"kind": "end", "time": 5')
    assert status.read(folder) == before


EVENT = st.fixed_dictionaries(
    {"kind": st.sampled_from(["start", "progress", "stage", "end", "x", "resumed"])},
    optional={
        "phase": st.text(max_size=5),
        "done": st.integers(-5, 5),
        "total": st.integers(-5, 5),
        "reason": st.none() | st.text(max_size=5),
        "stages": st.integers(0, 5),
    },
)


@given(events=st.lists(st.binary(max_size=30) | EVENT, max_size=12))
def test_no_events_break_the_page(events: list[bytes | dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("events")
    lines = [own if isinstance(own, bytes) else json.dumps({**own, "time": 1.5}).encode() for own in events]
    (folder / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert "<h1>" in watch.page(folder, now=2.0)


@pytest.mark.parametrize(
    "content",
    ["{", "{}", '{"clients": {"a": {}}, "stages": []}', '{"clients": 1, "stages": 2}', '{"clients": {}, "stages": [{}]}'],
)
def test_a_broken_record_is_an_error_with_its_path_and_shown_on_the_page(content: str, folder: Path) -> None:
    (folder / "record.json").write_text(content)
    with pytest.raises(RunError, match=r"Expected a run's record in .*record.json"):
        status.read(folder)
    assert "record.json" in watch.page(folder, now=0.0)


def test_a_run_is_found_in_the_folder_that_holds_it_the_newest_first(folder: Path, tmp_path: Path) -> None:
    assert status.locate(folder) == folder
    assert status.locate(tmp_path) == folder
    newer = recorded_runs.make(tmp_path / "coordinator" / "run-2")
    assert status.locate(tmp_path) == newer
    with pytest.raises(RunError, match=r"Expected the folder of a run, with events.jsonl"):
        status.locate(tmp_path / "absent")


def test_students_are_measured_on_test_data_and_only_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    x_N, y_N = generator.integers(0, 255, (50, 8, 8), dtype=np.uint8), generator.integers(0, 10, 50)
    np.savez(tmp_path / "test.npz", x=x_N, y=y_N)
    model = student.build("mlp", (8, 8), 10, 7)
    checkpoint.save_stage(folder / "checkpoints", 0, model, Masks.ones(model), torch.zeros(20, 10))
    with torch.no_grad():
        expected = float(np.mean(model.eval()(torch.from_numpy(x_N).float() / 255).argmax(1).numpy() == y_N))
    test = tested.TestData(tmp_path / "test.npz")
    assert [stage.accuracy for stage in status.read(folder, test).stages] == [pytest.approx(expected), None]
    monkeypatch.setattr(checkpoint, "load", None)
    assert status.read(folder, test).stages[0].accuracy == pytest.approx(expected)
    assert f"{100 * expected:.1f} %" in watch.fragment(folder, test, now=0.0)
    np.savez(tmp_path / "bad.npz", x=x_N, y=y_N[:3])
    with pytest.raises(DataError, match="Expected inputs x"):
        tested.TestData(tmp_path / "bad.npz")


# The page.


class Elements(html.parser.HTMLParser):
    """Which attributes the elements of a page have, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, set()).update(name for name, _ in attrs)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    with watch.serve(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_the_page_is_read_only_and_only_for_this_machine(folder: Path) -> None:
    with served(folder) as port:
        code, headers, page = get(port)
        assert code == 200
        assert "Stage 3: sites answer" in page
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert "access-control-allow-origin" not in headers
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
            code, headers, _ = get(port, method=method)
            assert (code, headers["allow"]) == (405, "GET")
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
            assert get(port, Host=host)[0] == 421
        assert get(port, Host=f"localhost:{port}")[0] == 200
        for path in ("/../../etc/passwd", "/record.json", "/%2e%2e/", "/?x", "/watch.css/../plan.pb"):
            assert get(port, path)[0] == 404
        assert json.loads(get(port, "/status.json")[2])["counts"]["declined"] == 1
        # Nothing listens on the machine's other addresses.
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection(("127.0.0.2", port), timeout=5).close()


def test_connections_that_say_nothing_keep_nobody_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones, half a request and one that was answered and stays: more than there may be, and with no time limit that would help."""
    monkeypatch.setattr(watch, "REQUEST_SECONDS", 3600.0)
    # However the test ends, the connections are closed before the server is: it waits for the threads that serve them.
    with served(folder) as port, contextlib.ExitStack() as idle:
        before = threading.active_count()
        first = idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        for number in range(1, watch.CONNECTIONS + 30):
            connection = idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            if number % 3:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\n".encode())
        for _ in range(3):
            assert get(port, "/now")[0] == 200
        assert first.recv(1) == b"", "the connection that waited longest made room"
        until(lambda: threading.active_count() - before <= watch.CONNECTIONS + 1 or None)


def test_a_request_that_comes_byte_by_byte_ends_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the whole does not."""
    monkeypatch.setattr(watch, "REQUEST_SECONDS", 1.0)
    with served(folder) as port, socket.create_connection(("127.0.0.1", port), timeout=0.1) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")

        def ended() -> bool | None:
            try:
                slow.sendall(b"x")
                return slow.recv(1) == b"" or None
            except TimeoutError:
                return None
            except OSError:
                return True

        assert until(ended)


@pytest.mark.parametrize("header", [b"X: " + b"x" * 30_000, b"X: y\r\n" * 4000])
def test_a_request_that_is_too_long_is_not_read_to_its_end(header: bytes, folder: Path) -> None:
    with served(folder) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as own:
        own.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\n".encode() + header)
        with contextlib.suppress(ConnectionResetError):
            answer = own.recv(1 << 16)
            assert not answer or answer.startswith(b"HTTP/1.1 431 ")


def test_connections_that_break_leave_nothing_on_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with served(folder) as port:
        before = threading.active_count()
        for data in (
            b"",
            b"GET",
            b"\x16\x03\x01\x00",
            b"GET /\x1b[31m HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                own.sendall(data)
        until(lambda: threading.active_count() <= before or None)
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(folder: Path) -> None:
    with served(folder) as port, pytest.raises(SettingError, match=f"Expected a free port, got {port}"):
        watch.serve(folder, port=port)


def test_what_peers_wrote_is_text(tmp_path: Path) -> None:
    folder = recorded_runs.make(tmp_path / "run", replace(recorded_runs.RUN_PLAN, name=HOSTILE), sites=(HOSTILE, "north"))
    record = json.loads((folder / "record.json").read_text())
    record["clients"]["north"] |= {"reason": f"teach: {HOSTILE}", "exclusion": None}
    (folder / "record.json").write_text(json.dumps(record))
    events = Events(folder / "events.jsonl")
    events(Progress(phase=THIRD, done=1, total=2, why=RefusedReply(HOSTILE)))
    events(Joined(site=HOSTILE, stage=2))
    events(Stopped(reason=HOSTILE))
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": HOSTILE, "time": 1.0, HOSTILE: HOSTILE}) + "\n")
    page = watch.page(folder, now=0.0)
    # The plan's name, a site's name and its reason, why the run stopped; in the log a refusal, a site, a stop and an unknown event.
    assert page.count("&lt;script&gt;alert(1)") >= 11
    assert page.count("<script") == 1  # the page's own, by address
    assert "{{ 7*7 }}" in page  # not a template
    for field in ("status", "guarantee"):
        broken = json.loads((folder / "record.json").read_text())
        broken["clients"]["north"][field] = HOSTILE
        (tmp_path / field).mkdir()
        (tmp_path / field / "record.json").write_text(json.dumps(broken))
        error = watch.page(tmp_path / field, now=0.0)
        assert "Expected a run&#39;s record in" in error
        assert error.count("<script") == 1
        assert "onerror=alert(1)>" not in error
    parser = Elements()
    parser.feed(page)
    assert parser.found["script"] == {"src", "defer"}
    assert "img" not in parser.found
    for names in parser.found.values():
        assert not [name for name in names if name.startswith("on") or name == "style"]


def test_the_page_loads_nothing_from_elsewhere(folder: Path) -> None:
    page = watch.page(folder, now=0.0) + "".join((TEMPLATES / name).read_text() for name in ("watch.css", "watch.js"))
    assert not re.search(r"https?://", page)
    assert sorted(re.findall(r'(?:src|href)="([^"]+)"', page)) == ["/watch.css", "/watch.js", "data:,"]


def test_before_the_run_there_is_a_page_that_says_so(tmp_path: Path) -> None:
    with served(tmp_path / "absent") as port:
        assert "No run to show yet" in get(port)[2]
        assert get(port, "/status.json")[0] == 404
        recorded_runs.make(tmp_path / "absent")
        assert "pneumonia-2026" in get(port, "/now")[2]


def test_silence_is_pointed_out(folder: Path) -> None:
    newest = status.read(folder).newest
    assert newest is not None
    assert "Quiet for a while" not in watch.fragment(folder, now=newest + 200)
    assert "Quiet for a while" in watch.fragment(folder, now=newest + 400)
    assert "last news 6 min 40 s ago" in watch.fragment(folder, now=newest + 400)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [420, 1280])
def test_a_browser_shows_the_page_under_its_policy_and_follows_the_run(width: int, folder: Path, tmp_path: Path) -> None:
    """The page is replaced by a newer one while the browser looks: so script, style and policy work together."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},2400",
        "--enable-logging=stderr",
    ]
    with served(folder) as port:
        url, picture = f"http://127.0.0.1:{port}/", tmp_path / "page.png"
        # Only after the first page was handed out does the run go on; the browser sees that by asking again.
        seen = threading.Event()
        real = watch.page

        def page(*values: object, **named: object) -> str:
            text: str = real(*values, **named)  # type: ignore[arg-type]
            seen.set()
            return text

        def go_on() -> None:
            assert seen.wait(HANG_SECONDS)
            Events(folder / "events.jsonl")(Progress(phase=THIRD, done=5, total=6))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch, "page", page)
            writer = threading.Thread(target=go_on)
            writer.start()
            done = subprocess.run(
                [*command, "--virtual-time-budget=6000", f"--screenshot={picture}", "--dump-dom", url],
                check=True,
                capture_output=True,
                timeout=HANG_SECONDS,
                text=True,
            )
            writer.join()
    assert "5 of 6 sites have replied" in done.stdout
    assert "<title>pneumonia-2026: running</title>" in done.stdout
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr
    assert picture.stat().st_size > 40_000
    # The banner that says that nothing answers is not there: the first rows are the page's own ground.
    rows = imread(picture)[:8]
    assert (rows == rows[0, 0]).all()


# The command.


def test_the_status_command_prints_what_the_page_shows(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "running: Stage 3: sites answer, 4 of 6" in told
    for counted in ("6 answered", "1 declined", "1 left out", "1 lost"):
        assert counted in told
    cost = accounting.epsilon(((PLAN.teaching, PLAN.counts),), 1e-5)
    assert f"epsilon = {cost:.4g} at delta = 1e-05, per record, add-remove-one" in told
    assert "the privacy budget does not allow it" in told
    found = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).output)
    assert (found["state"], found["privacy"]["delta"], len(found["stages"])) == ("running", 1e-5, 2)
