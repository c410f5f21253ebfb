"""The ledger refuses what the budget does not allow, survives crashes closed, and shows tampering."""

import fcntl
import json
import math
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import sites
from helpers.ledger_child import BUDGET, RUN, TEACHING
from helpers.plans import LINEAR, NET
from limbeck.base.errors import BudgetError, LedgerError, SettingError
from limbeck.base.files import outliving_power_cuts
from limbeck.client import ledger as ledgers
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.plans import accounting, privacy_filter
from limbeck.plans.schema import Counts, LabelCounts, RecordCount, Teaching, VotesTeaching


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


def test_charges_compose_by_the_filter_not_by_addition(path: Path) -> None:
    mild = replace(TEACHING, noise_multiplier=40.0)
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "one", mild, None)
        one = ledger.spent()
        ledger.reserve(RUN, "two", mild, None)
        assert one < ledger.spent() < 2 * one
        both = ((replace(mild, steps=2 * mild.steps), None),)
        assert ledger.spent() == pytest.approx(accounting.epsilon(both, 1e-5), rel=0.01)
        assert ledger.spent() == privacy_filter.epsilon(((mild, None), (mild, None)), 1e-5) > accounting.epsilon(both, 1e-5)


# What is held to the budget holds although later plans are chosen by what earlier ones released

# Both fit a budget of 3 had they been fixed beforehand, and an attacker that chooses the second by the answers of the first gets past 3.1.
SECOND = replace(NET, sampling_rate=0.01, steps=100, noise_multiplier=0.71)


def test_a_second_plan_that_fits_only_had_it_been_fixed_beforehand_is_refused_with_all_three_numbers(path: Path) -> None:
    pair = ((NET, None), (SECOND, None))
    assert accounting.epsilon(pair, 1e-5) <= 3.0 < privacy_filter.epsilon(pair, 1e-5)
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", NET, None)
        alone = ledger.spent()
        with pytest.raises(BudgetError) as refused:
            ledger.reserve(RUN, "again", SECOND, None)
        assert ledger.spent() == alone == accounting.epsilon(pair[:1], 1e-5)
    said = str(refused.value)
    for number in (3.0, privacy_filter.epsilon(pair, 1e-5), accounting.epsilon(pair, 1e-5)):
        assert f"{number:.4g}" in said
    assert "within a budget of epsilon = 3 at delta = 1e-05, per record, add-remove-one" in said
    assert "whatever later plans depend on" in said
    assert "fixed beforehand" in said


def test_a_single_plan_over_the_budget_is_refused(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        with pytest.raises(BudgetError, match="within a budget"):
            ledger.reserve(RUN, "teacher", replace(LINEAR, noise_multiplier=7.0), None)
        assert ledger.entries() == []


def test_a_single_plan_is_held_to_its_own_losses_and_nothing_fits_beside_it(path: Path) -> None:
    """What it costs fits the budget to the last bit, by the filter it would not; so nothing, however small, may come after it."""
    schedule = accounting.calibrate(LINEAR, epsilon=3.0, delta=1e-5, label_counts_fraction=0.05)
    assert privacy_filter.epsilon((schedule,), 1e-5) > 3.0
    with Ledger(path, BUDGET) as ledger:
        ledger.check(*schedule)
        ledger.reserve(RUN, "teacher", *schedule)
        assert 2.95 < ledger.spent() <= 3.0
        with pytest.raises(BudgetError):
            ledger.check(replace(LINEAR, noise_multiplier=1e5), None)


def forge_first_row(path: Path, **changes: object) -> None:
    """Rewrite the first row of a ledger that has no other, with its hash and head; None takes a key away."""
    ledgers.close_idle()
    with sqlite3.connect(path) as db:
        own = {**json.loads(db.execute("SELECT content FROM ledger WHERE id = 1").fetchone()[0]), **changes}
        text = json.dumps({key: value for key, value in own.items() if value is not None}, sort_keys=True)
        db.execute(
            "UPDATE ledger SET content = ?, hash = ? WHERE id = 1", (text, forged := ledgers._link("", 1, "open", text))
        )
    ledgers.head_path(path).write_text(json.dumps({"rows": 1, "hash": forged}) + "\n")


def test_a_ledger_of_version_0_1_0_opens_and_says_what_it_let_be_spent(path: Path) -> None:
    """It was held to the sum, and its first row says nothing of a filter. What the filter says may be past the budget, and is shown."""
    with Ledger(path, BUDGET):
        pass
    forge_first_row(path, filter=None)
    with Ledger(path, BUDGET) as ledger, ledger._transaction() as rows:
        for teaching in (NET, SECOND):
            schedule = ledgers._schedule_to_json((teaching, None))
            ledger._append(rows, "reserve", {"plan": RUN.hex(), "what": "teacher", "schedule": schedule})
    with Ledger(path, BUDGET) as ledger:
        assert 3.0 < ledger.spent() == privacy_filter.epsilon(((NET, None), (SECOND, None)), 1e-5)
        with pytest.raises(BudgetError):
            ledger.check(replace(LINEAR, noise_multiplier=1e5), None)
    book = ledgers.read(path)
    assert book.spent_if_fixed() <= 3.0 < book.spent()


def test_a_ledger_held_to_another_filter_is_refused(path: Path) -> None:
    with Ledger(path, BUDGET):
        pass
    assert json.loads(ledgers.read(path).rows[0][2])["filter"] == privacy_filter.FIXED
    forge_first_row(path, filter={**privacy_filter.FIXED, "disclosed": 0.5})
    for look in (lambda: Ledger(path, BUDGET), lambda: ledgers.read(path)):
        with pytest.raises(LedgerError, match="Expected a ledger held to the filter"):
            look()


def test_a_charge_over_the_budget_is_refused_and_nothing_is_charged(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
        before = ledger.entries()
        with pytest.raises(BudgetError, match=r"budget of epsilon = 3 at delta = 1e-05, per record, add-remove-one"):
            ledger.reserve(RUN, "again", TEACHING, None)
        assert ledger.entries() == before


def test_a_charge_of_exactly_the_budget_is_allowed(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
        spent = ledger.spent()
    exact = path.with_name("exact")
    with Ledger(exact, replace(BUDGET, epsilon=spent)) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    with Ledger(path.with_name("less"), replace(BUDGET, epsilon=spent * 0.999)) as ledger, pytest.raises(BudgetError):
        ledger.reserve(RUN, "teacher", TEACHING, None)


def test_a_reservation_that_was_never_committed_stays_spent(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    with Ledger(path, BUDGET) as ledger, pytest.raises(BudgetError):
        ledger.check(TEACHING, None)


def test_a_process_killed_between_reserve_and_commit_leaves_the_charge(path: Path) -> None:
    code = "import sys; from helpers.ledger_child import reserve_and_die; reserve_and_die(sys.argv[1])"
    found = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
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
    outcomes = sorted(results.get(timeout=600) for _ in racers)
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
        with pytest.raises(BudgetError, match="within a budget"):
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


def test_a_row_written_anew_shows_in_those_after_it(path: Path) -> None:
    """With a hash of its own that is right: the next row's is of the one that was there."""
    with Ledger(path, BUDGET) as ledger:
        ledger.commit(ledger.reserve(RUN, "teacher", TEACHING, None))
    ledgers.close_idle()
    first, second, _ = ledgers.read(path).rows
    content = second[2].replace('"steps": 30', '"steps": 1')
    assert content != second[2]
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE ledger SET content = ?, hash = ? WHERE id = 2", (content, ledgers._link(first[3], 2, "reserve", content))
        )
    with pytest.raises(LedgerError, match="row 3 of the ledger"):
        ledgers.read(path)


def test_a_row_of_an_unknown_kind_is_refused_since_it_may_be_a_charge(path: Path) -> None:
    """As a newer version could write it, in a chain and with a head that are right."""
    with Ledger(path, BUDGET) as ledger:
        ledger.commit(ledger.reserve(RUN, "teacher", TEACHING, None))
    ledgers.close_idle()
    rows = ledgers.read(path).rows
    content = json.dumps({"epsilon": 1.0})
    newer = ledgers._link(rows[-1][3], 4, "reserve-client", content)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("INSERT INTO ledger VALUES (4, 'reserve-client', ?, ?)", (content, newer))
    ledgers.head_path(path).write_text(json.dumps({"rows": 4, "hash": newer}) + "\n")
    with pytest.raises(LedgerError, match=r"row 4 .* got 'reserve-client': a newer version"):
        ledgers.read(path)
    with pytest.raises(LedgerError, match="reserve-client"):
        Ledger(path, BUDGET)


def test_rows_that_begin_again_show(path: Path) -> None:
    """Numbers that leave a gap, in a chain and with a head that are right."""
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    ledgers.close_idle()
    last = ledgers.read(path).rows[-1]
    content = json.dumps({"entry": 2})
    forged = ledgers._link(last[3], 7, "commit", content)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO ledger VALUES (7, 'commit', ?, ?)", (content, forged))
    ledgers.head_path(path).write_text(json.dumps({"rows": 3, "hash": forged}) + "\n")
    with pytest.raises(LedgerError, match="row 3 of the ledger"):
        ledgers.read(path)


def test_rows_and_heads_reach_the_disk_before_anything_is_done_because_of_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(ledgers, "sync", lambda descriptor: synced.append(ledgers.head_path(path).read_text()))
    with Ledger(path, BUDGET) as ledger:
        for setting, wanted in (("synchronous", 2), ("journal_mode", "wal")):
            assert ledger._db.execute(f"PRAGMA {setting}").fetchone() == (wanted,)
        ledger.reserve(RUN, "teacher", TEACHING, None)
        heads = synced[-1].splitlines()
        assert [json.loads(line)["rows"] for line in heads] == [1, 2]
        assert json.loads(heads[-1])["hash"] == ledger.head()[1]
    with outliving_power_cuts(False), Ledger(path, BUDGET) as ledger:
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (0,)


def test_while_one_process_writes_no_other_does(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger, ledger._transaction():
        with sqlite3.connect(path, timeout=0) as db, pytest.raises(sqlite3.OperationalError, match="locked"):
            db.execute("BEGIN IMMEDIATE")
        with ledgers.head_path(path).open("rb") as head, pytest.raises(BlockingIOError):
            fcntl.flock(head, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_what_a_crash_left_before_the_first_row_is_no_ledger_yet(path: Path, tmp_path: Path) -> None:
    site = sites.make(tmp_path / "site")
    ledgers._connect(site.ledger).close()
    assert site.ledger.exists()
    assert not ledgers.begun(site.ledger)
    assert site.account.check() is None
    ledgers.head_path(site.ledger).touch()
    assert site.account.check() is None
    with site.account.open(site.budget) as ledger:
        assert ledger.entries() == []
    assert ledgers.begun(site.ledger)
    # What is no ledger, or has a head, is not taken for one that was never begun.
    path.write_text("not a database, but long enough to be looked at" * 100)
    assert ledgers.begun(path)
    path.write_bytes(b"")
    assert not ledgers.begun(path)
    ledgers.head_path(path).write_text(json.dumps({"rows": 2, "hash": "0" * 64}) + "\n")
    assert ledgers.begun(path)


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


@pytest.mark.parametrize(("name", "other"), [("unit", "client"), ("adjacency", "replace-one"), ("unit", "user")])
def test_a_ledger_that_counts_another_unit_or_neighbours_is_refused(path: Path, name: str, other: str) -> None:
    """Epsilons of records and of clients, or of two neighbouring relations, are never added: replace-one costs about twice as much."""
    terms = {"data_set": "a-test", "delta": 1e-5, "unit": "record", "adjacency": "add-remove-one", name: other}
    with Ledger(path, BUDGET) as ledger, ledger._transaction() as rows:
        own = json.loads(rows[0][2])
        assert {key: own[key] for key in terms} == {**terms, name: own[name]}
    text = json.dumps({**own, **terms}, sort_keys=True)
    forged = ledgers._link("", 1, "open", text)
    ledgers.close_idle()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE ledger SET content = ?, hash = ? WHERE id = 1", (text, forged))
    ledgers.head_path(path).write_text(json.dumps({"rows": 1, "hash": forged}) + "\n")
    with pytest.raises(LedgerError, match="Expected the terms of a ledger"):
        Ledger(path, BUDGET)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_a_budget_of_nothing_is_refused(epsilon: float) -> None:
    with pytest.raises(SettingError, match="Expected epsilon > 0"):
        replace(BUDGET, epsilon=epsilon)


# Tails, heads and identity


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_the_last_rows_taken_away_show(path: Path, gone: int) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.commit(ledger.reserve(RUN, "teacher", TEACHING, None))
        ledger.record_free(RUN, "share", "post-processing")
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM ledger WHERE id > ?", (4 - gone,))
    for look in (lambda: Ledger(path, BUDGET), lambda: ledgers.read(path)):
        with pytest.raises(LedgerError, match="rows are gone"):
            look()


def test_an_empty_or_older_ledger_beside_a_newer_head_shows(path: Path, tmp_path: Path) -> None:
    with Ledger(path, BUDGET):
        shutil.copy(path, tmp_path / "older")
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    path.unlink()
    with pytest.raises(LedgerError, match="rows are gone"):
        Ledger(path, BUDGET)
    path.unlink()
    shutil.copy(tmp_path / "older", path)
    with pytest.raises(LedgerError, match="rows are gone"):
        Ledger(path, BUDGET)


def test_a_head_taken_away_shows(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    ledgers.head_path(path).unlink()
    with pytest.raises(LedgerError, match="found none"):
        Ledger(path, BUDGET)


def test_a_line_of_the_head_torn_by_a_crash_counts_nothing_and_makes_way(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    head = ledgers.head_path(path)
    whole = head.read_bytes()
    for torn in (whole.splitlines(keepends=True)[-1][:-1], b'{"rows": 9', b"{"):
        head.write_bytes(whole + torn)
        assert len(ledgers.read(path).rows) == 2
    with Ledger(path, BUDGET) as ledger:
        ledger.record_free(RUN, "share", "post-processing")
    assert head.read_bytes().startswith(whole)
    assert [json.loads(line)["rows"] for line in head.read_bytes().splitlines()] == [1, 2, 3]


def test_a_kept_connection_is_not_used_for_another_file_of_the_same_name(path: Path, tmp_path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    for suffix in ("", "-wal", "-shm", ".head"):
        path.with_name(path.name + suffix).rename(tmp_path / f"moved{suffix}")
    with Ledger(path, BUDGET) as ledger:
        assert ledger.entries() == []
        assert ledger.reserve(RUN, "teacher", TEACHING, None) == 2
    assert [entry.id for entry in ledgers.read(tmp_path / "moved").entries] == [2]


def test_after_closing_what_was_kept_the_ledger_is_one_file_and_its_head(path: Path) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    ledgers.close_idle()
    assert sorted(own.name for own in path.parent.iterdir()) == [path.name, f"{path.name}.head"]
    assert len(ledgers.read(path).rows) == 2


def test_no_more_connections_are_kept_than_there_may_be(tmp_path: Path) -> None:
    ledgers.close_idle()
    for index in range(70):
        with Ledger(tmp_path / str(index), BUDGET):
            pass
    assert len(list(tmp_path.glob("*-wal"))) == 64
    ledgers.close_idle()


def test_a_ledger_of_other_records_is_refused(path: Path) -> None:
    with Ledger(path, BUDGET):
        pass
    with pytest.raises(LedgerError, match="Expected a ledger of 'others'"):
        Ledger(path, replace(BUDGET, data_set="others"))


def test_two_settings_of_the_same_records_share_a_ledger_through_any_link(tmp_path: Path) -> None:
    one = sites.make(tmp_path / "one")
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "one", other)
    (other / "records.npz").unlink()
    (other / "records.npz").symlink_to(tmp_path / "one" / "records.npz")
    assert Site(other).ledger == one.ledger
    with Ledger(one.ledger, one.budget) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    with Ledger(Site(other).ledger, Site(other).budget) as ledger:
        assert ledger.spent() > 0


def _race_for_two(path: Path, results: "multiprocessing.Queue[str]") -> None:
    for _ in range(3):
        try:
            with Ledger(path, BUDGET) as ledger:
                ledger.reserve(RUN, "teacher", replace(TEACHING, noise_multiplier=13.5), None)
            results.put("charged")
        except BudgetError:
            results.put("refused")


def test_processes_that_race_again_and_again_never_spend_more_than_there_is(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[str] = context.Queue()
    racers = [context.Process(target=_race_for_two, args=(path, results)) for _ in range(4)]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=600) for _ in range(12)]
    for racer in racers:
        racer.join()
    own = (replace(TEACHING, noise_multiplier=13.5), None)
    fitting = max(n for n in range(12) if privacy_filter.spent((own,) * n, BUDGET.delta) <= BUDGET.epsilon)
    assert 1 < outcomes.count("charged") == fitting < 12
    with Ledger(path, BUDGET) as ledger:
        assert ledger.spent() <= BUDGET.epsilon


def test_counts_that_0_1_0_charged_with_float_noise_still_count_and_can_be_charged_no_more() -> None:
    """No plan can ask for them, but an old ledger holds what they cost."""
    content = ledgers._schedule_to_json((TEACHING, LabelCounts(noise_std=4.0)))
    content["counts"] = {"kind": "label_counts", "noise_std": 4.0, "noise": "gaussian"}
    former = ledgers._schedule_from_json(content)
    assert former == (TEACHING, accounting.FormerCounts(noise_std=4.0))
    now, bare = (accounting.epsilon(((TEACHING, own),), 1e-5) for own in (LabelCounts(noise_std=4.0), None))
    assert accounting.epsilon((former,), 1e-5) == pytest.approx(now, rel=5e-3)
    assert accounting.epsilon((former,), 1e-5) > 1.05 * bare


@pytest.mark.parametrize(
    "schedule",
    [
        (TEACHING, None),
        (TEACHING, LabelCounts(noise_std=30.0)),
        (TEACHING, RecordCount(noise_std=30.0)),
        (
            VotesTeaching(
                teachers=9,
                queries=40,
                features="hog",
                feature_norm=4,
                steps=3,
                learning_rate=1,
                momentum=0,
                noise_multiplier=20.0,
            ),
            None,
        ),
    ],
)
def test_every_kind_of_charge_is_read_back_as_it_was_made(path: Path, schedule: tuple[Teaching, Counts | None]) -> None:
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", *schedule)
    book = ledgers.read(path)
    assert book.schedules == (schedule,)
    assert book.spent() == accounting.epsilon((schedule,), 1e-5)


def test_reading_a_ledger_changes_nothing_and_makes_none(path: Path) -> None:
    with pytest.raises(LedgerError, match="found none"):
        ledgers.read(path)
    assert not path.exists()
    with Ledger(path, BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
    before = path.read_bytes()
    ledgers.read(path)
    assert path.read_bytes() == before
