"""Sharpening recovers what softened answers say together: exactly of one site, up to a bound that falls as 1 / T of many."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Sharpen, TopK, evidence, sharpening
from limbeck.operators.sharpening import LEAST
from limbeck.protos import packing


def scores(seed: int, sites: int, size: float) -> Tensor:
    """(C, N, K) scores of sites that differ much: each favours classes of its own."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(sites, 1, 7, generator=generator, dtype=torch.float64)
    return size * (torch.randn(sites, 9, 7, generator=generator, dtype=torch.float64) + 2 * own)


def centred(z: Tensor) -> Tensor:
    return z - z.mean(-1, keepdim=True)


@given(seed=st.integers(0, 10_000), sites=st.integers(1, 12), temperature=st.floats(2, 500))
def test_the_evidence_of_a_pool_is_the_mean_of_its_sites_up_to_the_bound(seed: int, sites: int, temperature: float) -> None:
    z = scores(seed, sites, 1.0)
    p = (z / temperature).softmax(-1)
    found = temperature * evidence(p.mean(0))
    widest = float((p.log().amax(0) - p.log().amin(0)).max())
    off = float((found - centred(z).mean(0)).abs().max())
    assert off <= temperature * widest**2 / 8 + 1e-9
    if sites == 1:
        torch.testing.assert_close(found, centred(z[0]))


def test_the_error_falls_as_one_over_the_temperature() -> None:
    z = scores(1, 8, 1.0)
    off = [
        float((t * evidence((z / t).softmax(-1).mean(0)) - centred(z).mean(0)).abs().max()) for t in (10.0, 100.0, 1000.0)
    ]
    assert off[0] / off[1] == pytest.approx(10, rel=0.15)
    assert off[1] / off[2] == pytest.approx(10, rel=0.15)


@given(seed=st.integers(0, 10_000))
def test_on_the_wire_the_summed_evidence_is_recovered_up_to_its_steps(seed: int) -> None:
    """All classes kept, 8-bit logarithms: a step of them is what a site's log-probability can be off."""
    z, temperature = scores(seed, 5, 1.0), 20.0
    sent = []
    for site in (z / temperature).log_softmax(-1):
        answers = TopK(k=7)(site.exp())
        codes = packing.encode_probabilities(answers.p_Nk.float().numpy())
        received = torch.from_numpy(packing.decode_probabilities(codes)).double()
        sent.append(
            torch.zeros(9, 7, dtype=torch.float64).scatter(1, answers.ids_Nk, received / received.sum(1, keepdim=True))
        )
    found = temperature * evidence(torch.stack(sent).mean(0))
    exact = temperature * evidence((z / temperature).softmax(-1).mean(0))
    # 255 codes from 2^-20 to 1, rounded to the nearest, and centred.
    step = 20 * 0.6931 / 254
    assert float((found - exact).abs().max()) <= temperature * step


@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 20), temperature=st.floats(1, 100))
def test_targets_have_the_spread_whatever_the_temperature_was_and_rank_as_before(
    seed: int, spread: float, temperature: float
) -> None:
    z = scores(seed, 1, 1.0)[0]
    target = Sharpen(spread=spread)((z / temperature).softmax(-1))
    torch.testing.assert_close(target.sum(-1), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(target, Sharpen(spread=spread).of_logits(7 * z + 3))
    logits = centred(target.log())
    assert float(logits.square().mean().sqrt()) == pytest.approx(spread, rel=1e-6)
    torch.testing.assert_close(logits / spread, centred(z) / centred(z).square().mean().sqrt())


def test_it_works_in_parts_that_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    p = scores(3, 1, 1.0)[0].softmax(-1)
    whole = Sharpen(spread=2.0)(p)
    monkeypatch.setattr(sharpening, "CHUNK", 15)
    torch.testing.assert_close(Sharpen(spread=2.0)(p), whole)


def test_zeros_count_as_the_least_that_the_wire_carries_and_uniform_rows_stay() -> None:
    votes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    assert bool(evidence(votes).isfinite().all())
    torch.testing.assert_close(evidence(votes), evidence(votes.clamp(min=LEAST)))
    assert Sharpen(spread=3.0)(votes).dtype == torch.float32
    uniform = torch.full((4, 5), 0.2)
    torch.testing.assert_close(Sharpen(spread=3.0)(uniform), uniform)


@pytest.mark.parametrize("spread", [0.0, -1.0, float("nan"), float("inf")])
def test_a_spread_that_is_not_positive_is_refused_by_name(spread: float) -> None:
    with pytest.raises(SettingError, match="Expected spread > 0"):
        Sharpen(spread=spread)
