"""Speed of the ledger: `python -m limbeck.experiments.benchmarks.ledger [OUT.json]`. One core; ratios are measured side by side."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from limbeck.client import ledger as ledgers
from limbeck.client.ledger import Budget, Ledger
from limbeck.experiments.benchmarks import runner
from limbeck.plans import accounting, privacy_filter
from limbeck.plans.schema import Adjacency, LinearTeaching, NetTeaching, Teaching, Unit

ENTRIES, EARLIER, REPEATS = 10_000, 100, 9
BUDGET = Budget(data_set="benchmark", epsilon=20.0, delta=1e-5, unit=Unit.RECORD, adjacency=Adjacency.ADD_REMOVE_ONE)
PLAN = bytes(32)
LINEAR = LinearTeaching(
    features="pixels",
    feature_norm=4.0,
    steps=60,
    learning_rate=4.0,
    momentum=0.9,
    clip=1.0,
    noise_multiplier=60.0,
    normaliser=300.0,
    average_last=20,
)
CNN = NetTeaching(
    architecture="cnn",
    sampling_rate=0.1,
    steps=100,
    learning_rate=1.0,
    momentum=0.9,
    clip=0.1,
    noise_multiplier=20.0,
    normaliser=64.0,
    physical_batch=64,
)


def verification(folder: Path) -> dict[str, object]:
    """Reading and verifying a chain of 10,000 entries, against SQLite reading the same rows: medians of alternating turns."""
    path = folder / "many.ledger"
    # In one transaction, so that it takes seconds; the rows are like any others.
    with Ledger(path, BUDGET) as ledger, ledger._transaction() as rows:
        for index in range(ENTRIES):
            what = f"share of stage {index % 4 + 1}, samples 0 to 9999"
            why = "post-processing of a DP-trained teacher on public inputs"
            ledger._append(rows, "free", {"plan": PLAN.hex(), "what": what, "why": why})

    def read() -> list[ledgers.Row]:
        with closing(sqlite3.connect(path)) as db:
            return db.execute("SELECT id, kind, content, hash FROM ledger ORDER BY id").fetchall()

    def verify() -> None:
        ledgers.verify(read(), path)

    times: dict[str, list[float]] = {"read": [], "verify": []}
    for _ in range(REPEATS):
        times["read"].append(_seconds(read))
        times["verify"].append(_seconds(verify))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "entries": ENTRIES,
        "sqlite_read_ms": round(1000 * medians["read"], 2),
        "read_and_verify_ms": round(1000 * medians["verify"], 2),
        "ratio": round(medians["verify"] / medians["read"], 2),
    }


def reservation(folder: Path, name: str, schedules: list[Teaching]) -> dict[str, object]:
    """Shortest time of one durable reservation after 100 earlier entries, nothing cached: all distributions are composed again."""
    path = folder / f"{name}.ledger"
    with Ledger(path, BUDGET) as ledger, ledger._transaction() as rows:
        for teaching in schedules:
            schedule = ledgers._schedule_to_json((teaching, None))
            ledger._append(rows, "reserve", {"plan": PLAN.hex(), "what": "teacher", "schedule": schedule})
    times: list[tuple[float, float]] = []
    for _ in range(REPEATS):
        for cached in (accounting.epsilon, accounting._once, privacy_filter.epsilon, privacy_filter._squared_mu):
            cached.cache_clear()
        with Ledger(path, BUDGET) as ledger:
            started = time.perf_counter(), time.process_time()
            ledger.reserve(PLAN, "teacher", schedules[0], None)
            times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
            spent = ledger.spent()
    wall, cpu = (round(min(values), 3) for values in zip(*times, strict=True))
    return {"earlier": name, "seconds": wall, "cpu_seconds": cpu, "epsilon": round(spent, 3)}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure() -> dict[str, object]:
    """All figures."""
    accounting.epsilon(((LINEAR, None),), 1e-5)  # so that imports are not measured
    linear = [replace(LINEAR, noise_multiplier=60.0 + index / 10) for index in range(EARLIER)]
    same_cnn = [CNN for _ in range(EARLIER)]
    other_cnn = [replace(CNN, noise_multiplier=20.0 + index / 10) for index in range(EARLIER)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        return {
            "verification": verification(folder),
            "reservation": [
                reservation(folder, "100 full-batch schedules, all different", list(linear)),
                reservation(folder, "100 equal Poisson-sampled schedules", list(same_cnn)),
                reservation(folder, "100 Poisson-sampled schedules, all different", list(other_cnn)),
            ],
        }


def main() -> None:
    """The command."""
    runner.main("ledger", measure, description=__doc__, machine=runner.one_core)


if __name__ == "__main__":
    main()
