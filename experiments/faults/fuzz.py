"""Send a million bad messages to everything that reads bytes of a peer: `python -m limbeck.experiments.faults.fuzz`.

Mutations, splices, lies about lengths and bombs of good messages go to every decoder, to a real site, to a coordinator and to an end
of the link. Each either becomes a value that encodes to the same bytes again, or a WireError; any other exception, a site that "met an
error of its own", a message that takes more than MEMORY or HANG_SECONDS is a failure: its bytes are kept in a file and shown. Message
number i of a target follows from the seed, the target and i alone, so `--target NAME --first i --messages 1` puts one again. Exit
status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

from limbeck.protos import tls  # noqa: F401 - before gRPC is loaded

# isort: split
import numpy as np
import torch
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from rich.console import Console
from rich.table import Table

from limbeck.base.errors import WireError
from limbeck.base.files import outliving_power_cuts, write_durably
from limbeck.base.progress import bars
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.experiments import memory
from limbeck.experiments.faults import bombs, mutations
from limbeck.experiments.faults.mutations import Mutator
from limbeck.operators import Truncated
from limbeck.plans.schema import Coding, InputKind, LabelCounts, Plan, Pooling, PublicInputs, RecordCount, Sampled, TopK
from limbeck.protos import carry, codec, flower_messages, link, link_codec, teacher_codec
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reason, Reply, Request, Share, Taught, Teach
from limbeck.protos.teacher import Answers, Batch, Description, Inputs, Kind
from limbeck.server.coordinator import Coordinator, Patience, site_weights
from limbeck.server.pooling import Pool
from limbeck.server.roster import Node, NodeState
from limbeck.server.states import AGREE
from limbeck.simulations import prepare
from limbeck.simulations.scenario import load

MESSAGES = 1_000_000
# Bytes that one message may take, many times what the largest of them holds; seconds after which it is taken to hang.
MEMORY = 192 << 20
HANG_SECONDS = 60
FAILURES_SHOWN = 20
# Out of all messages, one in so many is a bomb, and one in so many is not changed at all.
BOMBS, UNCHANGED = 2000, 50
SITE = "site-00"
REFUSED, ACCEPTED = "refused", "accepted"
# Faults that are known and not mended yet, by what `Fault` says of them; each with the reason. They are counted, and fail nothing.
KNOWN: dict[str, str] = {}


class Fault(Exception):
    """What was decoded is not what it should be."""


class Hang(BaseException):
    """A message took too long; no handler of errors may catch it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What reads bytes of a peer. good: messages as they should be. read: ends with WireError or an outcome. share: of all messages.

    mutate: makes a bad message of a good one.
    """

    name: str
    good: Sequence[bytes]
    read: Callable[[bytes], str]
    share: float
    bombs: Sequence[bytes] = ()
    mutate: Callable[[Mutator, bytes], bytes] = Mutator.mutate

    def message(self, seed: int, index: int) -> bytes:
        """One of the messages that this target is sent."""
        mutator = Mutator(f"{seed}/{self.name}/{index}", self.good)
        if self.bombs and not mutator.random.randrange(BOMBS):
            return mutator.random.choice(self.bombs)
        data = mutator.random.choice(self.good)
        return data if not mutator.random.randrange(UNCHANGED) else self.mutate(mutator, data)


@dataclass(kw_only=True)
class Summary:
    """What became of a target's messages. peak: bytes of memory above what there was before, at most. slowest: seconds."""

    target: str
    messages: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0


# Decoders


def _same(encoded: bytes, data: bytes, what: str) -> str:
    if encoded != data:
        raise Fault(f"{what} encodes to other bytes")
    return ACCEPTED


def requests(folder: Path) -> Target:
    """Requests to a site."""
    plan_hash, good = bytes(range(32)), []
    for plan in _plans(folder):
        good += [codec.encode_request(Offer(plan=plan))]
    good += [(folder / "plan.pb").read_bytes(), codec.encode_request(Teach(plan_hash=plan_hash))]
    good += [codec.encode_request(Ask(plan_hash=plan_hash, stage=1, first=3, count=17))]

    def read(data: bytes) -> str:
        return _same(codec.encode_request(codec.decode_request(data)), data, "a request")

    return Target(name="request", good=good, read=read, share=0.18)


def offers(folder: Path) -> Target:
    """Files of plans."""

    def read(data: bytes) -> str:
        return _same(codec.encode_request(codec.decode_offer(data)), data, "an offer")

    good = [codec.encode_request(Offer(plan=plan)) for plan in _plans(folder)]
    return Target(name="offer", good=[(folder / "plan.pb").read_bytes(), *good], read=read, share=0.04)


def replies(folder: Path) -> Target:
    """Replies to a coordinator, under several plans: each message is read as the answer to every question of its plan."""
    plans = _plans(folder)
    cases = [(plan, request) for plan in plans for request in _questions(plan)]
    good = [bytes([index]) + data for index, (plan, request) in enumerate(cases) for data in _answers(plan, request)]

    def read(data: bytes) -> str:
        plan, request = cases[data[0] % len(cases)] if data else cases[0]
        reply = codec.decode_reply(data[1:], plan=plan, expecting=request)
        return _same(codec.encode_reply(reply, plan=plan), data[1:], f"a {type(reply).__name__}")

    return Target(name="reply", good=good, read=read, share=0.22)


def flower(_: Path) -> Target:
    """Flower messages: parcels as they come over the link, most with hashes that are right."""
    flower_messages.identify(1, 2)
    question = Message(carry.pack(b"question"), 5, "query.share", group_id="g", ttl=60.0)
    flower_messages.name_by_content(question)
    contents = (b"x", bytes(200), bytes(range(256)) * 5)
    messages = [Message(carry.pack(content), reply_to=question) for content in contents]
    messages += [question, Message(Error(8, "gone"), reply_to=question)]
    good = [flower_messages.encode(message) for message in messages]

    def read(data: bytes) -> str:
        return _same(flower_messages.encode(flower_messages.decode(data, limit=codec.MAX_REQUEST)), data, "a message")

    def mutate(mutator: Mutator, data: bytes) -> bytes:
        return mutations.parcel(mutator, data) if mutator.random.random() < 0.75 else mutator.mutate(data)

    blasts = [data for _, data in bombs.flower_messages()]
    return Target(name="flower", good=good, read=read, share=0.2, bombs=blasts, mutate=mutate)


def frames(_: Path) -> Target:
    """Frames of the link: each is decoded; some are then said, one after the other, to an end of it."""
    transfer = link.Transfer(id=bytes(range(32)), data=bytes(1000))
    whole: list[link.Frame] = [
        link.hello(15),
        transfer.announcement,
        link.Chunk(id=transfer.id, offset=0, data=transfer.data[:600]),
        link.Chunk(id=transfer.id, offset=600, data=transfer.data[600:]),
        link.Ack(id=transfer.id, received=1000),
        link.Heartbeat(),
        link.Problem(text="no reason"),
        link.Finished(plan=bytes(range(32))),
    ]
    good = [link_codec.encode_frame(frame) for frame in whole]
    spoken = good[1:6]

    def read(data: bytes) -> str:
        frame = link_codec.decode_frame(data)
        _same(link_codec.encode_frame(frame), data, "a frame")
        if data[-1] % 16 == 0:
            draw = Mutator(data.hex()[:200], good).random
            asyncio.run(_converse([*draw.choices(spoken, k=draw.randrange(4)), data, *draw.choices(spoken, k=4)]))
        return ACCEPTED

    return Target(name="frame", good=good, read=read, share=0.18)


class _End:
    """A station that takes one transfer of at most 2,000 bytes at a time, and has one to send."""

    limit = 2000

    def __init__(self) -> None:
        self.assembly: link.Assembly | None = None
        self._sent = False

    async def next_transfer(self) -> link.Transfer:
        if self._sent:
            await asyncio.Event().wait()
        return link.Transfer(id=bytes(range(32)), data=bytes(1000))

    def delivered(self, _: link.Transfer) -> None:
        self._sent = True

    def wants(self, announce: link.Announce) -> bool:
        return announce.total % 2 == 0

    def receive(self, _: bytes, data: bytes) -> None:
        if len(data) > self.limit:
            raise Fault("an end took more than its limit")

    def finished(self, _: bytes) -> None:
        pass


async def _converse(said: Iterable[bytes]) -> None:
    """Say these frames to an end of the link, until it ends the connection or they are over."""
    frames, station, written = iter(said), _End(), 0

    async def read() -> link.Frame | None:
        data = next(frames, None)
        return link_codec.decode_frame(data) if data is not None else None

    async def write(_: link.Frame) -> None:
        nonlocal written
        written += 1

    with suppress(WireError, link.Disconnected):
        await link.Connection(station, read, write, heartbeat=60).run()
    held = station.assembly.received if station.assembly is not None else 0
    if held > station.limit or written > 100:
        raise Fault(f"an end holds {held} bytes and has written {written} frames")


def teachers(_: Path) -> Target:
    """A teacher's descriptions and answers to a site, and questions to a teacher.

    Other encodings than limbeck's own are allowed here: what is read has to encode, and to be read again.
    """
    labels = tuple("abcde")
    gives = Description(
        model="m", labels=labels, inputs=Inputs.ROWS, answers=Kind.PROBABILITIES, top_k=3, tempered=False, max_batch=8
    )
    draws = replace(gives, inputs=Inputs.IMAGES, answers=Kind.LABELS, top_k=0, tempered=True)
    reads = replace(gives, inputs=Inputs.TEXTS)
    x_N = np.arange(12, dtype=np.float32).reshape(4, 3)
    batches = {
        1: (gives, Batch(first=0, x_N=x_N, draws=0, temperature=0.0)),
        2: (draws, Batch(first=0, x_N=np.zeros((4, 2, 3), np.uint8), draws=2, temperature=2.0)),
        3: (reads, Batch(first=0, x_N=np.array(["ä", "b", "c", ""]), draws=0, temperature=0.0)),
    }
    p_Nk = torch.tensor([[0.5, 0.25, 0.125]]).expand(4, 3).contiguous()
    truncated = Truncated(
        ids_Nk=torch.arange(3).expand(4, 3).contiguous(), p_Nk=p_Nk, tail_N=torch.full((4,), 0.125), classes=5
    )
    answers = {
        4: (gives, Answers(first=0, answers=truncated), 0),
        5: (draws, Answers(first=0, answers=torch.zeros(4, 2, dtype=torch.int64)), 2),
    }
    good = [b"\0" + teacher_codec.encode_description(description) for description in (gives, draws, reads)]
    good += [bytes([kind]) + teacher_codec.encode_batch(batch) for kind, (_, batch) in batches.items()]
    good += [bytes([kind]) + teacher_codec.encode_answers(given, about) for kind, (about, given, _) in answers.items()]
    good += [b"\6" + teacher_codec.encode_describe_request()]

    def read(data: bytes) -> str:
        kind, rest = data[0] % 7 if data else 0, data[1:]
        if kind == 6:
            teacher_codec.decode_describe_request(rest)
        elif kind == 0:
            description = teacher_codec.decode_description(rest)
            if teacher_codec.decode_description(teacher_codec.encode_description(description)) != description:
                raise Fault("a description is another when it is read again")
        elif kind in batches:
            about, _ = batches[kind]
            again = teacher_codec.encode_batch(teacher_codec.decode_batch(rest, about))
            _same(teacher_codec.encode_batch(teacher_codec.decode_batch(again, about)), again, "a batch")
        else:
            about, _, count = answers[kind]
            given = teacher_codec.decode_answers(rest, about, first=0, count=4, draws=count)
            again = teacher_codec.encode_answers(given, about)
            teacher_codec.decode_answers(again, about, first=0, count=4, draws=count)
        return ACCEPTED

    return Target(name="teacher", good=good, read=read, share=0.13)


# A site and a coordinator


def site(folder: Path) -> Target:
    """A real site, which has accepted a plan and trained: whatever comes, it answers or says that it is no request."""
    real = Site(folder / "sites" / SITE)
    offer = (folder / "plan.pb").read_bytes()
    plan = codec.decode_offer(offer).plan
    plan_hash = codec.plan_hash(plan)
    good = [offer, codec.encode_request(Teach(plan_hash=plan_hash))]
    for first, count in ((0, plan.samples), (3, 5)):
        good += [codec.encode_request(Ask(plan_hash=plan_hash, stage=stage, first=first, count=count)) for stage in (0, 1)]
    for request in good:
        respond(real, request)
    failed = Reason.FAILED.name.encode()

    def read(data: bytes) -> str:
        with outliving_power_cuts(False):
            reply = respond(real, data)
        codec.implied_request(reply, plan)
        if failed in reply:
            raise Fault("the site met an error of its own")
        return "declined" if b"declined" in reply or len(reply) < 100 else ACCEPTED

    return Target(name="site", good=good, read=read, share=0.02)


class SameAnswer(Grid):
    """Nodes that all answer with the same bytes, at once."""

    def __init__(self, nodes: int) -> None:
        flower_messages.identify(flower_messages.SERVER_NODE, 1)
        self.answer = b""
        self._nodes, self._asked = range(100, 100 + nodes), dict[str, Message]()

    def set_run(self, run: Run) -> None:
        """Not needed."""

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes

    def site_of(self, node_id: int) -> str:
        return f"site-{node_id}"

    def connections_of(self, _: int) -> int:
        return 1

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = {flower_messages.name_by_content(message): message for message in messages}
        self._asked |= asked
        return list(asked)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        answered = [self._asked.pop(message_id) for message_id in message_ids if message_id in self._asked]
        return [Message(carry.pack(self.answer), reply_to=message) for message in answered]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


def coordinator(folder: Path) -> Target:
    """A coordinator whose sites answer every question with these bytes: it goes on, whatever they say, and can pool what it took."""
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    questions = list(_questions(plan))
    good = [bytes([index]) + data for index, request in enumerate(questions) for data in _answers(plan, request)]
    grid = SameAnswer(2)
    patience = Patience(expected=2, join=0.0, answer=10.0, pause=0.0)
    run = Coordinator(grid, Offer(plan=plan), torch.zeros(plan.samples, 8, 8), folder / "coordinator", patience)
    nodes = [Node(id=node_id, label=name, site=name) for node_id in grid.get_node_ids() if (name := grid.site_of(node_id))]
    for node in nodes:
        run.roster.add(node)
    before: dict[type[Request], NodeState] = {Offer: NodeState.KNOWN, Teach: NodeState.AGREED, Ask: NodeState.MEMBER}

    def read(data: bytes) -> str:
        request, grid.answer = questions[data[0] % len(questions)] if data else questions[0], data[1:]
        pool, outcome = Pool(samples=plan.samples, classes=plan.classes), REFUSED
        for node in nodes:
            node.state = before[type(request)]
        for node, reply in run._ask_all(AGREE, request, nodes):
            outcome = ACCEPTED
            weights = site_weights(plan, run.record.clients)
            if isinstance(reply, Share):
                pool.add(reply.answers, first=reply.first, weights_K=weights.get(node.site))
                if not torch.isfinite(pool.result()).all():
                    raise Fault("pooled targets are not finite")
        (folder / "coordinator" / "events.jsonl").unlink()
        return outcome

    return Target(name="coordinator", good=good, read=read, share=0.03)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "request": requests,
    "offer": offers,
    "reply": replies,
    "flower": flower,
    "frame": frames,
    "teacher": teachers,
    "site": site,
    "coordinator": coordinator,
}


# Good messages


def _plans(folder: Path) -> list[Plan]:
    """Plans that encode answers in every way: packed and in bytes, top k and drawn, all classes and ids of two bytes, all counts."""
    plan = replace(codec.decode_offer((folder / "plan.pb").read_bytes()).plan, samples=24)
    # The first plan keeps the names of its classes; the others have other numbers of classes.
    few = replace(plan, label_counts=None, record_count=None, pooling=Pooling.MEAN, class_names=())
    weighted = replace(few, class_weights=(0.25, 0.5, 1.0))
    return [
        plan,
        replace(few, coding=Coding.BYTES, record_count=RecordCount(noise_std=4.0), pooling=Pooling.RECORD_COUNTS),
        replace(few, truncation=Sampled(draws=7), inputs=PublicInputs(kind=InputKind.NUMBERS, low=-3.5, high=1e6)),
        replace(
            weighted, classes=3, truncation=TopK(k=3), label_counts=LabelCounts(noise_std=4.0), pooling=Pooling.CLASS_COUNTS
        ),
        replace(few, classes=300, truncation=TopK(k=5), coding=Coding.BYTES, inputs=None),
        replace(few, classes=300, truncation=TopK(k=20)),
    ]


def _questions(plan: Plan) -> Iterator[Request]:
    plan_hash = codec.plan_hash(plan)
    yield Offer(plan=plan)
    yield Teach(plan_hash=plan_hash)
    yield Ask(plan_hash=plan_hash, stage=1, first=0, count=plan.samples)


def _answers(plan: Plan, request: Request) -> Iterator[bytes]:
    """What a site may say to a question."""
    plan_hash = codec.plan_hash(plan)
    replies: list[Reply] = [Declined(plan_hash=plan_hash, site="site-100", reason=Reason.BUDGET)]
    match request:
        case Offer():
            replies.append(Accepted(plan_hash=plan_hash, site="site-100", guarantee=Guarantee.RECORD_DP))
        case Teach():
            counts = tuple(range(plan.classes)) if plan.label_counts is not None else None
            number = 70 if plan.record_count is not None else None
            replies.append(
                Taught(plan_hash=plan_hash, label_counts=counts, record_count=number, guarantee=Guarantee.RECORD_DP)
            )
        case Ask():
            replies.append(Share(plan_hash=plan_hash, stage=request.stage, first=0, answers=_rows(plan, request.count)))
    return (codec.encode_reply(reply, plan=plan) for reply in replies)


def _rows(plan: Plan, count: int) -> Truncated:
    generator = torch.Generator().manual_seed(0)
    p_NK = torch.randn(count, plan.classes, generator=generator).mul(2).softmax(-1)
    match plan.truncation:
        case TopK(k=k):
            top = p_NK.topk(k)
            tail_N = (1 - top.values.sum(1)).clamp(min=0) if k < plan.classes else torch.zeros(count)
            return Truncated(ids_Nk=top.indices, p_Nk=top.values, tail_N=tail_N, classes=plan.classes)
        case Sampled(draws=draws):
            drawn_NK = torch.zeros_like(p_NK)
            drawn = torch.multinomial(p_NK, draws, replacement=True, generator=generator)
            drawn_NK.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=p_NK.dtype))
            top = drawn_NK.topk(min(draws, plan.classes))
            return Truncated(ids_Nk=top.indices, p_Nk=top.values / draws, tail_N=torch.zeros(count), classes=plan.classes)


# Running


@contextmanager
def bounded() -> Iterator[None]:
    """No more memory than MEMORY beyond what there is now, and no message that takes for ever."""

    def hang(_: int, __: FrameType | None) -> None:
        raise Hang(f"more than {HANG_SECONDS} s")

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_DATA, (memory.used("VmData") + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def fuzz(
    target: Target,
    seed: int,
    indices: Iterable[int],
    out: Path,
    *,
    until: float = float("inf"),
    step: Callable[[], None] | None = None,
) -> Summary:
    """Put messages of these numbers to a target.

    out: the folder for those that fail. until: monotonic time to stop at. step: called after each.
    """
    summary = Summary(target=target.name)
    for data in target.good:
        target.read(data)
    with suppress(OSError):
        memory.reset_peak()
    before, started = memory.used("VmRSS"), time.monotonic()
    with bounded():
        for index in indices:
            begun = time.monotonic()
            if begun > until or len(summary.failures) >= FAILURES_SHOWN:
                break
            data = target.message(seed, index)
            signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
            try:
                summary.outcomes[target.read(data)] += 1
            except WireError:
                summary.outcomes[REFUSED] += 1
            except (Exception, Hang) as error:
                _note(summary, f"{type(error).__name__}: {error}", index, data, out)
            signal.setitimer(signal.ITIMER_REAL, 0)
            summary.messages += 1
            summary.slowest = max(summary.slowest, time.monotonic() - begun)
            if step is not None:
                step()
    summary.seconds = time.monotonic() - started
    summary.peak = max(0, memory.used("VmHWM") - before)
    return summary


def _note(summary: Summary, what: str, index: int, data: bytes, out: Path) -> None:
    for known in KNOWN:
        if known in what:
            summary.known[known] += 1
            return
    path = out / f"{summary.target}-{index}.bin"
    write_durably(path, data)
    summary.failures.append(f"{what[:300]} ({path}, {len(data)} bytes: {data[:64].hex()}{'...' if len(data) > 64 else ''})")


def ready(folder: Path) -> None:
    """A prepared run, whose sites and plan are what is fuzzed."""
    settings = ["privacy.noise=UnsafeSeeded", "data.public=40", "run.workers=1"]
    prepare.prepare(load("digits-tiny", settings), folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m limbeck.experiments.faults.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, each target with its share")
    parser.add_argument("--target", choices=["all", *TARGETS], default="all")
    parser.add_argument("--first", type=int, default=0, help="number of the first message")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="folder for messages that failed")
    parser.add_argument("--record", type=Path, help="write the summary to this file, as JSON")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    console, summaries = Console(stderr=True), []
    with tempfile.TemporaryDirectory() as folder, bars(console) as progress:
        ready(Path(folder))
        targets = [make(Path(folder)) for name, make in TARGETS.items() if options.target in ("all", name)]
        whole, deadline = sum(target.share for target in targets), time.monotonic()
        for target in targets:
            count = max(1, round(options.messages * target.share / whole))
            # What a target does not need of its time goes to the next.
            deadline += options.seconds * target.share / whole
            task = progress.add_task(target.name, total=count)
            indices = range(options.first, options.first + count)
            step = partial(progress.advance, task)
            summaries.append(fuzz(target, options.seed, indices, options.out, until=deadline, step=step))
    _show(summaries, console)
    if options.record is not None:
        write_durably(options.record, json.dumps(_described(options, summaries), indent=1).encode() + b"\n")
    return int(any(summary.failures for summary in summaries))


def _show(summaries: Sequence[Summary], console: Console) -> None:
    table = Table("target", "sent", "refused", "taken", "other", "failed", "known", "per s", "max ms", "MB")
    for summary in summaries:
        other = sum(summary.outcomes.values()) - summary.outcomes[REFUSED] - summary.outcomes[ACCEPTED]
        rate, slowest = summary.messages / max(summary.seconds, 1e-9), 1000 * summary.slowest
        cells = (
            summary.messages,
            summary.outcomes[REFUSED],
            summary.outcomes[ACCEPTED],
            other,
            len(summary.failures),
            sum(summary.known.values()),
        )
        table.add_row(
            summary.target, *(f"{cell:,}" for cell in cells), f"{rate:,.0f}", f"{slowest:.0f}", f"{summary.peak / 1e6:.0f}"
        )
    console.print(table)
    for summary in summaries:
        for failure in summary.failures:
            console.print(f"{summary.target}: {failure}", style="red", markup=False, highlight=False, soft_wrap=True)


def _described(options: argparse.Namespace, summaries: Sequence[Summary]) -> dict[str, object]:
    return {
        "command": f"python -m limbeck.experiments.faults.fuzz --messages {options.messages} --seed {options.seed}"
        f" --record {options.record}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared with other work: load {os.getloadavg()[0]:.1f} at the end",
        "known": KNOWN,
        "targets": [
            {
                "target": summary.target,
                "messages": summary.messages,
                "outcomes": dict(summary.outcomes),
                "failures": summary.failures,
                "known": dict(summary.known),
                "seconds": round(summary.seconds, 1),
                "slowest_ms": round(1000 * summary.slowest, 1),
                "peak_MB_above_before": round(summary.peak / 1e6, 1),
            }
            for summary in summaries
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
