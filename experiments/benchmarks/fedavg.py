"""Many clients, and what they cost beside Flower's own FedAvg: `python -m limbeck.experiments.benchmarks.fedavg [OUT.json]`.

Both run over the same carrier, on the same records of the same sites (handwritten digits, IID), with the same architecture on two
cores: limbeck's plan of four stages from agreement to student, and FedAvg over rounds of a few local epochs. FedAvg shares models and
has no privacy guarantee, so its accuracy is not limbeck's aim; what is compared are messages, bytes as Flower serialises them, memory
and seconds, and how they grow with the clients.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn
from torch.nn import functional

from limbeck.base.files import write_durably
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import read_arrays
from limbeck.protos.flower_messages import SERVER_NODE, deflate
from limbeck.server import student
from limbeck.server.app import app as server_app
from limbeck.server.distil import predict
from limbeck.simulations import flower, grid, prepare
from limbeck.simulations.scenario import load

CLIENTS = (50, 100, 200)
ROUNDS, EPOCHS, LEARNING_RATE, BATCH, CLASSES = 10, 5, 0.5, 32, 10
ARCHITECTURE, INPUT_SHAPE = "mlp", (8, 8)
COMMAND = "python -m limbeck.experiments.benchmarks.fedavg experiments/results/fedavg.json"

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A few local epochs of FedAvg on a site's records."""
    x_N, y_N = Site.of(context.node_config).read_records(CLASSES, np.empty((0, *INPUT_SHAPE), np.uint8))
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


class CountingGrid(grid.LocalGrid):
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


def measure(system: str, clients: int) -> dict[str, Any]:
    """One system's run over this many clients, in this process: peak memory is of this process and of its largest worker process."""
    scenario = load("digits-hundred", [f"partition.clients={clients}", f"student.architecture={ARCHITECTURE}"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare.prepare(scenario, folder)
        sites = sorted(path.parent for path in folder.glob("sites/*/site.toml"))
        x_N, y_N = (torch.from_numpy(own) for own in read_arrays(folder / "truth.npz", "test_x", "test_y"))
        own = CountingGrid(sites, grid.CLIENT_APP if system == "limbeck" else f"{__spec__.name}:app")
        started = time.perf_counter()
        try:
            if system == "limbeck":
                config = flower.run_config(folder, clients)
                context = Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=config)
                server_app(own, context)
                seconds = time.perf_counter() - started
                from limbeck.simulations.measure import load_student

                model, _ = load_student(folder)
            else:
                strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=clients)
                model = _model()
                result = strategy.start(own, ArrayRecord(model.state_dict()), num_rounds=ROUNDS)
                seconds = time.perf_counter() - started
                model.load_state_dict(result.arrays.to_torch_state_dict())
            peaks = [_peak(worker.process.pid) for worker in own._workers]
        finally:
            own.close()
    return {
        "system": system,
        "clients": clients,
        "messages": own.messages,
        "kilobytes_up_per_client": round(own.bytes_up / clients / 1e3, 1),
        "kilobytes_down_per_client": round(own.bytes_down / clients / 1e3, 1),
        "seconds": round(seconds, 2),
        "server_peak_megabytes": round(_peak(os.getpid()) / 1e6),
        "worker_peak_megabytes": round(max(peaks) / 1e6),
        "accuracy": _accuracy(model, x_N, y_N),
    }


def _peak(pid: int | None) -> int:
    """The most memory that a process has had resident, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"Expected VmHWM of process {pid}, found none.")


def main() -> None:
    """The command. Every row in a process of its own, so that peaks are its own."""
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return
    rows = []
    for clients in CLIENTS:
        for system in ("limbeck", "fedavg"):
            command = [sys.executable, "-m", __spec__.name, "--row", system, str(clients)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(printed.splitlines()[-1]))
            print(rows[-1], flush=True)
    ours, theirs = rows[-2], rows[-1]
    total = [own["kilobytes_up_per_client"] + own["kilobytes_down_per_client"] for own in (ours, theirs)]
    result = {
        "command": COMMAND,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU only",
        "limbeck": "4 stages, DP teachers (epsilon 8, delta 1e-4, per record, add-remove-one)",
        "fedavg": f"{ROUNDS} rounds of {EPOCHS} local epochs, SGD at {LEARNING_RATE}, no privacy guarantee",
        "bytes_fedavg_over_limbeck": round(total[1] / total[0], 1),
        "rows": rows,
    }
    for out in sys.argv[1:]:
        write_durably(Path(out), (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
