"""Pure mathematics on probability tensors: softening, truncation, pooling, losses, equivalence. torch and the standard library only."""

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
from limbeck.operators.sampling import LabelsOnly, Sampled
from limbeck.operators.softening import Hybrid, Mixing, Power, Separable, SeparableSoftening, Softening, Tsallis
from limbeck.operators.tail import TailInterval, tail_interval
from limbeck.operators.truncated import Truncated, concatenate
from limbeck.operators.truncation import SoftenThenTruncate, TopK, TruncateThenSoften, Truncation

__all__ = [
    "Anchoring",
    "Calibration",
    "Comparison",
    "EntropyTarget",
    "Family",
    "Hybrid",
    "LabelsOnly",
    "Mixing",
    "Nucleus",
    "Power",
    "Raw",
    "Renormalised",
    "Reparametrised",
    "Sampled",
    "Separable",
    "SeparableSoftening",
    "Shared",
    "SoftenThenTruncate",
    "Softening",
    "TailInterval",
    "TopK",
    "TruncateThenSoften",
    "Truncated",
    "Truncation",
    "Tsallis",
    "calibrate",
    "compare",
    "compare_targets",
    "concatenate",
    "family",
    "reparametrise",
    "tail_interval",
]
