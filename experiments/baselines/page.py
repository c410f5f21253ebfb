"""The page of a benchmark, self-contained like a run's report, and its figures and choices as JSON beside it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from limbeck.base.files import write_durably
from limbeck.experiments.baselines import choice, figures, limbeck_runs, plots
from limbeck.experiments.baselines.contract import Guarantee
from limbeck.experiments.baselines.figures import Summary
from limbeck.experiments.baselines.run import Reported
from limbeck.simulations import report
from limbeck.simulations.sweep.rows import with_spread

HERE = Path(__file__).parent
PAGE, FIGURES, CHOICES = "benchmark.html", "figures.json", "choices.json"


def write(reported: Reported, folder: Path) -> Path:
    """Write FOLDER/benchmark.html, figures.json and choices.json; returns the page's path."""
    write_durably(folder / FIGURES, figures.encode(reported))
    write_durably(folder / CHOICES, choice.encode(reported.choices))
    path = folder / PAGE
    write_durably(path, _render(reported).encode())
    return path


def _render(reported: Reported) -> str:
    suite, found = reported.suite, figures.summaries(reported)
    by_cell = {cell: [each for each in found if each.cell == cell] for cell in suite.cells}
    known = {cell: each for cell, each in by_cell.items() if each}
    behind = figures.behind(reported)
    return (
        report.environment(HERE)
        .get_template("benchmark.html.j2")
        .render(
            suite=suite,
            css=report.style(),
            limbeck=version("limbeck"),
            python=platform.python_version(),
            seeds=", ".join(map(str, suite.seeds)),
            choice_seeds=", ".join(map(str, suite.choice_seeds)),
            compared=any(each.method.name == limbeck_runs.STUDENT for each in found),
            overview=[
                [each.title, *(figures.accuracy(reported, cell, each) for cell in suite.cells)] for each in suite.methods
            ],
            cells=[cell.name for cell in suite.cells],
            settings=[[cell.name, f"{cell.scenario}: {', '.join(cell.settings) or 'as it is'}"] for cell in suite.cells],
            side_by_side=[plots.side_by_side(cell, each) for cell, each in known.items()],
            curves=list(plots.curves(suite.axis, list(known), found)),
            against_bytes=[drawn for cell, each in known.items() if (drawn := plots.against_bytes(cell, each)) is not None],
            behind=[
                [each.cell.name, each.method.title, f"{with_spread(each.by, 'accuracy')} (n = {each.by.n})", each.needs]
                for each in behind
            ],
            tables=[(cell.name, [_row(one) for one in each], [_how(one) for one in each]) for cell, each in known.items()],
            commands=[(f"{each.method.title}, {each.cell.name}", each.command) for each in found],
            sources=[[each.title, each.source] for each in suite.methods],
            failures=reported.failures,
        )
    )


def _row(each: Summary) -> list[str]:
    several = f" (best {with_spread(each.best, 'accuracy')})" if each.first.models > 1 else ""
    return [
        each.method.title,
        str(each.accuracy.n),
        with_spread(each.accuracy, "accuracy") + several,
        _kilobytes(each.bytes_up),
        _kilobytes(each.bytes_down),
        f"{each.seconds:,.1f}",
        epsilon(each.guarantee),
    ]


def _how(each: Summary) -> list[str]:
    chosen = ", ".join(f"{key} {value}" for key, value in each.first.settings.items())
    return [each.method.title, chosen or "–", each.guarantee.composed, each.first.notes or "–"]


def epsilon(guarantee: Guarantee) -> str:
    """Such as "2.99 at δ = 1e-05, record, add-remove-one"."""
    if guarantee.epsilon is None:
        return "none"
    return f"{guarantee.epsilon:.2f} at δ = {guarantee.delta:g}, {guarantee.unit}, {guarantee.adjacency}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f}"
