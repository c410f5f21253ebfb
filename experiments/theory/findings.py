"""The tables of `docs/findings.md`, from the committed results: `python -m limbeck.experiments.theory.findings [--check]`.

Each table of the page stands between `<!-- table NAME -->` and `<!-- end -->` and is written from the results, so that it cannot drift away
from them. --check changes nothing and fails where the page is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from limbeck.base.files import write_durably
from limbeck.experiments.theory.common import RESULTS

PAGE = Path("docs/findings.md")
MARKED = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.S)

Found = dict[str, Any]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.1e}" if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e4) else f"{value:.3g}"


def _interval(found: Found) -> str:
    return f"{_short(found['mean'])} [{_short(found['low'])}, {_short(found['high'])}]"


def _same_student(equivalence: Found) -> str:
    """Pairs of operators and how far apart their students are."""
    rows = []
    for own in equivalence["data"]:
        middle = next(row for row in own["calibrated"]["students"] if row["ridge"] == own["tilted"]["seen"]["ridge"])
        for name, row in (
            ("bent power", own["bent"]["seen"]),
            ("bent power", own["bent"]["not_seen"]),
            ("tilted targets", own["tilted"]["seen"]),
            ("mixing, same mean entropy", middle),
        ):
            keys = ("targets_mean_l1", "moments", "weights_distance", "test_probabilities_max_difference")
            rows.append([own["data"], name, str(row["features"]), row["shared"], *(_short(row[key]) for key in keys)])
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


def _bound(equivalence: Found) -> str:
    """Power and mixing at the same mean entropy: distance and bounds."""
    rows = [
        [
            own["data"],
            _short(row["ridge"]),
            _short(row["weights_distance"]),
            _short(row["bound_from_moments"]),
            _short(row["bound_from_l1"]),
            f"{100 * row['test_decisions_differ']:.1f} %",
        ]
        for own in equivalence["data"]
        for row in own["calibrated"]["students"]
    ]
    return _table(
        ["data", "μ", "weights apart", "bound from moments", "bound from mean L1", "test decisions that differ"], rows
    )


def _axioms(axioms: Found) -> str:
    """What the checker found, and its counterexamples where it found any."""
    rows = []
    for own in axioms["subjects"]:
        # The first is the premise that distributions stay distributions.
        premise, *findings = own["findings"]
        cells = []
        for found in findings:
            half = found["note"].startswith("T to 0 not checked")
            cells.append("**found**" if not found["holds"] else "none, upper half" if half else "none")
        low = own["lowest_temperature"]
        trials = sum(found["trials"] for found in own["findings"])
        rows.append(
            [own["name"] if premise["holds"] else f"{own['name']} (no distribution)", f"T ≥ {low:g}", *cells, str(trials)]
        )
    return _table(["operator", "checked at", *(found["axiom"] for found in findings), "trials"], rows)


def _counterexamples(axioms: Found) -> str:
    """One for each axiom found broken."""
    rows = []
    for own in axioms["subjects"]:
        for found in own["findings"]:
            if (example := found["counterexample"]) is not None:
                rows.append([own["name"], found["axiom"], _short(example["temperature"]), example["what"]])
    return _table(["operator", "axiom", "T", "counterexample"], rows)


def _families(equivalence: Found) -> str:
    """What a temperature, even one for each sample, cannot take away between power and mixing."""
    rows = []
    for own in equivalence["data"]:
        found = own["reparametrised"]
        low, high = found["temperature_10_to_90_percent"]
        low2, high2 = found["two_classes_temperature_10_to_90_percent"]
        residuals = [_short(found["residual_median"]), _short(found["two_classes_residual_max"])]
        rows.append([own["data"], f"{low:.2f} to {high:.2f}", residuals[0], f"{low2:.2f} to {high2:.2f}", residuals[1]])
    head = ["data", "T of mixing, K = 10", "L1 left (median)", "T of mixing, top two classes", "L1 left (largest)"]
    return _table(head, rows)


def _verdicts(bias_variance: Found) -> str:
    """How often the predicted sign was the one seen."""
    rows = []
    for kind, name in (("squared_error", "squared error"), ("accuracy", "accuracy")):
        own = bias_variance["verdicts"][kind]
        cells = [
            f"{own[key]['right']} of {own[key]['of']}"
            for key in ("all", "constant", "decided", "decided_and_clear", "student_predicted_decided")
        ]
        rows.append([name, *cells])
    head = ["winner by", "all", "best constant rule", "prediction decided", "and outcome clear", "decided for the student"]
    return _table(head, rows)


def _gains(bias_variance: Found) -> str:
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


def _stages(stages: Found) -> str:
    """Errors by n and the fit."""
    rows = []
    for own in stages["groups"]:
        name = own["path"] + (f", α = {own['alpha']:g}" if own["alpha"] < 1 else "")
        fitted = own["fit"]
        rows.append(
            [
                name,
                f"{own['temperature']:g}",
                f"{own['sparsity']:.0%}",
                *(_short(error["mean"]) for error in own["error"]),
                *(_interval(fitted[letter]) for letter in "Abc"),
                f"{fitted['explained']:.2f}",
                "none" if fitted["best_n"] is None else f"{fitted['best_n']:.1f}",
                _short(fitted["p_value"]),
                _short(own["jumps_slope"]["mean"]),
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


def _within(stages: Found) -> str:
    """One stage at once, one stage gradually, four stages."""
    rows = []
    for own in sorted(stages["groups"], key=lambda group: float(group["sparsity"])):
        if (own["path"], own["alpha"], own["temperature"]) == ("cubic", 1.0, 2.0):
            gradual = stages["within_error"][f"{own['sparsity']:g}"]
            dense = _short(own["dense_error"]["mean"])
            rows.append([f"{own['sparsity']:.0%}", dense, *map(_interval, (own["error"][0], gradual, own["error"][2]))])
    return _table(["sparsity", "dense start", "one shot", "one stage, gradual", "four stages"], rows)


TABLES: dict[str, tuple[str, Callable[[Found], str]]] = {
    "axioms": ("axioms", _axioms),
    "counterexamples": ("axioms", _counterexamples),
    "families": ("equivalence", _families),
    "same-student": ("equivalence", _same_student),
    "bound": ("equivalence", _bound),
    "verdicts": ("bias_variance", _verdicts),
    "gains": ("bias_variance", _gains),
    "verdicts-overfitted": ("bias_variance_overfitted", _verdicts),
    "gains-overfitted": ("bias_variance_overfitted", _gains),
    "stages": ("stages", _stages),
    "within": ("stages", _within),
    "stages-fashion": ("stages_fashion", _stages),
    "within-fashion": ("stages_fashion", _within),
}


def fill(page: str, results: Path) -> str:
    """The page with every table written anew. Raises KeyError for a table that there is none of."""

    def write(match: re.Match[str]) -> str:
        source, table = TABLES[match[2]]
        return match[1] + table(json.loads((results / f"{source}.json").read_text(encoding="utf-8"))) + match[3]

    return MARKED.sub(write, page)


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
