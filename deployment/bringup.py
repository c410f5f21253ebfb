"""Bring-up: from names to a ready folder for each site and one for the coordinator. What is missing are records, plan and decisions.

OUT/authority/       the certificate authority (keys.py): for a machine that is neither the coordinator's nor a site's
OUT/author/          plan.key, which signs plans: for the person who answers for them
OUT/coordinator/     coordinator.toml, keys/, revoked, transfer-sets/, run/
OUT/sites/NAME/      site.toml, policy.toml, keys/, transfer-sets/
Both kinds also get start.sh, a systemd unit, a Containerfile and a README.md of what is still to be done.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import jinja2

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.base.files import create_private, create_private_folder
from limbeck.client import policy
from limbeck.client.settings import FILE as SITE_SETTINGS
from limbeck.deployment import certificates, keys
from limbeck.deployment.defaults import COORDINATOR_PORT, DAYS
from limbeck.protos import signing

TEMPLATES = Path(__file__).parent / "templates"
MEMORY_MB = 8192
STOP_SECONDS = 660
COORDINATOR_SETTINGS = "coordinator.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Who takes part, and how they reach each other.

    server: DNS names of the coordinator; sites dial the first.
    sites: their names.
    addresses: IP addresses of the coordinator.
    port, listen: the port and the address on which it listens.
    days: how long certificates are valid.
    own_keys: whether sites make their own keys, and send requests.
    home: the parent of the folders that the services use.
    """

    server: tuple[str, ...]
    sites: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    port: int = COORDINATOR_PORT
    listen: str = "0.0.0.0"
    days: int = DAYS
    own_keys: bool = False
    home: str = "/srv/limbeck"

    def __post_init__(self) -> None:
        if not self.server:
            raise SettingError("Expected a name of the coordinator, got none.")
        for name in self.server:
            certificates.check_server_name(name)
        if not self.sites:
            raise SettingError("Expected at least one site, got none.")
        for name in self.sites:
            certificates.check_site_name(name)
        lower = [name.casefold() for name in self.sites]
        double = [name for name in self.sites if lower.count(name.casefold()) > 1]
        if double:
            raise SettingError(f"Expected every site once, whatever the case of its letters, got {', '.join(double)}.")
        check.within(1, 65535, port=self.port)
        try:
            ipaddress.ip_address(self.listen)
        except ValueError:
            raise SettingError(f"Expected an IP address to listen on, got {self.listen!r}.") from None
        if not re.fullmatch(r"/[A-Za-z0-9._/-]*", self.home):
            raise SettingError(f"Expected home as an absolute path of a-z, A-Z, 0-9, '.', '_', '-', '/', got {self.home!r}.")


def init(federation: Federation, out: Path, *, now: datetime) -> str:
    """Write all folders; returns the plan author's public key.

    They are made under another name and then renamed: whatever exists at `out` is complete.

    Raises: SettingError if `out` exists; nothing is written then.
    """
    if os.path.lexists(out):
        raise SettingError(f"Expected no folder at {out} yet, found one; it was left as it is.")
    create_private_folder(out.parent)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        author = _build(federation, building, now)
        os.rename(building, out)
    except BaseException:
        shutil.rmtree(building)
        raise
    return author


def _build(federation: Federation, out: Path, now: datetime) -> str:
    author = signing.author_of(signing.new_key(out / "author" / "plan.key")).hex()
    authority = keys.init(
        out / "authority", names=federation.server, addresses=federation.addresses, days=federation.days, now=now
    )
    coordinator = out / "coordinator"
    _move_out(authority.folder / "server", coordinator / "keys")
    create_private(coordinator / "revoked", (authority.folder / "revoked").read_bytes())
    for name in ("transfer-sets", "run"):
        create_private_folder(coordinator / name)
    host = f"[{federation.listen}]" if ":" in federation.listen else federation.listen
    _write(
        coordinator,
        COORDINATOR_SETTINGS,
        site=False,
        what="limbeck's coordinator",
        server=federation.server[0],
        listen=f"{host}:{federation.port}",
        port=federation.port,
        sites=federation.sites,
        unit="limbeck-coordinator.service",
        home=f"{federation.home}/coordinator",
        command="limbeck serve plan.pb --settings coordinator.toml",
        read_only=(COORDINATOR_SETTINGS, "start.sh", "keys", "revoked", "transfer-sets"),
    )
    for name in federation.sites:
        folder = out / "sites" / name
        if federation.own_keys:
            create_private(folder / "keys" / "ca.pem", (authority.folder / "ca.pem").read_bytes())
        else:
            _move_out(authority.node(name, days=federation.days, now=now), folder / "keys")
        create_private_folder(folder / "transfer-sets")
        create_private(folder / "policy.toml", _policy(name, author).encode())
        _write(
            folder,
            SITE_SETTINGS,
            site=True,
            what=f"limbeck's site {name}",
            name=name,
            has_key=not federation.own_keys,
            author=author,
            address=f"{federation.server[0]}:{federation.port}",
            server_name=None,
            port=None,
            unit=f"limbeck-site-{name}.service",
            home=f"{federation.home}/{name}",
            command="limbeck site run .",
            read_only=(SITE_SETTINGS, "policy.toml", "start.sh", "keys", "transfer-sets"),
        )
    return author


def _policy(name: str, author: str) -> str:
    """The policy of `limbeck policy init` with this site's names. It accepts nobody's plans until its owner lists authors."""
    changes = {
        'name = "a policy"': f'name = "policy of {name}"',
        'data_set = "our-records"': f'data_set = "{name}/records"',
        "authors = []": f'# This federation\'s plans will be signed by "{author}".\nauthors = []',
    }
    text = policy.TEMPLATE
    for old, new in changes.items():
        if text.count(old) != 1:
            raise SettingError(f"Expected {old!r} once in the template of policies, found it {text.count(old)} times.")
        text = text.replace(old, new)
    return text


def _write(folder: Path, settings: str, *, unit: str, **values: object) -> None:
    """Make all files of one folder that come from templates. settings: the name of its settings' file. unit: of its systemd unit."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    common = {"unit": unit, "version": version("limbeck"), "memory_mb": MEMORY_MB, "stop_seconds": STOP_SECONDS, **values}
    for template, name in (
        (f"{settings}.j2", settings),
        ("start.sh.j2", "start.sh"),
        ("unit.service.j2", unit),
        ("Containerfile.j2", "Containerfile"),
        ("README.md.j2", "README.md"),
    ):
        create_private(folder / name, environment.get_template(template).render(common).encode())
    # Only limbeck's wheel, and the list of versions that it was tested with, may get into an image.
    create_private(folder / ".containerignore", b"*\n!limbeck-*.whl\n!constraints.txt\n")
    (folder / "start.sh").chmod(0o700)


def _move_out(source: Path, target: Path) -> None:
    """Move private keys to where they are used, so that they lie nowhere else; copy the rest."""
    for path in source.iterdir():
        create_private(target / path.name, path.read_bytes())
        if path.suffix == ".key":
            path.unlink()
