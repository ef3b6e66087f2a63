"""The embedded default: 1,797 real handwritten digits, 8x8 grey, from scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits


def read() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 1, 8, 8) in [0, 1] as float32 and labels (1797,) as int64."""
    pixels, labels = load_digits(return_X_y=True)
    images = (np.asarray(pixels) / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    return images, np.asarray(labels).astype(np.int64)
