"""The example server: TLS, the models it wraps, what it refuses, how it stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

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

from limbeck.cli.main import app
from limbeck.client import serving
from limbeck.client.blackbox import Link, Remote
from limbeck.operators.errors import DataError, SettingError, TeacherError
from limbeck.protos import teacher_codec
from limbeck.protos.teacher import Batch, Inputs
from limbeck.simulations.linked import HANG_SECONDS, until

DOCS = Path(__file__).parent.parent.parent / "docs" / "black-box-teachers.md"
DIGITS = load_digits()
X, Y = (DIGITS.data / 16).astype(np.float32), DIGITS.target
FITTED = LogisticRegression(max_iter=200).fit(X[:600], Y[:600])


def served(model: serving.Model | None = None, **options: object) -> serving.Server:
    model = model or serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS)
    return serving.start(serving.Teacher(model, **options), "127.0.0.1:0")  # type: ignore[arg-type]


def remote(address: str, ca: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None) -> Remote:
    own = Link(address=address, deadline=600, attempts=1, ca=ca, certificate=certificate, key=key)
    return Remote(own, lambda _: None)


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
    own = remote(secured.address, *((keys / name).read_bytes() for name in ("ca.pem", "site.pem", "site.key")))
    description = own.describe()
    (answers,) = own.answers(description, X[:5], [(0, 5)])
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
        own = remote(server.address)
        (answers,) = own.answers(own.describe(), X[:50], [(0, 50)])
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
    # E ||error||^2 = (1 - sum p^2) / M, the variance that sampling has and no more.
    assert float((error**2).sum()) == pytest.approx(float(((1 - (p**2).sum(1)) / (repeats * draws)).sum()), rel=0.25)


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
        own = remote(server.address)
        description = own.describe()
        (answers,) = own.answers(description, np.array(["a good one", "Überraschend bad"]), [(0, 2)])
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
    found = serving.Teacher(model).answer(Batch(first=0, x_N=images, draws=0, temperature=0)).answers
    torch.testing.assert_close(found.dense(), net(scaled).detach().softmax(-1), atol=1e-5, rtol=0)  # type: ignore[union-attr]
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
        found = stub.Check(health_pb2.HealthCheckRequest(service=teacher_codec.SERVICE))
        assert found.status == health_pb2.HealthCheckResponse.SERVING


def test_a_model_that_fails_tells_the_site_nothing_of_why() -> None:
    def probabilities(x_N: object) -> object:
        raise ValueError("secret path")

    model = serving.Model(name="m", labels=("a", "b"), inputs=Inputs.ROWS, probabilities=probabilities)  # type: ignore[arg-type]
    server = served(model)
    try:
        own = remote(server.address)
        with pytest.raises(TeacherError, match="INTERNAL: the model failed") as failed:
            list(own.answers(own.describe(), X[:2], [(0, 2)]))
    finally:
        server.stop()
    assert "secret" not in str(failed.value)


# Peers that do nothing


def idle(address: str, started: threading.Event) -> grpc.StatusCode:
    """Open a stream, ask one question and then nothing; how it ended."""
    with grpc.insecure_channel(address) as channel:
        release = threading.Event()

        def questions() -> Iterator[bytes]:
            yield teacher_codec.encode_batch(Batch(first=0, x_N=X[:2], draws=0, temperature=0.0))
            started.set()
            release.wait(HANG_SECONDS)

        stream = channel.stream_stream(teacher_codec.ANSWER)(questions())
        try:
            list(stream)
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return error.code()
        finally:
            release.set()


class Timers:
    """The clocks of streams that wait for their peer: time passes when a test says so."""

    def __init__(self) -> None:
        self.running: set[threading.Timer] = set()
        self.lock = threading.Lock()
        running, lock = self.running, self.lock

        class Timer(threading.Timer):
            def start(self) -> None:
                with lock:
                    running.add(self)

            def cancel(self) -> None:
                with lock:
                    running.discard(self)

        self.made = Timer

    def pass_by(self) -> None:
        """Let the time of all that wait be over."""
        with self.lock:
            over, running = list(self.running), self.running
            running.clear()
        for timer in over:
            timer.function(*timer.args)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    own = Timers()
    monkeypatch.setattr(serving, "threading", SimpleNamespace(**{**vars(threading), "Timer": own.made}))
    return own


def test_idle_streams_are_ended_so_that_they_cannot_keep_others_out(timers: Timers) -> None:
    """One for each thread there is: without an end to them nobody else would be answered."""
    model = serving.estimator_model(FITTED, name="digits", inputs=Inputs.ROWS)
    server = serving.start(serving.Teacher(model), "127.0.0.1:0", idle_seconds=1.0)
    try:
        with ThreadPoolExecutor(serving.THREADS) as pool:
            begun = [threading.Event() for _ in range(serving.THREADS)]
            ended = [pool.submit(idle, server.address, event) for event in begun]
            assert all(event.wait(HANG_SECONDS) for event in begun)
            # All wait for their second question, or to be asked for their first answer.
            until(lambda: len(timers.running) == serving.THREADS)
            timers.pass_by()
            assert {one.result(HANG_SECONDS) for one in ended} == {grpc.StatusCode.CANCELLED}
        own = remote(server.address)
        (answers,) = own.answers(own.describe(), X[:5], [(0, 5)])
        assert answers.first == 0
    finally:
        server.stop()


def test_the_time_that_a_model_takes_is_not_idle(timers: Timers) -> None:
    seen: list[int] = []

    def slow(x_N: np.ndarray) -> np.ndarray:
        seen.append(len(timers.running))
        return np.full((len(x_N), 2), 0.5, np.float32)

    model = serving.Model(name="m", labels=("a", "b"), inputs=Inputs.ROWS, probabilities=slow)
    server = serving.start(serving.Teacher(model), "127.0.0.1:0")
    try:
        own = remote(server.address)
        assert [answers.first for answers in own.answers(own.describe(), X[:4], [(0, 2), (2, 4)])] == [0, 2]
        assert seen == [0, 0]
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
        own = remote(line.split(" at ")[1].split(": ")[0])
        list(own.answers(own.describe(), X[:3], [(0, 2), (2, 3)]))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    # On a console of 80 columns, where a long path breaks the line.
    said = " ".join(errors.split())
    assert "runs the code in it" in said
    assert "Inputs 0 to 1 answered in" in said


def test_the_command_refuses_plaintext_beyond_loopback(tmp_path: Path) -> None:
    joblib.dump(FITTED, tmp_path / "m.joblib")
    found = CliRunner().invoke(app, ["teacher", "serve", "--sklearn", str(tmp_path / "m.joblib"), "--listen", "0.0.0.0:0"])
    assert isinstance(found.exception, SettingError)
    assert "Expected a certificate and a key to listen on 0.0.0.0:0" in str(found.exception)
