"""A private key that others than its owner can read is used nowhere: whoever could read it may be using it already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from limbeck.base.errors import SettingError
from limbeck.client import serving
from limbeck.client.link import Daemon
from limbeck.client.site import Site
from limbeck.deployment import certificates, flower, key_commands
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.protos import signing
from limbeck.protos.teacher import Inputs
from limbeck.server.link import Keys

MODES = [0o640, 0o604, 0o620, 0o602, 0o644, 0o666]


@pytest.fixture
def keys(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "keys")
    authority.server()
    authority.site("a")
    return authority


def _site(keys: Authority, table: str) -> Site:
    folder = keys.folder.parent / "site"
    folder.mkdir(exist_ok=True)
    names = 'ca = "../keys/ca.pem"\ncertificate = "../keys/a.pem"\nkey = "../keys/a.key"\n'
    (folder / "site.toml").write_text(f'name = "a"\ntransfer_sets = "t"\n[{table}]\naddress = "localhost:1"\n{names}')
    return Site(folder)


def _serve_teacher(keys: Authority) -> object:
    model = serving.Model(name="m", labels=("a", "b"), inputs=Inputs.ROWS, probabilities=lambda x: np.ones((len(x), 2)) / 2)
    server = serving.start(
        serving.Teacher(model), "127.0.0.1:0", certificate=keys.folder / f"{SERVER}.pem", key=keys.folder / f"{SERVER}.key"
    )
    server.stop()
    return server


def _tls(keys: Authority) -> flower.Tls:
    folder = keys.folder
    return flower.Tls(ca=folder / "ca.pem", certificate=folder / f"{SERVER}.pem", key=folder / f"{SERVER}.key")


def _sign(keys: Authority) -> object:
    path = keys.folder / "plan.key"
    if not path.exists():
        signing.new_key(path)
    return signing.read_key(path)


def _supernode(keys: Authority) -> object:
    _site(keys, "link")
    site, folder = keys.folder.parent / "site", keys.folder
    return flower.supernode(site, folder / "node", superlink="localhost:1", ca=folder / "ca.pem", key=folder / "a.key")


USES: dict[str, tuple[str, Callable[[Authority], object]]] = {
    "the coordinator": (
        f"{SERVER}.key",
        lambda keys: Keys(
            ca=keys.folder / "ca.pem", certificate=keys.folder / f"{SERVER}.pem", key=keys.folder / f"{SERVER}.key"
        ).credentials(),
    ),
    "a site": ("a.key", lambda keys: Daemon(_site(keys, "link"))),
    "a site that asks a teacher": ("a.key", lambda keys: _site(keys, "black_box").black_box),
    "a teacher's server": (f"{SERVER}.key", _serve_teacher),
    "the authority, the doctor": ("a.key", lambda keys: certificates.read_key(keys.folder / "a.key")),
    "keys show": ("a.key", lambda keys: key_commands._described(keys.folder / "a.key")),
    "an author": ("plan.key", _sign),
    "a SuperLink": (
        f"{SERVER}.key",
        lambda keys: flower.superlink(keys.folder / "link", host="127.0.0.1", port=1, tls=_tls(keys)),
    ),
    "a SuperNode": ("a.key", _supernode),
}


@pytest.fixture(params=USES)
def use(request: pytest.FixtureRequest, keys: Authority) -> tuple[Path, Callable[[], object]]:
    name, how = USES[request.param]
    return keys.folder / name, lambda: how(keys)


def test_a_key_that_others_can_read_is_used_nowhere(use: tuple[Path, Callable[[], object]]) -> None:
    path, how = use
    how()
    for mode in MODES:
        path.chmod(mode)
        with pytest.raises(SettingError, match=f"its owner's alone .mode 600., got mode {mode:03o}"):
            how()
    path.chmod(0o400)
    how()


def test_a_key_that_is_replaced_by_an_open_one_is_not_dialled_with(keys: Authority) -> None:
    daemon = Daemon(_site(keys, "link"))
    daemon._credentials()
    (keys.folder / "a.key").chmod(0o644)
    with pytest.raises(SettingError, match="got mode 644"):
        daemon._credentials()
