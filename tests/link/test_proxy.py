"""Behind a proxy, or beside one: the doctor and the daemon take the same way, and say which."""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import os
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.links import Running, ask, make_site, port_of, pull
from limbeck.base.errors import SettingError
from limbeck.client import proxy
from limbeck.client.proxy import EXCEPTIONS, PROXIES, Route, route
from limbeck.client.site import Site
from limbeck.deployment import doctor, flower
from limbeck.deployment.doctor import Finding, Outcome
from limbeck.experiments.faults.linked import free_port, until
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.protos import carry
from limbeck.server.link import LinkGrid

# A name that only the proxy can resolve: who takes another way does not get there.
BEHIND = "coordinator.invalid:7443"


class ConnectProxy:
    """A proxy on loopback that answers CONNECT to BEHIND. asked: the first line of every request. password: that it wants."""

    def __init__(self, port: int, password: str | None = None) -> None:
        self.asked: list[str] = []
        self._port, self._password = port, password
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), near.makefile("rb", buffering=0) as file:
            lines = list(itertools.takewhile(lambda line: line.strip(), iter(file.readline, b"")))
            self.asked.append(lines[0].decode().strip())
            wanted = base64.b64encode((self._password or "").encode())
            if self._password is not None and not any(
                line.lower().startswith(b"proxy-authorization") and wanted in line for line in lines
            ):
                near.sendall(b"HTTP/1.1 407 \x1b[31mProxy Authentication Required\r\n\r\n")
            elif lines[0].split()[:2] != [b"CONNECT", BEHIND.encode()]:
                near.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            else:
                with socket.create_connection(("127.0.0.1", self._port)) as far:
                    near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    threading.Thread(target=self._pump, args=(far, near), daemon=True).start()
                    self._pump(near, far)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listening.close()


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


def behind(folder: Path, keys: Authority, address: str = BEHIND, **link: str) -> Site:
    make_site(folder, keys, 1, server_name=f'"{SERVER}"', **link)
    text = (folder / "site.toml").read_text().replace('"127.0.0.1:1"', f'"{address}"')
    (folder / "site.toml").write_text(text)
    return Site(folder)


def diagnosis(site: Site) -> Finding:
    found = doctor.examine(site.folder, now=datetime.now(UTC), seconds=20.0)
    (own,) = [each for each in found if each.check == "coordinator"]
    return own


def connects(site: Site, grid: LinkGrid) -> None:
    """Its daemon does, and answers."""
    running = Running(site)
    try:
        until(lambda: grid.connected or None)
        question = ask(grid, "a", b"hello")
        assert carry.unpack(pull(grid, question).content) == b"hello"
    finally:
        running.stop()


def says(site: Site, caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Its daemon's log does, of a dialling that comes to nothing."""
    with caplog.at_level(logging.INFO, logger="limbeck.client.link"):
        running = Running(site)
        try:
            until(lambda: any(words in record.getMessage() for record in caplog.records) or None)
        finally:
            running.stop()


@pytest.mark.parametrize("set_by", ["https_proxy", "HTTPS_PROXY", "grpc_proxy", "http_proxy", "link.proxy"])
def test_through_a_proxy_doctor_and_daemon_both_get_there(
    set_by: str,
    keys: Authority,
    grid: LinkGrid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = ConnectProxy(port_of(grid))
    url = f"http://{own.address}"
    if set_by == "link.proxy":
        site = behind(tmp_path / "site", keys, proxy=f'"{url}"')
    else:
        monkeypatch.setenv(set_by, url)
        site = behind(tmp_path / "site", keys)
    # By gRPC's own rules this would be an exception; it is for another host.
    monkeypatch.setenv("no_proxy", "example.org")
    found = diagnosis(site)
    assert found.outcome is Outcome.OK, found
    assert f"through the proxy {own.address} (of {set_by})" in found.found
    with caplog.at_level(logging.INFO, logger="limbeck.client.link"):
        connects(site, grid)
    assert f"Dialling {BEHIND} through the proxy {own.address} (of {set_by})." in [
        each.getMessage() for each in caplog.records
    ]
    assert len(own.asked) >= 3
    assert {line.rpartition(" ")[0] for line in own.asked} == {f"CONNECT {BEHIND}"}
    own.close()


def test_a_proxys_password_is_used_and_shown_nowhere(
    keys: Authority, grid: LinkGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = ConnectProxy(port_of(grid), "site:s3cret")
    monkeypatch.setenv("https_proxy", f"http://site:s3cret@{own.address}")
    site = behind(tmp_path / "site", keys)
    found = diagnosis(site)
    assert found.outcome is Outcome.OK, found
    with caplog.at_level(logging.INFO):
        connects(site, grid)
    assert "s3cret" not in found.found + caplog.text + str(route(BEHIND, "environment")) + repr(route(BEHIND, "environment"))
    monkeypatch.setenv("https_proxy", f"http://site:wrong@{own.address}")
    found = diagnosis(site)
    assert found.outcome is Outcome.FAIL
    assert "got 'HTTP/1.1 407 \\x1b[31mProxy Authentication Required'" in found.found.replace("\\\\", "\\")
    assert "wrong" not in found.found
    says(site, caplog, "407")
    own.close()


def test_a_proxy_that_is_not_there_is_a_failure_of_both(
    keys: Authority, grid: LinkGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The doctor once said that all was well, and the daemon dialled for ever."""
    monkeypatch.setenv("https_proxy", f"http://localhost:{free_port()}")
    site = behind(tmp_path / "site", keys)
    found = diagnosis(site)
    assert found.outcome is Outcome.FAIL
    assert "No proxy listens at localhost" in found.found
    assert 'link.proxy = "none"' in found.advice
    says(site, caplog, "No connection to coordinator.invalid:7443")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ('"none"', 'https_proxy is ignored, as link.proxy = "none" says'),
        ('"environment"', "https_proxy is not for this machine itself"),
    ],
)
def test_past_a_proxy_doctor_and_daemon_both_get_there(
    setting: str, why: str, keys: Authority, grid: LinkGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    own = ConnectProxy(port_of(grid))
    monkeypatch.setenv("https_proxy", f"http://{own.address}")
    site = behind(tmp_path / "site", keys, grid.address, proxy=setting)
    found = diagnosis(site)
    assert found.outcome is Outcome.OK, found
    assert why in found.found
    with caplog.at_level(logging.INFO, logger="limbeck.client.link"):
        connects(site, grid)
    assert f"Dialling {grid.address} directly ({why})." in [each.getMessage() for each in caplog.records]
    assert own.asked == []
    own.close()


@pytest.mark.parametrize("exceptions", ["", "coordinator.invalid", "*"])
def test_exceptions_are_decided_on_in_one_place(
    exceptions: str, keys: Authority, grid: LinkGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is set by name in site.toml has no exceptions: gRPC, left to itself, would read them from the environment."""
    own = ConnectProxy(port_of(grid))
    monkeypatch.setenv("no_proxy", exceptions)
    site = behind(tmp_path / "site", keys, proxy=f'"http://{own.address}"')
    assert diagnosis(site).outcome is Outcome.OK
    connects(site, grid)
    own.close()


@pytest.mark.parametrize(
    ("address", "exceptions", "excepted"),
    [
        ("a.example.org:7443", "example.org", True),
        ("a.example.org:7443", ".example.org", True),
        ("a.example.org:7443", "*.example.org", True),
        ("EXAMPLE.org:7443", " x , Example.ORG", True),
        ("badexample.org:7443", "example.org", False),
        ("a.example.org:7443", "example.org:443", False),
        ("a.example.org:7443", "example.org:7443", True),
        ("a.example.org:7443", "*", True),
        ("a.example.org:7443", "", False),
        ("a.example.org:7443", ",", False),
        ("192.0.2.7:7443", "192.0.2.0/24", True),
        ("192.0.2.7:7443", "192.0.2.7", True),
        ("192.0.3.7:7443", "192.0.2.0/24", False),
        ("[2001:db8::7]:7443", "2001:db8::/32", True),
        ("[2001:db8::7]:7443", "192.0.2.0/24", False),
        ("a.example.org:7443", "192.0.2.0/24", False),
    ],
)
def test_exceptions_are_names_addresses_and_networks(address: str, exceptions: str, excepted: bool) -> None:
    own = route(address, "environment", {"https_proxy": "http://p:1", "no_proxy": exceptions})
    assert (own.proxy is None) == excepted
    assert "no_proxy excepts it" in own.why or not excepted
    assert route(address, "http://p:1", {"no_proxy": exceptions}).proxy == ("p", 1)


@pytest.mark.parametrize(
    "text",
    ["socks5://p:1", "https://p:1", "http://", "http://p:x", "http://p:99999", "http://p:1\r\nX: y", "http://u:s3cret@p:x"],
)
def test_what_is_no_proxy_is_refused_and_no_password_shown(text: str) -> None:
    with pytest.raises(SettingError, match=r"^Expected a proxy as http://HOST:PORT in https_proxy, got ") as refused:
        route(BEHIND, "environment", {"https_proxy": text})
    assert str(refused.value).isprintable()
    assert "s3cret" not in str(refused.value)


@given(text=st.text(max_size=40))
def test_any_text_is_a_proxy_or_a_setting_error(text: str) -> None:
    with contextlib.suppress(SettingError):
        own = route(BEHIND, "environment", {"https_proxy": text})
        assert isinstance(own, Route)
        assert "\n" not in str(own)


def test_the_environment_is_as_it_was_after_a_channel_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    name = EXCEPTIONS[0]
    for before in (None, "example.org"):
        if before is not None:
            monkeypatch.setenv(name, before)
        with proxy.undisturbed():
            assert os.environ[name] == "limbeck.invalid"
        assert os.environ.get(name) == before


def test_what_flower_says_on_this_machine_goes_through_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SuperNode and its apps speak gRPC to each other, which would ask a proxy of the environment for 127.0.0.1."""
    assert flower.environment(tmp_path)[EXCEPTIONS[0]] == "localhost,127.0.0.1,::1"
    monkeypatch.setenv("no_proxy", "example.org")
    assert flower.environment(tmp_path)[EXCEPTIONS[0]] == "example.org,localhost,127.0.0.1,::1"
