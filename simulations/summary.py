"""What `limbeck simulate` prints of a finished run: tables of at most 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from limbeck.base.listing import Cell, listing
from limbeck.base.printable import LOG_LIMIT, printable, printable_lines
from limbeck.server.scores import Scores
from limbeck.simulations.metrics import Compared, Metrics, Quality

CLIENTS_SHOWN = 20


def show(console: Console, run: Metrics) -> None:
    """Print what a run reached, what it cost and how long it took."""
    _compared(console, run)
    _stages(console, run)
    _sites(console, run)
    phases = ", ".join(f"{name} {value:.1f}" for name, value in run.seconds.items())
    _say(console, f"Seconds: {phases}.")


def _compared(console: Console, run: Metrics) -> None:
    test = run.majority.test
    if test is None:  # measured by limbeck 0.1.0
        return
    measures = ["accuracy %", "balanced %", "AUPRC *"] if test.unbalanced else ["accuracy %"]
    headers = [f"on {test.inputs} test inputs", *measures, "AUC", "log-loss", "ECE %", "public %"]
    listing(console, headers, [[row.label, *_cells(row, run)] for row in run.comparison], wrap=headers[0], right=headers[1:])
    public = run.majority.public
    if public is not None:
        main = "balanced accuracy" if test.unbalanced else "accuracy"
        labelled = "" if public.inputs == run.plan.samples else f" that have labels, out of {run.plan.samples}"
        _say(console, f"public %: {main} on the {public.inputs} public inputs{labelled}.")
    else:
        _say(console, "public %: not known, because the public inputs have no labels.")
    if test.unbalanced:
        _say(
            console,
            "Classes are unbalanced: one has less than half of an equal share of the test inputs, so look at balanced accuracy first."
            f" *: AUPRC of the rarest class, {test.rarest!r}, whose share, and so the AUPRC of guessing, is {test.rarest_share:.4f}.",
        )
    if test.absent:
        _say(console, f"Not in the test set: {', '.join(test.absent)}.")
    for row in run.comparison:
        if row.why:
            _say(console, f"{row.label[:1].upper()}{row.label[1:]}: {row.why}.")
    console.print()


def _cells(row: Compared, run: Metrics) -> list[str]:
    test = row.test
    cells = [_percent(test.get("accuracy"))]
    if run.main == "balanced_accuracy":
        cells += [_percent(test.get("balanced_accuracy")), _number(test.get("rarest_auprc"), 3)]
    return [
        *cells,
        _number(test.get("auc"), 3),
        _number(test.get("log_loss"), 2),
        _percent(test.get("calibration_error")),
        _percent(row.public.get(run.main)),
    ]


def _stages(console: Console, run: Metrics) -> None:
    main = "balanced accuracy" if run.main == "balanced_accuracy" else "accuracy"
    old = run.majority.test is None
    headers = ["stage", "student %", "dense %", "pool %", "sparsity %", "sites", "kB up", "kB down"]
    rows = [
        [
            str(stage.stage + 1),
            _percent(stage.sparse_accuracy if old else _main(stage.sparse, run)),
            _percent(stage.dense_accuracy if old else _main(stage.dense, run)),
            _percent(_main(stage.pool, run)),
            f"{100 * stage.sparsity:.1f}",
            str(stage.clients),
            f"{stage.bytes_up / 1000:.1f}",
            f"{stage.bytes_down / 1000:.1f}",
        ]
        for stage in run.stages
    ]
    listing(console, headers, rows, right=headers)
    _say(console, f"Student, dense control and pool: {main} on the test inputs.")
    console.print()


def _main(quality: Quality | None, run: Metrics) -> float | None:
    """The main measure on the test set."""
    test: Scores | None = None if quality is None else quality.test
    return None if test is None else test.figures[run.main]


def _sites(console: Console, run: Metrics) -> None:
    shown = [client for index, client in enumerate(run.clients) if index < CLIENTS_SHOWN or client.reason]
    headers = ["site", "records", "alone %", "epsilon", "budget", "kB up", "kB down", "status"]
    rows: list[list[Cell]] = [
        [
            client.site,
            str(client.records),
            _percent(_main(client.teacher, run) if client.teacher.test is not None else client.teacher_accuracy),
            f"{client.epsilon:.3f}" if client.epsilon is not None else "no DP guarantee",
            f"{client.budget_epsilon:g}",
            f"{client.bytes_up / 1000:.1f}",
            f"{client.bytes_down / 1000:.1f}",
            client.reason or client.status,
        ]
        for client in shown
    ]
    listing(console, headers, rows, wrap="status", below=["status"], right=headers[1:-1])
    if len(shown) < len(run.clients):
        _say(console, f"{len(run.clients) - len(shown)} more sites, none of them left out: see the report.")
    first = run.clients[0]
    seeded = "; noise is SEEDED, no guarantee holds" if run.noise == "UnsafeSeeded" else ""
    _say(console, f"epsilon at delta = {first.delta:g}, unit: {first.unit}, adjacency: {first.adjacency}, by PLD{seeded}.")
    opinions = {client.second_opinion.sentence for client in run.clients if client.second_opinion and client.epsilon}
    if opinions:
        _say(console, f"{opinions.pop()}." if len(opinions) == 1 else "By PRV (Opacus), site by site: see the report.")
    for doubt in {client.second_opinion.disagreement: None for client in run.clients if client.second_opinion}:
        if doubt:
            console.print(Text(doubt, "bold red"), soft_wrap=True)
    if run.sites_without_guarantee:
        without = printable(", ".join(run.sites_without_guarantee), LOG_LIMIT)
        said = f" for the records of {without}: answers of a black-box teacher left there."
        console.print(Text.assemble(("No DP guarantee", "bold red"), said), soft_wrap=True)


def _say(console: Console, text: str) -> None:
    console.print(Text(printable_lines(text)), soft_wrap=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
