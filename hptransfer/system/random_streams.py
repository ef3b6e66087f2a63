"""Random generators derived from (seed, purpose, step) or from names, never from a global one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, purpose: str, step: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step])


def torch_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Return torch's CPU generator for (seed, purpose, step)."""
    import torch

    state = int(_entropy(seed, purpose, step).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


@contextmanager
def kept_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Leave torch's global generators as they were before a `with` block that uses them.

    Inside they start from `seed`, if one is given; of the GPUs the current one's is kept.
    """
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.manual_seed(seed)
        yield


def numpy_generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """Return the numpy generator for (seed, purpose, step)."""
    return np.random.default_rng(_entropy(seed, purpose, step))


def stream(*names: object) -> np.random.Generator:
    """Return the numpy generator for these names; other draws do not change its numbers."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
