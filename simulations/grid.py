"""A Flower Grid in one process tree: real apps, real wire serialisation, clients in worker processes, no Ray.

Flower's code deflates every message to bytes, which cross a process boundary and are inflated there; nothing is shared.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from limbeck.client.child import CLIENT_APP, load_app, process_context, without_main
from limbeck.protos.flower_messages import (
    CLIENT_CRASHED,
    CLIENT_RAISED,
    SERVER_NODE,
    collect,
    deflate,
    identify,
    inflate,
    name_by_content,
)

log = logging.getLogger(__name__)

FIRST_NODE = 1001


def _work(connection: Connection, reference: str, threads: int) -> None:
    """A worker process: receive a message and a context, run the ClientApp, send the reply."""
    # Ctrl-C is for the parent: a client that is working may finish what it was charged for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # Which classes a simulated site lacks is what its scenario says, and the report shows it.
    logging.getLogger("limbeck.client.records").setLevel(logging.ERROR)
    app = load_app(reference)
    while True:
        try:
            wire, context = connection.recv()
        except EOFError:
            return
        identify(context.node_id, context.run_id)
        message = inflate(wire)
        try:
            reply = app(message, context)
        except Exception as error:
            log.exception("A client app raised.")
            reply = Message(Error(CLIENT_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)
        connection.send((deflate(reply), context))


class _Worker(threading.Thread):
    """A thread that feeds one worker process, and replaces it if it dies."""

    def __init__(self, grid: LocalGrid, reference: str, threads: int) -> None:
        super().__init__(daemon=True)
        self.grid, self.reference, self.threads = grid, reference, threads
        self._start_process()

    def _start_process(self) -> None:
        self.connection, theirs = self.grid.processes.Pipe()
        self.process = self.grid.processes.Process(target=_work, args=(theirs, self.reference, self.threads), daemon=True)
        with without_main():
            self.process.start()
        theirs.close()

    def run(self) -> None:
        while (message := self.grid.todo.get()) is not None:
            node_id = message.metadata.dst_node_id
            started = time.perf_counter()
            try:
                self.connection.send((deflate(message), self.grid.contexts[node_id]))
                wire, self.grid.contexts[node_id] = self.connection.recv()
                reply = inflate(wire)
            except (EOFError, OSError):
                self.process.join()
                reason = f"the client's process ended with exit code {self.process.exitcode}"
                reply = Message(Error(CLIENT_CRASHED, reason), reply_to=message)
                if not self.grid.closing:
                    self._start_process()
            self.grid.finish(message, reply, time.perf_counter() - started)
        self.connection.close()
        self.process.join()


class LocalGrid(Grid):
    """Flower's Grid over worker processes on this machine.

    - sites: one folder per site; node FIRST_NODE + i is sites[i], and its node config has "site" and "partition-id".
    - workers: processes at once.
    - threads: torch threads in each process.
    - client_app: "module:attribute" of the ClientApp.

    busy_seconds: seconds spent in client apps and their transport, summed over all workers.
    """

    def __init__(
        self,
        sites: Sequence[Path],
        *,
        workers: int,
        threads: int = 1,
        client_app: str = CLIENT_APP,
        run_id: int = 1,
    ) -> None:
        identify(SERVER_NODE, run_id)
        self._run = Run.create_empty(run_id)
        self.processes = process_context(client_app)
        self.contexts = {
            FIRST_NODE + i: Context(
                run_id=run_id,
                node_id=FIRST_NODE + i,
                node_config={"site": str(site), "partition-id": i, "num-partitions": len(sites)},
                state=RecordDict(),
                run_config={},
            )
            for i, site in enumerate(sites)
        }
        self.todo: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.busy_seconds = 0.0
        self.closing = False
        self._waiting: set[str] = set()
        self._replies: dict[str, Message] = {}
        self._arrived = threading.Condition()
        self._workers = [_Worker(self, client_app, threads) for _ in range(min(workers, len(sites)))]
        for worker in self._workers:
            worker.start()

    def set_run(self, run: Run) -> None:
        """Use this run's id for messages made from now on."""
        self._run = run
        identify(SERVER_NODE, run.run_id)

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages. Raises ValueError if a node is unknown; then none is queued."""
        messages = list(messages)
        for message in messages:
            if message.metadata.dst_node_id not in self.contexts:
                raise ValueError(f"Expected a node id out of {len(self.contexts)}, got {message.metadata.dst_node_id}.")
        ids = []
        for message in messages:
            message_id = name_by_content(message)
            ids.append(message_id)
            with self._arrived:
                self._waiting.add(message_id)
            self.todo.put(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that have arrived; each is returned once."""
        with self._arrived:
            return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def wait(self, seconds: float) -> None:
        """Sleep until a reply arrives, for at most so many seconds."""
        with self._arrived:
            if not self._replies:
                self._arrived.wait(seconds)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then collect replies until all have arrived or `timeout` seconds have passed."""
        return collect(self, self.push_messages(messages), timeout)[0]

    def finish(self, message: Message, reply: Message, seconds: float) -> None:
        """Take the reply of a worker to `message`; a second reply to the same message is dropped."""
        with self._arrived:
            self.busy_seconds += seconds
            if message.metadata.message_id in self._waiting:
                self._waiting.discard(message.metadata.message_id)
                self._replies[message.metadata.message_id] = reply
                self._arrived.notify_all()

    def close(self, *, at_once: bool = False) -> None:
        """Stop. Queued messages are dropped; clients that are working finish, or are killed if `at_once`."""
        self.closing = True
        while True:
            try:
                self.todo.get_nowait()
            except queue.Empty:
                break
        for worker in self._workers:
            self.todo.put(None)
            if at_once:
                worker.process.kill()
        for worker in self._workers:
            worker.join()


def warm_up(client_app: str = CLIENT_APP) -> None:
    """Start the process that workers are forked from, without waiting, so that its imports overlap with other work."""
    process_context(client_app)
    forkserver.ensure_running()
