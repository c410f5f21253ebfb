"""A simulation from a scenario to a report: prepare, run the real apps over a carrier, measure."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from rich.console import Console

from limbeck.base.errors import RunError
from limbeck.base.progress import bars
from limbeck.plans.schema import Plan
from limbeck.protos.flower_messages import SERVER_NODE
from limbeck.simulations import black_box, flower, grid, measure, prepare, report
from limbeck.simulations.scenario import Scenario
from limbeck.simulations.watch import Watch

CARRIERS = ("local", "flower")


def simulate(
    scenario: Scenario,
    folder: Path,
    *,
    carrier: str = "local",
    sites: Path | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """A new run in an empty or absent `folder`; returns its metrics. Raises RunError where the folder is not empty."""
    console = console or Console(quiet=True)
    if carrier == "local":
        grid.warm_up()
    started = time.perf_counter()
    prepare_only(scenario, folder, sites=sites, cache=cache, console=console)
    return _go_on(folder, carrier, console, {"prepare": time.perf_counter() - started})


def prepare_only(
    scenario: Scenario,
    folder: Path,
    *,
    sites: Path | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Prepare an empty or absent `folder` for a run; returns the Flower bundle in it. Raises RunError where it is not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"Expected an empty or absent folder for a new run, got {folder}; go on with it by --resume.")
    with _bar(console or Console(quiet=True), "Data, partition, noise") as progress:
        prepare.prepare(scenario, folder, cache=cache, sites=sites, progress=progress)
        progress(1, 1)
    return flower.write_bundle(folder, scenario.partition.clients)


def resume(folder: Path, *, carrier: str = "local", console: Console | None = None) -> dict[str, Any]:
    """Go on with the run in `folder` after its last finished stage; returns its metrics. Raises RunError where there is none."""
    if carrier == "local":
        grid.warm_up()
    return _go_on(folder, carrier, console or Console(quiet=True), {})


def _go_on(folder: Path, carrier: str, console: Console, seconds: dict[str, float]) -> dict[str, Any]:
    scenario, plan, sites = prepare.read_prepared(folder)
    started = time.perf_counter()
    with (
        black_box.served(sites, labels_only=scenario.black_box.labels_only),
        Watch(folder / "server" / "events.jsonl", console),
    ):
        if carrier == "local":
            _run_local(scenario, folder, sites)
        elif carrier == "flower":
            _run_flower(folder, sites)
        else:
            raise RunError(f"Expected a carrier out of {', '.join(CARRIERS)}, got {carrier!r}.")
    seconds["run"] = time.perf_counter() - started
    dense = _dense(folder, plan, console) if scenario.student.dense_control else None
    metrics = measure.measure(
        folder, scenario, plan, sites, {"carrier": carrier, "seconds": _seconds(folder, seconds)}, dense
    )
    report.build(folder)
    return metrics


def _run_local(scenario: Scenario, folder: Path, sites: Path) -> None:
    from limbeck.server.app import app

    folders = sorted(path.parent for path in sites.glob("*/site.toml"))
    workers = scenario.run.workers or os.cpu_count() or 1
    local = grid.LocalGrid(folders, workers=workers)
    try:
        config = flower.run_config(folder, len(folders))
        context = Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=config)
        app(local, context)
    finally:
        # After Ctrl-C, sites under way finish what their ledgers were charged for; a second Ctrl-C does not wait for them.
        try:
            local.close()
        except KeyboardInterrupt:
            local.close(at_once=True)
            raise


def _run_flower(folder: Path, sites: Path) -> None:
    """Flower's own simulation engine, on Ray."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise RunError("Expected the package ray for --carrier flower; install it with: pip install limbeck[ray]") from error
    flower.run(folder, sites)


def _dense(folder: Path, plan: Plan, console: Console) -> list[float]:
    with _bar(console, "Control: a dense student") as progress:
        return measure.dense_control(folder, plan, progress)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[measure.Progress]:
    with bars(console) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _seconds(folder: Path, measured: dict[str, float]) -> dict[str, float]:
    recorded = json.loads((folder / "server" / "record.json").read_text(encoding="utf-8"))["seconds"]
    total = sum(measured.values())
    return {**measured, **recorded, "total": total}
