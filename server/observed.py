"""What the answers say about a federation, as far as public data can tell: sentences for the record, and nothing is changed by them.

All of it is post-processing of answers on public inputs, which left anyway. Whether public inputs are of the records' own kind it cannot
say: that shows in labels alone.

Shape legend: N public inputs, K classes, C sites, J eigenvalues.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.inputs import features
from limbeck.plans import evidence_constants
from limbeck.plans.evidence_constants import Expected, Filter
from limbeck.plans.schema import EvidenceTeaching, Family, Plan, TopK

# Of what sites' answers name first: by how much they differ from the mean of all, from which on labels seem to differ between sites.
UNLIKE = 0.15
# The share of the noise in what pooled evidence varies by, from which on it is said; and by what factor it may vary more, or less, than
# expected.
MOSTLY_NOISE, FACTOR = 0.5, 3.0
# Features that take no time.
CHEAP = ("rows", "pixels")
# Public inputs, evenly spaced, that suffice for a factor.
ENOUGH = 1000


def unlike_sites(plan: Plan, named_CK: Tensor) -> str | None:
    """A sentence if sites seem to hold different labels, and the plan's teachers do not add up.

    named_CK: in how many of its answers each site names each class first.

    Half the L1 distance of a site's shares of classes from their mean over sites, averaged over sites. Of eight sites on the part of
    Fashion-MNIST it is below half of `UNLIKE` where labels are alike, with noise as for epsilon = 1, and nearly twice it with a Dirichlet
    distribution of 0.5 over labels [D].
    """
    if isinstance(plan.teaching, EvidenceTeaching) or len(named_CK) < 2:
        return None
    share_CK = named_CK.double() / named_CK.sum(1, keepdim=True).clamp(min=1)
    apart = float((share_CK - share_CK.mean(0)).abs().sum(1).mean()) / 2
    if apart < UNLIKE:
        return None
    return (
        f"Sites answer unlike each other: what they name first differs from what all name by {apart:.0%} of the public inputs. Their"
        " labels seem to differ, or noise rules; averaging such teachers loses what each of them knows. If the public inputs are of the"
        ' records\' own kind, teacher.kind = "evidence" adds up instead, at the same epsilon (docs/teachers.md).'
    )


def evidence(plan: Plan, pool_NK: Tensor, sites: int, temperature: float, e_J: NDArray[np.float64]) -> str | None:
    """A sentence if pooled evidence is mostly noise, or varies far more or less over public inputs than the plan's constants expect.

    - pool_NK: the mean of the sites' answers at this temperature.
    - e_J: `evidence_constants.eigenvalues` of the plan's features of the public inputs.
    """
    teaching = plan.teaching
    assert isinstance(teaching, EvidenceTeaching)
    # Scores above the mean over classes, to first order in 1 / T.
    found = float(((pool_NK.double() - 1 / plan.classes) ** 2).mean()) * (plan.classes * temperature) ** 2
    expected = Expected(
        classes=plan.classes,
        inputs=plan.samples,
        sites=sites,
        records=teaching.normaliser,
        noise=teaching.noise_multiplier,
    )
    signal, noise = evidence_constants.pooled_variance(
        e_J, Filter(ridge=teaching.ridge, noise_to_signal=teaching.noise_to_signal), expected
    )
    size = f"teacher.normaliser = {teaching.normaliser:g}"
    if found > FACTOR * (signal + noise):
        return (
            f"Pooled answers vary by {(found / (signal + noise)) ** 0.5:.2g} times what the plan's constants expect: sites have far more"
            f" records than {size}, or the public inputs are unlike the records."
        )
    if noise > MOSTLY_NOISE * found:
        return (
            f"{min(1.0, noise / found):.0%} of what pooled answers vary by is noise: more records per site, fewer sites or a greater"
            f" epsilon would help. Sites may have far fewer records than {size}, or the public inputs may be unlike the records."
        )
    return None


def applies(plan: Plan) -> bool:
    """Whether `evidence` can be said of a plan's answers, and at little cost.

    That is: largest answers, softened as scores add up, on features that the coordinator has anyway or in no time.
    """
    teaching = plan.teaching
    return (
        isinstance(teaching, EvidenceTeaching)
        and teaching.features in (*CHEAP, plan.student.refine)
        and plan.family is Family.POWER
        and isinstance(plan.truncation, TopK)
    )


def eigenvalues(plan: Plan, x_N: NDArray[np.generic], cache: Path | None) -> NDArray[np.float64]:
    """Those of the covariance of an evidence plan's features of its public inputs. cache: a folder for the features."""
    assert isinstance(plan.teaching, EvidenceTeaching)
    raw_ND = features.compute(plan.teaching.features, x_N, cache=cache)
    used_ND = features.of_evidence(plan.teaching.features, raw_ND, plan.teaching.constant)
    return evidence_constants.eigenvalues(used_ND[:: -(-len(raw_ND) // ENOUGH)])
