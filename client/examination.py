"""What an owner should know of their own records before a plan is charged for: `limbeck site check`.

It reads everything, and nothing of it leaves the terminal: it sends nothing, charges nothing and writes nothing. So it may do what a site
that answers a coordinator must not, and look at rows to say what is wrong with them. Its findings are for people: nothing that a site
answers depends on one.

Shape legend: N records, P numbers of one input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base import findings
from limbeck.base.errors import DataError, LimbeckError, SettingError
from limbeck.base.findings import Finding, Findings, fail, ok, warn
from limbeck.client import conditions, records
from limbeck.client.declining import Decline
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.policy import UnsafePermissive
from limbeck.client.records import Found, LeftOut, RecordSettings
from limbeck.client.site import Site
from limbeck.inputs import columns, dialects, encodings, images, labels, tables
from limbeck.inputs.encodings import EncoderEncoding, Encoding, TableEncoding, TextEncoding
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import accounting, doubts, privacy_filter
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Offer

# The share of a column's values that may be missing, unknown or outside the public range before it is a warning.
MANY = 0.05
# The share of words that are among the public ones, below which texts may be in another language.
FEW_KNOWN_WORDS = 0.4
# What an encoding of words takes for one.
WORD = re.compile(r"\b\w\w+\b")
# Standard deviations from the public mean within which values are expected, where an encoding does not keep the public range.
USUAL_DEVIATIONS = 4.0
# Names, or columns, that a line shows.
SHOWN = 8
# By what factor a unit is smaller than another that is used for the same thing.
UNITS: tuple[tuple[float, str], ...] = (
    (1000, "thousands, or g for kg"),
    (100, "per cent, or cm for m"),
    (88.4, "mg/dL of creatinine for µmol/L"),
    (38.67, "mmol/L of cholesterol for mg/dL"),
    (18.02, "mmol/L of glucose for mg/dL"),
    (10, "cm for mm"),
    (7.5, "kPa for mmHg"),
    (2.54, "inches for cm"),
    (2.2046, "kg for lb"),
)
UNIT_TOLERANCE = 0.12
# The darkest white: images of which no pixel is brighter may be in another scale, such as 12 of 16 bits.
DARK = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What was found in a column that the plan reads, in cells.

    kind: as the encoding has it, or "number" of `records.columns`.
    unreadable: neither missing nor of that kind.
    unknown: names that the encoding does not know.
    below, above: outside of the public values' range.
    """

    name: str
    kind: str
    missing: int
    unreadable: int = 0
    unknown: int = 0
    below: int = 0
    above: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a plan would cost this site, per record, add or remove one.

    alone: epsilon at delta of the plan by itself.
    spent, after: epsilon at delta of all charges before it, and with it: what the budget is held to.
    budget: the most that is allowed.
    """

    alone: float
    spent: float
    after: float
    budget: float
    delta: float
    unit: str
    adjacency: str

    @property
    def left(self) -> float:
        """What the budget would still allow; no negative number."""
        return max(0.0, self.budget - self.after)


@dataclass(slots=True)
class Report:
    """All that was found about a site's records, and about a plan if one was given.

    all, kept: records in the source, and those that a teacher would be trained on.
    classes: how many records each class has.
    columns: of a table.
    accepted: whether the site would accept the plan; None without one.
    """

    site: str
    plan: str | None = None
    findings: list[Finding] = field(default_factory=list)
    all: int = 0
    kept: int = 0
    left_out: tuple[LeftOut, ...] = ()
    classes: dict[str, int] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    accepted: bool | None = None
    cost: Cost | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return findings.healthy(self.findings)

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "site": self.site,
            "plan": self.plan,
            "healthy": self.healthy,
            "accepted": self.accepted,
            "cost": {**asdict(self.cost), "left": self.cost.left} if self.cost is not None else None,
            "records": {
                "all": self.all,
                "kept": self.kept,
                "left_out": [asdict(each) for each in self.left_out],
                "classes": self.classes,
            },
            "columns": [asdict(column) for column in self.columns],
            "findings": [finding.to_json() for finding in self.findings],
        }


def examine(site: Site, offer: Offer | None = None) -> Report:
    """Everything about a site's records, and whether it would accept a plan; see the module.

    offer: the plan with its author; without one, the classes are those that the settings name, or that the labels show.
    """
    report = Report(site=site.name, plan=offer.plan.name if offer is not None else None)
    report.findings.extend(_of_records(site, offer.plan if offer is not None else None, report))
    if offer is not None:
        of_plan = list(_of_plan(site, offer, report))
        report.accepted = findings.healthy(of_plan) and not any(
            finding.outcome is findings.Outcome.FAIL and finding.check == "source" for finding in report.findings
        )
        report.findings.extend(of_plan)
        report.findings.append(_verdict(report))
    return report


def structure(settings: RecordSettings, folder: Path) -> Findings:
    """What names, headers and settings show of the records, whatever the plan; no record is read."""
    path = folder / str(settings.path)
    if settings.reader is not None or not path.exists():
        return
    try:
        if path.is_dir():
            yield from _structure_of_folders(settings, path)
        elif tables.is_table(path):
            yield from _structure_of_a_table(settings, path, folder)
        else:
            yield from _structure_of_arrays(settings, path)
    except (DataError, SettingError) as error:
        yield fail(str(error), "docs/mistakes.md lists what a plan is declined for.")


def _structure_of_folders(settings: RecordSettings, path: Path) -> Findings:
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    if settings.classes is not None:
        rule = labels.label_rule(settings.classes, (), len(settings.classes))
        records.class_folders(path, rule)
    records.check_images(path, folders)
    others = Counter[str]()
    for each in folders:
        others.update(images.others(each))
    if others:
        yield warn(
            f"Files that are no images by their names are not read: {_counted(others)}.",
            "Convert them, if they are records.",
        )
    yield ok(f"{len(folders)} class folders: {_list([each.name for each in folders])}")


def _structure_of_a_table(settings: RecordSettings, path: Path, folder: Path) -> Findings:
    dialect = records.read_dialect(settings, path)
    header = tables.read_header(path, dialect)
    tables.require(header, [settings.label], f"{path} for records.label")
    encoding = records.read_encoding(settings, path, folder)
    tables.require(header, settings.columns if encoding is None else encoding.reads, str(path))
    if not tables.has_rows(path, dialect):
        raise DataError(f"Expected records in {path}, found a header and nothing else.")
    yield ok(f"{len(header)} columns, {dialect.describe()}, by the header and the settings")


def _structure_of_arrays(settings: RecordSettings, path: Path) -> Findings:
    x, y = records.read_array_headers(settings, path)
    yield ok(f"x of shape {x.shape}, {x.dtype}; y of shape {y.shape}, {y.dtype}")


# Records


def _of_records(site: Site, plan: Plan | None, report: Report) -> Findings:
    settings, folder = site.settings.record_settings, site.folder
    try:
        public_x, against = _public(site, plan)
        if plan is not None:
            classes, names = plan.classes, plan.class_names
        else:
            settings, names = _named(settings, folder)
            classes = len(names)
    except LimbeckError as error:
        yield fail(str(error), check="source")
        return
    try:
        records.check(settings, folder, classes, public_x, class_names=names, prepare=False)
        kind = plan.inputs.kind if plan is not None and plan.inputs is not None else None
        found = records.find(settings, folder, classes, public_x, class_names=names, kind=kind, encode_texts=False)
    except LimbeckError as error:
        yield fail(str(error), "The site declines the plan for this, before anything is charged.", check="source")
        yield from _dialect(settings, folder)
        return
    report.all, report.kept, report.left_out = found.all, len(found.y_N), found.left_out
    report.classes = dict(zip(found.names, found.counts, strict=True))
    yield from _kept(found, settings)
    yield from _classes(found, settings, plan)
    yield from _dialect(settings, folder)
    if against:
        yield ok(against, check="public inputs")
    path = folder / str(settings.path)
    # Their rows are not made here.
    of_images = records.image_encoding(settings, folder)
    if settings.reader is None and path.is_dir():
        yield from _images(path, in_colour=of_images is not None)
    if settings.reader is None and tables.is_table(path):
        yield from _columns(settings, path, folder, public_x, report)
    elif len(found.x_N) and of_images is None:
        yield from _values(found, public_x)


def _public(site: Site, plan: Plan | None) -> tuple[NDArray[np.generic], str]:
    """The public inputs to compare with, and what they are: the plan's, the only ones that the site holds, or none of the right shape."""
    if plan is not None:
        try:
            return site.transfer_sets.read(plan.transfer_set, plan.samples), ""
        except DataError:  # said when the plan is looked at
            return _nothing(site), ""
    held = sorted((site.folder / site.settings.transfer_sets).glob("*.npz"))
    if len(held) == 1:
        (x_N,) = read_arrays(held[0], "x")
        return x_N, f"compared with the only ones here, {held[0].stem[:16]}; give PLAN for those of a plan"
    return _nothing(site), "not compared with any: give PLAN"


def _nothing(site: Site) -> NDArray[np.generic]:
    settings = site.settings.record_settings
    kind = np.uint8 if settings.path is not None and (site.folder / settings.path).is_dir() else np.float32
    return np.zeros((0, *records.shape_of_inputs(settings, site.folder)), kind)


def _named(settings: RecordSettings, folder: Path) -> tuple[RecordSettings, tuple[str, ...]]:
    """The settings with classes, and their names: those that they name, or else those that the labels show."""
    if settings.classes is None:
        settings = settings.model_copy(update={"classes": labels.find_classes(records.written_labels(settings, folder))})
    assert settings.classes is not None
    rule = labels.label_rule(settings.classes, (), len(settings.classes))
    return settings, tuple("/".join(values) for values in rule.names)


def _kept(found: Found, settings: RecordSettings) -> Findings:
    if not len(found.y_N):
        yield fail(
            f"NO USABLE RECORD of {found.all} in {found.source}: a plan would be charged for, and its teacher would learn nothing.",
            check="records",
        )
    else:
        yield ok(f"{len(found.y_N)} of {found.all} records in {found.source} are used", check="records")
    for each in found.left_out:
        yield warn(f"{each.count} of {found.all} are left out. {each}", check="records")


def _classes(found: Found, settings: RecordSettings, plan: Plan | None) -> Findings:
    counts = ", ".join(f"{name} {count}" for name, count in list(zip(found.names, found.counts, strict=True))[: 3 * SHOWN])
    unknown = ", ".join(f"{label} ({count})" for label, count in found.unknown[:SHOWN])
    if found.unknown:
        yield warn(
            f"Labels of no class: {unknown}{', ...' if len(found.unknown) > SHOWN else ''}.",
            _advice_on_labels(found, settings),
            check="classes",
        )
    if found.absent and len(found.y_N):
        yield warn(
            f"NO RECORD of {len(found.absent)} of {len(found.names)} classes: {_list(found.absent)}. Per class: {counts}.",
            "The teacher cannot tell these. If there are such records, their labels are written otherwise: see the rule in"
            " docs/teachers.md, or name their values under records.classes.",
            check="classes",
        )
    elif len(found.y_N):
        yield ok(counts, check="classes")
        common = max(found.counts) / len(found.y_N)
        if common > 0.95:
            yield warn(
                f"{100 * common:.1f} % of the records are of one class: who always says so is right as often.",
                "Judge a student by AUPRC or balanced accuracy, and ask the plan's author about class_weights and temperature.",
                check="classes",
            )
    if plan is not None and plan.privacy.delta * found.all > doubts.LARGE_DELTA:
        yield warn(
            f"delta = {plan.privacy.delta:g} for {found.all} records: expected far less than one over their number.",
            "Ask the plan's author for a smaller delta.",
            check="classes",
        )


def _advice_on_labels(found: Found, settings: RecordSettings) -> str:
    """What to write, as far as the labels show it."""
    names = [str(name) for name, _ in found.unknown]
    numbers = [labels.whole(name.strip("'\"")) for name in names]
    places = [str(place) for place in range(len(found.names))]
    if settings.classes is None and numbers == [str(len(places))] and not found.counts[0]:
        counted = ", ".join(str(place + 1) for place in range(len(places)))
        return f"They are counted from 1: write under [records]: classes = [{counted}]"
    if not len(found.y_N) and len(names) == len(places) and None not in numbers:
        own = ", ".join(sorted((number for number in numbers if number is not None), key=int))
        return f"If these are the classes {_list(found.names)}, in this order, write under [records]: classes = [{own}]"
    if not len(found.y_N):
        return (
            f"Write under [records], for each of the classes {_list(found.names)}, the value that yours has: classes = [...]"
        )
    return "Records of these are left out, each by itself. If they are meant as one of the classes, name them under records.classes."


def _dialect(settings: RecordSettings, folder: Path) -> Findings:
    """Whether the rows show another dialect than header and settings say."""
    path = folder / str(settings.path)
    if settings.reader is not None or not path.is_file() or not tables.is_table(path):
        return
    try:
        used, seen = records.read_dialect(settings, path), tables.detect_dialect(path)
    except LimbeckError:  # said when it was read
        return
    lines = [
        f"{name} = {_toml(getattr(seen, name))}"
        for name in ("delimiter", "quote", "decimal", "text_encoding")
        if getattr(settings, name) is None and not _is_alike(name, used, seen)
    ]
    if lines:
        yield warn(
            f"The rows look like: {seen.describe()}. They are read as: {used.describe()}.",
            f"Write under [records]: {'; '.join(lines)}",
            check="dialect",
        )
    else:
        yield ok(used.describe(), check="dialect")


def _is_alike(name: str, used: dialects.Dialect, seen: dialects.Dialect) -> bool:
    """Whether a part of the dialect does not make the rows mean something else.

    Where the decimal sign is read cell by cell, 1.234 is little more than one: the sign has to be said if points separate thousands.
    """
    if name == "decimal" and used.decimal == dialects.EITHER:
        return seen.thousands not in {".", ","}
    return bool(getattr(used, name) == getattr(seen, name))


def _toml(value: str) -> str:
    return '"\\t"' if value == "\t" else f'"{value}"'


# Tables


def _columns(settings: RecordSettings, path: Path, folder: Path, public_x: NDArray[np.generic], report: Report) -> Findings:
    table, encoding = records.read_table(settings, path), records.read_encoding(settings, path, folder)
    for column, found in _each_column(table, settings, encoding, public_x):
        report.columns.append(column)
        yield from found
    missing = [f"{column.name} {column.missing}" for column in report.columns if column.missing]
    if missing:
        yield ok(f"missing cells: {_list(missing)}", check="columns")
    elif report.columns:
        yield ok(f"{len(report.columns)} columns are read, no cell of which is missing", check="columns")


def _each_column(
    table: tables.Table, settings: RecordSettings, encoding: Encoding | None, public_x: NDArray[np.generic]
) -> Iterator[tuple[Column, list[Finding]]]:
    match encoding:
        case None:
            for place, name in enumerate(settings.columns):
                seen = _quantiles(public_x[:, place]) if len(public_x) else ()
                yield _number(table, encodings.Number(name=name, mean=0.0, deviation=1.0, seen=seen))
        case TableEncoding():
            for each in encoding.columns:
                match each:
                    case encodings.Number():
                        yield _number(table, each)
                    case encodings.Date():
                        yield _date(table, each)
                    case encodings.Words():
                        yield _text(table, each.name, each.words)
                    case _:
                        yield _names(table, each)
        case TextEncoding():
            yield _text(table, encoding.column, encoding.words)
        case EncoderEncoding():
            yield _text(table, encoding.column, None)


def _quantiles(value_N: NDArray[np.generic]) -> tuple[float, ...]:
    finite_N = value_N.astype(np.float64)
    finite_N = finite_N[np.isfinite(finite_N)]
    return tuple(np.quantile(finite_N, encodings.QUANTILES).tolist()) if len(finite_N) else ()


def _number(table: tables.Table, own: encodings.Number) -> tuple[Column, list[Finding]]:
    cells, value_N = table.texts(own.name), table.numbers(own.name)
    present_N = np.array([cell is not None for cell in cells], np.bool_)
    coded_N = np.isin(value_N, own.missing_codes) | ((value_N == 0) & own.zero_is_missing)
    readable_N = present_N & ~np.isnan(value_N)
    column = Column(
        name=own.name,
        kind="number",
        missing=int((~present_N | coded_N).sum()),
        unreadable=int((present_N & np.isnan(value_N)).sum()),
    )
    found = list(_cells(column, [cells[row] for row in np.flatnonzero(present_N & np.isnan(value_N)).tolist()], len(cells)))
    inside_N = value_N[readable_N & ~coded_N]
    return _ranged(column, own, inside_N, found)


def _date(table: tables.Table, own: encodings.Date) -> tuple[Column, list[Finding]]:
    cells, day_N = table.texts(own.name), own.days(table)
    present_N = np.array([cell is not None for cell in cells], np.bool_)
    odd_N = present_N & np.isnan(day_N)
    column = Column(name=own.name, kind="date", missing=int((~present_N).sum()), unreadable=int(odd_N.sum()))
    found = list(_cells(column, [cells[row] for row in np.flatnonzero(odd_N).tolist()], len(cells)))
    return _ranged(column, own, day_N[present_N & ~odd_N], found)


def _ranged(
    column: Column, own: encodings.Number | encodings.Date, value_N: NDArray[np.float64], found: list[Finding]
) -> tuple[Column, list[Finding]]:
    """The column with the values outside of what the public ones were, and what to say of them."""
    if own.seen:
        low, high, middle = own.seen[0], own.seen[-1], own.seen[len(own.seen) // 2]
    elif own.mean or own.deviation != 1:
        low, high, middle = (
            own.mean - USUAL_DEVIATIONS * own.deviation,
            own.mean + USUAL_DEVIATIONS * own.deviation,
            own.mean,
        )
    else:
        return column, found
    column = replace(column, below=int((value_N < low).sum()), above=int((value_N > high).sum()))
    for count, side, bound in ((column.below, "below the least", low), (column.above, "above the greatest", high)):
        if count > MANY * len(value_N):
            dates = isinstance(own, encodings.Date)
            public = f"{_day(bound) if dates else f'{bound:g}'}"
            yours = float(np.median(value_N))
            median = f"your median {_day(yours) if dates else f'{yours:g}'}, the public one {_day(middle) if dates else f'{middle:g}'}"
            usual = "" if own.seen else " that is usual"
            unit = "" if dates else _unit(yours, middle)
            found.append(
                warn(
                    f"{column.name}: {100 * count / len(value_N):.0f} % of values {side} public one{usual}, {public} ({median})."
                    f"{f' {unit}' if unit else ''}",
                    "Bring it to the unit and the coding of the public table, or ask the plan's author which they are.",
                    check="columns",
                )
            )
    return column, found


def _unit(yours: float, public: float) -> str:
    """Which units may have been confused, by the ratio of medians."""
    if not (np.isfinite(yours) and yours and public) or yours / public <= 0:
        return ""
    ratio = public / yours
    for factor, what in UNITS:
        if abs(ratio / factor - 1) < UNIT_TOLERANCE:
            return f"{factor:g} times smaller: {what}?"
        if abs(ratio * factor - 1) < UNIT_TOLERANCE:
            return f"{factor:g} times larger: the other way round, {what}?"
    return ""


def _day(days: float) -> str:
    return str(np.datetime64("1970-01-01") + np.timedelta64(int(np.clip(days, -7e5, 3e6)), "D"))


def _names(
    table: tables.Table, own: encodings.Category | encodings.Levels | encodings.Hashed | encodings.Boolean
) -> tuple[Column, list[Finding]]:
    cells = table.texts(own.name)
    match own:
        case encodings.Levels():
            odd = [cell for cell, place in zip(cells, own.places(table), strict=True) if place is not None and place < 0]
        case encodings.Category():
            places = tables.Names((level, place) for place, level in enumerate(own.levels))
            odd = [cell for cell in cells if cell is not None and places[cell] is None]
        case encodings.Boolean():
            odd = [cell for cell in cells if cell is not None and columns.truth(cell) is None]
        case encodings.Hashed():
            odd = []
    missing = sum(cell is None for cell in cells)
    if isinstance(own, encodings.Boolean):
        column = Column(name=own.name, kind=own.kind, missing=missing, unreadable=len(odd))
        return column, list(_cells(column, odd, len(cells)))
    column = Column(name=own.name, kind=own.kind, missing=missing, unknown=len(odd))
    found = list(_cells(column, [], len(cells)))
    if odd:
        known = own.levels if isinstance(own, encodings.Category | encodings.Levels) else ()
        found.append(
            warn(
                f"{own.name}: {len(odd)} of {len(cells)} cells hold levels that the public table did not have:"
                f" {_counted(Counter(map(str, odd)))}. It had {_list(known)}.",
                "Records with these are kept, without that level. If they are other spellings, write them as the public table does.",
                check="columns",
            )
        )
    return column, found


def _cells(column: Column, odd: Sequence[object], count: int) -> Findings:
    """What is to be said of cells that cannot be read, or are missing, whatever the kind."""
    if count and column.missing + column.unreadable == count:
        yield fail(
            f"{column.name}: no cell of {count} can be read as a {column.kind}"
            f"{f', such as {_counted(Counter(map(str, odd)))}' if odd else ': all are missing'}.",
            "Compare the column with the public table: its name, its decimal sign (records.decimal), its unit.",
            check="columns",
        )
        return
    if odd:
        yield warn(
            f"{column.name}: {len(odd)} of {count} cells are no {column.kind} and count as missing: {_counted(Counter(map(str, odd)))}.",
            check="columns",
        )
    if column.missing > count / 2:
        yield warn(f"{column.name}: {column.missing} of {count} cells are missing.", check="columns")


def _text(table: tables.Table, name: str, known: Sequence[str] | None) -> tuple[Column, list[Finding]]:
    cells = table.texts(name)
    column = Column(name=name, kind="text", missing=sum(cell is None for cell in cells))
    found = list(_cells(column, [], len(cells)))
    if known is not None:
        words = Counter(word for cell in cells if cell is not None for word in WORD.findall(cell.lower()))
        public = frozenset(known)
        share = sum(count for word, count in words.items() if word in public) / max(1, words.total())
        said = f"{name}: {100 * share:.0f} % of the words are among the {len(known)} public ones"
        if words and share < FEW_KNOWN_WORDS:
            others = _list([word for word, _ in words.most_common(200) if word not in public])
            found.append(
                warn(
                    f"{said}; common others: {others}.",
                    "Texts in another language, or of another kind, than the public ones? A word that is not public counts for nothing.",
                    check="language",
                )
            )
        elif words:
            found.append(ok(said, check="language"))
    return column, found


# Images and arrays


def _images(path: Path, *, in_colour: bool) -> Findings:
    """What reading the images changes of them, grey or in colour, and files that are none."""
    changed, others, total = Counter[str](), Counter[str](), 0
    for folder in sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")):
        others.update(images.others(folder))
        for file in images.files(folder):
            try:
                changed.update(images.changes(images.contents(file)))
            except Exception:  # counted among those that are left out
                continue
            total += 1
    if others:
        yield warn(
            f"Files that are no images by their names are not read: {_counted(others)}.", "Convert them.", check="images"
        )
    if changed:
        kinds = ", ".join(f"{count} {what}" for what, count in changed.most_common())
        yield ok(
            f"of {total} images: {kinds}; all become {'red, green and blue' if in_colour else 'grey'}, upright, on white, of one frame and"
            " one size",
            check="images",
        )


def _values(found: Found, public_x: NDArray[np.generic]) -> Findings:
    """Numbers of arrays and images beside the public ones, both as the teacher gets them."""
    scale = 255.0 if found.x_N.dtype == np.uint8 else 1.0
    own_NP = found.x_N.reshape(len(found.x_N), -1).astype(np.float64) / scale
    finite_N = np.isfinite(own_NP).all(1)
    if not finite_N.all():
        yield warn(
            f"{int((~finite_N).sum())} of {len(own_NP)} inputs hold NaN or infinity: these have no influence on the teacher.",
            check="values",
        )
    own_NP = own_NP[finite_N]
    if not len(own_NP):
        return
    public_scale = 255.0 if public_x.dtype == np.uint8 else 1.0
    public_NP = public_x.reshape(len(public_x), own_NP.shape[1]).astype(np.float64) / public_scale
    low_N, high_N = own_NP.min(1), own_NP.max(1)
    if found.x_N.ndim > 2:
        plain = int((low_N == high_N).sum())
        if plain:
            yield warn(
                f"{plain} of {len(own_NP)} images are of one shade, such as white: they show nothing.", check="values"
            )
        if high_N.max() <= DARK and own_NP.min() >= 0 and (not len(public_NP) or public_NP.max() > DARK):
            yield warn(
                f"No pixel of any image is brighter than {100 * high_N.max():.0f} % of white.",
                "Images of 12 bits in files of 16, say, are nearly black: write them in their whole range.",
                check="values",
            )
    if not len(public_x):
        yield ok(f"from {own_NP.min():g} to {own_NP.max():g}, bytes taken as 0 to 1", check="values")
        return
    yield from _beside_public(own_NP, public_NP, images_are=found.x_N.ndim > 2)


def _beside_public(own_NP: NDArray[np.float64], public_NP: NDArray[np.float64], *, images_are: bool) -> Findings:
    if not images_are:
        low_P, high_P = public_NP.min(0), public_NP.max(0)
        outside_P = ((own_NP < low_P) | (own_NP > high_P)).mean(0)
        worst = np.argsort(-outside_P)[:SHOWN]
        told = [f"column {place} {100 * outside_P[place]:.0f} %" for place in worst.tolist() if outside_P[place] > MANY]
        if told:
            yield warn(
                f"Values outside of the public ones' range: {', '.join(told)}.",
                "Other units, or columns in another order? Compare them with those of the public rows.",
                check="values",
            )
            return
        yield ok("within the public ones' range", check="values")
        return
    low, high = float(public_NP.min()), float(public_NP.max())
    outside = float(((own_NP < low) | (own_NP > high)).mean())
    own_mean, public_mean = float(own_NP.mean()), float(public_NP.mean())
    said = f"mean {own_mean:.2f}, the public ones' {public_mean:.2f}; from {own_NP.min():.3g} to {own_NP.max():.3g}"
    if low >= 0 and high <= 1 and abs(1 - own_mean - public_mean) < abs(own_mean - public_mean) / 3:
        yield warn(
            f"The images look inverted: {said}.", "Is black white in one of them? Compare one of each.", check="values"
        )
    elif outside > MANY:
        yield warn(
            f"{100 * outside:.0f} % of the pixels lie outside of the public ones' range, {low:.3g} to {high:.3g}; {said}.",
            'If yours go from 0 to 255, write under [records]: scale = "bytes"; if from 0 to 1: scale = "unit".',
            check="values",
        )
    else:
        yield ok(said, check="values")


# A plan


def _of_plan(site: Site, offer: Offer, report: Report) -> Findings:
    """Whether the site accepts the plan, as far as its records do not decide it, and what it would cost."""
    plan = offer.plan
    yield from _budget(site, plan, report)
    for check, step in (
        ("policy", lambda: conditions.check_policy(site, offer)),
        ("noise", lambda: _check_noise(site)),
        ("encoding", lambda: conditions.check_encoding(site, plan)),
        ("public inputs", lambda: conditions.public_inputs(site, plan)),
    ):
        try:
            step()
        except Decline as decline:
            yield fail(
                str(decline.__cause__ or decline), f"The coordinator would be told: {decline.reason.value}.", check=check
            )
        except LimbeckError as error:
            yield fail(str(error), check=check)
    try:
        if isinstance(site.policy(), UnsafePermissive):
            yield warn("The policy is UnsafePermissive: it allows whatever the budget can pay for.", check="policy")
        x_N = site.transfer_sets.read(plan.transfer_set, plan.samples)
    except LimbeckError:  # said above
        return
    for doubt in (*doubts.of_plan(plan), *doubts.of_inputs(plan, x_N)):
        yield warn(doubt, "Ask the plan's author.", check="plan")


def _check_noise(site: Site) -> None:
    """As a site checks it before a charge, without opening the ledger, which would make one."""
    if isinstance(conditions.open_noise(site), UnsafeSeeded) and not site.policy().allows_without_dp:
        raise SettingError(
            'Expected noise.source = "system-entropy", got "UnsafeSeeded": it protects nothing, and the policy does not allow that.'
        )


def _budget(site: Site, plan: Plan, report: Report) -> Findings:
    try:
        budget = site.budget
        book = site.account.check()
    except LimbeckError as error:
        yield fail(str(error), check="ledger")
        return
    schedule, plan_hash = (plan.teaching, plan.counts), codec.plan_hash(plan)
    alone = accounting.epsilon((schedule,), budget.delta)
    if book is not None and book.terms.data_set != budget.data_set:
        yield fail(f"The ledger is of {book.terms.data_set!r}, the policy of {budget.data_set!r}.", check="ledger")
        return
    if book is not None and book.declared and not budget.allow_without_dp:
        yield fail(
            "Something without a guarantee was released: epsilon is infinite, and the policy does not allow that.",
            check="ledger",
        )
        return
    spent = book.charged() if book is not None else 0.0
    charged = book is not None and any(entry.plan_hash == plan_hash and entry.schedule is not None for entry in book.entries)
    more = () if charged else (schedule,)
    after = book.charged(more) if book is not None else privacy_filter.spent(more, budget.delta)
    report.cost = Cost(
        alone=alone,
        spent=spent,
        after=after,
        budget=budget.epsilon,
        delta=budget.delta,
        unit=budget.unit.value,
        adjacency=budget.adjacency.value,
    )
    limit = f"{budget.epsilon:g} at delta = {budget.delta:g}, per {budget.unit.value}, {budget.adjacency.value}"
    if charged:
        yield ok(
            f"this plan was charged already and costs nothing more; epsilon = {spent:.4g} is spent of {limit}", check="cost"
        )
    elif after > budget.epsilon:
        yield fail(
            f"The plan costs epsilon = {alone:.4g}, and all charges with it {after:.4g}, more than the budget of {limit}.",
            "Only you can raise the budget; then the larger one is what is promised.",
            check="cost",
        )
    else:
        left = f"{budget.epsilon - after:.4g} is left of {limit}"
        yield ok(f"epsilon = {alone:.4g} alone; {spent:.4g} is spent, {after:.4g} with it, {left}", check="cost")


def _verdict(report: Report) -> Finding:
    if not report.accepted:
        return fail("This site would decline the plan, and nothing would be charged.", check="plan")
    if not report.kept:
        return fail("This site would accept the plan, pay for it, and teach nothing.", check="plan")
    return ok("this site would accept the plan", check="plan")


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{f', ... ({len(names)})' if len(names) > SHOWN else ''}"


def _counted(names: Counter[str]) -> str:
    return _list([f"{name[:40]} ({count})" for name, count in names.most_common(SHOWN + 1)])
