"""What a site answers has the same shape whatever one record is: no refusal, no length, no order of events tells of it."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image

from helpers import sites
from helpers.odd_images import FORMATS, NO_IMAGES, pipe
from limbeck.client import app
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, Plan, TopK
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Ask, Declined, Reply, Request, Share, Taught, Teach

# Of about the cost of the two steps of linear heads in `sites.plan`.
EVIDENCE = EvidenceTeaching(
    features="pixels", constant=0.3, normaliser=30.0, ridge=0.02, noise_multiplier=2.2, resolution=1 << 16
)
CELLS = np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)
TABLE = "a,b,sick\n1,2,no\n2,1,yes\n0,0,no\n"


@pytest.fixture(params=["linear", "evidence"])
def plan(request: pytest.FixtureRequest) -> Plan:
    """About images, with teachers of either kind whose every record counts."""
    own = sites.plan()
    return own if request.param == "linear" else replace(own, teaching=EVIDENCE)


@pytest.fixture
def table_plan(plan: Plan) -> Plan:
    """The same about rows of a table."""
    assert isinstance(plan.teaching, LinearTeaching | EvidenceTeaching)
    return replace(
        plan, transfer_set=digest(CELLS), classes=2, truncation=TopK(k=2), teaching=replace(plan.teaching, features="rows")
    )


def ask(site: Site, plan: Plan) -> list[bytes]:
    """The replies to everything that a coordinator may ask, in order."""
    return [app.respond(site, codec.encode_request(question)) for question in questions(plan)]


def questions(plan: Plan) -> list[Request]:
    own = codec.plan_hash(plan)
    return [sites.offer(plan), Teach(plan_hash=own), Ask(plan_hash=own, stage=0, first=0, count=20)]


def kinds(site: Site, plan: Plan) -> list[type[Reply]]:
    sent = zip(ask(site, plan), questions(plan), strict=True)
    return [type(codec.decode_reply(data, plan=plan, expecting=question)) for data, question in sent]


def seeded(folder: Path) -> Site:
    """The same "noise" every time, so that equal records give equal bytes."""
    with (folder / "site.toml").open("a") as file:
        file.write('[noise]\nsource = "UnsafeSeeded"\nseed = 1\n')
    policy = (folder / "policy.toml").read_text().replace("allow_without_dp = false", "allow_without_dp = true")
    (folder / "policy.toml").write_text(policy.replace('"linear",\n', '"linear",\n    "evidence",\n'))
    return Site(folder)


def of_arrays(folder: Path, more_x: object = None, more_y: object = None) -> Site:
    """30 images in an NPZ file, and one record more, which may give all of them another type."""
    sites.make(folder)
    with np.load(folder / "records.npz") as file:
        x, y = file["x"], file["y"]
    if more_y is not None:
        x, y = np.array([*x, more_x]), np.array([*y.tolist(), more_y])
    np.savez(folder / "records.npz", x=x, y=y)
    return seeded(folder)


def of_a_table(folder: Path, more: str = "", before: bool = False) -> Site:
    """A CSV file about CELLS; more: a record, after the others or before them."""
    sites.make(folder)
    np.savez(folder / "transfer" / f"{digest(CELLS).hex()}.npz", x=CELLS)
    header, rest = TABLE.split("\n", maxsplit=1)
    (folder / "records.csv").write_text(f"{header}\n{more}{rest}" if before else TABLE + more)
    own = {"path": "records.csv", "label": "sick", "classes": ["no", "yes"], "columns": ["a", "b"]}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": own}))
    return seeded(folder)


def of_a_folder(folder: Path, name: str | None = None, broken: bytes = b"no image") -> Site:
    """Images in one folder per class, and a broken one of this name."""
    sites.make(folder)
    for label in range(10):
        (folder / "images" / str(label)).mkdir(parents=True)
        Image.new("L", (8, 8), 20 * label).save(folder / "images" / str(label) / "a.png")
    if name is not None:
        (folder / "images" / "3" / name).write_bytes(broken)
    own = {"path": "images", "image_size": [8, 8]}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": own}))
    return seeded(folder)


@pytest.mark.parametrize("label", [10, -1, np.nan, 0.5, "ten", 1j])
def test_a_label_outside_the_classes_changes_no_byte_of_any_reply(label: float, plan: Plan, tmp_path: Path) -> None:
    image = np.full((8, 8), 99, np.uint8)
    assert ask(of_arrays(tmp_path / "a"), plan) == ask(of_arrays(tmp_path / "b", image, label), plan)


@pytest.mark.parametrize("value", [0.5, 300.0, -1, np.nan, 1j, "image"])
def test_an_image_that_is_no_bytes_changes_no_byte_of_any_reply(value: object, plan: Plan, tmp_path: Path) -> None:
    """The others are bytes as before, whatever type the array has with it."""
    image = np.full((8, 8), value)
    assert ask(of_arrays(tmp_path / "a"), plan) == ask(of_arrays(tmp_path / "b", image, 3), plan)


@pytest.mark.parametrize(
    "row", ["1,2,maybe", "1,2,", "1,2", "1,2,yes,no", "1,2,\0", '"1,2,yes', '1,"2"3,yes', '1,2,yes"', '"', "1,\r2,yes", ""]
)
@pytest.mark.parametrize("before", [False, True])
def test_a_row_of_a_table_that_cannot_be_meant_changes_no_byte_of_any_reply(
    row: str, before: bool, table_plan: Plan, tmp_path: Path
) -> None:
    assert ask(of_a_table(tmp_path / "a"), table_plan) == ask(of_a_table(tmp_path / "b", row + "\n", before), table_plan)


@pytest.mark.parametrize("row", ["1;2;yes", "1,5;2;yes", "1\t2\tyes", '"1,5",2,maybe', "1.234,56;2;no", "\xe9,2,maybe"])
@pytest.mark.parametrize("before", [False, True])
def test_a_row_of_another_dialect_changes_no_byte_of_any_reply(
    row: str, before: bool, table_plan: Plan, tmp_path: Path
) -> None:
    """What separates cells and which sign is the decimal one comes from the header and from settings, never from rows."""
    rows = "".join(f"{row}\n" for _ in range(5))
    found = []
    for folder, more in (("a", ""), ("b", rows)):
        site = of_a_table(tmp_path / folder, more, before)
        path = site.folder / "records.csv"
        path.write_text(path.read_text().replace("1,2,no\n2,1", "1.5,2,no\n2.5,1"))
        found.append(ask(site, table_plan))
    assert found[0] == found[1]


@pytest.mark.parametrize("labels", [np.arange(30) % 10, np.array(["kind 1"] * 30), np.full(30, np.nan)])
def test_labels_of_numbers_for_a_plan_of_words_are_declined_by_the_settings_alone(
    labels: np.ndarray, plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One label of another type makes an array of another type: that must not show."""
    site, plan = of_arrays(tmp_path), replace(plan, class_names=tuple(f"kind {label}" for label in range(10)))
    np.savez(tmp_path / "records.npz", x=np.zeros((30, 8, 8), np.uint8), y=labels)
    with caplog.at_level(logging.WARNING, "limbeck"):
        assert kinds(site, plan) == [Declined] * 3
    assert sites.charges(tmp_path) == []
    assert "classes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] (here 0 = kind 0, 1 = kind 1" in caplog.text
    settings = (tmp_path / "site.toml").read_text().replace('"records.npz"', '{ path = "records.npz", classes = CLASSES }')
    for classes in (list(range(10)), list(plan.class_names)):
        (tmp_path / "site.toml").write_text(settings.replace("CLASSES", str(classes)))
        assert kinds(Site(tmp_path), plan)[0] is Accepted


@pytest.mark.parametrize("label", ["YES", " no ", "True", "0.0", "maybe", "\u0130", "1;0"])
def test_a_label_that_is_written_otherwise_is_one_record_at_most_and_changes_no_other(
    label: str, table_plan: Plan, tmp_path: Path
) -> None:
    plain, more = of_a_table(tmp_path / "a"), of_a_table(tmp_path / "b", f"1,2,{label}\n")
    assert kinds(more, table_plan) == [Accepted, Taught, Share]
    (x_N, y_N), (more_x, more_y) = (site.records.read(2, CELLS) for site in (plain, more))
    np.testing.assert_array_equal(more_x[: len(x_N)], x_N)
    assert more_y[: len(y_N)].tolist() == y_N.tolist()
    assert len(more_y) - len(y_N) == (label not in {"maybe", "\u0130", "1;0"})


BROKEN = {
    "b.png": b"no image",
    "c.png": NO_IMAGES["text.png"],
    "d.png": NO_IMAGES["bomb.png"],
    "e.pgm": NO_IMAGES["header.pgm"],
    "f.bmp": FORMATS["bmp"][:30],
    "g.tif": FORMATS["tif"][:8] + b"\xff" * 100,
    "h.ppm": b"P6 9 9 99999\n",
    "i.jpg": FORMATS["jpg"][:100],
    "j.gif": FORMATS["gif"][:20],
    "k.webp": FORMATS["webp"][:40],
    "l.tif": NO_IMAGES["floats.tif"],
    "m.dcm": FORMATS["png"],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_changes_no_byte_of_any_reply(name: str, plan: Plan, tmp_path: Path) -> None:
    assert ask(of_a_folder(tmp_path / "a"), plan) == ask(of_a_folder(tmp_path / "b", name, BROKEN[name]), plan)


def test_a_folder_or_a_pipe_with_an_images_name_changes_no_byte_of_any_reply(plan: Plan, tmp_path: Path) -> None:
    site = of_a_folder(tmp_path / "b")
    (site.folder / "images" / "3" / "b.png").mkdir()
    with pipe(site.folder / "images" / "3" / "c.png"):
        assert ask(of_a_folder(tmp_path / "a"), plan) == ask(site, plan)


@pytest.mark.parametrize("label", ["1.0", "0.0", "1.5", ""])
def test_labels_that_a_data_frame_writes_as_floats_are_the_labels_that_they_were(
    label: str, table_plan: Plan, tmp_path: Path
) -> None:
    """With one of them missing, all are floats."""
    found = []
    for folder, text in [("a", "a,b,sick\n1,2,0\n2,1,1\n"), ("b", f"a,b,sick\n1,2,0.0\n2,1,1.0\n1,1,{label}\n")]:
        site = of_a_table(tmp_path / folder)
        (site.folder / "records.csv").write_text(text)
        own = {"path": "records.csv", "label": "sick", "classes": ["0", "1"], "columns": ["a", "b"]}
        settings = {"name": "site", "transfer_sets": "transfer", "records": own}
        (site.folder / "site.toml").write_text(tomli_w.dumps(settings))
        site = seeded(site.folder)
        found.append(site.records.read(2, CELLS))
        assert kinds(site, table_plan) == [Accepted, Taught, Share]
    assert found[0][1].tolist() == [0, 1]
    assert found[1][1][:2].tolist() == [0, 1]
    np.testing.assert_array_equal(found[0][0], found[1][0][:2])


@pytest.mark.parametrize("cell", ["nan", "inf", "-1e999", "many", "1e300"])
def test_a_cell_that_is_no_number_shows_in_no_kind_of_reply(cell: str, table_plan: Plan, tmp_path: Path) -> None:
    assert kinds(of_a_table(tmp_path, f"{cell},1,yes\n"), table_plan) == [Accepted, Taught, Share]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_an_input_that_is_not_finite_shows_in_no_kind_of_reply(value: float, plan: Plan, tmp_path: Path) -> None:
    """The transfer set holds bytes, the records floats: of one of them everything is broken."""
    assert kinds(of_arrays(tmp_path, np.full((8, 8), value), 3), plan) == [Accepted, Taught, Share]


def test_no_record_at_all_is_declined_and_one_that_nobody_can_use_is_not(
    plan: Plan, table_plan: Plan, tmp_path: Path
) -> None:
    """The declared exception: that a site which takes part has a record. Whether a label or an input can be used shows nowhere."""
    for kind, (nothing, something) in NO_RECORDS.items():
        for folder, change, wanted in [("a", nothing, [Declined] * 3), ("b", something, [Accepted, Taught, Share])]:
            site = SITES[kind](tmp_path / kind / folder)
            change(site.folder)
            assert kinds(site, table_plan if kind == "table" else plan) == wanted, (kind, folder)


def no_images(folder: Path) -> None:
    for file in folder.glob("images/*/*"):
        file.unlink()


def one_broken_image(folder: Path) -> None:
    no_images(folder)
    (folder / "images" / "3" / "deeper").mkdir()
    (folder / "images" / "3" / "deeper" / "a.PNG").write_bytes(b"no image")


SITES: dict[str, Callable[[Path], Site]] = {"arrays": of_arrays, "table": of_a_table, "images": of_a_folder}
# What leaves a site without a record, and with one that is left out.
NO_RECORDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "arrays": (
        lambda folder: np.savez(folder / "records.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.int64)),
        lambda folder: np.savez(folder / "records.npz", x=np.full((1, 8, 8), np.nan), y=np.full(1, np.nan)),
    ),
    "table": (
        lambda folder: (folder / "records.csv").write_text("a,b,sick\n \n\r\n"),
        lambda folder: (folder / "records.csv").write_text('a,b,sick\n"\n'),
    ),
    "images": (no_images, one_broken_image),
}


def test_the_ledger_of_a_site_with_a_bad_record_holds_the_same_entries(plan: Plan, tmp_path: Path) -> None:
    found = []
    for folder, label in [(tmp_path / "a", None), (tmp_path / "b", 10)]:
        site = of_arrays(folder, np.zeros((8, 8), np.uint8), label)
        ask(site, plan)
        with closing(sqlite3.connect(site.ledger)) as db:
            rows = db.execute("SELECT kind, content FROM ledger ORDER BY id").fetchall()
        found.append([(kind, re.sub(r'"(time|training)": "[^"]*"', "", content)) for kind, content in rows])
    assert found[0] == found[1]
