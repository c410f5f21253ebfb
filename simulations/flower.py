"""Carrier `flower`: the same apps on Flower's own simulation engine, over Ray.

Its nodes know only a partition id and its apps get no run config, so the folders travel in the environment (LIMBECK_SITES,
LIMBECK_RUN), which Ray's workers inherit. Start-up takes tens of seconds; it pays where one machine is outgrown.
"""

from __future__ import annotations

import os
from pathlib import Path

from limbeck.client.site import SITES
from limbeck.server.app import RUN

# Nothing is looked up, installed or reported on the network.
OFFLINE = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def run(folder: Path, sites: Path) -> None:
    """Run the prepared plan in `folder` over the sites in `sites`. Errors of the server app are raised here."""
    os.environ.update(OFFLINE)
    os.environ[SITES], os.environ[RUN] = str(sites.resolve()), str(folder.resolve())
    from flwr.simulation import run_simulation

    from limbeck.client.app import app as client_app
    from limbeck.server.app import app as server_app

    count = len(list(sites.glob("*/site.toml")))
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"include_dashboard": False, "log_to_driver": False},
    }
    try:
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=count,
            backend_config=backend,  # type: ignore[arg-type]
        )
    finally:
        del os.environ[SITES], os.environ[RUN]
