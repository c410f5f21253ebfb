"""What a method costs one record of a site, by the accounting that plans use: every mechanism is charged, and all of them are composed.

A method says which mechanisms it has; the noise that they may have at the setting's epsilon follows (`steps`, `shares`), and so does the
epsilon that is claimed. Unit: record; adjacency: add or remove one. A record is at one site, so sites compose in parallel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from limbeck.client.noise import Noise
from limbeck.experiments.baselines.contract import ADD_REMOVE, RECORD, Guarantee, Setting
from limbeck.plans import accounting
from limbeck.plans.schema import Counts, LabelCounts, LinearTeaching, NetTeaching, RecordCount, VotesTeaching

Counted = Literal["labels", "records"]
COUNTS_SHARE = 0.05
# Of the mechanisms that methods here have.
Schedule = LinearTeaching | NetTeaching | VotesTeaching
# By which noise is raised until the accounting, whose figures are rounded up, agrees that it is enough.
ROUNDING = 1.0005
# What is counted, with any noise: records of each class, or records.
COUNTED: dict[Counted, Counts] = {"labels": LabelCounts(noise_std=1.0), "records": RecordCount(noise_std=1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """Mechanisms that fit an epsilon.

    - multiplier: of the noise of every step, 0 without privacy.
    - counts_std: of the noise on every count, 0 without counts or without privacy.
    """

    multiplier: float
    counts_std: float = 0.0
    guarantee: Guarantee


def full_batch(steps: int) -> LinearTeaching:
    """So many Gaussian mechanisms, as the accounting knows them; all that is not their number or their noise has no cost."""
    return LinearTeaching(
        features="rows",
        feature_norm=1.0,
        steps=steps,
        learning_rate=1.0,
        momentum=0.0,
        clip=1.0,
        noise_multiplier=1.0,
        normaliser=1.0,
        average_last=1,
    )


def sampled(steps: int, rate: float) -> NetTeaching:
    """So many Gaussian mechanisms on a Poisson sample each."""
    return NetTeaching(
        architecture="mlp",
        sampling_rate=rate,
        steps=steps,
        learning_rate=1.0,
        momentum=0.0,
        clip=1.0,
        noise_multiplier=1.0,
        normaliser=1.0,
        physical_batch=1,
    )


def votes(queries: int) -> VotesTeaching:
    """So many noisy histograms of votes, each of L2 sensitivity sqrt(2), in which the multiplier is measured."""
    return VotesTeaching(
        teachers=2,
        queries=queries,
        features="rows",
        feature_norm=1.0,
        steps=1,
        learning_rate=1.0,
        momentum=0.0,
        noise_multiplier=1.0,
    )


def steps(setting: Setting, count: int, *, sampling_rate: float = 1.0, counts: Counted | None = None) -> Charged:
    """The least noise with which `count` steps, and noisy counts if asked for, cost the setting's epsilon.

    counts: of what, with COUNTS_SHARE of the cost.
    """
    teaching: Schedule = full_batch(count) if sampling_rate == 1 else sampled(count, sampling_rate)
    sample = f" on Poisson samples of rate {sampling_rate:g}" if sampling_rate < 1 else ""
    said = f"{count} Gaussian step{'s' if count > 1 else ''}{sample}"
    return _calibrated(setting, teaching, counts, said)


def queries(setting: Setting, count: int) -> Charged:
    """The least noise with which so many noisy histograms of votes cost the setting's epsilon; the multiplier is in units of sqrt(2)."""
    return _calibrated(setting, votes(count), None, f"{count} noisy votes (data-independent)")


def shares(setting: Setting, parts: tuple[float, ...], what: tuple[str, ...]) -> tuple[tuple[float, ...], Guarantee]:
    """Noise multipliers of single Gaussian mechanisms that share the setting's epsilon; the k-th has `parts[k]` of the squared mu.

    Gaussian mechanisms compose to one of mu^2 = sum mu_k^2; the epsilon that is claimed is composed by privacy loss distributions.
    """
    if setting.epsilon is None:
        return (0.0,) * len(parts), without(setting)
    mu = accounting.gaussian_mu(setting.epsilon, setting.delta)
    multipliers = tuple(math.sqrt(sum(parts) / part) / mu for part in parts)
    while (spent := _together(multipliers, setting.delta)) > setting.epsilon:
        multipliers = tuple(each * ROUNDING for each in multipliers)
    return multipliers, _claimed(setting, spent, " and ".join(what))


def without(setting: Setting, why: str = "no noise") -> Guarantee:
    """No epsilon holds."""
    return Guarantee(epsilon=None, delta=setting.delta, unit=RECORD, adjacency=ADD_REMOVE, composed=why)


def noisy_counts(counts_K: tuple[int, ...], std: float, noise: Noise) -> tuple[float, ...]:
    """Counts with exact discrete Gaussian noise, none below zero; as they are where std is 0."""
    if not std:
        return tuple(map(float, counts_K))
    noise_K = noise.discrete_gaussian(len(counts_K), variance=Fraction(std) ** 2)
    return tuple(float(max(0, each + drawn)) for each, drawn in zip(counts_K, noise_K.tolist(), strict=True))


def _calibrated(setting: Setting, teaching: Schedule, counts: Counted | None, said: str) -> Charged:
    if setting.epsilon is None:
        return Charged(multiplier=0.0, guarantee=without(setting))
    found, noisy = accounting.calibrate(
        teaching,
        epsilon=setting.epsilon,
        delta=setting.delta,
        label_counts_fraction=None if counts is None else COUNTS_SHARE,
        counts=None if counts is None else COUNTED[counts],
    )
    if noisy is not None:
        said += " and noisy counts"
    spent = accounting.epsilon(((found, noisy),), setting.delta)
    return Charged(
        multiplier=found.noise_multiplier,
        counts_std=0.0 if noisy is None else noisy.noise_std,
        guarantee=_claimed(setting, spent, said),
    )


def _claimed(setting: Setting, epsilon: float, said: str) -> Guarantee:
    return Guarantee(
        epsilon=epsilon,
        delta=setting.delta,
        unit=RECORD,
        adjacency=ADD_REMOVE,
        composed=f"{said}, by privacy loss distributions",
    )


def _together(multipliers: tuple[float, ...], delta: float) -> float:
    """The epsilon of single Gaussian mechanisms, composed."""
    return accounting.epsilon(tuple((replace(full_batch(1), noise_multiplier=each), None) for each in multipliers), delta)
