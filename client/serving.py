"""An example server for a black-box teacher: any scikit-learn or ONNX model, or a user's own, behind the TeacherService of `protos/`.

It runs on the machine of the model's owner and listens on a loopback address unless told otherwise. Its answers carry no DP guarantee.

Shape legend: N inputs in a batch, K classes, M draws.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from limbeck.client.noise import SystemEntropy
from limbeck.client.site import is_loopback
from limbeck.operators import Power, Sampled, TopK, check
from limbeck.operators.errors import DataError, SettingError, WireError
from limbeck.protos import teacher_codec as codec
from limbeck.protos.teacher import Answers, Batch, Description, Inputs, Kind

log = logging.getLogger(__name__)

THREADS = 8
GRACE_SECONDS = 10.0
# Each stream holds one of the threads, so one that neither asks nor takes its answers is ended.
IDLE_SECONDS = 120.0
# A model's probabilities in float32 add up to 1 within this; logits do not.
SUM_TOLERANCE = 1e-3

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A model to serve. name: changes with the model. labels: names of the K classes.

    One of two functions of inputs, (N, D) float32 rows, (N, H, W) or (N, H, W, C) bytes, or (N,) texts:
    probabilities: to (N, K), rows adding up to 1. label: of inputs, draws and temperature, to N times M labels; tempered: whether it
    draws them at the temperature.
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
    """A model as the service shows it. labels_only: labels are drawn from its probabilities, which themselves do not leave.

    top_k: the most probabilities an input is answered with, by default all. Raises SettingError for settings that do not fit the model.
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
        """Answers to a batch. Raises DataError where the model gives what is neither probabilities nor its labels."""
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
    """A fitted scikit-learn classifier out of a joblib or pickle file.

    Loading such a file runs whatever code its writer put in: load only your own. Images are given to it as rows of [0, 1].
    """
    import joblib

    log.warning("Loading %s runs the code in it: serve only a file that you made yourself.", path)
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


def estimator_model(estimator: Any, *, name: str, inputs: Inputs) -> Model:
    """A fitted scikit-learn classifier; one without probabilities gives its one label as often as it is asked."""
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
    """An ONNX classifier with one input and one float output (N, K), or one called "probabilities", run by onnxruntime on the CPU.

    inputs: by default texts for strings, images for 3 or 4 dimensions, rows for 2. Images are given in [0, 1], as (N, H, W), as (N, C,
    H, W) or as rows, by the input's dimensions. labels: by default "0", "1" ... logits: the output is softmax's argument.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
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
        (found,) = session.run([output.name], {source.name: x})
        return torch.from_numpy(found).double().softmax(-1).numpy() if logits else np.asarray(found)

    return Model(name=_name("onnx", path), labels=tuple(labels), inputs=inputs, probabilities=probabilities)


def user_model(reference: str) -> Model:
    """What "module:factory" makes: a function without arguments that returns a Model."""
    module, colon, name = reference.partition(":")
    if not colon:
        raise SettingError(f"Expected module:factory, got {reference!r}.")
    try:
        factory = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"Expected a factory {reference!r}: {error}.") from error
    model = factory()
    if not isinstance(model, Model):
        raise SettingError(f"Expected {reference!r} to return a limbeck.client.serving.Model, got {type(model).__name__}.")
    return model


def _name(kind: str, path: Path) -> str:
    """Changes with the content of the file, and of the one beside it where ONNX keeps large weights."""
    beside = path.with_name(f"{path.name}.data")
    digest = hashlib.sha256(path.read_bytes() + (beside.read_bytes() if beside.exists() else b""))
    return f"{kind} {path.name} {digest.hexdigest()[:12]}"


def as_rows(x_N: Array) -> Any:
    """Inputs as scikit-learn takes them: float32 rows, bytes as [0, 1]; texts as a list."""
    if x_N.dtype.kind == "U":
        return x_N.tolist()
    return _unit(x_N).reshape(len(x_N), -1)


def _as_tensor(x_N: Array, rank: int) -> Array:
    x_N = _unit(x_N)
    if rank == 2:
        return x_N.reshape(len(x_N), -1)
    if rank == 4:
        return x_N[:, None] if x_N.ndim == 3 else x_N.transpose(0, 3, 1, 2)
    return x_N


def _unit(x_N: Array) -> NDArray[np.float32]:
    """Bytes become [0, 1], as everywhere in limbeck; floats stay."""
    return x_N.astype(np.float32) / np.float32(255 if x_N.dtype == np.uint8 else 1)


# The service


class _Service:
    """The methods of TeacherService, bytes in and bytes out: the codec checks what comes and what goes."""

    def __init__(self, teacher: Teacher, stopping: threading.Event, idle_seconds: float) -> None:
        self.teacher, self._stopping, self._idle_seconds = teacher, stopping, idle_seconds
        # Models need not be safe to call from several threads at once, and two at once would not be faster.
        self._one_at_a_time = threading.Lock()

    def describe(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            codec.decode_describe_request(data)
        except WireError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return codec.encode_description(self.teacher.description)

    def answer(self, questions: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        while True:
            with self._waiting_for_the_peer(context):
                data = next(questions, None)
            if data is None:
                return
            if self._stopping.is_set():
                context.abort(grpc.StatusCode.UNAVAILABLE, "the teacher is shutting down")
            started = time.perf_counter()
            try:
                batch = codec.decode_batch(data, self.teacher.description)
            except WireError as error:
                log.warning("Refused a batch of %s: %s", context.peer(), error)
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            try:
                with self._one_at_a_time:
                    answers = codec.encode_answers(self.teacher.answer(batch), self.teacher.description)
            except Exception:  # the model is somebody's own code
                log.exception("The model failed on inputs %d to %d.", batch.first, batch.first + len(batch.x_N) - 1)
                context.abort(grpc.StatusCode.INTERNAL, "the model failed; its owner's log says why")
            seconds = time.perf_counter() - started
            log.info("Inputs %d to %d answered in %.0f ms.", batch.first, batch.first + len(batch.x_N) - 1, 1000 * seconds)
            # Until the peer has taken it, gRPC does not come back for more.
            with self._waiting_for_the_peer(context):
                yield answers

    @contextmanager
    def _waiting_for_the_peer(self, context: grpc.ServicerContext) -> Iterator[None]:
        """End the stream if this takes too long; the time that the model takes does not count."""
        timer = threading.Timer(self._idle_seconds, self._give_up, (context,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self, context: grpc.ServicerContext) -> None:
        log.warning("Ended a stream of %s that was idle for %g s.", context.peer(), self._idle_seconds)
        context.cancel()


class Server:
    """A teacher being served. address: HOST:PORT with the port it got where 0 was asked for. idle_seconds: see `start`."""

    def __init__(
        self, teacher: Teacher, listen: str, credentials: grpc.ServerCredentials | None, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        check.positive(idle_seconds=idle_seconds)
        self._stopping = threading.Event()
        service = _Service(teacher, self._stopping, idle_seconds)
        handlers = {
            "Describe": grpc.unary_unary_rpc_method_handler(service.describe),
            "Answer": grpc.stream_stream_rpc_method_handler(service.answer),
        }
        options = (
            ("grpc.max_receive_message_length", codec.MAX_MESSAGE),
            ("grpc.max_send_message_length", codec.MAX_MESSAGE),
            # Two servers on one port would share its questions between two models.
            ("grpc.so_reuseport", 0),
        )
        self._server = grpc.server(ThreadPoolExecutor(THREADS), maximum_concurrent_rpcs=THREADS, options=options)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(codec.SERVICE, handlers),))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in ("", codec.SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        host = listen.rpartition(":")[0]
        secure = () if credentials is None else (credentials,)
        add_port = self._server.add_secure_port if secure else self._server.add_insecure_port
        try:
            port = add_port(listen, *secure)
        except RuntimeError as error:
            raise SettingError(f"Expected an address to listen on, got {listen!r}: {error}.") from error
        self.address = f"{host}:{port}"
        self._server.start()

    def stop(self) -> None:
        """Finish the batches under way, tell those who ask for more to come back later, and end."""
        self._health.enter_graceful_shutdown()
        self._stopping.set()
        self._server.stop(GRACE_SECONDS).wait()


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
    """Serve a teacher at HOST:PORT until its `stop`.

    certificate, key: PEM, for TLS. client_ca: PEM; only clients with a certificate of this authority are answered. idle_seconds: after
    which a stream is ended that sends no question or does not take its answers. Raises SettingError for plaintext to a non-loopback
    address without unsafe_plaintext.
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
        pair = (key.read_bytes(), certificate.read_bytes())
        authority = client_ca.read_bytes() if client_ca is not None else None
    except OSError as error:
        raise DataError(f"Expected PEM files for TLS: {error}.") from error
    credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
    return Server(teacher, listen, credentials, idle_seconds)
