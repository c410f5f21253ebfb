"""The codec of teacher.proto: bytes in, a checked frozen value out, or a WireError. Only it touches the generated code.

A site does not trust its teacher's answers, nor does a teacher's server trust the site's questions: counts, lengths,
ranges, sums, NaN, duplicates and sizes are all checked here. Unlike the messages between site and coordinator these are
not hashed, and the other side may be written in any language, so an encoding need not be canonical. A field that the
schema lacks is refused.

Shape legend: N inputs in a batch, K classes, k kept entries per input, M draws per input.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base import bounds
from limbeck.base.errors import WireError
from limbeck.operators import Truncated
from limbeck.protos import checks
from limbeck.protos import teacher_pb2 as pb
from limbeck.protos.teacher import Answers, Batch, Description, Inputs, Kind, kind_of

VERSION = 1
SERVICE = pb.DESCRIPTOR.services_by_name["TeacherService"].full_name
DESCRIBE, ANSWER = f"/{SERVICE}/Describe", f"/{SERVICE}/Answer"

MAX_MESSAGE = 16 << 20
MAX_DESCRIPTION = 1 << 20
MAX_CLASSES = 1 << 16
MAX_BATCH = 1 << 16
MAX_DRAWS = 255
MAX_SIDE = 1 << 14
MAX_FIRST = 1 << 31
LABEL_LENGTH = 200
# Probabilities arrive as float32, in which a sum over many classes is not exact.
MASS_TOLERANCE = 1e-3
# The part of a message for values; the rest is for what surrounds them.
PAYLOAD = MAX_MESSAGE * 15 // 16

M = TypeVar("M", pb.DescribeRequest, pb.Description, pb.Batch, pb.Answers)


# Description


def encode_describe_request() -> bytes:
    """The bytes of a request for a teacher's description."""
    return pb.DescribeRequest(version=VERSION).SerializeToString(deterministic=True)


def decode_describe_request(data: bytes) -> None:
    """Raise WireError if `data` is not a request for a description."""
    message = _parse(pb.DescribeRequest(), data, MAX_DESCRIPTION)
    _version(message.version)


def encode_description(description: Description) -> bytes:
    """The bytes of a description. Raises WireError for an invalid one."""
    _check_description(description)
    return pb.Description(
        version=VERSION,
        model=description.model,
        labels=description.labels,
        inputs=description.inputs.value,
        answers=description.answers.value,
        top_k=description.top_k,
        tempered=description.tempered,
        max_batch=description.max_batch,
    ).SerializeToString(deterministic=True)


def decode_description(data: bytes) -> Description:
    """The description in `data`. Raises WireError for anything else."""
    message = _parse(pb.Description(), data, MAX_DESCRIPTION)
    _version(message.version)
    description = Description(
        model=message.model,
        labels=tuple(message.labels),
        inputs=bounds.enum("inputs", Inputs, message.inputs),
        answers=bounds.enum("answers", Kind, message.answers),
        top_k=message.top_k,
        tempered=message.tempered,
        max_batch=message.max_batch,
    )
    _check_description(description)
    return description


def _check_description(description: Description) -> None:
    bounds.text("model", description.model, 200)
    bounds.whole("the number of labels", len(description.labels), 2, MAX_CLASSES)
    for label in description.labels:
        bounds.text("a label", label, LABEL_LENGTH)
    if len(set(description.labels)) != len(description.labels):
        raise WireError("Expected distinct labels, got one twice.")
    if description.answers is Kind.PROBABILITIES:
        bounds.whole("top_k", description.top_k, 1, len(description.labels))
        if description.tempered:
            raise WireError("Expected tempered = false for a teacher that gives probabilities, got true.")
    else:
        bounds.whole("top_k", description.top_k, 0, 0)
    bounds.whole("max_batch", description.max_batch, 1, MAX_BATCH)


# Batches


def batch_size(description: Description, x_N: NDArray[np.generic], draws: int) -> int:
    """The largest number of inputs in a batch whose question and answer each fit into a message.

    Raises WireError if not even one does.
    """
    if description.inputs is Inputs.TEXTS:
        question = 8 + max((len(str(text).encode("utf-8", "replace")) for text in x_N), default=0)
    else:
        question = math.prod(x_N.shape[1:]) * (4 if description.inputs is Inputs.ROWS else 1)
    longest = max(len(label.encode()) for label in description.labels)
    answer = draws * (4 + longest) if description.answers is Kind.LABELS else 8 * description.top_k + 4
    fits = PAYLOAD // max(question, answer, 1)
    if not fits:
        raise WireError(
            f"Expected an input and its answer of at most {PAYLOAD} bytes each, got {question} bytes and up to {answer}."
        )
    return min(fits, description.max_batch)


def encode_batch(batch: Batch) -> bytes:
    """The bytes of a batch of inputs. Raises WireError for an invalid one."""
    x_N, inputs = batch.x_N, kind_of(batch.x_N)
    message = pb.Batch(first=batch.first, count=len(x_N), draws=batch.draws, temperature=batch.temperature)
    if inputs is Inputs.IMAGES:
        message.images.shape.extend(x_N.shape[1:])
        message.images.pixels = np.ascontiguousarray(x_N).tobytes()
    elif inputs is Inputs.ROWS:
        message.rows.width = x_N.shape[1]
        message.rows.values = np.ascontiguousarray(x_N, dtype="<f4").tobytes()
    elif inputs is Inputs.TEXTS:
        try:
            message.texts.texts.extend(str(text) for text in x_N)
        except UnicodeEncodeError as error:
            raise WireError(f"Expected texts that UTF-8 can encode: {error}.") from error
    else:
        raise WireError(f"Expected rows, byte images or texts, got {x_N.dtype} of shape {x_N.shape}.")
    _batch_from_pb(message)
    return _limited(message.SerializeToString(deterministic=True))


def decode_batch(data: bytes, description: Description) -> Batch:
    """The batch in `data`, for a teacher with this description. Raises WireError for anything else."""
    message = _parse(pb.Batch(), data, MAX_MESSAGE)
    inputs = message.WhichOneof("inputs")
    if inputs != description.inputs.value:
        raise WireError(f"Expected inputs of kind {description.inputs.value!r}, got {inputs or 'none'!r}.")
    batch = _batch_from_pb(message)
    bounds.whole("the number of inputs", len(batch.x_N), 1, description.max_batch)
    if description.answers is Kind.LABELS:
        bounds.whole("draws", batch.draws, 1, MAX_DRAWS)
        if not description.tempered and batch.temperature != 1:
            raise WireError(f"Expected temperature 1 for a teacher that cannot draw at another, got {batch.temperature!r}.")
        bounds.real("temperature", batch.temperature, 0, 1e6, open_below=True)
    elif batch.draws or batch.temperature:
        raise WireError(f"Expected no draws and no temperature, got {batch.draws} and {batch.temperature!r}.")
    return batch


def _batch_from_pb(message: pb.Batch) -> Batch:
    bounds.whole("first", message.first, 0, MAX_FIRST)
    bounds.whole("count", message.count, 1, MAX_BATCH)
    count = message.count
    x_N: NDArray[np.generic]
    match message.WhichOneof("inputs"):
        case "rows":
            bounds.whole("rows.width", message.rows.width, 1, MAX_MESSAGE)
            x_N = _array("rows.values", message.rows.values, "<f4", count, message.rows.width)
            if not np.isfinite(x_N).all():
                raise WireError("Expected finite rows, got NaN or infinity.")
        case "images":
            shape = tuple(message.images.shape)
            if len(shape) not in {2, 3} or not all(1 <= side <= MAX_SIDE for side in shape):
                raise WireError(f"Expected images of 2 or 3 sides of 1 to {MAX_SIDE}, got {shape[:8]}.")
            x_N = _array("images.pixels", message.images.pixels, "u1", count, math.prod(shape)).reshape(count, *shape)
        case "texts":
            texts = list(message.texts.texts)
            if len(texts) != count:
                raise WireError(f"Expected {count} texts, got {len(texts)}.")
            # In an array every text takes as much memory as the longest.
            longest = max(map(len, texts))
            bounds.whole("the length of the longest text, times their number", longest * count, 0, MAX_MESSAGE)
            x_N = np.array(texts, dtype=np.str_)
        case _:
            raise WireError("Expected a batch with inputs, got none.")
    return Batch(first=message.first, x_N=x_N, draws=message.draws, temperature=message.temperature)


# Answers


def encode_answers(answers: Answers, description: Description) -> bytes:
    """The bytes of answers of a teacher with this description. Raises WireError for invalid ones, such as NaN."""
    content = answers.answers
    if isinstance(content, Truncated):
        message = pb.Answers(
            first=answers.first,
            count=len(content),
            top_k=pb.TopK(
                k=content.kept,
                ids=content.ids_Nk.numpy().astype("<u4").tobytes(),
                probabilities=content.p_Nk.numpy().astype("<f4").tobytes(),
                tails=content.tail_N.numpy().astype("<f4").tobytes(),
            ),
        )
        _truncated_from_pb(message.top_k, len(content), description)
    else:
        texts = [description.labels[label] for label in content.flatten().tolist()]
        labels = pb.Labels(draws=content.shape[1], texts=texts)
        message = pb.Answers(first=answers.first, count=len(content), labels=labels)
    return _limited(message.SerializeToString(deterministic=True))


def decode_answers(data: bytes, description: Description, *, first: int, count: int, draws: int) -> Answers:
    """The answers in `data` to inputs first .. first + count - 1, of a teacher with this description.

    draws: M for labels, otherwise 0. Truncated distributions are scaled to a mass of exactly 1.

    Raises WireError for anything else: other inputs or too many, another kind, wrong lengths, ids out of range or twice
    in a row, NaN, negative or missing mass, unknown labels.
    """
    message = _parse(pb.Answers(), data, MAX_MESSAGE)
    for name, wanted in (("first", first), ("count", count)):
        if getattr(message, name) != wanted:
            raise WireError(f"Expected {name} = {wanted}, got {getattr(message, name)}.")
    kind = message.WhichOneof("answers")
    wanted_kind = "labels" if description.answers is Kind.LABELS else "top_k"
    if kind != wanted_kind:
        raise WireError(f"Expected answers of kind {wanted_kind!r}, got {kind or 'none'!r}.")
    if kind == "top_k":
        return Answers(first=first, answers=_truncated_from_pb(message.top_k, count, description))
    return Answers(first=first, answers=_labels_from_pb(message.labels, count, draws, description))


def _truncated_from_pb(message: pb.TopK, count: int, description: Description) -> Truncated:
    classes, k = len(description.labels), message.k
    bounds.whole("k", k, 1, description.top_k)
    ids_Nk = _array("ids", message.ids, "<u4", count, k)
    p_Nk = _array("probabilities", message.probabilities, "<f4", count, k).astype(np.float64)
    tail_N = _array("tails", message.tails, "<f4", count, 1).astype(np.float64)[:, 0]
    if int(ids_Nk.max()) >= classes:
        raise WireError(f"Expected ids below {classes}, got {int(ids_Nk.max())}.")
    ordered = np.sort(ids_Nk, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise WireError("Expected distinct ids in every row, got one twice.")
    for name, values in (("probabilities", p_Nk), ("tails", tail_N)):
        if not np.isfinite(values).all():
            raise WireError(f"Expected finite {name}, got NaN or infinity.")
        if (values < 0).any():
            raise WireError(f"Expected {name} >= 0, got {values.min():g}.")
    if k == classes and tail_N.any():
        raise WireError("Expected no tail mass, since every class is given, got some.")
    mass_N = p_Nk.sum(1) + tail_N
    if (abs(mass_N - 1) > MASS_TOLERANCE).any():
        raise WireError(f"Expected masses within {MASS_TOLERANCE} of 1, got {mass_N.min():.6g} to {mass_N.max():.6g}.")
    return Truncated(
        ids_Nk=torch.from_numpy(ids_Nk.astype(np.int64)),
        p_Nk=torch.from_numpy((p_Nk / mass_N[:, None]).astype(np.float32)),
        tail_N=torch.from_numpy((tail_N / mass_N).astype(np.float32)),
        classes=classes,
    )


def _labels_from_pb(message: pb.Labels, count: int, draws: int, description: Description) -> Tensor:
    if message.draws != draws:
        raise WireError(f"Expected {draws} draws of every input, got {message.draws}.")
    if len(message.texts) != count * draws:
        raise WireError(f"Expected {count * draws} labels, got {len(message.texts)}.")
    ids = {label: index for index, label in enumerate(description.labels)}
    try:
        answers = [ids[text] for text in message.texts]
    except KeyError as error:
        raise WireError(f"Expected labels out of the {len(ids)} described, got {error.args[0][:80]!r}.") from None
    return torch.tensor(answers, dtype=torch.int64).view(count, draws)


# Checks


def _parse(message: M, data: bytes, limit: int) -> M:
    if not 0 < len(data) <= limit:
        raise WireError(f"Expected a message of 1 to {limit} bytes, got {len(data)}.")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"Expected a protobuf message: {error}.") from error
    checks.no_unknown_fields(message)
    return message


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE:
        raise WireError(f"Expected a message of at most {MAX_MESSAGE} bytes, got {len(data)}.")
    return data


def _version(version: int) -> None:
    if version != VERSION:
        raise WireError(f"Expected version {VERSION} of the teacher's service, got {version}.")


def _array(name: str, data: bytes, dtype: str, count: int, width: int) -> NDArray[np.generic]:
    wanted = count * width * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise WireError(f"Expected {wanted} bytes of {name}, got {len(data)}.")
    return np.frombuffer(data, dtype=dtype).reshape(count, width)
