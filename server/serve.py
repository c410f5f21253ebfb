"""The coordinator of real sites: its settings, and a run over the link."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from flwr.app import Context, RecordDict
from pydantic import Field

from limbeck.base.errors import DataError, SettingError
from limbeck.base.logs import about
from limbeck.base.settings import ADDRESS, Strict, read_toml, validate
from limbeck.protos.flower_messages import SERVER_NODE
from limbeck.protos.link import HEARTBEAT_SECONDS
from limbeck.server import record
from limbeck.server.app import app
from limbeck.server.link import Access, Keys, LinkGrid

# In the run's folder.
RECORD = "record.json"

log = logging.getLogger(__name__)


class CoordinatorSettings(Strict):
    """The whole of `coordinator.toml`; paths are relative to the folder that holds it (docs/link.md).

    listen: HOST:PORT. ca, certificate, key: PEM files. sites: their names, as their certificates have them. revoked: a
    file of serial numbers, one hexadecimal a line. folder: of the run. join_seconds: for all sites to connect, before
    the run begins with those that have. answer_seconds: for the answers to a question. pause_seconds: below the plan's
    minimum of sites, before the run ends; inf waits for ever. max_message_mb: of one answer, and of a site's open
    questions.
    """

    listen: str = Field(pattern=ADDRESS)
    ca: str = "ca.pem"
    certificate: str = "server.pem"
    key: str = "server.key"
    sites: list[str] = Field(min_length=1)
    revoked: str | None = None
    folder: str = "run"
    transfer_sets: str = "transfer"
    join_seconds: float = Field(default=300.0, ge=0)
    answer_seconds: float = Field(default=86400.0, gt=0)
    pause_seconds: float = Field(default=math.inf, ge=0)
    heartbeat_seconds: int = Field(default=HEARTBEAT_SECONDS, ge=1, le=3600)
    max_message_mb: int = Field(default=1024, ge=1)


def read(path: Path) -> CoordinatorSettings:
    """The settings in a file. Raises DataError if there is none, SettingError if they are invalid."""
    try:
        return validate(CoordinatorSettings, read_toml(path))
    except FileNotFoundError as error:
        raise DataError(f"Expected a coordinator's settings at {path}, found none.") from error
    except SettingError as error:
        raise SettingError(f"Expected valid settings in {path}.\n{error}") from None


def open_link(settings: CoordinatorSettings, base: Path) -> LinkGrid:
    """Listen as the settings say. base: the folder that their paths are relative to."""
    return LinkGrid(
        settings.listen,
        Keys(ca=base / settings.ca, certificate=base / settings.certificate, key=base / settings.key),
        Access(settings.sites, base / settings.revoked if settings.revoked else None),
        limit=settings.max_message_mb << 20,
        heartbeat=settings.heartbeat_seconds,
    )


def serve(plan: Path, path: Path) -> Path:
    """Run a plan over the sites that `path`, a coordinator.toml, names; returns the run's folder.

    A folder with finished stages of the same plan is continued after the last of them.
    """
    settings, base = read(path), path.parent
    folder = base / settings.folder
    grid = open_link(settings, base)
    log.info("Listening at %s for %d sites.", grid.address, len(settings.sites))
    try:
        config: dict[str, bool | float | int | str] = {
            "plan": str(plan),
            "transfer-sets": str(base / settings.transfer_sets),
            "folder": str(folder),
            "clients": len(settings.sites),
            "join-seconds": settings.join_seconds,
            "answer-seconds": settings.answer_seconds,
            "pause-seconds": settings.pause_seconds,
        }
        app(grid, Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=config))
        _say_finished(grid, bytes.fromhex(record.read(folder / RECORD).plan_hash))
    except KeyboardInterrupt:
        log.warning(
            "Stopped; the same command continues after the last finished stage, and sites dial until then.",
            extra=about(event="stopped"),
        )
        raise
    finally:
        grid.close()
    return folder


def _say_finished(grid: LinkGrid, plan_hash: bytes) -> None:
    """Tell the sites that are connected that the run is finished."""
    told = grid.say_finished(plan_hash)
    log.info(
        "The run of plan %s is finished; told %s.",
        plan_hash.hex()[:16],
        ", ".join(told) or "nobody, as no site is connected that understands it",
        extra=about(event="finished", plan=plan_hash),
    )
