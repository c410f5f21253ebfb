"""Keys replaced and revoked by their authority, as `limbeck keys` does it, while coordinator and site run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.links import Running, ask
from limbeck.base.errors import WireError
from limbeck.client.site import Site
from limbeck.deployment import keys
from limbeck.deployment.certificates import name_of, read_certificate, serial_of
from limbeck.experiments.faults.linked import free_port, until
from limbeck.protos import carry
from limbeck.protos.flower_messages import node_of
from limbeck.server.link import Access, Keys, LinkGrid


def now() -> datetime:
    return datetime.now(UTC)


class Federation:
    """An authority, a coordinator and one site, each with a folder of its own: what passes between them is copied, as by people."""

    def __init__(self, folder: Path) -> None:
        self.authority = keys.init(folder / "authority", names=["localhost"], addresses=["127.0.0.1"], now=now())
        self.coordinator, self.site = folder / "coordinator", folder / "site"
        self.authority.node("a", now=now())
        shutil.copytree(self.authority.node_folder("a"), self.site)
        self.hand_over_server()
        self.hand_over_list()
        self.port = free_port()
        (self.site / "site.toml").write_text(
            f'name = "a"\ntransfer_sets = "t"\n[link]\naddress = "localhost:{self.port}"\nca = "ca.pem"\n'
            'certificate = "a.pem"\nkey = "a.key"\nmemory_mb = 2048\ngrace_seconds = 600.0\n'
        )
        self.grid = self.listen()
        self.running = Running(Site(self.site))

    def listen(self) -> LinkGrid:
        own = Keys(
            ca=self.coordinator / "ca.pem",
            certificate=self.coordinator / "server.pem",
            key=self.coordinator / "server.key",
        )
        return LinkGrid(f"127.0.0.1:{self.port}", own, Access(["a"], self.coordinator / "revoked"), heartbeat=1)

    def hand_over_server(self) -> None:
        shutil.copytree(self.authority.folder / "server", self.coordinator, dirs_exist_ok=True)

    def hand_over_site(self) -> None:
        for path in self.authority.node_folder("a").iterdir():
            shutil.copy2(path, self.site / path.name)

    def hand_over_list(self) -> None:
        shutil.copy(self.authority.folder / "revoked", self.coordinator / "revoked")

    def answers(self, content: bytes) -> bool:
        question = ask(self.grid, "a", content)
        (reply,) = until(lambda: self.grid.pull_messages([question]))
        return carry.unpack(reply.content) == content


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    own = Federation(tmp_path)
    until(lambda: own.grid.connected or None)
    yield own
    own.running.stop()
    own.grid.close()


def test_a_sites_certificate_is_replaced_and_the_old_one_revoked_while_both_ends_run(federation: Federation) -> None:
    assert federation.answers(b"before")
    old = serial_of(read_certificate(federation.site / "a.pem"))
    federation.authority.rotate("a", now=now())
    new = serial_of(read_certificate(federation.authority.node_folder("a") / "a.pem"))
    federation.hand_over_site()
    # Both are good until the old one is revoked, and that ends the connection that was made with it.
    assert federation.answers(b"in between")
    assert federation.authority.revoke("a", but=new, now=now()) == [old]
    federation.hand_over_list()
    until(lambda: federation.grid.connections_of(node_of("a")) >= 2 or None)
    assert federation.answers(b"after")


def test_a_site_that_is_revoked_is_cut_off_while_connected_and_does_not_come_back(federation: Federation) -> None:
    assert federation.answers(b"before")
    assert len(federation.authority.revoke("a", now=now())) == 1
    federation.hand_over_list()
    until(lambda: federation.grid.connected == [] or None)
    connections = federation.grid.connections_of(node_of("a"))
    with pytest.raises(WireError, match="Expected a certificate that is not revoked"):
        federation.grid.access.check((federation.site / "a.pem").read_bytes())
    assert federation.grid.connections_of(node_of("a")) == connections


def test_the_coordinators_new_certificate_wants_its_restart_and_sites_come_back_by_themselves(
    federation: Federation,
) -> None:
    served = read_certificate(federation.coordinator / "server.pem")
    federation.authority.rotate(name_of(served), now=now())
    federation.hand_over_server()
    assert read_certificate(federation.coordinator / "server.pem") != served
    federation.grid.close()
    federation.grid = federation.listen()
    until(lambda: federation.grid.connected or None)
    assert federation.answers(b"after")
