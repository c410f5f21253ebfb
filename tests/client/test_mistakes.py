"""A slip of an owner's costs nothing: what shows without a record is found before anything is charged, and named in the site's log."""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import tomli_w
from PIL import Image

from helpers import sites
from helpers.odd_images import saved
from limbeck.client import ledger as ledgers
from limbeck.client import records
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.inputs import encodings, tables
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import LinearTeaching, Plan, TopK
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Declined, Reason, Reply, Request, Taught, Teach

Change = Callable[[Path], object]
IMAGES = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
CELLS = tables.Table(columns={"a": [*map(str, range(50, 62)), None], "b": [*"123" * 4, "3"]}, source="public")
WORDS = tables.Table(columns={"a": ["film film"]}, source="public")
ENCODING = encodings.fit_table(CELLS, numbers=["a"], categories=["b"])
ROWS = np.array([[1, 2], [0, 1], [3, 3], *([4, n] for n in range(10))], np.float32)
READER = "import numpy as np\ndef read(folder): return np.zeros((3, 8, 8), 'u1'), np.arange(3)\nnumber = 1\ndef two(folder, more): pass\n"
SITE: dict[str, Any] = {"name": "site", "transfer_sets": "transfer"}


def write_settings(folder: Path, records: dict[str, Any], **site: Any) -> None:
    (folder / "site.toml").write_text(tomli_w.dumps({**SITE, "records": records, **site}))


def with_rows(rows: np.ndarray, **changes: Any) -> Plan:
    plan = sites.plan(classes=2, samples=len(rows), truncation=TopK(k=2), **changes)
    assert isinstance(plan.teaching, LinearTeaching)
    return replace(plan, transfer_set=digest(rows), teaching=replace(plan.teaching, features="rows"))


def arrays(folder: Path) -> Plan:
    """An NPZ file of images."""
    write_settings(folder, ARRAYS)
    return sites.plan()


def table(folder: Path) -> Plan:
    """A CSV file whose columns are numbers."""
    np.savez(folder / "transfer" / f"{digest(ROWS).hex()}.npz", x=ROWS)
    (folder / "r.csv").write_text("a,b,sick\n1,2,no\n2,1,yes\n")
    write_settings(folder, TABLE)
    return with_rows(ROWS)


def encoded(folder: Path) -> Plan:
    """A CSV file by a public encoding."""
    rows = ENCODING(CELLS)
    np.savez(folder / "transfer" / f"{digest(rows).hex()}.npz", x=rows)
    (folder / "r.csv").write_text("a,b,sick\n1,2,0\n2,1,1\n")
    encodings.save(ENCODING, folder / "encoding.json")
    write_settings(folder, ENCODED)
    return with_rows(rows, encoding=encodings.digest(ENCODING))


def images(folder: Path) -> Plan:
    """One folder of images per class."""
    for label in range(10):
        (folder / "images" / str(label)).mkdir(parents=True)
        Image.new("L", (8, 8), 20 * label).save(folder / "images" / str(label) / "a.png")
    write_settings(folder, FOLDER)
    return sites.plan()


def reader(folder: Path) -> Plan:
    """A function of the site's own."""
    (folder / "mine.py").write_text(READER)
    write_settings(folder, OWN, ledger="own.ledger")
    return sites.plan()


ARRAYS: dict[str, Any] = {"path": "records.npz"}
TABLE: dict[str, Any] = {"path": "r.csv", "label": "sick", "classes": ["no", "yes"], "columns": ["a", "b"]}
ENCODED: dict[str, Any] = {"path": "r.csv", "label": "sick", "encoding": "encoding.json"}
FOLDER: dict[str, Any] = {"path": "images", "image_size": [8, 8]}
OWN: dict[str, Any] = {"reader": "mine:read"}
KINDS = {arrays: ARRAYS, table: TABLE, encoded: ENCODED, images: FOLDER, reader: OWN}


def says(records: dict[str, Any], **changes: Any) -> Change:
    """The settings say something else; None: they do not say it at all."""
    changed = {name: value for name, value in {**records, **changes}.items() if value is not None}
    site = {"ledger": "own.ledger"} if "reader" in changed else {}
    return lambda folder: write_settings(folder, changed, **site)


def holds(**arrays: Any) -> Change:
    """The NPZ file holds other arrays."""
    return lambda folder: np.savez(folder / "records.npz", **arrays)


def text(data: str | bytes, name: str = "r.csv") -> Change:
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def moved(records: dict[str, Any], old: str, new: str) -> Change:
    """The records have another name, and the settings say so."""

    def change(folder: Path) -> None:
        (folder / old).rename(folder / new)
        says(records, path=new)(folder)

    return change


def pipe(folder: Path) -> None:
    (folder / "records.npz").unlink()
    os.mkfifo(folder / "records.npz")


def folder_instead(folder: Path) -> None:
    (folder / "r.csv").unlink()
    (folder / "r.csv").mkdir()


def spreadsheet(folder: Path) -> None:
    """An archive like an NPZ file, of other things."""
    with ZipFile(folder / "r.xlsx", "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    says(ARRAYS, path="r.xlsx")(folder)


def cut_short(folder: Path) -> None:
    """A compressed table of which the last bytes are missing."""
    moved(TABLE, "r.csv", "r.csv.gz")(folder)
    path = folder / "r.csv.gz"
    path.write_bytes(gzip.compress(path.read_bytes() * 9)[:-9])


def one_deeper(folder: Path) -> None:
    (folder / "images").rename(folder / "all")
    (folder / "images").mkdir()
    (folder / "all").rename(folder / "images" / "all")


def as_dicom(folder: Path) -> None:
    for file in folder.glob("images/*/*"):
        file.rename(file.with_suffix(".dcm"))


def without_images(folder: Path) -> None:
    for file in folder.glob("images/*/*"):
        file.unlink()


LABELS = np.arange(30) % 10


def an_array_alone(folder: Path) -> None:
    with (folder / "records.npz").open("wb") as file:
        np.save(file, IMAGES)


MISTAKES: dict[str, tuple[Callable[[Path], Plan], Change, str]] = {
    # Where the records are.
    "the path is misspelt": (arrays, says(ARRAYS, path="recrods.npz"), r"Expected records at .*recrods.npz, found none"),
    "no path and no reader": (arrays, says(ARRAYS, path=None), r"records.path or records.reader, one of them"),
    "a path and a reader": (arrays, says(ARRAYS, reader="mine:read"), r"records.path or records.reader, one of them"),
    "the folder of another thing": (
        arrays,
        says(ARRAYS, path="transfer"),
        r"one folder per class in .*transfer, found none",
    ),
    "a pipe": (arrays, pipe, r"found neither a file nor a folder"),
    "a spreadsheet": (arrays, spreadsheet, r"the workbook .*r.xlsx, .* save it as CSV"),
    # NPZ files.
    "arrays of other names": (arrays, holds(images=IMAGES, labels=LABELS), r"one array x in .*; there are: images, labels"),
    "no labels": (arrays, holds(x=IMAGES), r"one array y in .*; there are: x"),
    "a label short": (arrays, holds(x=IMAGES, y=LABELS[1:]), r"as many labels as inputs .* got \(29,\) for \(30, 8, 8\)"),
    "one-hot labels": (arrays, holds(x=IMAGES, y=np.eye(10)[LABELS]), r"as many labels as inputs .* got \(30, 10\)"),
    "flat images": (arrays, holds(x=IMAGES.reshape(30, 64), y=LABELS), r"shape \(8, 8\) like .* got \(64,\) by x in"),
    "larger images": (arrays, holds(x=np.zeros((30, 28, 28)), y=LABELS), r"shape \(8, 8\) like .* got \(28, 28\) by x in"),
    "colour images": (arrays, holds(x=np.zeros((30, 8, 8, 3)), y=LABELS), r"shape \(8, 8\) like .* got \(8, 8, 3\) by x in"),
    "pickled objects": (arrays, holds(x=IMAGES, y=LABELS.astype(object)), r"numbers as array y .* objects are pickles"),
    "times for labels": (arrays, holds(x=IMAGES, y=LABELS.astype("M8[D]")), r"numbers as array y .* datetime64"),
    "a file cut short": (arrays, text(b"PK\3\4" + bytes(99), "records.npz"), r"a readable NPZ file .* BadZipFile"),
    "text with an NPZ's name": (arrays, text("a,b\n1,2\n", "records.npz"), r"a readable NPZ file .* BadZipFile"),
    "an array alone": (arrays, an_array_alone, r"a readable NPZ file"),
    "no record": (arrays, holds(x=IMAGES[:0], y=LABELS[:0]), r"records in .*records.npz, found arrays of none"),
    "no record and no shape": (arrays, holds(x=[], y=[]), r"records in .*records.npz, found arrays of none"),
    "a limit of memory": (
        arrays,
        lambda folder: (says(ARRAYS, largest_mb=1)(folder), holds(x=np.zeros((3000, 8, 8)), y=np.zeros(3000))(folder)),
        r"at most 1048576 bytes of array x",
    ),
    # Classes.
    "too few classes": (arrays, says(ARRAYS, classes=["a", "b"]), r"records.classes for the plan's 10 classes, got 2"),
    "too many classes": (
        table,
        says(TABLE, classes=["no", "yes", "so"]),
        r"records.classes for the plan's 2 classes, got 3",
    ),
    "one value for two classes": (table, says(TABLE, classes=["no", ["yes", "no"]]), r"'no' once in records.classes"),
    "a class without a value": (table, says(TABLE, classes=["no", []]), r"value or values of class 1 .* got none"),
    "a class named missing": (table, says(TABLE, classes=["no", "NA"]), r"class 1 .* got 'NA', which means missing"),
    # Tables.
    "no such label column": (
        table,
        says(TABLE, label="ill"),
        r"a column 'ill' in .*r.csv for records.label, found a, b, sick",
    ),
    "the label column's default": (table, says(TABLE, label=None), r"a column 'label' in .*r.csv for records.label"),
    "no such column": (table, says(TABLE, columns=["a", "c"]), r"a column 'c' in .*r.csv for records.columns"),
    "capital letters": (table, says(TABLE, columns=["A", "B"]), r"a column 'A' in .*r.csv for records.columns"),
    "a column too few": (table, says(TABLE, columns=["a"]), r"shape \(2,\) like .* got \(1,\) by records.columns"),
    "a column too many": (
        table,
        says(TABLE, columns=["a", "b", "b"]),
        r"shape \(2,\) like .* got \(3,\) by records.columns",
    ),
    "neither encoding nor columns": (table, says(TABLE, columns=None), r"records.encoding or records.columns to read"),
    "a delimiter that is another": (table, says(TABLE, delimiter="|"), r"a column 'sick' .* found a,b,sick"),
    "a delimiter of two signs": (table, says(TABLE, delimiter=";;"), r"one character between cells, .* got ';;'"),
    "colons": (table, text("a:b:sick\n1:2:no\n"), r"a column 'sick' .* found a:b:sick; .*by records.delimiter"),
    "no header": (table, text("1,2,no\n2,1,yes\n"), r"a column 'sick' .* found 1, 2, no"),
    "a column twice": (table, text("a,a,b,sick\n1,2,2,no\n"), r"distinct column names in .*r.csv"),
    "a header with an open quote": (table, text('a,"b,sick\n1,2,no\n'), r"distinct column names in .*r.csv"),
    "an empty file": (table, text(""), r"distinct column names in .*r.csv"),
    "a text encoding that nobody knows": (table, says(TABLE, text_encoding="utf-99"), r"text encoding .* got 'utf-99'"),
    "another suffix": (table, moved(TABLE, "r.csv", "r.dat"), r"a table \(.*\.csv.*\) or an NPZ file at .*r.dat"),
    "a header and nothing else": (table, text("a,b,sick\n\n  \r\n"), r"records in .*r.csv, found a header and nothing else"),
    "a compressed table that is none": (table, moved(TABLE, "r.csv", "r.csv.gz"), r"compressed by gzip at .*r.csv.gz"),
    "a compressed table cut short": (table, cut_short, r"compressed by gzip at .*r.csv.gz"),
    "CSV with a Parquet's name": (table, moved(TABLE, "r.csv", "r.parquet"), r"a Parquet file at .*r.parquet"),
    "a folder with a table's name": (
        table,
        folder_instead,
        r"one folder per class in .*r.csv, found none",
    ),
    "a column of the encoding": (encoded, text("a,sick\n1,0\n"), r"a column 'b' in .*r.csv for records.encoding"),
    "the label of an encoded table": (encoded, text("a,b,ill\n1,2,0\n"), r"a column 'sick' in .*r.csv for records.label"),
    # Images.
    "another size of images": (
        images,
        says(FOLDER, image_size=None),
        r"shape \(8, 8\) like .* got \(28, 28\) by records.image_s",
    ),
    "no size of images": (
        images,
        says(FOLDER, image_size=[0, 8]),
        r"a height and a width of at least 1 as records.image_size",
    ),
    "a class folder of another name": (
        images,
        says(FOLDER, classes=[f"class-{label}" for label in range(10)]),
        r"one folder per class in .*images, found 0, 1",
    ),
    "class folders counted from 1": (
        images,
        lambda folder: (folder / "images" / "0").rename(folder / "images" / "10"),
        r"one folder per class in .*images, found 10",
    ),
    "a folder around the class folders": (images, one_deeper, r"found all; .* Those in .*all are: set records.path"),
    "images of a kind that is not read": (images, as_dicom, r"Expected images .*\.png.* found 10 \.dcm: convert them"),
    "no images yet": (images, without_images, r"Expected images .* found no file"),
    "a class folder too many": (images, lambda folder: (folder / "images" / "old").mkdir(), r"one folder per class .* old"),
    "a class folder too few": (images, lambda folder: shutil.rmtree(folder / "images" / "3"), r"one folder per class"),
    "images without class folders": (
        images,
        says(FOLDER, path="images/3"),
        r"one folder per class in .*images/3, found none",
    ),
    "one image": (images, says(FOLDER, path="images/3/a.png"), r"a folder of images, a table .* or an NPZ file at .*a.png"),
    # Readers.
    "no such module": (reader, says(OWN, reader="theirs:read"), r"'theirs:read': ModuleNotFoundError"),
    "no such function": (reader, says(OWN, reader="mine:raed"), r"'mine:raed': AttributeError"),
    "no function named": (reader, says(OWN, reader="mine"), r"'module:factory', got 'mine'"),
    "a module with an error": (reader, text("def read(folder:\n", "mine.py"), r"'mine:read': SyntaxError"),
    "a package that is not installed": (
        reader,
        text("import nowhere_at_all\n", "mine.py"),
        r"No module named 'nowhere_at_all'",
    ),
    "a reader that is no function": (reader, says(OWN, reader="mine:number"), r"'mine:number' to be a function"),
    "a reader of two arguments": (
        reader,
        says(OWN, reader="mine:two"),
        r"records.reader mine:two: missing a required argument",
    ),
    "no place for a reader's ledger": (
        reader,
        lambda folder: write_settings(folder, OWN),
        r"Expected `ledger` to name a file",
    ),
    # The rest of the settings.
    "a seed that is missing": (
        arrays,
        lambda folder: write_settings(folder, ARRAYS, noise={"source": "UnsafeSeeded"}),
        r"Expected noise.seed",
    ),
}


def ask(site: Site, plan: Plan, question: Request) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


def charges(folder: Path) -> list[str]:
    """What is in any ledger of the site's folder."""
    return [entry.state for path in folder.rglob("*.ledger") for entry in ledgers.read(path).entries]


def made(folder: Path, kind: Callable[[Path], Plan]) -> Plan:
    sites.make(folder, answers__max_bits=200)
    return kind(folder)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_declined_with_nothing_charged_and_forgotten_once_it_is_mended(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, change, message = MISTAKES[name]
    plan = made(tmp_path / "site", kind)
    offer, teach = sites.offer(plan), Teach(plan_hash=codec.plan_hash(plan))
    shutil.copytree(tmp_path / "site", tmp_path / "before")
    assert isinstance(ask(Site(tmp_path / "site"), plan, offer), Accepted)
    change(tmp_path / "site")
    with monkeypatch.context() as patch:
        patch.setattr(records, "read", lambda *_: pytest.fail("a record was read"))
        for question in (offer, teach):
            caplog.clear()
            with caplog.at_level(logging.WARNING, "limbeck"):
                reply = ask(Site(tmp_path / "site"), plan, question)
            assert reply == Declined(plan_hash=teach.plan_hash, site="site", reason=Reason.DATA)
            assert_named(caplog, message)
            assert charges(tmp_path / "site") == []
    for path in (tmp_path / "site").iterdir():
        if path.name.split(".")[0] in {"records", "r", "images", "mine"} and ".ledger" not in path.name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(tmp_path / "before", tmp_path / "site", dirs_exist_ok=True)
    assert isinstance(ask(Site(tmp_path / "site"), plan, teach), Taught)
    assert charges(tmp_path / "site") == ["committed"]


def assert_named(caplog: pytest.LogCaptureFixture, message: str) -> None:
    assert re.search(message, caplog.text, re.DOTALL), caplog.text


def test_the_mistakes_are_as_many_as_were_promised() -> None:
    assert len(MISTAKES) >= 38


@pytest.mark.parametrize("kind", KINDS)
def test_records_that_this_process_may_not_read_are_declined_with_nothing_charged(
    kind: Callable[[Path], Plan], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is reader:
        return
    plan = made(tmp_path, kind)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with caplog.at_level(logging.WARNING, "limbeck"):
        reply = ask(Site(tmp_path), plan, sites.offer(plan))
    assert reply == Declined(plan_hash=codec.plan_hash(plan), site="site", reason=Reason.DATA)
    assert_named(caplog, "that this process may read")
    assert charges(tmp_path) == []


def test_a_parquet_table_without_the_package_is_declined_with_nothing_charged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made(tmp_path, table)
    moved(TABLE, "r.csv", "r.parquet")(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with caplog.at_level(logging.WARNING, "limbeck"):
        reply = ask(Site(tmp_path), plan, sites.offer(plan))
    assert reply == Declined(plan_hash=codec.plan_hash(plan), site="site", reason=Reason.DATA)
    assert_named(caplog, r"pip install limbeck\[parquet\]")
    assert charges(tmp_path) == []


@pytest.mark.parametrize("change", [Path.unlink, lambda path: encodings.save(encodings.fit_text(WORDS, "a", words=1), path)])
def test_a_missing_or_another_encoding_is_declined_with_nothing_charged(change: Change, tmp_path: Path) -> None:
    plan = made(tmp_path, encoded)
    assert isinstance(ask(Site(tmp_path), plan, sites.offer(plan)), Accepted)
    change(tmp_path / "encoding.json")
    for question in (sites.offer(plan), Teach(plan_hash=codec.plan_hash(plan))):
        reply = ask(Site(tmp_path), plan, question)
        assert reply == Declined(plan_hash=codec.plan_hash(plan), site="site", reason=Reason.ENCODING)
    assert charges(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_checked_before_a_charge_is_the_same_for_any_records(kind: Callable[[Path], Plan], tmp_path: Path) -> None:
    """Broken ones, or others: only names and headers have a say, and that there is a record at all."""
    plan = made(tmp_path, kind)
    site = Site(tmp_path)
    if kind is arrays:
        for x, y in [
            (np.zeros((1, 8, 8)), [99]),
            (np.full((1, 8, 8), np.nan), [np.nan]),
            (np.full((2, 8, 8), "x"), ["a", "b"]),
        ]:
            holds(x=x, y=y)(tmp_path)
            assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    elif kind is images:
        for data in (b"", saved("PNG"), b"no image"):
            (tmp_path / "images" / "0" / "a.png").write_bytes(data)
            assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    elif kind is not reader:
        for rest in (b",", b'"', b"\xff,,\n\n", b"1\n" * 99):
            text(b"a,b,sick\n" + rest)(tmp_path)
            assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    else:
        (tmp_path / "mine.py").write_text("def read(folder): raise KeyError(folder)\n")
        assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)


def test_the_documentation_has_a_row_for_each_mistake_of_a_sites_settings_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mistakes.md").read_text(encoding="utf-8")
    section = text.partition("## In a site's records")[2].partition("**What only records show**")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert sorted(row for row in rows if row != "mistake") == sorted(MISTAKES)
