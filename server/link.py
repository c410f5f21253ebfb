"""The coordinator's end of the link: a gRPC service to which sites dial in, and Flower's Grid over it.

A site is identified by its certificate, which must name one of the sites in the coordinator's settings. Questions to a site
wait here until they are answered or their time is over; after every reconnection all that are open are offered again, and a
site that has one already says so. What sites send is only bytes here until the caller pulls it, and then decoded strictly:
what is malformed becomes an error of that site.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from limbeck.base.errors import DataError, RunError, SettingError, WireError
from limbeck.base.files import check_private
from limbeck.base.logs import about
from limbeck.base.printable import printable
from limbeck.protos import flower_messages, link, link_codec, tls
from limbeck.protos.flower_messages import CLIENT_RAISED, SERVER_NODE, collect
from limbeck.protos.link import (
    HEARTBEAT_SECONDS,
    MAX_TRANSFER,
    Announce,
    Assembly,
    Connection,
    Disconnected,
    Frame,
    Hello,
    Transfer,
)
from limbeck.server.door import Door

log = logging.getLogger(__name__)

HELLO_SECONDS = 30.0
GRACE_SECONDS = 2.0
# How long sites have to take in that the run is finished.
FAREWELL_SECONDS = 10.0
# How many questions a site may have open.
OPEN = 64
STREAMS_PER_CONNECTION = 4

T = TypeVar("T")
Read = Callable[[], Awaitable[Frame | None]]
Write = Callable[[Frame], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The coordinator's PEM files: the authority of the sites' certificates, and its own certificate and key."""

    ca: Path
    certificate: Path
    key: Path

    def credentials(self) -> grpc.ServerCredentials:
        """For mutual TLS. Raises DataError where a file is not there, SettingError where others than its owner can read the key or
        the certificate is not valid now."""
        try:
            check_private(self.key)
            tls.check_time(self.certificate.read_bytes(), str(self.certificate), datetime.now(UTC))
            pair, ca = (self.key.read_bytes(), self.certificate.read_bytes()), self.ca.read_bytes()
        except OSError as error:
            raise DataError(f"Expected PEM files for TLS: {error}.") from error
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=True)


class Access:
    """Who may connect: these sites, with certificates that are not in the list of revoked serial numbers (hexadecimal, one per line).

    The list is read again whenever its file changes. If it cannot be read, nobody may connect: it may hold the number that matters.
    """

    def __init__(self, sites: Iterable[str], revoked: Path | None = None) -> None:
        self.sites, self._revoked = frozenset(sites), revoked
        self._read: tuple[tuple[int, ...], frozenset[int]] | None = None
        self.revoked()

    def revoked(self) -> frozenset[int]:
        """The serial numbers of revoked certificates. Raises SettingError if the list cannot be read."""
        if self._revoked is None:
            return frozenset()
        try:
            stat = self._revoked.stat()
            # A copy may have the old one's time and size, and is another file all the same, or was changed later.
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ctime_ns, stat.st_ino)
            if self._read is None or self._read[0] != state:
                self._read = state, frozenset(tls.read_revoked(self._revoked))
        except OSError as error:
            raise SettingError(f"Expected serial numbers, one hexadecimal a line, in {self._revoked}: {error}.") from error
        return self._read[1]

    def check(self, pem: bytes) -> str:
        """The site with this certificate, whose signature TLS has checked. Raises WireError where it may not connect."""
        try:
            name, serial = tls.name_of(pem), tls.serial_of(pem)
            if serial in self.revoked():
                raise WireError(
                    f"Expected a certificate that is not revoked, got serial number {serial:x} of {name[:80]!r}."
                )
        except SettingError as error:
            log.error("A certificate cannot be checked: %s", error)
            raise WireError("Expected a certificate that can be checked, got one that cannot now.") from error
        if name not in self.sites:
            raise WireError(f"Expected a certificate of a site of this federation, got one of {name[:80]!r}.")
        return name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Open:
    """A question without an answer. until: loop time when it is given up. limit: bytes of content of its answer."""

    transfer: Transfer
    message: Message
    until: float
    limit: int


class _Current:
    """A connection under way. replaced: by another one of its site. greeted: the hellos are exchanged, or it has ended. over: it has ended.

    connection: None as long as the hellos are not exchanged, and at a site that does not understand `Finished`.
    """

    def __init__(self) -> None:
        self.replaced, self.greeted, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.connection: Connection | None = None


class _Session:
    """A site since it first connected: what its connections, one after the other, have in common."""

    def __init__(self, name: str, limit: int, arrived: Callable[[bytes, bytes], None]) -> None:
        self.name, self.node, self.limit, self._arrived = name, flower_messages.node_of(name), limit, arrived
        self.assembly: Assembly | None = None
        self.open: dict[bytes, _Open] = {}
        self._unsent: dict[bytes, None] = {}
        self._news = asyncio.Event()
        self.current: _Current | None = None
        self.connections = 0

    def begin(self) -> None:
        """A new connection: all that is open is to be offered again."""
        self.connections += 1
        self._unsent = dict.fromkeys(self.open)

    def ask(self, question: _Open) -> None:
        """Send a question as soon as the site is there."""
        self.open[question.transfer.id] = question
        self._unsent[question.transfer.id] = None
        self._news.set()

    def withdraw(self, message_id: bytes) -> None:
        """No longer wait for an answer."""
        self.open.pop(message_id, None)
        self._unsent.pop(message_id, None)

    async def next_transfer(self) -> Transfer:
        """The oldest question that this connection has not brought over yet."""
        while not self._unsent:
            self._news.clear()
            await self._news.wait()
        return self.open[next(iter(self._unsent))].transfer

    def delivered(self, transfer: Transfer) -> None:
        """The site has a question, or had it."""
        self._unsent.pop(transfer.id, None)

    def wants(self, announce: Announce) -> bool:
        """An answer is wanted once, to a question that was put to this site and is still open. Raises WireError where it is longer than any
        answer to that can be."""
        question = self.open.get(announce.id)
        if question is None:
            return False
        most = flower_messages.encoded_at_most(question.limit)
        if announce.total > most:
            raise WireError(f"Expected an answer of at most {most} bytes to this question, got one of {announce.total}.")
        return True

    def receive(self, transfer_id: bytes, data: bytes) -> None:
        """An answer; a second one, or one that comes too late, is dropped."""
        if transfer_id in self.open:
            self._arrived(transfer_id, data)
            self.withdraw(transfer_id)

    def finished(self, plan: bytes) -> None:
        """No site says so."""
        raise WireError("Expected no end of a run from a site, got one.")


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's health service, which tells the coordinator's clock too: `limbeck doctor` compares it with the site's."""

    async def Check(  # noqa: N802 - as gRPC names it
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Whether the service serves."""
        await context.send_initial_metadata(((link.CLOCK, f"{time.time():.3f}"),))
        return await super().Check(request, context)


class LinkGrid(Grid):
    """Flower's Grid over the link, listening until `close`.

    listen: HOST:PORT, 0 for any port; `address` has the one it got. limit: bytes of a site's open questions, and of one
    answer. heartbeat: seconds. Raises SettingError where it cannot listen, DataError without keys.
    """

    def __init__(
        self,
        listen: str,
        keys: Keys,
        access: Access,
        *,
        limit: int = MAX_TRANSFER,
        heartbeat: int = HEARTBEAT_SECONDS,
        run_id: int = 1,
    ) -> None:
        tls.require_13()
        flower_messages.identify(SERVER_NODE, run_id)
        self._run = Run.create_empty(run_id)
        self.access, self._limit, self._heartbeat = access, limit, heartbeat
        self._sessions: dict[int, _Session] = {}
        self._answer_limit = limit
        self._asked: dict[bytes, _Open] = {}
        self._answers: dict[bytes, bytes] = {}
        self._changed = threading.Condition()
        self._ending = asyncio.Event()
        ready: threading.Event = threading.Event()
        self._failure: Exception | None = None
        credentials = keys.credentials()
        try:
            self._door = Door(listen, len(access.sites))
        except (OSError, OverflowError) as error:
            raise SettingError(f"Expected an address to listen on, got {listen!r}: {error}.") from error
        self.address = f"{listen.rpartition(':')[0]}:{self._door.port}"
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(credentials, ready)), name="limbeck-link", daemon=True
        )
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            raise SettingError(f"Expected to serve the link, got an error: {self._failure}.") from self._failure

    # The Grid

    def set_run(self, run: Run) -> None:
        """Use this run's id for messages made from now on."""
        self._run = run
        flower_messages.identify(SERVER_NODE, run.run_id)

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
        """Sites that are connected, or have been since this process began: questions to them wait until they are back."""
        return list(self._sessions)

    def site_of(self, node_id: int) -> str:
        """The name in a node's certificate."""
        return self._sessions[node_id].name

    def connections_of(self, node_id: int) -> int:
        """How often a node has connected since this process began."""
        return self._sessions[node_id].connections

    def expected_sites(self) -> Iterable[str]:
        """The names of all sites that may connect."""
        return sorted(self.access.sites)

    @property
    def connected(self) -> list[str]:
        """Sites with a connection now."""
        return sorted(session.name for session in list(self._sessions.values()) if session.current is not None)

    def bound_answers(self, size: int) -> None:
        """Take no more than this many bytes of content as the answer to whatever is pushed from now on."""
        self._answer_limit = min(size, self._limit)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages until they are answered or their `ttl` is over.

        Raises ValueError where a node is unknown, RunError where too much is open for one; then none is queued.
        """
        named = [(flower_messages.name_by_content(message), message) for message in messages]
        for _, message in named:
            if message.metadata.dst_node_id not in self._sessions:
                raise ValueError(f"Expected a node id out of {len(self._sessions)}, got {message.metadata.dst_node_id}.")
        now = time.monotonic()
        questions = [
            _Open(
                transfer=Transfer(id=bytes.fromhex(message_id), data=flower_messages.encode(message)),
                message=message,
                until=now + message.metadata.ttl,
                limit=self._answer_limit,
            )
            for message_id, message in named
        ]
        self._in_loop(self._push(questions))
        return [message_id for message_id, _ in named]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come to these messages; each is given once. A malformed one is given as an error."""
        with self._changed:
            ids = [message_id for message_id in map(bytes.fromhex, message_ids) if message_id in self._answers]
            answered = [(self._asked.pop(message_id), self._answers.pop(message_id)) for message_id in ids]
        return [_reply(question, data) for question, data in answered]

    def wait(self, seconds: float) -> None:
        """Sleep until a reply comes, at most this long."""
        with self._changed:
            if not self._answers:
                self._changed.wait(seconds)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then collect replies until all are there or `timeout` seconds have passed; what is then open is withdrawn."""
        replies, missing = collect(self, self.push_messages(messages), timeout)
        self.withdraw(missing)
        return replies

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """No longer wait for answers to these messages; those that come are dropped."""
        ids = [bytes.fromhex(message_id) for message_id in message_ids]

        async def withdraw() -> None:
            self._withdraw(ids)

        if ids:
            self._in_loop(withdraw())

    def say_finished(self, plan: bytes) -> list[str]:
        """Tell the sites that are connected that the run of this plan is finished; returns the names of those that took it in.

        A site takes it in by ending its connection. One that is away now, or of a version that does not understand it, keeps dialling.
        """
        return self._in_loop(self._say_finished(plan))

    def close(self) -> None:
        """End the service. Sites keep dialling; what they have not sent they keep."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join()

    # In the loop's thread

    def _in_loop(self, work: Coroutine[object, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _say_finished(self, plan: bytes) -> list[str]:
        async def tell(name: str, current: _Current) -> str | None:
            try:
                async with asyncio.timeout(FAREWELL_SECONDS):
                    # A site may have connected this very moment.
                    await current.greeted.wait()
                    if current.connection is None:
                        return None
                    await current.connection.say_finished(plan)
                    await current.over.wait()
            except Exception as error:  # gRPC's own among them: whatever became of this site, the run is finished
                log.info("%s was not told that the run is finished: %s", name, printable(error) or type(error).__name__)
                return None
            return name

        tellings = [
            tell(session.name, session.current) for session in self._sessions.values() if session.current is not None
        ]
        return sorted(name for name in await asyncio.gather(*tellings) if name is not None)

    async def _push(self, questions: Sequence[_Open]) -> None:
        sizes: dict[int, list[int]] = {}
        for question in questions:
            node = question.message.metadata.dst_node_id
            if node not in sizes:
                sizes[node] = [len(question.transfer.data) for question in self._sessions[node].open.values()]
            sizes[node].append(len(question.transfer.data))
        for node, lengths in sizes.items():
            if len(lengths) > OPEN or sum(lengths) > self._limit:
                raise RunError(
                    f"Expected at most {OPEN} open questions of {self._limit} bytes in all to {self._sessions[node].name}, "
                    f"got {len(lengths)} of {sum(lengths)}."
                )
        for question in questions:
            with self._changed:
                self._asked[question.transfer.id] = question
            self._sessions[question.message.metadata.dst_node_id].ask(question)

    def _withdraw(self, message_ids: Iterable[bytes]) -> None:
        for message_id in message_ids:
            with self._changed:
                question = self._asked.pop(message_id, None)
                self._answers.pop(message_id, None)
            if question is not None:
                self._sessions[question.message.metadata.dst_node_id].withdraw(message_id)

    def _arrived(self, message_id: bytes, data: bytes) -> None:
        with self._changed:
            self._answers[message_id] = data
            self._changed.notify_all()

    async def _serve(self, credentials: grpc.ServerCredentials, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        options = (
            *link.OPTIONS,
            ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
            ("grpc.server_handshake_timeout_ms", int(1000 * HELLO_SECONDS)),
        )
        server = grpc.aio.server(options=options)
        handlers = {"Connect": grpc.stream_stream_rpc_method_handler(self._connect)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(link_codec.SERVICE, handlers),))
        checks = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        try:
            server.add_secure_port(self._door.behind, credentials)
            await server.start()
            self._door.open()
        except Exception as error:  # gRPC raises RuntimeError and others
            self._failure = error
            self._door.close()
            ready.set()
            return
        for name in ("", link_codec.SERVICE):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        ready.set()
        keeper = asyncio.ensure_future(self._give_up_late_ones())
        await self._ending.wait()
        keeper.cancel()
        await checks.enter_graceful_shutdown()
        await server.stop(GRACE_SECONDS)
        self._door.close()

    async def _give_up_late_ones(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for session in self._sessions.values():
                self._withdraw([message_id for message_id, question in session.open.items() if question.until < now])

    async def _connect(self, _: object, context: grpc.aio.ServicerContext) -> None:
        """One connection, of a site or of somebody else, who is refused."""
        try:
            await self._greet(context)
        finally:
            self._door.dismiss(context.peer())

    async def _greet(self, context: grpc.aio.ServicerContext) -> None:
        async def read() -> Frame | None:
            data = await context.read()
            return None if data is grpc.aio.EOF else link_codec.decode_frame(data)

        async def write(frame: Frame) -> None:
            await context.write(link_codec.encode_frame(frame))

        pem = b"".join(context.auth_context().get("x509_pem_cert", ()))
        try:
            name = self.access.check(pem)
        except WireError as error:
            log.warning("%s is refused: %s", self._door.address_of(context.peer()), error)
            self._door.dismiss(context.peer())
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, printable(error))
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await read()
            if not isinstance(first, Hello):
                raise WireError("Expected a hello first, got something else.")
            self._door.admit(context.peer())
            # Before anything more is said, which the other end may keep from leaving here.
            await self._speak(
                name,
                pem,
                first,
                read,
                write,
                understands=_understood(context),
                over=lambda: self._door.dismiss(context.peer()),
            )
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_SECONDS:g} s")
        except WireError as error:
            log.warning(
                "%s breaks the protocol: %s", name, error, extra=about(event="refused", site=name, reason=str(error))
            )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, printable(error))

    async def _speak(
        self,
        name: str,
        pem: bytes,
        greeting: Hello,
        read: Read,
        write: Write,
        *,
        understands: frozenset[str],
        over: Callable[[], None],
    ) -> None:
        """After the site's hello, until the connection ends. A site has one: a new one ends the one before, which may be half dead.

        Nothing here waits for the other end alone: it may have stopped reading.
        """
        session = self._sessions.setdefault(flower_messages.node_of(name), _Session(name, self._limit, self._arrived))
        me = _Current()
        before, session.current = session.current, me
        tasks: list[asyncio.Future[None]] = []
        ended: list[BaseException | None] = []

        async def converse() -> None:
            if before is not None:
                before.replaced.set()
                await before.over.wait()
            session.begin()
            try:
                async with asyncio.timeout(HELLO_SECONDS):
                    await write(link.hello(self._heartbeat))
            except TimeoutError:
                raise Disconnected(f"it took no greeting within {HELLO_SECONDS:g} s") from None
            log.info(
                "%s is connected (limbeck %s there).", name, greeting.limbeck, extra=about(event="connected", site=name)
            )
            connection = Connection(session, read, write, heartbeat=self._heartbeat)
            if link.FINISHED in understands:
                me.connection = connection
            me.greeted.set()
            await connection.run()

        try:
            parts = (converse(), self._while_good(pem), self._until_replaced(me))
            tasks = [asyncio.ensure_future(part) for part in parts]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            # Before anything that may be cancelled in its turn: the next connection waits for it.
            me.greeted.set()
            me.over.set()
            over()
            if session.current is me:
                session.current = None
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        reason = next((error for error in ended if isinstance(error, Exception)), None)
        log.info("%s is disconnected: %s", name, reason, extra=about(event="disconnected", site=name, reason=str(reason)))
        if isinstance(reason, WireError):
            await link.say_why(write, reason)
            raise reason
        if reason is not None and not isinstance(reason, Disconnected | asyncio.InvalidStateError | grpc.aio.UsageError):
            log.error("The connection of %s met an error.", name, exc_info=reason)

    async def _until_replaced(self, current: _Current) -> None:
        await current.replaced.wait()
        raise WireError("Expected one connection of a site, got a newer one.")

    async def _while_good(self, pem: bytes) -> None:
        """Check again and again that the site may be connected. Raises WireError when it is revoked."""
        while True:
            await asyncio.sleep(self._heartbeat)
            self.access.check(pem)


def _understood(context: grpc.aio.ServicerContext) -> frozenset[str]:
    """The frames beyond those of 0.1 that a site says it understands."""
    return frozenset(
        word
        for name, value in context.invocation_metadata() or ()
        if name == link.UNDERSTANDS and isinstance(value, str)
        for word in value.split()
    )


def _reply(question: _Open, data: bytes) -> Message:
    try:
        reply = flower_messages.decode(data, limit=question.limit)
        answer, asked = reply.metadata, question.message.metadata
        if (answer.reply_to_message_id, answer.src_node_id) != (asked.message_id, asked.dst_node_id):
            raise WireError("Expected a reply of the node that was asked, to the message that was sent, got another.")
    except WireError as error:
        return Message(Error(CLIENT_RAISED, printable(error)), reply_to=question.message)
    return reply
