"""The checks of every side, and what several sides check alike."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from limbeck.base.files import OTHERS
from limbeck.base.findings import Finding, Findings, Outcome, fail, ok, warn
from limbeck.deployment import certificates
from limbeck.deployment.certificates import Role
from limbeck.deployment.doctor.checks import Check, Examination, check
from limbeck.inputs.transfer_set import digest, read_arrays

EXPIRES_SOON_DAYS = 30
CLOCK_TOLERANCE = timedelta(minutes=5)
FILES_LOOKED_AT = 10_000
FREE_BYTES_WANTED, FREE_BYTES_NEEDED = 1 << 30, 64 << 20
# The packages whose versions are shown.
SHOWN = ("limbeck", "torch", "flwr", "grpcio", "protobuf", "cryptography")
INPUTS_ADVICE = "Get the file again from the plan's author."


@check("versions")
def versions(folder: Path, examination: Examination) -> Findings:
    """Whether limbeck runs with the versions that it was tested with."""
    try:
        described = metadata.metadata("limbeck")
        requirements = [Requirement(text) for text in metadata.requires("limbeck") or []]
    except metadata.PackageNotFoundError:
        yield fail("limbeck is not installed.", "Install its wheel with pip.")
        return
    python = ".".join(map(str, sys.version_info[:3]))
    problems = (
        []
        if python in SpecifierSet(described["Requires-Python"])
        else [f"python{described['Requires-Python']}, got {python}"]
    )
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name}{requirement.specifier}, got {installed or 'none'}")
    if problems:
        yield fail(
            f"Expected {'; '.join(problems)}.",
            "Install what limbeck was tested with, the versions of constraints.txt: docs/operate.md, Upgrading, says how.",
        )
        return
    yield ok(", ".join([f"python {python}", *(f"{name} {_version(name)}" for name in SHOWN)]))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@check("clock")
def clock(folder: Path, examination: Examination) -> Findings:
    """A clock that was set back shows in files from the future; one that is ahead or behind by much, in certificates."""
    now = examination.now
    newest, path = max(_times(folder), default=(0.0, folder))
    ahead = datetime.fromtimestamp(newest, UTC) - now
    if ahead > CLOCK_TOLERANCE:
        yield fail(
            f"{path} was written {ahead.total_seconds():.0f} s in the future: the clock says {now:%Y-%m-%d %H:%M:%S} UTC.",
            "Set the clock by NTP (timedatectl set-ntp true); certificates, ledger and transcript rely on it.",
        )
        return
    yield ok(f"{now:%Y-%m-%d %H:%M:%S} UTC, no file from the future")


def _times(folder: Path) -> Iterator[tuple[float, Path]]:
    looked = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            with contextlib.suppress(OSError):
                yield (Path(parent) / name).stat().st_mtime, Path(parent) / name
            looked += 1
            if looked >= FILES_LOOKED_AT:
                return


CHECKS: tuple[Check[Path], ...] = (versions, clock)


def key_pair(folder: Path, ca: str, certificate: str, key: str, role: Role, name: str | None, now: datetime) -> Findings:
    """The certificate and private key of one end, and the authority's certificate that lies beside them.

    ca, certificate, key: files in `folder`.
    role: what the certificate has to be for.
    name: whom it has to name; None for anybody.

    Raises: CertificateError, SettingError or OSError if they are not good here and now.
    """
    leaf = certificates.read_certificate(folder / certificate)
    authority = certificates.read_certificate(folder / ca)
    certificates.check_certificate(leaf, authority=authority, role=role, name=name, now=now)
    certificates.check_key(certificates.read_key(folder / key), leaf)
    renewal = f"Make a new one: limbeck keys rotate {certificates.name_of(leaf)}, or keys request and approve --rotate."
    for each, what, advice in (
        (leaf, "certificate", renewal),
        (authority, "authority", "Set up a new authority, and give both to all before the old one ends."),
    ):
        end = each.not_valid_after_utc
        days = (end - now).days
        soon = days < EXPIRES_SOON_DAYS
        yield Finding(
            check=what,
            outcome=Outcome.WARN if soon else Outcome.OK,
            found=f"{certificates.name_of(each)!r}, serial number {certificates.serial_of(each)}, until {end:%Y-%m-%d}:"
            f" {days} days left",
            advice=advice if soon else "",
        )


def disk(folders: dict[str, Path]) -> Findings:
    """Whether there is room, and leave to write, in each of these folders. folders: by what they hold; they need not exist yet."""
    for what, path in folders.items():
        existing = next(each for each in (path, *path.absolute().parents) if each.exists())
        free = shutil.disk_usage(existing).free
        if not os.access(existing, os.W_OK | os.X_OK):
            yield fail(
                f"{what}: {existing} cannot be written to.",
                "Make the folder the service's own (chown), and writable in its unit (ReadWritePaths).",
            )
            continue
        low = free < FREE_BYTES_WANTED
        yield Finding(
            outcome=Outcome.FAIL if free < FREE_BYTES_NEEDED else Outcome.WARN if low else Outcome.OK,
            found=f"{what}: {in_bytes(free)} free in {existing}",
            advice="Make room: what cannot be written durably is not sent, and the run waits." if low else "",
        )


def files(folder: Path, private: Sequence[Path]) -> Findings:
    """Whether others than the owner can change a file in a folder, or read a private one.

    New files are private as limbeck makes them; those of version 0.1.0 are not, and a copy may not be.

    private: files, with those beside them whose names begin with theirs, and folders.
    """
    if is_shielded(folder):
        return
    changeable, readable = [], []
    for path in _below(folder):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink() or not mode & OTHERS:
            continue
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            changeable.append(path)
        elif any(_belongs_to(path, each) for each in private):
            readable.append(path)
    advice = f"chmod -R go= {folder}, and find out who was on this machine."
    if changeable:
        yield fail(f"Others than its owner can change {_first_of(changeable)}.", advice)
    if readable:
        yield warn(f"Others than its owner can read {_first_of(readable)}.", advice)


def _belongs_to(path: Path, private: Path) -> bool:
    return private in path.parents or (path.parent == private.parent and path.name.startswith(private.name))


def _first_of(paths: Sequence[Path]) -> str:
    return f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else str(paths[0])


def _below(folder: Path) -> Iterator[Path]:
    for looked, path in enumerate(folder.rglob("*")):
        if looked >= FILES_LOOKED_AT:
            return
        yield path


def modes(folder: Path, settings: Sequence[Path]) -> Findings:
    """Whether others than the owner can change what decides: the settings, the folder itself, or a folder above it.

    Whoever can write to a folder above puts another one in its place, whatever the modes of the files in it.

    settings: files that must not be anybody else's; those that are not there are left out.
    """
    owner = folder.stat().st_uid
    chain = dict.fromkeys(above for path in settings if path.exists() for above in (path.resolve(), *path.resolve().parents))
    findings = [finding for above in chain for finding in _mode(above, owner)]
    if not is_shielded(folder):
        mode = stat.S_IMODE(folder.stat().st_mode)
        findings.append(warn(f"Others than its owner can enter {folder}, mode {mode:03o}.", f"chmod 700 {folder}"))
    if owner != os.geteuid():
        findings.append(
            warn(
                f"This is user {os.geteuid()}, and {folder} belongs to user {owner}: files that a command leaves there would not be its.",
                f"Run limbeck's commands as that user: sudo -u '#{owner}' limbeck ...",
            )
        )
    yield from findings or [ok("its owner's alone, and nobody else can change its settings")]


def _mode(path: Path, owner: int) -> Findings:
    """Whether somebody else than the folder's owner, or root, can change a file, or what is in a folder."""
    status = path.stat()
    mode, what = stat.S_IMODE(status.st_mode), "folder" if path.is_dir() else "file"
    if status.st_uid not in {0, owner}:
        yield warn(
            f"The {what} {path} belongs to user {status.st_uid}, who can change it.",
            f"Give it to the user of the service, or to root: chown {owner} {path}",
        )
    # In a folder such as /tmp everybody may write, and nobody may replace what is another's.
    if is_shielded(path if path.is_dir() else path.parent) or (path.is_dir() and mode & stat.S_ISVTX):
        return
    if mode & stat.S_IWOTH:
        yield fail(f"Everybody can change the {what} {path}, mode {mode:03o}.", f"chmod o-w {path}")
    elif mode & stat.S_IWGRP:
        yield warn(f"Its group can change the {what} {path}, mode {mode:03o}.", f"chmod g-w {path}")


def is_closed(folder: Path) -> bool:
    """Whether nobody but its owner can enter a folder."""
    return not stat.S_IMODE(folder.stat().st_mode) & OTHERS


def is_shielded(path: Path) -> bool:
    """Whether others than the owner cannot even reach a folder: its files are safe from them, whatever their modes."""
    return any(map(is_closed, (path.resolve(), *path.resolve().parents)))


def public_inputs(folder: Path) -> Findings:
    """Whether each file of public inputs in a folder holds what its name, a hash, promises."""
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        yield warn(
            f"None in {folder}.",
            "Put HASH.npz there, as the plan's author published it; without it the plan is declined.",
        )
    for path in paths:
        (x_N,) = read_arrays(path, "x")
        sha256 = digest(x_N).hex()
        if sha256 != path.stem:
            yield fail(f"{path} holds inputs of SHA-256 {sha256}.", INPUTS_ADVICE)
        else:
            yield ok(f"{len(x_N)} of shape {x_N.shape[1:]}, {sha256[:16]}")


def in_bytes(count: float) -> str:
    """A size, in decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
