"""Answers that arrive as zero, or as good as zero, are counted per class and told in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.plans import PLAN
from limbeck import operators
from limbeck.plans.schema import Plan, Sampled, TopK
from limbeck.protos import codec, floor
from limbeck.protos.messages import Ask, Share

TWO = replace(PLAN, classes=2, truncation=TopK(k=2), label_counts=None, class_names=("fair", "fraud"))


def received(p_NK: Tensor, plan: Plan) -> Tensor:
    """What the coordinator has of such answers, dense."""
    answers = operators.TopK(codec.kept(plan))(p_NK)
    plan = replace(plan, samples=len(p_NK))
    share = Share(plan_hash=codec.plan_hash(plan), stage=0, first=0, answers=answers)
    ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=len(p_NK))
    reply = codec.decode_reply(codec.encode_reply(share, plan=plan), plan=plan, expecting=ask)
    assert isinstance(reply, Share)
    return reply.answers.dense()


@pytest.mark.parametrize("p", [0.0, 2.0**-40, 2.0**-21.5, 2.0**-20, 2.0**-19.97])
def test_what_arrives_as_zero_or_as_the_least_code_lies_on_the_floor(p: float) -> None:
    p_NK = torch.tensor([[1 - p, p]], dtype=torch.float64).float().expand(20, 2)
    assert floor.count(received(p_NK, TWO)).tolist() == [0, 20]


@pytest.mark.parametrize("p", [2.0**-19.8, 2.0**-15, 0.01, 0.5])
def test_what_is_above_the_least_code_does_not(p: float) -> None:
    p_NK = torch.tensor([[1 - p, p]], dtype=torch.float64).float().expand(20, 2)
    assert floor.count(received(p_NK, TWO)).tolist() == [0, 0]


def test_of_classes_that_were_not_kept_the_share_of_the_tail_counts() -> None:
    one, tail = torch.tensor([0.9, 0.1] + [0.0] * 8), torch.tensor([0.9] + [0.1 / 9] * 9)
    plan = replace(PLAN, truncation=TopK(k=1))
    assert floor.count(received(torch.stack([one, tail]), plan)).tolist() == [0] * 10
    plan = replace(PLAN, truncation=TopK(k=2))
    assert floor.count(received(torch.stack([one, tail]), plan)).tolist() == [0, 0] + [1] * 8


def test_counts_of_draws_have_no_floor() -> None:
    assert floor.applies(PLAN)
    assert not floor.applies(replace(PLAN, truncation=Sampled(draws=4)))


def test_a_sentence_names_the_classes_the_temperature_and_what_to_do() -> None:
    sentence = floor.warning(TWO, (0.0, 0.93), 1.0)
    assert sentence is not None
    for words in ("temperature 1", "fraud (93%)", "stages.temperature, such as 2"):
        assert words in sentence
    assert "fair" not in sentence
    assert floor.warning(TWO, (0.0, floor.MANY - 0.01), 1.0) is None
    assert floor.warning(TWO, (), 1.0) is None
    many = floor.warning(PLAN, (0.5, 0.9, *(0.8,) * 8), 40.0)
    assert many is not None
    assert "1 (90%), 2 (80%), 3 (80%), 4 (80%), 5 (80%), ..." in many
