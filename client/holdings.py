"""What a site holds: its private records, and the public inputs that plans are about."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.progress import Progress
from limbeck.client import records
from limbeck.client.records import Found, RecordSettings
from limbeck.inputs import encoders
from limbeck.inputs.transfer_set import LARGEST, LARGEST_INPUT, digest, read_arrays, read_headers
from limbeck.plans.schema import InputKind


@dataclass(frozen=True, slots=True)
class Records:
    """The private records. folder: the site's, to which the paths in the settings are relative."""

    settings: RecordSettings
    folder: Path

    def check_encoding(self, sha256: bytes | None) -> None:
        """Raise DataError unless the records are, or can be, encoded as a plan says; reads no record.

        sha256: of the encoding's file; None if the plan names none. If the encoding names a public encoder, the site's has to be that one.
        """
        encoding, encoded_by = self.settings.encoding, "none"
        if encoding is not None:
            try:
                encoded_by = hashlib.sha256((self.folder / encoding).read_bytes()).hexdigest()
            except OSError as error:
                raise DataError(f"records.encoding: expected a public encoding at {encoding}: {error}.") from error
        wanted = sha256.hex() if sha256 is not None else "none"
        if encoded_by != wanted:
            raise DataError(
                f"records.encoding: expected the encoding of the plan, SHA-256 {wanted}, got {encoding}, SHA-256 {encoded_by}."
            )
        encoder = records.public_encoder(self.settings, self.folder)
        if encoder is not None:
            encoders.open_encoder(encoder, self.settings.encoder, self.folder)

    def encode(self, progress: Progress) -> int:
        """Put the records through the public encoder ahead of any plan, and keep the rows; how many. Raises DataError or SettingError."""
        return records.encode(self.settings, self.folder, progress)

    def check(self, classes: int, public_x: NDArray[np.generic], class_names: Sequence[str] = ()) -> None:
        """Raise DataError if a plan about these public inputs could not be trained for, as far as that shows without reading a record.

        class_names: the plan's names of its classes, or ().
        """
        try:
            records.check(self.settings, self.folder, classes, public_x, class_names=class_names)
        except SettingError as error:
            raise DataError(str(error)) from error

    def find(
        self,
        classes: int,
        public_x: NDArray[np.generic],
        class_names: Sequence[str] = (),
        kind: InputKind | None = None,
    ) -> Found:
        """The records, and what of them is left out, with nothing said in the log. Raises DataError.

        - class_names: the plan's names of its classes, or ().
        - kind: what the plan says that its public inputs are, if it says so.
        """
        try:
            return records.find(self.settings, self.folder, classes, public_x, class_names=class_names, kind=kind)
        except SettingError as error:
            raise DataError(str(error)) from error

    def read(
        self,
        classes: int,
        public_x: NDArray[np.generic],
        class_names: Sequence[str] = (),
        kind: InputKind | None = None,
    ) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Inputs (n, ...), of the type of the public inputs, and labels (n,); the log says what was left out. As `find`."""
        try:
            return records.read(self.settings, self.folder, classes, public_x, class_names=class_names, kind=kind)
        except SettingError as error:
            raise DataError(str(error)) from error


@dataclass(frozen=True, slots=True)
class TransferSets:
    """Public inputs, in a folder of files HASH.npz."""

    folder: Path

    def read(self, sha256: bytes, samples: int) -> NDArray[np.generic]:
        """The public inputs with this hash, of which there are `samples`. Raises DataError if the site does not hold them."""
        return _read_transfer_set((self.folder / f"{sha256.hex()}.npz").resolve(), sha256, samples)


@lru_cache(maxsize=4)
def _read_transfer_set(path: Path, sha256: bytes, samples: int) -> NDArray[np.generic]:
    """Read and hashed once per process: it is named by its hash, so it cannot change under its name. Its size is known beforehand."""
    largest = min(LARGEST, samples * LARGEST_INPUT)
    (header,) = read_headers(path, "x", largest=largest)
    if header.shape[:1] != (samples,):
        raise DataError(f"Expected {samples} public inputs in {path}, found shape {header.shape}.")
    (x_N,) = read_arrays(path, "x", largest=largest)
    actual = digest(x_N)
    if actual != sha256:
        raise DataError(f"Expected SHA-256 {sha256.hex()} of the inputs in {path}, got {actual.hex()}.")
    return x_N
