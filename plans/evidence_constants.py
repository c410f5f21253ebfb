"""Ridge and temperature of evidence plans, from public facts alone: the public inputs, the noise, how many sites and records are expected.

Neither may follow from a site's own sums, whose scale would be a release of its own. Both follow from a prior for what classes look
like [D]. With G = mean f f^T of the public inputs' features, of norm at most 1, let the labels' indicators be linear in them,
1{y = k} = w_k . f, with coefficients of the same variance in every direction, and all of the labels' variance explained: with eigenvalues
e_j, sum_k E w_kj^2 = p for each eigenvector j, p = (1 - 1/K) / sum_j e_j.

**Ridge.** Let C sites of n records each add up their sums, with noise of standard deviation s on each: divided by C n, entry (k, j) is
e_j w_kj, with noise of variance t = s^2 / (C n^2) and two errors of sampling, since neither the records nor the N public inputs have the
covariance of the population: to first order, e_j p (1 / (C n) + 1 / N), summed over k. Solved with G + ridge I, the error on public
inputs is expected to be

    R(ridge) = sum_j e_j (ridge^2 p + K t + e_j p (1 / (C n) + 1 / N)) / (e_j + ridge)^2.

Its derivative is negative below 1 / (C n) + 1 / N, noise or none: so the ridge is never below one over the public inputs, where more
directions than they can tell apart would be solved for.

**Temperature.** One site's scores z = K S (G + ridge I)^-1 f / n are then expected to have the variance

    K p sum_j e_j^3 / (e_j + ridge)^2 + K^2 (s / n)^2 sum_j e_j / (e_j + ridge)^2 + K / n sum_j e_j^2 / (e_j + ridge)^2

over public inputs and classes if it holds all classes alike, and K times the first term if it holds one class alone. T makes z / T vary by
SPREAD where every site holds one class. Less is safe: answers are affine in z up to an error of second order.

Shape legend: N public inputs, D features, J eigenvalues other than zero, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.base import check
from limbeck.base.errors import DataError
from limbeck.plans.checks import REALS

# Of z / T at a site that holds one class.
SPREAD = 0.5
# Each ridge that is tried is 5 % above the last.
FACTOR = 1.05
# Public inputs that the eigenvalues are computed from, evenly spaced: more change the constants by less than they are rounded.
MOST_INPUTS = 2500
# An eigenvalue below this share of the largest is a rounding error.
NO_EIGENVALUE = 1e-7

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an author expects of a federation, and may publish.

    - classes: K.
    - inputs: N, how many public inputs there are.
    - sites: how many answer.
    - records: of a site; also the plan's normaliser.
    - noise: standard deviation of the noise on each of a site's sums, in records of norm 1: the noise multiplier.
    """

    classes: int
    inputs: int
    sites: int
    records: float
    noise: float

    def __post_init__(self) -> None:
        check.at_least(2, classes=self.classes)
        check.at_least(1, inputs=self.inputs, sites=self.sites)
        check.positive(records=self.records, noise=self.noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What goes into a plan, as in `schema.EvidenceTeaching` and `schema.Stage`."""

    ridge: float
    temperature: float


def choose(f_ND: NDArray[np.floating], expected: Expected, *, ridge: float | None = None) -> Constants:
    """Both constants. f_ND: as for `eigenvalues`. ridge: what the author wants it to be. Raises DataError as `eigenvalues` does."""
    e_J = eigenvalues(f_ND)
    chosen = best_ridge(e_J, expected) if ridge is None else ridge
    return Constants(ridge=chosen, temperature=temperature(e_J, chosen, expected))


def eigenvalues(f_ND: NDArray[np.floating]) -> Array:
    """(J,) the eigenvalues of G = mean f f^T, falling. f_ND: features of the public inputs, centred, each of a norm of at most 1, N >= 1.

    Raises DataError where all features are zero, as those of inputs that are all alike.
    """
    used_ND = f_ND[_evenly(len(f_ND))].astype(np.float64)
    count, width = used_ND.shape
    gram = used_ND @ used_ND.T if count < width else used_ND.T @ used_ND
    found_J = np.linalg.eigvalsh(gram / count)[::-1]
    if found_J[0] <= 0:
        raise DataError(f"Expected public inputs that differ, got {len(f_ND)} with the same features.")
    return np.asarray(found_J[found_J > NO_EIGENVALUE * found_J[0]], np.float64)


def best_ridge(e_J: Array, expected: Expected) -> float:
    """The ridge of the least expected error, of those that a plan may have, to two digits. e_J: of G."""
    lowest, highest = REALS["teaching.ridge"]
    tried = np.geomspace(lowest, highest, math.ceil(math.log(highest / lowest) / math.log(FACTOR)))
    return _two_digits(float(tried[np.argmin([risk(e_J, float(each), expected) for each in tried])]))


def risk(e_J: Array, ridge: float, expected: Expected) -> float:
    """The expected squared error of the sites' summed scores on public inputs, over all classes, in units of an indicator."""
    signal = _signal(e_J, expected.classes)
    noise = expected.classes * expected.noise**2 / (expected.sites * expected.records**2)
    sampling = signal * (1 / (expected.sites * expected.records) + 1 / expected.inputs)
    return float((e_J * (ridge**2 * signal + noise + e_J * sampling) / (e_J + ridge) ** 2).sum())


def temperature(e_J: Array, ridge: float, expected: Expected) -> float:
    """The temperature at which a site's scores vary by SPREAD if it holds one class alone, to two digits."""
    lowest, highest = REALS["temperature"]
    return _two_digits(min(max(lowest, deviation(e_J, ridge, expected, one_class=True) / SPREAD), highest))


def deviation(e_J: Array, ridge: float, expected: Expected, *, one_class: bool) -> float:
    """The expected standard deviation of one site's scores z over public inputs and classes.

    one_class: the site holds records of one class alone; otherwise of all alike.
    """
    classes, records = expected.classes, expected.records
    solved_J = e_J / (e_J + ridge) ** 2
    signal = (classes if one_class else 1) * classes * _signal(e_J, classes) * float((e_J**2 * solved_J).sum())
    noise = (classes * expected.noise / records) ** 2 * float(solved_J.sum())
    sampling = classes / records * float((e_J * solved_J).sum())
    return math.sqrt(signal + noise + sampling)


def pooled_variance(e_J: Array, ridge: float, expected: Expected) -> tuple[float, float]:
    """What the mean of all sites' scores, each above its mean over classes, is expected to vary by over public inputs and classes.

    Returns the variance of what the records say, whichever site holds which of them, and that of the noise.
    """
    classes, records = expected.classes, expected.sites * expected.records
    solved_J = e_J / (e_J + ridge) ** 2
    signal = classes * _signal(e_J, classes) * float((e_J**2 * solved_J).sum())
    sampling = (classes - 1) / records * float((e_J * solved_J).sum())
    noise = (1 - 1 / classes) * (classes * expected.noise) ** 2 / (expected.sites * expected.records**2)
    return signal + sampling, noise * float(solved_J.sum())


def _signal(e_J: Array, classes: int) -> float:
    """sum_k E w_kj^2, the same for every eigenvector."""
    return (1 - 1 / classes) / float(e_J.sum())


def _evenly(count: int) -> NDArray[np.int64]:
    return np.arange(count) if count <= MOST_INPUTS else np.linspace(0, count - 1, MOST_INPUTS).round().astype(np.int64)


def _two_digits(value: float) -> float:
    """Rounded to two significant digits, which is more than a prior knows, and reads well in a plan."""
    return float(f"{value:.2g}")
