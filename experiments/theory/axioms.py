"""Which axioms hold for the families, and for maps that are not softening operators? `python -m limbeck.experiments.theory.axioms`.

Runs the checker of `limbeck.operators.axioms` on each of them, in float64, with its default effort. For an axiom that does not hold the
results contain a counterexample, which can be evaluated again; that the checker finds none proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from limbeck.experiments.theory import common
from limbeck.experiments.theory.results import AxiomFinding, Axioms, Example, Subject
from limbeck.operators import EntropyTarget, Hybrid, Mixing, Power, Renormalised, SoftenThenTruncate, TopK, Tsallis
from limbeck.operators.axioms import Counterexample, Finding, check
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


SUBJECTS: dict[str, Callable[[float], Callable[[Tensor], Tensor]]] = {
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


def _row(finding: Finding) -> AxiomFinding:
    """A finding in the form in which it is committed."""
    example = finding.counterexample
    return {
        "axiom": finding.axiom.value,
        "holds": finding.holds,
        "trials": finding.trials,
        "worst": common.significant(finding.worst),
        "tolerance": common.significant(finding.tolerance),
        "unit": finding.unit,
        "note": finding.note,
        "counterexample": None if example is None else _example(example),
    }


def _example(example: Counterexample) -> Example:
    return {
        "p": example.p_K.tolist(),
        "temperature": example.temperature,
        "other_p": None if example.other_p_K is None else example.other_p_K.tolist(),
        "other_temperature": example.other_temperature,
        "what": example.what,
    }


def main() -> None:
    """The command."""
    options = common.options(__doc__)
    subjects: list[Subject] = []
    with common.bars() as progress:
        for name, factory in progress.track(list(SUBJECTS.items()), description="axioms"):
            report = check(factory, rounds=ROUNDS, seed=SEED)
            subjects.append(
                {
                    "name": name,
                    "lowest_temperature": common.significant(report.lowest),
                    "findings": [_row(finding) for finding in report.findings],
                }
            )
    result: Axioms = {
        "command": COMMAND,
        "machine": common.machine(),
        "rounds": ROUNDS,
        "seed": SEED,
        "subjects": subjects,
    }
    common.write_json(options.out / "axioms.json", result)


if __name__ == "__main__":
    main()
