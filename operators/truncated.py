"""The type of a truncated distribution: kept ids, their probabilities and the tail mass, not a dense matrix.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Truncated", "concatenate", "rows_per_chunk"]

# Elements of a chunk of rows: two megabytes of float32 stay near a core; a GPU wants few, large launches.
CHUNK_CPU, CHUNK_ELSEWHERE = 2**19, 2**25


def rows_per_chunk(values_NK: Tensor) -> int:
    """The number of rows of one chunk.

    Above 32 MiB every new buffer costs page faults, which take three times as long as the work.
    """
    return max(1, (CHUNK_CPU if values_NK.device.type == "cpu" else CHUNK_ELSEWHERE) // max(values_NK.shape[1], 1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truncated:
    """N distributions over K classes, each known one by one on k of them.

    - ids_Nk: int64, distinct within a row, in [0, K).
    - p_Nk: probabilities of those ids, >= 0. A slot of probability 0 is padding: its class belongs to the tail, as if
      it were not named.
    - tail_N: the mass of all other classes together, >= 0.
    - classes: K.

    Rows sum to 1, p_Nk.sum(-1) + tail_N = 1, except those of `Raw` and of `Sampled` with importance weights.
    """

    ids_Nk: Tensor
    p_Nk: Tensor
    tail_N: Tensor
    classes: int

    def __len__(self) -> int:
        return self.ids_Nk.shape[0]

    @property
    def kept(self) -> int:
        """k, entries per row."""
        return self.ids_Nk.shape[1]

    def dense(self) -> Tensor:
        """(N, K) probabilities with the tail mass spread evenly over the classes that are not kept, or only as padding.

        For small K: plots, tests, metrics and pools of dense answers.
        """
        named_Nk = self.p_Nk > 0
        others_N = (self.classes - named_Nk.sum(-1)).clamp(min=1)
        spread_N1 = (self.tail_N / others_N).unsqueeze(-1)
        p_NK = spread_N1.expand(-1, self.classes).clone()
        return p_NK.scatter_(1, self.ids_Nk, torch.where(named_Nk, self.p_Nk.to(p_NK.dtype), spread_N1))

    def rows(self, index: Tensor | slice) -> Truncated:
        """The distributions of some rows."""
        return Truncated(ids_Nk=self.ids_Nk[index], p_Nk=self.p_Nk[index], tail_N=self.tail_N[index], classes=self.classes)


def concatenate(parts: list[Truncated]) -> Truncated:
    """The rows of all parts, in order. Raises ValueError if the parts differ in K or k."""
    if len({(part.classes, part.kept) for part in parts}) != 1:
        raise ValueError(f"Expected parts of one K and k, got {[(part.classes, part.kept) for part in parts]}.")
    return Truncated(
        ids_Nk=torch.cat([part.ids_Nk for part in parts]),
        p_Nk=torch.cat([part.p_Nk for part in parts]),
        tail_N=torch.cat([part.tail_N for part in parts]),
        classes=parts[0].classes,
    )
