"""What is known of a student, as one frozen value that its ONNX file carries; and the model card, a page rendered from it.

Nothing here is invented: what nobody stated or measured is None, and the page says so. Neither torch nor pydantic is needed, so that
whoever uses a student can read its card.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from limbeck.base.errors import DataError

InputKind = Literal["bytes", "unit", "numbers"]
RECORD_DP, SEEDED, NONE = "record-dp", "seeded-noise", "none"
# Of a text from elsewhere, on the page.
TEXT_LENGTH = 2000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epsilon:
    """An epsilon, with all that it holds for.

    - value: epsilon; infinite if answers left without a guarantee.
    - delta, unit, adjacency: what the value holds for, such as 1e-5, "record" and "add-remove-one".
    - seeded: noise came from a seed (UnsafeSeeded), so that no guarantee holds: the value is what the same run would cost with real noise.
    """

    value: float
    delta: float
    unit: str
    adjacency: str
    seeded: bool

    def __str__(self) -> str:
        warning = "; noise is SEEDED, no guarantee holds" if self.seeded else ""
        return f"epsilon = {self.value:.4g} at delta = {self.delta:g}, per {self.unit}, {self.adjacency}{warning}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a student takes.

    - kind: "bytes", whole numbers from 0 to 255 that the graph divides by 255; "unit", numbers from 0 to 1; or "numbers".
    - shape: of one input, such as (28, 28).
    - low, high: the least and the greatest number in the public inputs, as they are stored.
    - encoding: SHA-256 (hex) of the public encoding that makes inputs of tables or texts; None if they are inputs already.
    - reads: the columns that this encoding reads; none if it is not in the student's folder.
    """

    kind: InputKind
    shape: tuple[int, ...]
    low: float
    high: float
    encoding: str | None = None
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site's part.

    - stages: in how many stages its answers were pooled.
    - guarantee: what it stated about its answers; None if it stated nothing.
    - epsilon: what it has spent by its own ledger, at `delta`; None where only the site knows.
    """

    name: str
    stages: int
    guarantee: str | None
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The temperature by which the student's logits are divided, fitted by log-loss on labelled public inputs.

    - inputs: how many these were.
    - held_out: whether no student whose answers were used had been trained on them.
    - how: in a sentence.
    - log_loss, error: on these inputs, before and after: mean log-loss in nats, and expected calibration error from 0 to 1.
    """

    temperature: float
    inputs: int
    held_out: bool
    how: str
    log_loss: tuple[float, float]
    error: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure.

    - on: what it was measured on. inputs: how many these were.
    - error: its standard error from the number of inputs alone; None where there is no formula for it.
    """

    name: str
    value: float
    on: str
    inputs: int
    error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All that is known of a student.

    - limbeck: the version that exported it.
    - plan, plan_hash: the name and the SHA-256 (hex) of the plan by which it was made.
    - claimed: what the plan promises to every record of a site that trained under it.
    - samples: public inputs that it learnt from. transfer_set: their SHA-256 (hex).
    - sparsity: the share of its prunable weights that are zero.
    - simulated: whether all sites were simulated on one machine.
    - purpose, data, licence: what somebody stated; None if nobody did.
    """

    limbeck: str
    plan: str
    plan_hash: str
    class_names: tuple[str, ...]
    inputs: Inputs
    claimed: Epsilon
    samples: int
    transfer_set: str
    architecture: str
    parameters: int
    nonzero: int
    sparsity: float
    stages: int
    temperature: float
    softening: str
    minimum_sites: int
    black_box: bool
    sites: tuple[Site, ...]
    simulated: bool = False
    calibration: Calibration | None = None
    measured: tuple[Measure, ...] = ()
    purpose: str | None = None
    data: str | None = None
    licence: str | None = None

    @property
    def logits_divided_by(self) -> float:
        """The temperature in the graph: 1 without calibration."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def epsilon(self) -> Epsilon:
        """The most that a record of any site which answered can have cost: infinite if one answered without a guarantee."""
        answered = [site for site in self.sites if site.stages]
        seeded = self.claimed.seeded or any(site.guarantee == SEEDED for site in answered)
        without = any(site.guarantee == NONE for site in answered)
        return Epsilon(
            value=math.inf if without else self.claimed.value,
            delta=self.claimed.delta,
            unit=self.claimed.unit,
            adjacency=self.claimed.adjacency,
            seeded=seeded,
        )

    def to_json(self) -> str:
        """For the metadata of an ONNX file; `read` reads it."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read(text: str) -> Card:
    """The card in a student's metadata. Raises DataError naming the field that is wrong; one that is unknown is left out."""
    try:
        return _value(Card, json.loads(text), "card")
    except (ValueError, RecursionError) as error:
        raise DataError(f"Expected a student's card: {error}.") from error


def _value(kind: type[T], value: object, name: str) -> T:
    """`value` as the type of a field; a list becomes a tuple, an object a dataclass. Raises ValueError."""
    found: object
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {types.UnionType, Union}:
        wanted = [own for own in arguments if own is not types.NoneType]
        found = None if value is None else _value(wanted[0], value, name)
    elif origin is Literal:
        found = value if value in arguments else _wrong(f"one of {', '.join(arguments)}", value, name)
    elif origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            _wrong("a list", value, name)
        found = tuple(_value(arguments[0], own, f"{name}[{index}]") for index, own in enumerate(value))  # type: ignore[arg-type, var-annotated]
    elif is_dataclass(kind):
        if not isinstance(value, Mapping):
            _wrong("an object", value, name)
        hints = get_type_hints(kind)
        present = [field for field in fields(kind) if field.name in value]  # type: ignore[operator]
        read_fields = {
            field.name: _value(hints[field.name], value[field.name], f"{name}.{field.name}")  # type: ignore[index]
            for field in present
        }
        try:
            found = kind(**read_fields)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from None
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    else:
        found = value if type(value) is kind else _wrong(f"a value of type {kind.__name__}", value, name)
    return found  # type: ignore[return-value]


def _wrong(wanted: str, value: object, name: str) -> object:
    raise ValueError(f"{name} to be {wanted}, got {str(value)[:80]!r}")


def page(card: Card) -> str:
    """The model card, in Markdown."""
    parts = [_head(card), _use(card), _made(card), _privacy(card), _figures(card), _limits(card)]
    return "\n\n".join(parts) + "\n"


def _head(card: Card) -> str:
    described = _text(card.purpose) or "Nobody stated what this student is for (`limbeck student describe`)."
    return "\n\n".join(
        [
            f"# Model card: {_text(card.plan)}",
            described,
            _table(
                ("", ""),
                [
                    ("classes", ", ".join(map(_text, card.class_names))),
                    ("inputs", _inputs(card)),
                    ("licence", _text(card.licence) or "not stated"),
                    ("made by", f"limbeck {card.limbeck}, plan `{card.plan_hash}`"),
                    ("model", f"{card.architecture}, {card.parameters:,} parameters, {card.nonzero:,} of them not zero"),
                ],
            ),
        ]
    )


def _inputs(card: Card) -> str:
    sides = " × ".join(map(str, card.inputs.shape))
    kinds = {
        "bytes": f"grey images of {sides} bytes (0 to 255)" if len(card.inputs.shape) == 2 else f"{sides} bytes (0 to 255)",
        "unit": f"{sides} numbers from 0 to 1",
        "numbers": f"{sides} numbers, of the public inputs from {card.inputs.low:g} to {card.inputs.high:g}",
    }
    if card.inputs.encoding is None:
        return kinds[card.inputs.kind]
    reads = f" of the columns {', '.join(map(_text, card.inputs.reads))}" if card.inputs.reads else ""
    where = "`encoding.json`" if card.inputs.reads else "a public encoding that is not in this folder"
    return f"{kinds[card.inputs.kind]}, which {where} (SHA-256 `{card.inputs.encoding}`) makes{reads}"


def _use(card: Card) -> str:
    return (
        "## Use\n\n`limbeck predict STUDENT INPUTS -o out.csv`; from Python `limbeck.load_student(path).predict(x)`; or `student.onnx` in"
        " any ONNX runtime: `inputs` in, `probabilities` out, both with the number of inputs first. The metadata of the file hold"
        " the names of the classes and this card's values."
    )


def _made(card: Card) -> str:
    answered = sum(1 for site in card.sites if site.stages)
    data = _text(card.data) or "Nobody stated what the records and the public inputs are."
    return (
        f"## Data\n\n{data}\n\nThe student learnt from {card.samples:,} public inputs (SHA-256 `{card.transfer_set}`) and what {answered}"
        f" {'site' if answered == 1 else 'sites'} answered about them, in {card.stages} {'stage' if card.stages == 1 else 'stages'}; it saw"
        f" no record and no label. Answers were softened ({_text(card.softening)}, temperature {card.temperature:g} in the last stage)."
        f" {100 * card.sparsity:.1f} % of the prunable weights are zero."
        + ("\n\nAll sites were **simulated** on one machine." if card.simulated else "")
    )


def _privacy(card: Card) -> str:
    lines = [
        f"## Privacy\n\nThe plan promises {card.claimed} to every record of a site that trained under it. This bounds what anybody"
        " who has the student, or every answer, can learn about one record. It promises nothing for the public inputs.",
        _table(
            ("site", "stages", "guarantee", "epsilon spent"),
            [(_text(site.name), str(site.stages), site.guarantee or "not stated", _spent(site)) for site in card.sites],
        ),
    ]
    if any(site.epsilon is None and site.guarantee == RECORD_DP for site in card.sites):
        lines.append("What a site has spent in all is in its own ledger, which the coordinator does not see.")
    if without := [site.name for site in card.sites if site.stages and site.guarantee == NONE]:
        lines.append(f"**No guarantee** for the records of {', '.join(map(_text, without))}: a black-box teacher answered.")
    if card.epsilon.seeded:
        lines.append("**No guarantee at all**: noise was seeded (UnsafeSeeded), so that the run can be repeated.")
    return "\n\n".join(lines)


def _spent(site: Site) -> str:
    if site.guarantee == NONE:
        return "no guarantee"
    return "known to the site" if site.epsilon is None else f"{site.epsilon:.3f} at delta = {site.delta:g}"


def _figures(card: Card) -> str:
    lines = ["## Measured"]
    if card.measured:
        lines.append(
            _table(
                ("", "value", "standard error", "on"),
                [
                    (_text(own.name), f"{own.value:.4g}", _error(own), f"{_text(own.on)} ({own.inputs:,})")
                    for own in card.measured
                ],
            )
        )
        lines.append(
            "The standard error is that of this many inputs alone. How much other noise and other seeds change the figures is not known"
            " from one run: `limbeck sweep` measures it."
        )
    else:
        lines.append(
            "Nothing: a coordinator has no labelled records. Test it on labelled inputs of your own before you rely on it."
        )
    calibration = card.calibration
    if calibration is None:
        lines.append(
            "**Not calibrated**: the student's probabilities reproduce softened answers and are usually too cautious. The order of"
            " the classes is meaningful, a probability by itself is not. `limbeck student calibrate` fits a temperature on labelled public"
            " inputs."
        )
    else:
        before, after = calibration.log_loss
        lines.append(
            f"Calibrated: logits are divided by {calibration.temperature:.4g}, inside the graph; the predicted class stays."
            f" {calibration.how} On these {calibration.inputs:,} inputs the log-loss fell from {before:.3f} to {after:.3f} nats and the"
            f" expected calibration error from {100 * calibration.error[0]:.1f} to {100 * calibration.error[1]:.1f} %."
        )
        if not calibration.held_out:
            lines.append(
                "The student had learnt from these very inputs, though not from their labels: on others it may be a little more confident"
                " than right."
            )
    return "\n\n".join(lines)


def _limits(card: Card) -> str:
    known = [
        "It knows its classes only: an input of none of them gets one of them.",
        "Inputs unlike the public ones were never seen by it; nothing tells them apart.",
        "One temperature calibrates it on average, not for each class or group.",
    ]
    unchecked = [
        "fairness between groups of people",
        "robustness against inputs that were changed on purpose",
        "whether the public inputs resemble those on which it will be used",
        "what an attacker can learn in practice, beyond the bound above",
    ]
    if not card.measured:
        unchecked.insert(0, "its accuracy")
    if not card.simulated:
        unchecked.append("whether the sites' records are what the sites say")
    return (
        "## Limits\n\n"
        + "\n".join(f"- {line}" for line in known)
        + "\n\n## Not checked\n\n"
        + "\n".join(f"- {line}" for line in unchecked)
    )


def _error(measure: Measure) -> str:
    return "not known" if measure.error is None else f"{measure.error:.2g}"


def _text(text: str | None) -> str:
    """A text from elsewhere, so that it is one line and makes no table, link, heading or HTML of its own."""
    from limbeck.base.printable import printable  # loads rich, which whoever only predicts need not have

    shown = printable(text or "", TEXT_LENGTH)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in shown)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
