"""A doctor says of every fault which it is and what to do, within its time, and calls nothing healthy that is not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from helpers import sites
from limbeck.base.errors import SettingError
from limbeck.cli.main import app
from limbeck.client import proxy
from limbeck.client.app import respond
from limbeck.client.ledger import Ledger
from limbeck.client.link import Daemon
from limbeck.client.site import Site
from limbeck.deployment import bringup, doctor, keys
from limbeck.deployment.doctor import Finding, Outcome, connection, shared
from limbeck.deployment.doctor.connection import Reach
from limbeck.experiments.faults.linked import HANG_SECONDS, free_port
from limbeck.inputs import encodings
from limbeck.inputs.encodings import EncoderEncoding
from limbeck.inputs.transfer_set import digest
from limbeck.protos import codec, signing
from limbeck.protos.messages import Offer
from limbeck.server import serve
from limbeck.server.record import Record

# Where nothing listens; kept for this process.
PORT = free_port()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation on loopback whose site A has records, public inputs and a policy that accepts the plan; and the coordinator, it."""
    out = tmp_path_factory.mktemp("doctor") / "federation"
    described = bringup.Federation(server=("localhost",), sites=("A", "B"), days=90, port=PORT)
    bringup.init(described, out, now=datetime.now(UTC))
    source = sites.make(out.parent / "site")
    a = out / "sites" / "A"
    for name in ("records.npz", "policy.toml"):
        shutil.copy(source.folder / name, a / name)
        (a / name).chmod(0o600)
    for folder in (a, out / "coordinator"):
        shutil.copytree(source.folder / "transfer", folder / "transfer-sets", dirs_exist_ok=True)
    (out / "coordinator" / "plan.pb").write_bytes(codec.encode_request(sites.offer()))
    return out


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "federation")
    return tmp_path / "federation"


def examine(
    folder: Path, *, network: bool = False, later: timedelta = timedelta(), seconds: float = HANG_SECONDS
) -> list[Finding]:
    """What the doctor finds now, or so much later. seconds: that a coordinator gets to answer."""
    return doctor.examine(folder, now=datetime.now(UTC) + later, network=network, seconds=seconds)


def wrong(findings: list[Finding]) -> list[tuple[str, Outcome]]:
    return [(each.check, each.outcome) for each in findings if each.outcome is not Outcome.OK]


def only(findings: list[Finding]) -> Finding:
    (finding,) = [each for each in findings if each.outcome is not Outcome.OK]
    return finding


def test_what_is_well_is_called_well(federation: Path) -> None:
    for folder in (federation / "sites" / "A", federation / "coordinator", federation / "authority"):
        findings = examine(folder)
        assert wrong(findings) == []
        assert doctor.healthy(findings)
    checked = {each.check for each in examine(federation / "sites" / "A")}
    assert checked == {
        *("versions", "clock", "certificate", "authority", "policy"),
        *("ledger", "transcript", "records", "public inputs", "disk", "proxy", "plans", "modes"),
    }


def test_a_folder_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Expected site.toml, coordinator.toml or an authority's certificates"):
        examine(tmp_path)


def _write(path: str, text: str) -> Callable[[Path], object]:
    return lambda site: (site / path).write_text(text)


def _replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(site: Path) -> None:
        text = (site / path).read_text()
        assert old in text
        (site / path).write_text(text.replace(old, new))

    return change


def _table(text: str) -> Callable[[Path], None]:
    """The records are a table with this text."""

    def change(site: Path) -> None:
        (site / "records.csv").write_text(text)
        own = '{path = "records.csv", label = "sick", columns = ["a"]}'
        _replace("site.toml", '"records.npz"', own)(site)

    return change


def _dicom(site: Path) -> None:
    """The records are folders of images, in a format that is not read."""
    for name in ("cat", "dog"):
        (site / "images" / name).mkdir(parents=True)
        (site / "images" / name / "a.dcm").write_bytes(b"DICM")
    _replace("site.toml", '"records.npz"', '{path = "images"}')(site)


def _spend(site: Path) -> None:
    opened, plan = Site(site), sites.plan()
    with Ledger(opened.ledger, opened.budget) as ledger:
        ledger.reserve(codec.plan_hash(plan), "teacher", plan.teaching, plan.counts)


def _spend_and_cut(site: Path) -> None:
    _spend(site)
    Site(site).ledger.unlink()


def _send_without_an_entry(site: Path) -> None:
    _spend(site)
    Site(site).transcript.append("share", bytes(32), 2, b"x")


def _send_and_change(site: Path) -> None:
    Site(site).transcript.append("share", bytes(32), None, b"x" * 30)
    path = site / "transcript.jsonl"
    path.write_text(path.read_text().replace("eHh4", "eHh5", 1))


def _from_the_future(site: Path) -> None:
    os.utime(site / "policy.toml", (time.time() + 3600,) * 2)


def _other_inputs(site: Path) -> None:
    (path,) = (site / "transfer-sets").iterdir()
    path.rename(path.with_name("0" * 64 + ".npz"))


def _without_its_encoder(site: Path) -> None:
    encoding = EncoderEncoding(column="text", model="tiny", files={}, tokens=8, probe=((0.0, 1.0),) * len(encodings.PROBES))
    encodings.save(encoding, site / "public.json")
    (site / "reviews.csv").write_text("text,label\ngood,1\n")
    records = '{path = "reviews.csv", encoding = "public.json", encoder = "gone"}'
    _replace("site.toml", '"records.npz"', records)(site)


FAULTS: dict[str, tuple[Callable[[Path], object], str, Outcome, str]] = {
    "invalid settings": (
        _replace("site.toml", "records =", "record ="),
        "settings",
        Outcome.FAIL,
        "did you mean records",
    ),
    "a key others can read": (
        lambda site: (site / "keys" / "A.key").chmod(0o644),
        "certificate",
        Outcome.FAIL,
        "got mode 644",
    ),
    "another's certificate": (
        lambda site: shutil.copy(site.parent / "B" / "keys" / "B.pem", site / "keys" / "A.pem"),
        "certificate",
        Outcome.FAIL,
        "Expected a certificate of 'A', got one of B",
    ),
    "another's key": (
        lambda site: shutil.copy(site.parent / "B" / "keys" / "B.key", site / "keys" / "A.key"),
        "certificate",
        Outcome.FAIL,
        "private key of the certificate of 'A', got another",
    ),
    "no certificate": (lambda site: (site / "keys" / "A.pem").unlink(), "certificate", Outcome.FAIL, "No such file"),
    "a policy that is none": (_write("policy.toml", "x = 1\n"), "policy", Outcome.FAIL, "Expected a valid policy"),
    "nobody's plan": (
        _replace("policy.toml", signing.author_of(sites.KEY).hex(), ""),
        "policy",
        Outcome.FAIL,
        "64 hexadecimal",
    ),
    "a ledger that is gone": (_spend_and_cut, "ledger", Outcome.FAIL, "what was spent is not known"),
    "a transcript of more than the ledger allowed": (_send_without_an_entry, "ledger", Outcome.FAIL, "found no such entry"),
    "a transcript that was changed": (_send_and_change, "transcript", Outcome.FAIL, "found others"),
    "a table without its column of labels": (
        _table("a,b\n1,2\n"),
        "records",
        Outcome.FAIL,
        "a column 'sick' in",
    ),
    "a table of a header": (
        _table("a,sick\n"),
        "records",
        Outcome.FAIL,
        "found a header and nothing else",
    ),
    "folders of no images": (
        _dicom,
        "records",
        Outcome.FAIL,
        "found 2 .dcm",
    ),
    "records that are not there": (lambda site: (site / "records.npz").unlink(), "records", Outcome.FAIL, "None at"),
    "no public encoding": (
        _replace("site.toml", 'records = "records.npz"', 'records = {path = "records.npz", encoding = "public.json"}'),
        "records",
        Outcome.FAIL,
        "No public encoding at",
    ),
    "no public encoder": (_without_its_encoder, "records", Outcome.FAIL, "Expected the encoder tiny in the folder"),
    "inputs under another hash": (_other_inputs, "public inputs", Outcome.FAIL, "holds inputs of SHA-256"),
    "no inputs": (lambda site: shutil.rmtree(site / "transfer-sets"), "public inputs", Outcome.WARN, "None in"),
    "a file from the future": (_from_the_future, "clock", Outcome.FAIL, "in the future"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_a_site_is_found_and_named(name: str, federation: Path) -> None:
    fault, check, outcome, words = FAULTS[name]
    site = federation / "sites" / "A"
    fault(site)
    matching = [each for each in examine(site) if each.outcome is not Outcome.OK and each.check == check]
    assert [each.outcome for each in matching][:1] == [outcome], examine(site)
    assert words in matching[0].found
    assert doctor.healthy(examine(site)) == (outcome is not Outcome.FAIL)


def test_a_policy_that_accepts_nobody_or_everybody_is_pointed_out(federation: Path) -> None:
    site = federation / "sites" / "A"
    assert "nobody's plan" in only(examine_policy(site, plans__authors=[])).found
    assert "nobody signed" in only(examine_policy(site, plans__authors="any")).found
    assert "named 'our-records'" in only(examine_policy(site, data_set="our-records")).found
    assert "without any privacy" in only(examine_policy(site, teachers__allow_without_dp=True)).found


def examine_policy(site: Path, **changes: object) -> list[Finding]:
    (site / "policy.toml").write_text(tomli_w.dumps(sites.rules(**changes)))
    return examine(site)


def test_what_is_left_of_the_budget_is_said_with_its_terms(federation: Path) -> None:
    site = federation / "sites" / "A"
    _spend(site)
    book = Ledger(Site(site).ledger, Site(site).budget)
    lines = [each for each in examine(site) if each.check == "ledger"]
    assert f"epsilon = {book.spent():.4g} of 3 spent at delta = 1e-05, per record, add-remove-one" in lines[0].found
    assert lines[-1].outcome is Outcome.WARN
    assert "Reserved and not committed: 2" in lines[-1].found


def test_certificates_that_end_or_began_later_are_told_apart(federation: Path) -> None:
    site = federation / "sites" / "A"
    soon = only(examine(site, later=timedelta(days=70)))
    assert (soon.check, soon.outcome) == ("certificate", Outcome.WARN)
    assert "limbeck keys rotate A" in soon.advice
    assert "expired on" in only(examine(site, later=timedelta(days=91))).found
    early = [each.found for each in examine(site, later=-timedelta(days=1)) if each.check == "certificate"]
    assert "set this machine's clock" in early[0]
    named = [each.advice for each in examine(federation / "authority", later=timedelta(days=70)) if each.advice]
    assert sorted(named) == ["limbeck keys rotate A", "limbeck keys rotate B", "limbeck keys rotate localhost"]


def test_a_full_disk_and_a_folder_that_is_not_ours(federation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = federation / "sites" / "A"
    for free, outcome in ((10 << 20, Outcome.FAIL), (100 << 20, Outcome.WARN)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(1 << 40, 0, free))
        matching = [each for each in examine(site) if each.check == "disk"]
        assert [each.outcome for each in matching] == [outcome] * 2
        assert "Make room" in matching[0].advice
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)
    assert [each.found.partition(":")[0] for each in examine(site) if each.outcome is Outcome.FAIL] == [
        "state and transcript",
        "ledger",
    ]


def test_versions_that_were_not_tested_together_are_named(federation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shared._version
    monkeypatch.setattr(shared, "_version", lambda name: {"flwr": "1.0.0", "torch": None}.get(name, real(name)))
    finding = only(examine(federation / "sites" / "A"))
    assert "flwr==1.41.0, got 1.0.0" in finding.found
    assert "got none" in finding.found
    assert "constraints.txt" in finding.advice


def _change_plan(folder: Path) -> None:
    """One bit of what was signed."""
    data = bytearray((folder / "plan.pb").read_bytes())
    where = data.index(b"plan") if b"plan" in data else 40
    data[where] ^= 1
    (folder / "plan.pb").write_bytes(bytes(data))


def _begin_another_run(folder: Path) -> None:
    Record(folder / "run" / "record.json", bytes(32)).save()


COORDINATOR_FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a name for two sites": (_replace("coordinator.toml", '"B"', '"A"'), "sites", "Expected every site once"),
    "a name with a path": (_replace("coordinator.toml", '"B"', '"../B"'), "sites", "Expected a site name"),
    "a list that cannot be read": (_write("revoked", "none\n"), "sites", "hexadecimal serial number"),
    "no list": (lambda folder: (folder / "revoked").unlink(), "sites", "revoked serial numbers"),
    "too few sites": (_replace("coordinator.toml", ', "B"', ""), "plan", "needs 2 sites, and 1 may connect"),
    "a plan that nobody signed": (
        lambda folder: (folder / "plan.pb").write_bytes(codec.encode_request(Offer(plan=sites.plan()))),
        "plan",
        "not signed: sites decline it",
    ),
    "a plan that was changed": (_change_plan, "plan", "Expected"),
    "another plan than that of the run": (_begin_another_run, "plan", "holds a run of plan 0000000000000000"),
    "a port that cannot be dialled": (_replace("coordinator.toml", f":{PORT}", ":0"), "address", "Sites dial one port"),
    "an address of another machine": (
        _replace("coordinator.toml", "0.0.0.0:", "192.0.2.1:"),
        "address",
        "Cannot listen at 192.0.2.1",
    ),
    "a name that stands for no address": (
        _replace("coordinator.toml", "0.0.0.0:", "nobody.invalid:"),
        "address",
        "Cannot listen at nobody.invalid",
    ),
    "a plan that is none": (_write("plan.pb", "x"), "plan", "Expected"),
    "no inputs of the plan": (lambda folder: shutil.rmtree(folder / "transfer-sets"), "plan", "public inputs are not at"),
    "a site's certificate": (
        lambda folder: [
            shutil.copy(folder.parent / "sites/A/keys" / f"A.{end}", folder / "keys" / f"server.{end}")
            for end in ("pem", "key")
        ],
        "certificate",
        "Expected a certificate for a server, got 'A' for a site",
    ),
    "settings that lack a key": (_replace("coordinator.toml", "listen =", "lisen ="), "settings", "did you mean listen"),
}


@pytest.mark.parametrize("name", COORDINATOR_FAULTS)
def test_every_fault_of_a_coordinator_is_found_and_named(name: str, federation: Path) -> None:
    fault, check, words = COORDINATOR_FAULTS[name]
    fault(federation / "coordinator")
    matching = [each for each in examine(federation / "coordinator") if each.outcome is Outcome.FAIL]
    assert [each.check for each in matching][:1] == [check]
    assert words in matching[0].found


def test_nobody_is_told_to_sign_a_plan_that_was_changed(federation: Path) -> None:
    """A signature of the operator's would make the change good."""
    for fault in (_change_plan, COORDINATOR_FAULTS["a plan that nobody signed"][0]):
        fault(federation / "coordinator")
        told = " ".join(each.advice for each in examine(federation / "coordinator"))
        assert "etch the author's copy" in told
        assert "keys sign" not in told
    site = Site(federation / "sites" / "A")
    respond(site, codec.encode_request(sites.offer()))
    (accepted,) = site.states.glob("*/plan.pb")
    for data in (codec.encode_request(sites.offer(sites.plan(public_seed=9))), b"x"):
        accepted.write_bytes(data)
        (found,) = [each for each in examine(site.folder) if each.check == "plans" and each.outcome is Outcome.FAIL]
        assert "the author's copy" in found.advice


def test_plans_that_were_accepted_are_listed_with_their_cost(federation: Path) -> None:
    site = Site(federation / "sites" / "A")
    respond(site, codec.encode_request(sites.offer()))
    (found,) = [each.found for each in examine(site.folder) if each.check == "plans"]
    assert re.search(r"^1 accepted: .*epsilon = [\d.]+ at delta = 1e-05, per record, add-remove-one$", found)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may listen below 1024")
def test_a_port_that_only_root_may_have_is_pointed_out_to_root(federation: Path) -> None:
    folder = federation / "coordinator"
    _replace("coordinator.toml", f":{PORT}", ":913")(folder)
    found = only(examine(folder))
    assert (found.check, found.outcome) == ("address", Outcome.WARN)
    assert "CAP_NET_BIND_SERVICE" in found.advice


def test_a_port_that_this_user_may_not_have_is_named(federation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    found = only(examine(federation / "coordinator"))
    assert (found.check, found.outcome) == ("address", Outcome.FAIL)
    assert "CAP_NET_BIND_SERVICE" in found.advice


def test_a_coordinator_that_only_its_own_machine_reaches_under_another_name(tmp_path: Path) -> None:
    described = bringup.Federation(server=("limbeck.example.org",), sites=("A", "B"), listen="127.0.0.1", port=PORT)
    bringup.init(described, tmp_path / "out", now=datetime.now(UTC))
    found = [each.found for each in examine(tmp_path / "out" / "coordinator") if each.check == "address"]
    assert "names limbeck.example.org: no site elsewhere can connect" in found[-1]


@pytest.mark.parametrize(
    ("variables", "outcome", "words"),
    [
        ({}, Outcome.OK, "dials coordinator.example.org:7443 directly"),
        (
            {"https_proxy": "http://user:secret@proxy:3128"},
            Outcome.OK,
            "through the proxy proxy:3128 (of https_proxy)",
        ),
        ({"https_proxy": "http://proxy:3128", "no_proxy": ".example.org"}, Outcome.OK, "directly (no_proxy excepts it"),
        ({"https_proxy": "socks5://proxy:1080"}, Outcome.FAIL, "Expected a proxy as http://HOST:PORT in https_proxy"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, Outcome.WARN, "no_proxy and NO_PROXY differ: no_proxy counts"),
        ({"HTTP_PROXY": "http://proxy:3128"}, Outcome.WARN, "HTTP_PROXY is set and not read"),
    ],
)
def test_by_which_way_a_site_dials_is_said_and_what_decided(
    federation: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], outcome: Outcome, words: str
) -> None:
    for name in (*proxy.PROXIES, *proxy.EXCEPTIONS, "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    site = federation / "sites" / "A"
    _replace("site.toml", f"localhost:{PORT}", "coordinator.example.org:7443")(site)
    found = [each for each in examine(site) if each.check == "proxy"]
    assert found[-1].outcome is outcome
    assert words in found[-1].found
    assert "secret" not in str(found)


def _open(site: Path, mode: int) -> None:
    site.chmod(0o755)
    (site / "policy.toml").chmod(mode)


def _open_above(site: Path) -> None:
    site.parent.chmod(0o777)
    site.parents[1].chmod(0o711)


MODES: dict[str, tuple[Callable[[Path], object], Outcome, str]] = {
    "a folder that others enter": (lambda site: site.chmod(0o755), Outcome.WARN, "Others than its owner can enter"),
    "a policy that everybody changes": (
        lambda site: _open(site, 0o666),
        Outcome.FAIL,
        "Everybody can change the file",
    ),
    "a policy that a group changes": (
        lambda site: _open(site, 0o664),
        Outcome.WARN,
        "Its group can change the file",
    ),
    "a folder above that everybody changes": (_open_above, Outcome.FAIL, "Everybody can change the folder"),
}


@pytest.mark.parametrize("name", MODES)
def test_whatever_lets_others_change_what_decides_is_found(
    name: str, federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest's own folders above are closed to others; a test is about those below."""
    change, outcome, words = MODES[name]
    top = federation.parent.resolve()
    monkeypatch.setattr(
        shared,
        "is_closed",
        lambda path, closed=shared.is_closed: path.resolve() not in top.parents and path != top and closed(path),
    )
    for folder in (federation, federation / "sites"):
        folder.chmod(0o711)
    site = federation / "sites" / "A"
    assert [each.outcome for each in examine(site) if each.check == "modes"] == [Outcome.OK]
    change(site)
    found = [each for each in examine(site) if each.check == "modes" and words in each.found]
    assert [each.outcome for each in found] == [outcome]
    assert found[0].advice.startswith("chmod")


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give files away")
def test_files_of_another_user_are_found(federation: Path) -> None:
    site = federation / "sites" / "A"
    os.chown(site / "policy.toml", 12345, -1)
    assert "belongs to user 12345" in only(examine(site)).found
    os.chown(site, 12345, -1)
    assert "sudo -u '#12345'" in " ".join(each.advice for each in examine(site))


# Connections, with real sockets.


@contextmanager
def listening(answer: Callable[[socket.socket], object], port: int = 0) -> Iterator[int]:
    """A server that hands every connection to `answer`, one after the other."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        answer(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(HANG_SECONDS)


def tls(folder: Path, stem: str, *, protocol: str = "h2", ca: Path | None = None) -> Callable[[socket.socket], None]:
    """Mutual TLS that answers the first bytes of HTTP/2 with empty settings."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{stem}.pem", folder / f"{stem}.key")
    context.load_verify_locations(ca or folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([protocol])

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            if secure.recv(24):
                secure.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                secure.recv(1)

    return answer


def reach(site: Path, port: int, host: str = "localhost", seconds: float = HANG_SECONDS) -> Finding:
    text = (site / "site.toml").read_text()
    (site / "site.toml").write_text(text.replace(f"localhost:{PORT}", f"{host}:{port}"))
    (finding,) = [each for each in examine(site, network=True, seconds=seconds) if each.check == "coordinator"]
    return finding


def test_a_coordinator_that_answers_and_takes_our_certificate(federation: Path) -> None:
    with listening(tls(federation / "coordinator" / "keys", "server")) as port:
        finding = reach(federation / "sites" / "A", port)
    assert finding.outcome is Outcome.OK
    assert "TLSv1.3, and takes this certificate" in finding.found


@pytest.mark.parametrize(
    ("hours", "outcome", "said"),
    [(0, Outcome.OK, "the coordinator's"), (3, Outcome.WARN, "ahead of"), (-3, Outcome.WARN, "behind the coordinator's")],
)
def test_a_clock_that_is_far_from_the_coordinators_is_said(
    hours: int, outcome: Outcome, said: str, federation: Path
) -> None:
    folder, site = federation / "coordinator", federation / "sites" / "A"
    settings = serve.read(folder / "coordinator.toml")
    grid = serve.open_link(settings.model_copy(update={"listen": "127.0.0.1:0"}), folder)
    text = (site / "site.toml").read_text()
    (site / "site.toml").write_text(text.replace(f"localhost:{PORT}", f"localhost:{grid.address.rpartition(':')[2]}"))
    try:
        (finding,) = [
            each for each in examine(site, network=True, later=timedelta(hours=hours)) if "coordinator's" in each.found
        ]
    finally:
        grid.close()
    assert finding.outcome is outcome
    assert said in finding.found


def test_a_real_coordinator_takes_the_site_and_refuses_a_key_that_others_can_read(federation: Path) -> None:
    """The link's own server, by the settings that `deploy init` wrote."""
    folder = federation / "coordinator"
    settings = serve.read(folder / "coordinator.toml")
    grid = serve.open_link(settings.model_copy(update={"listen": "127.0.0.1:0"}), folder)
    try:
        finding = reach(federation / "sites" / "A", int(grid.address.rpartition(":")[2]))
    finally:
        grid.close()
    assert finding.outcome is Outcome.OK, finding
    assert "TLSv1.3, and takes this certificate" in finding.found
    (folder / "keys" / "server.key").chmod(0o640)
    with pytest.raises(SettingError, match="got mode 640"):
        serve.open_link(settings, folder)


def test_a_site_with_a_key_that_others_can_read_does_not_start(federation: Path) -> None:
    (federation / "sites" / "A" / "keys" / "A.key").chmod(0o644)
    with pytest.raises(SettingError, match="got mode 644"):
        Daemon(Site(federation / "sites" / "A"))


def test_a_name_that_its_certificate_lacks(federation: Path) -> None:
    with listening(tls(federation / "coordinator" / "keys", "server")) as port:
        finding = reach(federation / "sites" / "A", port, "127.0.0.1")
    assert finding.outcome is Outcome.FAIL
    assert "link.server_name" in finding.advice


def test_a_coordinator_of_another_authority_and_one_that_does_not_take_ours(federation: Path, tmp_path: Path) -> None:
    other = keys.init(tmp_path / "other", names=["localhost"], now=datetime.now(UTC)).folder
    with listening(tls(other / "server", "server")) as port:
        finding = reach(federation / "sites" / "A", port)
    assert finding.outcome is Outcome.FAIL
    assert "another authority" in finding.advice
    with listening(tls(federation / "coordinator" / "keys", "server", ca=other / "ca.pem")) as port:
        finding = reach(federation / "sites" / "B", port)
    assert finding.outcome is Outcome.FAIL
    assert "ended the handshake" in finding.found
    assert "coordinator's authority" in finding.advice


def test_a_port_that_says_nothing_or_something_else_or_is_closed_costs_bounded_time(federation: Path) -> None:
    site, wait = federation / "sites" / "A", threading.Event()
    text = (site / "site.toml").read_text()
    # The port says nothing for as long as the doctor waits.
    with listening(lambda connection: wait.wait(HANG_SECONDS)) as port:
        finding = reach(site, port, seconds=1.0)
        assert "said nothing for 1 s" in finding.found
        wait.set()
    (site / "site.toml").write_text(text)
    assert reach(site, port).found.startswith("Nothing listens")
    (site / "site.toml").write_text(text)
    with listening(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n")) as port:
        assert "handshake" in reach(site, port).found
    (site / "site.toml").write_text(text)
    with listening(tls(federation / "coordinator" / "keys", "server", protocol="http/1.1")) as port:
        assert reach(site, port).outcome is Outcome.FAIL or "not as gRPC does" in reach(site, port).found
    (site / "site.toml").write_text(text)
    assert "cannot be resolved" in reach(site, 1, "no-such-host.invalid").found


def test_there_is_advice_for_every_way_that_a_connection_can_fail() -> None:
    assert {reach for reach in Reach if not connection.ADVICE[reach]} == {Reach.ANSWERED}


def test_the_coordinator_sees_whether_it_listens_and_with_which_certificate(federation: Path) -> None:
    folder = federation / "coordinator"
    with ExitStack() as stack, listening(tls(folder / "keys", "server")) as port:
        settings = (folder / "coordinator.toml").read_text().replace(f"0.0.0.0:{PORT}", f"0.0.0.0:{port}")
        (folder / "coordinator.toml").write_text(settings)
        # Whoever has it says so by the lock in the run's folder; without it, another program has the port.
        assert [each.check for each in examine(folder, network=True) if each.outcome is Outcome.FAIL] == ["address"]
        lock = stack.enter_context((folder / "run" / "coordinator.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert wrong(examine(folder, network=True)) == []
        # A new certificate in the folder, and the old one still in the memory of the process.
        made = keys.Authority(federation / "authority").rotate("localhost", now=datetime.now(UTC))
        for path in made.iterdir():
            shutil.copy(path, folder / "keys")
        assert "Start the coordinator again" in only(examine(folder, network=True)).advice
    assert "Nothing listens" in only(examine(folder, network=True)).found


# The command.


def test_the_command_prints_a_table_or_json_and_its_exit_status_says_whether_something_failed(federation: Path) -> None:
    site = federation / "sites" / "A"
    result = CliRunner().invoke(app, ["doctor", str(site), "--no-network"])
    assert result.exit_code == 0, result.output
    (site / "keys" / "A.key").chmod(0o644)
    result = CliRunner().invoke(app, ["doctor", str(site), "--no-network", "--json"])
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert told["healthy"] is False
    (failed,) = [each for each in told["findings"] if each["outcome"] == "fail"]
    assert "mode 644" in failed["found"]
    result = CliRunner().invoke(app, ["doctor", str(site / "site.toml"), "--no-network"])
    assert result.exit_code == 1
    assert "fail" in result.output


def test_public_inputs_are_counted(federation: Path) -> None:
    (counted,) = [each.found for each in examine(federation / "coordinator") if each.check == "public inputs"]
    assert counted == f"20 of shape (8, 8), {digest(sites.PUBLIC).hex()[:16]}"
