"""Speed and memory of losses on truncated targets, and of softening with truncation, on one core, beside the memory's own speed.

`python -m limbeck.experiments.benchmarks.losses [OUT.json]`. Contenders of a row take turns in one process. Times are processor time with
system calls (page faults), the smallest of all turns, so that other work on the machine disturbs little; ratios are medians over turns.
Extra memory is the growth of a fresh process's peak resident set over one loss and gradient: what earlier allocations left behind is given
back before, and the peak set back to what is in use (Linux).
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.experiments import memory
from limbeck.experiments.benchmarks import runner
from limbeck.operators import Power, SoftenThenTruncate, TopK, Truncated, concatenate, losses

CASES = ((50_000, 10, 3), (50_000, 100, 8), (50_000, 1000, 16), (2_000, 32_000, 32))
WAYS = ("eager kl_div", "limbeck", "limbeck in place")
TEMPERATURE = 2.0
TURNS = 9


def inputs(samples: int, classes: int, k: int) -> tuple[Tensor, Truncated]:
    """Student logits that ask for a gradient, and a truncated target; made in parts, so that no temporary is as large as the logits."""
    generator = torch.Generator().manual_seed(0)
    logits_NK = torch.empty(samples, classes)
    parts = []
    for part_BK in logits_NK.split(max(1, 2**20 // classes)):
        parts.append(TopK(k)((2 * torch.randn(part_BK.shape, generator=generator)).softmax(-1)))
        part_BK.normal_(std=2, generator=generator)
    return logits_NK.requires_grad_(), concatenate(parts)


def dense(target: Truncated) -> Tensor:
    """The target as eager torch wants it, in parts."""
    q_NK = torch.empty(len(target), target.classes)
    rows = max(1, 2**20 // target.classes)
    for first in range(0, len(target), rows):
        q_NK[first : first + rows] = target.rows(slice(first, first + rows)).dense()
    return q_NK


def step(way: str, logits_NK: Tensor, target: Truncated, q_NK: Tensor | None) -> Callable[[], None]:
    """One loss and its gradient."""

    def eager() -> None:
        logits_NK.grad = None
        functional.kl_div(functional.log_softmax(logits_NK / TEMPERATURE, -1), q_NK, reduction="batchmean").backward()  # type: ignore[arg-type]

    def limbeck() -> None:
        logits_NK.grad = None
        # A view, because a leaf is not overwritten; after the first turn the logits are a gradient, which takes the same time.
        z_NK = logits_NK.view_as(logits_NK) if way == "limbeck in place" else logits_NK
        losses.hinton(target, z_NK, TEMPERATURE, in_place=way == "limbeck in place").backward()

    return eager if way == "eager kl_div" else limbeck


def error(samples: int, classes: int, k: int) -> dict[str, float]:
    """Loss (relative) and gradient (of its largest entry) in float32 against the coarse divergence by autograd in float64."""
    logits_NK, target = inputs(samples, classes, k)
    loss = losses.hinton(target, logits_NK, TEMPERATURE)
    (gradient_NK,) = torch.autograd.grad(loss, logits_NK)
    value = float(loss.detach())
    z_NK = logits_NK.detach().double().requires_grad_()
    s_NK = (z_NK / TEMPERATURE).softmax(-1)
    kept_Nk = s_NK.gather(1, target.ids_Nk)
    s_Nb = torch.cat([kept_Nk, s_NK.scatter(1, target.ids_Nk, 0.0).sum(-1, keepdim=True)], dim=1)
    t_Nb = torch.cat([target.p_Nk, target.tail_N.unsqueeze(-1)], dim=1).double()
    exact = TEMPERATURE**2 * (torch.xlogy(t_Nb, t_Nb) - torch.xlogy(t_Nb, s_Nb)).sum(-1).mean()
    (wanted_NK,) = torch.autograd.grad(exact, z_NK)
    return {
        "loss": abs(value / float(exact.detach()) - 1),
        "gradient": float((gradient_NK - wanted_NK).abs().max() / wanted_NK.abs().max()),
    }


def extra_bytes(way: str, case: int) -> int:
    """Growth of the peak resident set of a fresh process over one step."""
    command = [sys.executable, "-m", "limbeck.experiments.benchmarks.losses", "--peak", way, str(case)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak(way: str, case: str) -> None:
    # Torch's own one-off allocations are made first, on a small case.
    small, small_target = inputs(64, 10, 3)
    step(way, small, small_target, dense(small_target))()
    logits_NK, target = inputs(*CASES[int(case)])
    run = step(way, logits_NK, target, dense(target) if way == "eager kl_div" else None)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    memory.reset_peak()
    before = memory.used("VmHWM")
    run()
    print(memory.used("VmHWM") - before)


def row(case: int) -> dict[str, object]:
    """All contenders on one size."""
    samples, classes, k = CASES[case]
    logits_NK, target = inputs(samples, classes, k)
    q_NK, scratch_NK, spare_NK = dense(target), logits_NK.detach().clone(), logits_NK.detach().clone()
    fixed_NK = logits_NK.detach().clone()
    chain = SoftenThenTruncate(softening=Power(TEMPERATURE), truncation=TopK(k))
    overwritten_NK = spare_NK.requires_grad_()
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: scratch_NK.copy_(fixed_NK),
        "read and write": lambda: torch.mul(fixed_NK, 0.5, out=scratch_NK),
        **{way: step(way, overwritten_NK if "place" in way else logits_NK, target, q_NK) for way in WAYS},
        "topk": lambda: fixed_NK.topk(k),
        "soften and truncate": lambda: chain.from_log(fixed_NK),
    }
    times = _milliseconds(calls)
    ms = {name: min(turns) for name, turns in times.items()}

    def ratio(slow: str, fast: str) -> float:
        return round(median(a / b for a, b in zip(times[slow], times[fast], strict=True)), 2)

    size = logits_NK.numel() * 4
    result: dict[str, object] = {
        "N": samples,
        "K": classes,
        "k": k,
        "ms": {name: round(value, 2) for name, value in ms.items()},
        "copy_GB_per_s": round(2 * size / ms["copy"] / 1e6, 1),
        "loss_times_faster": ratio("eager kl_div", "limbeck"),
        "loss_in_place_times_faster": ratio("eager kl_div", "limbeck in place"),
        "soften_and_truncate_over_topk": ratio("soften and truncate", "topk"),
        "error_against_float64": error(min(samples, 2**21 // classes), classes, k),
    }
    extra = {way: extra_bytes(way, case) for way in WAYS}
    result["extra_memory_over_logits"] = {way: round(value / size, 3) for way, value in extra.items()}
    return result


def _milliseconds(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Of every turn but the first."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(TURNS + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if turn:
                times[name].append((time.process_time() - started) * 1e3)
    return times


def measure() -> dict[str, object]:
    """All figures."""
    return {
        "torch": torch.__version__,
        "temperature": TEMPERATURE,
        "load_average_before": round(os.getloadavg()[0], 2),
        "rows": [row(case) for case in range(len(CASES))],
    }


def machine() -> str:
    """What was measured on, with the instructions that torch uses there."""
    return f"one core of {os.cpu_count()}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, CPU only"


def main() -> None:
    """The command."""
    runner.main("losses", measure, description=__doc__, machine=machine, one_thread=True, children={"--peak": _peak})


if __name__ == "__main__":
    main()
