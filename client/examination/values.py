"""Images, and numbers of arrays, as they come and beside the public inputs.

Shape legend: N records, P numbers of one input.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.findings import Findings, ok, warn
from limbeck.client.examination.report import MANY, SHOWN, counted
from limbeck.client.records import Found
from limbeck.inputs import images

# The darkest white: images of which no pixel is brighter may be in another scale, such as 12 of 16 bits.
DARK = 0.25


def of_images(path: Path, *, in_colour: bool) -> Findings:
    """What reading the images changes of them, grey or in colour, and files that are none."""
    changed, others, total = Counter[str](), Counter[str](), 0
    for folder in sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")):
        others.update(images.others(folder))
        for file in images.files(folder):
            try:
                changed.update(images.changes(images.contents(file)))
            except Exception:  # counted among those that are left out
                continue
            total += 1
    if others:
        yield warn(
            f"Files that are no images by their names are not read: {counted(others)}.", "Convert them.", check="images"
        )
    if changed:
        kinds = ", ".join(f"{count} {what}" for what, count in changed.most_common())
        yield ok(
            f"of {total} images: {kinds}; all become {'red, green and blue' if in_colour else 'grey'}, upright, on white, of one frame and"
            " one size",
            check="images",
        )


def of_values(found: Found, public_x: NDArray[np.generic]) -> Findings:
    """Numbers of arrays and images beside the public ones, both as the teacher gets them."""
    scale = 255.0 if found.x_N.dtype == np.uint8 else 1.0
    own_NP = found.x_N.reshape(len(found.x_N), -1).astype(np.float64) / scale
    finite_N = np.isfinite(own_NP).all(1)
    if not finite_N.all():
        yield warn(
            f"{int((~finite_N).sum())} of {len(own_NP)} inputs hold NaN or infinity: these have no influence on the teacher.",
            check="values",
        )
    own_NP = own_NP[finite_N]
    if not len(own_NP):
        return
    public_scale = 255.0 if public_x.dtype == np.uint8 else 1.0
    public_NP = public_x.reshape(len(public_x), own_NP.shape[1]).astype(np.float64) / public_scale
    low_N, high_N = own_NP.min(1), own_NP.max(1)
    if found.x_N.ndim > 2:
        plain = int((low_N == high_N).sum())
        if plain:
            yield warn(
                f"{plain} of {len(own_NP)} images are of one shade, such as white: they show nothing.", check="values"
            )
        if high_N.max() <= DARK and own_NP.min() >= 0 and (not len(public_NP) or public_NP.max() > DARK):
            yield warn(
                f"No pixel of any image is brighter than {100 * high_N.max():.0f} % of white.",
                "Images of 12 bits in files of 16, say, are nearly black: write them in their whole range.",
                check="values",
            )
    if not len(public_x):
        yield ok(f"from {own_NP.min():g} to {own_NP.max():g}, bytes taken as 0 to 1", check="values")
        return
    yield from _beside_public(own_NP, public_NP, images_are=found.x_N.ndim > 2)


def _beside_public(own_NP: NDArray[np.float64], public_NP: NDArray[np.float64], *, images_are: bool) -> Findings:
    if not images_are:
        low_P, high_P = public_NP.min(0), public_NP.max(0)
        outside_P = ((own_NP < low_P) | (own_NP > high_P)).mean(0)
        worst = np.argsort(-outside_P)[:SHOWN]
        told = [f"column {place} {100 * outside_P[place]:.0f} %" for place in worst.tolist() if outside_P[place] > MANY]
        if told:
            yield warn(
                f"Values outside of the public ones' range: {', '.join(told)}.",
                "Other units, or columns in another order? Compare them with those of the public rows.",
                check="values",
            )
            return
        yield ok("within the public ones' range", check="values")
        return
    low, high = float(public_NP.min()), float(public_NP.max())
    outside = float(((own_NP < low) | (own_NP > high)).mean())
    own_mean, public_mean = float(own_NP.mean()), float(public_NP.mean())
    said = f"mean {own_mean:.2f}, the public ones' {public_mean:.2f}; from {own_NP.min():.3g} to {own_NP.max():.3g}"
    if low >= 0 and high <= 1 and abs(1 - own_mean - public_mean) < abs(own_mean - public_mean) / 3:
        yield warn(
            f"The images look inverted: {said}.", "Is black white in one of them? Compare one of each.", check="values"
        )
    elif outside > MANY:
        yield warn(
            f"{100 * outside:.0f} % of the pixels lie outside of the public ones' range, {low:.3g} to {high:.3g}; {said}.",
            'If yours go from 0 to 255, write under [records]: scale = "bytes"; if from 0 to 1: scale = "unit".',
            check="values",
        )
    else:
        yield ok(said, check="values")
