"""What an owner learns of their own records before a plan costs anything: each mistake is named, and nothing is touched."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from helpers import odd_images, sites, tiny_encoder
from limbeck.base.findings import Outcome
from limbeck.cli.main import app
from limbeck.client import examination
from limbeck.client.examination import Report
from limbeck.client.site import Site
from limbeck.inputs import columns, encoders, encodings, tables
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import InputKind, Plan, PublicInputs, TopK
from limbeck.protos import codec

RANDOM = np.random.default_rng(4)
PRESSURES = RANDOM.normal(130, 15, 60).round(1)
IMAGES = RANDOM.integers(0, 255, (40, 8, 8), dtype=np.uint8)


def table(
    rows: int, pressure: Callable[[float], str] = str, sexes: str = "m f", sick: str = "no yes", note: str = "good film"
) -> str:
    """A CSV table like the public one, but for what is given."""
    sex, label = sexes.split(" "), sick.split(" ")
    lines = [
        f"{pressure(PRESSURES[row % 60])},{sex[row % len(sex)]},20{10 + row % 10}-0{1 + row % 9}-11,{note},{label[row % len(label)]}"
        for row in range(rows)
    ]
    return "pressure,sex,seen,note,sick\n" + "".join(f"{line}\n" for line in lines)


PUBLIC = tables.from_csv(table(60, note="a good film of a bad day").encode(), "public")
KINDS = {"note": "text", "seen": "year-first", "sex": "category"}
ENCODING = encodings.fit(PUBLIC, columns.examine(PUBLIC, label="sick", kinds=KINDS), words=6)
ROWS = ENCODING(PUBLIC)


@dataclass(frozen=True)
class Case:
    """A site and a plan for it."""

    folder: Path
    plan: Plan

    def examine(self, **changes: Any) -> Report:
        return examination.examine(Site(self.folder), sites.offer(replace(self.plan, **changes)))

    def says(self, **records: Any) -> None:
        (self.folder / "site.toml").write_text(
            tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": {k: v for k, v in records.items() if v}})
        )

    def transfers(self, x_N: np.ndarray) -> None:
        np.savez(self.folder / "transfer" / f"{digest(x_N).hex()}.npz", x=x_N)


def of_a_table(folder: Path, text: str | bytes = table(40), name: str = "r.csv", **records: Any) -> Case:
    sites.make(folder, answers__max_bits=200, plans__max_answers=1000)
    encodings.save(ENCODING, folder / "encoding.json")
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    rows = sites.about_rows(sites.plan(), transfer_set=digest(ROWS), samples=60, classes=2, truncation=TopK(k=2))
    case = Case(folder, replace(rows, encoding=encodings.digest(ENCODING), class_names=("no", "yes")))
    case.transfers(ROWS)
    case.says(path=name, label="sick", encoding="encoding.json", **records)
    return case


def of_arrays(
    folder: Path, x: object = IMAGES, y: object = np.arange(40) % 10, public: np.ndarray = sites.PUBLIC, **records: Any
) -> Case:
    sites.make(folder)
    np.savez(folder / "records.npz", x=np.array(x), y=np.array(y))
    case = Case(folder, replace(sites.plan(), transfer_set=digest(public), samples=len(public)))
    case.transfers(public)
    case.says(path="records.npz", **records)
    return case


def of_images(
    folder: Path, files: dict[str, bytes], names: tuple[str, ...] = ("cat", "dog"), only: str | None = None
) -> Case:
    """Three images for each name, and these files; only: the suffix that they have."""
    sites.make(folder)
    for name in names:
        (folder / "images" / name).mkdir(parents=True)
        for place in range(3):
            path = folder / "images" / name / f"{place}.png"
            Image.fromarray(IMAGES[place] // 2 + 60).save(path)
            path.rename(path.with_suffix(only or ".png"))
    for name, data in files.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)
    case = Case(folder, replace(sites.plan(), classes=2, class_names=("cat", "dog"), truncation=TopK(k=2)))
    case.says(path="images", image_size=[8, 8])
    return case


def lines(report: Report, check: str | None = None) -> str:
    return "\n".join(
        f"{each.outcome.value} {each.check}: {each.found} {each.advice}"
        for each in report.findings
        if check is None or each.check == check
    )


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file in a folder, when it was last changed, and its content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in folder.rglob("*")
    }


def test_records_as_the_plan_wants_them_are_all_used_and_nothing_is_said_against_them(tmp_path: Path) -> None:
    report = of_a_table(tmp_path).examine()
    assert (report.all, report.kept, report.classes) == (40, 40, {"no": 20, "yes": 20})
    assert [each.found for each in report.findings if each.outcome is Outcome.FAIL] == []
    assert [each for each in report.findings if each.outcome is Outcome.WARN and each.check != "plan"] == []
    assert report.healthy
    assert report.accepted
    assert report.cost is not None
    assert report.cost.spent == 0
    assert report.cost.after == pytest.approx(report.cost.alone)
    assert report.cost.left == pytest.approx(3 - report.cost.after)


FORMS = {
    "cat/x.png": odd_images.of_16_bits("PNG"),
    "cat/y.jpg": odd_images.turned("JPEG", 6),
    "dog/z.png": odd_images.ink("LA"),
    "dog/c.png": odd_images.saved("PNG"),
}
NOT_FINITE = np.where(np.arange(40)[:, None, None] < 3, np.nan, IMAGES / 100)
RECORDS: dict[str, tuple[Callable[[Path], Case], str]] = {
    "another unit": (
        lambda folder: of_a_table(folder, table(40, lambda value: f"{value / 7.5:.1f}")),
        r"pressure: 100 % of values below the least public one, .*7\.5 times smaller: kPa for mmHg\?",
    ),
    "decimal commas": (
        lambda folder: of_a_table(folder, table(40, lambda value: f'"{value}"'.replace(".", ","))),
        r'Write under \[records\]: decimal = ","(?s:.)*pressure: no cell of 40 can be read as a number, such as',
    ),
    "points between thousands": (
        lambda folder: of_a_table(
            folder,
            table(40, lambda value: f"1.{int(value):03}{',5' if int(value) % 2 else ''}".replace(",", "#")).translate(
                {ord(","): ";", ord("#"): ","}
            ),
        ),
        r'points between thousands.*Write under \[records\]: decimal = ","',
    ),
    "marks that quote nothing": (
        lambda folder: of_a_table(folder, table(40, note='5" film').replace(",", "\t"), "r.tsv"),
        r'nothing as quotation mark.*Write under \[records\]: quote = ""',
    ),
    "Windows-1252 beyond the header": (
        lambda folder: of_a_table(folder, table(40, sexes="m f \u00e9").encode("cp1252")),
        r'The rows look like: .*Windows-1252.*Write under \[records\]: text_encoding = "cp1252"',
    ),
    "unknown levels": (
        lambda folder: of_a_table(folder, table(40, sexes="m f d")),
        r"sex: 13 of 40 cells hold levels that the public table did not have: d \(13\)\. It had f, m\.",
    ),
    "cells that are no numbers": (
        lambda folder: of_a_table(folder, table(40, lambda value: "high" if value > 130 else str(value))),
        r"pressure: \d+ of 40 cells are no number and count as missing: high \(\d+\)",
    ),
    "a column of nothing": (
        lambda folder: of_a_table(folder, table(40, lambda _: "")),
        r"pressure: no cell of 40 .*: all are missing",
    ),
    "dates in another order": (
        lambda folder: of_a_table(folder, table(40).replace("2012-0", "31.12.2012 0")),
        r"seen: 4 of 40 cells are no date",
    ),
    "another language": (
        lambda folder: of_a_table(folder, table(40, note="ein guter Film und langer Tag")),
        r"note: 17 % of the words are among the 5 public ones; common others: .*guter",
    ),
    "labels of another spelling": (
        lambda folder: of_a_table(folder, table(40, sick="healthy ill")),
        r"NO USABLE RECORD of 40(?s:.)*Labels of no class: 'healthy' \(20\), 'ill' \(20\)\. Write .* for each of the classes no, yes",
    ),
    "labels 1 and 2": (
        lambda folder: of_a_table(folder, table(40, sick="1 2")),
        r"Labels of no class: '2' \(20\)\. They are counted from 1: write under \[records\]: classes = \[1, 2\]",
    ),
    "labels 5 and 7": (
        lambda folder: of_a_table(folder, table(40, sick="5 7")),
        r"If these are the classes no, yes, in this order, write under \[records\]: classes = \[5, 7\]",
    ),
    "a class without a record": (
        lambda folder: of_a_table(folder, table(40, sick="no")),
        r"NO RECORD of 1 of 2 classes: yes\. Per class: no 40, yes 0",
    ),
    "rare positives": (
        lambda folder: of_a_table(folder, table(40, sick="no " * 39 + "yes")),
        r"97\.5 % of the records are of one class",
    ),
    "lines cut short": (
        lambda folder: of_a_table(folder, table(40) + "130.1,m\n"),
        r"1 of 41 are left out\. Expected one of no, yes in column 'sick', got None in row 41",
    ),
    "labels counted from 1": (
        lambda folder: of_arrays(folder, y=np.arange(40) % 10 + 1),
        r"counted from 1: write under \[records\]: classes = \[1, 2, 3, 4, 5, 6, 7, 8, 9, 10\]",
    ),
    "numbers from 0 to 1 for public bytes": (
        lambda folder: of_arrays(folder, x=IMAGES / 255),
        r'NO USABLE RECORD(?s:.)*whole numbers from 0 to 255 .*\(scale = "unit" under \[records\]',
    ),
    "bytes for other public numbers": (
        lambda folder: of_arrays(folder, public=(sites.PUBLIC / 100 - 1).astype(np.float32)),
        r'of the pixels lie outside of the public ones.* scale = "bytes"',
    ),
    "inputs that are not finite": (
        lambda folder: of_arrays(folder, x=NOT_FINITE, public=(sites.PUBLIC / 100).astype(np.float32)),
        r"3 of 40 inputs hold NaN or infinity",
    ),
    "inverted images": (
        lambda folder: of_arrays(folder, x=255 - IMAGES // 8, public=(sites.PUBLIC // 8).astype(np.uint8)),
        r"The images look inverted: mean 0\.9\d, the public ones' 0\.0\d",
    ),
    "white images": (
        lambda folder: of_arrays(folder, x=np.where(np.arange(40)[:, None, None] < 5, 255, IMAGES)),
        r"5 of 40 images are of one shade",
    ),
    "images of 12 bits in 16": (
        lambda folder: of_arrays(folder, x=IMAGES // 16),
        r"No pixel of any image is brighter than 6 % of white\. Images of 12 bits",
    ),
    "columns in another order": (
        lambda folder: of_rows(folder, ROWS[:, ::-1]),
        r"Values outside of the public ones' range: column \d+ \d+ %",
    ),
    "no classes for a plan of words": (
        lambda folder: replace_plan(of_arrays(folder), class_names=tuple(f"kind {place}" for place in range(10))),
        r"fail source: Expected records\.classes .*classes = \[0, 1, 2, 3",
    ),
    "DICOM beside images": (
        lambda folder: of_images(folder, {"cat/a.dcm": b"DICM", "dog/deeper/b.dcm": b"DICM"}),
        r"Files that are no images by their names are not read: \.dcm \(2\)",
    ),
    "DICOM alone": (
        lambda folder: of_images(folder, {}, only=".dcm"),
        r"fail source: Expected images .*found 6 \.dcm: convert them",
    ),
    "images in many forms": (
        lambda folder: of_images(folder, FORMS),
        r"of 10 images: (?=.*1 of 16 bits)(?=.*1 turned by EXIF)(?=.*1 transparent)(?=.*1 in colour)",
    ),
    "floats and broken files": (
        lambda folder: of_images(folder, {"cat/f.tif": odd_images.of_floats(), "dog/b.png": b"no image"}),
        r"2 of 8 are left out\. Expected an image, got ValueError: '.*32 bits .* in 'cat/f.tif', a file of another kind .* in 'dog/b.png'",
    ),
    "class folders of other names": (
        lambda folder: of_images(folder, {}, ("katze", "hund")),
        r'fail source: Expected one folder per class .*found hund, katze; .*classes = \["hund", "katze"\]',
    ),
}


def of_rows(folder: Path, x: np.ndarray) -> Case:
    case = of_arrays(folder, x=x, y=np.arange(60) % 2, public=ROWS)
    return replace_plan(case, classes=2, truncation=TopK(k=2))


def replace_plan(case: Case, **changes: Any) -> Case:
    return replace(case, plan=replace(case.plan, **changes))


@pytest.mark.parametrize("name", RECORDS)
def test_what_only_records_show_is_named_at_no_cost_and_nothing_is_touched(name: str, tmp_path: Path) -> None:
    make, message = RECORDS[name]
    case = make(tmp_path)
    before = snapshot(tmp_path)
    report = case.examine()
    found = lines(report).replace("\n", " ")
    assert re.search(message, found), lines(report)
    assert snapshot(tmp_path) == before
    assert sites.charges(tmp_path) == []


@pytest.mark.parametrize("name", RECORDS)
def test_without_a_plan_it_looks_at_the_records_all_the_same(name: str, tmp_path: Path) -> None:
    case = RECORDS[name][0](tmp_path)
    before = snapshot(tmp_path)
    report = examination.examine(Site(case.folder))
    assert report.findings
    assert (report.plan, report.accepted, report.cost) == (None, None, None)
    assert snapshot(tmp_path) == before


def test_the_documentation_has_a_row_for_each_mistake_that_only_records_show_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mistakes.md").read_text(encoding="utf-8")
    section = text.partition("**What only records show**")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert sorted(row for row in rows if row != "mistake") == sorted(RECORDS)


# The plan


def test_a_plan_that_the_policy_forbids_or_the_budget_cannot_pay_is_named_with_its_cost(tmp_path: Path) -> None:
    case = of_a_table(tmp_path)
    dear = case.examine(minimum_clients=1)
    assert "fail policy: The policy" in lines(dear)
    assert "plans.minimum_clients" in lines(dear)
    assert (dear.accepted, dear.healthy) == (False, False)
    text = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text.replace("epsilon = 3.0", "epsilon = 1.5"))
    assert "more than the budget of 1.5 at delta = 1e-05, per record, add-remove-one" in lines(case.examine(), "cost")


def test_a_plan_about_other_public_inputs_or_another_encoding_is_named(tmp_path: Path) -> None:
    case = of_a_table(tmp_path)
    assert "fail public inputs: Expected an NPZ file" in lines(case.examine(transfer_set=bytes(32)))
    assert "fail encoding: records.encoding: expected the encoding of the plan" in lines(case.examine(encoding=bytes(32)))
    declared = PublicInputs(kind=InputKind.BYTES, low=0, high=255)
    assert "fail public inputs: Expected transfer_set of bytes" in lines(case.examine(inputs=declared))


def test_a_plan_that_was_charged_costs_nothing_more_and_a_second_one_what_the_filter_says(tmp_path: Path) -> None:
    case = of_a_table(tmp_path)
    with Site(tmp_path).account.open(Site(tmp_path).budget) as ledger:
        ledger.reserve(codec.plan_hash(case.plan), "charge", case.plan.teaching, case.plan.counts)
    before = snapshot(tmp_path)
    again, second = case.examine(), case.examine(public_seed=99)
    assert "was charged already and costs nothing more" in lines(again, "cost")
    assert again.accepted
    assert again.cost is not None
    assert second.cost is not None
    assert again.cost.spent == again.cost.after == second.cost.spent
    assert second.cost.after > 3
    assert "more than the budget" in lines(second, "cost")
    # SQLite's own index of a ledger that is read.
    kept = [
        {name: each for name, each in found.items() if not name.endswith("-shm")} for found in (before, snapshot(tmp_path))
    ]
    assert kept[0] == kept[1]


def test_seeded_noise_is_named_and_no_ledger_is_made_for_it(tmp_path: Path) -> None:
    case = of_a_table(tmp_path)
    with (tmp_path / "site.toml").open("a") as file:
        file.write('[noise]\nsource = "UnsafeSeeded"\nseed = 1\n')
    before = snapshot(tmp_path)
    report = case.examine()
    assert 'fail noise: Expected noise.source = "system-entropy", got "UnsafeSeeded"' in lines(report)
    assert snapshot(tmp_path) == before


def test_texts_for_a_public_encoder_are_looked_at_and_not_encoded(tmp_path: Path) -> None:
    """Encoding takes long, and its rows would be kept in a file."""
    model = tiny_encoder.make(tmp_path / "tiny")
    encoding = encoders.describe(str(model), tmp_path, column="note", name="tiny", tokens=16)
    case = of_a_table(tmp_path / "site")
    encodings.save(encoding, case.folder / "encoding.json")
    case.says(path="r.csv", label="sick", encoding="encoding.json", encoder=str(model))
    rows = np.zeros((60, encoding.dimensions), np.float32) + np.arange(60)[:, None]
    case.transfers(rows)
    before = snapshot(tmp_path)
    report = case.examine(transfer_set=digest(rows), encoding=encodings.digest(encoding))
    assert (report.kept, report.accepted) == (40, True), lines(report)
    assert snapshot(tmp_path) == before


# The command


def test_the_command_fits_a_terminal_and_says_the_same_as_json(tmp_path: Path) -> None:
    case = of_a_table(tmp_path / "site", table(40, sexes="m f d"))
    (tmp_path / "plan.pb").write_bytes(codec.encode_request(sites.offer(case.plan)))
    arguments = ["site", "check", str(tmp_path / "site"), str(tmp_path / "plan.pb")]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    assert "this site would accept the plan" in shown.output
    assert "Nothing was sent, charged or written." in shown.output
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert (told["accepted"], told["healthy"]) == (True, True)
    assert told["records"]["classes"] == {"no": 20, "yes": 20}
    assert told["cost"]["unit"] == "record"
    assert {column["name"]: column["unknown"] for column in told["columns"]}["sex"] == 13
    (tmp_path / "site" / "r.csv").write_text(table(40, sick="a b"))
    assert CliRunner().invoke(app, arguments).exit_code == 1


def test_the_command_is_quiet_and_no_longer_than_it_runs(tmp_path: Path) -> None:
    logger = logging.getLogger("limbeck")
    before = logger.level
    of_a_table(tmp_path / "site")
    assert CliRunner().invoke(app, ["site", "check", str(tmp_path / "site")]).exit_code == 0
    (tmp_path / "site" / "r.csv").unlink()
    assert CliRunner().invoke(app, ["site", "check", str(tmp_path / "site")]).exit_code == 1
    assert logger.level == before


def test_a_plan_file_that_is_none_and_a_folder_that_is_no_site_are_errors(tmp_path: Path) -> None:
    of_a_table(tmp_path / "site")
    (tmp_path / "plan.pb").write_bytes(b"no plan")
    for arguments in ([str(tmp_path)], [str(tmp_path / "site"), str(tmp_path / "plan.pb")]):
        assert CliRunner().invoke(app, ["site", "check", *arguments]).exit_code == 1


def test_a_reader_of_the_sites_own_is_examined_too(tmp_path: Path) -> None:
    case = of_arrays(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef read(folder):\n    return np.load(folder / 'records.npz')['x'], ['a', 'b'] * 20\n"
    )
    (tmp_path / "site.toml").write_text(
        'name = "site"\ntransfer_sets = "transfer"\nledger = "l"\nrecords = {reader = "mine:read"}\n'
    )
    report = examination.examine(Site(case.folder))
    assert report.classes == {"a": 20, "b": 20}
    assert "NO USABLE RECORD" in lines(case.examine())
    assert os.listdir(tmp_path / "transfer")
