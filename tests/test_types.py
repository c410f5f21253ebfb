"""Types say what a value is: `Any` would switch the checking of whatever it touches off."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("client", "deployment", "experiments", "server", "simulations", "tests/experiments", "tests/simulations")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# Files with an `Any`, and what forces it.
FORCED = {
    "client/blackbox.py": "grpc has no types",
    "client/ledger.py": "json.loads gives Any, of which frozen schedules are made",
    "client/serving.py": "grpc and scikit-learn have no types",
    "client/teachers/gradients.py": "torch's modules have attributes of any type",
    "client/teachers/kit.py": "torch's dispatch modes pass anything",
    "deployment/flower.py": "Flower's command prints JSON",
    "deployment/watch.py": "socketserver and io take anything",
    "server/predict_output.py": "pyarrow has no types",
}


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
def test_no_annotation_is_any_but_where_a_library_forces_it(path: Path) -> None:
    assert ("Any" in names(path.read_text(encoding="utf-8"))) == (str(path.relative_to(ROOT)) in FORCED)


@pytest.mark.parametrize(
    "source", ["from typing import Any", "import typing\nx: typing.Any", "def f(x: dict[str, Any]): ..."]
)
def test_any_is_seen_in_every_form(source: str) -> None:
    assert "Any" in names(source)
