"""The picture of the softening families: paths on the simplex of three classes as T rises, and entropy against T."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from limbeck.base.errors import SettingError
from limbeck.operators import Family, Softening

# A palette that the colour-blind tell apart; one colour a family, the same in all panels.
FAMILIES: dict[str, tuple[Family, float | None, str]] = {
    "power": (Family.POWER, None, "#0072b2"),
    "mixing": (Family.MIXING, None, "#e69f00"),
    "hybrid": (Family.HYBRID, None, "#009e73"),
    "Tsallis, q = 0.5": (Family.TSALLIS, 0.5, "#cc79a7"),
    "Tsallis, q = 2": (Family.TSALLIS, 2.0, "#d55e00"),
    "entropy target": (Family.ENTROPY_TARGET, None, "#56b4e9"),
}
COLDEST = 0.1
INK, FAINT = "#2b3440", "#c9ced6"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "limbeck",
}
# Starting points on the simplex, and where on each path a dot shows the temperature.
POINTS = [[0.90, 0.08, 0.02], [0.02, 0.93, 0.05], [0.10, 0.005, 0.895], [0.30, 0.02, 0.68], [0.50, 0.46, 0.04]]
DOTS = (2.0, 5.0)
CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
ENTROPY_OF = torch.tensor([0.90, 0.06, 0.02, 0.01, 0.01], dtype=torch.float64)


def draw(out: Path) -> None:
    """Write the picture to a .png or .svg. Raises SettingError for another ending, or where it cannot be written."""
    if out.suffix not in {".png", ".svg"}:
        raise SettingError(f"Expected a file that ends in .png or .svg, got {str(out)!r}.")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 4, width_ratios=[1, 1, 1, 1.5])
        for at, name in enumerate(FAMILIES):
            _simplex(figure.add_subplot(grid[at // 3, at % 3]), name)
        _entropy(figure.add_subplot(grid[:, 3]))
        try:
            figure.savefig(out, dpi=100, metadata={"Date": None} if out.suffix == ".svg" else None)
        except OSError as error:
            raise SettingError(f"Expected to write {str(out)!r}: {error}.") from error


def _temperatures(lowest: float, highest: float) -> list[float]:
    """Even in log T, through 1."""
    below = [lowest ** (1 - i / 80) for i in range(80)] if lowest < 1 else []
    return below + [highest ** (i / 160) for i in range(161)]


def _drawn(name: str) -> tuple[Callable[[float], Softening], float, str]:
    """Of a family in the picture: from T to its operator, the lowest T drawn, its colour."""
    family, order, colour = FAMILIES[name]
    return partial(family.at, order=order), max(family.lowest_temperature, COLDEST), colour


def _simplex(axes: Axes, name: str) -> None:
    make, lowest, colour = _drawn(name)
    outline = CORNERS[[0, 1, 2, 0]]
    axes.fill(*outline.T.tolist(), facecolor="#f5f6f8", edgecolor=FAINT, linewidth=1.0)
    for middle in range(3):
        ends = torch.stack([CORNERS[middle], CORNERS[[i for i in range(3) if i != middle]].mean(0)])
        axes.plot(*ends.T.tolist(), color=FAINT, linewidth=0.6, zorder=1)
    p_NK = torch.tensor(POINTS, dtype=torch.float64)
    path_TN2 = torch.stack([make(t)(p_NK) @ CORNERS for t in _temperatures(lowest, 1e4)])
    starts_N2 = p_NK @ CORNERS
    for n in range(len(POINTS)):
        axes.plot(*path_TN2[:, n].T.tolist(), color=colour, linewidth=1.7, zorder=3)
    for t in DOTS:
        x_N, y_N = (make(t)(p_NK) @ CORNERS).T.tolist()
        axes.scatter(x_N, y_N, s=14, color=colour, zorder=4)
    x_N, y_N = starts_N2.T.tolist()
    axes.scatter(x_N, y_N, s=30, facecolor="white", edgecolor=INK, linewidth=1.1, zorder=5)
    x, y = CORNERS.mean(0).tolist()
    axes.scatter([x], [y], s=34, marker="+", color=INK, linewidth=1.2, zorder=6)
    axes.set_title(name, color=colour, fontweight="bold", y=0.98)
    axes.set_aspect("equal")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.13, 0.9)
    axes.text(0.5, -0.06, "all T > 0" if lowest < 1 else "T ≥ 1", ha="center", va="top", fontsize=8)
    axes.axis("off")


def _entropy(axes: Axes) -> None:
    for name in FAMILIES:
        make, lowest, colour = _drawn(name)
        temperatures = _temperatures(lowest, 30.0)
        log_q_TK = torch.stack([make(t).from_log(ENTROPY_OF.log()) for t in temperatures])
        entropy_T = -(log_q_TK.exp() * log_q_TK).sum(-1)
        # Hybrid lies on power below 1 and on mixing above: dashes let both be seen.
        axes.plot(
            temperatures, entropy_T.tolist(), color=colour, linewidth=1.8, linestyle=(0, (4, 3)) if name == "hybrid" else "-",
            label=name, zorder=4 if name == "hybrid" else 3,
        )  # fmt: skip
    axes.axhline(math.log(len(ENTROPY_OF)), color=FAINT, linewidth=1.0, zorder=1)
    axes.axvline(1.0, color=FAINT, linewidth=1.0, zorder=1)
    axes.annotate("log K", (0.1, math.log(len(ENTROPY_OF))), (0, 3), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.set_xlabel("temperature T")
    axes.set_ylabel("entropy of F_T(p), nats")
    axes.set_ylim(-0.02, 1.72)
    axes.set_title("p = " + ", ".join(f"{value:g}" for value in ENTROPY_OF.tolist()), fontsize=9)
    axes.legend(loc="lower right", fontsize=8, bbox_to_anchor=(1.0, 0.02))
