"""A rare class of real patients: accuracy says nothing, and every table shows what does. And the table at 80 columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from limbeck.server.scores import majority, score
from limbeck.simulations import run, scenario, summary
from limbeck.simulations.metrics import Metrics

KEPT = 24


def patients() -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """All benign tumours of the Wisconsin breast cancer data, and a few malignant ones; 1 is malignant."""
    bundled = load_breast_cancer()
    malignant = np.flatnonzero(bundled.target == 0)[:KEPT]
    rows = np.random.default_rng(0).permutation(np.concatenate([np.flatnonzero(bundled.target == 1), malignant]))
    return bundled.data[rows], (bundled.target[rows] == 0).astype(np.int64), [str(name) for name in bundled.feature_names]


def printed(measured: Metrics) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    summary.show(console, measured)
    return console.export_text()


def test_accuracy_hides_a_rare_class_and_the_other_measures_do_not() -> None:
    x_ND, y_N, _ = patients()
    known = majority(y_N, 2, ["benign", "malignant"])
    assert known.accuracy > 0.93
    assert (known.unbalanced, known.main, known.rarest) == (True, "balanced_accuracy", "malignant")
    assert known.balanced_accuracy == 0.5
    assert known.rarest_auprc == pytest.approx(KEPT / len(y_N))
    # Two columns alone tell some of them: 96 % right, where 94 % say nothing.
    half, x_ND = len(y_N) // 2, x_ND[:, [28, 29]]
    scaler = StandardScaler().fit(x_ND[:half])
    fitted = LogisticRegression().fit(scaler.transform(x_ND[:half]), y_N[:half])
    found = score(fitted.predict_proba(scaler.transform(x_ND[half:])), y_N[half:], ["benign", "malignant"])
    assert known.accuracy < found.accuracy < known.accuracy + 0.03
    assert found.balanced_accuracy == pytest.approx(0.72, abs=0.03)
    assert found.rarest_auprc == pytest.approx(0.62, abs=0.05)
    # The mean over both classes hides the rare one, and the AUC its false alarms.
    assert found.auprc == pytest.approx(0.80, abs=0.05)
    assert found.auc == pytest.approx(0.85, abs=0.05)


def test_a_run_on_a_rare_class_shows_balanced_accuracy_and_the_rare_classs_auprc(tmp_path: Path) -> None:
    x_ND, y_N, names = patients()
    with (tmp_path / "tumours.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*names, "finding"])
        rows.writerows([*x, ("benign", "malignant")[y]] for x, y in zip(x_ND.tolist(), y_N.tolist(), strict=True))
    own = scenario.parse(
        {
            "name": "tumours",
            "data": {
                "table": str(tmp_path / "tumours.csv"),
                "label": "finding",
                "classes": ["benign", "malignant"],
                "public": 0.25,
                "test": 0.3,
            },
            "partition": {"clients": 2},
            "teacher": {"features": "rows", "steps": 30, "normaliser": 80.0, "average_last": 10},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
            "release": {"k": 2},
            "stages": {"count": 1},
            "student": {"architecture": "mlp", "epochs": 5, "augment": False},
        }
    )
    measured = run.simulate(own, tmp_path / "run")
    test = measured.majority.test
    assert test is not None
    assert (test.unbalanced, test.rarest, measured.main) == (True, "malignant", "balanced_accuracy")
    assert measured.best_site is not None
    assert measured.worst_site is not None
    assert measured.best_site.teacher.test is not None
    assert measured.worst_site.teacher.test is not None
    assert measured.best_site.teacher.test.balanced_accuracy >= measured.worst_site.teacher.test.balanced_accuracy
    assert measured.central is not None
    assert measured.central.test is not None
    assert measured.central.test.rarest_auprc is not None
    text = printed(measured)
    tables = [line for line in text.splitlines() if not line.startswith(("Classes", "Seconds", "public"))]
    assert max(map(len, tables)) <= 80
    header = next(line for line in text.splitlines() if "test inputs" in line)
    assert header.split("  ")[0] == f"on {test.inputs} test inputs"
    assert "balanced %" in header
    assert "AUPRC *" in header
    row = next(line for line in text.splitlines() if line.startswith("central DP")).split()
    assert row[2:5] == [
        f"{100 * measured.central.test.accuracy:.1f}",
        f"{100 * measured.central.test.balanced_accuracy:.1f}",
        f"{measured.central.test.rarest_auprc:.3f}",
    ]
    assert "AUPRC of the rarest class, 'malignant'" in text
    assert "balanced accuracy on the test inputs" in text
