"""Nothing that one site sends ends the run of the others, whether it passes the codec or not, or gives it more than half of a class."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import read_arrays
from limbeck.operators import Truncated
from limbeck.plans.schema import Plan
from limbeck.protos import carry, codec
from limbeck.protos.flower_messages import SERVER_NODE, identify, name_by_content, node_of
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reason, Reply, Request, Share, Taught, Teach
from limbeck.server import checkpoint, export, pooling
from limbeck.server.coordinator import Coordinator, Patience
from limbeck.simulations import prepare, scenario

HONEST, EVIL = ("site-00", "site-01", "site-02"), "site-03"
SETTINGS = [
    "partition.clients=4",
    "data.private=200",
    "data.public=24",
    "student.epochs=1",
    "teacher.steps=4",
    "teacher.average_last=2",
    # Every stage asks: at one temperature, all but the first would not.
    "stages.temperature=[2.0, 3.0]",
]
POOLINGS = ("class-counts", "record-counts", "mean")
runs = itertools.count()


@dataclass
class Prepared:
    """A run's folder, its plan, and what honest sites answer, kept since they answer the same again."""

    folder: Path
    offer: Offer
    x_N: torch.Tensor
    answers: dict[tuple[str, bytes], bytes] = field(default_factory=dict)

    def answer(self, site: str, question: bytes) -> bytes:
        if (site, question) not in self.answers:
            self.answers[site, question] = respond(Site(self.folder / "sites" / site), question)
        return self.answers[site, question]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Prepared]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "export", lambda *_, **__: None)
        found = {}
        for kind in POOLINGS:
            folder = tmp_path_factory.mktemp("prepared") / kind
            black_box = ["black_box.sites=1"] if kind == "mean" else []
            prepare.prepare(scenario.load("digits-tiny", [*SETTINGS, f"pooling.kind={kind}", *black_box]), folder)
            offer = codec.decode_offer((folder / "plan.pb").read_bytes())
            (x_N,) = read_arrays(folder / "transfer" / f"{offer.plan.transfer_set.hex()}.npz", "x")
            found[kind] = Prepared(folder, offer, torch.from_numpy(x_N))
        yield found


Content = RecordDict | Error


@dataclass
class Hostile:
    """A carrier to three honest sites and one that says what `says` returns."""

    run: Prepared
    says: Any
    known: bool
    replies: dict[str, Message] = field(default_factory=dict)

    def __post_init__(self) -> None:
        identify(SERVER_NODE, 1)
        self.names = {node_of(site): site for site in (*HONEST, EVIL)}
        if self.known:
            self.site_of = self.names.__getitem__
            self.connections_of = lambda node: 1

    def get_node_ids(self) -> list[int]:
        return list(self.names)

    def push_messages(self, messages: list[Message]) -> list[str]:
        ids = [name_by_content(message) for message in messages]
        for message_id, message in zip(ids, messages, strict=True):
            site, question = self.names[message.metadata.dst_node_id], carry.unpack(message.content)
            content = (
                self.says(codec.decode_request(question)) if site == EVIL else carry.pack(self.run.answer(site, question))
            )
            identify(message.metadata.dst_node_id, 1)
            self.replies[message_id] = Message(content, reply_to=message)
            identify(SERVER_NODE, 1)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(own) for own in message_ids if own in self.replies]


def most(plan: Plan) -> int:
    """The largest claim that the codec lets through."""
    noise_std = plan.counts.noise_std if plan.counts is not None else 1.0
    return int(codec.MAX_COUNT + np.ceil(codec.MOST_NOISE * noise_std))


@st.composite
def answers(draw: st.DrawFn, plan: Plan) -> Truncated:
    """Valid answers at the ends of what can be said: one-hot on one class, nothing on the kept ones, all alike."""
    k = codec.kept(plan)
    generator = np.random.default_rng(draw(st.integers(0, 100)))
    ids_Nk = np.stack([generator.permutation(plan.classes)[:k] for _ in range(plan.samples)])
    if draw(st.booleans()):
        ids_Nk[:] = np.arange(k)
    shape = draw(st.sampled_from(["one-hot", "tail", "even", "random"]))
    p_Nk = np.zeros((plan.samples, k), np.float32)
    match shape:
        case "one-hot":
            p_Nk[:, 0] = 1
        case "even":
            p_Nk[:] = 1 / plan.classes
        case "random":
            p_Nk[:] = -np.sort(-generator.dirichlet(np.full(k + 1, 0.2), plan.samples)[:, :k])
    p = torch.from_numpy(p_Nk)
    return Truncated(ids_Nk=torch.from_numpy(ids_Nk), p_Nk=p, tail_N=(1 - p.sum(1)).clamp(min=0), classes=plan.classes)


@st.composite
def contents(draw: st.DrawFn, plan: Plan, request: Request) -> Content:
    """What a site may send to this question: mostly valid and extreme, sometimes of another kind, sometimes none at all."""
    own = codec.plan_hash(plan)
    names = st.sampled_from([EVIL, EVIL, EVIL, HONEST[0], "unnamed-node-0", "x" * 64])
    guarantee = st.sampled_from(list(Guarantee) if plan.black_box is not None else [Guarantee.RECORD_DP])
    top = most(plan)
    counts = st.sampled_from([top, -(top - codec.MAX_COUNT), 0, 1, 10**9, 2**31]) | st.integers(-5, 5)
    accepted = st.builds(Accepted, plan_hash=st.just(own), site=names, guarantee=guarantee)
    declined = st.builds(Declined, plan_hash=st.just(own), site=names, reason=st.sampled_from(Reason))

    @st.composite
    def taught(draw: st.DrawFn) -> Taught:
        which = draw(guarantee)
        private = which is Guarantee.RECORD_DP
        labels = tuple(draw(st.lists(counts, min_size=plan.classes, max_size=plan.classes)))
        return Taught(
            plan_hash=own,
            guarantee=which,
            label_counts=labels if private and plan.label_counts is not None else None,
            record_count=draw(counts) if private and plan.record_count is not None else None,
        )

    stage = request.stage if isinstance(request, Ask) else 0
    shares = st.builds(Share, plan_hash=st.just(own), stage=st.just(stage), first=st.just(0), answers=answers(plan))
    right: st.SearchStrategy[Reply] = {Offer: accepted, Teach: taught(), Ask: shares}[type(request)]  # type: ignore[assignment]
    anything: st.SearchStrategy[Reply] = st.one_of(right, right, right, right, accepted, declined, taught(), shares)
    valid = anything.map(lambda reply: carry.pack(codec.encode_reply(reply, plan=plan)))
    broken = st.sampled_from(
        [
            carry.pack(b"\xff" * 40),
            carry.pack(b"\n" * 1_000_001),
            RecordDict(),
            RecordDict({"limbeck": MetricRecord({"pb": 1.0})}),
            RecordDict({"limbeck": ConfigRecord({"pb": 1})}),
            RecordDict({"limbeck": ConfigRecord({"pb": b""})}),
            RecordDict({"limbeck": ConfigRecord({"pb": [b"x"]})}),
            RecordDict({"limbeck": ArrayRecord({"pb": Array("float32", (1,), "limbeck.v1", b"abc")})}),
            RecordDict({"other": ConfigRecord({"pb": b"x"})}),
            Error(code=0, reason="\x1b[31mred\nINFO all is well"),
            Error(code=2**31, reason="x" * 10_000),
        ]
    )
    return cast(Content, draw(valid | valid | valid | broken))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), kind=st.sampled_from(POOLINGS), known=st.booleans())
def test_whatever_one_site_sends_the_run_of_the_others_ends_well(
    data: st.DataObject, kind: str, known: bool, prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    run = prepared[kind]
    plan, folder = run.offer.plan, tmp_path / str(next(runs))
    grid = Hostile(run, lambda request: data.draw(contents(plan, request), label=type(request).__name__), known)
    own = Patience(expected=0, join=0.0, answer=60.0, look=0.0)
    Coordinator(cast(Any, grid), run.offer, run.x_N, folder, own).run()
    stages = json.loads((folder / "record.json").read_text())["stages"]
    assert len(stages) == len(plan.stages)
    # Over a carrier that knows no names, the first who takes a name has it.
    honest = set(HONEST) if known else set(HONEST[1:])
    assert all(honest <= set(stage["clients"]) for stage in stages)
    last = checkpoint.load_last(folder / "checkpoints")
    assert last is not None
    assert all(bool(weight.isfinite().all()) for weight in last.weights.values())
    events = (folder / "events.jsonl").read_text()
    assert "\x1b" not in events
    assert json.loads(events.splitlines()[-1])["kind"] == "end"
    shutil.rmtree(folder)


def test_two_sites_that_claim_all_there_can_be_do_not_end_the_run_even_when_they_fall_silent(
    prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    """In the issue two claims of 3e38 ended it for good: their sum is infinite, and everybody's share of it nothing or not a number."""
    for kind in ("class-counts", "record-counts"):
        run = prepared[kind]
        plan = run.offer.plan
        own, top = codec.plan_hash(plan), most(plan)
        labels = (top,) * plan.classes if plan.label_counts is not None else None
        claim = Taught(
            plan_hash=own,
            guarantee=Guarantee.RECORD_DP,
            label_counts=labels,
            record_count=top if plan.record_count is not None else None,
        )
        said: dict[type[Request], Reply] = {
            Offer: Accepted(plan_hash=own, site=EVIL, guarantee=Guarantee.RECORD_DP),
            Teach: claim,
            Ask: Declined(plan_hash=own, site=EVIL, reason=Reason.FAILED),
        }
        grid = Hostile(run, lambda request, said=said: carry.pack(codec.encode_reply(said[type(request)])), True)
        # Another liar, in the place of an honest site.
        teach = codec.encode_request(Teach(plan_hash=own))
        run.answer(HONEST[0], codec.encode_request(run.offer))
        run.answer(HONEST[0], teach)
        grid.run = replace(run, answers={**run.answers, (HONEST[0], teach): codec.encode_reply(claim)})
        folder = tmp_path / kind
        Coordinator(cast(Any, grid), run.offer, run.x_N, folder, Patience(expected=0, join=0.0, answer=60.0, look=0.0)).run()
        stages = json.loads((folder / "record.json").read_text())["stages"]
        assert all(set(stage["clients"]) == set(HONEST) for stage in stages)


def honest_but(prepared: Prepared, *, to: type[Request] | None = None, content: Content | None = None) -> Hostile:
    """The fourth site is as honest as the others, but for one kind of question."""

    def says(request: Request) -> Content:
        if to is not None and isinstance(request, to) and content is not None:
            return content
        return carry.pack(prepared.answer(EVIL, codec.encode_request(request)))

    return Hostile(prepared, says, known=True)


def participants(run: Prepared, grid: Hostile, folder: Path) -> list[set[str]]:
    Coordinator(cast(Any, grid), run.offer, run.x_N, folder, Patience(expected=0, join=0.0, answer=60.0, look=0.0)).run()
    return [set(stage["clients"]) for stage in json.loads((folder / "record.json").read_text())["stages"]]


@pytest.mark.parametrize("where", ["decoding", "pooling"])
def test_a_reply_that_makes_the_coordinator_fail_leaves_out_the_site_that_sent_it(
    where: str, prepared: dict[str, Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that nobody knows of yet, in what reads one site's answers."""
    run = prepared["class-counts"]
    grid = honest_but(run, to=Ask, content=carry.pack(b"the reply that meets it"))
    decode, add = codec.decode_reply, pooling.Pool.add
    odd: Truncated | None = None

    def decode_reply(data: bytes, *, plan: Plan, expecting: Request) -> Reply:
        nonlocal odd
        if data != b"the reply that meets it":
            return decode(data, plan=plan, expecting=expecting)
        if where == "decoding":
            raise ZeroDivisionError("a bug")
        share = decode(run.answer(EVIL, codec.encode_request(expecting)), plan=plan, expecting=expecting)
        assert isinstance(share, Share)
        odd = share.answers
        return share

    def add_to(pool: pooling.Pool, answers: Truncated, *, first: int = 0, weights_K: torch.Tensor | None = None) -> None:
        if answers is odd:
            raise SettingError("a bug")
        add(pool, answers, first=first, weights_K=weights_K)

    monkeypatch.setattr(codec, "decode_reply", decode_reply)
    monkeypatch.setattr(pooling.Pool, "add", add_to)
    assert participants(run, grid, tmp_path) == [set(HONEST)] * 2
    client = json.loads((tmp_path / "record.json").read_text())["clients"][EVIL]
    assert client["status"] == "left out"
    assert ("ZeroDivisionError" if where == "decoding" else "a bug") in client["reason"]


def test_an_error_in_place_of_a_reply_is_told_in_printable_words(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    run = prepared["class-counts"]
    grid = honest_but(run, to=Ask, content=Error(code=7, reason="\x1b[2J\nINFO all is well" + "x" * 10_000))
    assert participants(run, grid, tmp_path) == [set(HONEST)] * 2
    reason = json.loads((tmp_path / "record.json").read_text())["clients"][EVIL]["reason"]
    assert reason.startswith("answers 2: Expected a reply, got error 7: ")
    assert reason.isprintable()
    assert len(reason) < 400


@pytest.mark.parametrize("kind", POOLINGS)
def test_with_four_honest_sites_all_take_part(kind: str, prepared: dict[str, Prepared], tmp_path: Path) -> None:
    run = prepared[kind]
    # One whose black-box teacher cannot be reached declines before anybody asks it for answers.
    wanted = {*HONEST} if run.offer.plan.black_box is not None else {*HONEST, EVIL}
    assert participants(run, honest_but(run), tmp_path) == [wanted] * 2
