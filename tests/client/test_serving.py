"""The example server: TLS, the models it wraps, what it refuses, how it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import joblib
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from typer.testing import CliRunner

from limbeck.base.errors import DataError, SettingError, TeacherError
from limbeck.cli.main import app
from limbeck.client import serving
from limbeck.client.blackbox import Link, Remote
from limbeck.experiments.faults.linked import HANG_SECONDS, until
from limbeck.protos import teacher_codec
from limbeck.protos.teacher import Batch, Inputs

DOCS = Path(__file__).parent.parent.parent / "docs" / "black-box-teachers.md"
DIGITS = load_digits()
X, Y = (DIGITS.data / 16).astype(np.float32), DIGITS.target
FITTED = LogisticRegression(max_iter=200).fit(X[:600], Y[:600])


def served(model: serving.Model | None = None, **options: object) -> serving.Server:
    model = model or serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS)
    return serving.start(serving.Teacher(model, **options), "127.0.0.1:0")  # type: ignore[arg-type]


def remote(address: str, ca: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None) -> Remote:
    link = Link(address=address, deadline=600, attempts=1, ca=ca, certificate=certificate, key=key)
    return Remote(link, lambda _: None)


@pytest.fixture
def plain() -> Iterator[serving.Server]:
    server = served()
    yield server
    server.stop()


# TLS, with keys made by the commands of the documentation


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every openssl command in docs/black-box-teachers.md, run as it stands there."""
    folder = tmp_path_factory.mktemp("keys")
    blocks = DOCS.read_text(encoding="utf-8").split("```sh\n")[1:]
    script = "\n".join(block.split("```")[0] for block in blocks if "openssl" in block)
    assert script.count("openssl") >= 4
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True, capture_output=True)
    # An authority that nobody here trusts.
    other = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=other",
    ]
    subprocess.run([*other, "-keyout", "other.key", "-out", "other.pem"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def secured(keys: Path) -> Iterator[serving.Server]:
    teacher = serving.Teacher(serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS))
    certificate, key, ca = (keys / name for name in ("server.pem", "server.key", "ca.pem"))
    server = serving.start(teacher, "127.0.0.1:0", certificate=certificate, key=key, client_ca=ca)
    yield server
    server.stop()


def test_a_site_with_a_certificate_is_answered_over_mutual_tls(keys: Path, secured: serving.Server) -> None:
    client = remote(secured.address, *((keys / name).read_bytes() for name in ("ca.pem", "site.pem", "site.key")))
    description = client.describe()
    (answers,) = client.answers(description, X[:5], [(0, 5)])
    np.testing.assert_allclose(answers.answers.dense(), FITTED.predict_proba(X[:5]), atol=1e-6)  # type: ignore[union-attr]


def test_a_server_of_another_authority_is_refused(keys: Path, secured: serving.Server) -> None:
    other, certificate, key = ((keys / name).read_bytes() for name in ("other.pem", "site.pem", "site.key"))
    with pytest.raises(TeacherError, match="UNAVAILABLE"):
        remote(secured.address, other, certificate, key).describe()


def test_a_site_without_a_certificate_is_refused_where_one_is_wanted(keys: Path, secured: serving.Server) -> None:
    with pytest.raises(TeacherError, match="UNAVAILABLE"):
        remote(secured.address, ca=(keys / "ca.pem").read_bytes()).describe()


def test_plaintext_to_a_tls_server_is_refused(secured: serving.Server) -> None:
    with pytest.raises(TeacherError, match="UNAVAILABLE"):
        remote(secured.address).describe()


def test_plaintext_beyond_loopback_is_refused_unless_asked_for_by_name() -> None:
    teacher = serving.Teacher(serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS))
    for listen in ("0.0.0.0:0", "[::]:0", "teacher.example:50051"):
        with pytest.raises(SettingError, match="not a loopback address"):
            serving.start(teacher, listen)


# Models


def test_top_k_and_tail_are_the_models() -> None:
    server = served(top_k=3)
    try:
        client = remote(server.address)
        (answers,) = client.answers(client.describe(), X[:50], [(0, 50)])
    finally:
        server.stop()
    descending = -np.sort(-FITTED.predict_proba(X[:50]), 1)
    np.testing.assert_allclose(answers.answers.p_Nk, descending[:, :3], atol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(answers.answers.tail_N, descending[:, 3:].sum(1), atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_counts_of_drawn_labels_estimate_the_softened_distribution_without_bias(temperature: float) -> None:
    """10 x 250 draws an input: the mean error over inputs and draws is within 4 standard errors of 0, class by class."""
    teacher = serving.Teacher(serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS), labels_only=True)
    x, repeats, draws = X[600:700], 10, 250
    counts = torch.zeros(100, 10)
    for _ in range(repeats):
        ids = teacher.answer(Batch(first=0, x_N=x, draws=draws, temperature=temperature)).answers
        counts.scatter_add_(1, ids, torch.ones(ids.shape))  # type: ignore[arg-type, union-attr]
    p = torch.from_numpy(FITTED.predict_proba(x) ** (1 / temperature))
    p /= p.sum(1, keepdim=True)
    error = counts / (repeats * draws) - p
    deviation = (p * (1 - p) / (repeats * draws)).sqrt()
    assert bool((error.mean(0).abs() < 4 * (deviation**2).sum(0).sqrt() / 100).all())
    # The squared error is that of independent draws, within 6 standard deviations of it among runs: few inputs that are hard decide.
    drawn = np.random.default_rng(0).multinomial(repeats * draws, p.numpy(), size=(500, 100)) / (repeats * draws)
    squared = ((drawn - p.numpy()) ** 2).sum((1, 2))
    assert float((error**2).sum()) == pytest.approx(squared.mean(), abs=6 * squared.std())
    assert 6 * squared.std() < squared.mean()


def test_a_classifier_without_probabilities_gives_its_one_label_and_no_temperature() -> None:
    estimator = LinearSVC().fit(X[:300], Y[:300])
    teacher = serving.Teacher(serving.estimator_model(estimator, name="svc", inputs=Inputs.ROWS))
    assert not teacher.description.tempered
    answers = teacher.answer(Batch(first=0, x_N=X[:6], draws=3, temperature=1.0)).answers
    assert answers.tolist() == [[label] * 3 for label in estimator.predict(X[:6])]  # type: ignore[union-attr]


def test_a_pipeline_on_texts_is_served_from_its_file(tmp_path: Path) -> None:
    texts, labels = ["good film", "bad film", "so good", "so bad"] * 5, ["pos", "neg"] * 10
    joblib.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels), tmp_path / "m.joblib")
    server = served(serving.sklearn_model(tmp_path / "m.joblib", inputs=Inputs.TEXTS))
    try:
        client = remote(server.address)
        description = client.describe()
        (answers,) = client.answers(description, np.array(["a good one", "Überraschend bad"]), [(0, 2)])
    finally:
        server.stop()
    assert description.labels == ("neg", "pos")
    assert answers.answers.ids_Nk[:, 0].tolist() == [1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [b"no pickle", b""])
def test_a_file_without_a_classifier_is_an_error_with_its_path(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.joblib").write_bytes(content)
    with pytest.raises(DataError, match=r"m\.joblib"):
        serving.sklearn_model(tmp_path / "m.joblib")
    with pytest.raises(DataError, match=r"m\.joblib"):
        serving.onnx_model(tmp_path / "m.joblib")


@pytest.mark.parametrize("logits", [False, True])
def test_an_onnx_model_of_images_answers_as_torch_does(logits: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    images = (DIGITS.images * 255 / 16).round().astype(np.uint8)[:7]
    scaled = torch.from_numpy(images).float() / 255
    exported = (net if logits else torch.nn.Sequential(net, torch.nn.Softmax(-1))).eval()
    shapes = ({0: torch.export.Dim("n", min=1)},)
    torch.onnx.export(exported, (scaled[:2],), tmp_path / "m.onnx", dynamo=True, verbose=False, dynamic_shapes=shapes)
    model = serving.onnx_model(tmp_path / "m.onnx", logits=logits)
    assert model.inputs is Inputs.IMAGES
    answers = serving.Teacher(model).answer(Batch(first=0, x_N=images, draws=0, temperature=0)).answers
    torch.testing.assert_close(answers.dense(), net(scaled).detach().softmax(-1), atol=1e-5, rtol=0)  # type: ignore[union-attr]
    if logits:
        wrong = serving.Teacher(serving.onnx_model(tmp_path / "m.onnx"))
        with pytest.raises(DataError, match="are they logits"):
            wrong.answer(Batch(first=0, x_N=images, draws=0, temperature=0))


def test_a_users_own_factory_is_served_and_a_wrong_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        from limbeck.client.serving import Model
        from limbeck.protos.teacher import Inputs

        def factory():
            def label(texts, draws, temperature):
                return [["long" if len(text) > 5 else "short"] * draws for text in texts]
            return Model(name="mine", labels=("short", "long"), inputs=Inputs.TEXTS, label=label)

        def nothing():
            return None
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    teacher = serving.Teacher(serving.user_model("mine:factory"))
    ids = teacher.answer(Batch(first=0, x_N=np.array(["a", "abcdefgh"]), draws=2, temperature=1.0)).answers
    assert ids.tolist() == [[0, 0], [1, 1]]  # type: ignore[union-attr]
    for wrong in ("mine:nothing", "mine:absent", "absent:factory", "mine"):
        with pytest.raises(SettingError, match="Expected"):
            serving.user_model(wrong)


# Attacks on the server


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_and_the_server_lives(data: bytes, plain: serving.Server) -> None:
    with grpc.insecure_channel(plain.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            list(channel.stream_stream(teacher_codec.ANSWER)(iter([data])))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stub = health_pb2_grpc.HealthStub(channel)
        health = stub.Check(health_pb2.HealthCheckRequest(service=teacher_codec.SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_model_that_fails_tells_the_site_nothing_of_why() -> None:
    def probabilities(x_N: object) -> object:
        raise ValueError("secret path")

    model = serving.Model(name="m", labels=("a", "b"), inputs=Inputs.ROWS, probabilities=probabilities)  # type: ignore[arg-type]
    server = served(model)
    try:
        client = remote(server.address)
        with pytest.raises(TeacherError, match="INTERNAL: the model failed") as failed:
            list(client.answers(client.describe(), X[:2], [(0, 2)]))
    finally:
        server.stop()
    assert "secret" not in str(failed.value)


# Peers that do nothing


class Idle:
    """A call over a connection of its own that sends these messages and then nothing, until told to end."""

    def __init__(self, address: str, method: str, *messages: bytes) -> None:
        self._release = threading.Event()
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._messages = messages
        self.call = self._channel.stream_stream(method)(self._questions())

    def _questions(self) -> Iterator[bytes]:
        yield from self._messages
        self._release.wait(60)

    def end(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended it."""
        with pytest.raises(grpc.RpcError) as ended:
            list(self.call)
        self.close()
        return ended.value.code(), str(ended.value.details())

    def close(self) -> None:
        self._release.set()
        self.call.cancel()
        self._channel.close()


QUESTION = teacher_codec.encode_batch(Batch(first=0, x_N=X[:2], draws=0, temperature=0.0))
CHECK = "/grpc.health.v1.Health/Check"


def healthy(address: str) -> bool:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        state = stub.Check(health_pb2.HealthCheckRequest(service=teacher_codec.SERVICE), timeout=60).status
    return bool(state == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize(
    ("method", "messages"),
    [(teacher_codec.ANSWER, [QUESTION]), (teacher_codec.ANSWER, []), (teacher_codec.DESCRIBE, []), (CHECK, [])],
    ids=["one question", "no question", "half a description", "half a health check"],
)
def test_calls_that_do_nothing_never_keep_others_out(method: str, messages: list[bytes]) -> None:
    """More of them than there may be calls, of one machine, and no time limit that would help: the next peer is answered all the same."""
    server = serving.start(served_teacher(), "127.0.0.1:0", idle_seconds=3600.0)
    idle: list[Idle] = []
    try:
        for _ in range(serving.CALLS + 8):
            idle.append(Idle(server.address, method, *messages))
            if messages:
                next(idle[-1].call)
        for _ in range(3):
            client = remote(server.address)
            (answers,) = client.answers(client.describe(), X[:5], [(0, 5)])
            assert answers.first == 0
            assert healthy(server.address)
        if messages:
            code, why = idle[0].end()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "this one was idle longest" in why
    finally:
        for each in idle:
            each.close()
        server.stop()


def served_teacher() -> serving.Teacher:
    return serving.Teacher(serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS))


@pytest.mark.parametrize(
    ("method", "messages", "first", "idle"),
    [
        (teacher_codec.ANSWER, [QUESTION], 60.0, 0.5),
        (teacher_codec.ANSWER, [], 0.5, 3600.0),
        (teacher_codec.DESCRIBE, [], 0.5, 3600.0),
        (CHECK, [], 0.5, 3600.0),
    ],
)
def test_a_call_that_does_nothing_is_ended_and_told_why(
    method: str, messages: list[bytes], first: float, idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FIRST_SECONDS", first)
    server = serving.start(served_teacher(), "127.0.0.1:0", idle_seconds=idle)
    try:
        assert Idle(server.address, method, *messages).end() == (grpc.StatusCode.DEADLINE_EXCEEDED, "idle for 0.5 s")
    finally:
        server.stop()


def test_calls_whose_questions_are_being_answered_are_not_ended_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CALLS", 2)
    begun, go_on = threading.Event(), threading.Event()

    def slow(x_N: np.ndarray) -> np.ndarray:
        begun.set()
        assert go_on.wait(60)
        return np.full((len(x_N), 2), 0.5, np.float32)

    model = serving.Model(name="m", labels=("a", "b"), inputs=Inputs.ROWS, probabilities=slow)
    server = serving.start(serving.Teacher(model), "127.0.0.1:0")
    calls = server._service.calls
    busy = [Idle(server.address, teacher_codec.ANSWER, QUESTION) for _ in range(2)]
    try:
        assert begun.wait(60)
        until(lambda: (len(calls._calls) == 2 and all(each.waiting is None for each in calls._calls)) or None)
        with pytest.raises(TeacherError, match="UNAVAILABLE: the teacher is busy with others"):
            remote(server.address).describe()
        go_on.set()
        assert all(next(each.call) for each in busy)
        assert remote(server.address).describe().model == "m"
    finally:
        go_on.set()
        for each in busy:
            each.close()
        server.stop()


def test_one_address_takes_its_share_of_calls_and_no_more() -> None:
    async def scenario() -> None:
        calls = serving._Calls(4, 2)
        first, second, other = (calls.begin(peer) for peer in ("192.0.2.1", "192.0.2.1", "192.0.2.2"))
        assert first is not None
        assert second is not None
        assert other is not None
        # None of the greedy peer's waits: its third call has to, and another's has not.
        assert calls.begin("192.0.2.1") is None
        second.waiting, other.waiting = 2.0, 1.0
        assert calls.begin("192.0.2.1") is not None
        assert second.ended.done()
        assert not other.ended.done()
        # All are open now but one; of this machine more than a share are let in, and of all others the longest idle makes room.
        assert calls.begin("127.0.0.1") is not None
        first.waiting = 3.0
        assert calls.begin("127.0.0.1") is not None
        assert other.ended.done()
        assert not first.ended.done()
        assert calls.begin("127.0.0.1") is not None
        assert first.ended.done()
        assert calls.begin("127.0.0.1") is None
        assert len(calls._calls) == 4

    asyncio.run(scenario())


def closed(connection: socket.socket) -> bool:
    """Whether the other end has ended it, after whatever it said."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 12):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize(("handshake", "left"), [(3600.0, 20), (2.0, 0)], ids=["bounded", "ended"])
def test_connections_that_say_nothing_are_bounded_and_end(
    handshake: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than there may be: nobody's descriptors run out, and those who have something to ask come in when the silent ones are ended."""
    monkeypatch.setattr(serving, "CONNECTIONS", 20)
    monkeypatch.setattr(serving, "HANDSHAKE_SECONDS", handshake)
    server = serving.start(served_teacher(), "127.0.0.1:0")
    host, _, port = server.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        # gRPC itself ends a connection that has said nothing for a minute.
        until(lambda: sum(map(closed, silent)) >= len(silent) - left or None, 45)
        if not left:
            client = Remote(Link(address=server.address, ca=None, certificate=None, key=None, deadline=20, attempts=60))
            assert client.describe().model == "digits"
    finally:
        for each in silent:
            each.close()
        server.stop()


def test_a_key_that_others_can_read_is_not_served_with(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "server.key").write_bytes((keys / "server.key").read_bytes())
    (tmp_path / "server.key").chmod(0o640)
    with pytest.raises(SettingError, match="got mode 640"):
        serving.start(served_teacher(), "127.0.0.1:0", certificate=keys / "server.pem", key=tmp_path / "server.key")


def test_the_time_that_a_model_takes_is_not_idle() -> None:
    seen: list[float | None] = []

    def slow(x_N: np.ndarray) -> np.ndarray:
        seen.extend(each.waiting for each in server._service.calls._calls)
        return np.full((len(x_N), 2), 0.5, np.float32)

    model = serving.Model(name="m", labels=("a", "b"), inputs=Inputs.ROWS, probabilities=slow)
    server = serving.start(serving.Teacher(model), "127.0.0.1:0")
    try:
        client = remote(server.address)
        assert [answers.first for answers in client.answers(client.describe(), X[:4], [(0, 2), (2, 4)])] == [0, 2]
        assert seen == [None, None]
    finally:
        server.stop()


# The command


def test_the_command_serves_until_sigterm_and_ends_with_0(tmp_path: Path) -> None:
    joblib.dump(FITTED, tmp_path / "m.joblib")
    command = [sys.executable, "-m", "limbeck.cli.main", "teacher", "serve", "--sklearn", str(tmp_path / "m.joblib")]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "no DP guarantee" in line
        client = remote(line.split(" at ")[1].split(": ")[0])
        list(client.answers(client.describe(), X[:3], [(0, 2), (2, 3)]))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    # On a console of 80 columns, where a long path breaks the line.
    said = " ".join(errors.split())
    assert "runs the code in it" in said
    assert "Inputs 0 to 1 answered in" in said


def test_the_command_refuses_plaintext_beyond_loopback(tmp_path: Path) -> None:
    joblib.dump(FITTED, tmp_path / "m.joblib")
    result = CliRunner().invoke(app, ["teacher", "serve", "--sklearn", str(tmp_path / "m.joblib"), "--listen", "0.0.0.0:0"])
    assert isinstance(result.exception, SettingError)
    assert "Expected a certificate and a key to listen on 0.0.0.0:0" in str(result.exception)
