"""What test_ledger reserves, and how: run by it in a process of its own."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from helpers.plans import LINEAR
from limbeck.client.ledger import Budget, Ledger
from limbeck.plans.schema import Adjacency, Unit

BUDGET = Budget(data_set="a-test", epsilon=3.0, delta=1e-5, unit=Unit.RECORD, adjacency=Adjacency.ADD_REMOVE_ONE)
TEACHING = replace(LINEAR, noise_multiplier=9.0)
RUN = bytes(32)


def reserve_and_die(path: str) -> None:
    """Reserve as the tests do, then die as hard as a process can."""
    with Ledger(Path(path), BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
        os.kill(os.getpid(), signal.SIGKILL)
