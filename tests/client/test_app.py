"""The client app as a coordinator meets it: bytes in, bytes out."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sites
import tomli_w

from limbeck.client import encodings, teachers
from limbeck.client.app import respond
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.client.tables import Table
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Declined, Plan, Reason, Reply, Request, Taught, Teach, TopK
from limbeck.protos.transfer_set import digest
from limbeck.simulations import prepare, scenario


def test_what_an_error_says_never_leaves_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("patient 17 has label 3")

    plan = prepare.prepare(scenario.load("digits-tiny", ["data.private=60", "data.public=20"]), tmp_path / "run")
    site, teach = Site(tmp_path / "run" / "sites" / "site-00"), Teach(plan_hash=codec.plan_hash(plan))
    respond(site, (tmp_path / "run" / "plan.pb").read_bytes())
    monkeypatch.setattr(teachers, "train", fail)
    sent = respond(site, codec.encode_request(teach))
    assert b"patient" not in sent
    found = codec.decode_reply(sent, plan=plan, expecting=teach)
    assert found == Declined(plan_hash=teach.plan_hash, site="site-00", reason=Reason.FAILED)


CELLS = Table(columns={"age": ["50", "70", None], "sex": ["m", "f", "f"]}, source="public")
ENCODING = encodings.fit_table(CELLS, numbers=["age"], categories=["sex"])


def of_patients(folder: Path) -> tuple[Site, Plan]:
    """A site with a table and a public encoding, and a plan that names it."""
    sites.make(folder, answers__max_bits=200)
    rows = ENCODING(CELLS)
    np.savez(folder / "transfer" / f"{digest(rows).hex()}.npz", x=rows)
    (folder / "patients.csv").write_text("age,sex,sick\n61,m,1\n40,f,0\n")
    encodings.save(ENCODING, folder / "encoding.json")
    own = {"path": "patients.csv", "label": "sick", "encoding": "encoding.json"}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": own}))
    plan = sites.plan(classes=2, samples=3, truncation=TopK(k=2), encoding=encodings.digest(ENCODING))
    teaching = replace(plan.teaching, features="rows")  # type: ignore[type-var]
    return Site(folder), replace(plan, transfer_set=digest(rows), teaching=teaching)


def ask(site: Site, plan: Plan, question: Request) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


@pytest.mark.parametrize("named", [None, bytes(32)])
def test_a_plan_with_another_encoding_is_declined_and_the_log_names_the_rule(
    named: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, plan = of_patients(tmp_path)
    with caplog.at_level(logging.WARNING, "limbeck"):
        found = ask(site, replace(plan, encoding=named), sites.offer(replace(plan, encoding=named)))
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING
    assert f"records.encoding: expected the encoding of the plan, SHA-256 {named.hex() if named else 'none'}" in caplog.text
    assert encodings.digest(ENCODING).hex() in caplog.text


def test_a_site_without_the_encoding_of_a_plan_declines(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan(encoding=bytes(32))
    found = ask(site, plan, sites.offer(plan))
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING


def test_an_encoding_changed_after_a_plan_was_accepted_is_noticed_before_a_charge_or_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_patients(tmp_path)
    teach = Teach(plan_hash=codec.plan_hash(plan))
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    path = tmp_path / "encoding.json"
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b'"deviation": 10.0', b'"deviation": 10.5'))
    assert path.read_bytes() != honest
    with monkeypatch.context() as patch:
        patch.setattr(Site, "read_records", lambda *_: pytest.fail("a record was read"))
        found = ask(site, plan, teach)
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []
    path.write_bytes(honest)
    assert isinstance(ask(site, plan, teach), Taught)
