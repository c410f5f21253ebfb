"""Frozen public encoders: models trained elsewhere, on public data, that turn a text or an image into a row and are not trained here.

The public encoding (`limbeck.inputs.encodings`: `EncoderEncoding`, `ImageEncoding`) names the model's files by their SHA-256, and the rows
that it gave for fixed texts or images. A site holds the model itself: for texts a folder as written by Hugging Face's libraries, for images
one with an ONNX file, or a function of the site's own. Whether it is the right one is checked before a record is read. Nothing is ever
fetched.

Every text and every image goes through the model alone. In a batch, padding and the blocks of a matrix product would let one record change
the last bits of another's row; alone, and by one thread, a row is a function of its record, so one additional record changes one row [D].
For texts as long as reviews this takes no longer on a CPU.

Rows are cached in a folder of the site's own, so that an interrupted run continues where it was, and the next has nothing to do.

Shape legend: N texts or images, H and W height and width, D numbers per row.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import create_private_folder
from limbeck.base.progress import Progress
from limbeck.base.references import load_function
from limbeck.inputs.encodings import (
    ENCODER_FILES,
    IMAGE_ENCODER_FILES,
    PROBES,
    EncoderEncoding,
    ImageEncoding,
    probe_images,
)
from limbeck.inputs.sessions import open_session

if TYPE_CHECKING:
    from limbeck.inputs.sessions import InferenceSession

log = logging.getLogger(__name__)

FILES, IMAGE_FILES = ENCODER_FILES, IMAGE_ENCODER_FILES
# Height and width of images for an encoder that takes any.
USUAL_SIZE = (128, 128)
# Rows have norm 1. Versions of libraries and processors differ by about 1e-6, other weights or tokens by far more.
TOLERANCE = 1e-3
# Decimals of the rows in an encoding.
DECIMALS = 4
# Texts between two writes to the cache.
BATCH = 32
BUSY_SECONDS = 120.0

Row = NDArray[np.float32]
Image = NDArray[np.uint8]
Encoder = Callable[[str], Row]
ImageEncoder = Callable[[Image], Row]
Item = TypeVar("Item", str, Image)


def describe(reference: str, folder: Path, *, column: str, name: str, tokens: int = 128) -> EncoderEncoding:
    """The public encoding of a column of texts by the encoder that `reference` names, as `open_encoder` reads it.

    name: what messages call the model where it is missing.
    tokens: the length to which a text is cut.

    Raises: DataError or SettingError.
    """
    path = folder / reference
    files = {file: _sha256(path / file) for file in FILES} if path.is_dir() else {}
    encoder = _loaded(reference, folder, tuple(files.items()), tokens)
    probe = np.stack([encoder(text) for text in PROBES]).round(DECIMALS).tolist()
    return EncoderEncoding(column=column, model=name, files=files, tokens=tokens, probe=tuple(map(tuple, probe)))


def describe_images(reference: str, folder: Path, *, name: str, size: tuple[int, int] | None = None) -> ImageEncoding:
    """The public encoding of images by the encoder that `reference` names, as `open_encoder` reads it.

    name: what messages call the model where it is missing.
    size: height and width to which images are scaled; by default those that the model's file asks for, or 128 x 128 where it takes any.

    Raises: DataError or SettingError.
    """
    path = folder / reference
    files = {file: _sha256(path / file) for file in IMAGE_FILES} if path.is_dir() else {}
    encoder = _loaded_images(reference, folder, tuple(files.items()))
    size = size or (fixed_size(path) if path.is_dir() else None) or USUAL_SIZE
    probe = np.stack([encoder(image) for image in probe_images(size)]).round(DECIMALS).tolist()
    return ImageEncoding(model=name, files=files, size=size, probe=tuple(map(tuple, probe)))


def fixed_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the images that the model in a folder takes; None if it takes any. Raises DataError."""
    _, height, width, _ = _session(path).get_inputs()[0].shape
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


@overload
def open_encoder(encoding: EncoderEncoding, reference: str | None, folder: Path) -> Encoder: ...


@overload
def open_encoder(encoding: ImageEncoding, reference: str | None, folder: Path) -> ImageEncoder: ...


def open_encoder(encoding: EncoderEncoding | ImageEncoding, reference: str | None, folder: Path) -> Encoder | ImageEncoder:
    """The site's encoder, checked to be the one that `encoding` names; reads no record.

    reference: records.encoder of the site's settings: the folder of a Hugging Face model or of an ONNX model, or "module:factory", a
        function without arguments that returns a function from a text, or from an image (H, W, 3) of bytes, to its row (D,).
    folder: the site's folder.

    Raises: DataError naming what is missing or differs.
    """
    reference = check_files(encoding, reference, folder)
    files = tuple(encoding.files.items())
    try:
        if isinstance(encoding, EncoderEncoding):
            encoder = _loaded(reference, folder, files, encoding.tokens)
            for text, row in zip(PROBES, encoding.probe, strict=True):
                _check_probe(_one(encoder, text, len(row)), row, encoding.model, reference, f"that of {text[:40]!r}")
            return encoder
        of_images = _loaded_images(reference, folder, files)
    except SettingError as error:
        raise DataError(f"records.encoder: {error}") from error
    for place, (image, row) in enumerate(zip(probe_images(encoding.size), encoding.probe, strict=True), start=1):
        _check_probe(_one(of_images, image, len(row)), row, encoding.model, reference, f"that of test image {place}")
    return of_images


def _check_probe(encoded_D: Row, row: Sequence[float], model: str, reference: str, what: str) -> None:
    if not np.abs(encoded_D - np.array(row)).max() <= TOLERANCE:
        raise DataError(
            f"Expected the rows of {model} from {reference}, got others: {what} differs by more than {TOLERANCE:g}."
        )


def check_files(encoding: EncoderEncoding | ImageEncoding, reference: str | None, folder: Path) -> str:
    """The reference, after a check that its folder holds the right files; loads no model, runs no code. Raises DataError."""
    if reference is None:
        raise DataError(f"Expected records.encoder to name {encoding.model}, its folder or 'module:factory', got none.")
    path = folder / reference
    if path.is_dir():
        for file, sha256 in encoding.files.items():
            if (actual := _sha256(path / file)) != sha256:
                raise DataError(f"Expected SHA-256 {sha256} of {path / file}, a file of {encoding.model}, got {actual}.")
    elif ":" not in reference:
        raise DataError(f"Expected the encoder {encoding.model} in the folder {path}, found no folder.")
    return reference


def encode(
    encoding: EncoderEncoding,
    texts: Sequence[str | None],
    encoder: Encoder,
    *,
    kept: Path,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """(N, D) rows of texts, with a missing text as an empty one; texts encoded before are not encoded again.

    A text that the encoder cannot handle gets a row of NaN, which has no influence on training, and only the log says so.

    kept: a private folder that caches rows by content hash.
    progress: receives the number of texts done and to do.

    Raises: DataError if the folder cannot be used.
    """
    keys = [hashlib.sha256((text or "").encode("utf-8", "surrogatepass")).digest() for text in texts]
    wanted = dict(zip(keys, (text or "" for text in texts), strict=True))
    return _encode(encoding, keys, wanted, encoder, kept, progress)


def encode_images(
    encoding: ImageEncoding,
    image_N: NDArray[np.uint8],
    encoder: ImageEncoder,
    *,
    kept: Path,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """(N, D) rows of images (N, H, W, 3) of the encoding's size; as `encode`."""
    keys = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in image_N]
    return _encode(encoding, keys, dict(zip(keys, image_N, strict=True)), encoder, kept, progress)


def _encode(
    encoding: EncoderEncoding | ImageEncoding,
    keys: Sequence[bytes],
    wanted: Mapping[bytes, Item],
    encoder: Callable[[Item], Row],
    kept: Path,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Rows in the order of the keys. wanted: what each key stands for."""
    rows: dict[bytes, Row] = {}
    with closing(_Kept(kept, encoding)) as store:
        rows.update(store.read(wanted))
        missing = [key for key in wanted if key not in rows]
        for first in range(0, len(missing), BATCH):
            encoded = {key: _one(encoder, wanted[key], encoding.dimensions) for key in missing[first : first + BATCH]}
            store.write({key: row for key, row in encoded.items() if np.isfinite(row).all()})
            rows.update(encoded)
            if progress is not None:
                progress(min(first + BATCH, len(missing)), len(missing))
    if not keys:
        return np.zeros((0, encoding.dimensions), np.float32)
    return np.stack([rows[key] for key in keys])


def log_progress(done: int, total: int) -> None:
    """Log the progress about ten times in total."""
    if (10 * done) // total > (10 * (done - BATCH)) // total:
        log.info("Encoded %d of %d records.", done, total)


def _one(encoder: Callable[[Item], Row], item: Item, dimensions: int) -> Row:
    """A text's or an image's row, or NaN if the encoder fails on it: an error would become a refusal, and reveal a single record."""
    try:
        row = np.asarray(encoder(item), np.float32)
        if row.shape != (dimensions,):
            raise ValueError(f"Expected a row of {dimensions} numbers, got {row.shape}")
        return row
    except Exception:  # whatever an encoder of the site's own raises
        log.warning(
            "The encoder failed on %s; it has no influence on training.",
            "a text" if isinstance(item, str) else "an image",
            exc_info=True,
        )
        return np.full(dimensions, np.nan, np.float32)


@lru_cache(maxsize=2)
def _loaded(reference: str, folder: Path, files: tuple[tuple[str, str], ...], tokens: int) -> Encoder:
    """The encoder, loaded once per process. files: their hashes, so that another model in the same place is a separate entry."""
    if (folder / reference).is_dir():
        return _hugging_face(folder / reference, tokens)
    return _of_factory(reference, folder, "texts")


@lru_cache(maxsize=2)
def _loaded_images(reference: str, folder: Path, files: tuple[tuple[str, str], ...]) -> ImageEncoder:
    """As `_loaded`, of images."""
    if (folder / reference).is_dir():
        return _onnx(folder / reference)
    return _of_factory(reference, folder, "images")


def _of_factory(reference: str, folder: Path, what: str) -> Callable[[Any], Row]:
    """An encoder from a function of the site's own; Any because it may be of texts or of images."""
    factory: Callable[..., Any] = load_function(reference, folder, expected="a function () -> encoder")
    try:
        encoder = factory()
    except Exception as error:  # whatever a factory of the site's own raises
        raise SettingError(f"Expected an encoder from {reference}: {type(error).__name__}: {error}.") from error
    if not callable(encoder):
        raise SettingError(f"Expected a function from {what} to rows from {reference}, got {type(encoder).__name__}.")
    return encoder  # type: ignore[no-any-return]


def _session(path: Path) -> InferenceSession:
    """The model in a folder, checked to take one image. Raises DataError."""
    file = path / IMAGE_FILES[0]
    try:
        # One thread: how many there are must not decide how sums are rounded. From its bytes a model cannot refer to other files.
        session = open_session(file.read_bytes(), threads=1)
    except Exception as error:  # onnxruntime's own, of many kinds
        raise DataError(f"Expected an ONNX model at {file}: {type(error).__name__}: {error}.") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4 or inputs[0].shape[3] != 3:
        found = ", ".join(f"{each.type} {each.shape}" for each in inputs)
        raise DataError(f"Expected a model of one image, tensor(uint8) [1, height, width, 3], at {file}, got {found}.")
    if outputs[0].type != "tensor(float)" or len(outputs[0].shape) != 2:
        raise DataError(
            f"Expected rows, tensor(float) [1, numbers], from the model at {file}, got {outputs[0].type} {outputs[0].shape}."
        )
    return session


def _onnx(path: Path) -> ImageEncoder:
    """An encoder from an ONNX model on disk, whose first result is the row."""
    session = _session(path)
    name = session.get_inputs()[0].name

    def encode_one(image: Image) -> Row:
        (row_1D, *_) = session.run(None, {name: image[None]})
        return np.asarray(row_1D[0], np.float32)

    return encode_one


def _hugging_face(path: Path, tokens: int) -> Encoder:
    """An encoder from a model on disk: the mean of the last layer over a text's tokens, scaled to norm 1."""
    # Read when the libraries are first imported. Local paths need no network; this forbids it explicitly.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModel
        from transformers.utils import logging as chatter
    except ImportError as error:
        raise DataError(
            f"Expected the package transformers to read {path}; install it with: pip install limbeck[encoders]"
        ) from error
    chatter.disable_progress_bar()
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(tokens)
        model = AutoModel.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        ).eval()
    except Exception as error:  # the libraries' own, of many kinds
        raise DataError(f"Expected a model in {path}: {type(error).__name__}: {error}.") from error

    def encode_one(text: str) -> Row:
        tokenised = tokenizer.encode(text)
        with torch.inference_mode():
            hidden_1LD = model(
                input_ids=torch.tensor([tokenised.ids]), attention_mask=torch.tensor([tokenised.attention_mask])
            ).last_hidden_state
            row_D = torch.nn.functional.normalize(hidden_1LD[0].mean(0), dim=0)
        return np.asarray(row_D.numpy(), np.float32)

    return encode_one


class _Kept:
    """Rows by content hash, in one SQLite file per encoding: writes are atomic, and several processes may read and write."""

    def __init__(self, folder: Path, encoding: EncoderEncoding | ImageEncoding) -> None:
        self.bytes = 4 * encoding.dimensions
        path = folder / f"{encoding.fingerprint}.sqlite"
        create_private_folder(folder)
        # SQLite gives its other files the mode of this one: they are the owner's alone from the first moment.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self.path = path
        self.database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        self._do("PRAGMA journal_mode = WAL")
        self._do("PRAGMA synchronous = NORMAL")
        self._do("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")

    def _do(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        try:
            return self.database.execute(sql, parameters)
        except sqlite3.Error as error:
            raise DataError(
                f"Expected encoded records in {self.path}: {error}; without the file they are encoded again."
            ) from error

    def read(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """The rows that are stored."""
        rows = {}
        for key in keys:
            cell = self._do("SELECT value FROM rows WHERE key = ?", key).fetchone()
            if cell is not None and len(cell[0]) == self.bytes:
                rows[key] = np.frombuffer(cell[0], "<f4").astype(np.float32)
        return rows

    def write(self, rows: dict[bytes, Row]) -> None:
        """Store all of these rows, or none."""
        self._do("BEGIN IMMEDIATE")
        for key, row in rows.items():
            self._do("INSERT OR REPLACE INTO rows VALUES (?, ?)", key, row.astype("<f4").tobytes())
        self._do("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self.database.close()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Expected a file of an encoder at {path}: {error.strerror}.") from error
