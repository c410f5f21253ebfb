"""FLamby's DP-FedAvg beside limbeck: what its noise comes to, and that its steps are those of DP-SGD."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from limbeck.base.errors import RunError
from limbeck.client.noise import UnsafeSeeded
from limbeck.experiments.benchmarks import flamby
from limbeck.experiments.benchmarks.flamby import Batches, Hospital

# FLamby's own hospitals: records for training of Cleveland, Hungary, Switzerland and Long Beach.
CLEVELAND, SWITZERLAND = 199, 30


def renyi(noise: float, rate: float, steps: int) -> float:
    accountant = RDPAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    return float(accountant.get_epsilon(delta=flamby.DELTA))


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")
@pytest.mark.parametrize(
    ("records", "batches", "counted", "made"),
    [(CLEVELAND, 50, 750, 1.30), (172, 43, 645, 1.41), (SWITZERLAND, 8, 120, 3.73)],
)
def test_a_claimed_epsilon_of_one_is_that_of_some_of_the_steps(
    records: int, batches: int, counted: int, made: float
) -> None:
    found = flamby.ledger(records)
    assert (found.batches, found.counted_steps, found.steps) == (batches, counted, 1500)
    assert found.claimed == pytest.approx(renyi(found.noise_multiplier, 1 / batches, counted))
    assert 0.98 < found.claimed <= flamby.EPSILON
    # Renyi DP is looser: the same steps cost a little less, those that are made cost more than was claimed.
    assert 0.85 < found.counted < found.claimed < found.made < renyi(found.noise_multiplier, 1 / batches, 1500)
    assert found.made == pytest.approx(made, abs=0.01)


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")
def test_without_credit_for_sampling_every_pass_is_one_gaussian_mechanism() -> None:
    found = flamby.ledger(CLEVELAND)
    # The Gaussian mechanism's exact curve, arXiv 1805.06530, theorem 8, at 1,500 / 50 passes.
    mu, epsilon = math.sqrt(30) / found.noise_multiplier, found.without_amplification
    normal = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu]).double())
    assert float(normal[0] - math.exp(epsilon) * normal[1]) == pytest.approx(flamby.DELTA, rel=0.01)


def hospital(records: int) -> Hospital:
    random = torch.Generator().manual_seed(4)
    x_nD = torch.randn(records, 3, generator=random).double()
    y_n = (x_nD[:, 0] > 0).double()
    return Hospital(x_nD=x_nD, y_n=y_n, test_ND=x_nD, test_N=y_n.long())


def test_a_step_without_noise_moves_by_the_sum_of_clipped_gradients_over_the_mean_batch() -> None:
    here, rows, start = hospital(10), torch.tensor([1, 4, 5, 8]), torch.tensor([0.3, -0.2, 1.0, 0.1]).double()
    total = torch.zeros(4).double()
    for row in rows:
        weight = start.clone().requires_grad_()
        score = here.x_nD[row] @ weight[:3] + weight[3]
        torch.nn.functional.binary_cross_entropy_with_logits(score, here.y_n[row]).backward()
        assert weight.grad is not None
        total += weight.grad * min(1.0, 1.1 / float(weight.grad.norm()))
    moved = flamby.step(start, here, rows, UnsafeSeeded(1), 0.0)
    # Ten records in batches of four: three batches, of three records on average.
    assert torch.allclose(moved, start - 0.001 * total / 3, atol=1e-9)


def test_a_steps_noise_is_the_clip_times_the_multiplier() -> None:
    here, start, noise = hospital(10), torch.zeros(4).double(), UnsafeSeeded(1)
    plain = flamby.step(start, here, torch.tensor([0]), noise, 0.0)
    drawn = torch.stack([flamby.step(start, here, torch.tensor([0]), noise, 50.0) - plain for _ in range(500)])
    assert float(drawn.std()) == pytest.approx(0.001 * 1.1 * 50 / 3, rel=0.05)


def test_a_pass_takes_every_record_once_and_the_next_in_another_order() -> None:
    batches = Batches(10, np.random.default_rng(1))
    first, second = ([batches.next() for _ in range(3)] for _ in range(2))
    assert [len(each) for each in first] == [4, 4, 2]
    for each in (first, second):
        assert Counter(torch.cat(each).tolist()) == Counter(range(10))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()


def test_rows_are_standardised_by_the_records_alone_and_a_constant_column_is_zero() -> None:
    x_nD = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    records, test = flamby.standardised(x_nD, np.array([[9.0, 6.0]]))
    assert records[:, 0].tolist() == [-1.0, 0.0, 1.0]
    assert records[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert test.tolist() == [[3.0, 0.0]]


def test_hospitals_learn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # With FLamby's own rate, heads hardly leave the place where they begin.
    monkeypatch.setattr(flamby, "RATE", 0.1)
    members = [hospital(60), hospital(20)]
    weight = flamby.dp_fedavg(members, [0.0, 0.0], seed=1, noise=UnsafeSeeded(1))
    assert flamby.accuracy(members, weight).all_patients > 95


def test_a_mean_over_hospitals_counts_them_alike_and_skips_one_without_patients() -> None:
    large, small = hospital(60), hospital(20)
    wrong = replace(small, test_N=1 - small.test_N)
    none = replace(small, test_ND=small.test_ND[:0], test_N=small.test_N[:0])
    found = flamby.accuracy([large, wrong, none], torch.tensor([1.0, 0.0, 0.0, 0.0]).double())
    assert found == flamby.Accuracy(all_patients=75.0, mean_over_hospitals=50.0)


def test_limbecks_figures_are_those_of_the_committed_benchmark_on_the_same_seeds(tmp_path: Path) -> None:
    committed = json.loads(flamby.COMMITTED.read_text(encoding="utf-8"))
    (row,) = (row for row in committed["rows"] if (row["cell"], row["method"]) == ("ε = 1", "limbeck"))
    beside = flamby.limbeck_beside()
    accuracy, expected = beside["accuracy"], row["accuracy_percent"]
    assert isinstance(accuracy, dict)
    found = accuracy["all_patients"]
    assert found["seeds"] == pytest.approx(list(row["seeds"].values()), abs=0.01)
    assert [found["mean"], found["spread"]] == pytest.approx([expected["mean"], expected["std"]], abs=0.01)
    assert beside["epsilon_by_the_ledger"] == row["guarantee"]["epsilon"] <= 1
    with pytest.raises(RunError, match="Expected limbeck's figures for ε = 1 and the seeds"):
        flamby.limbeck_beside(tmp_path / "none.json")
