"""A federation of real processes on loopback: `limbeck serve`, three times `limbeck site run`, killed and cut off as it goes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from helpers.sites import charges
from helpers.students import exported
from limbeck.experiments.faults.linked import HANG_SECONDS, Federation, free_port
from limbeck.experiments.faults.relay import Relay
from limbeck.server.events import Continued, Ended, Paused, Progress, StageFinished
from limbeck.server.states import Phase, Step
from limbeck.simulations import run
from limbeck.simulations.scenario import Scenario, load

pytestmark = pytest.mark.early

AGREE = Phase(Step.AGREE)
# Seeded noise, so that two runs can be compared to the last bit; and every stage asks: at one temperature, all but the first would not.
SETTINGS = [
    "privacy.noise=UnsafeSeeded",
    "student.epochs=4",
    "data.public=120",
    "run.workers=1",
    "stages.temperature=[2.0, 3.0]",
]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load("digits-tiny", SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The student of the local carrier."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run.simulate(scenario, folder)
    return exported(folder)


def test_cut_off_and_killed_as_it_goes_a_run_ends_with_the_student_of_an_undisturbed_one(
    scenario: Scenario, undisturbed: bytes, tmp_path: Path
) -> None:
    """One site's connection is cut, another's daemon is killed once the run has begun, the coordinator is killed after a stage."""
    relay_port = free_port()
    with Federation(
        tmp_path / "run", scenario, through={"site-00": f"127.0.0.1:{relay_port}"}, settings={"join_seconds": HANG_SECONDS}
    ) as federation:
        relay = Relay(federation.port, port=relay_port)
        for name in federation.sites:
            own = federation.site(name)
        coordinator = federation.serve()
        federation.wait_for(Progress, lambda event: event.phase == AGREE and event.done == 3)
        relay.cut()
        own.send_signal(signal.SIGKILL)
        own.wait()
        own = federation.site(name)
        federation.wait_for(StageFinished)
        coordinator.kill()
        coordinator.wait()
        first = (tmp_path / "run" / "server" / "checkpoints" / "stage-000.safetensors").stat().st_mtime_ns
        coordinator = federation.serve()
        assert coordinator.wait(HANG_SECONDS) == 0, (tmp_path / "run" / "serve.log").read_text()
        own.send_signal(signal.SIGTERM)
        assert own.wait(HANG_SECONDS) == 0
    assert exported(tmp_path / "run") == undisturbed
    assert (tmp_path / "run" / "server" / "checkpoints" / "stage-000.safetensors").stat().st_mtime_ns == first
    assert [charges(site) for site in federation.sites.values()] == [["committed"]] * 3
    _nothing_secret(tmp_path / "run", bytes(relay.seen))
    relay.close()


def _nothing_secret(folder: Path, seen: bytes) -> None:
    """Neither on the wire nor in logs, record or events: keys, and what only the sites' ends of the wire may read."""
    assert len(seen) > 10_000
    for word in (b"site-00", b"query.share", b"RecordDict", b"digits-tiny", b"site-00.pem"):
        assert word not in seen
    written = [*folder.glob("*.log"), *folder.glob("server/*.json*"), folder / "coordinator.toml"]
    assert len(written) >= 6
    for path in written:
        text = path.read_text()
        assert "PRIVATE KEY" not in text
        for key in folder.glob("keys/*.key"):
            for line in key.read_text().splitlines()[1:-1]:
                assert line[:32] not in text


def test_below_the_minimum_a_run_pauses_until_a_late_site_comes(
    scenario: Scenario, undisturbed: bytes, tmp_path: Path
) -> None:
    own = scenario.model_copy(update={"run": scenario.run.model_copy(update={"minimum_clients": 3})})
    with Federation(tmp_path / "run", own, settings={"join_seconds": 0.5}) as federation:
        for name in ("site-00", "site-01"):
            federation.site(name)
        coordinator = federation.serve()
        paused = federation.wait_for(Paused)
        assert (paused.phase, paused.minimum) == (AGREE, 3)
        assert paused.sites < 3
        assert coordinator.poll() is None
        federation.site("site-02")
        assert coordinator.wait(HANG_SECONDS) == 0, (tmp_path / "run" / "serve.log").read_text()
    kinds = [type(event) for event in federation.events()]
    assert kinds.index(Paused) < kinds.index(Continued) < kinds.index(Ended)
    record = json.loads((tmp_path / "run" / "server" / "record.json").read_text())
    assert [stage["clients"] for stage in record["stages"]] == [list(federation.sites)] * 2
    assert exported(tmp_path / "run") == undisturbed
