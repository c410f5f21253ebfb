"""The Flower ServerApp: read the run config, open the plan and its transfer set, run the coordinator.

Run config (public; it travels): "plan" and "transfer-sets" are paths of a plan file and of the folder with its transfer set,
"folder" is where the run's record, checkpoints and student go, "clients" how many nodes to wait for, "join-seconds",
"answer-seconds" and "pause-seconds" how long. A carrier that hands its apps no run config names a Flower bundle in the
environment, whose run config is then read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import alone, keep_to_owner
from limbeck.base.printable import escape_logs
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.server.coordinator import Coordinator, Patience

log = logging.getLogger(__name__)

BUNDLE = "LIMBECK_BUNDLE"
# In the run's folder: two coordinators would write over each other's record and checkpoints.
LOCK = "coordinator.lock"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the plan named in the run config over the Grid."""
    keep_to_owner()
    escape_logs()
    settings = context.run_config or _of_bundle(os.environ.get(BUNDLE))
    plan_path = Path(_text(settings, "plan"))
    try:
        offer = codec.decode_offer(plan_path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"Expected a plan at {plan_path}, found none.") from error
    plan = offer.plan
    transfer_path = Path(_text(settings, "transfer-sets")) / f"{plan.transfer_set.hex()}.npz"
    (x_N,) = read_arrays(transfer_path, "x")
    if digest(x_N) != plan.transfer_set or len(x_N) != plan.samples:
        raise DataError(f"Expected the plan's {plan.samples} inputs in {transfer_path}, found others.")
    patience = Patience(
        expected=int(settings.get("clients", plan.minimum_clients)),
        join=float(settings.get("join-seconds", 60.0)),
        answer=float(settings.get("answer-seconds", 3600.0)),
        pause=float(settings.get("pause-seconds", 0.0)),
    )
    folder = Path(_text(settings, "folder"))
    encoding = _encoding(plan, transfer_path.parent)
    with alone(folder / LOCK, "coordinator"):
        Coordinator(grid, offer, torch.from_numpy(x_N), folder, patience, encoding=encoding).run()


def _encoding(plan: Plan, folder: Path) -> bytes | None:
    """The content of the plan's public encoding among the transfer sets, for the student's folder; whoever uses the student needs it."""
    if plan.encoding is None:
        return None
    for path in sorted(folder.glob("*.json")):
        content = path.read_bytes()
        if hashlib.sha256(content).digest() == plan.encoding:
            return content
    log.warning(
        "Expected the plan's public encoding (SHA-256 %s) as a .json file in %s, found none: the run goes on, but whoever uses the student"
        " on tables or texts must be given it apart.",
        plan.encoding.hex(),
        folder,
    )
    return None


def _of_bundle(bundle: str | None) -> dict[str, bool | float | int | str]:
    """The run config in a bundle's pyproject.toml; none without a bundle."""
    if bundle is None:
        return {}
    described = tomllib.loads((Path(bundle) / "pyproject.toml").read_text(encoding="utf-8"))
    config: dict[str, bool | float | int | str] = described["tool"]["flwr"]["app"]["config"]
    return config


def _text(settings: Mapping[str, object], key: str) -> str:
    value = settings.get(key)
    if not isinstance(value, str) or not value:
        raise SettingError(f"Expected run config '{key}' to be a path, got {value!r}.")
    return value
