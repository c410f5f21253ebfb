"""Public encodings: what turns tables and texts into rows of numbers, the same way at every site.

An encoding is fitted on public data only: means, standard deviations, levels, a vocabulary and its document frequencies are public
constants. Or it names a public encoder of texts or of images, by the SHA-256 of its files, that every site holds itself. It travels beside
the transfer set in a JSON file, whose SHA-256 the plan names. Texts, images and tables themselves never leave a site; a transfer set holds
rows.

Shape legend: N records, D numbers per record.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import write_durably
from limbeck.inputs import columns
from limbeck.inputs.columns import Kind
from limbeck.inputs.tables import Names, Table, plain

# The bound for standardised numbers: beyond it a number only says that it is extreme, and a typing error cannot dominate a row.
LARGEST = 5.0
# Where the values of a public column are noted, from the smallest to the largest.
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
# Periods in days; a year is that of the Gregorian calendar. The first of January 1970, from which days count, was a Thursday.
CYCLES = {"year": 365.2425, "week": 7.0, "day": 1.0}
# Bounds of an encoding's size, which a file of a few bytes could otherwise set to anything.
MOST_BUCKETS = 1 << 16
# Of the buckets that `fit` chooses.
FEWEST_BUCKETS, MOST_FITTED_BUCKETS = 16, 64
# A cycle is of use if the public dates lie in three of so many parts of it.
PARTS_OF_A_CYCLE = 4
LONGEST_EVENTS = 30 * CYCLES["year"]
# The files in an encoder's folder that determine a row. Weights in this format are numbers only; a pickle could run code.
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
# The file in an image encoder's folder: a graph of operators and numbers, which cannot run code.
IMAGE_ENCODER_FILES = ("model.onnx",)
# The largest height and width of images for an encoder.
LARGEST_SIDE = 4096
# Fixed texts, whose rows an encoding by a public encoder contains: long and short, with details in which tokenisers differ.
PROBES = (
    "",
    "A good film.",
    "This is NOT good; 3/10, don't watch it twice!",
    "Crème brûlée à l'œuvre\t—  «déjà vu»\nand 東京, \U0001f642.",
    "word " * 600,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A numeric column: (value - mean) / deviation, clipped to [-5, 5], and a column that is 1 where the value is missing.

    A missing value is replaced by the public mean.

    deviation: the public standard deviation.
    zero_is_missing: for quantities that cannot be zero, such as a blood pressure.
    missing_codes: numbers that mean "not known", such as 999.
    seen: the public values' quantiles at QUANTILES, or nothing if they were not kept; they change no row.
    """

    name: str
    mean: float
    deviation: float
    zero_is_missing: bool = False
    missing_codes: tuple[float, ...] = ()
    seen: tuple[float, ...] = ()

    kind: ClassVar[str] = "number"
    # What a file says only if it is not empty: files of version 0.1.0 have neither.
    optional: ClassVar[tuple[str, ...]] = ("missing_codes", "seen")

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return 2

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, 2)."""
        value_N = table.numbers(self.name)
        missing_N = np.isnan(value_N) | ((value_N == 0) & self.zero_is_missing) | np.isin(value_N, self.missing_codes)
        return _standardised(value_N, missing_N, self.mean, self.deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A column of names, one-hot: one column per level. Missing and unknown names have no 1 at all.

    A cell matches a level as written, or if the `tables.plain` forms of both agree: "1.0" is the level "1".
    """

    name: str
    levels: tuple[str, ...]

    kind: ClassVar[str] = "category"
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return len(self.levels)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, levels)."""
        values, places = table.texts(self.name), Names((level, place) for place, level in enumerate(self.levels))
        return _one_hot([None if value is None else places[value] for value in values], self.dimensions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """A column of names, one-hot: one column per level, then one for other names, then one for missing ones.

    A cell matches a level as written; as a number, whatever its decimal sign, or without a fraction of zeros; or but for case and blanks:
    in the first of these ways in which it is that of one level only.

    other: whether there is a column for other names, because some were rare in public; otherwise they have no 1 at all.
    missing: likewise for missing names.
    """

    name: str
    levels: tuple[str, ...]
    other: bool
    missing: bool

    kind: ClassVar[str] = "levels"
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return len(self.levels) + self.other + self.missing

    def places(self, table: Table) -> list[int | None]:
        """The place of each cell's level, -1 for another name, None where it is missing. Raises DataError for a missing column."""
        exact = Names((level, place) for place, level in enumerate(self.levels))
        folded = Names((_folded(level), place) for place, level in enumerate(self.levels)) if self._is_distinct() else exact
        known: dict[str | None, int | None] = {None: None}
        for cell in table.texts(self.name):
            if cell is not None and cell not in known:
                own = table.with_point(cell)
                ways = (exact[cell], exact[own], folded[_folded(own)])
                known[cell] = next((place for place in ways if place is not None), -1)
        return [known[cell] for cell in table.texts(self.name)]

    def _is_distinct(self) -> bool:
        return len({_folded(level) for level in self.levels}) == len(self.levels)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, D)."""
        other = len(self.levels) if self.other else None
        missing = len(self.levels) + self.other if self.missing else None
        places = [missing if place is None else other if place < 0 else place for place in self.places(table)]
        return _one_hot(places, self.dimensions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """A column of many names, one-hot by a public hash: column SHA-256(column's name, name) modulo buckets; none where it is missing.

    Names count but for case, blanks around them, a fraction of zeros and the decimal sign.
    """

    name: str
    buckets: int

    kind: ClassVar[str] = "hashed"
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return self.buckets

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, buckets)."""
        cells = table.texts(self.name)
        return _one_hot([None if cell is None else self._bucket(table.with_point(cell)) for cell in cells], self.buckets)

    def _bucket(self, cell: str) -> int:
        content = json.dumps([self.name, _folded(cell)]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % self.buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Boolean:
    """A column of words of truth (`columns.truth`): 1 for yes and -1 for no, and a column that is 1 where it is neither."""

    name: str

    kind: ClassVar[str] = "boolean"
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return 2

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, 2)."""
        values = [None if cell is None else columns.truth(cell) for cell in table.texts(self.name)]
        rows = [(0, 1) if value is None else (1 if value else -1, 0) for value in values]
        return np.array(rows, np.float32).reshape(-1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Date:
    """A column of dates: days since the beginning of 1970, standardised like a `Number`, then two columns for each cycle.

    A missing date is replaced by the public mean and has zeros for its cycles.

    order: between 5/12/2026 and 12/5/2026 (`columns.days`).
    cycles: out of CYCLES: sine and cosine of the place in a year, a week or a day.
    seen: the public days' quantiles at QUANTILES, or nothing; they change no row.
    """

    name: str
    order: columns.Order
    mean: float
    deviation: float
    cycles: tuple[str, ...] = ()
    seen: tuple[float, ...] = ()

    kind: ClassVar[str] = "date"
    optional: ClassVar[tuple[str, ...]] = ("seen",)

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return 2 + 2 * len(self.cycles)

    def days(self, table: Table) -> NDArray[np.float64]:
        """Days since the beginning of 1970, NaN where there is no date, (N,). Raises DataError for a missing column."""
        found = (None if cell is None else columns.days(cell, self.order) for cell in table.texts(self.name))
        return np.array([math.nan if value is None else value for value in found], np.float64)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, D)."""
        day_N = self.days(table)
        missing_N = np.isnan(day_N)
        parts = [_standardised(day_N, missing_N, self.mean, self.deviation)]
        for cycle in self.cycles:
            angle_N = np.where(missing_N, 0, 2 * np.pi * (day_N % CYCLES[cycle]) / CYCLES[cycle])
            waves_N2 = np.stack([np.sin(angle_N), np.cos(angle_N)], 1)
            parts.append(np.where(missing_N[:, None], 0, waves_N2).astype(np.float32))
        return np.concatenate(parts, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A column of free text beside others, as `TextEncoding` has it."""

    name: str
    words: tuple[str, ...]
    idf: tuple[float, ...]

    kind: ClassVar[str] = "words"
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return len(self.words)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, words)."""
        return TextEncoding(column=self.name, words=self.words, idf=self.idf)(table)


Column = Number | Category | Levels | Hashed | Boolean | Date | Words
KINDS: dict[str, type[Column]] = {kind.kind: kind for kind in (Number, Category, Levels, Hashed, Boolean, Date, Words)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEncoding:
    """Columns of a table, concatenated."""

    columns: tuple[Column, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The table's columns that it needs."""
        return tuple(column.name for column in self.columns)

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return sum(column.dimensions for column in self.columns)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, D) rows; no record affects another's row. Raises DataError naming a missing column."""
        return np.concatenate([column(table) for column in self.columns], 1)

    def to_json(self) -> dict[str, object]:
        """For `save`."""
        found = []
        for column in self.columns:
            fields = {name: value for name, value in asdict(column).items() if value or name not in column.optional}
            found.append({"kind": column.kind, **fields})
        return {"kind": "table", "columns": found}


def _standardised(
    value_N: NDArray[np.float64], missing_N: NDArray[np.bool_], mean: float, deviation: float
) -> NDArray[np.float32]:
    """(N, 2): the number, and whether it is missing."""
    # A number too large for the difference becomes infinite, and is clipped like any other.
    with np.errstate(over="ignore", invalid="ignore"):
        standard_N = np.clip((value_N - mean) / deviation, -LARGEST, LARGEST)
    return np.stack([np.where(missing_N, 0, standard_N), missing_N], 1).astype(np.float32)


def _one_hot(places: Sequence[int | None], width: int) -> NDArray[np.float32]:
    """(N, width)."""
    one_hot_ND = np.zeros((len(places), width), np.float32)
    for row, place in enumerate(places):
        if place is not None:
            one_hot_ND[row, place] = 1
    return one_hot_ND


def _folded(name: str) -> str:
    """A name but for case, blanks around it, a fraction of zeros and how Unicode composes letters."""
    return unicodedata.normalize("NFC", plain(name).casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoding:
    """Words of a column of texts: logarithmic counts times inverse document frequency, rows of L2 norm 1 (or 0 without known words).

    words: lower case, two letters or more. idf: ln((1 + documents) / (1 + documents with it)) + 1, of PUBLIC documents.
    """

    column: str
    words: tuple[str, ...]
    idf: tuple[float, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The table's columns that it needs."""
        return (self.column,)

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return len(self.words)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, D) rows; a missing text counts as an empty one. Raises DataError naming a missing column."""
        texts = [text or "" for text in table.texts(self.column)]
        if not texts:
            return np.zeros((0, len(self.words)), np.float32)
        vectoriser = _vectoriser(vocabulary=list(self.words))
        vectoriser.idf_ = np.array(self.idf)
        return np.asarray(vectoriser.transform(texts).toarray(), np.float32)

    def to_json(self) -> dict[str, object]:
        """For `save`."""
        return {"kind": "text", "column": self.column, "words": self.words, "idf": self.idf}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderEncoding:
    """A column of texts through a frozen public encoder that every site holds itself (`limbeck.inputs.encoders`); rows of L2 norm 1.

    column: the table's column of texts.
    model: the encoder's name, for messages.
    files: SHA-256 (hex) of the files in its folder.
    tokens: the length to which a text is cut.
    probe: its rows for PROBES, which a site's encoder must reproduce, however it is implemented.
    """

    column: str
    model: str
    files: dict[str, str]
    tokens: int
    probe: tuple[tuple[float, ...], ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The table's columns that it needs."""
        return (self.column,)

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return len(self.probe[0])

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits for what determines a row, to name the cache: the files, or the encoder's name if there are none."""
        identity = [self.files or self.model, self.tokens]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, object]:
        """For `save`."""
        return {"kind": "encoder", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoding:
    """Colour images through a frozen public encoder that every site holds itself (`limbeck.inputs.encoders`).

    model: the encoder's name, for messages.
    files: SHA-256 (hex) of the files in its folder.
    size: height and width to which images are scaled before it.
    probe: its rows for `probe_images`, which a site's encoder must reproduce, however it is implemented.
    """

    model: str
    files: dict[str, str]
    size: tuple[int, int]
    probe: tuple[tuple[float, ...], ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The table's columns that it needs: none, for images are no table."""
        return ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: height, width and its three colours."""
        return (*self.size, 3)

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return len(self.probe[0])

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits for what determines a row, to name the cache, as of `EncoderEncoding`."""
        identity = [self.files or self.model, *self.size]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, object]:
        """For `save`."""
        return {"kind": "image-encoder", **asdict(self)}


def probe_images(size: tuple[int, int]) -> NDArray[np.uint8]:
    """(4, H, W, 3) fixed images, whose rows an encoding by an image encoder contains: black, a ramp in each colour, squares, and noise."""
    height, width = size
    y_H1, x_1W = np.arange(height)[:, None], np.arange(width)[None, :]
    ramp = np.stack([255 * x_1W // max(width - 1, 1) + 0 * y_H1, 255 * y_H1 // max(height - 1, 1) + 0 * x_1W], -1)
    ramp = np.concatenate([ramp, 255 - ramp[..., :1]], -1)
    squares = (x_1W // 4 + y_H1 // 4) % 2
    place = np.arange(height * width * 3, dtype=np.uint64).reshape(height, width, 3)
    # The upper bits of a multiplicative hash (Knuth) of the place.
    noise = (place * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(24)
    images = [np.zeros((height, width, 3)), ramp, np.stack([255 * squares, 255 - 255 * squares, 128 * squares], -1), noise]
    return np.stack(images).astype(np.uint8)


# Of the cells of a table.
TabularEncoding = TableEncoding | TextEncoding | EncoderEncoding
Encoding = TabularEncoding | ImageEncoding


def fit(public: Table, examined: Sequence[columns.Column], *, words: int = 200) -> TableEncoding:
    """The encoding of a PUBLIC table's columns, each as what `columns.examine` takes it for; those that are left out are not in it.

    words: the most words of a column of free text.

    Raises: DataError if no column is left, or one has no value of its kind.
    """
    found: list[Column] = []
    for column in examined:
        if column.is_left_out:
            continue
        match column.kind:
            case Kind.NUMBER:
                found.append(_fit_number(public, column))
            case Kind.DATE:
                found.append(_fit_date(public, column))
            case Kind.BOOLEAN:
                found.append(Boolean(name=column.name))
            case Kind.TEXT:
                found.append(_fit_words(public, column.name, words))
            case Kind.HASHED:
                found.append(Hashed(name=column.name, buckets=_buckets(column.distinct)))
            case _:
                found.append(_fit_levels(public, column.name))
    if not found:
        raise DataError(f"Expected a column in {public.source} that says something about records, found none.")
    return TableEncoding(columns=tuple(found))


def _fit_number(public: Table, column: columns.Column) -> Number:
    own = Number(
        name=column.name,
        mean=0,
        deviation=1,
        zero_is_missing=column.zero_is_missing,
        missing_codes=column.missing_codes,
    )
    value_N, missing_N = public.numbers(own.name), own(public)[:, 1] == 1
    value_N = value_N[~missing_N & np.isfinite(value_N)]
    if not len(value_N):
        raise DataError(f"Expected public values of {own.name!r} in {public.source}, found none.")
    return replace(own, mean=float(value_N.mean()), deviation=float(value_N.std()) or 1.0, seen=_quantiles(value_N))


def _fit_date(public: Table, column: columns.Column) -> Date:
    own = Date(name=column.name, order=column.order, mean=0, deviation=1)
    day_N = own.days(public)
    day_N = day_N[~np.isnan(day_N)]
    if not len(day_N):
        raise DataError(f"Expected public dates in {own.name!r} of {public.source}, found none.")
    # A cycle tells something only if the public dates go around it. Dates of many years are those of lives, not of events.
    cycles = tuple(
        name
        for name, period in CYCLES.items()
        if period < np.ptp(day_N) < LONGEST_EVENTS
        and len(np.unique(np.floor(day_N % period / period * PARTS_OF_A_CYCLE))) > 2
    )
    deviation = float(day_N.std()) or 1.0
    return replace(own, mean=float(day_N.mean()), deviation=deviation, cycles=cycles, seen=_quantiles(day_N))


def _fit_levels(public: Table, name: str) -> Levels:
    """Levels in the order of their names; spellings that differ by case, blanks or a fraction of zeros are one level, the commonest."""
    cells = public.texts(name)
    spellings: dict[str, Counter[str]] = {}
    for cell in cells:
        if cell is not None:
            own = public.with_point(cell).strip()
            spellings.setdefault(_folded(own), Counter())[own] += 1
    present = sum(own.total() for own in spellings.values())
    common = [own for own in spellings.values() if not columns.is_rare(own.total(), present)]
    if not common:
        raise DataError(f"Expected public values of {name!r} in {public.source} that several rows share, found none.")
    levels = tuple(sorted(min(own, key=lambda level: (-own[level], level)) for own in common))
    return Levels(name=name, levels=levels, other=len(common) < len(spellings), missing=present < len(cells))


def _fit_words(public: Table, name: str, most: int) -> Words:
    """The words that occur in the most texts, and in two of them at least."""
    frequency = _document_frequency(public.texts(name))
    kept = sorted((word for word, count in frequency.items() if count > 1), key=lambda word: (-frequency[word], word))[:most]
    if not kept:
        raise DataError(f"Expected public texts in {name!r} of {public.source} that share a word, found none.")
    return Words(name=name, words=tuple(kept), idf=_idf(kept, frequency, len(public)))


def _buckets(distinct: int) -> int:
    """A power of two, about a third of the different names."""
    return min(max(1 << max(distinct // 2, 1).bit_length() - 1, FEWEST_BUCKETS), MOST_FITTED_BUCKETS)


def _quantiles(value_N: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.quantile(value_N, QUANTILES).tolist())


def fit_table(
    public: Table, *, numbers: Sequence[str], categories: Sequence[str], zero_is_missing: Sequence[str] = ()
) -> TableEncoding:
    """Means, standard deviations and levels of PUBLIC records.

    Raises: DataError if a column does not exist, or has no value at all.
    """
    fitted: list[Column] = []
    for name in numbers:
        value_N = public.numbers(name)
        value_N = value_N[~(np.isnan(value_N) | ((value_N == 0) & (name in zero_is_missing)))]
        if not len(value_N):
            raise DataError(f"Expected public values of {name!r} in {public.source}, found none.")
        deviation = float(value_N.std()) or 1.0
        fitted.append(
            Number(name=name, mean=float(value_N.mean()), deviation=deviation, zero_is_missing=name in zero_is_missing)
        )
    for name in categories:
        levels = tuple(sorted({value for value in public.texts(name) if value is not None}))
        if not levels:
            raise DataError(f"Expected public values of {name!r} in {public.source}, found none.")
        fitted.append(Category(name=name, levels=levels))
    return TableEncoding(columns=tuple(fitted))


def fit_text(public: Table, column: str, *, words: int) -> TextEncoding:
    """The `words` words that occur in the most PUBLIC documents, ties in alphabetical order, and their document frequencies."""
    texts = public.texts(column)
    frequency = _document_frequency(texts)
    if len(frequency) < words:
        raise SettingError(f"Expected at least {words} words in the public texts of {public.source}, got {len(frequency)}.")
    kept = sorted(frequency, key=lambda word: (-frequency[word], word))[:words]
    return TextEncoding(column=column, words=tuple(kept), idf=_idf(kept, frequency, len(texts)))


def _document_frequency(texts: Sequence[str | None]) -> Counter[str]:
    """By word, the number of texts that contain it."""
    split = _vectoriser().build_analyzer()
    return Counter(word for text in texts for word in set(split(text or "")))


def _idf(words: Sequence[str], frequency: Counter[str], texts: int) -> tuple[float, ...]:
    idf = np.log((1 + texts) / (1 + np.array([frequency[word] for word in words]))) + 1
    return tuple(idf.tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a column of somebody's own table looks like to an encoding; for `compare`.

    - rows, missing: cells, and those that hold nothing or nothing of the column's kind.
    - below, above: numbers or days below the smallest and above the largest public value; 0 if the encoding does not know these.
    - seen: the public quantiles at QUANTILES, if the encoding knows them; own: those of the table.
    - unknown: names that are no level, with their rows, the commonest first; words are not compared.
    """

    name: str
    kind: str
    rows: int
    missing: int
    below: int = 0
    above: int = 0
    seen: tuple[float, ...] = ()
    own: tuple[float, ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()


def compare(encoding: TableEncoding, table: Table) -> tuple[Comparison, ...]:
    """Each column of a table beside what the public encoding saw: for its owner alone, since it speaks of all rows.

    Raises: DataError for a column that is missing.
    """
    return tuple(_compared(column, table) for column in encoding.columns)


def _compared(column: Column, table: Table) -> Comparison:
    cells = table.texts(column.name)
    missing = sum(cell is None for cell in cells)
    match column:
        case Number() | Date():
            rows_ND = column(table)
            value_N = table.numbers(column.name) if isinstance(column, Number) else column.days(table)
            value_N = value_N[rows_ND[:, 1] == 0]
            below = int((value_N < column.seen[0]).sum()) if column.seen else 0
            above = int((value_N > column.seen[-1]).sum()) if column.seen else 0
            return Comparison(
                name=column.name,
                kind=column.kind,
                rows=len(cells),
                missing=len(cells) - len(value_N),
                below=below,
                above=above,
                seen=column.seen,
                own=_quantiles(value_N) if len(value_N) else (),
            )
        case Category() | Levels():
            if isinstance(column, Levels):
                places = column.places(table)
            else:
                names = Names((level, place) for place, level in enumerate(column.levels))
                places = [None if cell is None else -1 if names[cell] is None else 0 for cell in cells]
            others = Counter(str(cell) for cell, place in zip(cells, places, strict=True) if place == -1)
            unknown = tuple(others.most_common())
            return Comparison(name=column.name, kind=column.kind, rows=len(cells), missing=missing, unknown=unknown)
        case Boolean():
            others = Counter(cell for cell in cells if cell is not None and columns.truth(cell) is None)
            return Comparison(
                name=column.name,
                kind=column.kind,
                rows=len(cells),
                missing=missing + others.total(),
                unknown=tuple(others.most_common()),
            )
        case _:
            return Comparison(name=column.name, kind=column.kind, rows=len(cells), missing=missing)


def save(encoding: Encoding, path: Path) -> None:
    """Write it durably as JSON."""
    write_durably(path, _to_bytes(encoding))


def digest(encoding: Encoding) -> bytes:
    """SHA-256 (32 bytes) of the file that `save` writes, which a plan names."""
    return hashlib.sha256(_to_bytes(encoding)).digest()


def _to_bytes(encoding: Encoding) -> bytes:
    return (json.dumps(encoding.to_json(), indent=1) + "\n").encode()


def load(path: Path) -> Encoding:
    """What `save` wrote. Raises DataError, and nothing else, if `path` holds no encoding."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        match content["kind"]:
            case "table":
                return _table(content)
            case "text":
                return _text(content)
            case "encoder":
                return _encoder(content)
            case "image-encoder":
                return _image_encoder(content)
            case _:
                raise ValueError(f"expected a kind out of table, text, encoder, image-encoder, got {content['kind']!r}")
    except FileNotFoundError as error:
        raise DataError(f"Expected a public encoding at {path}, found none.") from error
    except Exception as error:  # JSON and its values can be wrong in many ways
        raise DataError(f"Expected a public encoding in {path}: {type(error).__name__}: {error}.") from error


def _table(content: dict[str, Any]) -> TableEncoding:
    found = tuple(_column(column) for column in content["columns"])
    if not found:
        raise ValueError("expected columns, got none")
    return TableEncoding(columns=found)


def _column(content: dict[str, Any]) -> Column:
    kind, name = content["kind"], str(content["name"])
    if kind not in KINDS:
        raise ValueError(f"expected a column out of {', '.join(KINDS)}, got {str(kind)[:60]!r}")
    known = {"kind", *(field.name for field in fields(KINDS[kind]))}
    # Files of version 0.1.0 may say more.
    if kind not in {"number", "category"} and (more := content.keys() - known):
        raise ValueError(f"expected nothing but {', '.join(sorted(known))} of {name!r}, got {', '.join(sorted(more))[:60]}")
    match kind:
        case "number":
            mean, deviation, zero = _scale(content, name), _positive(content, name), content.get("zero_is_missing", False)
            return Number(
                name=name,
                mean=mean,
                deviation=deviation,
                zero_is_missing=_truth(zero, f"zero_is_missing of {name!r}"),
                missing_codes=_numbers(content.get("missing_codes", []), f"missing_codes of {name!r}"),
                seen=_seen(content, name),
            )
        case "category":
            return Category(name=name, levels=_names(content["levels"], f"levels of {name!r}"))
        case "levels":
            return Levels(
                name=name,
                levels=_names(content["levels"], f"levels of {name!r}"),
                other=_truth(content["other"], f"other of {name!r}"),
                missing=_truth(content["missing"], f"missing of {name!r}"),
            )
        case "hashed":
            buckets = content["buckets"]
            if type(buckets) is not int or not 1 <= buckets <= MOST_BUCKETS:
                raise ValueError(f"expected 1 to {MOST_BUCKETS} buckets of {name!r}, got {str(buckets)[:60]}")
            return Hashed(name=name, buckets=buckets)
        case "boolean":
            return Boolean(name=name)
        case "date":
            order, cycles = content["order"], tuple(content["cycles"])
            if order not in columns.ORDERS or len(set(cycles)) != len(cycles) or not set(cycles) <= set(CYCLES):
                raise ValueError(
                    f"expected an order out of {', '.join(columns.ORDERS)} and cycles out of {', '.join(CYCLES)}"
                )
            return Date(
                name=name,
                order=order,
                mean=_scale(content, name),
                deviation=_positive(content, name),
                cycles=cycles,
                seen=_seen(content, name),
            )
        case _:
            text = _text({**content, "column": name})
            return Words(name=name, words=text.words, idf=text.idf)


def _scale(content: dict[str, Any], name: str) -> float:
    mean = float(content["mean"])
    if not math.isfinite(mean):
        raise ValueError(f"expected a finite mean of {name!r}, got {mean}")
    return mean


def _positive(content: dict[str, Any], name: str) -> float:
    deviation = float(content["deviation"])
    if not 0 < deviation < math.inf:
        raise ValueError(f"expected a positive deviation of {name!r}, got {deviation}")
    return deviation


def _truth(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false as {what}, got {str(value)[:60]}")
    return value


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(type(value) in {int, float} and math.isfinite(value) for value in values):
        raise ValueError(f"expected a list of finite numbers as {what}, got {str(values)[:60]}")
    return tuple(map(float, values))


def _seen(content: dict[str, Any], name: str) -> tuple[float, ...]:
    seen = _numbers(content.get("seen", []), f"seen of {name!r}")
    if seen and (len(seen) != len(QUANTILES) or list(seen) != sorted(seen)):
        raise ValueError(
            f"expected {len(QUANTILES)} quantiles in ascending order as seen of {name!r}, got {len(seen)} numbers"
        )
    return seen


def _text(content: dict[str, Any]) -> TextEncoding:
    words, idf = _names(content["words"], "words"), tuple(float(value) for value in content["idf"])
    if len(words) != len(idf) or not all(map(math.isfinite, idf)):
        raise ValueError(f"expected a finite idf of each of {len(words)} words, got {len(idf)}")
    return TextEncoding(column=str(content["column"]), words=words, idf=idf)


def _names(names: Any, what: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a list of {what}, got {str(names)[:60]}")
    if len(set(names)) != len(names):
        raise ValueError(f"expected distinct {what}")
    return tuple(names)


def _encoder(content: dict[str, Any]) -> EncoderEncoding:
    probe = np.array(content["probe"], np.float64)
    if (
        probe.ndim != 2
        or len(probe) != len(PROBES)
        or not probe.size
        or not np.isfinite(probe).all()
        or not int(content["tokens"]) > 0
    ):
        raise ValueError(f"expected finite rows of {len(PROBES)} texts and a positive number of tokens")
    # Names of files in the encoder's own folder, never a path to another place.
    if not set(content["files"]) <= set(ENCODER_FILES):
        raise ValueError(f"expected files out of {', '.join(ENCODER_FILES)}, got {', '.join(content['files'])}")
    return EncoderEncoding(
        column=str(content["column"]),
        model=str(content["model"]),
        files={str(file): str(sha256) for file, sha256 in content["files"].items()},
        tokens=int(content["tokens"]),
        probe=tuple(map(tuple, probe.tolist())),
    )


def _image_encoder(content: dict[str, Any]) -> ImageEncoding:
    height, width = content["size"]
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in (height, width)):
        raise ValueError(f"expected a height and a width from 1 to {LARGEST_SIDE}, got {str(content['size'])[:60]}")
    probe = np.array(content["probe"], np.float64)
    if probe.ndim != 2 or len(probe) != len(probe_images((1, 1))) or not probe.size or not np.isfinite(probe).all():
        raise ValueError(f"expected finite rows of {len(probe_images((1, 1)))} images")
    if not set(content["files"]) <= set(IMAGE_ENCODER_FILES):
        raise ValueError(f"expected files out of {', '.join(IMAGE_ENCODER_FILES)}, got {', '.join(content['files'])}")
    return ImageEncoding(
        model=str(content["model"]),
        files={str(file): str(sha256) for file, sha256 in content["files"].items()},
        size=(height, width),
        probe=tuple(map(tuple, probe.tolist())),
    )


def _vectoriser(vocabulary: list[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(vocabulary=vocabulary, sublinear_tf=True, dtype=np.float32)
