#!/bin/sh
# Checks what can be checked here, then runs limbeck's coordinator in the foreground, until it is told to end (SIGTERM).
set -eu
umask 077
cd "$(dirname "$0")"
limbeck doctor --no-network .
exec limbeck serve plan.pb --settings coordinator.toml
