"""What a joint value of several HPs costs, and the value whose expected cost is least.

    R(x) = (x - θ)·H·(x - θ) / 2,    infinite at and past an HP's cliff

θ is a draw of the joint optimum, H the second derivatives there per octave². Arrays have the axes
(draw, hp) and (draw, hp, hp).
"""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import quantile

CLIFF_RISK = 0.01  # each HP passes its cliff in at most this share of draws


def joint_regret(x: Floats, theta_draws: Floats, hessian: Floats, cliffs: Floats) -> Floats:
    """Return R(x) per draw, shape (draw,).

    Args:
        x: the value of every HP in log2, shape (hp,).
        theta_draws: the joint optimum, shape (draw, hp).
        hessian: per draw, or one for all, shape (draw or 1, hp, hp).
        cliffs: octaves from optimum to cliff, +inf where no trial failed, shape (hp,).
    """
    distance = x - theta_draws
    bent = np.einsum("dh,dhg,dg->d", distance, np.broadcast_to(hessian, _full(distance)), distance)
    return np.where((distance >= cliffs).any(axis=1), np.inf, bent / 2.0)


def joint_value(theta_draws: Floats, hessian: Floats, cliffs: Floats) -> Floats:
    """Return argmin E[R], (hp,), with each HP short of its cliff in all but 1 % of draws.

    Where the surface is flat along a direction, the value nearest to the mean optimum is taken.
    """
    middle = theta_draws.mean(axis=0)
    offset = theta_draws - middle
    hessian = np.broadcast_to(hessian, _full(offset))
    pull = np.einsum("dhg,dg->h", hessian, offset) / len(offset)
    x = middle + np.linalg.pinv(hessian.mean(axis=0), hermitian=True) @ pull
    near = [quantile(draws, CLIFF_RISK) for draws in theta_draws.T]
    return np.minimum(x, np.array(near) + cliffs)


def as_correlated(theta_draws: Floats, like: Floats) -> Floats:
    """Return each HP's draws in the order in which its ranks go together as in `like`.

    Laws are drawn for each HP alone, and along a ridge that loses that a larger rate goes with a
    smaller decay. (The Schaake shuffle: J. Hydrometeorol. 5, 243, 2004.) Both are (draw, hp).
    """
    ranks = like.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return np.take_along_axis(np.sort(theta_draws, axis=0), ranks, axis=0)


def _full(offset: Floats) -> tuple[int, int, int]:
    return (*offset.shape, offset.shape[1])
