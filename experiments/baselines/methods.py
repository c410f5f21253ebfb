"""The list of all methods: what runs, where it is from, and the grid from which it may choose."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from limbeck.base.errors import SettingError
from limbeck.base.settings import read_toml
from limbeck.experiments.baselines import (
    answers,
    averaging,
    certainty,
    flowers,
    gradients,
    limbeck_runs,
    selecting,
    sums,
    voting,
)
from limbeck.experiments.baselines.contract import Reached

GRIDS = Path(__file__).with_name("grids.toml")
Value = float | int | str
Settings = dict[str, Value]
# What a method shares, as tables group them.
Shares = Literal["nothing", "records", "models", "answers", "votes", "limbeck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to learn from several sites.

    - name: on the command line.
    - title: for people.
    - source: where it is from, and what the method is.
    - shares: what leaves a site.
    - private: whether it costs the setting's epsilon for one record of a site; what costs nothing, or another unit, is shown apart.
    - noiseless: whether it makes no use of epsilon, so that it reaches the same at every one.
    - teachers: of limbeck's own runs, the kind that takes the place of the scenario's; None where they are the scenario's.
    - run: the method, called with a setting and with one point of its grid; None for what limbeck's own run gives.
    """

    name: str
    title: str
    source: str
    shares: Shares
    private: bool = True
    noiseless: bool = False
    teachers: limbeck_runs.Teachers | None = None
    run: Callable[..., Reached] | None = None

    @property
    def grid(self) -> tuple[Settings, ...]:
        """All points of its grid; a single empty one for what is not chosen."""
        return _grids().get(self.name, ({},))


def _limbeck(name: str, title: str, teachers: limbeck_runs.Teachers | None = None) -> Method:
    instead = {
        None: "",
        "evidence": f" with {', '.join(limbeck_runs.EVIDENCE)}",
        "linear": " with the linear heads that its suite describes",
    }
    source = f"the scenario{instead[teachers]}, through the real apps"
    return Method(name=name, title=title, source=source, shares="limbeck", teachers=teachers)


ALL: Mapping[str, Method] = {
    method.name: method
    for method in (
        _limbeck(limbeck_runs.STUDENT, "limbeck, student"),
        _limbeck(limbeck_runs.POOL, "limbeck, pool"),
        _limbeck(limbeck_runs.WITH_EVIDENCE, "limbeck, evidence, student", "evidence"),
        _limbeck(limbeck_runs.POOL_WITH_EVIDENCE, "limbeck, evidence, pool", "evidence"),
        _limbeck(limbeck_runs.WITH_HEADS, "limbeck, linear heads, student", "linear"),
        _limbeck(limbeck_runs.POOL_WITH_HEADS, "limbeck, linear heads, pool", "linear"),
        Method(name="alone", title="one site alone", source="DP gradient descent", shares="nothing", run=averaging.alone),
        Method(
            name="central",
            title="central DP",
            source="DP gradient descent on all records, arXiv 2011.11660",
            shares="records",
            run=averaging.central,
        ),
        Method(
            name="no-privacy",
            title="no privacy",
            source="gradient descent on all records",
            shares="records",
            private=False,
            noiseless=True,
            run=averaging.without_privacy,
        ),
        Method(
            name="fedavg",
            title="FedAvg (Flower)",
            source="arXiv 1602.05629, flwr.serverapp.strategy.FedAvg",
            shares="models",
            private=False,
            noiseless=True,
            run=flowers.fedavg,
        ),
        Method(
            name="fedprox",
            title="FedProx (Flower)",
            source="arXiv 1812.06127, flwr.serverapp.strategy.FedProx",
            shares="models",
            private=False,
            noiseless=True,
            run=flowers.fedprox,
        ),
        Method(
            name="flower-dp",
            title="FedAvg in Flower's DP wrapper",
            source="arXiv 1710.06963, DifferentialPrivacyServerSideFixedClipping; the unit is a site",
            shares="models",
            private=False,
            run=flowers.flower_dp,
        ),
        Method(
            name="dp-fedavg",
            title="DP-FedAvg",
            source="arXiv 1602.05629 with noisy local steps",
            shares="models",
            run=gradients.dp_fedavg,
        ),
        Method(
            name="dp-fedsgd",
            title="DP-FedSGD",
            source="arXiv 1602.05629 and 1607.00133",
            shares="models",
            run=gradients.dp_fedsgd,
        ),
        Method(
            name="heads-by-size",
            title="DP heads averaged by size",
            source="one-shot averaging, arXiv 1902.11175",
            shares="models",
            run=averaging.by_size,
        ),
        Method(
            name="heads-by-counts",
            title="DP heads averaged by class counts",
            source="one-shot averaging with noisy class counts",
            shares="models",
            run=averaging.by_class_counts,
        ),
        Method(
            name="class-sums",
            title="class sums as a model",
            source="the sums of limbeck's evidence teachers, sent themselves",
            shares="models",
            run=sums.class_sums,
        ),
        Method(
            name="feddf",
            title="FedDF",
            source="arXiv 2006.07242 with noisy local steps",
            shares="models",
            run=answers.feddf,
        ),
        Method(
            name="fedauxfdp",
            title="FedAUXfdp's idea",
            source="arXiv 2205.14960: perturbed heads and certainty scores on public features",
            shares="models",
            run=certainty.fedauxfdp,
        ),
        Method(
            name="fedmd",
            title="FedMD",
            source="arXiv 1910.03581 with noisy local steps",
            shares="answers",
            run=answers.fedmd,
        ),
        Method(
            name="ds-fl",
            title="DS-FL",
            source="arXiv 2008.06180, entropy reduction, with noisy local steps",
            shares="answers",
            run=answers.ds_fl,
        ),
        Method(
            name="cfd",
            title="CFD",
            source="arXiv 2012.00632, quantised and delta-coded answers, with noisy local steps",
            shares="answers",
            run=answers.cfd,
        ),
        Method(
            name="selective-fd",
            title="Selective-FD",
            source="arXiv 2304.01783, with a noisy selector and noisy heads",
            shares="answers",
            run=selecting.selective_fd,
        ),
        Method(
            name="pate",
            title="PATE",
            source="arXiv 1802.08908, GNMax at its data-independent bound; needs a trusted aggregator",
            shares="votes",
            run=voting.pate,
        ),
        Method(
            name="abstaining",
            title="abstaining votes of DP heads",
            source="arXiv 2406.10563's votes, with privacy for a record",
            shares="answers",
            run=voting.abstaining,
        ),
        Method(
            name="aafv",
            title="AAFV as published",
            source="arXiv 2406.10563: epsilon is for one answer, by the piecewise mechanism",
            shares="answers",
            private=False,
            run=voting.aafv,
        ),
    )
}


def method(name: str) -> Method:
    """The method of this name. Raises SettingError."""
    if name not in ALL:
        raise SettingError(f"Expected a method out of {', '.join(ALL)}, got {name!r}.")
    return ALL[name]


@lru_cache(maxsize=1)
def _grids() -> dict[str, tuple[Settings, ...]]:
    found: dict[str, tuple[Settings, ...]] = {}
    for name, table in read_toml(GRIDS).items():
        keys = list(table)
        found[name] = tuple(dict(zip(keys, values, strict=True)) for values in itertools.product(*table.values()))
    return found
