"""RUN/student/: the student that a finished simulation hands over, calibrated on labels of the public inputs, with a card of figures.

The coordinator of real sites has no labels, so what it exports, here in RUN/server/student/, is not calibrated. A simulation knows
labels that training never used. It fits the temperature to all of them; docs/students.md has the measurement that says why none are held
out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans.schema import Plan
from limbeck.server import calibration, delivery, distil
from limbeck.server.card import Calibration, Card, Measure
from limbeck.server.scores import Scores
from limbeck.simulations import measure
from limbeck.simulations.data import KNOWN
from limbeck.simulations.data.settings import SOURCES
from limbeck.simulations.metrics import Metrics
from limbeck.simulations.scenario import Scenario

FOLDER = "student"
# What the card says of each of `limbeck.server.scores.FIGURES`.
NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1, mean of classes",
    "auc": "AUC, mean of classes",
    "auprc": "AUPRC, mean of classes",
    "rarest_auprc": "AUPRC of the rarest class",
    "log_loss": "log-loss (nats)",
    "calibration_error": "expected calibration error",
}


def hand_over(folder: Path, scenario: Scenario, plan: Plan) -> Card:
    """Write RUN/student/ from what the coordinator exported, calibrated; returns its card.

    Where the same student was handed over before, what somebody stated of it since, or calibrated it by, stays.
    """
    exported = folder / "server" / "student"
    card = delivery.read_card(exported)
    known = KNOWN.get(scenario.data.name or "")
    files = [Path(value).name for source in SOURCES if isinstance(value := getattr(scenario.data, source), str)]
    card = replace(
        card,
        simulated=True,
        calibration=_calibrate(folder, plan),
        purpose=scenario.description or None,
        data=f"Records and public inputs: {known.source if known is not None else ', '.join(files)}.",
        licence=f"data: {known.licence}" if known is not None else None,
    )
    card = delivery.with_what_was_stated(folder / FOLDER, (exported / delivery.WEIGHTS).read_bytes(), card)
    delivery.deliver(exported, folder / FOLDER, card)
    return card


def note_figures(folder: Path, metrics: Metrics) -> None:
    """Add to the card what was measured and what every site has spent."""
    card = delivery.read_card(folder / FOLDER)
    spent = {client.site: client for client in metrics.clients}
    sites = tuple(
        replace(site, epsilon=spent[site.name].epsilon, delta=spent[site.name].delta) if site.name in spent else site
        for site in card.sites
    )
    claimed = replace(card.claimed, seeded=metrics.noise == "UnsafeSeeded")
    # Of what whoever uses the student gets.
    quality = metrics.student.calibrated or metrics.student.quality
    measured = _measures(quality.test) or _accuracy(metrics)
    delivery.amend(folder / FOLDER, replace(card, sites=sites, claimed=claimed, measured=measured))


def _calibrate(folder: Path, plan: Plan) -> Calibration | None:
    (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    (y_N,) = read_arrays(folder / "truth.npz", "public_y")
    labels_N = y_N.astype(np.int64)
    known_N = (labels_N >= 0) & (labels_N < plan.classes)
    if int(known_N.sum()) < calibration.LEAST:
        return None
    model, _ = measure.load_student(folder)
    p_NK = distil.predict(model, torch.from_numpy(x_N[known_N])).numpy()
    what = "the run's own public inputs, whose labels no site and no training has seen"
    return calibration.fit(p_NK, labels_N[known_N], held_out=False, what=what)


def _measures(scores: Scores | None) -> tuple[Measure, ...]:
    if scores is None:
        return ()
    errors = {"accuracy": math.sqrt(scores.accuracy * (1 - scores.accuracy) / scores.inputs)}
    named = [
        Measure(name=NAMES.get(name, name), value=value, on="test set", inputs=scores.inputs, error=errors.get(name))
        for name, value in scores.figures.items()
        if value is not None
    ]
    guess = Measure(
        name=f"accuracy of always guessing {scores.majority!r}",
        value=scores.majority_share,
        on="test set",
        inputs=scores.inputs,
    )
    return (*named, guess)


def _accuracy(metrics: Metrics) -> tuple[Measure, ...]:
    """Where no more than the accuracy was measured."""
    accuracy, inputs = metrics.student.accuracy, sum(map(sum, metrics.student.confusion))
    error = math.sqrt(accuracy * (1 - accuracy) / inputs) if inputs else None
    return (Measure(name="accuracy", value=accuracy, on="test set", inputs=inputs, error=error),)
