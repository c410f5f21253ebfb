"""A student on scattering computes the features that teachers have, by products of matrices, in torch and in its file alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.plans import PLAN
from limbeck.base.errors import SettingError
from limbeck.inputs import features
from limbeck.inputs.scattering import Scattering
from limbeck.inputs.sessions import open_session
from limbeck.server import checkpoint, distil, graph, refining, scattered, student
from limbeck.server.pruning import Masks
from limbeck.server.scattered import NORM, Coefficients, OnScattering

CPU = torch.device("cpu")


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def on_scattering(model: torch.nn.Module) -> OnScattering:
    assert isinstance(model, student.Scaled)
    assert isinstance(model.body, OnScattering)
    return model.body


def test_its_balance_is_that_of_the_public_inputs_and_is_stored_with_the_weights(tmp_path: Path) -> None:
    x_N = images(70, 8, 8)
    model = student.build("scattering-linear", (8, 8), 10, 1)
    targets = torch.full((70, 10), 0.1)
    masks = Masks.ones(model)
    settings = replace(PLAN.student, architecture="scattering-linear", epochs=1)

    def stage(number: int, x_N: torch.Tensor, sparsity: float) -> None:
        distil.distil_stage(
            model,
            masks,
            x_N,
            targets[: len(x_N)],
            stage=number,
            sparsity=sparsity,
            temperature=1.0,
            student=settings,
            seed=1,
            device=CPU,
        )

    stage(0, x_N, 0.0)
    raw = features.compute("scattering", x_N.numpy())
    expected = features.normalise(raw, NORM, features.balance("scattering", raw))
    np.testing.assert_allclose(on_scattering(model).of(x_N).numpy(), expected, atol=1e-4)
    # Later stages change nothing of it; the trained part alone is pruned.
    stage(1, x_N[:30], 0.75)
    np.testing.assert_allclose(on_scattering(model).of(x_N).numpy(), expected, atol=1e-4)
    assert {name for name, _ in model.named_parameters()} == {"body.head.weight", "body.head.bias"}
    assert float((model.get_parameter("body.head.weight") == 0).float().mean()) == pytest.approx(0.75, abs=1e-3)
    saved = checkpoint.load(checkpoint.save_stage(tmp_path, 1, model, masks, targets))
    assert saved is not None
    fresh = student.build("scattering-linear", (8, 8), 10, 2)
    checkpoint.restore(saved, fresh, masks)
    assert torch.equal(distil.predict(fresh, x_N), distil.predict(model, x_N))


def test_training_on_features_is_training_through_the_images() -> None:
    """Features are computed once where nothing changes them: the steps are the same."""
    x_N, targets = images(64, 8, 8), images(64, 10, seed=1).softmax(-1)
    trained = []
    for through in (False, True):
        model = student.build("scattering-mlp", (8, 8), 10, 1)
        if through:
            whole = on_scattering(model)
            whole.fit(x_N)
            body = torch.nn.Sequential(whole.scattering, whole.balanced, whole.head)
            model = student.Scaled(body, images=False)
        distil.distil_stage(
            model,
            Masks.ones(model),
            x_N,
            targets,
            stage=0,
            sparsity=0.5,
            temperature=1.0,
            student=replace(PLAN.student, epochs=3, learning_rate=1e-2),
            seed=1,
            device=CPU,
        )
        trained.append([weight.detach() for weight in model.parameters()])
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_its_file_takes_images_and_gives_what_torch_gives() -> None:
    model = student.build("scattering-mlp", (28, 28), 10, 1).eval()
    x_N = images(5, 28, 28)
    on_scattering(model).fit(x_N)
    session = open_session(graph.of(model, (28, 28), 10).SerializeToString())
    (found,) = session.run(None, {"inputs": x_N.numpy()})
    np.testing.assert_allclose(found, model(x_N).softmax(-1).detach().numpy(), atol=1e-5)
    (empty,) = session.run(None, {"inputs": np.zeros((1, 28, 28), np.float32)})
    assert np.isfinite(empty).all()


def test_an_image_of_nothing_but_zeros_has_finite_features() -> None:
    assert bool(on_scattering(student.build("scattering-linear", (8, 8), 10, 1)).of(torch.zeros(2, 8, 8)).isfinite().all())


def test_features_that_would_not_fit_are_refused_before_a_plan_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, student=replace(PLAN.student, architecture="scattering-mlp"))
    x_N = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    student.rehearse(plan, x_N)
    monkeypatch.setattr(refining, "CELLS", 100)
    with pytest.raises(SettingError, match=r"Expected student.architecture = 'scattering-mlp' with at most 100 numbers"):
        student.rehearse(plan, x_N)


def test_coefficients_of_images_that_come_again_are_kept_as_far_as_there_is_room() -> None:
    layer, computed = Scattering(8, 8, 1), list[int]()

    def counted(module: torch.nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        computed.append(len(given[0]))

    layer.register_forward_hook(counted)
    first, second, few = images(300, 8, 8), images(300, 8, 8, seed=1), images(200, 8, 8)
    expected = layer(first)
    one = expected.numel() * expected.element_size()
    computed.clear()
    kept = Coefficients(int(1.5 * one))
    for _ in range(2):
        torch.testing.assert_close(kept.of(layer, first), expected, rtol=0, atol=1e-6)
    assert sum(computed) == 300
    # One pixel makes other images of them; the last ones stay.
    second[0, 0, 0] += 0.5
    for x_N in (second, second, first, few, few):
        kept.of(layer, x_N)
    assert sum(computed) == 300 + 300 + 300 + 200 + 200
    # What is kept is nobody's to change.
    kept.of(layer, first).zero_()
    torch.testing.assert_close(kept.of(layer, first), expected, rtol=0, atol=1e-6)


def test_coefficients_are_of_images_of_that_shape_and_of_those_scales() -> None:
    kept, content = Coefficients(1 << 24), images(300, 8, 16)
    for layer, x_N in (
        (Scattering(8, 16, 1), content),
        (Scattering(16, 8, 1), content.view(300, 16, 8)),
        (Scattering(8, 16, 2), content),
    ):
        torch.testing.assert_close(kept.of(layer, x_N), layer(x_N), rtol=0, atol=1e-6)


def test_what_a_student_says_does_not_depend_on_what_was_computed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    x_N = images(300, 8, 8)
    model = student.build("scattering-linear", (8, 8), 10, 1)
    on_scattering(model).fit(x_N)
    answers = []
    for _ in range(2):
        monkeypatch.setattr(scattered, "_COEFFICIENTS", Coefficients(1 << 24))
        answers += [distil.predict(model, x_N), distil.predict(model, x_N)]
    assert all(torch.equal(each, answers[0]) for each in answers)
