"""A plan: all that a run will do, as frozen values that nobody changes.

Its author makes it, the coordinator carries it out and every site decides about it. `limbeck.plans.checks` says which values go together,
`limbeck.plans.accounting` what a plan costs, `limbeck.protos.codec` how it travels. Every field is public.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from limbeck.operators import families

HASH_BYTES = 32
# What a plan can name. The lists are closed and stand only here, so that author, coordinator and every site refuse any other name before
# anybody is charged: features of inputs (for linear teachers, votes and evidence), nets of teachers, students. Families, codings,
# poolings, losses and noises are the enumerations below.
FEATURES = ("scattering", "hog", "pixels", "rows")
CUSTOM = "custom"
ARCHITECTURES = ("mlp", "cnn", "resnet-gn", CUSTOM)
STUDENTS = ("cnn", "cnn-small", "mlp", "scattering-linear", "scattering-mlp")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceTeaching:
    """Class sums of public features under one Gaussian mechanism: teachers whose scores add up over sites, whatever each of them holds [D].

    A record's row f: its features, balanced and scaled to norm sqrt(1 - constant^2), and `constant` as one more, without which no class
    could be more common than another. Multiplied by `resolution` and rounded towards zero, it is a row of integers of L2 norm at most
    `resolution`. A site's evidence S, (K, D + 1), is the sum of its records' rows, each in the line of the record's class, and of integers
    drawn from the discrete Gaussian of variance (noise_multiplier * resolution)^2 + 4. With G = mean f f^T over the public inputs, scores
    are z(x) = K S g(G) f(x) / (resolution * normaliser), g(G) = G (G^2 + ridge G + noise_to_signal I)^-1, and answers softmax(z / T): to
    first order in 1 / T, 1 / K plus what least squares says above the mean over classes, divided by T.

    features: one of FEATURES. constant: in [0, 0.9].
    normaliser: public constant (records) that divides the noisy sums; never the private data-set size.
    ridge: public constant in units of G's eigenvalues, which add up to at most 1. noise_to_signal: likewise, in units of their squares: the
    filter is Wiener's, which takes out of every direction as much as is noise there; 0 leaves (G + ridge I)^-1.
    noise_multiplier: of the Gaussian mechanism that the release is charged as. resolution: integer steps in a norm of 1.
    """

    features: str
    constant: float
    normaliser: float
    ridge: float
    noise_multiplier: float
    resolution: int
    noise_to_signal: float = 0.0


Teaching = LinearTeaching | NetTeaching | VotesTeaching | EvidenceTeaching
# By the names that they have on the wire, in ledgers, policies and scenarios.
TEACHINGS: dict[str, type[Teaching]] = {
    "linear": LinearTeaching,
    "net": NetTeaching,
    "votes": VotesTeaching,
    "evidence": EvidenceTeaching,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackBoxTeaching:
    """Sites may answer from an existing teacher that was not trained under the plan's DP schedule; each owner decides whether to.

    draws: M in [1, 255], how often a teacher that returns only labels is asked about each input.
    """

    draws: int


class Adjacency(Enum):
    """Which data sets count as neighbours."""

    ADD_REMOVE_ONE = "add-remove-one"


class Unit(Enum):
    """Whose presence ε bounds."""

    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What one run costs a client in total: the epsilon claimed at `delta`, its unit and neighbouring relation.

    It holds for the clients that train under the plan's schedule. For sites that use a black-box teacher there is
    none. A client recomputes epsilon from the schedule and refuses a plan that claims less than it costs.
    """

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency


class CountNoise(Enum):
    """Noise on counts: integers drawn exactly from the discrete Gaussian (arXiv 2004.00010).

    The name "gaussian" is reserved: in 0.1.0 it meant floating-point noise, whose low bits reveal the count. No plan may ask for it.
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


# The softening families; their one table, with names and domains, is in operators.
Family = families.Family


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
    sharpen: the spread of the targets' logits over all inputs and classes, `limbeck.operators.Sharpen`; 0 leaves the pool as it is.
    refine: one of FEATURES; a linear model on these features of the public inputs is fitted to the (sharpened) pool first, and the student
    to its answers. "" fits the student to the pool. mixup: alpha of the Beta distribution of random mixtures of inputs and targets; 0 mixes
    none. choose_augment: the coordinator augments only if that helps on held-out public inputs, without labels (`limbeck.server.trial`).

    The last four came later: at their defaults, a plan has the bytes that it had without them.
    """

    architecture: str
    loss: Loss
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    augment: bool
    relabel: float
    sharpen: float = 0.0
    refine: str = ""
    mixup: float = 0.0
    choose_augment: bool = False


class InputKind(Enum):
    """What the numbers of the public inputs are, and so those of every record.

    BYTES: whole numbers from 0 to 255, in an array of bytes, which stand for 0 to 1. UNIT: from 0 to 1, as floats. NUMBERS: any others.
    """

    BYTES = "bytes"
    UNIT = "unit"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicInputs:
    """What the plan says of its public inputs, so that whoever brings records to their form need not guess.

    low, high: their least and their greatest number as they are stored: of bytes, from 0 to 255.
    """

    kind: InputKind
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a run will do, fixed and public beforehand; the SHA-256 of its encoding names the run.

    transfer_set: SHA-256 of the public inputs. samples, classes: N and K. public_seed: seeds public randomness only. label_counts,
    record_count: at most one of them, since label counts tell the number of records too. black_box: None where every site trains under
    the schedule, and so has the guarantee. encoding: SHA-256 of the file of the public encoding that makes rows of tables or texts, the
    transfer set's and every site's; None where none does. tsallis_order: q in [0, 4] with Family.TSALLIS, None with any other. class_names:
    of the K classes in the order of labels, or () where the plan only counts them. inputs: None in a plan of a version that did not declare
    them. class_weights: by which a record of each class counts in training, before its gradient is clipped, or as evidence, where none
    counts for more than one; () where all count alike.
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
    class_names: tuple[str, ...] = ()
    inputs: PublicInputs | None = None
    class_weights: tuple[float, ...] = ()

    @property
    def counts(self) -> Counts | None:
        """What is asked about the records besides answers, if anything."""
        return self.label_counts or self.record_count
