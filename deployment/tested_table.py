"""Tables of what `limbeck status --test` has measured, at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.base.printable import printable
from limbeck.deployment.tested import Tested
from limbeck.server.scores import Scores

CLASSES_SHOWN = 20


def show_tested(console: Console, tested: Tested, stages: Sequence[tuple[str, Scores | None]]) -> None:
    """Print the measures of every stage's student by its name, and those of the last one by class, the rarest first."""
    most = tested.majority
    table = _table(
        f"On {most.inputs} labelled inputs", "", "accuracy %", "balanced %", "F1 %", "AUC", "AUPRC", "log-loss", "ECE %"
    )
    for name, found in [("majority class", most), *stages]:
        if found is not None:
            table.add_row(
                name,
                *map(_percent, (found.accuracy, found.balanced_accuracy, found.f1)),
                *map(_number, (found.auc, found.auprc, found.log_loss)),
                _percent(found.calibration_error),
            )
    console.print(table)
    last = next((found for _, found in reversed(stages) if found is not None), None)
    if last is not None:
        rarest = sorted(last.classes, key=lambda own: own.inputs)[:CLASSES_SHOWN]
        table = _table(
            "By class, after the last stage",
            "class",
            "inputs",
            "predicted",
            "precision %",
            "recall %",
            "F1 %",
            "AUC",
            "AUPRC",
        )
        for own in rarest:
            table.add_row(
                Text(printable(own.name)),
                str(own.inputs),
                str(own.predicted),
                *map(_percent, (own.precision, own.recall, own.f1)),
                *map(_number, (own.auc, own.auprc)),
            )
        console.print(table)
        if len(rarest) < len(last.classes):
            console.print(
                f"These are the {len(rarest)} rarest of {len(last.classes)} classes; --json has all.", highlight=False
            )
    if most.unbalanced:
        console.print(
            "Classes are unbalanced: look at balanced accuracy first, and at the AUPRC of the rarest.", highlight=False
        )
    if most.absent:
        console.print(Text(f"Without labelled inputs: {printable(', '.join(most.absent))}."), soft_wrap=True)
    if tested.note:
        console.print(Text(tested.note, style="yellow"), soft_wrap=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="right" if index else "left", no_wrap=not index, overflow="fold" if index else "ellipsis"
        )
    return table
