"""Certificates name who they should and nobody else, private files are private, and gRPC takes what we make and nothing besides."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers.plans import PLAN
from limbeck.base.errors import CertificateError, SettingError
from limbeck.base.files import create_private
from limbeck.cli.main import app
from limbeck.deployment import certificates, keys
from limbeck.deployment.certificates import Role
from limbeck.experiments.faults.linked import HANG_SECONDS
from limbeck.protos import codec, signing
from limbeck.protos.messages import Offer

DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> keys.Authority:
    return keys.init(tmp_path / "keys", names=["localhost"], addresses=["127.0.0.1"], days=30, authority_days=90, now=now())


def check(authority: keys.Authority, path: Path, role: Role, name: str | None, at: datetime | None = None) -> None:
    certificates.check_certificate(
        certificates.read_certificate(path),
        authority=authority.certificate,
        role=role,
        name=name,
        now=at or now(),
        revoked=keys.read_revoked(authority.folder / "revoked"),
    )


def test_what_the_authority_makes_is_good_for_its_name_and_role(authority: keys.Authority) -> None:
    site = authority.node("site-a", now=now())
    check(authority, site / "site-a.pem", Role.SITE, "site-a")
    for name in ("localhost", "127.0.0.1"):
        check(authority, authority.folder / "server" / "server.pem", Role.SERVER, name)
    certificates.check_key(certificates.read_key(site / "site-a.key"), certificates.read_certificate(site / "site-a.pem"))
    assert certificates.name_of(certificates.read_certificate(site / "site-a.pem")) == "site-a"
    assert (site / "ca.pem").read_bytes() == (authority.folder / "ca.pem").read_bytes()


def test_every_key_is_its_owners_alone_and_so_is_its_folder(authority: keys.Authority) -> None:
    authority.node("site-a", now=now())
    old = os.umask(0)
    try:
        authority.node("site-b", now=now())
    finally:
        os.umask(old)
    paths = list(authority.folder.rglob("*"))
    assert len([path for path in paths if path.suffix == ".key"]) == 4
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_private_file_is_never_open_to_others_and_never_replaces_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode at every moment at which the file is there under any name, with the widest umask."""
    modes = []
    real = os.link

    def link(source: str, target: Path) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        assert not target.exists()
        real(source, target)
        modes.append(stat.S_IMODE(os.stat(target).st_mode))

    monkeypatch.setattr(os, "link", link)
    old = os.umask(0)
    try:
        create_private(tmp_path / "new" / "secret", b"first")
        monkeypatch.undo()
        with pytest.raises(SettingError, match=r"Expected no file at .*secret yet, found one; it was left as it is"):
            create_private(tmp_path / "new" / "secret", b"second")
    finally:
        os.umask(old)
    assert (tmp_path / "new" / "secret").read_bytes() == b"first"
    assert set(modes) == {0o600}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o602])
def test_a_key_that_others_can_read_is_refused_and_its_mode_is_named(
    mode: int, authority: keys.Authority, tmp_path: Path
) -> None:
    (authority.folder / "ca.key").chmod(mode)
    with pytest.raises(SettingError, match=f"mode 600.*got mode {mode:o}"):
        authority.node("site-a", now=now())
    signing.new_key(tmp_path / "plan.key")
    (tmp_path / "plan.key").chmod(mode)
    with pytest.raises(SettingError, match=f"got mode {mode:o}"):
        signing.read_key(tmp_path / "plan.key")


def test_wrong_certificates_are_refused_each_with_its_own_reason(authority: keys.Authority, tmp_path: Path) -> None:
    path = authority.node("site-a", now=now(), days=10) / "site-a.pem"
    server = authority.folder / "server" / "server.pem"
    with pytest.raises(CertificateError, match="expired on"):
        check(authority, path, Role.SITE, "site-a", now() + 11 * DAY)
    with pytest.raises(CertificateError, match="set this machine's clock"):
        check(authority, path, Role.SITE, "site-a", now() - DAY)
    with pytest.raises(CertificateError, match="Expected a certificate of 'site-b', got one of site-a"):
        check(authority, path, Role.SITE, "site-b")
    with pytest.raises(CertificateError, match="Expected a certificate for a server, got 'site-a' for a site"):
        check(authority, path, Role.SERVER, None)
    with pytest.raises(CertificateError, match="Expected a certificate for a site, got 'localhost' for a server"):
        check(authority, server, Role.SITE, None)
    other = keys.init(tmp_path / "other", names=["localhost"], now=now())
    with pytest.raises(CertificateError, match="unknown authority"):
        check(other, path, Role.SITE, "site-a")
    authority.revoke("site-a", now=now())
    with pytest.raises(CertificateError, match="is not revoked"):
        check(authority, path, Role.SITE, "site-a")
    with pytest.raises(CertificateError, match="private key of the certificate"):
        certificates.check_key(certificates.read_key(authority.folder / "ca.key"), certificates.read_certificate(path))


def test_a_site_cannot_sign_certificates(authority: keys.Authority, tmp_path: Path) -> None:
    folder = authority.node("site-a", now=now())
    issuer = certificates.Issuer(
        certificate=certificates.read_certificate(folder / "site-a.pem"), key=certificates.read_key(folder / "site-a.key")
    )
    forged = certificates.issue(issuer, certificates.new_key().public_key(), Role.SITE, names=["site-b"], days=1, now=now())
    with pytest.raises(CertificateError, match="unknown authority"):
        certificates.check_certificate(forged, authority=authority.certificate, role=Role.SITE, name="site-b", now=now())


def test_no_certificate_outlives_its_authority(authority: keys.Authority) -> None:
    certificate = certificates.read_certificate(authority.node("site-a", days=1000, now=now()) / "site-a.pem")
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


@given(
    name=st.one_of(
        st.sampled_from(["..", ".", "../x", "/etc/x", "a/b", "-x", "", "a\n", "a b", "é", "x" * 65, ".x", "a\0"]),
        st.text(max_size=8),
    )
)
def test_a_name_never_leaves_the_folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    if certificates.SITE_NAME.fullmatch(name):
        assert (folder / name).resolve().parent == folder.resolve()
    else:
        with pytest.raises(SettingError, match="Expected a site name"):
            keys.request(name, folder)
        assert not list(folder.iterdir())


def test_a_name_is_given_once_whatever_its_case(authority: keys.Authority) -> None:
    authority.node("site-a", now=now())
    for name in ("site-a", "SITE-A", "localhost", "LocalHost"):
        with pytest.raises(SettingError, match="Expected a name without a certificate"):
            authority.node(name, now=now())
    authority.revoke("site-a", now=now())
    authority.node("Site-A", now=now())


def test_a_sites_own_key_never_leaves_it(authority: keys.Authority, tmp_path: Path) -> None:
    path, fingerprint = keys.request("site-a", tmp_path / "site")
    request = certificates.read_request(path)
    with pytest.raises(CertificateError, match="Expected a request of site 'site-b', got one of 'site-a'"):
        authority.approve(request, "site-b", now=now())
    folder = authority.approve(request, "site-a", now=now())
    made = certificates.read_certificate(folder / "site-a.pem")
    assert certificates.fingerprint(made) == fingerprint
    certificates.check_key(certificates.read_key(tmp_path / "site" / "site-a.key"), made)
    assert not (folder / "site-a.key").exists()
    with pytest.raises(SettingError, match="made its own"):
        authority.rotate("site-a", now=now())
    with pytest.raises(SettingError, match="without a certificate"):
        authority.approve(request, "site-a", now=now())
    authority.approve(request, "site-a", rotate=True, now=now())


def test_a_request_with_a_changed_byte_or_another_kind_of_key_is_refused(authority: keys.Authority, tmp_path: Path) -> None:
    path, _ = keys.request("site-a", tmp_path)
    der = bytearray(x509.load_pem_x509_csr(path.read_bytes()).public_bytes(serialization.Encoding.DER))
    der[der.index(b"site-a") + 5] = ord("b")
    path.write_bytes(certificates.to_pem(x509.load_der_x509_csr(bytes(der))))
    with pytest.raises(CertificateError, match="signed by its own key"):
        certificates.read_request(path)
    builder = x509.CertificateSigningRequestBuilder().subject_name(certificates._subject("site-a"))
    other = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(CertificateError, match="ECDSA key on P-256"):
        authority.approve(other, "site-a", now=now())


def test_rotation_leaves_the_old_certificate_good_until_it_is_revoked(authority: keys.Authority) -> None:
    path = authority.node("site-a", now=now()) / "site-a.pem"
    old = certificates.read_certificate(path)
    assert authority.rotate("site-a", now=now() + DAY) == path.parent
    new = certificates.read_certificate(path)
    assert certificates.fingerprint(old) != certificates.fingerprint(new)
    assert [each.state for each in authority.issued(now() + DAY) if each.name == "site-a"] == [keys.State.VALID] * 2
    assert authority.revoke("site-a", but=certificates.serial_of(new), now=now() + DAY) == [certificates.serial_of(old)]
    assert authority.revoke(certificates.serial_of(old), now=now() + DAY) == []
    assert keys.read_revoked(authority.folder / "revoked") == [f"{old.serial_number:x}"]
    check(authority, path, Role.SITE, "site-a", now() + DAY)
    server = certificates.read_certificate(authority.rotate("localhost", now=now() + DAY) / "server.pem")
    assert certificates.names_of(server) == (["localhost"], ["127.0.0.1"])


@pytest.mark.parametrize("content", ["xyz\n", "12 34 -5\n", "0x12\n", "é\n"])
def test_a_revocation_list_that_cannot_be_read_lets_nobody_pass(content: str, tmp_path: Path) -> None:
    (tmp_path / "revoked").write_text(content)
    with pytest.raises(SettingError, match="serial number"):
        keys.read_revoked(tmp_path / "revoked")
    with pytest.raises(SettingError, match="serial numbers"):
        keys.read_revoked(tmp_path / "absent")


# gRPC, over loopback TLS.


def _echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    name: bytes = context.auth_context()["x509_common_name"][0]
    return name + b" " + request


Serve = Callable[[Path, str], int]


@pytest.fixture
def serve(authority: keys.Authority) -> Iterator[Serve]:
    servers = []

    def start(folder: Path, stem: str) -> int:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        pair = (folder / f"{stem}.key").read_bytes(), (folder / f"{stem}.pem").read_bytes()
        ca = (authority.folder / "ca.pem").read_bytes()
        port: int = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], ca, require_client_auth=True))
        echo = {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", echo),))
        server.start()
        servers.append(server)
        return port

    yield start
    stopped: list[threading.Event] = [server.stop(0) for server in servers]
    for event in stopped:
        event.wait()


def call(port: int, authority: keys.Authority, folder: Path, stem: str, host: str = "localhost") -> bytes:
    parts = (authority.folder / "ca.pem", folder / f"{stem}.key", folder / f"{stem}.pem")
    with grpc.secure_channel(
        f"{host}:{port}", grpc.ssl_channel_credentials(*(path.read_bytes() for path in parts))
    ) as channel:
        reply: bytes = channel.unary_unary("/test/Echo")(b"hello", timeout=HANG_SECONDS)
        return reply


def test_grpc_takes_the_certificates_and_knows_the_site_by_name(serve: Serve, authority: keys.Authority) -> None:
    port = serve(authority.folder / "server", "server")
    site = authority.node("Site_A.1", now=now())
    assert call(port, authority, site, "Site_A.1") == b"Site_A.1 hello"
    assert call(port, authority, site, "Site_A.1", "127.0.0.1") == b"Site_A.1 hello"


def test_grpc_refuses_a_site_that_plays_the_coordinator_and_one_of_another_authority(
    serve: Serve, authority: keys.Authority, tmp_path: Path
) -> None:
    site, port = authority.node("site-a", now=now()), serve(authority.folder / "server", "server")
    # A site whose name is the coordinator's host would pass for it, were it not for its role: made here past the check of taken names.
    key = certificates.new_key()
    posing = certificates.issue(authority._issuer, key.public_key(), Role.SITE, names=["localhost"], days=1, now=now())
    authority.hand_out(tmp_path / "posing", "posing", posing, key)
    with pytest.raises(grpc.RpcError):
        call(serve(tmp_path / "posing", "posing"), authority, site, "site-a")
    stranger = keys.init(tmp_path / "other", names=["localhost"], now=now()).node("site-a", now=now())
    with pytest.raises(grpc.RpcError):
        call(port, authority, stranger, "site-a")
    with pytest.raises(grpc.RpcError):
        call(port, authority, authority.folder / "server", "server")
    assert call(port, authority, site, "site-a") == b"site-a hello"


# The command.


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_goes_through_a_sites_whole_life(tmp_path: Path) -> None:
    option = ("--keys", tmp_path / "keys")
    run("keys", "init", tmp_path / "keys", "--server", "localhost", "--server-ip", "127.0.0.1", "--days", 10)
    run("keys", "node", "a", *option)
    said = run("keys", "request", "b", "--out", tmp_path / "b")
    fingerprint = said.partition("fingerprint ")[2].partition(":")[0]
    with pytest.raises(CertificateError, match="not the site's own request"):
        run("keys", "approve", tmp_path / "b" / "b.csr", "b", "--fingerprint", "00", *option)
    assert fingerprint in run("keys", "approve", tmp_path / "b" / "b.csr", "b", "--fingerprint", fingerprint, *option)
    assert fingerprint in run("keys", "show", tmp_path / "keys" / "nodes" / "b" / "b.pem")
    run("keys", "rotate", "a", "--revoke-old", *option)
    run("keys", "rotate", "localhost", *option)
    run("keys", "revoke", "b", *option)
    shown = run("keys", "show", tmp_path / "keys")
    states = sorted(tuple(line.split()[:3]) for line in shown.splitlines() if " site " in line)
    assert states == [("a", "site", "revoked"), ("a", "site", "valid"), ("b", "site", "revoked")]
    assert len((tmp_path / "keys" / "revoked").read_text().split()) == 2


def test_a_plan_is_signed_anew_and_stays_the_same_plan(tmp_path: Path) -> None:
    path, key = tmp_path / "plan.pb", tmp_path / "plan.key"
    path.write_bytes(codec.encode_request(Offer(plan=PLAN)))
    assert "NOT SIGNED" in run("keys", "show", path)
    line = run("keys", "plan", key).strip()
    assert line == run("keys", "show", key).splitlines()[-1]
    run("keys", "sign", path, "--key", key)
    offer = codec.decode_offer(path.read_bytes())
    assert f'authors = ["{offer.author.hex()}"]' == line
    assert codec.plan_hash(offer.plan) == codec.plan_hash(PLAN)
    assert line in run("keys", "show", path)
    assert "PRIVATE" not in run("keys", "show", key, tmp_path / "plan.pb")
