"""Every way to a sum of clipped gradients, side by side: `python -m limbeck.experiments.benchmarks.engines [OUT.json]`. One core.

For each net that a plan can name, and for a softmax head, on one batch of 256 random images or rows:

- ms: of a processor, in the fastest of the rounds, engine after engine within a round, so that a busy machine slows all alike; and against
  plain SGD.
- MB: what a process holds at most during one sum, above what it held before, in a process of its own.
- error: the distance of the sum to that of a loop over records in float64, relative to its norm.
- others' shares: how far one additional record moves the shares of the 255 others, in clips: |S(all) - S(all but one) - S(one)| / clip.
"""

from __future__ import annotations

import copy
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.client.teachers import architectures, gradients, linear
from limbeck.experiments.benchmarks import runner
from limbeck.experiments.benchmarks.teachers import Step, _plain

ROUNDS = 6
BATCH, CLIP, CLASSES = 256, 0.1, 10
SHAPE = (1, 28, 28)
# Of a softmax head: scattering features of 28 x 28 images.
FEATURES = 3969
Sums = Callable[[Tensor, Tensor], list[Tensor]]


class _Single:
    """Opacus's fast gradient clipping as it comes: norms, factors and sums in float32."""

    def __init__(self, net: nn.Module) -> None:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        self.parameters = list(net.parameters())
        self._hooked = GradSampleModuleFastGradientClipping(net, loss_reduction="sum", max_grad_norm=CLIP)

    def clipped_sums(self, x_N: Tensor, y_N: Tensor, clip: float) -> list[Tensor]:
        """As `opacus.utils.fast_gradient_clipping_utils` does it."""
        self._hooked.enable_hooks()
        loss_N = functional.cross_entropy(self._hooked(x_N), y_N, reduction="none")
        torch.autograd.backward(loss_N.sum(), retain_graph=True)
        factor_N = self._hooked.get_clipping_coef()
        self._hooked.disable_hooks()
        for parameter in self.parameters:
            parameter.grad = None
        return list(torch.autograd.grad((factor_N * loss_N).sum(), self.parameters))


class _Double(gradients.FastClipping):
    """Fast gradient clipping in float64 for nets that it does not serve by default."""

    def __init__(self, net: nn.Module) -> None:
        def none(net: nn.Module) -> list[nn.Module]:
            return []

        checked, gradients._with_weights = gradients._with_weights, none
        try:
            super().__init__(net)
        finally:
            gradients._with_weights = checked


ENGINES: dict[str, Callable[[nn.Module], gradients.Engine]] = {
    "book-keeping (ours)": gradients.BookKeeping,
    "vmap (ours)": gradients.Functional,
    "Opacus, hooks": gradients.Hooks,
    "Opacus, functorch on the whole net": gradients.Functorch,
    "Opacus, fast clipping in float64": _Double,
    "Opacus, fast clipping in float32": _Single,
}


def _closed_form(net: nn.Module) -> Sums:
    """Of a softmax head, as linear teachers compute it."""
    (layer,) = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    weight_KD = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double()

    def sums(x_N: Tensor, y_N: Tensor) -> list[Tensor]:
        x_ND = functional.pad(x_N, (0, 1), value=1.0)
        total = linear.clipped_sum(weight_KD, x_ND, linear.norms(x_ND), y_N, CLIP)
        return [total[:, :-1], total[:, -1]]

    return sums


def _head() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, CLASSES))


def _ways(build: Callable[[], nn.Module]) -> dict[str, Sums]:
    ways: dict[str, Sums] = {}
    for name, kind in ENGINES.items():
        ways[name] = partial(kind(build()).clipped_sums, clip=CLIP)
    if not any(isinstance(layer, nn.Conv2d | nn.Tanh) for layer in build().modules()):
        ways["closed form (ours)"] = _closed_form(build())
    return ways


def _exact(net: nn.Module, x_N: Tensor, y_N: Tensor) -> Tensor:
    """Record by record in float64."""
    net = copy.deepcopy(net).double()
    parameters = list(net.parameters())
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for x, y in zip(x_N.double().split(1), y_N.split(1), strict=True):
        own = torch.autograd.grad(functional.cross_entropy(net(x), y), parameters)
        norm = float(torch.stack([part.norm() for part in own]).norm())
        for total, part in zip(totals, own, strict=True):
            total.add_(part, alpha=min(1.0, CLIP / norm))
    return _flat(totals)


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().double().flatten() for part in parts])


def _megabytes(sums: Callable[[], object]) -> float:
    """What one call needs at most, in a child that inherits everything else."""

    def child(sender: multiprocessing.connection.Connection) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sums()
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender,))
    process.start()
    found: float = receiver.recv()
    process.join()
    return found


def _fastest(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Fewest seconds of a processor, interleaved; a first call of each is not counted."""
    for step in steps.values():
        step()
    fastest = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            fastest[name] = min(fastest[name], time.process_time() - started)
    return fastest


def compare(build: Callable[[], nn.Module], x_N: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """All engines on one batch of these inputs."""
    y_N = torch.randint(CLASSES, (len(x_N),), generator=torch.Generator().manual_seed(1))
    ways, exact = _ways(build), _exact(build(), x_N, y_N)
    memory = {name: _megabytes(partial(sums, x_N, y_N)) for name, sums in ways.items()}
    fastest = _fastest(
        {"plain SGD": _plain(build(), x_N, y_N), **{name: partial(sums, x_N, y_N) for name, sums in ways.items()}}, rounds
    )
    table = {"plain SGD": {"ms": round(1000 * fastest["plain SGD"], 2), "against plain": 1.0}}
    for name, sums in ways.items():
        found, less, one = (_flat(sums(x, y)) for x, y in ((x_N, y_N), (x_N[1:], y_N[1:]), (x_N[:1], y_N[:1])))
        table[name] = {
            "ms": round(1000 * fastest[name], 2),
            "against plain": round(fastest[name] / fastest["plain SGD"], 2),
            "MB": round(memory[name], 1),
            "error": float(f"{float((found - exact).norm() / exact.norm()):.1e}"),
            "others' shares": float(f"{float((found - less - one).norm()) / CLIP:.1e}"),
        }
    return table


def measure(rounds: int = ROUNDS) -> dict[str, object]:
    """All figures."""
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, *SHAPE, generator=generator)
    rows = torch.randn(BATCH, FEATURES, generator=generator) / FEATURES**0.5 * 4
    table: dict[str, object] = {"default": {name: _default(name) for name in ("mlp", "cnn", "resnet-gn")}}
    for name in ("mlp", "cnn", "resnet-gn"):
        table[f"{name}, 28 x 28, batch {BATCH}"] = compare(
            partial(architectures.build, name, SHAPE, CLASSES), images, rounds
        )
    table[f"softmax head, {FEATURES} features, batch {BATCH}"] = compare(_head, rows, rounds)
    return table


def _default(name: str) -> str:
    return gradients.kind(architectures.build(name, SHAPE, CLASSES), trusted=True).__name__


def main() -> None:
    """The command."""
    runner.main("engines", measure, description=__doc__, machine=runner.one_core, one_thread=True)


if __name__ == "__main__":
    main()
