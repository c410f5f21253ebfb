"""A simulation from a scenario to a report: prepare, run the real apps over a carrier, measure."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from flwr.app import Context, RecordDict
from rich.console import Console

from limbeck.base.errors import RunError
from limbeck.base.progress import Progress, bars
from limbeck.client.child import CLIENT_APP
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.flower_messages import SERVER_NODE
from limbeck.server.record import Record
from limbeck.simulations import black_box, central, finish, flower, grid, measure, prepare, report
from limbeck.simulations.metrics import Metrics, Phase
from limbeck.simulations.scenario import Scenario
from limbeck.simulations.watch import Watch

CARRIERS = ("local", "flower")


def simulate(
    scenario: Scenario,
    folder: Path,
    *,
    carrier: str = "local",
    client_app: str = CLIENT_APP,
    sites: Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> Metrics:
    """Make a new run in an empty or absent `folder`; returns its metrics.

    - carrier: "local" or "flower".
    - client_app: "module:attribute" of what each site runs over the local carrier.
    - sites: site folders of an earlier run to go on with, ledgers included.
    - cache: where downloaded data sets are.
    - workers: client processes at once over the local carrier, if the scenario does not say; by default one per core.
    - console: for progress bars; none by default.

    Raises: RunError if the folder is not empty.
    """
    console = console or Console(quiet=True)
    if carrier == "local":
        grid.warm_up(client_app)
    started = time.perf_counter()
    prepare_only(scenario, folder, sites=sites, cache=cache, console=console)
    return _go_on(folder, carrier, client_app, workers, console, {"prepare": time.perf_counter() - started})


def prepare_only(
    scenario: Scenario,
    folder: Path,
    *,
    sites: Path | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Prepare an empty or absent `folder` for a run; returns the Flower bundle in it. Arguments are those of `simulate`.

    Raises: RunError if the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"Expected an empty or absent folder for a new run, got {folder}; go on with it by --resume.")
    with _bar(console or Console(quiet=True), "Data, partition, noise") as progress:
        prepare.prepare(scenario, folder, cache=cache, sites=sites, progress=progress)
        progress(1, 1)
    if console is not None:
        for sentence in prepare.read_said(folder):
            console.print(sentence, markup=False, highlight=False)
    _, _, held = prepare.read_prepared(folder)
    return flower.write_bundle(folder, len(list(held.glob("*/site.toml"))))


def resume(
    folder: Path,
    *,
    carrier: str = "local",
    client_app: str = CLIENT_APP,
    workers: int | None = None,
    console: Console | None = None,
) -> Metrics:
    """Resume the run in `folder` after its last finished stage; returns its metrics. Arguments are those of `simulate`.

    Raises: RunError if no run was prepared there.
    """
    if carrier == "local":
        grid.warm_up(client_app)
    return _go_on(folder, carrier, client_app, workers, console or Console(quiet=True), {})


def _go_on(
    folder: Path, carrier: str, client_app: str, workers: int | None, console: Console, seconds: dict[Phase, float]
) -> Metrics:
    scenario, plan, sites = prepare.read_prepared(folder)
    started = time.perf_counter()
    with (
        black_box.served(sites, labels_only=scenario.black_box.labels_only),
        Watch(folder / "server" / "events.jsonl", console),
    ):
        if carrier == "local":
            _run_local(scenario, folder, sites, client_app, workers)
        elif carrier == "flower":
            _run_flower(folder, sites)
        else:
            raise RunError(f"Expected a carrier out of {', '.join(CARRIERS)}, got {carrier!r}.")
    seconds["run"] = time.perf_counter() - started
    handed_over = finish.hand_over(folder, scenario, plan)
    if scenario.student.dense_control:
        with _bar(console, "Control: a dense student") as progress:
            measure.dense_control(folder, plan, progress)
    measured = measure.measure(
        folder,
        scenario,
        plan,
        sites,
        carrier=carrier,
        seconds=_seconds(folder, plan, seconds),
        dense=scenario.student.dense_control,
        temperature=handed_over.logits_divided_by,
        central={kind: _central(kind, folder, scenario, plan, sites, console) for kind in central.wanted(scenario)},
    )
    finish.note_figures(folder, measured)
    report.build(folder)
    return measured


def _run_local(scenario: Scenario, folder: Path, sites: Path, client_app: str, workers: int | None) -> None:
    from limbeck.server.app import app

    folders = sorted(path.parent for path in sites.glob("*/site.toml"))
    processes = scenario.run.workers or workers or os.cpu_count() or 1
    local = grid.LocalGrid(folders, workers=processes, client_app=client_app)
    try:
        config = flower.run_config(folder, len(folders))
        context = Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=config)
        app(local, context)
    finally:
        # After Ctrl-C, sites finish the work that their ledgers were charged for; a second Ctrl-C does not wait for them.
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


def _central(
    kind: central.Kind, folder: Path, scenario: Scenario, plan: Plan, sites: Path, console: Console
) -> central.Central:
    title = {"private": "Control: one teacher of all records", "without-noise": "Control: the same without noise"}[kind]
    with _bar(console, title) as progress:
        return central.train(kind, folder, scenario, plan, sites, progress=progress)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Progress]:
    with bars(console) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _seconds(folder: Path, plan: Plan, measured: dict[Phase, float]) -> dict[Phase, float]:
    """Wall-clock seconds of each phase: those measured here, those that the coordinator recorded, and the total."""
    recorded = Record(folder / "server" / "record.json", codec.plan_hash(plan)).seconds
    phases = {phase: recorded[phase] for phase in get_args(Phase) if phase in recorded}
    return {**measured, **phases, "total": sum(measured.values())}
