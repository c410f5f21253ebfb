"""The figures of a benchmark's page: accuracies side by side, over what varies, and against bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from limbeck.experiments.baselines import limbeck_runs
from limbeck.experiments.baselines.figures import Summary
from limbeck.experiments.baselines.suites import Cell
from limbeck.simulations.report import drawing
from limbeck.simulations.report.drawing import (
    CENTRAL,
    INK,
    LINES,
    MARKS,
    POOL,
    STUDENT,
    TEACHER,
    Figure,
    Table,
    figure,
    rows_of,
)
from limbeck.simulations.sweep.rows import with_spread

# Lines that stand in every figure of curves, with their colours.
ALWAYS = {limbeck_runs.STUDENT: STUDENT, limbeck_runs.WITH_EVIDENCE: POOL, "central": CENTRAL}
# Other methods in one figure.
MOST_OTHERS = 4
OTHERS = tuple(colour for colour in LINES if colour not in ALWAYS.values())
LOGARITHMIC = 4.0


def side_by_side(cell: Cell, found: Sequence[Summary]) -> Figure:
    """All methods of one cell, the most accurate first."""
    ordered = sorted(found, key=lambda each: -each.accuracy.mean)

    def draw(axes: Axes, narrow: bool) -> None:
        for place, each in enumerate(ordered):
            colour = _colour(each)
            axes.scatter(
                [100 * outcome.accuracy for outcome in each.outcomes.values()],
                [place] * len(each.outcomes),
                s=22,
                color=colour,
                alpha=0.35,
                linewidths=0,
            )
            axes.errorbar(
                [each.accuracy.mean],
                [place],
                xerr=None if each.accuracy.std is None else [each.accuracy.std],
                fmt="o" if each.method.private else "s",
                color=colour,
                markerfacecolor=colour if each.method.private else "none",
                capsize=3,
                markersize=6,
            )
        axes.set_yticks(range(len(ordered)), [each.method.title for each in ordered])
        for label, each in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_fontweight("bold" if each.method.shares == "limbeck" else "normal")
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x", color=INK, alpha=0.15)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    said = "; ".join(f"{each.method.title}: {with_spread(each.accuracy, 'accuracy')}" for each in ordered)
    return figure(
        f"All methods at {cell.name}",
        said + ".",
        draw,
        Table(
            ("", "n", "accuracy, %", "single seeds"),
            rows_of(
                [
                    [
                        each.method.title,
                        each.accuracy.n,
                        with_spread(each.accuracy, "accuracy"),
                        ", ".join(f"{100 * outcome.accuracy:.1f}" for outcome in each.outcomes.values()),
                    ]
                    for each in ordered
                ]
            ),
        ),
        height=0.27 * len(ordered) + 0.9,
        narrow_height=0.3 * len(ordered) + 0.9,
    )


def curves(axis: str, cells: Sequence[Cell], found: Sequence[Summary]) -> Iterator[Figure]:
    """Accuracy over what varies, a few methods a figure; limbeck and central DP in each. None where cells are no numbers."""
    if len(cells) < 2 or any(cell.at is None for cell in cells):
        return
    names = list(dict.fromkeys(each.method.name for each in found))
    others = [name for name in names if name not in ALWAYS]
    for start in range(0, max(1, len(others)), MOST_OTHERS):
        shown = [name for name in ALWAYS if name in names] + others[start : start + MOST_OTHERS]
        yield _curve(axis, cells, [each for each in found if each.method.name in shown], shown, start // MOST_OTHERS + 1)


def _curve(axis: str, cells: Sequence[Cell], found: Sequence[Summary], shown: Sequence[str], number: int) -> Figure:
    lines = {name: [each for each in found if each.method.name == name] for name in shown}
    colours = ALWAYS | dict(zip([name for name in shown if name not in ALWAYS], OTHERS, strict=False))

    def draw(axes: Axes, narrow: bool) -> None:
        for index, (name, points) in enumerate(lines.items()):
            x = [each.cell.at for each in points if each.cell.at is not None]
            order = sorted(range(len(x)), key=x.__getitem__)
            mean = [points[place].accuracy.mean for place in order]
            std = [points[place].accuracy.std or 0.0 for place in order]
            at = [x[place] for place in order]
            private = points[0].method.private
            axes.plot(
                at,
                mean,
                "-" if private else "--",
                marker=MARKS[index % len(MARKS)],
                color=colours[name],
                label=points[0].method.title,
                linewidth=2.0 if name == limbeck_runs.STUDENT else 1.4,
                markersize=5,
            )
            low = [each - deviation for each, deviation in zip(mean, std, strict=True)]
            high = [each + deviation for each, deviation in zip(mean, std, strict=True)]
            axes.fill_between(at, low, high, color=colours[name], alpha=0.12, linewidth=0)
        _ticks(axes, cells)
        axes.set_xlabel(axis)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y", color=INK, alpha=0.15)
        drawing.legend(axes, 2, narrow=narrow)

    said = "; ".join(
        f"{points[0].method.title}: "
        + ", ".join(f"{with_spread(each.accuracy, 'accuracy')} at {each.cell.name}" for each in points)
        for points in lines.values()
    )
    table = [[points[0].method.title, *(_at(points, cell) for cell in cells)] for points in lines.values()]
    return figure(
        f"Accuracy over {axis}, {number}",
        said + ".",
        draw,
        Table(("", *(cell.name for cell in cells)), rows_of(table)),
        height=3.9,
        narrow_height=4.4,
    )


def against_bytes(cell: Cell, found: Sequence[Summary]) -> Figure | None:
    """Accuracy of one cell against what an average site sends in all; None if nobody sends anything."""
    sent = [each for each in found if each.bytes_up > 0]
    if len(sent) < 2:
        return None

    def draw(axes: Axes, narrow: bool) -> None:
        for each in sent:
            axes.errorbar(
                [each.bytes_up / 1000],
                [each.accuracy.mean],
                yerr=None if each.accuracy.std is None else [each.accuracy.std],
                fmt="o" if each.method.private else "s",
                color=_colour(each),
                markerfacecolor=_colour(each) if each.method.private else "none",
                capsize=2,
                markersize=6,
            )
            axes.annotate(
                each.method.title, (each.bytes_up / 1000, each.accuracy.mean), (5, 3), textcoords="offset points", size=7.5
            )
        axes.set_xscale("log")
        axes.set_xlabel("kilobytes that an average site sends in all")
        axes.set_ylabel("accuracy, %")
        axes.margins(x=0.16)
        axes.grid(color=INK, alpha=0.15)

    said = "; ".join(
        f"{each.method.title}: {with_spread(each.accuracy, 'accuracy')} with {each.bytes_up / 1000:,.1f} kB" for each in sent
    )
    return figure(
        f"Accuracy against bytes at {cell.name}",
        said + ".",
        draw,
        Table(
            ("", "kB up", "accuracy, %"),
            rows_of(
                [
                    [each.method.title, f"{each.bytes_up / 1000:,.1f}", with_spread(each.accuracy, "accuracy")]
                    for each in sent
                ]
            ),
        ),
        height=4.4,
        narrow_height=4.4,
    )


def _at(points: Sequence[Summary], cell: Cell) -> str | None:
    return next((with_spread(each.accuracy, "accuracy") for each in points if each.cell == cell), None)


def _colour(each: Summary) -> str:
    return ALWAYS.get(each.method.name, TEACHER if each.method.shares == "nothing" else INK)


def _ticks(axes: Axes, cells: Sequence[Cell]) -> None:
    places = sorted((cell.at, cell.name) for cell in cells if cell.at is not None)
    if places[0][0] > 0 and places[-1][0] / places[0][0] >= LOGARITHMIC:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([at for at, _ in places]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([at for at, _ in places], [name for _, name in places])
