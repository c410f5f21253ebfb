"""Keys and a coordinator's grid for two sites, as most tests of the link need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.links import SITES, listen
from limbeck.experiments.faults.throwaway_keys import Authority
from limbeck.server.link import LinkGrid


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Those of a coordinator, its sites, and a stranger whom the same authority knows."""
    authority = Authority(tmp_path_factory.mktemp("keys"))
    authority.server()
    for name in (*SITES, "mallory"):
        authority.site(name)
    return authority


@pytest.fixture
def grid(keys: Authority) -> Iterator[LinkGrid]:
    """A coordinator's end that soon notices who is silent."""
    found = listen(keys, heartbeat=1)
    yield found
    found.close()
