"""One run: agree, teach, then stage by stage ask, pool, distil, checkpoint; at the end export.

The coordinator sees only what the codec let through. A site that declines, whose reply is refused or does not come in time is left out of
that phase and the run goes on, as long as the plan's minimum of sites is left; below it the run pauses, as long as it has patience. What
each node is in, and what may happen to it, is `limbeck.server.roster`'s table.

A site that comes when others have been taught already is offered the plan and taught while the run goes on, and takes part from
the next stage on. Every stage is a function of the answers in it, so who was there before does not matter to it [D]. No site is
taught where no stage is left that it could answer in: its budget would be spent for nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from limbeck.base.errors import LimbeckError, TooFewClients, WireError
from limbeck.base.logs import about
from limbeck.base.printable import printable
from limbeck.plans import checks, doubts
from limbeck.plans.schema import Plan, Pooling, TopK
from limbeck.protos import carry, codec, floor
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Offer, Reply, Request, Share, Taught, Teach
from limbeck.server import checkpoint, distil, export, lessons, observed, pooling, refining, student
from limbeck.server.events import (
    Continued,
    Ended,
    Events,
    Joined,
    LeftOut,
    Paused,
    Progress,
    Resumed,
    StageFinished,
    Started,
    Stopped,
    Warned,
)
from limbeck.server.pruning import Masks
from limbeck.server.record import ClientRecord, Record, StageRecord
from limbeck.server.roster import MEMBERS, SITES, Node, NodeEvent, NodeState, Roster
from limbeck.server.states import (
    AGREE,
    TEACH,
    DeclinedBySite,
    NoReply,
    Phase,
    RefusedReply,
    SiteState,
    Step,
    Why,
    WrongName,
)

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
# While replies are waited for, the record is written at most this often.
SAVE_SECONDS = 1.0
REASONS_SHOWN = 5
# Names of sites in one entry of the log.
NAMES_SHOWN = 20
# The longest time for a question, in seconds: Flower adds it to the time of day.
LONGEST_TTL = 365 * 86400.0
# Flower's message types of the questions.
MESSAGE_TYPES: dict[type[Request], str] = {Offer: "query.agree", Teach: "train.teach", Ask: "query.share"}
# What a question does to a node that is asked in time.
QUESTIONS: dict[type[Request], NodeEvent] = {Offer: NodeEvent.OFFER, Teach: NodeEvent.TEACH, Ask: NodeEvent.ASK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the coordinator waits, in seconds.

    expected: how many nodes to wait for at the beginning.
    join: for them to appear. It is also how long a stage waits for a late site that has not said yet whether it accepts.
    answer: for all replies to a question.
    pause: below the plan's minimum of sites, for some to come or come back, before the run ends; may be infinite.
    look: between two looks for sites that come late; over some carriers a look is a remote call.
    retry: in a pause, before a site that declined or failed is asked again; twice as long every time, up to an hour. Its owner may have
        corrected what was wrong.
    """

    expected: int
    join: float = 60.0
    answer: float = 3600.0
    pause: float = 0.0
    look: float = 0.5
    retry: float = 60.0


@runtime_checkable
class Acquainted(Protocol):
    """A Grid that knows its nodes beyond their ids, as the link does."""

    def site_of(self, node_id: int) -> str:
        """The name under which a node was authenticated."""

    def connections_of(self, node_id: int) -> int:
        """How often it has connected."""


@runtime_checkable
class Expecting(Protocol):
    """A Grid that knows which sites may come, as the link does."""

    def expected_sites(self) -> Iterable[str]:
        """Their names."""


@runtime_checkable
class Bounding(Protocol):
    """A Grid that takes no answer beyond a bound, as the link does."""

    def bound_answers(self, size: int) -> None:
        """Take at most this many bytes as the answer to whatever is pushed from now on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Round:
    """One question to several nodes.

    names: what each node is called in the record, by id.
    open: the nodes that have not replied, by message id.
    until: monotonic seconds; who has not replied then is given up.
    """

    phase: Phase
    request: Request
    names: dict[int, str]
    open: dict[str, Node]
    until: float

    @property
    def over(self) -> bool:
        """Nobody is waited for any more."""
        return not self.open or time.monotonic() >= self.until


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pooled:
    """The answers of a stage, pooled.

    clients: the sites in them, in order. asked_in: the stage in which they were asked for. at_floor: as in the record of a stage.
    """

    targets_NK: Tensor
    clients: tuple[str, ...]
    asked_in: int
    at_floor: tuple[float, ...]


class Coordinator:
    """Runs one plan over a Grid.

    offer: the plan, with its author's signature if it has one. transfer_x: the (N, ...) public inputs of the plan.
    folder: checkpoints, record, events and the student go there; a folder that holds finished stages of the same plan is
    continued after the last of them. encoding: the content of the file of the plan's public encoding, for the student's folder.
    """

    def __init__(
        self,
        grid: Grid,
        offer: Offer,
        transfer_x: Tensor,
        folder: Path,
        patience: Patience,
        *,
        encoding: bytes | None = None,
    ) -> None:
        self.grid, self.offer, self.transfer_x, self.folder, self.patience = grid, offer, transfer_x, folder, patience
        self.encoding = encoding
        self.plan = offer.plan
        self.plan_hash = codec.plan_hash(self.plan)
        self.record = Record(folder / "record.json", self.plan_hash)
        self.events = Events(folder / "events.jsonl")
        self.roster = Roster()
        # Whether sites that come late are let in now, the questions to them, and when to look for more (monotonic seconds).
        self._admitting = False
        self._late_rounds: list[_Round] = []
        self._next_look = 0.0
        # Whether the record has changed since it was saved, and when it may be saved again.
        self._unsaved = False
        self._next_save = 0.0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._lessons = lessons.Lessons(self.plan, transfer_x, cache=folder / refining.CACHE, device=self.device)
        # Of the last stage, as long as a later one may use it again.
        self._pooled: _Pooled | None = None

    def run(self) -> None:
        """All of it. Raises TooFewClients where the plan's minimum is not met; what is finished stays and can be resumed."""
        try:
            self._run()
        except (LimbeckError, KeyboardInterrupt) as error:
            if self._unsaved:
                try:
                    self._save()
                except OSError as failure:
                    log.error("The record could not be written: %s.", failure)
            self.events(Stopped(reason=str(error) or "interrupted"))
            raise

    def _run(self) -> None:
        self.events(Started(plan=self.plan_hash.hex(), stages=len(self.plan.stages)))
        log.info(
            "Plan %s (%s): %d stages, at least %d sites.",
            self.plan_hash.hex()[:16],
            printable(self.plan.name, 80),
            len(self.plan.stages),
            self.plan.minimum_clients,
            extra=self._about("started"),
        )
        last = checkpoint.load_last(self.folder / "checkpoints")
        first = 0 if last is None else last.stage + 1
        if first < len(self.plan.stages):
            # What cannot be carried out is not offered: sites would pay for nothing.
            checks.check_plan(self.plan)
            student.rehearse(self.plan, self.transfer_x.numpy())
            for doubt in (*doubts.of_plan(self.plan), *doubts.of_inputs(self.plan, self.transfer_x.numpy())):
                self._warn(doubt)
            self._timed(Step.AGREE, self._agree)
            self._timed(Step.TEACH, self._teach)
        model = student.build(
            self.plan.student.architecture, tuple(self.transfer_x.shape[1:]), self.plan.classes, self.plan.public_seed
        ).to(self.device)
        masks = Masks.ones(model)
        if last is not None:
            checkpoint.restore(last, model, masks)
            self.events(Resumed(after_stage=last.stage))
            log.info("Goes on after stage %d.", last.stage + 1, extra=self._about("resumed", Phase(Step.DISTIL, last.stage)))
        del self.record.stages[first:]
        if last is not None and last.clients:
            at_floor = self.record.stages[last.stage].at_floor if len(self.record.stages) > last.stage else ()
            self._pooled = _Pooled(
                targets_NK=last.targets_NK, clients=last.clients, asked_in=last.asked_in, at_floor=at_floor
            )
        for stage in range(first, len(self.plan.stages)):
            self._stage(stage, model, masks)
        self._timed(Step.EXPORT, lambda: self._export(model))
        self.events(Ended())

    def _export(self, model: torch.nn.Module) -> None:
        card = export.describe(self.plan, self.plan_hash, self.transfer_x, self.record.clients, self.record.stages)
        export.export(model, self.folder / "student", self.transfer_x, card, encoding=self.encoding)

    def _timed(self, step: Step, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        self.record.add_seconds(step.value, time.perf_counter() - started)
        self._save()

    def _warn(self, text: str) -> None:
        """Say once, in log, events and record, what is allowed and looks like a mistake."""
        if text not in self.record.warnings:
            self.record.warnings.append(text)
            self._unsaved = True
            self.events(Warned(text=text))
            log.warning("%s", text, extra=self._about("warning"))

    def _save(self) -> None:
        self.record.save()
        self._unsaved, self._next_save = False, time.monotonic() + SAVE_SECONDS

    def _save_now_and_then(self) -> None:
        """While replies are waited for, whoever watches sees those that have come."""
        if self._unsaved and time.monotonic() >= self._next_save:
            self._save()

    # Agreeing

    def _agree(self) -> None:
        """Wait for nodes, offer the plan, keep those that accept under a name of their own."""
        expected = self.grid.expected_sites() if isinstance(self.grid, Expecting) else ()
        for name in (*self.record.clients, *expected):
            self.record.client(name).state = SiteState.ABSENT
        self._unsaved = True
        deadline = time.monotonic() + self.patience.join
        while len(present := list(self.grid.get_node_ids())) < self.patience.expected and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._offer_to(self._meet(present))
        self._until_enough(AGREE, lambda: len(self.roster.in_state(*SITES)), self._present, self._offer_to)

    def _present(self) -> list[Node]:
        """The nodes that the carrier names now."""
        return self._meet(self.grid.get_node_ids())

    def _meet(self, node_ids: Iterable[int]) -> list[Node]:
        """The nodes with these ids. One that is new is called by its certificate, or by number until it has said who it is."""
        if isinstance(self.grid, Acquainted):
            ids = list(node_ids)
            labels = {node_id: self.grid.site_of(node_id) for node_id in ids if node_id not in self.roster}
        else:
            ids = sorted(node_ids)
            new = [node_id for node_id in ids if node_id not in self.roster]
            labels = {node_id: f"unnamed node {len(self.roster) + index}" for index, node_id in enumerate(new)}
        for node_id, label in labels.items():
            self.roster.add(Node(id=node_id, label=label))
        return [self.roster[node_id] for node_id in ids]

    def _offer_to(self, nodes: Sequence[Node]) -> None:
        """Offer the plan to nodes; those that accept become sites."""
        self._ask(AGREE, self.offer, nodes)

    def _identify(self, node: Node, label: str, reply: Accepted | Declined) -> WrongName | None:
        """Take a node by the name it gives, or say what is wrong with it. A node that was authenticated can take no other."""
        known = isinstance(self.grid, Acquainted)
        if known and reply.site != label:
            return WrongName(reply.site)
        bearer = self.roster.bearer(reply.site)
        if bearer is not None and bearer is not node:
            return WrongName(reply.site, taken=True)
        if not known:
            self._rename(label, reply.site)
        return None

    def _rename(self, label: str, site: str) -> None:
        """A node's traffic and state go to the site that it turned out to be."""
        unnamed, client = self.record.clients.pop(label), self.record.client(site)
        client.bytes_up += unnamed.bytes_up
        client.bytes_down += unnamed.bytes_down
        client.state, client.exclusion = unnamed.state, unnamed.exclusion

    # Pauses

    def _until_enough(
        self,
        phase: Phase,
        have: Callable[[], int],
        candidates: Callable[[], Iterable[Node]],
        ask: Callable[[list[Node]], object],
    ) -> None:
        """Pause until the plan's minimum of sites is there: ask candidates that are new, back, have not replied yet, or declined a while
        ago.

        Raises TooFewClients when patience is at its end.
        """
        deadline, paused = time.monotonic() + self.patience.pause, False
        while have() < self.plan.minimum_clients:
            if time.monotonic() >= deadline:
                raise self._too_few(phase, have())
            now = time.monotonic()
            nodes = [node for node in candidates() if node.may_answer_now(self._connections(node), now)]
            if not paused and all(node.asked is not None for node in nodes):
                paused = True
                self._save()
                self.events(Paused(phase=phase, sites=have(), minimum=self.plan.minimum_clients))
                log.warning(
                    "Paused in '%s': %d of at least %d sites. %s",
                    phase,
                    have(),
                    self.plan.minimum_clients,
                    self._waited_for(),
                    extra=self._about("paused", phase, done=have(), total=self.plan.minimum_clients),
                )
            if nodes:
                ask(nodes)
                continue
            self._let_in()
            self._save_now_and_then()
            time.sleep(POLL_SECONDS)
        if paused:
            self.events(Continued(phase=phase, sites=have()))
            log.info("Continued with %d sites.", have(), extra=self._about("continued", phase, done=have()))

    def _waited_for(self) -> str:
        """Whom a pause waits for, and why each is missing, for the log."""
        missing = [
            f"{name} ({client.state.value}{f', {client.exclusion}' if client.exclusion is not None else ''})"
            for name, client in sorted(self.record.clients.items())
            if client.state is not SiteState.ANSWERED
        ]
        shown = ", ".join(missing[:NAMES_SHOWN])
        return f"Waiting for {shown or 'more sites'}{' and others' if len(missing) > NAMES_SHOWN else ''}."

    def _about(
        self,
        event: str,
        phase: Phase | None = None,
        *,
        site: str | None = None,
        done: int | None = None,
        total: int | None = None,
    ) -> dict[str, object]:
        """What an entry of the log is about."""
        stage = phase.stage + 1 if phase is not None and phase.stage is not None else None
        stages = len(self.plan.stages)
        return about(event=event, plan=self.plan_hash, site=site, stage=stage, stages=stages, done=done, total=total)

    def _connections(self, node: Node) -> int:
        return self.grid.connections_of(node.id) if isinstance(self.grid, Acquainted) else 1

    # Teaching

    def _teach(self) -> None:
        """Have every site train; those that do not are left out from here on."""
        untaught = (NodeState.AGREED, NodeState.UNTAUGHT)

        def teach(nodes: Iterable[Node]) -> None:
            self._ask(TEACH, self._lesson, [node for node in nodes if node.state in untaught])

        def admit(nodes: list[Node]) -> None:
            self._offer_to([node for node in nodes if node.state is NodeState.KNOWN])
            teach(nodes)

        def others() -> list[Node]:
            return [node for node in self._present() if node.state in (NodeState.KNOWN, *untaught)]

        def taught() -> int:
            return len(self.roster.in_state(NodeState.MEMBER, NodeState.LATE_TAUGHT))

        self._admitting = True
        teach(self.roster)
        self._until_enough(TEACH, taught, others, admit)
        for node in self.roster.in_state(*untaught):
            node.on(NodeEvent.END_TEACHING)

    @property
    def _lesson(self) -> Teach:
        return Teach(plan_hash=self.plan_hash)

    def _note_taught(self, client: ClientRecord, site: str, reply: Taught) -> None:
        client.label_counts, client.record_count = reply.label_counts or None, reply.record_count
        client.guarantee, client.exclusion = reply.guarantee, None
        if reply.guarantee is Guarantee.NONE:
            log.warning("%s answers from a black-box teacher: NO DP GUARANTEE for its records.", site)
        elif reply.guarantee is Guarantee.SEEDED:
            log.warning("%s trained with seeded noise: NO DP GUARANTEE for its records.", site)

    # Sites that come late

    def _let_in(self) -> None:
        """Bring sites that come late further on their way, without waiting: offer them the plan, teach those that accept."""
        if self._admitting and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.patience.look
            new = [
                node for node in self._present() if node.state is NodeState.KNOWN and self._connections(node) != node.asked
            ]
            if new:
                self._late_rounds.append(self._put(AGREE, self.offer, new, NodeEvent.OFFER_LATE))
                log.info("%s came late.", ", ".join(node.label for node in new), extra=self._about("came late"))
        for late in self._late_rounds:
            for _ in self._pull(late):
                pass
            if late.over:
                self._give_up(late)
        self._late_rounds = [late for late in self._late_rounds if not late.over]
        if self._admitting and (accepted := self.roster.in_state(NodeState.LATE_AGREED)):
            self._late_rounds.append(self._put(TEACH, self._lesson, accepted, NodeEvent.TEACH))

    def _teaching_late_ones(self) -> bool:
        return bool(self.roster.in_state(NodeState.LATE_TRAINING))

    def _await_late_ones(self, stage: int) -> None:
        """Before a stage: sites that are being taught are waited for as long as for any answer, since their budgets are spent, and
        those that are only asked whether they accept as long as for a site to appear. Those that are taught take part."""
        self._admitting, self._next_look = True, 0.0
        deadline = time.monotonic() + self.patience.join
        self._let_in()
        while self._teaching_late_ones() or (self._late_rounds and time.monotonic() < deadline):
            time.sleep(POLL_SECONDS)
            self._let_in()
        for node in self.roster.in_state(NodeState.LATE_TAUGHT):
            node.on(NodeEvent.JOIN)
            self.events(Joined(site=node.site, stage=stage))
            joined = self._about("joined", Phase(Step.ANSWERS, stage), site=node.site)
            log.info("%s takes part from stage %d on.", node.site, stage + 1, extra=joined)
        self._admitting = stage + 1 < len(self.plan.stages)

    # Stages

    def _stage(self, stage: int, model: torch.nn.Module, masks: Masks) -> None:
        """Ask, pool, distil, checkpoint: one step along the path."""
        settings = self.plan.stages[stage]
        started = time.perf_counter()
        before = self._bytes()
        pooled = self._pooled = self._pool(stage)
        if (sentence := floor.warning(self.plan, pooled.at_floor, settings.temperature)) is not None:
            self._warn(sentence)
        answers_seconds = time.perf_counter() - started
        phase = Phase(Step.DISTIL, stage)

        def progress(done: int, total: int) -> None:
            self.events(Progress(phase=phase, done=done, total=total))
            self._let_in()

        distilling = time.perf_counter()
        lesson = self._lessons.of(pooled.targets_NK, stage)
        preparing = time.perf_counter() - distilling
        result = distil.distil_stage(
            model,
            masks,
            self.transfer_x,
            lesson.targets_NK,
            stage=stage,
            sparsity=settings.sparsity,
            temperature=lesson.temperature,
            student=lesson.student,
            seed=self.plan.public_seed,
            device=self.device,
            progress=progress,
        )
        up, down = self._bytes()
        distil_seconds = preparing + result.seconds
        record = StageRecord(
            stage=stage,
            sparsity=result.sparsity,
            temperature=settings.temperature,
            clients=pooled.clients,
            asked_in=None if pooled.asked_in == stage else pooled.asked_in,
            bytes_up=up - before[0],
            bytes_down=down - before[1],
            seconds={Step.ANSWERS.value: answers_seconds, Step.DISTIL.value: distil_seconds},
            losses=tuple(result.losses),
            at_floor=pooled.at_floor,
        )
        checkpoint.save_stage(
            self.folder / "checkpoints",
            stage,
            model,
            masks,
            pooled.targets_NK,
            clients=pooled.clients,
            asked_in=pooled.asked_in,
        )
        self.record.stages.append(record)
        self.record.add_seconds(Step.ANSWERS.value, answers_seconds)
        self.record.add_seconds(Step.DISTIL.value, distil_seconds)
        self._save()
        self.events(StageFinished(**asdict(record)))
        log.info(
            "Stage %d of %d is finished: %d sites, %.1f %% sparse, %.1f s.",
            stage + 1,
            len(self.plan.stages),
            len(pooled.clients),
            100 * result.sparsity,
            answers_seconds + distil_seconds,
            extra=self._about("stage finished", phase, done=stage + 1, total=len(self.plan.stages)),
        )

    def _pool(self, stage: int) -> _Pooled:
        """One stage's answers of all sites, pooled as they come.

        Another site has other weights for all: if one joins after the others were asked, those are asked again. They send the same again,
        which costs nothing. Where all would send what they sent in the last stage, nobody is asked.
        """
        last = stage + 1 == len(self.plan.stages)
        while True:
            self._await_late_ones(stage)
            if (same := self._pool_before(stage)) is not None:
                return same
            for node in self._members():
                node.on(NodeEvent.BEGIN_STAGE)
            pool, answered = self._collect(stage)
            late = self.roster.in_state(NodeState.LATE_TAUGHT)
            if len(answered) >= self.plan.minimum_clients and not (last and (late or self._teaching_late_ones())):
                at_floor = pool.at_floor if floor.applies(self.plan) else ()
                pooled = _Pooled(
                    targets_NK=pool.result(), clients=tuple(sorted(answered)), asked_in=stage, at_floor=at_floor
                )
                self._look_at(pool.named, pooled)
                return pooled

    def _look_at(self, named_CK: Tensor, pooled: _Pooled) -> None:
        """Say what the first stage's answers tell about labels and noise. named_CK: `Pool.named`."""
        if self.record.stages:
            return
        if (sentence := observed.unlike_sites(self.plan, named_CK)) is not None:
            self._warn(sentence)
        if observed.applies(self.plan):
            temperature = self.plan.stages[pooled.asked_in].temperature
            e_J = observed.eigenvalues(self.plan, self.transfer_x.numpy(), self.folder / refining.CACHE)
            if (
                sentence := observed.evidence(self.plan, pooled.targets_NK, len(pooled.clients), temperature, e_J)
            ) is not None:
                self._warn(sentence)

    def _pool_before(self, stage: int) -> _Pooled | None:
        """The last stage's pool, if asking for this stage's answers would only bring it again; else None.

        A teacher does not change, and its largest answers are a function of it and of the temperature: so the same sites send the same at
        the same temperature, and have the same weights [D]. Samples, in contrast, are drawn anew for every stage.
        """
        pooled, settings = self._pooled, self.plan.stages
        if pooled is None or not isinstance(self.plan.truncation, TopK):
            return None
        if settings[pooled.asked_in].temperature != settings[stage].temperature:
            return None
        if tuple(sorted(node.site for node in self._members())) != pooled.clients:
            return None
        log.info(
            "Stage %d asks nobody: %d sites have answered at this temperature.",
            stage + 1,
            len(pooled.clients),
            extra=self._about("asked nobody", Phase(Step.ANSWERS, stage)),
        )
        return pooled

    def _members(self) -> list[Node]:
        return self.roster.in_state(*MEMBERS)

    def _collect(self, stage: int) -> tuple[pooling.Pool, list[str]]:
        """The pool of those that answer, and their names; below the plan's minimum only if sites that come late make up for it."""
        weights = site_weights(self.plan, {node.site: self.record.client(node.site) for node in self._members()})
        pool = pooling.Pool(samples=self.plan.samples, classes=self.plan.classes)
        answered: list[str] = []
        phase = Phase(Step.ANSWERS, stage)
        question = Ask(plan_hash=self.plan_hash, stage=stage, first=0, count=self.plan.samples)

        def collect(nodes: Sequence[Node]) -> None:
            for node, reply in self._ask_all(phase, question, nodes):
                if isinstance(reply, Share):
                    try:
                        pool.add(reply.answers, first=reply.first, weights_K=weights.get(node.site))
                    except LimbeckError as error:
                        why = RefusedReply(printable(error))
                        self.events(LeftOut(site=node.site, phase=phase, why=why))
                        self._leave_out(node, node.site, phase, why)
                        continue
                    node.on(NodeEvent.ANSWER)
                    answered.append(node.site)

        collect(self.roster.in_state(NodeState.MEMBER))
        # Below the minimum, a site that comes now helps this very stage.
        self._admitting |= len(answered) < self.plan.minimum_clients
        self._until_enough(
            phase,
            lambda: len(answered) + len(self.roster.in_state(NodeState.LATE_TAUGHT)),
            lambda: self.roster.in_state(NodeState.MISSING),
            collect,
        )
        return pool, answered

    def _too_few(self, phase: Phase, count: int) -> TooFewClients:
        reasons = Counter(str(client.exclusion) for client in self.record.clients.values() if client.exclusion is not None)
        counted = "; ".join(f"{count} of them: {reason}" for reason, count in reasons.most_common(REASONS_SHOWN))
        return TooFewClients(
            f"Expected at least {self.plan.minimum_clients} sites after '{phase}', got {count}. {counted}".strip()
        )

    def _bytes(self) -> tuple[int, int]:
        clients = self.record.clients.values()
        return sum(client.bytes_up for client in clients), sum(client.bytes_down for client in clients)

    # Questions and replies

    def _ask(self, phase: Phase, request: Request, nodes: Sequence[Node]) -> None:
        """Send one request to all nodes, and wait until what they reply is noted."""
        for _ in self._ask_all(phase, request, nodes):
            pass

    def _ask_all(self, phase: Phase, request: Request, nodes: Sequence[Node]) -> Iterator[tuple[Node, Reply]]:
        """Send one request to all nodes; yields (node, checked reply) as they come.

        A reply that is an error, malformed or too late is noted against the site and not yielded; a refusal is noted
        and yielded. A second reply to the same message never gets here, because the Grid gives out each message's
        reply once.
        """
        asked = self._put(phase, request, nodes, QUESTIONS[type(request)])
        total = len(asked.open)
        self.events(Progress(phase=phase, done=0, total=total))
        names = [asked.names[node.id] for node in nodes[:NAMES_SHOWN]]
        log.info(
            "%s: %d asked: %s%s.",
            phase.title,
            total,
            ", ".join(names) or "nobody",
            " and others" if total > len(names) else "",
            extra=self._about("asked", phase, done=0, total=total),
        )
        while not asked.over:
            left = len(asked.open)
            for node, reply, why in self._pull(asked):
                done = total - len(asked.open)
                self.events(Progress(phase=phase, done=done, total=total, why=why))
                if why is None:
                    name = node.site or asked.names[node.id]
                    said = self._about("replied", phase, site=name, done=done, total=total)
                    log.info("%s: %s has replied, %d of %d.", phase.title, name, done, total, extra=said)
                if reply is not None:
                    yield node, reply
            if len(asked.open) == left:
                self._let_in()
                self._save_now_and_then()
                time.sleep(POLL_SECONDS)
        self._give_up(asked)

    def _put(self, phase: Phase, request: Request, nodes: Sequence[Node], event: NodeEvent) -> _Round:
        """Send one request to all nodes. event: what that is to them."""
        data = codec.encode_request(request)
        ttl = min(self.patience.answer, LONGEST_TTL)
        messages = [Message(carry.pack(data), node.id, MESSAGE_TYPES[type(request)], ttl=ttl) for node in nodes]
        if isinstance(self.grid, Bounding):
            self.grid.bound_answers(codec.longest_reply(self.plan, request))
        asked = dict(zip(self.grid.push_messages(messages), nodes, strict=True))
        names = {node.id: node.label if isinstance(request, Offer) else node.site for node in nodes}
        for node in nodes:
            node.on(event)
            node.asked = self._connections(node)
            client = self.record.client(names[node.id])
            client.bytes_down += len(data)
            if client.state is SiteState.ABSENT:
                client.state = SiteState.JOINED
        self._unsaved = True
        return _Round(phase=phase, request=request, names=names, open=asked, until=time.monotonic() + self.patience.answer)

    def _pull(self, asked: _Round) -> Iterator[tuple[Node, Reply | None, Why | None]]:
        """Replies that have come: (node, the checked reply or None, why the site is left out or None).

        Each has been noted by then, but for answers to a stage, which have yet to be pooled.
        """
        for message in list(self.grid.pull_messages(list(asked.open))) if asked.open else []:
            node = asked.open.pop(message.metadata.reply_to_message_id)
            yield node, *self._note(node, message, asked)

    def _note(self, node: Node, message: Message, asked: _Round) -> tuple[Reply | None, Why | None]:
        """Read a reply, and note what it makes of its node."""
        name = asked.names[node.id]
        client = self.record.client(name)
        client.state, self._unsaved = SiteState.ANSWERED, True
        reply, why = self._read(message, asked, client)
        now = time.monotonic()
        node.replied(self._connections(node), useful=why is None, now=now, retry_seconds=self.patience.retry)
        if isinstance(asked.request, Offer) and isinstance(reply, Accepted | Declined):
            wrong = self._identify(node, name, reply)
            why = wrong or why
            name = name if wrong is not None or isinstance(self.grid, Acquainted) else reply.site
        if why is not None:
            self._leave_out(node, name, asked.phase, why)
        elif isinstance(reply, Accepted):
            node.on(NodeEvent.ACCEPT)
            node.site, client = name, self.record.client(name)
            client.guarantee, client.exclusion = reply.guarantee, None
        elif isinstance(reply, Taught):
            node.on(NodeEvent.TAUGHT)
            self._note_taught(client, name, reply)
        return reply, why

    def _read(self, message: Message, asked: _Round, client: ClientRecord) -> tuple[Reply | None, Why | None]:
        """The checked reply, or None, and why the site is left out, if it is.

        Whatever goes wrong with what one site sent is that site's exclusion: no site can end the run of the others.
        """
        try:
            answer = _unpack(message)
            client.bytes_up += len(answer)
            reply = codec.decode_reply(answer, plan=self.plan, expecting=asked.request)
        except WireError as error:
            return None, RefusedReply(printable(error))
        except Exception as error:  # a bug of ours, which a site found
            log.exception("A reply could not be read.")
            return None, RefusedReply(
                f"Expected a reply, got one that made the coordinator fail with {type(error).__name__}."
            )
        return reply, DeclinedBySite(reply.reason) if isinstance(reply, Declined) else None

    def _leave_out(self, node: Node, name: str, phase: Phase, why: Why) -> None:
        """Note that a node is left out of a phase, and why. name: what it is called in the record."""
        node.on(_EXCLUSIONS[type(why)])
        self.record.client(name).leave_out(phase, why)
        self._unsaved = True
        log.warning("%s is left out of '%s': %s", name, phase, why, extra=self._about("left out", phase, site=name))

    def _give_up(self, asked: _Round) -> None:
        """Those that have not replied are lost, until they do or connect again."""
        for node in asked.open.values():
            node.lost = True
            self._leave_out(node, asked.names[node.id], asked.phase, NoReply(self.patience.answer))


# What it is to a node that it is left out.
_EXCLUSIONS: dict[type[Why], NodeEvent] = {
    DeclinedBySite: NodeEvent.DECLINE,
    RefusedReply: NodeEvent.REFUSE,
    NoReply: NodeEvent.LOSE,
    WrongName: NodeEvent.MISNAME,
}


def site_weights(plan: Plan, clients: Mapping[str, ClientRecord]) -> dict[str, Tensor]:
    """(K,) weights per class of every site, by name, from the noisy counts it released; none for mean pooling.

    A site that released none, as one with a black-box teacher, counts as the average of those that did [D].
    """
    names = sorted(clients)
    match plan.pooling:
        case Pooling.MEAN:
            return {}
        case Pooling.CLASS_COUNTS:
            claims = {name: counts for name in names if (counts := clients[name].label_counts)}
            released = dict(zip(claims, pooling.class_weights(list(claims.values())), strict=True)) if claims else {}
            average = torch.stack(list(released.values())).mean(0) if released else torch.ones(plan.classes)
            return {name: released.get(name, average) for name in names}
        case Pooling.RECORD_COUNTS:
            sizes = {name: count for name in names if (count := clients[name].record_count) is not None}
            shares = dict(zip(sizes, pooling.record_weights(list(sizes.values())), strict=True)) if sizes else {}
            share = sum(shares.values()) / len(shares) if shares else 1.0
            return {name: torch.full((plan.classes,), shares.get(name, share)) for name in names}


def _unpack(message: Message) -> bytes:
    """The bytes of a reply. Raises WireError where the carrier reports an error instead."""
    if message.has_error():
        raise WireError(f"Expected a reply, got error {message.error.code}: {message.error.reason or 'no reason given'}.")
    return carry.unpack(message.content)
