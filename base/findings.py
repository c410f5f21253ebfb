"""What an examination finds, one line each: that all is well, that somebody should know, or that something will not work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limbeck.base.printable import printable_lines

if TYPE_CHECKING:
    from rich.table import Table


class Outcome(Enum):
    """WARN: it runs, but somebody should know. FAIL: it will not work, or cannot be trusted."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of an examination.

    check: the name of the check; empty until the check that yields it fills in its own.
    advice: what to do; empty if there is nothing to do.
    """

    check: str = ""
    outcome: Outcome
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """For `--json`."""
        return {**asdict(self), "outcome": self.outcome.value}


Findings = Iterator[Finding]
STYLES = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red"}


def ok(found: str, *, check: str = "") -> Finding:
    """A finding that all is well."""
    return Finding(check=check, outcome=Outcome.OK, found=found)


def warn(found: str, advice: str = "", *, check: str = "") -> Finding:
    """A finding that somebody should know of."""
    return Finding(check=check, outcome=Outcome.WARN, found=found, advice=advice)


def fail(found: str, advice: str = "", *, check: str = "") -> Finding:
    """A finding that something will not work, or cannot be trusted."""
    return Finding(check=check, outcome=Outcome.FAIL, found=found, advice=advice)


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.outcome is not Outcome.FAIL for finding in findings)


def as_table(findings: Iterable[Finding]) -> Table:
    """The findings for a terminal, each with its advice below."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what was found, and what to do", overflow="fold")
    for finding in findings:
        text, style = Text(printable_lines(finding.found)), STYLES[finding.outcome]
        if finding.advice:
            text.append(f"\n{printable_lines(finding.advice)}", style=style)
        table.add_row(Text(finding.outcome.value, style=style), finding.check, text)
    return table
