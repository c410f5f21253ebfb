"""The tables of `docs/findings.md`, from the committed results: `python -m limbeck.experiments.theory.findings [--check]`.

Each table of the page is between `<!-- table NAME -->` and `<!-- end -->` and is written from the results, so that it always agrees with
them. --check changes nothing, and fails if the page does not agree with the results.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from limbeck.base.files import write_durably
from limbeck.experiments.theory.common import RESULTS
from limbeck.experiments.theory.results import (
    COEFFICIENTS,
    Additive,
    Axioms,
    BiasVariance,
    Equivalence,
    Interval,
    Spread,
    Stages,
    read,
)

PAGE = Path("docs/findings.md")
# Temperatures in the tables on answers that add up.
ADDITIVE_SHOWN, BOUND_SHOWN = (0.1, 1.0, 4.0, 8.0, 32.0, 200.0), (1.0, 8.0, 32.0, 200.0, 1000.0)
MARKED = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.S)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.1e}" if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e4) else f"{value:.3g}"


def _interval(interval: Interval) -> str:
    return f"{_short(interval['mean'])} [{_short(interval['low'])}, {_short(interval['high'])}]"


def _same_student(equivalence: Equivalence) -> str:
    """Pairs of operators and how far apart their students are."""
    rows = []
    for of_data in equivalence["data"]:
        middle = next(row for row in of_data["calibrated"]["students"] if row["ridge"] == of_data["tilted"]["seen"]["ridge"])
        for name, row in (
            ("bent power", of_data["bent"]["seen"]),
            ("bent power", of_data["bent"]["not_seen"]),
            ("tilted targets", of_data["tilted"]["seen"]),
            ("mixing, same mean entropy", middle),
        ):
            rows.append(
                [
                    of_data["data"],
                    name,
                    str(row["features"]),
                    row["shared"],
                    _short(row["targets_mean_l1"]),
                    _short(row["moments"]),
                    _short(row["weights_distance"]),
                    _short(row["test_probabilities_max_difference"]),
                ]
            )
    head = [
        "data",
        "power and",
        "features",
        "class",
        "mean L1 of targets",
        "moments apart",
        "weights apart",
        "test probabilities apart",
    ]
    return _table(head, rows)


def _bound(equivalence: Equivalence) -> str:
    """Power and mixing at the same mean entropy: distance and bounds."""
    rows = [
        [
            of_data["data"],
            _short(row["ridge"]),
            _short(row["weights_distance"]),
            _short(row["bound_from_moments"]),
            _short(row["bound_from_l1"]),
            f"{100 * row['test_decisions_differ']:.1f} %",
        ]
        for of_data in equivalence["data"]
        for row in of_data["calibrated"]["students"]
    ]
    return _table(
        ["data", "μ", "weights apart", "bound from moments", "bound from mean L1", "test decisions that differ"], rows
    )


def _axioms(axioms: Axioms) -> str:
    """What the checker found, and its counterexamples where it found any."""
    rows = []
    for subject in axioms["subjects"]:
        # The first is the premise that distributions stay distributions.
        premise, *findings = subject["findings"]
        cells = []
        for finding in findings:
            half = finding["note"].startswith("T to 0 not checked")
            cells.append("**found**" if not finding["holds"] else "none, upper half" if half else "none")
        low = subject["lowest_temperature"]
        trials = sum(finding["trials"] for finding in subject["findings"])
        rows.append(
            [
                subject["name"] if premise["holds"] else f"{subject['name']} (no distribution)",
                f"T ≥ {low:g}",
                *cells,
                str(trials),
            ]
        )
    return _table(["operator", "checked at", *(finding["axiom"] for finding in findings), "trials"], rows)


def _counterexamples(axioms: Axioms) -> str:
    """One for each axiom found broken."""
    rows = []
    for subject in axioms["subjects"]:
        for finding in subject["findings"]:
            if (example := finding["counterexample"]) is not None:
                rows.append([subject["name"], finding["axiom"], _short(example["temperature"]), example["what"]])
    return _table(["operator", "axiom", "T", "counterexample"], rows)


def _families(equivalence: Equivalence) -> str:
    """What a temperature, even one for each sample, cannot take away between power and mixing."""
    rows = []
    for of_data in equivalence["data"]:
        mixing = of_data["reparametrised"]
        low, high = mixing["temperature_10_to_90_percent"]
        low2, high2 = mixing["two_classes_temperature_10_to_90_percent"]
        residuals = [_short(mixing["residual_median"]), _short(mixing["two_classes_residual_max"])]
        rows.append([of_data["data"], f"{low:.2f} to {high:.2f}", residuals[0], f"{low2:.2f} to {high2:.2f}", residuals[1]])
    head = ["data", "T of mixing, K = 10", "L1 left (median)", "T of mixing, top two classes", "L1 left (largest)"]
    return _table(head, rows)


def _verdicts(bias_variance: BiasVariance) -> str:
    """How often the predicted sign was the one seen."""
    verdicts = bias_variance["verdicts"]
    rows = []
    for name, verdict in (("squared error", verdicts["squared_error"]), ("accuracy", verdicts["accuracy"])):
        tallies = (
            verdict["all"],
            verdict["constant"],
            verdict["decided"],
            verdict["decided_and_clear"],
            verdict["student_predicted_decided"],
        )
        rows.append([name, *(f"{tally['right']} of {tally['of']}" for tally in tallies)])
    head = ["winner by", "all", "best constant rule", "prediction decided", "and outcome clear", "decided for the student"]
    return _table(head, rows)


def _gains(bias_variance: BiasVariance) -> str:
    """Predicted on half 0, seen on half 1."""
    rows = []
    for point in bias_variance["points"]:
        first, second = point["halves"]
        rows.append(
            [
                point["data"],
                f"{point['temperature']:g}",
                f"{point['sparsity']:.0%}",
                _short(first["variance_gain"][0]),
                _short(first["bias_cost"][0]),
                *(
                    f"{_short(value)} [{_short(low)}, {_short(high)}]"
                    for value, low, high in (first["gain"], second["gain"])
                ),
                f"{100 * second['accuracy_gain'][0]:+.1f}",
            ]
        )
    head = [
        "condition",
        "T",
        "sparsity",
        "Var(T) − Var(S)",
        "Bias²(S) − Bias²(T)",
        "predicted gain",
        "gain seen",
        "accuracy seen, points",
    ]
    return _table(head, rows)


def _stages(stages: Stages) -> str:
    """Errors by n and the fit."""
    rows = []
    for group in stages["groups"]:
        name = group["path"] + (f", α = {group['alpha']:g}" if group["alpha"] < 1 else "")
        fitted = group["fit"]
        rows.append(
            [
                name,
                f"{group['temperature']:g}",
                f"{group['sparsity']:.0%}",
                *(_short(error["mean"]) for error in group["error"]),
                *(_interval(fitted[letter]) for letter in COEFFICIENTS),
                f"{fitted['explained']:.2f}",
                "none" if fitted["best_n"] is None else f"{fitted['best_n']:.1f}",
                _short(fitted["p_value"]),
                _short(group["jumps_slope"]["mean"]),
            ]
        )
    head = [
        "path",
        "T",
        "sparsity",
        *(f"n = {n}" for n in stages["groups"][0]["n"]),
        "A",
        "b",
        "c",
        "explained",
        "√(A/c)",
        "p of the fit",
        "slope of jumps",
    ]
    return _table(head, rows)


def _within(stages: Stages) -> str:
    """One stage at once, one stage gradually, four stages."""
    rows = []
    for group in sorted(stages["groups"], key=lambda group: float(group["sparsity"])):
        if (group["path"], group["alpha"], group["temperature"]) == ("cubic", 1.0, 2.0):
            gradual = stages["within_error"][f"{group['sparsity']:g}"]
            dense = _short(group["dense_error"]["mean"])
            rows.append(
                [f"{group['sparsity']:.0%}", dense, *map(_interval, (group["error"][0], gradual, group["error"][2]))]
            )
    return _table(["sparsity", "dense start", "one shot", "one stage, gradual", "four stages"], rows)


def _additive(additive: Additive) -> str:
    """Accuracy of the pool of answers as they are sent, by temperature."""
    rows = []
    for curve in additive["curves"]:
        shown = [point for point in curve["points"] if point["temperature"] in {*ADDITIVE_SHOWN, curve["advised"]}]
        epsilon = "none" if curve["epsilon"] is None else f"{curve['epsilon']:g}"
        cells = [_percent(point["sent"]) for point in shown if point["temperature"] != curve["advised"]]
        advised = next(point for point in shown if point["temperature"] == curve["advised"])
        rows.append(
            [curve["skew"], epsilon, _percent(curve["sum"]), *cells, f"{_percent(advised['sent'])} ({curve['advised']:g})"]
        )
    return _table(["labels", "ε", "sum of scores", *(f"T = {t:g}" for t in ADDITIVE_SHOWN), "advised (T)"], rows)


def _additive_bound(additive: Additive) -> str:
    """The error of first order in 1 / T, its bound, and decisions, with privacy."""
    rows = []
    for curve in additive["curves"]:
        if curve["epsilon"] is None:
            continue
        rows += [
            [
                curve["skew"],
                f"{point['temperature']:g}",
                _short(point["error"]),
                f"{point['error_over_bound']:.2f}",
                f"{100 * point['other_than_sum']['mean']:.1f} %",
                f"{100 * point['certain']['mean']:.0f} %",
            ]
            for point in curve["points"]
            if point["temperature"] in BOUND_SHOWN
        ]
    head = [
        "labels",
        "T",
        "largest error of an entry",
        "largest share of the bound",
        "decides otherwise",
        "bound says it cannot",
    ]
    return _table(head, rows)


def _percent(spread: Spread) -> str:
    return f"{100 * spread['mean']:.1f} ± {100 * spread['deviation']:.1f}"


T = TypeVar("T")


def _of(name: str, kind: type[T], table: Callable[[T], str]) -> Callable[[Path], str]:
    """A table from the results of this name and kind in a folder."""
    return lambda results: table(read(results / f"{name}.json", kind))


TABLES: dict[str, Callable[[Path], str]] = {
    "additive": _of("additive", Additive, _additive),
    "additive-bound": _of("additive", Additive, _additive_bound),
    "axioms": _of("axioms", Axioms, _axioms),
    "counterexamples": _of("axioms", Axioms, _counterexamples),
    "families": _of("equivalence", Equivalence, _families),
    "same-student": _of("equivalence", Equivalence, _same_student),
    "bound": _of("equivalence", Equivalence, _bound),
    "verdicts": _of("bias_variance", BiasVariance, _verdicts),
    "gains": _of("bias_variance", BiasVariance, _gains),
    "verdicts-overfitted": _of("bias_variance_overfitted", BiasVariance, _verdicts),
    "gains-overfitted": _of("bias_variance_overfitted", BiasVariance, _gains),
    "stages": _of("stages", Stages, _stages),
    "within": _of("stages", Stages, _within),
    "stages-fashion": _of("stages_fashion", Stages, _stages),
    "within-fashion": _of("stages_fashion", Stages, _within),
}


def fill(page: str, results: Path) -> str:
    """The page with every table written again.

    Raises: KeyError for a table of an unknown name, DataError for results that cannot be read.
    """
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]](results) + match[3], page)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page, RESULTS)
    if not check:
        write_durably(PAGE, filled.encode())
    elif filled != page:
        raise SystemExit(f"{PAGE} is not what {RESULTS} says: run python -m limbeck.experiments.theory.findings.")


if __name__ == "__main__":
    main()
