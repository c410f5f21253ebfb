"""The site's end of the link: dial out to the coordinator, take its questions, have them answered in a child process, send the answers.

A question is identified by its message id. Its answer is in a file of that name before it is sent, so a question that is repeated, after
a break or by anybody, is answered by the same bytes; one that is being answered is not started a second time. Nothing that arrives is
executed: it is decoded, not in the daemon but in a process whose memory is bounded, and given to the client app that is installed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import grpc

from limbeck.base.errors import DataError, LimbeckError, SettingError, WireError
from limbeck.base.files import alone, check_private
from limbeck.base.logs import about
from limbeck.base.printable import printable
from limbeck.client import proxy
from limbeck.client.child import CLIENT_APP, MAX_QUESTION, Child, Question
from limbeck.client.site import Site
from limbeck.client.witness import PLAN
from limbeck.protos import flower_messages, link, link_codec, tls
from limbeck.protos.link import Announce, Assembly, Connection, Disconnected, Frame, Hello, RunFinished, Transfer

log = logging.getLogger(__name__)

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0
HELLO_SECONDS = 30.0
# A failure to connect that goes on is said again in the log after this time.
SAID_AGAIN_SECONDS = 3600.0
# Questions that wait here at most; the coordinator has a bound of its own.
OPEN = 64
# Answers that are kept for questions that are repeated: the last of them, at most so many and of so many bytes in all.
ANSWERS, ANSWER_BYTES = 256, 2 << 30
# The wait before a question is answered again whose answer could not be stored.
ROOM_SECONDS = 10.0


class _Credentials(NamedTuple):
    """PEM: the authority's certificate, this site's certificate and its key."""

    ca: bytes
    certificate: bytes
    key: bytes


class Daemon:
    """A site on the link, until `stop`. It is the station of all its connections.

    until_finished: whether to end when the coordinator says that the run is finished, instead of waiting for the next one.
    client_app: "module:name"; another than limbeck's only in tests.

    Raises: SettingError or DataError if the site cannot be connected with its settings.
    """

    def __init__(self, site: Site, *, until_finished: bool = False, client_app: str = CLIENT_APP) -> None:
        tls.require_13()
        if site.settings.link is None:
            raise SettingError(f"Expected a table [link] in {site.folder / 'site.toml'}, found none.")
        self.site, self.settings, self._client_app = site, site.settings.link, client_app
        self.limit = self.settings.max_message_mb << 20
        self.assembly: Assembly | None = None
        self._answers = site.link_state / "answers"
        self._answers.mkdir(exist_ok=True)
        self._node = flower_messages.node_of(site.name)
        self._until_finished, self._over = until_finished, False
        self._was_connected = False
        # Between two runs nobody listens, which is no failure; and a failure is said once, not at every attempt. When it was said last.
        self._between_runs, self._said, self._said_at = False, "", -math.inf
        self._route: proxy.Route | None = None
        self._todo: asyncio.Queue[Question] = asyncio.Queue()
        self._spare: asyncio.Queue[Child] = asyncio.Queue(maxsize=1)
        self._child: Child | None = None
        self._open: dict[bytes, int] = {}
        self._outbox: dict[bytes, None] = {}
        self._news, self._stopping, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._check_certificate()

    def _check_certificate(self) -> None:
        """Raise SettingError or DataError unless the certificate is for this site and valid now, and only its owner can read its key."""
        try:
            self._check_time(certificate := self._credentials().certificate)
            name = tls.name_of(certificate)
        except OSError as error:
            raise DataError(f"Expected PEM files for TLS: {error}.") from error
        except (WireError, ValueError) as error:
            raise SettingError(f"Expected a site's certificate in {self.settings.certificate}: {error}") from error
        if name != self.site.name:
            raise SettingError(
                f"Expected a certificate of {self.site.name!r}, as site.toml names the site, in {self.settings.certificate}, "
                f"got one of {name!r}."
            )

    def _check_time(self, certificate: bytes) -> None:
        tls.check_time(certificate, self.settings.certificate, datetime.now(UTC))

    def _credentials(self) -> _Credentials:
        """Read for every connection, because they may have been renewed.

        Raises: SettingError if others than its owner can read the key, OSError if a file cannot be read.
        """
        folder, settings = self.site.folder, self.settings
        check_private(folder / settings.key)
        return _Credentials(*((folder / name).read_bytes() for name in (settings.ca, settings.certificate, settings.key)))

    # Life

    async def run(self) -> None:
        """Stay connected and answer, until SIGTERM, SIGINT or `stop`; then finish the current question, within the grace period."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, RuntimeError):  # only a main thread has signals
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
        with self._alone():
            parts = (self._fork, self._work, self._stay_connected, self._stopping.wait)
            tasks = [asyncio.ensure_future(part()) for part in parts]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            try:
                if self._stopping.is_set():
                    await self._leave()
            finally:
                for task in tasks:
                    task.cancel()
                while not self._spare.empty():
                    self._spare.get_nowait().stop()
                if self._child is not None:
                    self._child.stop()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    def stop(self) -> None:
        """Start to leave."""
        self._stopping.set()

    async def _leave(self) -> None:
        if not self._idle.is_set() or (self._outbox and not self._over):
            log.info("Leaving as soon as the current answer is sent, within %g s.", self.settings.grace_seconds)
        try:
            async with asyncio.timeout(self.settings.grace_seconds):
                await self._idle.wait()
                while self._outbox and not self._over:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("The current answer is given up after a grace period of %g s.", self.settings.grace_seconds)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one daemon of a site at a time: two would disconnect each other in turn."""
        with alone(self.site.daemon_lock, "daemon of the site"):
            yield

    # Answering

    async def _work(self) -> None:
        """Answer one question after the other, each in its own process."""
        while True:
            self._idle.set()
            question = await self._todo.get()
            if self._stopping.is_set():
                return
            self._idle.clear()
            name, path = question.id.hex()[:12], self._path(question.id)
            log.debug("Question %s, %d bytes.", name, len(question.data))
            await self._answer(question, path)
            log.debug("Question %s is answered, %d bytes.", name, path.stat().st_size)
            del self._open[question.id]
            self._to_be_sent(question.id)
            self._prune()

    async def _answer(self, question: Question, path: Path) -> None:
        """Answer into a file. If the disk is full, nothing is sent and the question waits; its charge is noted at the site."""
        while True:
            child = self._child = await self._spare.get()
            try:
                await asyncio.to_thread(child.answer, question, path, self.settings.answer_seconds)
                return
            except OSError as error:
                log.error("No answer can be kept: %s. Make room; trying again in %g s.", error, ROOM_SECONDS)
            finally:
                await asyncio.to_thread(child.stop)
                self._child = None
            await asyncio.sleep(ROOM_SECONDS)

    async def _fork(self) -> None:
        """Keep processes ready: one in the queue, and one that waits for its place."""
        memory = self.settings.memory_mb << 20
        while True:
            child = await asyncio.to_thread(Child, self.site.folder, self.site.link_state, memory, self._client_app)
            try:
                await self._spare.put(child)
            except asyncio.CancelledError:
                child.stop()
                raise

    def _path(self, message_id: bytes) -> Path:
        return self._answers / message_id.hex()

    def _prune(self) -> None:
        """Delete the oldest answers that were sent, beyond the number and size that are kept."""
        kept, size = 0, 0
        for path in sorted(self._answers.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
            kept, size = kept + 1, size + path.stat().st_size
            if (kept > ANSWERS or size > ANSWER_BYTES) and not any(path.name == waiting.hex() for waiting in self._outbox):
                path.unlink(missing_ok=True)

    # The station

    def wants(self, announce: Announce) -> bool:
        """A question is wanted unless it is answered or being answered. Raises WireError if it is too long, or too many are open."""
        if self._path(announce.id).exists():
            self._to_be_sent(announce.id)
            return False
        if announce.id in self._open:
            return False
        if announce.total > MAX_QUESTION:
            raise WireError(f"Expected a question of at most {MAX_QUESTION} bytes, got one of {announce.total}.")
        if len(self._open) >= OPEN or sum(self._open.values()) + announce.total > self.limit:
            raise WireError(f"Expected at most {OPEN} open questions of {self.limit} bytes in all, got more.")
        return True

    def receive(self, transfer_id: bytes, data: bytes) -> None:
        """Queue a question without decoding it: its bytes come from a peer, and the memory of this process is not bounded."""
        self._open[transfer_id] = len(data)
        self._todo.put_nowait(Question(id=transfer_id, node=self._node, data=data))

    def finished(self, plan: bytes) -> None:
        """The coordinator's run of a plan is finished. It can say so of any plan, and nothing but this daemon's end depends on it."""
        took_part = (self.site.state(plan) / PLAN).exists()
        log.info(
            "%s: the run of plan %s is finished%s. %s",
            self.site.name,
            plan.hex()[:16],
            "" if took_part else ", of which this site was no part",
            "Nothing more is to be done: this daemon ends."
            if self._until_finished
            else "Dialling on, for the next run; it costs nothing to stay.",
            extra=about(event="finished", site=self.site.name, plan=plan),
        )
        if self._until_finished:
            # Nobody wants what was still to be sent.
            self._over = True
            self.stop()

    def _to_be_sent(self, message_id: bytes) -> None:
        self._outbox[message_id] = None
        self._news.set()

    async def next_transfer(self) -> Transfer:
        """The oldest answer that is still to be sent."""
        while not self._outbox:
            self._news.clear()
            await self._news.wait()
        message_id = next(iter(self._outbox))
        return Transfer(id=message_id, data=await asyncio.to_thread(self._path(message_id).read_bytes))

    def delivered(self, transfer: Transfer) -> None:
        """The coordinator has an answer."""
        self._outbox.pop(transfer.id, None)

    # Connections

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            worth_saying = False
            try:
                await self._connect()
            except RunFinished as over:
                reason, self._between_runs = str(over), True
            except Disconnected as error:
                reason = str(error)
            except (DataError, SettingError) as error:
                reason, worth_saying = str(error), True
            except WireError as error:
                reason, worth_saying = f"it broke the protocol: {error}", True
            failures = 0 if self._was_connected else failures + 1
            # Jitter, so that hundreds of sites do not all dial again at the same moment.
            pause = min(FIRST_BACKOFF * 2 ** min(failures, 10), LONGEST_BACKOFF) * random.uniform(0.5, 1.5)
            self._log_failure(reason, pause, expected=self._between_runs and not worth_saying)
            await asyncio.sleep(pause)

    def _log_failure(self, reason: str, pause: float, *, expected: bool = False) -> None:
        """That there is no connection: loudly where it is news, or was said an hour ago. expected: nobody listens between two runs."""
        now = time.monotonic()
        quiet = expected or (reason == self._said and now - self._said_at < SAID_AGAIN_SECONDS)
        log.log(
            logging.DEBUG if quiet else logging.WARNING,
            "No connection to %s: %s. Dialling again in %.1f s.",
            self.settings.address,
            reason.removesuffix("."),
            pause,
            extra=about(event="no connection", site=self.site.name, reason=reason),
        )
        if not quiet:
            self._said, self._said_at = reason, now

    async def _connect(self) -> None:
        """One connection, from dialling to its end. Raises Disconnected, WireError, DataError."""
        self._was_connected = False
        settings = self.settings
        try:
            ca, certificate, key = self._credentials()
            self._check_time(certificate)
        except OSError as error:
            raise DataError(f"Expected PEM files for TLS: {error}.") from error
        route = proxy.route(settings.address, settings.proxy)
        if route != self._route:
            self._route = route
            log.info("Dialling %s.", route)
        options: list[tuple[str, str | int]] = [*link.OPTIONS, *route.options, ("grpc.use_local_subchannel_pool", 1)]
        if settings.server_name is not None:
            options.append(("grpc.ssl_target_name_override", settings.server_name))
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        with proxy.undisturbed():
            dialled = grpc.aio.secure_channel(settings.address, credentials, options=options)
        async with dialled as channel:
            call = channel.stream_stream(link_codec.CONNECT)(metadata=((link.UNDERSTANDS, link.FINISHED),))

            async def read() -> Frame | None:
                with _explained():
                    data = await call.read()
                return None if data is grpc.aio.EOF else link_codec.decode_frame(data)

            async def write(frame: Frame) -> None:
                with _explained():
                    await call.write(link_codec.encode_frame(frame))

            try:
                async with asyncio.timeout(HELLO_SECONDS):
                    await write(link.hello())
                    greeting = await read()
            except TimeoutError:
                raise Disconnected(f"no greeting within {HELLO_SECONDS:g} s") from None
            if not isinstance(greeting, Hello) or not greeting.heartbeat_seconds:
                raise WireError("Expected the coordinator's hello first, got something else.")
            self._was_connected, self._between_runs, self._said = True, False, ""
            log.info(
                "%s is connected to %s (limbeck %s there).",
                self.site.name,
                settings.address,
                greeting.limbeck,
                extra=about(event="connected", site=self.site.name),
            )
            try:
                await Connection(self, read, write, heartbeat=greeting.heartbeat_seconds).run()
            except WireError as error:
                await link.say_why(write, error)
                raise
            finally:
                call.cancel()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raise Disconnected in place of gRPC's own errors."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        log.debug("gRPC says %s: %s", error.code().name, printable(error.details()))
        raise Disconnected(_meaning(error)) from error
    except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
        raise Disconnected("the stream has ended") from error


# What gRPC's details mean, where they have one of these words in them.
_MEANINGS = {
    "Connection refused": "nothing listens there (is the coordinator started, and is this its port?)",
    "DNS resolution failed": "its name cannot be resolved",
    "Domain name not found": "its name cannot be resolved",
    "No route to host": "there is no way to it",
    "Network is unreachable": "there is no way to it",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not good for this address and this authority; limbeck doctor says why",
    "Handshake read failed": "it ended the handshake; limbeck doctor says why",
    "Socket closed": "it is gone",
    "Connection reset by peer": "it is gone",
    "Connection timed out": "it does not answer",
}


def _meaning(error: grpc.aio.AioRpcError) -> str:
    """gRPC's error in a few words; its own, where nothing better is known."""
    details = error.details() or ""
    known = next((meaning for word, meaning in _MEANINGS.items() if word in details), None)
    return f"{error.code().name}: {printable(details)}" if known is None else known


def run(site: Site, *, until_finished: bool = False) -> None:
    """`limbeck site run`: stay on the link until told to end.

    until_finished: end too when the coordinator says that its run is finished.
    """
    _tell_start(site)

    async def main() -> None:
        await Daemon(site, until_finished=until_finished).run()

    try:
        asyncio.run(main())
    except OSError as error:
        raise LimbeckError(f"Expected to keep answers in {site.link_state}: {error}.") from error
    log.info("%s ends.", site.name, extra=about(event="ended", site=site.name))


def _tell_start(site: Site) -> None:
    """Raises LedgerError if the ledger lacks anything that the site knows was spent."""
    book = site.account.check()
    spent = 0.0 if book is None else book.spent()
    told = (
        f"epsilon = {spent:.4g}"
        if math.isfinite(spent)
        else "more than any epsilon (something without a guarantee was released)"
    )
    try:
        budget = site.budget
    except LimbeckError as error:
        # It can be mended while the site runs: it is read anew for every plan.
        log.warning("%s starts without a policy, and declines every plan until there is one: %s", site.name, error)
        return
    log.info(
        "%s starts, limbeck %s. Of its budget of %s, %s is spent.",
        site.name,
        version("limbeck"),
        budget,
        told,
        extra=about(
            event="started",
            site=site.name,
            spent=spent,
            delta=budget.delta,
            unit=budget.unit.value,
            adjacency=budget.adjacency.value,
        ),
    )
