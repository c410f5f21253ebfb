"""The ledger refuses what the budget does not allow, survives crashes closed, and shows tampering."""

import math
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import LINEAR

from limbeck.client.ledger import Budget, Ledger
from limbeck.operators.errors import BudgetError, LedgerError, SettingError
from limbeck.protos import accounting
from limbeck.protos.messages import Adjacency, LabelCounts, Unit

BUDGET = Budget(epsilon=3.0, delta=1e-5, unit=Unit.RECORD, adjacency=Adjacency.ADD_REMOVE_ONE)
TEACHING = replace(LINEAR, noise_multiplier=9.0)
RUN = bytes(32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_charge_is_there_after_closing(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.commit(ledger.reserve(RUN, "teacher", TEACHING, LabelCounts(noise_std=20.0)))
        spent = ledger.spent()
    with Ledger(path, BUDGET) as ledger:
        assert ledger.spent() == spent > 0
        (entry,) = ledger.entries()
        assert (entry.state, entry.schedule) == ("committed", (TEACHING, LabelCounts(noise_std=20.0)))


def test_charges_compose_by_privacy_loss_not_by_addition(path: Path) -> None:
    mild = replace(TEACHING, noise_multiplier=40.0)
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "one", mild, None)
        one = ledger.spent()
        ledger.reserve(RUN, "two", mild, None)
        assert one < ledger.spent() < 2 * one
        both = ((replace(mild, steps=2 * mild.steps), None),)
        assert ledger.spent() == pytest.approx(accounting.epsilon(both, 1e-5), rel=0.01)


def test_a_charge_over_the_budget_is_refused_and_nothing_is_charged(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
        before = ledger.verify()
        with pytest.raises(BudgetError, match=r"budget of epsilon = 3 at delta = 1e-05, per record, add-remove-one"):
            ledger.reserve(RUN, "again", TEACHING, None)
        assert ledger.verify() == before


def test_a_reservation_that_was_never_committed_stays_spent(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    with Ledger(path, BUDGET) as ledger, pytest.raises(BudgetError):
        ledger.check(TEACHING, None)


def test_a_process_killed_between_reserve_and_commit_leaves_the_charge(path: Path) -> None:
    here = Path(__file__).parent
    code = "import sys; from ledger_child import reserve_and_die; reserve_and_die(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parent}"}
    child = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=environment)
    assert child.returncode == -signal.SIGKILL
    with Ledger(path, BUDGET) as ledger:
        assert [entry.state for entry in ledger.entries()] == ["reserved"]
        with pytest.raises(BudgetError):
            ledger.reserve(RUN, "again", TEACHING, None)


def _race(path: Path, results: "multiprocessing.Queue[str]") -> None:
    try:
        with Ledger(path, BUDGET) as ledger:
            ledger.reserve(RUN, "teacher", TEACHING, None)
        results.put("charged")
    except BudgetError:
        results.put("refused")


def test_of_processes_that_race_for_one_budget_one_gets_it(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[str] = context.Queue()
    racers = [context.Process(target=_race, args=(path, results)) for _ in range(4)]
    for racer in racers:
        racer.start()
    outcomes = sorted(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert outcomes == ["charged", "refused", "refused", "refused"]


def test_free_releases_cost_nothing_and_say_why(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.record_free(RUN, "share", "post-processing")
        assert ledger.spent() == 0
        assert ledger.entries()[0].why == "post-processing"


def test_a_release_without_a_guarantee_is_refused_by_default_and_nothing_is_noted(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        with pytest.raises(BudgetError, match=r"its epsilon is infinite.*allow_without_dp"):
            ledger.declare(RUN, "answers", "no DP guarantee")
        assert ledger.entries() == []


def test_a_release_without_a_guarantee_makes_epsilon_infinite_and_is_noted_once_a_run(path: Path) -> None:
    with Ledger(path, replace(BUDGET, allow_without_dp=True)) as ledger:
        entry = ledger.declare(RUN, "answers", "no DP guarantee")
        assert ledger.declare(RUN, "answers", "no DP guarantee") == entry
        assert ledger.declare(bytes([1] * 32), "answers", "no DP guarantee") != entry
        assert [own.state for own in ledger.entries()] == ["declared", "declared"]
        assert ledger.spent() == math.inf


def test_after_it_charges_are_refused_or_with_the_owners_leave_held_to_the_budget(path: Path) -> None:
    allowed = replace(BUDGET, allow_without_dp=True)
    with Ledger(path, allowed) as ledger:
        ledger.declare(RUN, "answers", "no DP guarantee")
    with Ledger(path, BUDGET) as ledger, pytest.raises(BudgetError, match="found entry 2 without one"):
        ledger.reserve(RUN, "teacher", TEACHING, None)
    with Ledger(path, allowed) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
        with pytest.raises(BudgetError, match="within the budget"):
            ledger.reserve(RUN, "again", TEACHING, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET content = replace(content, '9.0', '99.0') WHERE kind = 'reserve'",
        "DELETE FROM ledger WHERE kind = 'reserve'",
        "UPDATE ledger SET id = 9 WHERE kind = 'commit'",
    ],
)
def test_a_changed_or_deleted_row_shows(path: Path, statement: str) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.commit(ledger.reserve(RUN, "teacher", TEACHING, None))
    with sqlite3.connect(path) as db:
        db.execute(statement)
    with pytest.raises(LedgerError, match="found it changed"):
        Ledger(path, BUDGET)


def test_only_an_open_reservation_can_be_committed(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        entry = ledger.reserve(RUN, "teacher", TEACHING, None)
        ledger.commit(entry)
        for wrong in (entry, 77):
            with pytest.raises(LedgerError, match="Expected an open reservation"):
                ledger.commit(wrong)


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match="Expected a privacy ledger"):
        Ledger(path, BUDGET)


def test_a_ledger_of_another_delta_is_refused(path: Path) -> None:
    with Ledger(path, BUDGET):
        pass
    with pytest.raises(LedgerError, match="1e-05"):
        Ledger(path, replace(BUDGET, delta=1e-6))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_a_budget_of_nothing_is_refused(epsilon: float) -> None:
    with pytest.raises(SettingError, match="Expected epsilon > 0"):
        replace(BUDGET, epsilon=epsilon)
