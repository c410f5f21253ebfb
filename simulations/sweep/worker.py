"""One process of a sweep: `python -m limbeck.simulations.sweep.worker`. Runs what lines of JSON on its standard input ask for, in turn.

Every line names a folder, and is answered by one line: an empty text, or why the run failed. What a run prints goes to a file beside
its folder. When the input ends the process ends; a run that is going on is interrupted then, as by Ctrl-C, so that nothing goes on behind
the back of whoever starts the same sweep again.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.base.errors import LimbeckError, RunError
from limbeck.base.files import create_private_folder, keep_to_owner
from limbeck.base.printable import escape_logs
from limbeck.base.settings import Strict
from limbeck.simulations.scenario import Scenario

# Beside the run's folder, under its name.
LOCK, LOG, FAILED = ".lock", ".log", ".failed"
OUT_OF_MEMORY = "out of memory"


class Order(Strict):
    """A run to make or to go on with. workers: client processes at once."""

    folder: str
    scenario: Scenario
    without_privacy: bool
    workers: int


def main() -> None:
    """The process."""
    keep_to_owner()
    escape_logs()
    # A shell has its background jobs ignore SIGINT, and what is ignored is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(orders, busy), daemon=True).start()
    try:
        _load()
        while (line := orders.get()) is not None:
            order = Order.model_validate_json(line)
            problem = _fulfil(order)
            busy.clear()
            answers.write(json.dumps(problem) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


def _load() -> None:
    """TLS first: gRPC decides when it is loaded which versions it accepts. Then torch, with the threads that the environment says."""
    from limbeck.protos import tls  # noqa: F401, I001 - before anything that loads gRPC
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _listen(orders: queue.SimpleQueue[str | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        busy.set()
        orders.put(line)
    orders.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGINT)


def _fulfil(order: Order) -> str:
    """Run it; returns why it failed, or nothing."""
    folder = Path(order.folder)
    with _to_itself(folder):
        try:
            _run(order, folder)
        except LimbeckError as error:
            return str(error) or type(error).__name__
        except MemoryError:
            return OUT_OF_MEMORY
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error} (all of it is in {folder.name + LOG}, beside the run's folder)"
    return ""


def _run(order: Order, folder: Path) -> None:
    from limbeck.simulations import prepare, run
    from limbeck.simulations.sweep import baseline

    if order.without_privacy:
        baseline.write(baseline.compute(order.scenario), folder)
        return
    failed = folder.with_name(folder.name + FAILED)
    try:
        begun = not failed.exists() and prepare.read_prepared(folder)[0] == order.scenario
    except RunError:
        begun = False
    if begun:
        run.resume(folder, workers=order.workers)
        return
    # What was not prepared to the end, or has failed, is made anew: its sites are simulated, and so are their ledgers.
    shutil.rmtree(folder, ignore_errors=True)
    failed.unlink(missing_ok=True)
    run.simulate(order.scenario, folder, workers=order.workers)


@contextmanager
def _to_itself(folder: Path) -> Iterator[None]:
    """Wait until no other process is at this run, and have what is printed meanwhile in a file, which is kept if it is not empty."""
    create_private_folder(folder.parent)
    log = folder.with_name(folder.name + LOG)
    with folder.with_name(folder.name + LOCK).open("a") as lock, log.open("w", encoding="utf-8") as file:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = os.dup(2)
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream in (1, 2):
                os.dup2(before, stream)
            os.close(before)
    if not log.stat().st_size:
        log.unlink()


if __name__ == "__main__":
    main()
