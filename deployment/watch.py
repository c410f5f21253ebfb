"""`limbeck watch`: a run's status as a live page, on this machine only.

It reads a run's folder, asks the SuperLink that carries the run if one does, answers GET and nothing else, and listens on 127.0.0.1 and
nowhere else. Another site open in the same browser learns nothing from it: requests under another host's name (DNS rebinding) are
refused, and no answer may be read across origins. Names come from peers: they are escaped, and the content security policy allows no
script or style but the two files served here. `/metrics` has the same for a monitor on this machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from limbeck.base.errors import LimbeckError, RunError, SettingError
from limbeck.base.printable import printable
from limbeck.deployment import prometheus, status
from limbeck.deployment.bringup import TEMPLATES
from limbeck.deployment.defaults import WATCH_PORT
from limbeck.deployment.status import StageStatus, Status
from limbeck.deployment.superlink_status import Asker
from limbeck.deployment.tested import TestData
from limbeck.protos.messages import Guarantee
from limbeck.server.scores import ClassScores
from limbeck.server.states import RunState, SiteState

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
# For a whole request to come, and for an answer to be taken; bytes of a request, which has no body.
REQUEST_SECONDS = 10.0
REQUEST_BYTES = 16 << 10
# At once. Where all are taken, the one that has said nothing for longest makes room.
CONNECTIONS = 64
# After so long without news it is said: answers may take hours, but somebody may want to look.
QUIET_SECONDS = 300
SITES_SHOWN = 500
CLASSES_SHOWN = 50
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Which look a state has; any other looks like the first.
LOOKS = {
    SiteState.ANSWERED: "good",
    SiteState.DECLINED: "warn",
    SiteState.LEFT_OUT: "bad",
    SiteState.LOST: "bad",
    SiteState.ABSENT: "warn",
}
# The states of sites that nobody has to look into.
IN = {SiteState.ANSWERED, SiteState.JOINED}
NODE_LOOKS = {"online": "good", "offline": "bad", "registered": "warn"}
RUN_LOOKS = {RunState.RUNNING: "live", RunState.FINISHED: "good", RunState.PAUSED: "warn", RunState.STOPPED: "bad"}

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"size": status.size, "clock": status.clock, "duration": status.duration}


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and never more than there may be: whoever can reach this machine's loopback can open one."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        # Connections, and since when each is waited for; those that are being answered last.
        self._waiting: dict[socket.socket, float] = {}
        # One at a time: many that ask at once get no more of this machine than one.
        self.rendering = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A new connection, in the place of another if need be."""
        with self._lock:
            if len(self._waiting) >= CONNECTIONS:
                longest = min(self._waiting, key=lambda connection: self._waiting[connection])
                del self._waiting[longest]
                with contextlib.suppress(OSError):
                    longest.shutdown(socket.SHUT_RDWR)
            self._waiting[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection ends."""
        with self._lock:
            self._waiting.pop(request, None)
        super().shutdown_request(request)

    def waits_for(self, request: socket.socket, since: float) -> None:
        """A connection has been waited for since then; infinity: it is not."""
        with self._lock:
            if request in self._waiting:
                self._waiting[request] = since

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was broken is nothing to fill a terminal with."""
        log.debug("A connection ended in an error.", exc_info=True)


class _Patience(io.RawIOBase):
    """What comes over a connection, as long as a request may take and no longer than it may be."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.begin()

    def begin(self) -> None:
        """A request begins."""
        self._until, self._left = time.monotonic() + REQUEST_SECONDS, REQUEST_BYTES

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As a socket's. Raises TimeoutError, on which the connection is closed."""
        seconds = self._until - time.monotonic()
        if seconds <= 0 or self._left <= 0:
            raise TimeoutError("a request took too long, or was too long")
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


def serve(folder: Path, *, port: int = WATCH_PORT, test: TestData | None = None) -> ThreadingHTTPServer:
    """A server that is bound to 127.0.0.1 and answers once its `serve_forever` is called. port 0: any that is free. Raises SettingError."""
    handler = type("Handler", (_Handler,), {"folder": folder, "test": test, "asker": Asker()})
    try:
        return _Server((ADDRESS, port), handler)
    except (OSError, OverflowError) as error:
        raise SettingError(f"Expected a free port, got {port}: {error}. Give another by --port.") from error


def page(folder: Path, test: TestData | None = None, asker: Asker | None = None, *, now: float) -> str:
    """The whole page."""
    return _templates.get_template("watch.html.j2").render(main=Markup(fragment(folder, test, asker, now=now)))


def fragment(folder: Path, test: TestData | None = None, asker: Asker | None = None, *, now: float) -> str:
    """The part that changes. An error in reading the run is shown, not raised: the run may be about to begin."""
    try:
        run = _read(folder, test, asker)
    except LimbeckError as error:
        return _templates.get_template("watch-error.html.j2").render(error=str(error))
    counts = run.counts
    replied = counts.get(SiteState.ANSWERED, 0)
    return _templates.get_template("watch-now.html.j2").render(
        s=run,
        now=now,
        look=RUN_LOOKS.get(run.state, ""),
        looks=LOOKS,
        node_looks=NODE_LOOKS,
        without=(Guarantee.NONE, Guarantee.SEEDED),
        quiet=run.state is RunState.RUNNING and run.newest is not None and now - run.newest > QUIET_SECONDS,
        replied=replied,
        share=Markup(_shares(run)),
        chart=Markup(_chart(run)),
        traffic=Markup(_traffic(run.stages)),
        measured=any(stage.scores is not None for stage in run.stages),
        main=_MAIN[run.tested.majority.main] if run.tested is not None else "",
        classes=_rarest(run),
        nodes=run.superlink.nodes[:SITES_SHOWN] if run.superlink is not None else (),
        clients=sorted(run.clients, key=lambda client: (client.state in IN, client.name))[:SITES_SHOWN],
    )


def _rarest(run: Status) -> list[ClassScores]:
    """The classes of the last student that was measured, the rarest first, as many as are shown."""
    last = next((stage.scores for stage in reversed(run.stages) if stage.scores is not None), None)
    return [] if last is None else sorted(last.classes, key=lambda own: own.inputs)[:CLASSES_SHOWN]


def _read(folder: Path, test: TestData | None, asker: Asker | None) -> Status:
    run = status.locate(folder)
    return status.read(run, test, asker.latest(run) if asker is not None else None)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    folder: Path
    test: TestData | None
    asker: Asker
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "limbeck", ""

    def setup(self) -> None:
        """The connection's ends as files."""
        super().setup()
        self._patience = _Patience(self.connection)
        self.rfile = io.BufferedReader(self._patience)

    def handle_one_request(self) -> None:
        """One request of several."""
        self._patience.begin()
        self.server.waits_for(self.connection, time.monotonic())
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Up to the end of its header."""
        whole = super().parse_request()
        self.server.waits_for(self.connection, math.inf)
        self.connection.settimeout(REQUEST_SECONDS)
        return whole

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in {f"{ADDRESS}:{port}", f"localhost:{port}"}:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", "This page is only for this machine.\n")
            return
        match self.path:
            case "/":
                self._html(page)
            case "/now":
                self._html(fragment)
            case "/status.json":
                self._json()
            case "/metrics":
                self._metrics()
            case "/watch.css":
                self._answer(HTTPStatus.OK, "text/css", (TEMPLATES / "watch.css").read_text(encoding="utf-8"))
            case "/watch.js":
                self._answer(HTTPStatus.OK, "text/javascript", (TEMPLATES / "watch.js").read_text(encoding="utf-8"))
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "There is no such page.\n")

    def _refuse(self) -> None:
        # What a body would hold is not read, and so no next request on this connection either.
        self.close_connection = True
        self._answer(
            HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", "This page is only read.\n", Allow="GET", Connection="close"
        )

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _html(self, render: Callable[..., str]) -> None:
        with self.server.rendering:
            text = render(self.folder, self.test, self.asker, now=time.time())
        self._answer(HTTPStatus.OK, "text/html", text)

    def _json(self) -> None:
        try:
            with self.server.rendering:
                answer = status.to_json(_read(self.folder, self.test, self.asker))
        except LimbeckError as error:
            self._answer(HTTPStatus.NOT_FOUND, "application/json", json.dumps({"error": str(error)}))
            return
        self._answer(HTTPStatus.OK, "application/json", json.dumps(answer, indent=1))

    def _metrics(self) -> None:
        try:
            with self.server.rendering:
                text = prometheus.metrics(self._run_if_any())
        except LimbeckError as error:
            # A monitor then says that there is no answer, instead of showing what was before.
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n")
            return
        self._answer(HTTPStatus.OK, prometheus.CONTENT_TYPE, text)

    def _run_if_any(self) -> Status | None:
        try:
            folder = status.locate(self.folder)
        except RunError:
            return None
        return status.read(folder, self.test, self.asker.latest(folder))

    def _answer(self, code: HTTPStatus, kind: str, text: str, **more: str) -> None:
        data = text.encode()
        self.send_response(code)
        for name, value in {**HEADERS, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *values: object) -> None:
        log.debug("%s", printable(format % values))


# Pictures: numbers only, so nothing has to be escaped. Colours and fonts are the style sheet's.


def _shares(run: Status) -> str:
    """Sites by state, as parts of one bar."""
    parts = []
    at, total = 0.0, max(1, len(run.clients))
    for look in ("good", "warn", "bad", ""):
        count = sum(LOOKS.get(client.state, "") == look for client in run.clients)
        width = 100 * count / total
        if count:
            parts.append(f'<rect class="fill {look}" x="{at:.2f}" y="0" width="{width:.2f}" height="6"/>')
        at += width
    return f'<svg class="shares" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'


_MAIN = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
Scale = Callable[[float], float]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 190, 58, 18, 20, 28


def _chart(run: Status) -> str:
    """The student along its path: the main measure in per cent, above a line for the majority class, if it was measured; else the loss."""
    stages, majority, main = run.stages, 0.0, "accuracy"
    if run.tested is not None:
        main = run.tested.majority.main
        majority = 100 * (run.tested.majority.figures[main] or 0.0)
    accuracies = [(stage.number, 100 * (stage.scores.figures[main] or 0.0)) for stage in stages if stage.scores is not None]
    points = accuracies or [(stage.number, stage.loss) for stage in stages if stage.loss is not None]
    if not points:
        return ""
    values = [value for _, value in points] + ([majority] if accuracies else [])
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or max(abs(high) * 0.05, 0.05)
    low, high = low - margin, high + margin
    if accuracies:
        low, high = max(0.0, low), min(100.0, high)
    last = max(number for number, _ in points)

    def x(number: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((number - 1) / (last - 1) if last > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [_grid(low, high, y), _stage_numbers([number for number, _ in points], x)]
    if accuracies:
        parts.append(
            f'<line class="majority" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(majority):.1f}" y2="{y(majority):.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{LEFT + 4}" y="{y(majority) - 4:.1f}">majority class {majority:.1f}</text>')
    line = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    parts += [f'<circle class="dot" cx="{x(number):.1f}" cy="{y(value):.1f}" r="3.5"/>' for number, value in points]
    number, value = points[-1]
    # Beside the line, not on it: below where it falls, above where it rises.
    aside = 18 if len(points) > 1 and value < points[-2][1] else -9
    text = f"{value:.{1 if accuracies else 3}f}"
    parts.append(f'<text class="value" x="{min(x(number), WIDTH - 24):.1f}" y="{y(value) + aside:.1f}">{text}</text>')
    what = (
        f"{_MAIN[main].capitalize()} per stage, per cent; of the majority class {majority:.1f}"
        if accuracies
        else "Loss at the end of each stage"
    )
    return _picture(what, parts)


def _traffic(stages: tuple[StageStatus, ...]) -> str:
    """Bytes from all sites, stage by stage."""
    if not stages:
        return ""
    high = max(1, *(stage.bytes_up for stage in stages))
    slot = (WIDTH - LEFT - RIGHT) / len(stages)

    def x(number: float) -> float:
        return LEFT + slot * (number - 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / high)

    width = min(34.0, slot * 0.7)
    bars = [
        f'<rect class="bar" x="{x(stage.number) - width / 2:.1f}" y="{y(stage.bytes_up):.1f}" width="{width:.1f}"'
        f' height="{HEIGHT - BOTTOM - y(stage.bytes_up):.1f}" rx="2"/>'
        for stage in stages
    ]
    grid = _grid(0, high, y, label=status.size)
    return _picture("Bytes from all sites per stage", [grid, _stage_numbers([stage.number for stage in stages], x), *bars])


def _grid(low: float, high: float, y: Scale, label: Callable[[float], str] | None = None) -> str:
    lines = []
    for step in range(4):
        value = low + (high - low) * step / 3
        text = label(value) if label else f"{value:.1f}" if high >= 10 else f"{value:.2f}"
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        lines.append(f'<text class="tick end" x="{LEFT - 6}" y="{y(value) + 3.5:.1f}">{text}</text>')
    return "".join(lines)


def _stage_numbers(numbers: list[int], x: Scale) -> str:
    every = max(1, len(numbers) // 10)
    return "".join(
        f'<text class="tick middle" x="{x(number):.1f}" y="{HEIGHT - 9}">{number}</text>'
        for index, number in enumerate(numbers)
        if index % every == 0
    )


def _picture(what: str, parts: list[str]) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{what}">{"".join(parts)}</svg>'
