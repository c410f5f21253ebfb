"""Sites that release no label counts have a say in pooling by class all the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from conftest import PLAN

from limbeck.protos.messages import Offer, Pooling
from limbeck.server.coordinator import Coordinator, Patience


def test_a_site_that_released_no_counts_weighs_as_the_average_of_those_that_did(tmp_path: Path) -> None:
    plan = replace(PLAN, classes=2, pooling=Pooling.CLASS_COUNTS)
    own = Coordinator(cast(Any, None), Offer(plan=plan), torch.zeros(20, 8, 8), tmp_path, Patience(expected=3))
    own.sites = {1: "a", 2: "b", 3: "black-box"}
    own.record.client("a")["label_counts"] = [30.0, 10.0]
    own.record.client("b")["label_counts"] = [10.0, -2.0]
    own.record.client("black-box")["label_counts"] = None
    weights = own._weights()
    torch.testing.assert_close(weights["black-box"], torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(weights["a"], torch.tensor([0.5, 2 / 3]))
