"""A look at a file of the user's own: what each column would be taken for, which is a label, a site or a person, and what is in them.

It is for whoever owns the file, on their own machine: it reads everything and says everything, and sends, trains and writes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import DataError, SettingError
from limbeck.inputs import columns, images, labels
from limbeck.inputs.columns import Column, Kind
from limbeck.inputs.tables import MISSING, Table
from limbeck.simulations.data import sources, user_files
from limbeck.simulations.data.settings import DataSettings, Source

LABEL_NAMES = re.compile(
    r"(?i).*(label|class|target|outcome|diagnos|disease|status|result|species|category|fraud|churn|default|survived|y)$|^(y|num)$"
)
SITE_NAMES = re.compile(
    r"(?i)(.*[^a-z])?(site|cent(er|re)|hospital|clinic|dataset|institution|institute|store|shop|branch|plant|station|lab|school|bank"
    r"|agency|region|country|state|province|city|source|device|machine|provider|department|ward)([^a-z].*)?"
)
PERSON_NAMES = re.compile(
    r"(?i)(.*[^a-z])?(patient|person|subject|user|customer|client|participant|individual|student|member|account|card|writer|speaker|pid"
    r"|household)([^a-z].*)?"
)
# A column of so many different values at most can be a label; of so many, sites.
MOST_CLASSES, MOST_SITES = 50, 500
# Rows of a person or a site, on average, from which a column can name them.
ROWS_PER_PERSON, ROWS_PER_SITE = 1.05, 5
# What a file that lists images calls them.
IMAGE_COLUMNS = ("file", "filename", "image", "path", "image_path", "file_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Records of each value of a column: its name, as often as it occurs, most first or in natural order. missing: without any."""

    name: str
    records: tuple[tuple[str, int], ...]
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to see.

    - source: what kind of data this is.
    - said: how the file was read, in sentences.
    - columns: of a table, what each would be taken for.
    - label, site, person: what was asked for, or what looks like it; None if nothing does.
    - level: of a folder, where its sites are: "outer" or "inner"; None if it has none.
    - guessed: which of these three nobody asked for.
    - problem: why the labels cannot be used as they are; empty if they can.
    - hints: what else is worth knowing, in sentences.
    """

    path: Path
    source: Source
    said: tuple[str, ...]
    columns: tuple[Column, ...]
    label: Counted | None
    site: Counted | None
    person: Counted | None
    guessed: tuple[str, ...]
    level: str | None = None
    problem: str
    hints: tuple[str, ...]


def kind_of(path: Path) -> Source:
    """What kind of data a file or folder holds. Raises DataError for any other."""
    if not path.exists():
        raise DataError(f"Expected a file or a folder of data at {path}, found nothing there.")
    if path.is_dir():
        for source, suffixes in (("images", images.SUFFIXES), ("texts", sources.TEXT_SUFFIXES)):
            try:
                sources.open_folder(path, suffixes, source)
            except DataError:
                continue
            return "images" if source == "images" else "texts"
        raise DataError(f"Expected images or .txt files in folders by class below {path}, found none.")
    if path.suffix.lower() in (".npz", ".npy"):
        return "arrays"
    sources.open_table(path)
    return "table"


def look(settings: DataSettings) -> Look:
    """What the user's own file holds, by the settings that there are so far.

    Raises: DataError or SettingError, for a file that cannot be read, or a column that there is not.
    """
    found = settings.source
    assert found is not None  # whoever looks has a file
    source, path = found
    if source == "arrays":
        return _of_arrays(settings, path)
    if path.is_dir():
        return _of_folder(settings, source, path)
    return _of_table(settings, source, path)


def _of_table(settings: DataSettings, source: Source, path: Path) -> Look:
    table, said = sources.open_table(path)
    beside = [name for name in (settings.label, settings.site, settings.group) if name is not None]
    for name, key in ((settings.label, "label"), (settings.site, "site"), (settings.group, "group")):
        if name is not None and name not in table.columns:
            raise DataError(f"Expected a column {name!r} in {path} for --{key}, found {', '.join(table.columns)}.")
    examined = columns.examine(
        table,
        drop=settings.drop,
        kinds=settings.kinds,
        zero_is_missing=settings.zero_is_missing,
        missing_codes=settings.missing_codes,
    )
    rows = len(table)
    rest = [column for column in examined if column.name not in beside]
    person = settings.group or _best(rest, PERSON_NAMES, lambda column: _could_name_persons(column, rows))
    rest = [column for column in rest if column.name != person]
    site = settings.site or _best(rest, SITE_NAMES, lambda column: _could_name_sites(column, rows))
    rest = [column for column in rest if column.name != site]
    label = settings.label or _likely_label(rest)
    guessed = tuple(
        key
        for key, asked, name in (
            ("label", settings.label, label),
            ("site", settings.site, site),
            ("group", settings.group, person),
        )
        if asked is None and name is not None
    )
    counted, problem = _labels(table, label, settings)
    hints = [
        f"{column.name}: {warning}{'' if warning.endswith('?') else '.'}"
        for column in examined
        for warning in column.warnings
        if column.name != label
    ]
    if near := [column.name for column in examined if column.kind is Kind.IDENTIFIER and column.name != person]:
        hints.append(
            f"Nearly every row has its own value of {', '.join(near)}: not used, since it says nothing about another row."
        )
    if person is not None and person == settings.group:
        hints += _of_persons(table, person)
    return Look(
        path=path,
        source=source,
        said=(said,),
        columns=examined,
        label=counted,
        site=_count(table.columns[site], site) if site is not None else None,
        person=_count(table.columns[person], person) if person is not None else None,
        guessed=guessed,
        problem=problem,
        hints=tuple(hints),
    )


def _could_name_persons(column: Column, rows: int) -> bool:
    """Many different values, of which some recur."""
    return column.distinct > 1 and ROWS_PER_PERSON * column.distinct <= rows and column.distinct > MOST_CLASSES


def _could_name_sites(column: Column, rows: int) -> bool:
    return 2 <= column.distinct <= MOST_SITES and ROWS_PER_SITE * column.distinct <= rows


def _best(examined: Sequence[Column], names: re.Pattern[str], could_be: object) -> str | None:
    """The first column with a telling name whose values could be what it says."""
    assert callable(could_be)
    return next((column.name for column in examined if names.fullmatch(column.name.strip()) and could_be(column)), None)


def _likely_label(examined: Sequence[Column]) -> str | None:
    """A column of few values by a telling name, or else the last column if it has few values."""
    few = [
        column
        for column in examined
        if column.kind in (Kind.BOOLEAN, Kind.CATEGORY) and 2 <= column.distinct <= MOST_CLASSES
    ]
    if named := [column.name for column in few if LABEL_NAMES.fullmatch(column.name.strip())]:
        return named[-1]
    return examined[-1].name if few and examined and examined[-1] == few[-1] else None


def _labels(table: Table, label: str | None, settings: DataSettings) -> tuple[Counted | None, str]:
    if label is None:
        return None, ""
    cells = table.texts(label)
    return _classes(cells, label, settings)


def _classes(cells: Sequence[object], name: str, settings: DataSettings) -> tuple[Counted, str]:
    """Records of each class, or of each value where they are no classes, and why."""
    texts = [labels.to_text(cell) for cell in cells]
    missing = sum(text is None or text.strip() in MISSING for text in texts)
    try:
        source = sources.Source(inputs=Table(columns={}, source=""), labels=cells, sites=None, people=None, where=name)
        names, values = user_files.classes_of(settings, [source])
    except SettingError as error:
        counted = Counter(text.strip() for text in texts if text is not None and text.strip() not in MISSING)
        return Counted(name=name, records=tuple(counted.most_common()), missing=missing), str(error)
    rule = labels.label_rule(values, names, len(names), setting="data.classes")
    found = Counter(rule.all(cells, user_files.NO_LABEL).tolist())
    others = found.pop(user_files.NO_LABEL, 0) - missing
    records = tuple((each, found.get(place, 0)) for place, each in enumerate(names))
    problem = f"{others} records have a label of none of the classes." if others > 0 else ""
    return Counted(name=name, records=records, missing=missing), problem


def _count(cells: Sequence[object], name: str) -> Counted:
    texts = [labels.to_text(cell) for cell in cells]
    present = [text.strip() for text in texts if text is not None and text.strip() not in MISSING]
    records = sorted(Counter(present).items(), key=lambda item: labels.natural(item[0]))
    return Counted(name=name, records=tuple(records), missing=len(texts) - len(present))


def _of_persons(table: Table, person: str) -> list[str]:
    counted = Counter(cell for cell in table.columns[person] if cell is not None)
    most = max(counted.values(), default=0)
    return [
        f"{len(counted)} persons, with up to {most} records each; epsilon is per record, and a person with {most} costs more."
    ]


def _of_arrays(settings: DataSettings, path: Path) -> Look:
    there = sources.arrays_in(path)
    shapes = ", ".join(
        f"{name} {' x '.join(map(str, header.shape)) or 'one'} {header.dtype}" for name, header in there.items()
    )
    read = sources.read(settings)
    said = (f"{path.name}: arrays {shapes}", *read.said)
    label = settings.label or next((name for name in sources.LABEL_NAMES if name in there), "labels")
    counted, problem = _classes(read.labels or (), label, settings)
    flat = [name for name, header in there.items() if header.shape == (len(read),) and name not in (label, settings.site)]
    site = settings.site or next((name for name in flat if SITE_NAMES.fullmatch(name)), None)
    person = settings.group or next((name for name in flat if PERSON_NAMES.fullmatch(name) and name != site), None)
    guessed = tuple(
        key for key, asked, name in (("site", settings.site, site), ("group", settings.group, person)) if name and not asked
    )
    again = settings.model_copy(update={"site": site, "group": person})
    beside = sources.read(again) if guessed else read
    return Look(
        path=path,
        source="arrays",
        said=said,
        columns=(),
        label=counted,
        site=_count(beside.sites or (), site) if site is not None else None,
        person=_count(beside.people or (), person) if person is not None else None,
        guessed=guessed,
        problem=problem,
        hints=(),
    )


def _of_folder(settings: DataSettings, source: Source, path: Path) -> Look:
    suffixes = images.SUFFIXES if source == "images" else sources.TEXT_SUFFIXES
    folder = sources.open_folder(path, suffixes, source)
    site, guessed = settings.site, tuple[str, ...]()
    hints: list[str] = []
    if site is None and set(folder.depths) == {2}:
        # A real site has a folder of classes (docs/teachers.md), so the outer folders are the sites unless names say otherwise.
        outer, inner = ({parts[place] for parts, _ in folder.files} for place in (0, 1))
        of_sites = [all(SITE_NAMES.fullmatch(name) for name in names) for names in (outer, inner)]
        site, guessed = ("inner" if of_sites == [False, True] else "outer"), ("site",)
        hints.append(
            f"Two levels of folders, {len(outer)} around {len(inner)}: taken as {'SITE/CLASS' if site == 'outer' else 'CLASS/SITE'};"
            f" --site {'inner' if site == 'outer' else 'outer'} says otherwise."
        )
    settings = settings.model_copy(update={"site": site})
    classes, sites = sources.layout(folder, site, path, source)
    others = f"; {folder.others} other files are left out" if folder.others else ""
    said = [f"{path.name}: {len(folder.files)} {source} in folders{others}"]
    if source == "images":
        size = settings.image_size or sources.size_of([file for _, file in folder.files])
        said.append(
            f"Images become grey, on white where they are transparent, and are stretched to {size[0]} x {size[1]} (data.image_size)"
        )
    counted, problem = _classes(classes, "the folders", settings)
    return Look(
        path=path,
        source=source,
        said=tuple(said),
        columns=(),
        label=counted,
        site=_count(sites, "folders") if sites is not None else None,
        person=None,
        guessed=guessed,
        level=site,
        problem=problem,
        hints=tuple(hints),
    )
