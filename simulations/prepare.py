"""From a scenario to a run folder: one folder per site as a real site would have it, the transfer set, the plan.

RUN/scenario.json     the settings, complete
RUN/plan.pb           the plan, as offered
RUN/transfer/         the transfer set under its hash
RUN/sites/site-00/    site.toml, records.npz; later its ledger, transcript and teacher; model.joblib of a black-box one
RUN/cache/            features of public inputs
RUN/server/           what the coordinator writes
RUN/truth.npz         what only the simulation knows: labels of the public inputs, the test set, the partition
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from limbeck.operators.errors import RunError, SettingError
from limbeck.protos import accounting, codec, messages
from limbeck.protos.files import write_durably
from limbeck.protos.transfer_set import digest
from limbeck.server import pruning
from limbeck.simulations import black_box, data, partition
from limbeck.simulations.scenario import Scenario, check_against

SHARED_WITH_SITES = ("data", "partition", "black_box")


def prepare(scenario: Scenario, folder: Path, *, cache: Path | None = None, sites: Path | None = None) -> messages.Plan:
    """Write the run folder and return the plan.

    cache: where downloaded data sets are. sites: site folders of an earlier run to go on with, records, ledgers and
    all; its data and partition must be this scenario's. Raises SettingError, DataError or RunError, before anything is written
    where it can.
    """
    own = scenario.data
    dataset = data.load(
        own.name,
        cache=cache,
        folder=Path(own.folder) if own.folder else None,
        private=own.private,
        public=own.public,
        test=own.test,
        seed=scenario.run.seed,
    )
    check_against(scenario, dataset)
    parts = _partition(scenario, dataset)(dataset.private_y, scenario.partition.clients, scenario.run.seed)
    classes = len(dataset.class_names)
    plan = make_plan(scenario, transfer_set=digest(dataset.public_x), samples=len(dataset.public_x), classes=classes)
    if sites is not None:
        _check_same_sites(scenario, sites)
    folder.mkdir(parents=True, exist_ok=True)
    _write_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", x=dataset.public_x)
    _write_arrays(
        folder / "truth.npz",
        public_y=dataset.public_y,
        test_x=dataset.test_x,
        test_y=dataset.test_y,
        class_names=np.array(dataset.class_names),
        counts=partition.counts(parts, dataset.private_y, classes),
    )
    if sites is None:
        for index, rows in enumerate(parts):
            name = f"site-{index:02}"
            site = folder / "sites" / name
            _write_arrays(site / "records.npz", x=dataset.private_x[rows], y=dataset.private_y[rows])
            write_durably(site / "site.toml", _site_toml(scenario, name, index, classes).encode())
            if index >= scenario.partition.clients - scenario.black_box.sites:
                black_box.train(site, scenario.run.seed)
    write_durably(folder / "plan.pb", codec.encode_request(messages.Offer(plan=plan)))
    described = {"scenario": scenario.model_dump(mode="json"), "sites": str((sites or folder / "sites").resolve())}
    write_durably(folder / "scenario.json", json.dumps(described, indent=1).encode())
    return plan


def read_prepared(folder: Path) -> tuple[Scenario, messages.Plan, Path]:
    """Scenario, plan and sites' folder of a prepared run. Raises RunError where `folder` is none."""
    try:
        described = json.loads((folder / "scenario.json").read_text(encoding="utf-8"))
        offer = codec.decode_request((folder / "plan.pb").read_bytes())
        scenario = Scenario.model_validate_json(json.dumps(described["scenario"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"Expected a prepared run in {folder}: {error}.") from error
    if not isinstance(offer, messages.Offer):
        raise RunError(f"Expected a plan in {folder / 'plan.pb'}, found another message.")
    return scenario, offer.plan, Path(described["sites"])


def make_plan(scenario: Scenario, *, transfer_set: bytes, samples: int, classes: int) -> messages.Plan:
    """The plan of a scenario: its noise is calibrated so that the whole of it costs at most `privacy.epsilon`."""
    teaching, label_counts = accounting.calibrate(
        _teaching(scenario),
        epsilon=scenario.privacy.epsilon,
        delta=scenario.privacy.delta,
        label_counts_fraction=scenario.privacy.label_counts_fraction if scenario.pooling.kind == "class-counts" else None,
    )
    stages, own = scenario.stages, scenario.student
    path = pruning.cubic if stages.path == "cubic" else pruning.linear
    temperatures = stages.temperature if isinstance(stages.temperature, tuple) else (stages.temperature,) * stages.count
    if len(temperatures) != stages.count:
        raise SettingError(f"Expected stages.temperature to be one number or {stages.count}, got {list(temperatures)}.")
    release = scenario.release
    return messages.Plan(
        name=scenario.name,
        transfer_set=transfer_set,
        samples=samples,
        classes=classes,
        family=messages.Family(release.softening),
        truncation=messages.TopK(k=release.k) if release.truncation == "top-k" else messages.Sampled(draws=release.draws),
        coding=messages.Coding(release.coding),
        pooling=messages.Pooling(scenario.pooling.kind),
        stages=tuple(
            messages.Stage(sparsity=sparsity, temperature=temperature)
            for sparsity, temperature in zip(path(stages.sparsity, stages.count), temperatures, strict=True)
        ),
        teaching=teaching,
        label_counts=label_counts,
        privacy=messages.Privacy(
            epsilon=scenario.privacy.epsilon,
            delta=scenario.privacy.delta,
            unit=messages.Unit.RECORD,
            adjacency=messages.Adjacency.ADD_REMOVE_ONE,
        ),
        student=messages.Student(
            architecture=own.architecture,
            loss=messages.Loss(own.loss),
            epochs=own.epochs,
            batch=own.batch,
            learning_rate=own.learning_rate,
            weight_decay=own.weight_decay,
            augment=own.augment,
            relabel=own.relabel,
        ),
        minimum_clients=scenario.run.minimum_clients,
        public_seed=scenario.run.seed,
        black_box=messages.BlackBoxTeaching(draws=scenario.black_box.draws) if scenario.black_box.sites else None,
    )


def _teaching(scenario: Scenario) -> messages.Teaching:
    """The schedule with a noise multiplier of 1, to be calibrated."""
    own = scenario.teacher
    if own.kind == "linear":
        return messages.LinearTeaching(
            features=own.features,
            feature_norm=own.feature_norm,
            steps=own.steps,
            learning_rate=own.learning_rate,
            momentum=own.momentum,
            clip=own.clip,
            noise_multiplier=1.0,
            normaliser=own.normaliser,
            average_last=own.average_last,
        )
    return messages.CnnTeaching(
        sampling_rate=own.sampling_rate,
        steps=own.steps,
        learning_rate=own.learning_rate,
        momentum=own.momentum,
        clip=own.clip,
        noise_multiplier=1.0,
        normaliser=own.normaliser,
        physical_batch=own.physical_batch,
    )


def _partition(scenario: Scenario, dataset: data.DataSet) -> partition.Partition:
    own = scenario.partition
    match own.kind:
        case "iid":
            return partition.Iid()
        case "dirichlet":
            return partition.Dirichlet(alpha=own.alpha)
        case "quantity":
            return partition.Quantity(alpha=own.alpha)
        case "natural":
            if dataset.groups is None:
                raise SettingError(
                    f"partition.kind = 'natural': expected a data set with natural sites, got {dataset.name}."
                )
            return partition.Natural(groups_N=dataset.groups)


def _site_toml(scenario: Scenario, name: str, index: int, classes: int) -> str:
    privacy = scenario.privacy
    noise: dict[str, object] = {"source": privacy.noise}
    if privacy.noise == "UnsafeSeeded":
        noise["seed"] = int.from_bytes(hashlib.sha256(f"{scenario.run.seed} {index}".encode()).digest()[:6])
    own: dict[str, object] = {}
    if index >= scenario.partition.clients - scenario.black_box.sites:
        own["allow_without_dp"] = scenario.black_box.allow_without_dp
        own["black_box"] = {"address": black_box.NOWHERE, "classes": [str(label) for label in range(classes)]}
    return tomli_w.dumps(
        {
            "name": name,
            "records": "records.npz",
            "transfer_sets": "../../transfer",
            "cache": "../../cache",
            "release_label_counts": scenario.pooling.kind == "class-counts",
            "budget": {"epsilon": privacy.budget_epsilon or privacy.epsilon, "delta": privacy.delta},
            "noise": noise,
            **own,
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
