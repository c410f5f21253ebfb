"""Defaults of the commands of a deployment. They stand alone, so that a command's help loads nothing else."""

from __future__ import annotations

COORDINATOR_PORT = 7443
WATCH_PORT = 8723
# On loopback, between a SuperNode and the process of its app.
RUNTIME_PORT = 9094
# Days for which certificates are valid.
DAYS, AUTHORITY_DAYS = 365, 3650
# Seconds for each step of a connection that the doctor tries.
CONNECT_SECONDS = 5.0
