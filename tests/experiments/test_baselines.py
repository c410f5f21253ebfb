"""Each baseline does what its own paper claims, on a few hundred digits; all cost what they say, and none sees what it must not."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from limbeck.base.errors import RunError, SettingError
from limbeck.client.noise import Noise, SystemEntropy, UnsafeSeeded
from limbeck.experiments.baselines import (
    answers,
    averaging,
    certainty,
    charges,
    flowers,
    gradients,
    heads,
    methods,
    selecting,
    sums,
    voting,
)
from limbeck.experiments.baselines.contract import FEATURE_NORM, Reached, Records, Rows, Setting
from limbeck.experiments.baselines.heads import Descent
from limbeck.inputs import features
from limbeck.plans import accounting

SITES = 5
# Methods whose own epsilon is that of a record, and those whose is not, or who have none.
PRIVATE = [each for each in methods.ALL.values() if each.run is not None and each.private]
OTHERS = [each for each in methods.ALL.values() if each.run is not None and not each.private]


def unit(x_N: Rows, balance: features.Balance) -> Rows:
    return features.normalise(x_N, FEATURE_NORM, balance)


def digits(*, skewed: bool = False, epsilon: float | None = None, noise: Noise | None = None) -> Setting:
    """750 digits at five sites, IID or two classes each; 300 public, 300 to test."""
    bundled = load_digits()
    order = np.random.default_rng(5).permutation(len(bundled.target))
    x_N, y_N = bundled.data[order].astype(np.float32), bundled.target[order].astype(np.int64)
    balance = features.balance("pixels", x_N[:300])
    private, of_private = unit(x_N[300:1050], balance), y_N[300:1050]
    parts = [np.flatnonzero(of_private // 2 == site) if skewed else np.arange(site, 750, SITES) for site in range(SITES)]
    return Setting(
        sites=tuple(Records(x_ND=private[rows], y_N=of_private[rows]) for rows in parts),
        records_per_site=150.0,
        public_ND=unit(x_N[:300], balance),
        test_ND=unit(x_N[1050:1350], balance),
        test_N=y_N[1050:1350],
        classes=10,
        epsilon=epsilon,
        delta=1e-4,
        seed=1,
        noise=noise or UnsafeSeeded(3),
    )


IID, SKEWED = digits(), digits(skewed=True)


def accuracy(setting: Setting, reached: Reached) -> float:
    return reached.accuracy(setting)


# What all have in common


@pytest.mark.parametrize("method", PRIVATE, ids=lambda method: method.name)
def test_a_private_method_spends_the_epsilon_it_was_given_and_no_more(method: methods.Method) -> None:
    assert method.run is not None
    reached = method.run(digits(epsilon=4.0), **method.grid[0])
    claimed = reached.guarantee
    assert claimed.epsilon is not None
    assert 3.9 < claimed.epsilon <= 4.0
    assert (claimed.delta, claimed.unit, claimed.adjacency) == (1e-4, "record", "add-remove-one")


@pytest.mark.parametrize("method", OTHERS, ids=lambda method: method.name)
def test_what_has_no_epsilon_for_a_record_claims_none(method: methods.Method) -> None:
    assert method.run is not None
    claimed = method.run(digits(epsilon=4.0), **method.grid[0]).guarantee
    assert claimed.epsilon is None or claimed.unit != "record"


@pytest.mark.parametrize("method", [*PRIVATE, *OTHERS], ids=lambda method: method.name)
def test_every_method_is_sourced_tuned_and_needs_no_label_but_the_records(method: methods.Method) -> None:
    assert method.run is not None
    assert "[F:" in (inspect.getdoc(method.run) or "") or "[D" in (inspect.getdoc(method.run) or "")
    assert 3 <= len(method.grid) <= 9
    parameters = {name for name in inspect.signature(method.run).parameters if name != "setting"}
    for point in method.grid:
        assert set(point) <= parameters
    blind = replace(IID, test_N=np.zeros_like(IID.test_N), noise=UnsafeSeeded(3))
    seen = replace(IID, noise=UnsafeSeeded(3))
    for one, other in zip(
        method.run(blind, **method.grid[0]).predicted, method.run(seen, **method.grid[0]).predicted, strict=True
    ):
        assert (one == other).all()


@pytest.mark.parametrize("method", [each for each in methods.ALL.values() if each.noiseless], ids=lambda method: method.name)
def test_a_method_that_has_no_use_for_epsilon_reaches_the_same_at_every_one(method: methods.Method) -> None:
    assert method.run is not None
    one, other = (method.run(digits(epsilon=epsilon, noise=SystemEntropy()), **method.grid[0]) for epsilon in (0.1, 8.0))
    assert (one.predicted[0] == other.predicted[0]).all()
    assert one.guarantee == other.guarantee


def test_a_grid_or_a_method_that_is_not_there_is_named() -> None:
    assert set(methods._grids()) <= set(methods.ALL)
    with pytest.raises(SettingError, match=r"Expected a method out of limbeck, .* got 'fedavgg'"):
        methods.method("fedavgg")


# Charges


@pytest.mark.parametrize(("count", "epsilon"), [(1, 0.3), (30, 3.0), (200, 8.0)])
def test_steps_cost_what_one_step_of_the_root_of_their_number_costs(count: int, epsilon: float) -> None:
    setting = replace(IID, epsilon=epsilon)
    charged = charges.steps(setting, count)
    one = accounting.epsilon(
        ((replace(charges.full_batch(1), noise_multiplier=charged.multiplier / math.sqrt(count)), None),), setting.delta
    )
    assert charged.guarantee.epsilon is not None
    assert one == pytest.approx(charged.guarantee.epsilon, rel=1e-3)
    assert 0.98 * epsilon < charged.guarantee.epsilon <= epsilon


def test_sampling_and_counts_are_charged() -> None:
    setting = replace(IID, epsilon=2.0)
    full, some = charges.steps(setting, 30), charges.steps(setting, 30, sampling_rate=0.2)
    assert some.multiplier < full.multiplier
    counted = charges.steps(setting, 30, counts="labels")
    assert counted.multiplier > full.multiplier
    assert counted.counts_std > 0
    # The noise of counts alone would cost far less than the whole.
    alone = accounting.epsilon(((replace(charges.full_batch(1), noise_multiplier=counted.counts_std), None),), setting.delta)
    assert 0 < alone < 0.5


def test_noise_is_of_the_charged_size_and_new_in_every_call() -> None:
    setting = digits(epsilon=1.0, noise=SystemEntropy())
    empty = Records(x_ND=setting.sites[0].x_ND[:0], y_N=setting.sites[0].y_N[:0])
    (multiplier,), _ = charges.shares(setting, (1.0,), ("",))
    one, other = (sums.noisy_sums(empty, setting, multiplier) for _ in range(2))
    assert float(one.std()) == pytest.approx(multiplier, rel=0.15)
    assert not torch.equal(one, other)
    gradient = heads.noisy_sum(
        heads.zeros(setting), heads.with_one(empty.x_ND), torch.from_numpy(empty.y_N), setting.noise, 5.0
    )
    assert float(gradient.std()) == pytest.approx(5 * heads.CLIP, rel=0.15)


class Remembered(UnsafeSeeded):
    """Noise that remembers the standard deviations it was asked for."""

    def __init__(self) -> None:
        super().__init__(3)
        self.stds: list[float] = []

    def gaussian(self, *shape: int, std: float) -> torch.Tensor:
        self.stds.append(std)
        return super().gaussian(*shape, std=std)


@pytest.mark.parametrize(
    "method", [each for each in PRIVATE if each.name not in {"pate", "fedauxfdp"}], ids=lambda method: method.name
)
def test_every_noisy_release_of_a_site_is_charged(method: methods.Method) -> None:
    """All of these have sensitivity 1; the noise of all of a site's releases is that of the whole epsilon, counts apart."""
    noise = Remembered()
    assert method.run is not None
    method.run(digits(epsilon=4.0, noise=noise), **method.grid[0])
    spent = sum(std**-2 for std in noise.stds) / (1 if method.name == "central" else SITES)
    whole = accounting.gaussian_mu(4.0, 1e-4) ** 2
    assert 0.93 * whole < spent <= whole * 1.0001


def test_the_noise_of_votes_and_of_perturbed_heads_follows_their_sensitivities() -> None:
    noise = Remembered()
    setting = digits(epsilon=4.0, noise=noise)
    voting.pate(setting, teachers=5, queries=50)
    (std,) = noise.stds
    assert 50 * 2 / std**2 <= accounting.gaussian_mu(4.0, 1e-4) ** 2
    noise.stds.clear()
    certainty.fedauxfdp(setting, regularisation=3.0, certainty=1.0)
    sensitivities = ((math.sqrt(2) + 2 * certainty.TOLERANCE) / 3, (1 + 2 * certainty.TOLERANCE) / 3) * SITES
    spent = sum((each / std) ** 2 for each, std in zip(sensitivities, noise.stds, strict=True)) / SITES
    assert 0.98 * accounting.gaussian_mu(4.0, 1e-4) ** 2 < spent <= accounting.gaussian_mu(4.0, 1e-4) ** 2


def test_one_record_moves_a_sum_of_gradients_by_the_clip_at_most() -> None:
    records, weight = IID.sites[0], torch.full((10, 65), 0.7) * torch.arange(10)[:, None]
    x_ND, y_N = heads.with_one(records.x_ND), torch.from_numpy(records.y_N)
    whole = heads.noisy_sum(weight, x_ND, y_N, IID.noise, 0.0)
    for row in range(5):
        others = torch.arange(len(y_N)) != row
        assert (
            float((whole - heads.noisy_sum(weight, x_ND[others], y_N[others], IID.noise, 0.0)).norm()) <= 1.001 * heads.CLIP
        )
    moved = sums.noisy_sums(records, IID, 0.0) - sums.noisy_sums(
        Records(x_ND=records.x_ND[1:], y_N=records.y_N[1:]), IID, 0.0
    )
    assert float(moved.norm()) == pytest.approx(1, abs=1e-5)


# Averages and gradients


def test_fedsgd_without_noise_is_gradient_descent_on_all_records_whatever_the_skew() -> None:
    together = averaging.together(SKEWED)
    alone = replace(SKEWED, sites=(together,), records_per_site=750.0)
    one, other = (gradients.dp_fedsgd(each, rounds=30, rate=1.0, sampling_rate=1.0) for each in (SKEWED, alone))
    assert (one.predicted[0] == other.predicted[0]).mean() > 0.99


def test_more_local_steps_need_fewer_rounds_on_iid_records() -> None:
    few, many = (accuracy(IID, flowers.fedavg(IID, rounds=3, local=local, rate=1.0)) for local in (1, 20))
    assert many > few + 0.02


def test_flowers_strategy_averages_by_size_as_its_paper_says() -> None:
    def heads_of_nodes(site: int, sent: torch.Tensor, proximal: float) -> tuple[torch.Tensor, int]:
        return sent + site, 1 + 2 * site

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=2)
    result = strategy.start(flowers.FunctionGrid(2, heads_of_nodes), flowers._record(torch.zeros(2, 3)), num_rounds=1)
    assert result.arrays[flowers.KEY].numpy() == pytest.approx(np.full((2, 3), 0.75))
    for call in (
        flowers.FunctionGrid(1, heads_of_nodes).push_messages,
        flowers.FunctionGrid(1, heads_of_nodes).pull_messages,
    ):
        with pytest.raises(NotImplementedError, match="send_and_receive"):
            call([])


def test_fedprox_keeps_local_heads_near_the_shared_one() -> None:
    start = heads.zeros(SKEWED)

    def moved(proximal: float) -> float:
        descent = Descent(steps=30, rate=1.0, multiplier=0.0, normaliser=150.0, momentum=0.0, proximal=proximal)
        return float((heads.descend(start, SKEWED.sites[0], descent, SKEWED.noise) - start).norm())

    assert moved(1.0) < 0.5 * moved(0.0)


def test_a_whole_site_is_what_flowers_wrapper_protects_and_five_sites_hide_none() -> None:
    setting = digits(epsilon=4.0)
    reached = flowers.flower_dp(setting, rounds=3, local=5, rate=1.0, clip=0.5)
    assert reached.guarantee.unit == "client"
    assert accuracy(setting, reached) < accuracy(IID, flowers.flower_dp(IID, rounds=3, local=5, rate=1.0, clip=0.5)) - 0.2


def test_class_counts_make_one_shot_averages_bear_skew() -> None:
    size, counts = (
        accuracy(SKEWED, average(SKEWED, steps=30, rate=1.0)) for average in (averaging.by_size, averaging.by_class_counts)
    )
    assert counts > size
    assert accuracy(SKEWED, averaging.alone(SKEWED, steps=30, rate=1.0)) < 0.25


def test_class_sums_do_not_depend_on_who_holds_which_record() -> None:
    iid, skewed = (sums.class_sums(setting, ridge=0.01) for setting in (IID, SKEWED))
    assert (iid.predicted[0] == skewed.predicted[0]).all()
    assert accuracy(IID, iid) > 0.85


@pytest.mark.parametrize("samples", [40, 300])
def test_a_ridge_solution_is_the_same_through_public_rows_as_through_features(samples: int) -> None:
    public_ND = IID.public_ND[:samples]
    public = torch.from_numpy(public_ND).double() / FEATURE_NORM
    gram = public.T @ public / samples + 0.01 * torch.eye(64, dtype=torch.float64)
    columns_DN = torch.from_numpy(IID.test_ND).double().T
    expected = torch.linalg.solve(gram, columns_DN)
    assert torch.allclose(heads.ridge_solve(public_ND, columns_DN, 0.01), expected, atol=1e-7)


# Answers


def test_entropy_reduction_makes_answers_surer_and_keeps_the_first() -> None:
    p_NK = torch.tensor([[0.4, 0.35, 0.25], [0.6, 0.2, 0.2]])
    sharp = answers.sharpened(p_NK, answers.SHARPENING)
    assert (sharp.max(1).values > p_NK.max(1).values).all()
    assert (sharp.argmax(1) == p_NK.argmax(1)).all()
    assert accuracy(IID, answers.ds_fl(IID, rounds=1, local=10, rate=1.0)) > 0.85


def test_several_heads_that_are_fitted_together_come_where_each_comes_alone() -> None:
    target_NK = heads.logits(averaging.heads_of(IID, charges.steps(IID, 30), 30, 1.0)[0], IID.public_ND).softmax(1)
    start_CKD = torch.randn(3, 10, 65, generator=torch.Generator().manual_seed(1))
    together = heads.fit_each(IID.public_ND, target_NK, start_CKD, decay=1e-2, steps=200)
    for start_KD, found_KD in zip(start_CKD, together, strict=True):
        alone = heads.fit(IID.public_ND, target_NK, decay=1e-2, start_KD=start_KD, steps=200)
        assert torch.allclose(found_KD, alone, atol=1e-2)


def test_participants_of_fedmd_gain_on_being_alone() -> None:
    alone = accuracy(SKEWED, averaging.alone(SKEWED, steps=30, rate=1.0))
    assert accuracy(SKEWED, answers.fedmd(SKEWED, rounds=2, local=10, rate=1.0)) > alone + 0.3


def test_feddf_does_not_fall_behind_the_average_that_it_starts_from() -> None:
    average = flowers.fedavg(IID, rounds=1, local=10, rate=1.0)
    assert accuracy(IID, answers.feddf(IID, rounds=1, local=10, rate=1.0)) >= accuracy(IID, average) - 0.02


def test_cfd_sends_a_tenth_of_the_bytes_and_costs_little_accuracy() -> None:
    dense, coded = answers.ds_fl(IID, rounds=3, local=10, rate=1.0), answers.cfd(IID, rounds=3, local=10, rate=1.0, bits=1)
    assert coded.bytes_up < dense.bytes_up / 10
    assert accuracy(IID, coded) > accuracy(IID, dense) - 0.06


@given(rows=st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=5), bits=st.integers(1, 8))
def test_quantised_answers_are_distributions_with_the_same_first_class(rows: list[list[float]], bits: int) -> None:
    p_NK = torch.tensor(rows, dtype=torch.float64)
    p_NK /= p_NK.sum(1, keepdim=True)
    coarse = answers.quantised(p_NK, bits)
    assert torch.allclose(coarse.sum(1), torch.ones(len(rows), dtype=torch.float64))
    assert (coarse.gather(1, p_NK.argmax(1, keepdim=True))[:, 0] == coarse.max(1).values).all()


def test_what_did_not_change_since_the_last_round_is_free() -> None:
    labels = np.arange(64) % 4
    assert answers.coded_bits([labels], lambda each: each) == pytest.approx(128)
    assert answers.coded_bits([labels, labels, labels], lambda each: each) == pytest.approx(128)


def test_selectors_help_where_every_site_knows_two_classes() -> None:
    chosen, every = (
        accuracy(SKEWED, selecting.selective_fd(SKEWED, rate=1.0, answered=answered, kept=0.7)) for answered in (0.3, 1.0)
    )
    assert chosen > every + 0.2


# Votes and certainty


def test_more_teachers_bear_the_noise_of_pate_better() -> None:
    setting = digits(epsilon=6.0)
    few, many = (accuracy(setting, voting.pate(setting, teachers=teachers, queries=60)) for teachers in (3, 60))
    assert many > few


def test_the_votes_of_all_teachers_are_counted_once() -> None:
    counts = voting.votes(IID, IID.public_ND[:20], 7)
    assert (counts.sum(1) == 7).all()


def test_sites_that_abstain_leave_the_votes_to_those_that_know() -> None:
    knows, guesses = [[0.9, 0.1, 0.0], [0.4, 0.3, 0.3]], [[0.3, 0.4, 0.3], [0.4, 0.3, 0.3]]
    p_CNK = torch.tensor([knows, guesses, guesses])
    assert [each.tolist() for each in voting.majority(p_CNK, 0.0)] == [[0, 1], [1, 0]]
    assert [each.tolist() for each in voting.majority(p_CNK, 0.5)] == [[0], [0]]
    assert not len(voting.majority(p_CNK, 0.95)[0])
    nobody = voting.abstaining(replace(IID, epsilon=None), steps=1, rate=1e-3, threshold=0.99)
    assert nobody.notes == "0 of 300 inputs have a vote"


@given(value=st.floats(-1, 1), epsilon=st.floats(0.5, 4))
def test_the_piecewise_mechanism_is_unbiased_and_bounded(value: float, epsilon: float) -> None:
    drawn = voting.piecewise(torch.full((20_000,), value, dtype=torch.float64), epsilon, UnsafeSeeded(1))
    bound = (math.exp(epsilon / 2) + 1) / (math.exp(epsilon / 2) - 1)
    assert float(drawn.abs().max()) <= bound + 1e-9
    assert float(drawn.mean()) == pytest.approx(value, abs=5 * bound / math.sqrt(20_000))


def test_what_aafv_claims_is_said_to_be_of_one_answer() -> None:
    reached = voting.aafv(digits(epsilon=1.0), threshold=0.3)
    assert reached.guarantee.unit == "one answer"
    assert "300 answers come to epsilon = 300" in reached.notes


def test_a_site_is_most_certain_of_inputs_like_its_own() -> None:
    bundled = load_digits()
    public_y = bundled.target[np.random.default_rng(5).permutation(len(bundled.target))][:300]
    public = torch.from_numpy(SKEWED.public_ND).double() / FEATURE_NORM
    for site, records in enumerate(SKEWED.sites[:3]):
        found = certainty.certainties(records, SKEWED, public, 1.0, 0.0).numpy()
        assert found[public_y // 2 == site].mean() > 1.5 * found[public_y // 2 != site].mean()
    assert accuracy(SKEWED, certainty.fedauxfdp(SKEWED, regularisation=1.0, certainty=1.0)) > 0.85


def test_one_record_moves_a_perturbed_head_within_its_sensitivity() -> None:
    records = IID.sites[0]
    for row in range(3):
        others = np.arange(len(records)) != row
        fewer = Records(x_ND=records.x_ND[others], y_N=records.y_N[others])
        whole, less = (certainty.perturbed_head(each, IID, 2.0, 0.0) for each in (records, fewer))
        assert 0 < float((whole - less).norm()) <= (math.sqrt(2) + 2 * certainty.TOLERANCE) / 2.0


def test_a_minimum_that_is_not_reached_gets_no_guarantee() -> None:
    def falls_for_ever(weight: torch.Tensor) -> torch.Tensor:
        return weight.sum()

    with pytest.raises(RunError, match="whose gradient has a norm of at most"):
        certainty.minimum(falls_for_ever, torch.zeros(4, dtype=torch.float64))


# Heads


def test_a_fit_reaches_targets_that_a_linear_head_can_reach() -> None:
    true = torch.from_numpy(np.random.default_rng(1).normal(size=(10, 65))).float()
    targets = heads.logits(true, IID.public_ND).argmax(1)
    weight = heads.fit(IID.public_ND, heads.one_hot(targets.numpy(), 10), decay=1e-6)
    assert (heads.logits(weight, IID.public_ND).argmax(1) == targets).float().mean() > 0.97


@pytest.mark.parametrize(("symbols", "bits"), [([1, 1, 1], 0.0), ([0, 1, 0, 1], 4.0), ([], 0.0)])
def test_an_ideal_coder_needs_the_entropy(symbols: list[int], bits: float) -> None:
    assert heads.bits_of(np.array(symbols, np.int64)) == pytest.approx(bits)
