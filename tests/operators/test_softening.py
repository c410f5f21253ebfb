"""Softening operators keep the guarantees that their docstrings state."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import EntropyTarget, Family, Hybrid, Mixing, Power, Separable, Softening, Tsallis, family

Factory = Callable[[float], Softening]

# Above a temperature of 1 all of these are families; below it only the TWO_SIDED.
FAMILIES: dict[str, Factory] = {
    "power": Power,
    "mixing": Mixing,
    "hybrid": Hybrid,
    "tsallis 0.5": partial(Tsallis, 0.5),
    "tsallis 2": partial(Tsallis, 2.0),
    "entropy target": EntropyTarget.at_temperature,
    "separable": lambda temperature: Separable(lambda log_p, t: log_p / t**2, temperature, log_space=True),
}
TWO_SIDED: dict[str, Factory] = {name: FAMILIES[name] for name in ("power", "hybrid", "separable")}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
temperatures = st.floats(1.0, 20.0)

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())


@st.composite
def distributions(draw: st.DrawFn, least: float = 1e-4) -> Tensor:
    """A row of 2 to 12 probabilities, each at least about `least`."""
    weights = draw(st.lists(st.floats(least, 1.0), min_size=2, max_size=12))
    p_K = torch.tensor(weights, dtype=torch.float64)
    return (p_K / p_K.sum()).unsqueeze(0)


def entropy(p_NK: Tensor) -> float:
    return float(-torch.xlogy(p_NK, p_NK).sum())


def rows(*shape: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, dtype=torch.float64, generator=generator)).softmax(-1)


# The axioms, family by family


@every_family
@given(p_NK=distributions(), temperature=temperatures)
def test_rows_still_sum_to_one_and_keep_their_ranking(make: Factory, p_NK: Tensor, temperature: float) -> None:
    soft = make(temperature)(p_NK)
    assert float(soft.sum()) == pytest.approx(1)
    order = p_NK[0].argsort()
    gaps = p_NK[0][order].diff()
    assert bool((soft[0][order].diff()[gaps > 1e-9] > 0).all())


@every_family
@given(p_NK=distributions(), temperature=temperatures, more=st.floats(0.01, 5))
def test_entropy_does_not_fall_as_the_temperature_rises(
    make: Factory, p_NK: Tensor, temperature: float, more: float
) -> None:
    assert entropy(make(temperature + more)(p_NK)) >= entropy(make(temperature)(p_NK)) - 1e-12


@pytest.mark.parametrize("make", TWO_SIDED.values(), ids=TWO_SIDED.keys())
@given(p_NK=distributions(), temperature=st.floats(0.1, 1), less=st.floats(0.5, 0.99))
def test_entropy_does_not_rise_as_the_temperature_falls_below_one(
    make: Factory, p_NK: Tensor, temperature: float, less: float
) -> None:
    assert entropy(make(temperature * less)(p_NK)) <= entropy(make(temperature)(p_NK)) + 1e-12


@every_family
@given(p_NK=distributions())
def test_a_temperature_of_one_is_the_identity(make: Factory, p_NK: Tensor) -> None:
    torch.testing.assert_close(make(1.0)(p_NK), p_NK)
    torch.testing.assert_close(make(1.0).from_log(p_NK.log()).exp(), p_NK)


@every_family
@given(p_NK=distributions(), temperature=temperatures)
def test_small_changes_of_p_and_temperature_change_little(make: Factory, p_NK: Tensor, temperature: float) -> None:
    moved = p_NK + 1e-9 * torch.linspace(-1, 1, p_NK.shape[1], dtype=torch.float64)
    moved = moved / moved.sum()
    assert float((make(temperature)(p_NK) - make(temperature + 1e-9)(moved)).abs().sum()) < 1e-4


@every_family
@given(p_NK=distributions())
def test_a_huge_temperature_gives_the_uniform_distribution(make: Factory, p_NK: Tensor) -> None:
    torch.testing.assert_close(make(1e15)(p_NK), torch.full_like(p_NK, 1 / p_NK.shape[1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", TWO_SIDED.values(), ids=TWO_SIDED.keys())
@given(p_NK=distributions())
def test_a_tiny_temperature_gives_the_arg_max_where_it_is_clear(make: Factory, p_NK: Tensor) -> None:
    top = p_NK[0].topk(2).values
    if top[0] / top[1] > 1.05:
        assert float(make(1e-3)(p_NK).max()) > 1 - 1e-9


# Numerics


@every_family
@pytest.mark.parametrize("temperature", [1.0, 1.0001, 2.0, 20.0])
def test_probabilities_of_1e_30_survive_in_float32(make: Factory, temperature: float) -> None:
    """Against the same operator in float64, entry by entry, up to the rounding of its arguments, the logarithms."""
    log_p_NK = torch.tensor([[0.0, math.log(1e-30), math.log(3e-30), math.log(1e-12)]], dtype=torch.float64).log_softmax(-1)
    exact, single = make(temperature).from_log(log_p_NK), make(temperature).from_log(log_p_NK.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
    assert bool((make(temperature)(log_p_NK.float().exp()) > 0).all())


def test_the_square_root_of_1e_30_is_1e_15_in_float32() -> None:
    log_p = torch.tensor([[0.0, math.log(1e-30)]])
    assert float(Power(2).from_log(log_p).exp()[0, 1]) == pytest.approx(1e-15, rel=1e-4)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.999, 1.001, 1.5, 3.0])
@pytest.mark.parametrize("temperature", [1.0 + 1e-6, 1.5, 4.0, 1e6])
def test_tsallis_equals_its_formula_in_many_digits(q: float, temperature: float) -> None:
    """Against mpmath with 60 digits; p from 1e-30 to nearly 1, so that both forms in log space are used."""
    import mpmath

    p_K = [1e-30, 1e-12, 1e-3, 0.2]
    p_K = [*p_K, 1 - sum(p_K)]
    with mpmath.workdps(60):
        t, order = mpmath.mpf(temperature), 1 - mpmath.mpf(q)
        weights = [((1 - 1 / t) + mpmath.mpf(p) ** order / t) ** (1 / order) for p in p_K]
        exact = torch.tensor([float(mpmath.log(w / sum(weights))) for w in weights], dtype=torch.float64)
    log_p_K = torch.tensor(p_K, dtype=torch.float64).log()
    torch.testing.assert_close(Tsallis(q, temperature).from_log(log_p_K), exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(Tsallis(q, temperature).from_log(log_p_K.float()).double(), exact, rtol=3e-5, atol=3e-5)


@every_family
@pytest.mark.parametrize("temperature", [1.0, 1.5, 8.0])
def test_gradients_are_those_of_finite_differences(make: Factory, temperature: float) -> None:
    z_NK = rows(3, 4, seed=2).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: make(temperature).from_log(z.log_softmax(-1)), z_NK)
    assert torch.autograd.gradcheck(lambda z: make(temperature)(z.softmax(-1)), z_NK)


@every_family
def test_gradients_at_1e_30_are_finite_in_float32(make: Factory) -> None:
    log_p_NK = torch.tensor([[0.0, math.log(1e-30), -3.0]]).log_softmax(-1).requires_grad_()
    make(3.0).from_log(log_p_NK)[0, 1].backward()
    assert log_p_NK.grad is not None
    assert bool(log_p_NK.grad.isfinite().all())


@every_family
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (0, 5)])
def test_any_leading_shape_any_dtype_and_device_are_kept(
    make: Factory, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    p = rows(*shape).to(device, dtype)
    soft = make(2.5)(p)
    assert (soft.shape, soft.dtype, soft.device) == (p.shape, p.dtype, p.device)
    if p.numel():
        one_by_one = torch.stack([make(2.5)(row) for row in p.reshape(-1, 5)]).reshape(shape)
        torch.testing.assert_close(soft, one_by_one)


@pytest.mark.parametrize("make", [Power, partial(Tsallis, 1.5), FAMILIES["entropy target"]])
def test_zeros_stay_zero_where_the_docstring_says_so(make: Factory) -> None:
    soft = make(4.0)(torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(soft, torch.tensor([[0.5, 0.5, 0.0]]))
    assert soft[0, 2] == 0


# Golden identities


@given(p_NK=distributions(least=0.01), temperature=st.floats(0.3, 5))
def test_the_slope_of_entropy_is_the_variance_of_log_p_over_t_cubed(p_NK: Tensor, temperature: float) -> None:
    step = 1e-5
    slope = (entropy(Power(temperature + step)(p_NK)) - entropy(Power(temperature - step)(p_NK))) / (2 * step)
    soft, log_p = Power(temperature)(p_NK), p_NK.log()
    variance = float((soft * log_p**2).sum() - (soft * log_p).sum() ** 2)
    assert slope == pytest.approx(variance / temperature**3, rel=1e-4, abs=1e-7)


@given(p_NK=distributions(), temperature=temperatures)
def test_tsallis_of_order_one_is_power_and_is_approached(p_NK: Tensor, temperature: float) -> None:
    power = Power(temperature)(p_NK)
    torch.testing.assert_close(Tsallis(1.0, temperature)(p_NK), power)
    for q in (1 - 1e-9, 1 + 1e-9):
        torch.testing.assert_close(Tsallis(q, temperature)(p_NK), power, rtol=1e-6, atol=1e-8)


@given(p_NK=distributions(), temperature=temperatures)
def test_tsallis_of_order_zero_is_mixing_with_its_own_share(p_NK: Tensor, temperature: float) -> None:
    classes = p_NK.shape[-1]
    share = classes * (temperature - 1) / (classes * (temperature - 1) + 1)
    torch.testing.assert_close(Tsallis(0.0, temperature)(p_NK), (1 - share) * p_NK + share / classes)


def stationary(objective: Callable[[Tensor], Tensor], q_NK: Tensor) -> bool:
    """Whether the gradient of a convex objective is equal for all classes, so that q is its minimiser on the simplex."""
    q_NK = q_NK.clone().requires_grad_()
    (slope_NK,) = torch.autograd.grad(objective(q_NK).sum(), q_NK)
    return float((slope_NK.max(-1).values - slope_NK.min(-1).values).abs().max()) < 1e-9


def kl(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    return (p_NK * (p_NK.log() - q_NK.log())).sum(-1)


@given(p_NK=distributions(), temperature=temperatures)
def test_power_minimises_kl_from_p_less_a_share_of_entropy(p_NK: Tensor, temperature: float) -> None:
    def objective(q_NK: Tensor) -> Tensor:
        return kl(q_NK, p_NK) + (temperature - 1) * (q_NK * q_NK.log()).sum(-1)

    assert stationary(objective, Power(temperature)(p_NK))


@given(p_NK=distributions(least=0.01), temperature=temperatures)
def test_mixing_minimises_kl_to_p_and_a_share_of_kl_to_uniform(p_NK: Tensor, temperature: float) -> None:
    uniform_NK = torch.full_like(p_NK, 1 / p_NK.shape[-1])

    def objective(q_NK: Tensor) -> Tensor:
        return kl(p_NK, q_NK) + (temperature - 1) * kl(uniform_NK, q_NK)

    assert stationary(objective, Mixing(temperature)(p_NK))


@given(temperature=temperatures)
def test_mixing_commutes_with_averaging_over_clients(temperature: float) -> None:
    p_CNK = rows(4, 3, 5)
    torch.testing.assert_close(Mixing(temperature)(p_CNK).mean(0), Mixing(temperature)(p_CNK.mean(0)))


def test_power_does_not_commute_with_averaging() -> None:
    p_CK = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert float((Power(3)(p_CK).mean(0) - Power(3)(p_CK.mean(0))).abs().max()) > 1e-3


@given(p_NK=distributions(), temperature=st.floats(0.2, 20))
def test_hybrid_is_power_below_one_and_mixing_above(p_NK: Tensor, temperature: float) -> None:
    side = Power(temperature) if temperature < 1 else Mixing(temperature)
    torch.testing.assert_close(Hybrid(temperature)(p_NK), side(p_NK))
    torch.testing.assert_close(Hybrid(temperature).from_log(p_NK.log()), side.from_log(p_NK.log()))


def test_no_temperature_of_power_gives_what_hybrid_gives() -> None:
    """At equal entropy the distributions differ: hybrid is not a reparametrised power."""
    p_K = torch.tensor([0.9, 0.08, 0.02], dtype=torch.float64)
    hybrid = Hybrid(2.0)(p_K)
    power = EntropyTarget(entropy(hybrid))(p_K)
    assert entropy(power) == pytest.approx(entropy(hybrid), abs=1e-12)
    assert float((power - hybrid).abs().sum()) > 0.01


# Entropy target


@given(p_NK=distributions(least=1e-6), share=st.floats(0, 1))
def test_entropy_target_has_the_wanted_entropy_or_leaves_p_alone(p_NK: Tensor, share: float) -> None:
    h = share * math.log(p_NK.shape[-1])
    soft = EntropyTarget(h)(p_NK)
    assert entropy(soft) == pytest.approx(max(h, entropy(p_NK)), abs=1e-12)
    if entropy(p_NK) >= h:
        torch.testing.assert_close(soft, p_NK)


@given(p_NK=distributions(), share=st.floats(0.01, 0.99), seed=st.integers(0, 10**6))
def test_no_other_distribution_of_that_entropy_is_nearer(p_NK: Tensor, share: float, seed: int) -> None:
    h = share * math.log(p_NK.shape[-1])
    soft = EntropyTarget(h)(p_NK)
    others = rows(200, p_NK.shape[-1], seed=seed)
    near = 0.9 * soft + 0.1 * others
    for q_NK in (others, near):
        allowed = -torch.xlogy(q_NK, q_NK).sum(-1) >= h
        assert bool((kl(q_NK, p_NK)[allowed] >= kl(soft, p_NK) - 1e-12).all())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("share", [1e-9, 0.5, 0.999, 1 - 1e-9])
def test_the_search_for_a_temperature_is_robust(scale: float, share: float) -> None:
    """Nearly uniform to nearly one-hot rows, and targets near both ends."""
    p_NK = rows(200, 50, scale=scale)
    h = share * math.log(50)
    got = -torch.xlogy(EntropyTarget(h)(p_NK), EntropyTarget(h)(p_NK)).sum(-1)
    torch.testing.assert_close(got, (-torch.xlogy(p_NK, p_NK).sum(-1)).clamp(min=h), rtol=0, atol=1e-12)


@given(p_NK=distributions(), share=st.floats(0.01, 0.99))
def test_entropy_target_is_power_at_the_temperature_that_it_names(p_NK: Tensor, share: float) -> None:
    target = EntropyTarget(share, relative=True)
    (temperature,) = target.temperatures(p_NK.log()).tolist()
    assert temperature >= 1
    torch.testing.assert_close(target(p_NK), Power(temperature)(p_NK))


def test_a_support_too_small_for_the_target_is_filled_evenly() -> None:
    p_NK = torch.tensor([[0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert EntropyTarget(1.0)(p_NK).tolist() == [[0.5, 0.5, 0, 0], [1, 0, 0, 0]]


# Domains


@pytest.mark.parametrize("make", [Power, Mixing, Hybrid, partial(Tsallis, 0.5), partial(Separable, lambda p, t: p)])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_an_invalid_temperature_is_refused_by_name(make: Factory, temperature: float) -> None:
    with pytest.raises(SettingError, match="Expected temperature"):
        make(temperature)


@pytest.mark.parametrize("make", [Mixing, partial(Tsallis, 0.5), partial(Tsallis, 2.0)])
def test_a_temperature_outside_the_domain_is_refused_by_name(make: Factory) -> None:
    with pytest.raises(SettingError, match=r"Expected temperature >= 1, got 0\.5"):
        make(0.5)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Tsallis(math.nan, 2.0), "Expected q to be a finite number, got nan"),
        (lambda: EntropyTarget(-0.1), "Expected entropy >= 0, got -0.1"),
        (lambda: EntropyTarget(1.1, relative=True), "Expected entropy <= 1 as a share"),
        (
            lambda: EntropyTarget(1.2)(torch.tensor([0.5, 0.25, 0.25])),
            "Expected entropy <= log K = 1.09861 for K = 3, got 1.2",
        ),
        (
            lambda: Separable(lambda p, t: p - 0.5, 2.0)(torch.tensor([0.9, 0.1])),
            "0 <= f < infinity at T = 2, got -0.4 at p = 0.1",
        ),
        (lambda: Separable(lambda p, t: p.sum(-1), 2.0)(torch.tensor([0.9, 0.1])), "Expected f to keep the shape"),
        (
            lambda: Separable(lambda x, t: x * math.nan, 2.0, log_space=True)(torch.tensor([0.9, 0.1])),
            "Expected log f < infinity",
        ),
    ],
)
def test_an_invalid_setting_is_refused_by_name(make: Callable[[], object], wanted: str) -> None:
    with pytest.raises(SettingError, match=wanted):
        make()


def test_a_separable_family_is_its_formula() -> None:
    p_NK = rows(4, 6)
    shifted = Separable(lambda p, t: p + t - 1, 3.0)
    torch.testing.assert_close(shifted(p_NK), (p_NK + 2) / (p_NK + 2).sum(-1, keepdim=True))
    logs = Separable(lambda log_p, t: log_p / t, 3.0, log_space=True)
    torch.testing.assert_close(logs(p_NK), Power(3.0)(p_NK))


def test_a_family_goes_by_name_and_an_unknown_one_is_refused_with_the_known() -> None:
    assert [family(name, 2.0) for name in ("power", "mixing", "hybrid")] == [Power(2.0), Mixing(2.0), Hybrid(2.0)]
    assert family("entropy-target", 2.0) == EntropyTarget(0.5, relative=True)
    assert family("tsallis", 2.0, order=0.5) == Tsallis(0.5, 2.0)
    with pytest.raises(SettingError, match="power, mixing, hybrid, tsallis, entropy-target"):
        family("sparsemax", 2.0)


@pytest.mark.parametrize("named", Family)
def test_the_domain_that_the_table_states_is_the_one_that_the_operator_takes(named: Family) -> None:
    order = 0.5 if named.takes_order else None
    assert named.lowest_temperature in {0.0, 1.0}
    if named.lowest_temperature == 1.0:
        assert named.domain == "T >= 1"
        with pytest.raises(SettingError, match=r"Expected temperature >= 1, got 0\.999"):
            named.at(0.999, order=order)
    else:
        assert named.domain == "T > 0"
        named.at(1e-3, order=order)
    named.at(1.0, order=order)


@pytest.mark.parametrize(
    ("name", "temperature", "order", "wanted"),
    [
        ("tsallis", 2.0, None, "Expected an order with tsallis and only then, got None"),
        ("power", 2.0, 0.5, "Expected an order with tsallis and only then, got 0.5 with power"),
        ("entropy-target", 0.5, None, "Expected temperature >= 1, got 0.5"),
        ("tsallis", 0.5, 0.5, "Expected temperature >= 1, got 0.5"),
    ],
)
def test_a_named_family_refuses_an_invalid_order_or_temperature(
    name: str, temperature: float, order: float | None, wanted: str
) -> None:
    with pytest.raises(SettingError, match=wanted):
        family(name, temperature, order=order)


@given(seed=st.integers(0, 1000), t=st.floats(1, 20), low=st.floats(0, 4), high=st.floats(0, 4))
def test_the_larger_its_order_the_less_tsallis_softens(seed: int, t: float, low: float, high: float) -> None:
    """The reason why a policy can bound the order: by majorisation, every sum of the largest entries is the larger one."""
    low, high = min(low, high), max(low, high)
    p_NK = (3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)
    softer, sharper = (Tsallis(q, t)(p_NK).sort(-1, descending=True).values.cumsum(-1) for q in (low, high))
    assert bool((softer <= sharper + 1e-12).all())
