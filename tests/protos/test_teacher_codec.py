"""A site's questions and a black-box teacher's answers: round trips, and what a server refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import operators
from limbeck.base.errors import WireError
from limbeck.protos import teacher_codec, teacher_pb2, teacher_pb2_grpc
from limbeck.protos.teacher import Answers, Batch, Description, Inputs, Kind

TEACHER = Description(
    model="m 1",
    labels=("a", "b", "c", "d"),
    inputs=Inputs.ROWS,
    answers=Kind.PROBABILITIES,
    top_k=3,
    tempered=False,
    max_batch=16,
)
LABELLER = replace(TEACHER, answers=Kind.LABELS, top_k=0, tempered=True)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def batch(**changes: object) -> Batch:
    return replace(Batch(first=8, x_N=ROWS, draws=0, temperature=0.0), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("description", [TEACHER, LABELLER, replace(TEACHER, inputs=Inputs.TEXTS)])
def test_a_description_survives_the_wire(description: Description) -> None:
    assert teacher_codec.decode_description(teacher_codec.encode_description(description)) == description


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "a\nb"}, "model"),
        ({"labels": ("a",)}, "number of labels"),
        ({"labels": ("a", "a", "b", "c")}, "distinct labels"),
        ({"labels": ("a", "b", "", "c")}, "a label"),
        ({"top_k": 5}, "top_k"),
        ({"top_k": 0}, "top_k"),
        ({"tempered": True}, "tempered"),
        ({"max_batch": 0}, "max_batch"),
    ],
)
def test_an_impossible_description_is_refused_by_the_name_of_its_field(changes: dict[str, object], named: str) -> None:
    with pytest.raises(WireError, match=f"Expected .*{named}"):
        teacher_codec.encode_description(replace(TEACHER, **changes))  # type: ignore[arg-type]


@given(
    kind=st.sampled_from([Inputs.ROWS, Inputs.IMAGES, Inputs.TEXTS]),
    count=st.integers(1, 16),
    side=st.integers(1, 5),
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
    seed=st.integers(0, 1000),
)
def test_a_question_survives_the_wire(kind: Inputs, count: int, side: int, text: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x_N = {
        Inputs.ROWS: rng.normal(size=(count, side)).astype(np.float32),
        Inputs.IMAGES: rng.integers(0, 256, (count, side, 2), np.uint8),
        Inputs.TEXTS: np.array([text] * count),
    }[kind]
    sent = batch(x_N=x_N, draws=5, temperature=2.5)
    decoded = teacher_codec.decode_batch(teacher_codec.encode_batch(sent), replace(LABELLER, inputs=kind))
    assert (decoded.first, decoded.draws, decoded.temperature) == (8, 5, 2.5)
    np.testing.assert_array_equal(decoded.x_N, x_N)


@given(count=st.integers(1, 16), k=st.integers(1, 3), seed=st.integers(0, 1000))
def test_probabilities_survive_the_wire_and_add_up_to_1(count: int, k: int, seed: int) -> None:
    p_NK = (3 * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))).softmax(-1)
    sent = Answers(first=2, answers=operators.TopK(k)(p_NK))
    data = teacher_codec.encode_answers(sent, TEACHER)
    decoded = teacher_codec.decode_answers(data, TEACHER, first=2, count=count, draws=0).answers
    assert isinstance(decoded, operators.Truncated)
    torch.testing.assert_close(decoded.dense(), sent.answers.dense())  # type: ignore[union-attr]
    torch.testing.assert_close(decoded.p_Nk.sum(1) + decoded.tail_N, torch.ones(count))


@given(count=st.integers(1, 8), draws=st.integers(1, 9), seed=st.integers(0, 1000))
def test_labels_survive_the_wire(count: int, draws: int, seed: int) -> None:
    ids = torch.randint(0, 4, (count, draws), generator=torch.Generator().manual_seed(seed))
    data = teacher_codec.encode_answers(Answers(first=0, answers=ids), LABELLER)
    assert torch.equal(teacher_codec.decode_answers(data, LABELLER, first=0, count=count, draws=draws).answers, ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["e", "", "a "])
def test_a_label_that_was_not_described_is_refused(name: str) -> None:
    answers = teacher_pb2.Answers(count=1, labels=teacher_pb2.Labels(draws=2, texts=["a", name]))
    with pytest.raises(WireError, match="labels out of the 4 described"):
        teacher_codec.decode_answers(answers.SerializeToString(), LABELLER, first=0, count=1, draws=2)


@pytest.mark.parametrize("texts", [["a"], ["a"] * 3])
def test_a_wrong_number_of_labels_is_refused(texts: list[str]) -> None:
    answers = teacher_pb2.Answers(count=1, labels=teacher_pb2.Labels(draws=2, texts=texts))
    with pytest.raises(WireError, match="Expected 2 labels"):
        teacher_codec.decode_answers(answers.SerializeToString(), LABELLER, first=0, count=1, draws=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_N": np.full((1, 2), np.nan, np.float32)}, "finite rows"),
        ({"x_N": np.zeros((0, 2), np.float32)}, "count"),
        ({"x_N": np.zeros(3, np.float32)}, "rows, byte images or texts"),
        ({"x_N": np.array(["\ud800"])}, "UTF-8"),
    ],
)
def test_an_invalid_question_is_not_sent(changes: dict[str, object], said: str) -> None:
    with pytest.raises(WireError, match=said):
        teacher_codec.encode_batch(batch(**changes))


def refused(message: teacher_pb2.Batch, said: str, description: Description = TEACHER) -> None:
    with pytest.raises(WireError, match=said):
        teacher_codec.decode_batch(message.SerializeToString(), description)


def test_questions_that_a_server_refuses() -> None:
    good = teacher_pb2.Batch.FromString(teacher_codec.encode_batch(batch()))
    spoilings: list[tuple[dict[str, float], str]] = [
        ({"count": 5}, "60 bytes of rows.values, got 48"),
        ({"draws": 3}, "no draws"),
        ({"temperature": float("nan")}, "no temperature"),
    ]
    for changes, said in spoilings:
        spoilt = teacher_pb2.Batch.FromString(good.SerializeToString())
        for name, value in changes.items():
            setattr(spoilt, name, value)
        refused(spoilt, said)
    refused(good, "draws in", LABELLER)
    refused(good, "number of inputs", replace(TEACHER, max_batch=3))
    refused(good, "kind 'texts'", replace(TEACHER, inputs=Inputs.TEXTS))
    warm = teacher_pb2.Batch.FromString(teacher_codec.encode_batch(batch(draws=2, temperature=2.0)))
    refused(warm, "cannot draw at another", replace(LABELLER, tempered=False))


def test_one_long_text_among_many_short_ones_does_not_fill_the_memory() -> None:
    """An array of texts takes count times the longest: a few MB of bytes could ask for many GB."""
    texts = ["x" * 1_000_000, *["y"] * 20_000]
    message = teacher_pb2.Batch(count=len(texts), texts=teacher_pb2.Texts(texts=texts))
    refused(message, "longest text", replace(TEACHER, inputs=Inputs.TEXTS, max_batch=1 << 16))


def test_batches_are_cut_so_that_question_and_answer_fit_a_message() -> None:
    wide = np.zeros((50, 1_000_000), np.float32)
    size = teacher_codec.batch_size(TEACHER, wide, 0)
    assert size == 3
    teacher_codec.encode_batch(batch(x_N=wide[:size]))
    with pytest.raises(WireError, match="an input and its answer"):
        teacher_codec.batch_size(TEACHER, np.zeros((1, 5_000_000), np.float32), 0)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for decode in (
        teacher_codec.decode_description,
        lambda data: teacher_codec.decode_batch(data, TEACHER),
        lambda data: teacher_codec.decode_answers(data, TEACHER, first=0, count=1, draws=0),
    ):
        with pytest.raises(WireError):
            decode(data)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_an_answer_with_one_byte_changed_is_refused_or_a_distribution(position: int, value: int) -> None:
    sent = Answers(first=2, answers=operators.TopK(2)(torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 5)))
    data = bytearray(teacher_codec.encode_answers(sent, TEACHER))
    data[position % len(data)] = value
    try:
        decoded = teacher_codec.decode_answers(bytes(data), TEACHER, first=2, count=5, draws=0).answers
    except WireError:
        return
    assert isinstance(decoded, operators.Truncated)
    assert bool(((decoded.ids_Nk >= 0) & (decoded.ids_Nk < 4)).all())
    torch.testing.assert_close(decoded.p_Nk.sum(-1) + decoded.tail_N, torch.ones(5))


def test_the_generated_stubs_and_the_codec_speak_of_one_service() -> None:
    paths: list[str] = []

    class Channel:
        def unary_unary(self, path: str, **_: object) -> None:
            paths.append(path)

        stream_stream = unary_unary

    teacher_pb2_grpc.TeacherServiceStub(Channel())
    assert sorted(paths) == sorted([teacher_codec.DESCRIBE, teacher_codec.ANSWER])
