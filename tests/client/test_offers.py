"""An offer that is invalid, or comes from a stranger, costs nobody anything: no charge, no work, no question to a site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import fft

from helpers import sites
from helpers.plans import NET, PLAN
from limbeck.base.errors import SettingError, WireError
from limbeck.client.app import respond
from limbeck.client.holdings import TransferSets
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import digest
from limbeck.plans import accounting, checks, composition
from limbeck.plans.schema import Counts, LinearTeaching, Loss, Plan, RecordCount, Teaching, VotesTeaching
from limbeck.protos import codec, signing
from limbeck.protos import limbeck_pb2 as pb
from limbeck.protos.messages import Accepted, Declined, Offer, Reason, Reply, Teach
from limbeck.server.coordinator import Coordinator, Patience

ROWS = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
KINDS = {"teachers__kinds": ["linear", "net", "votes"], "answers__max_bits": 200, "budget__epsilon": 50.0}
VOTES = VotesTeaching(
    teachers=3,
    queries=20,
    features="pixels",
    feature_norm=4.0,
    steps=2,
    learning_rate=1.0,
    momentum=0.0,
    noise_multiplier=40.0,
)
MLP = replace(NET, architecture="mlp", steps=5, clip=0.1, noise_multiplier=3.0, physical_batch=32)


def raw(plan: Plan) -> bytes:
    """A signed offer by an author whose limbeck checks nothing."""
    data = codec._plan_bytes(plan)
    signature = signing.sign(sites.KEY, data)
    offer = pb.Offer(plan=pb.Plan.FromString(data), author=signing.author_of(sites.KEY), signature=signature)
    return pb.Request(offer=offer).SerializeToString(deterministic=True)


def of_rows(folder: Path) -> Site:
    site = sites.make(folder, **KINDS)
    np.savez(folder / "transfer" / f"{digest(ROWS).hex()}.npz", x=ROWS)
    np.savez(folder / "records.npz", x=ROWS, y=np.arange(20) % 10)
    return site


def ask(site: Site, plan: Plan) -> Reply:
    return codec.decode_reply(respond(site, raw(plan)), plan=plan, expecting=Offer(plan=plan))


def impossible() -> Iterator[tuple[str, Plan]]:
    plan = sites.plan()
    assert isinstance(plan.teaching, LinearTeaching)
    yield "teaching.features", replace(plan, teaching=replace(VOTES, features="sift"))
    yield "teaching.features", replace(plan, teaching=replace(plan.teaching, features="sift"))
    yield "teaching.architecture", replace(plan, teaching=replace(MLP, architecture="vit"))
    yield "student.architecture", replace(plan, student=replace(plan.student, architecture="vit"))
    # The plan of the issue, by which one record made every weight NaN.
    extreme = replace(plan.teaching, normaliser=1e-24, learning_rate=1e9, feature_norm=1e6)
    yield "teaching.learning_rate", replace(plan, teaching=extreme)
    yield "teaching.clip", replace(plan, teaching=replace(plan.teaching, clip=1e-45))
    yield "teaching.normaliser", replace(plan, teaching=replace(plan.teaching, normaliser=0.5))
    yield "label_counts.noise_std", replace(plan, label_counts=replace(PLAN.label_counts, noise_std=2e4))  # type: ignore[type-var]
    yield "privacy.epsilon", replace(plan, privacy=replace(plan.privacy, epsilon=1e9))
    yield "student.epochs", replace(plan, student=replace(plan.student, epochs=10**9))
    yield "public_seed", replace(plan, public_seed=2**62)


@pytest.mark.parametrize(
    ("field", "plan"), [pytest.param(*each, id=f"{n}-{each[0]}") for n, each in enumerate(impossible())]
)
def test_an_invalid_plan_reaches_neither_a_ledger_nor_a_record(field: str, plan: Plan, tmp_path: Path) -> None:
    site = sites.make(tmp_path, **KINDS)
    (tmp_path / "records.npz").write_bytes(b"whoever reads this fails in another way")
    with pytest.raises(WireError, match=f"Expected {field}"):
        respond(site, raw(plan))
    plan_hash = codec.plan_hash(plan)
    reply = codec.decode_reply(
        respond(site, codec.encode_request(Teach(plan_hash=plan_hash))), plan=plan, expecting=Teach(plan_hash=plan_hash)
    )
    assert reply == Declined(plan_hash=plan_hash, site="site", reason=Reason.PLAN)
    assert not site.ledger.exists()


def unfit() -> Iterator[tuple[str, Plan, bool]]:
    """Fields, plans that do not go with their public inputs, and whether these are rows."""
    plan = sites.plan()
    rows = replace(plan, transfer_set=digest(ROWS))
    assert isinstance(plan.teaching, LinearTeaching)
    for architecture in checks.GREY_STUDENTS:
        yield "student.architecture", replace(rows, student=replace(rows.student, architecture=architecture)), True
    for teaching in (plan.teaching, VOTES):
        for name in checks.GREY_FEATURES:
            yield "teaching.features", replace(rows, teaching=replace(teaching, features=name)), True
        yield "teaching.features", replace(plan, teaching=replace(teaching, features="rows")), False
    for architecture in checks.IMAGE_TEACHERS:
        yield "teaching.architecture", replace(rows, teaching=replace(MLP, architecture=architecture)), True


UNFIT = [pytest.param(*each, id=f"{n}-{each[0]}") for n, each in enumerate(unfit())]


@pytest.mark.parametrize(("field", "plan", "rows"), UNFIT)
def test_a_site_declines_a_plan_that_does_not_go_with_its_public_inputs_before_any_charge(
    field: str, plan: Plan, rows: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the issue four sites paid 2.999 for a student that could not be made."""
    site = of_rows(tmp_path) if rows else sites.make(tmp_path, **KINDS)
    with caplog.at_level("WARNING", "limbeck"):
        reply = ask(site, plan)
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.PLAN
    assert field in caplog.text
    plan_hash = codec.plan_hash(plan)
    taught = codec.decode_reply(
        respond(site, codec.encode_request(Teach(plan_hash=plan_hash))), plan=plan, expecting=Teach(plan_hash=plan_hash)
    )
    assert isinstance(taught, Declined)
    assert not site.ledger.exists()


@pytest.mark.parametrize("teaching", [VOTES, MLP, sites.plan().teaching])
def test_a_plan_that_goes_with_rows_is_accepted(teaching: Teaching, tmp_path: Path) -> None:
    plan = replace(sites.plan(), transfer_set=digest(ROWS), teaching=teaching, privacy=replace(PLAN.privacy, epsilon=40.0))
    assert isinstance(ask(of_rows(tmp_path), plan), Accepted)


class Closed:
    """A carrier over which nothing may be sent."""

    def get_node_ids(self) -> list[int]:
        raise AssertionError("a site was looked for")

    push_messages = pull_messages = get_node_ids


def coordinate(plan: Plan, x_N: np.ndarray[Any, np.dtype[np.generic]], folder: Path) -> None:
    Coordinator(cast(Any, Closed()), Offer(plan=plan), torch.from_numpy(x_N), folder, Patience(expected=2)).run()


@pytest.mark.parametrize(("field", "plan", "rows"), UNFIT)
def test_a_coordinator_offers_no_plan_that_does_not_go_with_its_public_inputs(
    field: str, plan: Plan, rows: bool, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=f"Expected .*{field}"):
        coordinate(plan, ROWS if rows else sites.PUBLIC, tmp_path)


def test_a_coordinator_offers_no_plan_out_of_bounds_nor_one_whose_student_fails_in_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WireError, match=r"student\.epochs"):
        coordinate(replace(PLAN, student=replace(PLAN.student, epochs=0)), sites.PUBLIC, tmp_path / "a")
    from limbeck.server import losses

    def broken(loss: Loss, *_: object) -> torch.Tensor:
        raise RuntimeError("no such loss on this machine")

    monkeypatch.setattr(losses, "by_name", broken)
    with pytest.raises(SettingError, match=r"student \('mlp', 'ttm'\).* no such loss on this machine"):
        coordinate(PLAN, sites.PUBLIC, tmp_path / "b")
    monkeypatch.setattr(losses, "by_name", lambda loss, target, logits, temperature: logits.sum() * torch.nan)
    with pytest.raises(SettingError, match="finite weights"):
        coordinate(PLAN, sites.PUBLIC, tmp_path / "c")


# Cost


@pytest.mark.parametrize("key", [None, Ed25519PrivateKey.from_private_bytes(bytes(32))])
def test_what_a_stranger_offers_is_never_accounted_for(
    key: Ed25519PrivateKey | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Accounting is the dearest thing that an offer makes a site do: first of all the author has to be listed."""

    def dear(*_: object) -> float:
        raise AssertionError("a stranger's plan was accounted for")

    site, plan = sites.make(tmp_path), sites.plan()
    offer = Offer(plan=plan) if key is None else codec.signed_offer(plan, key)
    for name in ("epsilon", "counts_epsilon", "_epsilon_of", "event"):
        monkeypatch.setattr(accounting, name, dear)
    monkeypatch.setattr(TransferSets, "read", dear)
    with caplog.at_level("WARNING", "limbeck"):
        reply = codec.decode_reply(respond(site, codec.encode_request(offer)), plan=plan, expecting=offer)
    assert reply == Declined(plan_hash=codec.plan_hash(plan), site="site", reason=Reason.POLICY)
    assert "plans.authors" in caplog.text
    assert not site.ledger.exists()


def dearest() -> Iterator[tuple[Teaching, Counts]]:
    """Plans within bounds that cost most to account for: the longest schedules with the least and the most noise, the widest counts."""
    (fewest, most), (least, _) = checks.WHOLES["teaching.steps"], checks.REALS["teaching.sampling_rate"]
    linear = sites.plan().teaching
    assert isinstance(linear, LinearTeaching)
    noises = checks.REALS["noise_std"]
    for rate in (1.0, least):
        for steps in (fewest, most):
            for noise in (accounting.SMALLEST_SAMPLED_NOISE, checks.REALS["teaching.noise_multiplier"][1]):
                net = replace(MLP, sampling_rate=rate, steps=steps, noise_multiplier=noise)
                yield net, RecordCount(noise_std=noises[steps == most])
    # Just below what is reported as infinite without being computed.
    yield replace(linear, steps=10, noise_multiplier=10**0.5 / 29.9), RecordCount(noise_std=noises[1])


def test_the_dearest_plan_within_bounds_is_cheap_to_account_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sizes of what is computed, not by time: nothing is longer than two million numbers. In the issue 42 s and 1.3 GB."""
    lengths: list[int] = []
    transform, compose = fft.rfft, composition.compose

    def counted_transform(values: np.ndarray[Any, Any], length: int) -> Any:
        lengths.append(length)
        return transform(values, length)

    def counted_compose(used: Any) -> Any:
        lengths.extend(pmf.size for pmf, _ in used)
        return compose(used)

    monkeypatch.setattr(fft, "rfft", counted_transform)
    monkeypatch.setattr(composition, "compose", counted_compose)
    for teaching, counts in dearest():
        accounting.epsilon.cache_clear()
        accounting.epsilon(((teaching, counts),), 1e-5)
        accounting.counts_epsilon(counts, 1e-5)
    assert 0 < max(lengths) <= 2 * composition.LONGEST
