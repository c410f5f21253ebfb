"""The figures of a sweep or a comparison: a measure of the student against what was swept, against sparsity and against bytes.

Points are means over seeds, bands and bars one sample standard deviation to either side; one run has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from limbeck.simulations.metrics import Role
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
from limbeck.simulations.sweep.cells import EPSILON
from limbeck.simulations.sweep.rows import (
    TITLES,
    Group,
    Spread,
    Study,
    Value,
    scaled,
    short,
    shown,
    spread,
    with_spread,
)
from limbeck.simulations.sweep.rows import (
    figure as figure_of,
)

MOST_GROUPS = 40
MOST_LINES = 8
# Characters of a line's name in a legend.
MOST_NAME = 48
# Figures of their own for the values of the other settings.
MOST_APART = 6
# From this ratio of the largest value to the smallest on, an axis is logarithmic.
LOGARITHMIC = 4.0
MOST_TICKS, MOST_TICKS_NARROW = 10, 5


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a figure: a mean and spread at every x. mark: of matplotlib."""

    label: str
    points: tuple[tuple[float, Spread], ...]
    colour: str
    style: str
    mark: str


@dataclass(frozen=True, slots=True)
class _Level:
    """A line across a figure: what does not depend on x."""

    label: str
    at: Spread
    colour: str
    style: str


BESIDE: tuple[tuple[Role, str, str, str, str], ...] = (
    ("pool", "pool", POOL, "--", "s"),
    ("central", "central DP", CENTRAL, "-.", "^"),
    ("best site", "best site alone", TEACHER, "--", "D"),
    ("mean site", "sites alone, mean", TEACHER, ":", "v"),
)


def overview(study: Study, measure: str) -> Figure:
    """Every group with its runs, one below the other."""
    groups = study.groups[:MOST_GROUPS]
    values = [[value for row in group.rows if (value := figure_of(row, "student", measure)) is not None] for group in groups]
    spreads = [spread(each) for each in values]
    majority = spread(figure_of(row, "majority", measure) for row in study.rows)

    def draw(axes: Axes, narrow: bool) -> None:
        for place, (group, each, over) in enumerate(zip(groups, values, spreads, strict=True)):
            colour = INK if group.without_privacy else STUDENT
            axes.scatter(each, [place] * len(each), s=26, color=colour, alpha=0.35, linewidths=0)
            if over is not None:
                axes.errorbar(
                    [over.mean],
                    [place],
                    xerr=None if over.std is None else [over.std],
                    fmt="o",
                    color=colour,
                    capsize=3,
                    markersize=6,
                )
                axes.annotate(
                    with_spread(over, measure), (over.mean, place), (0, 7), textcoords="offset points", ha="center", size=8
                )
        if majority is not None:
            axes.axvline(majority.mean, color=INK, linestyle=":", linewidth=1.2)
            axes.text(majority.mean, 1.0, " majority", transform=axes.get_xaxis_transform(), va="bottom", size=9)
        axes.set_yticks(range(len(groups)), [_wrapped(group.label) if narrow else group.label for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.7)
        axes.set_xlabel(f"student: {TITLES[measure]}")
        axes.margins(x=0.1)
        axes.grid(axis="x", color=INK, alpha=0.15)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    said = [f"{group.label}: {with_spread(over, measure)}" for group, over in zip(groups, spreads, strict=True)]
    return figure(
        f"The student of every cell, {TITLES[measure]}",
        "; ".join(said) + ".",
        draw,
        Table(
            ("", "runs", TITLES[measure], "single runs"),
            rows_of(
                [
                    [group.label, len(each), with_spread(over, measure), ", ".join(_number(value) for value in each)]
                    for group, each, over in zip(groups, values, spreads, strict=True)
                ]
            ),
        ),
        height=0.44 * len(groups) + 1.0,
        narrow_height=0.5 * len(groups) + 1.0,
    )


def curves(study: Study, measure: str) -> Iterator[Figure]:
    """The student against each swept setting that is a number; with several such settings, also one figure for each value of the others."""
    for key in study.keys:
        numbers = {group.settings[key] for group in study.groups if _is_number(group.settings[key])}
        if len(numbers) > 1:
            yield from _against(study, key, measure)


def _against(study: Study, key: str, measure: str) -> Iterator[Figure]:
    apart: dict[tuple[Value, ...], list[Group]] = {}
    others = [other for other in study.keys if other != key]
    for group in study.groups:
        apart.setdefault(tuple(group.settings[other] for other in others), []).append(group)
    # A line goes through two points at least; what differs in everything from everything else has none.
    lined = {
        values: groups
        for values, groups in apart.items()
        if len({group.settings[key] for group in groups if _is_number(group.settings[key])}) > 1
    }
    named = {values: _named(others, values, number) for number, values in enumerate(lined, start=1)}
    if not lined:
        return
    if len(lined) == 1:
        ((values, groups),) = lined.items()
        yield _with_all_beside(groups, key, measure, named[values] if len(apart) > 1 else "")
        return
    lines, levels = [], []
    for index, (values, groups) in enumerate(list(lined.items())[:MOST_LINES]):
        lines.append(_line(groups, key, "student", measure, named[values], LINES[index], "-", MARKS[index]))
        if key == EPSILON:
            levels += _without_privacy(groups, measure, f"{named[values]}, no privacy", LINES[index])
    left_out = f" Of {len(lined)} lines the first {MOST_LINES} are drawn." if len(lined) > MOST_LINES else ""
    levels += _majority(study.groups, measure)
    yield _curve(f"Student against {_name(key)}", key, measure, lines, levels, left_out)
    for values, groups in list(lined.items())[:MOST_APART]:
        yield _with_all_beside(groups, key, measure, named[values])


def _named(keys: Sequence[str], values: Sequence[Value], number: int) -> str:
    """What tells a line from the others: the values of the other settings, or its number if these would fill the figure."""
    text = ", ".join(f"{short(key)} = {shown(value)}" for key, value in zip(keys, values, strict=True))
    return text if len(text) <= MOST_NAME else f"line {number}"


def _with_all_beside(groups: Sequence[Group], key: str, measure: str, where: str) -> Figure:
    """Student, pool, central DP, sites alone, majority and no privacy in one figure. where: the values of other settings."""
    lines = [_line(groups, key, "student", measure, "student", STUDENT, "-", "o")]
    lines += [_line(groups, key, role, measure, label, colour, style, mark) for role, label, colour, style, mark in BESIDE]
    # Where epsilon is not on the axis, runs without privacy have lines of their own.
    baseline = _without_privacy(groups, measure, "student, no privacy", INK) if key == EPSILON else []
    levels = [*baseline, *_majority(groups, measure)]
    at = f" at {where}" if where else ""
    return _curve(
        f"Student, pool and sites alone against {_name(key)}{at}",
        key,
        measure,
        [line for line in lines if line.points],
        levels,
        "",
    )


def _line(
    groups: Sequence[Group], key: str, role: Role, measure: str, label: str, colour: str, style: str, mark: str
) -> _Line:
    points = [
        (float(value), over)
        for group in groups
        if _is_number(value := group.settings[key]) and isinstance(value, int | float)
        if (over := spread(figure_of(row, role, measure) for row in group.rows)) is not None
    ]
    return _Line(label, tuple(sorted(points, key=lambda point: point[0])), colour, style, mark)


def _without_privacy(groups: Sequence[Group], measure: str, label: str, colour: str) -> list[_Level]:
    values = [figure_of(row, "student", measure) for group in groups if group.without_privacy for row in group.rows]
    over = spread(values)
    return [] if over is None else [_Level(label, over, colour, "--")]


def _majority(groups: Sequence[Group], measure: str) -> list[_Level]:
    over = spread(figure_of(row, "majority", measure) for group in groups for row in group.rows)
    return [] if over is None else [_Level("majority class", over, INK, ":")]


def _curve(title: str, key: str, measure: str, lines: Sequence[_Line], levels: Sequence[_Level], more: str) -> Figure:
    xs = sorted({x for line in lines for x, _ in line.points})

    def draw(axes: Axes, narrow: bool) -> None:
        _draw_lines(axes, lines)
        for level in levels:
            axes.axhline(level.at.mean, color=level.colour, linestyle=level.style, linewidth=1.2, label=level.label)
            if level.at.std is not None and level.style == "--":
                axes.axhspan(
                    level.at.mean - level.at.std, level.at.mean + level.at.std, color=level.colour, alpha=0.08, linewidth=0
                )
        _x_axis(axes, xs, narrow)
        axes.set_xlabel(_axis_name(key))
        axes.set_ylabel(TITLES[measure])
        axes.grid(axis="y", color=INK, alpha=0.15)
        drawing.legend(axes, 3, narrow=narrow)

    said = "; ".join(_said(line, measure) for line in lines[:3])
    said += "".join(f"; {level.label}: {with_spread(level.at, measure)}" for level in levels)
    columns = (_axis_name(key), *(line.label for line in lines))
    at = [dict(line.points) for line in lines]
    table: list[list[object]] = [[f"{x:g}", *(_with_n(each.get(x), measure) for each in at)] for x in xs]
    table += [[level.label, _with_n(level.at, measure), *[None] * (len(lines) - 1)] for level in levels]
    return figure(title, f"{said}.{more}", draw, Table(columns, rows_of(table)), height=3.7, narrow_height=3.9)


def against_sparsity(study: Study, measure: str) -> Figure | None:
    """The student after every stage against its sparsity, one line a group; None if no run has two stages."""
    return _by_stage(
        study,
        measure,
        "Student after each stage against sparsity",
        "sparsity of the student, %",
        lambda row, stage: 100 * row.stages[stage].sparsity,
    )


def against_bytes(study: Study, measure: str) -> Figure | None:
    """The student after every stage against what the average site had sent by then; None if there is nothing to draw a line through."""
    return _by_stage(
        study,
        measure,
        "Student after each stage against bytes sent",
        "kilobytes sent by the average site",
        lambda row, stage: None if (sent := row.stages[stage].bytes_up_per_site) is None else sent / 1000,
    )


def _by_stage(study: Study, measure: str, title: str, axis: str, x_of: Callable[..., float | None]) -> Figure | None:
    lines = []
    for index, group in enumerate(study.groups):
        points = []
        for stage in range(min(len(row.stages) for row in group.rows)):
            xs = [x_of(row, stage) for row in group.rows]
            x = spread(xs)
            y = spread(scaled(measure, row.stages[stage].figures.get(measure)) for row in group.rows)
            if x is not None and y is not None:
                points.append((x.mean, y))
        if points:
            colour, mark = LINES[index % len(LINES)], MARKS[index % len(MARKS)]
            lines.append(_Line(group.label, tuple(points), colour, "--" if group.without_privacy else "-", mark))
    drawn = lines[:MOST_LINES]
    every = sorted({x for line in drawn for x, _ in line.points})
    if len(every) < 2:
        return None

    def draw(axes: Axes, narrow: bool) -> None:
        _draw_lines(axes, drawn)
        for level in _majority(study.groups, measure):
            axes.axhline(level.at.mean, color=level.colour, linestyle=level.style, linewidth=1.2, label=level.label)
        axes.set_xlabel(axis)
        axes.set_ylabel(TITLES[measure])
        axes.grid(axis="y", color=INK, alpha=0.15)
        drawing.legend(axes, 3, narrow=narrow)

    left_out = f" Of {len(lines)} lines the first {MOST_LINES} are drawn." if len(lines) > MOST_LINES else ""
    return figure(
        title,
        "; ".join(_said(line, measure) for line in drawn[:3]) + f".{left_out}",
        draw,
        Table(
            ("", axis, TITLES[measure]),
            rows_of([[line.label, f"{x:.4g}", _with_n(over, measure)] for line in lines for x, over in line.points]),
        ),
        height=3.7,
        narrow_height=3.9,
    )


def _draw_lines(axes: Axes, lines: Sequence[_Line]) -> None:
    for line in lines:
        x = [at for at, _ in line.points]
        y = [over.mean for _, over in line.points]
        axes.plot(x, y, line.style, marker=line.mark, color=line.colour, label=line.label, linewidth=1.5, markersize=5)
        if any(over.std is not None for _, over in line.points):
            low, high = zip(
                *((over.mean - (over.std or 0), over.mean + (over.std or 0)) for _, over in line.points), strict=True
            )
            axes.fill_between(x, low, high, color=line.colour, alpha=0.14, linewidth=0)


def _x_axis(axes: Axes, xs: Sequence[float], narrow: bool) -> None:
    """Ticks where something was run, as many as fit."""
    most = MOST_TICKS_NARROW if narrow else MOST_TICKS
    if xs and xs[0] > 0 and xs[-1] / xs[0] >= LOGARITHMIC:
        axes.set_xscale("log")
    step = max(1, -(-len(xs) // most))
    ticks = list(xs)[::step]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _name(key: str) -> str:
    return {EPSILON: "ε", "partition.clients": "the number of sites", "stages.sparsity": "sparsity"}.get(key, key)


def _axis_name(key: str) -> str:
    return {
        EPSILON: "ε of the plan",
        "partition.clients": "sites",
        "stages.sparsity": "sparsity of the finished student",
    }.get(key, key)


def _said(line: _Line, measure: str) -> str:
    return f"{line.label}: " + ", ".join(f"{with_spread(over, measure)} at {x:.4g}" for x, over in line.points)


def _with_n(over: Spread | None, measure: str) -> str | None:
    return None if over is None else f"{with_spread(over, measure)} (n = {over.n})"


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _wrapped(label: str) -> str:
    return label.replace(", ", ",\n")


def by_settings(study: Study) -> Mapping[str, Sequence[str]]:
    """The value of every differing setting, by setting, in the order of groups."""
    return {key: [shown(group.settings[key]) for group in study.groups] for key in study.keys}
