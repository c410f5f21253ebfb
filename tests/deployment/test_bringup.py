"""`limbeck deploy init` leaves folders that work, keys in one place each, policies that accept nobody, and nothing half made."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tomllib
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest

from limbeck.base.errors import PolicyError, SettingError
from limbeck.client import policy
from limbeck.client.site import Site
from limbeck.deployment import bringup, certificates, keys
from limbeck.deployment.certificates import Role
from limbeck.protos import signing
from limbeck.server import door

FEDERATION = bringup.Federation(server=("localhost",), sites=("A", "B", "C"), addresses=("127.0.0.1",))
SYSTEMD = shutil.which("systemd-analyze")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deploy") / "federation"
    bringup.init(FEDERATION, out, now=now())
    return out


def test_every_site_gets_settings_that_its_own_side_reads_and_certificates_that_fit(out: Path) -> None:
    authority = keys.Authority(out / "authority")
    for name in FEDERATION.sites:
        site = Site(out / "sites" / name)
        assert site.settings.link is not None
        assert (site.name, site.settings.link.address) == (name, "localhost:7443")
        certificate = certificates.read_certificate(site.folder / site.settings.link.certificate)
        certificates.check_certificate(certificate, authority=authority.certificate, role=Role.SITE, name=name, now=now())
        certificates.check_key(certificates.read_key(site.folder / site.settings.link.key), certificate)
        assert certificates.read_certificate(site.folder / site.settings.link.ca) == authority.certificate
    settings = tomllib.loads((out / "coordinator" / "coordinator.toml").read_text())
    assert settings["sites"] == list(FEDERATION.sites)
    server = certificates.read_certificate(out / "coordinator" / settings["certificate"])
    certificates.check_certificate(server, authority=authority.certificate, role=Role.SERVER, name="127.0.0.1", now=now())
    assert keys.read_revoked(out / "coordinator" / settings["revoked"]) == []


def test_every_private_key_is_in_one_place_and_nobody_elses_to_read(out: Path) -> None:
    private_keys = sorted(str(path.relative_to(out)) for path in out.rglob("*.key"))
    sites = [f"sites/{name}/keys/{name}.key" for name in FEDERATION.sites]
    assert private_keys == ["author/plan.key", "authority/ca.key", "coordinator/keys/server.key", *sites]
    for path in out.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_an_image_takes_limbeck_and_its_tested_versions_and_nothing_else_of_the_folder(out: Path) -> None:
    for folder in (out / "coordinator", *(out / "sites" / name for name in FEDERATION.sites)):
        text = (folder / "Containerfile").read_text()
        everything, *allowed = (folder / ".containerignore").read_text().splitlines()
        assert everything == "*"
        copied = [name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]]
        assert copied == [f"limbeck-{version('limbeck')}-py3-none-any.whl", "constraints.txt"]
        patterns = [pattern.removeprefix("!") for pattern in allowed]
        assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in copied)
        present = [str(path.relative_to(folder)) for path in folder.rglob("*")]
        assert not [name for name in present if any(fnmatch(name, pattern) for pattern in patterns)]
        # The user that runs, the one that is made, and the one that --userns maps are the same.
        assert "USER 10001:10001" in text
        assert text.count("id 10001") == 3
        assert "--userns=keep-id:uid=10001,gid=10001" in text
        assert f"--stop-timeout={bringup.STOP_SECONDS} " in text


def test_a_policy_as_written_accepts_nobodys_plan_and_names_the_author_to_be_asked_about(out: Path) -> None:
    author = signing.author_of(signing.read_key(out / "author" / "plan.key")).hex()
    for name in FEDERATION.sites:
        rules = policy.read(out / "sites" / name / "policy.toml")
        assert isinstance(rules, policy.Policy)
        assert (rules.plans.authors, rules.data_set) == ([], f"{name}/records")
        assert author in (out / "sites" / name / "policy.toml").read_text()
        assert author in (out / "sites" / name / "README.md").read_text()
    text = (out / "sites" / "A" / "policy.toml").read_text()
    (out / "policy-A.toml").write_text(text.replace("authors = []", f'authors = ["{author}"]'))
    accepted = policy.read(out / "policy-A.toml")
    assert isinstance(accepted, policy.Policy)
    assert accepted.plans.authors == [author]
    (out / "policy-A.toml").unlink()


def test_rotation_works_although_the_authority_kept_no_key(out: Path) -> None:
    authority = keys.Authority(out / "authority")
    assert (authority.rotate("B", now=now()) / "B.key").exists()
    assert (authority.rotate("localhost", now=now()) / "server.key").exists()
    shutil.rmtree(authority.folder / "nodes" / "B")
    (authority.folder / "server" / "server.key").unlink()


def test_sites_that_make_their_own_keys_get_none_and_are_told_how(tmp_path: Path) -> None:
    federation = bringup.Federation(server=("localhost",), sites=("A",), own_keys=True)
    bringup.init(federation, tmp_path / "own", now=now())
    site = tmp_path / "own" / "sites" / "A"
    assert [path.name for path in (site / "keys").iterdir()] == ["ca.pem"]
    assert "limbeck keys request A --out keys" in (site / "README.md").read_text()
    path, _ = keys.request("A", site / "keys")
    made = keys.Authority(tmp_path / "own" / "authority").approve(certificates.read_request(path), "A", now=now())
    certificates.check_key(certificates.read_key(site / "keys" / "A.key"), certificates.read_certificate(made / "A.pem"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sites": ()}, "at least one site"),
        ({"sites": ("A", "../B")}, "Expected a site name"),
        ({"sites": ("A", "a")}, "Expected every site once"),
        ({"sites": ("A", 'x"')}, "Expected a site name"),
        ({"server": ()}, "Expected a name of the coordinator"),
        ({"server": ("a b",)}, "Expected a DNS name"),
        ({"port": 0}, r"Expected port in \[1, 65535\]"),
        ({"listen": "x\nca = 1"}, "Expected an IP address"),
        ({"home": "/srv/x\nExecStart=/bin/sh"}, "Expected home as an absolute path"),
    ],
)
def test_names_that_cannot_be_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        bringup.Federation(**{"server": ("localhost",), "sites": ("A",), **changes})  # type: ignore[arg-type]


def test_what_fails_leaves_nothing_and_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(SettingError, match="left as it is"):
        bringup.init(FEDERATION, tmp_path / "there", now=now())
    monkeypatch.setattr(policy, "TEMPLATE", "")
    with pytest.raises(SettingError, match="in the template of policies"):
        bringup.init(FEDERATION, tmp_path / "new", now=now())
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with pytest.raises(PolicyError):
        policy.read(tmp_path / "new" / "policy.toml")


def test_start_scripts_are_shell_and_stop_where_the_doctor_finds_a_fault(out: Path, tmp_path: Path) -> None:
    """With a `limbeck` that notes how it is called, and fails as a doctor."""
    (tmp_path / "limbeck").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n[ "$1" != doctor ] || exit "$HEALTH"\n')
    (tmp_path / "limbeck").chmod(0o755)
    for health, calls in ((1, ["doctor --no-network ."]), (0, ["doctor --no-network .", "site run ."])):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(tmp_path / f"calls{health}"), "HEALTH": str(health)}
        done = subprocess.run([str(out / "sites" / "A" / "start.sh")], env=environment, cwd="/", check=False)
        assert done.returncode == health
        assert (tmp_path / f"calls{health}").read_text().splitlines() == calls


def test_a_coordinators_unit_gives_it_more_descriptors_than_peers_can_take(out: Path) -> None:
    (unit,) = (out / "coordinator").glob("*.service")
    (limit,) = re.findall(r"^LimitNOFILE=(\d+)$", unit.read_text(), re.MULTILINE)
    assert int(limit) >= door.ENOUGH


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("kind", ["coordinator", "site"])
def test_units_are_what_systemd_reads_and_little_exposed(kind: str, out: Path, tmp_path: Path) -> None:
    assert SYSTEMD is not None
    folder = out / "coordinator" if kind == "coordinator" else out / "sites" / "A"
    (unit,) = folder.glob("*.service")
    # The command is at another place here than where the service expects it; all else must be understood.
    home = bringup.Federation(server=("x",), sites=("y",)).home
    text = unit.read_text().replace(f"{home}/coordinator", str(folder)).replace(f"{home}/A", str(folder))
    (tmp_path / unit.name).write_text(text)
    told = subprocess.run([SYSTEMD, "verify", str(tmp_path / unit.name)], capture_output=True, text=True, check=False)
    assert unit.name not in told.stderr + told.stdout
    command = [SYSTEMD, "security", "--offline=true", "--threshold=20", str(tmp_path / unit.name)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
