"""Random streams derived from (seed, purpose, step), never from a global generator."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, purpose: str, step: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step])


def torch_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Return a CPU generator that only (seed, purpose, step) decide."""
    import torch

    state = int(_entropy(seed, purpose, step).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


def numpy_generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """Return a numpy generator that only (seed, purpose, step) decide."""
    return np.random.default_rng(_entropy(seed, purpose, step))


def stream(*names: object) -> np.random.Generator:
    """Return the generator that belongs to these names, whatever else is computed."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
