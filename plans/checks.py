"""What a plan may say, checked by its author, by the coordinator and by every site before anybody is charged.

`check_plan` looks at the plan alone. `check_inputs` holds it against the public inputs that it is about. Both are pure functions of public
values, so all three sides reach the same result: a plan that one of them accepts is one that the others can carry out.

Bounds are wide enough for every sensible plan, and narrow enough for two things. Privacy: floating-point numbers stay finite. With every
constant at its worst, and 2^31 records, a linear teacher's weights stay below 1e22 in float32, so no record is revealed by an infinity that
it alone causes. Evidence is summed in integers of 64 bits: 2^31 records of at most 2^20 each come to 2^51, and noise of a standard
deviation of at most 1e6 * 2^20 < 2^40 stays below 2^46 except with a chance below e^-800, so no sum overflows, and float64 holds each
exactly. Cost: what a plan makes others compute is bounded.

Shape legend: N public inputs, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.base.bounds import one_of, real, text, whole
from limbeck.base.errors import SettingError, WireError
from limbeck.plans import public_inputs
from limbeck.plans.accounting import SMALLEST_SAMPLED_NOISE
from limbeck.plans.schema import (
    ARCHITECTURES,
    FEATURES,
    HASH_BYTES,
    STUDENTS,
    EvidenceTeaching,
    InputKind,
    LinearTeaching,
    NetTeaching,
    Plan,
    Pooling,
    PublicInputs,
    Sampled,
    TopK,
    VotesTeaching,
)

# Bounds of integers, both ends included.
WHOLES: dict[str, tuple[int, int]] = {
    # With K >= 2 classes, no more could be pooled (CELLS).
    "samples": (1, 1 << 27),
    # Ids take at most two bytes.
    "classes": (2, 1 << 16),
    # Each stage is a question to every site and a checkpoint.
    "stages": (1, 1000),
    # Counts of draws travel as bytes.
    "truncation.draws": (1, 255),
    "black_box.draws": (1, 255),
    # Each step is a pass over a site's records, and a mechanism to account for.
    "teaching.steps": (1, 10**5),
    # Records whose gradients are in a site's memory at the same time.
    "teaching.physical_batch": (1, 4096),
    # Heads that a site trains one after another; a single one would not be a vote.
    "teaching.teachers": (2, 10**4),
    # Steps in which evidence is counted: below, rounding costs accuracy; above, nothing is gained, and sums could exceed 64 bits.
    "teaching.resolution": (1 << 12, 1 << 20),
    # They bound the coordinator's time, after all sites have been charged.
    "student.epochs": (1, 10**4),
    "student.batch": (1, 1 << 20),
    "minimum_clients": (1, 10**6),
    # Seeds of stages are public_seed * 1,000,003 + stage, and torch takes 63 bits.
    "public_seed": (0, 1 << 40),
}
# Bounds of real numbers, both ends included.
REALS: dict[str, tuple[float, float]] = {
    # Lower temperatures sharpen to the arg-max and divide by zero in float32; higher ones differ from uniform by less than one code step.
    "temperature": (1e-3, 1e3),
    "tsallis_order": (0.0, 4.0),
    # The norm of a record's features, of which float32 takes squares.
    "teaching.feature_norm": (1e-3, 1e3),
    # Far from float32's ends: 1e-45 is a subnormal number that scaling by it rounds up to twice its size.
    "teaching.clip": (1e-6, 1e6),
    # In records: below one, a sum would grow instead of shrinking.
    "teaching.normaliser": (1.0, 1e9),
    "teaching.learning_rate": (1e-9, 1e6),
    # The sum over steps is multiplied by up to 1 / (1 - momentum).
    "teaching.momentum": (0.0, 0.9999),
    # Below, one step costs epsilon = 50 and more; above, nothing is left to learn.
    "teaching.noise_multiplier": (0.1, 1e6),
    # What is left of a row's norm for features is sqrt(1 - constant^2).
    "teaching.constant": (0.0, 0.9),
    # The eigenvalues of G add up to at most 1. Below, solving with it loses half of float64's digits; above, only class means are compared.
    "teaching.ridge": (1e-8, 1e3),
    # In squares of G's eigenvalues. Above, only class means are compared.
    "teaching.noise_to_signal": (0.0, 1e3),
    # Below, even a site with a million records would have only empty samples.
    "teaching.sampling_rate": (1e-6, 1.0),
    # In records. Below, a count costs epsilon = 50 and more; above, accounting for it takes seconds, and nothing of a site's count is left.
    "noise_std": (0.1, 1e4),
    # Below, the accountant's discretisation (1e-3) dominates; above, no finite epsilon is computed (`accounting.LARGEST_MU`).
    "privacy.epsilon": (1e-3, 1e3),
    # Below, the mass that the accountant truncates (1e-15) matters; above, one record in ten may be published outright.
    "privacy.delta": (1e-12, 0.1),
    # AdamW moves a weight by about this much a step, and shrinks it by 1 - learning_rate * weight_decay, which must not be below zero.
    "student.learning_rate": (1e-9, 1.0),
    "student.weight_decay": (0.0, 1.0),
    "student.relabel": (0.0, 1.0),
    # Beyond, nothing but the arg-max is left.
    "student.sharpen": (0.0, 100.0),
    # Beyond, all mixtures are halves; below LEAST_MIXUP, but for 0, none is one.
    "student.mixup": (0.0, 10.0),
    # Beyond, hardly anything of a class is left, or nothing of the others: clipping bounds what a record counts for anyway.
    "class_weights": (1e-3, 1e3),
}
# Bound of N x K: the pool is a table of that many 8-byte numbers, and a site's answers one of as many 4-byte numbers before truncation.
CELLS = 1 << 28
# Bound of learning_rate * clip / normaliser, the most that one record moves the weights in a step: beyond it a single step decides.
GAIN = 10.0
# Least alpha of mixtures. Float64 draws from Beta(alpha, alpha) become 0 / 0 far below.
LEAST_MIXUP = 0.01
# Least noise-to-signal ratio of evidence but for 0: below, solving with the square of G loses three quarters of float64's digits.
LEAST_NOISE_TO_SIGNAL = 1e-12
# Bound of the learning rate of heads that vote: their gradients are means over a shard, neither clipped nor normalised.
VOTES_LEARNING_RATE = 1e3
# Shortest side of an image, in pixels: two halvings leave one pixel.
LEAST_SIDE = 4
# Characters of a class's name; and bytes of all as they travel, so that the offer of a plan stays within what a request may have.
CLASS_NAME = 100
CLASS_NAMES = 1 << 15
# Classes that may have weights: each takes eight bytes of the offer.
CLASS_WEIGHTS = 1000
# What the kinds of public inputs may hold, both ends included. Features and the first layers of nets and students multiply them in float32,
# and one column of such numbers drowns all others: tables need a public encoding first.
LARGEST_NUMBER = 1e6
RANGES: dict[InputKind, tuple[float, float]] = {
    InputKind.BYTES: (0.0, 255.0),
    InputKind.UNIT: (0.0, 1.0),
    InputKind.NUMBERS: (-LARGEST_NUMBER, LARGEST_NUMBER),
}
# Public inputs that differ from one another. Fewer cannot teach a student anything.
LEAST_INPUTS = 10
GREY_FEATURES, IMAGE_TEACHERS = ("scattering", "hog"), ("cnn", "resnet-gn")
GREY_STUDENTS = ("cnn", "cnn-small", "scattering-linear", "scattering-mlp")


def check_plan(plan: Plan) -> None:
    """Raise WireError unless every field has a valid value and all are consistent; the message names the field."""
    text("name", plan.name, 200)
    _hash("transfer_set", plan.transfer_set)
    _whole("samples", plan.samples)
    _whole("classes", plan.classes)
    whole("samples * classes", plan.samples * plan.classes, 1, CELLS)
    match plan.truncation:
        case TopK(k=k):
            whole("truncation.k", k, 1, plan.classes)
        case Sampled(draws=draws):
            _whole("truncation.draws", draws)
    _check_stages(plan)
    _check_teaching(plan)
    _check_counts(plan)
    _real("privacy.epsilon", plan.privacy.epsilon)
    _real("privacy.delta", plan.privacy.delta)
    student = plan.student
    one_of("student.architecture", student.architecture, STUDENTS)
    for name in ("epochs", "batch"):
        _whole(f"student.{name}", getattr(student, name))
    for name in ("learning_rate", "weight_decay", "relabel", "sharpen", "mixup"):
        _real(f"student.{name}", getattr(student, name))
    if student.mixup:
        real("student.mixup", student.mixup, LEAST_MIXUP, REALS["student.mixup"][1])
    if student.refine:
        one_of("student.refine", student.refine, FEATURES)
    if student.choose_augment and not student.augment:
        raise WireError("Expected student.choose_augment with student.augment, got it without: there is nothing to choose.")
    _whole("minimum_clients", plan.minimum_clients)
    _whole("public_seed", plan.public_seed)
    if plan.black_box is not None:
        _whole("black_box.draws", plan.black_box.draws)
    if plan.encoding is not None:
        _hash("encoding", plan.encoding)
    _check_class_names(plan)
    _check_class_weights(plan)
    _check_declared(plan)


def _check_class_names(plan: Plan) -> None:
    names = plan.class_names
    if not names:
        return
    if len(names) != plan.classes:
        raise WireError(f"Expected class_names of the {plan.classes} classes or none, got {len(names)}.")
    for index, name in enumerate(names):
        text(f"class_names[{index}]", name, CLASS_NAME)
        if name != name.strip():
            raise WireError(f"Expected class_names[{index}] without spaces around it, got {name!r}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise WireError(f"Expected class_names that differ, got {twice!r} twice.")
    whole("bytes of class_names", sum(len(name.encode()) + 3 for name in names), 1, CLASS_NAMES)


def _check_class_weights(plan: Plan) -> None:
    if not plan.class_weights:
        return
    if len(plan.class_weights) != plan.classes:
        raise WireError(f"Expected class_weights of the {plan.classes} classes or none, got {len(plan.class_weights)}.")
    whole("classes with class_weights", plan.classes, 2, CLASS_WEIGHTS)
    for index, weight in enumerate(plan.class_weights):
        real(f"class_weights[{index}]", weight, *REALS["class_weights"])


def _check_declared(plan: Plan) -> None:
    declared = plan.inputs
    if declared is None:
        return
    least, most = RANGES[declared.kind]
    real("inputs.low", declared.low, least, most)
    # What is the same everywhere says nothing, and no student learns from it.
    real("inputs.high", declared.high, declared.low, most, open_below=True)
    if declared.kind is InputKind.BYTES and not (declared.low.is_integer() and declared.high.is_integer()):
        raise WireError(
            f"Expected whole numbers as inputs.low and inputs.high of bytes, got {declared.low} and {declared.high}."
        )


def _check_stages(plan: Plan) -> None:
    _whole("stages", len(plan.stages))
    if (plan.tsallis_order is not None) != plan.family.takes_order:
        raise WireError(f"Expected tsallis_order with family 'tsallis' and only then, got {plan.tsallis_order!r}.")
    if plan.tsallis_order is not None:
        _real("tsallis_order", plan.tsallis_order)
    lowest, highest = REALS["temperature"]
    previous = 0.0
    for index, stage in enumerate(plan.stages):
        real(f"stages[{index}].sparsity", stage.sparsity, previous, 1, open_above=True)
        real(f"stages[{index}].temperature", stage.temperature, max(lowest, plan.family.lowest_temperature), highest)
        previous = stage.sparsity


def _check_teaching(plan: Plan) -> None:
    teaching = plan.teaching
    _real("teaching.noise_multiplier", teaching.noise_multiplier)
    if isinstance(teaching, EvidenceTeaching):
        one_of("teaching.features", teaching.features, FEATURES)
        for name in ("constant", "normaliser", "ridge", "noise_to_signal"):
            _real(f"teaching.{name}", getattr(teaching, name))
        if teaching.noise_to_signal:
            highest = REALS["teaching.noise_to_signal"][1]
            real("teaching.noise_to_signal", teaching.noise_to_signal, LEAST_NOISE_TO_SIGNAL, highest)
        _whole("teaching.resolution", teaching.resolution)
        return
    _whole("teaching.steps", teaching.steps)
    for name in ("learning_rate", "momentum"):
        _real(f"teaching.{name}", getattr(teaching, name))
    match teaching:
        case LinearTeaching():
            one_of("teaching.features", teaching.features, FEATURES)
            _real("teaching.feature_norm", teaching.feature_norm)
            whole("teaching.average_last", teaching.average_last, 1, teaching.steps)
        case NetTeaching():
            one_of("teaching.architecture", teaching.architecture, ARCHITECTURES)
            _real("teaching.sampling_rate", teaching.sampling_rate)
            _whole("teaching.physical_batch", teaching.physical_batch)
            # With less noise, a sampled step is accounted as infinitely expensive.
            real(
                "teaching.noise_multiplier",
                teaching.noise_multiplier,
                SMALLEST_SAMPLED_NOISE,
                REALS["teaching.noise_multiplier"][1],
            )
        case VotesTeaching():
            _whole("teaching.teachers", teaching.teachers)
            # Every sample of the plan is one query; a plan that states fewer would be charged for fewer than it asks.
            whole("teaching.queries", teaching.queries, plan.samples, plan.samples)
            one_of("teaching.features", teaching.features, FEATURES)
            _real("teaching.feature_norm", teaching.feature_norm)
            real("teaching.learning_rate", teaching.learning_rate, 0, VOTES_LEARNING_RATE, open_below=True)
    if not isinstance(teaching, VotesTeaching):
        _real("teaching.clip", teaching.clip)
        _real("teaching.normaliser", teaching.normaliser)
        gain = teaching.learning_rate * teaching.clip / teaching.normaliser
        real("teaching.learning_rate * clip / normaliser", gain, 0, GAIN)


def _check_counts(plan: Plan) -> None:
    if plan.label_counts is not None and plan.record_count is not None:
        raise WireError("Expected label_counts or record_count, got both: label counts include the number of records.")
    for name, counts in (("label_counts", plan.label_counts), ("record_count", plan.record_count)):
        if counts is not None:
            real(f"{name}.noise_std", counts.noise_std, *REALS["noise_std"])
    # Without them, the pool would not be the one that the plan describes.
    for pooling, name, counts in (
        (Pooling.CLASS_COUNTS, "label_counts", plan.label_counts),
        (Pooling.RECORD_COUNTS, "record_count", plan.record_count),
    ):
        if plan.pooling is pooling and counts is None:
            raise WireError(f"Expected {name} with pooling {pooling.value!r}, got none.")


def check_inputs(plan: Plan, x_N: NDArray[np.generic], *, dimensions: int | None = None) -> None:
    """Raise SettingError, which names the field, unless teachers and students of this plan fit its public inputs, (N, ...) numbers.

    - dimensions: numbers in a row of the plan's public encoding, for whoever has it at hand.

    What is allowed and still looks like a mistake: `limbeck.plans.doubts`.
    """
    shape = x_N.shape[1:]
    if len(x_N) != plan.samples:
        raise SettingError(f"Expected samples = {plan.samples} public inputs, got {len(x_N)}.")
    check_numbers(x_N)
    teaching = plan.teaching
    if isinstance(teaching, NetTeaching):
        if teaching.architecture in IMAGE_TEACHERS and not _is_image(shape):
            raise _unfit("images", f"teaching.architecture = {teaching.architecture!r}", shape)
    elif teaching.features in GREY_FEATURES and not _is_grey(shape):
        raise _unfit("grey images", f"teaching.features = {teaching.features!r}", shape)
    elif teaching.features == "rows" and len(shape) != 1:
        raise SettingError(f"Expected rows (N, D) for teaching.features = 'rows', got inputs of shape {shape}.")
    if plan.student.refine in GREY_FEATURES and not _is_grey(shape):
        raise _unfit("grey images", f"student.refine = {plan.student.refine!r}", shape)
    if plan.student.refine == "rows" and len(shape) != 1:
        raise SettingError(f"Expected rows (N, D) for student.refine = 'rows', got inputs of shape {shape}.")
    if plan.student.architecture in GREY_STUDENTS and not _is_grey(shape):
        raise _unfit("grey images", f"student.architecture = {plan.student.architecture!r}", shape)
    if dimensions is not None and shape != (dimensions,):
        raise SettingError(
            f"Expected transfer_set of rows of {dimensions} numbers, as the public encoding makes them, got inputs of shape {shape}."
        )
    if plan.inputs is not None:
        _check_against_declared(plan.inputs, x_N)


def check_numbers(x_N: NDArray[np.generic]) -> None:
    """Raise SettingError unless these can be public inputs of any plan: finite numbers of a sensible size and type that differ."""
    shape = x_N.shape[1:]
    if x_N.dtype.kind not in "buif" or x_N.dtype.itemsize > 8 or not 1 <= len(shape) <= 3 or not all(shape):
        raise SettingError(f"Expected transfer_set of rows (N, D) or images of numbers, got {x_N.shape} of {x_N.dtype}.")
    with np.errstate(over="ignore"):
        # A value that is not finite in float32 makes the student NaN, after all sites have been charged.
        if x_N.dtype.kind == "f" and not np.isfinite(x_N.astype(np.float32)).all():
            raise SettingError("Expected transfer_set of finite numbers, got NaN, infinity or one beyond float32.")
    if len(x_N) < LEAST_INPUTS:
        raise SettingError(
            f"Expected transfer_set of at least {LEAST_INPUTS} inputs, got {len(x_N)}: a student learns from nothing else."
        )
    differing = public_inputs.differing(x_N, LEAST_INPUTS)
    if differing < LEAST_INPUTS:
        raise SettingError(
            f"Expected transfer_set of at least {LEAST_INPUTS} inputs that differ from one another, got {differing} that do among"
            f" {len(x_N)}."
        )
    low, high = public_inputs.span(x_N)
    if max(-low, high) > LARGEST_NUMBER:
        raise SettingError(
            f"Expected transfer_set of numbers from {-LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}, got {low:g} to {high:g}: scale them, or make"
            " rows of a table by `limbeck plan encode`."
        )
    if public_inputs.are_bytes_of_another_type(x_N):
        raise SettingError(
            f"Expected transfer_set of images as bytes (uint8, 0 to 255) or as numbers from 0 to 1, got {x_N.dtype} from {low:g} to"
            f" {high:g}: only bytes are divided by 255. `limbeck plan make` publishes whole numbers as bytes."
        )


def _check_against_declared(declared: PublicInputs, x_N: NDArray[np.generic]) -> None:
    if (declared.kind is InputKind.BYTES) != (x_N.dtype == np.uint8):
        raise SettingError(f"Expected transfer_set of {declared.kind.value}, as inputs.kind says, got {x_N.dtype}.")
    low, high = public_inputs.span(x_N)
    if low < declared.low or high > declared.high:
        raise SettingError(
            f"Expected transfer_set of numbers from {declared.low:g} to {declared.high:g}, as inputs says, got {low:g} to {high:g}."
        )


def _unfit(wanted: str, field: str, shape: tuple[int, ...]) -> SettingError:
    return SettingError(
        f"Expected {wanted} of at least {LEAST_SIDE} x {LEAST_SIDE} for {field}, got inputs of shape {shape}."
    )


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) in {2, 3} and min(shape[:2]) >= LEAST_SIDE


def _is_grey(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and _is_image(shape)


def _whole(name: str, value: int) -> None:
    whole(name, value, *WHOLES[name])


def _real(name: str, value: float) -> None:
    real(name, value, *REALS[name])


def _hash(name: str, value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise WireError(f"Expected {name} of {HASH_BYTES} bytes, got {len(value)}.")
