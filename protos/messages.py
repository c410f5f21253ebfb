"""What crosses between a site and the coordinator, as checked frozen values.

`codec` turns these into bytes and back; past it nobody checks again. Every field is public, except where a docstring says
that it is a release, and then it names the mechanism that paid for it.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from limbeck.operators import Family  # noqa: F401  re-exported
from limbeck.operators import Truncated

VERSION = 1
# How a site encodes its replies. 1, in 0.1.0: label counts as floats, and shares in more than one encoding.
REPLIES = 2
HASH_BYTES = 32
# What a plan can name, here and nowhere else: closed lists, so that its author, the coordinator and every site refuse it before anybody is
# charged. Features of inputs for linear teachers and votes, nets of teachers, students; families, codings, poolings, losses and noises are
# the enumerations below.
FEATURES = ("scattering", "hog", "pixels", "rows")
CUSTOM = "custom"
ARCHITECTURES = ("mlp", "cnn", "resnet-gn", CUSTOM)
STUDENTS = ("cnn", "cnn-small", "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTeaching:
    """Full-batch DP gradient descent on a linear head over public features: every record takes part in every step.

    features: one of FEATURES. feature_norm: each record's feature vector is scaled to this L2 norm.
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
class NetTeaching:
    """DP-SGD with Poisson sampling on a net.

    architecture: one of ARCHITECTURES; "custom" is a net of the site's own choice, named in its settings and never by a plan: the cost
    is that of the schedule whatever the net.
    sampling_rate: public, in (0, 1]. normaliser: public constant (records) that divides the noisy gradient sum.
    noise_multiplier: noise standard deviation divided by `clip`. physical_batch: records per backward pass (memory only).
    """

    architecture: str
    sampling_rate: float
    steps: int
    learning_rate: float
    momentum: float
    clip: float
    noise_multiplier: float
    normaliser: float
    physical_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VotesTeaching:
    """Noisy votes of disjoint sub-teachers, for owners whose teacher cannot be trained under DP [F: PATE, arXiv 1802.08908].

    Every record belongs to one of `teachers` shards, drawn on its own; on each shard a linear head over public features is trained
    without noise and votes for one class of each of the `queries` public inputs. One record more or less changes one shard, so it
    moves at most one vote per input from one class to another: L2 sensitivity sqrt(2) per input [D].

    queries: the plan's number of samples; all are answered once, at teaching. noise_multiplier: standard deviation of the noise on each
    vote count divided by sqrt(2). feature_norm, steps, learning_rate, momentum: of every head, full batch.
    """

    teachers: int
    queries: int
    features: str
    feature_norm: float
    steps: int
    learning_rate: float
    momentum: float
    noise_multiplier: float


Teaching = LinearTeaching | NetTeaching | VotesTeaching
# By the names that they have on the wire, in ledgers, policies and scenarios.
TEACHINGS: dict[str, type[Teaching]] = {"linear": LinearTeaching, "net": NetTeaching, "votes": VotesTeaching}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackBoxTeaching:
    """Sites may answer from a teacher of their own that no DP schedule made: whether one does, its owner decides.

    draws: M in [1, 255], how often a teacher that gives labels only is asked about each input.
    """

    draws: int


class Guarantee(Enum):
    """What a site's answers guarantee for its records; it says so itself.

    NONE: they come from a black-box teacher, so no epsilon holds for this site. SEEDED: its noise is seeded, so whoever knows the seed can
    take it away, and no epsilon holds either; for simulations. Counts leave from such a site as from one with a guarantee.
    """

    RECORD_DP = "record-dp"
    NONE = "none"
    SEEDED = "seeded-noise"


class Adjacency(Enum):
    """Which data sets count as neighbours."""

    ADD_REMOVE_ONE = "add-remove-one"


class Unit(Enum):
    """Whose presence ε bounds."""

    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What one run costs a client in all: the epsilon claimed at `delta`, its unit and neighbouring relation.

    Of the clients that train under the plan's schedule, that is: where a plan permits black-box teachers, the sites that use one have none.
    A client recomputes epsilon from the schedule and refuses a plan that claims less than it costs.
    """

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency


class CountNoise(Enum):
    """Noise on counts: integers drawn exactly from the discrete Gaussian (arXiv 2004.00010).

    The name "gaussian" is reserved. 0.1.0 had floating-point noise under it, whose low bits tell counts apart; no plan may ask for it.
    """

    DISCRETE_GAUSSIAN = "discrete-gaussian"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """A noisy label histogram is asked of every client: noise of scale `noise_std` records on each of the K counts
    (L2 sensitivity 1 under add/remove of one record, which changes one count by 1)."""

    noise_std: float
    noise: CountNoise = CountNoise.DISCRETE_GAUSSIAN


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCount:
    """A noisy number of records is asked of every client: discrete Gaussian noise of scale `noise_std` (sensitivity 1)."""

    noise_std: float


Counts = LabelCounts | RecordCount


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
    RECORD_COUNTS = "record-counts"


class Loss(Enum):
    """Distillation losses, `limbeck.operators.losses`: transformed teacher matching, reverse KL and Jensen-Shannon, all with an untempered
    student, or Hinton's (tempered, times T^2)."""

    TTM = "ttm"
    HINTON = "hinton"
    REVERSE = "reverse"
    JENSEN_SHANNON = "jensen-shannon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step along the path: clients answer at `temperature`, the student ends at `sparsity` in [0, 1)."""

    sparsity: float
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """How the coordinator trains the student in every stage.

    architecture: one of STUDENTS. epochs: passes over the transfer set per stage. augment: public random
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

    transfer_set: SHA-256 of the public inputs. samples, classes: N and K. public_seed: seeds public randomness only. label_counts,
    record_count: at most one of them, since label counts tell the number of records too. black_box: None where every site trains under
    the schedule, and so has the guarantee. encoding: SHA-256 of the file of the public encoding that makes rows of tables or texts, the
    transfer set's and every site's; None where none does. tsallis_order: q in [0, 4] with Family.TSALLIS, None with any other.
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
    record_count: RecordCount | None = None
    black_box: BlackBoxTeaching | None = None
    encoding: bytes | None = None
    tsallis_order: float | None = None

    @property
    def counts(self) -> Counts | None:
        """What is asked about the records besides answers, if anything."""
        return self.label_counts or self.record_count


# Requests: coordinator to site. Every one but the first carries the plan's hash.


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Will you take part in this plan?

    author: Ed25519 public key (32 bytes) of who wrote the plan. signature: over its encoding. Both empty: nobody signed it.
    """

    plan: Plan
    author: bytes = b""
    signature: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teach:
    """Train the teacher under the plan's schedule, and release noisy counts if the plan says so."""

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
    FAILED = "the site met an error of its own"
    ENCODING = "the site does not hold the public encoding of this plan"
    TEACHER = "the site's black-box teacher cannot answer as the plan needs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The site will take part. site: its name, 1 to 64 characters of a-z, A-Z, 0-9, '.', '_', '-'; node ids change, it does not."""

    plan_hash: bytes
    site: str
    guarantee: Guarantee


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The site will not do what was asked; public sentence only. site: its name, so that the run's record can say who."""

    plan_hash: bytes
    site: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The teacher is ready.

    label_counts: a release (discrete Gaussian mechanism, in the ledger) of K integers, or None. record_count: a release (discrete
    Gaussian mechanism, in the ledger), or None. A site with a black-box teacher releases neither. Noise can make a count negative.
    """

    plan_hash: bytes
    label_counts: tuple[int, ...] | None
    guarantee: Guarantee
    record_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Answers on transfer samples first .. first + N - 1 at `stage`: post-processing of what teaching was charged for, or what a site said
    has no guarantee.

    answers: N rows of kept ids, probabilities and tail mass, as quantised on the wire.
    """

    plan_hash: bytes
    stage: int
    first: int
    answers: Truncated


Reply = Accepted | Declined | Taught | Share
