"""The metrics of a finished run: what `metrics.json` in its folder holds, written and read here and nowhere else.

Field names are the keys of the file; the file of limbeck 0.1.0, which has accuracies alone, is read as it is: what it does not say has a
default. Reading is strict: an unknown key, a missing one or a value of another type is an error that names file and key.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.base.settings import Strict, explain
from limbeck.server.scores import FIGURES, Main, Scores
from limbeck.simulations.scenario import Scenario

FILE = "metrics.json"

Accuracy = Annotated[float, Field(ge=0, le=1)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Phase = Literal["prepare", "run", "agree", "teach", "answers", "distil", "export", "total"]


class Quality(Strict):
    """One classifier by the same measures, on the same inputs, as every other: all figures of a column compare like with like."""

    test: Scores | None = None
    """On the test set; None if it cannot be known, or in a file of 0.1.0."""
    public: Scores | None = None
    """On the public inputs, whose labels only the simulation knows; None as for `test`."""
    why: str = ""
    """Why one of them cannot be known; empty if both are."""

    @property
    def whole(self) -> Quality:
        """The same without details by class."""
        test, public = (None if scores is None else scores.whole for scores in (self.test, self.public))
        return Quality(test=test, public=public, why=self.why)


class SiteInputs(Strict):
    """The part of the test set that comes from one natural site: what the federation is worth to that site."""

    majority: Scores
    """Knowing nothing but how frequent each class is among these inputs."""
    teacher: Scores | None
    """The site's own teacher; None if it has none to test."""
    pool: Scores | None
    """All sites' answers pooled; None if they cannot be known."""
    student: Scores


class PlanMetrics(Strict):
    """What identifies the plan of a run, and its noise."""

    hash: str
    """SHA-256 of the encoded plan, in hexadecimal."""
    name: str
    transfer_set: str
    """SHA-256 of the public inputs, in hexadecimal."""
    samples: Annotated[int, Field(ge=1)]
    """Public inputs in the transfer set."""
    classes: Annotated[int, Field(ge=1)]
    noise_multiplier: float
    """Standard deviation of a teacher's noise in units of the clipping norm."""
    label_counts_noise_std: float | None
    """Standard deviation of the noise on label counts, in records; None if the plan asks for none."""
    label_counts_noise: str | None
    """Distribution of that noise."""
    black_box_draws: int | None
    """How often a black-box teacher that gives labels is asked for each input; None if probabilities are asked."""


class MachineMetrics(Strict):
    """Where the run was measured."""

    cores: int | None
    """CPU cores; None if the operating system does not say."""
    processor: str
    device: Literal["cpu", "cuda"]
    """What the student was trained on."""


class PartitionMetrics(Strict):
    """Who held which records. Known to the simulation only."""

    kind: str
    alpha: float
    """Concentration of the Dirichlet distribution, for label and quantity skew."""
    class_names: tuple[str, ...]
    sites: tuple[str, ...]
    counts: tuple[tuple[Count, ...], ...]
    """(sites, classes): records of each class at each site."""


class SecondOpinion(Strict):
    """What another accountant says of the charges of a site together, had they been fixed beforehand; the other figures are by PLD."""

    accountant: str
    epsilon: Annotated[float, Field(ge=0)] | None
    """Its estimate; None if it has none."""
    low: Annotated[float, Field(ge=0)] | None
    high: Annotated[float, Field(ge=0)] | None
    note: str
    """Why there is no estimate, or what was done about mechanisms that it does not know."""
    sentence: str
    disagreement: str
    """A warning if PLD's figure is not between `low` and `high`; else empty."""


class ClientMetrics(Strict):
    """One site."""

    site: str
    records: Count
    """Private records it holds. Known to the simulation only."""
    status: str
    """How its part in the run ended, as the coordinator recorded it; "absent" if it never joined."""
    reason: str | None
    """Why it was left out; None if it was not."""
    teacher_accuracy: Accuracy | None
    """Its teacher alone on the test set, from 0 to 1; None if it has no teacher to test. Known to the simulation only."""
    epsilon: Annotated[float, Field(ge=0)] | None
    """Spent according to its ledger, at `delta` per `unit` under `adjacency`; None if answers left without a guarantee."""
    guarantee: str | None
    """What the site stated about its answers; None if it stated nothing."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: str
    """Unit of privacy."""
    adjacency: str
    """Neighbouring relation."""
    budget_epsilon: float
    """What its owner allows in all, at the same delta, unit and adjacency."""
    bytes_up: Bytes
    """Encoded messages that it sent, protobuf included, without the carrier's framing."""
    bytes_down: Bytes
    """Encoded messages that it received, counted in the same way."""
    label_counts: tuple[int, ...] | None
    """(classes,) noisy records of each class, as it released them; None if it released none."""
    record_count: int | None
    """Noisy number of records, as it released it; None if it released none."""
    teacher: Quality = Quality()
    """Its teacher alone, without details by class. Known to the simulation only."""
    own: SiteInputs | None = None
    """Test inputs of this site, without details by class; None without natural sites, or if none of the test inputs is its own."""
    second_opinion: SecondOpinion | None = None
    """None if the run was measured before there was one."""
    pool_without: Accuracy | None = None
    """Accuracy on the public inputs of the last stage's pool, made again without this site; None if the site is not in it, is alone there,
    or if there are too many sites to try each. Known to the simulation only."""


class PoolMetrics(Strict):
    """The pooled answers of the last stage."""

    accuracy: Accuracy | None
    """On the public inputs, from 0 to 1; None if these have no labels, as a user's own may not."""
    quality: Quality = Quality()
    """On test inputs: the sites' teachers there, softened, truncated, encoded and pooled as the answers to public inputs were. Known to the
    simulation only."""


class StageSeconds(Strict):
    """Wall-clock seconds of one stage."""

    answers: Seconds
    """Collecting and pooling answers."""
    distil: Seconds
    """Training the student."""


class StageMetrics(Strict):
    """One stage of distillation."""

    stage: Count
    """Counted from 0."""
    sparsity: Annotated[float, Field(ge=0, lt=1)]
    """Share of the student's prunable weights that are zero."""
    temperature: float
    """Of softening, dimensionless."""
    clients: Count
    """Sites whose answers were pooled."""
    bytes_up: Bytes
    """From all sites to the coordinator in this stage, as in `ClientMetrics`."""
    bytes_down: Bytes
    """From the coordinator to all sites in this stage, as in `ClientMetrics`."""
    seconds: StageSeconds
    losses: tuple[float, ...]
    """Mean training loss of each epoch, in nats."""
    pool_accuracy: Accuracy | None
    """Pooled answers on the public inputs, from 0 to 1; None if these have no labels."""
    sparse_accuracy: Accuracy
    """The student on the test set, from 0 to 1."""
    dense_accuracy: Accuracy | None
    """The dense control on the test set, from 0 to 1; None without a control."""
    pool: Quality = Quality()
    """Pooled answers, without details by class."""
    sparse: Quality = Quality()
    """The student, without details by class."""
    dense: Quality | None = None
    """The dense control, without details by class; None without a control."""


class StudentBytes(Strict):
    """Sizes of the student's files, in bytes."""

    safetensors: Bytes
    safetensors_gzip: Bytes
    onnx: Bytes


class StudentMetrics(Strict):
    """The finished student."""

    architecture: str
    parameters: Count
    nonzero: Count
    """Parameters that are not zero."""
    bytes: StudentBytes
    onnx_max_difference: float
    """Largest difference of a probability between onnxruntime and torch."""
    accuracy: Accuracy
    """On the test set, from 0 to 1."""
    dense_accuracy: Accuracy | None
    """The dense control on the test set, from 0 to 1; None without a control."""
    confusion: tuple[tuple[Count, ...], ...]
    """(true class, predicted class): inputs of the test set."""
    quality: Quality = Quality()
    """The finished student, as it was trained."""
    calibrated: Quality | None = None
    """The same with its logits divided by the temperature that it is handed over with, which was fitted on the public inputs: predictions
    and ranking are the same, log-loss and calibration are not. None without a temperature."""
    dense: Quality | None = None
    """The dense control; None without a control."""


class Metrics(Strict):
    """What a finished run reached, what it cost, and what is needed to repeat it."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    limbeck: str
    """Version that measured the run."""
    scenario_name: str
    description: str
    scenario: Scenario
    plan: PlanMetrics
    versions: Mapping[str, str]
    """Version of Python and of each package that the figures depend on."""
    machine: MachineMetrics
    noise: Literal["system-entropy", "UnsafeSeeded"]
    """Source of all noise. No guarantee holds with "UnsafeSeeded"; each epsilon is then what real noise would have cost."""
    partition: PartitionMetrics
    clients: Annotated[tuple[ClientMetrics, ...], Field(min_length=1)]
    unnamed_nodes: Mapping[str, str | None]
    """Why each node was left out that never gave the name of a site, by node."""
    pool: PoolMetrics
    stages: Annotated[tuple[StageMetrics, ...], Field(min_length=1)]
    student: StudentMetrics
    carrier: str
    """What carried the messages: "local" or "flower"."""
    seconds: Mapping[Phase, Seconds]
    """Wall-clock seconds of each phase that the run went through, in this order. "run" is all of the coordinator's phases together with
    starting and stopping the sites; "total" adds "prepare", which a resumed run does not repeat. Measuring is not included."""
    majority: Quality = Quality()
    """Knowing nothing but how frequent each class is: what any classifier has to beat."""
    central: Quality | None = None
    """One teacher of the plan's kind, trained on all sites' records together with the plan's noise, so at the same epsilon. It never leaves
    the simulation, so no ledger is charged for it. None if the scenario does not ask for it."""
    without_privacy: Quality | None = None
    """The same teacher without noise; it never leaves the simulation either. None if the scenario does not ask for it."""
    warnings: tuple[str, ...] = ()
    """What the coordinator saw in the plan, the public inputs and the answers, and what is allowed and looks like a mistake."""

    @model_validator(mode="after")
    def _fit_together(self) -> Metrics:
        sites, classes = len(self.clients), self.plan.classes
        for key, length, expected in (
            ("partition.sites", len(self.partition.sites), sites),
            ("partition.counts", len(self.partition.counts), sites),
            ("partition.class_names", len(self.partition.class_names), classes),
            ("student.confusion", len(self.student.confusion), classes),
            *((f"partition.counts.{i}", len(row), classes) for i, row in enumerate(self.partition.counts)),
            *((f"student.confusion.{i}", len(row), classes) for i, row in enumerate(self.student.confusion)),
        ):
            if length != expected:
                raise ValueError(f"{key} with {expected} entries, got {length}")
        return self

    @property
    def sites_without_guarantee(self) -> tuple[str, ...]:
        """Sites whose answers left without a differential privacy guarantee: no epsilon holds for their records."""
        return tuple(client.site for client in self.clients if client.epsilon is None)

    @property
    def teacher_accuracies(self) -> tuple[float, ...]:
        """Accuracy of each teacher alone on the test set, from 0 to 1, for the sites that have a teacher to test."""
        return tuple(client.teacher_accuracy for client in self.clients if client.teacher_accuracy is not None)

    @property
    def main(self) -> Main:
        """The measure to look at first: accuracy, or balanced accuracy if a class has less than half of an equal share of the test set."""
        return self.majority.test.main if self.majority.test is not None else "accuracy"

    @property
    def best_site(self) -> ClientMetrics | None:
        """The site whose teacher alone is best by `main` on the test set; None if no teacher was tested."""
        return self._ordered[-1] if self._ordered else None

    @property
    def worst_site(self) -> ClientMetrics | None:
        """The site whose teacher alone is worst by `main` on the test set; None if no teacher was tested."""
        return self._ordered[0] if self._ordered else None

    @property
    def _ordered(self) -> list[ClientMetrics]:
        tested = [(client.teacher.test, client) for client in self.clients]
        known = [(test.figures[self.main] or 0.0, client) for test, client in tested if test is not None]
        return [client for _, client in sorted(known, key=lambda pair: pair[0])]

    @property
    def comparison(self) -> tuple[Compared, ...]:
        """What is compared, from knowing nothing to the student: the rows of every table. Empty for a file of 0.1.0."""
        if self.majority.test is None:
            return ()
        named: list[tuple[Role, str, Quality | None]] = [("majority", "majority class", self.majority)]
        if self.worst_site is not None and self.best_site is not None:
            named += [
                ("worst site", f"worst site ({self.worst_site.site})", self.worst_site.teacher),
                ("mean site", "mean of sites", None),
                ("best site", f"best site ({self.best_site.site})", self.best_site.teacher),
            ]
        named += [
            ("central", "central DP", self.central),
            ("without privacy", "central, no privacy", self.without_privacy),
            ("pool", "pool", self.pool.quality),
            ("dense", "dense control", self.student.dense),
            ("student", "student", self.student.quality),
            ("calibrated", "student, calibrated", self.student.calibrated),
        ]
        teachers = [client.teacher for client in self.clients]
        rows = []
        for role, label, quality in named:
            if role == "mean site":
                test = _mean([teacher.test for teacher in teachers])
                rows.append(Compared(role, label, test, _mean([teacher.public for teacher in teachers]), ""))
            elif quality is not None:
                rows.append(Compared(role, label, _figures(quality.test), _figures(quality.public), quality.why))
        return tuple(rows)


Role = Literal[
    "majority",
    "worst site",
    "mean site",
    "best site",
    "central",
    "without privacy",
    "pool",
    "dense",
    "student",
    "calibrated",
]
Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Compared:
    """One row of what is compared.

    - role: what it is.
    - label: the same for people.
    - test, public: `limbeck.server.scores.FIGURES` on the test set and on the public inputs; empty if they cannot be known.
    - why: why one of them cannot be known.
    """

    role: Role
    label: str
    test: Figures
    public: Figures
    why: str


def _figures(scores: Scores | None) -> Figures:
    return scores.figures if scores is not None else {}


def _mean(several: Sequence[Scores | None]) -> Figures:
    """The mean of each figure over the classifiers that have it."""
    means = {}
    for name in FIGURES:
        known = [value for scores in several if scores is not None and (value := scores.figures[name]) is not None]
        means[name] = statistics.fmean(known) if known else None
    return means if any(scores is not None for scores in several) else {}


def write(metrics: Metrics, folder: Path) -> Path:
    """Write RUN/metrics.json, whole or not at all; returns its path."""
    path = folder / FILE
    write_durably(path, json.dumps(metrics.model_dump(mode="json"), indent=1).encode())
    return path


def read(folder: Path) -> Metrics:
    """The metrics of the finished run in `folder`.

    Raises: RunError if there are none, or naming the first key of the file that is unknown, missing or of another type.
    """
    path = folder / FILE
    try:
        return Metrics.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"Expected the metrics of a finished run in {path}: {error}.") from error
    except ValidationError as error:
        first, *others = explain(Metrics, error)
        more = f" (and {len(others)} more such problems)" if others else ""
        raise RunError(f"Expected the metrics of a finished run in {path}: {first}{more}.") from None
