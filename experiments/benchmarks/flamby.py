"""FLamby's DP-FedAvg beside limbeck, on four hospitals: `python -m limbeck.experiments.benchmarks.flamby [OUT.json]`.

FLamby trains logistic regression on heart disease by FedAvg with Opacus at every hospital [F: arXiv 2210.04620, section 4 and its appendix
on privacy; owkin/FLamby at edacf54: flamby/dp_example, flamby/strategies, flamby/datasets/fed_heart_disease]. Here that method is written
anew and runs on the records of limbeck's `heart-natural`, at the epsilon of 1 that it claims, and both systems are accounted in one way.

What its code does, and is kept here:

- A hospital's gradients are clipped one by one, and noised, in batches of 4, 100 batches a round, in 15 rounds: 1,500 steps, whatever the
  size of the hospital. Noise is calibrated once, for a Poisson rate of one over the hospital's number of batches and for as many *epochs*
  as there are rounds. A hospital of 50 batches is calibrated for 750 steps, one of 8 for 120, and each makes 1,500.
- The batches come from the loader without Poisson sampling: the one that Opacus returns is not used.
- Rows are standardised by each hospital's own mean and deviation; updates are averaged by its number of records; the sum of a batch is
  divided by the mean size of its batches. All are private numbers that are not charged.

What differs:

- Every hospital draws noise of its own, from the operating system. FLamby seeds every hospital's generator with the same number, the time
  in seconds, so that all add the same noise, in proportion.
- The records are those of limbeck's scenario, whose encoding keeps columns and patients with missing values, which FLamby drops. A column
  that is constant at a hospital is zero there; FLamby has none such.
- The noise is calibrated by Opacus' RDP accountant, its default at the time [assumed: FLamby names no version of Opacus].

Unit: record; adjacency: add or remove one, but for `without_amplification`.

Shape legend: N inputs, n records of a hospital, D features.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base.errors import RunError
from limbeck.client.noise import Noise, SystemEntropy
from limbeck.client.site import Site
from limbeck.experiments.baselines import charges, limbeck_runs, settings, suites
from limbeck.experiments.benchmarks import runner
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import accounting
from limbeck.simulations import prepare
from limbeck.simulations.measure import Truth

# Of FLamby's heart disease. ROUNDS follows from its 486 records: (486 // 4 // 4) * 50 // 100.
BATCH, UPDATES, ROUNDS, RATE, CLIP = 4, 100, 15, 0.001, 1.1
EPSILON, DELTA = 1.0, 1e-4
# Opacus adds this to a norm before it divides by it.
CLIP_GUARD = 1e-6
SEEDS = (1, 2, 3, 4, 5)
SUITE, CELL = "heart", "ε = 1"
# Limbeck's own figures on the same records.
COMMITTED = Path(__file__).parents[1] / "results" / "benchmark" / f"{SUITE}.json"
# What FLamby's authors report at this epsilon and delta: in the paper, and in the repository after its split was changed.
PUBLISHED = {"paper, mean over hospitals": "78.1 ± 2.8", "repository, mean over hospitals": "68.5 ± 5.5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the noise of one hospital comes to, at the same delta.

    - records, batches: of the hospital; batches in one pass over its records.
    - noise_multiplier: of one step, as FLamby has it calibrated.
    - counted_steps: for which it was calibrated. steps: that are made.
    - claimed: epsilon of the counted steps on Poisson samples, by Renyi DP: what FLamby says.
    - counted: the same by privacy loss distributions.
    - made: of the steps that are made, if their batches were Poisson samples, by privacy loss distributions.
    - without_amplification: of the passes that are made, each of which uses a record once. Shuffled batches are not Poisson samples, and
      this takes no credit for them. Neighbours differ by one record that is there or counts as zero, so that no batch shifts.
    """

    records: int
    batches: int
    noise_multiplier: float
    counted_steps: int
    steps: int
    claimed: float
    counted: float
    made: float
    without_amplification: float


def batches_of(records: int) -> int:
    """Batches in one pass; the last may be smaller."""
    return math.ceil(records / BATCH)


def counted_steps(records: int) -> int:
    """The steps that FLamby tells Opacus of: a pass over the records for each round."""
    # Opacus divides by the rate, and cuts off.
    return int(ROUNDS / (1 / batches_of(records)))


def noise_multiplier(records: int, epsilon: float = EPSILON, delta: float = DELTA) -> float:
    """The noise of one step with which `counted_steps` cost at most epsilon, by Opacus' own search."""
    from opacus.accountants.utils import get_noise_multiplier

    found: float = get_noise_multiplier(
        target_epsilon=epsilon, target_delta=delta, sample_rate=1 / batches_of(records), epochs=ROUNDS, accountant="rdp"
    )
    return found


def ledger(records: int, epsilon: float = EPSILON, delta: float = DELTA) -> Ledger:
    """What a hospital of so many records claims, and what that is."""
    batches, noise = batches_of(records), noise_multiplier(records, epsilon, delta)
    counted, made = counted_steps(records), ROUNDS * UPDATES
    passes = math.ceil(made / batches)
    return Ledger(
        records=records,
        batches=batches,
        noise_multiplier=noise,
        counted_steps=counted,
        steps=made,
        claimed=_by_renyi(noise, batches, counted, delta),
        counted=_by_distributions(noise, batches, counted, delta),
        made=_by_distributions(noise, batches, made, delta),
        without_amplification=accounting.epsilon(
            ((replace(charges.full_batch(passes), noise_multiplier=noise), None),), delta
        ),
    )


def _by_renyi(noise: float, batches: int, steps: int, delta: float) -> float:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, 1 / batches, steps)]
    return float(accountant.get_epsilon(delta=delta))


def _by_distributions(noise: float, batches: int, steps: int, delta: float) -> float:
    return accounting.epsilon(((replace(charges.sampled(steps, 1 / batches), noise_multiplier=noise), None),), delta)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hospital:
    """Its records for training, and the patients of the test set that are its own; rows standardised by the records' statistics."""

    x_nD: Tensor
    y_n: Tensor
    test_ND: Tensor
    test_N: Tensor


def hospitals(run: Path) -> list[Hospital]:
    """The hospitals of a prepared run of `heart-natural`."""
    _, plan, sites = prepare.read_prepared(run)
    truth = Truth(run)
    (public_x,) = read_arrays(run / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    found = []
    for index, path in enumerate(sorted(sites.glob("*/site.toml"))):
        records = Site(path.parent).records.find(plan.classes, public_x)
        own = truth.test_sites == index
        x_nD, test_ND = standardised(records.x_N, truth.test_x[own])
        found.append(
            Hospital(
                x_nD=x_nD,
                y_n=torch.from_numpy(records.y_N).double(),
                test_ND=test_ND,
                test_N=torch.from_numpy(truth.test_y[own].astype(np.int64)),
            )
        )
    return found


def standardised(x_nD: NDArray[np.generic], test_ND: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    """Both by the records' mean and standard deviation; a column that is constant among the records becomes zero."""
    records, test = torch.from_numpy(x_nD).double(), torch.from_numpy(test_ND).double()
    deviation = records.std(0)
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    mean = records.mean(0)
    return (records - mean) * scale, (test - mean) * scale


class Batches:
    """Batches of shuffled records without end: after a pass, another order. Each holds BATCH records, the last of a pass what is left."""

    def __init__(self, records: int, order: np.random.Generator) -> None:
        self._records, self._order = records, order
        self._left: list[Tensor] = []

    def next(self) -> Tensor:
        """Indices of the next batch."""
        if not self._left:
            self._left = list(torch.from_numpy(self._order.permutation(self._records)).split(BATCH))
        return self._left.pop(0)


def step(weight_D: Tensor, hospital: Hospital, rows: Tensor, noise: Noise, multiplier: float) -> Tensor:
    """The weights, the bias last, after one DP-SGD step as Opacus makes it."""
    x = torch.nn.functional.pad(hospital.x_nD[rows], (0, 1), value=1.0)
    gradient = ((x @ weight_D).sigmoid() - hospital.y_n[rows])[:, None] * x
    total: Tensor = (gradient * (CLIP / (gradient.norm(dim=1) + CLIP_GUARD)).clamp(max=1)[:, None]).sum(0)
    if multiplier:
        total = total + noise.gaussian(*total.shape, std=CLIP * multiplier)
    records = len(hospital.y_n)
    moved: Tensor = weight_D - RATE * total / int(records / batches_of(records))
    return moved


def dp_fedavg(members: Sequence[Hospital], multipliers: Sequence[float], seed: int, noise: Noise) -> Tensor:
    """The weights, the bias last, after all rounds."""
    order = np.random.default_rng(seed)
    width = members[0].x_nD.shape[1] + 1
    bound = 1 / math.sqrt(width - 1)
    # As torch begins a linear layer.
    shared = torch.from_numpy(order.uniform(-bound, bound, width))
    batches = [Batches(len(each.y_n), order) for each in members]
    sizes = torch.tensor([len(each.y_n) for each in members]).double()
    for _ in range(ROUNDS):
        trained = []
        for hospital, loader, multiplier in zip(members, batches, multipliers, strict=True):
            weight = shared
            for _ in range(UPDATES):
                weight = step(weight, hospital, loader.next(), noise, multiplier)
            trained.append(weight)
        shared = (torch.stack(trained) * sizes[:, None]).sum(0) / sizes.sum()
    return shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """In per cent: of all patients of the test set, and the mean of the hospitals' own, which FLamby reports."""

    all_patients: float
    mean_over_hospitals: float


def accuracy(members: Sequence[Hospital], weight_D: Tensor) -> Accuracy:
    """On the test set. A hospital without a patient there does not count."""
    right = [(each.test_ND @ weight_D[:-1] + weight_D[-1] > 0) == (each.test_N == 1) for each in members]
    return Accuracy(
        all_patients=100 * float(torch.cat(right).double().mean()),
        mean_over_hospitals=100 * statistics.fmean(float(each.double().mean()) for each in right if len(each)),
    )


def measure() -> dict[str, object]:
    """FLamby's way over all seeds, and limbeck's figures beside it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        return _measured(folder)


def _measured(folder: Path) -> dict[str, object]:
    (cell,) = suites.suite(SUITE).only(cells=[CELL]).cells
    noisy, plain = [], []
    ledgers: dict[int, Ledger] = {}
    for seed in SEEDS:
        members = hospitals(settings.prepared(cell, seed, folder))
        sizes = [len(each.y_n) for each in members]
        ledgers |= {size: ledger(size) for size in sizes if size not in ledgers}
        multipliers = [ledgers[size].noise_multiplier for size in sizes]
        noisy.append(accuracy(members, dp_fedavg(members, multipliers, seed, SystemEntropy())))
        plain.append(accuracy(members, dp_fedavg(members, [0.0] * len(members), seed, SystemEntropy())))
    return {
        "what": "accuracy on the test set in per cent, mean and sample standard deviation over seeds; epsilon of one record",
        "seeds": list(SEEDS),
        "delta": DELTA,
        "unit": "record",
        "adjacency": "add-remove-one; without_amplification: a record or a zero in its place",
        "noise": "system-entropy",
        "flamby": {
            "claimed_epsilon": EPSILON,
            "accuracy": _accuracies(noisy),
            "without_noise": _accuracies(plain),
            "published_on_its_own_records": PUBLISHED,
            "ledger_by_records": {str(size): _rounded(ledgers[size]) for size in sorted(ledgers)},
        },
        "limbeck": limbeck_beside(),
    }


def limbeck_beside(path: Path = COMMITTED) -> dict[str, object]:
    """What the committed benchmark says of limbeck on the same records, by the same seeds. Raises: RunError if it says nothing."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    found = [row for row in rows if (row["cell"], row["method"]) == (CELL, limbeck_runs.STUDENT)]
    if len(found) != 1 or set(found[0]["seeds"]) != set(map(str, SEEDS)):
        raise RunError(
            f"Expected limbeck's figures for {CELL} and the seeds {SEEDS} in {path}; limbeck benchmark {SUITE} makes them."
        )
    (row,) = found
    return {
        "command": row["command"],
        "epsilon_by_the_ledger": row["guarantee"]["epsilon"],
        "accuracy": {"all_patients": _spread([row["seeds"][str(seed)] for seed in SEEDS])},
    }


def _accuracies(found: Sequence[Accuracy]) -> dict[str, object]:
    return {
        "all_patients": _spread([each.all_patients for each in found]),
        "mean_over_hospitals": _spread([each.mean_over_hospitals for each in found]),
    }


def _spread(values: Sequence[float]) -> dict[str, object]:
    return {
        "mean": round(statistics.fmean(values), 2),
        "spread": round(statistics.stdev(values), 2),
        "seeds": [round(each, 2) for each in values],
    }


def _rounded(found: Ledger) -> dict[str, float]:
    return {name: round(getattr(found, name), 4) for name in Ledger.__slots__}


if __name__ == "__main__":
    runner.main("flamby", measure, description=__doc__, machine=runner.one_core, one_thread=True)
