"""The codec of plans, requests and replies: bytes in, a checked frozen value out, or a WireError.

It is the only module that touches the code generated from limbeck.proto. Decoding trusts nothing: lengths, ranges,
sums, the plan's hash, stage and bounds are all checked here, so nobody checks again. An encoding is canonical: what
decodes re-encodes to the same bytes, and all other bytes are refused.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from limbeck.base.bounds import enum as _enum
from limbeck.base.bounds import whole as _whole
from limbeck.base.errors import WireError
from limbeck.operators import Truncated
from limbeck.plans.checks import WHOLES, check_plan
from limbeck.plans.schema import (
    HASH_BYTES,
    TEACHINGS,
    Adjacency,
    BlackBoxTeaching,
    Coding,
    CountNoise,
    EvidenceTeaching,
    Family,
    InputKind,
    LabelCounts,
    LinearTeaching,
    Loss,
    NetTeaching,
    Plan,
    Pooling,
    Privacy,
    PublicInputs,
    RecordCount,
    Sampled,
    Stage,
    Student,
    Teaching,
    TopK,
    Truncation,
    Unit,
    VotesTeaching,
)
from limbeck.protos import limbeck_pb2 as pb
from limbeck.protos import packing, signing
from limbeck.protos.checks import no_unknown_fields as _no_unknown_fields
from limbeck.protos.messages import (
    REPLIES,
    VERSION,
    Accepted,
    Ask,
    Declined,
    Guarantee,
    Offer,
    Reason,
    Reply,
    Request,
    Share,
    Taught,
    Teach,
)

# Three times the length of a plan with as many stages as are allowed.
MAX_REQUEST = 1 << 16
MAX_SMALL_REPLY = 1 << 20
MAX_COUNT = 1 << 31
# In standard deviations. Larger noise has a probability below e^-800.
MOST_NOISE = 40
# The mass of rows that 0.1.0 rounded entry by entry: it is off by at most half a code step, 2.8 %.
FORMER_MASS = (0.97, 1.03)
# Up to this many kept entries, comparing all pairs of columns is faster than sorting.
PAIRWISE = 16

_SITE = re.compile(r"[A-Za-z0-9._-]{1,64}")
M = TypeVar("M", pb.Request, pb.Reply)


# Plans


@lru_cache(maxsize=64)
def plan_hash(plan: Plan) -> bytes:
    """SHA-256 (32 bytes) of a plan's encoding: the name of its run."""
    return hashlib.sha256(_plan_bytes(plan)).digest()


def signed_offer(plan: Plan, key: Ed25519PrivateKey) -> Offer:
    """An offer of the plan, signed by the holder of this key."""
    return Offer(plan=plan, author=signing.author_of(key), signature=signing.sign(key, _plan_bytes(plan)))


def _plan_bytes(plan: Plan) -> bytes:
    return _plan_to_pb(plan).SerializeToString(deterministic=True)


def _plan_to_pb(plan: Plan) -> pb.Plan:
    teaching = plan.teaching
    fields = {name: getattr(teaching, name) for name in teaching.__dataclass_fields__}
    return pb.Plan(
        version=VERSION,
        name=plan.name,
        transfer_set=plan.transfer_set,
        samples=plan.samples,
        classes=plan.classes,
        family=plan.family.value,
        top_k=pb.TopK(k=plan.truncation.k) if isinstance(plan.truncation, TopK) else None,
        sampled=pb.Sampled(draws=plan.truncation.draws) if isinstance(plan.truncation, Sampled) else None,
        coding=plan.coding.value,
        pooling=plan.pooling.value,
        stages=[pb.Stage(sparsity=stage.sparsity, temperature=stage.temperature) for stage in plan.stages],
        linear=pb.LinearTeaching(**fields) if isinstance(teaching, LinearTeaching) else None,
        net=pb.NetTeaching(**fields) if isinstance(teaching, NetTeaching) else None,
        votes=pb.VotesTeaching(**fields) if isinstance(teaching, VotesTeaching) else None,
        evidence=pb.EvidenceTeaching(**fields) if isinstance(teaching, EvidenceTeaching) else None,
        label_counts=pb.LabelCounts(noise_std=plan.label_counts.noise_std, noise=plan.label_counts.noise.value)
        if plan.label_counts
        else None,
        record_count=pb.RecordCount(noise_std=plan.record_count.noise_std) if plan.record_count else None,
        privacy=pb.Privacy(
            epsilon=plan.privacy.epsilon,
            delta=plan.privacy.delta,
            unit=plan.privacy.unit.value,
            adjacency=plan.privacy.adjacency.value,
        ),
        student=pb.Student(
            **{name: getattr(plan.student, name) for name in plan.student.__dataclass_fields__ if name != "loss"},
            loss=plan.student.loss.value,
        ),
        minimum_clients=plan.minimum_clients,
        public_seed=plan.public_seed,
        black_box=pb.BlackBoxTeaching(draws=plan.black_box.draws) if plan.black_box else None,
        encoding=plan.encoding,
        tsallis_order=plan.tsallis_order,
        class_names=plan.class_names,
        inputs=pb.PublicInputs(kind=plan.inputs.kind.value, low=plan.inputs.low, high=plan.inputs.high)
        if plan.inputs is not None
        else None,
        class_weights=plan.class_weights,
    )


def _plan_from_pb(message: pb.Plan) -> Plan:
    if message.version != VERSION:
        raise WireError(f"Expected plan version {VERSION}, got {message.version}.")
    if message.label_counts.noise == "gaussian":
        raise WireError(
            "Expected label_counts.noise 'discrete-gaussian', got 'gaussian': the low bits of floating-point noise reveal counts, so it is"
            " no longer offered; make the plan again."
        )
    for part in ("truncation", "teaching"):
        if message.WhichOneof(part) is None:
            raise WireError(f"Expected a plan with a {part}, got none.")
    for name in ("privacy", "student"):
        if not message.HasField(name):
            raise WireError(f"Expected a plan with {name}, got none.")
    truncation: Truncation = (
        TopK(k=message.top_k.k) if message.WhichOneof("truncation") == "top_k" else Sampled(draws=message.sampled.draws)
    )
    kind = str(message.WhichOneof("teaching"))
    fields = {name: getattr(getattr(message, kind), name) for name in TEACHINGS[kind].__dataclass_fields__}
    teaching: Teaching = TEACHINGS[kind](**fields)
    plan = Plan(
        name=message.name,
        transfer_set=message.transfer_set,
        samples=message.samples,
        classes=message.classes,
        family=_enum("family", Family, message.family),
        truncation=truncation,
        coding=_enum("coding", Coding, message.coding),
        pooling=_enum("pooling", Pooling, message.pooling),
        stages=tuple(Stage(sparsity=stage.sparsity, temperature=stage.temperature) for stage in message.stages),
        teaching=teaching,
        label_counts=LabelCounts(
            noise_std=message.label_counts.noise_std,
            noise=_enum("label_counts.noise", CountNoise, message.label_counts.noise),
        )
        if message.HasField("label_counts")
        else None,
        record_count=RecordCount(noise_std=message.record_count.noise_std) if message.HasField("record_count") else None,
        privacy=Privacy(
            epsilon=message.privacy.epsilon,
            delta=message.privacy.delta,
            unit=_enum("privacy.unit", Unit, message.privacy.unit),
            adjacency=_enum("privacy.adjacency", Adjacency, message.privacy.adjacency),
        ),
        student=Student(
            **{name: getattr(message.student, name) for name in Student.__dataclass_fields__ if name != "loss"},
            loss=_enum("student.loss", Loss, message.student.loss),
        ),
        minimum_clients=message.minimum_clients,
        public_seed=message.public_seed,
        black_box=BlackBoxTeaching(draws=message.black_box.draws) if message.HasField("black_box") else None,
        encoding=message.encoding if message.HasField("encoding") else None,
        tsallis_order=message.tsallis_order if message.HasField("tsallis_order") else None,
        class_names=tuple(message.class_names),
        inputs=PublicInputs(
            kind=_enum("inputs.kind", InputKind, message.inputs.kind), low=message.inputs.low, high=message.inputs.high
        )
        if message.HasField("inputs")
        else None,
        class_weights=tuple(message.class_weights),
    )
    check_plan(plan)
    return plan


# Requests


def encode_request(request: Request) -> bytes:
    """The bytes of a request. Raises WireError for an invalid one."""
    match request:
        case Offer(plan=plan):
            check_plan(plan)
            _check_author(request)
            message = pb.Request(offer=pb.Offer(plan=_plan_to_pb(plan), author=request.author, signature=request.signature))
        case Teach():
            message = pb.Request(teach=pb.Teach(plan_hash=_hash("plan_hash", request.plan_hash)))
        case Ask():
            _check_ask(request)
            ask = pb.Ask(plan_hash=request.plan_hash, stage=request.stage, first=request.first, count=request.count)
            message = pb.Request(ask=ask)
    return message.SerializeToString(deterministic=True)


def decode_request(data: bytes) -> Request:
    """The request in `data`. Raises WireError for anything that is not exactly one request."""
    message = _parse(pb.Request(), data, MAX_REQUEST, _few_stages)
    kind = message.WhichOneof("kind")
    if kind == "offer":
        encoded = message.offer
        offer = Offer(plan=_plan_from_pb(encoded.plan), author=encoded.author, signature=encoded.signature)
        _check_author(offer)
        return offer
    if kind == "teach":
        return Teach(plan_hash=_hash("plan_hash", message.teach.plan_hash))
    if kind == "ask":
        return _ask_from_pb(message.ask)
    raise WireError("Expected a request with a kind, got none.")


def _ask_from_pb(message: pb.Ask | pb.Share) -> Ask:
    """The question in a message, or the one that a share answers."""
    ask = Ask(plan_hash=message.plan_hash, stage=message.stage, first=message.first, count=message.count)
    _check_ask(ask)
    return ask


def _few_stages(message: pb.Request) -> None:
    """Comes before any work stage by stage: a message of 64 KiB has room for 30,000 empty stages."""
    _whole("stages", len(message.offer.plan.stages), 0, WHOLES["stages"][1])


@lru_cache(maxsize=8)
def decode_offer(data: bytes) -> Offer:
    """The offer of a plan in `data`, such as a plan's file. Raises WireError for anything else.

    The result is cached: a site reads the plan that it accepted again at every question.
    """
    request = decode_request(data)
    if not isinstance(request, Offer):
        raise WireError(f"Expected an offer of a plan, got {type(request).__name__}.")
    return request


def _check_author(offer: Offer) -> None:
    if offer.author or offer.signature:
        signing.check(offer.author, offer.signature, _plan_bytes(offer.plan))


def _check_ask(ask: Ask) -> None:
    _hash("plan_hash", ask.plan_hash)
    _whole("stage", ask.stage, 0, 1000)
    _whole("first", ask.first, 0, MAX_COUNT)
    _whole("count", ask.count, 1, MAX_COUNT)


# Replies


def encode_reply(reply: Reply, *, plan: Plan | None = None) -> bytes:
    """The bytes of a reply. Probabilities are quantised here.

    plan: of a share, which says how it is coded; other replies need none. Raises WireError for an invalid reply, or a
    share without plan.
    """
    match reply:
        case Accepted():
            plan_hash_bytes = _hash("plan_hash", reply.plan_hash)
            site, guarantee = _site(reply.site), reply.guarantee.value
            accepted = pb.Accepted(plan_hash=plan_hash_bytes, site=site, guarantee=guarantee, replies=REPLIES)
            message = pb.Reply(accepted=accepted)
        case Declined():
            plan_hash_bytes = _hash("plan_hash", reply.plan_hash)
            declined = pb.Declined(plan_hash=plan_hash_bytes, reason=reply.reason.name, site=_site(reply.site))
            message = pb.Reply(declined=declined)
        case Taught():
            taught = pb.Taught(
                plan_hash=_hash("plan_hash", reply.plan_hash),
                label_counts=reply.label_counts,
                record_count=reply.record_count,
                guarantee=reply.guarantee.value,
            )
            message = pb.Reply(taught=taught)
        case Share():
            if plan is None:
                raise WireError("Expected the plan of a share to encode, got none.")
            message = pb.Reply(share=_share_to_pb(reply, plan))
    return message.SerializeToString(deterministic=True)


def decode_reply(data: bytes, *, plan: Plan, expecting: Request) -> Reply:
    """The reply in `data` to the request `expecting` under `plan`.

    Raises WireError for anything else: the hash of another plan, another stage or other samples, another kind of reply,
    wrong lengths, ids out of range or twice in a row, masses that do not add up, impossible counts, unknown fields, too
    many bytes, any encoding other than that of `encode_reply`.
    """
    return _decode_reply(data, plan, expecting, canonical=True)


def decode_stored_reply(data: bytes, *, plan: Plan, expecting: Request) -> Reply:
    """As `decode_reply`, but also what 0.1.0 stored: for reading transcripts and stored replies, not for the wire."""
    return _decode_reply(_renewed(data), plan, expecting, canonical=False)


def renew(data: bytes, plan: Plan) -> bytes:
    """A stored reply as it may be sent: in today's encoding if 0.1.0 stored it, otherwise unchanged."""
    reply = decode_stored_reply(data, plan=plan, expecting=implied_request(data, plan))
    return encode_reply(reply, plan=plan)


def _renewed(data: bytes) -> bytes:
    """A reply of 0.1.0 with today's fields; any other bytes unchanged."""
    message = pb.Reply()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return data
    kind = message.WhichOneof("kind")
    if kind == "accepted" and not message.accepted.replies:
        message.accepted.replies = REPLIES
    elif kind == "taught" and (counts := _float_counts(message.taught)):
        message.taught.DiscardUnknownFields()
        message.taught.label_counts.extend(counts)
    else:
        return data
    return message.SerializeToString(deterministic=True)


def _float_counts(taught: pb.Taught) -> list[int]:
    """What 0.1.0 sent as field 2, packed float32 even where it drew integers. Empty if the field is absent."""
    fields = UnknownFieldSet(taught)
    if len(fields) != 1 or fields[0].field_number != 2 or not isinstance(fields[0].data, bytes) or len(fields[0].data) % 4:
        return []
    counts = np.frombuffer(fields[0].data, "<f4")
    # A float32 holds every integer up to 2^24; of larger ones it holds what 0.1.0 rounded them to.
    return [int(count) for count in counts] if ((abs(counts) <= 2 * MAX_COUNT) & (counts == np.rint(counts))).all() else []


def _decode_reply(data: bytes, plan: Plan, expecting: Request, *, canonical: bool) -> Reply:
    message = _parse(pb.Reply(), data, longest_reply(plan, expecting))
    kind = message.WhichOneof("kind")
    if kind is None:
        raise WireError("Expected a reply with a kind, got none.")
    expected = plan_hash(plan)
    answered = getattr(message, kind).plan_hash
    if answered != expected:
        raise WireError(f"Expected plan {expected.hex()[:16]}, got a reply under {answered.hex()[:16] or 'none'}.")
    if kind == "declined":
        names = {reason.name: reason for reason in Reason}
        if message.declined.reason not in names:
            raise WireError(f"Expected a reason out of {', '.join(names)}, got {message.declined.reason[:80]!r}.")
        return Declined(plan_hash=expected, reason=names[message.declined.reason], site=_site(message.declined.site))
    wanted = {Offer: "accepted", Teach: "taught", Ask: "share"}[type(expecting)]
    if kind != wanted:
        raise WireError(f"Expected a reply of kind {wanted!r} or 'declined', got {kind!r}.")
    if kind == "accepted":
        guarantee, site = _guarantee(message.accepted.guarantee, plan), _site(message.accepted.site)
        if message.accepted.replies != REPLIES:
            known = message.accepted.replies or 1
            raise WireError(
                f"Expected a site that encodes its replies by version {REPLIES}, got {known}: install the same limbeck."
            )
        return Accepted(plan_hash=expected, site=site, guarantee=guarantee)
    if kind == "taught":
        return _taught_from_pb(message.taught, plan, expected)
    if not isinstance(expecting, Ask):
        raise WireError(f"Expected no share, got one for {type(expecting).__name__}.")
    return _share_from_pb(message.share, plan, expecting, canonical=canonical)


def longest_reply(plan: Plan, expecting: Request) -> int:
    """The largest number of bytes of a reply to `expecting` that is read at all."""
    return max(MAX_SMALL_REPLY, share_bytes(plan, expecting) + 64) if isinstance(expecting, Ask) else MAX_SMALL_REPLY


def share_bytes(plan: Plan, ask: Ask) -> int:
    """The exact bytes of the encoded answer to `ask`, protobuf overhead included, before anything is computed."""
    ids, codes, tails = _share_sizes(plan, ask.count)
    inner = 2 + HASH_BYTES + sum(_varint_field(value) for value in (ask.stage, ask.first, ask.count))
    inner += sum(1 + _varint(size) + size for size in (ids, codes, tails) if size)
    return 1 + _varint(inner) + inner


def bits_per_answer(plan: Plan) -> float:
    """Bits of the answer to one public input in one stage, including its part of the message's overhead."""
    ask = Ask(plan_hash=bytes(HASH_BYTES), stage=len(plan.stages) - 1, first=0, count=plan.samples)
    return 8 * share_bytes(plan, ask) / plan.samples


def implied_request(data: bytes, plan: Plan) -> Request:
    """The question under `plan` that the encoded reply in `data` answers, as far as the reply says; for transcripts.

    Raises WireError if `data` is not a reply.
    """
    message = _parse(pb.Reply(), _renewed(data), MAX_COUNT)
    match message.WhichOneof("kind"):
        case "share":
            return _ask_from_pb(message.share)
        case "taught":
            return Teach(plan_hash=_hash("plan_hash", message.taught.plan_hash))
        case _:
            return Offer(plan=plan)


def _share_sizes(plan: Plan, count: int) -> tuple[int, int, int]:
    k = kept(plan)
    packed = plan.coding is Coding.PACKED
    ids = packing.packed_size(count * k, plan.classes) if packed else count * k * packing.id_bytes(plan.classes)
    return ids, count * k, count if isinstance(plan.truncation, TopK) else 0


def kept(plan: Plan) -> int:
    """k: entries per row of every share under this plan."""
    match plan.truncation:
        case TopK(k=k):
            return k
        case Sampled(draws=draws):
            return min(draws, plan.classes)


def _taught_from_pb(message: pb.Taught, plan: Plan, expected: bytes) -> Taught:
    counts, guarantee = tuple(message.label_counts), _guarantee(message.guarantee, plan)
    wanted = plan.classes if plan.label_counts is not None and guarantee is not Guarantee.NONE else 0
    if len(counts) != wanted:
        raise WireError(f"Expected {wanted} label counts, got {len(counts)}.")
    if plan.label_counts is not None:
        for count in counts:
            _count("label_counts", count, plan.label_counts.noise_std)
    wanted_count = plan.record_count is not None and guarantee is not Guarantee.NONE
    if message.HasField("record_count") != wanted_count:
        raise WireError(f"Expected {'a' if wanted_count else 'no'} record count, got {'none' if wanted_count else 'one'}.")
    record_count = message.record_count if message.HasField("record_count") else None
    if record_count is not None and plan.record_count is not None:
        _count("record_count", record_count, plan.record_count.noise_std)
    return Taught(plan_hash=expected, label_counts=counts or None, record_count=record_count, guarantee=guarantee)


def _count(name: str, value: int, noise_std: float) -> None:
    """Check a number of records with noise of this scale; a number beyond these bounds can only be false."""
    noise = math.ceil(MOST_NOISE * noise_std)
    _whole(name, value, -noise, MAX_COUNT + noise)


def _guarantee(value: str, plan: Plan) -> Guarantee:
    guarantee = _enum("guarantee", Guarantee, value)
    if guarantee is Guarantee.NONE and plan.black_box is None:
        raise WireError("Expected a site with a guarantee, since the plan permits no black-box teachers, got one without.")
    return guarantee


def _share_to_pb(share: Share, plan: Plan) -> pb.Share:
    answers = share.answers
    if (answers.classes, answers.kept) != (plan.classes, kept(plan)):
        raise WireError(
            f"Expected answers of K = {plan.classes}, k = {kept(plan)}, got K = {answers.classes}, k = {answers.kept}."
        )
    # Column by column, so that checks and look-ups run over contiguous bytes.
    ids_kN = answers.ids_Nk.numpy().T.astype(f"<u{packing.id_bytes(plan.classes)}", order="C")
    p_kN = np.ascontiguousarray(answers.p_Nk.float().numpy().T)
    if isinstance(plan.truncation, TopK):
        codes_kN = packing.encode_probabilities(p_kN)
        tail_N = answers.tail_N.float().numpy() if answers.kept < plan.classes else np.zeros(len(answers), np.float32)
        tails_N = packing.encode_probabilities(tail_N)
    else:
        codes_kN, tails_N = np.rint(p_kN * plan.truncation.draws).astype(np.uint8), np.zeros(0, np.uint8)
    if not _descending(codes_kN):
        order = np.argsort(-codes_kN.astype(np.int16), axis=0, kind="stable")
        ids_kN, codes_kN = np.take_along_axis(ids_kN, order, 0), np.take_along_axis(codes_kN, order, 0)
    if isinstance(plan.truncation, TopK):
        packing.settle(codes_kN, tails_N)
    packed = plan.coding is Coding.PACKED
    return pb.Share(
        plan_hash=_hash("plan_hash", share.plan_hash),
        stage=share.stage,
        first=share.first,
        count=len(answers),
        ids=packing.pack_ids(ids_kN, plan.classes) if packed else ids_kN.tobytes(),
        codes=codes_kN.tobytes(),
        tails=tails_N.tobytes(),
    )


def _descending(codes_kN: NDArray[np.uint8]) -> bool:
    return bool((codes_kN[:-1] >= codes_kN[1:]).all())


def _distinct(ids_kN: NDArray[np.unsignedinteger]) -> bool:
    """Whether no column contains an id twice."""
    if len(ids_kN) <= PAIRWISE:
        return not any((ids_kN[i + 1 :] == ids_kN[i]).any() for i in range(len(ids_kN) - 1))
    ordered = np.sort(ids_kN, axis=0)
    return not bool((ordered[1:] == ordered[:-1]).any())


def _share_from_pb(message: pb.Share, plan: Plan, ask: Ask, *, canonical: bool) -> Share:
    for name in ("stage", "first", "count"):
        if getattr(message, name) != getattr(ask, name):
            raise WireError(f"Expected {name} = {getattr(ask, name)}, got {getattr(message, name)}.")
    count, k = ask.count, kept(plan)
    for name, size in zip(("ids", "codes", "tails"), _share_sizes(plan, count), strict=True):
        if len(getattr(message, name)) != size:
            raise WireError(f"Expected {size} bytes of {name}, got {len(getattr(message, name))}.")
    read = packing.unpack_ids if plan.coding is Coding.PACKED else packing.narrow_ids
    try:
        ids_kN = read(message.ids, count * k, plan.classes).reshape(k, count)
    except ValueError as error:
        raise WireError(str(error)) from error
    if int(ids_kN.max()) >= plan.classes:
        raise WireError(f"Expected ids below {plan.classes}, got {int(ids_kN.max())}.")
    codes_kN = np.frombuffer(message.codes, np.uint8).reshape(k, count)
    if not _descending(codes_kN):
        raise WireError("Expected rows by descending probability.")
    if not _distinct(ids_kN):
        raise WireError("Expected distinct ids in every row, got one twice.")
    if isinstance(plan.truncation, TopK):
        p_kN = packing.decode_probabilities(codes_kN)
        tail_codes_N = np.frombuffer(message.tails, np.uint8)
        tail_N = packing.decode_probabilities(tail_codes_N)
        if k == plan.classes and tail_N.any():
            raise WireError("Expected no tail mass, since every class is kept, got some.")
        mass_N = p_kN.sum(0) + tail_N
        low, high = float(mass_N.min()), float(mass_N.max())
        least, most = packing.MASS if canonical else FORMER_MASS
        if low < least or high > most:
            raise WireError(f"Expected masses from {least} to {most}, got {low:.5f} to {high:.5f}.")
        p_kN /= mass_N
        tail_N /= mass_N
    else:
        draws = plan.truncation.draws
        if (codes_kN.sum(0, dtype=np.int64) != draws).any():
            raise WireError(f"Expected counts that add up to {draws} in every row.")
        p_kN, tail_N = codes_kN.astype(np.float32) / np.float32(draws), np.zeros(count, np.float32)
    answers = Truncated(
        ids_Nk=torch.from_numpy(ids_kN.astype(np.int64)).T,
        p_Nk=torch.from_numpy(p_kN).T,
        tail_N=torch.from_numpy(tail_N),
        classes=plan.classes,
    )
    return Share(plan_hash=message.plan_hash, stage=ask.stage, first=ask.first, answers=answers)


# Checks


def _parse(message: M, data: bytes, limit: int, first: Callable[[M], None] | None = None) -> M:
    """The message in `data`. first: a check that runs before those that look at every field."""
    if not 0 < len(data) <= limit:
        raise WireError(f"Expected a message of 1 to {limit} bytes, got {len(data)}.")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"Expected a protobuf message: {error}.") from error
    if first is not None:
        first(message)
    _no_unknown_fields(message)
    if message.SerializeToString(deterministic=True) != data:
        raise WireError("Expected the canonical encoding of a message, got another.")
    return message


def _varint(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _varint_field(value: int) -> int:
    return 1 + _varint(value) if value else 0


def _hash(name: str, value: bytes) -> bytes:
    if len(value) != HASH_BYTES:
        raise WireError(f"Expected {name} of {HASH_BYTES} bytes, got {len(value)}.")
    return value


def _site(value: str) -> str:
    if not _SITE.fullmatch(value):
        raise WireError(f"Expected a site name of 1 to 64 characters a-z, A-Z, 0-9, '.', '_', '-', got {value[:80]!r}.")
    return value
