"""From a scenario to a run folder: one folder per site as a real site would have it, the transfer set, the plan.

RUN/scenario.json     the settings, complete
RUN/data.json         what was made of the user's own files, in sentences; how many records a person has, and what that costs
RUN/plan.pb           the plan, as offered: signed
RUN/author.pem        the key that signed it, which the sites' policies name
RUN/transfer/         the transfer set under its hash; for tables and texts, the public encoding that made its rows
RUN/sites/site-00/    site.toml, policy.toml, records.npz, records.csv or records/ with images; later its ledger, transcript and
                      teacher; model.joblib of a black-box one
RUN/cache/            features of public inputs
RUN/server/           what the coordinator writes
RUN/truth.npz         what only the simulation knows: labels of the public inputs, the test set and its sites, the partition
RUN/central/          teachers of all records together, to compare with
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from limbeck.base.errors import RunError, SettingError, WireError
from limbeck.base.files import write_durably
from limbeck.base.progress import Progress
from limbeck.client.records import RecordSettings
from limbeck.inputs import encodings, features
from limbeck.inputs.tables import Table
from limbeck.inputs.transfer_set import digest
from limbeck.plans import checks, public_inputs, schema
from limbeck.plans.author import make_plan
from limbeck.plans.persons import person_epsilon
from limbeck.protos import codec, signing
from limbeck.server import student
from limbeck.simulations import black_box, data, partition
from limbeck.simulations.scenario import PartitionKind, Scenario, check_against

AUTHOR = "author.pem"
SHARED_WITH_SITES = ("data", "partition", "black_box")
ENCODING = "encoding.json"
DATA = "data.json"
CACHE = "cache"
# Characters of a natural site's own name in the name of its folder.
LONGEST_NAME = 40


def prepare(
    scenario: Scenario,
    folder: Path,
    *,
    cache: Path | None = None,
    sites: Path | None = None,
    progress: Progress | None = None,
) -> schema.Plan:
    """Write the run folder and return the plan.

    What was made of the user's own files is said in RUN/data.json.

    cache: where downloaded data sets are. sites: site folders of an earlier run to go on with, records, ledgers and
    all; its data and partition must be this scenario's. progress: of texts through an encoder. Raises SettingError,
    DataError or RunError, before anything is written where it can.
    """
    dataset = data.load_settings(scenario.data, seed=scenario.run.seed, cache=cache, progress=progress)
    check_against(scenario, dataset)
    dataset, parts = _parts(scenario, dataset)
    scenario = _as_divided(scenario, len(parts))
    classes = len(dataset.class_names)
    computed: list[features.Rows] = []

    def of_public() -> features.Rows:
        """The features of the public inputs; the cache gets them when it is known that there will be a run."""
        computed.append(features.compute(scenario.teacher.features, dataset.public_x))
        return features.of_evidence(scenario.teacher.features, computed[0], scenario.teacher.constant)

    plan = make_plan(
        scenario,
        transfer_set=digest(dataset.public_x),
        samples=len(dataset.public_x),
        classes=dataset.class_names,
        encoding=encodings.digest(dataset.encoding) if dataset.encoding is not None else None,
        inputs=public_inputs.declared(dataset.public_x),
        features=of_public,
        sites=len(parts),
    )
    checks.check_plan(plan)
    student.rehearse(plan, dataset.public_x)
    if sites is not None:
        _check_same_sites(scenario, sites)
    folder.mkdir(parents=True, exist_ok=True)
    if computed:
        features.kept(folder / CACHE, scenario.teacher.features, digest(dataset.public_x), lambda: computed[0])
    # Sites of an earlier run accept plans of that run's author.
    key = signing.read_key(sites.parent / AUTHOR) if sites is not None else signing.new_key(folder / AUTHOR)
    _write_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", x=dataset.public_x)
    if dataset.encoding is not None:
        encodings.save(dataset.encoding, folder / "transfer" / ENCODING)
    _write_arrays(
        folder / "truth.npz",
        public_y=dataset.public_y,
        test_x=dataset.test_x,
        test_y=dataset.test_y,
        test_sites=_test_sites(scenario, dataset),
        class_names=np.array(dataset.class_names),
        counts=partition.counts(parts, dataset.private_y, classes),
    )
    if sites is None:
        for index, rows in enumerate(parts):
            name = _site_name(dataset, len(parts), index)
            site = folder / "sites" / name
            _write_records(dataset, rows, site)
            write_durably(site / "site.toml", _site_toml(scenario, dataset, name, index).encode())
            policy = _policy_toml(scenario, plan, name, signing.author_of(key), without_dp=_is_black_box(scenario, index))
            write_durably(site / "policy.toml", policy.encode())
            if _is_black_box(scenario, index):
                black_box.train(site, scenario.run.seed)
    write_durably(folder / "plan.pb", codec.encode_request(codec.signed_offer(plan, key)))
    write_durably(folder / DATA, json.dumps(_data_json(dataset, parts, plan, scenario.partition_kind), indent=1).encode())
    described = {"scenario": scenario.model_dump(mode="json"), "sites": str((sites or folder / "sites").resolve())}
    write_durably(folder / "scenario.json", json.dumps(described, indent=1).encode())
    return plan


def read_prepared(folder: Path) -> tuple[Scenario, schema.Plan, Path]:
    """Scenario, plan and sites' folder of a prepared run. Raises RunError where `folder` is none."""
    try:
        described = json.loads((folder / "scenario.json").read_text(encoding="utf-8"))
        offer = codec.decode_offer((folder / "plan.pb").read_bytes())
        scenario = Scenario.model_validate_json(json.dumps(described["scenario"]))
    except (OSError, ValueError, KeyError, WireError) as error:
        raise RunError(f"Expected a prepared run in {folder}: {error}.") from error
    return scenario, offer.plan, Path(described["sites"])


def read_said(folder: Path) -> tuple[str, ...]:
    """What was made of the user's own files in a prepared run, in sentences; none for a data set by its name. Raises RunError."""
    path = folder / DATA
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["said"] if path.exists() else ()
        return tuple(map(str, said))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"Expected what a simulation said of its data in {path}: {error}.") from error


def _parts(scenario: Scenario, dataset: data.DataSet) -> tuple[data.DataSet, partition.Parts]:
    """Rows of each site, and the data set with the natural sites that take part alone."""
    settings, seed = scenario.partition, scenario.run.seed
    if scenario.partition_kind == "natural":
        dataset = partition.large_enough(dataset, settings.minimum)
        assert dataset.groups is not None  # `check_against` says so
        return dataset, partition.Natural(groups_N=dataset.groups)(dataset.private_y, settings.clients, seed)
    divide: partition.Partition
    match scenario.partition_kind:
        case "iid":
            divide = partition.Iid()
        case "dirichlet":
            divide = partition.Dirichlet(alpha=settings.alpha, minimum=max(settings.minimum, partition.LEAST))
        case "classes":
            divide = partition.Classes(per_client=settings.classes_per_site or 1)
        case "quantity":
            divide = partition.Quantity(alpha=settings.alpha, minimum=max(settings.minimum, partition.LEAST))
    if dataset.people is not None:
        divide = partition.ByPerson(people_N=dataset.people, inner=divide)
    # Sites of a natural data set that is divided otherwise have no names.
    dataset = replace(dataset, groups=None, group_names=None, test_groups=None)
    return dataset, divide(dataset.private_y, settings.clients or 0, seed)


def _as_divided(scenario: Scenario, sites: int) -> Scenario:
    """The scenario with the kind and the number of sites that it came to."""
    for key, value in (("run.minimum_clients", scenario.run.minimum_clients), ("black_box.sites", scenario.black_box.sites)):
        if value > sites:
            raise SettingError(f"{key} = {value}: expected at most the {sites} sites of the data.")
    divided = scenario.partition.model_copy(update={"clients": sites, "kind": scenario.partition_kind})
    return scenario.model_copy(update={"partition": divided})


def _data_json(dataset: data.DataSet, parts: partition.Parts, plan: schema.Plan, kind: PartitionKind) -> dict[str, object]:
    """What is said of the data, and how many records one person has."""
    several = dataset.records_per_person
    largest = int(several.max()) if several is not None else None
    cost = person_epsilon(plan, largest) if largest is not None else math.inf
    said = [*dataset.said, *partition.describe(dataset, parts), *_per_person(dataset, plan)]
    if not dataset.said:
        # Known data sets are described elsewhere, and so are their natural sites; what a skew came to depends on the seed.
        said = partition.describe(dataset, parts) if kind in partition.SKEWED else []
    return {
        "said": said,
        "source": dataset.source,
        "unit": plan.privacy.unit.value,
        "records_per_person": largest,
        # JSON has no infinity.
        "epsilon_per_person": cost if math.isfinite(cost) else None,
    }


def _per_person(dataset: data.DataSet, plan: schema.Plan) -> list[str]:
    """What the unit of privacy means for a person of several records."""
    privacy = plan.privacy
    unit = f"The unit of privacy is one record: epsilon = {privacy.epsilon:g} at delta = {privacy.delta:g} is for adding or removing one."
    if dataset.records_per_person is None:
        return [f"{unit} If a person has several records, say so by data.group: a person costs more."]
    largest, people = int(dataset.records_per_person.max()), len(dataset.records_per_person)
    if largest == 1:
        return [f"{unit} Each of {people} persons has one record, so that it is for a person too."]
    several = int((dataset.records_per_person > 1).sum())
    cost = person_epsilon(plan, largest)
    return [
        f"{unit} {several} of {people} persons have more than one record, up to {largest}: for such a person epsilon is"
        f" {'infinite' if math.isinf(cost) else f'{cost:.3g}'} at the same delta."
    ]


def _test_sites(scenario: Scenario, dataset: data.DataSet) -> NDArray[np.int64]:
    """The site that each test input comes from, in the order of the sites; -1 if from none."""
    nowhere = np.full(len(dataset.test_y), -1, np.int64)
    if dataset.groups is None or dataset.test_groups is None:
        return nowhere
    for index, group in enumerate(np.unique(dataset.groups)):
        nowhere[dataset.test_groups == group] = index
    return nowhere


def _is_black_box(scenario: Scenario, index: int) -> bool:
    """The last sites are those with black-box teachers."""
    return index >= (scenario.partition.clients or 0) - scenario.black_box.sites


def _site_name(dataset: data.DataSet, sites: int, index: int) -> str:
    """In the order of their numbers; a natural site also has its own name, as far as a folder can."""
    number = f"site-{index:0{max(2, len(str(sites - 1)))}}"
    if dataset.group_names is None:
        return number
    ascii_name = unicodedata.normalize("NFKD", dataset.group_names[index]).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_name).strip("-")[:LONGEST_NAME]
    return f"{number}-{name}" if name else number


def _write_records(dataset: data.DataSet, rows: NDArray[np.int64], site: Path) -> None:
    """The records of a site as a real one has them: a table, arrays, or a folder of images per class."""
    if isinstance(dataset.private_x, Table):
        write_durably(site / "records.csv", dataset.private_x.rows(rows).to_csv())
    elif dataset.files:
        # Folders have names.
        assert dataset.records is not None
        assert dataset.records.classes is not None
        for folder in dataset.records.classes:
            (site / "records" / str(folder)).mkdir(parents=True, exist_ok=True)
        for place, row in enumerate(rows.tolist()):
            file = dataset.files[row]
            folder = str(dataset.records.classes[dataset.private_y[row]])
            shutil.copyfile(file, site / "records" / folder / f"{place:06}{file.suffix.lower()}")
    else:
        _write_arrays(site / "records.npz", x=dataset.private_x[rows], y=dataset.private_y[rows])


def _records(dataset: data.DataSet) -> dict[str, object]:
    """How a site reads its records, with the public encoding where there is one."""
    settings = dataset.records or RecordSettings(classes=tuple(range(len(dataset.class_names))))
    path = "records.csv" if isinstance(dataset.private_x, Table) else "records" if dataset.files else "records.npz"
    encoding = {"encoding": f"../../transfer/{ENCODING}"} if dataset.encoding is not None else {}
    return {"path": path, **encoding, **settings.model_dump(exclude_unset=True)}


def _site_toml(scenario: Scenario, dataset: data.DataSet, name: str, index: int) -> str:
    privacy = scenario.privacy
    noise: dict[str, object] = {"source": privacy.noise}
    if privacy.noise == "UnsafeSeeded":
        noise["seed"] = int.from_bytes(hashlib.sha256(f"{scenario.run.seed} {index}".encode()).digest()[:6])
    answering: dict[str, object] = {}
    if _is_black_box(scenario, index):
        classes = [str(label) for label in range(len(dataset.class_names))]
        answering["black_box"] = {"address": black_box.NOWHERE, "classes": classes}
    return tomli_w.dumps(
        {
            "name": name,
            "records": _records(dataset),
            **({"teacher": scenario.teacher.factory} if scenario.teacher.factory else {}),
            "transfer_sets": "../../transfer",
            "cache": f"../../{CACHE}",
            "noise": noise,
            # A power cut ends a simulation anyway; hundreds of sites on one disk would wait for it most of the time.
            "durability": "UnsafeProcessOnly",
            **answering,
        }
    )


def _policy_toml(scenario: Scenario, plan: schema.Plan, site: str, author: bytes, *, without_dp: bool) -> str:
    """What this scenario asks, and nothing else: the simulation's own policy, by name. A real site writes its own."""
    privacy, release = scenario.privacy, scenario.release
    epsilon = privacy.budget_epsilon or privacy.epsilon
    kept = (
        {"max_k": release.k, "max_draws": 0} if release.truncation == "top-k" else {"max_k": 0, "max_draws": release.draws}
    )
    return tomli_w.dumps(
        {
            "name": f"simulation {scenario.name}",
            "data_set": f"{scenario.name}/{site}"
            if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", scenario.name)
            else f"simulation/{site}",
            "budget": {"epsilon": epsilon, "delta": privacy.delta},
            "plans": {
                "authors": [author.hex()],
                "transfer_sets": "held",
                "minimum_clients": scenario.run.minimum_clients,
                "max_stages": scenario.stages.count,
                "max_answers": plan.samples * scenario.stages.count,
            },
            "answers": {
                "families": [release.softening],
                "min_temperature": min(stage.temperature for stage in plan.stages),
                **({} if plan.tsallis_order is None else {"max_tsallis_order": plan.tsallis_order}),
                **kept,
                "max_bits": math.ceil(codec.bits_per_answer(plan)),
            },
            "counts": {
                "label_counts": plan.label_counts is not None,
                "record_count": plan.record_count is not None,
                "max_epsilon": epsilon,
            },
            "teachers": {
                "kinds": [name for name, kind in schema.TEACHINGS.items() if isinstance(plan.teaching, kind)],
                "allow_without_dp": (without_dp and scenario.black_box.allow_without_dp) or privacy.noise == "UnsafeSeeded",
            },
        }
    )


def _check_same_sites(scenario: Scenario, sites: Path) -> None:
    """The sites of an earlier run hold the records that this scenario would give them."""
    earlier, _, _ = read_prepared(sites.parent)
    for table in SHARED_WITH_SITES:
        ours, theirs = getattr(scenario, table), getattr(earlier, table)
        if ours != theirs:
            raise RunError(f"Expected [{table}] of the run in {sites.parent}, {theirs!r}, got {ours!r}.")
    if scenario.run.seed != earlier.run.seed:
        raise RunError(f"Expected run.seed = {earlier.run.seed} as in {sites.parent}, got {scenario.run.seed}.")


def _write_arrays(path: Path, **arrays: NDArray[np.generic]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_durably(path, buffer.getvalue())
