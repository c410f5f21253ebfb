"""A run that goes wrong ends at once and says why: nothing that is not finite is kept. What only looks wrong is in its record."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from helpers.carriers import SETTINGS, A, B, Consortium, run
from limbeck.base.errors import RunError
from limbeck.plans.schema import Loss
from limbeck.protos import codec
from limbeck.server import checkpoint, events, losses, record
from limbeck.server.events import Stopped, Warned
from limbeck.simulations import prepare, scenario

Prepared = Callable[[Path], Path]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Makes folders for runs, at a temperature that leaves most classes nothing."""
    base = tmp_path_factory.mktemp("prepared") / "run"
    prepare.prepare(scenario.load("digits-tiny", [*SETTINGS, "stages.temperature=0.01"]), base)
    return lambda folder: Path(shutil.copytree(base, folder))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_no_checkpoint_of_it(
    value: float, fresh: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh(tmp_path / "run")
    asked: list[int] = []
    honest = losses.by_name

    def spoilt(loss: Loss, target_NK: Tensor, logits_NK: Tensor, temperature: float) -> Tensor:
        asked.append(1)
        found = honest(loss, target_NK, logits_NK, temperature)
        # The first stage ends well: as many steps as it takes, and those of the rehearsal.
        finished = checkpoint.path_of(folder / "server" / "checkpoints", 0).exists()
        return found * value if finished else found

    monkeypatch.setattr(losses, "by_name", spoilt)
    with pytest.raises(RunError, match="Expected a finite loss in stage 2, epoch 1, got"):
        run(folder, Consortium(folder, A, B))
    server = folder / "server"
    assert not checkpoint.path_of(server / "checkpoints", 1).exists()
    last = list(events.read((server / "events.jsonl").read_bytes().splitlines()))[-1].event
    assert isinstance(last, Stopped)
    assert "Expected a finite loss in stage 2" in last.reason
    kept = record.read(server / "record.json")
    assert [stage.stage for stage in kept.stages] == [0]
    assert all(loss is not None for loss in kept.stages[0].losses)
    # What was finished is gone on with.
    monkeypatch.setattr(losses, "by_name", honest)
    run(folder, Consortium(folder, A, B))
    assert len(record.read(server / "record.json").stages) == len(
        codec.decode_offer((folder / "plan.pb").read_bytes()).plan.stages
    )


def test_answers_on_the_floor_and_few_public_inputs_are_in_record_and_events_once(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    run(folder, Consortium(folder, A, B))
    kept = record.read(folder / "server" / "record.json")
    assert all(len(stage.at_floor) == 10 and max(stage.at_floor) > 0.8 for stage in kept.stages)
    sentences = [line for line in kept.warnings if "lie on the floor of the wire" in line]
    assert len(sentences) == 1
    lines = events.read((folder / "server" / "events.jsonl").read_bytes().splitlines())
    assert [line.event.text for line in lines if isinstance(line.event, Warned)] == kept.warnings
