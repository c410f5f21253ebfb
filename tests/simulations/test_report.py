"""A report holds what the metrics say, needs no network, and renders."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from limbeck.base.errors import RunError
from limbeck.simulations import report, run, scenario

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that releases label counts and has a dense control."""
    out = tmp_path_factory.mktemp("report") / "run"
    overrides = ["data.private=300", "data.public=80", "student.epochs=2", "run.workers=2", "pooling.kind=class-counts"]
    run.simulate(scenario.load("digits-tiny", overrides), out)
    return out


def test_the_report_tells_what_the_metrics_say(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    best = max(client["teacher_accuracy"] for client in metrics["clients"])
    for value in (
        best,
        metrics["student"]["accuracy"],
        metrics["stages"][0]["dense_accuracy"],
        metrics["stages"][1]["pool_accuracy"],
    ):
        assert f"{100 * value:.1f} %" in page
    assert metrics["plan"]["hash"] in page
    assert page.count('role="img"') == 9
    for client in metrics["clients"]:
        assert f"<td>{client['site']}</td>" in page


def test_the_report_loads_nothing_from_anywhere(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page


def test_every_reference_inside_a_plot_has_its_target(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_seeded_noise_is_warned_of_and_real_noise_is_not(folder: Path, tmp_path: Path) -> None:
    warning = "No privacy guarantee holds"
    assert warning not in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "noise": "UnsafeSeeded"}))
    assert warning in report.build(tmp_path).read_text()


def test_a_hostile_name_is_shown_not_run(folder: Path, tmp_path: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["clients"][0]["reason"] = metrics["partition"]["class_names"][0] = metrics["scenario_name"] = (
        "<script>alert(1)</script>"
    )
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "<script" not in report.build(tmp_path).read_text()


@pytest.mark.parametrize("content", [None, "{", "{}", '{"clients": []}'])
def test_missing_or_broken_metrics_are_an_error_with_the_path(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(RunError, match=r"metrics.json"):
        report.build(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [420, 1400])
def test_the_report_renders_in_a_browser_without_overflowing(width: int, folder: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    picture = tmp_path / "page.png"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000"]
    url = f"file://{folder / 'report.html'}"
    subprocess.run([*command, f"--screenshot={picture}", url], check=True, capture_output=True, timeout=600)
    dom = subprocess.run([*command, "--dump-dom", url], check=True, capture_output=True, timeout=600, text=True).stdout
    assert dom.count("<svg") == 9
    assert dom.count("<h2>") == 7
    # A blank page of this size compresses to a few kilobytes.
    assert picture.stat().st_size > 60_000
