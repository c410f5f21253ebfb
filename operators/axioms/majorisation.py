"""A sufficient condition for axioms 1 and 3 of separable operators, by majorisation, checked on a grid.

Shape legend: K points of p, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.operators.axioms.measures import LEAST, domain
from limbeck.operators.softening import SeparableSoftening


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A place where a condition of majorisation fails.

    It lies between p < other_p, at T or from T to other_temperature. size: in log f, above 0.
    """

    p: float
    other_p: float
    temperature: float
    other_temperature: float | None
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Majorisation:
    """The sufficient condition for axioms 1 and 3 on a grid: its worst failure, or None if it holds.

    - increasing: f_T rises strictly in p, which gives axiom 1.
    - ratio: f_T'(p) / f_T(p) does not rise in p for T' > T, which gives axiom 3. After a failure axiom 3 may still
      hold: the condition is sufficient, not necessary.
    - points, temperatures: the size of the grid.
    """

    increasing: Failure | None
    ratio: Failure | None
    points: int
    temperatures: int

    @property
    def holds(self) -> bool:
        """Both conditions hold on the grid."""
        return self.increasing is None and self.ratio is None


def majorisation(
    factory: Callable[[float], SeparableSoftening], *, points: int = 400, temperatures: Sequence[float] | None = None
) -> Majorisation:
    """Check on a grid that f_T rises and that f_T' / f_T does not, for F_T(p)_i = f_T(p_i) / sum f_T(p_j) [D].

    Why: F_T' is then F_T times weights that fall where F_T rises, so F_T majorises F_T', and entropy is Schur-concave.
    It is enough to compare neighbours on the grid: both conditions chain.

    - points: number of p, spread evenly in log p over [1e-30, 1] and in p over (0, 1).
    - temperatures: ascending; by default 60 over the part of the domain within [0.05, 50].

    Raises SettingError if the factory accepts no temperature around 1.
    """
    lowest, highest = domain(factory)
    low, high = math.log(max(lowest, 0.05)), math.log(min(highest, 50.0))
    grid = list(temperatures) if temperatures is not None else [math.exp(low + (high - low) * i / 59) for i in range(60)]
    even_K = torch.linspace(0, 1, points // 2 + 1, dtype=torch.float64)[1:]
    log_p_K = torch.cat([torch.linspace(math.log(LEAST), 0, points // 2, dtype=torch.float64), even_K.log()]).unique()
    log_f_TK = torch.stack([factory(t).log_weight(log_p_K.unsqueeze(0))[0] for t in grid])
    scale_TK = 64 * torch.finfo(torch.float64).eps * (1 + log_f_TK.abs() + log_p_K.abs() * max(1.0, 1 / grid[0]))
    slack_TK = scale_TK[:, 1:] + scale_TK[:, :-1]
    # A rise too small for float64 is no failure: mixing's f is flat to the last bit at p = 1e-30. A fall is a failure,
    # and so is a tie across a clear gap in p.
    fall_TK = -log_f_TK.diff(dim=-1)
    clear_K = log_p_K.exp().diff() > 8 * math.sqrt(torch.finfo(torch.float64).eps)
    wrong_TK = (fall_TK > slack_TK) | ((fall_TK >= 0) & clear_K)
    rise_TK = log_f_TK.diff(dim=0).diff(dim=-1)
    over_TK = rise_TK - slack_TK[1:] - slack_TK[:-1]

    def worst(size_TK: Tensor, wrong_TK: Tensor, *, pair: bool) -> Failure | None:
        if not bool(wrong_TK.any()):
            return None
        t, k = divmod(int(size_TK.masked_fill(~wrong_TK, -math.inf).argmax()), size_TK.shape[1])
        return Failure(
            p=float(log_p_K[k].exp()),
            other_p=float(log_p_K[k + 1].exp()),
            temperature=grid[t],
            other_temperature=grid[t + 1] if pair else None,
            size=float(size_TK[t, k]),
        )

    return Majorisation(
        increasing=worst(fall_TK, wrong_TK, pair=False),
        ratio=worst(rise_TK, over_TK > 0, pair=True),
        points=len(log_p_K),
        temperatures=len(grid),
    )
