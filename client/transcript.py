"""Every byte that left a site, with the ledger entry that allowed it: written before it is sent.

One JSON object per line. A line torn by a crash belongs to something that was not sent; it is dropped at the next write. What leaves a
second time, byte for byte, is noted again without its bytes, which an earlier line holds under the same SHA-256.

Every line also says how far the privacy ledger had come by then (its rows, and the hash of the last): the last line alone reveals a
ledger that is lost, or older than what left.

Size is limited by rotation and refusal, never by forgetting: a full file is closed as NAME.000001, NAME.000002 ... and the next one
begins with its name and SHA-256, so that a file changed or removed from the middle is detected. If all files together would exceed
their limit, nothing is written and so nothing is sent, until the site's owner has moved the oldest files elsewhere. Only a transcript
that is set to forget, as for refusals of plans that a site never accepted, drops its oldest file instead.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from limbeck.base.errors import TranscriptError
from limbeck.base.files import sync, sync_folder

FILE_BYTES = 64 << 20
TOTAL_BYTES = 4 << 30

# The state of a ledger: how many rows it had, and the hash of the last.
Head = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One message.

    time: UTC, ISO 8601.
    what: the kind of message.
    entry: the ledger entry that allowed it, or None if it contains nothing derived from records.
    data: the bytes; empty if `again` and the file that holds them was moved away.
    again: whether the same bytes had left before.
    """

    time: str
    what: str
    plan_hash: bytes
    entry: int | None
    data: bytes
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What one line says about the ledger. line: its SHA-256. head: the ledger's head by then, None in lines by limbeck 0.1."""

    line: str
    time: str
    what: str
    plan_hash: bytes
    entry: int | None
    head: Head | None


class Transcript:
    """The transcript in a file and the rotated ones beside it; created at the first write.

    file_bytes: the size beyond which a file is closed.
    total_bytes: the limit for all files together.
    forget: at the limit, drop the oldest file instead of refusing to write.
    """

    def __init__(
        self, path: Path, *, file_bytes: int = FILE_BYTES, total_bytes: int = TOTAL_BYTES, forget: bool = False
    ) -> None:
        self._path, self._file_bytes, self._total_bytes, self._forget = path, file_bytes, total_bytes, forget

    def append(
        self,
        what: str,
        plan_hash: bytes,
        entry: int | None,
        data: bytes,
        *,
        again: bool = False,
        head: Head | None = None,
    ) -> None:
        """Write a message durably; only after that may `data` be sent.

        what: the kind of message.
        entry: the ledger entry that allows it, or None if it contains nothing derived from records.
        again: whether the same bytes left before; they are then not written again.
        head: the ledger's head now, None if there is no ledger yet.

        Raises: TranscriptError if it cannot be written.
        """
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "what": what,
            "plan": plan_hash.hex(),
            "entry": entry,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if head is not None:
            line["ledger"] = list(head)
        if again:
            line["again"] = True
        else:
            line["data"] = base64.b64encode(data).decode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(self._path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise TranscriptError(f"Expected to write to the transcript {self._path}: {error}.") from error

    def files(self) -> list[Path]:
        """All existing files, oldest first."""
        rotated = sorted(path for path in self._path.parent.glob(f"{self._path.name}.*") if path.suffix[1:].isdigit())
        return [*rotated, *([self._path] if self._path.exists() else [])]

    def copy_to(self, folder: Path) -> list[Path]:
        """Copy all files to a folder as they are at one moment, up to the last whole line; writers wait only while the files are opened."""
        if not self.files():
            return []
        copies = []
        with ExitStack() as stack:
            with self._path.with_name(self._path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                opened = [(path.name, stack.enter_context(path.open("rb"))) for path in self.files()]
                sizes = [_end_of_lines(file.fileno()) for _, file in opened]
            # Files only grow, or get another name: what was read is still there.
            for (name, file), size in zip(opened, sizes, strict=True):
                copies.append(folder / name)
                with (folder / name).open("xb") as copy:
                    left = size
                    while left and (block := file.read(min(left, 1 << 20))):
                        copy.write(block)
                        left -= len(block)
                    copy.flush()
                    sync(copy.fileno())
        return copies

    def marks(self) -> Iterator[Mark]:
        """What every line says about the ledger, in order; the bytes that left are neither kept nor checked. Raises TranscriptError."""
        for path in self.files():
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n") and (mark := _mark(line, path)) is not None:
                        yield mark

    def last(self) -> Mark | None:
        """What the last whole line says about the ledger, without reading the lines before. Raises TranscriptError."""
        for path in reversed(self.files()):
            with path.open("rb") as file:
                end = _end_of_lines(file.fileno())
                start = _end_of_lines(file.fileno(), end - 1) if end else 0
                line = os.pread(file.fileno(), end - start, start)
            if line and (mark := _mark(line, path)) is not None:
                return mark
        return None

    def __iter__(self) -> Iterator[Sent]:
        """What was sent, in order. Raises TranscriptError if a line was changed, or a file in between is missing."""
        known: dict[str, bytes] = {}
        previous: Path | None = None
        moved = False
        for path in self.files():
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    try:
                        message = json.loads(line)
                        if "previous" in message:
                            moved = moved or previous is None
                            _check_previous(message, previous, path)
                            continue
                        if message.get("again"):
                            data = known.get(message["sha256"], b"") if moved else known[message["sha256"]]
                        else:
                            data = base64.b64decode(message["data"], validate=True)
                        sent = Sent(
                            time=message["time"],
                            what=message["what"],
                            plan_hash=bytes.fromhex(message["plan"]),
                            entry=message["entry"],
                            data=data,
                            again=message.get("again", False),
                        )
                    except (ValueError, KeyError, TypeError) as error:
                        raise TranscriptError(f"Expected a message in line {number} of {path}: {error!r}.") from error
                    if (data or not sent.again) and (len(data), hashlib.sha256(data).hexdigest()) != (
                        message["bytes"],
                        message["sha256"],
                    ):
                        raise TranscriptError(
                            f"Expected {message['bytes']} bytes of SHA-256 {message['sha256'][:16]} in line {number} of {path},"
                            " found others."
                        )
                    known[message["sha256"]] = data
                    yield sent
            previous = path

    def _write(self, line: bytes) -> None:
        if self._path.exists():
            with self._path.open("r+b") as file:
                _drop_torn_line(file.fileno())
                size = os.fstat(file.fileno()).st_size
            if size and size + len(line) > self._file_bytes:
                self._rotate()
        files = self.files()
        if not (self._path.exists() and self._path.stat().st_size) and (
            closed := [each for each in files if each != self._path]
        ):
            digest = hashlib.sha256(closed[-1].read_bytes()).hexdigest()
            line = json.dumps({"previous": closed[-1].name, "sha256": digest}).encode() + b"\n" + line
        total = sum(path.stat().st_size for path in files) + len(line)
        while self._forget and total > self._total_bytes and len(files) > 1:
            total -= files[0].stat().st_size
            files.pop(0).unlink()
        if total > self._total_bytes:
            raise TranscriptError(
                f"Expected the transcript {self._path} within {self._total_bytes} bytes, got {total} with this message, which is not sent:"
                f" move {files[0].name} elsewhere."
            )
        new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            sync(file.fileno())
        if new:
            sync_folder(self._path.parent)

    def _rotate(self) -> None:
        closed = [int(path.suffix[1:]) for path in self.files() if path != self._path]
        self._path.rename(self._path.with_name(f"{self._path.name}.{max(closed, default=0) + 1:06}"))
        sync_folder(self._path.parent)


def _check_previous(link: dict[str, str], previous: Path | None, path: Path) -> None:
    """Compare a file's first line with the file before it.

    The oldest files may have been moved elsewhere, so the first remaining one may name a file that is not here.
    """
    if previous is None:
        return
    digest = hashlib.sha256(previous.read_bytes()).hexdigest()
    if (previous.name, digest) != (link["previous"], link["sha256"]):
        raise TranscriptError(
            f"Expected {link['previous']} of SHA-256 {link['sha256'][:16]} before {path}, found {previous.name}, {digest[:16]}."
        )


def _mark(line: bytes, path: Path) -> Mark | None:
    """What a line says about the ledger; None for a file's first line, which is about the file before. Raises TranscriptError."""
    try:
        message = json.loads(line)
        if "previous" in message:
            return None
        rows_and_hash = message.get("ledger")
        return Mark(
            line=hashlib.sha256(line).hexdigest(),
            time=message["time"],
            what=message["what"],
            plan_hash=bytes.fromhex(message["plan"]),
            entry=message["entry"],
            head=(int(rows_and_hash[0]), str(rows_and_hash[1])) if rows_and_hash is not None else None,
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TranscriptError(f"Expected a message in a line of {path}: {error!r}.") from error


def _end_of_lines(descriptor: int, size: int | None = None) -> int:
    """The offset at which the last whole line among the first `size` bytes of a file ends; 0 if there is none."""
    end = os.fstat(descriptor).st_size if size is None else size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        block = os.pread(descriptor, min(end, 1 << 16), max(0, end - (1 << 16)))
        newline = block.rfind(b"\n")
        end = max(0, end - (1 << 16)) + newline + 1 if newline >= 0 else max(0, end - (1 << 16))
    return end


def _drop_torn_line(descriptor: int) -> None:
    if (end := _end_of_lines(descriptor)) < os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, end)
