"""An example server for a black-box teacher: any scikit-learn or ONNX model, or a user's own, behind the TeacherService of `protos/`.

It runs on the machine of the model's owner and listens on a loopback address unless told otherwise. Its answers have no DP guarantee.

Shape legend: N inputs in a batch, K classes, M draws.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
import numpy as np
import torch
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from numpy.typing import NDArray

from limbeck.base import check
from limbeck.base.errors import DataError, SettingError, WireError
from limbeck.base.files import check_private
from limbeck.base.printable import printable
from limbeck.base.references import load_function
from limbeck.client.noise import SystemEntropy
from limbeck.client.proxy import is_loopback
from limbeck.inputs import arrays
from limbeck.inputs.sessions import open_session
from limbeck.operators import Power, Sampled, TopK
from limbeck.protos import teacher_codec as codec
from limbeck.protos.teacher import Answers, Batch, Description, Inputs, Kind

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
# Concurrent calls at most: in all, from one address that is not this machine, and over one connection. Each may hold a message of
# codec.MAX_MESSAGE bytes.
CALLS, CALLS_OF_A_PEER, CALLS_OF_A_CONNECTION = 32, 8, 4
# Concurrent connections at most, far fewer than the descriptors that a process has by default; and the limit for a TLS handshake.
CONNECTIONS, HANDSHAKE_SECONDS = 256, 5.0
# A call is ended that neither asks nor accepts its answers for so long. The first message is there sooner: the call begins with it.
IDLE_SECONDS, FIRST_SECONDS = 120.0, 10.0
# How far from 1 a model's float32 probabilities may add up to; logits are farther.
SUM_TOLERANCE = 1e-3

Array = NDArray[np.generic]
# grpc ships no types: a ServicerContext of grpc.aio.
Context = Any
T = TypeVar("T")

_SHUTTING_DOWN = (grpc.StatusCode.UNAVAILABLE, "the teacher is shutting down")
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# The length of a question about a service's health at most.
_HEALTH_BYTES = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A model to serve. It has either `probabilities` or `label`, functions of inputs: (N, D) float32 rows, (N, H, W) or (N, H, W, C)
    bytes, or (N,) texts.

    name: changes with the model.
    labels: names of the K classes.
    inputs: which of these inputs the model takes.
    probabilities: from inputs to (N, K), with rows that add up to 1.
    label: from inputs, draws and temperature to N times M labels.
    tempered: whether `label` draws at the temperature.
    """

    name: str
    labels: Sequence[str]
    inputs: Inputs
    probabilities: Callable[[Array], Array] | None = None
    label: Callable[[Array, int, float], Sequence[Sequence[str]]] | None = None
    tempered: bool = False

    def __post_init__(self) -> None:
        if (self.probabilities is None) == (self.label is None):
            raise SettingError(f"Expected a model with either probabilities or label, got {self.name!r}.")


class Teacher:
    """A model as the service presents it.

    labels_only: whether labels are drawn from the model's probabilities, which themselves are not sent.
    top_k: how many probabilities an input is answered with at most; by default all.
    max_batch: inputs in a message at most.

    Raises: SettingError if the settings do not fit the model.
    """

    def __init__(self, model: Model, *, labels_only: bool = False, top_k: int | None = None, max_batch: int = 1024) -> None:
        labels = labels_only or model.label is not None
        if labels and top_k is not None:
            raise SettingError(f"Expected no top-k for a teacher that gives labels only, got {top_k}.")
        self.model = model
        self.description = Description(
            model=model.name,
            labels=tuple(model.labels),
            inputs=model.inputs,
            answers=Kind.LABELS if labels else Kind.PROBABILITIES,
            top_k=0 if labels else len(model.labels) if top_k is None else top_k,
            tempered=labels and (model.tempered or model.probabilities is not None),
            max_batch=max_batch,
        )
        try:
            codec.encode_description(self.description)
        except WireError as error:
            raise SettingError(f"Expected a model that can be described: {error}") from error
        self._ids = {label: index for index, label in enumerate(model.labels)}
        self._entropy = SystemEntropy()

    def answer(self, batch: Batch) -> Answers:
        """Answers to a batch. Raises DataError if the model returns neither probabilities nor its labels."""
        if self.model.label is not None:
            texts = self.model.label(batch.x_N, batch.draws, batch.temperature)
            return Answers(first=batch.first, answers=self._label_ids(texts, batch))
        p_NK = torch.from_numpy(self._probabilities(batch.x_N))
        if self.description.answers is Kind.PROBABILITIES:
            return Answers(first=batch.first, answers=TopK(self.description.top_k)(p_NK))
        uniforms = torch.from_numpy(self._entropy.uniform(len(p_NK) * batch.draws)).view(-1, batch.draws)
        drawn = Sampled(batch.draws)(Power(batch.temperature)(p_NK), uniforms)
        counts = (drawn.p_Nk * batch.draws).round().long()
        ids = drawn.ids_Nk.flatten().repeat_interleave(counts.flatten())
        return Answers(first=batch.first, answers=ids.view(len(p_NK), batch.draws))

    def _probabilities(self, x_N: Array) -> NDArray[np.float32]:
        if self.model.probabilities is None:
            raise DataError("Expected a model with probabilities, got one of labels.")
        p_NK = np.array(self.model.probabilities(x_N), np.float32)
        if p_NK.shape != (len(x_N), len(self._ids)):
            raise DataError(f"Expected probabilities of shape {(len(x_N), len(self._ids))} of the model, got {p_NK.shape}.")
        if not (np.isfinite(p_NK).all() and (p_NK >= 0).all() and (abs(p_NK.sum(1) - 1) <= SUM_TOLERANCE).all()):
            raise DataError("Expected the model's rows to be probabilities that add up to 1, got others; are they logits?")
        return p_NK

    def _label_ids(self, texts: Sequence[Sequence[str]], batch: Batch) -> torch.Tensor:
        if [len(row) for row in texts] != [batch.draws] * len(batch.x_N):
            raise DataError(f"Expected {batch.draws} labels for each of {len(batch.x_N)} inputs of the model.")
        try:
            return torch.tensor([[self._ids[text] for text in row] for row in texts], dtype=torch.int64)
        except KeyError as error:
            raise DataError(f"Expected labels out of the model's {len(self._ids)}, got {error.args[0]!r}.") from error


# Models


def sklearn_model(path: Path, *, inputs: Inputs = Inputs.ROWS) -> Model:
    """A fitted scikit-learn classifier from a joblib or pickle file.

    Loading such a file runs whatever code its author put into it: load only files of your own. Images become rows in [0, 1].
    """
    import joblib

    log.warning("Loading %s runs the code in it: serve only files that you made yourself.", path)
    try:
        estimator = joblib.load(path)
        if not len(estimator.classes_):
            raise ValueError("it knows no classes")
    except OSError as error:
        raise DataError(f"Expected a fitted scikit-learn classifier in {path}: {error}.") from error
    except Exception as error:  # a pickle may raise anything
        raise DataError(
            f"Expected a fitted scikit-learn classifier in {path}, got {type(error).__name__}: {error}."
        ) from error
    return estimator_model(estimator, name=_name(type(estimator).__name__, path), inputs=inputs)


# scikit-learn ships no types: `estimator` has classes_, predict and perhaps predict_proba.
def estimator_model(estimator: Any, *, name: str, inputs: Inputs) -> Model:
    """A fitted scikit-learn classifier; one without probabilities repeats its one label for every draw."""
    labels = tuple(str(label) for label in estimator.classes_)
    if hasattr(estimator, "predict_proba"):
        return Model(
            name=name, labels=labels, inputs=inputs, probabilities=lambda x_N: estimator.predict_proba(as_rows(x_N))
        )

    def label(x_N: Array, draws: int, temperature: float) -> list[list[str]]:
        return [[str(one)] * draws for one in estimator.predict(as_rows(x_N))]

    return Model(name=name, labels=labels, inputs=inputs, label=label)


def onnx_model(
    path: Path, *, inputs: Inputs | None = None, labels: Sequence[str] | None = None, logits: bool = False
) -> Model:
    """An ONNX classifier with one input and one float output (N, K), or one named "probabilities", run by onnxruntime on the CPU.

    Images are given in [0, 1], as (N, H, W), as (N, C, H, W) or as rows, depending on the dimensions of the model's input.

    inputs: by default texts for strings, images for 3 or 4 dimensions, rows for 2.
    labels: by default "0", "1" ...
    logits: whether the output is the argument of a softmax.

    Raises: DataError if the file is not such a model, SettingError if it does not say how many classes it has and `labels` does not either.
    """
    try:
        session = open_session(path)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise DataError(f"Expected an ONNX model in {path}: {error}.") from error
    if len(session.get_inputs()) != 1:
        raise DataError(f"Expected an ONNX model of one input in {path}, got {[one.name for one in session.get_inputs()]}.")
    (source,) = session.get_inputs()
    floats = [
        one for one in session.get_outputs() if one.type in {"tensor(float)", "tensor(double)"} and len(one.shape) == 2
    ]
    named = [one for one in floats if one.name == "probabilities"] or floats
    if len(named) != 1:
        raise DataError(
            f"Expected one float output (N, K) in {path}, or one called 'probabilities', got "
            f"{[f'{one.name}: {one.type} {one.shape}' for one in session.get_outputs()]}."
        )
    output, rank = named[0], len(source.shape)
    if labels is None:
        if not isinstance(output.shape[1], int):
            raise SettingError(f"Expected labels for {path}, whose output does not say how many classes it has.")
        labels = [str(index) for index in range(output.shape[1])]
    if inputs is None:
        inputs = Inputs.TEXTS if source.type == "tensor(string)" else Inputs.IMAGES if rank in {3, 4} else Inputs.ROWS

    def probabilities(x_N: Array) -> Array:
        x = x_N.astype(object) if source.type == "tensor(string)" else _as_tensor(x_N, rank)
        if source.type == "tensor(double)":
            x = x.astype(np.float64)
        if source.type == "tensor(string)" and rank == 2:
            x = x[:, None]
        (scores,) = session.run([output.name], {source.name: x})
        return torch.from_numpy(scores).double().softmax(-1).numpy() if logits else np.asarray(scores)

    return Model(name=_name("onnx", path), labels=tuple(labels), inputs=inputs, probabilities=probabilities)


def user_model(reference: str) -> Model:
    """The model that "module:factory" makes, a function without arguments. Raises SettingError if there is no such function."""
    model = load_function(reference, expected="a function without arguments")()
    if not isinstance(model, Model):
        raise SettingError(f"Expected {reference!r} to return a limbeck.client.serving.Model, got {type(model).__name__}.")
    return model


def _name(kind: str, path: Path) -> str:
    """A name that changes with the content of the file, and with that of the file beside it in which ONNX keeps large weights."""
    weights = path.with_name(f"{path.name}.data")
    digest = hashlib.sha256(path.read_bytes() + (weights.read_bytes() if weights.exists() else b""))
    return f"{kind} {path.name} {digest.hexdigest()[:12]}"


def as_rows(x_N: Array) -> Array | list[str]:
    """Inputs as scikit-learn takes them: float32 rows, bytes as [0, 1]; texts as a list."""
    if x_N.dtype.kind == "U":
        texts: list[str] = x_N.tolist()
        return texts
    return arrays.unit_scale(x_N).reshape(len(x_N), -1)


def _as_tensor(x_N: Array, rank: int) -> Array:
    x_N = arrays.unit_scale(x_N)
    if rank == 2:
        return x_N.reshape(len(x_N), -1)
    if rank == 4:
        return x_N[:, None] if x_N.ndim == 3 else x_N.transpose(0, 3, 1, 2)
    return x_N


# The service


@dataclass(eq=False)
class _Call:
    """A call in progress.

    peer: the other end's address without the port.
    ended: why the call is to end, once it is; only a call that waits for its peer is ended.
    waiting: since when the peer is waited for, in monotonic time, or None.
    """

    peer: str
    ended: asyncio.Future[tuple[grpc.StatusCode, str]]
    waiting: float | None = None

    def end(self, code: grpc.StatusCode, why: str) -> None:
        """End the call, if it was not ended before."""
        if not self.ended.done():
            self.ended.set_result((code, why))


class _Calls:
    """All calls in progress, never more than are allowed. When there are as many and a new one comes, the call that has waited longest for
    its peer is ended: so nobody is kept out by peers that do nothing, however many they are.

    most: in all. most_of_a_peer: from one address that is not this machine.
    """

    def __init__(self, most: int, most_of_a_peer: int) -> None:
        self._most, self._most_of_a_peer = most, most_of_a_peer
        self._calls: set[_Call] = set()
        self._stopping = False

    def begin(self, peer: str) -> _Call | None:
        """A new call; None if all open calls are busy with questions. Peers on this machine cannot be told apart."""
        of_peer = [each for each in self._calls if each.peer == peer]
        competing = of_peer if len(of_peer) >= self._most_of_a_peer and not is_loopback(f"{peer}:0") else None
        if competing is None and len(self._calls) >= self._most:
            competing = list(self._calls)
        if competing is not None:
            idle = [(each.waiting, each) for each in competing if each.waiting is not None]
            if not idle:
                return None
            since, longest = min(idle, key=lambda each: each[0])
            self._calls.discard(longest)
            longest.end(
                grpc.StatusCode.UNAVAILABLE,
                f"{len(competing)} calls are open, and this one was idle longest: {time.monotonic() - since:.1f} s",
            )
        call = _Call(peer, asyncio.get_running_loop().create_future())
        self._calls.add(call)
        return call

    def over(self, call: _Call) -> None:
        """Note that a call has ended."""
        self._calls.discard(call)

    async def patiently(self, call: _Call, step: Awaitable[T], seconds: float) -> T:
        """The result of a step of the peer, awaited for so long. Raises _Ended if it takes longer, or the call is ended meanwhile."""
        call.waiting = time.monotonic()
        doing = asyncio.ensure_future(step)
        both: list[asyncio.Future[T] | asyncio.Future[tuple[grpc.StatusCode, str]]] = [doing, call.ended]
        if self._stopping:
            call.end(*_SHUTTING_DOWN)
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if call.ended.done():
                raise _Ended(*call.ended.result())
            if not doing.done():
                raise _Ended(grpc.StatusCode.DEADLINE_EXCEEDED, f"idle for {seconds:g} s")
            return doing.result()
        finally:
            call.waiting = None
            doing.cancel()

    def stop(self) -> None:
        """End the calls that wait now, and the others before they wait again."""
        self._stopping = True
        for call in self._calls:
            if call.waiting is not None:
                call.end(*_SHUTTING_DOWN)


class _Ended(Exception):
    """A call has to end with this status and message."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Service:
    """The methods of TeacherService, and the health check beside it: bytes in and bytes out, as the codec checks them.

    No call holds a thread while it waits for its peer, not even a call of the health check.
    """

    def __init__(self, teacher: Teacher, idle_seconds: float) -> None:
        self.teacher, self._idle_seconds = teacher, idle_seconds
        self.calls = _Calls(CALLS, CALLS_OF_A_PEER)
        self.stopping = False
        # A model may not be thread-safe, and two calls at once would not be faster.
        self.model = ThreadPoolExecutor(1, "limbeck-model")

    def handlers(self) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
        """Methods by service."""
        methods = {codec.SERVICE: {"Describe": self._describe, "Answer": self._answer}, _HEALTH: {"Check": self._check}}
        return {
            service: {name: grpc.stream_stream_rpc_method_handler(self._one(method)) for name, method in named.items()}
            for service, named in methods.items()
        }

    def _one(self, method: Callable[[_Call, Context], Awaitable[None]]) -> Callable[[object, Context], Awaitable[None]]:
        """A method as gRPC calls it: counted among the calls, its errors turned into a status."""

        async def handle(_: object, context: Context) -> None:
            call = self.calls.begin(_peer(context))
            if call is None:
                log.warning("Refused a call of %s: %d are open and busy.", _peer(context), CALLS)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the teacher is busy with others; come back later")
                return
            try:
                await method(call, context)
            except _Ended as ended:
                if ended.code is not grpc.StatusCode.INTERNAL:
                    log.warning("Ended a call of %s: %s.", call.peer, ended)
                await context.abort(ended.code, str(ended))
            except WireError as error:
                log.warning("Refused a message of %s: %s", call.peer, error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, printable(error))
            except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError, grpc.aio.InternalError):
                log.info("%s went away.", call.peer)
            finally:
                self.calls.over(call)

        return handle

    async def _read(self, call: _Call, context: Context, seconds: float) -> bytes | None:
        data = await self.calls.patiently(call, context.read(), seconds)
        return None if data is grpc.aio.EOF else bytes(data)

    async def _describe(self, call: _Call, context: Context) -> None:
        codec.decode_describe_request(await self._read(call, context, self._first_seconds) or b"")
        description = codec.encode_description(self.teacher.description)
        await self.calls.patiently(call, context.write(description), self._idle_seconds)

    async def _check(self, call: _Call, context: Context) -> None:
        data = await self._read(call, context, self._first_seconds) or b""
        try:
            asked = health_pb2.HealthCheckRequest.FromString(data[:_HEALTH_BYTES]).service
        except DecodeError as error:
            raise WireError(f"Expected a question about a service's health: {error}.") from error
        if asked not in {"", codec.SERVICE}:
            raise _Ended(grpc.StatusCode.NOT_FOUND, "there is no such service")
        states = health_pb2.HealthCheckResponse
        state = states.NOT_SERVING if self.stopping else states.SERVING
        await self.calls.patiently(call, context.write(states(status=state).SerializeToString()), self._idle_seconds)

    async def _answer(self, call: _Call, context: Context) -> None:
        seconds = self._first_seconds
        while (data := await self._read(call, context, seconds)) is not None:
            # The model's time does not count as the peer's.
            answers = await asyncio.get_running_loop().run_in_executor(self.model, self._answered, data)
            await self.calls.patiently(call, context.write(answers), self._idle_seconds)
            seconds = self._idle_seconds

    @property
    def _first_seconds(self) -> float:
        return min(FIRST_SECONDS, self._idle_seconds)

    def _answered(self, data: bytes) -> bytes:
        """The answers to one batch, which is decoded only when it is its turn: many at once, as arrays, would take much more memory."""
        started = time.perf_counter()
        batch = codec.decode_batch(data, self.teacher.description)
        what = f"Inputs {batch.first} to {batch.first + len(batch.x_N) - 1}"
        try:
            answers = codec.encode_answers(self.teacher.answer(batch), self.teacher.description)
        except Exception as error:  # the model is a user's code
            log.exception("The model failed: %s.", what)
            raise _Ended(grpc.StatusCode.INTERNAL, "the model failed; its owner's log says why") from error
        log.info("%s answered in %.0f ms.", what, 1000 * (time.perf_counter() - started))
        return answers


def _peer(context: Context) -> str:
    """The host of the other end; an address that is not of the Internet as it is."""
    kind, _, rest = printable(unquote(context.peer())).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else printable(context.peer())


class Server:
    """A teacher that is being served. address: HOST:PORT, with the actual port if 0 was asked for. Parameters: see `start`."""

    def __init__(
        self, teacher: Teacher, listen: str, credentials: grpc.ServerCredentials | None, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        check.positive(idle_seconds=idle_seconds)
        self._service, self._ending = _Service(teacher, idle_seconds), asyncio.Event()
        ready: Future[str] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listen, credentials, ready)), name="limbeck-teacher", daemon=True
        )
        self._thread.start()
        try:
            self.address = ready.result()
        except Exception as error:  # gRPC raises RuntimeError and others
            raise SettingError(f"Expected an address to listen on, got {listen!r}: {error}.") from error

    async def _serve(self, listen: str, credentials: grpc.ServerCredentials | None, ready: Future[str]) -> None:
        self._loop = asyncio.get_running_loop()
        idle_ms = int(1000 * min(self._service._idle_seconds, IDLE_SECONDS))
        options = (
            ("grpc.max_receive_message_length", codec.MAX_MESSAGE),
            ("grpc.max_send_message_length", codec.MAX_MESSAGE),
            # Without this, two servers on one port would share its questions between two models.
            ("grpc.so_reuseport", 0),
            # Connections without a call are bounded too, and end; those without a handshake end sooner.
            ("grpc.max_concurrent_streams", CALLS_OF_A_CONNECTION),
            ("grpc.max_allowed_incoming_connections", CONNECTIONS),
            ("grpc.max_connection_idle_ms", idle_ms),
            ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_SECONDS)),
            ("grpc.keepalive_time_ms", int(1000 * IDLE_SECONDS)),
        )
        server = grpc.aio.server(options=options)
        for service, methods in self._service.handlers().items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        try:
            port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
            await server.start()
        except Exception as error:
            ready.set_exception(error)
            return
        ready.set_result(f"{listen.rpartition(':')[0]}:{port}")
        await self._ending.wait()
        self._service.stopping = True
        self._service.calls.stop()
        await server.stop(GRACE_SECONDS)
        self._service.model.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Finish the current batches, tell peers that ask for more to come back later, and end."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join()


def start(
    teacher: Teacher,
    listen: str,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    unsafe_plaintext: bool = False,
    idle_seconds: float = IDLE_SECONDS,
) -> Server:
    """Serve a teacher until the server's `stop`.

    listen: HOST:PORT.
    certificate, key: PEM, for TLS.
    client_ca: PEM; only clients with a certificate of this authority are answered.
    unsafe_plaintext: whether plaintext is allowed on an address that is not loopback.
    idle_seconds: after which a stream is ended that sends no question or does not accept its answers.

    Raises: SettingError if the options do not go together or the address cannot be listened on, DataError if a file cannot be read.
    """
    if (certificate is None) != (key is None) or (client_ca is not None and certificate is None):
        raise SettingError("Expected a certificate and a key together, and both with a client CA.")
    if certificate is None or key is None:
        if not is_loopback(listen):
            if not unsafe_plaintext:
                raise SettingError(
                    f"Expected a certificate and a key to listen on {listen}, which is not a loopback address, got none "
                    "(--unsafe-plaintext listens without)."
                )
            log.warning("Plaintext on %s: anyone on the way reads and changes questions and answers.", listen)
        return Server(teacher, listen, None, idle_seconds)
    try:
        check_private(key)
        pair = (key.read_bytes(), certificate.read_bytes())
        authority = client_ca.read_bytes() if client_ca is not None else None
    except OSError as error:
        raise DataError(f"Expected PEM files for TLS: {error}.") from error
    credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
    return Server(teacher, listen, credentials, idle_seconds)
