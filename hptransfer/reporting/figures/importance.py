"""The picture of how much each HP matters: shares of the loss's variance, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import ARMS, MUTED, hp_name, key_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = {"surface": "response surface", "ped_anova": "PED-ANOVA (Optuna)"}


class Share(NamedTuple):
    """The share that one method gives to one HP."""

    hp: int
    method: int
    share: float


class ImportanceData(NamedTuple):
    """The HPs by falling share, and the methods that rank them."""

    arm: str
    hps: tuple[str, ...]
    methods: tuple[str, ...]
    shares: tuple[Share, ...]


def importance_data(surface: dict[str, Any]) -> ImportanceData:
    """Select the shares of one arm's HPs, those of the surface first."""
    told = surface["importance"]
    methods = [key for key in METHODS if told.get(key)]
    order = sorted(surface["hps"], key=lambda hp: -max(told[m].get(hp) or 0 for m in methods))
    return ImportanceData(
        arm=arm_name(surface["parametrization"]),
        hps=tuple(hp_name(hp) for hp in order),
        methods=tuple(METHODS[m] for m in methods),
        shares=tuple(
            Share(row, column, told[method][hp])
            for row, hp in enumerate(order)
            for column, method in enumerate(methods)
            if told[method].get(hp) is not None
        ),
    )


def draw_importance(ax: Axes, data: ImportanceData) -> None:
    """Draw a group of bars for each HP."""
    height = 0.72 / len(data.methods)
    for share in data.shares:
        level = share.hp + (share.method - (len(data.methods) - 1) / 2) * height
        color = ARMS[0] if share.method == 0 else MUTED
        ax.barh([level], [100 * share.share], height=0.86 * height, color=color)
        ax.annotate(
            f"{100 * share.share:.0f} %", (100 * share.share, level), (4, 0), color=color,
            textcoords="offset points", va="center", fontsize=8.5, fontweight="bold",
        )  # fmt: skip
    ax.set_yticks(range(len(data.hps)), data.hps)
    ax.set(xlim=(0, 112), ylim=(len(data.hps) - 0.5, -0.5), xlabel="share of importance (%)")
    ax.set_xticks(range(0, 101, 25))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    colors = ("blue", "grey")
    said = ", ".join(f"{c}: {m}" for c, m in zip(colors, data.methods, strict=False))
    key_line(ax, f"{data.arm}.  {said}")
