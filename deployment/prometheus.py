"""A run's status as metrics, in Prometheus' text format (version 0.0.4): what the status page shows, and nothing beyond it.

Names and units follow Prometheus' conventions: base units, `_total` for counters. No site is named: how many there are of each state says
enough for an alarm, and the series stay few however many sites take part. What is here of privacy is the plan's own cost, with its terms
as labels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from limbeck.base.printable import printable
from limbeck.deployment.status import PhaseState, Status
from limbeck.server.states import RunState, SiteState

CONTENT_TYPE = "text/plain; version=0.0.4"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Kind(StrEnum):
    """GAUGE: a value that goes up and down. COUNTER: one that only goes up, until the process behind it starts again."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value. labels: by name."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All samples of one name. help: what it is, in one line."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or (self.kind is Kind.COUNTER) != self.name.endswith("_total"):
            raise ValueError(f"Expected the name of a {self.kind} by Prometheus' rules, got {self.name!r}.")
        for sample in self.samples:
            for label in sample.labels:
                if not _LABEL.fullmatch(label) or label.startswith("__"):
                    raise ValueError(f"Expected the name of a label by Prometheus' rules, got {label!r}.")


def exposition(families: Sequence[Family]) -> str:
    """The families as text. A family without samples is left out."""
    return "".join(line + "\n" for family in families if family.samples for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    help_text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {help_text}"
    yield f"# TYPE {family.name} {family.kind}"
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        yield f"{family.name}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))


def metrics(run: Status | None) -> str:
    """The metrics of a run; None if there is none yet."""
    return exposition([_state(RunState.NOT_STARTED)] if run is None else list(_families(run)))


def _state(state: RunState) -> Family:
    samples = [Sample(value=float(each is state), labels={"state": each.value}) for each in RunState]
    return _gauge("limbeck_run_state", "The state of the run: 1 for the one that it is in.", samples)


def _families(run: Status) -> Iterator[Family]:
    yield _state(run.state)
    info = {"name": printable(run.name), "plan": run.plan_hash}
    yield _gauge("limbeck_run_info", "The run and the SHA-256 of its plan.", [Sample(value=1, labels=info)])
    planned = len(run.plan.stages) if run.plan is not None else None
    yield _single("limbeck_run_stages", "Stages that the plan has.", planned)
    yield _single("limbeck_run_stages_finished", "Stages that are finished.", len(run.stages))
    phases = [step for step in run.steps if step.state is PhaseState.ACTIVE]
    for part, text in (("done", "Parts of the phase under way that are finished."), ("parts", "All its parts.")):
        samples = [
            Sample(value=step.done if part == "done" else step.total, labels={"phase": step.phase.step.value})
            for step in phases
        ]
        yield _gauge(f"limbeck_run_phase_{part}", text, samples)
    sites = [Sample(value=run.counts.get(state, 0), labels={"state": state.value}) for state in SiteState]
    yield _gauge("limbeck_run_sites", "Sites by what became of the last question to them.", sites)
    traffic = (("from_sites", run.bytes_up), ("to_sites", run.bytes_down))
    yield Family(
        name="limbeck_run_message_bytes_total",
        kind=Kind.COUNTER,
        help="Bytes of encoded messages, without the framing of what carries them.",
        samples=[Sample(value=size, labels={"direction": direction}) for direction, size in traffic],
    )
    yield _single("limbeck_run_started_timestamp_seconds", "When the first event was written, since the epoch.", run.started)
    yield _single("limbeck_run_event_timestamp_seconds", "When the newest event was written, since the epoch.", run.newest)
    yield from _stages(run)
    if run.privacy is not None:
        cost = run.privacy
        terms = {"delta": f"{cost.delta:g}", "unit": cost.unit, "adjacency": cost.adjacency}
        text = "What the plan costs each site that trains, at delta, per unit, under this neighbouring relation."
        yield _gauge("limbeck_plan_epsilon", text, [Sample(value=cost.epsilon, labels=terms)])
        text = "Sites whose answers have no privacy guarantee."
        yield _single("limbeck_run_sites_without_guarantee", text, len(cost.without))


def _stages(run: Status) -> Iterator[Family]:
    columns = (
        ("seconds", "Wall-clock seconds that a stage took.", [stage.seconds for stage in run.stages]),
        ("loss", "The mean loss of a stage's last epoch.", [stage.loss for stage in run.stages]),
        ("sparsity_ratio", "The share of the student's weights that are zero.", [stage.sparsity for stage in run.stages]),
        ("sites", "Sites whose answers are in a stage's pool.", [stage.clients for stage in run.stages]),
        ("accuracy_ratio", "The student's accuracy on the data of --test.", [stage.accuracy for stage in run.stages]),
    )
    for name, text, values in columns:
        samples = [
            Sample(value=value, labels={"stage": str(stage.number)})
            for stage, value in zip(run.stages, values, strict=True)
            if value is not None
        ]
        yield _gauge(f"limbeck_stage_{name}", text, samples)


def _gauge(name: str, text: str, samples: Sequence[Sample]) -> Family:
    return Family(name=name, kind=Kind.GAUGE, help=text, samples=samples)


def _single(name: str, text: str, value: float | None) -> Family:
    return _gauge(name, text, [] if value is None else [Sample(value=value, labels={})])
