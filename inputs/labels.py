"""Labels: from what a file holds to the class that a plan means, by one rule for tables, arrays, readers and folders of images.

The rule is public: it depends on settings and on the plan's names of its classes, never on the labels that there are. So what becomes of
one label does not depend on another, and all sites read "Female", " female" and "FEMALE" alike.

A label is compared with the values of the classes in five steps; the first in which it is that of exactly one class decides:

1. as it is written;
2. without blanks around it;
3. as a whole number: "1.0" and "01" are "1", as data frames and spreadsheets write or lose digits;
4. without regard to case, and to how Unicode composes letters;
5. as a word of truth: true, yes, y, t, on and 1 stand for each other, and so do false, no, n, f, off and 0; only if the classes have
   exactly one of each.

The values of a class are those in the settings; or else the name that the plan gives it; or else its place, from 0 on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Complex
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import SettingError
from limbeck.inputs.tables import MISSING

Value = str | int
# The values of one class, or the only one.
Values = Value | Sequence[Value]

# A whole number, with a fraction of zeros or without; a comma is a decimal sign before one or two zeros only, else it groups digits.
WHOLE = re.compile(r"([+-]?\d{1,20})(?:\.0*|,0{1,2})?")
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
TRUE, FALSE = frozenset({"true", "yes", "y", "t", "on", "1"}), frozenset({"false", "no", "n", "f", "off", "0"})
SEPARATORS = ";|,"
# Beyond as many distinct numbers, or numbers with fractions, a column is a quantity and no class.
MOST_NUMBERS, MOST_FRACTIONS = 100, 10
# Beyond as many distinct texts, more than half of which occur once, a column is a name or a text and no class.
MOST_TEXTS = 50
# Names that a message shows.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class LabelRule:
    """From a label to its class, a whole number from 0 on.

    names: of each class, the values that it is known by.
    by: who says so: the settings, the plan, or nobody, and then these are the places of the classes.
    """

    names: tuple[tuple[str, ...], ...]
    by: Literal["settings", "plan", "nobody"]
    _steps: tuple[tuple[Callable[[str], str | None], dict[str, int]], ...]

    def __call__(self, cell: object) -> int | None:
        """The class of a label, or None if it has none: missing, unknown, or of two classes. Never raises."""
        text = to_text(cell)
        if text is None or text.strip() in MISSING:
            return None
        for form, classes in self._steps:
            key = form(text)
            if key is not None and (found := classes.get(key)) is not None:
                return found
        return None

    def all(self, cells: Sequence[object] | NDArray[np.generic], none: int) -> NDArray[np.int64]:
        """The classes of many labels, (n,), each by itself; `none` where there is none."""
        if isinstance(cells, np.ndarray) and cells.dtype.kind in "buifSU":
            distinct, place_N = np.unique(cells, return_inverse=True)
            found = [none if (label := self(cell)) is None else label for cell in distinct]
            return np.array(found, np.int64)[place_N].reshape(len(cells))
        known: dict[str, int | None] = {}
        found = []
        for cell in cells:
            if type(cell) is not str:
                label = self(cell)
            elif cell in known:
                label = known[cell]
            else:
                label = known[cell] = self(cell)
            found.append(none if label is None else label)
        return np.array(found, np.int64).reshape(len(cells))

    def __str__(self) -> str:
        """As messages name the classes."""
        if self.by == "nobody":
            return f"whole numbers from 0 to {len(self.names) - 1}"
        shown = ["/".join(values) for values in self.names[:SHOWN]]
        return f"one of {', '.join(shown)}{', ...' if len(self.names) > SHOWN else ''}"


def label_rule(
    values: Sequence[Values] | None, class_names: Sequence[str], classes: int, *, setting: str = "records.classes"
) -> LabelRule:
    """The rule for a plan's classes.

    values: per class, in order, the value or values of its label; None if the settings name none.
    class_names: the plan's names of its classes, or () if it only counts them.
    classes: how many the plan has.
    setting: the name of the setting with the values, for messages.

    Raises: SettingError if the values are not those of as many classes, or one of them is of two classes, or means a missing label.
    """
    places = tuple((name,) for name in class_names or map(str, range(classes)))
    names = _names(values, classes, setting) if values is not None else places
    forms = (_as_written, str.strip, whole, folded)
    steps = [(form, _places(names, form)) for form in forms]
    truth = _places(names, _truth)
    if {"true", "false"} == set(truth):
        steps.append((_truth, truth))
    return LabelRule(names, "settings" if values is not None else "plan" if class_names else "nobody", tuple(steps))


def in_words(class_names: Sequence[str]) -> bool:
    """Whether a plan's names of its classes say more than their numbers: then whole numbers are no labels of them."""
    return any(whole(name) is None for name in class_names)


def setting_line(class_names: Sequence[str]) -> str:
    """The line that tells a site's numbers 0, 1, ... apart by a plan's names of its classes, for a message."""
    numbers = [str(number) for number in range(len(class_names))]
    order = ", ".join(f"{number} = {name}" for number, name in zip(numbers[:SHOWN], class_names, strict=False))
    return f"classes = [{', '.join(numbers)}] (here {order}{', ...' if len(numbers) > SHOWN else ''})"


def folder_classes(folders: Sequence[str], rule: LabelRule) -> list[int] | None:
    """The class of each folder of images, by its name; None if one has the name of no class.

    Where nobody names the classes, or no folder has the name that the plan gives one, the folders' names are the whole numbers from 0 on,
    as many as classes: fewer, or others, may be counted from 1.
    """
    named = [label for name in folders if (label := rule(name)) is not None]
    if rule.by == "settings" or (rule.by == "plan" and named):
        return named if len(named) == len(folders) else None
    numbers = [number for name in folders if (number := whole(name)) is not None]
    if sorted(numbers) != sorted(str(number) for number in range(len(rule.names))) or len(numbers) < len(folders):
        return None
    return [int(number) for number in numbers]


def find_classes(cells: Iterable[object]) -> tuple[str, ...]:
    """The classes of a column of labels that may be looked at, in their natural order: numbers by value, then words.

    Spellings that the rule takes for the same are one class, named as most of them are written. Only for public data, and for what an
    owner looks at: a site's classes are the plan's.

    Raises: SettingError, which says what is not built, if the column is a quantity (regression), holds several labels per record, or
        holds texts; or if there are fewer than two classes.
    """
    counted = Counter(text.strip() for cell in cells if (text := to_text(cell)) is not None and text.strip() not in MISSING)
    if counted and all(NUMBER.fullmatch(text) for text in counted):
        fractions = sum(whole(text) is None for text in counted)
        if len(counted) > MOST_NUMBERS or (fractions and len(counted) > MOST_FRACTIONS):
            raise SettingError(
                f"Expected classes, got {len(counted)} distinct numbers such as {next(iter(counted))!r}: predicting a quantity"
                " (regression) is not built. Divide it into ranges with names, such as low and high, in a column of its own."
            )
    elif (separator := _separator(counted)) is not None:
        some = next(text for text in counted if separator in text)
        raise SettingError(
            f"Expected one class per record, got several separated by {separator!r}, as in {some!r}: several labels per record"
            " (multi-label) are not built. Choose one of them as the label, or make a yes/no column of it."
        )
    elif len(counted) > MOST_TEXTS and sum(number == 1 for number in counted.values()) * 2 > len(counted):
        raise SettingError(
            f"Expected classes, got {len(counted)} distinct texts, most of which occur once, such as {next(iter(counted))!r:.60}:"
            " this is a column of names or texts, not of labels."
        )
    spellings: dict[str, Counter[str]] = {}
    for text, number in counted.items():
        spellings.setdefault(folded(text), Counter())[whole(text) or text] += number
    classes = [max(sorted(each), key=each.__getitem__) for each in spellings.values()]
    if len(classes) < 2:
        raise SettingError(f"Expected labels of at least 2 classes, got {', '.join(map(repr, classes)) or 'none'}.")
    return tuple(sorted(classes, key=natural))


def natural(name: str) -> tuple[int, float, str]:
    """The place of a name among others: numbers by value, then words in the order of letters whatever their case."""
    if NUMBER.fullmatch(name):
        return 0, float(name.replace(",", ".")), name
    return 1, 0.0, f"{folded(name)}\0{name}"


def to_text(cell: object) -> str | None:
    """A label as text: whole numbers without a fraction; None for what is no label. Never raises.

    A number is the same whatever type its array has: it goes through Python's numbers, which hold all of them.
    """
    try:
        if isinstance(cell, np.generic):
            cell = cell.item()
        if isinstance(cell, bytes):
            return cell.decode("utf-8", errors="replace")
        if cell is None or isinstance(cell, str):
            return cell
        if isinstance(cell, bool | int):
            return str(cell)
        if isinstance(cell, complex) or (isinstance(cell, Complex) and cell.imag):
            cell = cell.real if not cell.imag else None
        number = float(cell)  # type: ignore[arg-type]  # raises TypeError for what is no number
        exact = int(cell)  # type: ignore[call-overload]  # of a number of any kind, without the detour
        return str(exact) if exact == cell else repr(number)
    except Exception:  # whatever an object that is no label may raise
        return None


def whole(text: str) -> str | None:
    """The whole number that a text is, in its shortest form; None if it is none."""
    found = WHOLE.fullmatch(text.strip())
    return str(int(found[1])) if found is not None else None


def folded(text: str) -> str:
    """A text without regard to case, blanks around it, and how letters are composed; a whole number in its shortest form."""
    return whole(text) or unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).casefold())


def _as_written(text: str) -> str:
    return text


def _truth(text: str) -> str | None:
    word = folded(text)
    return "true" if word in TRUE else "false" if word in FALSE else None


def _places(names: tuple[tuple[str, ...], ...], form: Callable[[str], str | None]) -> dict[str, int]:
    """Of each form of a value, the class; without those of two classes."""
    found: dict[str, set[int]] = {}
    for number, values in enumerate(names):
        for value in values:
            if (key := form(value)) is not None:
                found.setdefault(key, set()).add(number)
    return {key: min(numbers) for key, numbers in found.items() if len(numbers) == 1}


def _names(values: Sequence[Values], classes: int, setting: str) -> tuple[tuple[str, ...], ...]:
    if len(values) != classes:
        raise SettingError(f"Expected {setting} for the plan's {classes} classes, got {len(values)}.")
    names = tuple(tuple(str(value) for value in ((each,) if isinstance(each, str | int) else each)) for each in values)
    first: dict[str, int] = {}
    for number, own in enumerate(names):
        if not own:
            raise SettingError(f"Expected a value or values of class {number} in {setting}, got none.")
        for name in own:
            if name.strip() in MISSING:
                raise SettingError(f"Expected a value of class {number} in {setting}, got {name!r}, which means missing.")
            if first.setdefault(name, number) != number:
                raise SettingError(f"Expected {name!r} once in {setting}, got it for classes {first[name]} and {number}.")
    return names


def _separator(counted: Counter[str]) -> str | None:
    """What separates several labels in a cell: the parts recur, in other cells or as cells of their own."""
    for separator in SEPARATORS:
        joined = [text for text in counted if separator in text]
        parts = {part.strip() for text in joined for part in text.split(separator)} - {""}
        if len(joined) > 1 and (len(parts) < len(joined) or sum(part in counted for part in parts) > 1):
            return separator
    return None
