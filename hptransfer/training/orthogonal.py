"""The orthogonalised update of Muon, for packs and targets (kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import torch
from torch import Tensor

from hptransfer.config.choices import Precision

# The quintic a·x + b·x³ + c·x⁵ of a step, on the singular values. It is as steep at zero as can be,
# and leaves values between 0.7 and 1.2 after five steps.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(
    matrices: Tensor, *, steps: int, least_norm: float, precision: Precision
) -> Tensor:
    """Return matrices (..., rows, columns) with all singular values near 1, in float32.

    Each is divided by its own norm, or by `least_norm` if that is larger, and goes through `steps`
    Newton-Schulz steps, as batched products: none depends on another one. Under bf16 the products
    are in bfloat16; those of matrices in float32 follow the device's settings for TF32.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # the smaller products
    x = x.bfloat16() if precision is Precision.bf16 else x
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = (x / norm.clamp_min(least_norm)).flatten(0, -3)
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.float().unflatten(0, matrices.shape[:-2])
    return x.mT if tall else x


def product_flops(rows: int, columns: int, steps: int) -> float:
    """Return the FLOPs of orthogonalising one matrix: three products a step."""
    small, large = sorted((rows, columns))
    return steps * (4.0 * small * small * large + 2.0 * small**3)
