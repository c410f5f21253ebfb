"""Operators work on the device of their input, and never make a tensor on another.

Without a GPU the second half still shows it: on the "meta" device, which has shapes and no numbers, every tensor that an
operator makes must be on that device too, and whatever would have to look at a number raises.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.operators import (
    Anchoring,
    EntropyTarget,
    Hybrid,
    LabelsOnly,
    Mixing,
    Nucleus,
    Power,
    Raw,
    Renormalised,
    Sampled,
    Separable,
    Softening,
    SoftenThenTruncate,
    TopK,
    Truncated,
    TruncateThenSoften,
    Tsallis,
    losses,
    tail_interval,
)
from limbeck.operators.pooling import Arithmetic, Geometric, PowerMean
from limbeck.operators.projections import ArgMax, Sparsemax

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N, K = 7, 12


def given(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Truncated]:
    """Probabilities, logits and a target with padding and a tail."""
    generator = torch.Generator().manual_seed(0)
    p_NK, z_NK = (2 * torch.randn(2, N, K, generator=generator, dtype=torch.float64)).unbind()
    target = Nucleus(0.8)(p_NK.softmax(-1))
    moved = Truncated(
        ids_Nk=target.ids_Nk.to(device),
        p_Nk=target.p_Nk.to(device, dtype),
        tail_N=target.tail_N.to(device, dtype),
        classes=K,
    )
    return p_NK.softmax(-1).to(device, dtype), z_NK.to(device, dtype), moved


def answers(p_NK: Tensor) -> Tensor:
    return torch.stack([p_NK, p_NK.roll(1, 0), p_NK.flip(1)])


def loss(name: str, **more: Any) -> Callable[[Tensor, Tensor, Truncated], list[Tensor]]:
    """Value and gradient."""

    def run(p_NK: Tensor, z_NK: Tensor, target: Truncated) -> list[Tensor]:
        results = []
        for truncated_or_dense in (target, p_NK):
            leaf_NK = z_NK.detach().clone().requires_grad_()
            value = getattr(losses, name)(truncated_or_dense, leaf_NK, **more)
            results += [value, torch.autograd.grad(value, leaf_NK)[0]]
        return results

    return run


Case = Callable[[Tensor, Tensor, Truncated], Any]


def softened(operator: Softening) -> Case:
    """From probabilities and from log-probabilities."""
    return lambda p_NK, *_: [operator(p_NK), operator.from_log(p_NK.log())]


# Without a look at any number.
BLIND: dict[str, Case] = {
    "power": softened(Power(2.0)),
    "mixing": softened(Mixing(2.0)),
    "hybrid": softened(Hybrid(0.5)),
    "tsallis 0.5": softened(Tsallis(0.5, 2.0)),
    "tsallis 2": softened(Tsallis(2.0, 2.0)),
    "sparsemax": lambda p, z, t: [Sparsemax(2.0)(p)],
    "arg-max": lambda p, z, t: [ArgMax()(p)],
    "anchoring": lambda p, z, t: [Anchoring(0.5)(p, p.flip(1))],
    "dense": lambda p, z, t: [t.dense()],
    "tail interval": lambda p, z, t: [tail_interval(t, 2.0).mass_low_N, tail_interval(t, 0.5).mass_high_N],
    "ttm": loss("ttm"),
    "hinton": loss("hinton", temperature=3.0),
    "reverse": loss("reverse"),
    "jensen-shannon": loss("jensen_shannon"),
}


def parts(t: Truncated) -> list[Tensor]:
    """Dense is enough: ids of ties may differ between formats."""
    return [t.dense(), t.tail_N]


SEEING: dict[str, Case] = {
    "entropy target": lambda p, z, t: [EntropyTarget(0.7, relative=True)(p)],
    "a separable family": lambda p, z, t: [Separable(lambda p, t: p ** (1 / t), 2.0)(p)],
    "top-k": lambda p, z, t: parts(TopK(3)(p)),
    "nucleus": lambda p, z, t: parts(Nucleus(0.6)(p)),
    "renormalised": lambda p, z, t: parts(Renormalised(TopK(3))(p)),
    "raw": lambda p, z, t: parts(Raw(TopK(3))(p)),
    "soften, then truncate": lambda p, z, t: parts(
        SoftenThenTruncate(softening=Power(2.0), truncation=TopK(3)).from_log(p.log())
    ),
    "truncate, then soften": lambda p, z, t: parts(TruncateThenSoften(softening=Power(2.0), truncation=Nucleus(0.9))(p)),
    "sampled": lambda p, z, t: parts(
        Sampled(5, 0.5)(p, torch.rand(N, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(p.device))
    ),
    "labels only": lambda p, z, t: parts(LabelsOnly(K, 2.0)(t.ids_Nk)),
    "arithmetic": lambda p, z, t: [Arithmetic()(answers(p), weights=torch.tensor([1.0, 2.0, 3.0]))],
    "geometric": lambda p, z, t: [Geometric()(answers(p), temperatures=[1.0, 2.0, 3.0])],
    "power mean": lambda p, z, t: [PowerMean(-2.0)(answers(p))],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", [*BLIND, *SEEING])
def test_float32_on_every_device_there_is_agrees_with_float64_on_the_cpu(case: str, device: str) -> None:
    run = (BLIND | SEEING)[case]
    for result, exact in zip(run(*given(device, torch.float32)), run(*given("cpu", torch.float64)), strict=True):
        assert result.device.type == device
        torch.testing.assert_close(result.double().cpu(), exact.double(), atol=2e-6, rtol=1e-5)


class OneDevice(TorchDispatchMode):
    """No operation may return a tensor on a device other than "meta", except Python scalars that torch wraps."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.ndim:
                assert each.device.type == "meta", f"{function} made a tensor on {each.device}"
        return result


@pytest.mark.parametrize("case", BLIND)
def test_every_tensor_that_is_made_on_the_way_lies_where_the_input_does_and_no_number_is_looked_at(case: str) -> None:
    p_NK, z_NK, target = given("meta", torch.float32)
    with OneDevice():
        result = BLIND[case](p_NK, z_NK, target)
    assert all(each.device.type == "meta" for each in result)
