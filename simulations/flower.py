"""Carrier `flower`: the same apps on Flower's own simulation engine, over Ray; and the bundle with which `flwr run` starts them.

Its nodes know only a partition id, so the folder of sites is passed in the environment (LIMBECK_SITES), which Ray's workers inherit.
Start-up takes tens of seconds, which pays off when one machine is not enough.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from limbeck.client.site import SITES
from limbeck.server import bundle
from limbeck.server.app import BUNDLE

OFFLINE = {
    **bundle.OFFLINE,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def run_config(folder: Path, clients: int) -> bundle.RunConfig:
    """The run config of the ServerApp for the run prepared in `folder`, with so many clients."""
    return bundle.run_config(
        plan=folder / "plan.pb", transfer_sets=folder / "transfer", folder=folder / "server", clients=clients
    )


def write_bundle(folder: Path, clients: int) -> Path:
    """Write the Flower bundle of a prepared run to RUN/flower; returns that folder."""
    return bundle.write(folder / "flower", run_config(folder, clients))


def run(folder: Path, sites: Path) -> None:
    """Run the prepared plan in `folder` over the sites in `sites`. An error of limbeck in the server app is raised here."""
    count = len(list(sites.glob("*/site.toml")))
    os.environ.update(OFFLINE)
    os.environ[SITES], os.environ[BUNDLE] = str(sites.resolve()), str(write_bundle(folder, count).resolve())
    from flwr.simulation import run_simulation

    from limbeck.client.app import app as client_app
    from limbeck.server.app import app as server_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
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
        del os.environ[SITES], os.environ[BUNDLE]
