"""The thin Flower bundle: one pyproject.toml that points at the installed limbeck, with the run config of one run; no code travels.

Its paths are absolute, because Flower runs apps in folders of its own.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import tomli_w

from limbeck.base.files import write_durably

SERVER_APP, CLIENT_APP = "limbeck.server.app:app", "limbeck.client.app:app"
RunConfig = dict[str, bool | float | int | str]

# Nothing is looked up, installed or reported on the network.
OFFLINE = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def run_config(*, plan: Path, transfer_sets: Path, folder: Path, clients: int) -> RunConfig:
    """What the ServerApp needs to know: the plan's file, the folder of its public inputs, where the run goes, sites to wait for."""
    return {
        "plan": str(plan.resolve()),
        "transfer-sets": str(transfer_sets.resolve()),
        "folder": str(folder.resolve()),
        "clients": clients,
    }


def write(bundle: Path, config: RunConfig) -> Path:
    """Write the bundle's folder; returns it."""
    app = {
        "publisher": "limbeck",
        "components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
        "config": config,
    }
    project = {
        "name": "limbeck-run",
        "version": version("limbeck"),
        "description": "A run of limbeck: no code, it points at the installed package",
        "license": "Apache-2.0",
        "dependencies": [],
    }
    described = {"project": project, "tool": {"flwr": {"app": app}}}
    write_durably(bundle / "pyproject.toml", tomli_w.dumps(described).encode())
    return bundle
