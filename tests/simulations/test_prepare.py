"""What a simulation puts into its folder: records at the sites alone, public inputs without their labels, policies that ask for no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limbeck.base.errors import RunError
from limbeck.client.policy import Policy
from limbeck.client.site import Site
from limbeck.protos import codec
from limbeck.simulations import data, prepare, scenario
from limbeck.simulations.scenario import Scenario

SIZES = ["data.private=120", "data.public=40", "data.test=30"]


def tiny(*overrides: str) -> Scenario:
    return scenario.load("digits-tiny", [*SIZES, *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared run."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    prepare.prepare(tiny(), folder)
    return folder


def test_every_private_record_is_at_one_site_with_its_label_and_nothing_else_is(folder: Path) -> None:
    found = data.load("digits", private=120, public=40, test=30, seed=tiny().run.seed)
    assert isinstance(found.private_x, np.ndarray)
    held = []
    for path in sorted(folder.glob("sites/*/records.npz")):
        with np.load(path) as file:
            assert sorted(file) == ["x", "y"]
            held += [(x.tobytes(), int(y)) for x, y in zip(file["x"], file["y"], strict=True)]
    expected = [(x.tobytes(), int(y)) for x, y in zip(found.private_x, found.private_y, strict=True)]
    assert sorted(held) == sorted(expected)


def test_the_transfer_set_is_the_public_inputs_without_their_labels(folder: Path) -> None:
    (path,) = (folder / "transfer").iterdir()
    with np.load(path) as file:
        assert list(file) == ["x"]
        assert np.array_equal(file["x"], data.load("digits", private=120, public=40, test=30, seed=tiny().run.seed).public_x)


def test_a_site_takes_this_author_alone_and_spends_what_the_scenario_says(folder: Path) -> None:
    offer = codec.decode_offer((folder / "plan.pb").read_bytes())
    for path in folder.glob("sites/*/site.toml"):
        own = Site(path.parent).policy()
        assert isinstance(own, Policy)
        assert list(own.plans.authors) == [offer.author.hex()]
        assert (own.budget.epsilon, own.teachers.allow_without_dp) == (8.0, False)


def test_sites_of_another_partition_or_seed_are_not_taken_over(folder: Path, tmp_path: Path) -> None:
    for change, named in (
        ("partition.clients=4", r"\[partition\]"),
        ("run.seed=5", "run.seed"),
        ("data.private=90", r"\[data\]"),
    ):
        with pytest.raises(RunError, match=f"Expected {named}"):
            prepare.prepare(tiny(change), tmp_path / "run", sites=folder / "sites")
    assert not (tmp_path / "run").exists()
