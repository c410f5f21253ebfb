"""An NPZ file is read within the memory that the caller allows, or refused with one kind of error, whatever its bytes are."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from helpers.odd_images import mutated
from limbeck.base.errors import DataError
from limbeck.inputs import transfer_set
from limbeck.inputs.transfer_set import read_arrays, read_headers

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MUTATIONS = 400


def npz(path: Path, *, compressed: bool = True, **arrays: NDArray[np.generic]) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, allow_pickle=True, **arrays)
    return path


def member(header: str | bytes, values: bytes = b"", version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """One array's file, whose header says so."""
    text = header if isinstance(header, bytes) else header.encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text + values


def archive(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def head(shape: object = (2,), descr: object = "<f4", fortran: object = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape}) + "\n"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        np.asfortranarray(VALUES),
        VALUES.astype(">f8"),
        np.array([b"a", b"bc"]),
        np.array(["a", "bcd"]),
        np.zeros((0, 3), np.uint8),
        np.array(7),
        np.arange(400_000, dtype=np.int64),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(values: NDArray[np.generic], compressed: bool, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", compressed=compressed, x=values, y=VALUES)
    array, other = read_arrays(path, "x", "y")
    np.testing.assert_array_equal(array, values)
    np.testing.assert_array_equal(other, VALUES)
    assert (array.dtype, array.shape) == (values.dtype, values.shape)
    (header,) = read_headers(path, "x")
    assert (header.shape, header.dtype, header.bytes) == (values.shape, values.dtype, values.nbytes)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a pickle": (member(head(descr="|O"), b"cos\nsystem\n(S'exit 1'\ntR."), "objects are pickles"),
    "an object in a field": (member(head(descr=[("a", "<f4"), ("b", "|O")]), bytes(99)), "objects are pickles"),
    "fields": (member(head(descr=[("a", "<f4")]), bytes(8)), "Expected numbers"),
    "arrays within an array": (member(head(descr=("<f4", (1 << 20, 1 << 20)))), "Expected"),
    "times": (member(head(descr="<M8[s]"), bytes(16)), "Expected numbers"),
    "no bytes an item": (member(head(shape=(1 << 60,), descr="|S0")), "Expected numbers"),
    "empty texts": (member(head(shape=(1 << 60,), descr="<U0")), "Expected numbers"),
    "a huge shape": (member(head(shape=(1 << 60,))), "at most"),
    "a product beyond 64 bits": (member(head(shape=(1 << 40, 1 << 40))), "at most"),
    "a huge shape of nothing": (member(head(shape=(1 << 60, 0))), "at most"),
    "more bytes than there are": (member(head(shape=(1000,)), bytes(8)), r"4\d\d\d bytes of array x"),
    "fewer bytes than there are": (member(head(shape=(1,)), bytes(800)), "bytes of array x"),
    "a negative shape": (member(head(shape=(-2,)), bytes(8)), "Expected"),
    "two negative sides": (member(head(shape=(-2, -1)), bytes(8)), "at most 32 sizes of at least 0"),
    "a truth value as shape": (member(head(shape=(True, 2)), bytes(8)), "sizes of at least 0"),
    "a shape of fractions": (member(head(shape=(2.0,)), bytes(8)), "Expected"),
    "a shape that is none": (member(head(shape=2), bytes(8)), "Expected"),
    "too many sides": (member(head(shape=(1,) * 200), bytes(4)), "Expected"),
    "an order that is none": (member(head(fortran="yes"), bytes(8)), "Expected"),
    "a type that is none": (member(head(descr="nonsense"), bytes(8)), "Expected"),
    "a long type": (member(head(descr="<U999999999999"), bytes(8)), "Expected"),
    "code as header": (member("__import__('os').getcwd()\n"), "Expected"),
    "deep brackets": (member("(" * 9000), "Expected"),
    "a long header": (member(head() + " " * 60_000, bytes(8)), "Expected"),
    "a header of gigabytes": (member(head(), bytes(8), version=(2, 0), length=0xFFFFFFFF), "Expected"),
    "another version": (member(head(), bytes(8), version=(3, 0)), r"version 1.0 or 2.0"),
    "no version": (b"\x93NUMPY", "Expected"),
    "nothing": (b"", "Expected"),
    "a key too many": (member(head()[:-2] + ", 'x': 1}\n", bytes(8)), "Expected"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_array_is_refused_by_what_its_header_says(name: str, tmp_path: Path) -> None:
    data, message = HOSTILE[name]
    path = archive(tmp_path / "a.npz", ("x.npy", data))
    for read in (read_headers, read_arrays):
        with pytest.raises(DataError, match=message):
            read(path, "x")


def test_an_array_that_is_there_twice_or_not_at_all_or_packed_otherwise_is_refused(tmp_path: Path) -> None:
    good = member(head(), bytes(8))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(tmp_path / "a.npz", ("x.npy", good), ("x.npy", good))
    with pytest.raises(DataError, match=r"Expected one array x in .*, found 2"):
        read_arrays(twice, "x")
    with pytest.raises(DataError, match=r"Expected one array x in .*, found 0; there are: y"):
        read_arrays(archive(tmp_path / "b.npz", ("y.npy", good)), "x")
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(DataError, match="stored or deflated"):
            read_arrays(archive(tmp_path / "c.npz", ("x.npy", good), compression=compression), "x")
    for what in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(DataError, match=r"Expected an NPZ file with x at .*, found"):
            read_arrays(what, "x")


def test_the_bytes_of_an_array_are_bounded_by_the_caller(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=VALUES)
    assert read_arrays(path, "x", largest=VALUES.nbytes)[0].shape == VALUES.shape
    for read in (read_headers, read_arrays):
        with pytest.raises(DataError, match=f"at most {VALUES.nbytes - 1} bytes of array x"):
            read(path, "x", largest=VALUES.nbytes - 1)


@pytest.mark.parametrize("place", [24, 20], ids=["file size", "compressed size"])
@pytest.mark.parametrize("size", [0, 1, 100, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_directory_that_lies_about_sizes_is_refused_or_harmless(place: int, size: int, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=np.zeros(1000))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + place : entry + place + 4] = struct.pack("<I", size)
    path.write_bytes(data)
    try:
        array = read_arrays(path, "x")[0]
    except DataError:
        return
    # All of the rest of the file is taken for the array's: it ends where it ends, and its checksum is right.
    assert place == 20
    np.testing.assert_array_equal(array, np.zeros(1000))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("count", [24, 5000, 1 << 18, (1 << 18) + 1])
def test_a_checksum_that_is_another_is_noticed(count: int, compressed: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    path = npz(tmp_path / "a.npz", compressed=compressed, x=values)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 16] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="CRC"):
        read_arrays(path, "x")


@pytest.mark.parametrize("there", [8, 30_000])
def test_an_array_that_ends_early_is_refused_and_not_filled_with_what_memory_held(there: int, tmp_path: Path) -> None:
    """Directory and header agree on more than is there."""
    header = member(head(shape=(10_000,)))
    path = archive(tmp_path / "a.npz", ("x.npy", header + bytes(there)))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<I", len(header) + 40_000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"Expected 40000 bytes of array x in .*, got {there}"):
        read_arrays(path, "x")


def test_more_than_can_come_out_of_so_few_bytes_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directory and header agree on a gigabyte that is not there."""
    path = archive(tmp_path / "a.npz", ("x.npy", member(head(shape=(1 << 28,)), bytes(100))))
    data = bytearray(path.read_bytes())
    entry, size = data.rindex(b"PK\1\2"), len(member(head(shape=(1 << 28,)))) + (4 << 28)
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(data)
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(DataError, match="more than deflate can give"):
        read_arrays(path, "x")


@pytest.mark.parametrize("compressed", [False, True])
def test_mutated_files_are_read_or_refused_and_never_anything_else(compressed: bool, tmp_path: Path) -> None:
    whole, draw, refused = (
        npz(tmp_path / "a.npz", compressed=compressed, x=VALUES).read_bytes(),
        random.Random(compressed),
        0,
    )
    for _ in range(MUTATIONS):
        (tmp_path / "m.npz").write_bytes(mutated(whole, draw))
        try:
            read_arrays(tmp_path / "m.npz", "x", largest=1 << 20)
        except DataError:
            refused += 1
    assert refused > MUTATIONS // 2


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(-1, 5) | st.integers(), max_size=4).map(tuple),
    descr=st.sampled_from(["<f4", "|u1", "|O", "|b1", ">i8", "<c16", "|S3", "<U2", "|V8", "<m8[s]"]) | st.text(max_size=6),
    fortran=st.booleans() | st.none(),
    values=st.binary(max_size=100),
)
def test_any_header_is_read_or_refused_and_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], descr: str, fortran: bool | None, values: bytes
) -> None:
    path = archive(tmp_path_factory.getbasetemp() / "h.npz", ("x.npy", member(head(shape, descr, fortran), values)))
    try:
        (array,) = read_arrays(path, "x", largest=1 << 20)
    except DataError:
        return
    assert array.tobytes("F" if fortran else "C") == values
    assert array.shape == shape


# Memory

MIB = 1 << 20
# What an interpreter with this module takes is not counted, only what comes on top of it at the highest.
CHILD = """
import sys
from pathlib import Path
from limbeck.base.errors import DataError
from limbeck.inputs.transfer_set import read_arrays
IMPORTS
def highest():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) << 10
folder, before = Path(sys.argv[1]), highest()
try:
    CALL
    found = "read"
except DataError as error:
    found = "refused"
print(found, (highest() - before) >> 20)
"""


def in_a_child(folder: Path, call: str, imports: str = "") -> tuple[str, int]:
    """Whether it was read or refused, and how many MiB it took at the highest."""
    code = CHILD.replace("CALL", call).replace("IMPORTS", imports)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    outcome, taken = done.stdout.split()
    return outcome, int(taken)


def test_a_file_that_expands_a_thousand_times_takes_no_memory(tmp_path: Path) -> None:
    """0.4 MB that would become 0.4 GB."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as out:
        out.write(member(head(shape=(400, MIB), descr="|u1")))
        for _ in range(400):
            out.write(bytes(MIB))
    assert (tmp_path / "a.npz").stat().st_size < MIB
    outcome, taken = in_a_child(tmp_path, 'read_arrays(folder / "a.npz", "x", largest=1 << 28)')
    assert (outcome, taken < 64) == ("refused", True), taken


def test_a_header_that_expands_takes_no_memory(tmp_path: Path) -> None:
    data = member(head() + " " * (100 * MIB), version=(2, 0))
    archive(tmp_path / "a.npz", ("x.npy", data))
    outcome, taken = in_a_child(tmp_path, 'read_arrays(folder / "a.npz", "x")')
    assert (outcome, taken < 64) == ("refused", True), taken


def test_what_is_read_takes_its_own_size_and_little_more(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", x=np.zeros((64, MIB), np.uint8))
    outcome, taken = in_a_child(tmp_path, 'read_arrays(folder / "a.npz", "x")')
    assert (outcome, 60 <= taken < 100) == ("read", True), taken


def test_images_that_expand_take_no_more_than_the_largest_that_is_read(tmp_path: Path) -> None:
    """Each of 81 million pixels in less than 100 kB."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "b").mkdir()
    for kind in ("png", "gif", "tiff"):
        out = io.BytesIO()
        Image.new("1", (9000, 9000)).save(out, kind, compression="group4")
        assert len(out.getvalue()) < 100_000
        (tmp_path / "images" / "a" / f"a.{kind}").write_bytes(out.getvalue())
    imports = (
        "import numpy as np; from limbeck.client import records; from limbeck.client.records import RecordSettings;"
        "from PIL import Image; Image.init()"
    )
    call = (
        'own = RecordSettings(path="images", image_size=(8, 8), classes=("a", "b"));'
        "x, y = records.read(own, folder, 2, np.zeros((0, 8, 8), np.uint8));"
        " assert len(y) == 0, y"
    )
    outcome, taken = in_a_child(tmp_path, call, imports)
    assert (outcome, taken < 40) == ("read", True), taken


def test_the_chunks_of_an_array_are_put_together_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_set, "CHUNK", 1000)
    values = np.random.default_rng(0).integers(0, 255, 50_000, dtype=np.uint8)
    np.testing.assert_array_equal(read_arrays(npz(tmp_path / "a.npz", x=values), "x")[0], values)
