"""A question is answered in its own process, which can be ended by limits on memory and time without ending the site.

The process is forked, before the question arrives, from one that has imported the client app, so that answering starts at once. It runs
`limbeck.client.app:app` as it is installed here: what the coordinator sends is only data to it. The answer is written to a file before
anybody is told, so it is not lost if the site's daemon is killed meanwhile.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, cast

from flwr.app import Context, Error, Message, RecordDict

from limbeck.base import logs
from limbeck.base.errors import WireError
from limbeck.base.files import keep_to_owner, outliving_power_cuts, write_durably
from limbeck.base.printable import escape_logs
from limbeck.protos import codec, flower_messages
from limbeck.protos.flower_messages import CLIENT_CRASHED, CLIENT_RAISED

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

log = logging.getLogger(__name__)

CLIENT_APP = "limbeck.client.app:app"
# Modules that client apps import only when they need them, and that every process would otherwise import again.
PRELOADED = ["torch", "dp_accounting.pld.privacy_loss_distribution", "safetensors.torch"]
# What the coordinator is told about a process that gave no answer; no more than that, because the reason may speak of records.
FAILED, DIED, LATE, NO_QUESTION = (
    "the site could not answer; its own log says why",
    "the site's process ended before it could answer",
    "the site's time limit for an answer has passed",
    "what came is no question to this site",
)
# The encoded length of one question at most: nothing longer is accepted from the coordinator.
MAX_QUESTION = flower_messages.encoded_at_most(codec.MAX_REQUEST)
WORKING = "working.lock"
_starting = Lock()


def process_context(client_app: str) -> ForkServerContext:
    """Processes are forked from one that has imported the client app already: each starts in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([client_app.split(":", maxsplit=1)[0], *PRELOADED])
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What came from the coordinator, not decoded yet.

    id: the id under which it was announced.
    node: this site's node id.
    data: at most MAX_QUESTION bytes.
    """

    id: bytes
    node: int
    data: bytes = field(repr=False)

    def read(self) -> Message:
        """The decoded question. Raises WireError if it is not one to this site. Only for a process whose memory is bounded."""
        message = flower_messages.decode(self.data, limit=codec.MAX_REQUEST)
        if message.metadata.message_id != self.id.hex():
            raise WireError("Expected a question under the id that was announced, got another.")
        if message.metadata.dst_node_id != self.node or not message.has_content():
            raise WireError(f"Expected a question to node {self.node}, got none, or one to another node.")
        return message


class Child:
    """One process that waits for one question.

    site: the site's folder.
    state: the folder of the link's state.
    memory: the limit, in bytes.
    client_app: "module:name".
    """

    def __init__(self, site: Path, state: Path, memory: int, client_app: str) -> None:
        context = process_context(client_app)
        self._connection, theirs = context.Pipe()
        arguments = (theirs, client_app, site, state, memory, logs.current())
        self._process = context.Process(target=_answer, args=arguments, daemon=True)
        with without_main():
            self._process.start()
        theirs.close()

    def answer(self, question: Question, answer_path: Path, seconds: float) -> None:
        """Have a question answered into a file. Afterwards the file exists; it holds an error if there is no answer."""
        name = question.id.hex()[:12]
        try:
            self._connection.send((str(answer_path), question))
            if not self._connection.poll(seconds):
                log.error("The answer to question %s took more than %g s: its process is ended.", name, seconds)
                self._process.kill()
                reason = LATE
            else:
                self._connection.recv_bytes()
                reason = DIED
        except (EOFError, OSError):
            self._process.join()
            log.error("The process answering question %s ended with exit code %s.", name, self._process.exitcode)
            reason = DIED
        if not answer_path.exists():
            _keep(answer_path, flower_messages.error_reply(question.id, question.node, CLIENT_CRASHED, reason))

    def stop(self) -> None:
        """End the process if it is still running."""
        self._process.kill()
        self._process.join()
        self._connection.close()


@contextmanager
def without_main() -> Iterator[None]:
    """Hide the main module from processes that are started within.

    Each would import it again, which takes half a second, is not needed, and would run a user's script once more.
    """
    with _starting:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _answer(
    connection: Connection, client_app: str, site: Path, state: Path, memory: int, how_to_log: logs.Logs | None
) -> None:
    """The process: wait for a question, answer it into a file, say so."""
    # The daemon decides when this ends; a Ctrl-C for the daemon must not interrupt what the ledger is charged for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_to_owner()
    escape_logs()
    if how_to_log is not None:
        logs.begin(how_to_log)
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        path, question = connection.recv()
    except EOFError:
        return
    answer_path = Path(path)
    # This limits the heap and private mappings: torch and its libraries map far more addresses than they ever use.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # A daemon that was killed leaves its child to finish what was charged: the next child waits for it, and finds the answer.
    with (state / WORKING).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer_path.exists():
            _keep(answer_path, _reply(question, client_app, site))
    # Nobody listens if the daemon was killed meanwhile.
    with suppress(OSError):
        connection.send_bytes(b"answered")


def _keep(path: Path, reply: Message) -> None:
    """Write a reply completely or not at all.

    It need not survive a power cut: the client app stores durably what must not be done twice.
    """
    with outliving_power_cuts(False):
        write_durably(path, flower_messages.encode(reply))


def _reply(question: Question, client_app: str, site: Path) -> Message:
    try:
        message = question.read()
    except WireError as error:
        log.error("Question %s is refused: %s", question.id.hex()[:12], error)
        return flower_messages.error_reply(question.id, question.node, CLIENT_RAISED, NO_QUESTION)
    log.debug("Question %s is %s.", question.id.hex()[:12], message.metadata.message_type)
    flower_messages.identify(message.metadata.dst_node_id, message.metadata.run_id)
    return _run(load_app(client_app), message, site)


def _run(app: ClientApp, message: Message, site: Path) -> Message:
    context = Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config={"site": str(site)},
        state=RecordDict(),
        run_config={},
    )
    try:
        return app(message, context)
    except Exception:
        log.exception("The client app raised.")
        return Message(Error(CLIENT_RAISED, FAILED), reply_to=message)


def load_app(reference: str) -> ClientApp:
    """The client app that "module:name" refers to, in code that is installed here."""
    module, name = reference.split(":")
    return cast("ClientApp", getattr(import_module(module), name))
