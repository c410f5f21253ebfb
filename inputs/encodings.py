"""Public encodings: what turns tables and texts into rows of numbers, the same way at every site.

An encoding is fitted on public data only: means, deviations, levels, a vocabulary and its document frequencies are public constants; or
it names a public encoder, by its files' SHA-256, that every site holds itself. It travels beside the transfer set in a JSON file, whose
SHA-256 the plan names. Texts and tables themselves never leave a site; a transfer set holds rows.

Shape legend: N records, D numbers per record.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import write_durably
from limbeck.inputs.tables import Names, Table

# A standardised number beyond this says no more than that it is extreme; also what keeps a slip of the pen from ruling a row.
LARGEST = 5.0
# All of an encoder's folder that decides on a row. Weights in this format are numbers and nothing else; a pickle could run code.
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
# Fixed texts, whose rows an encoding by a public encoder names: long and short, with what tokenizers differ in.
PROBES = (
    "",
    "A good film.",
    "This is NOT good; 3/10, don't watch it twice!",
    "Crème brûlée à l'œuvre\t—  «déjà vu»\nand 東京, \U0001f642.",
    "word " * 600,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A numeric column: (value - mean) / deviation, cut to [-5, 5], and a column that is 1 where it is missing.

    A missing value takes the public mean. zero_is_missing: for quantities that cannot be zero, such as a blood pressure.
    """

    name: str
    mean: float
    deviation: float
    zero_is_missing: bool = False

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, 2)."""
        value_N = table.numbers(self.name)
        missing_N = np.isnan(value_N) | ((value_N == 0) & self.zero_is_missing)
        # A number too large for the difference becomes infinite, and is cut like any other.
        with np.errstate(over="ignore", invalid="ignore"):
            standard_N = np.clip((value_N - self.mean) / self.deviation, -LARGEST, LARGEST)
        return np.stack([np.where(missing_N, 0, standard_N), missing_N], 1).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A column of names: one column per level, 1 where it is that level. Missing and unknown names have a 1 nowhere.

    A cell is a level as it is written, or as `tables.plain` has both: "1.0" is the level "1".
    """

    name: str
    levels: tuple[str, ...]

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, levels)."""
        values, places = table.texts(self.name), Names((level, place) for place, level in enumerate(self.levels))
        found_NL = np.zeros((len(values), len(self.levels)), np.float32)
        for row, value in enumerate(values):
            place = None if value is None else places[value]
            if place is not None:
                found_NL[row, place] = 1
        return found_NL


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEncoding:
    """Columns of a table, one after the other."""

    columns: tuple[Number | Category, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The table's columns that it needs."""
        return tuple(column.name for column in self.columns)

    @property
    def dimensions(self) -> int:
        """Numbers per row."""
        return sum(2 if isinstance(column, Number) else len(column.levels) for column in self.columns)

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, D) rows; record by record, no record touches another. Raises DataError naming a column that is not there."""
        return np.concatenate([column(table) for column in self.columns], 1)

    def to_json(self) -> dict[str, object]:
        """For `save`."""
        kinds = {Number: "number", Category: "category"}
        return {"kind": "table", "columns": [{"kind": kinds[type(column)], **asdict(column)} for column in self.columns]}


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
        """(N, D) rows; a missing text is an empty one. Raises DataError naming a column that is not there."""
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

    model: its name, to say what is missing. files: SHA-256 (hex) of the files of its folder. tokens: that a text is cut to. probe: rows
    of PROBES, which a site's encoder must give too, whatever computes it.
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
        """What decides on a row, in 32 hexadecimal digits, to name the rows that are kept; without files, an encoder's name."""
        own = [self.files or self.model, self.tokens]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, object]:
        """For `save`."""
        return {"kind": "encoder", **asdict(self)}


Encoding = TableEncoding | TextEncoding | EncoderEncoding


def fit_table(
    public: Table, *, numbers: Sequence[str], categories: Sequence[str], zero_is_missing: Sequence[str] = ()
) -> TableEncoding:
    """Means, deviations and levels of PUBLIC records. Raises DataError where a column is not there or a numeric one is all missing."""
    columns: list[Number | Category] = []
    for name in numbers:
        value_N = public.numbers(name)
        value_N = value_N[~(np.isnan(value_N) | ((value_N == 0) & (name in zero_is_missing)))]
        if not len(value_N):
            raise DataError(f"Expected public values of {name!r} in {public.source}, found none.")
        deviation = float(value_N.std()) or 1.0
        columns.append(
            Number(name=name, mean=float(value_N.mean()), deviation=deviation, zero_is_missing=name in zero_is_missing)
        )
    for name in categories:
        levels = tuple(sorted({value for value in public.texts(name) if value is not None}))
        if not levels:
            raise DataError(f"Expected public values of {name!r} in {public.source}, found none.")
        columns.append(Category(name=name, levels=levels))
    return TableEncoding(columns=tuple(columns))


def fit_text(public: Table, column: str, *, words: int) -> TextEncoding:
    """The `words` words that are in most PUBLIC documents, ties in alphabetical order, and their document frequencies."""
    texts = [text or "" for text in public.texts(column)]
    split = _vectoriser().build_analyzer()
    frequency = Counter(word for text in texts for word in set(split(text)))
    if len(frequency) < words:
        raise SettingError(f"Expected at least {words} words in the public texts of {public.source}, got {len(frequency)}.")
    kept = sorted(frequency, key=lambda word: (-frequency[word], word))[:words]
    idf = np.log((1 + len(texts)) / (1 + np.array([frequency[word] for word in kept]))) + 1
    return TextEncoding(column=column, words=tuple(kept), idf=tuple(idf.tolist()))


def save(encoding: Encoding, path: Path) -> None:
    """Write it durably as JSON."""
    write_durably(path, _to_bytes(encoding))


def digest(encoding: Encoding) -> bytes:
    """SHA-256 (32 bytes) of the file that `save` writes: what a plan names."""
    return hashlib.sha256(_to_bytes(encoding)).digest()


def _to_bytes(encoding: Encoding) -> bytes:
    return (json.dumps(encoding.to_json(), indent=1) + "\n").encode()


def load(path: Path) -> Encoding:
    """What `save` wrote. Raises DataError, and nothing else, where `path` holds no encoding."""
    try:
        own: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        match own["kind"]:
            case "table":
                return _table(own)
            case "text":
                return _text(own)
            case "encoder":
                return _encoder(own)
            case _:
                raise ValueError(f"expected a kind out of table, text, encoder, got {own['kind']!r}")
    except FileNotFoundError as error:
        raise DataError(f"Expected a public encoding at {path}, found none.") from error
    except Exception as error:  # what JSON and its values can be wrong in is of many kinds
        raise DataError(f"Expected a public encoding in {path}: {type(error).__name__}: {error}.") from error


def _table(own: dict[str, Any]) -> TableEncoding:
    columns: list[Number | Category] = []
    for column in own["columns"]:
        kind, name = column["kind"], str(column["name"])
        if kind == "number":
            mean, deviation, zero = float(column["mean"]), float(column["deviation"]), column.get("zero_is_missing", False)
            if not (math.isfinite(mean) and 0 < deviation < math.inf and isinstance(zero, bool)):
                raise ValueError(f"expected a finite mean and a positive deviation of {name!r}, got {mean} and {deviation}")
            columns.append(Number(name=name, mean=mean, deviation=deviation, zero_is_missing=zero))
        elif kind == "category":
            columns.append(Category(name=name, levels=_names(column["levels"], f"levels of {name!r}")))
        else:
            raise ValueError(f"expected a column of numbers or a category, got {kind!r}")
    if not columns:
        raise ValueError("expected columns, got none")
    return TableEncoding(columns=tuple(columns))


def _text(own: dict[str, Any]) -> TextEncoding:
    words, idf = _names(own["words"], "words"), tuple(float(value) for value in own["idf"])
    if len(words) != len(idf) or not all(map(math.isfinite, idf)):
        raise ValueError(f"expected a finite idf of each of {len(words)} words, got {len(idf)}")
    return TextEncoding(column=str(own["column"]), words=words, idf=idf)


def _names(found: Any, what: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise ValueError(f"expected a list of {what}, got {str(found)[:60]}")
    if len(set(found)) != len(found):
        raise ValueError(f"expected distinct {what}")
    return tuple(found)


def _encoder(own: dict[str, Any]) -> EncoderEncoding:
    probe = np.array(own["probe"], np.float64)
    if (
        probe.ndim != 2
        or len(probe) != len(PROBES)
        or not probe.size
        or not np.isfinite(probe).all()
        or not int(own["tokens"]) > 0
    ):
        raise ValueError(f"expected finite rows of {len(PROBES)} texts and a positive number of tokens")
    # Names of files in the encoder's own folder, and never a path to elsewhere.
    if not set(own["files"]) <= set(ENCODER_FILES):
        raise ValueError(f"expected files out of {', '.join(ENCODER_FILES)}, got {', '.join(own['files'])}")
    return EncoderEncoding(
        column=str(own["column"]),
        model=str(own["model"]),
        files={str(file): str(sha256) for file, sha256 in own["files"].items()},
        tokens=int(own["tokens"]),
        probe=tuple(map(tuple, probe.tolist())),
    )


def _vectoriser(vocabulary: list[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(vocabulary=vocabulary, sublinear_tf=True, dtype=np.float32)
