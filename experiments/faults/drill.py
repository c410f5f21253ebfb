"""Break a federation of real processes on loopback, one fault after the other: `python -m limbeck.experiments.faults.drill`.

Each fault is applied to a new federation of three sites with convolutional teachers, which train long enough to be hit meanwhile. Noise is
seeded, so that the student can be compared bit by bit with that of an undisturbed run. Exit status 1 if anything was lost.

Full disks are small file systems in memory, and bad links are wires between network namespaces: if an ordinary user may create these
(`unshare --map-root-user`), the drill uses its own, which vanish when it ends. Clocks are set by `faketime`. A fault that this machine does
not permit is not run, and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

from limbeck.base.errors import LedgerError
from limbeck.base.files import write_durably
from limbeck.client import ledger as ledgers
from limbeck.client.site import Site
from limbeck.experiments.faults import wire
from limbeck.experiments.faults.linked import COORDINATOR, Federation, free_port, until
from limbeck.experiments.faults.relay import Relay
from limbeck.experiments.faults.wire import Wire
from limbeck.server import checkpoint
from limbeck.server.events import Joined, Paused, Progress, StageFinished
from limbeck.server.states import Phase, Step
from limbeck.simulations import run
from limbeck.simulations.scenario import Scenario, load

SETTINGS = [
    # Every stage asks: at one temperature, all but the first would not.
    "stages.temperature=[2.0, 3.0]",
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
ALL_COMMITTED = (COMMITTED, COMMITTED, COMMITTED)
A, B, C = "site-00", "site-01", "site-02"
TEACHING, FIRST_ANSWERS = Phase(Step.TEACH), Phase(Step.ANSWERS, 0)
RESULTS = Path(__file__).parents[1] / "results" / "link-drill.json"
# Set where the drill has namespaces of its own: of mounts, and of the network too.
MOUNTS, NETWORK = "LIMBECK_DRILL_MOUNTS", "LIMBECK_DRILL_NETWORK"
ROOM_BYTES = 16 << 20
HOUR = 3600


class Wrong(Exception):
    """Something is not as expected; the text says what."""


# What a fault may require of the machine


def nothing_special() -> str | None:
    """Nothing is required."""
    return None


def own_mounts() -> str | None:
    """Why no file system can be mounted; None if one can."""
    return None if MOUNTS in os.environ else "unshare --map-root-user --mount is not permitted here"


def own_network() -> str | None:
    """Why there can be no wire between namespaces; None if there can."""
    if NETWORK not in os.environ:
        return "unshare --map-root-user --net, or iproute2's ip, is not available here"
    return None if os.access(wire.TUN, os.R_OK | os.W_OK) else f"{wire.TUN} cannot be opened"


def another_clock() -> str | None:
    """Why a process cannot get a clock of its own; None if it can."""
    return None if shutil.which("faketime") else "it needs the command faketime"


def clock(who: str, seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is ahead by so many seconds. Durations stay as they are."""
    asked = ["faketime", "-f", "+0s", sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])"]
    library = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    # The command itself is not used: its process would stand between the drill and the process to be killed.
    faked = {"LD_PRELOAD": library, "FAKETIME": f"{seconds:+d}s"}
    # A site keeps its monotonic clock. The coordinator sleeps, which faketime 0.9.10 cannot do then, so that its monotonic clock is moved
    # by the same constant.
    return faked if who == COORDINATOR else {**faked, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that breaks.

    - break_it: what is done to the federation, whose processes have been started.
    - charged: states of each site's charges afterwards, site by site.
    - lost: sites that must be left out.
    - late: sites that must take part from the second stage on only.
    - settings: of coordinator.toml.
    - minimum: number of sites that the plan requires.
    - rate: bytes a second through a relay to site-00, 0 for no limit; None for no relay.
    - wire: makes a wire to site-00.
    - clocks: seconds that a clock is ahead, by site or COORDINATOR.
    - small: sites or COORDINATOR whose folder is on a small file system.
    - absent: sites that are not started at once.
    - needs: says why the fault cannot be applied on this machine; None if it can.
    """

    name: str
    break_it: Callable[[Drill], None]
    charged: Sequence[Sequence[str]] = ALL_COMMITTED
    lost: Sequence[str] = ()
    late: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    minimum: int = 2
    rate: float | None = None
    wire: Callable[[], Wire] | None = None
    clocks: Mapping[str, int] = field(default_factory=dict)
    small: Sequence[str] = ()
    absent: Sequence[str] = ()
    needs: Callable[[], str | None] = nothing_special


class Drill:
    """A federation under a fault."""

    def __init__(self, federation: Federation, relay: Relay | None, wire: Wire | None, absent: Sequence[str]) -> None:
        self.federation, self.relay, self.wire = federation, relay, wire
        self.sites = {name: federation.site(name) for name in federation.sites if name not in absent}
        self.coordinator = federation.serve()

    def taught(self, count: int = 1) -> None:
        """Wait until so many sites have trained, while the others are still training."""
        self.federation.wait_for(Progress, lambda event: event.phase == TEACHING and event.done == count)

    def teaching(self, site: str) -> None:
        """Wait until a site is training: its ledger has a reservation."""
        self.charged(site, RESERVED)

    def charged(self, site: str, states: Sequence[str]) -> None:
        """Wait until the charges of a site are in these states."""

        def reached() -> bool:
            # The ledger may just be being made.
            with contextlib.suppress(LedgerError):
                return charges(self.federation.sites[site]) == states
            return False

        until(reached)

    def staged(self) -> None:
        """Wait until a stage is finished."""
        self.federation.wait_for(StageFinished)

    def kill(self, site: str, *, whole: bool = False) -> None:
        """Kill the daemon of a site, or with `whole` all of its processes."""
        process = self.sites[site]
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()

    def hold(self, site: str) -> None:
        """Suspend a site; its connection stays open and silent."""
        os.killpg(self.sites[site].pid, signal.SIGSTOP)

    def release(self, site: str) -> None:
        """Let a suspended site continue."""
        os.killpg(self.sites[site].pid, signal.SIGCONT)

    def start(self, site: str) -> None:
        """Start a site's daemon, for the first time or again."""
        self.sites[site] = self.federation.site(site)

    def restart_coordinator(self) -> None:
        """Kill the coordinator and start it again."""
        self.coordinator.kill()
        self.coordinator.wait()
        self.coordinator = self.federation.serve()

    def log(self, who: str) -> str:
        """The log of a site, or of "serve", so far."""
        path = self.federation.folder / f"{who}.log"
        return path.read_text() if path.exists() else ""

    def says(self, who: str, text: str, seconds: float = 90.0) -> None:
        """Wait until the log of a site, or of "serve", contains this."""
        until(lambda: text in self.log(who), seconds)

    def room(self, who: str) -> Path:
        """The folder of a site, or of the coordinator's run."""
        return folder_of(self.federation, who)

    def fill(self, who: str) -> None:
        """Fill the file system of a folder."""
        with contextlib.suppress(OSError), (self.room(who) / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def make_room(self, who: str) -> None:
        """Free the room that `fill` took."""
        (self.room(who) / "ballast").unlink()


def folder_of(federation: Federation, who: str) -> Path:
    """The folder of a site, or of the coordinator's run."""
    return federation.folder / "server" if who == COORDINATOR else federation.sites[who]


@contextlib.contextmanager
def small(folder: Path) -> Iterator[None]:
    """Put a folder and its content on a file system of ROOM_BYTES."""
    before = folder.with_name(f"{folder.name}-before")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, before)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES},mode=700", "tmpfs", str(folder)], check=True)
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def charges(site: Path) -> list[str]:
    """States of the charges in the ledger of a site."""
    ledger = Site(site).ledger
    if not ledger.exists():
        return []
    return [entry.state for entry in ledgers.read(ledger).entries if entry.schedule is not None]


# Faults


def nothing(drill: Drill) -> None:
    """An undisturbed run over the link."""


def daemon_killed_in_training(drill: Drill) -> None:
    """Its child continues; the next daemon finds the answer."""
    drill.teaching("site-00")
    drill.kill("site-00")
    drill.start("site-00")


def site_killed_in_training(drill: Drill) -> None:
    """As in a power cut: the reservation stays spent, and the site trains again under that charge."""
    drill.teaching("site-00")
    drill.kill("site-00", whole=True)
    drill.start("site-00")


def site_killed_in_release(drill: Drill) -> None:
    """All of its processes, between stages."""
    drill.taught(3)
    drill.kill("site-00", whole=True)
    drill.start("site-00")


def coordinator_killed_in_training(drill: Drill) -> None:
    """Only the record of the run is on its disk."""
    drill.teaching("site-00")
    drill.restart_coordinator()


def coordinator_killed_between_stages(drill: Drill) -> None:
    """There is one checkpoint."""
    drill.staged()
    drill.restart_coordinator()


def connections_cut(drill: Drill) -> None:
    """Those of one site, several times during the whole run."""
    for _ in range(4):
        time.sleep(1.0)
        if drill.relay is not None:
            drill.relay.cut()


def site_never_answers(drill: Drill) -> None:
    """It is suspended in training: its connection stays open and silent."""
    drill.teaching(A)
    drill.hold(A)


def site_comes_late(drill: Drill) -> None:
    """One of the three that this plan requires is started only after the run has paused."""
    drill.kill("site-00", whole=True)
    drill.federation.wait_for(Paused)
    drill.start("site-00")


def site_comes_between_stages(drill: Drill) -> None:
    """It comes when two are taught and the first stage has begun; one of the two is suspended until the third is taught too."""
    drill.teaching(C)
    drill.hold(C)
    drill.taught(1)
    drill.hold(B)
    drill.release(C)
    drill.federation.wait_for(Progress, lambda event: event.phase == FIRST_ANSWERS)
    drill.start(A)
    drill.charged(A, COMMITTED)
    drill.release(B)


def site_comes_between_stages_and_coordinator_killed(drill: Drill) -> None:
    """The coordinator is killed during the first stage with the late site, or just after it."""
    site_comes_between_stages(drill)
    drill.federation.wait_for(Joined)
    drill.restart_coordinator()


def coordinators_disk_full(drill: Drill) -> None:
    """While the sites train: it ends and says why, and the sites stay up; with room again the same command continues."""
    drill.taught(1)
    drill.fill(COORDINATOR)
    if drill.coordinator.wait(PATIENCE_SECONDS) != 1 or "Expected room on the disk" not in drill.log("serve"):
        raise Wrong("the coordinator does not say that its disk is full")
    if down := [name for name, process in drill.sites.items() if process.poll() is not None]:
        raise Wrong(f"{', '.join(down)} ended with the coordinator")
    drill.make_room(COORDINATOR)
    drill.coordinator = drill.federation.serve()


def _without_room(drill: Drill) -> None:
    drill.fill(A)
    os.kill(drill.coordinator.pid, signal.SIGCONT)
    drill.says(A, "No answer can be kept")
    if drill.sites[A].poll() is not None:
        raise Wrong(f"{A} ended")
    drill.make_room(A)


def sites_disk_full_before_it_agrees(drill: Drill) -> None:
    """Nothing is charged and nothing sent until there is room."""
    os.kill(drill.coordinator.pid, signal.SIGSTOP)
    until((drill.federation.sites[A] / "state" / "link" / "daemon.lock").exists)
    _without_room(drill)


def sites_disk_full_in_release(drill: Drill) -> None:
    """It is taught and charged; its next answer cannot be stored, so that it is not sent until there is room."""
    drill.teaching(B)
    drill.hold(B)
    drill.taught(2)
    os.kill(drill.coordinator.pid, signal.SIGSTOP)
    drill.release(B)
    _without_room(drill)


def sites_clock_set(drill: Drill) -> None:
    """A site three days behind ends and says why; once its clock is set, it takes part."""
    drill.says(A, "this machine's clock says")
    if drill.sites[A].wait(60) != 1:
        raise Wrong(f"{A} does not end with status 1")
    drill.federation.environment = {}
    drill.federation.wait_for(Paused)
    drill.start(A)


def coordinators_clock_set(drill: Drill) -> None:
    """A coordinator three days behind ends and says why."""
    drill.says("serve", "this machine's clock says")
    if drill.coordinator.wait(60) != 1:
        raise Wrong("the coordinator does not end with status 1")
    drill.federation.environment = {}
    drill.coordinator = drill.federation.serve()


def partition(drill: Drill) -> None:
    """While a site trains, for longer than both ends need to notice: neither receives even a reset."""
    assert drill.wire is not None
    drill.teaching(A)
    drill.wire.down = True
    drill.says("serve", f"{A} is disconnected")
    time.sleep(35.0)
    drill.wire.down = False


FAULTS = [
    Fault(name="none", break_it=nothing),
    Fault(name="site daemon killed in training", break_it=daemon_killed_in_training),
    Fault(
        name="site killed in training, children too",
        break_it=site_killed_in_training,
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
        lost=(A,),
        settings={"answer_seconds": 60.0},
    ),
    Fault(name="site that comes late, run paused", break_it=site_comes_late, settings={"join_seconds": 1.0}, minimum=3),
    Fault(
        name="site that comes late, between stages",
        break_it=site_comes_between_stages,
        settings={"join_seconds": 15.0},
        absent=(A,),
        late=(A,),
    ),
    Fault(
        name="site that comes late, coordinator killed then",
        break_it=site_comes_between_stages_and_coordinator_killed,
        settings={"join_seconds": 15.0},
        absent=(A,),
        late=(A,),
    ),
    Fault(name="coordinator's disk full", break_it=coordinators_disk_full, small=(COORDINATOR,), needs=own_mounts),
    Fault(name="site's disk full before it agrees", break_it=sites_disk_full_before_it_agrees, small=(A,), needs=own_mounts),
    Fault(name="site's disk full in release", break_it=sites_disk_full_in_release, small=(A,), needs=own_mounts),
    Fault(name="site's clock 3 hours ahead", break_it=nothing, clocks={A: 3 * HOUR}, needs=another_clock),
    Fault(name="site's clock 3 hours behind", break_it=nothing, clocks={A: -3 * HOUR}, needs=another_clock),
    Fault(name="coordinator's clock 3 hours ahead", break_it=nothing, clocks={COORDINATOR: 3 * HOUR}, needs=another_clock),
    Fault(name="coordinator's clock 3 hours behind", break_it=nothing, clocks={COORDINATOR: -3 * HOUR}, needs=another_clock),
    Fault(
        name="site's clock 3 days behind, then set",
        break_it=sites_clock_set,
        clocks={A: -72 * HOUR},
        settings={"join_seconds": 1.0},
        minimum=3,
        needs=another_clock,
    ),
    Fault(
        name="coordinator's clock 3 days behind, then set",
        break_it=coordinators_clock_set,
        clocks={COORDINATOR: -72 * HOUR},
        needs=another_clock,
    ),
    Fault(
        name="link of 100 ms that loses 5 % of packets",
        break_it=nothing,
        wire=lambda: Wire(delay=0.1, loss=0.05),
        needs=own_network,
    ),
    Fault(name="link down for 35 seconds and more", break_it=partition, wire=Wire, needs=own_network),
]


def student(folder: Path) -> bytes:
    """The content of the student's file."""
    return (folder / "server" / "student" / "student.safetensors").read_bytes()


Expected = Callable[[Sequence[str], Sequence[str]], bytes]


def undergo(fault: Fault, scenario: Scenario, folder: Path, expected: Expected) -> list[str]:
    """Apply a fault to a new federation; returns what is not as expected.

    expected: gives the undisturbed student without some sites, and with some from the second stage on only.
    """
    scenario = scenario.model_copy(update={"run": scenario.run.model_copy(update={"minimum_clients": fault.minimum})})
    settings: dict[str, object] = {"join_seconds": 60.0, **fault.settings}
    through: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        relay = link_wire = None
        port = free_port()
        if fault.rate is not None:
            through[A] = f"127.0.0.1:{port}"
        environment = {who: clock(who, ahead) for who, ahead in fault.clocks.items()}
        if fault.wire is not None:
            link_wire = fault.wire()
            stack.callback(link_wire.close)
            through = {A: f"{wire.NEAR}:{port}", B: f"127.0.0.1:{port}", C: f"127.0.0.1:{port}"}
            settings["listen"] = f"0.0.0.0:{port}"
        federation = Federation(folder, scenario, through=through, settings=settings, environment=environment)
        for who in fault.small:
            stack.enter_context(small(folder_of(federation, who)))
        if link_wire is not None:
            federation.before = {A: link_wire.command}
        stack.enter_context(federation)
        if fault.rate is not None:
            relay = Relay(federation.port, port=port, rate=fault.rate, record=False)
            stack.callback(relay.close)
        drill = Drill(federation, relay, link_wire, fault.absent)
        stack.callback(end, drill)
        fault.break_it(drill)
        status = drill.coordinator.wait(PATIENCE_SECONDS)
        if status != 0:
            return [f"the coordinator ended with status {status}"]
        end(drill)
        return list(judge(fault, federation, expected))


def end(drill: Drill) -> None:
    """Kill all processes of all sites."""
    for process in drill.sites.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def judge(fault: Fault, federation: Federation, expected: Expected) -> Iterator[str]:
    """What is not as expected."""
    charged = [charges(site) for site in federation.sites.values()]
    if charged != list(map(list, fault.charged)):
        yield f"charges are {charged}"
    # A stage that was repeated after a restart counts as it was the last time.
    stages = {event.stage: event for event in federation.events() if isinstance(event, StageFinished)}
    for stage, event in stages.items():
        expected_out = {*fault.lost, *(fault.late if stage == 0 else ())}
        if (left_out := set(federation.sites) - set(event.clients)) != expected_out:
            yield f"left out of stage {stage + 1} are {sorted(left_out)}"
    if student(federation.folder) != expected(fault.lost, fault.late):
        yield "the student is another"


class Undisturbed:
    """Students of runs over the local carrier with the same sites; the policies of the others do not allow the plan."""

    def __init__(self, scenario: Scenario, base: Path) -> None:
        self._scenario, self._base = scenario, base
        self._known: dict[tuple[Sequence[str], Sequence[str]], bytes] = {}

    def __call__(self, lost: Sequence[str], late: Sequence[str]) -> bytes:
        """The student without the lost sites, and with the late ones from the second stage on."""
        key = (tuple(lost), tuple(late))
        if key not in self._known:
            folder = self._base / f"undisturbed-{len(self._known)}"
            run.prepare_only(self._scenario, folder)
            policies = {name: folder / "sites" / name / "policy.toml" for name in (*lost, *late)}
            before = {name: path.read_text() for name, path in policies.items()}
            for name, path in policies.items():
                path.write_text(before[name].replace("max_stages = 2", "max_stages = 1"))
            run.resume(folder)
            if late:
                for name in late:
                    policies[name].write_text(before[name])
                checkpoint.path_of(folder / "server" / "checkpoints", 1).unlink()
                run.resume(folder)
            self._known[key] = student(folder)
        return self._known[key]


def in_namespaces() -> None:
    """Continue in new namespaces if that is permitted, so that mounts and devices vanish with the drill."""
    if MOUNTS in os.environ:
        if NETWORK in os.environ:
            wire.loopback_up()
        return
    for options, names in ((["--net"], [MOUNTS, NETWORK]), ([], [MOUNTS])):
        command = ["unshare", "--map-root-user", "--mount", *options, "--"]
        probe = ["ip", "link", "set", "lo", "up"] if options else ["true"]
        with contextlib.suppress(OSError):
            if subprocess.run([*command, *probe], capture_output=True, check=False).returncode == 0:
                again = [*command, sys.executable, "-m", "limbeck.experiments.faults.drill", *sys.argv[1:]]
                os.execvpe(command[0], again, {**os.environ, **dict.fromkeys(names, "1")})


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="faults whose name contains one of these; the record keeps the others"
    )
    parser.add_argument("--resume", action="store_true", help="do not repeat the faults that the record says are passed")
    options = parser.parse_args()
    in_namespaces()
    # Noise is seeded and sites refuse on purpose here: only the outcome matters.
    logging.getLogger("limbeck").setLevel(logging.ERROR)
    console, scenario = Console(), load("digits-tiny", SETTINGS)
    rows = recorded() if options.only or options.resume else {}
    todo = [fault for fault in FAULTS if not options.only or any(word in fault.name for word in options.only)]
    if options.resume:
        todo = [fault for fault in todo if fault.name not in rows or not rows[fault.name]["outcome"].startswith(GOOD)]
    if not rows:
        write({})
    with tempfile.TemporaryDirectory() as base:
        expected = Undisturbed(scenario, Path(base))
        for fault in todo:
            started, when = time.monotonic(), datetime.now(UTC)
            outcome = outcome_of(fault, scenario, Path(base) / f"fault-{FAULTS.index(fault)}", expected)
            row: Row = {
                "fault": fault.name,
                "outcome": outcome,
                "seconds": round(time.monotonic() - started),
                "begun": f"{when:%Y-%m-%d %H:%M} UTC",
            }
            rows[fault.name] = row
            console.print(f"{fault.name}: {outcome}", highlight=False, soft_wrap=True)
            # Another drill may have recorded other faults meanwhile.
            write({**recorded(), fault.name: row})
    table = Table("fault", "outcome", "seconds")
    for fault in todo:
        table.add_row(fault.name, rows[fault.name]["outcome"], str(rows[fault.name]["seconds"]))
    console.print(table)
    return int(any(not rows[fault.name]["outcome"].startswith((GOOD, NOT_RUN)) for fault in todo))


GOOD, NOT_RUN = "nothing lost", "not run"


def outcome_of(fault: Fault, scenario: Scenario, folder: Path, expected: Expected) -> str:
    """Apply a fault, and say in words what came of it."""
    if (missing := fault.needs()) is not None:
        return f"{NOT_RUN}: {missing}"
    try:
        wrong = undergo(fault, scenario, folder, expected)
    except (Wrong, TimeoutError, subprocess.TimeoutExpired) as error:
        wrong = [str(error)]
    out = f" without {', '.join(fault.lost)}" if fault.lost else ""
    late = f" with {', '.join(fault.late)} from the second stage on" if fault.late else ""
    return "; ".join(wrong) or f"{GOOD}: charged once, the undisturbed student{out}{late}"


class Row(TypedDict):
    """What came of a fault, in words. seconds: that it took. begun: date and time in UTC."""

    fault: str
    outcome: str
    seconds: int
    begun: str


def recorded() -> dict[str, Row]:
    """The rows of the record, by the names of the faults that still exist."""
    if not RESULTS.exists():
        return {}
    stored: list[Row] = json.loads(RESULTS.read_text(encoding="utf-8"))["faults"]
    rows = {row["fault"]: row for row in stored if "outcome" in row}
    return {fault.name: rows[fault.name] for fault in FAULTS if fault.name in rows}


def write(rows: Mapping[str, Row]) -> None:
    """Write the record, in the order of the faults."""
    about = {
        "command": "python -m limbeck.experiments.faults.drill",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[2]:.1f} at the end",
        "noise": "UnsafeSeeded",
    }
    in_order = [rows[fault.name] for fault in FAULTS if fault.name in rows]
    write_durably(RESULTS, json.dumps({**about, "faults": in_order}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
