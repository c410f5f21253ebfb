"""Two accountants that share no code agree on whatever a plan can say, and a disagreement is loud."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from helpers.plans import LINEAR
from limbeck.plans import accounting, second_opinion
from limbeck.plans.accounting import FormerCounts, Schedule
from limbeck.plans.schema import EvidenceTeaching, LabelCounts, NetTeaching, RecordCount, VotesTeaching
from limbeck.plans.second_opinion import Opinion

NET = NetTeaching(
    architecture="cnn",
    sampling_rate=0.17,
    steps=150,
    learning_rate=2.0,
    momentum=0.9,
    clip=0.1,
    noise_multiplier=2.0,
    normaliser=256.0,
    physical_batch=256,
)
VOTES = VotesTeaching(
    teachers=100,
    queries=500,
    features="pixels",
    feature_norm=4.0,
    steps=30,
    learning_rate=4.0,
    momentum=0.9,
    noise_multiplier=60.0,
)
EVIDENCE = EvidenceTeaching(
    features="pixels", constant=0.3, normaliser=300.0, ridge=0.01, noise_multiplier=1.7, resolution=1 << 16
)
SCHEDULES: dict[str, tuple[Schedule, ...]] = {
    "Gaussian steps": ((LINEAR, None),),
    "one Gaussian step": ((replace(LINEAR, steps=1, average_last=1, noise_multiplier=1.2), None),),
    "Poisson-sampled steps": ((NET, None),),
    "a few rare steps": ((replace(NET, sampling_rate=0.01, steps=10, noise_multiplier=0.6), None),),
    "sampled at a rate of 1": ((replace(NET, sampling_rate=1.0, steps=20, noise_multiplier=4.0), None),),
    "votes": ((VOTES, None),),
    "evidence": ((EVIDENCE, None),),
    "label counts": ((LINEAR, LabelCounts(noise_std=20.0)),),
    "a count with little noise": ((NET, RecordCount(noise_std=1.0)),),
    "float counts of 0.1.0": ((LINEAR, FormerCounts(noise_std=15.0)),),
    "several plans": ((LINEAR, None), (NET, LabelCounts(noise_std=60.0)), (VOTES, None), (LINEAR, None)),
    "hardly a cost": ((replace(LINEAR, noise_multiplier=5000.0), None),),
    "nothing": (),
}


@pytest.mark.parametrize("schedules", [pytest.param(one, id=name) for name, one in SCHEDULES.items()])
def test_the_accountants_agree_within_the_error_that_prv_states(schedules: tuple[Schedule, ...]) -> None:
    delta = 1e-5
    decided, opinion = accounting.epsilon(schedules, delta), second_opinion.of(schedules, delta)
    assert opinion.epsilon is not None
    assert opinion.disagreement(decided) == ""
    assert opinion.low <= opinion.epsilon <= opinion.high
    counted = any(isinstance(counts, LabelCounts | RecordCount) for _, counts in schedules)
    assert bool(opinion.note) is counted
    if not counted and schedules:
        assert opinion.epsilon == pytest.approx(decided, abs=2e-3)
        assert opinion.high - opinion.low <= 2 * second_opinion.ERROR * 1.1


def test_they_agree_at_a_small_delta_too() -> None:
    decided, opinion = (of(((NET, None),), 1e-9) for of in (accounting.epsilon, second_opinion.of))
    assert isinstance(opinion, Opinion)
    assert isinstance(decided, float)
    assert opinion.disagreement(decided) == ""


def test_counts_only_widen_the_enclosure_by_what_they_can_cost() -> None:
    without, with_counts = (second_opinion.of(((LINEAR, counts),), 1e-5) for counts in (None, LabelCounts(noise_std=20.0)))
    assert with_counts.low == without.low
    assert without.high < with_counts.high
    assert with_counts.epsilon == pytest.approx(accounting.epsilon(((LINEAR, LabelCounts(noise_std=20.0)),), 1e-5), abs=2e-3)


@pytest.mark.parametrize("change", [0.8, 1.25])
def test_an_accountant_that_counts_other_noise_or_steps_is_contradicted_loudly(change: float) -> None:
    for wrong in (replace(NET, noise_multiplier=NET.noise_multiplier * change), replace(NET, steps=int(150 / change))):
        said = second_opinion.of(((NET, None),), 1e-5).disagreement(accounting.epsilon(((wrong, None),), 1e-5))
        assert said.startswith("THE TWO ACCOUNTANTS DISAGREE: PLD, which decides, says")
        assert ("do not run it" in said) is (change > 1)


def test_without_a_figure_it_says_why_and_contradicts_nobody() -> None:
    hardly = ((replace(LINEAR, noise_multiplier=0.1), None),)
    assert accounting.epsilon(hardly, 1e-5) == math.inf
    opinion = second_opinion.of(hardly, 1e-5)
    assert (opinion.epsilon, opinion.figure, opinion.disagreement(math.inf)) == (None, "none", "")
    assert opinion.sentence == "PRV (Opacus) has no figure: the figure that decides is infinite"
    assert opinion.values == {
        "accountant": "PRV (Opacus)",
        "epsilon": None,
        "low": None,
        "high": None,
        "note": "the figure that decides is infinite",
    }


def test_what_a_figure_looks_like() -> None:
    opinion = Opinion(2.99812, 2.98812, 3.00812)
    assert (opinion.figure, opinion.sentence) == ("2.998", "PRV (Opacus) says 2.998, between 2.988 and 3.008")
    assert opinion.disagreement(3.00812) == opinion.disagreement(2.98812) == ""
    assert opinion.disagreement(3.0082) != "" != opinion.disagreement(2.9881)
