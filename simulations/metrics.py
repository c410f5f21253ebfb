"""The metrics of a finished run: what `metrics.json` in its folder holds, written and read here and nowhere else.

Field names are the keys of the file; the file of limbeck 0.1.0 is read as it is. Reading is strict: an unknown key, a missing one or a
value of another type is an error that names file and key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.base.settings import Strict, explain
from limbeck.simulations.scenario import Scenario

FILE = "metrics.json"

Accuracy = Annotated[float, Field(ge=0, le=1)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Phase = Literal["prepare", "run", "agree", "teach", "answers", "distil", "export", "total"]


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


class PoolMetrics(Strict):
    """The pooled answers of the last stage."""

    accuracy: Accuracy
    """On the public inputs, from 0 to 1."""


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
    pool_accuracy: Accuracy
    """Pooled answers on the public inputs, from 0 to 1."""
    sparse_accuracy: Accuracy
    """The student on the test set, from 0 to 1."""
    dense_accuracy: Accuracy | None
    """The dense control on the test set, from 0 to 1; None without a control."""


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
