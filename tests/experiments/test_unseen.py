"""Data that was not used while building: what is made of their packages, and whose figures the results hold."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from limbeck.base.errors import DataError
from limbeck.experiments.benchmarks import unseen
from limbeck.simulations.data import user_files
from limbeck.simulations.data.settings import DataSettings

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "own-data.md"
RESULTS = Path(unseen.__file__).parent.parent / "results" / "unseen.json"
PREFIX = "./usr/share/openclipart/png/"


def png(pixels: np.ndarray, side: int = 28, mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).resize((28, 28)).resize((side, side)).convert(mode).save(out, "PNG")
    return out.getvalue()


def digits() -> list[np.ndarray]:
    """Handwritten digits, 8 x 8 bytes."""
    return [(image * 255 / 16).round().astype(np.uint8) for image in datasets.load_digits().images]


def package(folder: Path, pictures: dict[str, bytes], links: dict[str, str]) -> Path:
    """A Debian package with pictures and links, by their paths."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, data in pictures.items():
            one = tarfile.TarInfo(PREFIX + name)
            one.size = len(data)
            archive.addfile(one, io.BytesIO(data))
        for name, target in links.items():
            one = tarfile.TarInfo(PREFIX + name)
            one.type, one.linkname = tarfile.SYMTYPE, target
            archive.addfile(one)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()}
    content = b"!<arch>\n"
    for name, data in members.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    (folder / "clipart.deb").write_bytes(content)
    return folder / "clipart.deb"


def test_nearly_the_same_pictures_are_left_out_whatever_their_size_or_mode() -> None:
    first, second, third = digits()[:3]
    slightly = np.clip(first.astype(int) + 8, 0, 255).astype(np.uint8)
    pictures = {
        "b/first.png": png(first),
        "c/large.png": png(first, side=280),
        "c/coloured.png": png(first, mode="RGB"),
        "c/slightly.png": png(slightly),
        "a/second.png": png(second),
        "d/third.png": png(third),
        "d/broken.png": b"not an image",
        "e/broken.png": b"not an image",
    }
    assert unseen.different(pictures) == ["a/second.png", "b/first.png", "d/broken.png", "d/third.png", "e/broken.png"]


def test_categories_with_enough_pictures_become_folders_and_links_are_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unseen, "LEAST_PICTURES", 30)
    own = digits()
    many = {f"many/{number % 3}/{number}.png": png(own[number]) for number in range(30)}
    more = {f"more/{number}.png": png(own[number]) for number in range(30, 60)}
    few = {f"few/{number}.png": png(own[number]) for number in range(60, 89)}
    file = package(tmp_path, {**many, **more, **few}, {"few/link.png": "60.png", "many/link.png": "0/0.png"})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = replace(unseen.PACKAGES["clipart"], file=file.name, sha256=digest)
    monkeypatch.setitem(unseen.PACKAGES, "clipart", known)
    unseen.make(tmp_path, tmp_path / "data", ["clipart"])
    written = {str(each.relative_to(tmp_path / "data" / "clipart")) for each in (tmp_path / "data").rglob("*.png")}
    assert written == set(unseen.different({**many, **more}))
    assert (tmp_path / "data" / "clipart" / "many" / "1" / "1.png").read_bytes() == many["many/1/1.png"]
    assert "limbeck data look clipart --out clipart.toml" in capsys.readouterr().out
    found = user_files.load(DataSettings(images=str(tmp_path / "data" / "clipart")))
    assert found.class_names == ("many", "more")
    monkeypatch.setitem(unseen.PACKAGES, "clipart", replace(known, sha256="0" * 64))
    with pytest.raises(DataError, match=rf"Expected SHA-256 0+ of .*clipart.deb, got {digest}"):
        unseen.make(tmp_path, tmp_path / "other", ["clipart"])
    assert not (tmp_path / "other" / "clipart").exists()


SUMMARY = """group,of,measure,runs,mean,standard_deviation
ε = 1,student,accuracy,5,61.236,0.514
ε = 1,student,balanced_accuracy,5,50.5,1.004
ε = 1,student,auc,5,0.9,0.1
none,pool,accuracy,1,70,
"""


def collected(monkeypatch: pytest.MonkeyPatch, sweeps: Path, out: Path) -> dict[str, object]:
    monkeypatch.setattr(sys, "argv", ["unseen", "collect", str(sweeps), "--out", str(out)])
    unseen.main()
    found: dict[str, object] = json.loads(out.read_bytes())
    return found


def test_a_sweep_replaces_the_figures_of_its_own_data_set_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clipart").mkdir()
    (tmp_path / "clipart" / "summary.csv").write_text(SUMMARY, encoding="utf-8")
    out = tmp_path / "unseen.json"
    figures = {
        "ε = 1": {
            "student, accuracy": {"mean": 61.24, "spread": 0.51, "runs": 5},
            "student, balanced_accuracy": {"mean": 50.5, "spread": 1.0, "runs": 5},
        },
        "none": {"pool, accuracy": {"mean": 70.0, "runs": 1}},
    }
    alone = collected(monkeypatch, tmp_path, out)
    assert alone["table"] == {"clipart": figures}
    assert alone["not run"] == ["employment", "sentences"]
    committed = json.loads(RESULTS.read_bytes())
    out.write_bytes(RESULTS.read_bytes())
    merged = collected(monkeypatch, tmp_path, out)
    assert merged["table"] == {**committed["table"], "clipart": figures}
    assert not merged["not run"]


def test_figures_of_another_package_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "unseen.json"
    committed = json.loads(RESULTS.read_bytes())
    committed["packages"]["employment"]["sha256"] = "0" * 64
    out.write_text(json.dumps(committed), encoding="utf-8")
    assert "employment" in collected(monkeypatch, tmp_path, out)["not run"]  # type: ignore[operator]
    out.write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"Expected figures of earlier sweeps in .*unseen.json: KeyError"):
        collected(monkeypatch, tmp_path, out)
    assert out.read_text(encoding="utf-8") == "{}"


def test_the_committed_figures_are_of_these_packages_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "unseen.json"
    out.write_bytes(RESULTS.read_bytes())
    assert collected(monkeypatch, tmp_path, out) == json.loads(RESULTS.read_bytes())


def test_the_documentation_has_the_committed_figures() -> None:
    rows = unseen.markdown(unseen.read_known(RESULTS))
    assert len(rows) >= 8
    assert "\n".join(rows) in DOCUMENT.read_text(encoding="utf-8")


def test_a_row_has_one_digit_and_says_how_many_seeds_if_not_five() -> None:
    figure = {"mean": 67.35, "spread": 0.96, "runs": 2.0}
    cell = {f"{role}, accuracy": figure for role in (*unseen.ROLES, "majority")}
    without = {name: figures for name, figures in cell.items() if not name.startswith("central")}
    first, second = unseen.markdown({"clipart": {"ε = 1": cell, "ε = none": without}})
    assert first == (
        "| 4,127 pictures of clip art (folders, 7 classes, δ = 1e-5, majority 67.4)"
        + " | 1 (2 seeds)"
        + " | 67.4 ± 1.0" * 5
        + " |"
    )
    assert second == "| | none (2 seeds) | 67.4 ± 1.0 | | | 67.4 ± 1.0 | 67.4 ± 1.0 |"
