"""How long a question takes over limbeck's link and over a SuperNode: `python -m limbeck.experiments.benchmarks.roundtrip [OUT.json]`.

The same plan of the same three sites, with keys of the same authority, runs over both on loopback, one after the other: `limbeck serve`
with `limbeck site run`, then `limbeck flower`. Seconds are the coordinator's, from the moment it sends a question to all three to the
last answer; training is left out. The site's own work, some milliseconds, is in both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from limbeck.base.errors import RunError
from limbeck.deployment import flower
from limbeck.experiments.benchmarks import runner
from limbeck.experiments.faults.linked import Federation, free_port, until
from limbeck.experiments.faults.throwaway_keys import SERVER
from limbeck.server import bundle, events
from limbeck.server.states import Phase, Step
from limbeck.simulations.scenario import load

SETTINGS = ["data.private=300", "data.public=80", "student.epochs=2", "stages.count=4", "student.dense_control=false"]
NODE_SECONDS = 120.0


def seconds(file: Path) -> list[float]:
    """Seconds of every question to all sites, in their order; training is left out."""
    sent: dict[Phase, float] = {}
    answered: dict[Phase, float] = {}
    for line in events.read(file.read_bytes().splitlines()):
        if isinstance(line.event, events.Progress) and line.event.phase.step in (Step.AGREE, Step.ANSWERS):
            (sent if line.event.done == 0 else answered)[line.event.phase] = line.time
    return [answered[phase] - time for phase, time in sent.items()]


def over_link(folder: Path) -> list[float]:
    """Over the link."""
    with Federation(folder, load("digits-tiny", SETTINGS), settings={"join_seconds": 60.0}) as federation:
        if federation.start().wait(NODE_SECONDS):
            raise OSError(f"Expected the coordinator to end with status 0, see {folder / 'serve.log'}.")
    return seconds(folder / "server" / "events.jsonl")


def over_supernodes(folder: Path) -> list[float]:
    """Over Flower's SuperLink and SuperNodes."""
    federation = Federation(folder, load("digits-tiny", SETTINGS))
    keys, link, port, stop = folder / "keys", folder / "superlink", free_port(), threading.Event()
    tls = flower.Tls(ca=keys / "ca.pem", certificate=keys / f"{SERVER}.pem", key=keys / f"{SERVER}.key")
    with ExitStack() as running:
        supervisors = [flower.superlink(link, host="127.0.0.1", port=port, tls=tls)]
        flower.connect(link, address=f"127.0.0.1:{port}", ca=tls.ca)
        supervisors += [
            flower.supernode(
                path,
                path / "supernode",
                superlink=f"127.0.0.1:{port}",
                ca=tls.ca,
                key=keys / f"{name}.key",
                runtime_port=free_port(),
            )
            for name, path in federation.sites.items()
        ]
        # They are no daemon threads, so that the process does not end before they have stopped what they started.
        threads = [threading.Thread(target=supervisor.run, args=(stop,)) for supervisor in supervisors]
        running.callback(stop.set)
        threads[0].start()
        for name in federation.sites:
            until(lambda name=name: _registered(link, keys / f"{name}.pem"), NODE_SECONDS)  # type: ignore[misc]
        for thread in threads[1:]:
            thread.start()
        config = bundle.run_config(
            plan=folder / "plan.pb",
            transfer_sets=folder / "transfer",
            folder=folder / "server",
            clients=len(federation.sites),
        )
        flower.wait(link, flower.start(link, bundle.write(folder / "bundle", config)))
    return seconds(folder / "server" / "events.jsonl")


def _registered(link: Path, certificate: Path) -> bool:
    """Whether the SuperLink, which may not have started yet, accepted the key of a site."""
    try:
        return bool(flower.register(link, certificate))
    except RunError:
        return False


def measure() -> dict[str, object]:
    """All figures."""
    with tempfile.TemporaryDirectory() as temporary:
        link, supernodes = over_link(Path(temporary) / "link"), over_supernodes(Path(temporary) / "flower")
    return {
        "load_average": round(os.getloadavg()[0], 1),
        "what": "one question to three sites at once, loopback, TLS",
        "link": _row(link),
        "supernodes": _row(supernodes),
        "supernodes_over_link": round(statistics.median(supernodes) / statistics.median(link), 1),
    }


def _row(times: list[float]) -> dict[str, object]:
    return {"median_seconds": round(statistics.median(times), 3), "all": [round(seconds, 3) for seconds in times]}


def main() -> None:
    """The command."""
    runner.main("roundtrip", measure, description=__doc__, machine=runner.all_cores)


if __name__ == "__main__":
    main()
