"""No test depends on how fast the machine is: none reads a clock while it is imported, asserts how long something took, or waits a while.

A limit in a test is a guard against hanging: `limbeck.experiments.faults.linked.HANG_SECONDS`. What has to have happened is waited for by
`until`, and a clock is an argument, or is told the time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

TESTS = Path(__file__).parent
CLOCKS = {"now", "utcnow", "today", "time", "monotonic", "perf_counter", "time_ns", "monotonic_ns"}
FILES = sorted(path for path in TESTS.rglob("*.py") if path.parts[-2] not in {"drill", "mutants"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated while a module is imported: all but the bodies of functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            for early in [
                *child.args.defaults,
                *filter(None, child.args.kw_defaults),
                *getattr(child, "decorator_list", []),
            ]:
                yield from at_import(early)
        else:
            yield from at_import(child)


def clock(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether this reads a clock, as in datetime.now(UTC) or time.monotonic()."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS):
        return False
    return isinstance(node.func.value, ast.Name) and node.func.value.id in {"time", "datetime", "date"}


def naps(node: ast.AST) -> Iterator[ast.Call]:
    """Calls of time.sleep that are in no loop: they hope that something has happened by then."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.While | ast.For | ast.AsyncFor | ast.Lambda):
            continue
        if isinstance(child, ast.Call) and ast.unparse(child.func) == "time.sleep":
            yield child
        yield from naps(child)


def complaints(source: str) -> list[str]:
    """What of it depends on pace."""
    tree = ast.parse(source)
    found = [f"line {node.lineno}: a clock is read at import" for node in at_import(tree) if clock(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            sums = [part for part in ast.walk(node.test) if isinstance(part, ast.BinOp | ast.Compare)]
            if any(clock(part) for own in sums for part in ast.iter_child_nodes(own)):
                found.append(f"line {node.lineno}: an assertion about how long something took")
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found += [f"line {call.lineno}: a test waits a while" for call in naps(node)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_depends_on_how_fast_the_machine_is(path: Path) -> None:
    assert not complaints(path.read_text())


@pytest.mark.parametrize(
    ("source", "many"),
    [
        ("NOW = datetime.now(UTC)", 1),
        ("def f(at=datetime.now(UTC)): pass", 1),
        ("def f(): return datetime.now(UTC)", 0),
        ("def test_x():\n    started = time.monotonic()\n    assert time.monotonic() - started < 20", 1),
        ("def test_x():\n    assert f(now=datetime.now(UTC))", 0),
        ("def test_x():\n    f()\n    time.sleep(0.3)", 1),
        ("def test_x():\n    while not f():\n        time.sleep(0.3)", 0),
    ],
)
def test_what_depends_on_pace_is_found(source: str, many: int) -> None:
    assert len(complaints(source)) == many
