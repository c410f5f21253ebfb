"""The answers of a site to all public inputs at one stage of a plan: drawn once, stored before the first is sent, sent in parts.

If sampled answers were drawn again for each range of inputs that is requested, they could be averaged over overlapping ranges until the
sampling noise is gone, whatever a policy says about draws.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load, save

from limbeck.base.errors import DataError, PolicyError
from limbeck.base.files import write_durably
from limbeck.operators import Truncated
from limbeck.plans.schema import Plan, Sampled
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Share

# How many different ranges of a stage are answered at most: each is kept in the transcript.
RANGES = 1024


class Answers:
    """The answers of one stage, counted from 0. state: the plan's state folder."""

    def __init__(self, state: Path, plan: Plan, stage: int) -> None:
        self._state, self._plan, self._stage = state, plan, stage
        self._path, self._sent = state / f"answers-{stage}.safetensors", state / f"answers-{stage}-sent.json"

    def exists(self) -> bool:
        """Whether they are drawn and stored."""
        return self._path.exists()

    def write(self, answers: Truncated) -> None:
        """Store the answers to all N inputs, durably and for good. Answers that limbeck 0.1 drew and sent, range by range, are kept."""
        ids, p, tail = answers.ids_Nk.clone(), answers.p_Nk.float().clone(), answers.tail_N.float().clone()
        earlier = self._earlier() if isinstance(self._plan.truncation, Sampled) else {}
        # The oldest comes last, because a row keeps the answer that was given first.
        for rows, path in sorted(earlier.items(), key=lambda entry: -entry[1].stat().st_mtime_ns):
            ask = Ask(plan_hash=codec.plan_hash(self._plan), stage=self._stage, first=rows[0], count=rows[1] - rows[0])
            share = codec.decode_stored_reply(path.read_bytes(), plan=self._plan, expecting=ask)
            if isinstance(share, Share):
                ids[rows[0] : rows[1]] = share.answers.ids_Nk
                p[rows[0] : rows[1]] = share.answers.p_Nk
                tail[rows[0] : rows[1]] = share.answers.tail_N
        tensors = {"ids": ids.to(torch.int32).contiguous(), "p": p.contiguous(), "tail": tail.contiguous()}
        write_durably(self._path, save(tensors))

    def read(self, rows: slice) -> Truncated:
        """The answers to these inputs. Raises DataError if the stored answers are not of this plan."""
        stored = load(self._path.read_bytes())
        if len(stored["ids"]) != self._plan.samples:
            raise DataError(f"Expected answers to {self._plan.samples} inputs in {self._path}, found {len(stored['ids'])}.")
        return Truncated(
            ids_Nk=stored["ids"][rows].long(),
            p_Nk=stored["p"][rows],
            tail_N=stored["tail"][rows],
            classes=self._plan.classes,
        )

    def sent_whole(self, rows: slice) -> Path | None:
        """The file of the reply that limbeck 0.1 sent and stored for exactly this range, or None."""
        return self._earlier().get((rows.start, rows.stop))

    def was_sent(self, rows: slice) -> bool:
        """Whether the answers to exactly this range are in the transcript."""
        return [rows.start, rows.stop] in self._ranges()

    def check_room(self, rows: slice) -> None:
        """Raise PolicyError if the stage was requested in as many different ranges as are answered, and this is another one."""
        if len(self._ranges()) >= RANGES and not self.was_sent(rows):
            raise PolicyError(
                f"Expected at most {RANGES} different ranges of stage {self._stage + 1} to be asked for, got more."
            )

    def note_sent(self, rows: slice) -> None:
        """Remember that the transcript has the answers to this range."""
        write_durably(self._sent, json.dumps([*self._ranges(), [rows.start, rows.stop]]).encode())

    def _ranges(self) -> list[list[int]]:
        try:
            ranges: list[list[int]] = json.loads(self._sent.read_bytes())
            return ranges
        except FileNotFoundError:
            return []

    def _earlier(self) -> dict[tuple[int, int], Path]:
        """Replies that limbeck 0.1 stored, by their ranges."""
        replies = {}
        for path in self._state.glob(f"share-{self._stage}-*-*.pb"):
            start, stop = path.stem.split("-")[2:]
            replies[int(start), int(stop)] = path
        return replies
