"""The design of a sweep: how its points are chosen, by a grid, a sequence, or in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hptransfer.config import require_count
from hptransfer.config.choices import Method
from hptransfer.errors import require

MOST_POINTS = 100_000  # points of an arm at a width: more can only be a slip

ADAPTIVE = frozenset({Method.tpe, Method.gp, Method.cmaes, Method.refine})
# Default points of an arm at a width, all rounds together, and points of a round. The paper's MMDiT
# search has 80; refinement seldom spends more than six (benchmarks/refine.py).
POINTS = {Method.sobol: 16, Method.tpe: 80, Method.gp: 80, Method.cmaes: 80, Method.refine: 6}
ROUND = {Method.tpe: 8, Method.gp: 8, Method.cmaes: 8, Method.refine: 2}


@dataclass(frozen=True)
class DesignConfig:
    """How a sweep's points are chosen from its axes."""

    method: Method = Method.grid
    points: int | None = None  # points of an arm at a width, all rounds; null: the method's own
    round: int | None = None  # points of a round, arm and width; null: the method's own
    seed: int = 0  # of the Sobol or Optuna sampler; trials have `sweep.seeds`

    @property
    def total(self) -> int:
        """The points of an arm at a width, all rounds together."""
        return self.points or POINTS[self.method]

    @property
    def batch(self) -> int:
        """The points of a round of an adaptive method, for an arm at a width."""
        return self.round or ROUND[self.method]

    def __post_init__(self) -> None:
        for name in ("points", "round"):
            require_count(f"sweep.design.{name}", getattr(self, name), most=MOST_POINTS)
        require_count("sweep.design.seed", self.seed, least=0)


def require_axes(design: DesignConfig, axes: Sequence[str]) -> None:
    """Refuse a method that cannot search so many axes, and fields that the method ignores."""
    method, names = design.method, ", ".join(axes)
    require(
        method is not Method.refine or len(axes) == 1,
        f"`sweep.design.method=refine` fits one basin, so `search` must hold one axis, but it "
        f"holds {names}. Leave one, or choose tpe, gp, cmaes, sobol or grid.",
    )
    require(
        method is not Method.cmaes or len(axes) > 1,
        "`sweep.design.method=cmaes` adapts a covariance, so `search` must hold two axes or more, "
        f"but it holds {names}. Choose refine, tpe or gp.",
    )
    require(
        method is not Method.grid or design.points is None,
        f"`sweep.design.points` is not for a grid, whose points are its axes', but got "
        f"{design.points}. Set it to null, or choose another sweep.design.method.",
    )
    require(
        method in ADAPTIVE or design.round is None,
        f"`sweep.design.round` is for methods that ask in rounds, but the method is "
        f"{method.value}. Set it to null.",
    )
