"""The metrics of a run: their file is that of 0.1.0, and whatever is wrong with it is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from limbeck.base.errors import RunError
from limbeck.simulations import metrics

# Measured by limbeck 0.1.0 before `Metrics` was a type: three sites, two stages, label counts, a dense control.
FILE_OF_0_1_0 = Path(__file__).with_name("metrics-0.1.0.json")
# Their keys are no fields of the metrics themselves.
MAPPINGS = {"scenario", "versions", "unnamed_nodes", "seconds"}

Json = dict[str, "Json"] | list["Json"] | str | float | bool | None


def stored() -> Json:
    """The content of a file of 0.1.0."""
    content: Json = json.loads(FILE_OF_0_1_0.read_text())
    return content


def write(content: Json, folder: Path) -> Path:
    """As the metrics of a run in `folder`."""
    (folder / metrics.FILE).write_text(json.dumps(content))
    return folder


def fields(content: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key, at every depth; of a list's entries, those of the first."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*path, key)
            if key not in MAPPINGS or path == ("stages", 0):
                yield from fields(value, (*path, key))
    elif isinstance(content, list) and content:
        yield from fields(content[0], (*path, 0))


def at(content: Json, path: Sequence[str | int]) -> dict[str, Json]:
    """The table at a path."""
    for key in path:
        content = content[key]  # type: ignore[index]
    assert isinstance(content, dict)
    return content


def without_what_is_new(content: Json, old: Json) -> Json:
    """Content without the keys that an older file lacks."""
    if isinstance(content, dict) and isinstance(old, dict):
        return {key: without_what_is_new(value, old[key]) for key, value in content.items() if key in old}
    if isinstance(content, list) and isinstance(old, list):
        return [without_what_is_new(value, earlier) for value, earlier in zip(content, old, strict=True)]
    return content


PATHS = list(fields(stored()))


def test_a_file_of_0_1_0_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    measured = metrics.read(write(stored(), tmp_path))
    again = json.loads(metrics.write(measured, tmp_path / "again").read_text())
    assert without_what_is_new(again, stored()) == stored()
    assert measured.comparison == ()
    assert (measured.best_site, measured.main) == (None, "accuracy")


def test_what_is_read_is_what_the_file_says(tmp_path: Path) -> None:
    measured = metrics.read(write(stored(), tmp_path))
    assert [client.site for client in measured.clients] == ["site-00", "site-01", "site-02"]
    assert measured.partition.counts[1][0] == at(stored(), ["partition"])["counts"][1][0]  # type: ignore[index]
    assert measured.stages[1].seconds.distil == at(stored(), ["stages", 1, "seconds"])["distil"]
    assert measured.seconds["total"] == measured.seconds["prepare"] + measured.seconds["run"]
    assert (measured.scenario.name, measured.scenario.data.private) == ("digits-tiny", 300)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_is_named(path: tuple[str | int, ...], tmp_path: Path) -> None:
    content = stored()
    del at(content, path[:-1])[str(path[-1])]
    with pytest.raises(RunError, match=rf"metrics\.json: {'.'.join(map(str, path))}: missing\.$"):
        metrics.read(write(content, tmp_path))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_type_is_named(path: tuple[str | int, ...], tmp_path: Path) -> None:
    content = stored()
    at(content, path[:-1])[str(path[-1])] = True
    with pytest.raises(RunError, match=rf"metrics\.json: {'.'.join(map(str, path))}\b.* = True: expected "):
        metrics.read(write(content, tmp_path))


@pytest.mark.parametrize("path", sorted({path[:-1] for path in PATHS}, key=str), ids=lambda path: ".".join(map(str, path)))
def test_an_unknown_key_is_named_with_the_known_ones_of_its_table(path: tuple[str | int, ...], tmp_path: Path) -> None:
    content = stored()
    table = at(content, path)
    known = ", ".join(table)
    table["new_key"] = 1
    with pytest.raises(
        RunError, match=rf"{'.'.join(map(str, (*path, 'new_key')))}: unknown key; known are {known}(, [a-z_, ]+)?\.$"
    ):
        metrics.read(write(content, tmp_path))


@pytest.mark.parametrize("change", ["a site more", "a class more", "a row too short", "no stage", "another phase"])
def test_parts_that_do_not_fit_together_are_refused(change: str, tmp_path: Path) -> None:
    content = at(stored(), [])
    partition, student = at(content, ["partition"]), at(content, ["student"])
    wanted = {
        "a site more": r"expected partition\.sites with 3 entries, got 4",
        "a class more": r"expected partition\.class_names with 10 entries, got 11",
        "a row too short": r"expected student\.confusion\.4 with 10 entries, got 9",
        "no stage": r"stages = \[\]: expected at least 1 of them",
        "another phase": r"seconds\.lunch = 'lunch': expected one of 'prepare', .* or 'total'",
    }[change]
    for table, key in ((partition, "sites"), (partition, "class_names")):
        if change == {"sites": "a site more", "class_names": "a class more"}[key]:
            table[key].append("another")  # type: ignore[union-attr]
    if change == "a row too short":
        student["confusion"][4].pop()  # type: ignore[index,call-overload,union-attr]
    if change == "no stage":
        content["stages"] = []
    if change == "another phase":
        at(content, ["seconds"])["lunch"] = 3600.0
    with pytest.raises(RunError, match=wanted):
        metrics.read(write(content, tmp_path))


@pytest.mark.parametrize(
    ("content", "wanted"), [(b"{", "Invalid JSON"), (b"\xff", "Invalid JSON"), (b"[]", "object"), (b"{}", "missing")]
)
def test_what_is_no_table_of_metrics_is_said(content: bytes, wanted: str, tmp_path: Path) -> None:
    (tmp_path / metrics.FILE).write_bytes(content)
    with pytest.raises(RunError, match=rf"metrics\.json: .*{wanted}"):
        metrics.read(tmp_path)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"limbeck: missing \(and \d+ more such problems\)\.$"):
        metrics.read(write({}, tmp_path))


def test_an_infinite_loss_outlives_the_file(tmp_path: Path) -> None:
    content = stored()
    at(content, ["stages", 0])["losses"] = [float("inf"), 0.5]
    measured = metrics.read(write(content, tmp_path))
    metrics.write(measured, tmp_path)
    assert metrics.read(tmp_path).stages[0].losses == (float("inf"), 0.5)


def test_metrics_do_not_change(tmp_path: Path) -> None:
    measured = metrics.read(write(stored(), tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        measured.clients[0].epsilon = 0.0
