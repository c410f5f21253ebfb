"""Asks a teacher that limbeck did not train, a model that its owner serves as a TeacherService, about the public inputs, once.

Its address comes from the site's own settings, never from the wire. Nothing that it says is trusted: each answer is checked by
`teacher_codec`, and anything wrong is an error that names the teacher. Answers are stored durably batch by batch, so what was answered
is not asked again after a crash. There is no guarantee for the records that the teacher was made from, and the ledger says so.

A teacher that returns only labels is asked about each input several times, and count / draws is an unbiased estimate of its distribution
[F: arXiv 2503.16870]. Mixing is affine, so it can soften the estimate afterwards; any other softening of counts is biased [D]. So under
power softening the teacher itself must draw at each stage's temperature, and one that cannot is refused.

Shape legend: N samples of the transfer set, K classes of the plan, M draws.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base.errors import TeacherError, WireError
from limbeck.base.files import write_durably
from limbeck.base.printable import printable
from limbeck.operators import Truncated
from limbeck.plans.schema import Family, Plan
from limbeck.protos import teacher_codec as codec
from limbeck.protos.teacher import Answers, Batch, Description, Kind, kind_of

log = logging.getLogger(__name__)

# Batches in flight: the teacher works on one while the next travels, and never receives more than it can hold.
WINDOW = 2
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 10.0
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
OPTIONS = (
    ("grpc.max_receive_message_length", codec.MAX_MESSAGE),
    ("grpc.max_send_message_length", codec.MAX_MESSAGE),
    # The settings say where the teacher is; a proxy from the environment must not.
    ("grpc.enable_http_proxy", 0),
    # A new attempt makes a new connection and does not inherit the back-off of an earlier one.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How to reach a teacher.

    address: "HOST:PORT".
    ca: PEM certificates of the authority that certified it, None for plaintext.
    certificate, key: the site's own, PEM, for mutual TLS.
    deadline: the limit for one answer, in seconds.
    attempts: how often one answer is tried.
    """

    address: str
    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)
    deadline: float
    attempts: int


class _Broken(Exception):
    """The teacher was unreachable or late: worth another attempt."""


class Remote:
    """A teacher at the other end of a link. sleep: waits between attempts; a parameter, so that tests need not wait.

    Raises: TeacherError if the teacher is still unreachable or late after all attempts, refuses, or returns something unusable.
    """

    def __init__(self, link: Link, sleep: Callable[[float], object] = time.sleep) -> None:
        self.link, self._sleep = link, sleep

    def __str__(self) -> str:
        return f"the teacher at {self.link.address}"

    def describe(self) -> Description:
        """What the teacher says about itself."""
        for failures in range(1, self.link.attempts + 1):
            try:
                with self._channel() as channel, self._explained():
                    call = channel.unary_unary(codec.DESCRIBE)
                    data = call(codec.encode_describe_request(), timeout=self.link.deadline)
                    return codec.decode_description(data)
            except _Broken as error:
                self._back_off(failures, error)
        raise AssertionError("unreachable")

    def answers(
        self,
        description: Description,
        x_N: NDArray[np.generic],
        bounds: Sequence[tuple[int, int]],
        *,
        draws: int = 0,
        temperature: float = 0.0,
    ) -> Iterator[Answers]:
        """Answers to the inputs start .. stop - 1 for each of `bounds`, in order; after a break, from the first unanswered one on."""
        waiting, failures = deque(bounds), 0
        while waiting:
            try:
                for answers in self._stream(description, x_N, tuple(waiting), draws, temperature):
                    waiting.popleft()
                    failures = 0
                    yield answers
            except _Broken as error:
                if not waiting:
                    return
                failures += 1
                self._back_off(failures, error)

    def _stream(
        self,
        description: Description,
        x_N: NDArray[np.generic],
        bounds: Sequence[tuple[int, int]],
        draws: int,
        temperature: float,
    ) -> Iterator[Answers]:
        """The answers over one stream: at most WINDOW questions are open, and an answer makes room for the next."""
        with self._channel() as channel:
            questions: SimpleQueue[bytes | None] = SimpleQueue()
            to_ask, asked = deque(bounds), deque[tuple[int, int]]()

            def ask_next() -> None:
                if not to_ask:
                    questions.put(None)
                    return
                start, stop = to_ask.popleft()
                batch = Batch(first=start, x_N=x_N[start:stop], draws=draws, temperature=temperature)
                try:
                    questions.put(codec.encode_batch(batch))
                except WireError as error:
                    raise TeacherError(f"Expected inputs that {self} can take: {error}") from error
                asked.append((start, stop))

            call = channel.stream_stream(codec.ANSWER)(iter(questions.get, None))
            try:
                for _ in range(WINDOW):
                    ask_next()
                while asked:
                    data = self._next(call)
                    start, stop = asked.popleft()
                    if data is None:
                        raise TeacherError(
                            f"Expected {self} to answer samples {start} to {stop - 1}, but it ended its answers."
                        )
                    ask_next()
                    with self._explained():
                        answers = codec.decode_answers(data, description, first=start, count=stop - start, draws=draws)
                    yield answers
                if self._next(call) is not None:
                    raise TeacherError(f"Expected one answer to each question from {self}, got one too many.")
            finally:
                questions.put(None)
                call.cancel()

    def _next(self, call: Any) -> bytes | None:
        """The stream's next message, or None at its end. gRPC's own deadline covers a whole stream; this one covers each answer."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            call.cancel()

        timer = threading.Timer(self.link.deadline, give_up)
        timer.daemon = True
        timer.start()
        try:
            with self._explained():
                return next(call, None)
        except TeacherError:
            if late.is_set():
                raise _Broken(f"no answer within {self.link.deadline:g} s") from None
            raise
        finally:
            timer.cancel()

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        link = self.link
        if link.ca is None:
            channel = grpc.insecure_channel(link.address, options=OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(link.ca, link.key, link.certificate)
            channel = grpc.secure_channel(link.address, credentials, options=OPTIONS)
        try:
            yield channel
        finally:
            channel.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn gRPC's errors and the codec's into ours."""
        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), printable(error.details())
            if code in RETRIED:
                raise _Broken(f"{code.name}: {details}") from error
            raise TeacherError(f"Expected an answer from {self}, got {code.name}: {details}") from error
        except WireError as error:
            raise TeacherError(f"Expected a usable answer from {self}: {error}") from error

    def _back_off(self, failures: int, error: Exception) -> None:
        if failures >= self.link.attempts:
            raise TeacherError(f"Expected an answer from {self} in {self.link.attempts} attempts, got {error}") from error
        pause = min(FIRST_BACKOFF * 2 ** (failures - 1), LONGEST_BACKOFF)
        log.warning("%s: %s; attempt %d of %d in %.1f s.", self, error, failures + 1, self.link.attempts, pause)
        self._sleep(pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackBox:
    """A site's black-box teacher.

    classes: the teacher's label for each of the plan's classes, or None if they are the same, in the same order.
    batch: inputs per question, at most.
    """

    remote: Remote
    classes: Sequence[str] | None
    batch: int

    def check(self, plan: Plan, x_N: NDArray[np.generic]) -> Description:
        """What the teacher says about itself. Raises TeacherError if it cannot answer as the plan requires."""
        if plan.black_box is None:
            raise TeacherError("Expected a plan that permits black-box teachers, got one that does not.")
        if plan.family in {Family.TSALLIS, Family.ENTROPY_TARGET}:
            raise TeacherError(
                f"Expected power, mixing or hybrid for a black-box teacher, got {plan.family.value}: it can neither be drawn from at a "
                f"temperature nor follow counts without bias."
            )
        description = self.remote.describe()
        if kind_of(x_N) is not description.inputs:
            kind = getattr(kind_of(x_N), "value", None) or f"{x_N.dtype} of shape {x_N.shape}"
            raise TeacherError(f"Expected inputs of kind {description.inputs.value!r} for {self.remote}, got {kind!r}.")
        mapping(plan, description, self.classes)
        wanted = asked_temperatures(plan, description)
        if wanted != [1.0] and not description.tempered:
            raise TeacherError(
                f"Expected mixing, or a teacher that draws at a temperature, for labels only: power softening of counts is biased, and "
                f"{self.remote} draws at T = 1 only, while the plan has T = {', '.join(f'{t:g}' for t in wanted)}."
            )
        return description

    def ask(self, plan: Plan, x_N: NDArray[np.generic], folder: Path) -> None:
        """Collect the answers to all of the plan's inputs in `folder`, except those that it already holds.

        Raises: TeacherError if the teacher fails, or is not the one that answered earlier; answers received so far are kept.
        """
        description = self.check(plan, x_N)
        stored = folder / "description.pb"
        if not stored.exists():
            content = json.dumps(mapping(plan, description, self.classes))
            write_durably(folder / "mapping.json", content.encode())
            write_durably(stored, codec.encode_description(description))
        elif codec.decode_description(stored.read_bytes()) != description:
            raise TeacherError(f"Expected {self.remote} to be the one that answered before, got {description.model!r}.")
        draws = _draws(plan, description)
        try:
            size = min(self.batch, codec.batch_size(description, x_N, draws))
        except WireError as error:
            raise TeacherError(f"Expected inputs that {self.remote} can take: {error}") from error
        for index, temperature in enumerate(asked_temperatures(plan, description)):
            parts = _stored(folder, index)
            first = parts[-1][1] if parts else 0
            bounds = [(start, min(start + size, len(x_N))) for start in range(first, len(x_N), size)]
            answered = self.remote.answers(
                description, x_N, bounds, draws=draws, temperature=temperature if description.answers is Kind.LABELS else 0.0
            )
            for (start, stop), answers in zip(bounds, answered, strict=True):
                write_durably(_path(folder, index, start, stop), codec.encode_answers(answers, description))


def mapping(plan: Plan, description: Description, classes: Sequence[str] | None) -> list[int]:
    """The plan's class for each of the teacher's classes. A class that the teacher lacks has probability 0.

    Raises: TeacherError if a label of the teacher's is unknown.
    """
    if classes is None:
        if len(description.labels) != plan.classes:
            raise TeacherError(
                f"Expected a teacher of the plan's {plan.classes} classes, got {len(description.labels)}; see black_box.classes."
            )
        return list(range(plan.classes))
    if len(classes) != plan.classes or len(set(classes)) != len(classes):
        raise TeacherError(f"Expected {plan.classes} distinct labels in black_box.classes, got {len(classes)}.")
    unknown = sorted(set(description.labels) - set(classes))
    if unknown:
        raise TeacherError(
            f"Expected the teacher's labels in black_box.classes, found no {', '.join(map(repr, unknown[:5]))}."
        )
    return [classes.index(label) for label in description.labels]


def asked_temperatures(plan: Plan, description: Description) -> list[float]:
    """The temperatures at which the teacher is asked, ascending: 1, or for labels under power softening those of all stages."""
    return sorted({_drawn_at(plan, description, stage.temperature) for stage in plan.stages})


def _drawn_at(plan: Plan, description: Description, temperature: float) -> float:
    """The temperature at which a stage's answers are drawn: only mixing may follow the counting of labels; power would bias it."""
    power = plan.family is Family.POWER or (plan.family is Family.HYBRID and temperature < 1)
    return temperature if description.answers is Kind.LABELS and power else 1.0


def log_probabilities(plan: Plan, folder: Path, temperature: float) -> tuple[Tensor, float]:
    """(N, K) float32 log-probabilities from what `ask` stored, and the temperature at which they must still be softened.

    The mass of classes that the teacher did not name individually is spread over them evenly: after softening at T >= 1 that is the
    largest mass that the tail can have [D], so nothing becomes sharper than it was.

    temperature: that of a stage.
    """
    description = codec.decode_description((folder / "description.pb").read_bytes())
    ids = json.loads((folder / "mapping.json").read_text(encoding="utf-8"))
    drawn_at = _drawn_at(plan, description, temperature)
    draws = _draws(plan, description)
    p_NK, end = torch.zeros(plan.samples, plan.classes), 0
    for start, stop, path in _stored(folder, asked_temperatures(plan, description).index(drawn_at)):
        answers = codec.decode_answers(path.read_bytes(), description, first=start, count=stop - start, draws=draws).answers
        if isinstance(answers, Truncated):
            p_NK[start:stop, ids] = answers.dense()
        else:
            counts = torch.zeros(stop - start, len(ids)).scatter_add_(1, answers, torch.ones(answers.shape))
            p_NK[start:stop, ids] = counts / draws
        end = stop
    if end != plan.samples:
        raise TeacherError(f"Expected answers to {plan.samples} samples in {folder}, found {end}.")
    return p_NK.log(), temperature / drawn_at


def _draws(plan: Plan, description: Description) -> int:
    return plan.black_box.draws if plan.black_box is not None and description.answers is Kind.LABELS else 0


def _path(folder: Path, index: int, start: int, stop: int) -> Path:
    return folder / f"answers-{index}-{start:09}-{stop:09}.pb"


def _stored(folder: Path, index: int) -> list[tuple[int, int, Path]]:
    """The parts that were answered, from the first sample on without a gap."""
    parts: list[tuple[int, int, Path]] = []
    for path in sorted(folder.glob(f"answers-{index}-*.pb")):
        start, stop = map(int, path.stem.split("-")[2:])
        if start == (parts[-1][1] if parts else 0):
            parts.append((start, stop, path))
    return parts
