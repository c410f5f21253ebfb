"""`limbeck plan encode`: from a public table to the rows and the encoding that a plan takes, and what is said on the way."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import click.testing
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.utils import Bunch
from typer.testing import CliRunner

from limbeck.base.errors import DataError, SettingError
from limbeck.cli.main import app
from limbeck.deployment import plan_commands
from limbeck.inputs import encodings, tables
from limbeck.inputs.encodings import Levels, Number, TableEncoding
from limbeck.inputs.transfer_set import read_arrays


def encode(*words: str) -> click.testing.Result:
    return CliRunner().invoke(app, ["plan", "encode", *words])


def as_table(found: Bunch, path: Path, delimiter: str = ",", decimal: str = ".") -> Path:
    """A data set of scikit-learn as a hospital might write it: numbered patients, names of classes, unknown values."""
    names = [str(name) for name in found.feature_names]
    with path.open("w", newline="", encoding="cp1252") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["größe nr", *names, "diagnosis"])
        for row, (values, label) in enumerate(zip(found.data.tolist(), found.target.tolist(), strict=True)):
            cells = [str(value).replace(".", decimal) for value in values]
            cells[0] = "?" if row % 20 == 0 else cells[0]
            writer.writerow([row + 1, *cells, found.target_names[label]])
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("found", [load_breast_cancer(), load_wine()], ids=["breast cancer", "wine"])
@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", ","), ("\t", ",")])
def test_real_tables_become_rows_of_mean_0_and_deviation_1(found: Bunch, delimiter: str, decimal: str, here: Path) -> None:
    as_table(found, here / "public.csv", delimiter, decimal)
    result = encode("public.csv", "--label", "diagnosis")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    sign = {".": "decimal point", ",": "decimal comma"}[decimal]
    assert f"{len(found.data)} rows, {len(found.feature_names) + 2} columns" in said
    assert f"{sign}, Windows-1252 text" in said
    assert "left out: größe nr (identifier: whole numbers that count the rows)" in said
    assert "left out: diagnosis (the label)" in said
    assert max(map(len, result.output.splitlines())) <= 80
    encoding = encodings.load(here / "encoding.json")
    assert isinstance(encoding, TableEncoding)
    assert encoding.reads == tuple(found.feature_names)
    (x_N,) = read_arrays(here / "public.npz", "x")
    assert x_N.shape == (len(found.data), 2 * len(found.feature_names))
    measured_N = x_N[:, 0][x_N[:, 1] == 0]
    expected_N = np.delete(found.data[:, 0], np.s_[::20])
    np.testing.assert_allclose(measured_N, (expected_N - expected_N.mean()) / expected_N.std(), rtol=1e-4, atol=1e-5)
    # A site reads its part by the header alone, to the same rows.
    np.testing.assert_array_equal(encoding(tables.read(here / "public.csv")), x_N)


def test_the_label_is_written_nowhere(here: Path) -> None:
    as_table(load_breast_cancer(), here / "public.csv")
    assert encode("public.csv", "--label", "diagnosis").exit_code == 0
    for name in ("encoding.json", "public.npz"):
        content = (here / name).read_bytes()
        assert not any(word in content for word in (b"diagnosis", b"malignant", b"benign"))
    # What does not depend on it is the same without it.
    lines = [line.rpartition(",")[0] for line in (here / "public.csv").read_text("cp1252").splitlines()]
    (here / "unlabelled.csv").write_text("\n".join(lines), "cp1252")
    result = encode("unlabelled.csv", "--out", "u.npz", "--encoding", "u.json")
    assert "No column is the label" in result.output
    assert (here / "u.json").read_bytes() == (here / "encoding.json").read_bytes()
    assert (here / "u.npz").read_bytes() == (here / "public.npz").read_bytes()


PUBLIC = "ward;visited;chol;bmi;note;code\n" + "\n".join(
    f"{1 + row % 3};{1 + row % 9}/{1 + row % 12}/2025;{0 if row % 4 == 0 else 100 + row};{999 if row % 5 == 0 else 20 + row};"
    f"well and at home again since {row};x{row // 2}"
    for row in range(60)
)


def test_what_looks_wrong_is_said_and_what_somebody_says_is_done(here: Path) -> None:
    (here / "public.csv").write_text(PUBLIC)
    said = " ".join(encode("public.csv").output.split())
    assert "! dates of which nobody can tell day and month: say day-first or month-first" in said
    assert "! 0 in 25% of the rows, all others from 101 on: not known?" in said
    assert "! 999 in 20% of the rows" in said
    assert "! --as, --zero-is-missing and --missing say" in said
    for name in ("public.npz", "encoding.json"):
        (here / name).unlink()
    settings = ["--as", "visited=day-first", "--zero-is-missing", "chol", "--missing", "bmi=999", "--as", "code=identifier"]
    result = encode("public.csv", *settings, "--as", "ward=number", "--drop", "note")
    assert result.exit_code == 0, result.output
    assert "!" not in result.output
    assert "left out: note (as you said)" in result.output
    assert "left out: code (identifier: as you said)" in result.output
    encoding = encodings.load(here / "encoding.json")
    assert isinstance(encoding, TableEncoding)
    assert [(column.name, column.kind) for column in encoding.columns] == [
        ("ward", "number"),
        ("visited", "date"),
        ("chol", "number"),
        ("bmi", "number"),
    ]
    chol, bmi = encoding.columns[2:]
    assert isinstance(chol, Number)
    assert isinstance(bmi, Number)
    assert (chol.zero_is_missing, chol.seen[0]) == (True, 101)
    assert (bmi.missing_codes, bmi.seen[-1]) == ((999.0,), 79)


def test_the_dialect_is_what_somebody_says_it_is(here: Path) -> None:
    (here / "public.txt.gz").write_bytes(gzip.compress("a:größe\n1,234:x\n2,345:x\n".encode("latin-1") * 1))
    result = encode(
        "public.txt.gz", "--delimiter", ":", "--decimal", ",", "--text-encoding", "latin-1", "--as", "größe=category"
    )
    assert result.exit_code == 0, result.output
    assert "':' between cells, decimal comma, Latin-1 text" in " ".join(result.output.split())
    encoding = encodings.load(here / "encoding.json")
    assert isinstance(encoding, TableEncoding)
    number, levels = encoding.columns
    assert isinstance(number, Number)
    assert number.mean == pytest.approx(1.7895)
    assert levels == Levels(name="größe", levels=("x",), other=False, missing=False)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["public.csv", "--label", "ill"], DataError, "a column 'ill' in public.csv, found ward"),
        (["public.csv", "--drop", "ill"], DataError, "a column 'ill' in public.csv"),
        (["public.csv", "--as", "chol"], SettingError, "Expected --as COLUMN=KIND, got 'chol'"),
        (["public.csv", "--as", "chol="], SettingError, "Expected --as COLUMN=KIND, got 'chol'"),
        (["public.csv", "--as", "chol=text books"], SettingError, "column 'chol' as one of number"),
        (["public.csv", "--missing", "chol=none"], SettingError, "a number as --missing COLUMN=NUMBER, got 'none'"),
        (["public.csv", "--missing", "chol=nan"], SettingError, "a number as --missing COLUMN=NUMBER, got 'nan'"),
        (["public.csv", "--as", "note=number"], DataError, "the kind number as 'note' in public.csv, found none"),
        (["public.csv", "--delimiter", "::"], SettingError, "one character between cells"),
        (["public.csv", "--encoding", "public.npz"], SettingError, "two files for rows and encoding"),
        (["public.csv", "--encoder", "model", "--label", "ward"], SettingError, "--encoder with --column alone"),
        (["empty.csv"], DataError, "public records in empty.csv, found a header alone"),
        (["public.npz"], DataError, r"a table, named .*\.xlsx, got public.npz"),
        (["none.csv"], DataError, "a table at none.csv"),
        (["public.csv", "--out", "empty.csv"], SettingError, "no file at empty.csv yet"),
        (["public.csv", "--encoding", "empty.csv"], SettingError, "no file at empty.csv yet"),
    ],
)
def test_what_cannot_be_encoded_is_refused_and_nothing_is_written(
    words: list[str], error: type[Exception], message: str, here: Path
) -> None:
    (here / "public.csv").write_text(PUBLIC)
    (here / "empty.csv").write_text("a,b\n")
    before = sorted(here.iterdir())
    result = encode(*words)
    assert result.exit_code != 0
    assert isinstance(result.exception, error)
    assert result.exception is not None
    with pytest.raises(error, match=message):
        raise result.exception
    assert sorted(here.iterdir()) == before
    assert (here / "empty.csv").read_text() == "a,b\n"


def test_a_plan_takes_what_was_written(here: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from limbeck.plans.settings import load

    as_table(load_wine(), here / "public.csv")
    assert encode("public.csv", "--label", "diagnosis").exit_code == 0
    result = CliRunner().invoke(app, ["plan", "settings", "heart-natural", "--out", "plan.toml"])
    assert result.exit_code == 0, result.output
    offer = plan_commands.make(
        load(here / "plan.toml", ["classes=3"]),
        here / "public.npz",
        Ed25519PrivateKey.generate(),
        out=here / "plan.pb",
        publish=here / "transfer-sets",
        encoding=here / "encoding.json",
    )
    encoding = encodings.load(here / "transfer-sets" / "encoding.json")
    assert offer.plan.encoding == encodings.digest(encoding)
    assert offer.plan.samples == 178
