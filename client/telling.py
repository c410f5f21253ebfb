"""What a site's own log says of a plan: accepted, declined and why, charged, taught, answered.

Every sentence names the site and the plan, and every epsilon has its delta, unit and neighbouring relation. The log is the site's own: a
private cause may be in it, and nothing of it is sent. How many records there are, and what is in them, is not logged here.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from limbeck.base.logs import about
from limbeck.base.printable import printable
from limbeck.plans import accounting
from limbeck.plans.schema import Plan
from limbeck.protos.messages import Ask, Guarantee, Offer

if TYPE_CHECKING:
    from limbeck.client.declining import Decline
    from limbeck.client.ledger import Ledger
    from limbeck.client.site import Site

log = logging.getLogger(__name__)

DIGITS = 16


def cost(plan: Plan) -> float:
    """Epsilon of a plan by itself, at its own delta."""
    return accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta)


def terms(plan: Plan) -> str:
    """Under which terms it holds."""
    privacy = plan.privacy
    return f"at delta = {privacy.delta:g}, per {privacy.unit.value}, {privacy.adjacency.value}"


def accepted(site: Site, offer: Offer, plan_hash: bytes, guarantee: Guarantee, *, charged: bool) -> None:
    """The site has accepted a plan. guarantee: of its answers. charged: whether it paid for it before."""
    if not log.isEnabledFor(logging.INFO):
        return
    plan, epsilon = offer.plan, cost(offer.plan)
    signed = f"signed by {offer.author.hex()[:DIGITS]}" if offer.author else "not signed"
    log.info(
        "%s accepts plan %s (%s, %s), which costs epsilon = %.4g %s: %s.",
        site.name,
        plan_hash.hex()[:DIGITS],
        printable(plan.name, 80),
        signed,
        epsilon,
        terms(plan),
        "charged before, and not again"
        if charged
        else "nothing is charged yet"
        if guarantee is Guarantee.RECORD_DP
        else "but the answers of this site will have NO DP GUARANTEE",
        extra=_about("accepted", site, plan, plan_hash, epsilon=epsilon),
    )


def declined(site: Site, plan_hash: bytes, decline: Decline) -> None:
    """The site declines. What it was asked may be a plan that it never accepted."""
    cause = decline.__cause__ or "as asked now"
    log.warning(
        "%s declines plan %s: %s (%s)",
        site.name,
        plan_hash.hex()[:DIGITS],
        decline.reason.value,
        cause,
        extra=about(event="declined", site=site.name, plan=plan_hash, reason=f"{decline.reason.value} ({cause})"),
    )


def charged(site: Site, plan: Plan, plan_hash: bytes, ledger: Ledger, entry: int, *, again: bool) -> None:
    """The plan is charged, before the first record is read; `again`: an earlier charge still stands, and pays for this training."""
    if not log.isEnabledFor(logging.INFO):
        return
    epsilon, spent, budget = cost(plan), ledger.spent(), ledger.budget
    total = f"epsilon = {spent:.4g}" if math.isfinite(spent) else "an epsilon that is infinite, without a guarantee,"
    log.info(
        "%s %s epsilon = %.4g %s for plan %s, entry %d of the ledger; in all it has spent %s of its budget of %s. It trains now.",
        site.name,
        "was charged before, and is not again," if again else "is charged",
        epsilon,
        terms(plan),
        plan_hash.hex()[:DIGITS],
        entry,
        total,
        budget,
        extra=_about("charged", site, plan, plan_hash, epsilon=epsilon, spent=spent, entry=entry),
    )


def taught(site: Site, plan: Plan, plan_hash: bytes, *, again: bool) -> None:
    """The reply that the teacher is ready is in the transcript, and leaves now."""
    log.info(
        "%s has a teacher for plan %s%s.",
        site.name,
        plan_hash.hex()[:DIGITS],
        ", as it said before" if again else "",
        extra=_about("taught", site, plan, plan_hash),
    )


def answered(site: Site, plan: Plan, request: Ask, size: int, *, again: bool) -> None:
    """Answers to public inputs are in the transcript, and leave now."""
    log.info(
        "%s answers %d public inputs of stage %d of %d of plan %s, %d bytes%s; this costs nothing more.",
        site.name,
        request.count,
        request.stage + 1,
        len(plan.stages),
        request.plan_hash.hex()[:DIGITS],
        size,
        ", the same as before" if again else "",
        extra=_about("answered", site, plan, request.plan_hash, stage=request.stage + 1, size=size),
    )


def _about(
    event: str,
    site: Site,
    plan: Plan,
    plan_hash: bytes,
    *,
    epsilon: float | None = None,
    spent: float | None = None,
    entry: int | None = None,
    stage: int | None = None,
    size: int | None = None,
) -> dict[str, object]:
    privacy = plan.privacy
    return about(
        event=event,
        site=site.name,
        plan=plan_hash,
        epsilon=epsilon,
        delta=privacy.delta if epsilon is not None else None,
        unit=privacy.unit.value if epsilon is not None else None,
        adjacency=privacy.adjacency.value if epsilon is not None else None,
        spent=spent,
        entry=entry,
        stage=stage,
        stages=len(plan.stages) if stage is not None else None,
        size=size,
    )
