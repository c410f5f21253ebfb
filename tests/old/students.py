"""Students of seeded runs, to the last bit: with the same seeds, today's code and that of 0.1.0 give the same ones.

    python tests/old/students.py           compares all runs with 0.1.0/students.json; exit status 1 where one differs
    python tests/old/students.py votes     only these
    python tests/old/students.py --write   writes that file, as was done with the code of 0.1.0 (13f361a)

It is about the limbeck that this Python imports: it runs `limbeck simulate` and reads what that leaves, and imports nothing of limbeck.
On another processor, or with another torch, sums round otherwise: bits are comparable where `machine` is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

KEPT = Path(__file__).parent / "0.1.0" / "students.json"
SEEDED = ("privacy.noise=UnsafeSeeded", "student.dense_control=false")
NET = ("teacher.kind=mlp", "teacher.steps=8", "teacher.sampling_rate=0.2", "teacher.normaliser=60.0", "teacher.clip=0.5")
RUNS: dict[str, tuple[str, ...]] = {
    "linear": ("digits-tiny",),
    "votes": ("digits-tiny", "teacher.kind=votes", "teacher.teachers=20"),
    "net": ("digits-tiny", *NET),
    "class counts": ("digits-tiny", "pooling.kind=class-counts", "run.seed=3"),
    "record counts": ("digits-tiny", "pooling.kind=record-counts", "partition.kind=quantity", "student.loss=reverse"),
    "draws": ("digits-tiny", "release.truncation=sampled", "release.softening=hybrid", "run.minimum_clients=3"),
    "tsallis": ("digits-tiny", "release.softening=tsallis", "release.tsallis_order=1.5", "stages.path=linear"),
    "black box": ("digits-black-box",),
    "default": ("default", "student.epochs=3", "stages.count=2"),
    "convolutions": ("fashion-cnn", "teacher.steps=6", "student.epochs=2", "stages.count=2", "partition.clients=2"),
}


def machine() -> str:
    """What decides how sums round."""
    try:
        cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        cpu = None
    name = cpu.group(1) if cpu else platform.processor()
    return f"{platform.machine()}, {name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def bits(tensors: dict[str, torch.Tensor]) -> str:
    """The SHA-256 of tensors by name, whatever their file says besides."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        own = tensors[name]
        found.update(f"{name} {own.dtype} {list(own.shape)} ".encode() + own.contiguous().numpy().tobytes())
    return found.hexdigest()


def facts(run: Path) -> dict[str, str]:
    """Of a finished run's folder: its last checkpoint, which holds the pooled answers that its stage learnt from, and its student.

    Messages are not compared: each names its plan by a hash, and plans have carried the names of classes since.
    """
    return {
        "last stage": bits(load_file(max(run.glob("server/checkpoints/*.safetensors")))),
        "student": bits(load_file(run / "server" / "student" / "student.safetensors")),
    }


def make(name: str, folder: Path) -> dict[str, str]:
    """Run it."""
    scenario, *settings = RUNS[name]
    overrides = [part for setting in (*SEEDED, *settings) for part in ("--set", setting)]
    subprocess.run(
        [sys.executable, "-m", "limbeck.cli.main", "simulate", scenario, *overrides, "--out", str(folder)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return facts(folder)


def main(arguments: list[str]) -> int:
    write = "--write" in arguments
    names = [own for own in arguments if own != "--write"] or list(RUNS)
    kept: dict[str, Any] = {"machine": machine(), "runs": {}}
    if KEPT.exists():
        kept = json.loads(KEPT.read_text())
    differ = 0
    if write:
        kept["machine"] = machine()
    print(f"kept on: {kept['machine']}\nhere:    {machine()}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = make(name, Path(folder) / "run")
        if write:
            kept["runs"][name] = found
            print(f"{name}: {found['student']}", flush=True)
            continue
        other = [fact for fact, own in found.items() if own != kept["runs"][name][fact]]
        differ += bool(other)
        verdict = f"differs in {', '.join(other)}" if other else "the same"
        print(f"{name}: {verdict}, student {found['student']}", flush=True)
    if write:
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
