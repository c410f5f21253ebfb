"""The Flower ClientApp: decode, do, encode.

A site answers three kinds of question: an offer of a plan, a call to train, and a request for answers on public inputs. Every answer is
stored before it is sent, and sent again byte for byte when the question is repeated: a repeated question costs nothing and reveals nothing
new. Answers on public inputs are drawn once for a stage, for all inputs, and stored before the first is sent: whatever range is requested,
and however often, an input has one answer.

declining.py    which public reason is given for which error
conditions.py   what must hold before a site answers
training.py     training once under one charge
replies.py      how a reply is written down and sent
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from limbeck.base import logs
from limbeck.base.errors import (
    DataError,
    LimbeckError,
    TranscriptError,
    WireError,
)
from limbeck.base.files import keep_to_owner, outliving_power_cuts, write_durably
from limbeck.base.printable import escape_logs
from limbeck.client import blackbox, conditions, release, replies, teachers, telling, training
from limbeck.client.declining import Decline, Step, during
from limbeck.client.site import Site
from limbeck.client.stored import Answers
from limbeck.client.witness import (
    BLACK_BOX,
    BLACK_BOX_ANSWERS,
    CHARGE,
    DIGITS,
    PLAN,
    SEEDED,
    TAUGHT,
    TEACHER,
    UNSENT,
    WHY_BLACK_BOX,
    WHY_SEEDED,
)
from limbeck.plans import accounting
from limbeck.plans.schema import Plan
from limbeck.protos import carry, codec, floor
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reason, Request, Share, Taught, Teach

log = logging.getLogger(__name__)
app = ClientApp()

# In the folder of all states: held by the one process of a site that trains.
LOCK = "training.lock"
# How many plans are kept that were accepted and never charged for.
ACCEPTED = 256


@app.query("agree")
@app.train("teach")
@app.query("share")
def answer(message: Message, context: Context) -> Message:
    """One question, one answer. Raises WireError if the bytes are not a request, LimbeckError if nothing may be sent."""
    # Flower's process runs this with the umask and the logging that it was started with.
    keep_to_owner()
    escape_logs()
    try:
        reply = respond(Site.of(context.node_config), carry.unpack(message.content))
    except WireError:
        raise
    except Exception:
        # The text of an error may contain paths or records, and the carrier would send it.
        log.exception("A question could not be answered.")
        raise LimbeckError(Reason.FAILED.value) from None
    return Message(carry.pack(reply), reply_to=message)


def respond(site: Site, data: bytes, *, backend: teachers.Backend = teachers) -> bytes:
    """The encoded reply of `site` to the encoded request `data`, as it is in the transcript by then.

    backend: what trains and loads the site's teachers.

    Raises: WireError if `data` is not a request, TranscriptError if the reply could not be written down and so must not be sent.
    """
    with outliving_power_cuts(site.settings.durability == "power-cut"):
        return _respond(site, codec.decode_request(data), backend)


def _respond(site: Site, request: Request, backend: teachers.Backend) -> bytes:
    plan_hash = codec.plan_hash(request.plan) if isinstance(request, Offer) else request.plan_hash
    try:
        match request:
            case Offer():
                return _agree(site, request, plan_hash)
            case Teach():
                return _teach(site, _accepted_plan(site, plan_hash), plan_hash, backend)
            case Ask():
                return _share(site, _accepted_plan(site, plan_hash), request, backend)
    except TranscriptError:
        raise
    except Decline as decline:
        telling.declined(site, plan_hash, decline)
        reason = decline.reason
    except Exception:
        # What an error says may speak of records, and a carrier would send it: it stays in the site's own log.
        log.exception("%s met an error.", site.name, extra=logs.about(event="failed", site=site.name, plan=plan_hash))
        reason = Reason.FAILED
    declined = Declined(plan_hash=plan_hash, reason=reason, site=site.name)
    what = f"declined: {reason.value}"
    if (site.state(plan_hash) / PLAN).exists():
        return replies.send(site, declined, what, None)
    data = codec.encode_reply(declined)
    site.refusals.append(what, plan_hash, None, data)
    return data


def _agree(site: Site, offer: Offer, plan_hash: bytes) -> bytes:
    """Check the plan against this site's policy, budget and public inputs; no record is read."""
    plan = offer.plan
    conditions.check_policy(site, offer)
    conditions.check_ledger(site)
    if accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta) > plan.privacy.epsilon:
        raise Decline(Reason.PLAN)
    x_N = conditions.public_inputs(site, plan)
    state = site.state(plan_hash)
    taught = next((path for name in (TAUGHT, UNSENT) if (path := state / name).exists()), None)
    charged = taught is not None
    if taught is not None:
        guarantee = _guarantee(taught, plan)
    elif site.settings.black_box is not None:
        guarantee = Guarantee.NONE
        conditions.check_black_box(site, plan, x_N)
    else:
        guarantee = conditions.guarantee_of(conditions.open_noise(site))
        conditions.check_seeded(site, guarantee)
        conditions.check_encoding(site, plan)
        conditions.check_records(site, plan, x_N)
        with conditions.open_ledger(site) as ledger:
            if (earlier := ledger.charge_of(plan_hash, CHARGE)) is not None:
                training.check_may_train_again(site, earlier)
                charged = True
            else:
                ledger.check(plan.teaching, plan.counts)
    if not (state / PLAN).exists():
        _make_room(site, state.parent)
    write_durably(state / PLAN, codec.encode_request(offer))
    data = replies.send(site, Accepted(plan_hash=plan_hash, site=site.name, guarantee=guarantee), "accepted", None)
    telling.accepted(site, offer, plan_hash, guarantee, charged=charged)
    return data


def _make_room(site: Site, states: Path) -> None:
    """Forget the oldest plans that were accepted and never trained for: anybody whose plans are accepted could fill a disk with them."""
    noted = site.witness.noted()
    charged = {plan[:DIGITS] for plan in (noted.plans if noted is not None else ())}
    bare = [
        folder
        for folder in (states.iterdir() if states.is_dir() else ())
        if folder.is_dir() and folder.name not in charged and [path.name for path in folder.iterdir()] == [PLAN]
    ]
    for folder in sorted(bare, key=lambda folder: (folder / PLAN).stat().st_mtime_ns)[: max(0, len(bare) + 1 - ACCEPTED)]:
        log.warning("The plan in %s is forgotten: more than %d were accepted, and never trained for.", folder, ACCEPTED)
        (folder / PLAN).unlink()
        folder.rmdir()


def _guarantee(taught: Path, plan: Plan) -> Guarantee:
    """What the answers of this site guarantee, as it said when its teacher was ready; later settings do not change it."""
    return replies.read_taught(taught, plan).guarantee


def _accepted_plan(site: Site, plan_hash: bytes) -> Plan:
    """The plan that this site accepted under this hash, if the policy still allows it; declines if there is none."""
    path = site.state(plan_hash) / PLAN
    if not path.exists():
        raise Decline(Reason.PLAN)
    offer = codec.decode_offer(path.read_bytes())
    if codec.plan_hash(offer.plan) != plan_hash:
        # A folder's name is only the first half of a hash.
        raise Decline(Reason.PLAN) from DataError(f"Expected the accepted plan {plan_hash.hex()} in {path}, found another.")
    conditions.check_policy(site, offer)
    conditions.check_ledger(site)
    return offer.plan


def _teach(site: Site, plan: Plan, plan_hash: bytes, backend: teachers.Backend) -> bytes:
    """The reply of a trained site: the stored one, or a new one after training. A second process waits, and finds the first one's reply."""
    with _alone(site.state(plan_hash).parent):
        state = site.state(plan_hash)
        if (state / TAUGHT).exists():
            data = replies.send_again(site, "taught", plan, state / TAUGHT)
            telling.taught(site, plan, plan_hash, again=True)
            return data
        if site.settings.black_box is not None:
            return _ask_black_box(site, plan, plan_hash)
        return training.train(site, plan, plan_hash, state, backend)


@contextmanager
def _alone(states: Path) -> Iterator[None]:
    with (states / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ask_black_box(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Have the site's black-box teacher answer the public inputs; the ledger notes first that no guarantee holds. No counts are sent."""
    state = site.state(plan_hash)
    with during(Step.BLACK_BOX):
        entry = _declare(site, plan_hash, Guarantee.NONE)
        log.warning(
            "%s: answers of a black-box teacher leave with NO DP GUARANTEE, as allow_without_dp = true allows.", site.name
        )
        conditions.black_box(site).ask(plan, site.transfer_sets.read(plan.transfer_set, plan.samples), state / BLACK_BOX)
    taught = Taught(plan_hash=plan_hash, label_counts=None, guarantee=Guarantee.NONE)
    data = replies.send(site, taught, "taught", entry, state / TAUGHT)
    telling.taught(site, plan, plan_hash, again=False)
    return data


def _declare(site: Site, plan_hash: bytes, guarantee: Guarantee) -> int:
    """The ledger's entry for a plan's answers without a guarantee. Raises BudgetError if the owner does not allow it, or no longer."""
    what, why = (SEEDED, WHY_SEEDED) if guarantee is Guarantee.SEEDED else (BLACK_BOX_ANSWERS, WHY_BLACK_BOX)
    with site.account.open(site.budget) as ledger:
        return ledger.declare(plan_hash, what, why)


def _share(site: Site, plan: Plan, request: Ask, backend: teachers.Backend) -> bytes:
    """The answers to a range of the public inputs at one stage, which are drawn and stored once for all inputs."""
    rows = slice(request.first, request.first + request.count)
    if request.stage >= len(plan.stages) or rows.stop > plan.samples:
        raise Decline(Reason.PLAN)
    state = site.state(request.plan_hash)
    taught = state / TAUGHT
    if not taught.exists():
        raise Decline(Reason.NOT_TAUGHT)
    what = f"share of stage {request.stage + 1}, samples {rows.start} to {rows.stop - 1}"
    stored = Answers(state, plan, request.stage)
    if (done := stored.sent_whole(rows)) is not None:
        data = replies.send_again(site, what, plan, done)
        telling.answered(site, plan, request, len(data), again=True)
        return data
    with during(Step.RANGE):
        stored.check_room(rows)
    entry = _answer_stage(site, plan, request, stored, taught, backend)
    share = Share(plan_hash=request.plan_hash, stage=request.stage, first=request.first, answers=stored.read(rows))
    data = codec.encode_reply(share, plan=plan)
    again = stored.was_sent(rows)
    replies.note(site, what, request.plan_hash, None if again else entry, data, again=again)
    if not again:
        stored.note_sent(rows)
    telling.answered(site, plan, request, len(data), again=again)
    return data


def _answer_stage(site: Site, plan: Plan, request: Ask, stored: Answers, taught: Path, backend: teachers.Backend) -> int:
    """Store the answers to all inputs at a stage, if they are not stored yet; returns the ledger's entry that allows them to be sent.

    They are post-processing of what was charged for teaching, or a black-box teacher's.
    """
    state, temperature = taught.parent, plan.stages[request.stage].temperature
    guarantee = _guarantee(taught, plan)
    if guarantee is not Guarantee.RECORD_DP:
        with during(Step.DECLARATION):
            entry = _declare(site, request.plan_hash, guarantee)
    else:
        with conditions.open_ledger(site) as ledger:
            entry = ledger.record_free(request.plan_hash, f"answers of stage {request.stage + 1}", release.why_free(plan))
    if not stored.exists():
        if guarantee is Guarantee.NONE:
            log_p_NK, temperature = blackbox.log_probabilities(plan, state / BLACK_BOX, temperature)
        else:
            teacher = backend.load(state / TEACHER, factory=site.factory)
            public_x = site.transfer_sets.read(plan.transfer_set, plan.samples)
            log_p_NK = teacher.log_probabilities(public_x, cache=site.cache)
        answers = release.answers(log_p_NK, plan, temperature, conditions.open_noise(site))
        if (sentence := floor.warning(plan, release.at_floor(answers, plan), temperature)) is not None:
            log.warning("%s", sentence)
        stored.write(answers)
    return entry
