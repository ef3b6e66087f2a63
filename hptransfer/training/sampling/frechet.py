"""The Fréchet distance of Gaussians fitted to two sets of features (arXiv 1706.08500, Eq. 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, in float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Return the moments of features (N, F), where N is at least 2."""
    features = features.double()
    return Moments(features.mean(0), torch.cov(features.T))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return |μ - μ'|² + tr(Σ + Σ' - 2 (Σ^½ Σ' Σ^½)^½), which is 0 for equal moments."""
    root = _root(one.covariance)
    # The eigenvalues of Σ^½ Σ' Σ^½ are those of ΣΣ', and real even for singular covariances.
    common = _eigenvalues_of(root @ other.covariance @ root).sqrt().sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * common
    return float((one.mean - other.mean).square().sum() + spread)


def _root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a covariance (F, F)."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * _not_negative(values).sqrt()) @ vectors.T


def _eigenvalues_of(matrix: Tensor) -> Tensor:
    return _not_negative(torch.linalg.eigvalsh((matrix + matrix.T) / 2))


def _not_negative(values: Tensor) -> Tensor:
    """Return a covariance's eigenvalues, with those that rounding made negative set to zero."""
    return values.clamp_min(0.0)
