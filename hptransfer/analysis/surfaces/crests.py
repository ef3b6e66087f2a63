"""Ridges: where the loss depends on a product of HPs alone, which point of the crest is meant.

Along a crest the loss does not tell the optimum, and each setting would put it anywhere. No answer
needs that place, but all settings need the same one: the middle of the fitted points. There the
product's movement is each HP's, and HPs that were chosen together belong together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hptransfer.analysis.basins.basin import FLAT_SHARE, INTERVAL
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.surfaces.fit import Window
from hptransfer.analysis.surfaces.quadratic import Quadratics

NAMED = 0.2  # a component of a direction below it is not worth a word
RIDGE_SHARE = 0.1  # of the steepest curvature, below which a direction is the crest of a ridge
SURE = 1.645  # sds that a component must be away from zero
STEPS = 8  # of Newton's, in a surface that is nearly quadratic


def traded(axis: Floats, hessian_draws: Floats) -> list[int]:
    """Return which HPs surely take part in a principal axis (hp,) of some second derivatives."""
    _, axes = np.linalg.eigh(hessian_draws)
    along = np.einsum("dhi,h->di", axes, axis)
    nearest = np.abs(along).argmax(axis=1)
    each = np.arange(len(axes))
    same = axes[each, :, nearest] * np.sign(along[each, nearest])[:, None]
    is_sure = np.abs(axis) > SURE * same.std(axis=0)
    return [at for at, share in enumerate(axis) if abs(share) >= NAMED and is_sure[at]]


def reach(window: Window, minima: Floats, axis: Floats) -> float:
    """Return how far a 90 % interval spans along a direction, over the room in the window's box.

    Args:
        minima: (draw, hp) of the surface, scaled.
    """
    room = 2.0 * float(np.min(window.half / np.maximum(np.abs(axis), 1e-12)))
    low, high = np.quantile(window.positions(minima) @ axis, INTERVAL)
    return float(high - low) / room


def find_crests(
    windows: Sequence[Window], minima: Sequence[Floats], hessian_draws: Sequence[Floats]
) -> Floats:
    """Return the directions along which several HPs trade and no optimum is known, (hp, crest).

    Args:
        windows: of the settings.
        minima: (draw, hp) of each, scaled.
        hessian_draws: (draw, hp, hp) of each, per octave².
    """
    mean = np.mean(hessian_draws, axis=0)
    bends, axes = np.linalg.eigh(mean.mean(axis=0))
    spans = [
        np.median([reach(w, m, axis) for w, m in zip(windows, minima, strict=True)])
        for axis in axes.T
    ]
    if spans[-1] > FLAT_SHARE:  # nothing matters
        return axes[:, :0]
    found = [
        bend < RIDGE_SHARE * bends[-1] and span > FLAT_SHARE and len(traded(axis, mean)) > 1
        for bend, span, axis in zip(bends, spans, axes.T, strict=True)
    ]
    return axes[:, np.array(found, dtype=np.bool_)]


def minima_at(window: Window, surfaces: Quadratics, crests: Floats, middle: Floats) -> Floats:
    """Return each surface's minimum among the points beside the middle of the crest, scaled.

    Args:
        crests: (hp, crest), of unit length in octaves.
        middle: (hp,) whose components along the crests the minimum has.
    """
    axes = np.linalg.svd(crests)[0]
    across = axes[:, crests.shape[1] :]
    start = crests @ (crests.T @ middle)
    z = np.tile(window.scaled(start + across @ (across.T @ middle)), (len(surfaces.level), 1))
    move = across / window.half[:, None]  # scaled, per octave across
    for _ in range(STEPS):
        slope = surfaces.slope + np.einsum("dhg,dg->dh", surfaces.hessian, z)
        slope = slope + surfaces.skew * z**2 / 2.0
        bends = np.einsum("hi,dhg,gj->dij", move, surfaces.bends(z), move)
        steps = np.linalg.pinv(bends, hermitian=True) @ (slope @ move)[:, :, None]
        z = np.clip(z - steps[:, :, 0] @ move.T, -1.0, 1.0)
    return z
