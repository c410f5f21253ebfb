"""The user's own files as a data set: private records at natural sites or to be divided, public inputs, and a test set.

Public inputs and the public encoding come from the public part alone, and no label of it is used but to score the pool. What becomes of the
files is said in sentences, which a simulation prints and keeps.

Shape legend: N records of all files, main file first; D numbers per row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.progress import Progress
from limbeck.client.records import RecordSettings
from limbeck.inputs import columns, encodings, labels, rows
from limbeck.inputs.encodings import TableEncoding, TextEncoding
from limbeck.inputs.tables import MISSING, Table
from limbeck.simulations.data import sources, split
from limbeck.simulations.data.dataset import DataSet, Labels
from limbeck.simulations.data.encoded import through_encoder, through_image_encoder
from limbeck.simulations.data.settings import DataSettings, Values
from limbeck.simulations.data.sources import Source

NO_LABEL = -1
# The most words of public texts that are counted.
WORDS = 2000
# The column of the labels of texts in a folder, which have no table.
LABEL_COLUMN = "label"
# What a sentence shows of many.
SHOWN = 8
PART_KEYS = ("public", "test")


def load(settings: DataSettings, *, seed: int = 0, cache: Path | None = None, progress: Progress | None = None) -> DataSet:
    """The user's own data, divided.

    - seed: of which records are public. The test set does not depend on it.
    - cache: where public encoders are, and encoded texts go.
    - progress: of texts through an encoder.

    Raises: SettingError or DataError, naming what is missing or cannot be.
    """
    main = sources.read(settings)
    files = {key: Path(value) for key in PART_KEYS if isinstance(value := getattr(settings, key), str)}
    alike = settings
    if settings.images is not None and isinstance(main.inputs, np.ndarray):
        # The size that was chosen for the first folder is that of the others, whatever sizes are most common in them.
        alike = settings.model_copy(update={"image_size": main.inputs.shape[1:3]})
    others = {key: sources.read(alike, path, labelled=key == "test") for key, path in files.items()}
    names, values = classes_of(settings, [main, *(others[key] for key in ("test",) if key in others)])
    rule = labels.label_rule(values, names, len(names), setting="data.classes")
    joined = sources.join(main, *others.values())
    assert joined.labels is not None  # `join` says so
    label_N = rule.all(joined.labels, NO_LABEL)
    site_N = [
        None if site is None or site.strip() in MISSING else site.strip() for site in joined.sites or [None] * len(joined)
    ]
    origin_N = np.repeat(["main", *others], [len(main), *map(len, others.values())])
    usable_N = (
        (origin_N == "main") & (label_N != NO_LABEL) & np.array([settings.site is None or bool(site) for site in site_N])
    )
    if not usable_N.any():
        raise SettingError(
            f"data.classes = {list(names)}: expected labels of these classes in {main.where}, got others, such as"
            f" {next((cell for cell in joined.labels if cell is not None), None)!r}."
        )
    records = split.Records(
        inputs=joined.keys(), people=joined.people or [None] * len(joined), sites=site_N, labels=label_N.tolist()
    )
    chosen = {key: _chosen(settings, key, records, usable_N, origin_N, label_N) for key in PART_KEYS}
    fixed = np.concatenate([part for part in chosen.values() if isinstance(part, np.ndarray)] or [np.zeros(0, np.int64)])
    parts = split.split(
        records,
        candidates=np.setdiff1d(np.flatnonzero(usable_N), fixed),
        public=chosen["public"],
        test=chosen["test"],
        private=settings.private,
        seed=seed,
    )
    held = sorted({site for row in parts.private if (site := site_N[row]) is not None}, key=labels.natural)
    number = {site: place for place, site in enumerate(held)}
    said = [
        *main.said,
        *(sentence for other in others.values() for sentence in other.said),
        *_left_out(settings, main, joined.labels, label_N, site_N),
        *_repeated([key for key, usable in zip(records.inputs, usable_N, strict=True) if usable]),
        *_divided(settings, parts, label_N, names, main),
    ]
    found = DataSet(
        name=Path(main.where).name,
        private_x=np.zeros(0),
        private_y=label_N[parts.private],
        public_x=np.zeros(0),
        public_y=label_N[parts.public],
        test_x=np.zeros(0),
        test_y=label_N[parts.test],
        class_names=names,
        groups=np.array([number[str(site_N[row])] for row in parts.private], np.int64) if settings.site else None,
        group_names=tuple(held) if settings.site else None,
        test_groups=np.array([number.get(str(site_N[row]), -1) for row in parts.test], np.int64) if settings.site else None,
        people=_numbered([records.people[row] for row in parts.private]) if settings.group else None,
        licence="the user's own",
        source=main.where,
        said=tuple(said),
    )
    return _with_inputs(found, settings, joined, parts, values, cache, progress)


def classes_of(settings: DataSettings, labelled: Sequence[Source]) -> tuple[tuple[str, ...], tuple[Values, ...]]:
    """Names of the classes, and of each the values of its label: as the settings have them, or as the data show.

    Raises: SettingError for labels that are no classes, such as those of a regression.
    """
    names, values = settings.class_names, settings.class_values
    if names is not None and values is not None:
        return names, values
    try:
        found = labels.find_classes(cell for source in labelled for cell in source.labels or ())
    except SettingError as error:
        where = f"data.label = {settings.label!r}" if settings.label is not None else f"the labels of {labelled[0].where}"
        raise SettingError(f"{where}: {error}") from None
    return found, found


def class_names(settings: DataSettings) -> tuple[str, ...]:
    """Names of the classes of the user's own data, in the order of the labels. Raises SettingError or DataError."""
    if settings.class_names is not None:
        return settings.class_names
    labelled = [sources.read(settings)]
    if isinstance(settings.test, str):
        labelled.append(sources.read(settings, Path(settings.test)))
    return classes_of(settings, labelled)[0]


def _chosen(
    settings: DataSettings,
    key: str,
    records: split.Records,
    usable_N: NDArray[np.bool_],
    origin_N: NDArray[np.str_],
    label_N: Labels,
) -> int | float | split.Rows:
    """What `split` takes for a part: a number, a share, or the rows themselves."""
    value = getattr(settings, key)
    if isinstance(value, tuple):
        rows_N = split.named_sites(
            [site if usable else None for site, usable in zip(records.sites, usable_N, strict=True)], value, key
        )
    elif isinstance(value, str):
        rows_N = np.flatnonzero((origin_N == key) & ((key == "public") | (label_N != NO_LABEL)))
        if not len(rows_N):
            raise DataError(f"Expected records with labels of the classes in {value} for data.{key}, found none.")
    else:
        return split.DEFAULT_SHARE if value is None else value
    return rows_N


def _numbered(people: Sequence[str | None]) -> Labels:
    """A number for each person; a record of nobody known is of somebody else than all others."""
    numbers: dict[str, int] = {}
    for row, person in enumerate(people):
        numbers.setdefault(f"row {row}" if person is None else f"person {person}", len(numbers))
    return np.array(
        [numbers[f"row {row}" if person is None else f"person {person}"] for row, person in enumerate(people)], np.int64
    )


def _with_inputs(
    found: DataSet,
    settings: DataSettings,
    joined: Source,
    parts: split.Split,
    values: tuple[Values, ...],
    cache: Path | None,
    progress: Progress | None,
) -> DataSet:
    """The data set with its inputs, as sites get them, and as students do."""
    inputs, classes = joined.inputs, len(found.class_names)
    if isinstance(inputs, np.ndarray):
        pixels = {"private_x": inputs[parts.private], "public_x": inputs[parts.public], "test_x": inputs[parts.test]}
        if settings.encoder is not None:
            # Arrays take no encoder, so that these are files.
            records = RecordSettings(classes=_folder_names(found.class_names))
            files = tuple(joined.files[row] for row in parts.private)
            with_images = replace(found, **pixels, files=files, records=records)  # type: ignore[arg-type]
            return through_image_encoder(with_images, encoder=settings.encoder, cache=cache, progress=progress)
        if not joined.files:
            return replace(found, **pixels, records=RecordSettings(classes=tuple(range(classes))))  # type: ignore[arg-type]
        size = (inputs.shape[1], inputs.shape[2])
        records = RecordSettings(classes=_folder_names(found.class_names), image_size=size)
        return replace(found, **pixels, files=tuple(joined.files[row] for row in parts.private), records=records)  # type: ignore[arg-type]
    if isinstance(inputs, rows.RowTable):
        encoding: TableEncoding | TextEncoding = _of_rows(inputs.rows(parts.public), found.source)
        return replace(
            found,
            private_x=encoding(inputs.rows(parts.private)),
            public_x=encoding(inputs.rows(parts.public)),
            test_x=encoding(inputs.rows(parts.test)),
            encoding=encoding,
            records=RecordSettings(classes=tuple(range(classes))),
        )
    label = settings.label or LABEL_COLUMN
    cells = [None if cell is None else str(cell) for cell in joined.labels or ()]
    private = inputs.rows(parts.private)
    at_sites = Table(columns={**private.columns, label: [cells[row] for row in parts.private]}, source=private.source)
    records = RecordSettings(label=label, classes=values)
    if settings.encoder is not None:
        (column,) = inputs.columns
        return through_encoder(
            replace(found, private_x=at_sites, records=records),
            inputs.rows(parts.public),
            inputs.rows(parts.test),
            column=column,
            encoder=settings.encoder,
            cache=cache,
            progress=progress,
        )
    public = inputs.rows(parts.public)
    encoding, said = _of_texts(public) if settings.texts is not None else _of_table(public, settings)
    return replace(
        found,
        private_x=at_sites,
        public_x=encoding(public),
        test_x=encoding(inputs.rows(parts.test)),
        encoding=encoding,
        records=records,
        said=(*found.said, *said),
    )


def _of_table(public: Table, settings: DataSettings) -> tuple[TableEncoding, list[str]]:
    """The encoding of a table by its public rows alone, and which columns it leaves out."""
    examined = columns.examine(
        public, kinds=settings.kinds, zero_is_missing=settings.zero_is_missing, missing_codes=settings.missing_codes
    )
    encoding = encodings.fit(public, examined)
    unused = [f"{column.name} ({column.why})" for column in examined if column.name not in encoding.reads]
    said = [f"Not used: {'; '.join(unused[:SHOWN])}{_more(len(unused) - SHOWN)}."] if unused else []
    return encoding, [*said, f"Each row becomes {encoding.dimensions} numbers, by the public rows alone."]


def _of_texts(public: Table) -> tuple[TextEncoding, list[str]]:
    (column,) = public.columns
    words = {word for text in public.texts(column) for word in re.findall(r"(?u)\b\w\w+\b", (text or "").lower())}
    if not words:
        raise DataError(f"Expected words in the public texts of {public.source}, found none.")
    encoding = encodings.fit_text(public, column, words=min(WORDS, len(words)))
    return encoding, [f"Each text becomes counts of the {encoding.dimensions} words that most public texts contain."]


def _of_rows(public: Table, source: str) -> TableEncoding:
    """Means and deviations of public numbers; a column without any public value is not used."""
    known = [name for name in public.columns if not np.isnan(public.numbers(name)).all()]
    if not known:
        raise DataError(f"Expected public numbers in {source}, found none.")
    return encodings.fit_table(public, numbers=known, categories=())


def _folder_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """A name for the folder of each class: its own where it can be one, else its number."""
    safe = [re.sub(r"[^\w .+-]", "-", name).strip(" .") for name in class_names]
    folded = {labels.folded(name) for name in safe if name}
    return tuple(safe) if len(folded) == len(class_names) else tuple(map(str, range(len(class_names))))


# What is said


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _left_out(
    settings: DataSettings, main: Source, cells: Sequence[object], label_N: Labels, site_N: Sequence[str | None]
) -> list[str]:
    sentences = []
    rows_N = range(len(main))
    missing = [row for row in rows_N if cells[row] is None or str(cells[row]).strip() in MISSING]
    unknown = Counter(str(cells[row]) for row in rows_N if label_N[row] == NO_LABEL) - Counter(
        str(cells[row]) for row in missing
    )
    if missing:
        sentences.append(
            f"{len(missing)} of {len(main)} records have no label and are left out, the first in row {missing[0] + 1}."
        )
    if unknown:
        shown = ", ".join(f"{cell!r} ({number})" for cell, number in unknown.most_common(SHOWN))
        sentences.append(
            f"{unknown.total()} of {len(main)} records have labels of no class and are left out: {shown}{_more(len(unknown) - SHOWN)}."
        )
    if settings.site is not None and (nowhere := [row for row in rows_N if site_N[row] is None]):
        sentences.append(
            f"{len(nowhere)} of {len(main)} records name no site and are left out, the first in row {nowhere[0] + 1}."
        )
    return sentences


def _repeated(keys: Sequence[bytes]) -> list[str]:
    """How many records have the inputs of another one. keys: of the inputs of each record."""
    if not (again := len(keys) - len(set(keys))):
        return []
    return [
        f"{again} of {len(keys)} records have the same inputs as an earlier one; no two parts have such a record in common. Nearly the"
        " same ones are not found."
    ]


def _divided(settings: DataSettings, parts: split.Split, label_N: Labels, names: Sequence[str], main: Source) -> list[str]:
    sizes = {"private": parts.private, "public": parts.public, "test": parts.test}
    sentences = [
        f"{', '.join(f'{len(rows_N)} {name}' for name, rows_N in sizes.items())} records, no record in two of them."
    ]
    for name, number in parts.doubled.items():
        if number:
            others = "private or in the test set" if name == "public" else "private"
            sentences.append(
                f"{number} records of data.{name} are also {others}, or of the same person: they are left out of it."
            )
    for name, rows_N in sizes.items():
        there = set(label_N[rows_N].tolist())
        if name == "public" and NO_LABEL in there:
            sentences.append(
                "Not all public inputs have a label: the pool is not scored on them. Labels of public inputs train nothing."
            )
            continue
        if absent := [label for place, label in enumerate(names) if place not in there]:
            why = {
                "private": "no site can teach it",
                "public": "the student sees no example of it",
                "test": "nothing is known about how well it is told",
            }[name]
            sentences.append(f"No {name} record is of class {', '.join(absent[:SHOWN])}{_more(len(absent) - SHOWN)}: {why}.")
    if not isinstance(settings.public, str | tuple):
        sentences.append(
            f"The public inputs are {len(parts.public)} of your own records, without their labels: state the assumption that these may"
            " be shown to all sites, or give data.public a file that may."
        )
    return sentences
