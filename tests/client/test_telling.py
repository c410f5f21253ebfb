"""A site's own log: what it accepts, declines and why, is charged for and answers, each with the plan and, where it costs, its terms."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from helpers import sites
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.plans import accounting
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Declined, Offer, Request, Teach

PLAN = sites.plan()
HASH = codec.plan_hash(PLAN)
COST = accounting.epsilon(((PLAN.teaching, PLAN.counts),), PLAN.privacy.delta)
TERMS = {"delta": 1e-5, "unit": "record", "adjacency": "add-remove-one"}


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "limbeck")


def ask(site: Site, question: Request) -> bytes:
    return respond(site, codec.encode_request(question))


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    """Messages with what they are about; the latter's `plan` is this test's."""
    found = [(each.getMessage(), dict(each.__dict__["about"])) for each in caplog.records if "about" in each.__dict__]
    assert {about.pop("plan") for _, about in found} <= {HASH.hex()}
    assert {about.pop("site") for _, about in found} <= {"site"}
    return found


def test_a_plan_from_its_offer_to_its_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = sites.make(tmp_path / "site")
    for question in (sites.offer(), Teach(plan_hash=HASH), Ask(plan_hash=HASH, stage=0, first=0, count=20)):
        ask(site, question)
    accepted, charged, taught, answered = told(caplog)
    assert accepted[1] == {"event": "accepted", "epsilon": COST, **TERMS}
    assert accepted[0].endswith(
        f"epsilon = {COST:.4g} at delta = 1e-05, per record, add-remove-one: nothing is charged yet."
    )
    assert charged[1] == {"event": "charged", "epsilon": COST, **TERMS, "spent": COST, "entry": 2}
    assert f"of its budget of {site.budget}. It trains now." in charged[0]
    assert taught[1] == {"event": "taught"}
    size = answered[1].pop("size")
    assert answered[1] == {"event": "answered", "stage": 1, "stages": 2}
    assert (
        f"answers 20 public inputs of stage 1 of 2 of plan {HASH.hex()[:16]}, {size} bytes; this costs nothing more"
        in answered[0]
    )


def test_what_is_asked_again_is_said_to_cost_nothing_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = sites.make(tmp_path / "site")
    questions = (sites.offer(), Teach(plan_hash=HASH), Ask(plan_hash=HASH, stage=0, first=0, count=20))
    for question in (*questions, *questions):
        ask(site, question)
    again = [message for message, _ in told(caplog)][4:]
    expected = ("charged before, and not again", "as it said before", "the same as before")
    for words, message in zip(expected, again, strict=True):
        assert words in message


def test_a_refusal_has_its_private_cause_in_the_log_and_its_public_reason_in_the_reply(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make(tmp_path / "site")
    reply = codec.decode_reply(ask(site, Offer(plan=PLAN)), plan=PLAN, expecting=Offer(plan=PLAN))
    assert isinstance(reply, Declined)
    ((message, about),) = told(caplog)
    assert about["event"] == "declined"
    assert "plans.authors: the plan is not signed" in str(about["reason"])
    assert message.startswith(f"site declines plan {HASH.hex()[:16]}: {reply.reason.value} (")
    assert "plans.authors" not in reply.reason.value


def test_no_number_of_records_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logs are often sent elsewhere; a count without noise would be a release."""
    site = sites.make(tmp_path / "site")
    with np.load(site.folder / "records.npz") as whole:
        np.savez(site.folder / "records.npz", x=whole["x"].repeat(41, axis=0), y=whole["y"].repeat(41))
    for question in (sites.offer(), Teach(plan_hash=HASH), Ask(plan_hash=HASH, stage=0, first=0, count=20)):
        ask(site, question)
    assert "1230" not in caplog.text
    assert "1,230" not in caplog.text
