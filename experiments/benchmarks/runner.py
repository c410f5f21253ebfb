"""The command of every benchmark: `python -m limbeck.experiments.benchmarks.NAME [OUT.json ...]` measures, prints and writes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from limbeck.base.files import write_durably


def main(
    name: str,
    measure: Callable[[], Mapping[str, object]],
    *,
    description: str | None,
    machine: Callable[[], str],
    one_thread: bool = False,
    children: Mapping[str, Callable[..., None]] | None = None,
) -> None:
    """Measure, print the result as JSON, and write it to each file that the command names.

    - name: of the module, and of its file in experiments/results.
    - measure: returns the figures, which follow the command and the machine in the result.
    - description: for --help.
    - machine: says what was measured on; called after measuring, so that it may say how busy that was.
    - one_thread: of torch, here and in the benchmark's other processes.
    - children: what the benchmark's other processes do, by the first argument that they are started with; it gets those that follow.
    """
    if one_thread:
        torch.set_num_threads(1)
    if children and sys.argv[1:2] and sys.argv[1] in children:
        children[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        prog=f"python -m limbeck.experiments.benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", nargs="*", type=Path, help="file to write the result to")
    out: list[Path] = parser.parse_args().out
    figures = measure()
    text = encode(name, machine(), figures)
    print(text, end="")
    for path in out:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text.encode())


def encode(name: str, machine: str, figures: Mapping[str, object]) -> str:
    """The result of a benchmark as it is committed."""
    command = f"python -m limbeck.experiments.benchmarks.{name} experiments/results/{name}.json"
    return json.dumps({"command": command, "machine": machine, **figures}, indent=1) + "\n"


def one_core() -> str:
    """One core of this kind of machine."""
    return f"one core of {os.cpu_count()}, {platform.machine()}, CPU only"


def all_cores() -> str:
    """All cores of this kind of machine."""
    return f"{os.cpu_count()} cores, {platform.machine()}, CPU only"
