"""Make the embedded part of Fashion-MNIST: `python -m limbeck.simulations.data.embed`, after `limbeck data get fashion-mnist`.

10,000 images in all: 8,500 of the training images (2,500 public, then 6,000 private) and 1,500 of the test images, in a seeded order.
"""

from __future__ import annotations

import hashlib
import zipfile

import numpy as np

from limbeck.simulations.data import EMBEDDED, artefacts

SEED, TRAIN, TEST = 20200523, 8500, 1500


def main() -> None:
    """The command: writes the file and prints its SHA-256 and size."""
    train_x, train_y, test_x, test_y = artefacts.read("fashion-mnist")
    rng = np.random.default_rng(SEED)
    train, test = rng.permutation(len(train_y))[:TRAIN], rng.permutation(len(test_y))[:TEST]
    packed = artefacts.pack_images(np.concatenate([train_x[train], test_x[test]]).astype(np.uint8))
    arrays = {
        "packed": np.frombuffer(packed, np.uint8),
        "train_y": train_y[train].astype(np.uint8),
        "test_y": test_y[test].astype(np.uint8),
    }
    with zipfile.ZipFile(EMBEDDED, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # A fixed date keeps the file the same, byte for byte, whenever it is made.
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (2020, 1, 1, 0, 0, 0)), "w") as file:
                np.lib.format.write_array(file, array)
    data = EMBEDDED.read_bytes()
    print(hashlib.sha256(data).hexdigest(), len(data))


if __name__ == "__main__":
    main()
