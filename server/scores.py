"""How well probabilities fit labels: one set of measures for teachers, pools and students, wherever somebody has labelled inputs.

It is here because both those who have labels need it: a coordinator with a labelled test file (`limbeck status --test`), and a simulation,
which knows all labels. docs/metrics.md says what each measure is for and what it hides.

Conventions: a class is predicted where its probability is the largest, of equal ones the first. Means over classes weigh every class alike
and leave out those without inputs, which have no recall, AUC or AUPRC; `Scores.absent` names them. Inputs whose probabilities are not
finite count as if all classes were equally likely.

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from limbeck.base.errors import DataError
from limbeck.base.settings import Strict

# Bins of equal width for the calibration error [F: arXiv 1706.04599, section 2].
BINS = 15
# What a probability counts for at least in the log-loss: the resolution of float32, 2^-23, or 15.9 nats. Without it, a single zero would
# make the loss infinite, and answers over the wire contain exact zeros.
FLOOR = 2.0**-23
# Classes are unbalanced where one has less than this part of an equal share of the inputs.
BALANCED_PART = 0.5
# The measures, by the names of their fields, as tables and files of figures have them. Of the last two, less is better.
FIGURES = ("accuracy", "balanced_accuracy", "f1", "auc", "auprc", "rarest_auprc", "log_loss", "calibration_error")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Nats = Annotated[float, Field(ge=0)]

Main = Literal["accuracy", "balanced_accuracy"]

Labels = NDArray[np.int64]


class ClassScores(Strict):
    """How well one class is told from all others."""

    name: str
    inputs: Count
    """Inputs of this class."""
    predicted: Count
    """Inputs that are taken for it."""
    precision: Share | None
    """Of the inputs that are taken for it, the share that are of it; None if none is taken for it."""
    recall: Share | None
    """Of its inputs, the share that are taken for it: the accuracy of this class. None without inputs."""
    f1: Share | None
    """Harmonic mean of precision and recall; None without inputs."""
    auc: Share | None
    """Area under the ROC curve: how often an input of this class is given more of it than another input, ties half. None without inputs
    of this class, or of any other."""
    auprc: Share | None
    """Average precision over all thresholds; guessing reaches the share of the class. None as for `auc`."""


class Bin(Strict):
    """Inputs that are predicted with about the same confidence."""

    inputs: Annotated[int, Field(ge=1)]
    confidence: Share
    """Mean probability of the predicted class."""
    accuracy: Share


class Scores(Strict):
    """All measures of one classifier on one set of inputs. Shares from 0 to 1."""

    inputs: Annotated[int, Field(ge=1)]
    accuracy: Share
    """Share of inputs whose own class is predicted."""
    balanced_accuracy: Share
    """Mean recall of the classes."""
    f1: Share
    """Mean F1 of the classes."""
    auc: Share | None
    """Mean AUC of the classes, each against all others; None if all inputs are of one class."""
    auprc: Share | None
    """Mean AUPRC of the classes, each against all others; None if all inputs are of one class."""
    log_loss: Nats
    """Mean of -ln(probability of the own class), in nats; a probability below 2^-23 counts as that."""
    below_floor: Count
    """Inputs whose own class was given less than 2^-23, often exactly 0."""
    calibration_error: Share
    """Expected calibration error: mean distance of confidence and accuracy over bins of confidence, weighted by their inputs."""
    confidence: Share
    """Mean probability of the predicted class. Below the accuracy, the classifier is under-confident."""
    majority: str
    """The most frequent class; of equally frequent ones the first."""
    majority_share: Share
    """Its share of the inputs: the accuracy of always predicting it."""
    rarest: str
    """The least frequent class that has inputs; of equally frequent ones the first."""
    rarest_share: Share
    """Its share of the inputs: the AUPRC of guessing it."""
    rarest_auprc: Share | None
    """Its AUPRC; None if all inputs are of one class."""
    absent: tuple[str, ...] = ()
    """Classes without inputs, which no mean contains."""
    unbalanced: bool = False
    """Whether a class has less than half of an equal share of the inputs: accuracy alone is then misleading."""
    classes: tuple[ClassScores, ...] = ()
    """By class, in the order of labels; empty in `whole`."""
    reliability: tuple[Bin, ...] = ()
    """By confidence, ascending, bins without inputs left out; empty in `whole`."""

    @property
    def whole(self) -> Scores:
        """The same without classes and bins, which take much room where many are kept."""
        return self.model_copy(update={"classes": (), "reliability": ()})

    @property
    def main(self) -> Main:
        """The measure to look at first: accuracy, or balanced accuracy if classes are unbalanced."""
        return "balanced_accuracy" if self.unbalanced else "accuracy"

    @property
    def figures(self) -> dict[str, float | None]:
        """The measures by their names, those of `FIGURES`."""
        return {name: getattr(self, name) for name in FIGURES}


def score(p_NK: ArrayLike, y_N: ArrayLike, names: Sequence[str] = ()) -> Scores:
    """The measures of probabilities against labels.

    - p_NK: (N, K) probabilities; each row adds up to 1.
    - y_N: (N,) labels, 0 to K - 1.
    - names: of the K classes; by default "0", "1" ...

    Raises: DataError if the arrays do not fit each other.
    """
    p, y = _checked(p_NK, y_N)
    inputs, classes = p.shape
    names = tuple(names) or tuple(map(str, range(classes)))
    if len(names) != classes:
        raise DataError(f"Expected names of {classes} classes, got {len(names)}.")
    predicted = p.argmax(1)
    own_N, confidence_N, right_N = p[np.arange(inputs), y], p.max(1), predicted == y
    counts = np.bincount(y, minlength=classes)
    by_class = _by_class(names, p, y, predicted)
    present = [each for each in by_class if each.inputs]
    bins = _bins(confidence_N, right_N)
    rarest = min(present, key=lambda each: each.inputs)
    most = int(counts.argmax())
    return Scores(
        inputs=inputs,
        accuracy=float(right_N.mean()),
        balanced_accuracy=_mean(each.recall for each in present),
        f1=_mean(each.f1 for each in present),
        auc=_mean(each.auc for each in present) if len(present) > 1 else None,
        auprc=_mean(each.auprc for each in present) if len(present) > 1 else None,
        # By hand, since scikit-learn's warns of rows that do not add up to 1, as rounded answers of a pool of many classes do not.
        log_loss=max(0.0, float(-np.log(np.maximum(own_N, FLOOR)).mean())),
        below_floor=int((own_N < FLOOR).sum()),
        calibration_error=_share(math.fsum(each.inputs * abs(each.confidence - each.accuracy) for each in bins) / inputs),
        confidence=_share(confidence_N.mean()),
        majority=names[most],
        majority_share=float(counts[most] / inputs),
        rarest=rarest.name,
        rarest_share=rarest.inputs / inputs,
        rarest_auprc=rarest.auprc,
        absent=tuple(each.name for each in by_class if not each.inputs),
        unbalanced=bool(counts.min() * classes < BALANCED_PART * inputs),
        classes=tuple(by_class),
        reliability=bins,
    )


def majority(y_N: ArrayLike, classes: int, names: Sequence[str] = ()) -> Scores:
    """The measures of knowing nothing but how frequent each class is among these inputs: every input is given these shares.

    Its accuracy is that of always predicting the most frequent class, its AUC one half, the AUPRC of a class its share, its log-loss the
    entropy of the shares, and its calibration error 0. No guess that ignores the inputs does better in these; in F1, a random one may.

    Raises: DataError if the labels are not those of so many classes.
    """
    y = np.asarray(y_N)
    shares_K = np.bincount(y[(y >= 0) & (y < classes)].astype(np.int64), minlength=classes) / max(1, len(y))
    return score(np.tile(shares_K, (len(y), 1)), y, names)


def _checked(p_NK: ArrayLike, y_N: ArrayLike) -> tuple[NDArray[np.float64], Labels]:
    p, y = np.array(p_NK, np.float64), np.asarray(y_N)
    if p.ndim != 2 or not p.size or y.shape != (len(p),) or y.dtype.kind not in "iu":
        raise DataError(
            f"Expected probabilities (N, K) and a whole label for each of N >= 1 inputs, got {p.shape} and {y.shape} of {y.dtype}."
        )
    if not 0 <= int(y.min()) <= int(y.max()) < p.shape[1]:
        raise DataError(f"Expected labels from 0 to {p.shape[1] - 1}, got {int(y.min())} to {int(y.max())}.")
    p[~np.isfinite(p).all(1)] = 1 / p.shape[1]
    return p, y.astype(np.int64)


def _by_class(names: Sequence[str], p_NK: NDArray[np.float64], y_N: Labels, predicted_N: Labels) -> list[ClassScores]:
    from sklearn import metrics

    labels = range(len(names))
    told = metrics.precision_recall_fscore_support(y_N, predicted_N, labels=labels, average=None, zero_division=0.0)
    counts_K, taken_K = (np.bincount(each, minlength=len(names)).tolist() for each in (y_N, predicted_N))
    by_class = []
    for index, name, precision, recall, f1 in zip(labels, names, *(part.tolist() for part in told[:3]), strict=True):
        is_it, p_N, inputs = y_N == index, p_NK[:, index], counts_K[index]
        both = 0 < inputs < len(y_N)
        by_class.append(
            ClassScores(
                name=name,
                inputs=inputs,
                predicted=taken_K[index],
                precision=_share(precision) if taken_K[index] else None,
                recall=_share(recall) if inputs else None,
                f1=_share(f1) if inputs else None,
                auc=_share(metrics.roc_auc_score(is_it, p_N)) if both else None,
                auprc=_share(metrics.average_precision_score(is_it, p_N)) if both else None,
            )
        )
    return by_class


def _bins(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Bins (0, 1/15], (1/15, 2/15] ... that have inputs."""
    bin_N = np.ceil(confidence_N * BINS).astype(np.int64).clip(1, BINS)
    rows = [bin_N == index for index in np.unique(bin_N)]
    return tuple(
        Bin(inputs=int(row.sum()), confidence=_share(confidence_N[row].mean()), accuracy=float(right_N[row].mean()))
        for row in rows
    )


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return _share(math.fsum(known) / len(known))


def _share(value: float) -> float:
    """Without what rounding adds beyond 0 and 1."""
    return min(1.0, max(0.0, float(value)))
