"""What a student learns of a rare class, by temperature: `python -m limbeck.experiments.benchmarks.rare [OUT.json]`.

The committed part of Fashion-MNIST as a table: each image is brought to 7 x 7, so that a row is 49 numbers. Bags are thinned until they are
0.2 % of the records (12 of 5,412) and of the public inputs (4 of 2,254), all other images are one class. Four sites train linear teachers
by `plans.advice.rows_schedule`; their answers travel through the codec and are pooled, and a student learns from them in one stage. All 150
bags of the test set are kept and weighed as if they were 0.2 % of it. Area under the precision-recall curve (AUPRC): a student that knows
nothing reaches the rare class's share, .002. Five seeds decide who holds which record; noise from the operating system.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client import release, teachers
from limbeck.client.noise import SystemEntropy
from limbeck.plans import advice
from limbeck.plans.author import make_plan
from limbeck.plans.schema import Plan
from limbeck.plans.settings import (
    PlanTables,
    PrivacySettings,
    ReleaseSettings,
    StageSettings,
    StudentSettings,
    TeacherSettings,
)
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Share
from limbeck.server import distil, student
from limbeck.server.pooling import Pool
from limbeck.server.pruning import Masks
from limbeck.simulations import data

SITES = 4
SEEDS = (1, 2, 3, 4, 5)
TEMPERATURES = (1.0, 4.0, 10.0, 40.0)
EPSILON = 3.0
# Schedules: that of the rule, the same with weights of classes, and one with steps fifteen times as large, as are tried by hand.
SCHEDULES: dict[str, dict[str, object]] = {
    "the rule": {},
    "the rule, class_weights 0.1 and 1": {"class_weights": (0.1, 1.0)},
    "40 steps of 8, rows of norm 2": {"learning_rate": 8.0, "feature_norm": 2.0, "steps": 40, "average_last": 20},
}
DELTA = 1e-5
BAG, SHARE = 8, 0.002
CPU = torch.device("cpu")

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def _rows(x_N: NDArray[np.generic]) -> Rows:
    """(N, 49): the means of squares of 4 x 4 pixels."""
    squares: Rows = x_N.reshape(len(x_N), 7, 4, 7, 4).mean((2, 4)).reshape(len(x_N), 49).astype(np.float32)
    return squares / np.float32(255)


def _thinned(x_N: Rows, is_bag_N: NDArray[np.bool_], generator: np.random.Generator) -> tuple[Rows, Labels]:
    others, bags = np.flatnonzero(~is_bag_N), np.flatnonzero(is_bag_N)
    kept = generator.permutation(bags)[: round(len(others) * SHARE / (1 - SHARE)) + 1]
    rows = generator.permutation(np.concatenate([others, kept]))
    return x_N[rows], is_bag_N[rows].astype(np.int64)


def tables(temperature: float, records: int, changes: dict[str, object]) -> PlanTables:
    """The settings of a plan for sites with so many records. changes: of the schedule that is advised."""
    teacher = advice.rows_schedule(records_per_site=records, dimensions=49, classes=2, epsilon=EPSILON, delta=DELTA)
    return PlanTables(
        name="rare",
        teacher=TeacherSettings.model_validate({**teacher.model_dump(), **changes}),
        privacy=PrivacySettings(epsilon=EPSILON, delta=DELTA),
        release=ReleaseSettings(k=2),
        stages=StageSettings(count=1, sparsity=0.8, temperature=temperature),
        student=StudentSettings(architecture="mlp", epochs=20, augment=False),
    )


def received(log_p_NK: Tensor, plan: Plan) -> Share:
    """The answers of one site, as the coordinator has them."""
    answers = release.answers(log_p_NK, plan, plan.stages[0].temperature, SystemEntropy())
    ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=plan.samples)
    sent = codec.encode_reply(Share(plan_hash=ask.plan_hash, stage=0, first=0, answers=answers), plan=plan)
    reply = codec.decode_reply(sent, plan=plan, expecting=ask)
    assert isinstance(reply, Share)
    return reply


def auprc(score_N: NDArray[np.floating], y_N: Labels) -> float:
    """With the bags weighed as if they were `SHARE` of the inputs."""
    from sklearn.metrics import average_precision_score

    weight = np.where(y_N == 1, SHARE / (1 - SHARE) * (y_N == 0).sum() / (y_N == 1).sum(), 1.0)
    return float(average_precision_score(y_N, score_N, sample_weight=weight))


def run(seed: int, changes: dict[str, object]) -> dict[float, dict[str, float]]:
    """By temperature: AUPRC of the student and of the mean of the teachers on the test rows, and the share of answers on the floor."""
    generator = np.random.default_rng(seed)
    found = data.load("fashion-mnist-part", seed=seed)
    assert isinstance(found.private_x, np.ndarray)
    x_N, y_N = _thinned(_rows(found.private_x), found.private_y == BAG, generator)
    public_x, _ = _thinned(_rows(found.public_x), found.public_y == BAG, generator)
    test_x, test_y = _rows(found.test_x), (found.test_y == BAG).astype(np.int64)
    mean_D, deviation_D = public_x.mean(0), public_x.std(0) + 1e-6
    x_N, public_x, test_x = ((rows - mean_D) / deviation_D for rows in (x_N, public_x, test_x))
    parts = np.array_split(generator.permutation(len(x_N)), SITES)
    records = len(x_N) // SITES
    plan = make_plan(
        tables(1.0, records, changes),
        transfer_set=bytes(32),
        samples=len(public_x),
        classes=2,
    )
    taught = [
        teachers.train(
            plan.teaching,
            x_N[rows],
            y_N[rows],
            classes=2,
            public_x=public_x,
            noise=SystemEntropy(),
            class_weights=plan.class_weights,
        )
        for rows in parts
    ]
    answers = [teacher.log_probabilities(public_x) for teacher in taught]
    mean = torch.stack([teacher.log_probabilities(test_x).exp() for teacher in taught]).mean(0)[:, 1].double().numpy()
    results = {}
    for temperature in TEMPERATURES:
        own = replace(plan, stages=(replace(plan.stages[0], temperature=temperature),))
        pool = Pool(samples=own.samples, classes=2)
        for log_p_NK in answers:
            pool.add(received(log_p_NK, own).answers)
        model = student.build("mlp", (49,), 2, seed)
        distil.distil_stage(
            model,
            Masks.ones(model),
            torch.from_numpy(public_x),
            pool.result(),
            stage=0,
            sparsity=own.stages[0].sparsity,
            temperature=temperature,
            student=own.student,
            seed=seed,
            device=CPU,
        )
        with torch.no_grad():
            logits = model(torch.from_numpy(test_x)).double()
        results[temperature] = {
            "student": auprc((logits[:, 1] - logits[:, 0]).numpy(), test_y),
            "teachers": auprc(mean, test_y),
            "on the floor": pool.at_floor[1],
        }
    return results


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--only", default="", help="Schedules whose names begin so; rows of others that are in OUT stay.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    if options.out is not None and options.out.exists():
        table = json.loads(options.out.read_text(encoding="utf-8"))["table"]
    for name, changes in SCHEDULES.items():
        if not name.startswith(options.only):
            continue
        runs = [run(seed, changes) for seed in SEEDS]
        table[name] = {
            f"T = {temperature:g}": {
                what: [
                    round(statistics.mean(one[temperature][what] for one in runs), 4),
                    round(statistics.stdev(one[temperature][what] for one in runs), 4),
                ]
                for what in ("student", "teachers", "on the floor")
            }
            for temperature in TEMPERATURES
        }
        print(name, json.dumps(table[name]), file=sys.stderr, flush=True)
    result = {
        "command": "python -m limbeck.experiments.benchmarks.rare experiments/results/rare.json",
        "machine": f"one core of {os.cpu_count()}, {platform.machine()}, CPU only",
        "what": f"area under the precision-recall curve of the rare class, mean and deviation over {len(SEEDS)} seeds; epsilon ="
        f" {EPSILON:g} at delta = {DELTA:g}, per record, add-remove-one; on the floor: share of answers in which the class arrives as 0",
        "table": table,
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
