#!/bin/sh
# Checks what can be checked here, then runs limbeck's site north in the foreground, until it is told to end (SIGTERM).
set -eu
umask 077
cd "$(dirname "$0")"
limbeck doctor --no-network .
exec limbeck site run .
