"""What 0.1.0 left on disks is opened by today's limbeck, and says what it said then.

tests/old/0.1.0 holds one of each of its files, made by its own code. Here they are read, mostly by the commands that an owner or a
coordinator would give, and compared with what 0.1.0 read in them: expected.json. What is said besides may grow; what was said then stays.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from helpers.owner import limbeck
from helpers.students import weights
from limbeck.base.errors import LedgerError
from limbeck.client import ledger as ledgers
from limbeck.client import policy, teachers
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.client.transcript import Transcript
from limbeck.deployment import doctor
from limbeck.inputs import encodings, tables
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Teach
from limbeck.server import distil, student
from limbeck.simulations import prepare, run
from old.students import machine

OLD = Path(__file__).parent / "old" / "0.1.0"
EXPECTED = OLD / "expected.json"
# A run with evidence teachers, which came later.
EVIDENCE = OLD.parent / "evidence"
# When they were made: their certificates were valid then.
NOW = datetime(2026, 11, 28, 14, tzinfo=UTC)
PRIVATE = {".key", ".pem", ".csv", ".npz", ".toml", ".ledger", ".head", ".jsonl"}


def opened(folder: Path, kept: Path = OLD) -> Path:
    """A copy of all of it in `folder`, as it lay on its owner's disk: only its owner may read it, and a run knows where its sites are."""
    own = Path(shutil.copytree(kept, folder, ignore=shutil.ignore_patterns("*.sh", "*.md")))
    for path in own.rglob("*"):
        path.chmod(0o700 if path.is_dir() or path.suffix == ".sh" else 0o600)
    for path in own.glob("*/scenario.json"):
        described = json.loads(path.read_text())
        path.write_text(json.dumps({**described, "sites": str(path.parent / "sites")}))
    return own


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return opened(tmp_path / "old")


def plain(value: object) -> object:
    """As JSON has it."""
    match value:
        case Enum():
            return plain(value.value)
        case bytes():
            return value.hex()
        case Mapping():
            return {str(name): plain(own) for name, own in value.items()}
        case str() | int() | float() | None:
            return value
        case Sequence():
            return [plain(own) for own in value]
        case np.ndarray() | torch.Tensor():
            return np.asarray(value, np.float64).round(7).tolist()
    assert is_dataclass(value), value
    kind = {"kind": type(value).__name__}
    return {**kind, **{field.name: plain(getattr(value, field.name)) for field in fields(value)}}


def check(found: object, expected: object, where: str, *, within: float) -> None:
    """All that was expected is there; numbers that were computed again may differ by their last digits."""
    match expected:
        case dict():
            assert isinstance(found, dict), where
            missing = expected.keys() - found.keys()
            assert not missing, f"{where} lacks {missing}"
            for name, own in expected.items():
                check(found[name], own, f"{where}.{name}", within=within)
        case list():
            assert isinstance(found, list), where
            assert len(found) == len(expected), where
            for index, own in enumerate(expected):
                check(found[index], own, f"{where}[{index}]", within=within)
        case float():
            assert found == pytest.approx(expected, rel=within, abs=within), where
        case _:
            assert found == expected, where


# What is read, by the name that it has in expected.json


def status(run: Path) -> dict[str, object]:
    """What `limbeck status` says for scripts. Sentences of the log are for people, and may be put in other words."""
    found = json.loads(limbeck("status", run, "--json"))
    assert Path(found.pop("folder")).is_relative_to(run)
    return {**found, "log": [[line["time"], line["warning"]] for line in found["log"]]}


def run_of_sites(old: Path) -> object:
    scenario, plan, _ = prepare.read_prepared(old / "run")
    (x_N,) = read_arrays(old / "run" / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    truth = read_arrays(old / "run" / "truth.npz", "public_y", "test_x", "test_y", "counts")
    return {
        "scenario": scenario.model_dump(mode="json"),
        "plan": plain(plan),
        "plan_hash": codec.plan_hash(plan).hex(),
        "transfer_set": digest(x_N).hex(),
        "truth": [digest(own).hex() for own in truth],
        "status": status(old / "run"),
    }


def stopped_run(old: Path) -> object:
    return status(old / "stopped")


def deployed_run(old: Path) -> object:
    return status(old / "federation" / "coordinator")


def accounts(old: Path) -> object:
    sites, found = old / "many" / "sites", {}
    for name, path in (
        ("three plans", old / "many" / "ledgers" / "three"),
        ("after a loss", sites / "site-00"),
        ("of a black box", sites / "site-01"),
        ("deployed", old / "federation" / "sites" / "north"),
        ("in the middle", old / "stopped" / "sites" / "site-00"),
    ):
        found[name] = json.loads(limbeck("ledger", "export", path))
    return found


def policies(old: Path) -> object:
    folders = {"simulated": old / "many" / "sites" / "site-00", "deployed": old / "federation" / "sites" / "north"}
    return {name: policy.read(own / "policy.toml").model_dump(mode="json") for name, own in folders.items()}


def settings(old: Path) -> object:
    folders = ("many/sites/site-00", "many/sites/site-01", "federation/sites/north", "texts/site")
    return {name: Site(old / name).settings.model_dump(mode="json", exclude_unset=True) for name in folders}


def transcripts(old: Path) -> object:
    found = {}
    for name in ("many/sites/site-00", "many/sites/site-01", "federation/sites/north"):
        sent = list(Transcript(old / name / "transcript.jsonl"))
        found[name] = [[own.time, own.what, own.plan_hash.hex(), own.entry, own.data.hex()] for own in sent]
    return found


def replies(old: Path) -> object:
    """What messages of a transcript say, decoded."""
    found = []
    for name in ("many/sites/site-00", "many/sites/site-01", "federation/sites/north"):
        site = Site(old / name)
        for own in site.transcript:
            plan = codec.decode_offer((site.state(own.plan_hash) / "plan.pb").read_bytes()).plan
            found.append(
                plain(codec.decode_stored_reply(own.data, plan=plan, expecting=codec.implied_request(own.data, plan)))
            )
    return found


def trained(old: Path) -> object:
    """What stored teachers answer to the first public inputs."""
    found = {}
    site = Site(old / "many" / "sites" / "site-00")
    for state in sorted((site.folder / "state").glob("*/teacher.safetensors")):
        plan = codec.decode_offer((state.parent / "plan.pb").read_bytes()).plan
        x_N = site.transfer_sets.read(plan.transfer_set, plan.samples)
        # Votes are about the whole of the transfer set.
        found[type(plan.teaching).__name__] = plain(teachers.load(state).log_probabilities(x_N)[:2].exp())
    return found


def students(old: Path) -> object:
    """Weights of an exported student, and what it answers: the same by both of its files."""
    coordinator = old / "federation" / "coordinator"
    plan = codec.decode_offer((coordinator / "plan.pb").read_bytes()).plan
    (x_N,) = read_arrays(coordinator / "transfer-sets" / f"{plan.transfer_set.hex()}.npz", "x")
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    tensors = load_file(coordinator / "run" / "student" / "student.safetensors")
    model.load_state_dict(tensors)
    session = onnxruntime.InferenceSession(str(coordinator / "run" / "student" / "student.onnx"))
    # So far away that a student of few weights tells them apart.
    x_N = 100 * x_N[:4]
    with torch.no_grad():
        by_torch = distil.predict(model, torch.from_numpy(x_N))
    (by_onnx,) = session.run(None, {"inputs": x_N})
    sums = {name: [int(own.count_nonzero()), float(own.double().sum())] for name, own in tensors.items()}
    return {"sums": sums, "safetensors": plain(by_torch), "onnx": plain(by_onnx)}


def encoded(old: Path) -> object:
    """Rows of a site's table, and of texts that were encoded ahead."""
    path = old / "federation" / "sites" / "north"
    encoding = encodings.load(path / "transfer-sets" / "encoding.json")
    rows = encoding(tables.read(path / "records.csv"))  # type: ignore[operator]
    public = tables.read(old / "texts" / "public.csv", public=True)
    (public_x,) = read_arrays(old / "texts" / "public.npz", "x")
    texts = Site(old / "texts" / "site")
    # Kept rows need no encoder.
    text_x, text_y = texts.records.read(2, public_x)
    return {
        "encoding": plain(encoding),
        "sha256": encodings.digest(encoding).hex(),
        "table": plain(rows),
        "texts": [public.texts("text"), plain(public_x), plain(text_x), plain(text_y)],
    }


def health(old: Path) -> object:
    """What the doctor says of deployed folders, finding by finding."""
    found: dict[str, list[list[str]]] = {}
    for folder in ("federation/sites/north", "federation/coordinator"):
        findings = doctor.examine(old / folder, now=NOW, network=False)
        # Of the machine that it runs on, not of the folder.
        found[folder] = sorted(
            [own.check, own.outcome.value] for own in findings if own.check not in {"clock", "disk", "versions"}
        )
    return found


def by_checks_of_then(found: object, expected: dict[str, list[list[str]]]) -> object:
    """How the checks that the doctor had then come out now. It may have others since, and say more in one of them."""
    assert isinstance(found, dict)
    checks = {folder: {name for name, _ in own} for folder, own in expected.items()}
    return {
        folder: [list(own) for own in sorted({(name, outcome) for name, outcome in found[folder] if name in checks[folder]})]
        for folder in expected
    }


READERS = (
    run_of_sites,
    stopped_run,
    deployed_run,
    accounts,
    policies,
    settings,
    transcripts,
    replies,
    trained,
    students,
    encoded,
    health,
)
# Answers of models are computed anew, on whatever processor; all else is read, or composed in float64.
COMPUTED = {"trained", "students", "encoded"}


@pytest.mark.parametrize("reader", READERS, ids=lambda own: own.__name__)
def test_what_0_1_0_wrote_is_read_as_it_read_it(reader: object, old: Path) -> None:
    assert callable(reader)
    name = getattr(reader, "__name__", "")
    expected = json.loads(EXPECTED.read_text())[name]
    found = json.loads(json.dumps(reader(old)))
    if reader is health:
        found = by_checks_of_then(found, expected)
    check(found, expected, name, within=1e-5 if name in COMPUTED else 1e-9)


def test_a_check_of_then_that_is_lost_or_comes_out_otherwise_is_noticed() -> None:
    then = {"site": [["ledger", "ok"], ["records", "ok"]]}
    more = {"site": [["ledger", "ok"], ["plans", "warn"], ["records", "ok"], ["records", "ok"]]}
    assert by_checks_of_then(more, then) == then
    for less in (more["site"][:2], [*more["site"], ["ledger", "warn"]], [["ledger", "fail"], *more["site"][1:]]):
        assert by_checks_of_then({"site": less}, then) != then


def test_the_report_of_a_finished_run_is_made_again(old: Path) -> None:
    limbeck("report", old / "run")
    page, metrics = (old / "run" / "report.html").read_text(), json.loads((old / "run" / "metrics.json").read_text())
    for site in metrics["clients"]:
        assert site["site"] in page
        assert f"{site['epsilon']:.3f}" in page
        assert f"{100 * site['teacher_accuracy']:.1f} %" in page
    assert all(f"{100 * stage['sparse_accuracy']:.1f} %" in page for stage in metrics["stages"])


def test_a_stopped_run_goes_on_to_the_student_of_the_one_that_was_not_stopped(old: Path) -> None:
    stopped, whole = old / "stopped", old / "run"
    before = {site: len(ledgers.read(Site(site).ledger).rows) for site in stopped.glob("sites/*")}
    first = (stopped / "server" / "checkpoints" / "stage-000.safetensors").read_bytes()
    limbeck("simulate", "--resume", "--out", stopped)
    assert (stopped / "server" / "checkpoints" / "stage-000.safetensors").read_bytes() == first
    events = [json.loads(line)["kind"] for line in (stopped / "server" / "events.jsonl").read_text().splitlines()]
    assert (events.count("stopped"), events.count("resumed"), events[-1]) == (1, 1, "end")
    # Nobody pays again: answers of the second stage are all that is new, and those are free.
    for site, rows in before.items():
        mine, theirs = (ledgers.read(Site(own).ledger) for own in (site, whole / "sites" / site.name))
        assert len(mine.rows) >= rows
        assert [own.state for own in mine.entries] == [own.state for own in theirs.entries]
        assert mine.schedules == theirs.schedules
    ended, expected = (json.loads((own / "server" / "record.json").read_text()) for own in (stopped, whole))
    for record in (ended, expected):
        # A site that was asked a second time sent a second time.
        for own in record["clients"].values():
            del own["bytes_up"], own["bytes_down"]
        for own in record["stages"]:
            del own["seconds"], own["losses"]
    check({**ended, "seconds": {}}, {**expected, "seconds": {}}, "record", within=1e-9)
    for name, own in weights(whole).items():
        # To the last bit on one machine; another's may round otherwise.
        torch.testing.assert_close(weights(stopped)[name], own, rtol=0, atol=2e-2)


def test_the_same_seeds_give_the_student_of_0_1_0(old: Path, tmp_path: Path) -> None:
    """To the last bit on the processor and the torch that made it; elsewhere sums round otherwise. old/students.py compares more runs."""
    kept, again = old / "run", tmp_path / "again"
    scenario, plan, _ = prepare.read_prepared(kept)
    run.simulate(scenario, again)
    # The names of classes, and what the public inputs are, are in a plan since.
    assert replace(prepare.read_prepared(again)[1], class_names=(), inputs=None) == plan
    exact = machine() == json.loads((OLD / "students.json").read_text())["machine"]
    last = Path("server") / "checkpoints" / "stage-001.safetensors"
    # Of the first stage: those to the second, at the same temperature, would be the same, and are not asked for any more.
    answers = (path.relative_to(kept) for path in kept.glob("sites/*/state/*/answers-0.safetensors"))
    pairs = [
        (last, last),
        *((next(again.glob(f"{path.parents[1]}/*/{path.name}")).relative_to(again), path) for path in answers),
    ]
    assert len(pairs) == 1 + 2
    for new, former in pairs:
        found, expected = load_file(again / new), load_file(kept / former)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            if exact or tensor.is_floating_point():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=0 if exact else 2e-2)


def test_a_site_goes_on_with_its_account_and_sends_what_it_said_byte_for_byte(old: Path) -> None:
    """A lost reply is asked for again, from a site whose limbeck was replaced in between."""
    site = Site(old / "many" / "sites" / "site-00")
    book = ledgers.read(site.ledger)
    sent = [own for own in site.transcript if own.what != "accepted" and not own.again]
    plans = {own.plan_hash: codec.decode_offer((site.state(own.plan_hash) / "plan.pb").read_bytes()).plan for own in sent}
    assert len(plans) == 3
    for own in sent:
        question = codec.implied_request(own.data, plans[own.plan_hash])
        assert isinstance(question, Teach | Ask)
        assert respond(site, codec.encode_request(question)) == own.data
    # The ledger lost the entries of some answers: they are there again, and cost nothing.
    assert (ledgers.read(site.ledger).schedules, ledgers.read(site.ledger).spent()) == (book.schedules, book.spent())
    plan = next(own for own in plans.values() if isinstance(own.teaching, LinearTeaching))
    with site.account.open(site.budget) as ledger:
        ledger.reserve(bytes(32), "teacher", plan.teaching, None)
        assert book.spent() < ledger.spent() < book.spent() + plan.privacy.epsilon


def evidence(old: Path) -> object:
    """Plan, account, transcript, replies and a stored teacher's answers of a run with evidence teachers."""
    _, plan, _ = prepare.read_prepared(old / "run")
    site = Site(old / "run" / "sites" / "site-00")
    sent = list(site.transcript)
    said = [codec.decode_stored_reply(own.data, plan=plan, expecting=codec.implied_request(own.data, plan)) for own in sent]
    x_N = site.transfer_sets.read(plan.transfer_set, plan.samples)
    (state,) = (site.folder / "state").glob("*/teacher.safetensors")
    return {
        "plan": plain(plan),
        "plan_hash": codec.plan_hash(plan).hex(),
        "status": status(old / "run"),
        "account": json.loads(limbeck("ledger", "export", site.folder)),
        "transcript": [[own.time, own.what, own.plan_hash.hex(), own.entry, own.data.hex()] for own in sent],
        "replies": [plain(own) for own in said],
        "trained": plain(teachers.load(state).log_probabilities(x_N)[:2].exp()),
    }


@pytest.fixture
def with_evidence(tmp_path: Path) -> Path:
    return opened(tmp_path / "evidence", EVIDENCE)


def test_what_was_stored_of_evidence_is_read_as_it_was_then(with_evidence: Path) -> None:
    expected = json.loads((EVIDENCE / "expected.json").read_text())
    check(json.loads(json.dumps(evidence(with_evidence))), expected, "evidence", within=1e-5)


def test_a_site_sends_again_what_evidence_said_and_its_account_goes_on(with_evidence: Path) -> None:
    site = Site(with_evidence / "run" / "sites" / "site-00")
    book = ledgers.read(site.ledger)
    (charged,) = book.schedules
    assert isinstance(charged[0], EvidenceTeaching)
    sent = [own for own in site.transcript if own.what != "accepted"]
    for own in sent:
        plan = codec.decode_offer((site.state(own.plan_hash) / "plan.pb").read_bytes()).plan
        question = codec.implied_request(own.data, plan)
        assert respond(site, codec.encode_request(question)) == own.data
    assert [own.what for own in sent] == ["taught", "share of stage 1, samples 0 to 39"]
    assert ledgers.read(site.ledger).spent() == book.spent()
    with site.account.open(replace(site.budget, epsilon=100.0)) as ledger:
        ledger.reserve(bytes(32), "teacher", charged[0], None)
        assert book.spent() < ledger.spent() < 2 * book.spent()


def test_an_account_that_was_cut_short_is_still_noticed(old: Path) -> None:
    north = Site(old / "federation" / "sites" / "north")
    assert north.account.check(every_line=True) is not None
    for path in north.folder.glob("records.csv.ledger*"):
        path.unlink()
    with pytest.raises(LedgerError, match="Expected"):
        north.account.check()


def test_heads_that_owners_noted_and_backups_are_what_the_ledger_goes_on_from(old: Path) -> None:
    expected, folder = json.loads(EXPECTED.read_text())["accounts"], old / "many" / "ledgers"
    # A backup is the file alone.
    backup, whole = ledgers.read(folder / "one", with_head=False), ledgers.read(folder / "three")
    assert whole.rows[: len(backup.rows)] == backup.rows
    assert len(backup.schedules) == 1
    assert f"head {whole.head}" in limbeck("ledger", "verify", folder / "three", "--head", backup.head)
    assert whole.head == expected["three plans"]["head"]
    limbeck("ledger", "verify", old / "federation" / "sites" / "north", "--head", expected["deployed"]["head"])


def test_a_plan_is_shown_as_what_it_is(old: Path) -> None:
    shown = limbeck("plan", "show", old / "federation" / "coordinator" / "plan.pb")
    (sent, *_) = Site(old / "federation" / "sites" / "north").transcript
    for fact in ("hospitals", sent.plan_hash.hex(), "epsilon = 5.997", "without names", "60.0%"):
        assert fact in shown


def test_a_plan_is_allowed_by_the_policies_that_allowed_it(old: Path) -> None:
    federation, many = old / "federation", old / "many"
    assert "allowed" in limbeck("policy", "check", federation / "coordinator" / "plan.pb", federation / "sites" / "north")
    assert "allowed" in limbeck("policy", "check", many / "plan.pb", many / "sites" / "site-00")
    refused = limbeck("policy", "check", old / "run" / "plan.pb", federation / "sites" / "north", status=1)
    assert "refused by plans.authors" in refused


def test_no_kept_file_names_a_place_of_anybodys() -> None:
    # make.sh works in /srv/limbeck, where docs put services too.
    homes = {str(Path.home()).encode(), os.getcwd().encode(), b"/tmp/", b"/home/", b"/root/"} - {b"/"}
    for path in (*OLD.rglob("*"), *EVIDENCE.rglob("*")):
        if path.is_file() and path.suffix not in {".sh", ".md"}:
            content = path.read_bytes()
            assert not [home for home in homes if home in content], path


if __name__ == "__main__":
    if sys.argv[2:] == ["evidence"]:
        found = evidence(opened(Path(sys.argv[1]), EVIDENCE))
        (EVIDENCE / "expected.json").write_text(json.dumps(found) + "\n")
        raise SystemExit
    folder = opened(Path(sys.argv[1]))
    content = {own.__name__: own(folder) for own in READERS}
    lines = (f"{json.dumps(name)}: {json.dumps(own)}" for name, own in content.items())
    EXPECTED.write_text("{" + ",\n".join(lines) + "}\n")
