"""Whole runs through the real apps: what they leave behind, resuming, refusals, misbehaving sites."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from helpers.students import same_student
from limbeck.base.errors import DataError, RunError, SettingError, TooFewClients
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.plans.author import make_plan
from limbeck.protos import carry, codec, flower_messages
from limbeck.protos.messages import Ask, Share
from limbeck.server import checkpoint
from limbeck.simulations import grid, metrics, prepare, run, scenario

# Every stage asks: at one temperature, all but the first would not.
TINY = [
    "data.private=300",
    "data.public=80",
    "student.epochs=2",
    "student.dense_control=false",
    "run.workers=2",
    "stages.temperature=[2.0, 3.0]",
]
SEEDED = [*TINY, "privacy.noise=UnsafeSeeded"]


def tiny(*overrides: str, seeded: bool = False) -> scenario.Scenario:
    return scenario.load("digits-tiny", [*(SEEDED if seeded else TINY), *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished seeded run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run.simulate(tiny("pooling.kind=class-counts", seeded=True), folder)
    return folder


def test_a_run_leaves_student_report_metrics_ledgers_and_transcripts(finished: Path) -> None:
    for name in ("metrics.json", "report.html", "server/student/student.safetensors", "server/student/student.onnx"):
        assert (finished / name).stat().st_size > 0
    measured = metrics.read(finished)
    assert [client.site for client in measured.clients] == ["site-00", "site-01", "site-02"]
    assert [stage.clients for stage in measured.stages] == [3, 3]
    assert measured.noise == "UnsafeSeeded"
    for client in measured.clients:
        assert client.epsilon is not None
        assert 0 < client.epsilon <= client.budget_epsilon == 8
        assert (client.delta, client.unit, client.adjacency) == (1e-4, "record", "add-remove-one")


def test_sites_accept_hybrid_softening_by_default_and_sharpen_with_it(tmp_path: Path) -> None:
    measured = run.simulate(tiny("release.softening=hybrid", "stages.temperature=0.7"), tmp_path / "run")
    assert [stage.clients for stage in measured.stages] == [3, 3]


def test_the_transcript_holds_exactly_the_bytes_that_the_coordinator_counted(finished: Path) -> None:
    _, plan, sites = prepare.read_prepared(finished)
    measured = metrics.read(finished)
    for client in measured.clients:
        site = Site(sites / client.site)
        sent = list(site.transcript)
        assert [entry.what.split(",")[0] for entry in sent] == ["accepted", "taught", "share of stage 1", "share of stage 2"]
        assert sum(len(entry.data) for entry in sent) == client.bytes_up
        with Ledger(site.ledger, site.budget) as ledger:
            allowed = {entry.id: entry.plan_hash for entry in ledger.entries()}
        assert all(allowed[entry.entry] == entry.plan_hash for entry in sent[1:] if entry.entry)
        share = codec.decode_reply(
            sent[2].data, plan=plan, expecting=Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=80)
        )
        assert isinstance(share, Share)
        assert share.answers.kept == 3


def test_the_ledger_has_one_charge_and_free_answers_with_their_reason(tmp_path: Path) -> None:
    run.simulate(tiny(), tmp_path / "run")
    site = Site(tmp_path / "run" / "sites" / "site-01")
    with Ledger(site.ledger, site.budget) as ledger:
        states = [entry.state for entry in ledger.entries()]
        assert states == ["committed", "free", "free"]
        assert "post-processing" in str(ledger.entries()[1].why)
        assert not site.budget.allow_without_dp


def test_a_seeded_run_says_everywhere_that_no_guarantee_holds(finished: Path) -> None:
    site = Site(finished / "sites" / "site-01")
    with Ledger(site.ledger, site.budget) as ledger:
        declared, charge = ledger.entries()
        assert (declared.state, charge.state, ledger.spent()) == ("declared", "committed", math.inf)
        assert "whoever knows the seed" in str(declared.why)
    assert [sent.entry for sent in site.transcript] == [None, charge.id, declared.id, declared.id]
    record = json.loads((finished / "server" / "record.json").read_text())
    assert {client["guarantee"] for client in record["clients"].values()} == {"seeded-noise"}
    # Counts weigh the sites as they would in a run with real noise.
    assert all(client["label_counts"] for client in record["clients"].values())
    assert "No privacy guarantee holds for this run" in (finished / "report.html").read_text()


def test_ten_times_more_public_inputs_cost_nothing_more(finished: Path, tmp_path: Path) -> None:
    measured = metrics.read(finished)
    more = run.simulate(tiny("pooling.kind=class-counts", "data.public=800", seeded=True), tmp_path / "run")
    assert [client.epsilon for client in more.clients] == [client.epsilon for client in measured.clients]


def test_the_same_unsafe_seed_gives_the_same_student(finished: Path, tmp_path: Path) -> None:
    run.simulate(tiny("pooling.kind=class-counts", seeded=True), tmp_path / "run")
    assert same_student(finished, tmp_path / "run")


def test_real_noise_gives_another_student_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run.simulate(tiny(), tmp_path / name)
    assert not same_student(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("lost", ["stage 1", "all stages", "record"])
def test_a_resumed_run_gives_the_student_of_an_uninterrupted_one(lost: str, finished: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    described = json.loads((folder / "scenario.json").read_text())
    (folder / "scenario.json").write_text(json.dumps({**described, "sites": str(folder / "sites")}))
    for stage in {"stage 1": [1], "all stages": [0, 1], "record": [1]}[lost]:
        checkpoint.path_of(folder / "server" / "checkpoints", stage).unlink()
    spent = metrics.read(folder).clients[0].epsilon
    measured = run.resume(folder)
    assert same_student(finished, folder)
    assert measured.clients[0].epsilon == spent
    assert len(measured.stages) == 2


def test_a_new_run_does_not_touch_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="Expected an empty or absent folder"):
        run.simulate(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Expected a prepared run"):
        run.resume(tmp_path)


def test_a_budget_spent_by_an_earlier_run_is_refused_before_a_record_is_read(finished: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "first"
    shutil.copytree(finished, folder)
    for records in folder.glob("sites/*/records.npz"):
        # Headers as they should be; whoever reads the values fails in another way, by their checksum.
        np.savez(records, x=np.zeros((200, 8, 8), np.uint8), y=np.zeros(200, np.int64))
        data = bytearray(records.read_bytes())
        data[data.index(b"PK\1\2") + 16] ^= 1
        records.write_bytes(data)
        with pytest.raises(DataError, match="CRC"):
            Site(records.parent).records.read(10, np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(TooFewClients, match="the privacy budget does not allow it"):
        run.simulate(
            tiny("pooling.kind=class-counts", "student.epochs=3", seeded=True), tmp_path / "second", sites=folder / "sites"
        )


def test_sites_of_another_partition_are_not_reused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Expected \[partition\]"):
        run.simulate(tiny("partition.clients=4", seeded=True), tmp_path / "run", sites=finished / "sites")


def test_more_clients_than_records_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"partition.clients = 301"):
        run.simulate(tiny("partition.clients=301"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


VOTES = ["teacher.kind=votes", "teacher.teachers=12", "teacher.steps=10", "teacher.learning_rate=1.0", "data.public=40"]


def test_noisy_votes_are_paid_for_once_and_answer_every_stage(tmp_path: Path) -> None:
    measured = run.simulate(tiny(*VOTES, "pooling.kind=record-counts"), tmp_path / "run")
    assert [stage.clients for stage in measured.stages] == [3, 3]
    assert (tmp_path / "run" / "report.html").exists()
    for client in measured.clients:
        assert client.teacher_accuracy is None
        assert isinstance(client.record_count, int)
        assert client.epsilon is not None
        assert 7.5 < client.epsilon <= 8
        site = Site(tmp_path / "run" / "sites" / client.site)
        with Ledger(site.ledger, site.budget) as ledger:
            assert [entry.state for entry in ledger.entries()] == ["committed", "free", "free"]
            assert "noisy votes" in str(ledger.entries()[1].why)


def test_more_public_inputs_make_votes_noisier_not_dearer(tmp_path: Path) -> None:
    few, many = (
        make_plan(tiny(*VOTES), transfer_set=bytes(32), samples=samples, classes=10).teaching for samples in (40, 160)
    )
    assert many.noise_multiplier / few.noise_multiplier == pytest.approx(2, rel=0.01)


# Sites that misbehave: a run goes on without them


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("garbage", "protobuf"),
        ("another_plan", "Expected plan"),
        ("too_short", "bytes of codes"),
        ("raises", "a bug at a site"),
        ("dies", "exit code 3"),
        ("replay", "Expected stage = 1, got 0"),
    ],
)
def test_a_run_goes_on_without_a_site_that_sends(app: str, reason: str, tmp_path: Path) -> None:
    measured = run.simulate(tiny("data.public=40"), tmp_path / "run", client_app=f"helpers.misbehaving:{app}")
    spoilt, *others = measured.clients
    assert reason in str(spoilt.reason)
    assert [client.status for client in others] == ["answered", "answered"]
    assert measured.stages[-1].clients == 2


def test_below_the_minimum_a_run_stops_saying_why_and_can_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TooFewClients, match="Expected at least 3 sites after 'answers 1', got 2"):
        run.simulate(tiny("run.minimum_clients=3"), folder, client_app="helpers.misbehaving:garbage")
    measured = run.resume(folder)
    assert [stage.clients for stage in measured.stages] == [3, 3]
    with Ledger((site := Site(folder / "sites" / "site-00")).ledger, site.budget) as ledger:
        assert [entry.state for entry in ledger.entries()].count("committed") == 1


def test_a_missing_records_file_leaves_that_site_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare.prepare(tiny(), folder)
    (folder / "sites" / "site-02" / "records.npz").unlink()
    measured = run.resume(folder)
    assert "could not read its records" in str(measured.clients[2].reason)
    assert [stage.clients for stage in measured.stages] == [2, 2]


def test_a_site_that_declines_the_plan_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare.prepare(tiny(), folder)
    settings = folder / "sites" / "site-01" / "policy.toml"
    settings.write_text(settings.read_text().replace("epsilon = 8.0", "epsilon = 1.0"))
    measured = run.resume(folder)
    assert measured.clients[1].reason == "agree: the privacy budget does not allow it"
    assert measured.unnamed_nodes == {}
    assert [stage.clients for stage in measured.stages] == [2, 2]


def test_two_nodes_of_one_name_count_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare.prepare(tiny(), folder)
    settings = folder / "sites" / "site-02" / "site.toml"
    settings.write_text(settings.read_text().replace("site-02", "site-01"))
    measured = run.resume(folder)
    assert [stage.clients for stage in measured.stages] == [2, 2]
    assert list(measured.unnamed_nodes.values()) == ["agree: calls itself site-01, as another node does"]


# The Grid


def test_flowers_identity_is_where_the_grid_expects_it() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    flower_messages.identify(1, 2)
    assert (TaskIdentity.node_id, TaskIdentity.run_id) == (1, 2)
    message = Message(RecordDict(), 5, "query")
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.dst_node_id) == (2, 1, 5)


def test_a_message_survives_being_deflated() -> None:
    flower_messages.identify(1, 2)
    message = Message(carry.pack(b"hello"), 5, "query.share", group_id="g")
    found = flower_messages.inflate(flower_messages.deflate(message))
    assert carry.unpack(found.content) == b"hello"
    assert (found.metadata.message_type, found.metadata.group_id, found.metadata.dst_node_id) == ("query.share", "g", 5)
    assert found.content is not message.content


def test_payloads_beyond_a_megabyte_travel_as_an_array() -> None:
    data = np.random.default_rng(0).bytes(1_500_000)
    record = carry.pack(data)
    assert type(record["limbeck"]).__name__ == "ArrayRecord"
    assert carry.unpack(record) == data


def test_a_message_to_an_unknown_node_is_refused() -> None:
    local = grid.LocalGrid([], workers=1)
    with pytest.raises(ValueError, match="Expected a node id"):
        local.push_messages([Message(RecordDict(), 5, "query")])
    local.close()
