"""What every kind of teacher must do to be as private as its plan says: one list of checks, run against each of them.

A kind is described by a `Case`: its schedule, how records are made for it, and how its sums of clipped gradients are had. The oracle is a
plain loop over records with torch's autograd. Evidence has no gradients: its own checks are in `tests/client/test_evidence.py`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from helpers import tiny_encoder
from limbeck.client import teachers
from limbeck.client.noise import Noise, SystemEntropy, UnsafeSeeded
from limbeck.client.settings import Gradients
from limbeck.client.teachers import architectures, evidence, gradients, linear
from limbeck.client.teachers.architectures import Factory
from limbeck.client.teachers.evidence import Evidence
from limbeck.client.teachers.net import Net
from limbeck.inputs import encoders, features
from limbeck.inputs.tensors import tensors
from limbeck.plans import accounting
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, NetTeaching, Teaching
from limbeck.simulations import data

Inputs = NDArray[np.float32]


# Of rows by an encoder: with weights drawn at random, fewer numbers tell digits apart less well.
WIDTH = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class AnyCase:
    """One kind of teacher.

    inputs: "images", "rows", or "texts": the images' pixels as words, through an encoder.
    class_weights: of a plan; none: all records count alike.
    """

    teaching: Teaching
    inputs: str
    factory: Factory | None = None
    gradients_by: Gradients = "opacus"
    class_weights: tuple[float, ...] = ()

    @property
    def weight_of(self) -> Tensor:
        """(10,) by which a record of each class counts."""
        return torch.tensor(self.class_weights or (1.0,) * 10, dtype=torch.float64)

    def records(self, n: int) -> tuple[Inputs, NDArray[np.int64]]:
        """n digits, as images or as rows."""
        found = data.load("digits", private=max(n, 1), public=50, test=1)
        assert isinstance(found.private_x, np.ndarray)
        return self._shaped(found.private_x[:n]), found.private_y[:n]

    def public(self) -> Inputs:
        """50 other digits."""
        return self._shaped(data.load("digits", private=1, public=50, test=1).public_x)

    def _shaped(self, x_N: NDArray[np.generic]) -> Inputs:
        if self.inputs == "texts":
            return np.array([_encoded(image.tobytes()) for image in x_N], np.float32).reshape(len(x_N), WIDTH)
        scaled = x_N.astype(np.float32) / np.float32(255)
        return scaled if self.inputs == "images" else scaled.reshape(len(scaled), 64)

    def train(
        self,
        noise: Noise,
        n: int = 40,
        spoil: Callable[[Inputs], None] | None = None,
        **changes: Any,
    ) -> teachers.Teacher:
        """Train on n records. spoil: changes inputs in place. changes: of the schedule."""
        x_N, y_N = self.records(n)
        if spoil is not None:
            spoil(x_N)
        teaching = replace(self.teaching, **changes)
        return teachers.train(
            teaching,
            x_N,
            y_N,
            classes=10,
            public_x=self.public(),
            noise=noise,
            class_weights=self.class_weights,
            factory=self.factory,
            gradients_by=self.gradients_by,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Case(AnyCase):
    """One kind of teacher that is trained by clipped gradients."""

    teaching: LinearTeaching | NetTeaching


@dataclass(frozen=True, kw_only=True, eq=False)
class EvidenceCase(AnyCase):
    """Class sums of one kind of features."""

    teaching: EvidenceTeaching


@lru_cache(maxsize=1)
def _encoder() -> encoders.Encoder:
    with tempfile.TemporaryDirectory() as folder:
        model = str(tiny_encoder.make(Path(folder), hidden=WIDTH))
        own = encoders.describe(model, Path(), column="text", name="tiny", tokens=66)
        return encoders.open_encoder(own, model, Path())


@cache
def _encoded(pixels: bytes) -> NDArray[np.float32]:
    """The row of a text with a letter for every pixel: a, b or c."""
    return _encoder()(" ".join(chr(ord("a") + pixel // 86) for pixel in pixels))


class Silent:
    """A noise source that adds nothing, takes every record and remembers what it was asked."""

    label = "silent"

    def __init__(self) -> None:
        self.gaussians: list[tuple[tuple[int, ...], float]] = []
        self.whole: list[tuple[tuple[int, ...], Fraction]] = []
        self.uniforms: list[int] = []

    def gaussian(self, *shape: int, std: float) -> Tensor:
        self.gaussians.append((shape, std))
        return torch.zeros(shape)

    def discrete_gaussian(self, *shape: int, variance: Fraction) -> NDArray[np.int64]:
        self.whole.append((shape, variance))
        return np.zeros(shape, np.int64)

    def uniform(self, n: int) -> NDArray[np.float64]:
        self.uniforms.append(n)
        return np.zeros(n)

    def below(self, n: int) -> int:
        raise AssertionError("no teacher here draws integers")


class Tape(UnsafeSeeded):
    """Remembers what it gave, in order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.gaussians: list[Tensor] = []
        self.uniforms: list[NDArray[np.float64]] = []
        self._outermost = True

    def gaussian(self, *shape: int, std: float) -> Tensor:
        # Box and Muller's own uniform numbers are no sample of records.
        self._outermost = False
        self.gaussians.append(super().gaussian(*shape, std=std))
        self._outermost = True
        return self.gaussians[-1].clone()

    def uniform(self, n: int) -> NDArray[np.float64]:
        drawn = super().uniform(n)
        if self._outermost:
            self.uniforms.append(drawn.copy())
        return drawn


def weights(teacher: teachers.Teacher) -> Tensor:
    """All of a teacher's weights in one row."""
    if isinstance(teacher, linear.Linear):
        return torch.cat([teacher.weight_KD.flatten(), teacher.bias_K])
    if isinstance(teacher, Evidence):
        return teacher.weight_KD.flatten()
    assert isinstance(teacher, Net)
    return torch.cat([parameter.detach().flatten() for parameter in teacher.net.parameters()])


class AnyTeacher:
    """What every teacher must do; a test class inherits the checks and parametrises `case`."""

    def test_an_empty_data_set_trains_to_noise_like_any_other(self, case: AnyCase) -> None:
        teacher = case.train(SystemEntropy(), 0)
        assert float(weights(teacher).std()) > 0
        assert teacher.log_probabilities(case.public()).shape == (50, 10)

    def test_two_trainings_differ_unless_they_are_unsafely_seeded(self, case: AnyCase) -> None:
        assert not torch.equal(weights(case.train(SystemEntropy())), weights(case.train(SystemEntropy())))
        assert torch.equal(weights(case.train(UnsafeSeeded(1))), weights(case.train(UnsafeSeeded(1))))

    def test_global_generators_have_no_say_and_are_left_alone(self, case: AnyCase) -> None:
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            np.random.seed(seed)
            before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
            found.append(weights(case.train(UnsafeSeeded(1))))
            assert torch.equal(before[0], torch.get_rng_state())
            assert np.array_equal(before[1], np.random.get_state(legacy=False)["state"]["key"])
        assert torch.equal(found[0], found[1])
        torch.manual_seed(0)
        one = weights(case.train(SystemEntropy()))
        torch.manual_seed(0)
        assert not torch.equal(one, weights(case.train(SystemEntropy())))

    def test_a_records_answer_does_not_depend_on_the_others(self, case: AnyCase) -> None:
        """Batch normalisation would mix them."""
        teacher, public = case.train(SystemEntropy()), case.public()
        alone = torch.cat([teacher.log_probabilities(public[row : row + 1]) for row in range(5)])
        torch.testing.assert_close(teacher.log_probabilities(public)[:5], alone, atol=1e-5, rtol=1e-4)

    def test_a_saved_teacher_answers_the_same(self, case: AnyCase, tmp_path: Path) -> None:
        teacher, path = case.train(SystemEntropy()), tmp_path / "teacher.safetensors"
        teacher.save(path)
        again = teachers.load(path, factory=case.factory).log_probabilities(case.public())
        assert torch.equal(again, teacher.log_probabilities(case.public()))
        torch.testing.assert_close(again.exp().sum(-1), torch.ones(50))


class Conformance(AnyTeacher):
    """What teachers that are trained by clipped gradients must do besides."""

    def test_sums_of_clipped_gradients_equal_a_loop_over_records(self, case: Case) -> None:
        x_N, y_N = case.records(9)
        labels = torch.from_numpy(y_N)
        # Clip at the median norm, so that some records are clipped and some are not.
        _, norms = _oracle(case, x_N, labels, torch.inf)
        clip = float(np.median(norms))
        assert min(norms) < clip < max(norms)
        expected, _ = _oracle(case, x_N, labels, clip)
        for found, own in zip(_sums(case, x_N, labels, clip), expected, strict=True):
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, own.double(), atol=2e-5, rtol=1e-3)

    def test_one_record_moves_a_sum_by_at_most_the_clip(self, case: Case) -> None:
        x_N, y_N = case.records(6)
        x_N[5] *= 1000
        labels = torch.from_numpy(y_N)
        more, less = _sums(case, x_N, labels, 0.3), _sums(case, x_N[:5], labels[:5], 0.3)
        moved = torch.cat([(a - b).flatten() for a, b in zip(more, less, strict=True)]).norm()
        assert 0.1 < float(moved) <= 0.3 * (1 + 1e-4)

    def test_the_noise_has_the_standard_deviation_of_the_plan(self, case: Case) -> None:
        teaching = case.teaching
        one, none = (case.train(noise, 0, **_one_step(case)) for noise in (UnsafeSeeded(1), Silent()))
        moved = (weights(one) - weights(none)) / teaching.learning_rate * teaching.normaliser
        expected = teaching.clip * teaching.noise_multiplier
        # The standard error of a deviation over n weights is 1 / sqrt(2 n): 2 % at 1,300 weights.
        assert float(moved.std()) == pytest.approx(expected, rel=4 / (2 * len(moved)) ** 0.5)
        assert abs(float(moved.mean())) < 4 * expected / len(moved) ** 0.5

    def test_training_is_the_plain_loop_of_dp_sgd_with_fresh_noise_for_every_step_and_weight(self, case: Case) -> None:
        """Clip, scale of noise, order, momentum, averaging, balance: all of it, against a loop over records with autograd."""
        tape, n = Tape(7), 70 if isinstance(case.teaching, LinearTeaching) else 12
        steps: dict[str, Any] = (
            {"steps": 3, "average_last": 2} if isinstance(case.teaching, LinearTeaching) else {"steps": 3}
        )
        # Little noise, or it would hide the rest.
        changes = steps | {"noise_multiplier": 0.05, "normaliser": 40.0, "learning_rate": 0.3}
        found = weights(case.train(tape, n, **changes))
        expected = _plain_loop(case, replace(case.teaching, **changes), n, tape)
        torch.testing.assert_close(found, expected.float(), atol=3e-5, rtol=1e-3)
        values = torch.cat([noise.flatten() for noise in tape.gaussians])
        assert len(np.unique(values.numpy())) == len(values) == 3 * len(found)

    def test_every_weights_noise_is_independent_from_step_to_step(self, case: Case) -> None:
        """Over 16 steps the variance is 16 times that of one; the same noise again and again would make it 256 times. Level: 1e-9."""
        own = case.teaching
        last: dict[str, Any] = {"average_last": 1} if isinstance(own, LinearTeaching) else {}
        small = {"steps": 16, "momentum": 0.0, "learning_rate": 1e-3, **last}
        trained = [_parts(case.train(noise, 0, **small)) for noise in (SystemEntropy(), Silent())]
        for noisy, silent in zip(*trained, strict=True):
            moved = (noisy - silent).double().flatten() * own.normaliser / 1e-3 / (own.clip * own.noise_multiplier)
            statistic = float(moved.square().sum()) / 16
            # Weights are float32: what rounding took away is far below a per cent.
            assert stats.chi2.ppf(1e-9, len(moved)) * 0.99 < statistic < stats.chi2.isf(1e-9, len(moved)) * 1.01

    def test_one_record_moves_a_whole_training_step_by_at_most_the_clip(self, case: Case) -> None:
        """As the mechanism is run: everything between a record and the weights, not only the sum."""

        def large(x_N: Inputs) -> None:
            x_N *= 50

        last = {"average_last": 1} if isinstance(case.teaching, LinearTeaching) else {}
        for clip in (0.01, 0.5):
            changes: dict[str, Any] = {"steps": 1, "clip": clip, "learning_rate": 1.0, "normaliser": 1.0, **last}
            more, less = (weights(case.train(Silent(), n, large, **changes)).double() for n in (1, 0))
            assert 0.99 * clip < float((more - less).norm()) <= clip * (1 + 1e-5)

    def test_steps_are_those_that_the_ledger_counts(self, case: Case) -> None:
        noise = Silent()
        case.train(noise)
        event = accounting.event(case.teaching, None)
        tensors = len({shape for shape, _ in noise.gaussians[: len(noise.gaussians) // case.teaching.steps]})
        assert len(noise.gaussians) / case.teaching.steps == len(noise.gaussians) // case.teaching.steps >= tensors
        assert event.count == case.teaching.steps
        if isinstance(case.teaching, NetTeaching):
            assert len(noise.uniforms) == event.count
            assert event.event.sampling_probability == case.teaching.sampling_rate
            assert event.event.event.noise_multiplier == case.teaching.noise_multiplier
        else:
            assert noise.uniforms == []
            assert event.event.noise_multiplier == case.teaching.noise_multiplier

    def test_one_record_more_never_changes_the_schedule(self, case: Case) -> None:
        """Opacus would take rate, steps and normaliser from the number of records."""
        asked = []
        for n in (0, 1, 40, 41):
            noise = Silent()
            case.train(noise, n)
            asked.append(noise.gaussians)
            assert set(noise.uniforms) <= {n}
            assert {std for _, std in noise.gaussians} == {case.teaching.clip * case.teaching.noise_multiplier}
        assert asked[0] == asked[1] == asked[2] == asked[3]

    def test_the_normaliser_is_public(self, case: Case) -> None:
        """The same records twice, with an unchanged normaliser, move the weights twice as far."""
        x_N, y_N = case.records(20)

        def moved(times: int) -> Tensor:
            x, y = np.concatenate([x_N] * times), np.concatenate([y_N] * times)
            teaching = replace(case.teaching, **_one_step(case))
            options: dict[str, Any] = {"class_weights": case.class_weights, "factory": case.factory}
            after = teachers.train(teaching, x, y, classes=10, public_x=case.public(), noise=Silent(), **options)
            return weights(after) - weights(case.train(Silent(), 0, **_one_step(case)))

        torch.testing.assert_close(moved(2), 2 * moved(1), atol=1e-5, rtol=1e-3)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
    def test_a_record_that_is_not_finite_is_harmless_and_does_not_show(self, case: Case, value: float) -> None:
        """Without a defence it makes every weight NaN, and so tells that it is there."""

        def spoil(x_N: Inputs) -> None:
            x_N[3] = value

        found, clean = weights(case.train(Silent(), spoil=spoil)), weights(case.train(Silent()))
        assert bool(found.isfinite().all())
        # It moves the weights no further than any one record may: clip / normaliser each step, with momentum.
        own = case.teaching
        reach = own.steps * own.learning_rate * 2 * own.clip / own.normaliser / (1 - own.momentum)
        assert float((found - clean).norm()) <= reach * own.steps

    def test_it_learns(self, case: Case) -> None:
        x_N, y_N = case.records(300)
        changes: dict[str, Any] = {"steps": 80, "clip": 1.0, "noise_multiplier": 0.02, "learning_rate": _learning(case)}
        if isinstance(case.teaching, LinearTeaching):
            changes["average_last"] = 10
        teaching = replace(case.teaching, normaliser=300.0 * _rate(case), **changes)
        teacher = teachers.train(
            teaching, x_N, y_N, classes=10, public_x=case.public(), noise=UnsafeSeeded(2), factory=case.factory
        )
        assert float((teacher.log_probabilities(x_N).argmax(1).numpy() == y_N).mean()) > 0.8


class EvidenceConformance(AnyTeacher):
    """What noisy class sums must do besides. The oracle is a loop over records in Python's own integers."""

    def test_sums_equal_a_loop_over_records(self, case: EvidenceCase) -> None:
        x_N, y_N = case.records(9)
        expected = [[0.0] * len(line) for line in sums(case, x_N, y_N).tolist()]
        own, balance = case.teaching, _balance(case)
        for x, y in zip(x_N, y_N.tolist(), strict=True):
            f_1D = features.balanced(features.compute(own.features, x[None]), balance)
            steps = own.resolution * min(1.0, float(case.weight_of[y]))
            scale = steps * (1 - own.constant**2) ** 0.5 / math.sqrt(math.fsum(float(f) ** 2 for f in f_1D[0]))
            for place, f in enumerate(f_1D[0].tolist()):
                expected[y][place] += f * scale
            expected[y][-1] += own.constant * steps
        # A record's entries are rounded towards zero, and its norm up.
        assert abs(sums(case, x_N, y_N) - np.array(expected)).max() <= 2 * 9

    def test_one_record_moves_the_line_of_its_class_by_at_most_the_resolution(self, case: EvidenceCase) -> None:
        x_N, y_N = case.records(6)
        for factor in (1, 1000, 1e-6):
            x_N[5] *= np.float32(factor)
            moved = sums(case, x_N, y_N) - sums(case, x_N[:5], y_N[:5])
            steps = int(case.teaching.resolution * min(1.0, float(case.weight_of[y_N[5]])))
            square = sum(each**2 for each in moved[y_N[5]].tolist())
            assert (0.99 * steps) ** 2 < square <= steps**2
            assert not np.delete(moved, y_N[5], 0).any()

    def test_a_records_row_is_the_same_to_the_bit_wherever_it_is_and_whatever_the_others_are(
        self, case: EvidenceCase
    ) -> None:
        x_N, y_N = case.records(21)
        alone = [sums(case, x_N[at : at + 1], y_N[at : at + 1]) for at in range(21)]
        order, threads = np.random.default_rng(0).permutation(21), torch.get_num_threads()
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                for chosen in (order, order[3:], np.array([5, 5, 7])):
                    assert np.array_equal(sums(case, x_N[chosen], y_N[chosen]), sum(alone[at] for at in chosen))
        finally:
            torch.set_num_threads(threads)

    def test_noise_is_drawn_once_for_every_sum_as_the_ledger_counts_it(self, case: EvidenceCase) -> None:
        own, event = case.teaching, accounting.event(case.teaching, None)
        assert event.noise_multiplier == own.noise_multiplier
        for n in (0, 1, 40, 41):
            noise = Silent()
            case.train(noise, n)
            variance = (Fraction(own.noise_multiplier) * own.resolution) ** 2 + 4
            assert noise.whole == [((10, len(_balance(case).mean_D) + 1), variance)]
            assert not noise.gaussians
            assert not noise.uniforms

    def test_weights_are_a_function_of_sums_and_noise_and_public_values(self, case: EvidenceCase) -> None:
        x_N, y_N = case.records(40)
        own = case.teaching
        noisy_KD = sums(case, x_N, y_N)
        noisy_KD += UnsafeSeeded(7).discrete_gaussian(
            *noisy_KD.shape, variance=(Fraction(own.noise_multiplier) * own.resolution) ** 2 + 4
        )
        f_ND = features.unit_rows(features.compute(own.features, case.public()), _balance(case), own.constant).astype(float)
        e_D, v_DD = np.linalg.eigh(f_ND.T @ f_ND / len(f_ND))
        e_D = e_D.clip(0)
        gain_D = e_D / (e_D**2 + own.ridge * e_D + own.noise_to_signal) if own.noise_to_signal else 1 / (e_D + own.ridge)
        expected = noisy_KD @ (v_DD * gain_D) @ v_DD.T * 10 / own.resolution / own.normaliser
        found = weights(case.train(UnsafeSeeded(7))).numpy()
        np.testing.assert_allclose(found, expected.ravel(), rtol=1e-6, atol=1e-8 * abs(expected).max())

    def test_records_that_occur_twice_count_twice(self, case: EvidenceCase) -> None:
        """So the normaliser is public."""
        x_N, y_N = case.records(12)
        twice = sums(case, np.concatenate([x_N] * 2), np.concatenate([y_N] * 2))
        assert np.array_equal(twice, 2 * sums(case, x_N, y_N))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_record_that_is_not_finite_counts_as_none(self, case: EvidenceCase, value: float) -> None:
        x_N, y_N = case.records(12)
        x_N[3].flat[2] = value
        assert np.array_equal(sums(case, x_N, y_N), sums(case, np.delete(x_N, 3, 0), np.delete(y_N, 3)))

    def test_it_learns(self, case: EvidenceCase) -> None:
        x_N, y_N = case.records(300)
        alike = replace(case, class_weights=())
        teacher = alike.train(UnsafeSeeded(2), 300, noise_multiplier=0.1, normaliser=300.0)
        # 50 public inputs say little of the directions of an encoder that was drawn at random.
        least = 0.5 if case.inputs == "texts" else 0.8
        assert float((teacher.log_probabilities(x_N).argmax(1).numpy() == y_N).mean()) > least


def sums(case: EvidenceCase, x_N: Inputs, y_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The code under test: before noise."""
    steps = [int(case.teaching.resolution * min(1.0, weight)) for weight in case.weight_of.tolist()]
    return evidence.class_sums(case.teaching, x_N, y_N, _balance(case), np.array(steps))


def _balance(case: EvidenceCase) -> features.Balance:
    return features.balance(case.teaching.features, features.compute(case.teaching.features, case.public()))


def _plain_loop(case: Case, teaching: LinearTeaching | NetTeaching, n: int, tape: Tape) -> Tensor:
    """The weights after DP-SGD with the tape's samples and noise."""
    x_N, y_N = case.records(n)
    labels, drawn = torch.from_numpy(y_N), iter(tape.gaussians)
    linear_kind = isinstance(teaching, LinearTeaching)
    if linear_kind:
        inputs = _linear_inputs(case, x_N)[0].double()
        parameters = [torch.zeros(10, inputs.shape[1], dtype=torch.float64)]
    else:
        inputs, net = tensors(x_N), _net(case).train()
        parameters = [parameter.detach() for parameter in net.parameters()]
    velocity = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    kept = []
    for step in range(teaching.steps):
        rows = range(n)
        if isinstance(teaching, NetTeaching):
            rows = np.flatnonzero(tape.uniforms[step] < teaching.sampling_rate)  # type: ignore[assignment]
        totals = [torch.zeros_like(moving) for moving in velocity]
        for row in rows:
            own = [parameter.clone().requires_grad_() for parameter in parameters]
            if linear_kind:
                logits = (own[0] @ inputs[row])[None]
            else:
                names = [name for name, _ in net.named_parameters()]
                logits = torch.func.functional_call(net, dict(zip(names, own, strict=True)), (inputs[row : row + 1],))
            gradient = torch.autograd.grad(nn.functional.cross_entropy(logits, labels[row : row + 1]), own)
            counts = float(case.weight_of[y_N[row]])
            norm = counts * float(torch.stack([part.double().norm() for part in gradient]).norm())
            for total, part in zip(totals, gradient, strict=True):
                total.add_(part.double(), alpha=counts * min(1.0, teaching.clip / norm))
        for parameter, total, moving in zip(parameters, totals, velocity, strict=True):
            moving.mul_(teaching.momentum).add_((total + next(drawn)) / teaching.normaliser)
            parameter.sub_(teaching.learning_rate * moving)
        kept.append(torch.cat([parameter.flatten() for parameter in parameters]).clone())
    assert next(drawn, None) is None
    if not isinstance(teaching, LinearTeaching):
        return kept[-1]
    mean_KD = torch.stack(kept[-teaching.average_last :]).mean(0).view(10, -1)
    return torch.cat([mean_KD[:, :-1].flatten(), mean_KD[:, -1]])


def _parts(teacher: teachers.Teacher) -> list[Tensor]:
    """A teacher's weights, tensor by tensor."""
    if isinstance(teacher, linear.Linear):
        return [teacher.weight_KD, teacher.bias_K]
    assert isinstance(teacher, Net)
    return [parameter.detach() for parameter in teacher.net.parameters()]


def _one_step(case: Case) -> dict[str, Any]:
    return {"steps": 1, "average_last": 1} if isinstance(case.teaching, LinearTeaching) else {"steps": 1}


def _rate(case: Case) -> float:
    return case.teaching.sampling_rate if isinstance(case.teaching, NetTeaching) else 1.0


def _learning(case: Case) -> float:
    return 0.3 if isinstance(case.teaching, NetTeaching) else 4.0


def _net(case: Case) -> nn.Module:
    assert isinstance(case.teaching, NetTeaching)
    shape = tuple(tensors(case.public()).shape[1:])
    return architectures.build(case.teaching.architecture, shape, 10, case.factory)


def _linear_inputs(case: Case, x_N: Inputs) -> tuple[Tensor, Tensor]:
    """Features with a 1 for the bias, and weights that are not zero, so that gradients differ."""
    assert isinstance(case.teaching, LinearTeaching)
    balance = features.balance(case.teaching.features, features.compute(case.teaching.features, case.public()))
    f_ND = features.normalise(features.compute(case.teaching.features, x_N), case.teaching.feature_norm, balance)
    x_ND = nn.functional.pad(torch.from_numpy(f_ND), (0, 1), value=1.0)
    return x_ND, torch.randn(10, x_ND.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _sums(case: Case, x_N: Inputs, labels: Tensor, clip: float) -> list[Tensor]:
    """The code under test."""
    weight_K = case.weight_of if case.class_weights else None
    if isinstance(case.teaching, LinearTeaching):
        x_ND, weight = _linear_inputs(case, x_N)
        return [linear.clipped_sum(weight, x_ND, linear.norms(x_ND), labels, clip, weight_K)]
    own = gradients.engine(_net(case), trusted=case.factory is None, by=case.gradients_by, class_weight_K=weight_K)
    return own.clipped_sums(tensors(x_N), labels, clip)


def _oracle(case: Case, x_N: Inputs, labels: Tensor, clip: float) -> tuple[list[Tensor], list[float]]:
    """Record by record with plain autograd: the sums, and each record's norm before clipping."""
    if isinstance(case.teaching, LinearTeaching):
        x_ND, weight = _linear_inputs(case, x_N)
        parameters: list[Tensor] = [weight.requires_grad_()]
        losses = [nn.functional.cross_entropy(weight @ x.double(), y) for x, y in zip(x_ND, labels, strict=True)]
    else:
        net = _net(case)
        parameters = list(net.parameters())
        inputs = tensors(x_N)
        losses = [nn.functional.cross_entropy(net(inputs[i : i + 1]), labels[i : i + 1]) for i in range(len(labels))]
    totals, norms = [torch.zeros_like(parameter) for parameter in parameters], []
    for loss, label in zip(losses, labels, strict=True):
        own = torch.autograd.grad(loss * case.weight_of[label], parameters)
        norms.append(float(torch.stack([gradient.norm() for gradient in own]).norm()))
        for total, gradient in zip(totals, own, strict=True):
            total.add_(gradient * min(1.0, clip / norms[-1]))
    return totals, norms
