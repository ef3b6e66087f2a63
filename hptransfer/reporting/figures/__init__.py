"""Every picture of a sweep, drawn from its estimates and written as PNG, SVG and PDF.

A picture is a data function, which selects from the records, and a draw function. No statistics
are computed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.reporting.figures import (
    basins,
    conditions,
    coordinate_check,
    cost,
    importance,
    loss_width,
    optimum_width,
    realised,
    regret,
    style,
    summary,
    surface,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No format holds a time or a program's version, so that a second writing gives the same bytes.
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},
    ".svg": {"metadata": {"Date": None, "Creator": None}},
    ".pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}


class Picture(NamedTuple):
    """A picture that is not drawn yet: file name, what it shows, size in inches, draw function."""

    name: str
    label: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]


def drawn(picture: Picture) -> Figure:
    """Return a picture as a matplotlib figure, laid out."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.style.context(["default", style.RC]):
        figure = Figure(figsize=picture.size)
        picture.draw(figure)
        # Once by hand: as the figure's own engine it would run again for each format.
        ConstrainedLayoutEngine().execute(figure)
    return figure


def write_pictures(folder: Path, listed: Sequence[Picture]) -> list[Path]:
    """Write pictures as PNG (160 dpi), SVG and PDF, the same bytes each time; return the files."""
    import matplotlib.style

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in listed:
        figure = drawn(picture)
        with matplotlib.style.context(["default", style.RC]):
            for suffix, settings in FORMATS.items():
                path = folder / f"{picture.name}{suffix}"
                figure.savefig(path, **settings)
                written.append(path)
    return written


def pictures(
    *,
    estimates: dict[str, Any],
    check: dict[str, Any] | None = None,
    realised: dict[str, Any] | None = None,
    transfer: dict[str, Any] | None = None,
) -> list[Picture]:
    """Return the pictures that these records give, in the order a reader wants them.

    Args:
        estimates: what `fit` returns, and `estimates.json` holds.
        check: a coordinate check, one of `check.json`.
        realised: what the target's own sweep gave, `target/realised.json`.
        transfer: what `transfer` returns, and `transfer.json` holds.
    """
    arms = [arm for arm in estimates["arms"] if arm["optima"]]
    estimates = {**estimates, "arms": arms}
    listed = _of_sweep(estimates, realised) if arms else []
    listed += _of_conditions(arms)
    listed += _of_surfaces(estimates.get("surfaces") or [])
    if realised is not None:
        listed.append(_of_target(realised))
    if transfer is not None:
        listed += _of_cost(transfer["cost"])
    if check is not None:
        listed += check_pictures(check)
    return listed


def _of_sweep(estimates: dict[str, Any], own: dict[str, Any] | None) -> list[Picture]:
    arms = estimates["arms"]
    columns = summary.summary_data(estimates)
    size = (1.0 + 3.9 * len(arms), 6.2)
    listed = [
        Picture(
            "summary", "the sweep in one picture", size, partial(summary.draw_summary, data=columns)
        )
    ]
    names = _file_names(["-".join(["basins", arm["parametrization"]]) for arm in arms])
    for name, panel in zip(names, basins.basins_data(estimates).panels, strict=True):
        draw = partial(_on_axes, draw=basins.draw_basins, data=panel)
        label = f"{panel.title}: loss over {panel.x_label}, a curve per width"
        listed.append(Picture(name, label, (4.3, 4.0), draw))
    hps = list(dict.fromkeys(arm["hp"] for arm in arms))
    for hp, ending in zip(hps, _endings(hps), strict=True):
        listed += _of_hp(estimates, own, hp=hp, ending=ending)
    return listed


def _of_hp(
    estimates: dict[str, Any], own: dict[str, Any] | None, *, hp: str, ending: str
) -> list[Picture]:
    over = optimum_width.optimum_width_data(estimates, own, hp=hp)
    draw = partial(_on_axes, draw=optimum_width.draw_over_width, data=over)
    listed = [Picture(f"optimum_width{ending}", f"{over.y_label} over width", (4.6, 4.0), draw)]
    costs = regret.regret_data(estimates, hp=hp)
    if costs.curves or costs.rows:
        height = 1.6 + 0.22 * len(costs.rows) + (3.0 if costs.curves else 0.0)
        draw = partial(regret.draw_regret, data=costs)
        label = f"regret at the target over {costs.x_label}, and regrets as multiples of δ"
        listed.append(Picture(f"regret{ending}", label, (4.6, height), draw))
    levels = loss_width.loss_width_data(estimates, own, hp=hp)
    if len(levels.widths) > 1:
        draw = partial(_on_axes, draw=optimum_width.draw_over_width, data=levels)
        listed.append(Picture(f"loss_width{ending}", "loss over width", (4.6, 4.0), draw))
    return listed


def _of_conditions(arms: list[dict[str, Any]]) -> list[Picture]:
    told = [(arm, over) for arm in arms for over in (arm.get("conditions") or {}).get("over", [])]
    several = len({arm["hp"] for arm, _ in told}) > 1
    labels = [
        "-".join(["over", over["axis"], arm["parametrization"], *([arm["hp"]] if several else [])])
        for arm, over in told
    ]
    listed = []
    for name, (arm, over) in zip(_file_names(labels), told, strict=True):
        data = conditions.condition_data(arm, over)
        draw = partial(conditions.draw_condition, data=data)
        label = f"{data.title}: {data.y_label} over {data.x_label}"
        listed.append(Picture(name, label, (4.6, 4.8), draw))
    return listed


def _of_surfaces(surfaces: list[dict[str, Any]]) -> list[Picture]:
    listed = []
    names = _file_names([told["parametrization"] for told in surfaces])
    for name, told in zip(names, surfaces, strict=True):
        if surface.drawable(told):
            data = surface.surface_data(told)
            side = 1.0 + 2.7 * len(data.labels)
            draw = partial(surface.draw_surface, data=data)
            label = f"{data.arm}: slices and contours of the response surface"
            listed.append(Picture(f"surface-{name}", label, (side, side), draw))
        if any((told.get("importance") or {}).values()):
            shares = importance.importance_data(told)
            draw = partial(_on_axes, draw=importance.draw_importance, data=shares)
            height = 1.1 + 0.5 * len(shares.hps)
            label = f"{shares.arm}: importance of each HP"
            listed.append(Picture(f"importance-{name}", label, (4.6, height), draw))
    return listed


def _of_cost(told: dict[str, Any] | None) -> list[Picture]:
    data = cost.cost_data(told or {})
    if not data.ratios:
        return []
    draw = partial(_on_axes, draw=cost.draw_cost, data=data)
    return [Picture("cost", "what the search cost", (4.6, 0.9 + 0.6 * len(data.ratios)), draw)]


def _of_target(own: dict[str, Any]) -> Picture:
    data = realised.realised_data(own)
    return Picture("realised", data.title, (4.4, 4.6), partial(realised.draw_realised, data=data))


def check_pictures(check: dict[str, Any]) -> list[Picture]:
    """Return the pictures of a coordinate check."""
    slopes = coordinate_check.coordinate_check_data(check)
    rms = coordinate_check.coordinate_rms_data(check)
    height = 1.5 + 0.24 * max(len(slopes.modules), 4)
    draw_slopes = partial(_on_axes, draw=coordinate_check.draw_coordinate_check, data=slopes)
    draw_rms = partial(_on_axes, draw=coordinate_check.draw_coordinate_rms, data=rms)
    label = "change of each output over width"
    return [
        Picture("coordinate_check", slopes.title, (4.6, height), draw_slopes),
        *([Picture("coordinate_rms", label, (4.4, 4.0), draw_rms)] if rms.lines else []),
    ]


def _on_axes(figure: Figure, *, draw: Callable[..., None], data: Any) -> None:
    draw(figure.subplots(), data)


def _endings(labels: list[str]) -> list[str]:
    """Return the ends of the file names of one kind of picture; empty if there is only one."""
    return [f"-{name}" for name in _file_names(labels)] if len(labels) > 1 else [""] * len(labels)


def _file_names(labels: list[str]) -> list[str]:
    """Return labels as safe, distinct file names: an arm's label may come from an imported file."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", label)
        names.append(f"{name}-{names.count(name) + 1}" if name in names else name)
    return names
