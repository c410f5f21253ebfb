"""The Flower ClientApp: decode, do, encode.

A site answers three kinds of question: an offer of a plan, a call to train, and a request for answers on public inputs. What
it once answered it stores before it sends, and sends again byte for byte when asked again: a repeated question
costs nothing and tells nothing new.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from limbeck.client import blackbox, release, teachers
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.client.transcript import Transcript
from limbeck.operators.errors import BudgetError, DataError, LimbeckError, SettingError, TeacherError, WireError
from limbeck.protos import accounting, carry, codec
from limbeck.protos.files import write_durably
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Plan, Reason, Reply, Share, Taught, Teach

log = logging.getLogger(__name__)
app = ClientApp()

# In a plan's state folder: what a black-box teacher answered.
BLACK_BOX = "black-box"


@app.query("agree")
@app.train("teach")
@app.query("share")
def answer(message: Message, context: Context) -> Message:
    """One question, one answer. Raises WireError on bytes that are no request: Flower returns it as an error."""
    reply = respond(Site.of(context.node_config), carry.unpack(message.content))
    return Message(carry.pack(reply), reply_to=message)


def respond(site: Site, data: bytes) -> bytes:
    """The encoded reply of `site` to the encoded request `data`. Raises WireError where `data` is no request."""
    request = codec.decode_request(data)
    plan_hash = codec.plan_hash(request.plan) if isinstance(request, Offer) else request.plan_hash
    try:
        match request:
            case Offer():
                return _agree(site, request.plan, plan_hash)
            case Teach():
                return _teach(site, _accepted_plan(site, plan_hash), plan_hash)
            case Ask():
                return _share(site, _accepted_plan(site, plan_hash), request)
    except _Decline as decline:
        log.warning("%s declines: %s (%s)", site.name, decline.reason.value, decline.__cause__ or "as its settings say")
        return codec.encode_reply(Declined(plan_hash=plan_hash, reason=decline.reason, site=site.name))


class _Decline(Exception):
    """Leaves a handler with a public reason; the cause stays in the site's log."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def _agree(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Check the plan against this site's budget and transfer sets; no record is read."""
    claimed, own = plan.privacy, site.budget
    if plan.label_counts is not None and not site.settings.release_label_counts:
        raise _Decline(Reason.POLICY)
    if (claimed.unit, claimed.adjacency) != (own.unit, own.adjacency):
        raise _Decline(Reason.POLICY)
    if accounting.epsilon(((plan.teaching, plan.label_counts),), claimed.delta) > claimed.epsilon:
        raise _Decline(Reason.PLAN)
    try:
        x_N = _transfer_set(site, plan)
    except DataError as error:
        raise _Decline(Reason.TRANSFER_SET) from error
    if len(x_N) != plan.samples:
        raise _Decline(Reason.TRANSFER_SET)
    state = site.state(plan_hash)
    taught = state / "taught.pb"
    if taught.exists():
        guarantee = _guarantee(taught, plan)
    elif site.settings.black_box is not None:
        guarantee = Guarantee.NONE
        _check_black_box(site, plan, x_N)
    else:
        guarantee = Guarantee.RECORD_DP
        try:
            with Ledger(site.ledger, own) as ledger:
                ledger.check(plan.teaching, plan.label_counts)
        except BudgetError as error:
            raise _Decline(Reason.BUDGET) from error
    write_durably(state / "plan.pb", codec.encode_request(Offer(plan=plan)))
    return codec.encode_reply(Accepted(plan_hash=plan_hash, site=site.name, guarantee=guarantee))


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
    reply = codec.decode_reply(taught.read_bytes(), plan=plan, expecting=Teach(plan_hash=codec.plan_hash(plan)))
    if not isinstance(reply, Taught):
        raise WireError(f"Expected a stored reply in {taught}, found another.")
    return reply.guarantee


def _accepted_plan(site: Site, plan_hash: bytes) -> Plan:
    """The plan that this site accepted under this hash; declines where there is none."""
    path = site.state(plan_hash) / "plan.pb"
    if not path.exists():
        raise _Decline(Reason.PLAN)
    offer = codec.decode_request(path.read_bytes())
    if not isinstance(offer, Offer) or codec.plan_hash(offer.plan) != plan_hash:
        raise WireError(f"Expected the accepted plan {plan_hash.hex()} in {path}, found another.")
    return offer.plan


def _teach(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Reserve, only then read the first record, train, release label counts if the plan says so, commit."""
    state = site.state(plan_hash)
    done = state / "taught.pb"
    if done.exists():
        return done.read_bytes()
    if site.settings.black_box is not None:
        return _ask_black_box(site, plan, plan_hash)
    try:
        with Ledger(site.ledger, site.budget) as ledger:
            entry = ledger.reserve(plan_hash, "teacher", plan.teaching, plan.label_counts)
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
            public_x=_transfer_set(site, plan),
            noise=noise,
            cache=site.cache,
        )
    except (LimbeckError, RuntimeError, ValueError) as error:
        raise _Decline(Reason.TEACHING_FAILED) from error
    teacher.save(state / "teacher.safetensors")
    counts = release.label_counts(y_N, plan.classes, plan.label_counts, noise) if plan.label_counts else None
    with Ledger(site.ledger, site.budget) as ledger:
        ledger.commit(entry)
    taught = Taught(plan_hash=plan_hash, label_counts=counts, guarantee=Guarantee.RECORD_DP)
    return _send(site, taught, "taught", entry, done)


def _ask_black_box(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Have the site's own teacher answer the public inputs; the ledger notes first that no guarantee holds. No label counts leave."""
    state = site.state(plan_hash)
    try:
        entry = _declare(site, plan_hash)
        log.warning(
            "%s: answers of a black-box teacher leave with NO DP GUARANTEE, as allow_without_dp = true allows.", site.name
        )
        _black_box(site).ask(plan, _transfer_set(site, plan), state / BLACK_BOX)
    except BudgetError as error:
        raise _Decline(Reason.POLICY) from error
    except (TeacherError, SettingError, DataError) as error:
        raise _Decline(Reason.TEACHER) from error
    taught = Taught(plan_hash=plan_hash, label_counts=None, guarantee=Guarantee.NONE)
    return _send(site, taught, "taught", entry, state / "taught.pb")


def _declare(site: Site, plan_hash: bytes) -> int:
    """The ledger's entry for a plan's answers without a guarantee. Raises BudgetError where the owner does not, or no longer, allow it."""
    with Ledger(site.ledger, site.budget) as ledger:
        return ledger.declare(plan_hash, "answers of a black-box teacher", "no DP guarantee: limbeck did not train it")


def _share(site: Site, plan: Plan, request: Ask) -> bytes:
    """Answer on part of the transfer set: post-processing of the DP teacher, so free in ε, or a black-box teacher's answers."""
    rows = slice(request.first, request.first + request.count)
    if request.stage >= len(plan.stages) or rows.stop > plan.samples:
        raise _Decline(Reason.PLAN)
    state = site.state(request.plan_hash)
    taught = state / "taught.pb"
    if not taught.exists():
        raise _Decline(Reason.NOT_TAUGHT)
    what = f"share of stage {request.stage + 1}, samples {rows.start} to {rows.stop - 1}"
    done = state / f"share-{request.stage}-{rows.start}-{rows.stop}.pb"
    if done.exists():
        return done.read_bytes()
    temperature = plan.stages[request.stage].temperature
    if _guarantee(taught, plan) is Guarantee.NONE:
        try:
            entry = _declare(site, request.plan_hash)
        except BudgetError as error:
            raise _Decline(Reason.POLICY) from error
        log_p_NK, temperature = blackbox.log_probabilities(plan, state / BLACK_BOX, temperature)
    else:
        teacher = teachers.load(state / "teacher.safetensors")
        log_p_NK = teacher.log_probabilities(_transfer_set(site, plan), cache=site.cache)
        with Ledger(site.ledger, site.budget) as ledger:
            entry = ledger.record_free(request.plan_hash, what, "post-processing of a DP-trained teacher on public inputs")
    answers = release.answers(log_p_NK[rows], plan, temperature, site.noise())
    share = Share(plan_hash=request.plan_hash, stage=request.stage, first=request.first, answers=answers)
    return _send(site, share, what, entry, done, plan)


def _send(site: Site, reply: Reply, what: str, entry: int, done: Path, plan: Plan | None = None) -> bytes:
    """Write the reply to the transcript, then to the store: nothing leaves that the transcript lacks."""
    data = codec.encode_reply(reply, plan=plan)
    Transcript(site.transcript).append(what, reply.plan_hash, entry, data)
    write_durably(done, data)
    return data


@lru_cache(maxsize=4)
def _read_transfer_set(folder: Path, sha256: bytes) -> NDArray[np.generic]:
    """Read and hashed once per process: it is named by its hash, so it cannot change under its name."""
    return Site(folder).read_transfer_set(sha256)


def _transfer_set(site: Site, plan: Plan) -> NDArray[np.generic]:
    return _read_transfer_set(site.folder, plan.transfer_set)
