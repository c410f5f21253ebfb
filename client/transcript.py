"""Every byte that left a site, as it left, with the ledger entry that allowed it: written before it is sent.

One JSON object per line. A line torn by a crash is of something that was not sent; it is dropped at the next write. What leaves a second
time, byte for byte, is noted again without its bytes, which an earlier line holds under the same SHA-256.

Every line also says how far the privacy ledger had come by then (its rows, and the hash of the last): a ledger that is lost, or older
than what left, shows by the last line alone.

Size is bounded by rotation and refusal, never by forgetting: a full file is closed as NAME.000001, NAME.000002 ... and the next one
begins with its name and SHA-256, so that a file changed or taken out of the middle shows. Where all files together would grow beyond
their bound, nothing is written and so nothing is sent, until the site's owner has moved the oldest files elsewhere. Only a transcript
that is made to forget, as that of refusals of plans that a site never accepted, drops its oldest file instead.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from limbeck.base.errors import TranscriptError
from limbeck.base.files import sync, sync_folder

FILE_BYTES = 64 << 20
TOTAL_BYTES = 4 << 30

# Of a ledger: how many rows it had, and the hash of the last of them.
Head = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One message. time: UTC, ISO 8601. entry: the ledger entry that allowed it, or None where it holds nothing from records.

    data: the bytes. again: whether the same bytes had left before; they are then empty here if the file that holds them was moved away.
    """

    time: str
    what: str
    plan_hash: bytes
    entry: int | None
    data: bytes
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What one line says of the ledger. line: its SHA-256. head: the ledger's by then, None in lines by limbeck 0.1."""

    line: str
    time: str
    what: str
    plan_hash: bytes
    entry: int | None
    head: Head | None


class Transcript:
    """The transcript in a file and the rotated ones beside it; made at the first write.

    file_bytes: size beyond which a file is closed. total_bytes: bound of all files together. forget: drop the oldest file at the bound,
    instead of refusing to write.
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
        """Write durably; only after that may `data` be sent. head: the ledger's as it is now, None where there is none yet.

        Raises TranscriptError where it cannot be written.
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
        """All files that there are, oldest first."""
        rotated = sorted(path for path in self._path.parent.glob(f"{self._path.name}.*") if path.suffix[1:].isdigit())
        return [*rotated, *([self._path] if self._path.exists() else [])]

    def marks(self) -> Iterator[Mark]:
        """What every line says of the ledger, in order; the bytes that left are neither kept nor checked. Raises TranscriptError."""
        for path in self.files():
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n") and (mark := _mark(line, path)) is not None:
                        yield mark

    def last(self) -> Mark | None:
        """What the last whole line says of the ledger, without reading the lines before. Raises TranscriptError."""
        for path in reversed(self.files()):
            with path.open("rb") as file:
                end = _end_of_lines(file.fileno())
                start = _end_of_lines(file.fileno(), end - 1) if end else 0
                line = os.pread(file.fileno(), end - start, start)
            if line and (mark := _mark(line, path)) is not None:
                return mark
        return None

    def __iter__(self) -> Iterator[Sent]:
        """What was sent, in order. Raises TranscriptError where a line is not as it was written, or a file is missing in between."""
        known: dict[str, bytes] = {}
        previous: Path | None = None
        moved = False
        for path in self.files():
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    try:
                        own = json.loads(line)
                        if "previous" in own:
                            moved = moved or previous is None
                            _check_previous(own, previous, path)
                            continue
                        if own.get("again"):
                            data = known.get(own["sha256"], b"") if moved else known[own["sha256"]]
                        else:
                            data = base64.b64decode(own["data"], validate=True)
                        sent = Sent(
                            time=own["time"],
                            what=own["what"],
                            plan_hash=bytes.fromhex(own["plan"]),
                            entry=own["entry"],
                            data=data,
                            again=own.get("again", False),
                        )
                    except (ValueError, KeyError, TypeError) as error:
                        raise TranscriptError(f"Expected a message in line {number} of {path}: {error!r}.") from error
                    if (data or not sent.again) and (len(data), hashlib.sha256(data).hexdigest()) != (
                        own["bytes"],
                        own["sha256"],
                    ):
                        raise TranscriptError(
                            f"Expected {own['bytes']} bytes of SHA-256 {own['sha256'][:16]} in line {number} of {path}, found others."
                        )
                    known[own["sha256"]] = data
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
            closed := [own for own in files if own != self._path]
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


def _check_previous(own: dict[str, str], previous: Path | None, path: Path) -> None:
    """The oldest files may have been moved elsewhere, so the first that is left may name one that is not here."""
    if previous is None:
        return
    found = (previous.name, hashlib.sha256(previous.read_bytes()).hexdigest())
    if found != (own["previous"], own["sha256"]):
        raise TranscriptError(
            f"Expected {own['previous']} of SHA-256 {own['sha256'][:16]} before {path}, found {found[0]}, {found[1][:16]}."
        )


def _mark(line: bytes, path: Path) -> Mark | None:
    """What a line says of the ledger; None of a file's first line, which is about the file before. Raises TranscriptError."""
    try:
        own = json.loads(line)
        if "previous" in own:
            return None
        rows_and_hash = own.get("ledger")
        return Mark(
            line=hashlib.sha256(line).hexdigest(),
            time=own["time"],
            what=own["what"],
            plan_hash=bytes.fromhex(own["plan"]),
            entry=own["entry"],
            head=(int(rows_and_hash[0]), str(rows_and_hash[1])) if rows_and_hash is not None else None,
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TranscriptError(f"Expected a message in a line of {path}: {error!r}.") from error


def _end_of_lines(descriptor: int, size: int | None = None) -> int:
    """Where the last whole line among the first `size` bytes of a file ends; 0 where there is none."""
    end = os.fstat(descriptor).st_size if size is None else size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        block = os.pread(descriptor, min(end, 1 << 16), max(0, end - (1 << 16)))
        newline = block.rfind(b"\n")
        end = max(0, end - (1 << 16)) + newline + 1 if newline >= 0 else max(0, end - (1 << 16))
    return end


def _drop_torn_line(descriptor: int) -> None:
    if (end := _end_of_lines(descriptor)) < os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, end)
