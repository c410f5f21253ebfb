"""A site's records are read from what owners have, and what cannot be read is named by file, column and row."""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from helpers import sites
from limbeck.base.errors import DataError, SettingError
from limbeck.client import holdings, records
from limbeck.client.records import RecordSettings
from limbeck.client.site import Site
from limbeck.inputs import encodings, tables
from limbeck.inputs.tables import Table
from limbeck.inputs.transfer_set import digest

PATIENTS = "age,sex,sick\n61,m,yes\n40,f,no\n,f,no\n"
SETTINGS = RecordSettings(path="patients.csv", label="sick", classes=("no", "yes"), columns=("age",))


# Public inputs of one number, as their shape and type.
ROWS = np.zeros((0, 1), np.float32)


def read(
    own: RecordSettings, folder: Path, classes: int, public_x: NDArray[np.generic] = ROWS
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    return records.read(own, folder, classes, public_x)


def write(folder: Path, text: str = PATIENTS) -> Path:
    (folder / "patients.csv").write_text(text)
    return folder


# Tables


def test_a_csv_table_is_read_by_its_columns(tmp_path: Path) -> None:
    x_N, y_N = read(SETTINGS, write(tmp_path), 2)
    np.testing.assert_array_equal(x_N, np.array([[61], [40], [np.nan]], np.float32))
    assert y_N.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,sex\n61,m\n", r"Expected a column 'sick' in .*patients.csv, found age, sex"),
        ("age,age\n", r"distinct column names"),
        ("", r"distinct column names"),
        ('"age,sick\n61,yes\n', r"distinct column names"),
        ("age:sick\n61:yes\n", r"column .age. in .*patients.csv, found age:sick; if .* records.delimiter"),
    ],
)
def test_what_a_table_lacks_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(SETTINGS, write(tmp_path, text), 2)


@pytest.mark.parametrize(
    ("text", "message", "x", "y"),
    [
        ("age,sick\nold,yes\n", r"Expected a number in column 'age', row 1 of .*patients.csv, got 'old'", [[np.nan]], [1]),
        (
            "age,sick\n61,yes\n40,maybe\n",
            r"one of no, yes in column 'sick' in .*patients.csv, got 'maybe' in row 2: 1 of 2 records are left out",
            [[61]],
            [1],
        ),
        ("age,sick\n61,\n40,no\n", r"column 'sick' in .*patients.csv, got None in row 1: 1 of 2", [[40]], [0]),
        ('age,sick\n"61,yes\n40,no\n', r"row 1 of .*patients.csv, got a line that is not CSV by itself", [[40]], [0]),
        ("age,sick\n61\n40,no\n", r"Expected 2 cells in row 1 of .*patients.csv, got 1", [[40]], [0]),
        ("age,sick\n61,no\n40,\xff\xff\n", r"patients.csv, got '..' in row 2", [[61]], [0]),
    ],
)
def test_a_record_that_cannot_be_meant_is_left_out_or_missing_and_the_log_names_it(
    text: str, message: str, x: list[object], y: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "patients.csv").write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.WARNING, "limbeck"):
        x_N, y_N = read(SETTINGS, tmp_path, 2)
    np.testing.assert_array_equal(x_N, np.array(x, np.float32))
    assert y_N.tolist() == y
    assert re.search(message, caplog.text)


def test_records_whose_labels_are_no_whole_numbers_below_the_classes_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = SETTINGS.model_copy(update={"classes": None})
    write(tmp_path, "age,sick\n61,1\n40,2\n30,-3\n20,0.5\n10,99999999999999999999999\n5,0\n")
    with caplog.at_level(logging.WARNING, "limbeck"):
        x_N, y_N = read(own, tmp_path, 2)
    assert (x_N.ravel().tolist(), y_N.tolist()) == ([61, 5], [1, 0])
    assert re.search(
        r"whole numbers from 0 to 1 in column 'sick' in .*, got '2' in row 2, '-3' in row 3, .*: 4 of 6 records are left out",
        caplog.text,
    )
    assert read(own, tmp_path, 3)[1].tolist() == [1, 2, 0]


def test_several_values_can_be_one_class(tmp_path: Path) -> None:
    own = SETTINGS.model_copy(update={"classes": (("0",), ("1", "2", "3"))})
    write(tmp_path, "age,sick\n1,0\n1,3\n1,1\n")
    assert read(own, tmp_path, 2)[1].tolist() == [0, 1, 1]
    with pytest.raises(SettingError, match=r"Expected records\.classes for the plan's 3 classes, got 2"):
        read(own, tmp_path, 3)


def test_a_parquet_table_needs_a_package_and_says_which(tmp_path: Path) -> None:
    (tmp_path / "patients.parquet").write_bytes(b"PAR1")
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        message = r"pip install limbeck\[parquet\]"
    else:
        message = "Expected a Parquet file"
    with pytest.raises(DataError, match=message):
        read(SETTINGS.model_copy(update={"path": "patients.parquet"}), tmp_path, 2)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(
                lambda cell: cell.strip() not in tables.MISSING
            ),
            st.none() | st.integers().map(str),
        ),
        min_size=1,
    )
)
def test_a_table_survives_being_written_and_read(rows: list[tuple[str, str | None]]) -> None:
    table = Table(columns={"text": [row[0] for row in rows], "n": [row[1] for row in rows]}, source="t")
    found = tables.from_csv(table.to_csv(), "t")
    texts = [text.replace("\n", " ") for text in table.texts("text") if text is not None]
    assert {name: list(cells) for name, cells in found.columns.items()} == {**table.columns, "text": texts}


@pytest.mark.parametrize(
    ("name", "text", "own"),
    [
        ("r.tsv", "age\tsick\n61\tyes\n40\tno\n", {}),
        ("R.CSV", "age,sick\n61,yes\n40,no\n", {}),
        ("r.csv.gz", "age,sick\n61,yes\n40,no\n", {}),
        ("r.txt", "age;sick\n61;yes\n40;no\n", {}),
        ("r.csv", "age;sick\n6.1e1;yes\n40,0;no\n", {}),
        ("r.csv", 'age,sick\n"61,0",yes\n"40,0",no\n', {"decimal": ","}),
        ("r.csv", "age:sick\n61:yes\n40:no\n", {"delimiter": ":"}),
        ("r.csv", "age,sick,caf\u00e9\n61,yes,\u00e9\n40,no,x\n", {"text_encoding": "latin-1"}),
    ],
)
def test_a_table_is_read_by_its_header_and_by_what_its_owner_says(
    name: str, text: str, own: dict[str, str], tmp_path: Path
) -> None:
    data = text.encode(own.get("text_encoding", "utf-8"))
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    settings = SETTINGS.model_copy(update={"path": name, **own})
    records.check(settings, tmp_path, 2, ROWS)
    x_N, y_N = read(settings, tmp_path, 2)
    assert (x_N.ravel().tolist(), y_N.tolist()) == ([61, 40], [1, 0])


def test_many_cells_that_are_no_numbers_take_one_line_of_the_log_per_column(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "age,size,sick\n" + '"61,5","1,7",yes\n' * 500)
    with caplog.at_level(logging.INFO, "limbeck"):
        read(SETTINGS.model_copy(update={"columns": ("age", "size")}), tmp_path, 2, np.zeros((0, 2), np.float32))
    assert [record.levelname for record in caplog.records].count("WARNING") == 3
    assert "got none of 1 of the 2: no" in caplog.text


def test_no_usable_record_is_an_error_in_the_log_and_a_class_without_one_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that tells the owner, once a plan was charged: nothing of it shows outside."""
    for text, level, message in [
        (
            "age,sick\n61,maybe\n40,perhaps\n",
            "ERROR",
            r"NO USABLE RECORD in .*patients.csv, of 2: the teacher learns nothing",
        ),
        ("age,sick\n61,no\n40,maybe\n", "WARNING", r"records of every class in .*, got none of 1 of the 2: yes\."),
    ]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "limbeck"):
            read(SETTINGS, write(tmp_path, text), 2)
        assert caplog.records[-1].levelname == level
        assert re.search(message, caplog.text)


def test_what_is_left_out_is_counted_by_its_reason_and_the_first_few_are_named(tmp_path: Path) -> None:
    x = np.zeros((9, 1, 1))
    x[:2] = 0.5
    np.savez(tmp_path / "r.npz", x=x, y=[0, 1, 7, 7, 7, 7, 7, 7, 1])
    found = records.find(RecordSettings(path="r.npz"), tmp_path, 2, np.zeros((0, 1, 1), np.uint8))
    assert (found.all, found.counts, found.absent, found.unknown) == (9, (0, 1), ("0",), (("7", 6),))
    assert [(each.count, each.first[0], len(each.first)) for each in found.left_out] == [
        (2, "another in row 1", 2),
        (6, "7 in row 3", 5),
    ]
    assert str(found.left_out[1]).startswith("Expected whole numbers from 0 to 1 as label, got 7 in row 3, 7 in row 4")


# Settings


@pytest.mark.parametrize(
    ("text", "table", "keys"),
    [
        ('[records]\npath = "r.csv"\ntransfer_sets = "t"\ncache = "c"\n', "records", "transfer_sets, cache"),
        ('transfer_sets = "t"\n[noise]\nledger = "l"\n', "noise", "ledger"),
        ('transfer_sets = "t"\n[link]\naddress = "a:1"\nrecords = "r.npz"\n', "link", "records"),
    ],
)
def test_a_table_in_the_middle_of_the_settings_that_swallows_the_keys_below_it_is_named_with_them(
    text: str, table: str, keys: str, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text(f'name = "a"\n{text}')
    with pytest.raises(
        SettingError, match=rf"\[{table}\]: expected none of the site's own keys .*, got {keys}\..*end of the file"
    ):
        Site(tmp_path)


# Other sources


def test_a_folder_of_images_per_class_is_read_in_grey_and_in_one_size(tmp_path: Path) -> None:
    for name, shade in [("cat", 0), ("dog", 255)]:
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (31, 17), (shade, shade, shade)).save(tmp_path / "pets" / name / "a.png")
        (tmp_path / "pets" / name / "notes.txt").write_text("not an image")
    own, like = RecordSettings(path="pets", image_size=(8, 12), classes=("cat", "dog")), np.zeros((0, 8, 12), np.uint8)
    x_N, y_N = read(own, tmp_path, 2, like)
    assert (x_N.shape, str(x_N.dtype), y_N.tolist()) == ((2, 8, 12), "uint8", [0, 1])
    assert x_N[0].max() == 0
    assert x_N[1].min() == 255
    swapped = own.model_copy(update={"classes": ("dog", "cat")})
    assert read(swapped, tmp_path, 2, like)[1].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"one folder per class in .*, found dog"):
        read(own.model_copy(update={"classes": ("cat", "cow")}), tmp_path, 2, like)
    with pytest.raises(DataError, match=r'found cat, dog; .* Write the .* such as: classes = \["cat", "dog"\]'):
        read(own.model_copy(update={"classes": None}), tmp_path, 2, like)
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"no image")
    (tmp_path / "pets" / ".hidden").mkdir()
    assert read(own, tmp_path, 2, like)[1].tolist() == [0, 1]
    floats = read(own, tmp_path, 2, like.astype(np.float32))[0]
    np.testing.assert_array_equal(floats, x_N.astype(np.float32) / np.float32(255))


def test_a_reader_of_the_sites_own_is_called_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def read(folder):\n    return np.full((2, 3), len(folder.name), 'f4'), np.array([0, 1])\n"
        "def fail(folder):\n    return {}['x']\n"
        "def times(folder):\n    return np.zeros((2, 3), 'M8[s]'), np.array([0, 1])\n"
        "def unequal(folder):\n    return np.zeros((2, 3)), np.array([0, 1, 1])\n"
    )
    like = np.zeros((0, 3), np.float32)
    x_N, y_N = read(RecordSettings(reader="mine:read"), tmp_path, 2, like)
    assert (x_N[0, 0], y_N.tolist()) == (len(tmp_path.name), [0, 1])
    with pytest.raises(DataError, match="from mine:fail: KeyError"):
        read(RecordSettings(reader="mine:fail"), tmp_path, 2, like)
    with pytest.raises(DataError, match="inputs of numbers from mine:times"):
        read(RecordSettings(reader="mine:times"), tmp_path, 2, like)
    with pytest.raises(DataError, match="as many labels as inputs from mine:unequal, got 3 for 2"):
        read(RecordSettings(reader="mine:unequal"), tmp_path, 2, like)


def test_an_npz_file_with_unequal_labels_or_arrays_of_no_numbers_is_refused(tmp_path: Path) -> None:
    own = RecordSettings(path="r.npz")
    for x, y, message in [
        (np.zeros((2, 1)), np.zeros(3, int), "as many labels as inputs"),
        (np.zeros((2, 1)), np.zeros((2, 2), int), "as many labels as inputs"),
        (np.zeros((2, 1)), np.array(["2026-01-01", "NaT"], "M8[D]"), "Expected numbers as array y"),
        (np.array([[1], [None]], object), np.zeros(2, int), "Expected numbers as array x in .*objects are pickles"),
        (np.zeros((2, 4)), np.zeros(2, int), r"inputs of shape \(1,\) like the transfer set's, got \(4,\)"),
    ]:
        np.savez(tmp_path / "r.npz", x=x, y=y)
        with pytest.raises(DataError, match=message):
            read(own, tmp_path, 2)


@given(st.lists(st.floats() | st.integers(-3, 5).map(float), max_size=5))
def test_one_record_more_changes_one_record_of_those_that_are_kept(labels: list[float]) -> None:
    """Whatever the others are: that is what keeps the sensitivity of everything after it at one record."""
    with tempfile.TemporaryDirectory() as folder:
        own, path = RecordSettings(path="r.npz"), Path(folder)

        def kept(rows: list[int]) -> set[int]:
            np.savez(path / "r.npz", x=np.array(rows).reshape(-1, 1), y=np.array([labels[row] for row in rows]))
            return set(read(own, path, 3)[0].ravel().tolist())

        everything = list(range(len(labels)))
        with_all = kept(everything)
        assert with_all == {row for row in everything if labels[row] in {0.0, 1.0, 2.0}}
        for row in everything:
            assert with_all - kept(everything[:row] + everything[row + 1 :]) <= {row}
            assert kept(everything[:row] + everything[row + 1 :]) <= with_all


@pytest.mark.parametrize("own", [RecordSettings(), RecordSettings(path="a.npz", reader="b:c")])
def test_there_is_one_source(own: RecordSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"records.path or records.reader, one of them"):
        read(own, tmp_path, 2)


def test_a_site_reads_its_records_as_its_settings_say(tmp_path: Path) -> None:
    settings = 'name = "a"\ntransfer_sets = "t"\n[records]\npath = "patients.csv"\nlabel = "sick"\nclasses = ["no", "yes"]\n'
    write(tmp_path)
    (tmp_path / "site.toml").write_text(settings + 'columns = ["age"]\n')
    assert Site(tmp_path).records.read(2, ROWS)[1].tolist() == [1, 0, 0]
    (tmp_path / "site.toml").write_text(settings)
    with pytest.raises(DataError, match=r"Expected records\.encoding or records\.columns"):
        Site(tmp_path).records.read(2, ROWS)
    (tmp_path / "site.toml").write_text(settings + "colums = []\n")
    with pytest.raises(SettingError, match="colums"):
        Site(tmp_path)
    with pytest.raises(ValidationError):
        RecordSettings.model_validate({"image_size": [28]})


# Encodings

PUBLIC = Table(
    columns={
        "age": ["50", "70", "0", None],
        "sex": ["m", "f", "f", None],
        "text": ["A good film", "a bad, bad film", "", None],
    },
    source="public",
)


def encode(table: Table) -> np.ndarray:
    return encodings.fit_table(PUBLIC, numbers=["age"], categories=["sex"], zero_is_missing=["age"])(table)


def test_a_table_is_standardised_and_filled_by_public_statistics_only() -> None:
    own = Table(columns={"age": ["80", None, "0", "1e9", "inf"], "sex": ["f", "x", None, "m", "m"]}, source="own")
    expected = [[2, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0], [5, 0, 0, 1], [5, 0, 0, 1]]
    np.testing.assert_allclose(encode(own), expected)


def test_no_record_touches_another_in_an_encoding() -> None:
    own = Table(columns={"age": ["80", "20"], "sex": ["f", "m"], "text": ["bad film", "good good"]}, source="own")
    text = encodings.fit_text(PUBLIC, "text", words=3)
    for encoding in (encode, text):
        np.testing.assert_array_equal(np.concatenate([encoding(own.rows([0])), encoding(own.rows([1]))]), encoding(own))


def test_texts_become_counts_times_public_inverse_document_frequency() -> None:
    encoding = encodings.fit_text(PUBLIC, "text", words=3)
    assert encoding.words == ("film", "bad", "good")
    idf = np.log(5 / np.array([3, 2, 2])) + 1
    found = encoding(Table(columns={"text": ["BAD bad film unknown", None]}, source="own"))
    expected = np.array([idf[0], idf[1] * (1 + np.log(2)), 0])
    np.testing.assert_allclose(found, [expected / np.linalg.norm(expected), np.zeros(3)], rtol=1e-6)
    with pytest.raises(SettingError, match="at least 4 words"):
        encodings.fit_text(PUBLIC, "text", words=4)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: encodings.fit_table(PUBLIC, numbers=["age"], categories=["sex"], zero_is_missing=["age"]),
        lambda: encodings.fit_text(PUBLIC, "text", words=3),
    ],
)
def test_an_encoding_survives_being_written_and_read(
    fit: Callable[[], encodings.TableEncoding | encodings.TextEncoding], tmp_path: Path
) -> None:
    encoding = fit()
    encodings.save(encoding, tmp_path / "e.json")
    assert encodings.load(tmp_path / "e.json") == encoding
    assert encoding(PUBLIC.rows([])).shape == (0, encoding(PUBLIC).shape[1])


NUMBER = {"kind": "number", "name": "a", "mean": 0, "deviation": 1, "zero_is_missing": False}
PROBE = [[1.0]] * len(encodings.PROBES)
ENCODER = {"kind": "encoder", "column": "t", "model": "m", "files": {}, "tokens": 8, "probe": PROBE}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"kind": "table"}',
        '{"kind": "other", "columns": []}',
        '{"kind": "table", "columns": []}',
        '{"kind": "table", "columns": [{"kind": "number"}]}',
        json.dumps({"kind": "table", "columns": [{**NUMBER, "deviation": 0}]}),
        json.dumps({"kind": "table", "columns": [{**NUMBER, "deviation": -1}]}),
        json.dumps({"kind": "table", "columns": [{**NUMBER, "mean": math.nan}]}),
        json.dumps({"kind": "table", "columns": [{**NUMBER, "kind": "picture"}]}),
        '{"kind": "table", "columns": [{"kind": "category", "name": "a", "levels": []}]}',
        '{"kind": "table", "columns": [{"kind": "category", "name": "a", "levels": ["b", "b"]}]}',
        '{"kind": "table", "columns": [{"kind": "category", "name": "a", "levels": [1]}]}',
        '{"kind": "text", "column": "a", "words": ["b", "c"], "idf": [1.0]}',
        '{"kind": "text", "column": "a", "words": ["b"], "idf": [Infinity]}',
        '{"kind": "text", "column": "a", "words": "b", "idf": [1.0]}',
        json.dumps({**ENCODER, "files": {"../../dev/zero": "00"}}),
        json.dumps({**ENCODER, "tokens": 0}),
        json.dumps({**ENCODER, "probe": [[1.0]]}),
    ],
)
def test_a_file_that_is_no_encoding_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(DataError, match="Expected a public encoding in"):
        encodings.load(tmp_path / "e.json")
    with pytest.raises(DataError, match="found none"):
        encodings.load(tmp_path / "none.json")


def test_public_columns_without_values_are_refused() -> None:
    empty = Table(columns={"age": [None, "0"], "sex": [None, None]}, source="public")
    for numbers, categories in [(["age"], []), ([], ["sex"])]:
        with pytest.raises(DataError, match="Expected public values"):
            encodings.fit_table(empty, numbers=numbers, categories=categories, zero_is_missing=["age"])


# Transfer sets


def test_a_transfer_set_is_as_large_as_the_plan_says_or_nothing_of_it_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.make(tmp_path)
    own = digest(sites.PUBLIC)
    with monkeypatch.context() as patch:
        patch.setattr(holdings, "read_arrays", lambda *_, **__: pytest.fail("inflated"))
        with pytest.raises(DataError, match=r"Expected 21 public inputs in .*, found shape \(20, 8, 8\)"):
            site.transfer_sets.read(own, 21)
        patch.setattr(holdings, "LARGEST_INPUT", 63)
        with pytest.raises(DataError, match=r"at most 1260 bytes of array x"):
            site.transfer_sets.read(own, 20)
    np.testing.assert_array_equal(site.transfer_sets.read(own, 20), sites.PUBLIC)
    (tmp_path / "transfer" / f"{bytes(32).hex()}.npz").write_bytes((tmp_path / "transfer" / f"{own.hex()}.npz").read_bytes())
    with pytest.raises(DataError, match=r"Expected SHA-256 0000"):
        site.transfer_sets.read(bytes(32), 20)
