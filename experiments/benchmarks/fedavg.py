"""Many clients, and what they cost beside Flower's own FedAvg: `python -m limbeck.experiments.benchmarks.fedavg [OUT.json]`.

Both run over the same carrier, on the same records of the same sites (handwritten digits, IID), with the same architecture on two
cores: limbeck's plan of four stages from agreement to student, and FedAvg over rounds of a few local epochs. FedAvg shares models and
has no privacy guarantee, so its accuracy is not limbeck's aim; what is compared are messages, bytes as Flower serialises them, memory
and seconds, and how they grow with the clients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from limbeck.client.child import CLIENT_APP
from limbeck.client.site import Site
from limbeck.experiments import memory
from limbeck.experiments.benchmarks import runner
from limbeck.inputs.transfer_set import read_arrays
from limbeck.protos.flower_messages import SERVER_NODE, deflate
from limbeck.server import student
from limbeck.server.app import app as server_app
from limbeck.server.distil import predict
from limbeck.simulations import flower, prepare
from limbeck.simulations.grid import LocalGrid
from limbeck.simulations.scenario import load

CLIENTS = (50, 100, 200)
ROUNDS, EPOCHS, LEARNING_RATE, BATCH, CLASSES = 10, 5, 0.5, 32, 10
ARCHITECTURE, INPUT_SHAPE = "mlp", (8, 8)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A few local epochs of FedAvg on a site's records."""
    x_N, y_N = Site.of(context.node_config).records.read(CLASSES, np.empty((0, *INPUT_SHAPE), np.uint8))
    model = _model()
    arrays = message.content["arrays"]
    if not isinstance(arrays, ArrayRecord):
        raise TypeError(f"Expected the model's arrays, got {type(arrays).__name__}.")
    model.load_state_dict(arrays.to_torch_state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    inputs, labels = student.prepare(torch.from_numpy(x_N)), torch.from_numpy(y_N)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    metrics = MetricRecord({"num-examples": len(labels)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


class CountingGrid(LocalGrid):
    """Counts messages and their bytes as Flower serialises them, both ways."""

    def __init__(self, sites: list[Path], client_app: str) -> None:
        self.messages = self.bytes_down = self.bytes_up = 0
        super().__init__(sites, workers=os.cpu_count() or 1, client_app=client_app)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid does."""
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self.messages += len(messages)
        self.bytes_down += sum(map(_size, messages))
        return ids

    def finish(self, message: Message, reply: Message, seconds: float) -> None:
        """As the grid does."""
        size = _size(reply)
        with self._arrived:
            self.messages += 1
            self.bytes_up += size
        super().finish(message, reply, seconds)


def _size(message: Message) -> int:
    return sum(map(len, deflate(message)[1].values()))


def _model() -> nn.Module:
    return student.build(ARCHITECTURE, INPUT_SHAPE, CLASSES, seed=1)


def _accuracy(model: nn.Module, x_N: Tensor, y_N: Tensor) -> float:
    return round(100 * float((predict(model, x_N).argmax(1) == y_N).double().mean()), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system over so many clients. Kilobytes are per client; peaks are resident memory of the server and of its largest worker."""

    system: str
    clients: int
    messages: int
    kilobytes_up_per_client: float
    kilobytes_down_per_client: float
    seconds: float
    server_peak_megabytes: int
    worker_peak_megabytes: int
    accuracy: float

    @property
    def kilobytes_per_client(self) -> float:
        """Both ways."""
        return self.kilobytes_up_per_client + self.kilobytes_down_per_client


def one_run(system: str, clients: int) -> Row:
    """One system's run over this many clients, in this process. system: "limbeck" or "fedavg"."""
    scenario = load("digits-hundred", [f"partition.clients={clients}", f"student.architecture={ARCHITECTURE}"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare.prepare(scenario, folder)
        sites = sorted(path.parent for path in folder.glob("sites/*/site.toml"))
        x_N, y_N = map(torch.from_numpy, read_arrays(folder / "truth.npz", "test_x", "test_y"))
        grid = CountingGrid(sites, CLIENT_APP if system == "limbeck" else f"{__spec__.name}:app")
        started = time.perf_counter()
        try:
            if system == "limbeck":
                config = flower.run_config(folder, clients)
                context = Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=config)
                server_app(grid, context)
                seconds = time.perf_counter() - started
                from limbeck.simulations.measure import load_student

                model, _ = load_student(folder)
            else:
                strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=clients)
                model = _model()
                result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=ROUNDS)
                seconds = time.perf_counter() - started
                model.load_state_dict(result.arrays.to_torch_state_dict())
            peaks = [memory.used("VmHWM", worker.process.pid) for worker in grid._workers]
        finally:
            grid.close()
    return Row(
        system=system,
        clients=clients,
        messages=grid.messages,
        kilobytes_up_per_client=round(grid.bytes_up / clients / 1e3, 1),
        kilobytes_down_per_client=round(grid.bytes_down / clients / 1e3, 1),
        seconds=round(seconds, 2),
        server_peak_megabytes=round(memory.used("VmHWM") / 1e6),
        worker_peak_megabytes=round(max(peaks) / 1e6),
        accuracy=_accuracy(model, x_N, y_N),
    )


def measure() -> dict[str, object]:
    """All figures. Every row in a process of its own, so that peaks are its own."""
    rows = []
    for clients in CLIENTS:
        for system in ("limbeck", "fedavg"):
            command = [sys.executable, "-m", __spec__.name, "--row", system, str(clients)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(TypeAdapter(Row).validate_json(printed.splitlines()[-1]))
            print(rows[-1], file=sys.stderr, flush=True)
    ours, theirs = rows[-2], rows[-1]
    return {
        "limbeck": "4 stages, DP teachers (epsilon 8, delta 1e-4, per record, add-remove-one)",
        "fedavg": f"{ROUNDS} rounds of {EPOCHS} local epochs, SGD at {LEARNING_RATE}, no privacy guarantee",
        "bytes_fedavg_over_limbeck": round(theirs.kilobytes_per_client / ours.kilobytes_per_client, 1),
        "rows": [asdict(row) for row in rows],
    }


def _print_row(system: str, clients: str) -> None:
    print(json.dumps(asdict(one_run(system, int(clients)))))


def main() -> None:
    """The command."""
    runner.main("fedavg", measure, description=__doc__, machine=runner.all_cores, children={"--row": _print_row})


if __name__ == "__main__":
    main()
