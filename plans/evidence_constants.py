"""Filter and temperature of evidence plans, from public facts alone: the public inputs, the noise, how many sites and records are expected.

Neither may follow from a site's own sums, whose scale would be a release of its own. Both follow from a prior for what classes look
like [D]. With G = mean f f^T of the public inputs' features, of norm at most 1, let the labels' indicators be linear in them,
1{y = k} = w_k . f, with coefficients of the same variance in every direction, and all of the labels' variance explained: with eigenvalues
e_j, sum_k E w_kj^2 = p for each eigenvector j, p = (1 - 1/K) / sum_j e_j.

**Filter.** Let C sites of n records each add up their sums, with noise of standard deviation s on each: divided by C n, entry (k, j) is
e_j w_kj, with noise of variance t = s^2 / (C n^2) and two errors of sampling, since neither the records nor the N public inputs have the
covariance of the population: to first order, e_j p d, summed over k, with d = 1 / (C n) + 1 / N. Multiplied by g_j, the error on public
inputs is expected to be

    R(g) = sum_j e_j ((1 - e_j g_j)^2 p + g_j^2 (K t + e_j p d)),

and every term is least at g_j = e_j / (e_j^2 + d e_j + K t / p), the filter of Wiener: the ridge is d, and noise_to_signal K t / p. A
ridge alone, (G + ridge I)^-1, takes too much from strong directions and leaves too much noise in weak ones. Where classes differ more
in weak directions than the prior has it, a smaller ratio is better, and a larger one where less (docs/teachers.md).

**Temperature.** One site's scores z = K S g(G) f / n are then expected to have the variance

    K p sum_j e_j^3 g_j^2 + K^2 (s / n)^2 sum_j e_j g_j^2 + K / n sum_j e_j^2 g_j^2

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
from limbeck.plans.checks import LEAST_NOISE_TO_SIGNAL, REALS

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
class Filter:
    """By what a sum is multiplied in each direction, as in `schema.EvidenceTeaching`."""

    ridge: float
    noise_to_signal: float = 0.0

    def gains(self, e_J: Array) -> Array:
        """(J,) g_j at these eigenvalues, which are above 0."""
        return e_J / (e_J**2 + self.ridge * e_J + self.noise_to_signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What goes into a plan, as in `schema.EvidenceTeaching` and `schema.Stage`."""

    filter: Filter
    temperature: float


def of_inputs(
    f_ND: NDArray[np.floating],
    expected: Expected,
    *,
    ridge: float | None = None,
    noise_to_signal: float | None = None,
) -> Constants:
    """As `choose`, from public inputs. f_ND: as for `eigenvalues`. Raises DataError as `eigenvalues` does."""
    return choose(eigenvalues(f_ND), expected, ridge=ridge, noise_to_signal=noise_to_signal)


def choose(e_J: Array, expected: Expected, *, ridge: float | None = None, noise_to_signal: float | None = None) -> Constants:
    """The constants that an author has not named. e_J: of G. ridge, noise_to_signal: what the author wants them to be."""
    if noise_to_signal is None:
        noise_to_signal = best_noise_to_signal(e_J, expected)
    if ridge is None:
        ridge = best_ridge(e_J, expected) if noise_to_signal == 0 else _sampling_ridge(expected)
    chosen = Filter(ridge=ridge, noise_to_signal=noise_to_signal)
    return Constants(filter=chosen, temperature=temperature(e_J, chosen, expected))


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


def best_noise_to_signal(e_J: Array, expected: Expected) -> float:
    """The ratio of least expected error, within what a plan may have, to two digits. e_J: of G."""
    highest = REALS["teaching.noise_to_signal"][1]
    ratio = _noise(expected) / _signal(e_J, expected.classes)
    return _two_digits(min(max(LEAST_NOISE_TO_SIGNAL, ratio), highest))


def _sampling_ridge(expected: Expected) -> float:
    lowest, highest = REALS["teaching.ridge"]
    return _two_digits(min(max(lowest, _sampling(expected)), highest))


def best_ridge(e_J: Array, expected: Expected) -> float:
    """The ridge of the least expected error where there is nothing else, of those that a plan may have, to two digits. e_J: of G."""
    lowest, highest = REALS["teaching.ridge"]
    tried = np.geomspace(lowest, highest, math.ceil(math.log(highest / lowest) / math.log(FACTOR)))
    risks = [risk(e_J, Filter(ridge=float(each)), expected) for each in tried]
    return _two_digits(float(tried[np.argmin(risks)]))


def risk(e_J: Array, chosen: Filter, expected: Expected) -> float:
    """The expected squared error of the sites' summed scores on public inputs, over all classes, in units of an indicator."""
    signal, gain_J = _signal(e_J, expected.classes), chosen.gains(e_J)
    noise_J = _noise(expected) + e_J * signal * _sampling(expected)
    return float((e_J * ((1 - e_J * gain_J) ** 2 * signal + gain_J**2 * noise_J)).sum())


def temperature(e_J: Array, chosen: Filter, expected: Expected) -> float:
    """The temperature at which a site's scores vary by SPREAD if it holds one class alone, to two digits."""
    lowest, highest = REALS["temperature"]
    return _two_digits(min(max(lowest, deviation(e_J, chosen, expected, one_class=True) / SPREAD), highest))


def deviation(e_J: Array, chosen: Filter, expected: Expected, *, one_class: bool) -> float:
    """The expected standard deviation of one site's scores z over public inputs and classes.

    one_class: the site holds records of one class alone; otherwise of all alike.
    """
    classes, records = expected.classes, expected.records
    solved_J = e_J * chosen.gains(e_J) ** 2
    signal = (classes if one_class else 1) * classes * _signal(e_J, classes) * float((e_J**2 * solved_J).sum())
    noise = (classes * expected.noise / records) ** 2 * float(solved_J.sum())
    sampling = classes / records * float((e_J * solved_J).sum())
    return math.sqrt(signal + noise + sampling)


def pooled_variance(e_J: Array, chosen: Filter, expected: Expected) -> tuple[float, float]:
    """What the mean of all sites' scores, each above its mean over classes, is expected to vary by over public inputs and classes.

    Returns the variance of what the records say, whichever site holds which of them, and that of the noise.
    """
    classes, records = expected.classes, expected.sites * expected.records
    solved_J = e_J * chosen.gains(e_J) ** 2
    signal = classes * _signal(e_J, classes) * float((e_J**2 * solved_J).sum())
    sampling = (classes - 1) / records * float((e_J * solved_J).sum())
    noise = (1 - 1 / classes) * (classes * expected.noise) ** 2 / (expected.sites * expected.records**2)
    return signal + sampling, noise * float(solved_J.sum())


def _noise(expected: Expected) -> float:
    """K t."""
    return expected.classes * expected.noise**2 / (expected.sites * expected.records**2)


def _sampling(expected: Expected) -> float:
    """d."""
    return 1 / (expected.sites * expected.records) + 1 / expected.inputs


def _signal(e_J: Array, classes: int) -> float:
    """sum_k E w_kj^2, the same for every eigenvector."""
    return (1 - 1 / classes) / float(e_J.sum())


def _evenly(count: int) -> NDArray[np.int64]:
    return np.arange(count) if count <= MOST_INPUTS else np.linspace(0, count - 1, MOST_INPUTS).round().astype(np.int64)


def _two_digits(value: float) -> float:
    """Rounded to two significant digits, which is more than a prior knows, and reads well in a plan."""
    return float(f"{value:.2g}")
