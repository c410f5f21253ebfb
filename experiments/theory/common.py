"""What the experiments share: data as tensors, training as the coordinator does it, rows that survive an interruption, plots.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from limbeck.base import progress
from limbeck.base.files import write_durably
from limbeck.plans.schema import Loss, Student
from limbeck.server import distil
from limbeck.server import student as students
from limbeck.server.pruning import Masks
from limbeck.simulations import data
from limbeck.simulations.report.drawing import STYLE

RESULTS = Path("experiments/results/theory")
WORK = Path("runs/theory")
INK = "#2b2f36"
CPU = torch.device("cpu")

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """private, public, test: inputs as bytes (N, H, W) with their labels (N,). classes: K."""

    private_x: Tensor
    private_y: Tensor
    public_x: Tensor
    public_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def parts(name: str) -> Parts:
    """A data set that needs no download, split in its default way."""
    loaded = data.load(name)
    return Parts(
        private_x=torch.from_numpy(loaded.private_x),
        private_y=torch.from_numpy(loaded.private_y),
        public_x=torch.from_numpy(loaded.public_x),
        public_y=torch.from_numpy(loaded.public_y),
        test_x=torch.from_numpy(loaded.test_x),
        test_y=torch.from_numpy(loaded.test_y),
        classes=len(loaded.class_names),
    )


def one_hot(y_N: Tensor, classes: int) -> Tensor:
    """(N, K) float32."""
    return functional.one_hot(y_N, classes).float()


def settings(*, epochs: int, batch: int, learning_rate: float = 2e-3) -> Student:
    """How every teacher and student here is trained: TTM loss, no augmentation, no weight decay."""
    return Student(
        architecture="mlp",
        loss=Loss.TTM,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        weight_decay=0.0,
        augment=False,
        relabel=0.0,
    )


def fresh(x_N: Tensor, classes: int, seed: int) -> tuple[nn.Module, Masks]:
    """An untrained dense student from a seed, and masks that prune nothing."""
    model = students.build("mlp", tuple(x_N.shape[1:]), classes, seed)
    return model, Masks.ones(model)


def train(
    model: nn.Module,
    masks: Masks,
    x_N: Tensor,
    targets_NK: Tensor,
    student: Student,
    *,
    seed: int,
    stage: int = 0,
    sparsity: float = 0.0,
) -> None:
    """One stage of the coordinator's distillation. Its temperature does not matter, because the loss is TTM."""
    distil.distil_stage(
        model,
        masks,
        x_N,
        targets_NK,
        stage=stage,
        sparsity=sparsity,
        temperature=1.0,
        student=student,
        seed=seed,
        device=CPU,
    )


def divergence(p_NK: Tensor, q_NK: Tensor) -> float:
    """Mean KL(p || q), nats, in float64."""
    p_NK, q_NK = p_NK.double(), q_NK.double().clamp(min=1e-300)
    return float((torch.xlogy(p_NK, p_NK) - torch.xlogy(p_NK, q_NK)).sum(-1).mean())


class Rows(Generic[R]):
    """Finished cells of an experiment in a JSONL file, one line each: those are not computed again after an interruption.

    - path: of the file, which is made if need be.
    - kind: type of a row, which JSON can hold.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, R] = {}
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        if lines[-1]:  # The process died while it wrote this line.
            path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
        row = TypeAdapter(kind)
        for line in lines[:-1]:
            stored: dict[str, object] = json.loads(line)
            self._rows[_key(stored["cell"])] = row.validate_python(stored["found"])

    def get(self, cell: Mapping[str, object], compute: Callable[[], R]) -> R:
        """The row of this cell, computed and written if it is not there yet. cell: all settings that the row depends on."""
        key = _key(cell)
        if key not in self._rows:
            self._rows[key] = compute()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell, "found": self._rows[key]}) + "\n")
        return self._rows[key]


def _key(cell: object) -> str:
    return json.dumps(cell, sort_keys=True)


def options(description: str | None, parts: Iterable[str] = ()) -> argparse.Namespace:
    """The options of every command here: `out`, `work`, and `only` for an experiment of several parts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder for results and plots, by default {RESULTS}")
    parser.add_argument(
        "--work", type=Path, default=WORK, help=f"folder of finished cells, to resume from, by default {WORK}"
    )
    if names := list(parts):
        parser.add_argument(
            "--only", nargs="+", choices=names, default=names, help="parts of the experiment, by default all"
        )
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    return parsed


def bars() -> Progress:
    """Progress bars on standard error, in limbeck's layout."""
    return progress.bars(Console(stderr=True))


def machine() -> str:
    """The kind of machine this is, without its name."""
    return f"one core of {os.cpu_count()}, {platform.machine()}, CPU only, torch {torch.__version__.partition('+')[0]}"


def write_json(path: Path, result: Mapping[str, object]) -> None:
    """Write a result in a form that people can read, whole or not at all."""
    write_durably(path, (json.dumps(result, indent=1) + "\n").encode())


def significant(value: float, digits: int = 4) -> float:
    """Rounded to a few significant digits, for results that are committed."""
    return float(f"{value:.{digits - 1}e}")


def rounded(result: R, kind: type[R]) -> R:
    """A copy of a result of this kind with every float in it rounded to four significant digits."""
    return TypeAdapter(kind).validate_python(_rounded(result))


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return significant(value) if isinstance(value, float) else value


def plot(
    path: Path, draw: Callable[[list[Axes]], None], *, columns: int = 1, width: float = 7.6, height: float = 3.2
) -> None:
    """A PNG of some axes side by side on white, in the report's style."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ink = {key: INK for key in STYLE if key.endswith("color")}
    with mpl.rc_context({**STYLE, **ink}):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
        draw(list(figure.subplots(1, columns, squeeze=False)[0]))
        figure.savefig(path, metadata={"Software": None})
