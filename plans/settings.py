"""The settings of a plan, as its author writes them in TOML: the same words in a plan file and in a scenario, which contains them.

A plan file has these tables and the classes. What belongs to a simulation alone (its data, who holds them, seeds of noise) is not among
them: `limbeck.simulations.scenario` adds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from limbeck.base.errors import SettingError
from limbeck.base.settings import Raw, Strict, one_of, override, read_toml, validate
from limbeck.plans import schema

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _values(kind: type[Enum]) -> list[str]:
    return [str(item.value) for item in kind]


def _flag_or_auto(value: object) -> object:
    """Refuse what is neither, in one sentence: of a union, there would be one for each member."""
    if isinstance(value, bool) or value == "auto":
        return value
    raise ValueError("true, false or 'auto'")


class TeacherSettings(Strict):
    """How every client trains; all public constants.

    normaliser: records, the nominal size of a client (linear, evidence) or of a sample (nets). teachers: disjoint sub-teachers that vote
    (votes). constant, ridge, noise_to_signal, resolution: of evidence; "auto" follows from the public inputs, the noise and the sites, and
    a noise_to_signal of 0 leaves a ridge alone. With kind "custom" every site trains a net that its own settings name. class_weights: by
    which a record of each class counts, in the order of the classes, before its gradient is clipped; without it all count alike.
    """

    kind: Annotated[str, one_of("linear", *schema.ARCHITECTURES, "votes", "evidence")] = "linear"
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
    constant: Annotated[float, Field(ge=0, le=0.9)] = 0.3
    ridge: Positive | Literal["auto"] = "auto"
    noise_to_signal: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    resolution: Annotated[int, Field(ge=1)] = 1 << 16
    class_weights: tuple[Positive, ...] | None = None


class BlackBoxSettings(Strict):
    """Sites may answer from a teacher that was not trained under the plan, WITHOUT A DP GUARANTEE, if their owners allow it.

    draws: how often a teacher that gives labels only is asked about each input.
    """

    draws: Annotated[int, Field(ge=1, le=255)] = 64


class PrivacySettings(Strict):
    """What a run costs each client at most, per record, add/remove one.

    label_counts_fraction: the share of noisy counts in the cost, where pooling asks for them; label_counts_noise: of a label histogram.
    """

    epsilon: Positive
    delta: Fraction = 1e-5
    label_counts_fraction: Fraction = 0.05
    label_counts_noise: Annotated[str, one_of(*_values(schema.CountNoise))] = schema.CountNoise.DISCRETE_GAUSSIAN.value


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
    """The path to the final sparsity. temperature: one for all stages, or one each; "auto", with evidence alone, follows from the public
    inputs, the noise and the sites."""

    count: Annotated[int, Field(ge=1, le=1000)] = 4
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.9
    path: Literal["cubic", "linear"] = "cubic"
    temperature: Positive | tuple[Positive, ...] | Literal["auto"] = 2.0


class StudentSettings(Strict):
    """What the coordinator trains per stage.

    augment: "auto" leaves it to the coordinator, which decides without labels. sharpen: spread of the targets' logits; 0 takes the pool
    as it is. refine: features on which the pool is fitted first. mixup: alpha; 0 mixes none.
    """

    architecture: Annotated[str, one_of(*schema.STUDENTS)] = "cnn"
    loss: Annotated[str, one_of(*_values(schema.Loss))] = "ttm"
    epochs: Count = 10
    batch: Count = 64
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    augment: Annotated[bool | Literal["auto"], BeforeValidator(_flag_or_auto)] = True
    relabel: Annotated[float, Field(ge=0, le=1)] = 0.0
    sharpen: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    refine: Annotated[str, one_of("none", *schema.FEATURES)] = "none"
    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class RunSettings(Strict):
    """seed: of public randomness. minimum_clients: fewer, and the run stops until they are back.

    expected_clients: a public guess, from which constants of "auto" follow; by default as many as at least must be there, and in a
    simulation as many as there are.
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    minimum_clients: Count = 2
    expected_clients: Count | None = None


class PlanTables(Strict):
    """What a plan file and a scenario have in common: all of a plan but the classes and the public inputs."""

    name: str
    description: str = ""
    teacher: TeacherSettings
    black_box: BlackBoxSettings | None = None
    privacy: PrivacySettings
    release: ReleaseSettings = ReleaseSettings()
    pooling: PoolingSettings = PoolingSettings()
    stages: StageSettings = StageSettings()
    student: StudentSettings = StudentSettings()
    run: RunSettings = RunSettings()

    @property
    def black_box_draws(self) -> int | None:
        """`black_box.draws` where the plan permits black-box teachers, else None."""
        return self.black_box.draws if self.black_box is not None else None


class PlanSettings(PlanTables):
    """A plan file. classes: their names, in the order of the labels 0 to K - 1, or only their number K."""

    classes: Annotated[int, Field(ge=2)] | Annotated[tuple[str, ...], Field(min_length=2)]


def load(path: Path, overrides: Sequence[str] = ()) -> PlanSettings:
    """A plan file, with overrides such as "privacy.epsilon=1". The name of a plan is by default its file's.

    Raises SettingError, naming every problem.
    """
    try:
        raw = read_toml(path)
    except (FileNotFoundError, IsADirectoryError):
        raise SettingError(
            f"Expected a plan's settings in a TOML file, got no file at {path}: `limbeck plan settings SCENARIO` writes one."
        ) from None
    for each in overrides:
        override(raw, each)
    raw.setdefault("name", path.stem)
    simulated = sorted({"data", "partition"} & raw.keys())
    if simulated:
        raise SettingError(
            f"Expected a plan's settings in {path}, got a scenario, with {' and '.join(f'[{table}]' for table in simulated)}:"
            " `limbeck plan settings SCENARIO` writes the part of it that is a plan."
        )
    settings = validate(PlanSettings, with_tuples(raw))
    inconsistent = problems(settings)
    if inconsistent:
        raise SettingError("\n".join(inconsistent))
    return settings


def with_tuples(raw: Raw) -> Raw:
    """Parsed TOML with the lists that settings take as tuples."""
    stages, classes = raw.get("stages"), raw.get("classes")
    if isinstance(stages, dict) and isinstance(stages.get("temperature"), list):
        temperatures = tuple(float(each) if type(each) is int else each for each in stages["temperature"])
        raw = {**raw, "stages": {**stages, "temperature": temperatures}}
    teacher = raw.get("teacher")
    if isinstance(teacher, dict) and isinstance(teacher.get("class_weights"), list):
        weights = tuple(float(each) if type(each) is int else each for each in teacher["class_weights"])
        raw = {**raw, "teacher": {**teacher, "class_weights": weights}}
    return {**raw, "classes": tuple(classes)} if isinstance(classes, list) else raw


def problems(settings: PlanTables) -> list[str]:
    """What does not go together; one sentence each, which names the key."""
    sentences = []
    teacher, stages, release = settings.teacher, settings.stages, settings.release
    if teacher.kind == "linear" and teacher.average_last > teacher.steps:
        sentences.append(f"teacher.average_last = {teacher.average_last}: expected at most teacher.steps = {teacher.steps}")
    if stages.temperature == "auto":
        if teacher.kind != "evidence":
            sentences.append(f"stages.temperature = 'auto': expected a number with teacher.kind = {teacher.kind!r}")
        if release.softening != schema.Family.POWER.value:
            sentences.append(
                f"stages.temperature = 'auto': expected a number with release.softening = {release.softening!r}"
            )
        temperatures: tuple[float, ...] = ()
    else:
        temperatures = stages.temperature if isinstance(stages.temperature, tuple) else (stages.temperature,)
    if isinstance(stages.temperature, tuple) and len(temperatures) != stages.count:
        sentences.append(
            f"stages.temperature = {list(temperatures)}: expected one number, or stages.count = {stages.count} of them"
        )
    lowest = min(temperatures, default=1.0)
    family = schema.Family(release.softening)
    if lowest < family.lowest_temperature:
        sentences.append(
            f"stages.temperature = {lowest}: expected at least 1 with release.softening = {release.softening!r}"
        )
    if family.takes_order != (release.tsallis_order is not None):
        sentences.append(
            f"release.tsallis_order = {release.tsallis_order}: expected a number with release.softening = 'tsallis', and only then"
        )
    return sentences
