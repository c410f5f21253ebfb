"""What a check of the doctor is, what it finds, and how the checks of one side are put together.

A new check is one function with `@check`, in the file of its side, and its name in that side's list.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from limbeck.base.errors import LimbeckError
from limbeck.base.findings import Finding, Findings, fail
from limbeck.base.printable import printable

log = logging.getLogger(__name__)

# What a check looks at: an opened site, a coordinator's folder and settings, or a folder alone.
Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What every check is given.

    folder: the folder of a site, a coordinator or an authority.
    now: the time of this machine, with its time zone.
    seconds: the limit for each step of a connection.
    """

    folder: Path
    now: datetime
    seconds: float


Run = Callable[[Subject, Examination], Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Generic[Subject]):
    """One thing that the doctor looks at on one side.

    name: shown with each of its findings that does not name another.
    run: yields the findings; an error that it raises becomes a failed one.
    advice: what to do about such an error.
    network: whether it opens a connection.
    """

    name: str
    run: Run[Subject]
    advice: str = ""
    network: bool = False

    def __call__(self, subject: Subject, examination: Examination) -> Findings:
        """All findings; raises nothing."""
        try:
            for finding in self.run(subject, examination):
                yield finding if finding.check else replace(finding, check=self.name)
        except LimbeckError as error:
            yield fail(str(error), self.advice, check=self.name)
        except OSError as error:
            yield fail(f"Cannot be read: {error}.", self.advice, check=self.name)
        except Exception as error:
            # An error that nobody foresaw must not hide the findings about the rest.
            log.debug("Unexpected.", exc_info=error)
            yield fail(f"Unexpected {type(error).__name__}: {printable(error)}", self.advice, check=self.name)


def check(name: str, *, advice: str = "", network: bool = False) -> Callable[[Run[Subject]], Check[Subject]]:
    """Make a function into the check of this name."""

    def make(run: Run[Subject]) -> Check[Subject]:
        return Check(name=name, run=run, advice=advice, network=network)

    return make


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(Generic[Subject]):
    """All checks of one kind of folder.

    owns: whether a folder is of this kind.
    open: gives what its checks look at; an error that it raises is about the folder's settings.
    checks: in the order of the diagnosis.
    """

    owns: Callable[[Path], bool]
    open: Callable[[Path], Subject]
    checks: tuple[Check[Subject], ...]

    def examine(self, examination: Examination, *, network: bool) -> Findings:
        """The findings of all checks, without those that open a connection if `network` is off."""
        try:
            subject = self.open(examination.folder)
        except LimbeckError as error:
            yield fail(str(error), "Correct the file; docs/operate.md lists its keys.", check="settings")
            return
        for each in self.checks:
            if network or not each.network:
                yield from each(subject, examination)
