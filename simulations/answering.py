"""What the sites would have answered to inputs other than the public ones, and the pool of it: only a simulation has their teachers.

An answer goes the way that those of the run went: softened and truncated by the site's own code, encoded and decoded, pooled with the
weights that the coordinator gave the site. So the pool on test inputs differs from the pool on public inputs in nothing but the inputs.

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from limbeck.base.errors import RunError
from limbeck.client import release
from limbeck.client.noise import Noise
from limbeck.operators import Truncated
from limbeck.plans.schema import Plan, Sampled
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Share
from limbeck.server import coordinator
from limbeck.server.pooling import Pool
from limbeck.server.record import ClientRecord, StageRecord

# What pools have in common: the sites that answered, the temperature, and with drawn answers the stage.
_Key = tuple[tuple[str, ...], float, int | None]


class Pools:
    """The pool of each stage, from answers to N inputs that come site by site.

    - stages: of a finished run.
    - clients: what the coordinator recorded of the sites, by name.
    - noise: draws the samples if the plan truncates by sampling.
    """

    def __init__(
        self, plan: Plan, inputs: int, stages: Sequence[StageRecord], clients: Mapping[str, ClientRecord], noise: Noise
    ) -> None:
        self._plan, self._noise = replace(plan, samples=inputs), noise
        self._keys = {stage.stage: self._key(stage) for stage in stages}
        # Stages that ask the same sites at the same temperature are answered alike, unless answers are drawn.
        self._pools = {key: Pool(samples=inputs, classes=plan.classes) for key in self._keys.values()}
        self._weights = {
            key: coordinator.site_weights(plan, {name: clients[name] for name in key[0]}) for key in self._pools
        }
        self._missing = {key: dict.fromkeys(key[0], "its teacher is gone") for key in self._pools}

    def _key(self, stage: StageRecord) -> _Key:
        drawn = isinstance(self._plan.truncation, Sampled)
        return stage.clients, stage.temperature, stage.stage if drawn else None

    def add(self, site: str, log_p_NK: Tensor) -> None:
        """Add what a site's teacher says to the N inputs, to the pools of all stages that the site answered."""
        for key, missing in self._missing.items():
            names, temperature, _ = key
            if site in names:
                answers = release.answers(log_p_NK, self._plan, temperature, self._noise)
                self._pools[key].add(self._received(answers), weights_K=self._weights[key].get(site))
                del missing[site]

    def cannot(self, site: str, why: str) -> None:
        """Note that a site's answers cannot be known, and why."""
        for missing in self._missing.values():
            if site in missing:
                missing[site] = why

    def result(self, stage: int) -> tuple[Tensor | None, str]:
        """(N, K) targets of a stage, or None and why they cannot be known."""
        key = self._keys[stage]
        if missing := self._missing[key]:
            site, why = next(iter(missing.items()))
            more = f" (and {len(missing) - 1} more sites)" if len(missing) > 1 else ""
            return None, f"{site}: {why}{more}"
        return self._pools[key].result(), ""

    def _received(self, answers: Truncated) -> Truncated:
        """Answers as they are after the wire, which rounds probabilities."""
        plan_hash = codec.plan_hash(self._plan)
        sent = codec.encode_reply(Share(plan_hash=plan_hash, stage=0, first=0, answers=answers), plan=self._plan)
        ask = Ask(plan_hash=plan_hash, stage=0, first=0, count=len(answers))
        received = codec.decode_reply(sent, plan=self._plan, expecting=ask)
        if not isinstance(received, Share):
            raise RunError(f"Expected a share to be decoded, got {type(received).__name__}.")
        return received.answers
