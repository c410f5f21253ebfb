"""Which axioms do the families keep, and which the maps that are no softening operators? `python -m limbeck.experiments.theory.axioms`.

The checker of `limbeck.operators.axioms` on every family, in float64, with its default effort. What it reports as broken is a
counterexample that stands in the results and can be evaluated anew; that it found none proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from limbeck.experiments.theory import common
from limbeck.operators import EntropyTarget, Hybrid, Mixing, Power, Renormalised, SoftenThenTruncate, TopK, Tsallis
from limbeck.operators.axioms import Finding, check
from limbeck.operators.projections import ArgMax, Sparsemax, nearest

COMMAND = "python -m limbeck.experiments.theory.axioms"
SEED = 0
ROUNDS = 60


def _top_2(temperature: float) -> Callable[[Tensor], Tensor]:
    chain = SoftenThenTruncate(softening=Power(temperature), truncation=Renormalised(TopK(2)))
    return lambda p_NK: chain(p_NK).dense()


def _sparsemax_of_p(temperature: float) -> Callable[[Tensor], Tensor]:
    """The point of the simplex nearest to p / T."""
    return lambda p_NK: nearest(p_NK / temperature)


SUBJECTS: dict[str, Callable[[float], Any]] = {
    "power": Power,
    "mixing": Mixing,
    "hybrid": Hybrid,
    "Tsallis, q = 0.5": partial(Tsallis, 0.5),
    "Tsallis, q = 2": partial(Tsallis, 2.0),
    "entropy target": EntropyTarget.at_temperature,
    "sparsemax of log p / T": Sparsemax,
    "sparsemax of p / T": _sparsemax_of_p,
    "power, then top 2 renormalised": _top_2,
    "arg-max": lambda temperature: ArgMax(),
}


def _found(finding: Finding) -> dict[str, Any]:
    """A finding as it is committed."""
    example = finding.counterexample
    return {
        "axiom": finding.axiom.value,
        "holds": finding.holds,
        "trials": finding.trials,
        "worst": common.significant(finding.worst),
        "tolerance": common.significant(finding.tolerance),
        "unit": finding.unit,
        "note": finding.note,
        "counterexample": None
        if example is None
        else {
            "p": example.p_K.tolist(),
            "temperature": example.temperature,
            "other_p": None if example.other_p_K is None else example.other_p_K.tolist(),
            "other_temperature": example.other_temperature,
            "what": example.what,
        },
    }


def main() -> None:
    """The command."""
    options = common.options(__doc__)
    subjects = []
    with common.bars() as progress:
        for name, factory in progress.track(list(SUBJECTS.items()), description="axioms"):
            report = check(factory, rounds=ROUNDS, seed=SEED)
            subjects.append(
                {
                    "name": name,
                    "lowest_temperature": common.significant(report.lowest),
                    "findings": [_found(finding) for finding in report.findings],
                }
            )
    result = {"command": COMMAND, "machine": common.machine(), "rounds": ROUNDS, "seed": SEED, "subjects": subjects}
    common.write_json(options.out / "axioms.json", result)


if __name__ == "__main__":
    main()
