"""The arithmetic of training, as a trial's precision and the device decide it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig
from hptransfer.config.choices import Precision
from hptransfer.training.compile import compiled
from hptransfer.training.objectives import BoundInputs, bound_terms, bound_terms_of_fixed_shape


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Set a GPU's arithmetic for forward and backward in a `with` block; a CPU needs nothing.

    TF32 products are allowed as the precision says, and sums are taken in the same order in every
    run.
    """
    if device.type == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
    allows_tf32 = precision is not Precision.fp32_ieee
    settings: list[tuple[Any, str, Any]] = [
        (torch.backends.cuda.matmul, "allow_tf32", allows_tf32),
        (torch.backends.cudnn, "allow_tf32", allows_tf32),
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]
    before = [getattr(owner, name) for owner, name, _ in settings]
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    for owner, name, value in settings:
        setattr(owner, name, value)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which products are bfloat16, if the precision is bf16."""
    enabled = precision is Precision.bf16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def bound_terms_on(device: torch.device, runtime: RuntimeConfig) -> Callable[[BoundInputs], Tensor]:
    """Return the function of a learned variance's bound: of fixed shape but on an eager CPU."""
    if runtime.compiled:
        return compiled(bound_terms_of_fixed_shape)
    return bound_terms if device.type == "cpu" else bound_terms_of_fixed_shape
