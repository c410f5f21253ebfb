"""From a scenario to a run folder: one folder per site as a real site would have it, the transfer set, the plan.

RUN/scenario.json     the settings, complete
RUN/plan.pb           the plan, as offered: signed
RUN/author.pem        the key that signed it, which the sites' policies name
RUN/transfer/         the transfer set under its hash; for tables and texts, the public encoding that made its rows
RUN/sites/site-00/    site.toml, policy.toml, records.npz or records.csv; later its ledger, transcript and teacher; model.joblib of a
                      black-box one
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
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from limbeck.base.errors import RunError, SettingError, WireError
from limbeck.base.files import write_durably
from limbeck.base.progress import Progress
from limbeck.inputs import encodings
from limbeck.inputs.tables import Table
from limbeck.inputs.transfer_set import digest
from limbeck.plans import checks, public_inputs, schema
from limbeck.plans.author import make_plan
from limbeck.protos import codec, signing
from limbeck.server import student
from limbeck.simulations import black_box, data, partition
from limbeck.simulations.scenario import Scenario, check_against

AUTHOR = "author.pem"
SHARED_WITH_SITES = ("data", "partition", "black_box")
ENCODING = "encoding.json"


def prepare(
    scenario: Scenario,
    folder: Path,
    *,
    cache: Path | None = None,
    sites: Path | None = None,
    progress: Progress | None = None,
) -> schema.Plan:
    """Write the run folder and return the plan.

    cache: where downloaded data sets are. sites: site folders of an earlier run to go on with, records, ledgers and
    all; its data and partition must be this scenario's. progress: of texts through an encoder. Raises SettingError,
    DataError or RunError, before anything is written where it can.
    """
    wanted = scenario.data
    dataset = data.load(
        wanted.name,
        cache=cache,
        folder=Path(wanted.folder) if wanted.folder else None,
        private=wanted.private,
        public=wanted.public,
        test=wanted.test,
        seed=scenario.run.seed,
        encoder=wanted.encoder,
        progress=progress,
    )
    check_against(scenario, dataset)
    parts = _partition(scenario, dataset)(dataset.private_y, scenario.partition.clients, scenario.run.seed)
    classes = len(dataset.class_names)
    plan = make_plan(
        scenario,
        transfer_set=digest(dataset.public_x),
        samples=len(dataset.public_x),
        classes=dataset.class_names,
        encoding=encodings.digest(dataset.encoding) if dataset.encoding is not None else None,
        inputs=public_inputs.declared(dataset.public_x),
    )
    checks.check_plan(plan)
    student.rehearse(plan, dataset.public_x)
    if sites is not None:
        _check_same_sites(scenario, sites)
    folder.mkdir(parents=True, exist_ok=True)
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
            name = _site_name(scenario, dataset, index)
            site = folder / "sites" / name
            if isinstance(dataset.private_x, Table):
                write_durably(site / "records.csv", dataset.private_x.rows(rows).to_csv())
            else:
                _write_arrays(site / "records.npz", x=dataset.private_x[rows], y=dataset.private_y[rows])
            write_durably(site / "site.toml", _site_toml(scenario, dataset, name, index).encode())
            policy = _policy_toml(scenario, plan, name, signing.author_of(key), without_dp=_is_black_box(scenario, index))
            write_durably(site / "policy.toml", policy.encode())
            if _is_black_box(scenario, index):
                black_box.train(site, scenario.run.seed)
    write_durably(folder / "plan.pb", codec.encode_request(codec.signed_offer(plan, key)))
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


def _partition(scenario: Scenario, dataset: data.DataSet) -> partition.Partition:
    settings = scenario.partition
    match settings.kind:
        case "iid":
            return partition.Iid()
        case "dirichlet":
            return partition.Dirichlet(alpha=settings.alpha)
        case "quantity":
            return partition.Quantity(alpha=settings.alpha)
        case "natural":
            if dataset.groups is None:
                raise SettingError(
                    f"partition.kind = 'natural': expected a data set with natural sites, got {dataset.name}."
                )
            return partition.Natural(groups_N=dataset.groups)


def _test_sites(scenario: Scenario, dataset: data.DataSet) -> NDArray[np.int64]:
    """The site that each test input comes from, in the order of the sites; -1 if from none."""
    nowhere = np.full(len(dataset.test_y), -1, np.int64)
    if scenario.partition.kind != "natural" or dataset.groups is None or dataset.test_groups is None:
        return nowhere
    for index, group in enumerate(np.unique(dataset.groups)):
        nowhere[dataset.test_groups == group] = index
    return nowhere


def _is_black_box(scenario: Scenario, index: int) -> bool:
    """The last sites are those with black-box teachers."""
    return index >= scenario.partition.clients - scenario.black_box.sites


def _site_name(scenario: Scenario, dataset: data.DataSet, index: int) -> str:
    """In the order of their numbers; a natural site also has its own name."""
    natural = scenario.partition.kind == "natural" and dataset.group_names is not None
    return f"site-{index:02}" + (
        f"-{dataset.group_names[index].replace(' ', '-')}" if natural and dataset.group_names else ""
    )


def _records(dataset: data.DataSet) -> object:
    """How a site reads its records: an NPZ file as it is, a table with the public encoding."""
    if dataset.records is None:
        return "records.npz"
    settings = dataset.records.model_dump(exclude_unset=True)
    return {"path": "records.csv", "encoding": f"../../transfer/{ENCODING}", **settings}


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
            "cache": "../../cache",
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
