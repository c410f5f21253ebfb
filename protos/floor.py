"""The wire's floor: a probability below 2^-20 arrives as exactly 0, and one just above as the least of 255 codes.

Nothing there tells one input from another. Of a rare class that may be all that a teacher says: a student that learns from zeros ranks it
no better than chance. A higher temperature lifts the answers and costs nothing, since the noise was added before they are softened.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from limbeck.plans.schema import Plan, TopK
from limbeck.protos import packing

# Of probabilities that were decoded and scaled to a mass of 1: no more than the least code above zero.
FLOOR = float(packing.decode_probabilities(np.array([1], np.uint8))[0]) / packing.MASS[0]
# The share of answers on the floor, in one class, from which on it is said.
MANY = 0.25
SHOWN = 5


def applies(plan: Plan) -> bool:
    """Whether answers under this plan have a floor: those that are counts of draws are zero as a matter of course."""
    return isinstance(plan.truncation, TopK)


def count(p_NK: Tensor) -> Tensor:
    """(K,) in how many of these answers each class lies on the floor; of one that was not kept, its share of the tail counts."""
    return (p_NK <= FLOOR).sum(0)


def warning(plan: Plan, shares: Sequence[float], temperature: float) -> str | None:
    """A sentence if many answers lie on the floor.

    - shares: (K,) of answers that do, in each class.
    - temperature: at which they were softened.
    """
    low = sorted((index for index, share in enumerate(shares) if share >= MANY), key=lambda index: -shares[index])
    if not low:
        return None
    names = plan.class_names or tuple(map(str, range(plan.classes)))
    named = ", ".join(f"{names[index]} ({shares[index]:.0%})" for index in low[:SHOWN]) + (
        ", ..." if len(low) > SHOWN else ""
    )
    return (
        f"At temperature {temperature:g}, answers lie on the floor of the wire, below 2^-20, where all are alike: {named}. If such a class"
        f" matters, make a plan with a higher stages.temperature, such as {2 * temperature:g}; it costs no privacy."
    )
