"""Features are fixed public functions; scattering has the properties that its docstring states."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers import fourier
from helpers.plans import LINEAR
from limbeck.base.errors import DataError, SettingError
from limbeck.client import teachers
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.teachers import evidence, linear
from limbeck.inputs import features, scattering
from limbeck.plans.schema import EvidenceTeaching, Teaching, VotesTeaching
from limbeck.simulations import data

Images = NDArray[np.generic]


def images_of(name: str, n: int) -> Images:
    found = data.load(name, private=n, public=1, test=1).private_x
    assert isinstance(found, np.ndarray)
    return found


def fashion(n: int = 12) -> NDArray[np.float32]:
    return images_of("fashion-mnist-part", n).astype(np.float32) / np.float32(255)


def test_a_28_pixel_image_has_81_paths_of_7_by_7() -> None:
    assert scattering.scatter(fashion(3)).shape == (3, 81, 7, 7)
    assert scattering.scatter(np.zeros((0, 28, 28), np.float32)).shape == (0, 81, 7, 7)


def test_wavelets_have_no_mean_so_a_flat_image_has_none_of_them() -> None:
    assert max(abs(float(band[0, 0])) for _, band in scattering.wavelets(36, 36, 2)) < 1e-6


@pytest.mark.parametrize(("shape", "scales"), [((4, 4), 1), ((8, 8), 1), ((16, 11), 1), ((28, 28), 2), ((17, 30), 2)])
def test_coefficients_are_those_of_the_definition(shape: tuple[int, int], scales: int) -> None:
    images = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    expected = np.stack([fourier.scatter(image, scales) for image in images])
    np.testing.assert_allclose(scattering.scatter(images, scales=scales), expected, atol=2e-6)


def test_energy_does_not_grow() -> None:
    images = fashion()
    # Coefficients live on a grid of every 4th pixel, so each stands for 16.
    energy = 16 * np.square(scattering.scatter(images)).sum((1, 2, 3))
    assert (energy <= np.square(images).sum((1, 2)) * 1.05).all()


def test_a_shift_by_one_pixel_changes_scattering_less_than_pixels() -> None:
    images = fashion()
    shifted = np.roll(images, 1, axis=2)

    def change(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        return float(np.linalg.norm(a - b) / np.linalg.norm(a))

    assert change(scattering.scatter(images), scattering.scatter(shifted)) < 0.6 * change(images, shifted)


def test_the_batch_does_not_matter() -> None:
    images = fashion(70)
    np.testing.assert_allclose(scattering.scatter(images)[66], scattering.scatter(images[66:67])[0], atol=1e-5)


def test_public_features_are_computed_once_and_come_back_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of("digits", 5)
    first = features.compute("pixels", images, cache=tmp_path)
    monkeypatch.setitem(features.FEATURES, "pixels", lambda _: pytest.fail("computed twice"))
    np.testing.assert_array_equal(features.compute("pixels", images, cache=tmp_path), first)


def test_private_features_are_not_kept(tmp_path: Path) -> None:
    features.compute("pixels", images_of("digits", 5))
    assert list(tmp_path.iterdir()) == []


def test_rows_are_scaled_one_by_one_and_broken_ones_vanish() -> None:
    rows = np.array([[3.0, 4.0], [np.nan, 1.0], [0.0, 0.0], [np.inf, 1.0]], np.float32)
    plain = features.Balance(mean_D=np.zeros(2, np.float32), weight_D=np.ones(2, np.float32))
    np.testing.assert_allclose(features.normalise(rows, 10.0, plain), [[6, 8], [0, 0], [0, 0], [0, 0]])


def test_scattering_and_hog_are_divided_by_the_root_of_their_public_deviations_and_a_still_feature_does_not_rule() -> None:
    public = np.array([[0, 0, 1], [32, 2, 1], [0, 2, 1], [32, 0, 1]], np.float32)
    deviations, typical = np.array([16, 1, 0]), np.sqrt((16**2 + 1**2) / 3)
    for name in ("scattering", "hog"):
        found = features.balance(name, public)
        np.testing.assert_allclose(found.mean_D, [16, 1, 1])
        np.testing.assert_allclose(found.weight_D, 1 / np.sqrt(np.hypot(deviations / typical, 0.1)), rtol=1e-6)


def test_pixels_and_encoded_rows_are_only_centred_and_constant_public_features_change_nothing() -> None:
    public = np.array([[0, 0], [32, 2]], np.float32)
    for name in ("pixels", "rows"):
        np.testing.assert_array_equal(features.balance(name, public).weight_D, [1, 1])
    np.testing.assert_array_equal(features.balance("hog", np.ones((3, 2), np.float32)).weight_D, [1, 1])


@pytest.mark.parametrize("name", ["pixels", "hog", "scattering"])
@pytest.mark.parametrize("side", [8, 28])
def test_a_records_features_are_the_same_to_the_last_bit_whatever_the_other_records_are(name: str, side: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (70, side, side), dtype=np.uint8)
    whole, kept = features.compute_each(name, images), np.delete(np.arange(70), 5)
    balance = features.balance(name, whole)
    np.testing.assert_array_equal(features.compute_each(name, images[kept]), whole[kept])
    np.testing.assert_array_equal(features.compute_each(name, images[66:67]), whole[66:67])
    np.testing.assert_array_equal(
        features.normalise(whole[kept], 4.0, balance), features.normalise(whole, 4.0, balance)[kept]
    )


@pytest.mark.parametrize("n", [1, 59, 60, 61, 500])
@pytest.mark.parametrize("name", ["rows", "scattering", "hog", "pixels"])
def test_features_of_private_records_are_balanced_by_public_inputs_alone_however_many_there_are(name: str, n: int) -> None:
    """Of any record, what the teacher is trained on is a function of that record and of public inputs."""
    generator = np.random.default_rng(n)
    shape = (3,) if name == "rows" else (8, 8)
    public, x_N = (generator.normal(size=(own, *shape)).astype(np.float32) for own in (9, n))
    y_N = np.arange(n) % 2
    expected = features.balance(name, features.compute(name, public))
    shown: list[features.Rows] = []

    class Nothing(UnsafeSeeded):
        def gaussian(self, *shape: int, std: float) -> Tensor:
            return torch.zeros(shape)

    with pytest.MonkeyPatch.context() as patch:
        own = linear.with_one

        def with_one(f_ND: features.Rows) -> Tensor:
            shown.append(f_ND)
            return own(f_ND)

        patch.setattr(linear, "with_one", with_one)
        teaching = replace(LINEAR, features=name, steps=1, average_last=1)
        teacher = linear.train(teaching, x_N, y_N, classes=2, public_x=public, noise=Nothing(0))
    np.testing.assert_array_equal(teacher.balance.mean_D, expected.mean_D)
    np.testing.assert_array_equal(teacher.balance.weight_D, expected.weight_D)
    alone = [
        features.normalise(features.compute_each(name, x_N[row : row + 1]), LINEAR.feature_norm, expected)
        for row in range(n)
    ]
    np.testing.assert_array_equal(shown[0], np.concatenate(alone))


def test_unknown_features_and_rows_for_images_are_refused() -> None:
    with pytest.raises(SettingError, match="scattering"):
        features.compute("wavelets", np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(DataError, match="grey images"):
        features.compute("hog", np.zeros((1, 8), np.float32))


def test_scattering_of_records_is_one_program_and_an_images_place_in_it_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing promises that the last bits of a transform of several images do not depend on their number and order."""
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    images[7] = images[3]
    own, places = features._scattering, dict[bytes, int]()
    assert features.compute_each("scattering", images[:0]).shape == (0, own(images).shape[1])

    def noted(x_N: np.ndarray) -> features.Rows:
        assert x_N.shape == (features.SLOTS, 8, 8)
        for place, image in enumerate(x_N):
            if image.any():
                assert places.setdefault(image.tobytes(), place) == place
        return own(x_N)

    whole = features.compute("scattering", images)
    balance = features.balance("scattering", whole)
    monkeypatch.setattr(features, "_scattering", noted)
    monkeypatch.setitem(features.FEATURES, "scattering", noted)
    teaching = EvidenceTeaching(
        features="scattering", constant=0.3, normaliser=1.0, ridge=0.1, noise_multiplier=1.0, resolution=1 << 16
    )
    for chosen in (np.arange(30), np.arange(29, 3, -1), np.array([5])):
        np.testing.assert_allclose(features.compute_each("scattering", images[chosen]), whole[chosen], rtol=1e-5, atol=1e-6)
        evidence.class_sums(teaching, images[chosen], np.zeros(len(chosen), np.int64), balance, np.array([1 << 16]))
    assert len(places) == 29
    assert len(set(places.values())) > 1


@pytest.mark.parametrize("kind", ["linear", "votes", "evidence"])
def test_no_teacher_computes_features_of_records_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    public_x, x_N = (generator.integers(0, 256, (20, 8, 8), dtype=np.uint8) for _ in range(2))
    teachings: dict[str, Teaching] = {
        "linear": replace(LINEAR, features="scattering", steps=1, average_last=1),
        "votes": VotesTeaching(
            teachers=2,
            queries=20,
            features="scattering",
            feature_norm=4.0,
            steps=1,
            learning_rate=0.5,
            momentum=0.9,
            noise_multiplier=1.0,
        ),
        "evidence": EvidenceTeaching(
            features="scattering", constant=0.3, normaliser=20.0, ridge=0.1, noise_multiplier=1.0, resolution=1 << 16
        ),
    }
    together: list[np.ndarray] = []
    compute = features.compute

    def noted(name: str, x_N: np.ndarray, *, cache: Path | None = None) -> features.Rows:
        together.append(x_N)
        return compute(name, x_N, cache=cache)

    monkeypatch.setattr(features, "compute", noted)
    teachers.train(teachings[kind], x_N, np.arange(20) % 2, classes=2, public_x=public_x, noise=UnsafeSeeded(0))
    assert together
    assert all(np.array_equal(each, public_x) for each in together)
