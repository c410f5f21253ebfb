"""Whether the site accepts a plan, as far as its records do not decide it, and what it would cost."""

from __future__ import annotations

from limbeck.base.errors import LimbeckError, SettingError
from limbeck.base.findings import Finding, Findings, fail, ok, warn
from limbeck.client import conditions
from limbeck.client.declining import Decline
from limbeck.client.examination.report import Cost, Report
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.policy import UnsafePermissive
from limbeck.client.site import Site
from limbeck.plans import accounting, doubts, privacy_filter, second_opinion
from limbeck.plans.schema import NetTeaching, Plan
from limbeck.protos import codec
from limbeck.protos.messages import Offer


def of_plan(site: Site, offer: Offer, report: Report) -> Findings:
    """Whether the site accepts the plan, as far as its records do not decide it, and what it would cost."""
    plan = offer.plan
    yield from _budget(site, plan, report)
    if isinstance(plan.teaching, NetTeaching):
        yield ok(f"a net, on per-record gradients by {site.settings.gradients}", check="teacher")
    for check, step in (
        ("policy", lambda: conditions.check_policy(site, offer)),
        ("noise", lambda: _check_noise(site)),
        ("encoding", lambda: conditions.check_encoding(site, plan)),
        ("public inputs", lambda: conditions.public_inputs(site, plan)),
    ):
        try:
            step()
        except Decline as decline:
            yield fail(
                str(decline.__cause__ or decline), f"The coordinator would be told: {decline.reason.value}.", check=check
            )
        except LimbeckError as error:
            yield fail(str(error), check=check)
    try:
        if isinstance(site.policy(), UnsafePermissive):
            yield warn("The policy is UnsafePermissive: it allows whatever the budget can pay for.", check="policy")
        x_N = site.transfer_sets.read(plan.transfer_set, plan.samples)
    except LimbeckError:  # said above
        return
    for doubt in (*doubts.of_plan(plan), *doubts.of_inputs(plan, x_N)):
        yield warn(doubt, "Ask the plan's author.", check="plan")


def _check_noise(site: Site) -> None:
    """As a site checks it before a charge, without opening the ledger, which would make one."""
    if isinstance(conditions.open_noise(site), UnsafeSeeded) and not site.policy().allows_without_dp:
        raise SettingError(
            'Expected noise.source = "system-entropy", got "UnsafeSeeded": it protects nothing, and the policy does not allow that.'
        )


def _budget(site: Site, plan: Plan, report: Report) -> Findings:
    try:
        budget = site.budget
        book = site.account.check()
    except LimbeckError as error:
        yield fail(str(error), check="ledger")
        return
    schedule, plan_hash = (plan.teaching, plan.counts), codec.plan_hash(plan)
    alone = accounting.epsilon((schedule,), budget.delta)
    if book is not None and book.terms.data_set != budget.data_set:
        yield fail(f"The ledger is of {book.terms.data_set!r}, the policy of {budget.data_set!r}.", check="ledger")
        return
    if book is not None and book.declared and not budget.allow_without_dp:
        yield fail(
            "Something without a guarantee was released: epsilon is infinite, and the policy does not allow that.",
            check="ledger",
        )
        return
    spent = book.charged() if book is not None else 0.0
    charged = book is not None and any(entry.plan_hash == plan_hash and entry.schedule is not None for entry in book.entries)
    more = () if charged else (schedule,)
    after = book.charged(more) if book is not None else privacy_filter.spent(more, budget.delta)
    report.cost = Cost(
        alone=alone,
        spent=spent,
        after=after,
        budget=budget.epsilon,
        delta=budget.delta,
        unit=budget.unit.value,
        adjacency=budget.adjacency.value,
    )
    limit = f"{budget.epsilon:g} at delta = {budget.delta:g}, per {budget.unit.value}, {budget.adjacency.value}"
    if charged:
        yield ok(
            f"this plan was charged already and costs nothing more; epsilon = {spent:.4g} is spent of {limit}", check="cost"
        )
    elif after > budget.epsilon:
        yield fail(
            f"The plan costs epsilon = {alone:.4g}, and all charges with it {after:.4g}, more than the budget of {limit}.",
            "Only you can raise the budget; then the larger one is what is promised.",
            check="cost",
        )
    else:
        left = f"{budget.epsilon - after:.4g} is left of {limit}"
        yield ok(f"epsilon = {alone:.4g} alone; {spent:.4g} is spent, {after:.4g} with it, {left}", check="cost")
    opinion = second_opinion.of((schedule,), budget.delta)
    yield ok(f"alone, {opinion.sentence}", check="cost")
    if doubt := opinion.disagreement(alone):
        yield warn(doubt, check="cost")


def verdict(report: Report) -> Finding:
    if not report.accepted:
        return fail("This site would decline the plan, and nothing would be charged.", check="plan")
    if not report.kept:
        return fail("This site would accept the plan, pay for it, and teach nothing.", check="plan")
    return ok("this site would accept the plan", check="plan")
