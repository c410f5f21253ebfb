"""Any plan that may be: a hypothesis strategy over all that `limbeck.plans.checks` lets through, its bounds included."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from limbeck.plans.accounting import SMALLEST_SAMPLED_NOISE
from limbeck.plans.checks import (
    CELLS,
    GAIN,
    LEAST_MIXUP,
    LEAST_NOISE_TO_SIGNAL,
    RANGES,
    REALS,
    VOTES_LEARNING_RATE,
    WHOLES,
)
from limbeck.plans.schema import (
    ARCHITECTURES,
    FEATURES,
    STUDENTS,
    Adjacency,
    BlackBoxTeaching,
    Coding,
    EvidenceTeaching,
    Family,
    InputKind,
    LabelCounts,
    LinearTeaching,
    Loss,
    NetTeaching,
    Plan,
    Pooling,
    Privacy,
    PublicInputs,
    RecordCount,
    Sampled,
    Stage,
    Student,
    Teaching,
    TopK,
    Unit,
    VotesTeaching,
)

# Sparsities and hashes are not in a table.
HASHES = st.binary(min_size=32, max_size=32)


def whole(name: str, *, most: int | None = None) -> st.SearchStrategy[int]:
    """An integer within its bounds; the bounds themselves come often."""
    low, high = WHOLES[name]
    high = high if most is None else min(high, most)
    return st.sampled_from([low, high]) | st.integers(low, high)


def real(name: str, *, least: float | None = None, most: float | None = None) -> st.SearchStrategy[float]:
    """A number within its bounds, evenly over the orders of magnitude; the bounds themselves come often."""
    low, high = REALS[name]
    low, high = low if least is None else max(low, least), high if most is None else min(high, most)
    ends = st.sampled_from([low, high])
    if low <= 0:
        return ends | st.floats(low, high, width=64).map(abs)
    return ends | st.floats(math.log(low), math.log(high)).map(lambda own: min(max(math.exp(own), low), high))


# Of a class: without spaces around it.
CLASS_NAMES = st.text("abc äß-_.", min_size=1, max_size=10).filter(lambda name: name == name.strip())


@st.composite
def linear(draw: st.DrawFn, steps: int | None = None) -> LinearTeaching:
    """A schedule of a linear teacher. steps: at most."""
    taken = draw(whole("teaching.steps", most=steps))
    clip, normaliser, learning_rate = _gain(draw)
    return LinearTeaching(
        features=draw(st.sampled_from(FEATURES)),
        feature_norm=draw(real("teaching.feature_norm")),
        steps=taken,
        learning_rate=learning_rate,
        momentum=draw(real("teaching.momentum")),
        clip=clip,
        noise_multiplier=draw(real("teaching.noise_multiplier")),
        normaliser=normaliser,
        average_last=draw(st.integers(1, taken)),
    )


@st.composite
def net(draw: st.DrawFn, steps: int | None = None) -> NetTeaching:
    """A schedule of a net. steps: at most."""
    clip, normaliser, learning_rate = _gain(draw)
    return NetTeaching(
        architecture=draw(st.sampled_from(ARCHITECTURES)),
        sampling_rate=draw(real("teaching.sampling_rate")),
        steps=draw(whole("teaching.steps", most=steps)),
        learning_rate=learning_rate,
        momentum=draw(real("teaching.momentum")),
        clip=clip,
        noise_multiplier=draw(real("teaching.noise_multiplier", least=SMALLEST_SAMPLED_NOISE)),
        normaliser=normaliser,
        physical_batch=draw(whole("teaching.physical_batch")),
    )


@st.composite
def votes(draw: st.DrawFn, queries: int, steps: int | None = None, teachers: int | None = None) -> VotesTeaching:
    """A schedule of votes on `queries` inputs. steps, teachers: at most."""
    return VotesTeaching(
        teachers=draw(whole("teaching.teachers", most=teachers)),
        queries=queries,
        features=draw(st.sampled_from(FEATURES)),
        feature_norm=draw(real("teaching.feature_norm")),
        steps=draw(whole("teaching.steps", most=steps)),
        learning_rate=draw(real("teaching.learning_rate", most=VOTES_LEARNING_RATE)),
        momentum=draw(real("teaching.momentum")),
        noise_multiplier=draw(real("teaching.noise_multiplier")),
    )


@st.composite
def evidence(draw: st.DrawFn) -> EvidenceTeaching:
    """A schedule of evidence."""
    return EvidenceTeaching(
        features=draw(st.sampled_from(FEATURES)),
        constant=draw(real("teaching.constant")),
        normaliser=draw(real("teaching.normaliser")),
        ridge=draw(real("teaching.ridge")),
        noise_multiplier=draw(real("teaching.noise_multiplier")),
        resolution=draw(whole("teaching.resolution")),
        noise_to_signal=draw(st.just(0.0) | real("teaching.noise_to_signal", least=LEAST_NOISE_TO_SIGNAL)),
    )


def _gain(draw: st.DrawFn) -> tuple[float, float, float]:
    """Clip, normaliser and a learning rate that goes with them."""
    clip, normaliser = draw(real("teaching.clip")), draw(real("teaching.normaliser"))
    # A rounding error below, since the product is rounded too.
    return clip, normaliser, draw(real("teaching.learning_rate", most=GAIN * normaliser / clip * (1 - 1e-12)))


@st.composite
def declared(draw: st.DrawFn) -> PublicInputs:
    """What a plan may say of its public inputs; the bounds themselves come often."""
    kind = draw(st.sampled_from(InputKind))
    least, most = RANGES[kind]
    ends = st.floats(least, most).map(lambda end: (round(end) if kind is InputKind.BYTES else end) + 0.0)
    low, high = sorted(draw(st.just([least, most]) | st.lists(ends, min_size=2, max_size=2, unique=True)))
    return PublicInputs(kind=kind, low=low, high=high)


@st.composite
def plans(draw: st.DrawFn, *, most_stages: int = 6) -> Plan:
    """Any plan within the bounds. most_stages: so many are drawn, or now and then as many as there may be."""
    samples = draw(whole("samples"))
    classes = draw(whole("classes", most=max(2, CELLS // samples)))
    family = draw(st.sampled_from(Family))
    least = family.lowest_temperature or None
    count = draw(st.integers(1, most_stages))
    sparsities = sorted(draw(st.lists(st.floats(0, 1, exclude_max=True).map(abs), min_size=count, max_size=count)))
    temperatures = draw(st.lists(real("temperature", least=least), min_size=count, max_size=count))
    counts = draw(st.sampled_from([None, LabelCounts, RecordCount]))
    released = counts(noise_std=draw(real("noise_std"))) if counts is not None else None
    poolings = {
        None: [Pooling.MEAN],
        LabelCounts: [Pooling.MEAN, Pooling.CLASS_COUNTS],
        RecordCount: [Pooling.RECORD_COUNTS],
    }
    teaching: Teaching = draw(linear() | net() | votes(samples) | evidence())
    augment = draw(st.booleans())
    weights = st.lists(real("class_weights"), min_size=classes, max_size=classes).map(tuple)
    names = st.lists(CLASS_NAMES, min_size=classes, max_size=classes, unique=True).map(tuple)
    return Plan(
        class_names=draw(st.just(()) | names) if classes <= 20 else (),
        class_weights=draw(st.just(()) | weights) if classes <= 20 else (),
        inputs=draw(st.none() | declared()),
        name=draw(st.text("abc äß-_.", min_size=1, max_size=20)),
        transfer_set=draw(HASHES),
        samples=samples,
        classes=classes,
        family=family,
        tsallis_order=draw(real("tsallis_order")) if family.takes_order else None,
        truncation=draw(
            st.integers(1, classes).map(lambda k: TopK(k=k)) | whole("truncation.draws").map(lambda m: Sampled(draws=m))
        ),
        coding=draw(st.sampled_from(Coding)),
        pooling=draw(st.sampled_from(poolings[counts])),
        stages=tuple(Stage(sparsity=s, temperature=t) for s, t in zip(sparsities, temperatures, strict=True)),
        teaching=teaching,
        label_counts=released if isinstance(released, LabelCounts) else None,
        record_count=released if isinstance(released, RecordCount) else None,
        privacy=Privacy(
            epsilon=draw(real("privacy.epsilon")),
            delta=draw(real("privacy.delta")),
            unit=Unit.RECORD,
            adjacency=Adjacency.ADD_REMOVE_ONE,
        ),
        student=Student(
            architecture=draw(st.sampled_from(STUDENTS)),
            loss=draw(st.sampled_from(Loss)),
            epochs=draw(whole("student.epochs")),
            batch=draw(whole("student.batch")),
            learning_rate=draw(real("student.learning_rate")),
            weight_decay=draw(real("student.weight_decay")),
            augment=augment,
            relabel=draw(real("student.relabel")),
            sharpen=draw(real("student.sharpen")),
            refine=draw(st.sampled_from(("", *FEATURES))),
            mixup=draw(st.just(0.0) | real("student.mixup", least=LEAST_MIXUP)),
            choose_augment=augment and draw(st.booleans()),
        ),
        minimum_clients=draw(whole("minimum_clients")),
        public_seed=draw(whole("public_seed")),
        black_box=draw(st.none() | whole("black_box.draws").map(lambda m: BlackBoxTeaching(draws=m))),
        encoding=draw(st.none() | HASHES),
    )
