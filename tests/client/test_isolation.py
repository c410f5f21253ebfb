"""One record alone never changes what becomes of the others: they are the same to the bit with it and without it, whatever it is."""

from __future__ import annotations

import csv
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from helpers.odd_images import FORMATS, NO_IMAGES, animated, mutated, of_16_bits, pipe, saved
from limbeck.base.errors import DataError
from limbeck.client import records
from limbeck.client.records import RecordSettings
from limbeck.client.teachers import evidence
from limbeck.inputs import encodings, features, tables
from limbeck.inputs import images as image_files
from limbeck.plans.schema import EvidenceTeaching, InputKind

Arrays = tuple[NDArray[np.generic], NDArray[np.int64]]
RESOLUTION = 1 << 16
BYTES, FLOATS = np.zeros((0, 8, 8), np.uint8), np.zeros((0, 8, 8), np.float32)
MUTATIONS = 60


def sums(own: Arrays) -> NDArray[np.int64]:
    """(K, D + 1) what evidence teachers sum up of records, with public inputs that have nothing to do with them."""
    x_N, y_N = own
    kind = "rows" if x_N.ndim == 2 else "pixels"
    public_ND = features.compute(kind, np.random.default_rng(3).integers(0, 255, (7, *x_N.shape[1:])).astype(x_N.dtype))
    teaching = EvidenceTeaching(
        features=kind, constant=0.3, normaliser=5.0, ridge=0.1, noise_multiplier=1.0, resolution=RESOLUTION
    )
    return evidence.class_sums(teaching, x_N, y_N, features.balance(kind, public_ND), np.full(2, RESOLUTION))


def assert_evidence_moves_by_one_record(without: Arrays, found: Arrays) -> None:
    """The line of its class by a row of integers of norm at most the resolution, and no other number at all."""
    moved_KD = sums(found) - sums(without)
    added_K = np.bincount(found[1], minlength=2) - np.bincount(without[1], minlength=2)
    assert not moved_KD[added_K == 0].any()
    assert sum(each**2 for each in moved_KD.ravel().tolist()) <= RESOLUTION**2


def assert_same_but_one(without: Arrays, found: Arrays) -> int:
    """How many records more there are, 0 or 1; all others are the same, in the same order and to the bit, and so are sums of them."""
    more = len(found[1]) - len(without[1])
    assert found[0].dtype == without[0].dtype
    assert more in {0, 1}
    assert_evidence_moves_by_one_record(without, found)
    places = range(len(found[1])) if more else [None]
    for place in places:
        x_N, y_N = (own if place is None else np.delete(own, place, 0) for own in found)
        if x_N.tobytes() == without[0].tobytes() and y_N.tolist() == without[1].tolist():
            return more
    pytest.fail("One record changed others.")


# Images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for place, name in enumerate(["c.png", "d.jpg", "e.bmp", "f.tif", "g.pgm"]):
        path = folder / "images" / "ab"[place % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (11, 9), dtype=np.uint8)).save(path)
    return folder


def read_images(folder: Path, like: NDArray[np.generic] = BYTES) -> Arrays:
    return records.read(RecordSettings(path="images", image_size=(8, 8), classes=("a", "b")), folder, 2, like)


def with_file(folder: Path, name: str, write: Callable[[Path], object], like: NDArray[np.generic] = BYTES) -> int:
    """Read with one file more; how many records more there are."""
    without, path = read_images(folder, like), folder / "images" / "a" / name
    try:
        write(path)
        return assert_same_but_one(without, read_images(folder, like))
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutated_image_changes_no_other(kind: str, images: Path) -> None:
    draw, kept = random.Random(kind), set()
    for _ in range(MUTATIONS):
        data = mutated(FORMATS[kind], draw)
        kept.add(with_file(images, f"m.{kind}", lambda path, data=data: path.write_bytes(data)))  # type: ignore[misc]
    assert 0 in kept
    assert with_file(images, f"m.{kind}", lambda path: path.write_bytes(FORMATS[kind])) == 1


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_left_out_alone(name: str, images: Path) -> None:
    assert with_file(images, name, lambda path: path.write_bytes(NO_IMAGES[name])) == 0


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("deep.png", of_16_bits("PNG")),
        ("deep.pgm", of_16_bits("PPM")),
        ("deep.tif", of_16_bits("TIFF")),
        ("alpha.png", saved("PNG", "LA")),
        ("palette.png", saved("PNG", "P", transparency=3)),
        ("bits.png", saved("PNG", "1")),
        ("moves.gif", animated()),
        ("exif.jpg", saved("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")),
        ("wrong-name.bmp", saved("PNG")),
        ("Upper.PNG", saved("PNG")),
    ],
)
@pytest.mark.parametrize("like", [BYTES, FLOATS])
def test_an_image_of_another_kind_is_one_record_and_changes_no_other(
    name: str, data: bytes, like: NDArray[np.generic], images: Path
) -> None:
    assert with_file(images, name, lambda path: path.write_bytes(data), like) == 1


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "JPEG2000"])
def test_only_the_listed_kinds_of_images_are_read(kind: str, images: Path) -> None:
    """Whatever name they have."""
    assert with_file(images, "m.png", lambda path: path.write_bytes(saved(kind))) == 0


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_of_16_bits_a_pixel_the_upper_eight_are_taken(kind: str) -> None:
    assert (image_files.grey(of_16_bits(kind), 8, 8) == 0x43).all()


@pytest.mark.parametrize(
    "write",
    [
        Path.mkdir,
        lambda path: path.symlink_to("nowhere.png"),
        lambda path: path.symlink_to("/dev/null"),
    ],
    ids=["folder", "dangling", "device"],
)
def test_what_is_no_file_is_left_out_alone(write: Callable[[Path], object], images: Path) -> None:
    assert with_file(images, "m.png", write) == 0


def test_what_is_no_regular_file_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "m.png").symlink_to("/dev/null")
    with pytest.raises(ValueError, match="no regular file"):
        image_files.contents(tmp_path / "m.png")


def test_a_pipe_is_left_out_alone_and_not_waited_for(images: Path) -> None:
    without, path = read_images(images), images / "images" / "a" / "m.png"
    try:
        with pipe(path):
            assert assert_same_but_one(without, read_images(images)) == 0
    finally:
        path.unlink()


def test_a_link_to_an_image_and_a_name_that_is_no_text_are_records_like_others(images: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(saved("PNG"))
    assert with_file(images, "m.png", lambda path: path.symlink_to(tmp_path / "elsewhere")) == 1
    name = os.fsdecode(b"\xff\n.png")
    assert with_file(images, name, lambda path: path.write_bytes(saved("PNG"))) == 1
    assert with_file(images, name, lambda path: path.write_bytes(b"no image")) == 0


def test_an_image_that_takes_too_much_memory_is_left_out_alone(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LARGEST_IMAGE", "LARGEST_IMAGE_FILE"):
        with monkeypatch.context() as patch:
            patch.setattr(image_files, limit, 98)
            assert read_images(images)[1].tolist() == []
            patch.setattr(image_files, limit, 1 << 16)
            assert len(read_images(images)[1]) == 5
    # Not cut to the limit either, with which it would be an image.
    data = saved("PNG")
    monkeypatch.setattr(image_files, "LARGEST_IMAGE_FILE", len(data) + 5000)
    for more, kept in [(5000, 1), (5001, 0)]:
        assert with_file(images, "m.png", lambda path, more=more: path.write_bytes(data + bytes(more))) == kept  # type: ignore[misc]


# CSV

ENCODING = encodings.TableEncoding(
    columns=(encodings.Number(name="age", mean=50, deviation=10), encodings.Category(name="sex", levels=("0", "1", "m")))
)
WORDS = encodings.TextEncoding(column="note", words=("film", "good"), idf=(1.0, 2.0))
# Every kind of column, of the same cells.
EVERY_KIND = encodings.TableEncoding(
    columns=(
        encodings.Number(
            name="age", mean=50, deviation=10, zero_is_missing=True, missing_codes=(7.0,), seen=(0, 1, 2, 3, 4, 5, 6)
        ),
        encodings.Levels(name="sex", levels=("0", "1"), other=True, missing=True),
        encodings.Hashed(name="note", buckets=8),
        encodings.Boolean(name="sex"),
        encodings.Date(name="age", order="day-first", mean=0, deviation=1, cycles=("year", "week", "day")),
        encodings.Words(name="note", words=("film", "good"), idf=(1.0, 2.0)),
    )
)
HEADER = b"age,sex,note,sick\n"
LINES = [
    b'61,1,"a good, good film",1',
    b'40,0,"he said ""good""",0',
    b",m,film,1.0",
    b'"12","0","",0',
    b"7,1.0,x,true",
]
ODD_LINES = [
    b'61,1,"open,1',
    b'61,1,a"b,1',
    b'61,1,"a"b,1',
    b'"',
    b'""',
    b'"""',
    b"61,1,x,1.0",
    b"61,1,x,1.5",
    b"61,1,x,nan",
    b"61,1,x,1e300",
    b"61,1,x," + b"9" * 5000,
    b"9" * 200_000 + b",1,x,1",
    b"61,1," + b"x" * 200_000 + b",1",
    b"1e999,1,x,1",
    b"-1e308,1,x,1",
    b"61,1,x",
    b"61,1,x,1,1",
    b"",
    b"   ",
    b",,,",
    b"61,1,\0,1",
    b"\xff\xfe\x00,1,x,1",
    b"\xef\xbb\xbf61,1,x,1",
    b"61,1,a\rb,1",
    b"61,1,x,1\r",
    b"61;1;x;1",
    b"31.12.2025,1,x,1",
    b"12/31/2025 10:00,yes,x,1",
    b'"61,5",TRUE,x,1',
    b'"1.234,5",  1 ,GOOD,1',
    b"sep=;",
    b"\xed\xa0\x80,1,\xed\xa0\x80,1",
    b"61,1,\xe2\x80\xa8,1",
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    encodings.save(ENCODING, folder / "table.json")
    encodings.save(WORDS, folder / "words.json")
    encodings.save(EVERY_KIND, folder / "every.json")
    return folder


# How the records become numbers, and how many these are.
WAYS: list[tuple[dict[str, Any], int]] = [
    ({"columns": ("age",)}, 1),
    ({"encoding": "table.json"}, 5),
    ({"encoding": "words.json"}, 2),
    ({"encoding": "every.json"}, EVERY_KIND.dimensions),
    ({"encoding": "every.json", "decimal": ",", "text_encoding": "windows-1252"}, EVERY_KIND.dimensions),
    ({"columns": ("age",), "classes": ("0", "1")}, 1),
]


def assert_no_line_changes_another(table: Path, line: bytes, place: int, ends: bytes = b"\n") -> None:
    for own, width in WAYS:
        found = []
        for lines in (LINES, [*LINES[:place], line, *LINES[place:]]):
            (table / "r.csv").write_bytes(HEADER.replace(b"\n", ends) + b"".join(each + ends for each in lines))
            like = np.zeros((0, width), np.float32)
            found.append(records.read(RecordSettings(path="r.csv", label="sick", **own), table, 2, like))
        assert len(found[0][1]) == len(LINES)
        assert_same_but_one(found[0], found[1])


@pytest.mark.parametrize("line", ODD_LINES, ids=range(len(ODD_LINES)))
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_no_line_of_a_csv_file_changes_another(line: bytes, ends: bytes, table: Path) -> None:
    for place in (0, 2, len(LINES)):
        assert_no_line_changes_another(table, line, place, ends)


@settings(max_examples=100, deadline=None)
@given(line=st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), place=st.integers(0, len(LINES)))
@example(line=b'1,"', place=0)
def test_no_bytes_between_two_line_ends_change_another_line(table: Path, line: bytes, place: int) -> None:
    assert_no_line_changes_another(table, line, place)


def test_a_mutated_line_of_a_csv_file_changes_no_other(table: Path) -> None:
    draw = random.Random("csv")
    for _ in range(MUTATIONS):
        line = mutated(draw.choice(LINES), draw).replace(b"\n", b"")
        assert_no_line_changes_another(table, line, draw.randint(0, len(LINES)))


def test_a_line_break_within_quotes_ends_a_record_and_its_parts_are_left_out(table: Path) -> None:
    without = b"\n".join(LINES)
    spread = b"\n".join([*LINES[:2], b'33,1,"first', b"second, of the note", b'third",1', *LINES[2:]])
    found = []
    for data in (without, spread):
        (table / "r.csv").write_bytes(HEADER + data)
        own = RecordSettings(path="r.csv", label="sick", columns=("age",))
        found.append(records.read(own, table, 2, np.zeros((0, 1), np.float32)))
    assert assert_same_but_one(found[0], found[1]) == 0
    # Also where the last part has all cells that a record has.
    (table / "r.csv").write_bytes(b'note,age,sick\n"first\nlast",61,1\n"",40,0\n')
    own = RecordSettings(path="r.csv", label="sick", columns=("age",))
    assert records.read(own, table, 2, np.zeros((0, 1), np.float32))[0].tolist() == [[40]]
    # Of a public table, whose records are nobody's secret, it is a cell.
    assert tables.from_csv(HEADER + spread, "t", public=True).texts("note")[2] == "first\nsecond, of the note\nthird"


def test_a_longest_line_is_a_bound_for_one_record(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_LINE", 40)
    assert_no_line_changes_another(table, b"61,1," + b"x" * 100 + b",1", 1)
    own = RecordSettings(path="r.csv", label="sick", columns=("age",))
    for spaces, kept in [(23, 1), (24, 0)]:
        (table / "r.csv").write_bytes(HEADER + b" " * spaces + b"61," + b" " * 10 + b",x,1\n")
        assert len(records.read(own, table, 2, np.zeros((0, 1), np.float32))[1]) == kept


def test_a_csv_file_may_hold_a_header_alone_and_end_without_a_line_end(table: Path) -> None:
    own = RecordSettings(path="r.csv", label="sick", columns=("age",))
    for lines, labels in [([], []), ([b"61,1,x,1"], [1]), ([b"", b"61,1,x,1", b"", b""], [1])]:
        (table / "r.csv").write_bytes(b"\xef\xbb\xbf" + HEADER + b"\n".join(lines))
        assert records.read(own, table, 2, np.zeros((0, 1), np.float32))[1].tolist() == labels


# Parquet


def as_parquet(folder: Path, rows: Sequence[tuple[Any, Any, Any, Any, Any]], labels: pyarrow.DataType) -> Arrays:
    """age: float; sex: texts, also such that are no UTF-8; seen: times; extra: bytes; sick: labels."""
    age, sex, seen, extra, sick = ([row[place] for row in rows] for place in range(5))
    texts = pyarrow.array([None if cell is None else cell.encode() if isinstance(cell, str) else cell for cell in sex])
    own = {
        "age": pyarrow.array(age, pyarrow.float64()),
        "sex": texts.cast(pyarrow.binary()).view(pyarrow.string()),
        "seen": pyarrow.array(seen, pyarrow.timestamp("us")),
        "extra": pyarrow.array(extra, pyarrow.binary()),
        "sick": pyarrow.array(sick, labels),
    }
    parquet.write_table(pyarrow.table(own), folder / "r.parquet")
    settings = RecordSettings(path="r.parquet", label="sick", encoding="table.json")
    return records.read(settings, folder, 2, np.zeros((0, 5), np.float32))


ROWS: list[tuple[Any, Any, Any, Any, Any]] = [
    (61.0, "1", 0, b"1", 1),
    (40.0, "0", 10, b"", 0),
    (None, "m", None, None, 1),
    (12.5, None, 5, b"x", 0),
]
CELLS: list[Sequence[Any]] = [
    (None, 1.0, np.nan, np.inf, -1e308, 1e308),
    (None, "1", "1.0", "", "m ", b"\xff\xfe", "\0", '"', "x" * 100_000),
    (None, 0, 1 << 62, -(1 << 62)),
    (None, b"", b"\xff", bytes(1000)),
]


@pytest.mark.parametrize("labels", [pyarrow.int64(), pyarrow.float64(), pyarrow.string()])
def test_no_row_of_a_parquet_table_changes_another(labels: pyarrow.DataType, table: Path) -> None:
    """A column of labels becomes one of floats when one is missing; the labels stay what they are."""
    kind: type = {"int64": int, "double": float, "string": str}[str(labels)]
    rows = [(*row[:4], kind(row[4])) for row in ROWS]
    odd: dict[type, list[Any]] = {
        int: [1 << 62],
        float: [0.5, np.nan, np.inf, 1e300],
        str: ["1.0", "1.", "x", "", "1" * 9000],
    }
    of_labels: list[Any] = [None, *map(kind, (0, 1, 7, -1)), *odd[kind]]
    without, draw = as_parquet(table, rows, labels), random.Random("parquet")
    assert without[1].tolist() == [1, 0, 1, 0]
    for _ in range(MUTATIONS):
        row: Any = (*(draw.choice(cells) for cells in CELLS), draw.choice(of_labels))
        place = draw.randint(0, len(rows))
        assert_same_but_one(without, as_parquet(table, [*rows[:place], row, *rows[place:]], labels))


def test_a_parquet_table_of_a_data_frame_with_a_missing_label_keeps_all_other_labels(table: Path) -> None:
    rows = [(*row[:4], float(row[4])) for row in ROWS]
    missing: Any = (1.0, "1", 0, b"", None)
    assert as_parquet(table, [*rows, missing], pyarrow.float64())[1].tolist() == [1, 0, 1, 0]


# NPZ files and readers

IMAGE = np.random.default_rng(3).integers(0, 255, (4, 8, 8), dtype=np.uint8)
INPUTS: list[Any] = [
    np.full((8, 8), 7, np.uint8),
    np.full((8, 8), 7.0),
    np.full((8, 8), 0.5),
    np.full((8, 8), np.nan, np.float32),
    np.full((8, 8), np.inf),
    np.full((8, 8), -1, np.int16),
    np.full((8, 8), 300, np.int64),
    np.full((8, 8), 1 << 60, np.uint64),
    np.full((8, 8), 1e300),
    np.full((8, 8), 1e300, np.longdouble) ** 2,
    np.full((8, 8), 1 + 2j),
    np.full((8, 8), 7 + 0j),
    np.full((8, 8), True),
    np.full((8, 8), "7"),
    np.full((8, 8), "many"),
]
LABELS: list[Any] = [0, 1, 1.0, 1.5, -1, 2, np.nan, np.inf, 1e300, 1 << 62, True, 1j, "1", "1.0", "x", np.uint64(1 << 63)]


def as_npz(folder: Path, x_N: NDArray[Any], y_N: NDArray[Any], like: NDArray[np.generic]) -> Arrays:
    np.savez(folder / "r.npz", x=x_N, y=y_N)
    return records.read(RecordSettings(path="r.npz"), folder, 2, like)


@pytest.mark.parametrize("like", [BYTES, FLOATS])
@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_one_record_of_another_type_in_an_array_changes_no_other(
    label: Any, like: NDArray[np.generic], tmp_path: Path
) -> None:
    """NumPy gives all records the type of the largest; bytes among floats are still bytes."""
    labels = [0, 1, 1, 0]
    without = as_npz(tmp_path, IMAGE, np.array(labels), like)
    np.testing.assert_array_equal(without[0], IMAGE)
    assert without[0].dtype == like.dtype
    for image in INPUTS:
        x_N = np.array([*IMAGE[:2], image, *IMAGE[2:]])
        y_N = np.array([*labels[:2], label, *labels[2:]])
        assert_same_but_one(without, as_npz(tmp_path, x_N, y_N, like))


@pytest.mark.parametrize(
    ("scale", "like", "factor"),
    [
        ("unit", BYTES, 255),
        ("bytes", BYTES, 1),
        ("bytes", FLOATS, np.float32(1 / 255)),
        ("unit", FLOATS, 1),
        (None, FLOATS, 1),
    ],
)
def test_what_numbers_mean_is_the_transfer_sets_or_as_the_settings_say(
    scale: Any, like: NDArray[np.generic], factor: float, tmp_path: Path
) -> None:
    """Never what the array's type suggests."""
    whole = np.array([[[0, 1], [1, 0]]]) * (1 if scale == "unit" else 255)
    for dtype in (np.uint8, np.int64, np.float32, np.float64):
        np.savez(tmp_path / "r.npz", x=whole.astype(dtype), y=[1])
        own = RecordSettings(path="r.npz", scale=scale)
        x_N, _ = records.read(own, tmp_path, 2, like[:, :2, :2])
        np.testing.assert_allclose(x_N.astype(np.float64), whole * factor, rtol=1e-6)
        assert x_N.dtype == like.dtype


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(range(len(INPUTS))), min_size=1, max_size=5),
    st.lists(st.sampled_from(LABELS), min_size=5, max_size=5),
    st.integers(0, 4),
    st.sampled_from([BYTES, FLOATS]),
)
def test_one_record_more_or_less_of_any_types_changes_no_other(
    inputs: list[int], labels: list[Any], place: int, like: NDArray[np.generic]
) -> None:
    place = min(place, len(inputs) - 1)
    with tempfile.TemporaryDirectory() as name:

        def kept(rows: list[int]) -> Arrays:
            x_N = np.array([INPUTS[inputs[row]] for row in rows]).reshape(-1, 8, 8)
            return as_npz(Path(name), x_N, np.array([labels[row] for row in rows]), like)

        everything = list(range(len(inputs)))
        assert_same_but_one(kept([row for row in everything if row != place]), kept(everything))


def test_images_that_are_dark_are_no_images_of_another_scale(tmp_path: Path) -> None:
    dark = np.stack([np.zeros((8, 8)), np.eye(8)])
    np.testing.assert_array_equal(as_npz(tmp_path, dark, np.array([0, 1]), BYTES)[0], dark)


def test_one_pixel_that_cannot_be_meant_leaves_out_its_image(tmp_path: Path) -> None:
    own = IMAGE.astype(np.float64)
    own[1, 3, 3] = 0.5
    x_N, y_N = as_npz(tmp_path, own, np.array([0, 1, 1, 0]), BYTES)
    np.testing.assert_array_equal(x_N, IMAGE[[0, 2, 3]])
    assert y_N.tolist() == [0, 1, 0]


UNIT = np.random.default_rng(3).random((5, 8, 8)).astype(np.float32)
DARK = np.zeros((1, 8, 8), np.uint8)
LIST = "import numpy as np\ndef read(folder): return list(np.load(folder / 'x.npy')), [0, 1, 1, 0, 1, 0]\n"


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float64", "object"])
@pytest.mark.parametrize("more", [None, 0.5, 255.0, 1e6, np.nan])
def test_an_image_from_0_to_255_is_the_same_whatever_array_it_comes_in(
    kind: str, more: float | None, tmp_path: Path
) -> None:
    """Public images from 0 to 1: each of the records' images decides for itself, whatever comes with it."""
    own = np.concatenate([IMAGE, DARK, DARK]).astype(np.uint8 if more is None else np.float64)
    if more is not None:
        own[-1] = more
    if kind == "object":
        (tmp_path / "mine.py").write_text(LIST)
        np.save(tmp_path / "x.npy", own)
        x_N, _ = records.read(RecordSettings(reader="mine:read"), tmp_path, 2, UNIT)
    else:
        held = own if more is not None and not kind.startswith("f") else own.astype(kind)
        x_N, _ = as_npz(tmp_path, held, np.array([0, 1, 1, 0, 1, 0]), UNIT)
    np.testing.assert_array_equal(x_N[:5], np.concatenate([IMAGE, DARK]).astype(np.float32) / np.float32(255))
    assert len(x_N) == 5 + (more in {None, 0.5, 255.0})
    if more == 0.5:
        assert x_N[5].min() == 0.5


def test_rows_have_no_scale_but_their_own(tmp_path: Path) -> None:
    """That public rows lie between 0 and 1 says nothing about those of others."""
    np.savez(tmp_path / "r.npz", x=np.array([[0, 300], [1, 0]], np.int64), y=[0, 1])
    x_N, _ = records.read(RecordSettings(path="r.npz"), tmp_path, 2, UNIT[:, 0, :2], kind=InputKind.UNIT)
    assert x_N.tolist() == [[0, 300], [1, 0]]


def test_a_folder_within_that_cannot_be_listed_is_left_out_alone(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold one record."""
    real = os.scandir

    def scan(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert with_file(images, "closed", Path.mkdir) == 0


def test_images_are_found_in_folders_within_folders_and_not_behind_links(images: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.png").write_bytes(saved("PNG"))
    assert with_file(images, "link", lambda path: path.symlink_to(tmp_path / "elsewhere")) == 0
    without, inner = read_images(images), images / "images" / "b" / "2024" / "may"
    inner.mkdir(parents=True)
    try:
        (inner / "x.PNG").write_bytes(saved("PNG"))
        (inner / ".hidden.png").write_bytes(saved("PNG"))
        assert assert_same_but_one(without, read_images(images)) == 1
    finally:
        shutil.rmtree(inner.parent)


def test_labels_are_read_to_the_last_digit(tmp_path: Path) -> None:
    """Half a millionth more than a class is none."""
    x_N, y_N = as_npz(tmp_path, IMAGE, np.array([1.0, 1 + 1e-9, 1 - 1e-9, 0.0]), BYTES)
    assert (len(x_N), y_N.tolist()) == (2, [1, 0])


def test_names_that_are_alike_are_told_apart() -> None:
    names = tables.Names([("1", 0), ("1.0", 1), (" 2", 2), ("x.0", 3)])
    assert [names[cell] for cell in ("1", "1.0", "1.00", "2", "2.", "x.0", "x")] == [0, 1, None, 2, 2, 3, None]


READER = """
import numpy as np
images = [np.full((8, 8), shade, np.uint8) for shade in (1, 2, 3)]
def good(folder): return images, [0, 1, 0]
def odd(folder): return [images[0], ODD, images[1], images[2]], [0, LABEL, 1, 0]
def array(folder):
    x = np.empty(4, object)
    x[:] = [None] * 4
    for place, value in enumerate(odd(folder)[0]): x[place] = value
    y = np.empty(4, object)
    for place, value in enumerate(odd(folder)[1]): y[place] = value
    return x, y
def lazily(folder): return ((part for part in each) for each in odd(folder))
"""


@pytest.mark.parametrize(
    "odd",
    [
        "np.zeros((7, 8), np.uint8)",
        "[[1, 2], [3]]",
        "None",
        "'image'",
        "np.full((8, 8), 0.5)",
        "np.full((8, 8), None)",
        "object()",
        "{}",
        "np.zeros((8, 8), 'M8[s]')",
        "np.zeros((8, 8), [('a', 'u1')])",
    ],
)
@pytest.mark.parametrize("how", ["odd", "array", "lazily"])
def test_a_record_of_a_reader_that_cannot_be_meant_is_left_out_alone(odd: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(READER.replace("ODD", odd).replace("LABEL", "1"))
    found = [records.read(RecordSettings(reader=f"mine:{name}"), tmp_path, 2, BYTES) for name in ("good", how)]
    assert found[0][0][:, 0, 0].tolist() == [1, 2, 3]
    assert assert_same_but_one(found[0], found[1]) == 0


@pytest.mark.parametrize(
    "label", ["None", "np.nan", "1.5", "'x'", "[1]", "object()", "10 ** 400", "np.array([1, 1])", "b'x'"]
)
@pytest.mark.parametrize("how", ["odd", "array", "lazily"])
def test_a_label_of_a_reader_that_cannot_be_meant_leaves_out_its_record_alone(label: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(READER.replace("ODD", "images[2]").replace("LABEL", label))
    found = [records.read(RecordSettings(reader=f"mine:{name}"), tmp_path, 2, BYTES) for name in ("good", how)]
    assert assert_same_but_one(found[0], found[1]) == 0


def test_no_record_is_declined_by_what_the_file_shows_and_read_as_none(images: Path, table: Path, tmp_path: Path) -> None:
    """The one thing about records that shows before a charge: that there is none. A reader is not called before."""
    shutil.copytree(images / "images", tmp_path / "images")
    for file in tmp_path.glob("images/*/*"):
        file.unlink()
    (tmp_path / "mine.py").write_text("def read(folder): return [], []")
    np.savez(tmp_path / "r.npz", x=[], y=[])
    (tmp_path / "r.csv").write_bytes(HEADER)
    sources: list[tuple[RecordSettings, NDArray[np.generic]]] = [
        (RecordSettings(path="images", image_size=(8, 8), classes=("a", "b")), BYTES),
        (RecordSettings(path="r.npz"), BYTES),
        (RecordSettings(reader="mine:read"), FLOATS),
        (RecordSettings(path="r.csv", label="sick", columns=("age",)), np.zeros((0, 1), np.float32)),
    ]
    for settings_, like in sources:
        with nullcontext() if settings_.reader else pytest.raises(DataError, match=r"Expected (records|images) .*, found"):
            records.check(settings_, tmp_path, 2, like)
        x_N, y_N = records.read(settings_, tmp_path, 2, like)
        assert (x_N.shape, x_N.dtype, y_N.shape) == (like.shape, like.dtype, (0,))


def test_what_a_spreadsheet_writes_is_read(tmp_path: Path) -> None:
    """With a byte order mark, CR LF and quotes where they are needed."""
    with (tmp_path / "r.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["age", "sick"], ["1,5", "1"], ["61", "0.0"]])
    own = RecordSettings(path="r.csv", label="sick", columns=("age",))
    x_N, y_N = records.read(own, tmp_path, 2, np.zeros((0, 1), np.float32))
    assert y_N.tolist() == [1, 0]
    np.testing.assert_array_equal(x_N, [[np.nan], [61]])
