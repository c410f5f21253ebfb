"""One row per run: what it reached and what it cost, under column names that state the unit; what differs between runs; means and spreads.

A run with privacy and a baseline without become the same kind of row. A figure that a run does not know is None, and an empty field.
"""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import RunError
from limbeck.server.scores import FIGURES, Scores
from limbeck.simulations.metrics import Figures, Metrics, Role
from limbeck.simulations.scenario import Scenario
from limbeck.simulations.sweep.baseline import Baseline
from limbeck.simulations.sweep.cells import EPSILON, NO_PRIVACY, SEED

Value = str | int | float | bool | None
# What changes neither teachers nor student: it may differ between the runs of one cell.
APART = frozenset(
    {SEED, "run.workers", "description", "student.dense_control", "compare.central", "compare.without_privacy"}
)
# Of these measures less is better, and they have no upper bound or another unit.
UNITS = {
    "accuracy": "percent",
    "balanced_accuracy": "percent",
    "f1": "0_to_1",
    "auc": "0_to_1",
    "auprc": "0_to_1",
    "rarest_auprc": "0_to_1",
    "log_loss": "nats",
    "calibration_error": "percent",
}
TITLES = {
    "accuracy": "accuracy, %",
    "balanced_accuracy": "balanced accuracy, %",
    "f1": "F1, mean of classes",
    "auc": "AUC, mean of classes",
    "auprc": "AUPRC, mean of classes",
    "rarest_auprc": "AUPRC of the rarest class",
    "log_loss": "log-loss, nats",
    "calibration_error": "calibration error, %",
}
# Roles of a run that a row has, by the first word of their columns; of the last, only what compares classifiers at a glance.
ROLES: dict[Role, str] = {
    "student": "student",
    "calibrated": "calibrated_student",
    "pool": "pool",
    "best site": "best_site",
    "mean site": "mean_site",
    "worst site": "worst_site",
    "central": "central",
    "without privacy": "central_without_privacy",
    "dense": "dense_student",
    "majority": "majority",
}
IN_FULL: tuple[Role, ...] = ("student", "calibrated", "pool")
AT_A_GLANCE = ("accuracy", "balanced_accuracy", "auc", "auprc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The student after one stage.

    - sparsity: share of its prunable weights that are zero.
    - figures: by name, on the test set.
    - bytes_up_per_site: sent by now by the average site, answers of this stage included; None for a baseline.
    """

    sparsity: float
    figures: Figures
    bytes_up_per_site: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run.

    - name: of cell and seed, or of the run's folder.
    - folder: the run's.
    - scenario: its settings.
    - without_privacy: whether it is a baseline.
    - main: the measure to look at first.
    - figures: of every role that is known, on the test set.
    - stages: the student after each.
    - facts: every other column of the table, by its name.
    """

    name: str
    folder: Path
    scenario: Scenario
    without_privacy: bool
    main: str
    figures: Mapping[Role, Figures]
    stages: tuple[Stage, ...]
    facts: Mapping[str, Value]

    @property
    def seed(self) -> int:
        """Of data, partition and plan."""
        return self.scenario.run.seed

    @property
    def settings(self) -> dict[str, Value]:
        """All settings under keys such as "student.epochs"; the epsilon of a baseline is "none"."""
        own = flat(self.scenario)
        return {**own, EPSILON: NO_PRIVACY} if self.without_privacy else own


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ in their seeds alone.

    - label: what people call it: its differing settings, or a letter.
    - settings: the value of every setting in which groups differ.
    """

    label: str
    settings: Mapping[str, Value]
    rows: tuple[Row, ...]

    @property
    def without_privacy(self) -> bool:
        """Whether its runs are baselines."""
        return self.rows[0].without_privacy


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation of a figure over n runs. std: None of one run, of which it says nothing."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Runs side by side.

    - keys: the settings in which they differ, apart from seeds.
    - groups: in the order in which their first runs came.
    """

    keys: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All runs, by group."""
        return tuple(row for group in self.groups for row in group.rows)

    @property
    def main(self) -> str:
        """The measure to look at first: that of all runs if they agree, else the one that does not depend on how frequent classes are."""
        return "accuracy" if all(row.main == "accuracy" for row in self.rows) else "balanced_accuracy"


def flat(scenario: Scenario) -> dict[str, Value]:
    """All settings of a scenario under keys such as "student.epochs"; a list becomes its text."""
    found: dict[str, Value] = {}
    for key, value in scenario.model_dump(mode="json").items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        for name, each in inner:
            plain = each if isinstance(each, str | int | float | bool) or each is None else str(each)
            found[key if name is None else f"{key}.{name}"] = plain
    return found


def row(name: str, folder: Path, reached: Metrics | Baseline) -> Row:
    """The row of a run."""
    return _of_baseline(name, folder, reached) if isinstance(reached, Baseline) else _of_run(name, folder, reached)


def study(rows: Sequence[Row], keys: Sequence[str] | None = None) -> Study:
    """Rows by group. keys: the settings by which they are grouped; by default all in which they differ, seeds apart.

    Raises: RunError if there is no row, or if a run comes twice.
    """
    if not rows:
        raise RunError("Expected at least one finished run, got none.")
    folders = [each.folder.resolve() for each in rows]
    if len(set(folders)) != len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise RunError(f"Expected every run once, got {twice} more than once.")
    if keys is None:
        every = [each.settings for each in rows]
        names = sorted({key for settings in every for key in settings} - APART)
        keys = [key for key in names if len({repr(settings.get(key)) for settings in every}) > 1]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for each in rows:
        groups.setdefault(tuple(repr(each.settings.get(key)) for key in keys), []).append(each)
    labels = _labels([members[0] for members in groups.values()], keys)
    return Study(
        keys=tuple(keys),
        groups=tuple(
            Group(label=label, settings={key: members[0].settings.get(key) for key in keys}, rows=tuple(members))
            for label, members in zip(labels, groups.values(), strict=True)
        ),
    )


MOST_IN_A_LABEL = 3


def _labels(firsts: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """The scenario's name if that tells them apart, the settings that differ if they are few, else letters, for a table to explain."""
    names = [each.scenario.name for each in firsts]
    if not keys:
        return names[:1]
    if "name" in keys and len(set(names)) == len(names):
        return names
    if len(keys) <= MOST_IN_A_LABEL:
        return [", ".join(f"{short(key)} = {shown(each.settings.get(key))}" for key in keys) for each in firsts]
    return [chr(ord("A") + index) if len(firsts) <= 26 else str(index + 1) for index in range(len(firsts))]


def short(key: str) -> str:
    """What people call a setting: "ε" for "privacy.epsilon", "sites" for "partition.clients", else its name."""
    known = {EPSILON: "ε", "partition.clients": "sites", "privacy.delta": "δ", "stages.sparsity": "sparsity"}
    return known.get(key, key)


def shown(value: Value) -> str:
    """A setting's value as people read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and spread of the values that are known; None if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def with_spread(over: Spread | None, measure: str) -> str:
    """Such as "76.1 ± 0.4", with as many digits as the unit of the measure asks for."""
    if over is None:
        return "–"
    digits = 1 if UNITS[measure] == "percent" else 3
    return f"{over.mean:.{digits}f}" + (f" ± {over.std:.{digits}f}" if over.std is not None else "")


def scaled(measure: str, value: float | None) -> float | None:
    """A measure in the unit of its column."""
    return 100 * value if value is not None and UNITS[measure] == "percent" else value


def figure(row: Row, role: Role, measure: str) -> float | None:
    """A measure of a role on the test set, in the unit of its column; None if it is not known."""
    return scaled(measure, row.figures.get(role, {}).get(measure))


def runs_csv(study: Study, relative_to: Path) -> str:
    """The table of all runs. relative_to: the folder in which the file will be; the column "folder" starts there."""
    settings = [key for key in study.keys if key != "name"]
    table = []
    for group in study.groups:
        for each in group.rows:
            own: dict[str, Value] = {
                "run": each.name,
                "group": group.label,
                "scenario": each.scenario.name,
                "seed": each.seed,
            }
            own |= {key: each.settings.get(key) for key in settings}
            own |= {"privacy": NO_PRIVACY if each.without_privacy else "differential"}
            for role, word in ROLES.items():
                for measure in FIGURES if role in IN_FULL else AT_A_GLANCE:
                    own[f"{word}_{measure}_{UNITS[measure]}"] = figure(each, role, measure)
            table.append({**own, **each.facts, "folder": _relative(each.folder, relative_to)})
    return _csv(_without_empty(table))


def stages_csv(study: Study) -> str:
    """The student after each stage of every run."""
    table = []
    for group in study.groups:
        for each in group.rows:
            for number, stage in enumerate(each.stages, start=1):
                own: dict[str, Value] = {"run": each.name, "group": group.label, "seed": each.seed, "stage": number}
                own |= {"sparsity_percent": 100 * stage.sparsity, "sent_per_site_bytes": stage.bytes_up_per_site}
                for measure in FIGURES:
                    own[f"student_{measure}_{UNITS[measure]}"] = scaled(measure, stage.figures.get(measure))
                table.append(own)
    return _csv(_without_empty(table))


SUMMARISED: tuple[Role, ...] = ("student", "pool", "best site", "mean site", "central", "without privacy", "majority")


def summary(study: Study, measure: str) -> list[tuple[Group, dict[Role, Spread | None]]]:
    """Mean and spread of a measure for every group and role."""
    return [
        (group, {role: spread(figure(each, role, measure) for each in group.rows) for role in SUMMARISED})
        for group in study.groups
    ]


def summary_csv(study: Study) -> str:
    """Mean and standard deviation of every figure of every group, n stated."""
    table = []
    for group in study.groups:
        for role, word in ROLES.items():
            for measure in FIGURES if role in IN_FULL else AT_A_GLANCE:
                over = spread(figure(each, role, measure) for each in group.rows)
                if over is not None:
                    own: dict[str, Value] = {"group": group.label, **group.settings}
                    own |= {"of": word, "measure": measure, "unit": UNITS[measure]}
                    table.append({**own, "mean": over.mean, "standard_deviation": over.std, "runs": over.n})
    return _csv(table)


def _relative(folder: Path, start: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), start.resolve())).as_posix()


def _without_empty(table: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
    """Without columns of which no row knows anything."""
    names = list(dict.fromkeys(name for each in table for name in each))
    known = [name for name in names if any(each.get(name) is not None for each in table)]
    return [{name: each.get(name) for name in known} for each in table]


def _csv(table: Sequence[Mapping[str, Value]]) -> str:
    text = io.StringIO()
    names = list(table[0]) if table else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_field(each.get(name)) for name in names] for each in table)
    return text.getvalue()


def _field(value: Value) -> str:
    """Numbers without what float arithmetic leaves behind; a text that a spreadsheet would take for a formula is kept from it."""
    if isinstance(value, float):
        return f"{value:.10g}"
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _of_run(name: str, folder: Path, run: Metrics) -> Row:
    first = run.clients[0]
    sites = len(run.clients)
    epsilons = [client.epsilon for client in run.clients]
    known = [epsilon for epsilon in epsilons if epsilon is not None]
    up = sum(client.bytes_up for client in run.clients)
    # What the last stage had not sent yet: what counts by a stage is everything but the answers of later stages.
    later = [sum(stage.bytes_up for stage in run.stages[index + 1 :]) for index in range(len(run.stages))]
    figures: dict[Role, Figures] = {each.role: each.test for each in run.comparison if each.test}
    facts: dict[str, Value] = {
        "epsilon_of_plan": run.scenario.privacy.epsilon,
        "epsilon_spent_by_any_site_at_most": max(known) if len(known) == sites else None,
        "delta": first.delta,
        "unit_of_privacy": first.unit,
        "adjacency": first.adjacency,
        "noise": run.noise,
        "sites": sites,
        "sites_left_out": sum(client.reason is not None for client in run.clients),
        "sites_without_guarantee": len(run.sites_without_guarantee),
        "records": sum(client.records for client in run.clients),
        "public_inputs": run.plan.samples,
        "classes": run.plan.classes,
        "pool_public_accuracy_percent": None if run.pool.accuracy is None else 100 * run.pool.accuracy,
        "sparsity_percent": 100 * run.stages[-1].sparsity,
        "student_parameters": run.student.parameters,
        "student_nonzero_parameters": run.student.nonzero,
        "student_onnx_bytes": run.student.bytes.onnx,
        "sent_by_sites_bytes": up,
        "sent_per_site_bytes": up / sites,
        "received_by_sites_bytes": sum(client.bytes_down for client in run.clients),
        "total_seconds": run.seconds.get("total"),
        "limbeck": run.limbeck,
    }
    return Row(
        name=name,
        folder=folder,
        scenario=run.scenario,
        without_privacy=False,
        main=run.main,
        figures=figures or _of_0_1_0(run),
        stages=tuple(
            Stage(
                sparsity=stage.sparsity,
                figures=stage.sparse.test.figures if stage.sparse.test else {"accuracy": stage.sparse_accuracy},
                bytes_up_per_site=(up - after) / sites,
            )
            for stage, after in zip(run.stages, later, strict=True)
        ),
        facts=facts,
    )


def _of_0_1_0(run: Metrics) -> dict[Role, Figures]:
    """Accuracies are all that a file of 0.1.0 has; how frequent classes are in the test set, its confusion matrix says."""
    inputs = [sum(row) for row in run.student.confusion]
    found: dict[Role, Figures] = {
        "majority": {"accuracy": max(inputs) / max(1, sum(inputs))},
        "student": {"accuracy": run.student.accuracy},
    }
    if run.student.dense_accuracy is not None:
        found["dense"] = {"accuracy": run.student.dense_accuracy}
    return found | _teachers([{"accuracy": accuracy} for accuracy in run.teacher_accuracies], "accuracy")


def _teachers(teachers: Sequence[Figures], main: str) -> dict[Role, Figures]:
    """Worst, mean and best of teachers alone."""
    if not teachers:
        return {}
    ordered = sorted(teachers, key=lambda each: each.get(main) or 0.0)
    names = list(ordered[0])
    means = {name: over.mean if (over := spread(each[name] for each in ordered)) else None for name in names}
    return {"worst site": ordered[0], "mean site": means, "best site": ordered[-1]}


def _of_baseline(name: str, folder: Path, reached: Baseline) -> Row:
    main = "balanced_accuracy" if reached.majority.unbalanced else "accuracy"
    public = reached.pool.public
    return Row(
        name=name,
        folder=folder,
        scenario=reached.scenario,
        without_privacy=True,
        main=main,
        figures={
            "majority": reached.majority.figures,
            **_teachers([each.figures for each in reached.teachers], main),
            "pool": _known(reached.pool.test),
            "student": _known(reached.student.test),
        },
        stages=tuple(
            Stage(sparsity=stage.sparsity, figures=stage.student.figures, bytes_up_per_site=None) for stage in reached.stages
        ),
        facts={
            "sites": len(reached.records),
            "records": sum(reached.records),
            "public_inputs": reached.samples,
            "pool_public_accuracy_percent": None if public is None else 100 * public.accuracy,
            "sparsity_percent": 100 * reached.stages[-1].sparsity,
            "total_seconds": reached.seconds,
            "limbeck": reached.limbeck,
        },
    )


def _known(scores: Scores | None) -> Figures:
    return scores.figures if scores is not None else {}
