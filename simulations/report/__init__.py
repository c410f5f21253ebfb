"""A run's report: one HTML file that needs nothing else, made from the run's metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.simulations.report import plots

HERE = Path(__file__).parent


def build(folder: Path) -> Path:
    """Write RUN/report.html from RUN/metrics.json; returns its path. Raises RunError where there are no metrics."""
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        page = _render(metrics)
    except (OSError, ValueError) as error:
        raise RunError(f"Expected the metrics of a finished run in {path}: {error}.") from error
    except (KeyError, TypeError, IndexError, jinja2.UndefinedError) as error:
        raise RunError(f"Expected complete metrics of a finished run in {path}, found none of {error}.") from error
    report = folder / "report.html"
    write_durably(report, page.encode())
    return report


def _render(metrics: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %" if value is not None else "–"
    environment.filters["kilobytes"] = lambda value: f"{value / 1000:,.1f}"
    teachers = [client["teacher_accuracy"] for client in metrics["clients"] if client["teacher_accuracy"] is not None]
    records = [client["records"] for client in metrics["clients"]]
    drawn = {
        name: getattr(plots, name)(metrics)
        for name in (
            "headline",
            "partition",
            "stages",
            "losses",
            "budgets",
            "traffic",
            "label_counts",
            "confusion",
            "seconds",
        )
    }
    return environment.get_template("report.html.j2").render(
        m=metrics,
        plots=drawn,
        best=max(teachers, default=None),
        worst=min(teachers, default=None),
        records=(min(records), max(records)),
        css=(HERE / "style.css").read_text(encoding="utf-8"),
        first=metrics["clients"][0],
        without=[client["site"] for client in metrics["clients"] if client["epsilon"] is None],
    )
