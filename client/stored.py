"""The answers of a site to all public inputs at one stage of a plan: drawn once, stored before the first is sent, sent in parts.

Drawn anew for each range of inputs that is asked for, answers by sampling could be averaged over overlapping ranges until nothing of the
sampling was left, whatever a policy says of draws.
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

# Different ranges of a stage that are answered at most: each is kept in the transcript.
RANGES = 1024


class Answers:
    """Those of one stage. state: the plan's state folder."""

    def __init__(self, state: Path, plan: Plan, stage: int) -> None:
        self._state, self._plan, self._stage = state, plan, stage
        self._path, self._sent = state / f"answers-{stage}.safetensors", state / f"answers-{stage}-sent.json"

    def exists(self) -> bool:
        """Whether they are drawn."""
        return self._path.exists()

    def write(self, answers: Truncated) -> None:
        """Store the answers to all N inputs, durably and for ever. What limbeck 0.1 drew and sent, range by range, stays what it was."""
        ids, p, tail = answers.ids_Nk.clone(), answers.p_Nk.float().clone(), answers.tail_N.float().clone()
        earlier = self._earlier() if isinstance(self._plan.truncation, Sampled) else {}
        # The oldest last: a row has the answer that it had first.
        for rows, path in sorted(earlier.items(), key=lambda own: -own[1].stat().st_mtime_ns):
            ask = Ask(plan_hash=codec.plan_hash(self._plan), stage=self._stage, first=rows[0], count=rows[1] - rows[0])
            share = codec.decode_stored_reply(path.read_bytes(), plan=self._plan, expecting=ask)
            if isinstance(share, Share):
                ids[rows[0] : rows[1]] = share.answers.ids_Nk
                p[rows[0] : rows[1]] = share.answers.p_Nk
                tail[rows[0] : rows[1]] = share.answers.tail_N
        tensors = {"ids": ids.to(torch.int32).contiguous(), "p": p.contiguous(), "tail": tail.contiguous()}
        write_durably(self._path, save(tensors))

    def read(self, rows: slice) -> Truncated:
        """The answers to these inputs. Raises DataError where what is stored is not of this plan."""
        own = load(self._path.read_bytes())
        if len(own["ids"]) != self._plan.samples:
            raise DataError(f"Expected answers to {self._plan.samples} inputs in {self._path}, found {len(own['ids'])}.")
        return Truncated(
            ids_Nk=own["ids"][rows].long(), p_Nk=own["p"][rows], tail_N=own["tail"][rows], classes=self._plan.classes
        )

    def sent_whole(self, rows: slice) -> Path | None:
        """The file of a reply that limbeck 0.1 sent and kept for this very range, or None."""
        return self._earlier().get((rows.start, rows.stop))

    def was_sent(self, rows: slice) -> bool:
        """Whether the answers to this very range are in the transcript."""
        return [rows.start, rows.stop] in self._ranges()

    def check_room(self, rows: slice) -> None:
        """Raise PolicyError where the stage was asked about in more different ranges than anybody needs."""
        if len(self._ranges()) >= RANGES and not self.was_sent(rows):
            raise PolicyError(
                f"Expected at most {RANGES} different ranges of stage {self._stage + 1} to be asked for, got more."
            )

    def note_sent(self, rows: slice) -> None:
        """Know from now on that the transcript has the answers to this range."""
        write_durably(self._sent, json.dumps([*self._ranges(), [rows.start, rows.stop]]).encode())

    def _ranges(self) -> list[list[int]]:
        try:
            ranges: list[list[int]] = json.loads(self._sent.read_bytes())
            return ranges
        except FileNotFoundError:
            return []

    def _earlier(self) -> dict[tuple[int, int], Path]:
        """Replies kept by limbeck 0.1, by their ranges."""
        found = {}
        for path in self._state.glob(f"share-{self._stage}-*-*.pb"):
            start, stop = path.stem.split("-")[2:]
            found[int(start), int(stop)] = path
        return found
