"""The measures of probabilities against labels: oracles, invariances, and the cases in which a measure has no value."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn import metrics as oracle

from limbeck.base.errors import DataError
from limbeck.server.scores import BINS, FIGURES, FLOOR, Scores, majority, score

Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]
Case = tuple[Probabilities, Labels]


@st.composite
def cases(draw: st.DrawFn, *, most: int = 40) -> Case:
    """Probabilities with ties and zeros, and labels; often without some of the classes."""
    inputs, classes = draw(st.integers(1, most)), draw(st.integers(2, 5))
    parts = draw(arrays.arrays(np.int64, (inputs, classes), elements=st.integers(0, 4)))
    parts[parts.sum(1) == 0] = 1
    labels = draw(arrays.arrays(np.int64, inputs, elements=st.integers(0, classes - 1)))
    return parts / parts.sum(1, keepdims=True), labels


def close(one: float | None, other: float | None) -> bool:
    return one is other is None or (one is not None and other is not None and math.isclose(one, other, abs_tol=1e-9))


def same(one: Scores, other: Scores) -> bool:
    return all(close(value, other.figures[name]) for name, value in one.figures.items())


# Oracles


@given(cases())
@settings(max_examples=100, deadline=None)
def test_every_measure_is_scikit_learns(case: Case) -> None:
    p, y = case
    found, classes = score(p, y), range(p.shape[1])
    present = sorted(set(y.tolist()))
    predicted = p.argmax(1)
    assert close(found.accuracy, oracle.accuracy_score(y, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and absent, which it leaves out too
        assert close(found.balanced_accuracy, oracle.balanced_accuracy_score(y, predicted))
    assert close(found.f1, oracle.f1_score(y, predicted, labels=present, average="macro", zero_division=0.0))
    # Its rows of clipped probabilities need not add up to 1, of which it warns.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert close(found.log_loss, oracle.log_loss(y, np.maximum(p, FLOOR), labels=classes))
    one_against_rest = (y[:, None] == present).astype(int)
    if len(present) > 1:
        assert close(found.auc, oracle.roc_auc_score(one_against_rest, p[:, present], average="macro"))
        assert close(found.auprc, oracle.average_precision_score(one_against_rest, p[:, present], average="macro"))
    report = oracle.classification_report(y, predicted, labels=classes, output_dict=True, zero_division=0.0)
    for own in found.classes:
        expected = report[own.name]
        assert own.inputs == expected["support"]
        assert close(own.precision or 0.0, expected["precision"])
        assert close(own.recall or 0.0, expected["recall"])
        assert close(own.f1 or 0.0, expected["f1-score"] if own.inputs else 0.0)


@given(cases(most=20))
@settings(max_examples=50, deadline=None)
def test_areas_are_what_their_definitions_say(case: Case) -> None:
    p, y = case
    for index, own in enumerate(score(p, y).classes):
        of_it, others = p[y == index, index], p[y != index, index]
        if not len(of_it) or not len(others):
            assert (own.auc, own.auprc) == (None, None)
            continue
        wins = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in product(of_it, others)]
        assert close(own.auc, sum(wins) / len(wins))
        # Over thresholds from above: the recall that each adds, times the precision there.
        area, before = 0.0, 0.0
        for threshold in sorted({*p[:, index].tolist()}, reverse=True):
            taken = p[:, index] >= threshold
            recall, precision = (of_it >= threshold).mean(), (y[taken] == index).mean()
            area, before = area + (recall - before) * precision, recall
        assert close(own.auprc, area)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_the_calibration_error_is_what_its_definition_says(case: Case) -> None:
    p, y = case
    found, error = score(p, y), 0.0
    confidence, right = p.max(1), p.argmax(1) == y
    for low in range(BINS):
        rows = (confidence > low / BINS) & (confidence <= (low + 1) / BINS)
        if rows.any():
            error += rows.mean() * abs(confidence[rows].mean() - right[rows].mean())
    assert math.isclose(found.calibration_error, error, abs_tol=1e-9)
    assert sum(each.inputs for each in found.reliability) == found.inputs
    assert math.isclose(found.confidence, confidence.mean())


# Invariances


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_inputs_does_not_matter(case: Case, random: object) -> None:
    p, y = case
    order = list(range(len(y)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one, other = score(p, y), score(p[order], y[order])
    assert same(one, other)
    assert (one.majority, one.rarest, one.absent, one.unbalanced) == (
        other.majority,
        other.rarest,
        other.absent,
        other.unbalanced,
    )


@given(cases(), st.permutations(range(5)))
@settings(max_examples=50, deadline=None)
def test_the_order_of_classes_does_not_matter_without_ties(case: Case, order: list[int]) -> None:
    p, y = case
    # Of equally likely classes the first is predicted: here every row has another tiny preference.
    p = p + np.random.default_rng(0).uniform(0, 1e-6, p.shape)
    p /= p.sum(1, keepdims=True)
    kept = [index for index in order if index < p.shape[1]]
    names = [f"class {index}" for index in range(p.shape[1])]
    one, other = score(p, y, names), score(p[:, kept], np.argsort(kept)[y], [names[index] for index in kept])
    for name in set(FIGURES) - {"rarest_auprc"}:
        assert close(one.figures[name], other.figures[name])
    assert {own.name: own for own in one.classes}.keys() == {own.name: own for own in other.classes}.keys()
    for own in one.classes:
        (again,) = [each for each in other.classes if each.name == own.name]
        assert (own.inputs, own.predicted) == (again.inputs, again.predicted)
        assert close(own.auc, again.auc)
        assert close(own.auprc, again.auprc)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_ranking_alone_decides_the_areas(case: Case) -> None:
    p, y = case
    one, other = score(p, y), score(p / 2, y)
    assert close(one.auc, other.auc)
    assert close(one.auprc, other.auprc)
    assert one.accuracy == other.accuracy


# Cases


def test_perfect_answers_have_perfect_scores() -> None:
    found = score(np.eye(3), np.arange(3), ["a", "b", "c"])
    assert [found.figures[name] for name in FIGURES] == [1, 1, 1, 1, 1, 1, 0, 0]
    assert (found.absent, found.unbalanced, found.below_floor) == ((), False, 0)


def test_a_class_without_inputs_is_named_and_left_out_of_every_mean() -> None:
    p = np.array([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.1, 0.1, 0.8]])
    found = score(p, np.array([0, 1, 1]), ["a", "b", "c"])
    assert found.absent == ("c",)
    absent = found.classes[2]
    assert (absent.inputs, absent.predicted, absent.precision) == (0, 1, 0.0)
    assert (absent.recall, absent.f1, absent.auc, absent.auprc) == (None, None, None, None)
    assert found.balanced_accuracy == pytest.approx((1 + 0.5) / 2)
    assert found.unbalanced
    assert found.rarest == "a"


def test_one_class_alone_has_neither_curve() -> None:
    found = score(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), ["well", "ill"])
    assert (found.auc, found.auprc, found.rarest_auprc) == (None, None, None)
    assert (found.accuracy, found.balanced_accuracy, found.absent) == (0.5, 0.5, ("ill",))


def test_a_class_that_is_never_predicted_has_no_precision_and_no_f1() -> None:
    found = score(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    assert (found.classes[1].precision, found.classes[1].recall, found.classes[1].f1) == (None, 0.0, 0.0)


def test_a_probability_of_exactly_0_costs_a_finite_loss_and_is_counted() -> None:
    found = score(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert found.log_loss == pytest.approx(-math.log(FLOOR) / 2)
    assert found.log_loss == pytest.approx(15.942 / 2, abs=1e-3)
    assert found.below_floor == 1


def test_what_is_not_finite_counts_as_knowing_nothing() -> None:
    found = score(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.array([1, 1]))
    assert found == score(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([1, 1]))


def test_equal_probabilities_are_half_right_in_auc() -> None:
    found = score(np.full((4, 2), 0.5), np.array([0, 0, 1, 1]))
    assert found.auc == 0.5
    assert found.auprc == 0.5


@pytest.mark.parametrize(("rare", "unbalanced"), [(24, True), (25, False)])
def test_classes_are_unbalanced_below_half_of_an_equal_share(rare: int, unbalanced: bool) -> None:
    y = np.array([1] * rare + [0] * (100 - rare))
    found = majority(y, 2, ["common", "rare"])
    assert found.unbalanced is unbalanced
    assert (found.rarest, found.rarest_share) == ("rare", rare / 100)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_the_majority_class_knows_shares_and_nothing_else(labels: list[int]) -> None:
    y = np.array(labels)
    found = majority(y, 4)
    shares = np.bincount(y, minlength=4) / len(y)
    assert found.accuracy == found.majority_share == pytest.approx(shares.max())
    assert found.balanced_accuracy == pytest.approx(1 / (shares > 0).sum())
    assert found.log_loss == pytest.approx(-sum(share * math.log(share) for share in shares if share))
    assert found.calibration_error == pytest.approx(0)
    for own, share in zip(found.classes, shares, strict=True):
        assert (own.auc, own.auprc) == ((0.5, pytest.approx(share)) if 0 < share < 1 else (None, None))


def test_the_whole_has_no_details_and_the_same_figures() -> None:
    found = score(np.eye(2), np.arange(2))
    assert (found.whole.classes, found.whole.reliability) == ((), ())
    assert found.whole.figures == found.figures


@pytest.mark.parametrize(
    ("p", "y", "wanted"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), r"N >= 1 inputs, got \(0, 2\)"),
        (np.zeros(3), np.zeros(3, int), r"got \(3,\) and \(3,\)"),
        (np.eye(2), np.zeros(3, int), r"got \(2, 2\) and \(3,\)"),
        (np.eye(2), np.zeros(2), "of float64"),
        (np.eye(2), np.array([0, 2]), "labels from 0 to 1, got 0 to 2"),
        (np.eye(2), np.array([-1, 1]), "labels from 0 to 1, got -1 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(p: Probabilities, y: Labels, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        score(p, y)
    with pytest.raises(DataError, match="Expected names of 2 classes, got 3"):
        score(np.eye(2), np.arange(2), "abc")
