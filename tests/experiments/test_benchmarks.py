"""Benchmarks measure what they say, and all write their results in the same way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from limbeck.experiments import memory
from limbeck.experiments.benchmarks import carrier, runner, starts
from limbeck.simulations import scenario


def command(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, children: dict[str, Callable[..., None]] | None = None
) -> None:
    """Run a benchmark's command with these arguments."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    runner.main("wire", lambda: {"figure": 1.5}, description="", machine=lambda: "a machine", children=children or {})


def test_a_result_is_printed_and_written_to_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "deeper" / "b.json"]
    command(monkeypatch, *map(str, files))
    printed = capsys.readouterr().out
    assert json.loads(printed) == {
        "command": "python -m limbeck.experiments.benchmarks.wire experiments/results/wire.json",
        "machine": "a machine",
        "figure": 1.5,
    }
    assert [file.read_text() for file in files] == [printed, printed]


def test_another_process_of_a_benchmark_does_its_part_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts: list[tuple[str, ...]] = []
    command(monkeypatch, "--row", "fedavg", "50", children={"--row": lambda *arguments: parts.append(arguments)})
    assert parts == [("fedavg", "50")]
    assert not capsys.readouterr().out


def test_sites_of_files_to_start_from_are_alike_apart_or_uneven() -> None:
    y_N = np.repeat([0, 1, 2], 100)[np.random.default_rng(0).permutation(300)]
    found = {spread: starts.sites_of(y_N, 3, spread, 1) for spread in starts.SPREADS}
    held = {spread: [np.bincount(y_N[site_N == site], minlength=3) for site in range(3)] for spread, site_N in found.items()}
    assert [own.sum() for own in held["alike"]] == [own.sum() for own in held["apart"]] == [100, 100, 100]
    assert min(own.min() for own in held["alike"]) > 15
    assert [own.max() for own in held["apart"]] == [100, 100, 100]
    assert [own.sum() for own in held["uneven"]] == [38, 37, 225]
    assert (starts.sites_of(y_N, 3, "alike", 2) != found["alike"]).any()


def test_the_carriers_overhead_is_what_training_and_inference_leave() -> None:
    sizes = ["data.private=300", "data.public=80", "student.epochs=1", "student.dense_control=false"]
    seconds = carrier.one_run(scenario.load("digits-tiny", [*sizes, "run.workers=2"]))
    work, overhead = seconds["training_and_inference_per_worker"], seconds["overhead"]
    assert 0 < work < seconds["agree_teach_answers"]
    assert work + overhead == pytest.approx(seconds["agree_teach_answers"])


def test_the_peak_of_memory_can_start_again() -> None:
    block = bytearray(64 << 20)
    block[::4096] = bytes(len(block) // 4096)
    peak = memory.used("VmHWM")
    assert min(peak, memory.used("VmRSS")) > len(block)
    del block
    memory.reset_peak()
    assert memory.used("VmHWM") < peak


def test_a_process_that_is_gone_has_no_memory() -> None:
    with pytest.raises(OSError, match="/proc/999999999/status"):
        memory.used("VmRSS", 999_999_999)
