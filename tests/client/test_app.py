"""The client app as a coordinator meets it: bytes in, bytes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.client import teachers
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.protos import codec
from limbeck.protos.messages import Declined, Reason, Teach
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
