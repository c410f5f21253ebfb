"""From a cell and a seed to a setting: the very records, partition and public inputs of a limbeck run that is prepared for it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import RunError
from limbeck.client.site import Site
from limbeck.experiments.baselines.contract import FEATURE_NORM, Records, Rows, Setting
from limbeck.experiments.baselines.suites import Cell
from limbeck.inputs import features
from limbeck.inputs.transfer_set import read_arrays
from limbeck.simulations import central, prepare
from limbeck.simulations.measure import Truth

# Of the public inputs, the part whose labels are used, and for nothing but choosing; methods never see it.
HELD_OUT = 0.3
# Features that are worth keeping.
SLOW = ("scattering", "hog")


def prepared(cell: Cell, seed: int, folder: Path) -> Path:
    """The folder of a limbeck run of a cell and a seed within that of a benchmark, prepared if it was not yet.

    Raises: RunError if there is a run of other settings.
    """
    run = folder / "runs" / cell.folder / f"seed-{seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    scenario = cell.loaded(seed)
    with locked(run, "lock"):
        if not (run / "scenario.json").exists():
            # What was not prepared to the end: nothing has run there.
            shutil.rmtree(run, ignore_errors=True)
            cache = folder / "cache"
            cache.mkdir(exist_ok=True)
            run.mkdir()
            # Features of public and test inputs are the same in every run.
            (run / "cache").symlink_to(cache.absolute(), target_is_directory=True)
            prepare.prepare(scenario, run)
        had = prepare.read_prepared(run)[0].model_dump(exclude={"partition"})
    if had != scenario.model_dump(exclude={"partition"}):
        raise RunError(
            f"Expected a run of {cell.name}, seed {seed}, in {run}, got one of other settings; give another --out."
        )
    return run


@contextmanager
def locked(run: Path, what: str) -> Iterator[None]:
    """Wait until no other process is at this run. what: it does, and how the lock's file, beside the run's folder, ends."""
    with run.with_name(f"{run.name}.{what}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# As many as the seeds of a choice, which come in turn for every method.
@lru_cache(maxsize=5)
def of(cell: Cell, seed: int, folder: Path) -> Setting:
    """The setting of a cell and a seed, for the final figures. folder: of the benchmark."""
    run = prepared(cell, seed, folder)
    scenario, plan, sites = prepare.read_prepared(run)
    truth, cache = Truth(run), folder / "cache"
    (public_x,) = read_arrays(run / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    members = [Site(path.parent) for path in sorted(sites.glob("*/site.toml"))]
    found = [site.records.find(plan.classes, public_x) for site in members]
    name = scenario.teacher.features
    raw = features.compute(name, public_x, cache=cache)
    balance = features.balance(name, raw)
    public = features.normalise(raw, FEATURE_NORM, balance)
    private = features.normalise(
        in_any_order(name, np.concatenate([each.x_N for each in found]), cache), FEATURE_NORM, balance
    )
    parts = np.split(private, np.cumsum([len(each.y_N) for each in found])[:-1])
    return Setting(
        sites=tuple(Records(x_ND=x_ND, y_N=each.y_N) for x_ND, each in zip(parts, found, strict=True)),
        records_per_site=len(private) / len(found),
        public_ND=public,
        test_ND=features.normalise(features.compute(name, truth.test_x, cache=cache), FEATURE_NORM, balance),
        test_N=truth.test_y.astype(np.int64),
        classes=plan.classes,
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        seed=seed,
        noise=central.noise_of("baselines", scenario),
        folder=run,
    )


def for_choice(cell: Cell, seed: int, folder: Path) -> Setting:
    """The same, measured on labelled public inputs that no method sees; test data are not in it.

    Raises: RunError if too few public inputs have a label.
    """
    whole = of(cell, seed, folder)
    assert whole.folder is not None
    public_y = Truth(whole.folder).public_y
    labelled = np.flatnonzero(public_y >= 0)
    held = np.random.default_rng(seed).permutation(labelled)[: round(HELD_OUT * len(labelled))]
    if len(held) < whole.classes:
        raise RunError(f"Expected public inputs with labels to choose settings by, got {len(labelled)}.")
    others = np.setdiff1d(np.arange(len(public_y)), held)
    return replace(
        whole, public_ND=whole.public_ND[others], test_ND=whole.public_ND[held], test_N=public_y[held], folder=None
    )


def in_any_order(name: str, x_N: NDArray[np.generic], cache: Path) -> Rows:
    """Features of records, kept if they take long to compute: only in a simulation may they be.

    They are kept in an order that does not depend on who holds which, so that every partition of the same records finds them.
    """
    if name not in SLOW:
        return features.compute(name, x_N)
    order = _canonical([each.tobytes() for each in x_N])
    rows = np.empty_like(sorted_ND := features.compute(name, x_N[order], cache=cache))
    rows[order] = sorted_ND
    return rows


def _canonical(keys: Sequence[bytes]) -> NDArray[np.intp]:
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.intp)
