"""A stage learns what the pool says at the sparsity it is told; a resumed run equals an uninterrupted one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.plans import PLAN
from limbeck.base.errors import RunError, SettingError
from limbeck.plans.schema import Student
from limbeck.server import augment, checkpoint, distil, export, student
from limbeck.server.pruning import Masks
from limbeck.simulations import data

CPU = torch.device("cpu")
STUDENT = replace(PLAN.student, epochs=12, learning_rate=3e-3, relabel=0.3)


def digits() -> tuple[Tensor, Tensor]:
    found = data.load("digits", private=600, public=10, test=1)
    targets = torch.nn.functional.one_hot(torch.from_numpy(found.private_y), 10).float() * 0.9 + 0.01
    return torch.from_numpy(found.private_x), targets


def stage(model: nn.Module, masks: Masks, number: int, sparsity: float, settings: Student = STUDENT) -> distil.StageResult:
    x, targets = digits()
    return distil.distil_stage(
        model, masks, x, targets, stage=number, sparsity=sparsity, temperature=2.0, student=settings, seed=3, device=CPU
    )


def fresh(name: str = "mlp") -> tuple[nn.Module, Masks]:
    model = student.build(name, (8, 8), 10, seed=3)
    return model, Masks.ones(model)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_stage_learns_at_its_sparsity() -> None:
    model, masks = fresh()
    result = stage(model, masks, 0, 0.8)
    x, targets = digits()
    assert result.sparsity == pytest.approx(0.8, abs=1e-3)
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert float((distil.predict(model, x).argmax(1) == targets.argmax(1)).float().mean()) > 0.9
    weights = [weight for _, weight in model.named_parameters() if weight.ndim > 1]
    assert sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights) == pytest.approx(
        0.8, abs=1e-3
    )


@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
def test_resuming_from_a_checkpoint_gives_the_same_student_bit_for_bit(name: str, tmp_path: Path) -> None:
    settings = replace(STUDENT, epochs=2, augment=name != "mlp")
    whole, whole_masks = fresh(name)
    stage(whole, whole_masks, 0, 0.5, settings)
    checkpoint.save_stage(tmp_path, 0, whole, whole_masks, torch.ones(1, 10))
    stage(whole, whole_masks, 1, 0.8, settings)

    torch.manual_seed(99)  # a new process has another global state
    resumed, resumed_masks = fresh(name)
    last = checkpoint.load_last(tmp_path)
    assert last is not None
    assert last.stage == 0
    checkpoint.restore(last, resumed, resumed_masks)
    stage(resumed, resumed_masks, 1, 0.8, settings)
    assert same(whole, resumed)


def test_a_broken_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    model, masks = fresh()
    checkpoint.save_stage(tmp_path, 0, model, masks, torch.ones(1, 10))
    path = checkpoint.save_stage(tmp_path, 1, model, masks, torch.ones(1, 10))
    last = checkpoint.load_last(tmp_path)
    assert last is not None
    assert last.stage == 1
    whole = path.read_bytes()
    for broken in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(broken)
        found = checkpoint.load_last(tmp_path)
        assert found is not None
        assert found.stage == 0


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_last(tmp_path / "none") is None


def test_a_stage_ends_at_the_first_loss_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks = fresh()
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    done: list[int] = []
    x, targets = digits()
    options = {"stage": 2, "sparsity": 0.5, "temperature": 2.0, "student": STUDENT, "seed": 3, "device": CPU}
    with pytest.raises(RunError, match=r"Expected a finite loss in stage 3, epoch 1, got nan: .* student.learning_rate"):
        distil.distil_stage(model, masks, x, targets, progress=lambda *_: done.append(1), **options)  # type: ignore[arg-type]
    assert not done


def test_a_last_step_that_ruins_the_weights_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is computed before the step, so the last step's effect shows in no loss."""
    model, masks = fresh()
    honest = Masks.prune

    def ruin(self: Masks, model: nn.Module, sparsity: float) -> None:
        honest(self, model, sparsity)
        if sparsity == 0.75:
            with torch.no_grad():
                next(model.parameters())[0, 0] = torch.inf

    monkeypatch.setattr(Masks, "prune", ruin)
    monkeypatch.setattr(distil, "PRUNINGS", 0)
    with pytest.raises(RunError, match="Expected finite weights of the student after stage 1"):
        stage(model, masks, 0, 0.75, replace(STUDENT, epochs=1))


def test_building_and_training_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    model, masks = fresh("cnn-small")
    stage(model, masks, 0, 0.1, replace(STUDENT, epochs=1, augment=True))
    assert torch.equal(before, torch.get_rng_state())


def test_the_public_seed_decides_the_first_weights_and_each_stage_has_an_order_of_its_own() -> None:
    assert same(fresh()[0], fresh()[0])
    assert not same(student.build("mlp", (8, 8), 10, seed=3), student.build("mlp", (8, 8), 10, seed=4))
    settings, trained = replace(STUDENT, epochs=1, relabel=0.0), []
    for number in (0, 0, 1):
        model, masks = fresh()
        stage(model, masks, number, 0.0, settings)
        trained.append(model)
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


def test_relabelling_moves_targets_towards_the_student_only_from_the_second_stage() -> None:
    for number, equal in [(0, True), (1, False)]:
        results = []
        for relabel in (0.0, 1.0):
            model, masks = fresh()
            stage(model, masks, number, 0.0, replace(STUDENT, epochs=1, relabel=relabel))
            results.append(model)
        assert same(*results) is equal


def test_views_move_images_a_little_and_repeat_with_the_generator() -> None:
    x, _ = digits()
    images = student.prepare(x[:20]).unsqueeze(1)
    views = [augment.affine(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert 0.01 < float((views[0] - images).abs().mean()) < 0.2


def test_the_onnx_student_equals_torch_for_any_batch(tmp_path: Path) -> None:
    import onnxruntime

    model, masks = fresh("cnn-small")
    masks.prune(model, 0.9)
    x, _ = digits()
    report = export.export(model, tmp_path, x[:7], export.describe(PLAN, b"", x, {}, []))
    assert report.onnx_max_difference < 1e-4
    assert report.nonzero < 0.2 * report.parameters
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"))
    for n in (1, 33):
        (found,) = session.run(None, {"inputs": x[:n].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), distil.predict(model, x[:n]), atol=1e-4, rtol=0)


def test_the_onnx_student_does_not_say_where_it_was_made(tmp_path: Path) -> None:
    """torch's exporter, for one, writes stack traces beside the nodes: paths of the coordinator's machine, for whoever gets the student."""
    model, _ = fresh("cnn-small")
    x, _ = digits()
    export.export(model, tmp_path, x[:7], export.describe(PLAN, b"", x, {}, []))
    content = (tmp_path / "student.onnx").read_bytes()
    for telling in (b".py", b"site-packages", b"File ", str(Path.cwd()).encode()):
        assert telling not in content


def test_unknown_and_unfit_architectures_are_refused() -> None:
    with pytest.raises(SettingError, match="cnn-small"):
        student.build("vit", (8, 8), 10, 0)
    with pytest.raises(SettingError, match="grey images"):
        student.build("cnn", (13,), 2, 0)
