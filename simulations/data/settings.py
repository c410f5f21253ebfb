"""The settings of a simulation's data: a data set by its name, or files of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from limbeck.base.settings import Raw, Strict
from limbeck.plans.settings import Count

Source = Literal["table", "arrays", "images", "texts"]
SOURCES: tuple[Source, ...] = get_args(Source)
# How a folder names the sites: by the folders around those of the classes, or by those within them.
LEVELS = ("outer", "inner")
PART = 'a number of records, a share such as 0.25, a file such as "public.csv", or a list of sites'

Value = str | int
Values = Value | tuple[Value, ...]
# Of all records, how many or which share; a file; or named sites.
Part = int | float | str | tuple[str, ...]


def _tuples(value: object) -> object:
    """Lists, as TOML and JSON have them, as tuples, also within lists and tables."""
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return {key: _tuples(each) for key, each in value.items()} if isinstance(value, dict) else value


def _part(value: object) -> object:
    value = _tuples(value)
    valid = (
        value is None
        or (type(value) is int and value >= 1)
        or (isinstance(value, float) and 0 < value < 1)
        or (isinstance(value, str) and value != "")
        or (isinstance(value, tuple) and len(value) > 0 and all(isinstance(each, str) for each in value))
    )
    if not valid:
        raise ValueError(PART)
    return value


def _classes(value: object) -> object:
    value = _tuples(value)
    each = tuple(value.values()) if isinstance(value, dict) else value
    if value is not None and not (isinstance(each, tuple) and len(each) >= 2 and all(map(_is_values, each))):
        raise ValueError(
            'at least two classes, such as ["healthy", "ill"], [["0"], ["1", "2"]] or {healthy = 0, ill = [1, 2]}'
        )
    return value


def _is_values(value: object) -> bool:
    several = value if isinstance(value, tuple) else (value,)
    return bool(several) and all(type(each) in (str, int) for each in several)


def _columns(value: object) -> object:
    value = _tuples(value)
    if not (isinstance(value, tuple) and all(isinstance(each, str) for each in value)):
        raise ValueError('a list of columns, such as ["id", "date"]')
    return value


def _codes(value: object) -> object:
    value = _tuples(value)
    if not isinstance(value, dict) or not all(
        isinstance(codes, tuple) and codes and all(type(code) in (int, float) for code in codes) for codes in value.values()
    ):
        raise ValueError("a table from columns to lists of numbers, such as {age = [999]}")
    return {column: tuple(map(float, codes)) for column, codes in value.items()}


def _size(value: object) -> object:
    value = _tuples(value)
    if value is not None and not (
        isinstance(value, tuple) and len(value) == 2 and all(type(each) is int and each >= 1 for each in value)
    ):
        raise ValueError("a height and a width in pixels, such as [28, 28]")
    return value


class DataSettings(Strict):
    """Which records: a data set by its name, or one file or folder of the user's own. Paths are relative to the scenario's file.

    name: one that `limbeck data list` shows.
    table: a CSV, Parquet or Excel file.
    arrays: an NPZ file.
    images: a folder with a folder of images per class, or a table with the column `file`.
    texts: a table with a column of texts, or a folder with a folder of .txt files per class.
    label: the column, or the array, of the labels. A folder's classes are its folders.
    classes: their names in order; or per class the values of its label, as lists or as a table from name to values.
    site: the column, or the array, of the sites; of a folder "outer" or "inner": its folders are SITE/CLASS, or CLASS/SITE.
    group: the column, or the array, that says which records are of one person; these stay together in every split.
    drop: columns that are not used.
    kinds: what columns of a table are, where it is not what they look like: "number", "category", "text", ...
    zero_is_missing: numbers of a table that cannot be zero, such as a blood pressure.
    missing_codes: by column, numbers that mean "not known", such as 999.
    inputs: the array of inputs; the column of texts, or of the files of images.
    image_size: height and width to which images are scaled.
    private: at most so many records for the sites.
    public, test: public inputs, and the test set: how many, a share (a fifth by default), a file, or sites; a data set by its name takes
        numbers only.
    folder: of IDX files or of the CSV, instead of the cache, of a data set by its name.
    encoder: of texts, in place of counts of words: a public one by its name, or the folder of a Hugging Face model. Of images, which are
        grey without it: a public one by its name, or the folder of an ONNX model.
    """

    name: str | None = None
    table: str | None = None
    arrays: str | None = None
    images: str | None = None
    texts: str | None = None
    label: str | None = None
    classes: Annotated[tuple[Values, ...] | dict[str, Values] | None, BeforeValidator(_classes)] = None
    site: str | None = None
    group: str | None = None
    drop: Annotated[tuple[str, ...], BeforeValidator(_columns)] = ()
    kinds: dict[str, str] = Field(default={})
    zero_is_missing: Annotated[tuple[str, ...], BeforeValidator(_columns)] = ()
    missing_codes: Annotated[dict[str, tuple[float, ...]], BeforeValidator(_codes)] = Field(default={})
    inputs: str | None = None
    image_size: Annotated[tuple[int, int] | None, BeforeValidator(_size)] = None
    private: Count | None = None
    public: Annotated[Part | None, BeforeValidator(_part)] = None
    test: Annotated[Part | None, BeforeValidator(_part)] = None
    folder: str | None = None
    encoder: str | None = None

    @property
    def source(self) -> tuple[Source, Path] | None:
        """What kind of the user's own data this is, and where; None for a data set by its name."""
        for kind in SOURCES:
            if (path := getattr(self, kind)) is not None:
                return kind, Path(path)
        return None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of `classes`: the names of a table, or the first value of each class; None where the data say it."""
        if self.classes is None:
            return None
        if isinstance(self.classes, dict):
            return tuple(self.classes)
        return tuple("/".join(map(str, each)) if isinstance(each, tuple) else str(each) for each in self.classes)

    @property
    def class_values(self) -> tuple[Values, ...] | None:
        """Per class the value or values of its label; None where the data say it."""
        return tuple(self.classes.values()) if isinstance(self.classes, dict) else self.classes


# Settings of the user's own data, with the sources that take them.
TAKEN_BY: dict[str, tuple[Source, ...]] = {
    "label": SOURCES,
    "classes": SOURCES,
    "site": SOURCES,
    "group": SOURCES,
    "drop": ("table",),
    "kinds": ("table",),
    "zero_is_missing": ("table",),
    "missing_codes": ("table",),
    "inputs": ("arrays", "images", "texts"),
    "image_size": ("images",),
    "encoder": ("texts", "images"),
}


def with_absolute_paths(raw: Raw, folder: Path) -> Raw:
    """Parsed TOML of a scenario with the paths of the user's own data made absolute, from `folder` on."""
    table = raw.get("data")
    if not isinstance(table, dict):
        return raw
    files = {key: table[key] for key in (*SOURCES, "public", "test") if isinstance(table.get(key), str) and table[key]}
    return {**raw, "data": {**table, **{key: str((folder / path).absolute()) for key, path in files.items()}}}


def problems(settings: DataSettings, known: Sequence[str]) -> list[str]:
    """What does not go together; one sentence each, which names the key. known: data sets by name."""
    given = [key for key in ("name", *SOURCES) if getattr(settings, key) is not None]
    if len(given) != 1:
        found = " and ".join(f"{key} = {getattr(settings, key)!r}" for key in given) or "none of them"
        return [f"data: expected one of name, {', '.join(SOURCES)}, got {found}"]
    if settings.name is not None:
        return _of_a_name(settings, known)
    found_source = settings.source
    assert found_source is not None  # exactly one was given, and it is not a name
    kind, _ = found_source
    sentences = []
    if settings.folder is not None:
        sentences.append(f"data.folder = {settings.folder!r}: expected with data.name only, got data.{kind}")
    for key, sources in TAKEN_BY.items():
        if (value := getattr(settings, key)) not in (None, (), {}) and kind not in sources:
            wanted = " or ".join(f"data.{each}" for each in sources)
            sentences.append(f"data.{key} = {value!r}: expected with {wanted} only, got data.{kind}")
    if settings.label is None and kind == "table":
        sentences.append("data.label: missing; expected the name of the table's column of labels")
    if settings.classes is not None:
        names = settings.class_names or ()
        if twice := sorted({name for name in names if names.count(name) > 1}):
            sentences.append(f"data.classes: expected distinct classes, got {', '.join(twice)} more than once")
    columns = {
        key: getattr(settings, key) for key in ("label", "site", "group", "inputs") if getattr(settings, key) is not None
    }
    for key, column in columns.items():
        if others := [other for other, same in columns.items() if same == column and other < key]:
            sentences.append(f"data.{key} = {column!r}: expected another than data.{others[0]}")
        if column in settings.drop:
            sentences.append(f"data.drop = {list(settings.drop)}: expected other columns than data.{key} = {column!r}")
    for key in ("public", "test"):
        if isinstance(getattr(settings, key), tuple) and settings.site is None:
            sentences.append(
                f"data.{key} = {list(getattr(settings, key))}: expected data.site to say which records are whose"
            )
    shares = [value for value in (settings.public, settings.test) if isinstance(value, float)]
    if sum(shares) >= 1:
        sentences.append(
            f"data.public + data.test = {settings.public} + {settings.test}: expected less than 1, or no record is private"
        )
    return sentences


def _of_a_name(settings: DataSettings, known: Sequence[str]) -> list[str]:
    sentences = []
    if settings.name not in known:
        sentences.append(
            f"data.name = {settings.name!r}: expected one of {', '.join(known)}; a file of your own is data.table, data.arrays,"
            " data.images or data.texts"
        )
    for key in TAKEN_BY:
        if (value := getattr(settings, key)) not in (None, (), {}) and key != "encoder":
            sentences.append(
                f"data.{key} = {value!r}: expected with a file of your own only, got data.name = {settings.name!r}"
            )
    for key in ("public", "test"):
        if (value := getattr(settings, key)) is not None and not isinstance(value, int):
            sentences.append(f"data.{key} = {value!r}: expected a whole number with data.name = {settings.name!r}")
    return sentences
