"""What differential privacy costs a teacher's training: `python -m limbeck.experiments.benchmarks.teachers [OUT.json]`. One core.

Every way of computing a step is timed in turn in one process, round after round, and compared by its fastest round, so that a busy machine
slows all alike. A step is all of it: forward, backward, clipping, noise, update. Plain SGD is eager PyTorch without clipping or noise.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from limbeck.client.noise import Noise, SystemEntropy
from limbeck.client.teachers import architectures, gradients, linear
from limbeck.experiments.benchmarks import runner

ROUNDS = 20
BATCH, CLIP, STD, RATE, MOMENTUM = 256, 0.1, 0.1, 0.5, 0.9
SHAPE, CLASSES = (1, 28, 28), 10
# Scattering features of 28 x 28 images, and as many records as the table of accuracies has.
HEAD_RECORDS, HEAD_FEATURES = 8000, 3969
Step = Callable[[], object]


def heads() -> dict[str, Step]:
    """Full-batch steps of a linear head."""
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(HEAD_RECORDS, HEAD_FEATURES, generator=generator) / HEAD_FEATURES**0.5 * 4
    y_N = torch.randint(CLASSES, (HEAD_RECORDS,), generator=generator)
    norm_N = linear.norms(x_ND)
    noise = SystemEntropy()
    weight = torch.zeros(CLASSES, HEAD_FEATURES, dtype=torch.float64)
    trained = torch.zeros(CLASSES, HEAD_FEATURES, requires_grad=True)
    optimiser = torch.optim.SGD([trained], lr=RATE, momentum=MOMENTUM)
    velocity = torch.zeros_like(weight)

    def plain() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(functional.linear(x_ND, trained), y_N).backward()
        optimiser.step()

    def private() -> None:
        gradient = linear.clipped_sum(weight, x_ND, norm_N, y_N, 1.0)
        gradient += noise.gaussian(*gradient.shape, std=STD)
        velocity.mul_(MOMENTUM).add_(gradient / HEAD_RECORDS)
        weight.sub_(velocity, alpha=RATE)

    return {"plain SGD": plain, "closed form (ours)": private}


def nets(architecture: str) -> dict[str, Step]:
    """Steps of a net on one batch by every engine."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(BATCH, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)

    def build() -> nn.Module:
        return architectures.build(architecture, SHAPE, CLASSES)

    steps: dict[str, Step] = {"plain SGD": _plain(build(), inputs, labels)}
    for name, engine in (("book-keeping (ours)", gradients.BookKeeping), ("vmap (ours)", gradients.Functional)):
        made: gradients.Engine = engine(build())
        steps[name] = _private(made.parameters, lambda made=made: made.clipped_sums(inputs, labels, CLIP))  # type: ignore[misc]
    steps["vmap, compiled"] = _compiled(build(), inputs, labels)
    for mode in ("hooks", "functorch", "ew"):
        steps[f"Opacus {mode}"] = _opacus(build(), mode, inputs, labels)
    return steps


def noise_share(rounds: int) -> dict[str, float]:
    """Seconds of the same steps of a convolutional teacher with noise and with zeros in its place, and the noise's share."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(BATCH, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)

    class Zeros(SystemEntropy):
        def gaussian(self, *shape: int, std: float) -> Tensor:
            return torch.zeros(shape)

    steps: dict[str, Step] = {}
    for name, noise in (("noise from AES", SystemEntropy()), ("no noise", Zeros())):
        engine = gradients.BookKeeping(architectures.build("cnn", SHAPE, CLASSES))
        steps[name] = _private(engine.parameters, lambda engine=engine: engine.clipped_sums(inputs, labels, CLIP), noise)  # type: ignore[misc]
    fastest = _time(steps, rounds)
    with_noise, without = fastest.values()
    return {
        **{name: round(1000 * seconds, 3) for name, seconds in fastest.items()},
        "share": round(with_noise / without - 1, 4),
    }


def _plain(net: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)

    def step() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()

    return step


def _private(parameters: list[nn.Parameter], sums: Callable[[], list[Tensor]], noise: Noise | None = None) -> Step:
    source = noise or SystemEntropy()
    velocity = [torch.zeros_like(parameter) for parameter in parameters]

    def step() -> None:
        with torch.no_grad():
            for parameter, total, moving in zip(parameters, _graded(sums), velocity, strict=True):
                total.add_(source.gaussian(*total.shape, std=STD))
                moving.mul_(MOMENTUM).add_(total, alpha=1 / BATCH)
                parameter.sub_(moving, alpha=RATE)

    return step


def _graded(sums: Callable[[], list[Tensor]]) -> list[Tensor]:
    with torch.enable_grad():
        return sums()


def _compiled(net: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    """`Functional` with its gradients, norms and sums in one compiled graph of a fixed batch."""
    parameters = dict(net.named_parameters())

    def loss(trained: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(net, trained, (x.unsqueeze(0),)), y.unsqueeze(0))

    def sums(trained: dict[str, Tensor], x_N: Tensor, y_N: Tensor) -> list[Tensor]:
        gradients_of = vmap(grad(loss), in_dims=(None, 0, 0))(trained, x_N, y_N)
        flat = [gradient.flatten(1) for gradient in gradients_of.values()]
        scale_N = gradients.scales(torch.stack([gradient.square().sum(1) for gradient in flat]).sum(0), CLIP)
        return [(scale_N @ gradient).view_as(parameter) for gradient, parameter in zip(flat, trained.values(), strict=True)]

    compiled = torch.compile(sums)
    trained = {name: parameter.detach() for name, parameter in parameters.items()}
    return _private(list(parameters.values()), lambda: compiled(trained, inputs, labels))


def _opacus(net: nn.Module, mode: str, inputs: Tensor, labels: Tensor) -> Step:
    from opacus.grad_sample import GradSampleModule, GradSampleModuleExpandedWeights

    wrapped = (
        GradSampleModuleExpandedWeights(net, loss_reduction="sum")
        if mode == "ew"
        else GradSampleModule(net, loss_reduction="sum", force_functorch=mode == "functorch")
    )
    parameters = list(wrapped.parameters())

    def sums() -> list[Tensor]:
        functional.cross_entropy(wrapped(inputs), labels, reduction="sum").backward()
        flat = [parameter.grad_sample.flatten(1) for parameter in parameters]
        scale_N = gradients.scales(torch.stack([gradient.square().sum(1) for gradient in flat]).sum(0), CLIP)
        for parameter in parameters:
            parameter.grad_sample = parameter.grad = None
        return [(scale_N @ gradient).view_as(parameter) for gradient, parameter in zip(flat, parameters, strict=True)]

    return _private(parameters, sums)


def _time(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Fastest seconds of each, interleaved."""
    for step in steps.values():
        step()
        step()
    fastest = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    return fastest


def _compare(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    fastest = _time(steps, rounds)
    plain = fastest["plain SGD"]
    return {name: {"ms": round(1000 * s, 3), "against plain": round(s / plain, 3)} for name, s in fastest.items()}


def measure() -> dict[str, object]:
    """All figures."""
    warnings.simplefilter("ignore")
    return {
        "linear head, 8,000 records, 3,969 features, full batch": _compare(heads(), ROUNDS),
        **{f"{name}, 28 x 28, batch {BATCH}": _compare(nets(name), ROUNDS) for name in ("cnn", "mlp", "resnet-gn")},
        "noise in a step of the cnn, ms": noise_share(3 * ROUNDS),
    }


def main() -> None:
    """The command."""
    runner.main("teachers", measure, description=__doc__, machine=runner.one_core, one_thread=True)


if __name__ == "__main__":
    main()
