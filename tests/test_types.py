"""Types say what a value is: `Any` would switch the checking of whatever it touches off."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("experiments", "simulations", "tests/experiments", "tests/simulations")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def names(source: str) -> set[str]:
    """Every name and attribute in a module's code, annotations and imports included."""
    seen: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            seen.add(node.id)
        elif isinstance(node, ast.Attribute):
            seen.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            seen.update(alias.name for alias in node.names)
    return seen


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_annotation_is_any(path: Path) -> None:
    assert "Any" not in names(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source", ["from typing import Any", "import typing\nx: typing.Any", "def f(x: dict[str, Any]): ..."]
)
def test_any_is_seen_in_every_form(source: str) -> None:
    assert "Any" in names(source)
