"""Pure mathematics on probability tensors: softening, truncation, losses. torch and the standard library only, no I/O, no Flower."""

from limbeck.operators.softening import Mixing, Power, Softening, family
from limbeck.operators.truncated import Truncated, concatenate
from limbeck.operators.truncation import Sampled, SoftenThenTruncate, TopK, TruncateThenSoften

__all__ = [
    "Mixing",
    "Power",
    "Sampled",
    "SoftenThenTruncate",
    "Softening",
    "TopK",
    "TruncateThenSoften",
    "Truncated",
    "concatenate",
    "family",
]
