"""The report of a run: one self-contained HTML file, made from the run's metrics and what was said of its data, with links to its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.server.scores import FIGURES
from limbeck.simulations import metrics
from limbeck.simulations.metrics import Figures, Metrics
from limbeck.simulations.report import plots

HERE = Path(__file__).parent
# Sites whose files are linked one by one; of more, their folder is.
MOST_LINKED = 50
# Measures that tables show in per cent; the others are numbers from 0 to 1, or nats.
IN_PERCENT = frozenset({"accuracy", "balanced_accuracy", "calibration_error"})
# Of a run, in this order, with what each is.
FILES = {
    "metrics.json": "every figure of this page, as data",
    "scenario.json": "all settings",
    "data.json": "what was made of the data, and what the privacy of a person is",
    "plan.pb": "the signed plan, as the sites got it",
    "student": "the student, to use: weights, ONNX, model card",
    "server/student": "the student as the coordinator exported it",
    "server/record.json": "what the coordinator noted of sites and stages",
    "server/events.jsonl": "what happened, line by line",
    "transfer": "the public inputs",
}
# Of a site: what it is, by the pattern of its name.
SITE_FILES = {"policy.toml": "policy", "*.ledger": "ledger", "transcript.jsonl": "transcript"}


@dataclass(frozen=True, slots=True)
class Link:
    """A file or folder beside a page. href: relative, quoted for a page."""

    href: str
    name: str
    what: str


def build(folder: Path) -> Path:
    """Write RUN/report.html from RUN/metrics.json and RUN/data.json, where there is one; returns its path.

    Raises: RunError if there are no metrics, or others than those of a finished run, or if what is said of the data cannot be read.
    """
    page = _render(metrics.read(folder), folder)
    path = folder / "report.html"
    write_durably(path, page.encode())
    return path


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders and of this one, with the filters that all pages of results share."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = _percent
    made.filters["kilobytes"] = _kilobytes
    return made


def style() -> str:
    """The style sheet of all pages of results."""
    return (HERE / "style.css").read_text(encoding="utf-8")


def link(target: Path, start: Path, what: str) -> Link:
    """A link from a page in the folder `start`."""
    relative = Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()
    return Link(href=quote(relative + ("/" if target.is_dir() else ""), safe="/="), name=relative, what=what)


def _render(run: Metrics, folder: Path) -> str:
    # `prepare` brings torch, which whoever imports this module may not need.
    from limbeck.simulations.prepare import read_said

    records = [client.records for client in run.clients]
    figures = {name: plot(run) for name, plot in plots.ALL.items()}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            m=run,
            scenario=run.scenario.model_dump(mode="json"),
            plots=figures,
            best=max(run.teacher_accuracies, default=None),
            majority=plots.majority_accuracy(run),
            records=(min(records), max(records)),
            css=style(),
            first=run.clients[0],
            without=run.sites_without_guarantee,
            files=list(_files(folder)),
            sites=list(_site_files(run, folder)),
            said=read_said(folder),
            **_tables(run),
        )
    )


def _tables(run: Metrics) -> dict[str, object]:
    """The rows of the page's tables, as text, and what stands below them."""
    test, majority = run.student.quality.test, plots.majority_accuracy(run)
    handed_over = run.student.calibrated.test if run.student.calibrated is not None else None
    calibrated = [("student", test), ("student as it is handed over", handed_over), ("pool", run.pool.quality.test)]
    return {
        "comparison": [
            [row.label, *map(_measure, FIGURES, _each(row.test)), _percent(row.public.get("accuracy"))]
            for row in run.comparison
        ],
        "rarest": f"AUPRC of {run.majority.test.rarest}" if run.majority.test is not None else "",
        "reasons": [f"{row.label}: {row.why}." for row in run.comparison if row.why],
        "stage_rows": [
            [
                *(
                    stage.stage + 1,
                    _percent(stage.sparsity),
                    stage.temperature,
                    stage.clients,
                    _percent(stage.pool_accuracy),
                ),
                *(_percent(stage.sparse_accuracy), _percent(stage.dense_accuracy)),
                *(_kilobytes(stage.bytes_up), _kilobytes(stage.bytes_down)),
                *(f"{stage.seconds.answers:.1f}", f"{stage.seconds.distil:.1f}"),
            ]
            for stage in run.stages
        ]
        + [["majority class", *[""] * 4, _percent(majority), *[""] * 5]],
        "class_rows": [
            [
                *(each.name, each.inputs, each.predicted, _percent(each.precision), _percent(each.recall)),
                *(_number(each.f1), _number(each.auc), _number(each.auprc)),
            ]
            for each in (test.classes if test is not None else ())
        ],
        "site_rows": [
            [
                *(client.site, client.records, _percent(client.teacher_accuracy), _percent(client.pool_without)),
                "no DP guarantee" if client.epsilon is None else f"{client.epsilon:.3f}",
                "" if client.second_opinion is None else _number(client.second_opinion.epsilon),
                *(f"{client.budget_epsilon:g}", _kilobytes(client.bytes_up), _kilobytes(client.bytes_down)),
                client.reason or client.status,
            ]
            for client in run.clients
        ]
        + [["majority class", "", _percent(majority), *[""] * 7]],
        "disagreements": sorted(
            {client.second_opinion.disagreement for client in run.clients if client.second_opinion is not None} - {""}
        ),
        "own_rows": [
            [
                *(client.site, client.own.majority.inputs, _percent(client.own.majority.accuracy)),
                *(_percent(None if scores is None else scores.accuracy) for scores in (client.own.teacher, client.own.pool)),
                _percent(client.own.student.accuracy),
            ]
            for client in run.clients
            if client.own is not None
        ],
        "calibration": [(name, scores) for name, scores in calibrated if scores is not None],
    }


def _each(figures: Figures) -> list[float | None]:
    return [figures.get(name) for name in FIGURES]


def _measure(name: str, value: float | None) -> str:
    return _percent(value) if name in IN_PERCENT else _number(value)


def _percent(value: float | None) -> str:
    return f"{100 * value:.1f} %" if value is not None else "–"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "–"


def _kilobytes(value: int) -> str:
    return f"{value / 1000:,.1f}"


def _files(folder: Path) -> Iterator[Link]:
    """Those that are there."""
    for name, what in FILES.items():
        if (folder / name).exists():
            yield link(folder / name, folder, what)


def _site_files(run: Metrics, folder: Path) -> Iterator[tuple[str, list[Link]]]:
    """What there is of each site; of very many sites, and of none that can be found, nothing."""
    from limbeck.simulations.prepare import read_prepared

    try:
        sites = read_prepared(folder)[2]
    except RunError:
        return
    if len(run.clients) > MOST_LINKED:
        yield "all sites", [link(sites, folder, "folder")] if sites.is_dir() else []
        return
    for client in run.clients:
        site = sites / client.site
        yield (
            client.site,
            [link(path, folder, what) for pattern, what in SITE_FILES.items() for path in sorted(site.glob(pattern))],
        )
