"""Pure mathematics on probability tensors: softening, truncation, pooling, losses. torch and the standard library only, no I/O."""

from limbeck.operators.entropy_target import EntropyTarget
from limbeck.operators.heads import Nucleus, Raw, Renormalised
from limbeck.operators.sampling import LabelsOnly, Sampled
from limbeck.operators.softening import Hybrid, Mixing, Power, Separable, SeparableSoftening, Softening, Tsallis, family
from limbeck.operators.tail import TailInterval, tail_interval
from limbeck.operators.truncated import Truncated, concatenate
from limbeck.operators.truncation import SoftenThenTruncate, TopK, TruncateThenSoften, Truncation

__all__ = [
    "EntropyTarget",
    "Hybrid",
    "LabelsOnly",
    "Mixing",
    "Nucleus",
    "Power",
    "Raw",
    "Renormalised",
    "Sampled",
    "Separable",
    "SeparableSoftening",
    "SoftenThenTruncate",
    "Softening",
    "TailInterval",
    "TopK",
    "TruncateThenSoften",
    "Truncated",
    "Truncation",
    "Tsallis",
    "concatenate",
    "family",
    "tail_interval",
]
