"""Precision and recall of samples by nearest neighbours (Kynkäänniemi 2019, arXiv 1904.06991)."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 3  # the k whose distance is a point's radius, as in the paper
DISTANCE_ROWS = 1000  # rows of a table of distances at a time


def precision_and_recall(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Return the share of drawn features (M, F) within a real one's radius, and that of real ones
    (N, F) within a drawn one's. Both depend on N and M: compare equal ones.
    """
    return share_covered(drawn, real), share_covered(real, drawn)


def share_covered(points: Tensor, centres: Tensor) -> float:
    """Return the share of points (M, F) in the ball of any centre (N, F): each reaches to its third
    nearest other centre.
    """
    radii = _radii(centres)
    covered = [
        (_distances(part, centres) <= radii).any(1).double() for part in points.split(DISTANCE_ROWS)
    ]
    return float(torch.cat(covered).mean())


def _radii(centres: Tensor) -> Tensor:
    """Return each centre's distance to its k-th nearest other one (N,)."""
    radii = [
        # The nearest of all is the centre itself.
        _distances(part, centres).kthvalue(NEIGHBOURS + 1, dim=1).values
        for part in centres.split(DISTANCE_ROWS)
    ]
    return torch.cat(radii)


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    # Not by products of matrices, which would leave a point at a small distance of itself.
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
