"""Speed and bytes of the wire, memory of the pool: `python -m limbeck.experiments.benchmarks.wire [OUT.json]`. One core."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from limbeck import operators
from limbeck.experiments import memory
from limbeck.experiments.benchmarks import runner
from limbeck.plans.author import make_plan
from limbeck.plans.schema import Coding, Plan
from limbeck.protos import codec, messages
from limbeck.protos.messages import Ask, Share
from limbeck.server.pooling import Pool
from limbeck.simulations import scenario

CASES = ((10_000, 10, 3), (50_000, 100, 8), (20_000, 1000, 16))
REPEATS = 15


def share_plan(samples: int, classes: int, k: int, coding: str) -> Plan:
    """The default scenario's plan for other sizes."""
    settings = scenario.load("default", [f"release.k={k}", f"release.coding={coding}", "pooling.kind=mean"])
    return make_plan(settings, transfer_set=bytes(32), samples=samples, classes=classes)


def wire() -> list[dict[str, object]]:
    """Bytes and million samples a second of whole messages, protobuf included; medians."""
    rows: list[dict[str, object]] = []
    for samples, classes, k in CASES:
        for coding in Coding:
            plan = share_plan(samples, classes, k, coding.value)
            p_NK = (2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(0))).softmax(-1)
            ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=samples)
            share = Share(plan_hash=ask.plan_hash, stage=0, first=0, answers=operators.TopK(k)(p_NK))
            data = codec.encode_reply(share, plan=plan)
            encode = _seconds(lambda share=share, plan=plan: codec.encode_reply(share, plan=plan))  # type: ignore[misc]
            decode = _seconds(lambda data=data, plan=plan, ask=ask: codec.decode_reply(data, plan=plan, expecting=ask))  # type: ignore[misc]
            rows.append(
                {
                    "samples": samples,
                    "K": classes,
                    "k": k,
                    "coding": coding.value,
                    "bytes": len(data),
                    "bytes_per_sample": round(len(data) / samples, 3),
                    "encode_million_per_s": round(samples / encode / 1e6, 1),
                    "decode_million_per_s": round(samples / decode / 1e6, 1),
                }
            )
    return rows


def pool_memory(clients: int) -> int:
    """Peak resident bytes of a fresh process that decodes and pools 10,000 top-3 answers of K = 10 of each of `clients` sites."""
    command = [sys.executable, "-m", "limbeck.experiments.benchmarks.wire", "--pool", str(clients)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _pool(clients: str) -> None:
    plan = share_plan(10_000, 10, 3, "packed")
    ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=10_000)
    pool = Pool(samples=10_000, classes=10)
    for client in range(int(clients)):
        p_NK = torch.randn(10_000, 10, generator=torch.Generator().manual_seed(client)).softmax(-1)
        share = Share(plan_hash=ask.plan_hash, stage=0, first=0, answers=operators.TopK(3)(p_NK))
        reply = codec.decode_reply(codec.encode_reply(share, plan=plan), plan=plan, expecting=ask)
        if isinstance(reply, messages.Share):
            pool.add(reply.answers)
    pool.result()
    print(memory.used("VmHWM"))


def _seconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure() -> dict[str, object]:
    """All figures."""
    peaks = {clients: pool_memory(clients) for clients in (10, 100)}
    return {
        "wire": wire(),
        "pool": {"peak_bytes": peaks, "ratio_100_to_10_clients": round(peaks[100] / peaks[10], 3)},
    }


def main() -> None:
    """The command."""
    runner.main("wire", measure, description=__doc__, machine=runner.one_core, one_thread=True, children={"--pool": _pool})


if __name__ == "__main__":
    main()
