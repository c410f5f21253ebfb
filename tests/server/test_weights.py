"""Sites that release no label counts have a say in pooling by class all the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from conftest import PLAN

from limbeck.protos.messages import Offer, Pooling, RecordCount
from limbeck.server.coordinator import Coordinator, Patience


def test_a_site_that_released_no_counts_weighs_as_the_average_of_those_that_did(tmp_path: Path) -> None:
    plan = replace(PLAN, classes=2, pooling=Pooling.CLASS_COUNTS)
    own = Coordinator(cast(Any, None), Offer(plan=plan), torch.zeros(20, 8, 8), tmp_path, Patience(expected=3))
    own.sites = {1: "a", 2: "b", 3: "c", 4: "black-box"}
    for site, claims in (("a", [30, 10]), ("b", [10, 12]), ("c", [20, 8])):
        own.record.client(site)["label_counts"] = claims
    own.record.client("black-box")["label_counts"] = None
    weights = own._weights()
    torch.testing.assert_close(weights["black-box"], torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(weights["a"], torch.tensor([1 / 2, 1 / 3]))


def test_the_same_by_numbers_of_records(tmp_path: Path) -> None:
    plan = replace(
        PLAN, classes=2, pooling=Pooling.RECORD_COUNTS, label_counts=None, record_count=RecordCount(noise_std=5.0)
    )
    own = Coordinator(cast(Any, None), Offer(plan=plan), torch.zeros(20, 8, 8), tmp_path, Patience(expected=3))
    own.sites = {1: "a", 2: "b", 3: "c", 4: "black-box"}
    for site, claim in (("a", 200), ("b", 300), ("c", 400)):
        own.record.client(site)["record_count"] = claim
    weights = own._weights()
    torch.testing.assert_close(weights["black-box"], torch.tensor([0.75, 0.75]))
    torch.testing.assert_close(weights["a"], torch.tensor([0.5, 0.5]))
