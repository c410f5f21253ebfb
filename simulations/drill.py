"""Break a federation of real processes on loopback, fault by fault, and say what came of it: `python -m limbeck.simulations.drill`.

Every fault is put to a fresh federation of three sites with convolutional teachers, which take long enough to be hit while they train.
Noise is seeded, so that the student can be compared, to the last bit, with an undisturbed run's. Exit status 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck.client import ledger as ledgers
from limbeck.client.site import Site
from limbeck.operators.errors import LedgerError
from limbeck.simulations import run
from limbeck.simulations.linked import Federation, free_port
from limbeck.simulations.relay import Relay
from limbeck.simulations.scenario import Scenario, load

SETTINGS = [
    "privacy.noise=UnsafeSeeded",
    "teacher.kind=cnn",
    "teacher.steps=100",
    "teacher.learning_rate=0.5",
    "teacher.clip=0.5",
    "teacher.normaliser=100.0",
    "teacher.sampling_rate=0.3",
    "student.epochs=20",
    "data.public=120",
    "run.workers=1",
]
PATIENCE_SECONDS = 300.0
COMMITTED, RESERVED = ["committed"], ["reserved"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing to break. break_it: of a federation whose processes are started by it. lost: sites that must be left out.

    charged: states of each site's charges afterwards, site by site. settings: of coordinator.toml. through: whether the first site's
    connection runs through a relay, and at which rate.
    """

    name: str
    break_it: Callable[[Drill], None]
    charged: Sequence[Sequence[str]] = (COMMITTED, COMMITTED, COMMITTED)
    lost: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    rate: float | None = None


class Drill:
    """A federation under a fault."""

    def __init__(self, federation: Federation, relay: Relay | None) -> None:
        self.federation, self.relay = federation, relay
        self.sites = {name: federation.site(name) for name in federation.sites}
        self.coordinator = federation.serve()

    def taught(self, count: int = 1) -> None:
        """Wait until so many sites have trained; the others are at it."""
        self.federation.wait_for(
            lambda event: event.get("phase") == "teach" and event["kind"] == "progress" and event["done"] == count
        )

    def teaching(self, site: str) -> None:
        """Wait until a site trains: its ledger holds a reservation."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            # A ledger may be read in the moment when it is made.
            with contextlib.suppress(LedgerError):
                if charges(self.federation.sites[site]) == RESERVED:
                    return
            time.sleep(0.02)
        raise TimeoutError(f"{site} did not begin to train")

    def staged(self) -> dict[str, Any]:
        """Wait until a stage is finished."""
        return self.federation.wait_for(lambda event: event["kind"] == "stage")

    def kill(self, site: str, *, whole: bool = False) -> None:
        """Kill a site's daemon, or it and all of its processes."""
        process = self.sites[site]
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()

    def restart(self, site: str) -> None:
        """Start a site's daemon again."""
        self.sites[site] = self.federation.site(site)

    def restart_coordinator(self) -> None:
        """Kill the coordinator and start it again."""
        self.coordinator.kill()
        self.coordinator.wait()
        self.coordinator = self.federation.serve()


def charges(site: Path) -> list[str]:
    """States of what a site's ledger was charged for."""
    own = Site(site)
    if not own.ledger.exists():
        return []
    return [entry.state for entry in ledgers.read(own.ledger).entries if entry.state != "free"]


# Faults


def nothing(drill: Drill) -> None:
    """An undisturbed run over the link."""


def daemon_killed_in_training(drill: Drill) -> None:
    """Its child goes on; the daemon that follows finds the answer."""
    drill.teaching("site-00")
    drill.kill("site-00")
    drill.restart("site-00")


def site_killed_in_training(drill: Drill) -> None:
    """As by a power cut: what is reserved stays spent, and the site declines."""
    drill.teaching("site-00")
    drill.kill("site-00", whole=True)
    drill.restart("site-00")


def site_killed_in_release(drill: Drill) -> None:
    """Between the stages, all of it."""
    drill.taught(3)
    drill.kill("site-00", whole=True)
    drill.restart("site-00")


def coordinator_killed_in_training(drill: Drill) -> None:
    """Nothing of the run is on its disk but the record."""
    drill.teaching("site-00")
    drill.restart_coordinator()


def coordinator_killed_between_stages(drill: Drill) -> None:
    """One checkpoint is there."""
    drill.staged()
    drill.restart_coordinator()


def connections_cut(drill: Drill) -> None:
    """One site's, several times, all the way."""
    for _ in range(4):
        time.sleep(1.0)
        if drill.relay is not None:
            drill.relay.cut()


def site_never_answers(drill: Drill) -> None:
    """Stopped in training, not ended: its connection stays open, and silent."""
    drill.teaching("site-00")
    os.killpg(drill.sites["site-00"].pid, signal.SIGSTOP)


def site_comes_late(drill: Drill) -> None:
    """One of three that the plan needs here is started only when the run has paused."""
    drill.kill("site-00", whole=True)
    drill.federation.wait_for(lambda event: event["kind"] == "paused")
    drill.restart("site-00")


ALL_THREE: Mapping[str, object] = {"join_seconds": 1.0}
FAULTS = [
    Fault(name="none", break_it=nothing),
    Fault(name="site daemon killed in training", break_it=daemon_killed_in_training),
    Fault(
        name="site killed in training, children too",
        break_it=site_killed_in_training,
        charged=(RESERVED, COMMITTED, COMMITTED),
        lost=("site-00",),
    ),
    Fault(name="site killed in release", break_it=site_killed_in_release),
    Fault(name="coordinator killed in training", break_it=coordinator_killed_in_training),
    Fault(name="coordinator killed between stages", break_it=coordinator_killed_between_stages),
    Fault(name="connection cut four times", break_it=connections_cut, rate=0.0),
    Fault(name="slow link, 4 kB a second", break_it=nothing, rate=4000.0),
    Fault(
        name="site that never answers",
        break_it=site_never_answers,
        charged=(RESERVED, COMMITTED, COMMITTED),
        lost=("site-00",),
        settings={"answer_seconds": 60.0},
    ),
    Fault(name="site that comes late, run paused", break_it=site_comes_late, settings=ALL_THREE),
]


def student(folder: Path) -> bytes:
    """The student's file."""
    return (folder / "server" / "student" / "student.safetensors").read_bytes()


def undergo(fault: Fault, scenario: Scenario, folder: Path, expected: Callable[[Sequence[str]], bytes]) -> list[str]:
    """Put a fault to a fresh federation; returns what is not as it should be. expected: the undisturbed student without some sites."""
    if fault.settings is ALL_THREE:
        scenario = scenario.model_copy(update={"run": scenario.run.model_copy(update={"minimum_clients": 3})})
    port = free_port()
    through = {} if fault.rate is None else {"site-00": port}
    settings = {"join_seconds": 60.0, **fault.settings}
    with Federation(folder, scenario, through=through, settings=settings) as federation:
        relay = None if fault.rate is None else Relay(federation.port, port=port, rate=fault.rate, record=False)
        drill = Drill(federation, relay)
        fault.break_it(drill)
        status = drill.coordinator.wait(PATIENCE_SECONDS)
        for process in drill.sites.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if relay is not None:
            relay.close()
    wrong = []
    if status != 0:
        return [f"the coordinator ended with status {status}"]
    found = [charges(site) for site in federation.sites.values()]
    if found != list(map(list, fault.charged)):
        wrong.append(f"charges are {found}")
    last = [event for event in federation.events() if event["kind"] == "stage"][-1]
    if (left := set(federation.sites) - set(last["clients"])) != set(fault.lost):
        wrong.append(f"left out are {sorted(left)}")
    if student(folder) != expected(fault.lost):
        wrong.append("the student is another")
    return wrong


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="faults with one of these in their name")
    options = parser.parse_args()
    console, scenario, failed = Console(), load("digits-tiny", SETTINGS), False
    table = Table("fault", "outcome", "seconds")
    with tempfile.TemporaryDirectory() as base:
        known: dict[tuple[str, ...], bytes] = {}

        def expected(lost: Sequence[str]) -> bytes:
            """From the local carrier, with the same sites in it: those that are lost hold a policy that forbids everything."""
            if tuple(lost) not in known:
                folder = Path(base) / f"undisturbed-{len(known)}"
                run.prepare_only(scenario, folder)
                for name in lost:
                    path = folder / "sites" / name / "policy.toml"
                    path.write_text(path.read_text().replace("max_stages = 2", "max_stages = 1"))
                run.resume(folder)
                known[tuple(lost)] = student(folder)
            return known[tuple(lost)]

        for index, fault in enumerate(FAULTS):
            if not any(part in fault.name for part in options.only):
                continue
            started = time.monotonic()
            try:
                wrong = undergo(fault, scenario, Path(base) / f"fault-{index}", expected)
            except TimeoutError as error:
                wrong = [str(error)]
            failed |= bool(wrong)
            out = f" without {', '.join(fault.lost)}" if fault.lost else ""
            good = f"nothing lost: charged once, the undisturbed student{out}"
            table.add_row(fault.name, "; ".join(wrong) or good, f"{time.monotonic() - started:.0f}")
            console.print(f"{fault.name}: {'; '.join(wrong) or 'as it should be'}", highlight=False)
    console.print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
