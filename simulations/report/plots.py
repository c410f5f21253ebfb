"""The figures of a run's report, from its metrics alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, LogLocator

from limbeck.simulations.metrics import ClientMetrics, Metrics, Role
from limbeck.simulations.report import drawing
from limbeck.simulations.report.drawing import (
    CENTRAL,
    DENSE,
    INK,
    ON_STUDENT,
    POOL,
    STUDENT,
    TEACHER,
    Figure,
    Table,
    figure,
    rows_of,
)

HEAT = LinearSegmentedColormap.from_list("heat", [f"{STUDENT}00", STUDENT])
# Sites whose names fit beside an axis.
MOST_NAMED = 25
# Classes whose names fit below an axis on a telephone; of more, every second or third is named.
MOST_CLASSES_NARROW = 12
PERCENT = 100.0
COLOURS: Mapping[Role, str] = {
    "central": CENTRAL,
    "without privacy": CENTRAL,
    "pool": POOL,
    "dense": DENSE,
    "student": STUDENT,
}


def headline(run: Metrics) -> Figure:
    """Every teacher alone, central training, the pool and the student, on one axis of accuracy."""
    rows: list[tuple[str, Sequence[float], str]] = [("teachers, alone", run.teacher_accuracies, TEACHER)]
    compared: dict[Role, float | None] = {row.role: row.test.get("accuracy") for row in run.comparison}
    controls: tuple[tuple[Role, str], ...] = (("central", "central DP"), ("without privacy", "central, no privacy"))
    for role, label in controls:
        if (accuracy := compared.get(role)) is not None:
            rows.append((label, (accuracy,), CENTRAL))
    pool = compared.get("pool")
    if pool is not None:
        rows.append(("pool", (pool,), POOL))
    elif run.pool.accuracy is not None:
        rows.append(("pool, on public inputs", (run.pool.accuracy,), POOL))
    if run.student.dense_accuracy is not None:
        rows.append(("dense control", (run.student.dense_accuracy,), DENSE))
    rows.append((f"student, {run.stages[-1].sparsity:.0%} sparse", (run.student.accuracy,), STUDENT))
    majority = majority_accuracy(run)

    def draw(axes: Axes, narrow: bool) -> None:
        for row, (_, values, colour) in enumerate(rows):
            spread = np.linspace(-0.14, 0.14, len(values)) if len(values) != 1 else [0]
            axes.scatter(
                PERCENT * np.array(values), row + np.array(spread), s=70, color=colour, alpha=0.9, linewidths=0, zorder=3
            )
            best = (" best" if narrow else " the best") if len(values) > 1 else ""
            shown = f"{PERCENT * max(values):.1f} %{best}" if values else "none"
            axes.annotate(shown, (PERCENT * max(values, default=0), row), (9, 0), textcoords="offset points", va="center")
        axes.axvline(PERCENT * majority, color=INK, linestyle=":", linewidth=1.2)
        where = axes.get_xaxis_transform()
        axes.text(PERCENT * majority, 1.01, " majority class", transform=where, va="bottom", size=9)
        everything = [majority, *(value for _, values, _ in rows for value in values)]
        room = 0.6 if narrow else 0.2
        low, high = PERCENT * min(everything), PERCENT * max(everything)
        axes.set_xlim(max(0.0, low - 4), high + max(6.0, room * (high - low)))
        axes.set_xticks([tick for tick in axes.get_xticks() if low - 4 <= tick <= PERCENT])
        axes.set_yticks(range(len(rows)), [_broken(name) if narrow else name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x", color=INK, alpha=0.15)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)

    best = max(run.teacher_accuracies, default=None)
    says = (
        f"Majority class {_percent(majority)}, best teacher alone {_percent(best)}, pool {_percent(rows_value(rows, 'pool'))},"
        f" student {_percent(run.student.accuracy)}."
    )
    data = [
        [name, len(values), _percent(min(values, default=None)), _percent(max(values, default=None))]
        for name, values, _ in rows
    ]
    return figure(
        "Accuracy of teachers, pool and student",
        says,
        draw,
        Table(
            ("", "how many", "lowest", "highest"),
            rows_of([["majority class", 1, _percent(majority), _percent(majority)], *data]),
        ),
        height=0.62 * len(rows) + 0.9,
    )


def rows_value(rows: Sequence[tuple[str, Sequence[float], str]], word: str) -> float | None:
    """The first value of the first row whose name begins with a word."""
    return next((values[0] for name, values, _ in rows if name.startswith(word) and values), None)


def majority_accuracy(run: Metrics) -> float:
    """Of always saying the most frequent class of the test set, from 0 to 1; from the confusion matrix where nothing else says it."""
    if run.majority.test is not None:
        return run.majority.test.accuracy
    inputs = [sum(row) for row in run.student.confusion]
    return max(inputs) / max(1, sum(inputs))


def partition(run: Metrics) -> Figure:
    """Records of each class at each site, as area."""
    names, sites = run.partition.class_names, run.partition.sites
    table = np.array(run.partition.counts)

    def draw(axes: Axes, narrow: bool) -> None:
        x, y = np.meshgrid(np.arange(table.shape[1]), np.arange(table.shape[0]))
        largest = 420 if not narrow else min(420.0, 2600 / table.shape[1])
        axes.scatter(x, y, s=largest * table / max(table.max(), 1), color=STUDENT, alpha=0.75, linewidths=0)
        _classes(axes.set_xticks, names, 0.0, narrow)
        shown = range(0, table.shape[0], max(1, table.shape[0] // MOST_NAMED))
        axes.set_yticks(shown, [f"{sites[i]}  {table[i].sum():>5}" for i in shown])
        axes.set_ylim(table.shape[0] - 0.4, -0.6)
        axes.set_xlim(-0.6, table.shape[1] - 0.4)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)

    totals = table.sum(1)
    return figure(
        "Records of each class at each site",
        f"{len(sites)} sites with {totals.min()} to {totals.max()} records of {len(names)} classes.",
        draw,
        Table(
            ("site", *names, "all"),
            rows_of([[site, *row, sum(row)] for site, row in zip(sites, table.tolist(), strict=True)]),
        ),
        height=min(0.38 * len(table), 9) + 1.1,
    )


def stages(run: Metrics) -> Figure:
    """Accuracy after each stage against its sparsity."""
    dense = [stage.dense_accuracy for stage in run.stages]
    on_test = [stage.pool.test.accuracy if stage.pool.test is not None else None for stage in run.stages]
    where = "pool" if all(value is not None for value in on_test) else "pool, on public inputs"
    pool = on_test if where == "pool" else [stage.pool_accuracy for stage in run.stages]
    majority = majority_accuracy(run)

    def draw(axes: Axes, narrow: bool) -> None:
        number = np.arange(1, len(run.stages) + 1)
        if all(value is not None for value in dense):
            axes.plot(number, [PERCENT * (value or 0) for value in dense], "s-", color=DENSE, label="dense control")
        axes.plot(
            number, [PERCENT * stage.sparse_accuracy for stage in run.stages], "o-", color=STUDENT, label="sparse student"
        )
        if all(value is not None for value in pool):
            axes.plot(number, [PERCENT * (value or 0) for value in pool], "--", color=POOL, label=where)
        axes.axhline(PERCENT * majority, color=INK, linestyle=":", linewidth=1.2, label="majority class")
        # Every stage is named as long as there is room for it.
        step = max(1, -(-len(number) // (4 if narrow else 8)))
        ticks = number[::-1][::step][::-1]
        axes.set_xticks(
            ticks,
            [
                f"{'' if narrow else 'stage '}{n}\n{run.stages[n - 1].sparsity:.0%}{'' if narrow else ' sparse'}"
                for n in ticks
            ],
        )
        if narrow:
            axes.set_xlabel("stage, and sparsity of the student")
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y", color=INK, alpha=0.15)
        drawing.legend(axes, 4, narrow=narrow)

    first, last = run.stages[0], run.stages[-1]
    return figure(
        "Accuracy after each stage against sparsity",
        f"The student goes from {_percent(first.sparse_accuracy)} at {first.sparsity:.0%} sparsity to"
        f" {_percent(last.sparse_accuracy)} at {last.sparsity:.0%}; majority class {_percent(majority)}.",
        draw,
        Table(
            ("stage", "sparsity", "sparse student", "dense control", where),
            rows_of(
                [
                    [
                        stage.stage + 1,
                        _percent(stage.sparsity),
                        _percent(stage.sparse_accuracy),
                        _percent(control),
                        _percent(value),
                    ]
                    for stage, control, value in zip(run.stages, dense, pool, strict=True)
                ]
            ),
        ),
        height=3.4,
    )


def losses(run: Metrics) -> Figure:
    """Mean training loss by epoch; a line where a stage begins."""

    every = [loss for stage in run.stages for loss in stage.losses]

    def draw(axes: Axes, narrow: bool) -> None:
        start = 0
        for stage in run.stages:
            count = len(stage.losses)
            axes.plot(np.arange(start, start + count) + 1, stage.losses, color=STUDENT)
            if start:
                axes.axvline(start + 0.5, color=INK, alpha=0.25, linewidth=0.8)
            name = f"{stage.stage + 1}" if narrow or len(run.stages) > 8 else f"stage {stage.stage + 1}"
            axes.text(start + 0.7, 1.0, name, transform=axes.get_xaxis_transform(), va="bottom", size=9)
            start += count
        axes.set_yscale("log")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        if every and max(every) < 10 * min(every):
            axes.yaxis.set_minor_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(plain)
        axes.set_xlabel("epoch (stages above)" if narrow or len(run.stages) > 8 else "epoch")
        axes.set_ylabel("divergence from the pool, nats")

    return figure(
        "Loss by epoch",
        f"From {every[0]:.3g} to {every[-1]:.3g} nats in {len(every)} epochs." if every else "None was noted.",
        draw,
        Table(
            ("stage", "epochs", "first loss, nats", "last loss, nats"),
            rows_of(
                [
                    [stage.stage + 1, len(stage.losses), *(f"{loss:.4g}" for loss in (stage.losses[0], stage.losses[-1]))]
                    for stage in run.stages
                    if stage.losses
                ]
            ),
        ),
        height=2.6,
    )


def budgets(run: Metrics) -> Figure:
    """What each site has spent, against its own budget."""
    clients, first = run.clients, run.clients[0]

    def draw(axes: Axes, narrow: bool) -> None:
        row = np.arange(len(clients))
        axes.barh(row, [client.budget_epsilon for client in clients], color=TEACHER, alpha=0.3, height=0.7, label="budget")
        axes.barh(row, [client.epsilon or 0 for client in clients], color=STUDENT, height=0.36, label="spent")
        for index, client in enumerate(clients):
            if client.epsilon is None:
                axes.annotate("no DP guarantee", (0, index), (4, 0), textcoords="offset points", va="center", weight="bold")
        _sites_axis(axes, clients)
        unit = f"per {first.unit}, {first.adjacency}"
        axes.set_xlabel(f"ε at δ = {first.delta:g},{chr(10) if narrow else ' '}{unit}")
        drawing.legend(axes, 4, narrow=narrow)

    known = [client.epsilon for client in clients if client.epsilon is not None]
    spent = f"up to {max(known):.3f} spent" if known else "no ε holds for any site"
    return figure(
        "Epsilon spent by each site against its budget",
        f"At δ = {first.delta:g}, per {first.unit}, {first.adjacency}: {spent}.",
        draw,
        Table(
            ("site", f"ε spent at δ = {first.delta:g}, per {first.unit}, {first.adjacency}", "ε budget"),
            rows_of(
                [
                    [
                        client.site,
                        "no DP guarantee" if client.epsilon is None else f"{client.epsilon:.3f}",
                        f"{client.budget_epsilon:g}",
                    ]
                    for client in clients
                ]
            ),
        ),
        height=min(0.3 * len(clients), 8) + 1.1,
        narrow_height=min(0.3 * len(clients), 8) + 1.3,
    )


def traffic(run: Metrics) -> Figure:
    """Bytes each site sent and received."""
    clients = run.clients

    def draw(axes: Axes, narrow: bool) -> None:
        row = np.arange(len(clients))
        axes.barh(row - 0.18, [client.bytes_up / 1000 for client in clients], height=0.34, color=STUDENT, label="sent")
        axes.barh(row + 0.18, [client.bytes_down / 1000 for client in clients], height=0.34, color=DENSE, label="received")
        _sites_axis(axes, clients)
        axes.set_xlabel("kilobytes in the whole run")
        drawing.legend(axes, 4, narrow=narrow)

    up, down = (
        sum(values) / 1000 for values in zip(*((client.bytes_up, client.bytes_down) for client in clients), strict=True)
    )
    return figure(
        "Bytes up and down by site",
        f"All sites together sent {up:,.1f} kB and received {down:,.1f} kB.",
        draw,
        Table(
            ("site", "kB sent", "kB received"),
            rows_of(
                [[client.site, f"{client.bytes_up / 1000:.1f}", f"{client.bytes_down / 1000:.1f}"] for client in clients]
            ),
        ),
        height=min(0.34 * len(clients), 8) + 1.1,
    )


def contribution(run: Metrics) -> Figure | None:
    """How much worse the pool on public inputs is without each site; None where that was not measured."""
    clients = [client for client in run.clients if client.pool_without is not None]
    whole = run.pool.accuracy
    if len(clients) < 2 or whole is None:
        return None
    lost = [PERCENT * (whole - (client.pool_without or 0)) for client in clients]

    def draw(axes: Axes, narrow: bool) -> None:
        row = np.arange(len(clients))
        axes.barh(row, lost, height=0.6, color=[STUDENT if value >= 0 else CENTRAL for value in lost])
        axes.axvline(0, color=INK, linewidth=0.8)
        _sites_axis(axes, clients)
        axes.set_xlabel(
            "points that the pool loses without it" if narrow else "points of accuracy that the pool loses without this site"
        )
        axes.grid(axis="x", color=INK, alpha=0.15)

    most = int(np.argmax(lost))
    return figure(
        "What the pool would lose without each site",
        f"Most without {clients[most].site}: {lost[most]:.1f} points of {_percent(whole)}.",
        draw,
        Table(
            ("site", "records", "pool without it", "points lost"),
            rows_of(
                [
                    [client.site, client.records, _percent(client.pool_without), f"{value:+.2f}"]
                    for client, value in zip(clients, lost, strict=True)
                ]
            ),
        ),
        height=min(0.3 * len(clients), 8) + 0.9,
    )


def label_counts(run: Metrics) -> Figure | None:
    """Released label counts against the true ones, which only a simulation knows; None where none were released."""
    names = run.partition.class_names
    triples = [
        (f"{client.site}, {name}", true, released)
        for client, row in zip(run.clients, run.partition.counts, strict=True)
        for name, true, released in zip(names, row, client.label_counts or (), strict=False)
    ]
    if not triples:
        return None

    def draw(axes: Axes, narrow: bool) -> None:
        true, released = np.array([pair for _, *pair in triples]).T
        axes.plot([0, true.max()], [0, true.max()], color=INK, alpha=0.4, linewidth=0.8)
        axes.scatter(true, released, s=16, color=STUDENT, alpha=0.7, linewidths=0)
        axes.set_xlabel("records of a class at a site")
        axes.set_ylabel("count it released, with noise")

    furthest = max(abs(released - true) for _, true, released in triples)
    return figure(
        "Released label counts against true ones",
        f"{len(triples)} counts, at most {furthest} from the true one.",
        draw,
        Table(("site, class", "records", "released"), rows_of(triples)),
        width=4.6,
        height=3.2,
    )


def confusion(run: Metrics) -> Figure:
    """What the student takes each class for, on the test set."""
    table = np.array(run.student.confusion, float)
    share = PERCENT * table / np.maximum(table.sum(1, keepdims=True), 1)
    names = run.partition.class_names

    def draw(axes: Axes, narrow: bool) -> None:
        axes.pcolormesh(share, cmap=HEAT, vmin=0, vmax=100)
        small = narrow or len(names) > MOST_CLASSES_NARROW
        if len(names) <= (MOST_CLASSES_NARROW if narrow else 2 * MOST_CLASSES_NARROW):
            for (i, j), value in np.ndenumerate(share):
                if value >= 1:
                    colour = ON_STUDENT if value > 55 else INK
                    axes.text(
                        j + 0.5, i + 0.5, f"{value:.0f}", ha="center", va="center", size=7 if small else 8, color=colour
                    )
        _classes(axes.set_xticks, names, 0.5, narrow)
        _classes(axes.set_yticks, names, 0.5, narrow, turned=False)
        axes.invert_yaxis()
        axes.set_xlabel("the student says")
        axes.set_ylabel("it is, % of each row")
        axes.tick_params(length=0)

    recalls = np.diag(share)
    best, worst = int(recalls.argmax()), int(recalls.argmin())
    return figure(
        "Confusion matrix of the student",
        f"Best told: {names[best]}, {recalls[best]:.0f} % of its inputs; worst: {names[worst]}, {recalls[worst]:.0f} %.",
        draw,
        Table(
            ("it is, in test inputs", *names),
            rows_of([[name, *map(int, row)] for name, row in zip(names, table.tolist(), strict=True)]),
        ),
        width=6.6,
        height=4.8,
        narrow_height=4.0,
    )


def reliability(run: Metrics) -> Figure | None:
    """Accuracy against confidence of the student and of the pool, on the test set; None where that was not measured."""
    named = [
        ("student", run.student.quality.test, STUDENT, "o-"),
        ("student, calibrated", run.student.calibrated.test if run.student.calibrated is not None else None, CENTRAL, "^-"),
        ("pool", run.pool.quality.test, POOL, "s--"),
    ]
    known = [
        (name, scores, colour, mark) for name, scores, colour, mark in named if scores is not None and scores.reliability
    ]
    if not known:
        return None

    def draw(axes: Axes, narrow: bool) -> None:
        axes.plot([0, 100], [0, 100], color=INK, alpha=0.5, linewidth=0.9, linestyle=":", label="as confident as right")
        for name, scores, colour, mark in known:
            x, y = (
                PERCENT * np.array(values)
                for values in zip(*((b.confidence, b.accuracy) for b in scores.reliability), strict=True)
            )
            axes.plot(x, y, mark, color=colour, label=name, linewidth=1.2, markersize=4)
            sizes = np.array([b.inputs for b in scores.reliability])
            axes.scatter(x, y, s=260 * sizes / sizes.sum(), color=colour, alpha=0.25, linewidths=0)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("right, %")
        axes.grid(color=INK, alpha=0.12)
        drawing.legend(axes, 2, narrow=narrow)

    sentences = [
        f"{name}: expected calibration error {_percent(scores.calibration_error)}, mean confidence {_percent(scores.confidence)},"
        f" accuracy {_percent(scores.accuracy)}"
        for name, scores, _, _ in known
    ]
    return figure(
        "Reliability of the probabilities",
        "; ".join(sentences) + ".",
        draw,
        Table(
            ("of", "test inputs", "confidence", "right"),
            rows_of(
                [
                    [name, each.inputs, _percent(each.confidence), _percent(each.accuracy)]
                    for name, scores, _, _ in known
                    for each in scores.reliability
                ]
            ),
        ),
        width=4.8,
        height=4.2,
        narrow_height=3.9,
    )


def seconds(run: Metrics) -> Figure:
    """Wall-clock seconds of the phases."""
    phases = {name: value for name, value in run.seconds.items() if name not in {"total", "run"}}

    def draw(axes: Axes, narrow: bool) -> None:
        axes.barh(range(len(phases)), list(phases.values()), color=TEACHER, height=0.6)
        for row, value in enumerate(phases.values()):
            axes.annotate(f"{value:.1f}", (value, row), (4, 0), textcoords="offset points", va="center", size=9)
        axes.set_xlim(0, max([*phases.values(), 0.1]) * 1.12)
        axes.set_yticks(range(len(phases)), list(phases))
        axes.set_ylim(len(phases) - 0.4, -0.6)
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)

    longest = max(phases, key=lambda name: phases[name], default=None)
    return figure(
        "Seconds of each phase",
        f"The longest is {longest} with {phases[longest]:.1f} s." if longest is not None else "None was noted.",
        draw,
        Table(("phase", "seconds"), rows_of([[name, f"{value:.1f}"] for name, value in phases.items()])),
        height=0.3 * len(phases) + 0.7,
    )


def _percent(value: float | None) -> str:
    return f"{PERCENT * value:.1f} %" if value is not None else "–"


def _broken(name: str) -> str:
    """A name in two lines at a comma, for little room."""
    return name.replace(", ", ",\n")


def _classes(
    ticks: Callable[..., object], names: Sequence[str], middle: float, narrow: bool, *, turned: bool = True
) -> None:
    """The names of classes along an axis; of very many, only some."""
    step = max(1, -(-len(names) // (MOST_CLASSES_NARROW if narrow else 2 * MOST_CLASSES_NARROW)))
    where = range(0, len(names), step)
    shown = [names[index] if len(names[index]) <= 18 else f"{names[index][:17]}…" for index in where]
    settings: dict[str, object] = {}
    if turned and max(map(len, shown)) > 2:
        settings = {"rotation": 90, "ha": "center"} if narrow else {"rotation": 35, "ha": "right"}
    ticks([index + middle for index in where], shown, **settings)


def _sites_axis(axes: Axes, clients: Sequence[ClientMetrics]) -> None:
    shown = range(0, len(clients), max(1, len(clients) // MOST_NAMED))
    axes.set_yticks(shown, [clients[i].site for i in shown])
    axes.set_ylim(len(clients) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


# By the names that the template uses.
ALL: Mapping[str, Callable[[Metrics], Figure | None]] = {
    "headline": headline,
    "partition": partition,
    "stages": stages,
    "losses": losses,
    "confusion": confusion,
    "reliability": reliability,
    "contribution": contribution,
    "budgets": budgets,
    "traffic": traffic,
    "label_counts": label_counts,
    "seconds": seconds,
}
