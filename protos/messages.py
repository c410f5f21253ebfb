"""What crosses between a site and the coordinator, as checked frozen values.

`codec` turns these into bytes and back; past it nobody checks again. Every field is public, except where a docstring says
that it is a release, and then it names the mechanism that paid for it.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from limbeck.operators import Truncated

VERSION = 1
HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTeaching:
    """Full-batch DP gradient descent on a linear head over public features: every record takes part in every step.

    features: "scattering", "hog" or "pixels". feature_norm: each record's feature vector is scaled to this L2 norm.
    normaliser: public constant (records) that divides the noisy gradient sum; never the private data-set size.
    noise_multiplier: noise standard deviation divided by `clip`. average_last: weights are the mean of this many last steps.
    """

    features: str
    feature_norm: float
    steps: int
    learning_rate: float
    momentum: float
    clip: float
    noise_multiplier: float
    normaliser: float
    average_last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CnnTeaching:
    """DP-SGD with Poisson sampling on a small tanh convolutional net.

    sampling_rate: public, in (0, 1]. normaliser: public constant (records) that divides the noisy gradient sum.
    noise_multiplier: noise standard deviation divided by `clip`. physical_batch: records per backward pass (memory only).
    """

    sampling_rate: float
    steps: int
    learning_rate: float
    momentum: float
    clip: float
    noise_multiplier: float
    normaliser: float
    physical_batch: int


Teaching = LinearTeaching | CnnTeaching


class Adjacency(Enum):
    """Which data sets count as neighbours."""

    ADD_REMOVE_ONE = "add-remove-one"


class Unit(Enum):
    """Whose presence ε bounds."""

    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What one run costs a client in all: the epsilon claimed at `delta`, its unit and neighbouring relation.

    A client recomputes epsilon from the schedule and refuses a plan that claims less than it costs.
    """

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """A noisy label histogram is asked of every client: Gaussian noise of standard deviation `noise_std` records
    on each of the K counts (L2 sensitivity 1 under add/remove of one record)."""

    noise_std: float


class Family(Enum):
    """Softening operators, `limbeck.operators.softening`."""

    POWER = "power"
    MIXING = "mixing"


class Coding(Enum):
    """How kept ids travel: bit-packed, or one (K <= 256) or two bytes each."""

    PACKED = "packed"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Keep the `k` largest softened probabilities and the tail mass; probabilities as 8-bit logarithms."""

    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Keep `draws` <= 255 ids drawn with replacement from the softened distribution; counts travel exactly."""

    draws: int


Truncation = TopK | Sampled


class Pooling(Enum):
    """How the coordinator pools shares, `limbeck.server.pooling`."""

    MEAN = "mean"
    CLASS_COUNTS = "class-counts"


class Loss(Enum):
    """Distillation losses: transformed teacher matching (untempered student) or Hinton's (tempered, times T^2)."""

    TTM = "ttm"
    HINTON = "hinton"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step along the path: clients answer at `temperature`, the student ends at `sparsity` in [0, 1)."""

    sparsity: float
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """How the coordinator trains the student in every stage.

    architecture: a name in `limbeck.server.student`. epochs: passes over the transfer set per stage. augment: public random
    affine views of the transfer set. relabel: in [0, 1], the share of the student's own prediction in its targets
    from the second stage on: `limbeck.operators.Anchoring` with alpha = 1 - relabel.
    """

    architecture: str
    loss: Loss
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    augment: bool
    relabel: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a run will do, fixed and public beforehand; the SHA-256 of its encoding names the run.

    transfer_set: SHA-256 of the public inputs. samples, classes: N and K. public_seed: seeds public randomness only.
    """

    name: str
    transfer_set: bytes
    samples: int
    classes: int
    family: Family
    truncation: Truncation
    coding: Coding
    pooling: Pooling
    stages: tuple[Stage, ...]
    teaching: Teaching
    label_counts: LabelCounts | None
    privacy: Privacy
    student: Student
    minimum_clients: int
    public_seed: int


# Requests: coordinator to site. Every one but the first carries the plan's hash.


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Will you take part in this plan?"""

    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Teach:
    """Train the teacher under the plan's schedule, and release label counts if the plan says so."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Answer `count` transfer samples from index `first` on for `stage` (0-based)."""

    plan_hash: bytes
    stage: int
    first: int
    count: int


Request = Offer | Teach | Ask


class Reason(Enum):
    """Why a site declines: a closed list of public sentences; the cause stays in the site's own log."""

    BUDGET = "the privacy budget does not allow it"
    POLICY = "the site's policy does not allow it"
    TRANSFER_SET = "the site does not hold this transfer set"
    PLAN = "the plan is not one this site accepted"
    NOT_TAUGHT = "the site has no teacher for this plan"
    TEACHING_FAILED = "training the teacher failed"
    DATA = "the site could not read its records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The site will take part. site: its name, 1 to 64 characters of a-z, A-Z, 0-9, '.', '_', '-'; node ids change, it does not."""

    plan_hash: bytes
    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The site will not do what was asked; public sentence only. site: its name, so that the run's record can say who."""

    plan_hash: bytes
    site: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The teacher is ready. label_counts: a release (Gaussian mechanism, in the ledger) of K finite floats, or None."""

    plan_hash: bytes
    label_counts: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Answers on transfer samples first .. first + N - 1 at `stage`: post-processing of a DP-trained teacher.

    answers: N rows of kept ids, probabilities and tail mass, as quantised on the wire.
    """

    plan_hash: bytes
    stage: int
    first: int
    answers: Truncated


Reply = Accepted | Declined | Taught | Share
