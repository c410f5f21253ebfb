"""What must hold before a site answers: policy, ledger, noise, encoding, public inputs, records. Where it does not, the site declines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import SettingError
from limbeck.client import blackbox, teachers
from limbeck.client.declining import Step, during
from limbeck.client.ledger import Ledger
from limbeck.client.noise import Noise, UnsafeSeeded
from limbeck.client.site import Site
from limbeck.plans import checks
from limbeck.plans.schema import CUSTOM, NetTeaching, Plan
from limbeck.protos.messages import Guarantee, Offer


@during(Step.POLICY)
def check_policy(site: Site, offer: Offer) -> None:
    """Decline unless the policy, as it stands now, allows this plan."""
    site.policy().check(offer.plan, offer.author)


@contextmanager
def open_ledger(site: Site) -> Iterator[Ledger]:
    """The site's ledger; declines if it lacks anything that was spent, cannot be trusted, or does not allow a charge."""
    with during(Step.CHARGE), site.account.open(site.budget) as ledger:
        yield ledger


@during(Step.ACCOUNT)
def check_ledger(site: Site) -> None:
    """Decline if the ledger lacks anything that this site knows was spent; whatever is asked, even what was answered before."""
    site.account.check()


@during(Step.NOISE)
def open_noise(site: Site) -> Noise:
    """The site's source of noise; declines if its settings do not say which."""
    return site.noise()


def guarantee_of(noise: Noise) -> Guarantee:
    """What a training with this noise guarantees."""
    return Guarantee.SEEDED if isinstance(noise, UnsafeSeeded) else Guarantee.RECORD_DP


def check_seeded(site: Site, guarantee: Guarantee) -> None:
    """Decline if the site's noise is seeded and its owner does not allow releases without a guarantee."""
    if guarantee is Guarantee.SEEDED:
        with during(Step.DECLARATION), site.account.open(site.budget) as ledger:
            ledger.check_declared()


@during(Step.ENCODING)
def check_encoding(site: Site, plan: Plan) -> None:
    """Decline unless the records would become rows in the same way as the plan's transfer set did; no record is read."""
    site.records.check_encoding(plan.encoding)


def public_inputs(site: Site, plan: Plan) -> NDArray[np.generic]:
    """The plan's public inputs; declines if the site does not hold them, or if no teacher of the plan's kind can be trained for them."""
    with during(Step.TRANSFER_SET):
        x_N = site.transfer_sets.read(plan.transfer_set, plan.samples)
    with during(Step.CUSTOM_PLAN if _is_custom(plan) else Step.PLAN):
        checks.check_inputs(plan, x_N)
        teachers.check(plan.teaching, x_N, classes=plan.classes, factory=site.factory)
    return x_N


@during(Step.RECORDS)
def check_records(site: Site, plan: Plan, public_x: NDArray[np.generic]) -> None:
    """Decline if a training would fail for a reason that shows without reading a record, before it is paid for."""
    site.records.check(plan.classes, public_x, plan.class_names)
    # A charge needs a ledger, and a training a source of noise.
    _ = site.ledger, site.noise()


def _is_custom(plan: Plan) -> bool:
    return isinstance(plan.teaching, NetTeaching) and plan.teaching.architecture == CUSTOM


@during(Step.BLACK_BOX)
def check_black_box(site: Site, plan: Plan, x_N: NDArray[np.generic]) -> None:
    """Decline unless the owner allows answers without a guarantee and the site's teacher can give them; nothing is asked yet."""
    with site.account.open(site.budget) as ledger:
        ledger.check_declared()
    black_box(site).check(plan, x_N)


def black_box(site: Site) -> blackbox.BlackBox:
    """The teacher to ask. Raises SettingError if the site has none."""
    teacher = site.black_box
    if teacher is None:
        raise SettingError(f"Expected [black_box] in the settings of {site.name}, found none.")
    return teacher
