"""What was found about a site's records and a plan, for the owner, and how lists are written in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from limbeck.base import findings
from limbeck.base.findings import Finding
from limbeck.client.records import LeftOut

# The share of values that may be outside of the public range before it is a warning.
MANY = 0.05
# Names, or columns, that a line shows.
SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What was found in a column that the plan reads, in cells.

    kind: as the encoding has it, or "number" of `records.columns`.
    unreadable: neither missing nor of that kind.
    unknown: names that the encoding does not know.
    below, above: outside of the public values' range.
    """

    name: str
    kind: str
    missing: int
    unreadable: int = 0
    unknown: int = 0
    below: int = 0
    above: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a plan would cost this site, per record, add or remove one.

    alone: epsilon at delta of the plan by itself.
    spent, after: epsilon at delta of all charges before it, and with it: what the budget is held to.
    budget: the most that is allowed.
    """

    alone: float
    spent: float
    after: float
    budget: float
    delta: float
    unit: str
    adjacency: str

    @property
    def left(self) -> float:
        """What the budget would still allow; no negative number."""
        return max(0.0, self.budget - self.after)


@dataclass(slots=True)
class Report:
    """All that was found about a site's records, and about a plan if one was given.

    all, kept: records in the source, and those that a teacher would be trained on.
    classes: how many records each class has.
    columns: of a table.
    accepted: whether the site would accept the plan; None without one.
    """

    site: str
    plan: str | None = None
    findings: list[Finding] = field(default_factory=list)
    all: int = 0
    kept: int = 0
    left_out: tuple[LeftOut, ...] = ()
    classes: dict[str, int] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    accepted: bool | None = None
    cost: Cost | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return findings.healthy(self.findings)

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "site": self.site,
            "plan": self.plan,
            "healthy": self.healthy,
            "accepted": self.accepted,
            "cost": {**asdict(self.cost), "left": self.cost.left} if self.cost is not None else None,
            "records": {
                "all": self.all,
                "kept": self.kept,
                "left_out": [asdict(each) for each in self.left_out],
                "classes": self.classes,
            },
            "columns": [asdict(column) for column in self.columns],
            "findings": [finding.to_json() for finding in self.findings],
        }


def listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{f', ... ({len(names)})' if len(names) > SHOWN else ''}"


def counted(names: Counter[str]) -> str:
    return listed([f"{name[:40]} ({count})" for name, count in names.most_common(SHOWN + 1)])
