"""How a reply leaves a site: it is written to the transcript and stored before it is sent, and sent again byte for byte."""

from __future__ import annotations

from pathlib import Path

from limbeck.base.errors import DataError, LedgerError
from limbeck.base.files import write_durably
from limbeck.client.site import Site
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Reply, Taught, Teach


def send(
    site: Site, reply: Reply, what: str, entry: int | None, done: Path | None = None, plan: Plan | None = None
) -> bytes:
    """Write a reply to the transcript, and return its bytes: nothing leaves that the transcript lacks.

    what: as the transcript calls it.
    entry: the ledger's entry that allows it, or None.
    done: the file that stores the reply, or None.
    plan: needed to encode answers.
    """
    data = codec.encode_reply(reply, plan=plan)
    note(site, what, reply.plan_hash, entry, data)
    if done is not None:
        write_durably(done, data)
    return data


def send_again(site: Site, what: str, plan: Plan, done: Path) -> bytes:
    """What was sent before, byte for byte, or in the current encoding if 0.1.0 sent it; noted in the transcript once more."""
    stored = done.read_bytes()
    data = codec.renew(stored, plan)
    # In the current encoding these bytes have not left yet: they are noted in full once, and stored from then on.
    note(site, what, codec.plan_hash(plan), None, data, again=data == stored)
    if data != stored:
        write_durably(done, data)
    return data


def note(site: Site, what: str, plan_hash: bytes, entry: int | None, data: bytes, *, again: bool = False) -> None:
    """Write bytes that are about to be sent to the transcript. again: whether they were sent before, so that it need not repeat them."""
    try:
        head = site.witness.head
    except LedgerError:
        # Only a refusal is sent if what is known of the ledger cannot be read.
        head = None
    site.transcript.append(what, plan_hash, entry, data, again=again, head=head)


def read_taught(path: Path, plan: Plan) -> Taught:
    """The stored reply of a site that has trained. Raises DataError or WireError if the file holds another."""
    reply = codec.decode_stored_reply(path.read_bytes(), plan=plan, expecting=Teach(plan_hash=codec.plan_hash(plan)))
    if not isinstance(reply, Taught):
        raise DataError(f"Expected a stored reply in {path}, found another.")
    return reply
