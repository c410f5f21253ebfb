"""Killed at any point of what keeps the accounts, a site has lost no charge, and nothing has left that its transcript lacks.

A child process kills itself with SIGKILL before a line of ledger, app, transcript or durable files. A killed process leaves
files and nothing else, so kills between which no file changed are one and the same: a first run over all lines notes where
something changed, and every such point is tried.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from helpers import sites
from helpers.sites import charges
from limbeck.base import files
from limbeck.base.errors import WireError
from limbeck.client import account, app, holdings, ledger, replies, stored, teachers, training, transcript, witness
from limbeck.client.holdings import Records
from limbeck.client.site import Site
from limbeck.client.witness import TAUGHT, TEACHER, UNSENT
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Declined, Reply, Request, Share, Taught, Teach

# As code names its file, which may be a path of links.
STORES = (account, holdings, ledger, stored, transcript, witness, files)
WATCHED = {str(module.__file__) for module in (app, replies, training, *STORES)}
OFFER = sites.offer()
HASH = codec.plan_hash(OFFER.plan)
QUESTIONS: list[Request] = [OFFER, Teach(plan_hash=HASH), Ask(plan_hash=HASH, stage=0, first=0, count=20)]


def run(site: Site, sent: Path | None = None) -> list[bytes]:
    """Ask everything; what leaves is noted in `sent` as the peer would have it."""
    replies = []
    for question in QUESTIONS:
        replies.append(app.respond(site, codec.encode_request(question)))
        if sent is not None:
            with sent.open("ab") as file:
                file.write(replies[-1].hex().encode() + b"\n")
    return replies


def state(folder: Path) -> list[tuple[str, int, int]]:
    """Every file with its size and the time of its last change."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            own = path.stat()
        except FileNotFoundError:  # a temporary file, renamed or removed since
            continue
        if path.is_file() and not path.name.endswith("-shm"):
            found.append((str(path), own.st_size, own.st_mtime_ns))
    return found


def in_a_child(folder: Path, before_line: Callable[[int], None]) -> bool:
    """Run in a fork, with a call before every watched line, counted from 1; True where it was killed."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal count
            if frame.f_code.co_filename not in WATCHED:
                return None
            if event == "line":
                count += 1
                before_line(count)
            return trace

        real = Records.read

        def marked(records: Records, *arguments: Any) -> Any:
            (folder / "read").touch()
            return real(records, *arguments)

        setattr(Records, "read", marked)  # noqa: B010 - a method, which mypy lets nobody assign
        sys.settrace(trace)
        status = 1
        try:
            run(Site(folder), folder / "sent")
            status = 0
        finally:
            sys.settrace(None)
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def make(folder: Path, failed: bool) -> Site:
    """A site; failed: that was charged for a training which came to nothing."""
    site = sites.make(folder)
    if failed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(teachers, "train", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no memory")))
            for question in QUESTIONS[:2]:
                app.respond(site, codec.encode_request(question))
        assert len(charges(site.folder)) == 1
    return site


def points(folder: Path, failed: bool) -> list[int]:
    """The lines before which a file has changed since the line before."""
    make(folder, failed)
    found, last = folder.parent / "points", state(folder)

    def note(line: int) -> None:
        nonlocal last
        now = state(folder)
        if now != last or line == 1:
            with found.open("a") as file:
                file.write(f"{line}\n")
        last = now

    assert not in_a_child(folder, note)
    return [int(line) for line in found.read_text().splitlines()]


def kill_at(last: int) -> Callable[[int], None]:
    return lambda line: os.kill(os.getpid(), signal.SIGKILL) if line == last else None


@pytest.mark.parametrize("failed", [False, True], ids=["first", "after a training that came to nothing"])
def test_killed_at_any_point_no_charge_is_lost_and_nothing_leaves_unwritten(failed: bool, tmp_path: Path) -> None:
    run(sites.make(tmp_path / "warm-up"))
    outcomes, lines = set(), points(tmp_path / "dry", failed)
    for line in lines:
        folder = tmp_path / str(line)
        site = make(folder, failed)
        assert in_a_child(folder, kill_at(line))
        read, before = (folder / "read").exists(), len(charges(site.folder))
        assert before <= 1, line
        assert before == 1 or not read, line
        sent = (folder / "sent").read_text().splitlines() if (folder / "sent").exists() else []
        written = [own.data.hex() for own in site.transcript]
        assert set(sent) <= set(written), line
        taught = any((folder / "state" / HASH.hex()[:16] / name).exists() for name in (TAUGHT, UNSENT))
        trained = (folder / "state" / HASH.hex()[:16] / TEACHER).read_bytes() if taught else None
        # A plan is charged once: what was charged and not finished is done again under the same charge, and what was finished is kept.
        answers = list(zip(run(site), QUESTIONS, strict=True))
        replies = [codec.decode_reply(data, plan=OFFER.plan, expecting=question) for data, question in answers]
        assert not any(isinstance(reply, Declined) for reply in replies), line
        assert len(charges(site.folder)) == 1, line
        assert [own.data.hex() for own in site.transcript][: len(written)] == written, line
        assert trained in {None, (folder / "state" / HASH.hex()[:16] / TEACHER).read_bytes()}, line
        # Whatever left before and after, it was one teacher's reply, and one answer to each input.
        for question, kind in ((QUESTIONS[1], Taught), (QUESTIONS[2], Share)):
            left = {own.data for own in site.transcript if own.data and _is(own.data, question, kind)}
            assert len(left) == 1, line
        site.account.check(every_line=True)
        outcomes.add((read, before, taught))
    assert len(lines) > 20
    before_the_charge = set() if failed else {(False, 0, False)}
    assert outcomes == {*before_the_charge, (False, 1, False), (True, 1, False), (True, 1, True)}


def _is(data: bytes, question: Request, kind: type[Reply]) -> bool:
    try:
        return isinstance(codec.decode_reply(data, plan=OFFER.plan, expecting=question), kind)
    except WireError:
        return False
