"""A plan gets no more than the policy allows, whatever the coordinator asks; a refusal names the rule to the owner only."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from helpers import sites
from limbeck.base.errors import PolicyError, SettingError, WireError
from limbeck.client import policy
from limbeck.client.app import respond
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.plans.schema import Family, LabelCounts, Plan, RecordCount, Sampled, Stage, TopK, VotesTeaching
from limbeck.protos import codec, signing
from limbeck.protos.messages import Accepted, Ask, Declined, Offer, Reason, Reply, Teach

VOTES = VotesTeaching(
    teachers=3, queries=20, features="pixels", feature_norm=4, steps=2, learning_rate=1, momentum=0, noise_multiplier=40
)
ONE = (Stage(sparsity=0.5, temperature=2.0),)


def ask(site: Site, own: Offer) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(own)), plan=own.plan, expecting=own)


def test_a_plan_within_every_rule_is_accepted(tmp_path: Path) -> None:
    assert isinstance(ask(sites.make(tmp_path / "s"), sites.offer()), Accepted)


@pytest.mark.parametrize(
    ("own", "rule"),
    [
        (sites.plan(minimum_clients=1), "plans.minimum_clients = 2: the plan goes on with 1"),
        (sites.plan(stages=(*ONE * 2, Stage(sparsity=0.9, temperature=2))), "plans.max_stages = 2: the plan has 3"),
        (sites.plan(stages=(*ONE * 2, Stage(sparsity=0.9, temperature=2))), "plans.max_answers = 40"),
        (sites.plan(family=Family.MIXING), "answers.families"),
        (sites.plan(family=Family.ENTROPY_TARGET), "answers.families"),
        (sites.plan(family=Family.TSALLIS, tsallis_order=0.5), "answers.families"),
        (sites.plan(stages=(Stage(sparsity=0.5, temperature=1.5),)), "answers.min_temperature = 2: the plan asks at 1.5"),
        (sites.plan(truncation=TopK(k=4)), "answers.max_k = 3: the plan keeps 4"),
        (sites.plan(truncation=Sampled(draws=1)), "answers.max_draws = 0: the plan draws 1"),
        (sites.plan(truncation=TopK(k=9)), "answers.max_bits = 100"),
        (sites.plan(label_counts=LabelCounts(noise_std=2.0)), "counts.max_epsilon = 1: the plan's counts alone cost 2.01"),
        (sites.plan(label_counts=None, record_count=RecordCount(noise_std=20.0)), "counts.record_count = false"),
        (replace(sites.plan(), teaching=VOTES), "teachers.kinds"),
    ],
)
def test_a_plan_that_asks_more_is_refused_by_the_name_of_the_rule(
    own: Plan, rule: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make(tmp_path / "s")
    (tmp_path / "s" / "records.npz").write_bytes(b"whoever reads this fails in another way")
    with caplog.at_level(logging.WARNING, "limbeck"):
        reply = ask(site, sites.offer(own))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.POLICY
    assert rule in caplog.text
    assert not site.ledger.exists()


def test_the_softest_and_the_sharpest_stage_are_told_apart(tmp_path: Path) -> None:
    """The sharpest one counts."""
    stages = tuple(Stage(sparsity=0.5 + 0.2 * index, temperature=own) for index, own in enumerate((4.0, 1.9)))
    found = ask(sites.make(tmp_path / "s"), sites.offer(sites.plan(stages=stages)))
    assert isinstance(found, Declined)
    assert found.reason is Reason.POLICY


def test_an_order_of_tsallis_above_the_policys_is_refused_and_by_default_one_above_1(tmp_path: Path) -> None:
    def reply(name: str, order: float, **rules: float) -> Reply:
        site = sites.make(tmp_path / name, answers__families=["tsallis"], **rules)
        return ask(site, sites.offer(sites.plan(family=Family.TSALLIS, tsallis_order=order)))

    assert isinstance(reply("a", 1.0), Accepted)
    assert isinstance(reply("b", 1.1), Declined)
    assert isinstance(reply("c", 2.0, answers__max_tsallis_order=2.0), Accepted)
    assert isinstance(reply("d", 0.6, answers__max_tsallis_order=0.5), Declined)


def test_the_coldest_stage_of_a_plan_counts(tmp_path: Path) -> None:
    stages = (Stage(sparsity=0.5, temperature=3.0), Stage(sparsity=0.9, temperature=1.9))
    assert isinstance(ask(sites.make(tmp_path / "s"), sites.offer(sites.plan(stages=stages))), Declined)


def test_label_counts_a_policy_forbids_are_refused(tmp_path: Path) -> None:
    reply = ask(sites.make(tmp_path / "s", counts__label_counts=False), sites.offer())
    assert isinstance(reply, Declined)


def test_public_inputs_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    listed = sites.plan().transfer_set.hex()
    assert isinstance(ask(sites.make(tmp_path / "a", plans__transfer_sets=[listed]), sites.offer()), Accepted)
    assert isinstance(ask(sites.make(tmp_path / "b", plans__transfer_sets=["0" * 64]), sites.offer()), Declined)


def test_a_plan_by_nobody_or_by_another_author_is_refused(tmp_path: Path) -> None:
    other = signing.new_key(tmp_path / "key.pem")
    assert signing.author_of(signing.read_key(tmp_path / "key.pem")) == signing.author_of(other)
    site = sites.make(tmp_path / "s")
    for own in (Offer(plan=sites.plan()), codec.signed_offer(sites.plan(), other)):
        assert isinstance(ask(site, own), Declined)
    assert isinstance(ask(sites.make(tmp_path / "any", plans__authors="any"), Offer(plan=sites.plan())), Accepted)


def test_a_signature_of_another_plan_or_for_another_purpose_is_refused() -> None:
    own = sites.offer()
    changed = replace(own, plan=sites.plan(public_seed=9))
    bare = sites.KEY.sign(codec._plan_bytes(own.plan))
    for wrong in (changed, replace(own, signature=bytes(64)), replace(own, author=b""), replace(own, signature=bare)):
        with pytest.raises(WireError, match="Expected"):
            codec.encode_request(wrong)


@pytest.mark.parametrize("content", [None, "", "# only a comment\n"])
def test_a_missing_or_empty_policy_refuses_everything(content: str | None, tmp_path: Path) -> None:
    site = sites.make(tmp_path / "s")
    path = tmp_path / "s" / "policy.toml"
    path.unlink() if content is None else path.write_text(content)
    assert isinstance(ask(site, sites.offer()), Declined)
    with pytest.raises(PolicyError, match="everything is refused"):
        policy.read(path)


def test_a_policy_that_lacks_a_rule_refuses_everything(tmp_path: Path) -> None:
    site = sites.make(tmp_path / "s")
    lacking = sites.rules()
    del lacking["answers"]
    (tmp_path / "s" / "policy.toml").write_text(tomli_w.dumps(lacking))
    assert isinstance(ask(site, sites.offer()), Declined)
    with pytest.raises(SettingError, match="answers: missing"):
        policy.read(tmp_path / "s" / "policy.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget__epsilon": 0.0}, r"budget.epsilon = 0.0: expected a number > 0"),
        ({"budget__unit": "client"}, r"budget.unit = 'client': expected one of 'record'"),
        ({"plans__authors": ["abc"]}, r"expected 64 hexadecimal digits"),
        ({"answers__max_kk": 3}, r"answers.max_kk: unknown key \(did you mean max_k\?\)"),
        ({"teachers__kinds": ["oracle"]}, r"'oracle': expected one of 'linear', 'net', 'votes' or 'evidence'"),
        ({"data_set": "a b"}, r"data_set = 'a b': expected a string of the form"),
        ({"policy": "permissive"}, r"policy = 'permissive': expected one of 'UnsafePermissive'"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_by_key_and_value(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(tomli_w.dumps(sites.rules(**change)))
    with pytest.raises(SettingError, match=message):
        policy.read(tmp_path / "policy.toml")


def test_only_a_policy_that_calls_itself_unsafe_is_permissive_and_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make(tmp_path / "s")
    own = {"policy": "UnsafePermissive", "name": "mine", "data_set": "a-test", "budget": sites.RULES["budget"]}
    (tmp_path / "s" / "policy.toml").write_text(tomli_w.dumps(own))
    with caplog.at_level(logging.WARNING, "limbeck"):
        assert isinstance(ask(site, Offer(plan=sites.plan(truncation=TopK(k=9)))), Accepted)
    assert "UnsafePermissive" in caplog.text
    assert "UNSAFE" in policy.explain(policy.read(tmp_path / "s" / "policy.toml"))[-1]


def test_a_policy_made_stricter_holds_at_the_next_question(tmp_path: Path) -> None:
    site, own = sites.make(tmp_path / "s"), sites.offer()
    assert isinstance(ask(site, own), Accepted)
    (tmp_path / "s" / "policy.toml").write_text(tomli_w.dumps(sites.rules(answers__max_k=2)))
    plan_hash = codec.plan_hash(own.plan)
    for request in (Teach(plan_hash=plan_hash), Ask(plan_hash=plan_hash, stage=0, first=0, count=20)):
        reply = codec.decode_reply(respond(site, codec.encode_request(request)), plan=own.plan, expecting=request)
        assert isinstance(reply, Declined)
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_the_template_is_a_valid_policy_that_accepts_nobody(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(policy.TEMPLATE)
    own = policy.read(tmp_path / "policy.toml")
    with pytest.raises(PolicyError, match=r"plans.authors"):
        own.check(sites.plan(), signing.author_of(sites.KEY))
    assert any("epsilon = 1" in line for line in policy.explain(own))


def test_an_unexpected_error_tells_the_peer_nothing(tmp_path: Path) -> None:
    site, own = sites.make(tmp_path / "s"), sites.offer()
    site.ledger.write_text("not a ledger, but the secret name of a patient" * 200)
    data = respond(site, codec.encode_request(own))
    reply = codec.decode_reply(data, plan=own.plan, expecting=own)
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.FAILED
    assert b"patient" not in data
