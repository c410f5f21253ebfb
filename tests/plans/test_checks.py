"""Every field of a plan has bounds with a reason; what is outside of them is refused by its name, at every side and before anybody pays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.plan_strategies import linear, plans, votes
from helpers.plans import NET, PLAN
from limbeck.base.errors import LimbeckError, SettingError, WireError
from limbeck.client.teachers import architectures
from limbeck.client.teachers import linear as linear_teacher
from limbeck.client.teachers.votes import vote
from limbeck.inputs import arrays, features
from limbeck.inputs.tensors import tensors
from limbeck.plans import checks, public_inputs
from limbeck.plans.schema import (
    ARCHITECTURES,
    CUSTOM,
    FEATURES,
    STUDENTS,
    BlackBoxTeaching,
    EvidenceTeaching,
    Family,
    InputKind,
    LabelCounts,
    LinearTeaching,
    Plan,
    Pooling,
    PublicInputs,
    RecordCount,
    Sampled,
    Stage,
    TopK,
    VotesTeaching,
)
from limbeck.protos import codec
from limbeck.protos import limbeck_pb2 as pb
from limbeck.protos.link import MAX_TRANSFER
from limbeck.protos.messages import Ask, Offer
from limbeck.server import student

LINEAR: LinearTeaching = cast(LinearTeaching, PLAN.teaching)
MLP = replace(NET, architecture="mlp", steps=5, clip=0.1, noise_multiplier=1.0, physical_batch=32)
VOTES = VotesTeaching(
    teachers=9,
    queries=20,
    features="pixels",
    feature_norm=4.0,
    steps=3,
    learning_rate=1.0,
    momentum=0.0,
    noise_multiplier=20.0,
)
EVIDENCE = EvidenceTeaching(
    features="pixels", constant=0.3, normaliser=40.0, ridge=0.01, noise_multiplier=1.0, resolution=1 << 16
)
NAN, INF = math.nan, math.inf


def outside(name: str) -> list[float]:
    """Values just beyond and far beyond the bounds of a field, and none at all."""
    if name in checks.WHOLES:
        least, most = checks.WHOLES[name]
        return [least - 1, most + 1]
    low, high = checks.REALS[name]
    beyond = [math.nextafter(low, -INF), math.nextafter(high, INF), -high, 1e300, NAN, INF, -INF]
    return beyond + ([1e-45, 5e-324, 0.0] if low > 0 else [-0.0])


def spoilt() -> Iterator[tuple[str, Plan]]:
    """Names of fields, and plans that have an impossible value there."""
    for table in (checks.WHOLES, checks.REALS):
        for path in table:
            for value in outside(path):
                yield from ((path, invalid) for invalid in _with(path, value))
    for architecture in ("vit", "", "cnn ", CUSTOM):
        yield "student.architecture", _student(architecture=architecture)
    for name in ("sift", "none", "Scattering"):
        yield "student.refine", _student(refine=name)
    for alpha in (5e-324, math.nextafter(checks.LEAST_MIXUP, 0)):
        yield "student.mixup", _student(mixup=alpha)
    for ratio in (5e-324, math.nextafter(checks.LEAST_NOISE_TO_SIGNAL, 0)):
        yield "teaching.noise_to_signal", replace(PLAN, teaching=replace(EVIDENCE, noise_to_signal=ratio))
    yield "student.choose_augment with student.augment", _student(augment=False, choose_augment=True)
    for name in ("sift", "", "Scattering"):
        yield "teaching.features", replace(PLAN, teaching=replace(LINEAR, features=name))
        yield "teaching.features", replace(PLAN, teaching=replace(VOTES, features=name))
        yield "teaching.features", replace(PLAN, teaching=replace(EVIDENCE, features=name))
        yield "teaching.architecture", replace(PLAN, teaching=replace(MLP, architecture=name))
    yield "teaching.average_last", replace(PLAN, teaching=replace(LINEAR, average_last=LINEAR.steps + 1))
    yield "teaching.average_last", replace(PLAN, teaching=replace(LINEAR, average_last=0))
    yield "teaching.queries", replace(PLAN, teaching=replace(VOTES, queries=19))
    yield "teaching.queries", replace(PLAN, teaching=replace(VOTES, queries=21))
    yield "teaching.noise_multiplier", replace(PLAN, teaching=replace(MLP, noise_multiplier=0.29))
    yield "teaching.learning_rate", replace(PLAN, teaching=replace(VOTES, learning_rate=1001.0))
    # The step by which the plan of the issue told every record: each value alone is within its bounds.
    gain = r"teaching.learning_rate \* clip / normaliser"
    yield gain, replace(PLAN, teaching=replace(LINEAR, learning_rate=301.0, clip=10.0))
    yield gain, replace(PLAN, teaching=replace(MLP, learning_rate=641.0, clip=1.0))
    yield "samples \\* classes", replace(PLAN, samples=1 << 20, classes=1 << 16)
    for k in (0, 11):
        yield "truncation.k", replace(PLAN, truncation=TopK(k=k))
    for sparsity in (-0.1, 1.0, NAN, 0.4):
        yield r"stages\[1\].sparsity", replace(PLAN, stages=(PLAN.stages[0], Stage(sparsity=sparsity, temperature=2.0)))
    for family in (Family.MIXING, Family.TSALLIS, Family.ENTROPY_TARGET):
        order = 0.5 if family is Family.TSALLIS else None
        cold = (Stage(sparsity=0.5, temperature=0.99),)
        yield r"stages\[0\].temperature", replace(PLAN, family=family, tsallis_order=order, stages=cold)
    yield "tsallis_order", replace(PLAN, family=Family.TSALLIS)
    yield "tsallis_order", replace(PLAN, tsallis_order=0.5)
    yield "label_counts or record_count", replace(PLAN, record_count=RecordCount(noise_std=3.0))
    yield "label_counts with pooling 'class-counts'", replace(PLAN, label_counts=None, pooling=Pooling.CLASS_COUNTS)
    yield "record_count with pooling 'record-counts'", replace(PLAN, pooling=Pooling.RECORD_COUNTS)
    for name in ("", "a\nb", "x" * 201):
        yield "name", replace(PLAN, name=name)
    yield "class_names of the 10 classes or none", replace(PLAN, class_names=("a", "b"))
    for name in ("", "x" * 101, "j\n", "j\u202e"):
        yield r"class_names\[9\]", replace(PLAN, class_names=(*"abcdefghi", name))
    yield r"class_names\[9\] without spaces", replace(PLAN, class_names=(*"abcdefghi", " j"))
    yield "class_names that differ", replace(PLAN, class_names=(*"abcdefghi", "a"))
    yield "class_weights of the 10 classes or none", replace(PLAN, class_weights=(1.0,) * 9)
    for weight in outside("class_weights"):
        yield r"class_weights\[9\]", replace(PLAN, class_weights=(1.0,) * 9 + (weight,))
    yield "classes with class_weights", replace(PLAN, classes=1001, class_weights=(1.0,) * 1001)
    for kind, (low, high) in checks.RANGES.items():
        for end in (math.nextafter(low, -INF), -0.0, NAN, -INF):
            yield "inputs.low", replace(PLAN, inputs=PublicInputs(kind=kind, low=end, high=high))
        for end in (math.nextafter(high, INF), low, NAN, INF):
            yield "inputs.high", replace(PLAN, inputs=PublicInputs(kind=kind, low=low, high=end))
    for low, high in ((0.5, 255.0), (0.0, 254.5)):
        yield (
            "whole numbers as inputs.low and inputs.high",
            replace(PLAN, inputs=PublicInputs(kind=InputKind.BYTES, low=low, high=high)),
        )
    for wrong in (b"", bytes(31), bytes(33)):
        yield "transfer_set", replace(PLAN, transfer_set=wrong)
        yield "encoding", replace(PLAN, encoding=wrong)


def _student(**changes: Any) -> Plan:
    return replace(PLAN, student=replace(PLAN.student, **changes))


def _with(path: str, value: float) -> Iterator[Plan]:
    """Plans with this value in the field that bounds name so: in every kind of teaching that has it."""
    table, _, name = path.rpartition(".")
    match table, name:
        case "", "stages":
            yield replace(PLAN, stages=PLAN.stages[:1] * int(value) if value > 0 else ())
        case "", "temperature":
            yield replace(PLAN, stages=(Stage(sparsity=0.5, temperature=value),))
        case "", "tsallis_order":
            yield replace(PLAN, family=Family.TSALLIS, tsallis_order=value)
        case "", "noise_std":
            yield replace(PLAN, label_counts=LabelCounts(noise_std=value))
            yield replace(PLAN, label_counts=None, record_count=RecordCount(noise_std=value))
        case "", "class_weights":
            yield replace(PLAN, class_weights=(1.0,) * 9 + (value,))
        case "", _:
            yield replace(PLAN, **{name: value})  # type: ignore[arg-type]
        case "truncation", _:
            yield replace(PLAN, truncation=Sampled(draws=int(value)))
        case "black_box", _:
            yield replace(PLAN, black_box=BlackBoxTeaching(draws=int(value)))
        case "privacy", _:
            yield replace(PLAN, privacy=replace(PLAN.privacy, **{name: value}))  # type: ignore[arg-type]
        case "student", _:
            yield _student(**{name: value})
        case _:
            for teaching in (LINEAR, MLP, VOTES, EVIDENCE):
                if name in {each.name for each in fields(teaching)}:
                    yield replace(PLAN, teaching=replace(teaching, **{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "plan"), [pytest.param(*case, id=f"{n}-{case[0]}") for n, case in enumerate(spoilt())])
def test_an_invalid_value_is_refused_by_the_name_of_its_field(field: str, plan: Plan) -> None:
    with pytest.raises(WireError, match=f"Expected .*{field}"):
        codec.encode_request(Offer(plan=plan))


def test_every_field_of_a_plan_has_an_impossible_value_in_these_tests() -> None:
    """A new field is not forgotten: its values are checked, or it is a flag, or its values are a closed list on the wire."""
    checked = {field.replace("\\", "") for field, _ in spoilt()}
    listed = {
        "family",
        "coding",
        "pooling",
        "privacy.unit",
        "privacy.adjacency",
        "student.loss",
        "label_counts.noise",
        "inputs.kind",
    }
    flags = {"student.augment", "version"}
    elsewhere = {
        "student.choose_augment": "student.choose_augment with student.augment",
        "stages.sparsity": "stages[1].sparsity",
        "stages.temperature": "temperature",
        "top_k.k": "truncation.k",
        "sampled.draws": "truncation.draws",
        "label_counts.noise_std": "noise_std",
        "record_count.noise_std": "noise_std",
        "class_names": "class_names[9]",
        "class_weights": "class_weights[9]",
    }
    for field in pb.Plan.DESCRIPTOR.fields:
        inner = field.message_type.fields if field.message_type is not None else ()
        paths = [f"{field.name}.{part.name}" for part in inner] or [field.name]
        for path in paths:
            named = re.sub("^(linear|net|votes|evidence)[.]", "teaching.", path)
            assert elsewhere.get(named, named) in checked | listed | flags, path


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("", "family"),
        ("", "coding"),
        ("", "pooling"),
        ("privacy", "unit"),
        ("privacy", "adjacency"),
        ("student", "loss"),
        ("label_counts", "noise"),
        ("inputs", "kind"),
    ],
)
@pytest.mark.parametrize("value", ["", "Mean", "os:system", "gaussian"])
def test_a_name_outside_a_closed_list_is_refused_on_the_wire(table: str, name: str, value: str) -> None:
    message = pb.Request.FromString(codec.encode_request(Offer(plan=PLAN)))
    setattr(getattr(message.offer.plan, table) if table else message.offer.plan, name, value)
    with pytest.raises(WireError, match=f"Expected {f'{table}.' if table else ''}{name}"):
        codec.decode_request(message.SerializeToString(deterministic=True))


def test_names_of_classes_fit_a_request_beside_all_stages_or_are_refused(plan: Plan) -> None:
    stages = tuple(Stage(sparsity=0.5, temperature=2.0) for _ in range(checks.WHOLES["stages"][1]))
    most = checks.CLASS_NAMES // 8
    names = tuple(f"{index:05}" for index in range(most))
    largest = replace(plan, classes=most, class_names=names, stages=stages)
    assert most > checks.CLASS_WEIGHTS
    long = tuple("x" * (checks.CLASS_NAMES // checks.CLASS_WEIGHTS - 7) + f"{n:04}" for n in range(checks.CLASS_WEIGHTS))
    weighted = replace(
        plan, classes=len(long), class_names=long, class_weights=(0.3,) * len(long), stages=stages, truncation=TopK(k=3)
    )
    checks.check_plan(weighted)
    assert len(codec.encode_request(codec.signed_offer(weighted, Ed25519PrivateKey.generate()))) <= codec.MAX_REQUEST
    checks.check_plan(largest)
    assert len(codec.encode_request(codec.signed_offer(largest, Ed25519PrivateKey.generate()))) <= codec.MAX_REQUEST
    with pytest.raises(WireError, match="bytes of class_names"):
        checks.check_plan(replace(largest, classes=most + 1, class_names=(*names, "more")))


def test_closed_lists_are_those_that_can_be_carried_out() -> None:
    assert set(FEATURES) == set(features.FEATURES)
    assert set(STUDENTS) == set(student.ARCHITECTURES)
    assert set(checks.GREY_FEATURES) <= set(FEATURES)
    assert set(checks.IMAGE_TEACHERS) <= set(ARCHITECTURES)
    assert set(checks.GREY_STUDENTS) <= set(STUDENTS)


@given(plan=plans())
def test_a_plan_within_all_bounds_is_accepted_and_survives_the_wire(plan: Plan) -> None:
    decoded = codec.decode_request(codec.encode_request(Offer(plan=plan)))
    assert decoded == Offer(plan=plan)
    # An answer that no carrier takes would be paid for and never arrive.
    ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=plan.samples)
    assert codec.share_bytes(plan, ask) < MAX_TRANSFER


def test_a_zero_with_a_sign_is_no_second_encoding_of_a_plan() -> None:
    """It equals the plan without, and has another hash: whoever looks hashes up by the plan would find the other's."""
    for plan in (replace(PLAN, teaching=replace(LINEAR, momentum=-0.0)), _student(relabel=-0.0)):
        with pytest.raises(WireError, match=r"momentum|relabel"):
            codec.encode_request(Offer(plan=plan))


def test_the_largest_seed_of_a_plan_seeds_every_stage() -> None:
    last = checks.WHOLES["stages"][1]
    torch.Generator().manual_seed(checks.WHOLES["public_seed"][1] * 1_000_003 + last)


def test_a_plan_with_as_many_stages_as_there_may_be_fits_a_request() -> None:
    stage = Stage(sparsity=0.123456789, temperature=1.23456789)
    plan = replace(PLAN, name="x" * 200, stages=(stage,) * checks.WHOLES["stages"][1])
    assert codec.decode_request(codec.encode_request(Offer(plan=plan))) == Offer(plan=plan)


def test_a_message_with_more_stages_is_refused_before_any_stage_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    message = pb.Request.FromString(codec.encode_request(Offer(plan=PLAN)))
    message.offer.plan.stages.extend(pb.Stage() for _ in range(30_000))
    looked: list[object] = []
    monkeypatch.setattr(codec, "_no_unknown_fields", looked.append)
    data = message.SerializeToString(deterministic=True)
    assert len(data) < codec.MAX_REQUEST
    with pytest.raises(WireError, match="Expected stages in "):
        codec.decode_request(data)
    assert not looked
    message.offer.plan.stages.extend(pb.Stage() for _ in range(450_000))
    with pytest.raises(WireError, match="Expected a message of 1 to 65536 bytes"):
        codec.decode_request(message.SerializeToString(deterministic=True))


# Against the public inputs

GREY = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
ROWS = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
COLOUR = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "x_N", "named"),
    [
        ({}, GREY[:19], "samples = 20"),
        ({}, np.zeros(20), "transfer_set of rows"),
        ({}, np.zeros((20, 0), np.float32), "transfer_set of rows"),
        ({}, np.zeros((20, 2, 2, 2, 2)), "transfer_set of rows"),
        ({}, np.zeros((20, 8), np.complex64), "transfer_set of rows"),
        ({}, np.full((20, 8), "text"), "transfer_set of rows"),
        ({}, ROWS[:5], "samples = 20"),
        *(({}, np.full((20, 8), value), "transfer_set of finite numbers") for value in (NAN, INF, -INF, 1e39)),
        *(({"student": name}, ROWS, f"student.architecture = '{name}'") for name in checks.GREY_STUDENTS),
        *(({"student": name}, COLOUR, f"student.architecture = '{name}'") for name in checks.GREY_STUDENTS),
        *(({"student": name}, GREY[:, :, :3], f"student.architecture = '{name}'") for name in checks.GREY_STUDENTS),
        *(
            ({"teaching": replace(teaching, features=name)}, x_N, f"teaching.features = '{name}'")
            for teaching in (LINEAR, VOTES, EVIDENCE)
            for name in checks.GREY_FEATURES
            for x_N in (ROWS, COLOUR, GREY[:, :3])
        ),
        *(
            ({"teaching": replace(teaching, features="rows")}, GREY, "teaching.features = 'rows'")
            for teaching in (LINEAR, VOTES, EVIDENCE)
        ),
        *(({"refine": name}, x_N, f"student.refine = '{name}'") for name in checks.GREY_FEATURES for x_N in (ROWS, COLOUR)),
        ({"refine": "rows"}, GREY, "student.refine = 'rows'"),
        *(
            ({"teaching": replace(MLP, architecture=name)}, x_N, f"teaching.architecture = '{name}'")
            for name in checks.IMAGE_TEACHERS
            for x_N in (ROWS, GREY[:, :3], COLOUR[:, :, :3])
        ),
    ],
)
def test_a_plan_that_does_not_go_with_its_public_inputs_is_refused_by_the_name_of_the_field(
    changes: dict[str, Any], x_N: np.ndarray[Any, np.dtype[np.generic]], named: str
) -> None:
    plan = _student(architecture=changes.get("student", "mlp"), refine=changes.get("refine", ""))
    with pytest.raises(SettingError, match=f"Expected .*{named}"):
        checks.check_inputs(replace(plan, teaching=changes.get("teaching", LINEAR)), x_N)


FEW = np.repeat(ROWS[:9], 3, axis=0)[:20]
SPOILT_INPUTS = [
    ({}, np.zeros((20, 8), np.float32), "at least 10 inputs that differ from one another, got 1 that do among 20"),
    ({}, FEW, "at least 10 inputs that differ from one another, got 7 that do among 20"),
    ({}, np.where(np.arange(20)[:, None] == 3, ROWS, -0.0), "got 2 that do among 20"),
    ({"samples": 5}, ROWS[:5], "at least 10 inputs, got 5"),
    ({}, np.where(ROWS > 1, 1.1e6, ROWS), r"numbers from -1e\+06 to 1e\+06, got .* to 1.1e\+06: scale them"),
    ({}, np.where(ROWS < 0, -1.1e6, ROWS), r"numbers from -1e\+06 to 1e\+06, got -1.1e\+06 to "),
    *(
        ({}, GREY.astype(kind), "images as bytes .* only bytes are divided by 255")
        for kind in ("i8", "u2", "f4", "f8", ">i4")
    ),
    ({}, COLOUR + np.float32(0.25) * (COLOUR < 255), "images as bytes .* only bytes are divided by 255"),
    (
        {"inputs": PublicInputs(kind=InputKind.BYTES, low=0.0, high=255.0)},
        ROWS,
        "bytes, as inputs.kind says, got float32",
    ),
    (
        {"inputs": PublicInputs(kind=InputKind.UNIT, low=0.0, high=1.0)},
        GREY,
        "unit, as inputs.kind says, got uint8",
    ),
    ({"inputs": PublicInputs(kind=InputKind.UNIT, low=0.0, high=1.0)}, ROWS, "numbers from 0 to 1, as inputs says, got -"),
    (
        {"inputs": PublicInputs(kind=InputKind.NUMBERS, low=-1.0, high=9.0)},
        ROWS,
        "numbers from -1 to 9, as inputs says, got -",
    ),
    (
        {"inputs": PublicInputs(kind=InputKind.NUMBERS, low=-9.0, high=1.0)},
        ROWS,
        "numbers from -9 to 1, as inputs says, got -",
    ),
]


@pytest.mark.parametrize(("changes", "x_N", "named"), SPOILT_INPUTS)
def test_public_inputs_that_no_student_could_learn_from_are_refused_with_or_without_a_declaration(
    changes: dict[str, Any], x_N: np.ndarray[Any, np.dtype[np.generic]], named: str
) -> None:
    plan = replace(_student(architecture="mlp"), **changes)
    with pytest.raises(SettingError, match=f"Expected transfer_set of .*{named}"):
        checks.check_inputs(plan, x_N)


@pytest.mark.parametrize(
    "x_N",
    [
        ROWS,
        GREY,
        COLOUR,
        ROWS.astype(">f8"),
        (GREY > 99),
        (GREY / 255).astype("f2"),
        GREY // 16,
        GREY.astype(np.int64) + 300,
    ],
)
def test_what_a_plan_declares_of_its_inputs_goes_with_them(x_N: np.ndarray[Any, np.dtype[np.generic]]) -> None:
    plan = replace(_student(architecture="mlp"), inputs=public_inputs.declared(x_N))
    checks.check_plan(plan)
    checks.check_inputs(plan, x_N)


def test_rows_are_as_wide_as_the_public_encoding_makes_them() -> None:
    plan = replace(_student(architecture="mlp"), teaching=replace(LINEAR, features="rows"))
    checks.check_inputs(plan, ROWS, dimensions=8)
    for dimensions in (7, 9):
        with pytest.raises(
            SettingError, match=rf"rows of {dimensions} numbers, as the public encoding makes them, got .*\(8,\)"
        ):
            checks.check_inputs(plan, ROWS, dimensions=dimensions)


@pytest.mark.parametrize("kind", ["u1", "i8", "u2", "f4", "f8", ">i4"])
def test_the_same_images_give_the_same_features_teachers_and_students_whatever_array_holds_them(kind: str) -> None:
    published = public_inputs.normalised(GREY.astype(kind))
    np.testing.assert_array_equal(arrays.unit_scale(published), arrays.unit_scale(GREY))
    assert torch.equal(tensors(published), tensors(GREY))
    assert torch.equal(student.prepare(torch.from_numpy(published)), student.prepare(torch.from_numpy(GREY)))
    for name in ("pixels", "hog", "scattering"):
        np.testing.assert_array_equal(features.compute(name, published), features.compute(name, GREY))


SHAPES = [
    (1,),
    (8,),
    (1, 1),
    (3, 4),
    (4, 4),
    (4, 30),
    (30, 4),
    (17, 17),
    (28, 28),
    (4, 4, 1),
    (8, 8, 3),
    (3, 8, 3),
    (1, 1, 1),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_goes_with_public_inputs_by_these_checks_can_be_made_for_them(shape: tuple[int, ...]) -> None:
    """The check is pure and knows no net: this holds it to what is built, in both directions."""
    x_N = np.random.default_rng(0).integers(0, 255, (20, *shape), dtype=np.uint8)

    def fits(plan: Plan) -> bool:
        try:
            checks.check_inputs(plan, x_N)
        except SettingError:
            return False
        return True

    def works(attempt: Callable[[], object]) -> bool:
        try:
            attempt()
        except (LimbeckError, ValueError, RuntimeError, IndexError):
            return False
        return True

    for name in STUDENTS:
        plan = _student(architecture=name)
        built = student.build(name, shape, 10, 1) if fits(plan) else None
        assert built is None or built(student.prepare(torch.from_numpy(x_N))).shape == (20, 10)
        assert works(lambda plan=plan: student.rehearse(plan, x_N)) == fits(plan)  # type: ignore[misc]
    for name in FEATURES:
        if fits(replace(PLAN, teaching=replace(LINEAR, features=name))):
            assert features.compute(name, x_N).shape[1] > 0
    for name in set(ARCHITECTURES) - {CUSTOM}:
        if fits(replace(PLAN, teaching=replace(MLP, architecture=name))):
            tensor = tensors(x_N)
            assert architectures.build(name, tuple(tensor.shape[1:]), 10)(tensor).shape == (20, 10)


# What the bounds are for


RECORDS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=200)
@given(teaching=linear(steps=4), generator=RECORDS, classes=st.integers(2, 12), width=st.integers(1, 20))
def test_one_record_moves_a_linear_step_by_at_most_the_clip_whatever_the_plan(
    teaching: LinearTeaching, generator: np.random.Generator, classes: int, width: int
) -> None:
    """Along a training, noise and all, at the weights that it comes to: the sum with one more record less the sum without."""
    rows = (generator.normal(size=(4, width)) * 10.0 ** generator.uniform(-30, 30, (4, 1))).astype(np.float32)
    balance = features.Balance(mean_D=np.zeros(width, np.float32), weight_D=np.ones(width, np.float32))
    scaled = torch.from_numpy(features.normalise(rows, teaching.feature_norm, balance))
    x_ND = torch.nn.functional.pad(scaled, (0, 1), value=1)
    labels_N, norm_N = torch.from_numpy(generator.integers(0, classes, 4)), linear_teacher.norms(x_ND)
    weight = torch.zeros(classes, width + 1, dtype=torch.float64)
    velocity = torch.zeros_like(weight)
    for _ in range(teaching.steps):
        for n in range(4):
            one = slice(n, n + 1)
            alone = linear_teacher.clipped_sum(weight, x_ND[one], norm_N[one], labels_N[one], teaching.clip)
            assert bool(alone.isfinite().all())
            assert float(alone.double().norm()) <= teaching.clip * (1 + 1e-6)
        noise = torch.from_numpy(generator.normal(size=weight.shape)).float() * (teaching.clip * teaching.noise_multiplier)
        gradient = linear_teacher.clipped_sum(weight, x_ND, norm_N, labels_N, teaching.clip) + noise
        velocity = teaching.momentum * velocity + gradient / teaching.normaliser
        weight = weight - teaching.learning_rate * velocity
        assert bool(weight.isfinite().all())


@settings(max_examples=25)
@given(data=st.data(), generator=RECORDS)
def test_a_head_that_votes_stays_finite_whatever_the_plan(data: st.DataObject, generator: np.random.Generator) -> None:
    teaching = data.draw(votes(20, steps=6))
    x_nD = torch.from_numpy(generator.normal(size=(6, 5))).float()
    x_nD = torch.nn.functional.pad(x_nD * teaching.feature_norm / x_nD.norm(dim=1, keepdim=True), (0, 1), value=1)
    votes_NK = vote(teaching, x_nD, torch.from_numpy(generator.integers(0, 3, 6)), x_nD, 3)
    assert bool((votes_NK.sum(1) == 1).all())
