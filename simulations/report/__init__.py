"""The report of a run: one self-contained HTML file, made from the run's metrics alone."""

from __future__ import annotations

from pathlib import Path

import jinja2

from limbeck.base.files import write_durably
from limbeck.simulations import metrics
from limbeck.simulations.metrics import Metrics
from limbeck.simulations.report import plots

HERE = Path(__file__).parent


def build(folder: Path) -> Path:
    """Write RUN/report.html from RUN/metrics.json; returns its path.

    Raises: RunError if there are no metrics, or others than those of a finished run.
    """
    page = _render(metrics.read(folder))
    path = folder / "report.html"
    write_durably(path, page.encode())
    return path


def _render(run: Metrics) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %" if value is not None else "–"
    environment.filters["kilobytes"] = lambda value: f"{value / 1000:,.1f}"
    records = [client.records for client in run.clients]
    return environment.get_template("report.html.j2").render(
        m=run,
        scenario=run.scenario.model_dump(mode="json"),
        plots={name: plot(run) for name, plot in plots.ALL.items()},
        best=max(run.teacher_accuracies, default=None),
        records=(min(records), max(records)),
        css=(HERE / "style.css").read_text(encoding="utf-8"),
        first=run.clients[0],
        without=run.sites_without_guarantee,
    )
