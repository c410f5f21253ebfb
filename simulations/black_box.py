"""Simulated sites whose teacher is a black box: a scikit-learn model of the site's records, served on loopback while a run lasts.

It is a random forest, a kind of model that none of limbeck's DP schedules can train.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import joblib
import numpy as np
import tomli_w
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.base.files import write_durably
from limbeck.client import serving
from limbeck.inputs.transfer_set import read_arrays
from limbeck.protos.teacher import kind_of

MODEL = "model.joblib"
# The address until a run starts: nobody listens there.
NOWHERE = "127.0.0.1:1"
TREES = 100


def train(site: Path, seed: int) -> None:
    """Train and store the model of the site in this folder. seed: of its trees."""
    from sklearn.ensemble import RandomForestClassifier

    x_N, y_N = read_arrays(site / "records.npz", "x", "y")
    forest = RandomForestClassifier(TREES, random_state=seed).fit(serving.as_rows(x_N), y_N)
    joblib.dump(forest, site / MODEL)


def model(site: Path) -> serving.Model:
    """The model that `train` stored."""
    (x_N,) = read_arrays(site / "records.npz", "x")
    inputs = kind_of(x_N)
    if inputs is None:
        raise DataError(f"Expected rows or images in {site / 'records.npz'}, got {x_N.dtype} of shape {x_N.shape}.")
    return serving.estimator_model(joblib.load(site / MODEL), name=f"random forest of {site.name}", inputs=inputs)


def probabilities(site: Path, x_N: NDArray[np.generic], classes: int) -> NDArray[np.float64]:
    """(N, K): the answers of the site's model to inputs; a class that it never saw has probability 0."""
    estimator, p_NK = model(site), np.zeros((len(x_N), classes))
    if estimator.probabilities is not None:
        p_NK[:, [int(label) for label in estimator.labels]] = estimator.probabilities(x_N)
    return p_NK


@contextmanager
def served(sites: Path, *, labels_only: bool) -> Iterator[None]:
    """Serve the model of every black-box site in `sites` on a free loopback port, and enter its address in site.toml."""
    with ExitStack() as stack:
        for path in sorted(sites.glob("*/site.toml")):
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
            if "black_box" not in settings:
                continue
            server = serving.start(serving.Teacher(model(path.parent), labels_only=labels_only), "127.0.0.1:0")
            stack.callback(server.stop)
            settings["black_box"]["address"] = server.address
            write_durably(path, tomli_w.dumps(settings).encode())
        yield
