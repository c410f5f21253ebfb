"""A small site as its owner would set it up, and a plan signed for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from helpers.plans import PLAN
from limbeck.client import ledger as ledgers
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import LinearTeaching, Plan
from limbeck.protos import codec, signing
from limbeck.protos.messages import Offer

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = np.random.default_rng(1).integers(0, 255, (20, 8, 8), dtype=np.uint8)

RULES: dict[str, dict[str, object]] = {
    "budget": {"epsilon": 3.0, "delta": 1e-5},
    "plans": {
        "authors": [signing.author_of(KEY).hex()],
        "transfer_sets": "held",
        "minimum_clients": 2,
        "max_stages": 2,
        "max_answers": 40,
    },
    "answers": {"families": ["power"], "min_temperature": 2.0, "max_k": 3, "max_draws": 0, "max_bits": 100},
    "counts": {"label_counts": True, "record_count": False, "max_epsilon": 1.0},
    "teachers": {"kinds": ["linear"], "allow_without_dp": False},
}


def rules(**changes: object) -> dict[str, object]:
    """A policy that just allows `plan()`; changes: "table__key" to values."""
    found: dict[str, object] = {"name": "a test's", "data_set": "a-test", **{name: dict(own) for name, own in RULES.items()}}
    for key, value in changes.items():
        table, _, name = key.rpartition("__")
        (found[table] if table else found)[name] = value  # type: ignore[index]
    return found


def plan(**changes: object) -> Plan:
    """A plan about PUBLIC with a teacher of two steps, within a budget of epsilon = 3 once but not twice."""
    assert isinstance(PLAN.teaching, LinearTeaching)
    teaching = replace(PLAN.teaching, steps=2, average_last=1, noise_multiplier=2.9)
    return replace(PLAN, transfer_set=digest(PUBLIC), teaching=teaching, **changes)  # type: ignore[arg-type]


def about_rows(own: Plan, **changes: object) -> Plan:
    """The same with teachers on rows as they are, and some fields changed."""
    assert isinstance(own.teaching, LinearTeaching)
    return replace(own, teaching=replace(own.teaching, features="rows"), **changes)  # type: ignore[arg-type]


def offer(own: Plan | None = None) -> Offer:
    return codec.signed_offer(own or plan(), KEY)


def make(folder: Path, **changes: object) -> Site:
    """A site's folder with 30 records, the public inputs and this policy."""
    (folder / "transfer").mkdir(parents=True)
    generator = np.random.default_rng(0)
    x_N, y_N = generator.integers(0, 255, (30, 8, 8), dtype=np.uint8), np.arange(30) % 10
    np.savez(folder / "records.npz", x=x_N, y=y_N)
    np.savez(folder / "transfer" / f"{digest(PUBLIC).hex()}.npz", x=PUBLIC)
    (folder / "site.toml").write_text('name = "site"\nrecords = "records.npz"\ntransfer_sets = "transfer"\n')
    (folder / "policy.toml").write_text(tomli_w.dumps(rules(**changes)))
    return Site(folder)


def charges(folder: Path) -> list[str]:
    """The states of what the ledger of the site in `folder` was charged for.

    It is read without being opened, which would mend what a crash left.
    """
    ledger = Site(folder).ledger
    return (
        [entry.state for entry in ledgers.read(ledger).entries if entry.schedule is not None]
        if ledgers.begun(ledger)
        else []
    )
