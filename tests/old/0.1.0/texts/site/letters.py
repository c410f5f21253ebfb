"""A frozen encoder: how often the letters a to h occur, on a scale of norm 1."""

import numpy as np


def build():
    def encode(text):
        row = np.array([1 + text.lower().count(letter) for letter in "abcdefgh"], np.float32)
        return row / np.linalg.norm(row)

    return encode
