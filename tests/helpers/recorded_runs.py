"""A run's folder as a coordinator leaves it in the middle, written by the coordinator's own record and events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers.plans import PLAN
from limbeck.plans.schema import LinearTeaching, Plan, Stage
from limbeck.protos import codec
from limbeck.protos.messages import Offer, Reason
from limbeck.server.events import Events
from limbeck.server.record import Record, StageRecord

assert isinstance(PLAN.teaching, LinearTeaching)
RUN_PLAN = replace(
    PLAN, name="pneumonia-2026", stages=tuple(Stage(sparsity=own, temperature=2.0) for own in (0.52, 0.79, 0.89, 0.9))
)
LEFT = {
    "riverside": ("left out", f"agree: {Reason.BUDGET.value}"),
    "st-anna": ("left out", "teach: Expected a reply, got error 5: the node is gone."),
    "west": ("lost", "answers 2: no answer within 3600 s"),
}
SITES = ("charite", "hillside", "lakeview", "north", "southgate", "uniklinik")


def make(folder: Path, plan: Plan = RUN_PLAN, *, end: str | None = None, sites: tuple[str, ...] = SITES) -> Path:
    """Two of four stages are finished, the third one's answers come in; `end`: an event that ends it."""
    run_hash = codec.plan_hash(plan)
    folder.mkdir(parents=True)
    (folder / "plan.pb").write_bytes(codec.encode_request(Offer(plan=plan)))
    events, record = Events(folder / "events.jsonl"), Record(folder / "record.json", run_hash)
    everybody = (*sites, *LEFT)
    events("start", plan=run_hash.hex(), stages=len(plan.stages))
    events.progress("agree", 0, len(everybody))
    for index, name in enumerate(everybody, start=1):
        reason = LEFT[name][1].partition(": ")[2] if name == "riverside" else None
        events.progress("agree", index, len(everybody), reason=reason)
        client = record.client(name)
        client["status"], client["bytes_up"], client["bytes_down"] = "answered", 180 + 12 * index, 1_240
        client["guarantee"] = None if name == "riverside" else "record-dp"
        if name in LEFT:
            client["status"], client["reason"] = LEFT[name]
    asked = len(everybody) - 1
    events.progress("teach", 0, asked)
    for index in range(1, asked + 1):
        events.progress("teach", index, asked, reason=LEFT["st-anna"][1].partition(": ")[2] if index == asked else None)
    for stage in range(2):
        answering = len(sites) + 1 - stage
        events.progress(f"answers {stage + 1}", 0, len(sites) + 1)
        for index in range(1, answering + 1):
            events.progress(f"answers {stage + 1}", index, len(sites) + 1, reason=None)
        for epoch in range(1, 9):
            events.progress(f"distil {stage + 1}", epoch, 8)
        names = sorted((*sites, "west") if stage == 0 else sites)
        for name in names:
            record.client(name)["bytes_up"] += 55_210
        own = StageRecord(
            stage=stage,
            sparsity=plan.stages[stage].sparsity,
            temperature=2.0,
            clients=names,
            bytes_up=55_210 * len(names),
            bytes_down=41 * len(names),
            seconds={"answers": 61.5 + stage, "distil": 12.25},
            losses=[1.9 - stage, 0.84 - 0.2 * stage],
        )
        record.stages.append(own)
        events("stage", **own)
    record.save()
    events.progress("answers 3", 0, len(sites))
    events.progress("answers 3", 4, len(sites), reason=None)
    if end == "paused":
        events("paused", phase="answers 3", sites=1, minimum=2)
    elif end is not None:
        events(end, **({} if end == "end" else {"reason": "Expected at least 2 sites after 'teach', got 1."}))
    return folder
