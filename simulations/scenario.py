"""A scenario: a small TOML file read into strict settings. Anything invalid is an error that names key, value and what was wanted."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from limbeck.base.errors import SettingError
from limbeck.base.settings import Raw, Strict, override, read_toml, validate
from limbeck.inputs.encodings import ImageEncoding
from limbeck.inputs.tables import Table
from limbeck.plans import settings
from limbeck.plans.settings import Count, Positive
from limbeck.protos.teacher import Inputs, kind_of
from limbeck.simulations.data import KNOWN, DataSet, DataSettings
from limbeck.simulations.data.asked import is_data
from limbeck.simulations.data.settings import problems as of_data
from limbeck.simulations.data.settings import with_absolute_paths

# Features that take no time to compute.
CHEAP_FEATURES = ("rows", "pixels")
SHIPPED = Path(__file__).parent / "scenarios"


PartitionKind = Literal["iid", "dirichlet", "classes", "natural", "quantity"]


class PartitionSettings(Strict):
    """Who holds the records.

    kind: "natural" if `data.site` says which site each record is from; by default that, or else "iid".
    clients: sites; natural ones need not be counted.
    alpha: of the Dirichlet distribution, for label or quantity skew.
    classes_per_site: with kind "classes", which gives each site records of so many classes alone.
    minimum: records; natural sites with fewer take no part, and others have at least that many, and at least 10.
    """

    clients: Count | None = None
    kind: PartitionKind | None = None
    alpha: Positive = 0.5
    classes_per_site: Count | None = None
    minimum: Count = 1


class TeacherSettings(settings.TeacherSettings):
    """factory: with kind "custom", the net that every site names as its own, as "module:factory"."""

    factory: str | None = None


class BlackBoxSettings(settings.BlackBoxSettings):
    """Sites that train no DP teacher but ask a scikit-learn model made from their records, WITHOUT A DP GUARANTEE.

    sites: how many, the last ones. labels_only: the model gives labels, and each input is asked `draws` times. allow_without_dp: what the
    owners of those sites set in their policies; without it they decline.
    """

    sites: Annotated[int, Field(ge=0)] = 0
    labels_only: bool = False
    allow_without_dp: bool = True


class PrivacySettings(settings.PrivacySettings):
    """budget_epsilon: the client's own limit, by default the plan's epsilon. noise: UnsafeSeeded is for runs that have to be repeated."""

    budget_epsilon: Positive | None = None
    noise: Literal["system-entropy", "UnsafeSeeded"] = "system-entropy"


class StudentSettings(settings.StudentSettings):
    """dense_control: also train a dense student the same way, to compare."""

    dense_control: bool = True


class RunSettings(settings.RunSettings):
    """workers: client processes at once, by default one per core."""

    workers: Count | None = None


class CompareSettings(Strict):
    """What a run is compared with: teachers that no site could train. They never leave the simulation, and no ledger is charged for them.

    central: one teacher of the plan's kind, trained on all sites' records together, with the plan's noise. without_privacy: the same
    without noise; by default for linear teachers on rows and pixels, where it takes seconds.
    """

    central: bool = True
    without_privacy: bool | None = None


class Scenario(settings.PlanTables):
    """All settings of a simulation: those of a plan, and what is simulated. `Scenario.load` reads one."""

    data: DataSettings
    partition: PartitionSettings = PartitionSettings()
    teacher: TeacherSettings
    black_box: BlackBoxSettings = BlackBoxSettings()
    privacy: PrivacySettings
    student: StudentSettings = StudentSettings()
    run: RunSettings = RunSettings()
    compare: CompareSettings = CompareSettings()

    @classmethod
    def load(cls, which: str | Path, overrides: Sequence[str] = ()) -> Scenario:
        """A scenario that comes with limbeck, by its name, or a TOML file.

        - which: a name, or the path of a file; a `Path` is always a file.
        - overrides: settings to replace, such as "privacy.epsilon=1"; a value is a TOML literal, a bare word is a string.

        Raises: SettingError, naming every problem.
        """
        return load(which if isinstance(which, str) else str(which.absolute()), overrides)

    @property
    def partition_kind(self) -> PartitionKind:
        """`partition.kind`, or what it is by default."""
        return self.partition.kind or ("natural" if self.data.site is not None else "iid")

    @property
    def without_privacy(self) -> bool:
        """Whether a teacher without privacy is trained to compare with."""
        cheap = self.teacher.kind in {"linear", "evidence"} and self.teacher.features in CHEAP_FEATURES
        return cheap if self.compare.without_privacy is None else self.compare.without_privacy

    @property
    def black_box_draws(self) -> int | None:
        """`black_box.draws` where there are such sites, else None."""
        return self.black_box.draws if self.black_box.sites else None

    def plan_tables(self) -> dict[str, object]:
        """The part of this scenario that is a plan, as the tables of a plan file; only what differs from the defaults."""
        part = self.model_dump(include={*settings.PlanTables.model_fields}, exclude_defaults=True)
        draws = self.black_box_draws
        part.pop("black_box", None)
        kinds: dict[str, type[Strict]] = {
            "teacher": settings.TeacherSettings,
            "privacy": settings.PrivacySettings,
            "student": settings.StudentSettings,
            "run": settings.RunSettings,
        }
        for table, kind in kinds.items():
            if table in part:
                part[table] = {key: value for key, value in part[table].items() if key in kind.model_fields}
        if draws is not None:
            part["black_box"] = {"draws": draws}
        return {key: value for key, value in part.items() if value != {}}


def shipped() -> dict[str, str]:
    """Names and descriptions of the scenarios that come with limbeck."""
    descriptions = {}
    for path in sorted(SHIPPED.glob("*.toml")):
        descriptions[path.stem] = str(tomllib.loads(path.read_text(encoding="utf-8")).get("description", ""))
    return descriptions


def load(which: str, overrides: Sequence[str] = ()) -> Scenario:
    """A shipped scenario by name or a TOML file by path, with overrides such as "privacy.epsilon=1".

    The value of an override is a TOML literal; a bare word is a string. Raises SettingError, naming every problem.
    """
    path = SHIPPED / f"{which}.toml" if which in shipped() else Path(which)
    if path.suffix != ".toml" and is_data(which):
        raise SettingError(
            f"Expected a scenario, got data: `limbeck data look {which} --out scenario.toml` makes a scenario of {which}."
        )
    try:
        raw = read_toml(path)
    except (FileNotFoundError, IsADirectoryError):
        raise SettingError(f"Expected a TOML file or one of the scenarios {', '.join(shipped())}, got {which!r}.") from None
    # Paths of the file are relative to it, those of the command line to where that was typed.
    raw = with_absolute_paths(raw, path.parent)
    for each in overrides:
        override(raw, each)
    raw.setdefault("name", path.stem)
    return parse(raw)


def parse(raw: Raw) -> Scenario:
    """A scenario from parsed TOML. Raises SettingError, naming every problem."""
    scenario = validate(Scenario, with_absolute_paths(settings.with_tuples(raw), Path()))
    _cross_check(scenario)
    return scenario


def check_against(scenario: Scenario, dataset: DataSet) -> None:
    """Raise SettingError where a scenario asks of a data set what it does not have."""
    classes, records = len(dataset.class_names), len(dataset.private_y)
    if scenario.release.truncation == "top-k" and scenario.release.k > classes:
        raise SettingError(f"release.k = {scenario.release.k}: expected at most the {classes} classes of {dataset.name}.")
    if scenario.partition.clients is not None and scenario.partition.clients > records:
        raise SettingError(
            f"partition.clients = {scenario.partition.clients}: expected at most the {records} private records."
        )
    if scenario.black_box.sites and (
        isinstance(dataset.private_x, Table)
        or dataset.files
        or isinstance(dataset.encoding, ImageEncoding)
        or kind_of(dataset.private_x) not in (Inputs.ROWS, Inputs.IMAGES)
    ):
        raise SettingError(
            f"black_box.sites = {scenario.black_box.sites}: expected rows or grey images in arrays, got {dataset.name}."
        )
    if scenario.partition_kind == "natural" and dataset.groups is None:
        raise SettingError(f"partition.kind = 'natural': expected a data set with natural sites, got {dataset.name}.")


def _cross_check(scenario: Scenario) -> None:
    problems = settings.problems(scenario)
    problems += of_data(scenario.data, tuple(KNOWN))
    problems += _of_partition(scenario)
    if (scenario.teacher.kind == "custom") != (scenario.teacher.factory is not None):
        problems.append(
            f"teacher.factory = {scenario.teacher.factory!r}: expected 'module:factory' with teacher.kind = 'custom', and only then"
        )
    if problems:
        raise SettingError("\n".join(problems))


def _of_partition(scenario: Scenario) -> list[str]:
    clients, kind, problems = scenario.partition.clients, scenario.partition_kind, []
    own = scenario.data.name is None
    if own and kind == "natural" and scenario.data.site is None:
        problems.append("partition.kind = 'natural': expected data.site to say which site each record is from")
    if scenario.partition.classes_per_site is not None and kind != "classes":
        problems.append(
            f"partition.classes_per_site = {scenario.partition.classes_per_site}: expected with partition.kind = 'classes' only,"
            f" got {kind!r}"
        )
    if clients is None:
        if kind != "natural":
            problems.append(
                f"partition.clients: missing; expected the number of sites among which to divide the records ({kind})"
            )
        return problems
    for key, value in (("run.minimum_clients", scenario.run.minimum_clients), ("black_box.sites", scenario.black_box.sites)):
        if value > clients:
            problems.append(f"{key} = {value}: expected at most partition.clients = {clients}")
    return problems
