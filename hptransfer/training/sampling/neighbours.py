"""Precision and recall of samples by nearest neighbours (Kynkäänniemi 2019, arXiv 1904.06991)."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 3  # k: a point's radius is its distance to the k-th nearest, as in the paper
DISTANCE_ROWS = 1000  # points whose distances are computed at once


def precision_and_recall(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Return precision and recall of drawn features (M, F) against real ones (N, F).

    Precision is the share of drawn points within a real point's radius, recall the share of real
    points within a drawn point's radius. Both depend on N and M: compare at equal numbers only.
    """
    return share_covered(drawn, real), share_covered(real, drawn)


def share_covered(points: Tensor, centres: Tensor) -> float:
    """Return the share of points (M, F) that lie within the radius of any centre (N, F).

    A centre's radius is the distance to its third nearest other centre.
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
    # Matrix products are faster, but would give a point a small distance to itself.
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
