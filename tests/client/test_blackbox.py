"""A black-box teacher is asked once, in order, over broken connections; nothing that it says is trusted. Real processes on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.plans import PLAN
from limbeck.base.errors import TeacherError
from limbeck.client import blackbox
from limbeck.client.blackbox import BlackBox, Link, Remote
from limbeck.plans.schema import BlackBoxTeaching, Family, Plan, Stage

N = 20
PERMITTED = replace(PLAN, classes=4, samples=N, black_box=BlackBoxTeaching(draws=8))
CHILD = Path(__file__).parents[1] / "helpers" / "teacher_child.py"
# Row i is (i % 9, 0): its answer says which row it was.
X = np.stack([np.arange(N) % 9, np.zeros(N)], 1).astype(np.float32)
Start = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def sign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the scripted teacher makes when it begins to hang."""
    return tmp_path_factory.mktemp("sign") / "hangs"


@pytest.fixture
def late(sign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for an answer is over when the teacher hangs and what it answered is stored: how fast this machine is has no say."""

    def hangs() -> bool:
        answered = sign.read_text() if sign.exists() else ""
        return bool(answered) and len(list(tmp_path.glob("answers-*.pb"))) >= int(answered)

    class Timer(threading.Timer):
        def run(self) -> None:
            while not self.finished.wait(0.01):
                if hangs():
                    self.function(*self.args)
                    return

    monkeypatch.setattr(blackbox, "threading", SimpleNamespace(Event=threading.Event, Timer=Timer))


@pytest.fixture
def start(sign: Path) -> Iterator[Start]:
    """Starts a scripted teacher, on a port if one is given; all are ended after the test."""
    children: list[subprocess.Popen[str]] = []
    sign.unlink(missing_ok=True)

    def begin(how: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, str(CHILD), str(port), how, str(sign)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        return child, int(child.stdout.readline())

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def remote(port: int, *, attempts: int = 3, sleep: Callable[[float], object] = time.sleep) -> Remote:
    link = Link(address=f"127.0.0.1:{port}", ca=None, certificate=None, key=None, deadline=600, attempts=attempts)
    return Remote(link, sleep)


def black_box(own: Remote) -> BlackBox:
    return BlackBox(remote=own, classes=None, batch=4)


def answered(folder: Path, plan: Plan = PERMITTED) -> torch.Tensor:
    log_p, _ = blackbox.log_probabilities(plan, folder, 2.0)
    return log_p.exp()


def expected() -> torch.Tensor:
    x = torch.from_numpy(X[:, 0])
    return torch.stack([(1 + x) / 10, 1 - (1 + x) / 10, 0 * x, 0 * x], 1)


def test_answers_of_a_teacher_written_with_the_generated_stubs_arrive_in_order(start: Start, tmp_path: Path) -> None:
    _, port = start("honest")
    black_box(remote(port)).ask(PERMITTED, X, tmp_path)
    torch.testing.assert_close(answered(tmp_path), expected())
    # Batches of 4: the site's own limit, below the teacher's 8.
    assert len(list(tmp_path.glob("answers-*.pb"))) == N // 4


@pytest.mark.usefixtures("late")
def test_an_answer_later_than_the_deadline_is_asked_for_again(start: Start, sign: Path, tmp_path: Path) -> None:
    _, port = start("slow once")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        sign.unlink()

    black_box(remote(port, sleep=pause)).ask(PERMITTED, X, tmp_path)
    torch.testing.assert_close(answered(tmp_path), expected())
    assert pauses == [blackbox.FIRST_BACKOFF]


@pytest.mark.usefixtures("late")
def test_a_teacher_that_is_always_late_is_an_error_that_says_so(start: Start, tmp_path: Path) -> None:
    _, port = start("hangs after two")
    with pytest.raises(TeacherError, match="in 1 attempts, got no answer within 600 s"):
        black_box(remote(port, attempts=1)).ask(PERMITTED, X, tmp_path)


def test_pauses_between_attempts_double_and_a_teacher_that_stays_away_is_named(start: Start) -> None:
    child, port = start("honest")
    child.kill()
    child.wait()
    pauses: list[float] = []
    with pytest.raises(TeacherError, match=rf"the teacher at 127.0.0.1:{port} in 4 attempts, got UNAVAILABLE"):
        remote(port, attempts=4, sleep=pauses.append).describe()
    assert pauses == [0.2, 0.4, 0.8]


def test_attempts_are_counted_anew_after_each_answer(start: Start, tmp_path: Path) -> None:
    """Five batches, a break after each: more breaks than attempts, but never two at one batch."""
    _, port = start("breaks after each")
    pauses: list[float] = []
    black_box(remote(port, attempts=2, sleep=pauses.append)).ask(PERMITTED, X, tmp_path)
    torch.testing.assert_close(answered(tmp_path), expected())
    assert pauses == [blackbox.FIRST_BACKOFF] * 4


@pytest.mark.usefixtures("late")
def test_a_teacher_killed_in_the_middle_and_restarted_is_asked_only_for_the_rest(
    start: Start, sign: Path, tmp_path: Path
) -> None:
    """Answers before the kill are kept as they were; the stream resumes after the last of them."""
    child, port = start("hangs after two")

    def restart(_: float) -> None:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        # What was answered before is on disk already, whatever comes.
        assert len(list(tmp_path.glob("answers-*.pb"))) == 2
        sign.unlink()
        start("honest", port)

    before = tmp_path / "answers-0-000000000-000000004.pb"
    own = remote(port, sleep=restart)
    black_box(own).ask(PERMITTED, X, tmp_path)
    torch.testing.assert_close(answered(tmp_path), expected())
    assert len(list(tmp_path.glob("answers-*.pb"))) == N // 4
    assert before.exists()


@pytest.mark.usefixtures("late")
def test_after_a_crash_of_the_site_nothing_that_is_stored_is_asked_again(start: Start, sign: Path, tmp_path: Path) -> None:
    child, port = start("hangs after two")
    with pytest.raises(TeacherError, match="in 1 attempts"):
        black_box(remote(port, attempts=1)).ask(PERMITTED, X, tmp_path)
    child.kill()
    child.wait()
    sign.unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("answers-*.pb")}
    assert len(kept) == 2
    # A teacher that would hang at its third batch has three left: it is asked for those alone, in batches of 8.
    _, port = start("hangs after two")
    BlackBox(remote=remote(port), classes=None, batch=8).ask(PERMITTED, X, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    starts = [int(path.stem.split("-")[2]) for path in sorted(tmp_path.glob("answers-*.pb"))]
    assert starts == [0, 4, 8, 16]
    torch.testing.assert_close(answered(tmp_path), expected())


def test_another_model_does_not_go_on_where_one_stopped(start: Start, tmp_path: Path) -> None:
    _, port = start("honest")
    black_box(remote(port)).ask(PERMITTED, X, tmp_path)
    _, port = start("another model")
    with pytest.raises(TeacherError, match="to be the one that answered before, got 'another'"):
        black_box(remote(port)).ask(PERMITTED, X, tmp_path)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("nan", "finite probabilities"),
        ("negative", "probabilities >= 0"),
        ("mass", "masses within"),
        ("beyond the classes", "ids below 4, got 4"),
        ("an id twice", "distinct ids"),
        ("more than top-k", r"k in \[1, 2\], got 3"),
        ("too many rows", "count = 4, got 5"),
        ("too few bytes", "32 bytes of probabilities, got 31"),
        ("other inputs", "first = 0, got 1"),
        ("labels unasked", "kind 'top_k', got 'labels'"),
        ("oversize", "RESOURCE_EXHAUSTED"),
        ("one too many", "first = 4, got 0"),
    ],
)
def test_a_teacher_that_lies_is_one_error_that_names_it(attack: str, said: str, start: Start, tmp_path: Path) -> None:
    _, port = start(attack)

    def no_retry(_: float) -> None:
        raise AssertionError("a wrong answer must not be asked for again")

    with pytest.raises(TeacherError, match=rf"the teacher at 127.0.0.1:{port}.*{said}"):
        black_box(remote(port, sleep=no_retry)).ask(PERMITTED, X, tmp_path)
    if attack != "one too many":
        assert not list(tmp_path.glob("answers-*.pb"))


def test_one_answer_too_many_at_the_end_is_refused(start: Start, tmp_path: Path) -> None:
    _, port = start("one too many")
    with pytest.raises(TeacherError, match="one too many"):
        BlackBox(remote=remote(port), classes=None, batch=8).ask(replace(PERMITTED, samples=4), X[:4], tmp_path)


def test_counts_of_labels_are_refused_under_power_softening_unless_the_teacher_draws_softened(start: Start) -> None:
    _, port = start("labels")
    own = black_box(remote(port))
    with pytest.raises(TeacherError, match="power softening of counts is biased"):
        own.check(PERMITTED, X)
    own.check(replace(PERMITTED, family=Family.MIXING), X)
    own.check(replace(PERMITTED, family=Family.HYBRID), X)
    with pytest.raises(TeacherError, match="power softening of counts is biased"):
        own.check(replace(PERMITTED, family=Family.HYBRID, stages=(Stage(sparsity=0.5, temperature=0.5),)), X)
    own.check(replace(PERMITTED, stages=(Stage(sparsity=0.5, temperature=1.0),)), X)


@pytest.mark.parametrize("change", [{"family": Family.ENTROPY_TARGET}, {"family": Family.TSALLIS, "tsallis_order": 0.5}])
@pytest.mark.parametrize("kind", ["labels", "honest"])
def test_a_family_that_may_neither_follow_counts_nor_be_drawn_from_is_refused(
    start: Start, change: dict[str, object], kind: str
) -> None:
    _, port = start(kind)
    with pytest.raises(TeacherError, match="Expected power, mixing or hybrid for a black-box teacher"):
        black_box(remote(port)).check(replace(PERMITTED, **change), X)  # type: ignore[arg-type]


def test_a_plan_that_permits_no_black_box_or_has_other_inputs_or_classes_is_refused(start: Start) -> None:
    _, port = start("honest")
    own = black_box(remote(port))
    with pytest.raises(TeacherError, match="a plan that permits black-box teachers"):
        own.check(replace(PERMITTED, black_box=None), X)
    with pytest.raises(TeacherError, match="inputs of kind 'rows'"):
        own.check(PERMITTED, np.zeros((N, 8, 8), np.uint8))
    with pytest.raises(TeacherError, match="the plan's 5 classes, got 4"):
        own.check(replace(PERMITTED, classes=5), X)


def test_classes_are_matched_by_the_owners_names(start: Start, tmp_path: Path) -> None:
    _, port = start("honest")
    plan = replace(PERMITTED, classes=5)
    named = BlackBox(remote=remote(port), classes=["d", "c", "e", "b", "a"], batch=8)
    named.ask(plan, X, tmp_path)
    torch.testing.assert_close(answered(tmp_path, plan)[:, [4, 3, 1, 0]], expected())
    assert float(answered(tmp_path, plan)[:, 2].max()) == 0
    with pytest.raises(TeacherError, match="found no 'd'"):
        BlackBox(remote=remote(port), classes=["a", "b", "c", "e", "f"], batch=8).check(plan, X)


def test_a_link_does_not_show_its_key() -> None:
    link = Link(address="h:1", ca=b"", certificate=b"", key=b"secret", deadline=1, attempts=1)
    assert "secret" not in repr(link)
