"""The page of a sweep or a comparison, self-contained like a run's report, and the tables of values beside it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.simulations import report
from limbeck.simulations.sweep import baseline, plots, rows
from limbeck.simulations.sweep import run as sweeps
from limbeck.simulations.sweep.rows import Group, Row, Study

HERE = Path(__file__).parent
RUNS, STAGES, SUMMARY = "runs.csv", "stages.csv", "summary.csv"
TABLES = {
    RUNS: "one row per run",
    STAGES: "one row per stage of each run",
    SUMMARY: "mean and standard deviation of every figure",
}
# Of a table with a column per group; of more groups, a row is a group.
MOST_COLUMNS = 6


def of_sweep(outcome: sweeps.Outcome, keys: Sequence[str]) -> Study:
    """The finished runs of a sweep over these settings."""
    ordered = sorted(outcome.finished, key=lambda each: _place(outcome, each))
    return rows.study([rows.row(each.planned.name, each.folder, each.measured) for each in ordered], keys)


def _place(outcome: sweeps.Outcome, finished: sweeps.Finished) -> int:
    """Of its cell in the grid: runs come seed by seed."""
    cells = list(dict.fromkeys(each.planned.cell for each in outcome.finished))
    return cells.index(finished.planned.cell)


def of_folders(folders: Sequence[Path]) -> Study:
    """Finished runs, and all finished runs of sweeps. Raises: RunError if one is neither."""
    found: list[Row] = []
    for folder in folders:
        for each in sweeps.read(folder) if sweeps.is_sweep(folder) else (folder,):
            found.append(rows.row(str(each), each, sweeps.measured(each)))
    return rows.study(found)


def write(
    study: Study,
    folder: Path,
    *,
    name: str,
    title: str,
    failures: Sequence[sweeps.Failure] = (),
    measure: str | None = None,
) -> Path:
    """Write FOLDER/NAME.html and the tables; returns the page's path.

    - title: the page's.
    - failures: runs that are missing.
    - measure: which is shown; by default the study's own.

    Raises: RunError if no run knows the measure.
    """
    chosen = measure or study.main
    if all(rows.figure(row, "student", chosen) is None for row in study.rows):
        raise RunError(f"Expected runs that measured {chosen}, got none; runs of limbeck 0.1.0 know accuracy alone.")
    write_durably(folder / RUNS, rows.runs_csv(study, folder).encode())
    write_durably(folder / STAGES, rows.stages_csv(study).encode())
    write_durably(folder / SUMMARY, rows.summary_csv(study).encode())
    path = folder / f"{name}.html"
    write_durably(path, _render(study, folder, title, failures, chosen).encode())
    return path


def _render(study: Study, folder: Path, title: str, failures: Sequence[sweeps.Failure], measure: str) -> str:
    measures = [measure] if measure == "accuracy" else [measure, "accuracy"]
    numbers = [len(group.rows) for group in study.groups]
    sweeping = [figure for each in measures for figure in plots.curves(study, each)]
    by_stage = [
        figure for draw in (plots.against_sparsity, plots.against_bytes) if (figure := draw(study, measure)) is not None
    ]
    columns, table = _settings(study)
    return (
        report.environment(HERE)
        .get_template("sweep.html.j2")
        .render(
            title=title,
            study=study,
            css=report.style(),
            limbeck=version("limbeck"),
            python=platform.python_version(),
            descriptions=sorted({row.scenario.description for row in study.rows if row.scenario.description}),
            runs_each=f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}",
            privacy=_privacy(study),
            seeded=any(row.facts.get("noise") == "UnsafeSeeded" for row in study.rows),
            unguarded=[row.name for row in study.rows if row.facts.get("sites_without_guarantee")],
            left_out=[
                f"{row.name} ({row.facts['sites_left_out']})" for row in study.rows if row.facts.get("sites_left_out")
            ],
            failures=failures,
            measure=rows.TITLES[measure],
            unbalanced=study.main != "accuracy",
            overview=plots.overview(study, measure),
            curves=sweeping,
            by_stage=by_stage,
            summary=_summary(study, measure),
            costs=_costs(study),
            settings_columns=columns,
            settings=table,
            runs=_runs(study, folder, measure),
            files=[report.link(folder / file, folder, what) for file, what in TABLES.items()],
            versions=sorted({str(row.facts["limbeck"]) for row in study.rows}),
        )
    )


def _privacy(study: Study) -> str:
    """What every epsilon on the page holds for, if it is the same for all runs."""
    private = [row for row in study.rows if not row.without_privacy]
    said = {
        f"ε at δ = {rows.shown(row.facts['delta'])}, unit: {row.facts['unit_of_privacy']}, neighbouring relation: {row.facts['adjacency']}"
        for row in private
    }
    if len(said) > 1:
        return f"ε holds at the δ, unit and neighbouring relation of each run, which differ: see {RUNS}."
    return f"{next(iter(said))}." if said else ""


def _summary(study: Study, measure: str) -> list[list[str]]:
    return [
        [group.label, str(len(group.rows)), *(rows.with_spread(spreads[role], measure) for role in rows.SUMMARISED)]
        for group, spreads in rows.summary(study, measure)
    ]


def _costs(study: Study) -> list[list[str]]:
    return [
        [
            group.label,
            _mean(group, "epsilon_spent_by_any_site_at_most", 1, 3) if not group.without_privacy else "no guarantee",
            *(_mean(group, *column) for column in _COSTS),
        ]
        for group in study.groups
    ]


# A column of runs.csv, by what it is divided, and how many digits are shown.
_COSTS = (
    ("sites", 1, 0),
    ("records", 1, 0),
    ("sent_per_site_bytes", 1000, 1),
    ("sparsity_percent", 1, 1),
    ("student_nonzero_parameters", 1, 0),
    ("total_seconds", 1, 1),
)


def _mean(group: Group, column: str, unit: int, digits: int) -> str:
    values = [row.facts.get(column) for row in group.rows]
    over = rows.spread(float(value) for value in values if isinstance(value, int | float))
    return "–" if over is None else f"{over.mean / unit:,.{digits}f}"


def _settings(study: Study) -> tuple[list[str], list[list[str]]]:
    """The table of what differs: a row per setting while groups fit side by side, else a row per group."""
    by_setting = plots.by_settings(study)
    labels = [group.label for group in study.groups]
    if len(labels) <= MOST_COLUMNS:
        return ["setting", *labels], [[key, *values] for key, values in by_setting.items()]
    return ["", *by_setting], [
        [label, *(values[index] for values in by_setting.values())] for index, label in enumerate(labels)
    ]


def _runs(study: Study, folder: Path, measure: str) -> list[tuple[str, report.Link | None, list[str]]]:
    """Every run: its name, a link to its report or its values, and its figures."""
    table = []
    for row in study.rows:
        linked = next((row.folder / name for name in ("report.html", baseline.FILE) if (row.folder / name).exists()), None)
        link = None if linked is None else report.link(linked, folder, "report" if linked.suffix == ".html" else "values")
        shown = [
            rows.with_spread(rows.spread([rows.figure(row, role, measure)]), measure)
            for role in ("student", "pool", "best site")
        ]
        seconds = row.facts.get("total_seconds")
        table.append(
            (row.name, link, [str(row.seed), *shown, f"{seconds:.0f}" if isinstance(seconds, int | float) else "–"])
        )
    return table
