"""What crosses the wire: round trips, exact sizes, and every malformed message refused. Tests of refusals are named for the attack."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers import sites
from helpers.plans import LINEAR, NET, PLAN
from limbeck import operators
from limbeck.base.errors import WireError
from limbeck.plans.schema import (
    BlackBoxTeaching,
    Coding,
    Family,
    InputKind,
    LabelCounts,
    Plan,
    PublicInputs,
    RecordCount,
    Sampled,
    Stage,
    TopK,
    VotesTeaching,
)
from limbeck.protos import codec, packing
from limbeck.protos import limbeck_pb2 as pb
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reason, Reply, Request, Share, Taught, Teach

PlanMaker = Callable[..., Plan]


def ask(plan: Plan, stage: int = 1) -> Ask:
    return Ask(plan_hash=codec.plan_hash(plan), stage=stage, first=0, count=plan.samples)


def share(plan: Plan, seed: int = 0) -> Share:
    generator = torch.Generator().manual_seed(seed)
    p_NK = (3 * torch.randn(plan.samples, plan.classes, generator=generator)).softmax(-1)
    if isinstance(plan.truncation, TopK):
        answers = operators.TopK(plan.truncation.k)(p_NK)
    else:
        draws = plan.truncation.draws
        answers = operators.Sampled(draws)(p_NK, torch.rand(plan.samples, draws, generator=generator))
    return Share(plan_hash=codec.plan_hash(plan), stage=1, first=0, answers=answers)


def surely_settled(answers: operators.Truncated) -> NDArray[np.bool_]:
    """Rows that need no moving: rounded to the nearest code, they come back as they are."""
    codes_kN = packing.encode_probabilities(answers.p_Nk.float().numpy().T)
    mass_N = packing.decode_probabilities(codes_kN).sum(0)
    if answers.kept < answers.classes:
        mass_N = mass_N + packing.decode_probabilities(packing.encode_probabilities(answers.tail_N.float().numpy()))
    sure_N: NDArray[np.bool_] = (mass_N > packing.MASS[0] + 1e-6) & (mass_N < packing.MASS[1] - 1e-6)
    return sure_N


def message(plan: Plan) -> pb.Reply:
    """A valid share as protobuf, to be spoilt."""
    return pb.Reply.FromString(codec.encode_reply(share(plan), plan=plan))


def refused(plan: Plan, reply: pb.Reply, match: str) -> None:
    with pytest.raises(WireError, match=match):
        codec.decode_reply(reply.SerializeToString(deterministic=True), plan=plan, expecting=ask(plan))


# Round trips and sizes


@pytest.mark.parametrize("changes", [{}, {"label_counts": None}, {"truncation": Sampled(draws=5)}, {"coding": Coding.BYTES}])
def test_a_plan_survives_the_wire_and_keeps_its_hash(make_plan: PlanMaker, changes: dict[str, object]) -> None:
    plan = make_plan(**changes)
    decoded = codec.decode_request(codec.encode_request(Offer(plan=plan)))
    assert decoded == Offer(plan=plan)
    assert codec.plan_hash(decoded.plan) == codec.plan_hash(plan)


def test_a_plan_for_convolutional_teachers_survives_the_wire(make_plan: PlanMaker) -> None:
    teaching = replace(NET, steps=5, clip=0.1, noise_multiplier=1.0, physical_batch=32)
    plan = make_plan(teaching=teaching)
    assert codec.decode_request(codec.encode_request(Offer(plan=plan))) == Offer(plan=plan)


@pytest.mark.parametrize("family", [Family.POWER, Family.HYBRID])
def test_a_two_sided_family_may_sharpen(make_plan: PlanMaker, family: Family) -> None:
    plan = make_plan(family=family, stages=(Stage(sparsity=0.5, temperature=0.5),))
    assert codec.decode_request(codec.encode_request(Offer(plan=plan))) == Offer(plan=plan)


@pytest.mark.parametrize(("family", "order"), [(Family.ENTROPY_TARGET, None), (Family.TSALLIS, 0.0), (Family.TSALLIS, 2.5)])
def test_families_with_more_to_say_survive_the_wire(make_plan: PlanMaker, family: Family, order: float | None) -> None:
    plan = make_plan(family=family, tsallis_order=order)
    assert codec.decode_request(codec.encode_request(Offer(plan=plan))) == Offer(plan=plan)


def test_every_field_of_a_plan_changes_its_hash(make_plan: PlanMaker) -> None:
    changes: list[dict[str, object]] = [
        {"name": "b"},
        {"samples": 21},
        {"family": Family.MIXING},
        {"family": Family.HYBRID},
        {"family": Family.ENTROPY_TARGET},
        {"family": Family.TSALLIS, "tsallis_order": 0.0},
        {"family": Family.TSALLIS, "tsallis_order": 0.5},
        {"public_seed": 2},
        {"class_names": tuple("abcdefghij")},
        {"class_names": tuple("bacdefghij")},
        {"class_weights": (1.0,) * 10},
        {"class_weights": (0.5,) + (1.0,) * 9},
        {"inputs": PublicInputs(kind=InputKind.UNIT, low=0.0, high=1.0)},
        {"inputs": PublicInputs(kind=InputKind.NUMBERS, low=0.0, high=1.0)},
        {"inputs": PublicInputs(kind=InputKind.NUMBERS, low=-1.0, high=1.0)},
        {"stages": (Stage(sparsity=0.5, temperature=3),)},
    ]
    hashes = {codec.plan_hash(make_plan(**change)) for change in [{}, *changes]}
    assert len(hashes) == len(changes) + 1


def test_a_plan_names_features_and_nets_from_closed_lists_and_never_code(make_plan: PlanMaker) -> None:
    net = replace(NET, architecture="custom", steps=5, clip=0.1, noise_multiplier=1.0, physical_batch=32)
    codec.encode_request(Offer(plan=make_plan(teaching=net)))
    for teaching in (replace(net, architecture="os:system"), replace(LINEAR, features="os:system")):
        with pytest.raises(WireError, match=r"out of .*got 'os:system'"):
            codec.encode_request(Offer(plan=make_plan(teaching=teaching)))


def test_small_messages_survive_the_wire(plan: Plan) -> None:
    digest = codec.plan_hash(plan)
    requests: list[Request] = [Teach(plan_hash=digest), ask(plan)]
    assert [codec.decode_request(codec.encode_request(request)) for request in requests] == requests
    counts = (-3, 0, 1, 90, 5_000, 2**31, 7, 8, 9, -100)
    pairs: list[tuple[Reply, Request]] = [
        (Accepted(plan_hash=digest, site="a-1", guarantee=Guarantee.RECORD_DP), Offer(plan=plan)),
        (Taught(plan_hash=digest, label_counts=counts, guarantee=Guarantee.RECORD_DP), Teach(plan_hash=digest)),
        (Declined(plan_hash=digest, reason=Reason.BUDGET, site="bank-1"), ask(plan)),
    ]
    for reply, request in pairs:
        assert codec.decode_reply(codec.encode_reply(reply), plan=plan, expecting=request) == reply


@given(
    seed=st.integers(0, 10_000),
    classes=st.sampled_from([2, 3, 10, 100, 257, 1000]),
    k=st.integers(1, 8),
    samples=st.integers(1, 40),
    coding=st.sampled_from(Coding),
    sampled=st.booleans(),
)
def test_a_share_survives_the_wire_to_within_quantisation(
    seed: int, classes: int, k: int, samples: int, coding: Coding, sampled: bool
) -> None:
    k = min(k, classes)
    plan = replace(
        PLAN, samples=samples, classes=classes, truncation=Sampled(draws=k) if sampled else TopK(k=k), coding=coding
    )
    sent = share(plan, seed)
    data = codec.encode_reply(sent, plan=plan)
    assert len(data) == codec.share_bytes(plan, ask(plan))
    decoded = codec.decode_reply(data, plan=plan, expecting=ask(plan))
    assert isinstance(decoded, Share)
    torch.testing.assert_close(decoded.answers.p_Nk.sum(-1) + decoded.answers.tail_N, torch.ones(samples))
    # Half a code of rounding and as much of scaling; of a row that had to be settled, entries moved by one code more.
    tolerance, moved = (1e-6, 1e-6) if sampled else (0.06, 0.006)
    torch.testing.assert_close(decoded.answers.dense(), sent.answers.dense(), rtol=tolerance, atol=moved)
    away_N = ((decoded.answers.dense() - sent.answers.dense()).abs() > tolerance * sent.answers.dense() + 1e-6).any(1)
    assert not (away_N & torch.from_numpy(surely_settled(sent.answers))).any()


def test_ten_thousand_top_three_answers_fit_the_promised_bytes(make_plan: PlanMaker) -> None:
    for coding, limit in [(Coding.BYTES, 75_000), (Coding.PACKED, 58_000)]:
        plan = make_plan(samples=10_000, coding=coding)
        assert len(codec.encode_reply(share(plan), plan=plan)) <= limit


@given(st.floats(0, 1, width=32))
def test_an_8_bit_logarithm_is_off_by_at_most_half_a_step(p: float) -> None:
    value = np.array([p], np.float32)
    decoded = float(packing.decode_probabilities(packing.encode_probabilities(value))[0])
    if p < 2.0**-21:
        assert decoded == 0 or p > 2.0**-21 * 0.97
    elif p >= 2.0**-20:
        # Half a step, and the third of a step by which the look-up's key is coarse.
        assert abs(math.log2(decoded / p)) <= 20 / 254 / 2 * 1.4


@given(st.lists(st.integers(0, 999), max_size=50), st.sampled_from([1000, 1024, 4096]))
def test_packed_ids_come_back(ids: list[int], classes: int) -> None:
    data = packing.pack_ids(np.array(ids, np.int64), classes)
    assert len(data) == packing.packed_size(len(ids), classes)
    assert packing.unpack_ids(data, len(ids), classes).tolist() == ids


# Attacks on a share


def test_a_share_under_another_plans_hash_is_refused(plan: Plan, make_plan: PlanMaker) -> None:
    spoilt = message(plan)
    spoilt.share.plan_hash = codec.plan_hash(make_plan(public_seed=7))
    refused(plan, spoilt, "Expected plan")


def test_a_share_replayed_from_another_stage_is_refused(plan: Plan) -> None:
    data = codec.encode_reply(share(plan), plan=plan)
    with pytest.raises(WireError, match="Expected stage = 0, got 1"):
        codec.decode_reply(data, plan=plan, expecting=ask(plan, stage=0))


def test_a_share_of_other_samples_is_refused(plan: Plan) -> None:
    spoilt = message(plan)
    spoilt.share.first = 3
    refused(plan, spoilt, "Expected first = 0, got 3")


@pytest.mark.parametrize("field", ["ids", "codes", "tails"])
def test_a_share_with_bytes_missing_or_added_is_refused(plan: Plan, field: str) -> None:
    for value in (getattr(message(plan).share, field)[:-1], getattr(message(plan).share, field) + b"\0"):
        spoilt = message(plan)
        setattr(spoilt.share, field, value)
        refused(plan, spoilt, f"bytes of {field}")


def test_a_share_with_an_id_beyond_the_classes_is_refused(plan: Plan) -> None:
    spoilt = message(plan)
    spoilt.share.ids = b"\xff" + spoilt.share.ids[1:]
    refused(plan, spoilt, "Expected ids below 10")


def test_a_share_with_an_id_twice_in_a_row_is_refused(plan: Plan) -> None:
    spoilt = message(plan)
    ids = packing.unpack_ids(spoilt.share.ids, 60, 10)
    ids[40] = ids[0]
    spoilt.share.ids = packing.pack_ids(ids, 10)
    refused(plan, spoilt, "Expected distinct ids")


def test_a_share_whose_mass_is_too_large_is_refused(plan: Plan) -> None:
    spoilt = message(plan)
    spoilt.share.codes = b"\xff" * 60
    spoilt.share.ids = packing.pack_ids(np.repeat([0, 1, 2], 20), 10)
    refused(plan, spoilt, "Expected masses")


def test_a_share_of_nothing_at_all_is_refused(plan: Plan) -> None:
    spoilt = message(plan)
    spoilt.share.codes, spoilt.share.tails = bytes(60), bytes(20)
    spoilt.share.ids = packing.pack_ids(np.repeat([0, 1, 2], 20), 10)
    refused(plan, spoilt, "Expected masses")


def test_a_share_in_another_order_is_refused(plan: Plan) -> None:
    spoilt = message(plan)
    codes = np.frombuffer(spoilt.share.codes, np.uint8).reshape(3, 20)
    spoilt.share.codes = codes[::-1].tobytes()
    refused(plan, spoilt, "descending")


def test_sampled_counts_that_do_not_add_up_are_refused(make_plan: PlanMaker) -> None:
    plan = make_plan(truncation=Sampled(draws=5))
    spoilt = message(plan)
    spoilt.share.codes = bytes([200]) + spoilt.share.codes[1:]
    refused(plan, spoilt, "add up to 5")


def test_a_share_with_an_unknown_field_is_refused(plan: Plan) -> None:
    data = codec.encode_reply(share(plan), plan=plan) + b"\xfa\x07\x01x"
    with pytest.raises(WireError, match="unknown fields"):
        codec.decode_reply(data, plan=plan, expecting=ask(plan))


def test_a_message_of_any_kind_in_another_encoding_is_refused(plan: Plan) -> None:
    """Written twice, a message means the same by the rules of protobuf; so does a number in more bytes than it takes."""
    digest, teach = codec.plan_hash(plan), Teach(plan_hash=codec.plan_hash(plan))
    replies: list[tuple[Reply, Request]] = [
        (Accepted(plan_hash=digest, site="a", guarantee=Guarantee.RECORD_DP), Offer(plan=plan)),
        (Declined(plan_hash=digest, reason=Reason.DATA, site="a"), teach),
        (Taught(plan_hash=digest, label_counts=(1,) * 10, guarantee=Guarantee.RECORD_DP), teach),
        (share(plan), ask(plan)),
    ]
    for reply, request in replies:
        data = codec.encode_reply(reply, plan=plan)
        for other in (data * 2, _with_longer_length(data)):
            with pytest.raises(WireError, match="Expected"):
                codec.decode_reply(other, plan=plan, expecting=request)
    requests: list[Request] = [sites.offer(), teach, ask(plan)]
    for request in requests:
        data = codec.encode_request(request)
        for other in (data * 2, _with_longer_length(data)):
            with pytest.raises(WireError, match="Expected"):
                codec.decode_request(other)


def _with_longer_length(data: bytes) -> bytes:
    """The length of the message inside, with one more group of seven bits, which is zero."""
    last = next(index for index, byte in enumerate(data[1:], start=1) if byte < 128)
    return data[:last] + bytes([data[last] | 128, 0]) + data[last + 1 :]


def test_a_share_for_an_offer_is_refused(plan: Plan) -> None:
    with pytest.raises(WireError, match="Expected a reply of kind 'accepted'"):
        codec.decode_reply(codec.encode_reply(share(plan), plan=plan), plan=plan, expecting=Offer(plan=plan))


def test_an_enormous_reply_is_refused_before_it_is_parsed(plan: Plan) -> None:
    with pytest.raises(WireError, match="Expected a message of 1 to"):
        codec.decode_reply(bytes(2_000_000), plan=plan, expecting=ask(plan))


# Of 6.2: what no discrete Gaussian of this scale comes to in the age of the universe, around what no site can hold.
@pytest.mark.parametrize("count", [-249, 2**31 + 249, 10**12, -(2**63), 2**63 - 1])
def test_impossible_counts_are_refused(plan: Plan, make_plan: PlanMaker, count: int) -> None:
    other = make_plan(label_counts=None, record_count=RecordCount(noise_std=6.2))
    for asked, counts in ((plan, {"label_counts": [1] * 9 + [count]}), (other, {"record_count": count})):
        reply = pb.Reply(taught=pb.Taught(guarantee="record-dp", plan_hash=codec.plan_hash(asked), **counts))
        with pytest.raises(WireError, match=rf"Expected {next(iter(counts))} in \[-248, 2147483896\]"):
            codec.decode_reply(reply.SerializeToString(), plan=asked, expecting=Teach(plan_hash=codec.plan_hash(asked)))


@pytest.mark.parametrize("count", [-248, 2**31 + 248])
def test_counts_at_their_bounds_survive_the_wire(plan: Plan, count: int) -> None:
    digest = codec.plan_hash(plan)
    reply = Taught(plan_hash=digest, label_counts=(count,) * 10, guarantee=Guarantee.RECORD_DP)
    assert codec.decode_reply(codec.encode_reply(reply), plan=plan, expecting=Teach(plan_hash=digest)) == reply


@pytest.mark.parametrize("count", [0, 9, 11])
def test_a_wrong_number_of_label_counts_is_refused(plan: Plan, count: int) -> None:
    reply = pb.Reply(taught=pb.Taught(guarantee="record-dp", plan_hash=codec.plan_hash(plan), label_counts=[1] * count))
    with pytest.raises(WireError, match="Expected 10 label counts"):
        codec.decode_reply(reply.SerializeToString(), plan=plan, expecting=Teach(plan_hash=codec.plan_hash(plan)))


def test_label_counts_nobody_asked_for_are_refused(make_plan: PlanMaker) -> None:
    plan = make_plan(label_counts=None)
    reply = pb.Reply(taught=pb.Taught(guarantee="record-dp", plan_hash=codec.plan_hash(plan), label_counts=[1] * 10))
    with pytest.raises(WireError, match="Expected 0 label counts"):
        codec.decode_reply(reply.SerializeToString(), plan=plan, expecting=Teach(plan_hash=codec.plan_hash(plan)))


@pytest.mark.parametrize("name", ["", "../up", "a b", "x" * 65, "é"])
def test_a_site_name_that_is_no_name_is_refused(plan: Plan, name: str) -> None:
    reply = pb.Reply(accepted=pb.Accepted(plan_hash=codec.plan_hash(plan), site=name, guarantee="record-dp"))
    with pytest.raises(WireError, match="site name"):
        codec.decode_reply(reply.SerializeToString(), plan=plan, expecting=Offer(plan=plan))


def without_a_guarantee(plan: Plan) -> list[tuple[Reply, Request]]:
    digest = codec.plan_hash(plan)
    return [
        (Accepted(plan_hash=digest, site="a", guarantee=Guarantee.NONE), Offer(plan=plan)),
        (Taught(plan_hash=digest, label_counts=None, guarantee=Guarantee.NONE), Teach(plan_hash=digest)),
    ]


def test_a_plan_with_black_box_teachers_survives_the_wire_and_permits_sites_without_a_guarantee(
    make_plan: PlanMaker,
) -> None:
    plan = make_plan(black_box=BlackBoxTeaching(draws=16))
    assert codec.decode_request(codec.encode_request(Offer(plan=plan))) == Offer(plan=plan)
    for reply, request in without_a_guarantee(plan):
        assert codec.decode_reply(codec.encode_reply(reply), plan=plan, expecting=request) == reply


def test_a_site_without_a_guarantee_is_refused_where_the_plan_permits_none(plan: Plan) -> None:
    for reply, request in without_a_guarantee(plan):
        with pytest.raises(WireError, match="Expected a site with a guarantee"):
            codec.decode_reply(codec.encode_reply(reply), plan=plan, expecting=request)


def test_a_site_with_seeded_noise_says_so_and_sends_the_counts_of_the_plan(plan: Plan) -> None:
    digest, counts = codec.plan_hash(plan), tuple(range(plan.classes))
    assert plan.label_counts is not None
    pairs: list[tuple[Reply, Request]] = [
        (Accepted(plan_hash=digest, site="a", guarantee=Guarantee.SEEDED), Offer(plan=plan)),
        (Taught(plan_hash=digest, label_counts=counts, guarantee=Guarantee.SEEDED), Teach(plan_hash=digest)),
    ]
    for reply, request in pairs:
        assert codec.decode_reply(codec.encode_reply(reply), plan=plan, expecting=request) == reply
    without = Taught(plan_hash=digest, label_counts=None, guarantee=Guarantee.SEEDED)
    with pytest.raises(WireError, match=f"Expected {plan.classes} label counts"):
        codec.decode_reply(codec.encode_reply(without), plan=plan, expecting=Teach(plan_hash=digest))


@pytest.mark.parametrize("guarantee", ["", "some"])
def test_a_guarantee_left_open_is_refused(plan: Plan, guarantee: str) -> None:
    reply = pb.Reply(accepted=pb.Accepted(plan_hash=codec.plan_hash(plan), site="a", guarantee=guarantee))
    with pytest.raises(WireError, match="guarantee out of record-dp, none, seeded-noise"):
        codec.decode_reply(reply.SerializeToString(deterministic=True), plan=plan, expecting=Offer(plan=plan))


@pytest.mark.parametrize("draws", [0, 256])
def test_a_plan_with_impossible_draws_is_refused(make_plan: PlanMaker, draws: int) -> None:
    with pytest.raises(WireError, match=r"black_box\.draws"):
        codec.encode_request(Offer(plan=make_plan(black_box=BlackBoxTeaching(draws=draws))))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode_request(data)
    with pytest.raises(WireError):
        codec.decode_reply(data, plan=PLAN, expecting=ask(PLAN))


VARIANTS = [
    PLAN,
    replace(PLAN, coding=Coding.BYTES),
    replace(PLAN, truncation=TopK(k=10)),
    replace(PLAN, truncation=Sampled(draws=5)),
    replace(PLAN, truncation=TopK(k=8), classes=1000),
]


@settings(max_examples=800)
@given(
    variant=st.sampled_from(VARIANTS),
    seed=st.integers(0, 50),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    step=st.sampled_from([None, 1, -1]),
)
def test_a_share_with_bytes_changed_is_refused_or_another_valid_share_in_its_one_encoding(
    variant: Plan, seed: int, changes: list[tuple[int, int]], step: int | None
) -> None:
    """step: bytes move by one, which in codes is the hardest to notice: the masses still add up."""
    data = bytearray(codec.encode_reply(share(variant, seed), plan=variant))
    for position, value in changes:
        at = position % len(data)
        data[at] = value if step is None else (data[at] + step) % 256
    try:
        decoded = codec.decode_reply(bytes(data), plan=variant, expecting=ask(variant))
    except WireError:
        return
    assert isinstance(decoded, Share)
    assert bool((decoded.answers.ids_Nk < variant.classes).all())
    torch.testing.assert_close(decoded.answers.p_Nk.sum(-1) + decoded.answers.tail_N, torch.ones(20))
    assert codec.encode_reply(decoded, plan=variant) == bytes(data)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 8),
    away=st.floats(0.3, 0.5),
    sign=st.sampled_from([-1, 1]),
    classes=st.sampled_from([10, 1000]),
)
def test_what_a_site_sends_re_encodes_to_the_same_bytes_also_where_all_is_rounded_one_way(
    seed: int, k: int, away: float, sign: int, classes: int
) -> None:
    """Probabilities that lie between two codes, all on the same side, so that a row's mass is as far from 1 as it can be."""
    plan, generator = replace(PLAN, samples=200, classes=classes, truncation=TopK(k=k)), np.random.default_rng(seed)
    levels = generator.integers(180, 254, (200, k)) + sign * away
    p_Nk = np.sort(2.0 ** (-20 * (255 - levels) / 254), axis=1)[:, ::-1]
    rest_N = 1 - p_Nk[:, 1:].sum(1)
    tail_N = generator.uniform(0, 0.5, 200)
    first_N = rest_N * (1 - tail_N)
    good = first_N >= p_Nk[:, 1] if k > 1 else first_N > 0
    p_Nk[:, 0] = first_N
    ids_Nk = np.stack([generator.permutation(classes)[:k] for _ in range(200)])
    answers = operators.Truncated(
        ids_Nk=torch.from_numpy(ids_Nk[good]),
        p_Nk=torch.from_numpy(p_Nk[good].copy()).float(),
        tail_N=torch.from_numpy((rest_N * tail_N)[good]).float(),
        classes=classes,
    )
    plan = replace(plan, samples=max(1, int(good.sum())))
    if not good.any():
        return
    sent = Share(plan_hash=codec.plan_hash(plan), stage=1, first=0, answers=answers)
    data = codec.encode_reply(sent, plan=plan)
    decoded = codec.decode_reply(data, plan=plan, expecting=ask(plan))
    assert codec.encode_reply(decoded, plan=plan) == data


@pytest.mark.parametrize("classes", [*range(2, 70), 100, 181, 256, 257, 1000, 1024])
def test_uniform_answers_are_accepted_whatever_the_number_of_classes(classes: int) -> None:
    """As at a high temperature: all entries are rounded alike."""
    for kept in {1, min(3, classes), min(classes, 100)}:
        plan = replace(PLAN, classes=classes, truncation=TopK(k=kept))
        answers = operators.TopK(kept)(torch.full((20, classes), 1 / classes))
        data = codec.encode_reply(Share(plan_hash=codec.plan_hash(plan), stage=1, first=0, answers=answers), plan=plan)
        assert isinstance(codec.decode_reply(data, plan=plan, expecting=ask(plan)), Share)


# What 0.1.0 wrote down


def former_counts(plan: Plan, counts: list[float]) -> bytes:
    """A reply as 0.1.0 encoded it: counts as packed float32, in field 2."""
    packed = np.array(counts, "<f4").tobytes()
    inner = b"\x0a\x20" + codec.plan_hash(plan) + b"\x12" + bytes([len(packed)]) + packed + b"\x4a\x09record-dp"
    return b"\x1a" + bytes([len(inner)]) + inner


def test_counts_that_0_1_0_stored_are_read_and_sent_as_integers_and_refused_from_a_wire(plan: Plan) -> None:
    data, teach = former_counts(plan, [3.0, -1.0, 250.0] + [0.0] * 7), Teach(plan_hash=codec.plan_hash(plan))
    expected = Taught(plan_hash=teach.plan_hash, label_counts=(3, -1, 250) + (0,) * 7, guarantee=Guarantee.RECORD_DP)
    assert codec.implied_request(data, plan) == teach
    assert codec.decode_stored_reply(data, plan=plan, expecting=teach) == expected
    assert codec.renew(data, plan) == codec.encode_reply(expected)
    with pytest.raises(WireError, match="unknown fields"):
        codec.decode_reply(data, plan=plan, expecting=teach)


@pytest.mark.parametrize("count", [0.5, math.nan, math.inf, 3e38])
def test_counts_of_the_float_mechanism_are_not_read_either(plan: Plan, count: float) -> None:
    with pytest.raises(WireError):
        codec.decode_stored_reply(
            former_counts(plan, [count] * 10), plan=plan, expecting=Teach(plan_hash=codec.plan_hash(plan))
        )


def test_what_this_version_stored_is_sent_again_byte_for_byte(plan: Plan) -> None:
    digest = codec.plan_hash(plan)
    for reply in (
        Accepted(plan_hash=digest, site="a", guarantee=Guarantee.RECORD_DP),
        Taught(plan_hash=digest, label_counts=(7,) * 10, guarantee=Guarantee.RECORD_DP),
        share(plan),
    ):
        data = codec.encode_reply(reply, plan=plan)
        assert codec.renew(data, plan) == data


def test_a_site_of_0_1_0_is_left_out_before_it_is_taught_and_what_it_said_is_read(plan: Plan) -> None:
    digest = codec.plan_hash(plan)
    data = pb.Reply(accepted=pb.Accepted(plan_hash=digest, site="a", guarantee="record-dp")).SerializeToString(
        deterministic=True
    )
    with pytest.raises(WireError, match="encodes its replies by version 2, got 1: install the same limbeck"):
        codec.decode_reply(data, plan=plan, expecting=Offer(plan=plan))
    decoded = codec.decode_stored_reply(data, plan=plan, expecting=Offer(plan=plan))
    assert decoded == Accepted(plan_hash=digest, site="a", guarantee=Guarantee.RECORD_DP)


def test_a_plan_that_asks_for_counts_with_float_noise_is_refused_with_the_reason(plan: Plan) -> None:
    spoilt = pb.Request.FromString(codec.encode_request(Offer(plan=plan)))
    spoilt.offer.plan.label_counts.noise = "gaussian"
    with pytest.raises(WireError, match=r"label_counts\.noise 'discrete-gaussian', got 'gaussian': the low bits"):
        codec.decode_request(spoilt.SerializeToString(deterministic=True))


# Attacks on a plan


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"truncation": TopK(k=11)}, "truncation.k"),
        ({"truncation": Sampled(draws=256)}, "truncation.draws"),
        ({"stages": ()}, "stages"),
        ({"stages": (Stage(sparsity=1.0, temperature=2),)}, "sparsity"),
        ({"stages": (Stage(sparsity=0.5, temperature=2), Stage(sparsity=0.4, temperature=2))}, r"stages\[1\].sparsity"),
        ({"stages": (Stage(sparsity=0.5, temperature=math.nan),)}, "temperature"),
        ({"family": Family.MIXING, "stages": (Stage(sparsity=0.5, temperature=0.5),)}, "temperature"),
        ({"family": Family.ENTROPY_TARGET, "stages": (Stage(sparsity=0.5, temperature=0.5),)}, "temperature"),
        ({"family": Family.TSALLIS, "tsallis_order": 0.5, "stages": (Stage(sparsity=0.5, temperature=0.5),)}, "temperature"),
        ({"family": Family.TSALLIS}, "tsallis_order with family 'tsallis' and only then, got None"),
        ({"tsallis_order": 0.5}, "tsallis_order with family 'tsallis' and only then, got 0.5"),
        *(({"family": Family.TSALLIS, "tsallis_order": q}, "tsallis_order") for q in (-0.1, 4.1, math.nan, math.inf)),
        ({"transfer_set": b"short"}, "transfer_set"),
        ({"encoding": b"short"}, "encoding"),
        ({"encoding": b""}, "encoding"),
        ({"samples": 0}, "samples"),
        ({"classes": 1}, "classes"),
        ({"name": "a\nb"}, "name"),
        ({"minimum_clients": 0}, "minimum_clients"),
    ],
)
def test_an_impossible_plan_is_refused_by_the_name_of_its_field(
    make_plan: PlanMaker, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(WireError, match=f"Expected .*{named}"):
        codec.encode_request(Offer(plan=make_plan(**changes)))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_plan_with_an_impossible_privacy_claim_is_refused(plan: Plan, value: float) -> None:
    for field, claim in {
        "epsilon": replace(plan.privacy, epsilon=value),
        "delta": replace(plan.privacy, delta=value),
    }.items():
        with pytest.raises(WireError, match=f"privacy.{field}"):
            codec.encode_request(Offer(plan=replace(plan, privacy=claim)))


@pytest.mark.parametrize(("field", "other"), [("unit", "client"), ("adjacency", "replace-one"), ("unit", "")])
def test_a_plan_that_counts_another_unit_or_neighbours_is_refused(plan: Plan, field: str, other: str) -> None:
    spoilt = pb.Request.FromString(codec.encode_request(Offer(plan=plan)))
    setattr(spoilt.offer.plan.privacy, field, other)
    with pytest.raises(WireError, match=f"privacy.{field}"):
        codec.decode_request(spoilt.SerializeToString(deterministic=True))


def test_a_plan_of_another_version_is_refused(plan: Plan) -> None:
    spoilt = pb.Request.FromString(codec.encode_request(Offer(plan=plan)))
    spoilt.offer.plan.version = 2
    with pytest.raises(WireError, match="plan version 1, got 2"):
        codec.decode_request(spoilt.SerializeToString(deterministic=True))


def test_a_plan_with_an_unknown_pooling_is_refused_with_the_known_ones(plan: Plan) -> None:
    spoilt = pb.Request.FromString(codec.encode_request(Offer(plan=plan)))
    spoilt.offer.plan.pooling = "median"
    with pytest.raises(WireError, match="mean, class-counts"):
        codec.decode_request(spoilt.SerializeToString(deterministic=True))


def test_the_hash_of_an_encoding_survives_the_wire_and_names_another_plan(make_plan: PlanMaker) -> None:
    plain, encoded = make_plan(), make_plan(encoding=bytes(range(32)))
    assert codec.decode_request(codec.encode_request(Offer(plan=encoded))) == Offer(plan=encoded)
    assert codec.plan_hash(plain) != codec.plan_hash(encoded) != codec.plan_hash(make_plan(encoding=bytes(32)))


# Votes, counts and authors


VOTES = VotesTeaching(
    teachers=9, queries=20, features="hog", feature_norm=4, steps=3, learning_rate=1, momentum=0, noise_multiplier=20
)


@pytest.mark.parametrize(
    "changes",
    [
        {"teaching": VOTES},
        {"label_counts": LabelCounts(noise_std=3)},
        {"label_counts": None, "record_count": RecordCount(noise_std=3)},
    ],
)
def test_a_plan_for_votes_or_other_counts_survives_the_wire(make_plan: PlanMaker, changes: dict[str, object]) -> None:
    plan = make_plan(**changes)
    assert codec.decode_request(codec.encode_request(Offer(plan=plan))) == Offer(plan=plan)


def test_a_plan_that_is_charged_for_fewer_votes_than_it_asks_is_refused(make_plan: PlanMaker) -> None:
    with pytest.raises(WireError, match=r"teaching\.queries"):
        codec.encode_request(Offer(plan=make_plan(teaching=replace(VOTES, queries=19))))


def test_a_plan_that_asks_for_the_number_of_records_twice_is_refused(make_plan: PlanMaker) -> None:
    with pytest.raises(WireError, match="got both"):
        codec.encode_request(Offer(plan=make_plan(record_count=RecordCount(noise_std=3))))


@pytest.mark.parametrize("count", [0, -3, 10**6])
def test_a_record_count_survives_the_wire_and_only_where_it_was_asked_for(make_plan: PlanMaker, count: int) -> None:
    asked, other = make_plan(label_counts=None, record_count=RecordCount(noise_std=3)), make_plan(label_counts=None)
    digest = codec.plan_hash(asked)
    reply = Taught(plan_hash=digest, label_counts=None, record_count=count, guarantee=Guarantee.RECORD_DP)
    assert codec.decode_reply(codec.encode_reply(reply), plan=asked, expecting=Teach(plan_hash=digest)) == reply
    lacking = codec.encode_reply(replace(reply, record_count=None))
    with pytest.raises(WireError, match="Expected a record count"):
        codec.decode_reply(lacking, plan=asked, expecting=Teach(plan_hash=digest))
    unasked = codec.encode_reply(replace(reply, plan_hash=codec.plan_hash(other)))
    with pytest.raises(WireError, match="Expected no record count"):
        codec.decode_reply(unasked, plan=other, expecting=Teach(plan_hash=codec.plan_hash(other)))


def test_an_offer_with_half_a_signature_or_a_wrong_one_is_refused(plan: Plan) -> None:
    known = sites.offer().author
    for author, signature in ((known, b""), (b"", bytes(64)), (known, bytes(64)), (known[1:], bytes(64))):
        spoilt = pb.Request.FromString(codec.encode_request(Offer(plan=plan)))
        spoilt.offer.author, spoilt.offer.signature = author, signature
        with pytest.raises(WireError, match="Expected"):
            codec.decode_request(spoilt.SerializeToString(deterministic=True))
