"""The plots of a report, as inline SVG. Text stays text, and ink takes the colour of the page's text, in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from limbeck.simulations.metrics import ClientMetrics, Metrics

# A palette for the colour-blind too: teachers grey, the student blue, its dense control orange, the pool green.
TEACHER, STUDENT, DENSE, POOL = "#8a8f98", "#0072b2", "#e69f00", "#009e73"
INK = "#123456"
HEAT = LinearSegmentedColormap.from_list("heat", ["#0072b200", "#0072b2"])
STYLE: dict[RcKeyType, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "legend.frameon": False,
}


def _draw(label: str, width: float, height: float, draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Ids are unique within one plot only; the page holds many.
    prefix = re.sub(r"\W+", "-", label.lower())[:24]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="|href="|url\()#([^")]+)', rf"\1#{prefix}-\2", svg)
    width_pt = re.search(r'width="([\d.]+)pt"', svg)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    most = f"{float(width_pt.group(1)) * 1.35:.0f}px" if width_pt else "100%"
    return re.sub(
        r'(<svg[^>]*?) width="[\d.]+pt"',
        rf'\1 width="100%" style="max-width:{most}" role="img" aria-label="{label}"',
        svg,
        count=1,
    )


def headline(run: Metrics) -> str:
    """Every teacher alone, the pool, and the student, on one axis of accuracy."""
    rows = [
        ("teachers, alone", run.teacher_accuracies, TEACHER),
    ]
    if run.pool.accuracy is not None:
        rows.append(("pool, on public inputs", (run.pool.accuracy,), POOL))
    if run.student.dense_accuracy is not None:
        rows.append(("dense control", (run.student.dense_accuracy,), DENSE))
    rows.append((f"student, {run.stages[-1].sparsity:.0%} sparse", (run.student.accuracy,), STUDENT))

    def draw(axes: Axes) -> None:
        for row, (_, values, colour) in enumerate(rows):
            spread = np.linspace(-0.14, 0.14, len(values)) if len(values) != 1 else [0]
            axes.scatter(
                100 * np.array(values), row + np.array(spread), s=70, color=colour, alpha=0.9, linewidths=0, zorder=3
            )
            shown = f"{100 * max(values):.1f} %" + (" the best" if len(values) > 1 else "") if values else "none"
            axes.annotate(shown, (100 * max(values, default=0), row), (9, 0), textcoords="offset points", va="center")
        everything = [value for _, values, _ in rows for value in values]
        axes.set_xlim(100 * min(everything) - 4, min(100 * max(everything) + 9, 108))
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x", color=INK, alpha=0.15)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)

    return _draw("Accuracy of teachers, pool and student", 7.6, 0.62 * len(rows) + 0.7, draw)


def partition(run: Metrics) -> str:
    """Records of each class at each site, as area."""
    names, sites = run.partition.class_names, run.partition.sites
    table = np.array(run.partition.counts)

    def draw(axes: Axes) -> None:
        x, y = np.meshgrid(np.arange(table.shape[1]), np.arange(table.shape[0]))
        axes.scatter(x, y, s=420 * table / max(table.max(), 1), color=STUDENT, alpha=0.75, linewidths=0)
        axes.set_xticks(range(table.shape[1]), names, rotation=35, ha="right")
        shown = range(0, table.shape[0], max(1, table.shape[0] // 25))
        axes.set_yticks(shown, [f"{sites[i]}  {table[i].sum():>5}" for i in shown])
        axes.set_ylim(table.shape[0] - 0.4, -0.6)
        axes.set_xlim(-0.6, table.shape[1] - 0.4)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)

    return _draw("Records of each class at each site", 7.6, min(0.38 * len(table), 9) + 1.1, draw)


def stages(run: Metrics) -> str:
    """Accuracy after each stage against its sparsity."""

    def draw(axes: Axes) -> None:
        number = np.arange(1, len(run.stages) + 1)
        dense = [stage.dense_accuracy for stage in run.stages if stage.dense_accuracy is not None]
        if len(dense) == len(run.stages):
            axes.plot(number, 100 * np.array(dense), "o-", color=DENSE, label="dense control")
        sparse = 100 * np.array([stage.sparse_accuracy for stage in run.stages])
        axes.plot(number, sparse, "o-", color=STUDENT, label="sparse student")
        pooled = [stage.pool_accuracy for stage in run.stages if stage.pool_accuracy is not None]
        if len(pooled) == len(run.stages):
            axes.plot(number, 100 * np.array(pooled), "--", color=POOL, label="pool, on public inputs")
        axes.set_xticks(
            number, [f"stage {n}\n{stage.sparsity:.0%} sparse" for n, stage in zip(number, run.stages, strict=True)]
        )
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y", color=INK, alpha=0.15)
        axes.legend(loc="best")

    return _draw("Accuracy after each stage against sparsity", 7.6, 3.2, draw)


def losses(run: Metrics) -> str:
    """Mean training loss by epoch; a line where a stage begins."""

    def draw(axes: Axes) -> None:
        start = 0
        for stage in run.stages:
            count = len(stage.losses)
            axes.plot(np.arange(start, start + count) + 1, stage.losses, color=STUDENT)
            if start:
                axes.axvline(start + 0.5, color=INK, alpha=0.25, linewidth=0.8)
            axes.text(
                start + 0.7, 1.0, f"stage {stage.stage + 1}", transform=axes.get_xaxis_transform(), va="bottom", size=9
            )
            start += count
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel("divergence from the pool, nats")

    return _draw("Loss by epoch", 7.6, 2.6, draw)


def budgets(run: Metrics) -> str:
    """What each site has spent, against its own budget."""
    clients = run.clients

    def draw(axes: Axes) -> None:
        row = np.arange(len(clients))
        axes.barh(row, [client.budget_epsilon for client in clients], color=TEACHER, alpha=0.3, height=0.7, label="budget")
        axes.barh(row, [client.epsilon or 0 for client in clients], color=STUDENT, height=0.36, label="spent")
        for index, client in enumerate(clients):
            if client.epsilon is None:
                axes.annotate("no DP guarantee", (0, index), (4, 0), textcoords="offset points", va="center", weight="bold")
        _sites_axis(axes, clients)
        axes.set_xlabel(f"epsilon at delta = {clients[0].delta:g}, per {clients[0].unit}, {clients[0].adjacency}")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    return _draw("Epsilon spent by each site against its budget", 7.6, min(0.3 * len(clients), 8) + 1.1, draw)


def traffic(run: Metrics) -> str:
    """Bytes each site sent and received."""
    clients = run.clients

    def draw(axes: Axes) -> None:
        row = np.arange(len(clients))
        axes.barh(row - 0.18, [client.bytes_up / 1000 for client in clients], height=0.34, color=STUDENT, label="up")
        axes.barh(row + 0.18, [client.bytes_down / 1000 for client in clients], height=0.34, color=DENSE, label="down")
        _sites_axis(axes, clients)
        axes.set_xlabel("kilobytes in the whole run")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    return _draw("Bytes up and down by site", 7.6, min(0.34 * len(clients), 8) + 1.1, draw)


def label_counts(run: Metrics) -> str | None:
    """Released label counts against the true ones, which only a simulation knows; None where none were released."""
    pairs = [
        (true, released)
        for client, row in zip(run.clients, run.partition.counts, strict=True)
        for true, released in zip(row, client.label_counts or (), strict=False)
    ]
    if not pairs:
        return None

    def draw(axes: Axes) -> None:
        true, released = np.array(pairs).T
        axes.plot([0, true.max()], [0, true.max()], color=INK, alpha=0.4, linewidth=0.8)
        axes.scatter(true, released, s=16, color=STUDENT, alpha=0.7, linewidths=0)
        axes.set_xlabel("records of a class at a site")
        axes.set_ylabel("count it released, with noise")

    return _draw("Released label counts against true ones", 4.6, 3.2, draw)


def confusion(run: Metrics) -> str:
    """What the student takes each class for, on the test set."""
    table = np.array(run.student.confusion, float)
    share = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    names = run.partition.class_names

    def draw(axes: Axes) -> None:
        axes.pcolormesh(share, cmap=HEAT, vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(share):
            if value >= 1:
                colour = "white" if value > 55 else INK
                axes.text(j + 0.5, i + 0.5, f"{value:.0f}", ha="center", va="center", size=8, color=colour)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=35, ha="right")
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        axes.set_xlabel("the student says")
        axes.set_ylabel("it is, % of each row")
        axes.tick_params(length=0)

    return _draw("Confusion matrix of the student", 6.6, 4.8, draw)


def seconds(run: Metrics) -> str:
    """Wall-clock seconds of the phases."""
    phases = {name: value for name, value in run.seconds.items() if name not in {"total", "run"}}

    def draw(axes: Axes) -> None:
        axes.barh(range(len(phases)), list(phases.values()), color=TEACHER, height=0.6)
        for row, value in enumerate(phases.values()):
            axes.annotate(f"{value:.1f}", (value, row), (4, 0), textcoords="offset points", va="center", size=9)
        axes.set_yticks(range(len(phases)), list(phases))
        axes.set_ylim(len(phases) - 0.4, -0.6)
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)

    return _draw("Seconds of each phase", 7.6, 0.3 * len(phases) + 0.7, draw)


def _sites_axis(axes: Axes, clients: Sequence[ClientMetrics]) -> None:
    shown = range(0, len(clients), max(1, len(clients) // 25))
    axes.set_yticks(shown, [clients[i].site for i in shown])
    axes.set_ylim(len(clients) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


# By the names that the template uses.
ALL: Mapping[str, Callable[[Metrics], str | None]] = {
    "headline": headline,
    "partition": partition,
    "stages": stages,
    "losses": losses,
    "budgets": budgets,
    "traffic": traffic,
    "label_counts": label_counts,
    "confusion": confusion,
    "seconds": seconds,
}
