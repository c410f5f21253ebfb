"""Truncations keep the guarantees that their docstrings state."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.operators import (
    Hybrid,
    Mixing,
    Nucleus,
    Power,
    Raw,
    Renormalised,
    Sampled,
    Softening,
    SoftenThenTruncate,
    TopK,
    TruncateThenSoften,
    Truncation,
    Tsallis,
    concatenate,
    truncated,
)


def rows(seed: int, n: int = 6, classes: int = 8) -> torch.Tensor:
    return (2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


@given(seed=st.integers(0, 1000), k=st.integers(1, 8))
def test_top_k_keeps_the_largest_in_order_and_the_tail(seed: int, k: int) -> None:
    p_NK = rows(seed)
    kept = TopK(k)(p_NK)
    torch.testing.assert_close(kept.p_Nk, p_NK.sort(-1, descending=True).values[:, :k])
    torch.testing.assert_close(p_NK.gather(1, kept.ids_Nk), kept.p_Nk)
    torch.testing.assert_close(kept.p_Nk.sum(-1) + kept.tail_N, torch.ones(6, dtype=torch.float64))


def test_ties_are_broken_by_the_smaller_id() -> None:
    assert TopK(3)(torch.full((1, 3), 1 / 3)).ids_Nk.tolist() == [[0, 1, 2]]


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8), k=st.integers(1, 8))
def test_the_short_cut_from_logits_equals_the_plain_path(seed: int, temperature: float, k: int) -> None:
    p_NK = rows(seed)
    chain = SoftenThenTruncate(softening=Power(temperature), truncation=TopK(k))
    short, plain = chain.from_log(p_NK.log()), chain(p_NK)
    torch.testing.assert_close(short.dense(), plain.dense(), atol=1e-6, rtol=0)
    assert short.ids_Nk.tolist() == plain.ids_Nk.tolist()


@given(seed=st.integers(0, 1000), k=st.integers(1, 6), classes=st.integers(16, 400), levels=st.sampled_from([4, 10**6]))
def test_among_many_classes_too_the_largest_are_kept_ties_in_order(seed: int, k: int, classes: int, levels: int) -> None:
    """Few levels make ties, many at the border of the top k; classes / k from 2 to 400 reach every branch of the search."""
    p_NK = (rows(seed, 5, classes) * levels * classes).ceil() / (levels * classes)
    kept = TopK(k)(p_NK)
    assert kept.p_Nk.equal(p_NK.sort(-1, descending=True).values[:, :k])
    assert kept.p_Nk.equal(p_NK.gather(1, kept.ids_Nk))
    for ids, p in zip(kept.ids_Nk.tolist(), kept.p_Nk.tolist(), strict=True):
        assert len(set(ids)) == k
        assert list(zip(p, ids, strict=True)) == sorted(zip(p, ids, strict=True), key=lambda entry: (-entry[0], entry[1]))


@pytest.mark.parametrize("softening", [Power(2.0), Mixing(2.0)])
def test_chunks_of_rows_change_nothing(softening: Power | Mixing, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, p_NK = SoftenThenTruncate(softening=softening, truncation=TopK(3)), rows(5, 11, 40)
    whole = chain.from_log(p_NK.log())
    monkeypatch.setattr(truncated, "CHUNK_CPU", 100)
    parts = chain.from_log(p_NK.log())
    assert parts.ids_Nk.equal(whole.ids_Nk)
    torch.testing.assert_close(parts.p_Nk, whole.p_Nk, rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.tail_N, whole.tail_N, rtol=1e-13, atol=0)


@pytest.mark.parametrize("softening", [Power(2.0), Mixing(2.0)])
def test_no_rows_give_no_answers(softening: Power | Mixing) -> None:
    chain = SoftenThenTruncate(softening=softening, truncation=TopK(3))
    assert chain.from_log(torch.empty(0, 8)).ids_Nk.shape == (0, 3)
    assert chain(torch.empty(0, 8)).tail_N.shape == (0,)


def test_the_two_orders_differ_because_softening_feeds_the_tail() -> None:
    p_NK = rows(1)
    first = SoftenThenTruncate(softening=Power(4.0), truncation=TopK(2))(p_NK)
    second = TruncateThenSoften(truncation=TopK(2), softening=Power(4.0))(p_NK)
    assert bool((first.tail_N > 0.2).all())
    assert second.tail_N.tolist() == [0.0] * 6


@pytest.mark.parametrize("k", [0, -1, 9])
def test_a_k_that_is_no_number_of_classes_is_refused(k: int) -> None:
    with pytest.raises(SettingError, match="Expected k"):
        TopK(k)(rows(0))


def test_parts_of_different_k_do_not_concatenate() -> None:
    with pytest.raises(ValueError, match="one K and k"):
        concatenate([TopK(1)(rows(0)), TopK(2)(rows(0))])


def test_the_tail_is_spread_evenly_when_made_dense() -> None:
    dense = TopK(2)(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).dense()
    torch.testing.assert_close(dense, torch.tensor([[0.5, 0.3, 0.1, 0.1]]))


# Other heads


@given(seed=st.integers(0, 1000), mass=st.floats(0.01, 1))
def test_a_nucleus_is_the_smallest_head_that_holds_the_mass(seed: int, mass: float) -> None:
    p_NK = rows(seed)
    kept = Nucleus(mass)(p_NK)
    for row, p_K in enumerate(p_NK.tolist()):
        largest = sorted(p_K, reverse=True)
        count = next((n for n in range(1, 9) if sum(largest[:n]) >= mass - 1e-12), 8)
        p_k = kept.p_Nk[row]
        assert int((p_k > 0).sum()) == count
        assert p_k[:count].tolist() == pytest.approx(largest[:count])
        assert float(kept.tail_N[row]) == pytest.approx(sum(largest[count:]), abs=1e-12)
        assert sorted(set(kept.ids_Nk[row].tolist())) == sorted(kept.ids_Nk[row].tolist())


def test_the_padding_of_a_nucleus_belongs_to_the_tail() -> None:
    p_NK = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    kept = Nucleus(0.85)(p_NK)
    assert kept.kept == 3
    assert (kept.p_Nk > 0).sum(-1).tolist() == [1, 3]
    torch.testing.assert_close(kept.dense(), p_NK)


def test_a_nucleus_of_all_keeps_all_and_leaves_no_tail() -> None:
    p_NK = rows(3)
    kept = Nucleus(1.0)(p_NK)
    torch.testing.assert_close(kept.dense(), p_NK)
    assert kept.tail_N.tolist() == [0.0] * 6


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.1, float("nan")])
def test_a_mass_that_is_no_share_is_refused(mass: float) -> None:
    with pytest.raises(SettingError, match=r"Expected mass in \(0, 1\]"):
        Nucleus(mass)


@pytest.mark.parametrize("truncation", [TopK(3), Nucleus(0.7)])
@given(seed=st.integers(0, 1000))
def test_a_renormalised_head_is_off_by_twice_the_lost_mass(truncation: Truncation, seed: int) -> None:
    p_NK = rows(seed)
    lost_N = truncation(p_NK).tail_N
    head = Renormalised(truncation)(p_NK)
    torch.testing.assert_close(head.p_Nk.sum(-1), torch.ones(6, dtype=torch.float64))
    assert head.tail_N.tolist() == [0.0] * 6
    torch.testing.assert_close((head.dense() - p_NK).abs().sum(-1), 2 * lost_N)


@pytest.mark.parametrize("truncation", [TopK(3), Nucleus(0.7)])
@given(seed=st.integers(0, 1000))
def test_a_raw_head_is_the_head_without_its_tail(truncation: Truncation, seed: int) -> None:
    p_NK = rows(seed)
    head, raw = truncation(p_NK), Raw(truncation)(p_NK)
    torch.testing.assert_close(raw.p_Nk, head.p_Nk)
    torch.testing.assert_close(raw.dense().sum(-1), 1 - head.tail_N)


def fitted(target: Callable[[torch.Tensor], torch.Tensor], classes: int) -> torch.Tensor:
    """The student that minimises a loss, by Newton steps on free logits."""
    z_K = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [z_K], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = target(z_K.log_softmax(-1))
        loss.backward()
        return loss

    optimiser.step(closure)
    return z_K.detach().softmax(-1)


def test_a_student_of_a_raw_head_learns_a_zero_tail_and_one_of_a_tail_bucket_the_true_head() -> None:
    """What the docstrings say that a student learns, by fitting one."""
    p_NK = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64)
    raw, bucket = Raw(TopK(2))(p_NK), TopK(2)(p_NK)
    student = fitted(lambda log_s: -(raw.p_Nk[0] * log_s[raw.ids_Nk[0]]).sum(), 4)
    torch.testing.assert_close(student, torch.tensor([2 / 3, 1 / 3, 0, 0], dtype=torch.float64), atol=1e-4, rtol=0)

    def with_tail(log_s: torch.Tensor) -> torch.Tensor:
        return -(bucket.p_Nk[0] * log_s[:2]).sum() - bucket.tail_N[0] * log_s[2:].logsumexp(0)

    torch.testing.assert_close(fitted(with_tail, 4)[:2], p_NK[0, :2], atol=1e-6, rtol=0)


# Both orders


TRUNCATIONS: list[Truncation] = [TopK(3), Nucleus(0.8), Renormalised(TopK(2)), Raw(Nucleus(0.5))]


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("softening", [Power(3.0), Mixing(2.0), Hybrid(0.5), Tsallis(0.5, 2.0)])
@given(seed=st.integers(0, 100))
def test_soften_then_truncate_is_the_one_after_the_other(truncation: Truncation, softening: Softening, seed: int) -> None:
    p_NK = rows(seed)
    chain, plain = SoftenThenTruncate(softening=softening, truncation=truncation), truncation(softening(p_NK))
    for got in (chain(p_NK), chain.from_log(p_NK.log())):
        torch.testing.assert_close(got.dense(), plain.dense())
        torch.testing.assert_close(got.tail_N, plain.tail_N, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("softening", [Power(3.0), Mixing(2.0)])
@given(seed=st.integers(0, 100))
def test_truncate_then_soften_softens_each_head_separately(truncation: Truncation, softening: Softening, seed: int) -> None:
    """Against each row by itself, without its padding."""
    p_NK = rows(seed)
    got = TruncateThenSoften(truncation=truncation, softening=softening)(p_NK)
    head = truncation(p_NK)
    assert got.tail_N.tolist() == [0.0] * 6
    for row in range(6):
        p_k = head.p_Nk[row][head.p_Nk[row] > 0]
        expected = torch.zeros(8, dtype=torch.float64)
        expected[head.ids_Nk[row][: len(p_k)]] = softening(p_k / p_k.sum())
        torch.testing.assert_close(got.dense()[row], expected)


def test_a_sampled_truncation_takes_part_once_it_has_its_uniforms() -> None:
    p_NK, uniform = rows(0), torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    drawn = SoftenThenTruncate(softening=Power(2.0), truncation=partial(Sampled(5), uniform_NM=uniform))(p_NK)
    torch.testing.assert_close(drawn.dense(), Sampled(5)(Power(2.0)(p_NK), uniform).dense())
