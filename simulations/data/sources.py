"""Files of the user's own, read: tables, arrays, folders of images and of texts, each as inputs with labels, sites and persons beside them.

Everything here is read by whoever owns all of it, on one machine, for a simulation. A real site reads its records itself
(`limbeck.client.records`), and never by what they contain.

Shape legend: N records, H and W height and width, C channels, D numbers per row.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.inputs import images, rows, tables
from limbeck.inputs.encoders import USUAL_SIZE
from limbeck.inputs.tables import Table
from limbeck.inputs.transfer_set import KINDS, Header, read_arrays, read_headers
from limbeck.simulations.data.settings import DataSettings

Inputs = NDArray[np.generic] | Table
Cells = Sequence[str | None]
Cell = TypeVar("Cell")

# The column of the files, and that of the texts, in tables that list them.
FILE_COLUMN, TEXT_COLUMN = "file", "text"
TEXT_SUFFIXES = frozenset({".txt"})
# Images that are larger than this are scaled down to it, unless data.image_size says otherwise.
LARGEST_SIDE = 28
# Images whose size is looked at to choose one.
SIZES_READ = 500
# Files that a message names.
SHOWN = 3
# Luminance of red, green and blue, as Pillow computes it (ITU-R 601-2).
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Records of one file or folder, or of several that belong together.

    - inputs: a table of what is known of each record, without label, site and person; or grey images (N, H, W), for an encoder in colour,
      (N, H, W, 3).
    - labels, sites, people: of each record; None if nothing says it.
    - files: where each record is if it has a file of its own, else empty.
    - said: how it was read, in sentences.
    - where: its name in messages.
    """

    inputs: Inputs
    labels: Sequence[object] | None
    sites: Cells | None
    people: Cells | None
    files: tuple[Path, ...] = ()
    said: tuple[str, ...] = ()
    where: str

    def __len__(self) -> int:
        return len(self.inputs)

    def keys(self) -> list[bytes]:
        """A hash of each record's inputs, whatever the order of a table's columns."""
        if isinstance(self.inputs, rows.RowTable):
            return [_hash([row.tobytes()]) for row in np.ascontiguousarray(self.inputs.values)]
        if isinstance(self.inputs, Table):
            columns = [self.inputs.columns[name] for name in sorted(self.inputs.columns)]
            return [
                _hash(b"" if cell is None else b"=" + cell.encode() for cell in cells)
                for cells in zip(*columns, strict=True)
            ]
        return [_hash([image.tobytes()]) for image in self.inputs]


def _hash(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def read(settings: DataSettings, path: Path | None = None, *, labelled: bool = True) -> Source:
    """What a scenario's own data hold.

    - path: another file or folder of the same kind: public inputs or a test set.
    - labelled: whether labels must be there.

    Raises: DataError or SettingError, naming what is missing.
    """
    found = settings.source
    assert found is not None  # whoever calls this has data of their own
    kind, main = found
    path = path or main
    if not path.exists():
        raise DataError(f"Expected data.{kind} at {path}, found nothing there.")
    match kind:
        case "table":
            return _table(settings, path, labelled)
        case "arrays":
            return _arrays(settings, path, labelled)
        case "images":
            return _images(settings, path, labelled)
        case "texts":
            return _texts(settings, path, labelled)


def is_table(path: Path) -> bool:
    """Whether this is the name of a file with a table."""
    return not path.is_dir() and tables.is_table(path)


def join(main: Source, *others: Source) -> Source:
    """All records, those of the main source first. Raises DataError if they do not fit together."""
    columns = {}
    joined = main.inputs
    for other in others:
        if isinstance(joined, Table) != isinstance(other.inputs, Table):
            raise DataError(f"Expected records like those of {main.where} in {other.where}, got others.")
        if isinstance(joined, rows.RowTable) and isinstance(other.inputs, rows.RowTable):
            if joined.values.shape[1] != other.inputs.values.shape[1]:
                raise DataError(
                    f"Expected rows of {joined.values.shape[1]} numbers in {other.where}, as in {main.where},"
                    f" got {other.inputs.values.shape[1]}."
                )
            joined = rows.from_rows(np.concatenate([joined.values, other.inputs.values]), joined.source)
        elif isinstance(joined, Table) and isinstance(other.inputs, Table):
            tables.require(other.inputs.columns, joined.columns, f"{other.where}, as in {main.where}")
            columns = {name: [*cells, *other.inputs.columns[name]] for name, cells in joined.columns.items()}
            joined = Table(columns=columns, source=joined.source)
        elif isinstance(joined, np.ndarray) and isinstance(other.inputs, np.ndarray):
            if joined.shape[1:] != other.inputs.shape[1:] or joined.dtype != other.inputs.dtype:
                raise DataError(
                    f"Expected inputs of shape {joined.shape[1:]} and type {joined.dtype} in {other.where}, as in {main.where},"
                    f" got {other.inputs.shape[1:]} and {other.inputs.dtype}."
                )
            joined = np.concatenate([joined, other.inputs])
    parts = (main, *others)

    def cells(name: str) -> list[object]:
        return [cell for part in parts for cell in (getattr(part, name) or [None] * len(part))]

    def texts(name: str) -> Cells | None:
        return [None if cell is None else str(cell) for cell in cells(name)] if getattr(main, name) is not None else None

    return replace(
        main,
        inputs=joined,
        labels=cells("labels"),
        sites=texts("sites"),
        people=texts("people"),
        files=tuple(file for part in parts for file in part.files),
        said=tuple(dict.fromkeys(sentence for part in parts for sentence in part.said)),
    )


# Tables


def open_table(path: Path) -> tuple[Table, str]:
    """The user's own table, and how it was read. Raises DataError."""
    if not is_table(path):
        raise DataError(f"Expected a table ({', '.join(sorted(tables.SUFFIXES))}) at {path}, got {_what(path)}.")
    dialect = tables.detect_dialect(path)
    # From here on, numbers are written one way, whatever file they are from.
    table = tables.read(path, public=True, dialect=dialect).with_points()
    if not len(table):
        raise DataError(f"Expected records in {path}, found a header and nothing else.")
    return table, f"{path.name}: {len(table)} rows, {len(table.columns)} columns; {dialect.describe()}"


def _what(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return {".npz": "arrays: that is data.arrays", ".npy": "an array: put it into an .npz file, for data.arrays"}.get(
        path.suffix.lower(), f"a file {path.suffix or 'without a suffix'}"
    )


def _column(table: Table, name: str | None, key: str) -> Cells | None:
    if name is None:
        return None
    tables.require(table.columns, [name], f"{table.source} for data.{key}")
    return table.columns[name]


def _table(settings: DataSettings, path: Path, labelled: bool) -> Source:
    table, said = open_table(path)
    main = labelled or path == Path(settings.table or "")
    beside = {key: getattr(settings, key) for key in ("label", "site", "group")}
    if main:
        tables.require(table.columns, settings.drop, f"{path} for data.drop")
    if labelled:
        _column(table, settings.label, "label")
    used = [name for name in table.columns if name not in {*settings.drop, *beside.values()}]
    if not used:
        raise DataError(f"Expected columns beside label, site and person in {path}, found none.")
    for key in ("kinds", "zero_is_missing", "missing_codes"):
        if unknown := sorted(set(getattr(settings, key)) - set(used)):
            raise SettingError(f"data.{key}: expected columns that are used, out of {', '.join(used)}, got {unknown[0]!r}.")

    def cells(key: str) -> Cells | None:
        name = beside[key]
        # A public file, or a test set, need not say where its records are from; nor must public inputs have labels.
        return (
            table.columns.get(name) if name is not None and path != Path(settings.table or "") else _column(table, name, key)
        )

    return Source(
        inputs=Table(columns={name: table.columns[name] for name in used}, source=str(path)),
        labels=cells("label"),
        sites=cells("site"),
        people=cells("group"),
        said=(said,),
        where=str(path),
    )


# Arrays


def arrays_in(path: Path) -> dict[str, Header]:
    """The arrays of an NPZ file by name; no value is read. Raises DataError."""
    if path.suffix.lower() == ".npy":
        raise DataError(
            f"Expected an .npz file with inputs and labels, got {path}: numpy.savez('data.npz', x=..., y=...) writes one."
        )
    try:
        with ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, BadZipFile) as error:
        raise DataError(f"Expected an NPZ file at {path}: {error}.") from error
    if not names:
        raise DataError(f"Expected arrays in {path}, found none.")
    return dict(zip(names, read_headers(path, *names), strict=True))


def choose_array(
    arrays: dict[str, Header], wanted: str | None, usual: Sequence[str], axes: str, where: str, key: str
) -> str | None:
    """The name of an array: the one that is wanted, or the first with a usual name. Raises DataError if the wanted one is not there."""
    if wanted is not None:
        if wanted not in arrays:
            raise DataError(f"Expected an array {wanted!r} in {where} for data.{key}, found {', '.join(arrays)}.")
        return wanted
    many = axes == "many"
    return next((name for name in usual if name in arrays and (len(arrays[name].shape) > 1) is many), None)


INPUT_NAMES = ("x", "X", "inputs", "images", "data", "x_train", "X_train", "arr_0")
LABEL_NAMES = ("y", "Y", "label", "labels", "target", "targets", "y_train", "arr_1")


def _arrays(settings: DataSettings, path: Path, labelled: bool) -> Source:
    there = arrays_in(path)
    is_main = path == Path(settings.arrays or "")
    inputs = choose_array(there, settings.inputs, INPUT_NAMES, "many", str(path), "inputs")
    if inputs is None:
        raise DataError(f"Expected data.inputs to name the array of inputs in {path}, out of {', '.join(there)}.")
    wanted = settings.label if labelled or settings.label in there else None
    label = choose_array(there, wanted, LABEL_NAMES, "any", str(path), "label") or _only_labels(there, wanted)
    if label is None and labelled:
        raise DataError(f"Expected data.label to name the array of labels in {path}, out of {', '.join(there)}.")
    beside = {"labels": label}
    for field, key in (("sites", "site"), ("people", "group")):
        name = getattr(settings, key)
        if name is not None and not is_main and name not in there:
            name = None
        beside[field] = choose_array(there, name, (), "any", str(path), key) if name is not None else None
    names = [name for name in beside.values() if name is not None]
    x, *others = read_arrays(path, inputs, *names)
    for name, values in zip(names, others, strict=True):
        if values.shape[:1] != x.shape[:1]:
            raise DataError(
                f"Expected as many entries in {name} as in {inputs} of {path}, got {values.shape} for {x.shape}."
            )
    values_of = dict(zip(names, others, strict=True))
    converted, said = as_inputs(x, f"{inputs} in {path.name}", str(path))
    labels = _label_array(values_of[label], label, path) if label is not None else None

    def texts(field: str) -> Cells | None:
        name = beside[field]
        return None if name is None else [str(cell) for cell in values_of[name].ravel().tolist()]

    return Source(inputs=converted, labels=labels, sites=texts("sites"), people=texts("people"), said=said, where=str(path))


def _only_labels(there: dict[str, Header], wanted: str | None) -> str | None:
    return wanted if wanted in there else next((name for name in LABEL_NAMES if name in there), None)


def _label_array(values: NDArray[np.generic], name: str, path: Path) -> list[object]:
    """Labels as Python values; of one-hot rows, the places of the ones. Raises SettingError for several labels per record."""
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return [cell for (cell,) in flat.tolist()]
    if flat.dtype.kind in "biuf" and bool(np.isin(flat, (0, 1)).all()) and bool((flat.sum(1) == 1).all()):
        return [int(place) for place in flat.argmax(1)]
    raise SettingError(
        f"Expected one label per record in array {name!r} of {path}, got rows of {flat.shape[1]}: several labels per record (multi-label)"
        " are not built. Choose one of them as the label."
    )


def as_inputs(x_N: NDArray[np.generic], name: str, source: str) -> tuple[Inputs, tuple[str, ...]]:
    """Images that students can take, or rows of numbers as a table, and what was made of the array.

    Bytes, whole numbers from 0 to 255, and numbers from 0 to 1 in three axes are grey images, in four colour images, which become grey. All
    others are rows of numbers.

    Raises: DataError for anything else.
    """
    if x_N.ndim < 2 or not len(x_N) or x_N.dtype.kind not in "biuf" or x_N.dtype.kind not in KINDS:
        raise DataError(f"Expected inputs (N, ...) of numbers as {name}, got shape {x_N.shape} of {x_N.dtype}.")
    grey_N = _grey(x_N)
    if grey_N is not None:
        scaled_N, scale = _scaled(grey_N)
        if scaled_N is not None:
            colour = ", made grey (students take grey images)" if x_N.ndim == 4 and x_N.shape[-1] in (3, 4) else ""
            return scaled_N, (f"{name}: {len(x_N)} images of {grey_N.shape[1]} x {grey_N.shape[2]}, {scale}{colour}",)
    values_ND = x_N.reshape(len(x_N), -1).astype(np.float64)
    flattened = f", from {' x '.join(map(str, x_N.shape[1:]))}" if x_N.ndim > 2 else ""
    said = f"{name}: {len(x_N)} rows of {values_ND.shape[1]} numbers{flattened}, each standardised by its public mean and deviation"
    return rows.from_rows(values_ND, source), (said,)


def _grey(x_N: NDArray[np.generic]) -> NDArray[np.generic] | None:
    """(N, H, W) of grey or colour images, colours last; None for other shapes."""
    if x_N.ndim == 3:
        return x_N
    if x_N.ndim != 4 or x_N.shape[-1] not in (1, 3, 4):
        return None
    if x_N.shape[-1] == 1:
        return x_N[..., 0]
    grey_N: NDArray[np.float64] = x_N[..., :3].astype(np.float64) @ LUMA
    return grey_N.round().astype(np.uint8) if x_N.dtype == np.uint8 else grey_N.round(6)


def _scaled(x_N: NDArray[np.generic]) -> tuple[NDArray[np.generic] | None, str]:
    """Bytes, or float32 from 0 to 1; None for numbers that are no brightness."""
    if x_N.dtype == np.uint8:
        return x_N, "bytes"
    value_N = x_N.astype(np.float64)
    low, high = float(value_N.min()), float(value_N.max())
    if low >= 0 and high <= 1:
        return value_N.astype(np.float32), "numbers from 0 to 1"
    if low >= 0 and high <= 255 and x_N.dtype.kind in "iu":
        return x_N.astype(np.uint8), "whole numbers from 0 to 255, taken as bytes"
    if low >= 0 and high <= 255:
        return np.rint(value_N).astype(np.uint8), "numbers from 0 to 255, rounded to bytes"
    return None, ""


# Folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files of a folder. files: (names of the folders they are in, from the outermost; path). others: files of other kinds."""

    files: tuple[tuple[tuple[str, ...], Path], ...]
    others: int

    @property
    def depths(self) -> Counter[int]:
        """How many files lie so many folders deep."""
        return Counter(len(parts) for parts, _ in self.files)


def open_folder(path: Path, suffixes: Iterable[str], what: str) -> Folder:
    """All files with these suffixes below a folder, in the order of their names; hidden ones do not count. Raises DataError."""
    wanted, files, others = frozenset(suffixes), [], 0
    try:
        for file in sorted(path.rglob("*")):
            parts = file.relative_to(path).parts
            if any(part.startswith(".") or part == "__MACOSX" for part in parts) or not file.is_file():
                continue
            if file.suffix.lower() in wanted:
                files.append((parts[:-1], file))
            else:
                others += 1
    except OSError as error:
        raise DataError(f"Expected a folder of {what} at {path}: {error.strerror}.") from error
    if not files:
        found = f"{others} other files" if others else "none"
        raise DataError(f"Expected {what} ({', '.join(sorted(wanted))}) below {path}, found {found}.")
    return Folder(files=tuple(files), others=others)


def layout(folder: Folder, site: str | None, path: Path, what: str) -> tuple[list[str], list[str] | None]:
    """Class and site of each file, by the folders that it is in; folders within those of the classes do not matter, as at a real site.

    Raises: DataError or SettingError, naming what was found, for files that are in no class's folder, and for folders that look like those
    of sites where nobody says so.
    """
    depth = 1 if site is None else 2
    wrong = next((file for parts, file in folder.files if len(parts) < depth), None)
    hint = ""
    if wrong is None and site is None and _like_sites(folder):
        wrong = next(file for parts, file in folder.files if len(parts) > 1)
        hint = '; if these are sites, set data.site = "outer" for SITE/CLASS, or "inner" for CLASS/SITE'
    if wrong is not None:
        shape = {None: "CLASS/FILE", "outer": "SITE/CLASS/FILE", "inner": "CLASS/SITE/FILE"}[site]
        raise DataError(f"Expected {what} as {shape} below {path}, found {wrong.relative_to(path)}{hint}.")
    first = [parts[0] for parts, _ in folder.files]
    if site is None:
        return first, None
    second = [parts[1] for parts, _ in folder.files]
    return (second, first) if site == "outer" else (first, second)


def _like_sites(folder: Folder) -> bool:
    """Whether two levels could be sites and classes: all files are two deep, or most inner names are in several outer folders."""
    if set(folder.depths) == {2}:
        return True
    outer_of: dict[str, set[str]] = {}
    for parts, _ in folder.files:
        if len(parts) > 1:
            outer_of.setdefault(parts[1], set()).add(parts[0])
    return 2 * sum(len(outer) > 1 for outer in outer_of.values()) > len(outer_of)


def _beside(folder: Folder, path: Path, what: str, depth: int | None) -> tuple[str, ...]:
    """What a folder holds but files in the folders of classes, in sentences. depth: of the classes' folders; None if there are none."""
    said = []
    if folder.others:
        said.append(f"{path.name}: {folder.others} files that are no {what} were left out")
    if depth is not None and (deeper := sum(len(parts) > depth for parts, _ in folder.files)):
        said.append(f"{path.name}: {deeper} files are in folders within those of the classes, whose names do not matter")
    return tuple(said)


def _depth(labels: object, sites: object) -> int | None:
    return None if labels is None else 1 if sites is None else 2


def _level(settings: DataSettings) -> str | None:
    """How the folder names the sites. Raises SettingError where only a table could say what the settings ask for."""
    if settings.group is not None:
        raise SettingError(
            f"data.group = {settings.group!r}: expected a table of the files, with columns for label and person, got a folder."
        )
    if settings.site not in (None, "outer", "inner"):
        raise SettingError(
            f'data.site = {settings.site!r}: expected "outer" (folders are SITE/CLASS) or "inner" (CLASS/SITE) for a folder;'
            " a column needs a table of the files."
        )
    if settings.label is not None:
        raise SettingError(f"data.label = {settings.label!r}: expected none for a folder, whose folders are the classes.")
    return settings.site


def _listed(settings: DataSettings, path: Path, column: str, labelled: bool, main: bool) -> Source:
    """A table whose rows name files or texts, and its labels, sites and persons."""
    table, said = open_table(path)
    if settings.label is None and labelled:
        raise SettingError(
            f"data.label: missing; expected the column of labels in {path}, out of {', '.join(table.columns)}."
        )
    tables.require(table.columns, [column], f"{path} for data.inputs")

    def cells(key: str, required: bool) -> Cells | None:
        name = getattr(settings, key)
        return _column(table, name, key) if required else (table.columns.get(name) if name is not None else None)

    return Source(
        inputs=Table(columns={column: table.columns[column]}, source=str(path)),
        labels=cells("label", labelled),
        sites=cells("site", main),
        people=cells("group", main),
        said=(said,),
        where=str(path),
    )


def _images(settings: DataSettings, path: Path, labelled: bool) -> Source:
    main = path == Path(settings.images or "")
    said: tuple[str, ...] = ()
    if path.is_dir():
        folder = open_folder(path, images.SUFFIXES, "images")
        files = [file for _, file in folder.files]
        labels: Sequence[object] | None
        sites: Cells | None
        people: Cells | None = None
        labels, sites = _of_folders(settings, folder, path, "images", labelled, main)
        said = _beside(folder, path, "images", _depth(labels, sites))
    else:
        column = settings.inputs or FILE_COLUMN
        listed = _listed(settings, path, column, labelled, main)
        assert isinstance(listed.inputs, Table)  # as _listed makes it
        names = listed.inputs.texts(column)
        if (row := next((row for row, name in enumerate(names) if name is None), None)) is not None:
            raise DataError(f"Expected a file in column {column!r}, row {row + 1} of {path}, got none.")
        files = [path.parent / str(name) for name in names]
        labels, sites, people, said = listed.labels, listed.sites, listed.people, listed.said
    decode, size = images.grey, settings.image_size or size_of(files)
    if settings.encoder is not None:
        decode, size = images.colour, settings.image_size or USUAL_SIZE
    pixels, kept, failed = [], [], []
    for place, file in enumerate(files):
        try:
            pixels.append(decode(images.contents(file), *size))
        except Exception as error:  # whatever a decoder raises
            name = file.relative_to(path) if path.is_dir() else file.name
            failed.append(f"{name}: {images.why_unread(error)}")
            continue
        kept.append(place)
    if not pixels:
        raise DataError(f"Expected images that can be read in {path}, got none: {failed[0]}.")
    if failed:
        said += (f"{path.name}: {len(failed)} images cannot be read and were left out: {'; '.join(failed[:SHOWN])}",)
    said += (
        f"{path.name}: {len(pixels)} images, {'grey' if settings.encoder is None else 'in colour'}, {size[0]} x {size[1]}",
    )

    def chosen(cells: Sequence[Cell] | None) -> list[Cell] | None:
        return None if cells is None else [cells[place] for place in kept]

    return Source(
        inputs=np.stack(pixels),
        labels=chosen(labels),
        sites=chosen(sites),
        people=chosen(people),
        files=tuple(files[place] for place in kept),
        said=said,
        where=str(path),
    )


def _of_folders(
    settings: DataSettings, folder: Folder, path: Path, what: str, labelled: bool, main: bool
) -> tuple[list[str] | None, list[str] | None]:
    site = _level(settings)
    if not labelled and not main:
        return None, None
    # A test set of its own need not be divided into sites.
    if not main and set(folder.depths) == {1}:
        site = None
    return layout(folder, site, path, what)


def size_of(files: Sequence[Path]) -> tuple[int, int]:
    """The height and width to bring images to, by those of some files from all over the folder: at most LARGEST_SIDE, as nets take as long
    as there are pixels.

    It is the size that most of them have. Where no size is that of half of them, it is a square, since any other shape would distort most
    of them without a reason: its side is the median of their longer sides.
    """
    from PIL import Image

    sizes: list[tuple[int, int]] = []
    for file in files[:: max(1, len(files) // SIZES_READ)]:
        try:
            # Of too many pixels for limbeck Pillow warns earlier.
            with warnings.catch_warnings(action="ignore"), Image.open(file, formats=images.FORMATS) as image:
                sizes.append((image.height, image.width))
        except Exception:  # such a file is left out later, and named
            continue
    if not sizes:
        return LARGEST_SIDE, LARGEST_SIDE
    (height, width), count = max(sorted(Counter(sizes).items()), key=lambda item: item[1])
    if 2 * count < len(sizes):
        height = width = sorted(map(max, sizes))[len(sizes) // 2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _texts(settings: DataSettings, path: Path, labelled: bool) -> Source:
    main = path == Path(settings.texts or "")
    if not path.is_dir():
        column = settings.inputs or _text_column(path, settings)
        return _listed(settings, path, column, labelled, main)
    folder = open_folder(path, TEXT_SUFFIXES, "texts")
    labels, sites = _of_folders(settings, folder, path, "texts", labelled, main)
    contents = [file.read_text(encoding="utf-8", errors="replace") for _, file in folder.files]
    others = _beside(folder, path, ".txt", _depth(labels, sites))
    return Source(
        inputs=Table(columns={TEXT_COLUMN: contents}, source=str(path)),
        labels=labels,
        sites=sites,
        people=None,
        said=(*others, f"{path.name}: {len(contents)} texts"),
        where=str(path),
    )


def _text_column(path: Path, settings: DataSettings) -> str:
    """The column of texts if there is no doubt which one it is: by its name, as the only one left, or as the longest by far."""
    table, _ = open_table(path)
    left = [name for name in table.columns if name not in {settings.label, settings.site, settings.group}]
    if TEXT_COLUMN in left:
        return TEXT_COLUMN
    lengths = {name: sum(len(cell or "") for cell in table.columns[name]) / len(table) for name in left}
    ranked = sorted(left, key=lambda name: -lengths[name])
    if len(ranked) == 1 or (ranked and lengths[ranked[0]] > 4 * lengths[ranked[1]]):
        return ranked[0]
    raise SettingError(f"data.inputs: missing; expected the column of texts in {path}, out of {', '.join(left) or 'none'}.")
