"""The default data set: 1,797 handwritten digits, 8x8 pixels, grey, from scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

NOUNS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a handwritten {}",
    "the digit {} written by hand",
    "a small picture of a {}",
    "somebody wrote a {} here",
)


def read() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 1, 8, 8) in [0, 1] as float32 and labels (1797,) as int64.

    The file is read without importing scikit-learn, since that takes 1.3 s in every worker.
    """
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None, "scikit-learn is a dependency"
    table = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = (table[:, :-1] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    return images, table[:, -1].astype(np.int64)
