"""What a plan may say, and what still looks like a mistake: sentences for its author, its coordinator and whoever reads it.

`limbeck.plans.checks` refuses what cannot work. Here is what can work and seldom does. Nothing is refused by it, and all of it follows from
public values: the plan, its public inputs, and labels of those where their author has some.

Shape legend: N public inputs, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from limbeck.plans import public_inputs
from limbeck.plans.schema import EvidenceTeaching, InputKind, LinearTeaching, NetTeaching, Plan, Teaching

# Public inputs per class, and in all, below which a student hardly learns.
FEW_INPUTS, FEW_INPUTS_PER_CLASS = 100, 10
# The share of inputs that repeat others, from which on it is said.
MANY_REPEATS = 0.1
# Numbers beyond it are not scaled as nets, students and the norms of features expect.
LARGE_NUMBER = 100.0
# The largest deviation of a number over all inputs, as a share of the largest number, below which inputs are nearly the same.
NEARLY_EQUAL = 1e-3
MANY_CLASSES = 1000
# delta times the records of a site: by so many records' worth of delta, one of them may be published outright.
LARGE_DELTA = 0.1
SHOWN = 5


def of_plan(plan: Plan) -> tuple[str, ...]:
    """What looks like a mistake in the plan alone."""
    return tuple(_of_plan(plan))


def of_inputs(plan: Plan, x_N: NDArray[np.generic]) -> tuple[str, ...]:
    """What looks like a mistake in the public inputs, (N, ...) numbers that `checks.check_inputs` lets through."""
    return tuple(_of_inputs(plan, x_N))


def of_labels(plan: Plan, y_N: NDArray[np.generic]) -> tuple[str, ...]:
    """What looks like a mistake if these are labels of the public inputs; they are used for nothing else."""
    return tuple(_of_labels(plan, y_N))


def _of_plan(plan: Plan) -> Iterator[str]:
    if plan.classes > MANY_CLASSES:
        yield f"classes = {plan.classes}: is that their number? Each class needs records and public inputs of its own."
    records = _records(plan.teaching)
    if records is not None and plan.privacy.delta * records > LARGE_DELTA:
        yield (
            f"privacy.delta = {plan.privacy.delta:g}: expected far less than 1 / {records:g}, one over the records of a site; as it is, to"
            " publish a record outright now and then would be allowed."
        )
    if plan.class_weights and min(plan.class_weights) >= 1 and not _all_alike(plan.class_weights):
        yield (
            f"teacher.class_weights of at least {min(plan.class_weights):g}: a gradient that is clipped anyway cannot count for more. Give"
            " rare classes 1 and common ones less."
        )


def _of_inputs(plan: Plan, x_N: NDArray[np.generic]) -> Iterator[str]:
    count = len(x_N)
    wanted = max(FEW_INPUTS, FEW_INPUTS_PER_CLASS * plan.classes)
    if count < wanted:
        yield (
            f"{count} public inputs for {plan.classes} classes: the student learns from nothing else; expected at least {wanted}, better"
            " thousands."
        )
    repeats = count - public_inputs.differing(x_N)
    if repeats > MANY_REPEATS * count:
        yield f"{repeats} of {count} public inputs repeat others: they cost bytes and teach nothing."
    low, high = public_inputs.span(x_N)
    largest = max(-low, high)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(x_N.std(0, dtype=np.float64).max())
    if 0 < deviation < NEARLY_EQUAL * largest:
        yield (
            f"public inputs that are nearly the same: no number deviates by more than {deviation:.2g}, and the largest is {largest:.4g}."
            " Subtract what they have in common, or make rows by `limbeck plan encode`."
        )
    kind = public_inputs.declared(x_N).kind
    if kind is InputKind.NUMBERS and largest > LARGE_NUMBER:
        yield (
            f"public inputs from {low:.4g} to {high:.4g}: nets and students take numbers as they are, and expect them about 1 in size."
            " Scale them, or make rows of a table by `limbeck plan encode`."
        )
    if x_N.ndim >= 3 and 1 < high <= public_inputs.HALF_OF_WHITE and low >= 0 and public_inputs.are_whole(x_N):
        yield f"images of which no pixel is above {high:g}: white is 255, or 1. Multiply them up, or divide by {high:g}."
    if (
        x_N.ndim == 2
        and kind is InputKind.NUMBERS
        and low >= 0
        and public_inputs.HALF_OF_WHITE < high <= 255
        and public_inputs.are_whole(x_N)
    ):
        yield "rows of whole numbers from 0 to 255 are taken as numbers: if they are pixels, store them as bytes (uint8), or as images."


def _of_labels(plan: Plan, y_N: NDArray[np.generic]) -> Iterator[str]:
    if y_N.ndim != 1 or y_N.dtype.kind not in "buifUS":
        return
    found = [str(label.decode() if isinstance(label, bytes) else label) for label in np.unique(y_N).tolist()]
    found = [name.removesuffix(".0") if y_N.dtype.kind == "f" else name for name in found]
    shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    if len(found) > plan.classes:
        yield f"classes = {plan.classes}: the labels of the public inputs have {len(found)} values ({shown})."
    elif 1 < len(found) < plan.classes:
        yield (
            f"classes = {plan.classes}: the labels of the public inputs have only {len(found)} values ({shown}); a class without public"
            " inputs is hardly taught."
        )
    known = {*plan.class_names, *map(str, range(plan.classes))}
    strangers = [name for name in found if name not in known]
    if strangers and plan.class_names and len(found) <= plan.classes:
        yield f"labels of the public inputs that are none of the plan's classes: {', '.join(strangers[:SHOWN])}."


def _records(teaching: Teaching) -> float | None:
    """About how many records the author expects at a site, as far as the plan says so."""
    match teaching:
        case LinearTeaching() | EvidenceTeaching():
            return teaching.normaliser
        case NetTeaching():
            return teaching.normaliser / teaching.sampling_rate
    return None


def _all_alike(weights: tuple[float, ...]) -> bool:
    return len(set(weights)) == 1
