"""What filter of evidence serves best: `python -m limbeck.experiments.benchmarks.filters RUN ... --out FILE`.

From prepared runs with evidence teachers (`limbeck simulate ... --prepare-only --out RUN`): the sum of all records' rows, with
the noise of all sites, seen through the best ridge alone and through Wiener's filter with multiples of its noise-to-signal ratio
(`limbeck.plans.evidence_constants`). Judged by labels of the public inputs, which no figure uses.

Shape legend: N public inputs, D features, K classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.files import write_durably
from limbeck.client.site import Site
from limbeck.client.teachers import evidence
from limbeck.inputs import features
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import evidence_constants
from limbeck.plans.evidence_constants import Expected, Filter
from limbeck.plans.schema import EvidenceTeaching
from limbeck.simulations.measure import Truth
from limbeck.simulations.prepare import read_prepared

MULTIPLES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
RIDGES = tuple(float(ridge) for ridge in np.geomspace(1e-4, 0.1, 22))
DRAWS = 5

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """sums_KD: of all records' rows, in the eigenvectors of G. e_D: G's eigenvalues. f_ND: public rows in the eigenvectors.

    public_y: labels of the public inputs. e_J: `evidence_constants.eigenvalues`.
    """

    scenario: str
    sums_KD: Array
    e_D: Array
    f_ND: Array
    public_y: NDArray[np.int64]
    expected: Expected
    e_J: Array


def sums_of(folder: Path) -> Sums:
    """The sums of a prepared run, without noise. Raises DataError for a run of other teachers."""
    scenario, plan, _ = read_prepared(folder)
    teaching = plan.teaching
    if not isinstance(teaching, EvidenceTeaching):
        raise DataError(f"Expected a run with evidence teachers in {folder}, got {scenario.teacher.kind}.")
    (public_x,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    public_ND = features.compute(teaching.features, public_x, cache=folder / "cache")
    balance = features.balance(teaching.features, public_ND)
    row_ND = features.unit_rows(public_ND, balance, teaching.constant).astype(np.float64)
    e_D, vector_DD = np.linalg.eigh(row_ND.T @ row_ND / len(row_ND))
    total_KD = np.zeros((plan.classes, row_ND.shape[1]))
    sites = sorted(path.parent for path in (folder / "sites").glob("*/site.toml"))
    for site in sites:
        found = Site(site).records.find(plan.classes, public_x)
        steps_K = np.full(plan.classes, teaching.resolution)
        total_KD += evidence.class_sums(teaching, found.x_N, found.y_N, balance, steps_K) / teaching.resolution
    return Sums(
        scenario=scenario.name,
        sums_KD=total_KD @ vector_DD,
        e_D=e_D.clip(1e-12),
        f_ND=row_ND @ vector_DD,
        public_y=Truth(folder).public_y,
        expected=Expected(
            classes=plan.classes,
            inputs=len(public_x),
            sites=len(sites),
            records=teaching.normaliser,
            noise=teaching.noise_multiplier,
        ),
        e_J=evidence_constants.eigenvalues(features.of_evidence(teaching.features, public_ND, teaching.constant)),
    )


def accuracies(sums: Sums, noisy_KD: Array) -> dict[str, float]:
    """Per cent of the public inputs on which the largest score is that of the label, by filter."""

    def accuracy(chosen: Filter) -> float:
        scores_NK = sums.f_ND @ (noisy_KD * chosen.gains(sums.e_D)).T
        return 100 * float((scores_NK.argmax(1) == sums.public_y).mean())

    with_auto = evidence_constants.choose(sums.e_J, sums.expected).filter
    return {
        "ridge alone, auto": accuracy(Filter(ridge=evidence_constants.best_ridge(sums.e_J, sums.expected))),
        "ridge alone, best": max(accuracy(Filter(ridge=ridge)) for ridge in RIDGES),
        **{
            f"ratio, {multiple:g} times auto": accuracy(
                Filter(ridge=with_auto.ridge, noise_to_signal=multiple * with_auto.noise_to_signal)
            )
            for multiple in MULTIPLES
        },
    }


def measured(folder: Path) -> dict[str, object]:
    """Mean and sample standard deviation over draws of the noise."""
    sums = sums_of(folder)
    noise = sums.expected.noise * sums.expected.sites**0.5
    drawn = [
        accuracies(sums, sums.sums_KD + np.random.default_rng(draw).normal(0, noise, sums.sums_KD.shape))
        for draw in range(DRAWS)
    ]
    return {
        "scenario": sums.scenario,
        "sites": sums.expected.sites,
        "records_per_site": sums.expected.records,
        "public_inputs": sums.expected.inputs,
        "noise_multiplier": round(sums.expected.noise, 3),
        "accuracy": {
            name: {
                "mean": round(statistics.mean(each[name] for each in drawn), 2),
                "spread": round(statistics.stdev(each[name] for each in drawn), 2),
            }
            for name in drawn[0]
        },
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        rows = [measured(folder) for folder in given.runs]
    except LimbeckError as error:
        sys.exit(str(error))
    result = {
        "command": "python -m limbeck.experiments.benchmarks.filters RUN ... --out experiments/results/filters.json",
        "what": "accuracy in per cent on labels of the public inputs, of all sites' noisy sums; over draws of the noise",
        "noise": "numpy, seeded: nothing is released",
        "runs": rows,
    }
    write_durably(given.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
