"""A run's report: one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path


def build(folder: Path) -> Path:
    return folder / "report.html"
