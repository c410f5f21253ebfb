"""Flower's SuperLink and SuperNodes under limbeck's keys, for a consortium that runs Flower already.

What Flower leaves open by default is closed here: TLS on every port, nodes that prove a registered key, apps in processes that know a
fresh secret of each start, and no installation of what a bundle asks for. docs/superlink.md says what stays open: a SuperNode runs
whatever code its SuperLink sends.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from limbeck.base.errors import CertificateError, RunError, SettingError
from limbeck.base.files import create_private, create_private_folder, write_durably
from limbeck.client.proxy import EXCEPTIONS
from limbeck.client.site import Site
from limbeck.deployment import certificates
from limbeck.deployment.certificates import Role
from limbeck.deployment.defaults import RUNTIME_PORT
from limbeck.deployment.supervisor import Supervisor
from limbeck.server.bundle import OFFLINE

CONNECTION = "coordinator"
# The file of site names by node id, as registered: Flower's command lists nodes without names.
NAMES = "nodes.json"
_RUNTIME_DAYS = 3650
_LOOPBACK = "127.0.0.1"
FINISHED = "finished:"
# What Flower's command prints as JSON.
Json = dict[str, Any]
COMPLETED = f"{FINISHED}completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: the authority's certificate, a server's certificate and its key."""

    ca: Path
    certificate: Path
    key: Path

    def options(self) -> list[str]:
        """As Flower's servers take them."""
        return [
            *("--ssl-ca-certfile", str(self.ca)),
            *("--ssl-certfile", str(self.certificate)),
            *("--ssl-keyfile", str(self.key)),
        ]


def superlink(folder: Path, *, host: str, port: int, tls: Tls) -> Supervisor:
    """A SuperLink, and the process that starts its ServerApps.

    folder: its database, which outlives it, its logs and its secret.
    host, port: where it listens.

    Raises: CertificateError or SettingError if the certificate or its key cannot be used.
    """
    certificates.check_key(certificates.read_key(tls.key), certificates.read_certificate(tls.certificate))
    create_private_folder(folder)
    secret = _fresh_secret(folder)
    address = f"{reached_at(host, tls.certificate)}:{port}"
    return Supervisor(
        {
            "superlink": [
                *(_program("flower-superlink"), "--host", host, "--port", str(port), *tls.options()),
                *("--database", str(folder / "superlink.sqlite"), "--enable-supernode-auth", "--isolation", "process"),
                *("--superexec-auth-secret-file", str(secret), "--disable-runtime-dependency-installation"),
            ],
            "superexec": _superexec(address, tls.ca, secret),
        },
        environment=environment(folder),
        logs=folder / "logs",
    )


def reached_at(host: str, certificate: Path) -> str:
    """The host by which programs on the SuperLink's machine reach it, under a name of its certificate. host: where it listens.

    Raises: CertificateError if the certificate has no such name: the SuperLink's own apps would refuse it.
    """
    dns, addresses = certificates.names_of(certificates.read_certificate(certificate))
    wanted = (_LOOPBACK, "localhost") if host in {"0.0.0.0", "::"} else (host,)
    for name in wanted:
        if name in (*dns, *addresses):
            return name
    raise CertificateError(
        f"Expected a certificate that names {' or '.join(wanted)}, where the SuperLink's own apps reach it, in {certificate}, got"
        f" {', '.join((*dns, *addresses))}: make it with limbeck keys init --server-ip {wanted[0]}."
    )


def supernode(
    site: Path, folder: Path, *, superlink: str, ca: Path, key: Path, runtime_port: int = RUNTIME_PORT, delay: float = 10.0
) -> Supervisor:
    """A SuperNode that stands for a site, and the process that starts its ClientApps.

    site: the site's folder.
    folder: logs, secret, and certificates of the port between the two, which is on loopback.
    superlink: HOST:PORT.
    ca: the authority's certificate (PEM).
    key: the site's private key (PEM), which the SuperLink knows by `register`.
    runtime_port: a free port on loopback.
    delay: seconds before a process that ended is started again.

    Raises: DataError or SettingError if `site` is not a site's folder, CertificateError or SettingError if the key cannot be used.
    """
    Site(site)
    private_key = certificates.read_key(key)
    create_private_folder(folder)
    secret, tls = _fresh_secret(folder), _runtime_tls(folder)
    node_key = _fresh(folder / "node-key", _to_ssh(private_key))
    address = f"{_LOOPBACK}:{runtime_port}"
    return Supervisor(
        {
            "supernode": [
                *(_program("flower-supernode"), "--superlink", superlink, "--root-certificates", str(ca)),
                *("--auth-supernode-private-key", str(node_key), "--node-config", f"site={json.dumps(str(site.resolve()))}"),
                *("--isolation", "process", "--host", _LOOPBACK, "--port", str(runtime_port), *tls.options()),
                *("--superexec-auth-secret-file", str(secret)),
            ],
            "superexec": _superexec(address, tls.ca, secret),
        },
        environment=environment(folder),
        logs=folder / "logs",
        delay=delay,
    )


def connect(folder: Path, *, address: str, ca: Path) -> None:
    """Tell Flower's command where the SuperLink is, for commands that are run with this folder."""
    described = {
        "superlink": {"default": CONNECTION, CONNECTION: {"address": address, "root-certificates": str(ca.resolve())}}
    }
    home = folder / "home"
    create_private_folder(home)
    (home / "config.toml").write_text(tomli_w.dumps(described), encoding="utf-8")


def check_connected(folder: Path) -> None:
    """Raise SettingError unless `connect` was called for this folder."""
    if not (folder / "home" / "config.toml").exists():
        raise SettingError(
            f"Expected the folder of a SuperLink, as limbeck flower superlink makes it, at {folder}, found none: start that first, or"
            " give its folder by --folder."
        )


def register(folder: Path, certificate: Path) -> int:
    """Let the site of this certificate take part; returns its node id.

    Raises: RunError if the SuperLink refuses, SettingError if `folder` knows no SuperLink, CertificateError if it is not a site's.
    """
    check_connected(folder)
    presented = certificates.read_certificate(certificate)
    public = presented.public_key()
    if certificates.role_of(presented) is not Role.SITE or not isinstance(public, ec.EllipticCurvePublicKey):
        raise CertificateError(f"Expected a site's certificate in {certificate}, found another.")
    path = folder / f"{certificates.serial_of(presented)}.pub"
    path.write_bytes(public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    name = certificates.name_of(presented)
    node = int(_flwr(folder, "supernode", "register", str(path), CONNECTION, "--name", name)["node-id"])
    write_durably(folder / NAMES, json.dumps({**names(folder), str(node): name}, indent=1).encode())
    return node


def names(folder: Path) -> dict[str, str]:
    """Names of the sites that were registered from this folder, by node id. Raises RunError if the file is not valid."""
    try:
        registered = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        return {str(node): str(name) for node, name in dict(registered).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"Expected names of nodes in {folder / NAMES}: {error}.") from error


def nodes(folder: Path, *, seconds: float) -> list[Json]:
    """Every node that the SuperLink knows, as Flower's command reports it. Raises RunError if there is no answer within `seconds`."""
    return list(_flwr(folder, "supernode", "list", CONNECTION, seconds=seconds)["nodes"])


def run_of(folder: Path, run: int, *, seconds: float | None = None) -> Json:
    """A run, as Flower's command reports it. Raises RunError if there is none, or no answer within `seconds`."""
    (reported,) = _flwr(folder, "ls", CONNECTION, "--run-id", str(run), seconds=seconds)["runs"]
    return dict(reported)


def start(folder: Path, bundle: Path) -> int:
    """Start a bundle; returns the run's id. Raises RunError if the SuperLink refuses."""
    return int(_flwr(folder, "run", str(bundle), CONNECTION)["run-id"])


def wait(folder: Path, run: int, *, poll_seconds: float = 2.0, progress: Callable[[str], None] | None = None) -> None:
    """Wait until a run has ended. Flower's own command returns 0 for runs that failed, so the status is what counts.

    poll_seconds: between two looks.
    progress: called with the status at each look.

    Raises: RunError unless the run completed.
    """
    while True:
        reported = run_of(folder, run)
        status = reported["status"]
        if progress is not None:
            progress(status)
        if status == COMPLETED:
            return
        if status.startswith(FINISHED):
            raise RunError(f"Expected run {run} to complete, got {status}: {reported['status-details']}.")
        time.sleep(poll_seconds)


def environment(folder: Path) -> dict[str, str]:
    """The environment of Flower's processes: no telemetry, a home of their own in `folder`, and no proxy on this machine."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    excepted = next((value for name in EXCEPTIONS if (value := os.environ.get(name))), None)
    here = {EXCEPTIONS[0]: ",".join([*([excepted] if excepted else []), "localhost", _LOOPBACK, "::1"])}
    return {**os.environ, **OFFLINE, **here, "FLWR_HOME": str(folder.resolve() / "home"), "PATH": path}


def _flwr(folder: Path, *arguments: str, seconds: float | None = None) -> Json:
    check_connected(folder)
    command: Sequence[str] = [_program("flwr"), *arguments, "--format", "json"]
    described = f"`flwr {' '.join(arguments[:2])}`"
    try:
        process = subprocess.run(
            command,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"Expected {described} to answer within {seconds:g} s, got nothing.") from None
    try:
        answer: Json = json.loads(process.stdout[process.stdout.index("{") :])
    except ValueError:
        answer = {"success": False, "error-message": (process.stderr or process.stdout).strip()}
    if not answer.get("success"):
        # The lines before the last say what was tried.
        lines = str(answer.get("error-message")).strip().splitlines() or ["nothing"]
        raise RunError(f"Expected {described} to succeed, got: {lines[-1]}")
    return answer


def _program(name: str) -> str:
    """One of Flower's programs in this environment."""
    path = Path(sys.executable).with_name(name)
    program = str(path) if path.exists() else shutil.which(name)
    if program is None:
        raise RunError(f"Expected the program {name} beside {sys.executable}, found none.")
    return program


def _superexec(address: str, ca: Path, secret: Path) -> list[str]:
    return [
        *(_program("flower-superexec"), "--runtime-api-address", address, "--root-certificates", str(ca)),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def _fresh_secret(folder: Path) -> Path:
    return _fresh(folder / "superexec-secret", secrets.token_bytes(32))


def _fresh(path: Path, data: bytes) -> Path:
    """Write a private file in place of the one of an earlier start."""
    path.unlink(missing_ok=True)
    create_private(path, data)
    return path


def _runtime_tls(folder: Path) -> Tls:
    """Certificates for the port between a SuperNode and its apps, by an authority that signs one certificate and is forgotten."""
    now = datetime.now(UTC)
    issuer = certificates.make_authority("runtime", days=_RUNTIME_DAYS, now=now)
    key = certificates.new_key()
    certificate = certificates.issue(
        issuer, key.public_key(), Role.SERVER, names=["localhost"], addresses=[_LOOPBACK], days=_RUNTIME_DAYS, now=now
    )
    return Tls(
        ca=_fresh(folder / "runtime-ca.pem", certificates.to_pem(issuer.certificate)),
        certificate=_fresh(folder / "runtime.pem", certificates.to_pem(certificate)),
        key=_fresh(folder / "runtime.key", certificates.key_to_pem(key)),
    )


def _to_ssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
