"""A scenario: a small TOML file read into strict settings. Whatever cannot be meant is an error naming key, value and what was wanted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from limbeck.base.errors import SettingError
from limbeck.base.settings import Strict, one_of, read_toml, validate
from limbeck.inputs.tables import Table
from limbeck.plans import schema
from limbeck.protos.teacher import Inputs, kind_of
from limbeck.simulations.data import KNOWN, DataSet

SHIPPED = Path(__file__).parent / "scenarios"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _values(kind: type[Enum]) -> list[str]:
    return [str(item.value) for item in kind]


class DataSettings(Strict):
    """Which records. private, public, test: how many, or the data set's own default. folder: of IDX files, instead of the cache.

    encoder: of texts, in place of counts of words: a public one by its name, or the folder of a Hugging Face model.
    """

    name: str
    private: Count | None = None
    public: Count | None = None
    test: Count | None = None
    folder: str | None = None
    encoder: str | None = None


class PartitionSettings(Strict):
    """Who holds them. alpha: of the Dirichlet distribution, for label or quantity skew."""

    clients: Count
    kind: Literal["iid", "dirichlet", "natural", "quantity"] = "iid"
    alpha: Positive = 0.5


class TeacherSettings(Strict):
    """How every client trains; all public constants. normaliser: records, the nominal size of a client (linear) or of a sample (nets).

    factory: with kind "custom", the net that every site names as its own, as "module:factory". teachers: disjoint sub-teachers that vote
    (votes).
    """

    kind: Annotated[str, one_of("linear", *schema.ARCHITECTURES, "votes")] = "linear"
    factory: str | None = None
    steps: Count = 60
    learning_rate: Positive = 4.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip: Positive = 1.0
    normaliser: Positive
    features: Annotated[str, one_of(*schema.FEATURES)] = "scattering"
    feature_norm: Positive = 4.0
    average_last: Count = 20
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    physical_batch: Count = 128
    teachers: Annotated[int, Field(ge=2)] = 50


class BlackBoxSettings(Strict):
    """Sites that train no DP teacher but ask a scikit-learn model made from their records, WITHOUT A DP GUARANTEE.

    sites: how many, the last ones. labels_only: the model gives labels, and each input is asked `draws` times. allow_without_dp: what the
    owners of those sites set in their policies; without it they decline.
    """

    sites: Annotated[int, Field(ge=0)] = 0
    labels_only: bool = False
    draws: Annotated[int, Field(ge=1, le=255)] = 64
    allow_without_dp: bool = True


class PrivacySettings(Strict):
    """What a run costs each client at most, per record, add/remove one. budget_epsilon: the client's own limit, by default the same.

    label_counts_fraction: the share of noisy counts in the cost, where pooling asks for them; label_counts_noise: of a label histogram.
    """

    epsilon: Positive
    delta: Fraction = 1e-5
    budget_epsilon: Positive | None = None
    label_counts_fraction: Fraction = 0.05
    label_counts_noise: Annotated[str, one_of(*_values(schema.CountNoise))] = schema.CountNoise.DISCRETE_GAUSSIAN.value
    noise: Literal["system-entropy", "UnsafeSeeded"] = "system-entropy"


class ReleaseSettings(Strict):
    """What leaves a client: the softened answers' top k with tail mass, or draws from them. tsallis_order: q, with tsallis alone."""

    softening: Annotated[str, one_of(*_values(schema.Family))] = "power"
    tsallis_order: Annotated[float, Field(ge=0, le=4)] | None = None
    truncation: Literal["top-k", "sampled"] = "top-k"
    k: Count = 3
    draws: Annotated[int, Field(ge=1, le=255)] = 16
    coding: Annotated[str, one_of(*_values(schema.Coding))] = "packed"


class PoolingSettings(Strict):
    """How answers are pooled."""

    kind: Annotated[str, one_of(*_values(schema.Pooling))] = "mean"


class StageSettings(Strict):
    """The path to the final sparsity. temperature: one for all stages, or one each."""

    count: Annotated[int, Field(ge=1, le=1000)] = 4
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.9
    path: Literal["cubic", "linear"] = "cubic"
    temperature: Positive | tuple[Positive, ...] = 2.0


class StudentSettings(Strict):
    """What the coordinator trains per stage. dense_control: also train a dense student the same way, to compare."""

    architecture: Annotated[str, one_of(*schema.STUDENTS)] = "cnn"
    loss: Annotated[str, one_of(*_values(schema.Loss))] = "ttm"
    epochs: Count = 10
    batch: Count = 64
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    augment: bool = True
    relabel: Annotated[float, Field(ge=0, le=1)] = 0.0
    dense_control: bool = True


class RunSettings(Strict):
    """seed: of public randomness. workers: client processes at once, by default one per core."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    minimum_clients: Count = 2
    workers: Count | None = None


class Scenario(Strict):
    """All settings of a simulation. `Scenario.load` reads one."""

    name: str
    description: str = ""
    data: DataSettings
    partition: PartitionSettings
    teacher: TeacherSettings
    black_box: BlackBoxSettings = BlackBoxSettings()
    privacy: PrivacySettings
    release: ReleaseSettings = ReleaseSettings()
    pooling: PoolingSettings = PoolingSettings()
    stages: StageSettings = StageSettings()
    student: StudentSettings = StudentSettings()
    run: RunSettings = RunSettings()

    @classmethod
    def load(cls, which: str | Path, overrides: Sequence[str] = ()) -> Scenario:
        """A scenario that comes with limbeck, by its name, or a TOML file.

        - which: a name, or the path of a file; a `Path` is always a file.
        - overrides: settings to replace, such as "privacy.epsilon=1"; a value is a TOML literal, a bare word is a string.

        Raises: SettingError, naming every problem.
        """
        return load(which if isinstance(which, str) else str(which.absolute()), overrides)


def shipped() -> dict[str, str]:
    """Names and descriptions of the scenarios that come with limbeck."""
    found = {}
    for path in sorted(SHIPPED.glob("*.toml")):
        found[path.stem] = str(tomllib.loads(path.read_text(encoding="utf-8")).get("description", ""))
    return found


def load(which: str, overrides: Sequence[str] = ()) -> Scenario:
    """A shipped scenario by name or a TOML file by path, with overrides such as "privacy.epsilon=1".

    The value of an override is a TOML literal; a bare word is a string. Raises SettingError, naming every problem.
    """
    path = SHIPPED / f"{which}.toml" if which in shipped() else Path(which)
    try:
        raw = read_toml(path)
    except (FileNotFoundError, IsADirectoryError):
        raise SettingError(f"Expected a TOML file or one of the scenarios {', '.join(shipped())}, got {which!r}.") from None
    for override in overrides:
        _override(raw, override)
    raw.setdefault("name", path.stem)
    return parse(raw)


def parse(raw: dict[str, Any]) -> Scenario:
    """A scenario from parsed TOML. Raises SettingError, naming every problem."""
    temperature = raw.get("stages", {}).get("temperature") if isinstance(raw.get("stages"), dict) else None
    if isinstance(temperature, list):
        raw = {
            **raw,
            "stages": {**raw["stages"], "temperature": tuple(float(t) if type(t) is int else t for t in temperature)},
        }
    scenario = validate(Scenario, raw)
    _cross_check(scenario)
    return scenario


def check_against(scenario: Scenario, dataset: DataSet) -> None:
    """Raise SettingError where a scenario asks of a data set what it does not have."""
    classes, records = len(dataset.class_names), len(dataset.private_y)
    if scenario.release.truncation == "top-k" and scenario.release.k > classes:
        raise SettingError(f"release.k = {scenario.release.k}: expected at most the {classes} classes of {dataset.name}.")
    if scenario.partition.clients > records:
        raise SettingError(
            f"partition.clients = {scenario.partition.clients}: expected at most the {records} private records."
        )
    if scenario.black_box.sites and (
        isinstance(dataset.private_x, Table) or kind_of(dataset.private_x) not in (Inputs.ROWS, Inputs.IMAGES)
    ):
        raise SettingError(f"black_box.sites = {scenario.black_box.sites}: expected rows or images, got {dataset.name}.")
    if scenario.partition.kind == "natural" and dataset.groups is None:
        raise SettingError(f"partition.kind = 'natural': expected a data set with natural sites, got {dataset.name}.")


def _cross_check(scenario: Scenario) -> None:
    problems = []
    if scenario.data.name not in KNOWN:
        problems.append(f"data.name = {scenario.data.name!r}: expected one of {', '.join(KNOWN)}")
    if scenario.run.minimum_clients > scenario.partition.clients:
        problems.append(
            f"run.minimum_clients = {scenario.run.minimum_clients}: expected at most partition.clients = {scenario.partition.clients}"
        )
    if scenario.black_box.sites > scenario.partition.clients:
        problems.append(
            f"black_box.sites = {scenario.black_box.sites}: expected at most partition.clients = {scenario.partition.clients}"
        )
    if scenario.teacher.kind == "linear" and scenario.teacher.average_last > scenario.teacher.steps:
        problems.append(
            f"teacher.average_last = {scenario.teacher.average_last}: expected at most teacher.steps = {scenario.teacher.steps}"
        )
    if (scenario.teacher.kind == "custom") != (scenario.teacher.factory is not None):
        problems.append(
            f"teacher.factory = {scenario.teacher.factory!r}: expected 'module:factory' with teacher.kind = 'custom', and only then"
        )
    temperatures = scenario.stages.temperature
    if isinstance(temperatures, tuple) and len(temperatures) != scenario.stages.count:
        problems.append(
            f"stages.temperature = {list(temperatures)}: expected one number, or stages.count = {scenario.stages.count} of them"
        )
    lowest = min(temperatures) if isinstance(temperatures, tuple) else temperatures
    release = scenario.release
    family = schema.Family(release.softening)
    if lowest < family.lowest_temperature:
        problems.append(f"stages.temperature = {lowest}: expected at least 1 with release.softening = {release.softening!r}")
    if family.takes_order != (release.tsallis_order is not None):
        problems.append(
            f"release.tsallis_order = {release.tsallis_order}: expected a number with release.softening = 'tsallis', and only then"
        )
    if problems:
        raise SettingError("\n".join(problems))


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", key.strip()):
        raise SettingError(f"Expected an override such as privacy.epsilon=1, got {override!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table, _, name = key.strip().rpartition(".")
    target = raw.setdefault(table, {}) if table else raw
    if not isinstance(target, dict):
        raise SettingError(f"Expected [{table}] to be a table for {override!r}, found {target!r}.")
    target[name] = value
