"""What each site's say is in the pool, and what the coordinator writes down about a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sites
import torch
from conftest import PLAN
from flwr.app import Context, RecordDict

from limbeck.operators.errors import DataError, RunError
from limbeck.protos import codec
from limbeck.protos.messages import Offer, Pooling, RecordCount
from limbeck.server.app import app
from limbeck.server.coordinator import Coordinator, Patience
from limbeck.server.events import Events
from limbeck.server.record import Record


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


def test_by_numbers_of_records_every_site_is_heard_a_little_and_none_beyond_its_share(tmp_path: Path) -> None:
    plan = replace(
        PLAN, classes=2, label_counts=None, record_count=RecordCount(noise_std=3.0), pooling=Pooling.RECORD_COUNTS
    )
    own = Coordinator(cast(Any, None), Offer(plan=plan), torch.zeros(20, 8, 8), tmp_path, Patience(expected=3))
    own.sites = {1: "a", 2: "b", 3: "black-box"}
    for name, count in (("a", 100), ("b", -7), ("black-box", None)):
        own.record.client(name)["record_count"] = count
    weights = {name: found.tolist() for name, found in own._weights().items()}
    assert weights["a"] == [1.0, 1.0]
    assert weights["b"] == pytest.approx([0.01, 0.01])
    assert weights["black-box"] == pytest.approx([0.505, 0.505])


def test_a_record_of_another_plan_is_never_gone_on_with(tmp_path: Path) -> None:
    Record(tmp_path / "record.json", bytes(32)).save()
    assert Record(tmp_path / "record.json", bytes(32)).clients == {}
    with pytest.raises(RunError, match="found a run of plan 0000"):
        Record(tmp_path / "record.json", bytes(range(32)))


def test_an_event_that_was_cut_off_is_dropped_and_the_next_one_stands_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Events(path)("start")
    with path.open("a") as file:
        file.write('{"kind": "sta')
    Events(path)("end")
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
