"""A report holds what the metrics say, needs no network, and is legible to everybody: on a screen, a telephone, paper and read aloud."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.axes import Axes

from helpers.pages import CHROMIUM, FLAGS
from helpers.result_pages import Page
from limbeck.base.errors import RunError
from limbeck.simulations import report, run, scenario
from limbeck.simulations.report import drawing, plots

FIGURES = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that releases label counts and has a dense control."""
    out = tmp_path_factory.mktemp("report") / "run"
    overrides = ["data.private=300", "data.public=80", "student.epochs=2", "run.workers=2", "pooling.kind=class-counts"]
    run.simulate(scenario.load("digits-tiny", overrides), out)
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_report_tells_what_the_metrics_say(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    best = max(client["teacher_accuracy"] for client in metrics["clients"])
    for value in (
        best,
        metrics["student"]["accuracy"],
        metrics["stages"][0]["dense_accuracy"],
        metrics["stages"][1]["pool_accuracy"],
        metrics["majority"]["test"]["accuracy"],
        metrics["student"]["quality"]["test"]["calibration_error"],
        metrics["clients"][1]["pool_without"],
    ):
        assert f"{100 * value:.1f} %" in page
    for value in (metrics["student"]["quality"]["test"]["auprc"], metrics["pool"]["quality"]["test"]["log_loss"]):
        assert f"{value:.3f}" in page
    assert metrics["plan"]["hash"] in page
    for client in metrics["clients"]:
        assert f'<th scope="row">{client["site"]}</th>' in page


def test_every_figure_has_a_text_alternative_with_numbers_and_a_table_of_what_it_draws(page: Page) -> None:
    # Each in a wide and a narrow form, of which the style sheet shows one.
    assert len(page.pictures) == 2 * FIGURES
    for picture in page.pictures:
        assert picture["role"] == "img"
        assert re.search(r"\. .*\d", picture["aria-label"] or ""), picture
    assert page.figures_without_numbers == 0


def test_every_table_can_be_scrolled_on_its_own(page: Page) -> None:
    assert page.unwrapped == 0


def test_every_link_leads_to_a_file_of_the_run_by_a_relative_path(folder: Path, page: Page) -> None:
    assert {"metrics.json", "plan.pb", "sites/site-00/policy.toml", "sites/site-02/transcript.jsonl"} <= set(page.links)
    for href in page.links:
        assert not re.match(r"[a-z]+:|/", href)
        assert (folder / unquote(href)).exists(), href


def test_every_epsilon_comes_with_delta_unit_and_neighbouring_relation(folder: Path, page: Page) -> None:
    text = " ".join(" ".join(page.texts).split())
    held = "δ = 0.0001, per record, add-remove-one"
    assert text.count(held) >= 3
    assert f"ε at {held}" in text
    (budgets,) = {picture["aria-label"] for picture in page.pictures if "Epsilon" in (picture["aria-label"] or "")}
    assert held in str(budgets)


def test_the_report_loads_nothing_from_anywhere_and_tells_the_browser_so(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.search(r"""\b(?:src|srcset|action|poster|data)\s*=\s*["']""", page)
    assert not re.search(r"""<(?:link|script|iframe|object|embed|image|img|use[^>]*xlink:href="(?!#))""", page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert not re.search(r"\son\w+\s*=", page)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_every_reference_inside_a_plot_has_its_target(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', page)) <= set(ids)


def test_every_colour_of_a_figure_is_one_that_the_style_sheet_has_in_light_and_in_dark(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        # Black and white of matplotlib itself remain only where they are not drawn.
        assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)) - {"#ffffff", "#000000"}
    style = report.style()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")[:2]
    for variable in drawing.VARIABLES.values():
        assert f"{variable}:" in light
        assert f"{variable}:" in dark.split("}\n}")[0]


def test_seeded_noise_is_warned_of_and_real_noise_is_not(folder: Path, tmp_path: Path) -> None:
    warning = "No privacy guarantee holds"
    assert warning not in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "noise": "UnsafeSeeded"}))
    assert warning in report.build(tmp_path).read_text()


def test_what_the_coordinator_was_warned_of_is_in_the_report(folder: Path, tmp_path: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "server" / "record.json").read_text())
    assert metrics["warnings"] == record["warnings"]
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "warnings": ["Sites answer <unlike> each other"]}))
    assert '<p class="warning">Sites answer &lt;unlike&gt; each other</p>' in report.build(tmp_path).read_text()


def test_a_hostile_name_is_shown_not_run(folder: Path, tmp_path: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    evil = '"><script>alert(1)</script> $x^2$'
    metrics["clients"][0]["reason"] = metrics["partition"]["class_names"][0] = metrics["scenario_name"] = evil
    metrics["clients"][1]["site"] = metrics["partition"]["sites"][1] = evil
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    page = report.build(tmp_path).read_text()
    assert "<script" not in page
    assert "alert(1)" in page
    Page(page)


def test_what_was_said_of_the_data_is_there_as_text_and_absent_where_nothing_was(folder: Path, tmp_path: Path) -> None:
    assert "The data" not in Page((folder / "report.html").read_text()).headings
    shutil.copy(folder / "metrics.json", tmp_path)
    said = ["7 of 300 rows are left out: no label.", "For a person of 3 records epsilon is 6.4; <script>alert(1)</script>"]
    (tmp_path / "data.json").write_text(json.dumps({"said": said}))
    page = report.build(tmp_path).read_text()
    assert "The data" in Page(page).headings
    assert said[0] in page
    assert "For a person of 3 records epsilon is 6.4; &lt;script&gt;" in page
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(RunError, match=r"what a simulation said of its data in .*data\.json"):
        report.build(tmp_path)


def test_a_hostile_name_in_a_figure_and_in_its_text_alternative_is_text() -> None:
    evil = '"><script>alert(1)</script> $x^2$'

    def draw(axes: Axes, narrow: bool) -> None:
        axes.set_xlabel(evil)

    made = drawing.figure(evil, f"Best: {evil}.", draw, drawing.Table(("",), ()), height=2.0)
    for svg in (made.wide, made.narrow):
        assert "<script" not in svg
        assert "$x^2$" in svg
        assert svg.count('role="img"') == 1


def test_a_run_of_0_1_0_has_a_report_of_what_it_knows(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "metrics-0.1.0.json", tmp_path / "metrics.json")
    page = Page(report.build(tmp_path).read_text())
    assert "Files of this run" in page.headings
    assert "Can its probabilities be believed?" not in page.headings
    assert any("majority class" in (picture["aria-label"] or "").lower() for picture in page.pictures)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"clients": []}'])
def test_missing_or_broken_metrics_are_an_error_with_the_path(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(RunError, match=r"metrics.json"):
        report.build(tmp_path)


def test_the_template_shows_every_figure_that_there_is(folder: Path, page: Page) -> None:
    from limbeck.simulations.metrics import read

    drawn = [made for plot in plots.ALL.values() if (made := plot(read(folder))) is not None]
    assert len(drawn) == FIGURES
    labels = [picture["aria-label"] for picture in page.pictures]
    for made in drawn:
        assert labels.count(made.alternative) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [400, 1400])
def test_the_report_renders_in_a_browser_without_overflowing(width: int, folder: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    picture, frame = tmp_path / "page.png", tmp_path / "frame.html"
    # A window of a browser without a screen is at least 500 pixels wide; a frame may be narrower. Its script measures the page.
    inner = (folder / "report.html").read_text().replace("default-src 'none'", "default-src 'unsafe-inline'", 1)
    measuring = "<script>document.title = 'w' + document.documentElement.scrollWidth</script></body>"
    (tmp_path / "inner.html").write_text(inner.replace("</body>", measuring))
    frame.write_text(f'<iframe src="inner.html" width="{width}" height="9000" style="border:0"></iframe>')
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},3000"]
    allowed = [*command, "--allow-file-access-from-files", "--disable-web-security"]
    subprocess.run([*allowed, f"--screenshot={picture}", f"file://{frame}"], check=True, capture_output=True, timeout=600)
    # A blank page of this size compresses to a few kilobytes.
    assert picture.stat().st_size > 40_000
    script = (
        "<script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "document.body.append('width ' + page.documentElement.scrollWidth) }</script>"
    )
    frame.write_text(frame.read_text() + script)
    dom = subprocess.run(
        [*allowed, "--dump-dom", f"file://{frame}"], check=True, capture_output=True, timeout=600, text=True
    )
    (found,) = re.findall(r"width (\d+)</", dom.stdout)
    assert int(found) <= width


@pytest.mark.skipif(CHROMIUM is None or shutil.which("pdftotext") is None, reason="chromium or pdftotext is not installed")
def test_every_column_of_every_table_is_on_the_paper(folder: Path, page: Page, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    paper = tmp_path / "report.pdf"
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--no-pdf-header-footer",
        f"--print-to-pdf={paper}",
    ]
    subprocess.run([*command, f"file://{folder / 'report.html'}"], check=True, capture_output=True, timeout=600)
    # What is beyond the edge of the paper has no place within the box.
    crop = ["-x", "0", "-y", "0", "-W", "595", "-H", "842"]
    text = subprocess.run(["pdftotext", *crop, "-layout", paper, "-"], check=True, capture_output=True, text=True).stdout
    flat = " ".join(text.split())
    metrics = json.loads((folder / "metrics.json").read_text())
    for stage in metrics["stages"]:
        assert re.search(rf"{stage['seconds']['answers']:.1f} +{stage['seconds']['distil']:.1f}", flat)
    for client in metrics["clients"]:
        assert f"{client['bytes_down'] / 1000:,.1f} {client['status']}" in flat
    assert os.path.getsize(paper) > 20_000
