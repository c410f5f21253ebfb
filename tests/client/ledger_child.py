"""Run by test_ledger in a process of its own."""

import os
import signal
from pathlib import Path


def reserve_and_die(path: str) -> None:
    """Reserve as the tests do, then die as hard as a process can."""
    from test_ledger import BUDGET, RUN, TEACHING

    from limbeck.client.ledger import Ledger

    with Ledger(Path(path), BUDGET) as ledger:
        ledger.reserve(RUN, "teacher", TEACHING, None)
        os.kill(os.getpid(), signal.SIGKILL)
