"""One run: agree, teach, then stage by stage ask, pool, distil, checkpoint; at the end export.

The coordinator sees only what the codec let through. A site whose reply is refused, missing or a refusal is left out of that
step and the run goes on, as long as the plan's minimum of sites is left; below it the run pauses, as long as it has
patience.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from limbeck.operators.errors import LimbeckError, TooFewClients, WireError
from limbeck.protos import carry, codec
from limbeck.protos.messages import (
    Accepted,
    Ask,
    Declined,
    Guarantee,
    Offer,
    Pooling,
    Reply,
    Request,
    Share,
    Taught,
    Teach,
)
from limbeck.server import checkpoint, distil, export, pooling, student
from limbeck.server.events import Events
from limbeck.server.pruning import Masks
from limbeck.server.record import ClientRecord, Record, StageRecord

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
REASONS_SHOWN = 5
# Of a question, in seconds: a carrier gives it up then. Flower adds it to the time.
LONGEST_TTL = 365 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the coordinator waits.

    join: seconds for `expected` nodes to appear. answer: seconds for all replies to a question. pause: seconds below the
    plan's minimum of sites, for some to come or come back, before the run ends; may be infinite.
    """

    expected: int
    join: float = 60.0
    answer: float = 3600.0
    pause: float = 0.0


@runtime_checkable
class Acquainted(Protocol):
    """A Grid that knows its nodes beyond their ids, as the link does."""

    def site_of(self, node_id: int) -> str:
        """The name under which a node was authenticated."""

    def connections_of(self, node_id: int) -> int:
        """How often it has connected."""


class Coordinator:
    """Runs one plan over a Grid.

    offer: the plan, with its author's signature if it has one. transfer_x: the (N, ...) public inputs of the plan.
    folder: checkpoints, record, events and the student go there; a folder that holds finished stages of the same plan is
    continued after the last of them.
    """

    def __init__(self, grid: Grid, offer: Offer, transfer_x: Tensor, folder: Path, patience: Patience) -> None:
        self.grid, self.offer, self.transfer_x, self.folder, self.patience = grid, offer, transfer_x, folder, patience
        self.plan = offer.plan
        self.plan_hash = codec.plan_hash(self.plan)
        self.record = Record(folder / "record.json", self.plan_hash)
        self.events = Events(folder / "events.jsonl")
        self.sites: dict[int, str] = {}
        # When a node last replied: how often it had connected by then. Who has not replied at all in time: see
        # `_may_answer_now`.
        self._heard: dict[int, int] = {}
        self._lost: set[int] = set()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self) -> None:
        """All of it. Raises TooFewClients where the plan's minimum is not met; what is finished stays and can be resumed."""
        try:
            self._run()
        except (LimbeckError, KeyboardInterrupt) as error:
            self.events("stopped", reason=str(error) or "interrupted")
            raise

    def _run(self) -> None:
        self.events("start", plan=self.plan_hash.hex(), stages=len(self.plan.stages))
        self._timed("agree", self._agree)
        self._timed("teach", self._teach)
        model = student.build(
            self.plan.student.architecture, tuple(self.transfer_x.shape[1:]), self.plan.classes, self.plan.public_seed
        ).to(self.device)
        masks = Masks.ones(model)
        last = checkpoint.load_last(self.folder / "checkpoints")
        first = 0
        if last is not None:
            checkpoint.restore(last, model, masks)
            first = last.stage + 1
            self.events("resumed", after_stage=last.stage)
        self.record.stages = self.record.stages[:first]
        for stage in range(first, len(self.plan.stages)):
            self._stage(stage, model, masks)
        self._timed("export", lambda: export.export(model, self.folder / "student", self.transfer_x[:256]))
        self.events("end")

    def _timed(self, phase: str, step: Callable[[], object]) -> None:
        started = time.perf_counter()
        step()
        self.record.add_seconds(phase, time.perf_counter() - started)
        self.record.save()

    def _agree(self) -> None:
        """Wait for nodes, offer the plan, keep those that accept under a name of their own."""
        deadline = time.monotonic() + self.patience.join
        while len(nodes := list(self.grid.get_node_ids())) < self.patience.expected and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._offer_to(nodes)
        self._until_enough("agree", self.sites, self.grid.get_node_ids, self._offer_to)

    def _offer_to(self, nodes: Iterable[int]) -> None:
        """Offer the plan to nodes; those that accept become sites. One that was authenticated can take no other name."""
        grid = self.grid
        known = isinstance(grid, Acquainted)
        names = {
            node: grid.site_of(node) if isinstance(grid, Acquainted) else f"unnamed node {index}"
            for index, node in enumerate(sorted(nodes))
        }
        for node, reply in self._ask_all("agree", "query.agree", names, self.offer):
            if not isinstance(reply, Accepted | Declined):
                continue
            if known and reply.site != names[node]:
                log.warning("%s calls itself %s; it is left out.", names[node], reply.site)
                client = self.record.client(names[node])
                client["status"], client["reason"] = "left out", f"agree: calls itself {reply.site}"
                continue
            if reply.site in self.sites.values():
                log.warning("Two nodes call themselves %s; the second is left out.", reply.site)
                self.record.client(names[node])["reason"] = f"agree: calls itself {reply.site}, as another node does"
                continue
            if not known:
                self._rename(names[node], reply.site)
            if isinstance(reply, Accepted):
                self.sites[node] = reply.site
                client = self.record.client(reply.site)
                client["guarantee"], client["reason"] = reply.guarantee.value, None

    def _until_enough(
        self,
        phase: str,
        have: Collection[object],
        candidates: Callable[[], Iterable[int]],
        ask: Callable[[list[int]], object],
    ) -> None:
        """Pause until `have` holds the plan's minimum of sites: ask candidates that are new, back, or have not replied yet.

        Raises TooFewClients when patience is at its end.
        """
        deadline, paused = time.monotonic() + self.patience.pause, False
        while len(have) < self.plan.minimum_clients:
            if time.monotonic() >= deadline:
                raise self._too_few(phase, len(have))
            if nodes := [node for node in candidates() if self._may_answer_now(node)]:
                ask(nodes)
                continue
            if not paused:
                paused = True
                self.events("paused", phase=phase, sites=len(have), minimum=self.plan.minimum_clients)
                log.warning("Paused in '%s': %d of at least %d sites.", phase, len(have), self.plan.minimum_clients)
            time.sleep(POLL_SECONDS)
        if paused:
            self.events("continued", phase=phase, sites=len(have))

    def _may_answer_now(self, node: int) -> bool:
        """Not one that has replied since it connected last: it would say the same again."""
        return node in self._lost or self._connections(node) != self._heard.get(node)

    def _connections(self, node: int) -> int:
        return self.grid.connections_of(node) if isinstance(self.grid, Acquainted) else 1

    def _rename(self, node: str, site: str) -> None:
        """A node's traffic and status go to the site that it turned out to be."""
        unnamed, client = self.record.clients.pop(node), self.record.client(site)
        client["bytes_up"] += unnamed["bytes_up"]
        client["bytes_down"] += unnamed["bytes_down"]
        client["status"], client["reason"] = unnamed["status"], unnamed["reason"]

    def _teach(self) -> None:
        """Have every site train; those that do not are left out from here on."""
        taught: set[int] = set()

        def teach(nodes: Iterable[int]) -> None:
            sites = {node: self.sites[node] for node in nodes if node in self.sites}
            for node, reply in self._ask_all("teach", "train.teach", sites, Teach(plan_hash=self.plan_hash)):
                if isinstance(reply, Taught):
                    taught.add(node)
                    client = self.record.client(self.sites[node])
                    client["label_counts"] = list(reply.label_counts) if reply.label_counts else None
                    client["record_count"] = reply.record_count
                    client["guarantee"] = reply.guarantee.value
                    if reply.guarantee is Guarantee.NONE:
                        log.warning(
                            "%s answers from a black-box teacher: NO DP GUARANTEE for its records.", self.sites[node]
                        )

        def admit(nodes: list[int]) -> None:
            self._offer_to([node for node in nodes if node not in self.sites])
            teach(nodes)

        teach(self.sites)
        self._until_enough("teach", taught, lambda: [node for node in self.grid.get_node_ids() if node not in taught], admit)
        self.sites = {node: site for node, site in self.sites.items() if node in taught}

    def _stage(self, stage: int, model: torch.nn.Module, masks: Masks) -> None:
        """Ask, pool, distil, checkpoint: one step along the path."""
        settings = self.plan.stages[stage]
        started = time.perf_counter()
        before = self._bytes()
        targets_NK, answered = self._pool(stage)
        answers_seconds = time.perf_counter() - started
        result = distil.distil_stage(
            model,
            masks,
            self.transfer_x,
            targets_NK,
            stage=stage,
            sparsity=settings.sparsity,
            temperature=settings.temperature,
            student=self.plan.student,
            seed=self.plan.public_seed,
            device=self.device,
            progress=lambda done, total: self.events.progress(f"distil {stage + 1}", done, total),
        )
        up, down = self._bytes()
        record = StageRecord(
            stage=stage,
            sparsity=result.sparsity,
            temperature=settings.temperature,
            clients=sorted(answered),
            bytes_up=up - before[0],
            bytes_down=down - before[1],
            seconds={"answers": answers_seconds, "distil": result.seconds},
            losses=list(result.losses),
        )
        checkpoint.save_stage(self.folder / "checkpoints", stage, model, masks, targets_NK)
        self.record.stages.append(record)
        self.record.add_seconds("answers", answers_seconds)
        self.record.add_seconds("distil", result.seconds)
        self.record.save()
        self.events("stage", **record)

    def _pool(self, stage: int) -> tuple[Tensor, list[str]]:
        """One stage's answers of all sites, pooled as they come: (N, K) targets and the names of the sites in them."""
        weights = self._weights()
        pool = pooling.Pool(samples=self.plan.samples, classes=self.plan.classes)
        answered: list[str] = []
        phase = f"answers {stage + 1}"
        ask = Ask(plan_hash=self.plan_hash, stage=stage, first=0, count=self.plan.samples)

        def collect(nodes: Iterable[int]) -> None:
            sites = {node: self.sites[node] for node in nodes}
            for node, reply in self._ask_all(phase, "query.share", sites, ask):
                if isinstance(reply, Share):
                    site = self.sites[node]
                    pool.add(reply.answers, first=reply.first, weights_K=weights.get(site))
                    answered.append(site)

        collect(self.sites)
        self._until_enough(
            phase, answered, lambda: [node for node, site in self.sites.items() if site not in answered], collect
        )
        return pool.result(), answered

    def _weights(self) -> dict[str, Tensor]:
        """Weights per class of every site, from the noisy counts it released; none for mean pooling.

        A site that released none, as one with a black-box teacher, counts as the average of those that did [D].
        """
        if self.plan.pooling is Pooling.MEAN:
            return {}
        names = sorted(self.sites.values())
        if self.plan.pooling is Pooling.RECORD_COUNTS:
            return self._sizes(names)
        released = {name: torch.tensor(own) for name in names if (own := self.record.client(name)["label_counts"])}
        average = torch.stack(list(released.values())).clamp(min=0).mean(0) if released else torch.ones(self.plan.classes)
        counts = [released.get(name, average) for name in names]
        return dict(zip(names, pooling.class_weights(counts), strict=True))

    def _sizes(self, names: list[str]) -> dict[str, Tensor]:
        """Weights by noisy numbers of records. One can be negative; every site that answers is heard a little."""
        released = {
            name: max(1.0, float(own)) for name in names if (own := self.record.client(name)["record_count"]) is not None
        }
        average = sum(released.values()) / len(released) if released else 1.0
        sizes = {name: released.get(name, average) for name in names}
        return {name: torch.full((self.plan.classes,), size / max(sizes.values())) for name, size in sizes.items()}

    def _too_few(self, phase: str, count: int) -> TooFewClients:
        reasons = Counter(client["reason"] for client in self.record.clients.values() if client["reason"])
        counted = "; ".join(f"{count} of them: {reason}" for reason, count in reasons.most_common(REASONS_SHOWN))
        return TooFewClients(
            f"Expected at least {self.plan.minimum_clients} sites after '{phase}', got {count}. {counted}".strip()
        )

    def _bytes(self) -> tuple[int, int]:
        clients = self.record.clients.values()
        return sum(client["bytes_up"] for client in clients), sum(client["bytes_down"] for client in clients)

    def _ask_all(self, phase: str, kind: str, nodes: dict[int, str], request: Request) -> Iterator[tuple[int, Reply]]:
        """Send one request to all nodes, known by these names; yields (node, checked reply) as they come.

        A reply that is an error, malformed or too late is noted against the site and not yielded; a refusal is noted
        and yielded. A second reply to the same message never gets here, because the Grid gives out each message's
        reply once.
        """
        data = codec.encode_request(request)
        ttl = min(self.patience.answer, LONGEST_TTL)
        messages = [Message(carry.pack(data), node, kind, ttl=ttl) for node in nodes]
        asked = dict(zip(self.grid.push_messages(messages), nodes, strict=True))
        for node in nodes:
            self._client(node, nodes)["bytes_down"] += len(data)
        total, deadline = len(asked), time.monotonic() + self.patience.answer
        self.events.progress(phase, 0, total)
        while asked and time.monotonic() < deadline:
            messages = list(self.grid.pull_messages(list(asked)))
            if not messages:
                time.sleep(POLL_SECONDS)
            for message in messages:
                node = asked.pop(message.metadata.reply_to_message_id)
                client = self._client(node, nodes)
                self._heard[node] = self._connections(node)
                self._lost.discard(node)
                try:
                    answer = _unpack(message)
                    client["bytes_up"] += len(answer)
                    reply = codec.decode_reply(answer, plan=self.plan, expecting=request)
                    reason = reply.reason.value if isinstance(reply, Declined) else None
                except WireError as error:
                    reply, reason = None, str(error)
                client["status"] = "answered"
                if reason is not None:
                    client["status"], client["reason"] = "left out", f"{phase}: {reason}"
                    name = reply.site if isinstance(reply, Declined) else nodes[node]
                    log.warning("%s is left out of '%s': %s", name, phase, reason)
                self.events.progress(phase, total - len(asked), total, reason=reason)
                if reply is not None:
                    yield node, reply
        for node in asked.values():
            self._lost.add(node)
            client = self._client(node, nodes)
            client["status"], client["reason"] = "lost", f"{phase}: no answer within {self.patience.answer:g} s"
            log.warning("%s did not answer '%s' within %g s.", nodes[node], phase, self.patience.answer)

    def _client(self, node: int, names: dict[int, str]) -> ClientRecord:
        return self.record.client(names[node])


def _unpack(message: Message) -> bytes:
    """The bytes of a reply. Raises WireError where the carrier reports an error instead."""
    if message.has_error():
        raise WireError(f"Expected a reply, got error {message.error.code}: {message.error.reason or 'no reason given'}.")
    return carry.unpack(message.content)
