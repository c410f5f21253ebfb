"""The Flower ClientApp: decode, do, encode.

A site answers three kinds of question: an offer of a plan, a call to train, and a request for answers on public inputs. What
it once answered it stores before it sends, and sends again byte for byte when asked again: a repeated question
costs nothing and tells nothing new. Answers on public inputs are drawn once for a stage, for all of them, and stored before the first is
sent: whatever range of them is asked for, and however often, an input has one answer.

Training again under one charge. A plan is charged once, before the first record is read. Where its training came to nothing (a column was
named wrongly, a disk was full, the process was killed) it may be done again, by fresh noise, and costs nothing more, because all that
leaves of all trainings together is one output of the mechanism that was charged for:

- Nothing of an earlier training has left. A training is committed in the ledger, once for ever and under its own name, before the reply
  that ends it is sent, and answers come only after that reply. A charge that is still only reserved therefore has no output outside;
  the transcript is asked too. A teacher, noisy counts or an unsent reply of an earlier training are never mixed with a later one: what was
  stored unsent is sent as it is, if the ledger names its training, and a new training overwrites everything else.
- That an earlier training failed tells nothing of a record. What fails is decided by files, settings, shapes and types, by the machine
  and by whoever kills a process, all of which are the same with one record more or less: a record that cannot be meant is left out, one
  that is not finite counts as zero, and no loop ends by what it computed. The peer hears a sentence of a closed list. So the tries that
  failed are independent of the record and of the noise, and conditioned on them the last is the charged mechanism itself.
- How long a try took can tell the number of records roughly, as any answer's time can (docs/privacy.md). So that it cannot be measured
  again and again, nor a site be kept busy for ever, a plan's training begins TRAININGS times at most.
"""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from limbeck.base.errors import (
    BudgetError,
    DataError,
    LedgerError,
    LimbeckError,
    SettingError,
    TranscriptError,
    WireError,
)
from limbeck.base.files import keep_to_owner, outliving_power_cuts, sync_folder, write_durably
from limbeck.base.printable import escape_logs
from limbeck.client import blackbox, release, teachers
from limbeck.client.declining import Decline, Step, during
from limbeck.client.ledger import Entry, Ledger
from limbeck.client.noise import Noise, UnsafeSeeded
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
    TRAINING,
    UNSENT,
    WHY_BLACK_BOX,
    WHY_SEEDED,
)
from limbeck.plans import accounting, checks
from limbeck.plans.schema import CUSTOM, NetTeaching, Plan
from limbeck.protos import carry, codec
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reason, Reply, Request, Share, Taught, Teach

log = logging.getLogger(__name__)
app = ClientApp()

# How often the training for a plan is begun at most; reading records that cannot be read is not counted.
TRAININGS = 8
# In the folder of all states: held while a site trains, by one process.
LOCK = "training.lock"
# Plans that are accepted and were never charged for: of more than these the oldest are forgotten.
ACCEPTED = 256


@app.query("agree")
@app.train("teach")
@app.query("share")
def answer(message: Message, context: Context) -> Message:
    """One question, one answer. Raises WireError on bytes that are no request, LimbeckError where nothing may be sent."""
    # Flower's process runs this with the umask and the logs that it was started with.
    keep_to_owner()
    escape_logs()
    try:
        reply = respond(Site.of(context.node_config), carry.unpack(message.content))
    except WireError:
        raise
    except Exception:
        # The text of an error can hold paths or records, and the carrier would send it.
        log.exception("A question could not be answered.")
        raise LimbeckError(Reason.FAILED.value) from None
    return Message(carry.pack(reply), reply_to=message)


def respond(site: Site, data: bytes, *, backend: teachers.Backend = teachers) -> bytes:
    """The encoded reply of `site` to the encoded request `data`, as it is in the transcript by then.

    backend: what trains and loads the site's teachers.
    Raises WireError where `data` is no request, TranscriptError where the reply could not be written down and so must not be sent.
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
        log.warning("%s declines: %s (%s)", site.name, decline.reason.value, decline.__cause__ or "as asked now")
        reason = decline.reason
    except Exception:
        # What an error says may speak of records, and a carrier would send it: it stays in the site's own log.
        log.exception("%s met an error.", site.name)
        reason = Reason.FAILED
    declined = Declined(plan_hash=plan_hash, reason=reason, site=site.name)
    what = f"declined: {reason.value}"
    if (site.state(plan_hash) / PLAN).exists():
        return _send(site, declined, what, None)
    data = codec.encode_reply(declined)
    site.refusals.append(what, plan_hash, None, data)
    return data


@during(Step.POLICY)
def _check_policy(site: Site, offer: Offer) -> None:
    """Decline unless the policy, as it stands now, allows this plan."""
    site.policy().check(offer.plan, offer.author)


def _agree(site: Site, offer: Offer, plan_hash: bytes) -> bytes:
    """Check the plan against this site's policy, budget and transfer sets; no record is read."""
    plan = offer.plan
    _check_policy(site, offer)
    _check_ledger(site)
    if accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta) > plan.privacy.epsilon:
        raise Decline(Reason.PLAN)
    x_N = _public_inputs(site, plan)
    state = site.state(plan_hash)
    taught = next((path for name in (TAUGHT, UNSENT) if (path := state / name).exists()), None)
    if taught is not None:
        guarantee = _guarantee(taught, plan)
    elif site.settings.black_box is not None:
        guarantee = Guarantee.NONE
        _check_black_box(site, plan, x_N)
    else:
        guarantee = _guarantee_of(_noise(site))
        _check_seeded(site, guarantee)
        _check_encoding(site, plan)
        _check_records(site, plan, x_N)
        with _open_ledger(site) as ledger:
            if (earlier := ledger.charge_of(plan_hash, CHARGE)) is not None:
                _check_may_train_again(site, earlier)
            else:
                ledger.check(plan.teaching, plan.counts)
    if not (state / PLAN).exists():
        _make_room(site, state.parent)
    write_durably(state / PLAN, codec.encode_request(offer))
    return _send(site, Accepted(plan_hash=plan_hash, site=site.name, guarantee=guarantee), "accepted", None)


def _make_room(site: Site, states: Path) -> None:
    """Forget the plans accepted longest ago of which nothing came: anybody whose plans are accepted could fill a disk with them."""
    noted = site.witness.noted()
    charged = {plan[:DIGITS] for plan in (noted.plans if noted is not None else ())}
    bare = [
        folder
        for folder in (states.iterdir() if states.is_dir() else ())
        if folder.is_dir() and folder.name not in charged and [own.name for own in folder.iterdir()] == [PLAN]
    ]
    for folder in sorted(bare, key=lambda own: (own / PLAN).stat().st_mtime_ns)[: max(0, len(bare) + 1 - ACCEPTED)]:
        log.warning("The plan in %s is forgotten: more than %d were accepted, and never trained for.", folder, ACCEPTED)
        (folder / PLAN).unlink()
        folder.rmdir()


@contextmanager
def _open_ledger(site: Site) -> Iterator[Ledger]:
    """The site's ledger; declines if it lacks anything that was spent, cannot be trusted, or does not allow a charge."""
    with during(Step.CHARGE), site.account.open(site.budget) as ledger:
        yield ledger


@during(Step.ACCOUNT)
def _check_ledger(site: Site) -> None:
    """Decline if the ledger lacks anything that this site knows was spent; whatever is asked, even what was answered before."""
    site.account.check()


@during(Step.NOISE)
def _noise(site: Site) -> Noise:
    """The site's source of noise; declines if its settings do not say which."""
    return site.noise()


def _guarantee_of(noise: Noise) -> Guarantee:
    return Guarantee.SEEDED if isinstance(noise, UnsafeSeeded) else Guarantee.RECORD_DP


def _check_seeded(site: Site, guarantee: Guarantee) -> None:
    """Decline if the site's noise is seeded and its owner does not allow releases without a guarantee."""
    if guarantee is Guarantee.SEEDED:
        with during(Step.DECLARATION), site.account.open(site.budget) as ledger:
            ledger.check_declared()


@during(Step.ENCODING)
def _check_encoding(site: Site, plan: Plan) -> None:
    """Decline unless the records would become rows in the same way as the plan's transfer set did; no record is read."""
    site.records.check_encoding(plan.encoding)


def _public_inputs(site: Site, plan: Plan) -> NDArray[np.generic]:
    """The plan's public inputs; declines if the site does not hold them, or if no teacher of the plan's kind can be trained for them."""
    with during(Step.TRANSFER_SET):
        x_N = site.transfer_sets.read(plan.transfer_set, plan.samples)
    with during(Step.CUSTOM_PLAN if _is_custom(plan) else Step.PLAN):
        checks.check_inputs(plan, x_N)
        teachers.check(plan.teaching, x_N, classes=plan.classes, factory=site.factory)
    return x_N


@during(Step.RECORDS)
def _check_records(site: Site, plan: Plan, public_x: NDArray[np.generic]) -> None:
    """Decline if a training would fail for a reason that shows without reading a record, before it is paid for."""
    site.records.check(plan.classes, public_x)
    _ = site.ledger, site.noise()


def _is_custom(plan: Plan) -> bool:
    return isinstance(plan.teaching, NetTeaching) and plan.teaching.architecture == CUSTOM


@during(Step.BLACK_BOX)
def _check_black_box(site: Site, plan: Plan, x_N: NDArray[np.generic]) -> None:
    """Decline unless the owner allows answers without a guarantee and the site's teacher can give them; nothing is asked yet."""
    with site.account.open(site.budget) as ledger:
        ledger.check_declared()
    _black_box(site).check(plan, x_N)


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
    path = site.state(plan_hash) / PLAN
    if not path.exists():
        raise Decline(Reason.PLAN)
    offer = codec.decode_offer(path.read_bytes())
    if codec.plan_hash(offer.plan) != plan_hash:
        # Folders are named by the first half of a hash only.
        raise Decline(Reason.PLAN) from DataError(f"Expected the accepted plan {plan_hash.hex()} in {path}, found another.")
    _check_policy(site, offer)
    _check_ledger(site)
    return offer.plan


def _teach(site: Site, plan: Plan, plan_hash: bytes, backend: teachers.Backend) -> bytes:
    """The site's reply when it has trained: the stored one, or after training. One process at a time: another waits, and finds it."""
    with _alone(site.state(plan_hash).parent):
        state = site.state(plan_hash)
        if (state / TAUGHT).exists():
            return _send_again(site, "taught", plan, state / TAUGHT)
        if site.settings.black_box is not None:
            return _ask_black_box(site, plan, plan_hash)
        return _train(site, plan, plan_hash, state, backend)


@contextmanager
def _alone(states: Path) -> Iterator[None]:
    with (states / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train(site: Site, plan: Plan, plan_hash: bytes, state: Path, backend: teachers.Backend) -> bytes:
    """Reserve, only then read the first record, train, release noisy counts if the plan says so, commit.

    A plan is charged once, whatever the budget would allow; a training that came to nothing is done again under the same charge, as long
    as nothing trained has left (above).
    """
    unsent, noise = state / UNSENT, _noise(site)
    guarantee = _guarantee_of(noise)
    _check_seeded(site, guarantee)
    _check_encoding(site, plan)
    public_x = _public_inputs(site, plan)
    if not unsent.exists():
        _check_records(site, plan, public_x)
    with _open_ledger(site) as ledger:
        earlier = ledger.charge_of(plan_hash, CHARGE)
        if earlier is not None and unsent.exists():
            _commit_unsent(site, ledger, earlier, state)
            return _send_taught(site, unsent, plan, earlier.id)
        if earlier is not None:
            _check_may_train_again(site, earlier)
        else:
            ledger.check(plan.teaching, plan.counts)
        if guarantee is Guarantee.SEEDED:
            ledger.declare(plan_hash, SEEDED, WHY_SEEDED)
        entry = earlier.id if earlier is not None else ledger.reserve(plan_hash, CHARGE, plan.teaching, plan.counts)
    with during(Step.RECORDS):
        x_N, y_N = site.records.read(plan.classes, public_x)
    training = _begin_training(state)
    with during(Step.TRAINING):
        teacher = backend.train(
            plan.teaching,
            x_N,
            y_N,
            classes=plan.classes,
            public_x=public_x,
            noise=noise,
            cache=site.cache,
            factory=site.factory,
            opacus=site.settings.gradients == "opacus",
        )
    teacher.save(state / TEACHER)
    taught = Taught(
        plan_hash=plan_hash,
        label_counts=release.label_counts(y_N, plan.classes, plan.label_counts, noise) if plan.label_counts else None,
        record_count=release.record_count(y_N, plan.record_count, noise) if plan.record_count else None,
        guarantee=guarantee,
    )
    write_durably(unsent, codec.encode_reply(taught))
    with _open_ledger(site) as ledger:
        ledger.commit(entry, training)
    return _send_taught(site, unsent, plan, entry)


def _check_may_train_again(site: Site, charge: Entry) -> None:
    """Raise BudgetError unless nothing that was trained under a charge can have left: by the ledger, and by the transcript."""
    plan_hash = charge.plan_hash
    name, state = plan_hash.hex()[:16], site.state(plan_hash)
    if charge.site not in {"", site.name}:
        raise BudgetError(f"Expected to charge plan {name} once, found it charged by {charge.site}, whose it is to train.")
    if charge.state != "reserved" or any(
        mark.entry is not None and mark.plan_hash == plan_hash for mark in site.transcript.marks()
    ):
        raise BudgetError(
            f"Expected to charge plan {name} once, found it charged, what came of it sent, and its teacher lost."
        )
    if (begun := _begun(state)[0]) >= TRAININGS:
        raise BudgetError(
            f"Expected to begin the training for plan {name} at most {TRAININGS} times, found it begun {begun} times: see this log"
            f" for what went wrong, mend it, and remove {state / TRAINING} to let it begin as often again."
        )


def _begun(state: Path) -> tuple[int, str]:
    """How often the training for a plan has begun, and the name of the last time; none for what limbeck 0.1 left."""
    try:
        own = json.loads((state / TRAINING).read_bytes())
        return int(own["begun"]), str(own["name"])
    except FileNotFoundError:
        return 0, ""


def _begin_training(state: Path) -> str:
    """A name for the training that begins now, noted durably: what is stored unsent from now on is of this one."""
    name = secrets.token_hex(16)
    write_durably(state / TRAINING, json.dumps({"begun": _begun(state)[0] + 1, "name": name}).encode())
    return name


def _commit_unsent(site: Site, ledger: Ledger, charge: Entry, state: Path) -> None:
    """Commit the training whose reply is stored unsent. Raises BudgetError where the charge was used by another."""
    name = _begun(state)[1]
    if charge.state == "reserved" and charge.site in {"", site.name}:
        ledger.commit(charge.id, name)
    elif charge.state != "committed" or charge.training != name:
        raise BudgetError(
            f"Expected plan {charge.plan_hash.hex()[:16]} to be charged for the training in {state}, found another's charge."
        )


def _send_taught(site: Site, unsent: Path, plan: Plan, entry: int) -> bytes:
    """Write to the transcript what a trained site says. It is only renamed then, which needs no room."""
    data = _send(site, _read_taught(unsent, plan), "taught", entry)
    unsent.replace(unsent.with_name(TAUGHT))
    sync_folder(unsent.parent)
    return data


def _ask_black_box(site: Site, plan: Plan, plan_hash: bytes) -> bytes:
    """Have the site's own teacher answer the public inputs; the ledger notes first that no guarantee holds. No counts leave."""
    state = site.state(plan_hash)
    with during(Step.BLACK_BOX):
        entry = _declare(site, plan_hash, Guarantee.NONE)
        log.warning(
            "%s: answers of a black-box teacher leave with NO DP GUARANTEE, as allow_without_dp = true allows.", site.name
        )
        _black_box(site).ask(plan, site.transfer_sets.read(plan.transfer_set, plan.samples), state / BLACK_BOX)
    taught = Taught(plan_hash=plan_hash, label_counts=None, guarantee=Guarantee.NONE)
    return _send(site, taught, "taught", entry, state / TAUGHT)


def _declare(site: Site, plan_hash: bytes, guarantee: Guarantee) -> int:
    """The ledger's entry for a plan's answers without a guarantee. Raises BudgetError where the owner does not, or no longer, allow it."""
    what, why = (SEEDED, WHY_SEEDED) if guarantee is Guarantee.SEEDED else (BLACK_BOX_ANSWERS, WHY_BLACK_BOX)
    with site.account.open(site.budget) as ledger:
        return ledger.declare(plan_hash, what, why)


def _share(site: Site, plan: Plan, request: Ask, backend: teachers.Backend) -> bytes:
    """Answer on part of the transfer set: a part of the stage's answers, which are drawn and stored once."""
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
        return _send_again(site, what, plan, done)
    with during(Step.RANGE):
        stored.check_room(rows)
    entry = _answer_stage(site, plan, request, stored, taught, backend)
    share = Share(plan_hash=request.plan_hash, stage=request.stage, first=request.first, answers=stored.read(rows))
    data = codec.encode_reply(share, plan=plan)
    again = stored.was_sent(rows)
    _note(site, what, request.plan_hash, None if again else entry, data, again=again)
    if not again:
        stored.note_sent(rows)
    return data


def _answer_stage(site: Site, plan: Plan, request: Ask, stored: Answers, taught: Path, backend: teachers.Backend) -> int:
    """Have the answers to all inputs at a stage stored, if they are not yet; the ledger's entry that allows them to leave.

    They are post-processing of what teaching was charged for, or a black-box teacher's.
    """
    state, temperature = taught.parent, plan.stages[request.stage].temperature
    guarantee = _guarantee(taught, plan)
    if guarantee is not Guarantee.RECORD_DP:
        with during(Step.DECLARATION):
            entry = _declare(site, request.plan_hash, guarantee)
    else:
        with _open_ledger(site) as ledger:
            entry = ledger.record_free(request.plan_hash, f"answers of stage {request.stage + 1}", release.why_free(plan))
    if not stored.exists():
        if guarantee is Guarantee.NONE:
            log_p_NK, temperature = blackbox.log_probabilities(plan, state / BLACK_BOX, temperature)
        else:
            teacher = backend.load(state / TEACHER, factory=site.factory)
            public_x = site.transfer_sets.read(plan.transfer_set, plan.samples)
            log_p_NK = teacher.log_probabilities(public_x, cache=site.cache)
        stored.write(release.answers(log_p_NK, plan, temperature, _noise(site)))
    return entry


def _send(
    site: Site, reply: Reply, what: str, entry: int | None, done: Path | None = None, plan: Plan | None = None
) -> bytes:
    """Write the reply to the transcript, then to the store if there is one: nothing leaves that the transcript lacks."""
    data = codec.encode_reply(reply, plan=plan)
    _note(site, what, reply.plan_hash, entry, data)
    if done is not None:
        write_durably(done, data)
    return data


def _send_again(site: Site, what: str, plan: Plan, done: Path) -> bytes:
    """What was sent before, byte for byte, or as today's encoding of what 0.1.0 sent; noted in the transcript once more."""
    stored = done.read_bytes()
    data = codec.renew(stored, plan)
    # In another encoding these bytes have not left yet: they are noted whole once, and are what is stored from then on.
    _note(site, what, codec.plan_hash(plan), None, data, again=data == stored)
    if data != stored:
        write_durably(done, data)
    return data


def _note(site: Site, what: str, plan_hash: bytes, entry: int | None, data: bytes, *, again: bool = False) -> None:
    try:
        head = site.witness.head
    except LedgerError:
        # Only a refusal gets here then.
        head = None
    site.transcript.append(what, plan_hash, entry, data, again=again, head=head)
