"""A run's folder as a coordinator leaves it in the middle, written by the coordinator's own record and events."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from helpers.plans import PLAN
from limbeck.plans.schema import LinearTeaching, Plan, Stage
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee, Offer, Reason
from limbeck.server.events import Ended, Events, Paused, Progress, StageFinished, Started, Stopped
from limbeck.server.record import Record, StageRecord
from limbeck.server.states import AGREE, TEACH, DeclinedBySite, Exclusion, NoReply, Phase, RefusedReply, SiteState, Step

assert isinstance(PLAN.teaching, LinearTeaching)
RUN_PLAN = replace(
    PLAN, name="pneumonia-2026", stages=tuple(Stage(sparsity=own, temperature=2.0) for own in (0.52, 0.79, 0.89, 0.9))
)
LEFT = {
    "riverside": Exclusion(AGREE, DeclinedBySite(Reason.BUDGET)),
    "st-anna": Exclusion(TEACH, RefusedReply("Expected a reply, got error 5: the node is gone.")),
    "west": Exclusion(Phase(Step.ANSWERS, 1), NoReply(3600)),
}
SITES = ("charite", "hillside", "lakeview", "north", "southgate", "uniklinik")


def make(folder: Path, plan: Plan = RUN_PLAN, *, end: str | None = None, sites: tuple[str, ...] = SITES) -> Path:
    """Two of four stages are finished, the third one's answers come in. end: the event that ends it, or "paused"."""
    run_hash = codec.plan_hash(plan)
    folder.mkdir(parents=True)
    (folder / "plan.pb").write_bytes(codec.encode_request(Offer(plan=plan)))
    events, record = Events(folder / "events.jsonl"), Record(folder / "record.json", run_hash)
    everybody = (*sites, *LEFT)
    events(Started(plan=run_hash.hex(), stages=len(plan.stages)))
    events(Progress(phase=AGREE, done=0, total=len(everybody)))
    for index, name in enumerate(everybody, start=1):
        declined = LEFT[name].why if name == "riverside" else None
        events(Progress(phase=AGREE, done=index, total=len(everybody), why=declined))
        client = record.client(name)
        client.state, client.bytes_up, client.bytes_down = SiteState.ANSWERED, 180 + 12 * index, 1_240
        client.guarantee = None if name == "riverside" else Guarantee.RECORD_DP
        if name in LEFT:
            client.leave_out(LEFT[name].phase, LEFT[name].why)
    asked = len(everybody) - 1
    events(Progress(phase=TEACH, done=0, total=asked))
    for index in range(1, asked + 1):
        events(Progress(phase=TEACH, done=index, total=asked, why=LEFT["st-anna"].why if index == asked else None))
    for stage in range(2):
        answers, distil = Phase(Step.ANSWERS, stage), Phase(Step.DISTIL, stage)
        for index in range(len(sites) + 2 - stage):
            events(Progress(phase=answers, done=index, total=len(sites) + 1))
        for epoch in range(1, 9):
            events(Progress(phase=distil, done=epoch, total=8))
        names = sorted((*sites, "west") if stage == 0 else sites)
        for name in names:
            record.client(name).bytes_up += 55_210
        finished = StageRecord(
            stage=stage,
            sparsity=plan.stages[stage].sparsity,
            temperature=2.0,
            clients=tuple(names),
            bytes_up=55_210 * len(names),
            bytes_down=41 * len(names),
            seconds={"answers": 61.5 + stage, "distil": 12.25},
            losses=(1.9 - stage, 0.84 - 0.2 * stage),
        )
        record.stages.append(finished)
        events(StageFinished(**asdict(finished)))
    record.save()
    third = Phase(Step.ANSWERS, 2)
    events(Progress(phase=third, done=0, total=len(sites)))
    events(Progress(phase=third, done=4, total=len(sites)))
    match end:
        case "paused":
            events(Paused(phase=third, sites=1, minimum=2))
        case "stopped":
            events(Stopped(reason="Expected at least 2 sites after 'teach', got 1."))
        case "end":
            events(Ended())
    return folder
