"""Which records are used, of which classes, and whether the file is read as it was written.

Shape legend: N records, P numbers of one input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.findings import Findings, fail, ok, warn
from limbeck.client import records
from limbeck.client.examination.cells import of_columns
from limbeck.client.examination.report import SHOWN, Report, listed
from limbeck.client.examination.values import of_images, of_values
from limbeck.client.records import Found, RecordSettings
from limbeck.client.site import Site
from limbeck.inputs import dialects, labels, tables
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import doubts
from limbeck.plans.schema import Plan


def of_records(site: Site, plan: Plan | None, report: Report) -> Findings:
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
    # The rows that it makes of images are not made here.
    image_encoding = records.image_encoding(settings, folder)
    if settings.reader is None and path.is_dir():
        yield from of_images(path, in_colour=image_encoding is not None)
    if settings.reader is None and tables.is_table(path):
        yield from of_columns(settings, path, folder, public_x, report)
    elif len(found.x_N) and image_encoding is None:
        yield from of_values(found, public_x)


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
            f"NO RECORD of {len(found.absent)} of {len(found.names)} classes: {listed(found.absent)}. Per class: {counts}.",
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
        return f"If these are the classes {listed(found.names)}, in this order, write under [records]: classes = [{own}]"
    if not len(found.y_N):
        return f"Write under [records], for each of the classes {listed(found.names)}, the value that yours has: classes = [...]"
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
