"""What `limbeck simulate` prints of a finished run: tables of at most 80 columns."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limbeck.base.printable import printable
from limbeck.server.scores import Scores
from limbeck.simulations.metrics import Compared, Metrics, Quality

CLIENTS_SHOWN = 20
LABEL_WIDTH = 24


def show(console: Console, run: Metrics) -> None:
    """Print what a run reached, what it cost and how long it took."""
    _compared(console, run)
    _stages(console, run)
    _clients(console, run)
    phases = ", ".join(f"{name} {value:.1f}" for name, value in run.seconds.items())
    console.print(f"Seconds: {phases}.", highlight=False)


def _compared(console: Console, run: Metrics) -> None:
    test = run.majority.test
    if test is None:
        return
    main = "balanced %" if test.unbalanced else "accuracy %"
    measures = ("accuracy %", "balanced %", "AUPRC *") if test.unbalanced else ("accuracy %",)
    table = _table(
        f"What was reached on {test.inputs} test inputs", "", *measures, "AUC", "log-loss", "ECE %", f"{main}\non public"
    )
    for row in run.comparison:
        table.add_row(_label(row), *_cells(row, run))
    console.print(table)
    if test.unbalanced:
        console.print(
            f"Classes are unbalanced: one has less than half of an equal share of the test inputs. Look at balanced accuracy, and at the"
            f" AUPRC of the rarest, here of {escape(repr(printable(test.rarest)))}: guessing reaches {test.rarest_share:.4f}.",
            highlight=False,
        )
    if test.absent:
        console.print(f"Not in the test set: {escape(printable(', '.join(test.absent)))}.", highlight=False)
    for row in run.comparison:
        if row.why:
            console.print(f"{escape(printable(row.label)).capitalize()}: {escape(printable(row.why))}.", highlight=False)


def _label(row: Compared) -> str:
    return escape(printable(row.label))


def _cells(row: Compared, run: Metrics) -> list[str]:
    unbalanced = run.main == "balanced_accuracy"
    test = row.test
    cells = [_percent(test.get("accuracy"))]
    if unbalanced:
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
    table = _table(
        f"Stages: {main} on test inputs, sparsity and bytes",
        "stage", "student %", "dense %", "pool %", "sparsity %", "sites", "kB up", "kB down",
    )  # fmt: skip
    for stage in run.stages:
        old = run.majority.test is None
        table.add_row(
            str(stage.stage + 1),
            _percent(stage.sparse_accuracy if old else _main(stage.sparse, run)),
            _percent(stage.dense_accuracy if old else _main(stage.dense, run)),
            _percent(_main(stage.pool, run)),
            f"{100 * stage.sparsity:.1f}",
            str(stage.clients),
            f"{stage.bytes_up / 1000:.1f}",
            f"{stage.bytes_down / 1000:.1f}",
        )
    console.print(table)


def _main(quality: Quality | None, run: Metrics) -> float | None:
    """The main measure on the test set."""
    test: Scores | None = None if quality is None else quality.test
    return None if test is None else test.figures[run.main]


def _clients(console: Console, run: Metrics) -> None:
    table = _table("Sites", "site", "records", "alone %", "epsilon", "budget", "kB up", "kB down", "status")
    shown = [client for index, client in enumerate(run.clients) if index < CLIENTS_SHOWN or client.reason]
    for client in shown:
        alone = _main(client.teacher, run) if client.teacher.test is not None else client.teacher_accuracy
        table.add_row(
            escape(printable(client.site)),
            str(client.records),
            _percent(alone),
            f"{client.epsilon:.3f}" if client.epsilon is not None else "no DP guarantee",
            f"{client.budget_epsilon:g}",
            f"{client.bytes_up / 1000:.1f}",
            f"{client.bytes_down / 1000:.1f}",
            escape(printable(client.reason or client.status)),
        )
    console.print(table)
    if len(shown) < len(run.clients):
        console.print(f"{len(run.clients) - len(shown)} more sites, none of them left out: see the report.", highlight=False)
    first = run.clients[0]
    seeded = "; noise is SEEDED, no guarantee holds" if run.noise == "UnsafeSeeded" else ""
    console.print(
        f"epsilon at delta = {first.delta:g}, unit: {first.unit}, adjacency: {first.adjacency}, by PLD{seeded}.",
        highlight=False,
    )
    if run.sites_without_guarantee:
        console.print(
            f"[bold red]No DP guarantee[/bold red] for the records of {escape(', '.join(run.sites_without_guarantee))}: answers of a"
            " black-box teacher left there.",
            highlight=False,
            soft_wrap=True,
        )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(title: str, *columns: str) -> Table:
    """A table that fits 80 columns. Its first column is cut where it does not."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        left = index == 0 or column == "status"
        table.add_column(
            column, justify="left" if left else "right", no_wrap=index == 0, overflow="ellipsis" if index == 0 else "fold"
        )
    return table
