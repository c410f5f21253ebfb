"""One run: agree, teach, then stage by stage ask, pool, distil, checkpoint; at the end export.

The coordinator sees only what the codec let through. A site whose reply is refused, missing or a refusal is left out of that
step and the run goes on, as long as the plan's minimum of sites is left; below it the run pauses, as long as it has
patience.

A site that comes when others have been taught already is offered the plan and taught while the run goes on, and takes part from
the next stage on. Every stage is a function of the answers in it, so who was there before does not matter to it [D]. No site is
taught where no stage is left that it could answer in: its budget would be spent for nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from limbeck.base.errors import LimbeckError, TooFewClients, WireError
from limbeck.base.printable import printable
from limbeck.plans import checks
from limbeck.plans.schema import Pooling
from limbeck.protos import carry, codec
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reply, Request, Share, Taught, Teach
from limbeck.server import checkpoint, distil, export, pooling, student
from limbeck.server.events import Events
from limbeck.server.pruning import Masks
from limbeck.server.record import ClientRecord, Record, StageRecord

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
# In a pause: how long after a site declined or failed it is asked again, and at most; twice as long every time. Its owner may have mended
# what was wrong.
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 60.0, 3600.0
# How often to look for sites that come late: over some carriers a look is a remote call.
LOOK_SECONDS = 0.5
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


@runtime_checkable
class Bounding(Protocol):
    """A Grid that takes no answer beyond a bound, as the link does."""

    def bound_answers(self, size: int) -> None:
        """Of what is pushed from now on: bytes of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Round:
    """One request to several nodes, known by these names. open: those that have not replied, by message id. until: monotonic
    time when they are given up."""

    phase: str
    request: Request
    names: dict[int, str]
    open: dict[str, int]
    until: float

    @property
    def over(self) -> bool:
        """Nobody is waited for any more."""
        return not self.open or time.monotonic() >= self.until


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
        # Of nodes that declined or failed: when to ask again, and how long that was to wait.
        self._again: dict[int, tuple[float, float]] = {}
        self._unnamed: dict[int, str] = {}
        # When a node was last asked anything: how often it had connected by then.
        self._asked: dict[int, int] = {}
        # Of sites that come late: whether they are let in now, what they were asked, those that accepted, those that are taught
        # and take part from the next stage on.
        self._admitting = False
        self._entering: list[_Round] = []
        self._accepted: dict[int, str] = {}
        self._ready: dict[int, str] = {}
        self._look = 0.0
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
        last = checkpoint.load_last(self.folder / "checkpoints")
        first = 0 if last is None else last.stage + 1
        if first < len(self.plan.stages):
            # What cannot be carried out is not offered: sites would pay for nothing.
            checks.check_plan(self.plan)
            student.rehearse(self.plan, self.transfer_x.numpy())
            self._timed("agree", self._agree)
            self._timed("teach", self._teach)
        model = student.build(
            self.plan.student.architecture, tuple(self.transfer_x.shape[1:]), self.plan.classes, self.plan.public_seed
        ).to(self.device)
        masks = Masks.ones(model)
        if last is not None:
            checkpoint.restore(last, model, masks)
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
        self._until_enough("agree", lambda: len(self.sites), self.grid.get_node_ids, self._offer_to)

    def _offer_to(self, nodes: Iterable[int]) -> None:
        """Offer the plan to nodes; those that accept become sites."""
        names = self._names(nodes)
        for node, reply in self._ask_all("agree", "query.agree", names, self.offer):
            if self._accepts(reply, node, names[node]):
                self.sites[node] = reply.site

    def _names(self, nodes: Iterable[int]) -> dict[int, str]:
        """What nodes are called before they have said who they are: by their certificates, or by number."""
        if isinstance(self.grid, Acquainted):
            return {node: self.grid.site_of(node) for node in nodes}
        return {node: self._unnamed.setdefault(node, f"unnamed node {len(self._unnamed)}") for node in sorted(nodes)}

    def _accepts(self, reply: Reply, node: int, name: str) -> TypeGuard[Accepted]:
        """Whether this is a site's yes to the plan, under a name of its own. A node that was authenticated can take no other."""
        if not isinstance(reply, Accepted | Declined):
            return False
        known = isinstance(self.grid, Acquainted)
        if known and reply.site != name:
            log.warning("%s calls itself %s; it is left out.", name, reply.site)
            client = self.record.client(name)
            client["status"], client["reason"] = "left out", f"agree: calls itself {reply.site}"
            return False
        if any(reply.site == site and own != node for own, site in self._taking_part()):
            log.warning("Two nodes call themselves %s; the second is left out.", reply.site)
            self.record.client(name)["reason"] = f"agree: calls itself {reply.site}, as another node does"
            return False
        if not known:
            self._rename(name, reply.site)
        if isinstance(reply, Declined):
            return False
        client = self.record.client(reply.site)
        client["guarantee"], client["reason"] = reply.guarantee.value, None
        return True

    def _taking_part(self) -> Iterator[tuple[int, str]]:
        """Nodes and names of sites, and of those on their way to become some."""
        yield from self.sites.items()
        yield from self._accepted.items()
        yield from self._ready.items()
        for own in self._entering:
            if isinstance(own.request, Teach):
                yield from own.names.items()

    def _until_enough(
        self,
        phase: str,
        have: Callable[[], int],
        candidates: Callable[[], Iterable[int]],
        ask: Callable[[list[int]], object],
    ) -> None:
        """Pause until the plan's minimum of sites is there: ask candidates that are new, back, have not replied yet, or declined a while
        ago.

        Raises TooFewClients when patience is at its end.
        """
        deadline, paused = time.monotonic() + self.patience.pause, False
        while have() < self.plan.minimum_clients:
            if time.monotonic() >= deadline:
                raise self._too_few(phase, have())
            if nodes := [node for node in candidates() if self._may_answer_now(node)]:
                ask(nodes)
                continue
            if not paused:
                paused = True
                self.events("paused", phase=phase, sites=have(), minimum=self.plan.minimum_clients)
                log.warning("Paused in '%s': %d of at least %d sites.", phase, have(), self.plan.minimum_clients)
            self._let_in()
            time.sleep(POLL_SECONDS)
        if paused:
            self.events("continued", phase=phase, sites=have())

    def _may_answer_now(self, node: int) -> bool:
        """Not one that has replied since it connected last, and would say the same again, nor one that is being asked. One that declined
        may say something else when its owner has mended a setting, a file or a disk."""
        if any(node in own.open.values() for own in self._entering):
            return False
        if node in self._again and time.monotonic() >= self._again[node][0]:
            return True
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
                    self._note_taught(self.sites[node], reply)

        def admit(nodes: list[int]) -> None:
            self._offer_to([node for node in nodes if node not in self.sites])
            teach(nodes)

        def others() -> list[int]:
            return [node for node in self.grid.get_node_ids() if node not in taught and node not in self._ready]

        self._admitting = True
        teach(self.sites)
        self._until_enough("teach", lambda: len(taught) + len(self._ready), others, admit)
        self.sites = {node: site for node, site in self.sites.items() if node in taught}

    def _note_taught(self, site: str, reply: Taught) -> None:
        client = self.record.client(site)
        client["label_counts"] = list(reply.label_counts) if reply.label_counts else None
        client["record_count"] = reply.record_count
        client["guarantee"], client["reason"] = reply.guarantee.value, None
        if reply.guarantee is Guarantee.NONE:
            log.warning("%s answers from a black-box teacher: NO DP GUARANTEE for its records.", site)
        elif reply.guarantee is Guarantee.SEEDED:
            log.warning("%s trained with seeded noise: NO DP GUARANTEE for its records.", site)

    def _let_in(self) -> None:
        """Bring sites that come late further on their way, without waiting: offer them the plan, teach those that accept."""
        if self._admitting and time.monotonic() >= self._look:
            self._look = time.monotonic() + LOOK_SECONDS
            present = {node for node, _ in self._taking_part()} | {
                node for own in self._entering for node in own.open.values()
            }
            new = [
                node
                for node in self.grid.get_node_ids()
                if node not in present and self._connections(node) != self._asked.get(node)
            ]
            if new:
                self._entering.append(self._put("agree", "query.agree", self._names(new), self.offer))
                log.info("%s came late.", ", ".join(self._entering[-1].names.values()))
        for own in self._entering:
            for node, reply, _ in self._pull(own):
                if isinstance(own.request, Offer) and reply is not None and self._accepts(reply, node, own.names[node]):
                    self._accepted[node] = reply.site
                elif isinstance(reply, Taught):
                    self._ready[node] = own.names[node]
                    self._note_taught(own.names[node], reply)
            if own.over:
                self._give_up(own)
        self._entering = [own for own in self._entering if not own.over]
        if self._admitting and self._accepted:
            lesson = self._put("teach", "train.teach", self._accepted, Teach(plan_hash=self.plan_hash))
            self._entering.append(lesson)
            self._accepted = {}

    @property
    def _teaching_late_ones(self) -> bool:
        return any(isinstance(own.request, Teach) for own in self._entering)

    def _await_late_ones(self, stage: int) -> None:
        """Before a stage: sites that are being taught are waited for as long as for any answer, since their budgets are spent, and
        those that are only asked whether they accept as long as for a site to appear. Those that are taught take part."""
        self._admitting, self._look = True, 0.0
        deadline = time.monotonic() + self.patience.join
        self._let_in()
        while self._teaching_late_ones or (self._entering and time.monotonic() < deadline):
            time.sleep(POLL_SECONDS)
            self._let_in()
        for node, site in self._ready.items():
            self.sites[node] = site
            self.events("joined", site=site, stage=stage)
            log.info("%s takes part from stage %d on.", site, stage + 1)
        self._ready = {}
        self._admitting = stage + 1 < len(self.plan.stages)

    def _stage(self, stage: int, model: torch.nn.Module, masks: Masks) -> None:
        """Ask, pool, distil, checkpoint: one step along the path."""
        settings = self.plan.stages[stage]
        started = time.perf_counter()
        before = self._bytes()
        targets_NK, answered = self._pool(stage)
        answers_seconds = time.perf_counter() - started

        def progress(done: int, total: int) -> None:
            self.events.progress(f"distil {stage + 1}", done, total)
            self._let_in()

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
            progress=progress,
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
        self._await_late_ones(stage)
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
                    try:
                        pool.add(reply.answers, first=reply.first, weights_K=weights.get(site))
                    except LimbeckError as error:
                        self.events("left out", site=site, phase=phase, reason=str(error))
                        self._leave_out(site, site, phase, str(error))
                        continue
                    answered.append(site)

        collect(self.sites)
        # Below the minimum, a site that comes now helps this very stage.
        self._admitting |= len(answered) < self.plan.minimum_clients
        self._until_enough(
            phase,
            lambda: len(answered) + len(self._ready),
            lambda: [node for node, site in self.sites.items() if site not in answered],
            collect,
        )
        last = stage + 1 == len(self.plan.stages)
        if len(answered) < self.plan.minimum_clients or (last and (self._ready or self._teaching_late_ones)):
            # Another site has other weights for all: those that have answered send the same again, which costs nothing.
            return self._pool(stage)
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
        released = {name: own for name in names if (own := self.record.client(name)["label_counts"])}
        weights = dict(zip(released, pooling.class_weights(list(released.values())), strict=True)) if released else {}
        average = torch.stack(list(weights.values())).mean(0) if weights else torch.ones(self.plan.classes)
        return {name: weights.get(name, average) for name in names}

    def _sizes(self, names: list[str]) -> dict[str, Tensor]:
        """Weights by noisy numbers of records."""
        released = {name: own for name in names if (own := self.record.client(name)["record_count"]) is not None}
        weights = dict(zip(released, pooling.record_weights(list(released.values())), strict=True)) if released else {}
        average = sum(weights.values()) / len(weights) if weights else 1.0
        return {name: torch.full((self.plan.classes,), weights.get(name, average)) for name in names}

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
        own = self._put(phase, kind, nodes, request)
        total = len(own.open)
        self.events.progress(phase, 0, total)
        while not own.over:
            left = len(own.open)
            for node, reply, reason in self._pull(own):
                self.events.progress(phase, total - len(own.open), total, reason=reason)
                if reply is not None:
                    yield node, reply
            if len(own.open) == left:
                self._let_in()
                time.sleep(POLL_SECONDS)
        self._give_up(own)

    def _put(self, phase: str, kind: str, nodes: dict[int, str], request: Request) -> _Round:
        """Send one request to all nodes, known by these names."""
        data = codec.encode_request(request)
        ttl = min(self.patience.answer, LONGEST_TTL)
        messages = [Message(carry.pack(data), node, kind, ttl=ttl) for node in nodes]
        if isinstance(self.grid, Bounding):
            self.grid.bound_answers(codec.longest_reply(self.plan, request))
        asked = dict(zip(self.grid.push_messages(messages), nodes, strict=True))
        for node, name in nodes.items():
            self._asked[node] = self._connections(node)
            self.record.client(name)["bytes_down"] += len(data)
        until = time.monotonic() + self.patience.answer
        return _Round(phase=phase, request=request, names=dict(nodes), open=asked, until=until)

    def _pull(self, own: _Round) -> Iterator[tuple[int, Reply | None, str | None]]:
        """Replies that have come: (node, the checked reply or None, why the site is left out or None)."""
        for message in list(self.grid.pull_messages(list(own.open))) if own.open else []:
            node = own.open.pop(message.metadata.reply_to_message_id)
            client = self.record.client(own.names[node])
            self._heard[node] = self._connections(node)
            self._lost.discard(node)
            reply, reason = self._read(message, own, client)
            client["status"] = "answered"
            waited = self._again.pop(node, (0.0, AGAIN_SECONDS / 2))[1]
            if reason is not None:
                wait = min(2 * waited, LONGEST_AGAIN_SECONDS)
                self._again[node] = time.monotonic() + wait, wait
                named = reply.site if isinstance(reply, Declined) else own.names[node]
                self._leave_out(own.names[node], named, own.phase, reason)
            yield node, reply, reason

    def _read(self, message: Message, own: _Round, client: ClientRecord) -> tuple[Reply | None, str | None]:
        """The checked reply, or None, and why the site is left out, if it is.

        Whatever goes wrong with what one site sent is that site's exclusion: no site can end the run of the others.
        """
        try:
            answer = _unpack(message)
            client["bytes_up"] += len(answer)
            reply = codec.decode_reply(answer, plan=self.plan, expecting=own.request)
        except WireError as error:
            return None, printable(error)
        except Exception as error:  # a bug of ours, which a site found
            log.exception("A reply could not be read.")
            return None, f"Expected a reply, got one that made the coordinator fail with {type(error).__name__}."
        return reply, reply.reason.value if isinstance(reply, Declined) else None

    def _leave_out(self, node: str, named: str, phase: str, reason: str) -> None:
        """Note that a node is left out of a phase, and why. named: what it calls itself, for the log."""
        client = self.record.client(node)
        client["status"], client["reason"] = "left out", f"{phase}: {reason}"
        log.warning("%s is left out of '%s': %s", named, phase, reason)

    def _give_up(self, own: _Round) -> None:
        """Those that have not replied are lost, until they do or connect again."""
        for node in own.open.values():
            self._lost.add(node)
            client = self.record.client(own.names[node])
            client["status"], client["reason"] = "lost", f"{own.phase}: no answer within {self.patience.answer:g} s"
            log.warning("%s did not answer '%s' within %g s.", own.names[node], own.phase, self.patience.answer)


def _unpack(message: Message) -> bytes:
    """The bytes of a reply. Raises WireError where the carrier reports an error instead."""
    if message.has_error():
        raise WireError(f"Expected a reply, got error {message.error.code}: {message.error.reason or 'no reason given'}.")
    return carry.unpack(message.content)
