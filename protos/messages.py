"""The messages between a site and the coordinator, as checked frozen values.

`codec` turns them into bytes and back; past it nobody checks again. Every field is public unless a docstring says that
it is a release; then it names the mechanism that protects it.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from limbeck.operators import Truncated
from limbeck.plans.schema import Plan

VERSION = 1
# How a site encodes its replies. 1, in 0.1.0: label counts as floats, and shares in more than one encoding.
REPLIES = 2


class Guarantee(Enum):
    """What a site's answers guarantee for its records, as the site states it.

    - NONE: the answers come from a black-box teacher, so no epsilon holds for this site.
    - SEEDED: its noise is seeded, for simulations. Whoever knows the seed can remove the noise, so no epsilon holds
      either. Such a site releases counts like one with a guarantee.
    """

    RECORD_DP = "record-dp"
    NONE = "none"
    SEEDED = "seeded-noise"


# Requests, from the coordinator to a site. All except the first carry the plan's hash.


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Will you take part in this plan?

    author: the Ed25519 public key (32 bytes) of the plan's author. signature: over the plan's encoding. Both are empty
    if nobody signed it.
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
    """Answer `count` transfer samples from index `first` on, for `stage` (0-based)."""

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
    """The site will take part.

    site: its name, 1 to 64 characters of a-z, A-Z, 0-9, '.', '_', '-'. Node ids change, names do not.
    """

    plan_hash: bytes
    site: str
    guarantee: Guarantee


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The site will not do what was asked. reason: a public sentence. site: its name, for the run's record."""

    plan_hash: bytes
    site: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The teacher is ready.

    - label_counts: a release (discrete Gaussian mechanism, in the ledger) of K integers, or None.
    - record_count: a release (discrete Gaussian mechanism, in the ledger), or None.

    A site with a black-box teacher releases neither. Noise can make a count negative.
    """

    plan_hash: bytes
    label_counts: tuple[int, ...] | None
    guarantee: Guarantee
    record_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Answers on transfer samples first .. first + N - 1 at `stage`.

    They are post-processing of what teaching was charged for, unless the site said that they have no guarantee.

    answers: N rows of kept ids, probabilities and tail mass, as quantised on the wire.
    """

    plan_hash: bytes
    stage: int
    first: int
    answers: Truncated


Reply = Accepted | Declined | Taught | Share
