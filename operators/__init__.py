"""Pure mathematics on probability tensors: softening, truncation, pooling, losses, equivalence, checkers of axioms.

What belongs here: functions and frozen callables from tensors to tensors. They use torch, the standard library and
`limbeck.base`; they read no file, know no message and draw no random numbers but those they are given (a checker's
search has a seed).

Statements carry a tag that says where they come from: [P] the founding paper (arXiv 2601.03195), [F] another paper,
which is named, [D] derived here and proved in words or tested. Shape suffixes (`p_NK`) are explained at the top of each
module.
"""

from limbeck.operators import axioms, losses
from limbeck.operators.anchoring import Anchoring
from limbeck.operators.entropy_target import EntropyTarget
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
from limbeck.operators.families import Family, family
from limbeck.operators.heads import Nucleus, Raw, Renormalised
from limbeck.operators.pooling import Arithmetic, Geometric, Pooling, PowerMean
from limbeck.operators.projections import ArgMax, Sparsemax
from limbeck.operators.sampling import LabelsOnly, Sampled
from limbeck.operators.sharpening import Sharpen, evidence
from limbeck.operators.softening import (
    Hybrid,
    Mixing,
    Power,
    Separable,
    SeparableSoftening,
    Softening,
    TemperedSoftening,
    Tsallis,
)
from limbeck.operators.tail import TailInterval, tail_interval
from limbeck.operators.truncated import Truncated, concatenate
from limbeck.operators.truncation import SoftenThenTruncate, TopK, TruncateThenSoften, Truncation

__all__ = [
    "Anchoring",
    "ArgMax",
    "Arithmetic",
    "Calibration",
    "Comparison",
    "EntropyTarget",
    "Family",
    "Geometric",
    "Hybrid",
    "LabelsOnly",
    "Mixing",
    "Nucleus",
    "Pooling",
    "Power",
    "PowerMean",
    "Raw",
    "Renormalised",
    "Reparametrised",
    "Sampled",
    "Separable",
    "SeparableSoftening",
    "Shared",
    "Sharpen",
    "SoftenThenTruncate",
    "Softening",
    "Sparsemax",
    "TailInterval",
    "TemperedSoftening",
    "TopK",
    "TruncateThenSoften",
    "Truncated",
    "Truncation",
    "Tsallis",
    "axioms",
    "calibrate",
    "compare",
    "compare_targets",
    "concatenate",
    "evidence",
    "family",
    "losses",
    "reparametrise",
    "tail_interval",
]
