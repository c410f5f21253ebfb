"""Pure mathematics on probability tensors: softening, truncation, anchoring, equivalence.

torch and the standard library only, no I/O, no Flower.
"""

from limbeck.operators.anchoring import Anchoring
from limbeck.operators.equivalence import (
    Calibration,
    Comparison,
    Reparametrised,
    Shared,
    calibrate,
    compare,
    compare_targets,
    reparametrise,
)
from limbeck.operators.softening import Mixing, Power, Softening, family
from limbeck.operators.truncated import Truncated, concatenate
from limbeck.operators.truncation import Sampled, SoftenThenTruncate, TopK, TruncateThenSoften

__all__ = [
    "Anchoring",
    "Calibration",
    "Comparison",
    "Mixing",
    "Power",
    "Reparametrised",
    "Sampled",
    "Shared",
    "SoftenThenTruncate",
    "Softening",
    "TopK",
    "TruncateThenSoften",
    "Truncated",
    "calibrate",
    "compare",
    "compare_targets",
    "concatenate",
    "family",
    "reparametrise",
]
