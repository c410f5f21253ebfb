"""Pure mathematics on probability tensors: softening, truncation. torch and the standard library only, no I/O, no Flower."""

from limbeck.operators.entropy_target import EntropyTarget
from limbeck.operators.softening import Hybrid, Mixing, Power, Separable, SeparableSoftening, Softening, Tsallis, family
from limbeck.operators.truncated import Truncated, concatenate
from limbeck.operators.truncation import Sampled, SoftenThenTruncate, TopK, TruncateThenSoften

__all__ = [
    "EntropyTarget",
    "Hybrid",
    "Mixing",
    "Power",
    "Sampled",
    "Separable",
    "SeparableSoftening",
    "SoftenThenTruncate",
    "Softening",
    "TopK",
    "TruncateThenSoften",
    "Truncated",
    "Tsallis",
    "concatenate",
    "family",
]
