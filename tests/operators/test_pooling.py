"""Pools of dense answers keep their guarantees, and the checker finds pools that do not."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Mixing, Power, TopK
from limbeck.operators.axioms import PoolingAxiom, check_pooling
from limbeck.operators.pooling import Arithmetic, Geometric, Pooling, PowerMean
from limbeck.server.pooling import Pool

DISTRIBUTION, POSITIVE, CONTINUITY, WEIGHT, EQUAL = PoolingAxiom


def teachers(seed: int, c: int = 3, n: int = 4, k: int = 5) -> Tensor:
    return (2 * torch.randn(c, n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def positive(seed: int, *shape: int) -> Tensor:
    return 0.1 + torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 1000), temperatures=st.lists(st.floats(0.5, 5), min_size=3, max_size=3))
def test_the_means_are_their_formulas(seed: int, temperatures: list[float]) -> None:
    p_CNK, w_C = teachers(seed), positive(seed, 3)
    w_C11 = (w_C / w_C.sum()).view(3, 1, 1)
    soft_CNK = torch.stack([Power(t)(p_NK) for t, p_NK in zip(temperatures, p_CNK, strict=True)])
    arithmetic = (w_C11 * soft_CNK).sum(0)
    geometric = (p_CNK ** (w_C11 / torch.tensor(temperatures, dtype=torch.float64).view(3, 1, 1))).prod(0)
    quadratic, harmonic = (w_C11 * soft_CNK**2).sum(0).sqrt(), 1 / (w_C11 / soft_CNK).sum(0)
    for pool, plain_NK in (
        (Arithmetic(), arithmetic),
        (Geometric(), geometric),
        (PowerMean(2.0), quadratic),
        (PowerMean(-1.0), harmonic),
    ):
        torch.testing.assert_close(
            pool(p_CNK, weights=w_C, temperatures=temperatures), plain_NK / plain_NK.sum(-1, keepdim=True)
        )


@given(seed=st.integers(0, 1000))
def test_weights_per_class_weigh_each_class_by_itself(seed: int) -> None:
    p_CNK, w_CK = teachers(seed), positive(seed, 3, 5)
    plain_NK = (w_CK.unsqueeze(1) * p_CNK).sum(0) / w_CK.sum(0)
    torch.testing.assert_close(Arithmetic()(p_CNK, weights=w_CK), plain_NK / plain_NK.sum(-1, keepdim=True))
    geometric = Geometric()(p_CNK, weights=w_CK)
    log_NK = ((w_CK / w_CK.sum(0)).unsqueeze(1) * p_CNK.log()).sum(0)
    torch.testing.assert_close(geometric, log_NK.softmax(-1))


@given(seed=st.integers(0, 1000), weighted=st.booleans())
def test_the_streaming_pool_of_the_server_equals_arithmetic_on_dense_answers(seed: int, weighted: bool) -> None:
    answers = [TopK(3)(p_NK.float()) for p_NK in teachers(seed)]
    w_CK = positive(seed, 3, 5).float() if weighted else torch.ones(3, 5)
    streaming = Pool(samples=4, classes=5)
    for part, w_K in zip(answers, w_CK, strict=True):
        streaming.add(part, weights_K=w_K)
    dense = torch.stack([part.dense().double() for part in answers])
    torch.testing.assert_close(streaming.result().double(), Arithmetic()(dense, weights=w_CK.double()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("exponent", [1e-9, -1e-9, 1e-14])
def test_a_tiny_exponent_passes_into_the_geometric_mean(exponent: float) -> None:
    p_CNK, w_C = teachers(1), positive(1, 3)
    torch.testing.assert_close(PowerMean(exponent)(p_CNK, weights=w_C), Geometric()(p_CNK, weights=w_C), atol=1e-7, rtol=0)


def test_a_zero_is_final_up_to_exponent_zero_and_not_above() -> None:
    p_CNK = torch.tensor([[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5]]])
    for pool in (Geometric(), PowerMean(-1.0)):
        assert float(pool(p_CNK)[0, 2]) == 0
        torch.testing.assert_close(pool(p_CNK, weights=torch.tensor([0.0, 1.0])), p_CNK[1])
    for pool in (Arithmetic(), PowerMean(3.0)):
        assert float(pool(p_CNK)[0, 2]) > 0.2
    certain = Arithmetic()(torch.tensor([[[1.0, 0, 0]], [[0.5, 0.5, 0]]]))
    torch.testing.assert_close(certain, torch.tensor([[0.75, 0.25, 0]]))


def test_teachers_who_agree_on_nothing_have_no_geometric_mean() -> None:
    with pytest.raises(SettingError, match="every teacher allows in each row, got none in 1 of 1"):
        Geometric()(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))


@pytest.mark.parametrize("exponent", [-2.0, 0.0, 1.0, 3.0])
def test_gradients_are_those_of_finite_differences(exponent: float) -> None:
    z_CNK = teachers(2, n=2).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: PowerMean(exponent)(z.softmax(-1), temperatures=[1.0, 2.0, 3.0]), z_CNK)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"weights": torch.ones(2)}, r"Expected weights of shape \(3,\) or \(3, 5\), got \(2,\)"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "Expected weights >= 0"),
        ({"weights": torch.zeros(3)}, "Expected weights >= 0"),
        ({"temperatures": [1.0]}, "Expected a temperature for each of 3 teachers, got 1"),
        ({"temperatures": [1.0, 0.0, 1.0]}, "Expected temperature > 0"),
    ],
)
def test_weights_and_temperatures_that_do_not_fit_are_refused(arguments: dict[str, object], wanted: str) -> None:
    with pytest.raises(SettingError, match=wanted):
        Arithmetic()(teachers(0), **arguments)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="Expected exponent"):
        PowerMean(float("nan"))


# The checker


@pytest.mark.parametrize("exponent", [-3.0, -1.0, 0.0, 0.5, 1.0, 4.0])
def test_the_power_means_raise_no_alarm(exponent: float) -> None:
    findings = check_pooling(PowerMean(exponent), rounds=10)
    assert [finding.axiom for finding in findings if not finding.holds] == []
    assert all(finding.trials > 0 for finding in findings)


def test_a_pool_of_mixing_raises_no_alarm() -> None:
    assert all(finding.holds for finding in check_pooling(Arithmetic(Mixing), softening=Mixing, rounds=15))


def broken(change: Callable[[Tensor, Tensor | None, Sequence[float] | None], Tensor]) -> Pooling:
    def pool(p_CNK: Tensor, *, weights: Tensor | None = None, temperatures: Sequence[float] | None = None) -> Tensor:
        return change(p_CNK, weights, temperatures)

    return pool


def confident(p_CNK: Tensor, w: Tensor | None, ts: Sequence[float] | None) -> Tensor:
    """Arithmetic with double weight for the most confident teacher of a row: it jumps where another one takes over."""
    pooled = Arithmetic()(p_CNK, weights=w, temperatures=ts)
    surest_N = p_CNK.amax(-1).argmax(0)
    soft = torch.stack([Power(t)(p) for t, p in zip(ts or [], p_CNK, strict=True)])
    return (pooled + soft[surest_N, torch.arange(p_CNK.shape[1])]) / 2


def without_small(p_CNK: Tensor, w: Tensor | None, ts: Sequence[float] | None) -> Tensor:
    """Arithmetic with everything below 1e-4 set to 0, continuously."""
    pooled = (Arithmetic()(p_CNK, weights=w, temperatures=ts) - 1e-4).clamp(min=0)
    return pooled / pooled.sum(-1, keepdim=True)


def undefined(p_CNK: Tensor, w: Tensor | None, ts: Sequence[float] | None) -> Tensor:
    """Arithmetic, but NaN where a teacher is nearly certain."""
    certain_N = p_CNK.amax(-1).amax(0) > 0.99
    return Arithmetic()(p_CNK, weights=w, temperatures=ts).masked_fill(certain_N.unsqueeze(-1), float("nan"))


def in_steps(values: Sequence[float]) -> list[float]:
    return [max(0.5, round(2 * value) / 2) for value in values]


BROKEN = {
    "sums to 1.01": (lambda p, w, ts: 1.01 * Arithmetic()(p, weights=w, temperatures=ts), DISTRIBUTION),
    "drops small classes": (without_small, POSITIVE),
    "follows the surest": (confident, CONTINUITY),
    "is undefined": (undefined, DISTRIBUTION),
    "steps in weights": (
        lambda p, w, ts: Arithmetic()(p, weights=torch.tensor(in_steps(w.tolist())), temperatures=ts),
        CONTINUITY,
    ),
    "steps in temperatures": (lambda p, w, ts: Arithmetic()(p, weights=w, temperatures=in_steps(ts)), CONTINUITY),
    "ignores weights": (lambda p, w, ts: Arithmetic()(p, temperatures=ts), WEIGHT),
    "turns weights round": (lambda p, w, ts: Arithmetic()(p, weights=1 / w, temperatures=ts), WEIGHT),
    "too hot": (lambda p, w, ts: Arithmetic()(p, weights=w, temperatures=[1.1 * t for t in ts]), EQUAL),
}


@pytest.mark.parametrize(("change", "axiom"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pool_is_found_with_a_counterexample(
    change: Callable[[Tensor, Tensor | None, Sequence[float] | None], Tensor], axiom: PoolingAxiom
) -> None:
    finding = next(finding for finding in check_pooling(broken(change), rounds=12) if finding.axiom is axiom)
    example = finding.counterexample
    assert example is not None
    assert example.size > example.tolerance
    assert len(example.p_CK) == len(example.weights) == len(example.temperatures)
    torch.testing.assert_close(example.p_CK.sum(-1), torch.ones(len(example.p_CK), dtype=torch.float64))


def test_a_counterexample_reproduces() -> None:
    change = BROKEN["too hot"][0]
    example = check_pooling(broken(change), rounds=10)[-1].counterexample
    assert example is not None
    q_K = change(example.p_CK.unsqueeze(1), torch.tensor(example.weights, dtype=torch.float64), example.temperatures)[0]
    expected = Power(example.temperatures[0])(example.p_CK[0])
    assert float((q_K - expected).abs().sum()) == pytest.approx(example.size)
