"""`/metrics`: Prometheus' text format to the letter, with what the status says and no more, for this machine only."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import recorded_runs
from helpers.pages import get
from limbeck.deployment import prometheus, status, watch
from limbeck.deployment.prometheus import Family, Kind, Sample

# The grammar of https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
NAME, LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r"[a-zA-Z_][a-zA-Z0-9_]*"
VALUE = r'(?:[^"\\\n]|\\\\|\\"|\\n)*'
NUMBER = r"NaN|[+-]Inf|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
SAMPLE = re.compile(rf'({NAME})(?:\{{({LABEL}="{VALUE}"(?:,{LABEL}="{VALUE}")*)\}})? ({NUMBER})')

Series = tuple[str, tuple[tuple[str, str], ...]]


def read(text: str) -> dict[Series, float]:
    """The samples of a text that keeps to the grammar; every family is described once, before its samples, which lie together."""
    assert text.endswith("\n")
    found: dict[Series, float] = {}
    described: list[str] = []
    helped = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            helped, _, words = line.removeprefix("# HELP ").partition(" ")
            assert re.fullmatch(NAME, helped)
            assert words
        elif line.startswith("# TYPE "):
            name, _, kind = line.removeprefix("# TYPE ").partition(" ")
            assert (name, kind in {"gauge", "counter"}) == (helped, True)
            assert name not in described
            described.append(name)
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            name, labels, number = match.groups()
            assert name == described[-1]
            pairs = re.findall(rf'({LABEL})="({VALUE})"', labels or "")
            assert len({label for label, _ in pairs}) == len(pairs)
            series = name, tuple((label, _unescaped(value)) for label, value in pairs)
            assert series not in found
            found[series] = float(number)
    return found


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), value)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    server = watch.serve(folder, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_run_in_its_third_stage_as_metrics(tmp_path: Path) -> None:
    folder = recorded_runs.make(tmp_path / "run")
    own, found = status.read(folder), read(prometheus.metrics(status.read(folder)))
    assert {labels[0][1]: value for (name, labels), value in found.items() if name == "limbeck_run_state"} == {
        "not started": 0,
        "running": 1,
        "paused": 0,
        "stopped": 0,
        "finished": 0,
    }
    sites = {labels[0][1]: value for (name, labels), value in found.items() if name == "limbeck_run_sites"}
    assert sites == {"absent": 0, "joined": 0, "answered": 6, "declined": 1, "left out": 1, "lost": 1}
    assert found["limbeck_run_info", (("name", "pneumonia-2026"), ("plan", own.plan_hash))] == 1
    assert (found["limbeck_run_stages", ()], found["limbeck_run_stages_finished", ()]) == (4, 2)
    assert found["limbeck_run_phase_done", (("phase", "answers"),)] == 4
    assert found["limbeck_run_phase_parts", (("phase", "answers"),)] == 6
    assert found["limbeck_run_message_bytes_total", (("direction", "from_sites"),)] == own.bytes_up
    assert found["limbeck_run_message_bytes_total", (("direction", "to_sites"),)] == own.bytes_down
    for stage in own.stages:
        number = (("stage", str(stage.number)),)
        assert found["limbeck_stage_seconds", number] == pytest.approx(stage.seconds)
        assert found["limbeck_stage_loss", number] == pytest.approx(stage.loss)
        assert found["limbeck_stage_sites", number] == stage.clients
    assert own.privacy is not None
    terms = (("delta", "1e-05"), ("unit", "record"), ("adjacency", "add-remove-one"))
    assert found["limbeck_plan_epsilon", terms] == pytest.approx(own.privacy.epsilon)
    assert found["limbeck_run_event_timestamp_seconds", ()] == own.newest


def test_no_site_is_named(tmp_path: Path) -> None:
    text = prometheus.metrics(status.read(recorded_runs.make(tmp_path / "run")))
    for name in (*recorded_runs.SITES, *recorded_runs.LEFT):
        assert not re.search(rf"\b{name}\b", text)


def test_a_monitor_on_this_machine_gets_them_and_nobody_else(tmp_path: Path) -> None:
    folder = recorded_runs.make(tmp_path / "run")
    with served(folder) as port:
        code, headers, text = get(port, "/metrics", Host=f"127.0.0.1:{port}")
        assert (code, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert read(text) == read(prometheus.metrics(status.read(folder)))
        assert get(port, "/metrics", Host="limbeck.example.org")[0] == 421
        assert get(port, "/metrics", "POST")[0] == 405


def test_before_a_run_there_is_only_its_state_and_a_record_that_cannot_be_read_is_no_answer(tmp_path: Path) -> None:
    with served(tmp_path / "run") as port:
        code, _, text = get(port, "/metrics")
        assert code == 200
        assert {labels[0][1] for (_, labels), value in read(text).items() if value} == {"not started"}
        folder = recorded_runs.make(tmp_path / "run")
        (folder / "record.json").write_text("{")
        code, _, text = get(port, "/metrics")
        assert code == 503
        assert "record.json" in text


@given(
    st.text(max_size=40),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
)
def test_any_text_and_number_comes_back_from_the_format(label: str, value: float, words: str) -> None:
    if not label.isprintable() and set(label) & set("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        label = label.encode("unicode_escape").decode()
    family = Family(name="a_b", kind=Kind.GAUGE, help=words, samples=[Sample(value=value, labels={"x": label, "y": ""})])
    assert read(prometheus.exposition([family])) == {("a_b", (("x", label), ("y", ""))): value}


@pytest.mark.parametrize(
    ("name", "kind"), [("a-b", Kind.GAUGE), ("1a", Kind.GAUGE), ("a", Kind.COUNTER), ("a_total", Kind.GAUGE)]
)
def test_a_name_that_breaks_the_rules_is_refused(name: str, kind: Kind) -> None:
    with pytest.raises(ValueError, match="by Prometheus' rules"):
        Family(name=name, kind=kind, help="h", samples=[])


@pytest.mark.parametrize("label", ["a-b", "__name__", "", "1"])
def test_a_label_that_breaks_the_rules_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="name of a label"):
        Family(name="a", kind=Kind.GAUGE, help="h", samples=[Sample(value=1, labels={label: "x"})])
