"""Memory of processes as Linux counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

# Resident now, resident at most (since the last reset), and the heap with private mappings, which RLIMIT_DATA bounds.
Kind = Literal["VmRSS", "VmHWM", "VmData"]


def used(kind: Kind, process: int | None = None) -> int:
    """Bytes of memory of a process, by default this one. Raises OSError if there is no such process, or it has ended."""
    path = Path("/proc") / ("self" if process is None else str(process)) / "status"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{kind}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"Expected {kind} in {path}, got a process that has ended.")


def reset_peak() -> None:
    """Let VmHWM of this process start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
