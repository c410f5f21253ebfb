"""The estimators behind the experiments on theory find what was planted, and no more than that."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from limbeck.base.errors import SettingError
from limbeck.experiments.theory import additive, bias_variance, common, equivalence, findings, results, stages
from limbeck.experiments.theory.results import COEFFICIENTS
from limbeck.operators import Power, Shared, compare, compare_targets

Floats = NDArray[np.float64]


# Bias and variance.


def ridge_problem() -> tuple[Floats, Floats, float, Floats, Floats]:
    """Design, true coefficients, noise, test inputs, and the ridge solution's matrix: all of it fixed."""
    rng = np.random.default_rng(0)
    x_MD, test_ND, truth_DK = rng.normal(size=(30, 5)), rng.normal(size=(40, 5)), rng.normal(size=(5, 2))
    solve_DM: Floats = np.linalg.solve(x_MD.T @ x_MD + 12 * np.eye(5), x_MD.T).astype(np.float64)
    return x_MD, truth_DK, 0.7, test_ND, solve_DM


def ridge_replicates(replicates: int, seed: int) -> Floats:
    x_MD, truth_DK, noise, test_ND, solve_DM = ridge_problem()
    rng = np.random.default_rng(seed)
    return np.stack([test_ND @ solve_DM @ (x_MD @ truth_DK + noise * rng.normal(size=(30, 2))) for _ in range(replicates)])


def ridge_closed_form() -> tuple[float, float]:
    x_MD, truth_DK, noise, test_ND, solve_DM = ridge_problem()
    bias_NK = test_ND @ solve_DM @ x_MD @ truth_DK - test_ND @ truth_DK
    return float((bias_NK**2).sum(1).mean()), float(2 * noise**2 * ((test_ND @ solve_DM) ** 2).sum(1).mean())


def test_bias_and_variance_of_ridge_regression_are_those_of_the_closed_form() -> None:
    _, truth_DK, _, test_ND, _ = ridge_problem()
    # 400 experiments of 4 replicates each: only an unbiased estimator gets their mean right.
    found = [bias_variance.decompose(bias_variance.gram(ridge_replicates(4, s), test_ND @ truth_DK)) for s in range(400)]
    bias, variance = np.array(found)[:, :, 0].mean(0)
    expected_bias, expected_variance = ridge_closed_form()
    assert bias == pytest.approx(expected_bias, rel=0.03)
    assert variance == pytest.approx(expected_variance, rel=0.03)


@given(seed=st.integers(0, 100), replicates=st.integers(2, 6))
def test_with_equal_weights_both_add_up_to_the_mean_squared_error(seed: int, replicates: int) -> None:
    rng = np.random.default_rng(seed)
    predictions, reference = rng.normal(size=(replicates, 7, 3)), rng.normal(size=(7, 3))
    bias, variance = bias_variance.decompose(bias_variance.gram(predictions, reference))
    assert float(bias[0] + variance[0]) == pytest.approx(((predictions - reference) ** 2).sum(2).mean())


def test_bootstrap_weights_do_not_shrink_the_variance() -> None:
    _, truth_DK, _, test_ND, _ = ridge_problem()
    own = bias_variance.gram(ridge_replicates(4, 1), test_ND @ truth_DK)
    rng = np.random.default_rng(2)
    weights = np.ones((4000, len(own))), rng.exponential(size=(4000, 4))
    # A plain bootstrap of 4 replicates would come out at 3/4 of it.
    assert bias_variance.decompose(own, *weights)[1].mean() == pytest.approx(bias_variance.decompose(own)[1][0], rel=0.03)


def planted(seed: int, *, teacher: tuple[float, float], student: tuple[float, float]) -> tuple[Floats, Floats]:
    """Gram matrices of 8 replicates with a given bias and standard deviation per entry, 60 samples, 2 classes, truth 0."""
    rng = np.random.default_rng(seed)
    zero = np.zeros((60, 2))
    return (
        bias_variance.gram(teacher[0] + teacher[1] * rng.normal(size=(8, 60, 2)), zero),
        bias_variance.gram(student[0] + student[1] * rng.normal(size=(8, 60, 2)), zero),
    )


@pytest.mark.parametrize(("student", "wins"), [((0.2, 0.1), True), ((0.7, 0.1), False)])
def test_the_steady_student_should_win_only_while_its_bias_is_small(student: tuple[float, float], wins: bool) -> None:
    found = bias_variance.condition(*planted(0, teacher=(0.1, 0.5), student=student), seed=0)
    expected = {"variance_gain": 2 * (0.25 - 0.01), "bias_cost": 2 * (student[0] ** 2 - 0.01)}
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=0.06)
    assert found["gain"].value == pytest.approx(found["variance_gain"].value - found["bias_cost"].value)
    assert (found["gain"].value > 0) is wins
    assert found["gain"].decided


def test_the_interval_of_the_gain_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 2 * (0.25 - 0.16) - 2 * (0.04 - 0.01)
    covered = 0
    for seed in range(120):
        found = bias_variance.condition(*planted(seed, teacher=(0.1, 0.5), student=(0.2, 0.4)), seed=seed, draws=300)["gain"]
        covered += found.low <= truth <= found.high
    assert 0.85 <= covered / 120 <= 1.0
    assert covered < 120 or found.high - found.low < 0.3


def test_verdicts_count_predictions_against_what_the_other_half_saw() -> None:
    def half(gain: float, accuracy: float) -> dict[str, bias_variance.Estimate]:
        def sure(value: float) -> bias_variance.Estimate:
            return bias_variance.Estimate(value=value, low=value - 0.01, high=value + 0.01)

        return {"gain": sure(gain), "accuracy_gain": sure(accuracy)}

    points = [
        bias_variance.Point(data="a", temperature=1.0, sparsity=0.5, halves=[half(0.2, -0.1), half(0.3, 0.1)]),
        bias_variance.Point(data="b", temperature=1.0, sparsity=0.9, halves=[half(-0.2, -0.1), half(0.005, 0.1)]),
    ]
    found = bias_variance.verdicts(points)
    # Seen: the student wins in three of four.
    assert found["squared_error"]["constant"] == {"right": 3, "of": 4}
    assert found["squared_error"]["all"] == {"right": 2, "of": 4}
    assert found["squared_error"]["decided"] == {"right": 2, "of": 3}
    assert found["squared_error"]["decided_and_clear"] == {"right": 2, "of": 2}
    assert found["squared_error"]["decided_but_wrong"] == ["b, T = 1, 90%, half 0 to 1"]
    assert found["accuracy"]["student_predicted_decided"] == {"right": 1, "of": 2}


# Stages.


def curves(a: float, b: float, c: float, noise: float, seeds: int = 5) -> Floats:
    n = np.array(stages.STAGES, float)
    rng = np.random.default_rng(1)
    return a / n + b + c * n + noise * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, len(n)))


def test_the_fit_recovers_planted_coefficients_within_its_intervals() -> None:
    exact = stages.fit(stages.STAGES, curves(0.8, 0.3, 0.02, 0.0))
    assert [exact[name]["mean"] for name in COEFFICIENTS] == pytest.approx([0.8, 0.3, 0.02])
    assert exact["explained"] == pytest.approx(1)
    found = stages.fit(stages.STAGES, curves(0.8, 0.3, 0.02, 0.01))
    for name, value in zip(COEFFICIENTS, (0.8, 0.3, 0.02), strict=True):
        assert found[name]["low"] < value < found[name]["high"]
    assert found["separated"] == ["A", "c"]
    assert found["best_n"] == pytest.approx(math.sqrt(0.8 / 0.02), rel=0.15)


def test_a_fit_is_refused_where_no_such_curve_passes_through_the_mean_and_else_as_often_as_by_chance() -> None:
    n = np.array(stages.STAGES, float)
    rng = np.random.default_rng(3)

    def noise() -> Floats:
        return 0.01 * rng.normal(size=(5, len(n)))

    refused = [stages.fit(stages.STAGES, 0.8 / n + 0.3 + 0.02 * n + noise())["p_value"] for _ in range(300)]
    assert 0.02 <= float(np.mean([p < 0.05 for p in refused])) <= 0.09
    dip = np.where(n == 4, 0.1, 0.4)
    assert stages.fit(stages.STAGES, dip + noise())["p_value"] < 0.001


def test_a_flat_noisy_curve_has_no_best_number_of_stages() -> None:
    found = stages.fit(stages.STAGES, curves(0.0, 0.3, 0.0, 0.05))
    assert found["separated"] == []
    assert found["best_n"] is None


def test_a_t_interval_is_the_textbook_one() -> None:
    found = stages.interval(np.array([1.0, 2.0, 3.0, 4.0]))
    # t(0.975, 3) = 3.182, standard error = 0.6455.
    assert found["mean"] == 2.5
    assert found["high"] - 2.5 == pytest.approx(3.182 * 0.6455, rel=1e-3)


def test_the_slope_recovers_an_exponent() -> None:
    n = np.array(stages.STAGES, float)
    found = stages.slope(stages.STAGES, np.stack([2.0 * n**-0.7, 3.0 * n**-0.9]))
    assert found["mean"] == pytest.approx(-0.8)


@pytest.mark.parametrize("design", stages.DESIGNS.values(), ids=list(stages.DESIGNS))
def test_every_cell_is_listed_once_and_every_n_gets_the_same_steps(design: stages.Design) -> None:
    found = list(stages.cells(design))
    assert len(found) == len(set(found))
    assert all(design.epochs % cell.stages == 0 for cell in found)


def test_the_pruning_curve_starts_at_zero_and_leaves_the_model_dense() -> None:
    x = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model, masks = common.fresh(x, 10, seed=1)
    curve = stages.pruning_curve(model, x, (0.0, 0.5, 0.99))
    assert curve[0] == (0.0, 0.0)
    assert 0 < curve[1][1] < curve[2][1]
    masks.prune(model, 0.0)
    assert all(bool((weight != 0).any(-1).all()) for weight in model.parameters() if weight.ndim > 1)


def test_training_stage_by_stage_ends_at_the_sparsity_and_anchors_contract() -> None:
    design = replace(stages.DESIGNS["stages"], epochs=4, teacher_epochs=2)
    cell = stages.Cell(stages=2, sparsity=0.9, temperature=2.0, path="equal-kl", alpha=0.5, seed=1)
    found = stages.train(design, cell)
    assert found["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert len(found["jumps"]) == 2
    assert all(0 < ratio <= 0.5 for ratio in found["contractions"])
    assert found == stages.train(design, cell)


# Equivalence.


def answers(n: int = 300, classes: int = 5) -> torch.Tensor:
    z_NK = 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z_NK.log_softmax(-1)


def seen(n: int = 300, features: int = 2) -> torch.Tensor:
    x_ND = torch.randn(n, features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.cat([torch.ones(n, 1, dtype=torch.float64), x_ND], 1)


@pytest.fixture(scope="module")
def bend() -> equivalence.Bend:
    return equivalence.bend_to_equal_moments(Power(2.0), answers(), seen())


def test_a_bent_operator_has_other_targets_and_the_same_moments(bend: equivalence.Bend) -> None:
    found = compare(Power(2.0), equivalence.BentPower(2.0, bend), answers(), features_ND=seen(), tolerance=1e-12)
    assert found.shared is Shared.MOMENTS
    assert found.targets > 1e-3
    other = compare(Power(2.0), equivalence.BentPower(2.0, bend), answers(), features_ND=seen(features=20), tolerance=1e-12)
    assert other.shared is Shared.DECISIONS


@given(weights=st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8), t=st.floats(1.0, 30), more=st.floats(0.01, 5))
def test_a_bent_operator_keeps_the_axioms(bend: equivalence.Bend, weights: list[float], t: float, more: float) -> None:
    log_p = torch.tensor([weights], dtype=torch.float64).log().log_softmax(-1)
    soft, softer = (equivalence.BentPower(at, bend).from_log(log_p) for at in (t, t + more))
    order = log_p[0].argsort()
    assert bool((soft[0][order].diff()[log_p[0][order].diff() > 1e-9] > 0).all())
    entropy = [-float((q.exp() * q).sum()) for q in (soft, softer)]
    assert entropy[1] >= entropy[0] - 1e-12
    torch.testing.assert_close(equivalence.BentPower(1.0, bend).from_log(log_p), log_p)
    uniform = torch.full_like(log_p, 1 / log_p.shape[1])
    torch.testing.assert_close(equivalence.BentPower(1e9, bend)(log_p.exp()), uniform, atol=1e-6, rtol=0)


def test_a_bend_that_could_break_the_axioms_is_refused(bend: equivalence.Bend) -> None:
    steep = equivalence.Bend(centre_J=bend.centre_J, weight_J=2 * bend.weight_J, width=bend.width)
    with pytest.raises(SettingError, match=r"slope < 0\.25"):
        equivalence.BentPower(2.0, steep)


def test_tilted_targets_are_distributions_with_the_same_moments() -> None:
    f_NK = Power(2.0).from_log(answers()).exp()
    g_NK = equivalence.tilt_to_equal_moments(f_NK, seen(), size=0.5, seed=3)
    torch.testing.assert_close(g_NK.sum(1), torch.ones(300, dtype=torch.float64))
    assert float(g_NK.min()) > 0
    found = compare_targets(f_NK, g_NK, features_ND=seen(), tolerance=1e-12)
    assert found.shared is Shared.MOMENTS
    assert found.mean_l1 > 0.05


def test_the_student_is_fitted_until_its_gradient_vanishes() -> None:
    f_NK, phi_ND = Power(2.0).from_log(answers()).exp(), seen()
    w_DK = equivalence.fit(phi_ND, f_NK, ridge=0.01).requires_grad_()
    (-(f_NK * (phi_ND @ w_DK).log_softmax(-1)).sum(-1).mean() + 0.005 * w_DK.square().sum()).backward()
    assert w_DK.grad is not None
    assert float(w_DK.grad.norm()) < 1e-13


# What they share.


def test_finished_cells_survive_an_interruption_and_a_torn_line_is_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute(value: int) -> dict[str, int]:
        calls.append(value)
        return {"value": value}

    rows = common.Rows(tmp_path / "rows.jsonl", dict[str, int])
    for i in (1, 2, 3):
        rows.get({"i": i}, lambda i=i: compute(i))  # type: ignore[misc]
    whole = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(whole[:-5])
    again = common.Rows(tmp_path / "rows.jsonl", dict[str, int])
    assert [again.get({"i": i}, lambda i=i: compute(i)) for i in (1, 2, 3)] == [{"value": i} for i in (1, 2, 3)]  # type: ignore[misc]
    assert calls == [1, 2, 3, 3]
    assert (tmp_path / "rows.jsonl").read_bytes() == whole


def test_every_table_of_the_page_of_findings_is_what_the_committed_results_say() -> None:
    root = Path(__file__).parent.parent.parent
    page = (root / findings.PAGE).read_text(encoding="utf-8")
    assert findings.fill(page, root / common.RESULTS) == page
    assert {match[2] for match in findings.MARKED.finditer(page)} == set(findings.TABLES)


def test_what_the_page_says_in_words_is_in_the_committed_results() -> None:
    root = Path(__file__).parent.parent.parent / common.RESULTS
    digits = results.read(root / "stages.json", results.Stages)
    groups = {(g["path"], g["alpha"], g["temperature"], g["sparsity"]): g for g in digits["groups"]}
    high = [g for (path, alpha, _, s), g in groups.items() if path == "cubic" and alpha == 1 and s >= 0.98]
    assert all(g["one_shot_minus_n"][1]["low"] > 0 for g in high)
    assert all((g["fit"]["separated"] == ["A", "c"]) == (g["temperature"] > 1) for g in high)
    assert all(gain["high"] < 0 for gain in groups["cubic", 1.0, 1.0, 0.9]["one_shot_minus_n"])
    assert all(gain["low"] < 0 for t in (2.0, 4.0) for gain in groups["cubic", 1.0, t, 0.9]["one_shot_minus_n"])
    assert all((g["jumps_slope"]["low"] > 0) == (g["sparsity"] >= 0.9) for g in groups.values())
    for path in ("linear", "equal-kl"):
        assert all(gain["low"] < 0 for gain in groups[path, 1.0, 2.0, 0.98]["one_shot_minus_n"])
    refused = [g["sparsity"] for g in high if g["temperature"] == 2 and g["fit"]["p_value"] < 0.01]
    assert refused == [0.98, 0.99]
    of_fashion = results.read(root / "stages_fashion.json", results.Stages)
    fashion = {g["sparsity"]: g for g in of_fashion["groups"]}
    for sparsity in (0.98, 0.99):
        group = fashion[sparsity]
        assert min(range(5), key=lambda i, group=group: group["error"][i]["mean"]) == 2  # type: ignore[misc]
        assert group["one_shot_minus_n"][1]["low"] > 0 > group["one_shot_minus_n"][3]["low"]
        assert group["jumps_slope"]["low"] > 0
        assert group["fit"]["p_value"] > 0.05
        gradual = of_fashion["within_error"][f"{sparsity:g}"]
        assert gradual["mean"] < group["error"][2]["mean"]
        assert gradual["high"] > group["error"][2]["low"]
    assert all(gain["low"] > 0 for gain in fashion[0.9]["one_shot_minus_n"])
    assert fashion[0.9]["jumps_slope"]["low"] < 0 < fashion[0.9]["jumps_slope"]["high"]
    assert fashion[0.9]["fit"]["p_value"] < 0.05
    subjects = results.read(root / "axioms.json", results.Axioms)["subjects"]
    broken = {subject["name"]: [f["axiom"][0] for f in subject["findings"] if not f["holds"]] for subject in subjects}
    assert {name: axioms for name, axioms in broken.items() if axioms} == {
        "sparsemax of log p / T": ["1", "4"],
        "sparsemax of p / T": ["1"],
        "power, then top 2 renormalised": ["1", "2", "4", "5"],
        "arg-max": ["1", "2", "4", "5"],
    }
    assert digits["anchoring"]["worst_ratio_to_bound"] < 2 / 3
    steady = results.read(root / "bias_variance.json", results.BiasVariance)
    for verdict in (steady["verdicts"]["squared_error"], steady["verdicts"]["accuracy"]):
        assert verdict["all"]["right"] == verdict["all"]["of"]
        assert verdict["student_predicted_decided"]["of"] == 0
    rows = [(point, half) for point in steady["points"] for half in point["halves"]]
    assert all(half["gain"][0] < 0 and half["variance_gain"][0] < 0.05 for _, half in rows)
    lower = [
        (point["data"], point["temperature"], point["sparsity"]) for point, half in rows if half["variance_gain"][0] < 0
    ]
    assert lower == [("Fashion", 1.0, 0.98)] * 2
    over = results.read(root / "bias_variance_overfitted.json", results.BiasVariance)
    squared, accuracy = over["verdicts"]["squared_error"], over["verdicts"]["accuracy"]
    assert (squared["constant"]["right"], squared["all"]["right"], squared["all"]["of"]) == (63, 110, 112)
    assert squared["decided"] == {"right": 97, "of": 97}
    assert squared["student_predicted_decided"] == {"right": 56, "of": 56}
    assert accuracy["decided"] == {"right": 84, "of": 97}
    assert all(name.startswith("Fashion, few records") for name in accuracy["decided_but_wrong"])
    gain = {
        (point["data"], point["temperature"], point["sparsity"]): sum(half["gain"][0] for half in point["halves"]) / 2
        for point in over["points"]
    }
    for (name, temperature, sparsity), value in gain.items():
        dense = gain[name, temperature, 0.0]
        if name.startswith("Fashion"):
            assert (value > 0) == (sparsity <= 0.95) or (name, temperature, sparsity) == (
                "Fashion, wrong labels by heart",
                1.0,
                0.98,
            )
            assert value >= dense or sparsity not in {0.5, 0.8, 0.9}
        else:
            assert (value > 0) == (sparsity <= (0.5 if "few" in name else 0.8)) or sparsity == 0.9
            assert "wrong" in name or value <= dense
    for of_data in results.read(root / "equivalence.json", results.Equivalence)["data"]:
        for same in (of_data["bent"]["seen"], of_data["tilted"]["seen"]):
            assert same["weights_distance"] < 1e-8
            assert same["targets_mean_l1"] > 1e-3
        for row in of_data["calibrated"]["students"]:
            assert row["weights_distance"] <= row["bound_from_moments"] <= row["bound_from_l1"]
        last = of_data["calibrated"]["students"][-1]
        assert last["ridge"] == 1
        assert last["bound_from_moments"] < 2 * last["weights_distance"]


def test_the_divergence_is_that_of_the_formula() -> None:
    p, q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    expected = (0.5 * math.log(2) + 0.5 * math.log(2 / 3) + math.log(2)) / 2
    assert common.divergence(p, q) == pytest.approx(expected)


# Answers that add up.

site_scores = st.tuples(st.integers(2, 30), st.integers(1, 5), st.integers(0, 2**31)).map(
    lambda drawn: torch.from_numpy(np.random.default_rng(drawn[2]).normal(size=(drawn[1], 4, drawn[0])))
)


@given(z_CNK=site_scores, scale=st.floats(1e-3, 1e3), temperature=st.floats(1e-2, 1e4))
def test_the_pool_of_answers_is_affine_in_the_sum_of_scores_within_the_bound(
    z_CNK: torch.Tensor, scale: float, temperature: float
) -> None:
    z_CNK = z_CNK * scale
    pool_NK = Power(temperature).from_log(z_CNK.log_softmax(-1)).exp().mean(0)
    error_NK = (pool_NK - additive.first_order(z_CNK, temperature).mean(0)).abs()
    most_N1 = additive.bound(z_CNK, temperature).mean(0).unsqueeze(-1)
    # float64 loses digits of scores that are large beside T.
    assert bool((error_NK <= most_N1 + 1e-12 * (1 + z_CNK.abs().max() / temperature)).all())


@pytest.mark.parametrize(("z", "least"), [((1.0, 0.0), 0.0), ((1.0, 0.0, 0.0), 0.45), ((1.0,) + (0.0,) * 99, 0.9)])
def test_the_bound_on_first_order_is_not_far_above_what_happens(z: tuple[float, ...], least: float) -> None:
    """Of one class above many others by a tenth of T, 1 / (2 K) is what second order comes to; of two classes it is zero."""
    z_1K = torch.tensor([z], dtype=torch.float64)
    error = float((Power(10.0).from_log(z_1K.log_softmax(-1)).exp() - additive.first_order(z_1K, 10.0)).abs().max())
    assert least * float(additive.bound(z_1K, 10.0)) <= error <= float(additive.bound(z_1K, 10.0))
