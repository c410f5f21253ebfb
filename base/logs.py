"""How a process logs: one entry is one line with its time in UTC, as text or as JSON, on standard error; nothing is wrapped.

`begin` is called once by a command, and by each process that it starts; other modules only ever use `logging`. `about` attaches what an
entry is about as data (plan, site, stage, epsilon ...), which JSON shows as fields of their own.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from rich.text import Text

from limbeck.base.printable import plain_console, printable

ROOT = "limbeck"
# The name under which a record carries what it is about.
_ABOUT = "about"
_STYLES = {"DEBUG": "dim", "INFO": "cyan", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}

Value = str | int | float


class LogFormat(StrEnum):
    """How entries are written: for people, or one JSON object per line."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important entries that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """The log of a process.

    level: of limbeck's own entries; those of libraries are written from `warning` on.
    daemon: whether the process runs on its own, so that every entry needs its time.
    """

    format: LogFormat = LogFormat.TEXT
    level: LogLevel = LogLevel.WARNING
    daemon: bool = False


def about(
    *,
    event: str | None = None,
    plan: bytes | str | None = None,
    site: str | None = None,
    stage: int | None = None,
    stages: int | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    unit: str | None = None,
    adjacency: str | None = None,
    spent: float | None = None,
    entry: int | None = None,
    reason: str | None = None,
    done: int | None = None,
    total: int | None = None,
    size: int | None = None,
) -> dict[str, object]:
    """What an entry is about, to be given as `extra`.

    - event: what happened, in one of a few words that do not change.
    - plan: its hash. stage: counted from 1, of `stages`.
    - epsilon: what the plan costs, at delta, per unit, under this neighbouring relation. spent: epsilon in all.
    - entry: of the ledger. reason: why, for the log alone.
    - done: parts out of `total`. size: in bytes.
    """
    values = {name: value for name, value in locals().items() if value is not None}
    if isinstance(plan, bytes):
        values["plan"] = plan.hex()
    return {_ABOUT: values}


def begin(logs: Logs) -> None:
    """Log like this from now on, instead of as before. Handlers of others stay."""
    root = logging.getLogger()
    for handler in _own_handlers():
        root.removeHandler(handler)
    root.addHandler(_ToStandardError(logs))
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(logs.level.upper())
    # Flower has a handler of its own, with a layout of its own.
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.propagate = True
    flower.setLevel(logging.ERROR)


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context nothing of limbeck's own below `critical` is logged: what there is to say is said otherwise."""
    logger = logging.getLogger(ROOT)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def begin_daemon(log_format: LogFormat, level: LogLevel) -> None:
    """Log as a command that runs on its own is told by its options."""
    begin(Logs(format=log_format, level=level, daemon=True))


def current() -> Logs | None:
    """How this process logs, for processes that it starts; None if nobody has said."""
    return next((handler.logs for handler in _own_handlers()), None)


def _own_handlers() -> list[_ToStandardError]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _ToStandardError)]


def time_of(record: logging.LogRecord) -> str:
    """When an entry was made: UTC, ISO 8601, milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _ToStandardError(logging.Handler):
    """Writes to whatever standard error is at that moment; in colour at a terminal."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self.logs = logs
        self._console = plain_console(stderr=True)
        self.setFormatter(_Json() if logs.format is LogFormat.JSON else _Lines(daemon=logs.daemon))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self.logs.format is LogFormat.TEXT and self._console.is_terminal:
                self._console.print(_coloured(line, record), soft_wrap=True)
            else:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
        except Exception:  # as logging's own handlers: an entry that cannot be written ends nothing
            self.handleError(record)


class _Lines(logging.Formatter):
    """Time, level, message. Its further lines, such as a traceback, are indented (`limbeck.base.printable`)."""

    def __init__(self, *, daemon: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s" if daemon else "%(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - as logging names it
        """The time, as `time_of` writes it."""
        return time_of(record)


class _Json(logging.Formatter):
    """One JSON object per line, in ASCII: no text in it can end the line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, object] = {
            "time": time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        attached = getattr(record, _ABOUT, None)
        if isinstance(attached, dict):
            fields |= {name: _plain(value) for name, value in attached.items() if name not in fields}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["exception"] = record.exc_text
        return json.dumps(fields, allow_nan=False)


def _plain(value: object) -> Value | None:
    """JSON has no infinity, and no text in it is longer than one in a line."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case int():
            return value
        case _:
            return printable(value)


def _coloured(line: str, record: logging.LogRecord) -> Text:
    text = Text(line)
    start = line.find(record.levelname)
    text.stylize("dim", 0, max(0, start))
    text.stylize(_STYLES.get(record.levelname, ""), start, start + len(record.levelname))
    return text
