"""Certificates as nobody should make them: each is used or refused by an error of the tree, and none ends what looks at it."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from limbeck.base.errors import CertificateError, LimbeckError, SettingError, WireError
from limbeck.deployment import certificates, doctor, key_commands, keys
from limbeck.deployment.certificates import Role
from limbeck.deployment.doctor import shared
from limbeck.protos import tls
from limbeck.server.link import Access

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ISSUER = certificates.make_authority("an authority", days=3, now=NOW)
KEY = certificates.new_key()
HOSTILE = "\x1b[31mwest\n"
Extension = tuple[x509.ExtensionType, bool]
ORDINARY: list[Extension] = [
    (x509.SubjectAlternativeName([x509.DNSName("a")]), False),
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
]


def make(
    names: Iterable[x509.NameAttribute[Any]] = (x509.NameAttribute(NameOID.COMMON_NAME, "a"),),
    extensions: Iterable[Extension] = ORDINARY,
    public: object = None,
    days: tuple[float, float] = (-1, 3),
) -> bytes:
    """A certificate by the authority, DER."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(list(names)))
        .issuer_name(ISSUER.certificate.subject)
        .public_key(public or KEY.public_key())  # type: ignore[arg-type]
        .serial_number(0x1234)
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(ISSUER.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def alternative(*names: x509.GeneralName) -> bytes:
    return make(extensions=[(x509.SubjectAlternativeName(names), False), *ORDINARY[1:]])


def changed(old: bytes, new: bytes) -> bytes:
    """The ordinary one with bytes replaced by as many others; its signature fits no more."""
    der = make()
    assert old in der
    assert len(old) == len(new)
    return der.replace(old, new)


def common(*values: str) -> bytes:
    return make([x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values])


SERIAL = b"\x02\x02\x12\x34"
DNS_A = b"\x82\x01a"
ODD: dict[str, Callable[[], bytes]] = {
    "no common name": lambda: make([]),
    "several common names": lambda: common("a", "b", "a"),
    "a common name of bits": lambda: make(
        [x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\xff", _ASN1Type.BitString)]
    ),
    "a common name that is hostile": lambda: common(HOSTILE),
    "no alternative name": lambda: make(extensions=ORDINARY[1:]),
    "no DNS name": lambda: alternative(x509.IPAddress(ipaddress.ip_address("192.0.2.1"))),
    "two DNS names": lambda: alternative(x509.DNSName("a"), x509.DNSName("b")),
    "an empty DNS name": lambda: alternative(x509.DNSName("")),
    "a DNS name of 10 kB": lambda: alternative(x509.DNSName("a" * 10_000)),
    "a thousand DNS names": lambda: alternative(*(x509.DNSName(f"a{number}") for number in range(1000))),
    "a DNS name that is hostile": lambda: alternative(x509.DNSName(HOSTILE)),
    "a mail address and a path": lambda: alternative(x509.RFC822Name("a@b"), x509.UniformResourceIdentifier("file:///a")),
    "no extensions": lambda: make(extensions=[]),
    "an extension nobody knows": lambda: make(
        extensions=[*ORDINARY, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x30"), True)]
    ),
    "an extension of garbage": lambda: make(
        extensions=[*ORDINARY[:2], (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.37"), b"\xff\xff"), False)]
    ),
    "an alternative name of garbage": lambda: make(
        extensions=[*ORDINARY[1:], (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x05\x82"), False)]
    ),
    "an extension twice": lambda: changed(b"\x55\x1d\x25", b"\x55\x1d\x13"),
    "an authority's": lambda: make(extensions=[ORDINARY[0], (x509.BasicConstraints(ca=True, path_length=None), True)]),
    "expired": lambda: make(days=(-2, -1)),
    "not yet valid": lambda: make(days=(1, 2)),
    "a negative serial number": lambda: changed(SERIAL, b"\x02\x02\x92\x34"),
    "a serial number of zero": lambda: changed(SERIAL, b"\x02\x02\x00\x00"),
    "a DNS name that is no text": lambda: changed(DNS_A, b"\x82\x01\xff"),
    "a version that there is none of": lambda: changed(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09"),
    "a curve nobody knows": lambda: changed(b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x77"),
    "a key type nobody knows": lambda: changed(b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x71"),
    "an RSA key": lambda: make(public=rsa.generate_private_key(65537, 1024).public_key()),
    "a DSA key": lambda: make(public=dsa.generate_private_key(1024).public_key()),
    "an Ed25519 key": lambda: make(public=ed25519.Ed25519PrivateKey.generate().public_key()),
    "an Ed448 key": lambda: make(public=ed448.Ed448PrivateKey.generate().public_key()),
    "a key on P-521": lambda: make(public=ec.generate_private_key(ec.SECP521R1()).public_key()),
    "nothing": lambda: b"",
    "garbage": lambda: bytes(range(256)),
    "cut": lambda: make()[:100],
}


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def uses(data: bytes, path: Path) -> None:
    """All that is done with a certificate of somebody else, each on its own; anything but an error of the tree is raised."""
    path.write_bytes(data)
    errors: list[LimbeckError] = []

    def read() -> None:
        certificate = certificates.read_certificate(path)
        (
            certificates.name_of(certificate),
            certificates.names_of(certificate),
            certificates.role_of(certificate),
            certificates.fingerprint(certificate),
        )
        for role in Role:
            with contextlib.suppress(CertificateError):
                certificates.check_certificate(certificate, authority=ISSUER.certificate, role=role, name="a", now=NOW)
        with contextlib.suppress(CertificateError):
            certificates.check_certificate(ISSUER.certificate, authority=certificate, role=Role.SITE, name=None, now=NOW)
        certificates.check_certificate(certificate, authority=ISSUER.certificate, role=Role.SITE, name="a", now=NOW)

    for use in (
        lambda: tls.name_of(data),
        lambda: tls.serial_of(data),
        lambda: tls.check_time(data, "a file", NOW),
        lambda: Access(["a"]).check(data),
        lambda: key_commands._described(path),
        lambda: list(shared.key_pair(path.parent, path.name, path.name, path.name, Role.SITE, "a", NOW)),
        lambda: certificates.read_request(path),
        lambda: certificates.read_key(path),
        read,
    ):
        try:
            use()
        except LimbeckError as error:
            errors.append(error)
    for told in map(str, errors):
        assert told.isprintable(), told
        assert len(told) < 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    pem_path = tmp_path / "odd.pem"
    pem_path.touch(0o600)
    return pem_path


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_certificate_is_used_or_refused_and_ends_nothing(name: str, path: Path) -> None:
    data = pem(ODD[name]())
    uses(data, path)
    folder = path.parent / "authority" / "issued"
    folder.mkdir(parents=True)
    (folder / "1234.pem").write_bytes(data)
    findings = doctor.examine(folder.parent, now=NOW, network=False)
    assert "Unexpected" not in str(findings)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_nobody_comes_in_by_an_odd_certificate() -> None:
    """A key of another kind, or an unknown extension, is for TLS to judge: who they are these say as others do."""
    named = {name for name in ODD if not isinstance(_checked(pem(ODD[name]())), LimbeckError)}
    assert named == {
        *("no common name", "several common names", "a common name of bits", "a common name that is hostile"),
        *("an extension nobody knows", "an authority's", "expired", "not yet valid"),
        *("an RSA key", "a DSA key", "an Ed25519 key", "an Ed448 key", "a key on P-521"),
    }


def _checked(data: bytes) -> str | LimbeckError:
    try:
        return Access(["a"]).check(data)
    except WireError as error:
        return error


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_thousand_changed_certificates_end_nothing(path: Path) -> None:
    generator, der = random.Random(11), make()
    for _ in range(1000):
        changed = bytearray(der)
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(changed))
            match generator.randrange(4):
                case 0:
                    changed[at] = generator.randrange(256)
                case 1:
                    changed[at] ^= 1 << generator.randrange(8)
                case 2:
                    del changed[at : at + generator.randint(1, 3)]
                case 3:
                    changed[at:at] = generator.randbytes(generator.randint(1, 3))
        uses(pem(bytes(changed)), path)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"-----BEGIN CERTIFICATE-----\n", pem(b"\x30"), pem(make()) + b"x" * tls.MAX_PEM]
)
def test_what_is_no_certificate_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(WireError, match=r"^Expected a certificate \(PEM\)"):
        tls.name_of(data)


# The list of revoked ones


@pytest.mark.parametrize(
    ("text", "serials"),
    [
        ("", []),
        ("1f\n\n", [0x1F]),
        ("# lost in May\n0A:1b # north's\r\n00ff", [0xA1B, 0xFF]),
    ],
)
def test_the_authority_and_the_coordinator_read_one_list_alike(text: str, serials: list[int], tmp_path: Path) -> None:
    (tmp_path / "revoked").write_text(text)
    assert tls.read_revoked(tmp_path / "revoked") == serials
    assert Access(["a"], tmp_path / "revoked").revoked() == set(serials)
    assert [int(each, 16) for each in keys.read_revoked(tmp_path / "revoked")] == serials


@pytest.mark.parametrize("line", ["-5", "0x1f", "1_0", "1 2", "north", "1" * 41, "\x1b[31m", "+1"])
def test_a_list_with_a_line_that_is_none_lets_nobody_in(line: str, tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    path.write_text("")
    access, good = Access(["a"], path), pem(make())
    assert access.check(good) == "a"
    path.write_text(f"12\n{line}\n")
    with pytest.raises(WireError, match="a certificate that can be checked, got one that cannot now"):
        access.check(good)
    with pytest.raises(SettingError, match="one hexadecimal serial number per line") as refused:
        keys.read_revoked(path)
    assert str(refused.value).isprintable()


def test_a_list_of_the_same_size_and_time_is_another_list(tmp_path: Path) -> None:
    """Copied with its times kept, or rewritten within one tick of a coarse clock."""
    path, good = tmp_path / "revoked", pem(make())
    path.write_text("4321\n")
    access, before = Access(["a"], path), path.stat()
    assert access.check(good) == "a"
    (tmp_path / "new").write_text("1234\n")
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "new").replace(path)
    with pytest.raises(WireError, match="not revoked, got serial number 1234"):
        access.check(good)


def test_what_an_owner_wrote_into_the_list_stays(tmp_path: Path) -> None:
    authority = keys.init(tmp_path / "authority", names=["localhost"], now=NOW)
    authority.node("a", now=NOW)
    (authority.folder / "revoked").write_text("# lost in May\n1f")
    (serial,) = authority.revoke("a", now=NOW)
    assert (authority.folder / "revoked").read_text() == f"# lost in May\n1f\n{serial}\n"
