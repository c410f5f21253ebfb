"""One training under one charge, and when it may be done again.

A plan is charged once, before the first record is read. If its training failed (a column had a wrong name, a disk was full, the process was
killed), it may be done again, with fresh noise, and costs nothing more, because all that leaves the site of all trainings together is one
output of the mechanism that was charged for:

- Nothing of an earlier training has left. A training is committed in the ledger, once and under a name of its own, before the reply that
  ends it is sent, and answers come only after that reply. A charge that is still only reserved therefore has no output outside the site;
  the transcript is asked too. A teacher, noisy counts or an unsent reply of an earlier training are never mixed with those of a later one:
  an unsent reply is sent as it is, if the ledger names its training, and a new training overwrites everything else.
- That an earlier training failed says nothing about a record. Failures depend on files, settings, shapes and types, on the machine and on
  whoever kills a process, and all of these are the same with one record more or less: an invalid record is left out, one that is not finite
  counts as zero, and no loop ends by what it computed. The peer is told a sentence of a closed list. So the attempts that failed are
  independent of the record and of the noise, and conditioned on them the last one is the charged mechanism itself.
- The duration of an attempt can show roughly how many records there are, as that of any answer can (docs/privacy.md). So that it cannot be
  measured again and again, and a site is not kept busy for ever, the training of a plan begins at most TRAININGS times.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from limbeck.base.errors import BudgetError
from limbeck.base.files import sync_folder, write_durably
from limbeck.client import conditions, release, replies, teachers, telling
from limbeck.client.declining import Step, during
from limbeck.client.ledger import Entry, Ledger
from limbeck.client.site import Site
from limbeck.client.witness import CHARGE, SEEDED, TAUGHT, TEACHER, TRAINING, UNSENT, WHY_SEEDED
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee, Taught

# How often the training of a plan begins at most; an attempt that cannot read the records does not count.
TRAININGS = 8


def train(site: Site, plan: Plan, plan_hash: bytes, state: Path, backend: teachers.Backend) -> bytes:
    """Reserve, only then read the first record, train, release noisy counts if the plan asks for them, commit; returns the reply.

    A plan is charged once, whatever the budget would allow; a training that failed is done again under the same charge, as long as nothing
    that was trained has left the site.

    state: the plan's state folder.
    backend: what trains the teacher.
    """
    unsent, noise = state / UNSENT, conditions.open_noise(site)
    guarantee = conditions.guarantee_of(noise)
    conditions.check_seeded(site, guarantee)
    conditions.check_encoding(site, plan)
    public_x = conditions.public_inputs(site, plan)
    if not unsent.exists():
        conditions.check_records(site, plan, public_x)
    with conditions.open_ledger(site) as ledger:
        earlier = ledger.charge_of(plan_hash, CHARGE)
        if earlier is not None and unsent.exists():
            _commit_unsent(site, ledger, earlier, state)
            return _send_taught(site, unsent, plan, earlier.id)
        if earlier is not None:
            check_may_train_again(site, earlier)
        else:
            ledger.check(plan.teaching, plan.counts)
        if guarantee is Guarantee.SEEDED:
            ledger.declare(plan_hash, SEEDED, WHY_SEEDED)
        entry = earlier.id if earlier is not None else ledger.reserve(plan_hash, CHARGE, plan.teaching, plan.counts)
        telling.charged(site, plan, plan_hash, ledger, entry, again=earlier is not None)
    with during(Step.RECORDS):
        kind = plan.inputs.kind if plan.inputs is not None else None
        x_N, y_N = site.records.read(plan.classes, public_x, plan.class_names, kind)
    name = _begin_training(state)
    with during(Step.TRAINING):
        teacher = backend.train(
            plan.teaching,
            x_N,
            y_N,
            classes=plan.classes,
            public_x=public_x,
            noise=noise,
            class_weights=plan.class_weights,
            cache=site.cache,
            factory=site.factory,
            gradients_by=site.settings.gradients,
        )
    teacher.save(state / TEACHER)
    taught = Taught(
        plan_hash=plan_hash,
        label_counts=release.label_counts(y_N, plan.classes, plan.label_counts, noise) if plan.label_counts else None,
        record_count=release.record_count(y_N, plan.record_count, noise) if plan.record_count else None,
        guarantee=guarantee,
    )
    write_durably(unsent, codec.encode_reply(taught))
    with conditions.open_ledger(site) as ledger:
        ledger.commit(entry, name)
    return _send_taught(site, unsent, plan, entry)


def check_may_train_again(site: Site, charge: Entry) -> None:
    """Raise BudgetError unless both ledger and transcript say that nothing trained under this charge can have left the site."""
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
    """How often the training of a plan has begun, and the name of the last one; 0 and "" for a folder of limbeck 0.1."""
    try:
        noted = json.loads((state / TRAINING).read_bytes())
        return int(noted["begun"]), str(noted["name"])
    except FileNotFoundError:
        return 0, ""


def _begin_training(state: Path) -> str:
    """A name for the training that begins now, noted durably: an unsent reply that is stored from now on belongs to it."""
    name = secrets.token_hex(16)
    write_durably(state / TRAINING, json.dumps({"begun": _begun(state)[0] + 1, "name": name}).encode())
    return name


def _commit_unsent(site: Site, ledger: Ledger, charge: Entry, state: Path) -> None:
    """Commit the training whose reply is stored unsent. Raises BudgetError if the charge was used by another training."""
    name = _begun(state)[1]
    if charge.state == "reserved" and charge.site in {"", site.name}:
        ledger.commit(charge.id, name)
    elif charge.state != "committed" or charge.training != name:
        raise BudgetError(
            f"Expected plan {charge.plan_hash.hex()[:16]} to be charged for the training in {state}, found another's charge."
        )


def _send_taught(site: Site, unsent: Path, plan: Plan, entry: int) -> bytes:
    """Write the reply of a trained site to the transcript, and return it. Afterwards its file is only renamed, which needs no room."""
    reply = replies.read_taught(unsent, plan)
    data = replies.send(site, reply, "taught", entry)
    unsent.replace(unsent.with_name(TAUGHT))
    sync_folder(unsent.parent)
    telling.taught(site, plan, reply.plan_hash, again=False)
    return data
