"""The Flower ClientApp: decode, do, encode.

A site answers three kinds of question: an offer of a plan, a call to train, and a request for answers on public inputs. What
it once answered it stores before it sends, and sends again byte for byte when asked again: a repeated question
costs nothing and tells nothing new.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from limbeck.client import blackbox, release, teachers
from limbeck.client.ledger import Ledger
from limbeck.client.policy import AnyPolicy
from limbeck.client.site import Site
from limbeck.operators.errors import (
    BudgetError,
    DataError,
    LimbeckError,
    PolicyError,
    SettingError,
    TeacherError,
    TranscriptError,
    WireError,
)
from limbeck.protos import accounting, carry, codec, plan_checks
from limbeck.protos.files import outliving_power_cuts, sync_folder, write_durably
from limbeck.protos.messages import (
    CUSTOM,
    Accepted,
    Ask,
    Declined,
    Guarantee,
    NetTeaching,
    Offer,
    Plan,
    Reason,
    Reply,
    Request,
    Share,
    Taught,
    Teach,
)

log = logging.getLogger(__name__)
app = ClientApp()

# In a plan's state folder: what a black-box teacher answered.
BLACK_BOX = "black-box"
# Likewise: what a site says when it has trained, and the same before it is in the transcript. What was charged for is not lost where the
# transcript cannot be written then, as on a full disk.
TAUGHT, UNSENT = "taught.pb", "taught-unsent.pb"
# What the ledger calls the training for a plan.
TEACHER = "teacher"


@app.query("agree")
@app.train("teach")
@app.query("share")
def answer(message: Message, context: Context) -> Message:
    """One question, one answer. Raises WireError on bytes that are no request, LimbeckError where nothing may be sent."""
    try:
        reply = respond(Site.of(context.node_config), carry.unpack(message.content))
    except WireError:
        raise
    except Exception:
        # The text of an error can hold paths or records, and the carrier would send it.
        log.exception("A question could not be answered.")
        raise LimbeckError(Reason.FAILED.value) from None
    return Message(carry.pack(reply), reply_to=message)


def respond(site: Site, data: bytes) -> bytes:
    """The encoded reply of `site` to the encoded request `data`, as it is in the transcript by then.

    Raises WireError where `data` is no request, TranscriptError where the reply could not be written down and so must not be sent.
    """
    with outliving_power_cuts(site.settings.durability == "power-cut"):
        return _respond(site, codec.decode_request(data))


def _respond(site: Site, request: Request) -> bytes:
    plan_hash = codec.plan_hash(request.plan) if isinstance(request, Offer) else request.plan_hash
    try:
        match request:
            case Offer():
                return _agree(site, request, plan_hash)
            case Teach():
                return _teach(site, _accepted_plan(site, plan_hash), plan_hash)
            case Ask():
                return _share(site, _accepted_plan(site, plan_hash), request)
    except TranscriptError:
        raise
    except _Decline as decline:
        log.warning("%s declines: %s (%s)", site.name, decline.reason.value, decline.__cause__ or "as asked now")
        reason = decline.reason
    except Exception:
        # What an error says may speak of records, and a carrier would send it: it stays in the site's own log.
        log.exception("%s met an error.", site.name)
        reason = Reason.FAILED
    return _send(site, Declined(plan_hash=plan_hash, reason=reason, site=site.name), f"declined: {reason.value}", None)


class _Decline(Exception):
    """Leaves a handler with a public reason; the cause stays in the site's log."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def _check_policy(site: Site, offer: Offer) -> AnyPolicy:
    """The policy as it stands now, which allows this plan; declines where it does not."""
    try:
        policy = site.policy()
        policy.check(offer.plan, offer.author)
    except (PolicyError, SettingError) as error:
        raise _Decline(Reason.POLICY) from error
    return policy


def _agree(site: Site, offer: Offer, plan_hash: bytes) -> bytes:
    """Check the plan against this site's policy, budget and transfer sets; no record is read."""
    plan = offer.plan
    own = _check_policy(site, offer).ledger_budget
    if accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta) > plan.privacy.epsilon:
        raise _Decline(Reason.PLAN)
    try:
        x_N = site.read_transfer_set(plan.transfer_set)
    except DataError as error:
        raise _Decline(Reason.TRANSFER_SET) from error
    if len(x_N) != plan.samples:
        raise _Decline(Reason.TRANSFER_SET)
    try:
        plan_checks.check_inputs(plan, x_N)
        teachers.check(plan.teaching, x_N, classes=plan.classes, factory=site.factory)
    except (SettingError, DataError) as error:
        raise _Decline(Reason.POLICY if _is_custom(plan) else Reason.PLAN) from error
    state = site.state(plan_hash)
    taught = next((path for name in (TAUGHT, UNSENT) if (path := state / name).exists()), None)
    if taught is not None:
        guarantee = _guarantee(taught, plan)
    elif site.settings.black_box is not None:
        guarantee = Guarantee.NONE
        _check_black_box(site, plan, x_N)
    else:
        guarantee = Guarantee.RECORD_DP
        _check_encoding(site, plan)
        try:
            with Ledger(site.ledger, own) as ledger:
                ledger.check(plan.teaching, plan.counts)
        except BudgetError as error:
            raise _Decline(Reason.BUDGET) from error
    write_durably(state / "plan.pb", codec.encode_request(offer))
    return _send(site, Accepted(plan_hash=plan_hash, site=site.name, guarantee=guarantee), "accepted", None)


def _check_encoding(site: Site, plan: Plan) -> None:
    """Decline unless the records would become rows as the plan's transfer set did; no record is read."""
    try:
        site.check_encoding(plan.encoding)
    except DataError as error:
        raise _Decline(Reason.ENCODING) from error


def _is_custom(plan: Plan) -> bool:
    return isinstance(plan.teaching, NetTeaching) and plan.teaching.architecture == CUSTOM


def _check_black_box(site: Site, plan: Plan, x_N: NDArray[np.generic]) -> None:
    """Decline unless the owner allows answers without a guarantee and the site's teacher can give them; nothing is asked yet."""
    try:
        with Ledger(site.ledger, site.budget) as ledger:
            ledger.check_declared()
        _black_box(site).check(plan, x_N)
    except BudgetError as error:
        raise _Decline(Reason.POLICY) from error
    except (TeacherError, SettingError, DataError) as error:
        raise _Decline(Reason.TEACHER) from error


def _black_box(site: Site) -> blackbox.BlackBox:
    teacher = site.black_box
    if teacher is None:
        raise SettingError(f"Expected [black_box] in the settings of {site.name}, found none.")
    return teacher


def _guarantee(taught: Path, plan: Plan) -> Guarantee:
    """What the answers of this site guarantee, as it said when its teacher was ready: later settings do not change it."""
    return _read_taught(taught, plan).guarantee


def _read_taught(path: Path, plan: Plan) -> Taught:
    reply = codec.decode_stored_reply(path.read_bytes(), plan=plan, expecting=Teach(plan_hash=codec.plan_hash(plan)))
    if not isinstance(reply, Taught):
        raise DataError(f"Expected a stored reply in {path}, found another.")
    return reply


def _accepted_plan(site: Site, plan_hash: bytes) -> Plan:
    """The plan that this site accepted under this hash, if the policy still allows it; declines where there is none."""
    path = site.state(plan_hash) / "plan.pb"
    if not path.exists():
        raise _Decline(Reason.PLAN)
    offer = codec.decode_offer(path.read_bytes())
    if codec.plan_hash(offer.plan) != plan_hash:
        raise DataError(f"Expected the accepted plan {plan_hash.hex()} in {path}, found another.")
    _check_policy(site, offer)
    return offer.plan


def _teach(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Reserve, only then read the first record, train, release noisy counts if the plan says so, commit.

    A plan is charged once, whatever the budget would allow: a training that was charged for and came to nothing is not begun again.
    """
    state = site.state(plan_hash)
    done, unsent = state / TAUGHT, state / UNSENT
    if done.exists():
        return _send_again(site, "taught", plan, done)
    if site.settings.black_box is not None:
        return _ask_black_box(site, plan, plan_hash)
    _check_encoding(site, plan)
    budget = site.budget
    try:
        with Ledger(site.ledger, budget) as ledger:
            earlier = [own for own in ledger.entries() if (own.plan_hash, own.what) == (plan_hash, TEACHER)]
            if earlier and unsent.exists():
                if earlier[-1].state == "reserved":
                    ledger.commit(earlier[-1].id)
                return _send_taught(site, unsent, plan, earlier[-1].id)
            if earlier:
                raise BudgetError(
                    f"Expected to charge plan {plan_hash.hex()[:16]} once, found it charged, and its teacher lost."
                )
            entry = ledger.reserve(plan_hash, TEACHER, plan.teaching, plan.counts)
    except BudgetError as error:
        raise _Decline(Reason.BUDGET) from error
    try:
        x_N, y_N = site.read_records(plan.classes)
    except DataError as error:
        raise _Decline(Reason.DATA) from error
    noise = site.noise()
    try:
        teacher = teachers.train(
            plan.teaching,
            x_N,
            y_N,
            classes=plan.classes,
            public_x=site.read_transfer_set(plan.transfer_set),
            noise=noise,
            cache=site.cache,
            factory=site.factory,
            opacus=site.settings.gradients == "opacus",
        )
    except (LimbeckError, RuntimeError, ValueError) as error:
        raise _Decline(Reason.TEACHING_FAILED) from error
    teacher.save(state / "teacher.safetensors")
    taught = Taught(
        plan_hash=plan_hash,
        label_counts=release.label_counts(y_N, plan.classes, plan.label_counts, noise) if plan.label_counts else None,
        record_count=release.record_count(y_N, plan.record_count, noise) if plan.record_count else None,
        guarantee=Guarantee.RECORD_DP,
    )
    write_durably(unsent, codec.encode_reply(taught))
    with Ledger(site.ledger, budget) as ledger:
        ledger.commit(entry)
    return _send_taught(site, unsent, plan, entry)


def _send_taught(site: Site, unsent: Path, plan: Plan, entry: int) -> bytes:
    """Write to the transcript what a trained site says. It is only renamed then, which needs no room."""
    data = _send(site, _read_taught(unsent, plan), "taught", entry)
    unsent.replace(unsent.with_name(TAUGHT))
    sync_folder(unsent.parent)
    return data


def _ask_black_box(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Have the site's own teacher answer the public inputs; the ledger notes first that no guarantee holds. No counts leave."""
    state = site.state(plan_hash)
    try:
        entry = _declare(site, plan_hash)
        log.warning(
            "%s: answers of a black-box teacher leave with NO DP GUARANTEE, as allow_without_dp = true allows.", site.name
        )
        _black_box(site).ask(plan, site.read_transfer_set(plan.transfer_set), state / BLACK_BOX)
    except BudgetError as error:
        raise _Decline(Reason.POLICY) from error
    except (TeacherError, SettingError, DataError) as error:
        raise _Decline(Reason.TEACHER) from error
    taught = Taught(plan_hash=plan_hash, label_counts=None, guarantee=Guarantee.NONE)
    return _send(site, taught, "taught", entry, state / TAUGHT)


def _declare(site: Site, plan_hash: bytes) -> int:
    """The ledger's entry for a plan's answers without a guarantee. Raises BudgetError where the owner does not, or no longer, allow it."""
    with Ledger(site.ledger, site.budget) as ledger:
        return ledger.declare(plan_hash, "answers of a black-box teacher", "no DP guarantee: limbeck did not train it")


def _share(site: Site, plan: Plan, request: Ask) -> bytes:
    """Answer on part of the transfer set: post-processing of what teaching was charged for, or a black-box teacher's answers."""
    rows = slice(request.first, request.first + request.count)
    if request.stage >= len(plan.stages) or rows.stop > plan.samples:
        raise _Decline(Reason.PLAN)
    state = site.state(request.plan_hash)
    taught = state / TAUGHT
    if not taught.exists():
        raise _Decline(Reason.NOT_TAUGHT)
    what = f"share of stage {request.stage + 1}, samples {rows.start} to {rows.stop - 1}"
    done = state / f"share-{request.stage}-{rows.start}-{rows.stop}.pb"
    if done.exists():
        return _send_again(site, what, plan, done)
    temperature = plan.stages[request.stage].temperature
    if _guarantee(taught, plan) is Guarantee.NONE:
        try:
            entry = _declare(site, request.plan_hash)
        except BudgetError as error:
            raise _Decline(Reason.POLICY) from error
        log_p_NK, temperature = blackbox.log_probabilities(plan, state / BLACK_BOX, temperature)
    else:
        teacher = teachers.load(state / "teacher.safetensors", factory=site.factory)
        log_p_NK = teacher.log_probabilities(site.read_transfer_set(plan.transfer_set), cache=site.cache)
        with Ledger(site.ledger, site.budget) as ledger:
            entry = ledger.record_free(request.plan_hash, what, release.why_free(plan))
    answers = release.answers(log_p_NK[rows], plan, temperature, site.noise())
    share = Share(plan_hash=request.plan_hash, stage=request.stage, first=request.first, answers=answers)
    return _send(site, share, what, entry, done, plan)


def _send(
    site: Site, reply: Reply, what: str, entry: int | None, done: Path | None = None, plan: Plan | None = None
) -> bytes:
    """Write the reply to the transcript, then to the store if there is one: nothing leaves that the transcript lacks."""
    data = codec.encode_reply(reply, plan=plan)
    site.transcript.append(what, reply.plan_hash, entry, data)
    if done is not None:
        write_durably(done, data)
    return data


def _send_again(site: Site, what: str, plan: Plan, done: Path) -> bytes:
    """What was sent before, byte for byte, noted in the transcript once more; what 0.1.0 sent, in today's encoding from now on."""
    stored = done.read_bytes()
    data = codec.renew(stored, plan)
    site.transcript.append(what, codec.plan_hash(plan), None, data, again=data == stored)
    if data != stored:
        write_durably(done, data)
    return data
