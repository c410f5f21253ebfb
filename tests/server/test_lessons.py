"""What a student is taught: the pool, sharpened and refined on features where the plan says so, and views where they help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from helpers.plans import PLAN
from limbeck.base.errors import SettingError
from limbeck.operators import Sharpen
from limbeck.plans.schema import Loss, Plan
from limbeck.server import distil, lessons, losses, refining, student, trial
from limbeck.server.pruning import Masks
from limbeck.simulations import data

CPU = torch.device("cpu")


def plan_of(**changes: object) -> Plan:
    return replace(PLAN, student=replace(PLAN.student, **changes))  # type: ignore[arg-type]


def soft(seed: int, samples: int, classes: int) -> Tensor:
    return (2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))).softmax(-1)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Public inputs, a noisy pool of them that is nearly uniform, and the labels, which nothing but the test may see."""
    found = data.load("digits", private=400, public=10, test=1)
    x_N, y_N = torch.from_numpy(found.private_x), torch.from_numpy(found.private_y)
    noise_NK = 0.6 * torch.randn(400, 10, generator=torch.Generator().manual_seed(1))
    return x_N, ((torch.nn.functional.one_hot(y_N, 10) + noise_NK) / 20).softmax(-1), y_N


@pytest.mark.parametrize("rows", [refining.ROWS, 64])
def test_the_model_on_features_is_the_logistic_regression_of_another_library(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "ROWS", rows)
    f_ND = torch.randn(150, 12, generator=torch.Generator().manual_seed(0))
    q_NK, ridge = soft(2, 150, 4), 1e-2
    model = refining.fit(f_ND, q_NK, device=CPU, ridge=ridge)
    # It takes labels alone: every input once with each of them, weighted.
    oracle = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=5000).fit(
        f_ND.double().repeat_interleave(4, 0).numpy(), np.tile(np.arange(4), 150), q_NK.double().flatten().numpy() / 150
    )
    expected = oracle.predict_proba(f_ND.double().numpy())
    np.testing.assert_allclose(model(f_ND).softmax(-1).numpy(), expected, atol=1e-4)


def test_a_plan_without_either_teaches_the_pool_at_its_temperature(tmp_path: Path) -> None:
    pool = soft(1, 20, 10)
    lesson = lessons.Lessons(PLAN, torch.rand(20, 8, 8), cache=tmp_path, device=CPU).of(pool, 1)
    assert lesson.targets_NK is pool
    assert (lesson.temperature, lesson.student) == (PLAN.stages[1].temperature, PLAN.student)
    assert not any(tmp_path.iterdir())


def test_sharpened_targets_are_on_the_students_own_scale() -> None:
    pool = soft(1, 20, 10)
    lesson = lessons.Lessons(plan_of(sharpen=3.0, loss=Loss.HINTON), torch.rand(20, 8, 8), cache=None, device=CPU).of(
        pool, 0
    )
    torch.testing.assert_close(lesson.targets_NK, Sharpen(spread=3.0)(pool))
    assert lesson.temperature == 1.0


def test_features_that_are_not_finite_are_refused() -> None:
    f_ND = torch.ones(20, 3)
    f_ND[3, 1] = torch.inf
    with pytest.raises(SettingError, match="Expected a model on features with finite weights, got others"):
        refining.fit(f_ND, torch.full((20, 2), 0.5), device=CPU)


def test_refining_on_features_drops_noise_that_they_do_not_explain(
    digits: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    x_N, pool, y_N = digits
    settings = plan_of(sharpen=3.0, refine="pixels").student
    refined = refining.targets(settings, pool, x_N.numpy(), cache=tmp_path, device=CPU)
    before, after = ((each.argmax(1) == y_N).float().mean() for each in (pool, refined))
    assert before < 0.8
    assert after > before + 0.05
    logits = refined.double().log()
    assert float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt()) == pytest.approx(3.0, rel=1e-4)
    # Features are kept, and the same again is the same to the bit.
    assert len(list(tmp_path.glob("pixels-*.npy"))) == 1
    assert torch.equal(refined, refining.targets(settings, pool, x_N.numpy(), cache=tmp_path, device=CPU))
    unsharpened = refining.targets(replace(settings, sharpen=0.0), pool, x_N.numpy(), cache=tmp_path, device=CPU)
    torch.testing.assert_close(unsharpened.sum(1), torch.ones(400))


def test_the_same_pool_is_worked_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[Tensor] = []

    def targets(_: object, pool_NK: Tensor, *__: object, **___: object) -> Tensor:
        worked.append(pool_NK)
        return pool_NK

    monkeypatch.setattr(refining, "targets", targets)
    taught = lessons.Lessons(plan_of(sharpen=2.0), torch.rand(20, 8, 8), cache=None, device=CPU)
    one, other = soft(1, 20, 10), soft(2, 20, 10)
    for pool, count in ((one, 1), (one.clone(), 1), (other, 2)):
        assert torch.equal(taught.of(pool, 0).targets_NK, pool)
        assert len(worked) == count


@pytest.mark.parametrize("helps", [False, True])
def test_the_coordinator_augments_as_the_trial_says_and_only_if_the_plan_leaves_it_open(
    helps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "augmentation_helps", lambda *_: helps)
    for choose in (False, True):
        plan = plan_of(augment=True, choose_augment=choose)
        lesson = lessons.Lessons(plan, torch.rand(20, 8, 8), cache=None, device=CPU).of(soft(1, 20, 10), 0)
        assert lesson.student.augment == (helps if choose else True)


def test_the_trial_trains_on_four_fifths_and_asks_about_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with views wins where its answers on held-out inputs are the targets, and a draw is decided for the inputs as they are."""
    x_N, target_NK = torch.rand(100, 8, 8), soft(3, 100, 10)
    seen: list[tuple[bool, Tensor]] = []

    def train(model: object, masks: object, x_n: Tensor, targets_nK: Tensor, **options: object) -> None:
        seen.append((getattr(options["student"], "augment"), x_n))  # noqa: B009 - the type of options is open

    def answer(_: object, x_n: Tensor) -> Tensor:
        assert len(x_n) == 20
        assert not (x_n[:, None] == seen[-1][1][None]).flatten(2).all(2).any()
        row_of = (x_n[:, None] == x_N[None]).flatten(2).all(2).float().argmax(1)
        return target_NK[row_of] if seen[-1][0] == wins else target_NK[row_of].roll(1, 1)

    monkeypatch.setattr(distil, "distil_stage", train)
    monkeypatch.setattr(distil, "predict", answer)
    for wins in (True, False):
        assert trial.augmentation_helps(PLAN, x_N, target_NK, 1.0, CPU) == wins
    assert [augment for augment, _ in seen] == [False, True] * 2
    assert {len(x_n) for _, x_n in seen} == {80}
    # Of so few, a fifth tells nothing.
    assert not trial.augmentation_helps(PLAN, x_N[:90], target_NK[:90], 1.0, CPU)


def test_mixtures_are_of_inputs_and_targets_alike_and_repeat_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On targets that are linear in the inputs, mixtures are examples of the same rule."""
    x_N = torch.rand(64, 8, 8, generator=torch.Generator().manual_seed(4))
    rule = torch.rand(64, 10, generator=torch.Generator().manual_seed(5))
    target_NK = x_N.flatten(1) @ (rule / rule.sum(1, keepdim=True))
    mixed: list[Tensor] = []
    taught: list[Tensor] = []
    model = student.build("mlp", (8, 8), 10, 1)
    model.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))

    def loss(_: Loss, target_nK: Tensor, logits_nK: Tensor, __: float) -> Tensor:
        taught.append(target_nK)
        return logits_nK.square().mean()

    monkeypatch.setattr(losses, "by_name", loss)
    settings = replace(PLAN.student, mixup=0.5, epochs=2)

    def trained() -> list[Tensor]:
        mixed.clear()
        taught.clear()
        distil.distil_stage(
            model,
            Masks.ones(model),
            x_N,
            target_NK,
            stage=0,
            sparsity=0.0,
            temperature=1.0,
            student=settings,
            seed=1,
            device=CPU,
        )
        return list(taught)

    first = trained()
    for x_n, target_nK in zip(mixed, first, strict=True):
        torch.testing.assert_close(target_nK, x_n.flatten(1) @ (rule / rule.sum(1, keepdim=True)))
    assert not any(bool((x_n[0] == x_N).flatten(1).all(1).any()) for x_n in mixed)
    assert all(torch.equal(a, b) for a, b in zip(first, trained(), strict=True))


def test_features_that_are_too_many_are_refused_by_the_name_of_the_field() -> None:
    refining.check("student.refine = 'pixels'", 64, samples=20, classes=10)
    with pytest.raises(SettingError, match=r"Expected student.refine = 'x' with at most \d+ numbers for samples x features"):
        refining.check("student.refine = 'x'", 64, samples=1 << 27, classes=2)
    with pytest.raises(SettingError, match="features x classes"):
        refining.check("student.refine = 'x'", 6400, samples=20, classes=1 << 13)
