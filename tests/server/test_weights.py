"""What each site's say is in the pool, and what the coordinator writes down about a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict

from helpers import sites
from helpers.plans import PLAN
from limbeck.base.errors import DataError, RunError
from limbeck.plans.schema import Pooling, RecordCount
from limbeck.protos import codec
from limbeck.server.app import app
from limbeck.server.coordinator import site_weights
from limbeck.server.events import Ended, Events, Started
from limbeck.server.record import ClientRecord, Record


def test_a_site_that_released_no_counts_weighs_as_the_average_of_those_that_did() -> None:
    plan = replace(PLAN, classes=2, pooling=Pooling.CLASS_COUNTS)
    claims = {"a": (30, 10), "b": (10, 12), "c": (20, 8), "black-box": None}
    weights = site_weights(plan, {name: ClientRecord(label_counts=counts) for name, counts in claims.items()})
    torch.testing.assert_close(weights["black-box"], torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(weights["a"], torch.tensor([1 / 2, 1 / 3]))


def test_the_same_by_numbers_of_records() -> None:
    plan = replace(
        PLAN, classes=2, pooling=Pooling.RECORD_COUNTS, label_counts=None, record_count=RecordCount(noise_std=5.0)
    )
    claims = {"a": 200, "b": 300, "c": 400, "black-box": None}
    weights = site_weights(plan, {name: ClientRecord(record_count=count) for name, count in claims.items()})
    torch.testing.assert_close(weights["black-box"], torch.tensor([0.75, 0.75]))
    torch.testing.assert_close(weights["a"], torch.tensor([0.5, 0.5]))


def test_a_record_of_another_plan_is_never_gone_on_with(tmp_path: Path) -> None:
    Record(tmp_path / "record.json", bytes(32)).save()
    assert Record(tmp_path / "record.json", bytes(32)).clients == {}
    with pytest.raises(RunError, match="found a run of plan 0000"):
        Record(tmp_path / "record.json", bytes(range(32)))


def test_an_event_that_was_cut_off_is_dropped_and_the_next_one_stands_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Events(path)(Started(plan="ab", stages=1))
    with path.open("a") as file:
        file.write('{"kind": "sta')
    Events(path)(Ended())
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["start", "end"]


def test_the_coordinator_does_not_run_on_other_inputs_than_the_plans(tmp_path: Path) -> None:
    (tmp_path / "plan.pb").write_bytes(codec.encode_request(sites.offer()))
    own = codec.decode_offer((tmp_path / "plan.pb").read_bytes()).plan
    np.savez(tmp_path / f"{own.transfer_set.hex()}.npz", x=255 - sites.PUBLIC)
    config: dict[str, bool | float | int | str] = {"plan": str(tmp_path / "plan.pb"), "transfer-sets": str(tmp_path)}
    config["folder"] = str(tmp_path / "run")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    with pytest.raises(DataError, match=r"Expected the plan's 20 inputs in .*, found others"):
        app(cast(Any, None), context)
