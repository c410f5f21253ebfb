"""Files as users have them, of real data that scikit-learn brings: decimal commas, arrays, folders of images and of texts."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn import cluster, datasets, ensemble, linear_model, preprocessing

CULTIVARS = ("barolo", "grignolino", "barbera")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, delimiter: str = ",") -> Path:
    """A table of these cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def wine(folder: Path, *, rows: Sequence[int] | None = None, name: str = "wine.csv", label: bool = True) -> Path:
    """178 wines of three cultivars as a spreadsheet in Italy writes them. id counts them, cellar is one of four."""
    bunch = datasets.load_wine()
    header = ["id", "cellar", *bunch.feature_names, *(["cultivar"] if label else [])]
    found = [
        [
            row,
            "ABCD"[row % 4],
            *(str(value).replace(".", ",") for value in bunch.data[row]),
            *([CULTIVARS[bunch.target[row]]] if label else []),
        ]
        for row in (range(178) if rows is None else rows)
    ]
    return write_csv(folder / name, header, found, delimiter=";")


def tumours(folder: Path, per_person: int = 2) -> Path:
    """569 cell samples, some of one patient, benign or malignant."""
    bunch = datasets.load_breast_cancer()
    header = ["patient", *bunch.feature_names[:10], "diagnosis"]
    found = [
        [f"p{row // per_person}", *values[:10], bunch.target_names[target]]
        for row, (values, target) in enumerate(zip(bunch.data, bunch.target, strict=True))
    ]
    return write_csv(folder / "tumours.csv", header, found)


def digits(folder: Path, count: int = 300) -> Path:
    """Handwritten digits in an NPZ file, bytes of 8 x 8 pixels, with the writer of each."""
    bunch = datasets.load_digits()
    x = (bunch.images[:count] * 255 / 16).round().astype(np.uint8)
    np.savez(folder / "digits.npz", x=x, y=bunch.target[:count], writer=np.arange(count) % 3)
    return folder / "digits.npz"


def digit_images(folder: Path, count: int = 240, writers: int = 2) -> Path:
    """The same as PNG files in WRITER/DIGIT/, or DIGIT/ for a single writer."""
    bunch = datasets.load_digits()
    for number in range(count):
        parts = [f"writer {number % writers}"] if writers > 1 else []
        place = folder.joinpath("images", *parts, str(bunch.target[number]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((bunch.images[number] * 255 / 16).round().astype(np.uint8)).save(place / f"{number}.png")
    return folder / "images"


def docstrings() -> list[tuple[str, str]]:
    """What scikit-learn says of its own functions and classes, and which part of it says so."""
    found = []
    for module, name in (
        (linear_model, "linear"),
        (cluster, "clusters"),
        (preprocessing, "features"),
        (ensemble, "forests"),
    ):
        for public in sorted(module.__all__):
            text = " ".join((inspect.getdoc(getattr(module, public)) or "").split()[:120])
            if text:
                found.append((text, name))
    return found


def texts(folder: Path) -> Path:
    """Texts with one class each in a table."""
    return write_csv(folder / "texts.csv", ["about", "part"], docstrings())


def text_files(folder: Path) -> Path:
    """The same in PART/*.txt."""
    for number, (text, name) in enumerate(docstrings()):
        place = folder / "texts" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder / "texts"
