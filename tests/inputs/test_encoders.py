"""A public encoder makes the same rows at every site, one record at a time, once; another one is noticed before a record is read."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from tokenizers import Tokenizer
from transformers import AutoModel
from typer.testing import CliRunner

from helpers import sites, tiny_encoder
from limbeck.base.errors import DataError, SettingError
from limbeck.cli.main import app
from limbeck.client.app import respond
from limbeck.client.holdings import Records
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.inputs import encoders, encodings
from limbeck.inputs.encodings import EncoderEncoding
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import Plan, TopK
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Ask, Declined, Reason, Reply, Request, Share, Taught, Teach

TEXTS = ["A good film!", "bad, bad; poor", "", "fine " * 60, "a 東京 film", "A good film!"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.make(tmp_path_factory.mktemp("encoder") / "tiny")


def described(model: Path, tokens: int = 32) -> EncoderEncoding:
    return encoders.describe(str(model), Path(), column="text", name="tiny", tokens=tokens)


def rows(model: Path, texts: list[str], kept: Path) -> np.ndarray:
    own = described(model)
    return encoders.encode(own, texts, encoders.open_encoder(own, str(model), Path()), kept=kept)


# Rows


def test_rows_are_means_over_the_tokens_of_each_text_of_norm_one(model: Path, tmp_path: Path) -> None:
    tokenizer, net = Tokenizer.from_file(str(model / "tokenizer.json")), AutoModel.from_pretrained(model).eval()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(32)
    batch = tokenizer.encode_batch(TEXTS)
    mask = torch.tensor([each.attention_mask for each in batch])
    assert sorted(mask.sum(1).tolist())[0] == 2
    assert sorted(mask.sum(1).tolist())[-1] == 32
    with torch.inference_mode():
        hidden = net(input_ids=torch.tensor([each.ids for each in batch]), attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = mean / mean.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(rows(model, TEXTS, tmp_path / "kept"), expected, atol=1e-5)


def test_a_row_is_the_same_to_the_last_bit_whatever_the_other_records_are(model: Path, tmp_path: Path) -> None:
    together = rows(model, TEXTS, tmp_path / "together")
    alone = [rows(model, [text], tmp_path / f"alone-{index}")[0] for index, text in enumerate(TEXTS)]
    np.testing.assert_array_equal(np.stack(alone), together)
    assert len({row.tobytes() for row in together}) == len(set(TEXTS))
    assert rows(model, [], tmp_path / "none").shape == (0, 16)


def test_only_public_words_are_in_an_encoding_and_it_survives_being_written_and_read(model: Path, tmp_path: Path) -> None:
    own = described(model)
    encodings.save(own, tmp_path / "e.json")
    assert encodings.load(tmp_path / "e.json") == own
    assert set(own.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert str(model) not in (tmp_path / "e.json").read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own | {"probe": []},
        lambda own: own | {"probe": [[float("nan")]]},
        lambda own: own | {"probe": own["probe"][:2]},
        lambda own: own | {"tokens": 0},
        lambda own: own | {"files": ["model.safetensors"]},
        lambda own: {name: value for name, value in own.items() if name != "column"},
    ],
)
def test_a_file_that_names_no_encoder_is_refused(
    change: Callable[[dict[str, object]], dict[str, object]], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "e.json").write_text(json.dumps(change({**described(model).to_json()})))
    with pytest.raises(DataError, match="Expected a public encoding in"):
        encodings.load(tmp_path / "e.json")


# What is kept


class Counting:
    """An encoder that remembers what it was asked, and may be stopped."""

    def __init__(self, stop_after: int = 10_000) -> None:
        self.asked: list[str] = []
        self.stop_after = stop_after

    def __call__(self, text: str) -> np.ndarray:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(text)
        return np.array([len(text), 1], np.float32)


PLAIN = EncoderEncoding(column="text", model="plain", files={}, tokens=8, probe=((0.0, 1.0),) * len(encodings.PROBES))


def test_a_text_is_encoded_once_and_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    texts: list[str | None] = [f"text {number}" for number in range(100)]
    first, then, last = Counting(stop_after=50), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        encoders.encode(PLAIN, texts, first, kept=tmp_path / "kept")
    assert len(first.asked) == 50
    told: list[tuple[int, int]] = []
    found = encoders.encode(PLAIN, texts, then, kept=tmp_path / "kept", progress=lambda *counts: told.append(counts))
    # Whole batches of the first attempt are kept.
    assert then.asked == texts[encoders.BATCH :]
    assert told[-1] == (100 - encoders.BATCH, 100 - encoders.BATCH)
    np.testing.assert_array_equal(found[:, 0], [len(str(text)) for text in texts])
    again = encoders.encode(PLAIN, [*texts[::-1], None, "new", "new"], last, kept=tmp_path / "kept")
    np.testing.assert_array_equal(again[:100], found[::-1])
    assert last.asked == ["", "new"]


def test_rows_of_another_encoder_are_not_taken_for_these(tmp_path: Path) -> None:
    encoders.encode(PLAIN, ["a"], Counting(), kept=tmp_path)
    for other in (replace(PLAIN, tokens=9), replace(PLAIN, model="other"), replace(PLAIN, files={"a": "b"})):
        asked = Counting()
        encoders.encode(other, ["a"], asked, kept=tmp_path)
        assert asked.asked == ["a"]
    same = Counting()
    encoders.encode(replace(PLAIN, column="other"), ["a"], same, kept=tmp_path)
    assert same.asked == []


def test_what_is_kept_is_its_owners_alone(tmp_path: Path) -> None:
    encoders.encode(PLAIN, ["a"], Counting(), kept=tmp_path / "kept")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "kept").iterdir()}
    assert modes == {0o600}


def test_a_spoilt_file_of_rows_is_named(tmp_path: Path) -> None:
    encoders.encode(PLAIN, ["a"], Counting(), kept=tmp_path)
    (path,) = tmp_path.glob("*.sqlite")
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(DataError, match=re.escape(str(path))):
        encoders.encode(PLAIN, ["a"], Counting(), kept=tmp_path)


def test_a_text_that_an_encoder_fails_on_has_no_say_and_only_the_log_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def picky(text: str) -> np.ndarray:
        if text == "broken":
            raise ValueError("no")
        return np.ones(3 if text == "long" else 2, np.float32)

    with caplog.at_level(logging.WARNING, "limbeck"):
        found = encoders.encode(PLAIN, ["a", "broken", "long"], picky, kept=tmp_path)
    assert np.isnan(found).all(1).tolist() == [False, True, True]
    assert "broken" not in " ".join(record.getMessage() for record in caplog.records)
    assert caplog.text.count("The encoder failed on a text") == 2
    mended = encoders.encode(PLAIN, ["broken"], lambda _: np.zeros(2, np.float32), kept=tmp_path)
    assert mended.tolist() == [[0, 0]]


# Whether it is the one meant


@pytest.mark.parametrize("file", encoders.FILES)
def test_another_file_of_a_model_is_named_with_both_hashes(file: str, model: Path, tmp_path: Path) -> None:
    own = described(model)
    shutil.copytree(model, tmp_path / "mine")
    (tmp_path / "mine" / file).write_bytes((model / file).read_bytes() + b" ")
    with pytest.raises(
        DataError, match=f"Expected SHA-256 {own.files[file]} of .*{file}, a file of tiny, got [0-9a-f]{{64}}"
    ):
        encoders.open_encoder(own, "mine", tmp_path)
    (tmp_path / "mine" / file).unlink()
    with pytest.raises(DataError, match=f"Expected a file of an encoder at .*{file}"):
        encoders.open_encoder(own, "mine", tmp_path)


def test_a_site_without_an_encoder_or_its_library_is_told_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = described(model)
    with pytest.raises(DataError, match=r"records.encoder to name tiny"):
        encoders.open_encoder(own, None, tmp_path)
    with pytest.raises(DataError, match=r"Expected the encoder tiny in the folder .*gone, found no folder"):
        encoders.open_encoder(own, "gone", tmp_path)
    with pytest.raises(DataError, match=r"records.encoder: Expected a factory at 'gone:build'"):
        encoders.open_encoder(own, "gone:build", tmp_path)
    encoders._loaded.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"pip install limbeck\[encoders\]"):
        encoders.open_encoder(own, str(model), tmp_path)


def test_an_encoder_of_the_sites_own_must_give_the_rows_of_the_encoding(model: Path, tmp_path: Path) -> None:
    own = described(model)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom pathlib import Path\nfrom limbeck.inputs import encoders\n"
        f"MODEL = {str(model)!r}\n"
        "def same():\n    return encoders._hugging_face(Path(MODEL), 32)\n"
        "def shorter():\n    return encoders._hugging_face(Path(MODEL), 31)\n"
        "def noisy():\n    return lambda text: same()(text) + 0.01\n"
        "def broken():\n    return lambda text: 1 / 0\n"
        "def absent():\n    return None\n"
        "def failing():\n    return 1 / 0\n"
    )
    encoders.open_encoder(own, "mine:same", tmp_path)
    for name in ("shorter", "noisy", "broken"):
        with pytest.raises(DataError, match=f"Expected the rows of tiny from mine:{name}, got others"):
            encoders.open_encoder(own, f"mine:{name}", tmp_path)
    for name in ("absent", "failing"):
        with pytest.raises(DataError, match=f"from mine:{name}"):
            encoders.open_encoder(own, f"mine:{name}", tmp_path)


def test_other_weights_of_the_same_shape_give_other_rows(model: Path, tmp_path: Path) -> None:
    other = tiny_encoder.make(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=r"Expected the rows of tiny"):
        encoders.open_encoder(replace(described(model), files={}), str(other), tmp_path)


def test_nothing_is_fetched_even_where_a_file_is_missing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        pytest.fail("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    encoders._loaded.cache_clear()
    own = described(model)
    encoders.open_encoder(own, str(model), tmp_path)
    shutil.copytree(model, tmp_path / "org" / "name")
    (tmp_path / "org" / "name" / "model.safetensors").unlink()
    with pytest.raises(DataError, match="Expected a model in"):
        encoders._hugging_face(tmp_path / "org" / "name", 32)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


# A site


PUBLIC_TEXTS = ["a fine film", "a poor film", "word", *("good " * count for count in range(1, 9))]


def of_reviews(folder: Path, model: Path) -> tuple[Site, Plan]:
    """A site with texts, an encoding and the encoder, and a plan about the rows of public texts."""
    sites.make(folder, answers__max_bits=200)
    own = described(model)
    public = rows(model, PUBLIC_TEXTS, folder / "public")
    np.savez(folder / "transfer" / f"{digest(public).hex()}.npz", x=public)
    (folder / "reviews.csv").write_text('text,label\n"a good, good film",1\nbad,0\n,1\n')
    encodings.save(own, folder / "encoding.json")
    shutil.copytree(model, folder / "tiny")
    settings = {"path": "reviews.csv", "encoding": "encoding.json", "encoder": "tiny"}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": settings}))
    plan = sites.plan(classes=2, samples=len(PUBLIC_TEXTS), truncation=TopK(k=2), encoding=encodings.digest(own))
    return Site(folder), sites.about_rows(plan, transfer_set=digest(public))


def ask(site: Site, plan: Plan, question: Request) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


def test_a_site_with_texts_and_the_encoder_takes_part(model: Path, tmp_path: Path) -> None:
    site, plan = of_reviews(tmp_path, model)
    x_N, y_N = site.records.read(2, site.transfer_sets.read(plan.transfer_set, len(PUBLIC_TEXTS)))
    np.testing.assert_array_equal(x_N, rows(model, ["a good, good film", "bad", ""], tmp_path / "other"))
    assert y_N.tolist() == [1, 0, 1]
    offer = sites.offer(plan)
    assert isinstance(ask(site, plan, offer), Accepted)
    assert isinstance(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))), Taught)
    share = ask(site, plan, Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=len(PUBLIC_TEXTS)))
    assert isinstance(share, Share)


def test_a_site_whose_encoder_is_another_declines_before_a_record_is_read_or_anything_is_charged(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_reviews(tmp_path, model)
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    shutil.copy(tiny_encoder.make(tmp_path / "other", seed=1) / "model.safetensors", tmp_path / "tiny")
    monkeypatch.setattr(Records, "read", lambda *_: pytest.fail("a record was read"))
    for question in (sites.offer(plan), Teach(plan_hash=codec.plan_hash(plan))):
        with caplog.at_level(logging.WARNING, "limbeck"):
            found = ask(site, plan, question)
        assert isinstance(found, Declined)
        assert found.reason is Reason.ENCODING
    assert "model.safetensors, a file of tiny" in caplog.text
    # The offer has looked for a place to keep rows, and no row is there.
    assert list((tmp_path / "encoded").iterdir()) == []
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_a_site_that_cannot_keep_encoded_records_declines_with_nothing_charged(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, plan = of_reviews(tmp_path, model)
    (tmp_path / "encoded").write_text("a file")
    with caplog.at_level(logging.WARNING, "limbeck"):
        found = ask(site, plan, sites.offer(plan))
    assert found == Declined(plan_hash=codec.plan_hash(plan), site="site", reason=Reason.DATA)
    assert "Expected a folder as records.encoded" in caplog.text
    assert not site.ledger.exists()


def test_an_owner_encodes_ahead_of_any_plan_and_the_run_finds_the_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_reviews(tmp_path, model)
    done = CliRunner().invoke(app, ["site", "encode", str(tmp_path)], catch_exceptions=False)
    assert "3 records are encoded." in done.output
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "encoded").iterdir()} == {0}
    # The encoder is asked for its probes alone.
    before = {text: encoders.open_encoder(described(model), "tiny", tmp_path)(text) for text in encodings.PROBES}
    monkeypatch.setattr(encoders, "_loaded", lambda *_: before.__getitem__)
    assert site.records.read(2, site.transfer_sets.read(plan.transfer_set, len(PUBLIC_TEXTS)))[0].shape == (3, 16)
    sites.make(tmp_path / "images")
    with pytest.raises(
        SettingError, match=r"Expected records.encoding to name a public encoder, of a table or of images, found none"
    ):
        CliRunner().invoke(app, ["site", "encode", str(tmp_path / "images")], catch_exceptions=False)


def test_the_author_of_a_plan_makes_rows_of_public_texts_and_the_encoding(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "public.csv").write_text("text\na fine film\npoor\n")
    command = ["plan", "encode", "public.csv", "--encoder", str(model), "--tokens", "32"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    with np.load(tmp_path / "public.npz") as found:
        np.testing.assert_array_equal(found["x"], rows(model, ["a fine film", "poor"], tmp_path / "other"))
    assert encodings.load(tmp_path / "encoding.json") == described(model)
    with pytest.raises(SettingError, match=r"Expected no file at public.npz yet"):
        CliRunner().invoke(app, command, catch_exceptions=False)
