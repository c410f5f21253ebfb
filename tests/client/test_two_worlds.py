"""An audit of the teachers as they run: thousands of trainings with and without one record, and what an attacker can prove of epsilon.

Noise is the operating system's, so every run draws anew. The level is such that sound code fails a test once in ten million runs; the
broken code below is caught with less than one chance in a million of being missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor, nn

from helpers.plans import LINEAR
from helpers.teacher_conformance import weights
from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy
from limbeck.client.teachers import architectures, evidence, gradients, linear
from limbeck.plans import accounting
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, NetTeaching

LEVEL = 1e-7
DELTA = 1e-5
WIDTH, CLASSES, RECORDS = 3, 2, 20
Rows = NDArray[np.float64]

_generator = np.random.default_rng(0)
PUBLIC = _generator.normal(size=(6, WIDTH)).astype(np.float32)
OTHERS = _generator.normal(size=(RECORDS, WIDTH)).astype(np.float32), np.arange(RECORDS) % CLASSES
# A record unlike the others, whose gradient is longer than the clip.
CANARY = np.array([[9.0, -9.0, 9.0]], np.float32)

HEAD = replace(LINEAR, features="rows", feature_norm=4.0, steps=1, average_last=1, clip=1.0, normaliser=20.0)
NET = NetTeaching(
    architecture="mlp",
    sampling_rate=1.0,
    steps=1,
    learning_rate=1.0,
    momentum=0.0,
    clip=0.5,
    noise_multiplier=1.0,
    normaliser=20.0,
    physical_batch=64,
)


class Half(SystemEntropy):
    """Half the noise that is charged for."""

    def gaussian(self, *shape: int, std: float) -> Tensor:
        return super().gaussian(*shape, std=std / 2)

    def discrete_gaussian(self, *shape: int, variance: Fraction) -> NDArray[np.int64]:
        return super().discrete_gaussian(*shape, variance=variance / 4)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """One way to spoil a teacher. clip: what becomes of it."""

    noise: type[SystemEntropy] = SystemEntropy
    clip: Callable[[float], float] = lambda clip: clip


SOUND = Broken()
BROKEN = {
    "noise halved": Broken(noise=Half),
    "clip doubled": Broken(clip=lambda clip: 2 * clip),
    "clip dropped": Broken(clip=lambda clip: 1e9),
}


def spoil(patch: pytest.MonkeyPatch, broken: Broken) -> None:
    own_sum, own_scales = linear.clipped_sum, gradients.scales
    patch.setattr(linear, "clipped_sum", lambda w, x, norm, y, clip, k: own_sum(w, x, norm, y, broken.clip(clip), k))
    own_rows = evidence.rows
    patch.setattr(evidence, "rows", lambda f, constant, steps_n: own_rows(f, constant, _longer(steps_n, broken.clip)))
    patch.setattr(gradients, "scales", lambda norm_N, clip: own_scales(norm_N, broken.clip(clip)))


def _longer(steps_n: NDArray[np.int64], clip: Callable[[float], float]) -> NDArray[np.int64]:
    """What becomes of the length of a row, in units of which the clip is 1; as far as 64 bits go."""
    return np.array([int(steps * min(clip(1.0), 16.0)) for steps in steps_n.tolist()], np.int64)


def trained(
    teaching: LinearTeaching | NetTeaching | EvidenceTeaching, runs: int, canary: bool, noise: type[SystemEntropy]
) -> Rows:
    """(runs, W) weights of teachers that were trained with or without the canary."""
    x_N, y_N = OTHERS
    if canary:
        x_N, y_N = np.concatenate([x_N, CANARY]), np.append(y_N, 1)
    options: dict[str, Any] = {"classes": CLASSES, "public_x": PUBLIC}
    found = [weights(teachers.train(teaching, x_N, y_N, noise=noise(), **options)) for _ in range(runs)]
    return torch.stack(found).double().numpy()


def epsilon_of(mu: float) -> float:
    """The epsilon at DELTA of a mechanism that is mu-GDP and no better (arXiv 1905.02383, corollary 1)."""
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        lost = stats.norm.logcdf(-epsilon / mu - mu / 2) + epsilon
        return float(stats.norm.cdf(-epsilon / mu + mu / 2) - np.exp(lost) - DELTA)

    return float(optimize.brentq(excess, 0.0, 500.0)) if excess(0.0) > 0 else 0.0


def proved(out_0: Rows, out_1: Rows) -> float:
    """An epsilon at DELTA that the mechanism has at least, wrong with probability LEVEL at most where it is a Gaussian mechanism.

    out_0, out_1: (runs, S) scores without and with the record. From the first runs, half of them or a fifth where S = 1, comes what to
    look at, a direction and a threshold; from the others the bound. It is the larger of two, each at half the level: by exact
    (Clopper-Pearson) bounds of the two kinds of error, and by the distance of the means in standard deviations.
    """
    half = len(out_0) // (5 if out_0.shape[1] == 1 else 2)
    direction = out_1[:half].mean(0) - out_0[:half].mean(0)
    if out_0.shape[1] > 1:
        within = np.cov(out_0[:half].T) + np.cov(out_1[:half].T)
        direction = np.linalg.solve(within, direction)
    first_0, first_1, second_0, second_1 = (
        own @ direction for own in (out_0[:half], out_1[:half], out_0[half:], out_1[half:])
    )
    n = len(second_0)

    def by_errors(scores_0: Rows, scores_1: Rows, threshold: float) -> float:
        wrong = [int((scores_0 > threshold).sum()), int((scores_1 <= threshold).sum())]
        most = [float(stats.beta.isf(LEVEL / 4, k + 1, len(scores_0) - k)) if k < len(scores_0) else 1.0 for k in wrong]
        return float(-stats.norm.ppf(most).sum())

    thresholds = np.quantile(np.concatenate([first_0, first_1]), np.linspace(0.02, 0.98, 49))
    best = max(thresholds, key=lambda threshold: by_errors(first_0, first_1, float(threshold)))
    spread = np.sqrt((second_0.var(ddof=1) + second_1.var(ddof=1)) / 2)
    distance = (second_1.mean() - second_0.mean()) / spread
    error = np.sqrt(2 / n + distance**2 / (4 * (n - 1)))
    by_means = distance + stats.norm.ppf(LEVEL / 2) * error
    return epsilon_of(max(by_errors(second_0, second_1, float(best)), float(by_means)))


def head(epsilon: float) -> LinearTeaching:
    """One step that costs exactly this much."""
    taught, _ = accounting.calibrate(HEAD, epsilon=epsilon, delta=DELTA, label_counts_fraction=None)
    assert isinstance(taught, LinearTeaching)
    return taught


def audit(
    teaching: LinearTeaching | NetTeaching | EvidenceTeaching, runs: int, broken: Broken, direction: Rows | None = None
) -> float:
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, broken)
        worlds = [trained(teaching, runs, canary, broken.noise) for canary in (False, True)]
    return proved(*(own if direction is None else own @ direction for own in worlds))


def test_what_an_audit_proves_of_a_gaussian_mechanism_is_below_its_epsilon_and_near_it() -> None:
    generator = np.random.default_rng(1)
    for mu in (0.5, 1.0, 2.0):
        scores = generator.normal(size=(2, 4000, 1))
        scores[1] += mu
        assert 0.6 * epsilon_of(mu) < proved(*scores) < epsilon_of(mu)
    assert epsilon_of(1.0) == pytest.approx(4.377, abs=2e-3)


@pytest.mark.parametrize(("epsilon", "least"), [(3.0, 0.5), (8.0, 4.0)])
def test_no_attacker_proves_more_of_a_linear_teacher_than_is_charged(epsilon: float, least: float) -> None:
    found = audit(head(epsilon), 2000, SOUND)
    # An audit that proves nothing would pass whatever is broken.
    assert least < found <= epsilon


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(("epsilon", "runs"), [(3.0, 1000), (8.0, 400)])
def test_the_audit_sees_a_linear_teacher_that_is_broken(name: str, epsilon: float, runs: int) -> None:
    assert audit(head(epsilon), runs, BROKEN[name]) > epsilon


def net_direction() -> Rows:
    """(W, 1) the canary's gradient at the public initial weights: where it shows most."""
    net = architectures.build("mlp", (WIDTH,), CLASSES)
    loss = nn.functional.cross_entropy(net(torch.from_numpy(CANARY)), torch.tensor([1]))
    found = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))]).double().numpy()
    assert np.linalg.norm(found) > 2 * NET.clip
    return np.asarray(-found[:, None])


def one_step_net(epsilon: float) -> NetTeaching:
    """With every record in its step, so that it is a Gaussian mechanism."""
    taught, _ = accounting.calibrate(NET, epsilon=epsilon, delta=DELTA, label_counts_fraction=None)
    assert isinstance(taught, NetTeaching)
    return taught


def test_no_attacker_proves_more_of_a_net_than_is_charged() -> None:
    assert 2.0 < audit(one_step_net(8.0), 400, SOUND, net_direction()) <= 8.0


@pytest.mark.parametrize("name", ["noise halved", "clip doubled"])
def test_the_audit_sees_a_net_that_is_broken(name: str) -> None:
    assert audit(one_step_net(8.0), 250, BROKEN[name], net_direction()) > 8.0


def sums(epsilon: float) -> EvidenceTeaching:
    """Class sums that cost exactly this much."""
    own = EvidenceTeaching(
        features="rows", constant=0.3, normaliser=20.0, ridge=0.1, noise_multiplier=1.0, resolution=1 << 16
    )
    taught, _ = accounting.calibrate(own, epsilon=epsilon, delta=DELTA, label_counts_fraction=None)
    assert isinstance(taught, EvidenceTeaching)
    return taught


def test_no_attacker_proves_more_of_evidence_than_is_charged() -> None:
    assert 4.0 < audit(sums(8.0), 1500, SOUND) <= 8.0


@pytest.mark.parametrize("name", BROKEN)
def test_the_audit_sees_evidence_that_is_broken(name: str) -> None:
    assert audit(sums(8.0), 400, BROKEN[name]) > 8.0
