"""What `limbeck status --test` prints of labelled inputs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from limbeck.base.listing import listing
from limbeck.base.printable import printable
from limbeck.deployment.tested import Tested
from limbeck.server.scores import Scores

CLASSES_SHOWN = 20


def show_tested(console: Console, tested: Tested, stages: Sequence[tuple[str, Scores | None]]) -> None:
    """Print the measures of every stage's student by its name, and those of the last one by class, the rarest first."""
    most = tested.majority
    named = [("majority class", most), *((name, found) for name, found in stages if found is not None)]
    headers = [f"on {most.inputs} inputs", "accuracy %", "balanced %", "F1 %", "AUC", "AUPRC", "log-loss", "ECE %"]
    rows = [
        [
            name,
            *map(_percent, (found.accuracy, found.balanced_accuracy, found.f1)),
            *map(_number, (found.auc, found.auprc, found.log_loss)),
            _percent(found.calibration_error),
        ]
        for name, found in named
    ]
    listing(console, headers, rows, right=headers[1:])
    _, last = named[-1]
    if last is not most:
        rarest = sorted(last.classes, key=lambda own: own.inputs)[:CLASSES_SHOWN]
        headers = ["class, last stage", "inputs", "predicted", "precision %", "recall %", "F1 %", "AUC", "AUPRC"]
        by_class = [
            [
                own.name,
                str(own.inputs),
                str(own.predicted),
                *map(_percent, (own.precision, own.recall, own.f1)),
                *map(_number, (own.auc, own.auprc)),
            ]
            for own in rarest
        ]
        console.print()
        listing(console, headers, by_class, wrap=headers[0], right=headers[1:])
        if len(rarest) < len(last.classes):
            _say(console, f"These are the {len(rarest)} rarest of {len(last.classes)} classes; --json has all.")
    if most.unbalanced:
        _say(console, "Classes are unbalanced: see balanced accuracy, and the AUPRC of the rarest.")
    if most.absent:
        _say(console, f"Without labelled inputs: {printable(', '.join(most.absent))}.")
    if tested.note:
        _say(console, tested.note)


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
