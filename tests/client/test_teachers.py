"""Teachers are DP as their docstrings say: clipping, noise, steps and normaliser, whatever the records are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LINEAR
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy, UnsafeSeeded
from limbeck.client.teachers import cnn, linear
from limbeck.operators.errors import DataError
from limbeck.protos.messages import CnnTeaching, Teaching
from limbeck.simulations import data

CNN = CnnTeaching(
    sampling_rate=0.5,
    steps=4,
    learning_rate=0.5,
    momentum=0.9,
    clip=0.1,
    noise_multiplier=1.0,
    normaliser=20.0,
    physical_batch=16,
)
BOTH = [pytest.param(replace(LINEAR, steps=4, average_last=2), id="linear"), pytest.param(CNN, id="cnn")]


class Recorder:
    """A noise source that adds nothing and remembers what it was asked."""

    label = "recorder"

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], float]] = []

    def gaussian(self, *shape: int, std: float) -> Tensor:
        self.asked.append((shape, std))
        return torch.zeros(shape)

    def uniform(self, n: int) -> NDArray[np.float64]:
        return np.zeros(n)


def digits(n: int = 40) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    found = data.load("digits", private=n, public=50, test=1)
    return found.private_x, found.private_y, found.public_x


def train(teaching: Teaching, noise: object, n: int = 40, spoil: Callable[..., None] | None = None) -> teachers.Teacher:
    x_N, y_N, public_x = digits(n)
    x_N = x_N.astype(np.float32) / 255
    if spoil is not None:
        spoil(x_N)
    return teachers.train(teaching, x_N, y_N, classes=10, public_x=public_x.astype(np.float32) / 255, noise=noise)  # type: ignore[arg-type]


def test_the_linear_clipped_sum_equals_a_loop_over_records() -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND, y_N = torch.randn(12, 5, generator=generator) * 2, torch.arange(12) % 4
    weight = torch.randn(4, 5, generator=generator)
    expected = torch.zeros(4, 5)
    for x, y in zip(x_ND, y_N, strict=True):
        own = weight.clone().requires_grad_()
        nn.functional.cross_entropy(own @ x, y).backward()
        assert own.grad is not None
        expected += own.grad * min(1.0, 0.8 / float(own.grad.norm()))
    found = linear.clipped_sum(weight, x_ND, x_ND.norm(dim=1), y_N, 0.8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_convolutional_clipped_sums_equal_a_loop_over_records() -> None:
    from opacus import GradSampleModule

    x_N, y_N, _ = digits(10)
    images, labels = torch.from_numpy(x_N.astype(np.float32) / 255).unsqueeze(1), torch.from_numpy(y_N)
    plain = cnn.build(8, 8, 10)
    wrapped = GradSampleModule(cnn.build(8, 8, 10), loss_reduction="sum")
    found = cnn.clipped_sums(wrapped, list(wrapped.parameters()), images, labels, replace(CNN, physical_batch=4, clip=0.5))
    expected = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    for row in range(10):
        plain.zero_grad()
        nn.functional.cross_entropy(plain(images[row : row + 1]), labels[row : row + 1]).backward()
        gradients = [parameter.grad for parameter in plain.parameters() if parameter.grad is not None]
        norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
        assert norm > 0.5
        for total, gradient in zip(expected, gradients, strict=True):
            total.add_(gradient * 0.5 / norm)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("teaching", BOTH)
def test_noise_has_the_standard_deviation_and_the_steps_of_the_schedule_whatever_the_number_of_records(
    teaching: Teaching,
) -> None:
    schedules = []
    for n in (0, 1, 40, 41):
        noise = Recorder()
        train(teaching, noise, n)
        schedules.append(noise.asked)
        assert {std for _, std in noise.asked} == {teaching.clip * teaching.noise_multiplier}
        assert len(noise.asked) % teaching.steps == 0
    assert all(asked == schedules[0] for asked in schedules)


@pytest.mark.parametrize("teaching", BOTH)
def test_the_noise_reaches_the_weights_undiluted(teaching: Teaching) -> None:
    class Ones(Recorder):
        def gaussian(self, *shape: int, std: float) -> Tensor:
            return torch.full(shape, std)

    one_step = replace(teaching, steps=1, **({"average_last": 1} if teaching is not CNN else {}))  # type: ignore[type-var]
    with_noise, without = train(one_step, Ones(), 0), train(one_step, Recorder(), 0)
    moved = _weights(without) - _weights(with_noise)
    expected = teaching.learning_rate * teaching.clip * teaching.noise_multiplier / teaching.normaliser
    torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-4, atol=1e-7)


def _weights(teacher: teachers.Teacher) -> Tensor:
    if isinstance(teacher, linear.Linear):
        return torch.cat([teacher.weight_KD.flatten(), teacher.bias_K])
    assert isinstance(teacher, cnn.Cnn)
    return torch.cat([parameter.detach().flatten() for parameter in teacher.net.parameters()])


@pytest.mark.parametrize("teaching", BOTH)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_record_that_is_not_finite_spoils_nothing(teaching: Teaching, value: float) -> None:
    def spoil(x_N: NDArray[np.float32]) -> None:
        x_N[3, 2, 2] = value

    assert bool(_weights(train(teaching, Recorder(), spoil=spoil)).isfinite().all())


@pytest.mark.parametrize("teaching", BOTH)
def test_two_trainings_differ_unless_they_are_unsafely_seeded(teaching: Teaching) -> None:
    assert not torch.equal(_weights(train(teaching, SystemEntropy())), _weights(train(teaching, SystemEntropy())))
    assert torch.equal(_weights(train(teaching, UnsafeSeeded(1))), _weights(train(teaching, UnsafeSeeded(1))))


@pytest.mark.parametrize("teaching", BOTH)
def test_a_saved_teacher_answers_the_same(teaching: Teaching, tmp_path: Path) -> None:
    teacher = train(teaching, SystemEntropy())
    teacher.save(tmp_path / "teacher.safetensors")
    x_N, _, _ = digits()
    again = teachers.load(tmp_path / "teacher.safetensors").log_probabilities(x_N)
    assert torch.equal(again, teacher.log_probabilities(x_N))
    torch.testing.assert_close(again.exp().sum(-1), torch.ones(40))


def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"nothing")
    with pytest.raises(DataError, match="Expected a teacher"):
        teachers.load(tmp_path / "t")


@pytest.mark.parametrize("features", ["pixels", "hog", "scattering"])
def test_a_linear_teacher_learns_digits_under_mild_noise(features: str) -> None:
    found = data.load("digits", private=900, public=300, test=397)
    teaching = replace(LINEAR, features=features, noise_multiplier=1.0, normaliser=900.0)
    teacher = teachers.train(
        teaching, found.private_x, found.private_y, classes=10, public_x=found.public_x, noise=SystemEntropy()
    )
    accuracy = (teacher.log_probabilities(found.test_x).argmax(1).numpy() == found.test_y).mean()
    assert accuracy > (0.75 if features == "hog" else 0.88)


def test_a_convolutional_teacher_learns_digits_under_mild_noise() -> None:
    found = data.load("digits", private=900, public=300, test=397)
    teaching = replace(
        CNN,
        sampling_rate=0.1,
        steps=120,
        normaliser=90.0,
        noise_multiplier=0.3,
        clip=0.5,
        learning_rate=1.0,
        physical_batch=256,
    )
    teacher = teachers.train(
        teaching, found.private_x, found.private_y, classes=10, public_x=found.public_x, noise=SystemEntropy()
    )
    accuracy = (teacher.log_probabilities(found.test_x).argmax(1).numpy() == found.test_y).mean()
    assert accuracy > 0.7
