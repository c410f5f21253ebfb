"""What a site answers has the same shape whatever one record is: no refusal, no length, no order of events tells of it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sites
import tomli_w
from PIL import Image

from limbeck.client import app
from limbeck.client.site import Site
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Ask, Plan, Reply, Request, Share, Taught, Teach
from limbeck.protos.transfer_set import digest

CELLS = np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)
TABLE = "a,b,sick\n1,2,no\n2,1,yes\n0,0,no\n"


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
    policy = (folder / "policy.toml").read_text()
    (folder / "policy.toml").write_text(policy.replace("allow_without_dp = false", "allow_without_dp = true"))
    return Site(folder)


def of_arrays(folder: Path, more_x: object = None, more_y: object = None) -> Site:
    """30 images in an NPZ file, and one record more."""
    sites.make(folder)
    with np.load(folder / "records.npz") as file:
        x, y = file["x"], file["y"]
    if more_y is not None:
        x, y = np.append(x, np.asarray(more_x)[None], 0), np.append(y, more_y)
    np.savez(folder / "records.npz", x=x, y=y)
    return seeded(folder)


def of_a_table(folder: Path, more: str = "") -> Site:
    """A CSV file about CELLS."""
    sites.make(folder)
    np.savez(folder / "transfer" / f"{digest(CELLS).hex()}.npz", x=CELLS)
    (folder / "records.csv").write_text(TABLE + more)
    own = {"path": "records.csv", "label": "sick", "classes": ["no", "yes"], "columns": ["a", "b"]}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": own}))
    return seeded(folder)


def of_a_folder(folder: Path, broken: bool = False) -> Site:
    """Images in one folder per class."""
    sites.make(folder)
    for label in range(10):
        (folder / "images" / str(label)).mkdir(parents=True)
        Image.new("L", (8, 8), 20 * label).save(folder / "images" / str(label) / "a.png")
    if broken:
        (folder / "images" / "3" / "b.png").write_bytes(b"no image")
    own = {"path": "images", "image_size": [8, 8]}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": own}))
    return seeded(folder)


def table_plan() -> Plan:
    plan = sites.plan()
    teaching = replace(plan.teaching, features="rows")  # type: ignore[type-var]
    truncation = replace(plan.truncation, k=2)  # type: ignore[call-arg]
    return replace(plan, transfer_set=digest(CELLS), classes=2, truncation=truncation, teaching=teaching)


@pytest.mark.parametrize("label", [10, -1, np.nan, 0.5])
def test_a_label_outside_the_classes_changes_no_byte_of_any_reply(label: float, tmp_path: Path) -> None:
    plan, image = sites.plan(), np.full((8, 8), 99, np.uint8)
    assert ask(of_arrays(tmp_path / "a"), plan) == ask(of_arrays(tmp_path / "b", image, label), plan)


@pytest.mark.parametrize("row", ["1,2,maybe", "1,2,", "1,2", "1,2,yes,no", "1,2,\0"])
def test_a_row_of_a_table_that_cannot_be_meant_changes_no_byte_of_any_reply(row: str, tmp_path: Path) -> None:
    plan = table_plan()
    assert ask(of_a_table(tmp_path / "a"), plan) == ask(of_a_table(tmp_path / "b", row + "\n"), plan)


def test_a_broken_image_changes_no_byte_of_any_reply(tmp_path: Path) -> None:
    plan = sites.plan()
    assert ask(of_a_folder(tmp_path / "a"), plan) == ask(of_a_folder(tmp_path / "b", broken=True), plan)


@pytest.mark.parametrize("cell", ["nan", "inf", "-1e999", "many", "1e300"])
def test_a_cell_that_is_no_number_shows_in_no_kind_of_reply(cell: str, tmp_path: Path) -> None:
    assert kinds(of_a_table(tmp_path, f"{cell},1,yes\n"), table_plan()) == [Accepted, Taught, Share]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_an_input_that_is_not_finite_shows_in_no_kind_of_reply(value: float, tmp_path: Path) -> None:
    """The transfer set holds bytes, the records floats: of one of them everything is broken."""
    assert kinds(of_arrays(tmp_path, np.full((8, 8), value), 3), sites.plan()) == [Accepted, Taught, Share]


def test_no_record_at_all_shows_in_no_kind_of_reply(tmp_path: Path) -> None:
    site = of_arrays(tmp_path)
    np.savez(tmp_path / "records.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.int64))
    assert kinds(site, sites.plan()) == [Accepted, Taught, Share]


def test_the_ledger_of_a_site_with_a_bad_record_holds_the_same_entries(tmp_path: Path) -> None:
    found = []
    for folder, label in [(tmp_path / "a", None), (tmp_path / "b", 10)]:
        site = of_arrays(folder, np.zeros((8, 8), np.uint8), label)
        ask(site, sites.plan())
        with closing(sqlite3.connect(site.ledger)) as db:
            rows = db.execute("SELECT kind, content FROM ledger ORDER BY id").fetchall()
        found.append([(kind, re.sub(r'"time": "[^"]*"', "", content)) for kind, content in rows])
    assert found[0] == found[1]
