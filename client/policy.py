"""A site's policy: what a plan may ask of it, whatever the coordinator says. Its own file, written by the data's owner.

A plan is checked before any record is read, and again at every question, so that a stricter policy takes effect at once. Every rule has
a name, `table.key`, which a refusal gives in the site's log; the peer gets a sentence from a closed list. A missing or empty policy
refuses everything; one that allows everything within the budget must be written as `policy = "UnsafePermissive"`, and is logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from limbeck.base.errors import PolicyError, SettingError, WireError
from limbeck.base.settings import Strict, one_of, parse_toml, validate
from limbeck.client.ledger import Budget
from limbeck.plans import accounting
from limbeck.plans.schema import TEACHINGS, Adjacency, Family, Plan, Sampled, TopK, Unit
from limbeck.protos import codec, signing

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _hexadecimal(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("64 hexadecimal digits (0-9, a-f)")
    return value


def _author(value: str) -> str:
    try:
        signing.check_author(bytes.fromhex(_hexadecimal(value)))
    except WireError:
        raise ValueError("an Ed25519 public key of large order, as `limbeck keys plan` prints it") from None
    return value


Hexadecimal = Annotated[str, AfterValidator(_hexadecimal)]
Author = Annotated[str, AfterValidator(_author)]


class BudgetRules(Strict):
    """What all plans together may cost, by the ledger of the data set."""

    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: Literal["record"] = "record"
    adjacency: Literal["add-remove-one"] = "add-remove-one"


class PlanRules(Strict):
    """Which plans are allowed.

    authors: Ed25519 public keys, or "any", which includes unsigned plans.
    transfer_sets: SHA-256s, or "held": whatever is in the site's folder.
    minimum_clients: compared with the plan's own minimum of answering sites, which the coordinator keeps to; a site cannot count
        the others.
    max_answers: public inputs times stages.
    """

    authors: list[Author] | Literal["any"]
    transfer_sets: list[Hexadecimal] | Literal["held"]
    minimum_clients: Count
    max_stages: Count
    max_answers: Count


class AnswerRules(Strict):
    """How exact an answer may be.

    max_tsallis_order: the larger the order, the less "tsallis" softens at a given temperature; the default 1 is power softening.
    max_k, max_draws: 0 forbids this truncation.
    max_bits: the whole encoding of the answer to one public input in one stage.
    """

    families: list[Annotated[str, one_of(*(family.value for family in Family))]]
    min_temperature: Positive
    max_tsallis_order: Annotated[float, Field(ge=0, le=4)] = 1.0
    max_k: CountOrNone
    max_draws: CountOrNone
    max_bits: Count


class CountRules(Strict):
    """Noisy counts of the records. max_epsilon: what they may cost by themselves, at the budget's delta."""

    label_counts: bool
    record_count: bool
    max_epsilon: Positive


class TeacherRules(Strict):
    """Which teachers are allowed. allow_without_dp: whether one may answer whose answers no mechanism protects."""

    kinds: list[Annotated[str, one_of(*TEACHINGS)]]
    allow_without_dp: bool = False


class _Common(Strict):
    """What every policy has.

    data_set: the identity of the records, a name that the owner gives them once.
    name: the name of the policy, for the log.
    """

    data_set: str = Field(pattern=r"^[A-Za-z0-9._/-]{1,128}$")
    name: str = Field(pattern=r"^[^\n]{1,128}$")
    budget: BudgetRules

    @property
    def allows_without_dp(self) -> bool:
        """Whether answers may leave that no mechanism protects; only an explicit rule allows it."""
        return False

    @property
    def ledger_budget(self) -> Budget:
        """What the ledger enforces."""
        rules = self.budget
        return Budget(
            data_set=self.data_set,
            epsilon=rules.epsilon,
            delta=rules.delta,
            unit=Unit(rules.unit),
            adjacency=Adjacency(rules.adjacency),
            allow_without_dp=self.allows_without_dp,
        )

    def check(self, plan: Plan, author: bytes) -> None:
        """Raise PolicyError, naming every rule that forbids this plan. author: its verified public key, empty if nobody signed it."""
        broken = list(self.broken_rules(plan, author))
        if broken:
            raise PolicyError(f"The policy {self.name!r} forbids the plan {plan.name!r}: {'; '.join(broken)}.")

    def broken_rules(self, plan: Plan, author: bytes) -> Iterator[str]:
        """The rules that forbid this plan, each with its value and what the plan asks. The ledger knows what is left of the budget."""
        for name in ("unit", "adjacency"):
            wanted, asked = getattr(self.budget, name), getattr(plan.privacy, name).value
            if wanted != asked:
                yield f"budget.{name} = {wanted!r}: the plan counts per {asked}"


class UnsafePermissive(_Common):
    """A policy that allows everything that the budget can pay for."""

    policy: Literal["UnsafePermissive"]

    def broken_rules(self, plan: Plan, author: bytes) -> Iterator[str]:
        """None except the terms of the ledger."""
        log.warning("The policy %r is UnsafePermissive: it allows whatever the budget can pay for.", self.name)
        return super().broken_rules(plan, author)


class Policy(_Common):
    """The whole of `policy.toml`. Every rule must be written: what is not stated is not allowed."""

    plans: PlanRules
    answers: AnswerRules
    counts: CountRules
    teachers: TeacherRules

    @property
    def allows_without_dp(self) -> bool:
        """As `teachers.allow_without_dp` says."""
        return self.teachers.allow_without_dp

    def broken_rules(self, plan: Plan, author: bytes) -> Iterator[str]:
        """As `_Common.broken_rules`. The author is checked first, and alone: the cost of a stranger's plan is not even computed."""
        if self.plans.authors != "any" and author.hex() not in self.plans.authors:
            yield f"plans.authors: the plan is {f'signed by {author.hex()}' if author else 'not signed'}, which is not listed"
            return
        yield from super().broken_rules(plan, author)
        yield from self._plan_rules(plan)
        yield from self._answer_rules(plan)
        yield from self._count_rules(plan)
        kind = next(name for name, teaching in TEACHINGS.items() if isinstance(plan.teaching, teaching))
        if kind not in self.teachers.kinds:
            yield f"teachers.kinds = {self.teachers.kinds}: the plan asks for {kind!r}"

    def _plan_rules(self, plan: Plan) -> Iterator[str]:
        rules, stages = self.plans, len(plan.stages)
        if rules.transfer_sets != "held" and plan.transfer_set.hex() not in rules.transfer_sets:
            yield f"plans.transfer_sets: the plan asks about {plan.transfer_set.hex()}, which is not listed"
        if plan.minimum_clients < rules.minimum_clients:
            yield f"plans.minimum_clients = {rules.minimum_clients}: the plan goes on with {plan.minimum_clients}"
        if stages > rules.max_stages:
            yield f"plans.max_stages = {rules.max_stages}: the plan has {stages}"
        if plan.samples * stages > rules.max_answers:
            yield f"plans.max_answers = {rules.max_answers}: the plan asks for {plan.samples} x {stages}"

    def _answer_rules(self, plan: Plan) -> Iterator[str]:
        rules, lowest = self.answers, min(stage.temperature for stage in plan.stages)
        if plan.family.value not in rules.families:
            yield f"answers.families = {rules.families}: the plan softens by {plan.family.value!r}"
        if lowest < rules.min_temperature:
            yield f"answers.min_temperature = {rules.min_temperature:g}: the plan asks at {lowest:g}"
        if plan.tsallis_order is not None and plan.tsallis_order > rules.max_tsallis_order:
            yield f"answers.max_tsallis_order = {rules.max_tsallis_order:g}: the plan softens by order {plan.tsallis_order:g}"
        match plan.truncation:
            case TopK(k=k) if k > rules.max_k:
                yield f"answers.max_k = {rules.max_k}: the plan keeps {k}"
            case Sampled(draws=draws) if draws > rules.max_draws:
                yield f"answers.max_draws = {rules.max_draws}: the plan draws {draws}"
        bits = codec.bits_per_answer(plan)
        if bits > rules.max_bits:
            yield f"answers.max_bits = {rules.max_bits}: the plan's answers take {bits:g}"

    def _count_rules(self, plan: Plan) -> Iterator[str]:
        rules = self.counts
        if plan.label_counts is not None and not rules.label_counts:
            yield "counts.label_counts = false: the plan asks for label counts"
        if plan.record_count is not None and not rules.record_count:
            yield "counts.record_count = false: the plan asks for the number of records"
        if plan.counts is not None:
            cost = accounting.counts_epsilon(plan.counts, self.budget.delta)
            if cost > rules.max_epsilon:
                yield f"counts.max_epsilon = {rules.max_epsilon:g}: the plan's counts alone cost {cost:.3g}"


AnyPolicy = Policy | UnsafePermissive


def read(path: Path) -> AnyPolicy:
    """The policy in a file.

    Raises: PolicyError if the file is missing or empty, which refuses everything; SettingError, naming every problem, if it is invalid.
    """
    try:
        return _parse(path, path.read_bytes())
    except FileNotFoundError:
        raise PolicyError(f"Expected a policy at {path}, found none: everything is refused.") from None


@lru_cache(maxsize=256)
def _parse(path: Path, content: bytes) -> AnyPolicy:
    """The policy, checked once per content: the file is read again at every question."""
    raw = parse_toml(content, path)
    if not raw:
        raise PolicyError(f"Expected a policy in {path}, found an empty file: everything is refused.")
    try:
        return validate(UnsafePermissive, raw) if "policy" in raw else validate(Policy, raw)
    except SettingError as error:
        raise SettingError(f"Expected a valid policy in {path}.\n{error}") from None


def explain(policy: AnyPolicy) -> list[str]:
    """The policy in sentences, for the people responsible for it."""
    budget = policy.budget
    lines = [
        f"Policy {policy.name!r} for the records {policy.data_set!r}.",
        f"In total, over all plans and years, answers may cost epsilon = {budget.epsilon:g} at delta = {budget.delta:g}:"
        f" with or without any one {budget.unit}, any outcome is at most e^{budget.epsilon:g} times as likely, except with probability"
        f" {budget.delta:g}.",
        "A ledger beside the records keeps account and refuses whatever would exceed this.",
    ]
    if isinstance(policy, UnsafePermissive):
        return [*lines, "UNSAFE: nothing else is forbidden. Any plan by anybody is accepted while the budget lasts."]
    plans, answers, counts, teachers = policy.plans, policy.answers, policy.counts, policy.teachers
    lines.append(
        "Plans by anybody are accepted, signed or not."
        if plans.authors == "any"
        else f"Plans are accepted if signed by one of {len(plans.authors)} keys: {', '.join(plans.authors) or 'none, so no plan is'}."
    )
    lines.append(
        "Questions may be about any public inputs that are in the site's own folder of transfer sets."
        if plans.transfer_sets == "held"
        else f"Questions may be about {len(plans.transfer_sets)} listed sets of public inputs: {', '.join(plans.transfer_sets) or 'none'}."
    )
    truncations = [f"the {answers.max_k} likeliest classes"] if answers.max_k else []
    truncations += [f"{answers.max_draws} random draws"] if answers.max_draws else []
    lines += [
        f"A plan has at most {plans.max_stages} stages and {plans.max_answers} answers, and does not go on with fewer than"
        f" {plans.minimum_clients} sites.",
        f"An answer to one public input holds at most {' or '.join(truncations) or 'nothing'}, in {answers.max_bits} bits, softened by"
        f" {' or '.join(answers.families) or 'nothing, so no answer leaves'} at a temperature of at least {answers.min_temperature:g}"
        f"{f', tsallis of order {answers.max_tsallis_order:g} at most' if 'tsallis' in answers.families else ''}.",
        _explain_counts(counts),
        f"Teachers may be of kind {', '.join(teachers.kinds) or 'none, so no plan is accepted'}.",
        "Teachers WITHOUT any privacy guarantee may answer."
        if teachers.allow_without_dp
        else "A teacher without a privacy guarantee may not answer.",
    ]
    return lines


def _explain_counts(counts: CountRules) -> str:
    allowed = [name for name, on in (("per class", counts.label_counts), ("in total", counts.record_count)) if on]
    if not allowed:
        return "The number of records never leaves, not even with noise."
    return f"The number of records, {' or '.join(allowed)}, may leave with noise that costs at most epsilon = {counts.max_epsilon:g}."


TEMPLATE = """\
# What a plan may ask of this site, whatever the coordinator says. Every rule must be here: what is not stated is not allowed.
# Check a plan with: limbeck policy check PLAN POLICY. Read the policy in sentences with: limbeck policy explain POLICY.

name = "a policy"
# The identity of the records: a name you give them once and never change. Their ledger carries it.
data_set = "our-records"

[budget]
# What all plans together may cost: over years, not per plan. Unit: one record, added or removed.
epsilon = 1.0
delta = 1e-5

[plans]
# Ed25519 public keys (64 hexadecimal digits) of those whose plans you accept; "any" accepts everybody's, signed or not.
authors = []
# SHA-256s of the public inputs you may be asked about; "held" means all that you put into the site's folder.
transfer_sets = "held"
# The smallest number of sites with which a plan may go on.
minimum_clients = 3
max_stages = 8
# Public inputs times stages.
max_answers = 100_000

[answers]
# Softening: "power", "mixing", "hybrid", "tsallis", "entropy-target" (which leaves unchanged what is already soft enough).
families = ["power", "mixing", "hybrid"]
min_temperature = 1.0
# For "tsallis": the larger the order, the less it softens at a given temperature; 1 is power.
max_tsallis_order = 1.0
# Classes kept from each answer, and random draws from it; 0 forbids.
max_k = 3
max_draws = 0
# Bits of the answer to one public input.
max_bits = 64

[counts]
# Whether noisy counts of records may leave, and what they may cost by themselves.
label_counts = false
record_count = false
max_epsilon = 0.1

[teachers]
# "linear", "net": trained under differential privacy. "evidence": noisy sums of features, one for each class. "votes": noisy votes of
# sub-teachers.
kinds = ["linear", "net", "evidence"]
# Whether a teacher that no mechanism protects may answer.
allow_without_dp = false
"""
