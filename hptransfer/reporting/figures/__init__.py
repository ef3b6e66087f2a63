"""Every picture of a sweep, drawn from its estimates and written as PNG, SVG and PDF.

A picture is a draw function, and where it selects much, a data function. No statistics
are computed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import (
    basins,
    conditions,
    coordinate_check,
    cost,
    over_width,
    regret,
    style,
    surface,
)
from hptransfer.reporting.figures.style import hp_label
from hptransfer.results.metrics import LOSS, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    estimates: Mapping[str, Any],
    check: Mapping[str, Any] | None = None,
    realised: Mapping[str, Any] | None = None,
    transfer: Mapping[str, Any] | None = None,
) -> list[Picture]:
    """Return the pictures that these records give, in the order a reader wants them.

    Args:
        estimates: what `fit` returns, and `estimates.json` holds.
        check: a coordinate check, one of `check.json`.
        realised: what the target's own sweep gave, `target/realised.json`.
        transfer: what `transfer` returns, and `transfer.json` holds.
    """
    arms = [arm for arm in estimates["arms"] if arm["optima"]]
    listed = _of_arms({**estimates, "arms": arms}, realised) if arms else []
    listed += _of_conditions(arms)
    listed += _of_surfaces(estimates.get("surfaces") or [])
    if realised is not None:
        draw = partial(basins.draw_realised, realised=realised)
        listed.append(Picture("realised", basins.realised_title(realised), (4.4, 4.6), draw))
    known = sum(bool(transfer["cost"][key]) for key, *_ in cost.DENOMINATORS) if transfer else 0
    if transfer is not None and known:
        draw = _on_axes(cost.draw_cost, transfer["cost"])
        listed.append(Picture("cost", "what the search cost", (4.6, 0.9 + 0.6 * known), draw))
    if check is not None:
        listed += check_pictures(check)
    return listed


def _of_arms(estimates: Mapping[str, Any], own: Mapping[str, Any] | None) -> list[Picture]:
    arms = estimates["arms"]
    size = (1.0 + 3.9 * len(arms), 6.2)
    draw = partial(over_width.draw_summary, estimates=estimates)
    listed = [Picture("summary", "the sweep in one picture", size, draw)]
    names = _file_names([f"basins-{arm['parametrization']}" for arm in arms])
    for name, panel in zip(names, basins.basins_data(estimates), strict=True):
        label = f"{panel.title}: loss over {panel.x_label}, a curve per width"
        listed.append(Picture(name, label, (4.3, 4.0), _on_axes(basins.draw_basins, panel)))
    hps = list(dict.fromkeys(arm["hp"] for arm in arms))
    for hp, name in zip(hps, _file_names(hps), strict=True):
        listed += _of_hp(estimates, own, hp=hp, ending=f"-{name}" if len(hps) > 1 else "")
    return listed


def _of_hp(
    estimates: Mapping[str, Any], own: Mapping[str, Any] | None, *, hp: str, ending: str
) -> list[Picture]:
    over = over_width.optimum_width_data(estimates, own, hp=hp)
    draw = _on_axes(over_width.draw_over_width, over)
    listed = [Picture(f"optimum_width{ending}", f"{over.y_label} over width", (4.6, 4.0), draw)]
    costs = regret.regret_data(estimates, hp=hp)
    if costs.curves or costs.rows:
        height = 1.6 + 0.22 * len(costs.rows) + (3.0 if costs.curves else 0.0)
        draw = partial(regret.draw_regret, data=costs)
        label = f"regret at the target over {costs.x_label}, and regrets as multiples of δ"
        listed.append(Picture(f"regret{ending}", label, (4.6, height), draw))
    levels = over_width.loss_width_data(estimates, own, hp=hp)
    if len(levels.widths) > 1:
        draw = _on_axes(over_width.draw_over_width, levels)
        listed.append(Picture(f"loss_width{ending}", "loss over width", (4.6, 4.0), draw))
    return listed


def _of_conditions(arms: Sequence[Mapping[str, Any]]) -> list[Picture]:
    told = [(arm, over) for arm in arms for over in (arm.get("conditions") or {}).get("over", [])]
    several = len({arm["hp"] for arm, _ in told}) > 1
    labels = [
        "-".join(["over", over["axis"], arm["parametrization"], *([arm["hp"]] if several else [])])
        for arm, over in told
    ]
    listed = []
    for name, (arm, over) in zip(_file_names(labels), told, strict=True):
        draw = partial(conditions.draw_condition, arm=arm, over=over)
        label = (
            f"{conditions.condition_title(arm, over)}: optimal {hp_label(arm['hp'])} over "
            f"{conditions.NAMES[over['axis']]}"
        )
        listed.append(Picture(name, label, (4.6, 4.8), draw))
    return listed


def _of_surfaces(surfaces: Sequence[Mapping[str, Any]]) -> list[Picture]:
    listed = []
    names = _file_names([told["parametrization"] for told in surfaces])
    for name, told in zip(names, surfaces, strict=True):
        arm = arm_name(told["parametrization"])
        if surface.fitted_widths(told):
            side = 1.0 + 2.7 * len(surface.shown_hps(told))
            draw = partial(surface.draw_surface, surface=told)
            label = f"{arm}: slices and contours of the response surface"
            listed.append(Picture(f"surface-{name}", label, (side, side), draw))
        if any((told.get("importance") or {}).values()):
            draw = _on_axes(surface.draw_importance, told)
            size = (4.6, 1.1 + 0.5 * len(told["hps"]))
            listed.append(
                Picture(f"importance-{name}", f"{arm}: importance of each HP", size, draw)
            )
    return listed


def check_pictures(check: Mapping[str, Any]) -> list[Picture]:
    """Return the pictures of a coordinate check."""
    size = (4.6, 1.5 + 0.24 * max(len(coordinate_check.measured_slopes(check)), 4))
    draw = _on_axes(coordinate_check.draw_coordinate_check, check)
    listed = [Picture("coordinate_check", coordinate_check.check_title(check), size, draw)]
    if coordinate_check.last_updates(check):
        label = "change of each output over width"
        draw = _on_axes(coordinate_check.draw_coordinate_rms, check)
        listed.append(Picture("coordinate_rms", label, (4.4, 4.0), draw))
    return listed


def agreement_pictures(by_loss: Mapping[str, Any], by_metric: Mapping[str, Any]) -> list[Picture]:
    """Return the picture of two measures of one sweep; none if no width has both optima."""
    rows = len(over_width.compared_arms(by_metric))
    if not rows:
        return []
    label = f"optimum by {metric_of(by_metric).label} beside that by {LOSS.label}"
    draw = partial(over_width.draw_agreement, by_loss=by_loss, by_metric=by_metric)
    return [Picture("agreement", label, (12.6, 0.6 + 3.8 * rows), draw)]


def _on_axes(draw: Callable[[Axes, Any], None], data: Any) -> Callable[[Figure], None]:
    return lambda figure: draw(figure.subplots(), data)


def _file_names(labels: Sequence[str]) -> list[str]:
    """Return labels as safe, distinct file names: an arm's label may come from an imported file."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", label)
        names.append(f"{name}-{names.count(name) + 1}" if name in names else name)
    return names
