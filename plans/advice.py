"""Schedules that work, for those who have none of their own: functions of public values alone.

A schedule that was chosen by private results would itself have to be paid for. So nothing here knows a record: a site's number of records
is an estimate that may be published, as `teacher.normaliser` is in every plan.

[D] marks what was measured here; `python -m limbeck.experiments.benchmarks.rows` measures it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, NetTeaching, Plan, Teaching, TopK
from limbeck.plans.settings import TeacherSettings

# Of rows of tables and texts, for linear teachers [D]: the norm that a row is scaled to. Of shorter ones a step within the clip learns
# too little.
ROWS_NORM = 4.0
# Where noise rules, few and small steps are best, since the noise in each of them grows with their number; where it does not, more of them.
ROWS_FEW = 600.0
# Records times epsilon below which steps are few; and then, or otherwise, their number and what calls for a step of 1.
ROWS_STEPS = {True: (20, 1_800.0), False: (60, 7_500.0)}
# Of answers about rows, for `stages.temperature`: high enough for log-odds of 55 to stay above the wire's floor (`limbeck.protos.floor`),
# low enough for a student to see differences.
ROWS_TEMPERATURE = 4.0
# By the share of the rarest class, the temperature of answers about rows where none is rarer than this; and below all of them,
# ROWS_TEMPERATURE.
TEMPERATURES = ((0.1, 1.0), (0.05, 2.0))
# Below which share of the records a class is rare, and what a record of the others then counts, of which a gradient is clipped
# [D, docs/teachers.md, at .2 %].
RARE, COMMON_WEIGHT = 0.01, 0.1
# Beyond it, weights only swing about the optimum.
ROWS_LARGEST_STEP = 8.0


# Sites from which on it pays to send all of a few classes: what each leaves out adds up [D].
MANY_SITES, FEW_CLASSES = 50, 16


def of_plan(plan: Plan) -> tuple[str, ...]:
    """Which kind of teacher fits, and how many classes to send, in sentences that need no record.

    Nobody who makes a plan can see whether labels differ between sites, or whether public inputs are of the records' own kind. Whoever
    knows the federation can say.
    """
    truncation = plan.truncation
    keeps = (
        [
            f"release.k = {truncation.k} of {plan.classes} classes: with {plan.minimum_clients} sites and more, all of them are worth"
            " their bytes, since what each site leaves out adds up too."
        ]
        if isinstance(truncation, TopK)
        and truncation.k < plan.classes <= FEW_CLASSES
        and plan.minimum_clients >= MANY_SITES
        and isinstance(plan.teaching, EvidenceTeaching)
        else []
    )
    return (*teacher(plan.teaching), *keeps)


def teacher(teaching: Teaching) -> tuple[str, ...]:
    """Where a teacher of this kind fits, and what fits better elsewhere; nothing of votes, which answer another question."""
    match teaching:
        case EvidenceTeaching():
            return (
                'teacher.kind = "evidence" adds up what sites know, whichever labels each of them holds, as far as the public inputs are'
                ' of the records\' own kind. If they come from elsewhere, such as other texts or other instruments, choose "linear".',
            )
        case LinearTeaching() | NetTeaching():
            return (
                "Answers of such teachers are averaged, which fits sites that hold much the same labels, and public inputs from"
                " anywhere. If labels differ between sites, and the public inputs are of the records' own kind, choose teacher.kind ="
                ' "evidence" with stages.temperature = "auto": it adds up.',
            )
    return ()


def rows_schedule(
    *, records_per_site: float, dimensions: int, classes: int, epsilon: float, delta: float
) -> TeacherSettings:
    """A schedule of linear teachers on rows of tables or texts.

    The step grows with records times epsilon, the ratio of signal to noise. Dividing it by the root of the number of weights was no better
    on the tables of the benchmark; delta moves the noise by the root of its logarithm, which is less than the rule is sharp.

    - records_per_site: a public estimate of how many records a site has; also the normaliser.
    - dimensions: numbers in a row, as the public encoding makes them.
    - classes: K.
    - epsilon, delta: what the plan may cost a site.

    Raises SettingError for values that no plan can have.
    """
    check.at_least(1, records_per_site=records_per_site, dimensions=dimensions)
    check.at_least(2, classes=classes)
    check.positive(epsilon=epsilon, delta=delta)
    ratio = records_per_site * epsilon
    steps, unit = ROWS_STEPS[ratio < ROWS_FEW]
    return TeacherSettings(
        kind="linear",
        features="rows",
        feature_norm=ROWS_NORM,
        steps=steps,
        learning_rate=_two_digits(min(ratio / unit, ROWS_LARGEST_STEP)),
        momentum=0.9,
        clip=1.0,
        normaliser=float(records_per_site),
        average_last=steps // 2,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What a plan does for its rare classes. class_weights: by class; None if all count alike."""

    temperature: float
    class_weights: tuple[float, ...] | None


def rows_balance(shares_K: Sequence[float]) -> Balance:
    """Temperature and weights of classes for answers about rows, by how frequent each class is.

    The rarer a class, the softer the answers, or its probabilities fall below the smallest number that an answer can carry. Where one is
    rare, records of the others count for less, since a gradient that is clipped cannot count for more.

    shares_K: a public estimate of the share of the records that each class has; only its order of magnitude is used.

    Raises SettingError for shares that are none.
    """
    if len(shares_K) < 2 or not all(0 <= share <= 1 for share in shares_K):
        raise SettingError(f"Expected the shares, from 0 to 1, of at least 2 classes, got {list(shares_K)}.")
    rarest = min(shares_K)
    return Balance(
        temperature=next((cool for least, cool in TEMPERATURES if rarest >= least), ROWS_TEMPERATURE),
        class_weights=tuple(1.0 if share < RARE else COMMON_WEIGHT for share in shares_K) if rarest < RARE else None,
    )


def _two_digits(value: float) -> float:
    """Rounded to two significant digits, which is more than a rule of thumb knows, and reads well in a file."""
    return float(f"{value:.2g}")
