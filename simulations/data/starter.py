"""A scenario to start from, for a file of the user's own: teacher, schedule, stages and student by public facts, and why each was chosen.

Nothing here depends on what is in a record: only on how many there are, what shape their inputs have, and how many classes and sites.
These a federation would state publicly. How frequent the rarest class is, and which classes are rare, are such facts too.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tomli_w
from numpy.typing import NDArray

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.base.settings import Raw
from limbeck.plans import advice
from limbeck.simulations.data import split, user_files
from limbeck.simulations.data.dataset import DataSet
from limbeck.simulations.data.settings import SOURCES, DataSettings

EPSILON = 3.0
# Records that a site should have if the user does not say how many sites there are, and the most sites then.
RECORDS_PER_SITE, MOST_SITES = 100, 8
# Natural sites with fewer records learn nothing at any usual epsilon, and their noise would be in the pool like everybody's: they are left
# out where at least two others are.
SMALLEST_SITE = 20
# Beyond this ratio of the largest site to the median one, answers are weighted by numbers of records, which sites release with noise.
UNEVEN = 4.0
# delta is at most one in ten times the records: of them all, fewer than one is expected to be unlucky.
LARGEST_DELTA = 1e-4
# Images [D, docs/teachers.md]: of the norm, steps, averaged steps, and records * epsilon per unit of step size.
SCATTERING = {"features": "scattering", "feature_norm": 8.0, "steps": 100, "average_last": 50}
SCATTERING_UNIT, LARGEST_STEP = 10_000.0, 4.0
# Images that are too small for it.
PIXELS = {"features": "pixels", "steps": 60, "average_last": 30}
# The smallest images of which scattering and convolutions make something.
SMALLEST_IMAGE = 8
# Batches of public inputs that a student sees per stage, about.
STEPS_PER_STAGE = 300
# A list as tomli_w writes it, and the longest that is written on one line.
SHORT_LIST, LONGEST_LIST = re.compile(r"\[\n((?:    [^\n\[\]]+,\n)+)\]"), 100
# With fewer public inputs evidence was behind linear heads, and with a rarer class it was not tried [D, docs/teachers.md].
FEWEST_PUBLIC, RAREST = 100, 0.05
Kind = Literal["linear", "evidence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A scenario to start from. settings: its tables, as in a TOML file. chosen: what was chosen and why, in sentences."""

    settings: Raw
    chosen: tuple[str, ...]

    def to_toml(self, folder: Path | None = None) -> str:
        """The scenario as a file, with the reasons as comments. folder: where the file will be, to which its paths are relative."""
        data = dict(self.settings["data"])
        for key in (*SOURCES, "public", "test"):
            if isinstance(data.get(key), str):
                data[key] = os.path.relpath(data[key], folder or Path())
        comments = "".join(f"# {line}\n" for sentence in self.chosen for line in textwrap.wrap(sentence, 100))
        text = tomli_w.dumps({**self.settings, "data": data})
        return f"{comments}\n{SHORT_LIST.sub(_on_one_line, text)}"


def _on_one_line(found: re.Match[str]) -> str:
    line = f"[{', '.join(each.strip().rstrip(',') for each in found[1].splitlines())}]"
    return line if len(line) <= LONGEST_LIST else found[0]


def start(
    settings: DataSettings,
    *,
    epsilon: float | None = None,
    clients: int | None = None,
    seed: int = 1,
    teachers: Kind | None = None,
) -> tuple[Start, DataSet]:
    """A scenario for the user's own data, and the data as it divides them.

    - settings: the data; public inputs and a test set are a fifth of the records each if they do not say it.
    - epsilon: what a run may cost each site, per record; by default EPSILON.
    - clients: sites to divide the records among, if there are no natural ones.
    - seed: of which records are public.
    - teachers: of which kind; by default evidence, where nothing is known that speaks against it.

    Raises: SettingError or DataError.
    """
    epsilon = EPSILON if epsilon is None else epsilon
    check.positive(epsilon=epsilon)
    if clients is not None and settings.site is not None:
        raise SettingError(
            f"Expected no number of sites beside data.site = {settings.site!r}, which names them, got {clients}."
        )
    if clients is not None and clients < 1:
        raise SettingError(f"Expected at least 1 site, got {clients}.")
    settings = settings.model_copy(
        update={key: split.DEFAULT_SHARE for key in ("public", "test") if getattr(settings, key) is None}
    )
    dataset = user_files.load(settings, seed=seed)
    records, classes = len(dataset.private_y), len(dataset.class_names)
    if settings.class_names is None and settings.source is not None:
        settings = settings.model_copy(update={"classes": dataset.class_names})
    natural = dataset.group_names is not None
    kind = "natural" if natural else "equal"
    sites = len(dataset.group_names) if dataset.group_names is not None else clients or _clients(records)
    partition: Raw = {"kind": "natural"} if natural else {"kind": "iid", "clients": sites}
    sizes = np.bincount(dataset.groups) if natural and dataset.groups is not None else np.full(sites, records / sites)
    left_out = int((sizes < SMALLEST_SITE).sum()) if natural else 0
    if 0 < left_out <= sites - 2:
        partition["minimum"] = SMALLEST_SITE
        sizes = sizes[sizes >= SMALLEST_SITE]
        sites = len(sizes)
    nominal, uneven = _two_digits(typical_size(sizes)), bool(sizes.max() > UNEVEN * np.median(sizes))
    delta = min(LARGEST_DELTA, 10.0 ** -math.ceil(math.log10(10 * records)))
    shares_K = (np.bincount(dataset.private_y, minlength=classes) / records).tolist()
    public = dataset.public_x
    chosen = [
        f"Sites: {sites} natural ones, by {settings.site}."
        if natural
        else f"Sites: {sites}, among which records are divided at random.",
        f"Privacy: epsilon = {epsilon:g} at delta = {delta:g}, below 1 / (10 x {records}) for {records} private records.",
    ]
    if "minimum" in partition:
        chosen.append(f"Left out: {left_out} sites of fewer than {SMALLEST_SITE} records, of whom a teacher would be noise.")
    is_image = public.ndim == 3 and min(public.shape[1:]) >= SMALLEST_IMAGE
    facts = _Facts(
        settings=settings,
        inputs="images" if is_image else "rows" if public.ndim == 2 else "pixels",
        shape=public.shape[1:],
        public=len(public),
        nominal=nominal,
        sizes=(float(sizes.min()), float(sizes.max())),
        uneven=uneven,
        shares_K=tuple(shares_K),
        epsilon=epsilon,
        delta=delta,
    )
    kind_of_teacher = teachers or ("linear" if _against_evidence(facts) else "evidence")
    teaching = _evidence(facts) if kind_of_teacher == "evidence" else _heads(facts)
    chosen.extend(teaching.chosen)
    stages, student = (4, "cnn") if is_image else (2, "mlp")
    small = len(public) < 1000
    batch = 32 if small else 64
    epochs = max(10, min(60, math.ceil(STEPS_PER_STAGE * batch / len(public))))
    chosen.append(f"Student: {student}, {stages} stages, for {len(public)} public inputs.")
    raw: Raw = {
        "name": _name(dataset.name),
        "description": f"{dataset.name}: {sites} {kind} sites, {records} records; record-level epsilon = {epsilon:g}",
        "data": _data(settings),
        "partition": partition,
        "teacher": teaching.teacher,
        "privacy": {"epsilon": epsilon, "delta": delta},
        "release": {"k": min(3, classes)},
        "stages": {"count": stages, "sparsity": 0.9 if is_image else 0.8, "temperature": teaching.temperature},
        "student": {"architecture": student, "epochs": epochs, "batch": batch, "augment": is_image},
    }
    if uneven and kind_of_teacher == "linear":
        raw["pooling"] = {"kind": "record-counts"}
    if sites == 1:
        raw["run"] = {"minimum_clients": 1}
    return Start(settings=raw, chosen=tuple(chosen)), dataset


def typical_size(sizes: NDArray[np.number]) -> float:
    """Records of the site in which a record is on average, for `teacher.normaliser`.

    The plain mean would make the steps of a large site, which are divided by it, so long that its teacher swings instead of learning;
    those of a small one, whose teacher knows little anyway, become short.

    sizes: (C,) records of each site.
    """
    return float((sizes.astype(np.float64) ** 2).sum() / sizes.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a teacher's settings follow from.

    - inputs: what they are taken for. shape: of one. public: how many are public.
    - nominal: records of a site. sizes: of the smallest and the largest. uneven: whether answers need weights.
    - shares_K: of the classes among the records.
    """

    settings: DataSettings
    inputs: Literal["images", "rows", "pixels"]
    shape: tuple[int, ...]
    public: int
    nominal: float
    sizes: tuple[float, float]
    uneven: bool
    shares_K: tuple[float, ...]
    epsilon: float
    delta: float

    @property
    def what(self) -> str:
        """The features, for people."""
        if self.inputs == "rows":
            words = self.settings.texts is not None and self.settings.encoder is None
            return f"rows of {self.shape[0]} {'counts of words' if words else 'numbers'}"
        small = f"pixels, since images of {self.shape[0]} x {self.shape[1]} are small"
        return "scattering features" if self.inputs == "images" else small

    @property
    def features(self) -> str:
        """Their name in a plan."""
        return "scattering" if self.inputs == "images" else self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Teaching:
    """Teachers, their temperature, and why, in sentences."""

    teacher: Raw
    temperature: float | Literal["auto"]
    chosen: tuple[str, ...]


def _against_evidence(facts: _Facts) -> str:
    """Why teachers are linear heads: where evidence was not at least as good [D, docs/teachers.md], or was not measured. Or nothing."""
    if isinstance(facts.settings.public, str):
        return "the public inputs come from another file, and nobody knows whether they are of the records' own kind"
    if facts.public < FEWEST_PUBLIC:
        return f"there are {facts.public} public inputs, too few to know by them how features go together"
    if facts.uneven:
        return "sites are so uneven that answers need weights, which evidence does not bear"
    if min(facts.shares_K) < RAREST:
        return f"{_percent(min(facts.shares_K))} of the records are of the rarest class, which evidence was not tried on"
    return ""


def _evidence(facts: _Facts) -> _Teaching:
    """Teachers that add up, whichever labels each site holds; filter and temperature follow from public inputs, noise and sites."""
    teacher: Raw = {"kind": "evidence", "features": facts.features, "normaliser": facts.nominal}
    chosen = (
        f"Teacher: evidence on {facts.what}, for {facts.nominal:g} records per site. It adds up what sites know, whichever labels each"
        " of them holds, since the public inputs are of the records' own kind. If those of the real sites come from elsewhere, choose"
        ' "linear".',
        'Temperature: "auto", so that it follows from the public inputs, the noise and the sites.',
    )
    return _Teaching(teacher=teacher, temperature="auto", chosen=chosen)


def _heads(facts: _Facts) -> _Teaching:
    """Linear heads, whose answers are averaged; they forgive public inputs from elsewhere."""
    temperature = 2.0
    rate = _two_digits(min(facts.nominal * facts.epsilon / SCATTERING_UNIT, LARGEST_STEP))
    teacher: Raw
    if facts.inputs == "rows":
        schedule = advice.rows_schedule(
            records_per_site=facts.nominal,
            dimensions=facts.shape[0],
            classes=len(facts.shares_K),
            epsilon=facts.epsilon,
            delta=facts.delta,
        )
        balance = advice.rows_balance(facts.shares_K)
        temperature, teacher = balance.temperature, schedule.model_dump(exclude_unset=True)
        if balance.class_weights is not None:
            teacher["class_weights"] = list(balance.class_weights)
    elif facts.inputs == "images":
        teacher = {"kind": "linear", **SCATTERING, "learning_rate": rate, "normaliser": facts.nominal}
    else:
        teacher = {"kind": "linear", **PIXELS, "learning_rate": rate, "normaliser": facts.nominal}
    chosen = [
        f"Teacher: linear on {facts.what}, for {facts.nominal:g} records per site (docs/teachers.md).",
        _why_linear(facts),
    ]
    if facts.uneven:
        smallest, largest = facts.sizes
        chosen.append(
            f"Pooling: by numbers of records, released with noise, since sites have {smallest:.0f} to {largest:.0f}."
        )
    if temperature > 2:
        chosen.append(
            f"Temperature: {temperature:g}, because {_percent(min(facts.shares_K))} of the records are of the rarest class: its"
            " probabilities would be below what an answer can carry."
        )
    if "class_weights" in teacher:
        chosen.append(
            f"Weights: records of a class that has {_percent(advice.RARE)} or more of them count {advice.COMMON_WEIGHT:g} each, or they"
            " would drown the others."
        )
    return _Teaching(teacher=teacher, temperature=temperature, chosen=tuple(chosen))


def _why_linear(facts: _Facts) -> str:
    """The reason, and what to do if labels differ between sites, which averages of linear heads do not bear."""
    reason = _against_evidence(facts)
    why = f"Linear heads, since {reason}. " if reason else ""
    return (
        f'{why}If sites hold different labels, and the public inputs are of the records\' own kind, try teacher.kind = "evidence" with'
        ' stages.temperature = "auto" and pooling.kind = "mean": it adds up what sites know, at the same epsilon.'
    )


def _clients(records: int) -> int:
    return max(2, min(MOST_SITES, records // RECORDS_PER_SITE))


def _data(settings: DataSettings) -> Raw:
    """The table [data]: what was set, in the order of the documentation, with lists for tuples."""
    return {
        key: value for key, value in settings.model_dump(mode="json", exclude_defaults=True).items() if value is not None
    }


def _name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name.split(".")[0]).strip("-")[:40] or "own-data"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
