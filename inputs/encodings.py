"""Public encodings: what turns tables and texts into rows of numbers, the same way at every site.

An encoding is fitted on public data only: means, standard deviations, levels, a vocabulary and its document frequencies are public
constants. Or it names a public encoder, by the SHA-256 of its files, that every site holds itself. It travels beside the transfer set in a
JSON file, whose SHA-256 the plan names. Texts and tables themselves never leave a site; a transfer set holds rows.

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

# The bound for standardised numbers: beyond it a number only says that it is extreme, and a typing error cannot dominate a row.
LARGEST = 5.0
# The files in an encoder's folder that determine a row. Weights in this format are numbers only; a pickle could run code.
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
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
    """

    name: str
    mean: float
    deviation: float
    zero_is_missing: bool = False

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, 2)."""
        value_N = table.numbers(self.name)
        missing_N = np.isnan(value_N) | ((value_N == 0) & self.zero_is_missing)
        # A number too large for the difference becomes infinite, and is clipped like any other.
        with np.errstate(over="ignore", invalid="ignore"):
            standard_N = np.clip((value_N - self.mean) / self.deviation, -LARGEST, LARGEST)
        return np.stack([np.where(missing_N, 0, standard_N), missing_N], 1).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A column of names, one-hot: one column per level. Missing and unknown names have no 1 at all.

    A cell matches a level as written, or if the `tables.plain` forms of both agree: "1.0" is the level "1".
    """

    name: str
    levels: tuple[str, ...]

    def __call__(self, table: Table) -> NDArray[np.float32]:
        """(N, levels)."""
        values, places = table.texts(self.name), Names((level, place) for place, level in enumerate(self.levels))
        one_hot_NL = np.zeros((len(values), len(self.levels)), np.float32)
        for row, value in enumerate(values):
            place = None if value is None else places[value]
            if place is not None:
                one_hot_NL[row, place] = 1
        return one_hot_NL


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEncoding:
    """Columns of a table, concatenated."""

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
        """(N, D) rows; no record affects another's row. Raises DataError naming a missing column."""
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


Encoding = TableEncoding | TextEncoding | EncoderEncoding


def fit_table(
    public: Table, *, numbers: Sequence[str], categories: Sequence[str], zero_is_missing: Sequence[str] = ()
) -> TableEncoding:
    """Means, standard deviations and levels of PUBLIC records.

    Raises: DataError if a column does not exist, or has no value at all.
    """
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
    """The `words` words that occur in the most PUBLIC documents, ties in alphabetical order, and their document frequencies."""
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
            case _:
                raise ValueError(f"expected a kind out of table, text, encoder, got {content['kind']!r}")
    except FileNotFoundError as error:
        raise DataError(f"Expected a public encoding at {path}, found none.") from error
    except Exception as error:  # JSON and its values can be wrong in many ways
        raise DataError(f"Expected a public encoding in {path}: {type(error).__name__}: {error}.") from error


def _table(content: dict[str, Any]) -> TableEncoding:
    columns: list[Number | Category] = []
    for column in content["columns"]:
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


def _vectoriser(vocabulary: list[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(vocabulary=vocabulary, sublinear_tf=True, dtype=np.float32)
