"""`limbeck doctor`: everything about a site, a coordinator or an authority that can be checked from its folder, and what to do about it.

It changes nothing, reads no record, runs none of the site's own code, and with `network` off opens no connection.

checks.py                               what a check is
shared.py                               checks of every side, and what several sides check alike
site.py, coordinator.py, authority.py   the checks of one side each
connection.py                           reaching a coordinator, and how that can end
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from limbeck.base.errors import SettingError
from limbeck.base.findings import Finding, Outcome, healthy
from limbeck.client.settings import FILE as SITE_SETTINGS
from limbeck.client.site import Site
from limbeck.deployment.bringup import COORDINATOR_SETTINGS
from limbeck.deployment.defaults import CONNECT_SECONDS
from limbeck.deployment.doctor import authority, coordinator, shared, site
from limbeck.deployment.doctor.checks import Check, Examination, Side, check
from limbeck.deployment.doctor.coordinator import Coordinator

__all__ = ["CONNECT_SECONDS", "SIDES", "Check", "Finding", "Outcome", "check", "examine", "healthy"]

AnySide = Side[Site] | Side[Coordinator] | Side[Path]
SIDES: tuple[AnySide, ...] = (site.SIDE, coordinator.SIDE, authority.SIDE)


def examine(
    folder: Path,
    *,
    now: datetime,
    network: bool = True,
    seconds: float = CONNECT_SECONDS,
    sides: Sequence[AnySide] = SIDES,
) -> list[Finding]:
    """All findings about the folder of a site, a coordinator or an authority.

    folder: that folder, or a file in it.
    now: the time of this machine, with its time zone.
    network: whether connections are opened.
    seconds: the limit for each step of a connection.
    sides: the kinds of folders that are known, with their checks.

    Raises: SettingError if the folder is none of them.
    """
    folder = folder.parent if folder.is_file() else folder
    side = next((side for side in sides if side.owns(folder)), None)
    if side is None:
        raise SettingError(
            f"Expected {SITE_SETTINGS}, {COORDINATOR_SETTINGS} or an authority's certificates in {folder}, found none."
        )
    examination = Examination(folder=folder, now=now, seconds=seconds)
    return [
        *(finding for each in shared.CHECKS for finding in each(folder, examination)),
        *side.examine(examination, network=network),
    ]
