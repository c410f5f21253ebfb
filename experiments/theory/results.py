"""What the experiments on theory find, as it stands in `experiments/results/theory/*.json`: one type for each file, written and read by it.

Keys are those of the files, so these are dictionaries and not classes. Divergences are in nats; an interval is the mean with the ends of a
confidence interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NotRequired, TypeVar

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from limbeck.base.errors import DataError

Coefficient = Literal["A", "b", "c"]
COEFFICIENTS: tuple[Coefficient, ...] = ("A", "b", "c")
# What a prediction of the winner is compared in, and the predictions that are counted apart.
Outcome = Literal["squared_error", "accuracy"]
Group = Literal["all", "decided", "decided_and_clear", "student_predicted_decided"]
GROUPS: tuple[Group, ...] = ("all", "decided", "decided_and_clear", "student_predicted_decided")
# A value with the ends of its interval.
Triple = tuple[float, float, float]

T = TypeVar("T")


class Interval(TypedDict):
    """A mean over seeds with its confidence interval."""

    mean: float
    low: float
    high: float


class About(TypedDict):
    """How a result was made."""

    command: str
    machine: str


# Pruning in stages


class Trained(TypedDict):
    """One training. error: on held-out inputs. jumps, contractions: one for each stage."""

    error: float
    error_public: float
    accuracy: float
    dense_error: float
    jumps: list[float]
    contractions: list[float]
    sparsity: float


class Fit(TypedDict):
    """A / n + b + c n, fitted to errors by the number of stages."""

    A: Interval
    b: Interval
    c: Interval
    explained: float
    p_value: float
    separated: list[Coefficient]
    best_n: float | None


class StageGroup(TypedDict):
    """Trainings that differ in the number of stages and the seed only. Lists are by the number of stages, n."""

    path: str
    alpha: float
    temperature: float
    sparsity: float
    n: list[int]
    error: list[Interval]
    one_shot_minus_n: list[Interval]
    accuracy: list[Interval]
    dense_error: Interval
    fit: Fit
    jumps: list[Interval]
    jumps_slope: Interval
    largest_over_smallest_jump_median: list[float]


class AnchoredStages(TypedDict):
    """How far below its bound the contraction of each anchored stage is. mean_ratio: by alpha."""

    stages: int
    worst_ratio_to_bound: float
    mean_ratio: dict[str, float]


class StageSummary(TypedDict):
    """All groups. within_error: of one stage that prunes gradually, by sparsity."""

    groups: list[StageGroup]
    within_error: dict[str, Interval]
    anchoring: NotRequired[AnchoredStages]


class Stages(About, StageSummary):
    """stages.json, stages_fashion.json."""

    data: str
    seeds: list[int]
    confidence: float
    epochs_in_all: int
    steps_in_all: int
    pruning_curve: list[list[float]]


# Equal students


class Pair(TypedDict):
    """Two operators, and the students trained on their answers."""

    ridge: float
    features: int
    shared: str
    targets_max_l1: float
    targets_mean_l1: float
    moments: float
    weights_norm: float
    weights_distance: float
    bound_from_moments: float
    bound_from_l1: float
    test_probabilities_max_difference: float
    test_decisions_differ: float


class Bent(TypedDict):
    """A bent power; the student sees few features, by which the moments are equal, or all."""

    steepest: float
    seen: Pair
    not_seen: Pair


class Tilted(TypedDict):
    """Tilted targets."""

    size: float
    seen: Pair


class Calibrated(TypedDict):
    """Mixing at the temperature of the same mean entropy; students by ridge."""

    mixing_temperature: float
    entropy_residual: float
    mixing_temperature_by_moments: float
    moments_residual: float
    shared_after_moments: str
    students: list[Pair]


class Reparametrised(TypedDict):
    """Mixing at a temperature of its own for each sample."""

    temperature_10_to_90_percent: list[float]
    residual_median: float
    two_classes_temperature_10_to_90_percent: list[float]
    two_classes_residual_max: float


class EquivalenceOfData(TypedDict):
    """All pairs on one data set."""

    data: str
    samples: int
    classes: int
    teacher_accuracy: float
    first: str
    bent: Bent
    tilted: Tilted
    calibrated: Calibrated
    reparametrised: Reparametrised


class Equivalence(About):
    """equivalence.json."""

    seed: int
    data: list[EquivalenceOfData]


# Axioms


class Example(TypedDict):
    """A counterexample."""

    p: list[float]
    temperature: float
    other_p: list[float] | None
    other_temperature: float | None
    what: str


class AxiomFinding(TypedDict):
    """What the checker found about one axiom."""

    axiom: str
    holds: bool
    trials: int
    worst: float
    tolerance: float
    unit: str
    note: str
    counterexample: Example | None


class Subject(TypedDict):
    """One operator. The first finding is the premise that distributions stay distributions."""

    name: str
    lowest_temperature: float
    findings: list[AxiomFinding]


class Axioms(About):
    """axioms.json."""

    rounds: int
    seed: int
    subjects: list[Subject]


# Bias and variance


class Tally(TypedDict):
    """Predictions that were right, of how many."""

    right: int
    of: int


class Verdict(TypedDict):
    """How often a predicted winner won. constant: the better of the two rules that always name the same one."""

    all: Tally
    decided: Tally
    decided_and_clear: Tally
    student_predicted_decided: Tally
    constant: Tally
    decided_but_wrong: list[str]


class Verdicts(TypedDict):
    """By what the winner is better in."""

    squared_error: Verdict
    accuracy: Verdict


class ConditionRow(TypedDict):
    """What teachers and students were trained on; the fields of `bias_variance.Condition`."""

    data: str
    records: int
    wrong: float
    teacher_epochs: int
    student_epochs: int
    transfer: int | None


class HalfOfPoint(TypedDict):
    """The condition on one half."""

    variance_gain: Triple
    bias_cost: Triple
    gain: Triple
    accuracy_gain: Triple


class PointOfCurve(TypedDict):
    """One condition at one temperature and sparsity, on both halves."""

    data: str
    temperature: float
    sparsity: float
    halves: list[HalfOfPoint]


class BiasVariance(About):
    """bias_variance.json, bias_variance_overfitted.json."""

    replicates_per_half: int
    seeds: list[int]
    confidence: float
    bootstrap_draws: int
    conditions: dict[str, ConditionRow]
    teacher_accuracy: dict[str, float]
    verdicts: Verdicts
    points: list[PointOfCurve]


# Answers that add up


class AtTemperature(TypedDict):
    """One federation at one temperature.

    whole, sent: the share of public inputs that the pool names rightly, of whole answers and of answers as they are sent. other_than_sum:
    the share where the pool of whole answers decides otherwise than the sum of scores. error, error_over_bound: largest of an entry of
    that pool, against first order in 1 / T. certain: the share of inputs whose decision the bound guarantees.
    """

    temperature: float
    whole: float
    sent: float
    other_than_sum: float
    error: float
    error_over_bound: float
    certain: float


class AdditiveCell(TypedDict):
    """One federation. sum: the share of public inputs that the sum of scores names rightly. deviation: of one site's scores."""

    sum: float
    deviation: float
    temperatures: list[AtTemperature]


class Spread(TypedDict):
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float


class AdditivePoint(TypedDict):
    """`AtTemperature` over seeds: errors are the largest of all."""

    temperature: float
    whole: Spread
    sent: Spread
    other_than_sum: Spread
    error: float
    error_over_bound: float
    certain: Spread


class AdditiveCurve(TypedDict):
    """One skew. epsilon: None without privacy. advised: the temperature of `limbeck.plans.evidence_constants`."""

    skew: str
    epsilon: float | None
    ridge: float
    advised: float
    deviation: Spread
    sum: Spread
    points: list[AdditivePoint]


class Additive(About):
    """additive.json."""

    data: str
    sites: int
    seeds: list[int]
    delta: float
    kept: int
    curves: list[AdditiveCurve]


def read(path: Path, kind: type[T]) -> T:
    """The results in a file. Raises DataError, naming the file, where they are none of this kind."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"Expected results of {kind.__name__} in {path}: {error}") from error
