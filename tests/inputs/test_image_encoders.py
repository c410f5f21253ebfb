"""A public encoder of images makes the same rows at every site, one image at a time; another one is noticed before a record is read."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from helpers import sites, tiny_image_encoder
from helpers.tiny_image_encoder import NUMBERS, photograph_folder, photographs
from limbeck.base.errors import DataError, SettingError
from limbeck.cli.main import app
from limbeck.client import examination, records
from limbeck.client.app import respond
from limbeck.client.holdings import Records
from limbeck.client.ledger import Ledger
from limbeck.client.records import RecordSettings
from limbeck.client.site import Site
from limbeck.inputs import encoders, encodings
from limbeck.inputs.encodings import ImageEncoding
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import Plan, TopK
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Ask, Declined, Reason, Reply, Request, Share, Taught, Teach

SIZE = (12, 12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_encoder.make(tmp_path_factory.mktemp("encoder") / "tiny")


def described(model: Path) -> ImageEncoding:
    return encoders.describe_images(str(model), Path(), name="tiny", size=SIZE)


def rows(model: Path, images: np.ndarray, kept: Path) -> np.ndarray:
    own = described(model)
    return encoders.encode_images(own, images, encoders.open_encoder(own, str(model), Path()), kept=kept)


# Rows


def test_a_row_is_that_of_the_image_alone_to_the_last_bit_and_is_made_once(model: Path, tmp_path: Path) -> None:
    images = photographs(40, 12)
    together = rows(model, images, tmp_path / "together")
    alone = [rows(model, images[place : place + 1], tmp_path / f"alone-{place}")[0] for place in (0, 7, 39)]
    np.testing.assert_array_equal(np.stack(alone), together[[0, 7, 39]])
    (kernel,) = (onnx.numpy_helper.to_array(each) for each in onnx.load(model / "model.onnx").graph.initializer)
    windows = np.lib.stride_tricks.sliding_window_view(images[0].astype(float), (3, 3), axis=(0, 1))
    expected = np.maximum(np.einsum("yxcij,kcij->yxk", windows, kernel), 0).mean((0, 1))
    np.testing.assert_allclose(together[0], expected, rtol=1e-5)
    own = described(model)
    opened = encoders.open_encoder(own, str(model), Path())
    asked: list[np.ndarray] = []

    def note(image: np.ndarray) -> encoders.Row:
        asked.append(image)
        return opened(image)

    # Another image that differs in its last byte alone.
    other = images[:1].copy()
    other[0, -1, -1, -1] ^= 1
    again = encoders.encode_images(own, np.concatenate([images[::-1], other]), note, kept=tmp_path / "together")
    np.testing.assert_array_equal(again[:40], together[::-1])
    assert len(asked) == 1
    assert encoders.encode_images(own, images[:0], opened, kept=tmp_path / "none").shape == (0, NUMBERS)


def test_an_image_that_an_encoder_fails_on_has_no_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = ImageEncoding(model="plain", files={}, size=(1, 1), probe=((0.0,),) * 4)
    with caplog.at_level(logging.WARNING, "limbeck"):
        found = encoders.encode_images(
            own, np.zeros((1, 1, 1, 3), np.uint8), lambda _: np.zeros(2, np.float32), kept=tmp_path
        )
    assert np.isnan(found).all()
    assert "The encoder failed on an image" in caplog.text


def test_an_encoding_survives_being_written_and_knows_the_size_of_its_model(model: Path, tmp_path: Path) -> None:
    own = described(model)
    encodings.save(own, tmp_path / "e.json")
    assert encodings.load(tmp_path / "e.json") == own
    assert own.dimensions == NUMBERS
    assert len(set(own.probe)) == 4
    fixed = tiny_image_encoder.make(tmp_path / "fixed", size=(20, 24))
    assert encoders.describe_images(str(fixed), Path(), name="fixed").size == (20, 24)
    assert encoders.describe_images(str(model), Path(), name="tiny").size == encoders.USUAL_SIZE


@pytest.mark.parametrize(
    "change",
    [
        {"probe": []},
        {"probe": [[float("nan")]] * 4},
        {"probe": [[0.0]] * 5},
        {"size": [0, 12]},
        {"size": [12, 5000]},
        {"size": [12]},
        {"size": [12.5, 12]},
        {"files": {"../model.onnx": "0"}},
    ],
)
def test_a_file_that_names_no_encoder_of_images_is_refused(change: dict[str, object], model: Path, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({**described(model).to_json(), **change}))
    with pytest.raises(DataError, match="Expected a public encoding in"):
        encodings.load(tmp_path / "e.json")


# Whether it is the one meant


def test_another_model_is_named_and_one_that_is_no_encoder_is_refused(model: Path, tmp_path: Path) -> None:
    own = described(model)
    other = tiny_image_encoder.make(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=f"Expected SHA-256 {own.files['model.onnx']} of .*model.onnx, a file of tiny"):
        encoders.open_encoder(own, "other", tmp_path)
    unnamed = ImageEncoding(model="tiny", files={}, size=SIZE, probe=own.probe)
    with pytest.raises(DataError, match="Expected the rows of tiny from other, got others: that of test image 2 differs"):
        encoders.open_encoder(unnamed, "other", tmp_path)
    with pytest.raises(DataError, match=r"records.encoder to name tiny"):
        encoders.open_encoder(own, None, tmp_path)
    tiny_image_encoder.make(other, kind=onnx.TensorProto.FLOAT)
    with pytest.raises(DataError, match=r"Expected a model of one image, tensor\(uint8\) \[1, height, width, 3\]"):
        encoders.describe_images("other", tmp_path, name="other")
    (other / "model.onnx").write_bytes(b"not a model")
    encoders._loaded_images.cache_clear()
    with pytest.raises(DataError, match="Expected an ONNX model at"):
        encoders.describe_images("other", tmp_path, name="other")


def test_a_model_of_images_that_keeps_numbers_in_another_file_is_refused(model: Path, tmp_path: Path) -> None:
    kept_apart = onnx.load(model / "model.onnx")
    (tmp_path / "apart").mkdir()
    onnx.save_model(
        kept_apart, tmp_path / "apart" / "model.onnx", save_as_external_data=True, location="numbers", size_threshold=0
    )
    with pytest.raises(DataError, match="Expected an ONNX model at"):
        encoders.describe_images("apart", tmp_path, name="apart")


# A site


def of_photographs(folder: Path, model: Path, *, arrays: bool) -> tuple[Site, Plan]:
    """A site with ten photographs, as files or as arrays, an encoding and the encoder; and a plan about the rows of public ones."""
    sites.make(folder, answers__max_bits=200)
    public = rows(model, photographs(40, 12)[20:], folder / "public")
    np.savez(folder / "transfer" / f"{digest(public).hex()}.npz", x=public)
    if arrays:
        np.savez(folder / "records.npz", x=photographs(10, 12), y=np.arange(10) % 2)
    else:
        photograph_folder(folder / "records", 10)
        (folder / "records" / "temple" / "broken.png").write_bytes(b"no image")
    encodings.save(described(model), folder / "encoding.json")
    shutil.copytree(model, folder / "tiny")
    classes = [0, 1] if arrays else ["temple", "flower"]
    settings = {
        "path": "records.npz" if arrays else "records",
        "encoding": "encoding.json",
        "encoder": "tiny",
        "classes": classes,
    }
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": settings}))
    plan = sites.plan(classes=2, samples=20, truncation=TopK(k=2), encoding=encodings.digest(described(model)))
    return Site(folder), sites.about_rows(plan, transfer_set=digest(public))


def ask(site: Site, plan: Plan, question: Request) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


@pytest.mark.parametrize("arrays", [True, False])
def test_a_site_with_colour_images_takes_part(arrays: bool, model: Path, tmp_path: Path) -> None:
    site, plan = of_photographs(tmp_path, model, arrays=arrays)
    done = CliRunner().invoke(app, ["site", "encode", str(tmp_path)], catch_exceptions=False)
    assert "10 records are encoded." in done.output
    x_N, y_N = site.records.read(2, site.transfer_sets.read(plan.transfer_set, 20))
    expected = rows(model, photographs(10, 12), tmp_path / "other")
    order = np.arange(10) if arrays else np.r_[1:10:2, 0:10:2]
    np.testing.assert_array_equal(x_N, expected[order])
    assert y_N.tolist() == (order % 2).tolist()
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    assert isinstance(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))), Taught)
    share = ask(site, plan, Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=20))
    assert isinstance(share, Share)
    report = examination.examine(site, sites.offer(plan))
    # A file that is no image is left out by itself.
    assert (report.kept, report.all) == (10, 10 if arrays else 11)
    assert report.accepted
    assert any("become red, green and blue" in str(finding) for finding in report.findings) is not arrays


def test_a_site_whose_encoder_is_another_declines_before_a_record_is_read_or_anything_is_charged(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_photographs(tmp_path, model, arrays=True)
    tiny_image_encoder.make(tmp_path / "tiny", seed=1)
    monkeypatch.setattr(Records, "read", lambda *_: pytest.fail("a record was read"))
    found = ask(site, plan, sites.offer(plan))
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_one_image_changes_one_row_whatever_its_type_and_an_invalid_one_is_left_out(model: Path, tmp_path: Path) -> None:
    encodings.save(described(model), tmp_path / "encoding.json")
    settings = RecordSettings(path="r.npz", encoding="encoding.json", encoder=str(model))
    images, public = photographs(6, 12), np.zeros((3, NUMBERS), np.float32)

    def read(x: np.ndarray) -> np.ndarray:
        np.savez(tmp_path / "r.npz", x=x, y=np.arange(len(x)) % 2)
        return records.read(settings, tmp_path, 2, public)[0]

    whole = read(images)
    np.testing.assert_array_equal(read(images[:5]), whole[:5])
    invalid = images.astype(np.float64)
    invalid[2, 3, 4, 1] = np.nan
    invalid[4, 0, 0, 0] = 255.5
    np.testing.assert_array_equal(read(invalid), whole[[0, 1, 3, 5]])
    np.savez(tmp_path / "r.npz", x=images[:, :, :10], y=np.zeros(6, int))
    with pytest.raises(DataError, match=r"Expected images of shape \(12, 12, 3\) for tiny as x in .*, got \(12, 10, 3\)"):
        records.check(settings, tmp_path, 2, public)
    # Rows that a site made itself are read as they are.
    np.testing.assert_array_equal(read(whole), whole)


def test_grey_and_transparent_files_become_colours(tmp_path: Path) -> None:
    from limbeck.inputs import images

    grey = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)
    clear = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    for name, picture in (("grey", Image.fromarray(grey)), ("clear", Image.fromarray(clear, "RGBA"))):
        picture.save(tmp_path / f"{name}.png")
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "deep.png")
    found = {each.stem: images.colour(each.read_bytes(), 4, 4) for each in tmp_path.iterdir()}
    np.testing.assert_array_equal(found["grey"], np.dstack([grey] * 3))
    np.testing.assert_array_equal(found["deep"], found["grey"])
    assert (found["clear"] == 255).all()


# The plan's author


def test_the_author_of_a_plan_makes_rows_of_public_images_and_the_encoding(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph_folder(tmp_path / "public", 6)
    command: Callable[[str], list[str]] = lambda size: [  # noqa: E731
        *("plan", "encode", "public", "--encoder", str(model), "--image-size", size, "12"),
    ]
    CliRunner().invoke(app, command("12"), catch_exceptions=False)
    with np.load(tmp_path / "public.npz") as found:
        np.testing.assert_array_equal(found["x"], rows(model, photographs(6, 12)[[1, 3, 5, 0, 2, 4]], tmp_path / "other"))
    assert encodings.load(tmp_path / "encoding.json") == described(model)
    with pytest.raises(SettingError, match=r"Expected no file at public.npz yet"):
        CliRunner().invoke(app, command("12"), catch_exceptions=False)
