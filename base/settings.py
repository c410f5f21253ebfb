"""Strict settings from TOML files: anything invalid is an error that names the key, the value and what was expected.

Sites, policies, plans and scenarios are read the same way.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from limbeck.base.errors import SettingError

# HOST:PORT
ADDRESS = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"

# Parsed TOML.
Raw = dict[str, Any]
# Characters of a value that an error shows.
MOST_SHOWN = 200

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A table of settings: no unknown keys, no conversion of types, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def one_of(*known: str) -> AfterValidator:
    """A string out of a closed list, for `Annotated`; the list itself is where it belongs."""

    def check(value: str) -> str:
        if value not in known:
            *others, last = (repr(name) for name in known)
            raise ValueError(f"one of {', '.join(others)} or {last}" if others else f"one of {last}")
        return value

    return AfterValidator(check)


def read_toml(path: Path) -> Raw:
    """The parsed file. Raises FileNotFoundError if it is absent, SettingError if it is not TOML."""
    return parse_toml(path.read_bytes(), path)


def parse_toml(content: bytes, path: Path) -> Raw:
    """The content of the file at `path`, parsed. Raises SettingError if it is not TOML."""
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"Expected TOML in {path}: {error}.") from error


def validate(model: type[M], raw: Raw) -> M:
    """Settings from parsed TOML. Raises SettingError, naming every problem."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SettingError("\n".join(explain(model, error))) from None


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line for each problem: key, value and what was expected."""
    problems = {".".join(map(str, _keys(problem["loc"]))): problem for problem in error.errors()}
    return [_explain(model, key, problem) for key, problem in problems.items()]


def override(raw: Raw, assignment: str) -> None:
    """Set one key of parsed TOML, such as "privacy.epsilon=1": the value is a TOML literal, or a bare word, which is a string.

    Raises SettingError.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", key.strip()):
        raise SettingError(f"Expected an override such as privacy.epsilon=1, got {assignment!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table, _, name = key.strip().rpartition(".")
    target = raw.setdefault(table, {}) if table else raw
    if not isinstance(target, dict):
        raise SettingError(f"Expected [{table}] to be a table for {assignment!r}, got {target!r}.")
    target[name] = value


def _keys(location: Iterable[str | int]) -> list[str | int]:
    """Without the names that pydantic adds for the members of a union."""
    return [
        part
        for part in location
        if isinstance(part, int) or (re.fullmatch(r"[a-z_]+", part) and part not in {"float", "constrained"})
    ]


def _explain(model: type[BaseModel], key: str, problem: Any) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(model, key.rpartition(".")[0])
        close = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{key}: unknown key{hint}; known are {', '.join(known)}"
    if kind == "missing":
        return f"{key}: missing"
    if not key:
        return str(problem["msg"] if kind != "value_error" else f"expected {context['error']}")
    wanted = {
        "greater_than": "a number > {gt:g}",
        "greater_than_equal": "a number >= {ge:g}",
        "less_than": "a number < {lt:g}",
        "less_than_equal": "a number <= {le:g}",
        "literal_error": "one of {expected}",
        "int_type": "a whole number",
        "float_type": "a number",
        "string_type": "a string",
        "string_pattern_mismatch": "a string of the form {pattern}",
        "bool_type": "true or false",
        "finite_number": "a finite number",
        "list_type": "a list",
        "tuple_type": "a list",
        "model_type": "a table",
        "mapping_type": "a table",
        "dict_type": "a table",
        "too_short": "at least {min_length} of them",
        "value_error": "{error}",
    }.get(kind)
    shown = repr(value) if len(repr(value)) <= MOST_SHOWN else f"{repr(value)[:MOST_SHOWN]}..."
    return f"{key} = {shown}: expected {wanted.format(**context) if wanted else problem['msg']}"


def _known_keys(model: type[BaseModel], table: str) -> list[str]:
    """Keys of a table of the model, or of the model itself."""
    for part in table.split("."):
        field = model.model_fields.get(part)
        model = next(_models_in(field.annotation), model) if field else model
    return list(model.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Every model in an annotation such as `tuple[Model, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
