"""The student's ONNX graph is that of its layers, and a layer that has no node is refused rather than left out."""

import onnx
import pytest
import torch
from torch import nn

from limbeck.base.errors import RunError
from limbeck.inputs.sessions import open_session
from limbeck.server import graph, student


@pytest.mark.parametrize("name", student.ARCHITECTURES)
@pytest.mark.parametrize("shape", [(8, 8), (9, 14)])
def test_every_architecture_is_a_valid_graph_that_equals_torch_for_any_number_of_inputs(
    name: str, shape: tuple[int, int]
) -> None:
    model = student.build(name, shape, 5, seed=3).eval()
    made = graph.of(model, shape, 5)
    onnx.checker.check_model(made, full_check=True)
    session = open_session(made.SerializeToString())
    for inputs in (1, 33):
        x_N = torch.rand(inputs, *shape, generator=torch.Generator().manual_seed(inputs))
        (found,) = session.run(None, {"inputs": x_N.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x_N).softmax(-1), atol=1e-6, rtol=0)


def test_numbers_of_layers_that_no_student_has_yet_are_not_left_out() -> None:
    body = nn.Sequential(
        nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Flatten(),
    )
    model = student.Scaled(body, images=True).eval()
    x_N = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = model(x_N).softmax(-1)
    session = open_session(graph.of(model, (9, 11), expected.shape[1]).SerializeToString())
    (found,) = session.run(None, {"inputs": x_N.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "layer",
    [nn.Tanh(), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(0), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")],
)
def test_a_layer_without_a_node_is_refused(layer: nn.Module) -> None:
    with pytest.raises(RunError, match="Expected layers of a student that ONNX has a node for, got"):
        graph.of(student.Scaled(nn.Sequential(layer), images=True), (4, 4), 2)
