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

from hptransfer.analysis.answer.text import arm_names
from hptransfer.reporting.figures import (
    basins,
    conditions,
    coordinate_check,
    cost,
    cost_of_value,
    over_axis,
    style,
    surface,
)
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
    draw = partial(over_axis.draw_summary, estimates=estimates)
    listed = [Picture("summary", "the sweep in one picture", size, draw)]
    names = _file_names([f"basins-{label}" for label in _labels(arms)])
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
    over = over_axis.optimum_data(estimates, own, hp=hp)
    axis = over.x_label.replace(" ", "_")
    draw = _on_axes(over_axis.draw_over_axis, over)
    label = f"{over.y_label} over the {over.x_label}"
    listed = [Picture(f"optimum_{axis}{ending}", label, (4.6, 4.0), draw)]
    costs = cost_of_value.cost_data(estimates, hp=hp)
    if costs is not None:
        draw = _on_axes(cost_of_value.draw_cost_of_value, costs)
        label = f"{costs.y_label}, over {costs.x_label}"
        listed.append(Picture(f"cost_of_value{ending}", label, (4.6, 4.0), draw))
    levels = over_axis.loss_data(estimates, own, hp=hp)
    if len(levels.places) > 1:
        draw = _on_axes(over_axis.draw_over_axis, levels)
        label = f"{levels.y_label} over the {levels.x_label}"
        listed.append(Picture(f"loss_{axis}{ending}", label, (4.6, 4.0), draw))
    return listed


def _labels(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return labels for files: an arm's parametrization, its family before it if several."""
    several = len({arm["family"] for arm in arms}) > 1
    return [
        "-".join([*([arm["family"]] if several else []), arm["parametrization"]]) for arm in arms
    ]


def _of_conditions(arms: Sequence[Mapping[str, Any]]) -> list[Picture]:
    told = [
        (f"over-{axis}-{label}", conditions.condition_data(arm, axis, name))
        for arm, name, label in zip(arms, arm_names(arms), _labels(arms), strict=True)
        if arm["conditions"] is not None
        for axis in arm["conditions"]["axes"]
        if axis != arm["axis"]
    ]
    listed = []
    for name, (_, data) in zip(_file_names([file for file, _ in told]), told, strict=True):
        draw = _on_axes(conditions.draw_condition, data)
        label = f"{data.title}: {data.y_label} over {data.x_label}"
        listed.append(Picture(name, label, (4.6, 4.0), draw))
    return listed


def _of_surfaces(surfaces: Sequence[Mapping[str, Any]]) -> list[Picture]:
    listed = []
    files, names = _file_names(_labels(surfaces)), arm_names(surfaces)
    for file, name, told in zip(files, names, surfaces, strict=True):
        if surface.fitted_widths(told):
            side = 1.0 + 2.7 * len(surface.shown_hps(told))
            draw = partial(surface.draw_surface, surface=told, name=name)
            label = f"{name}: slices and contours of the response surface"
            listed.append(Picture(f"surface-{file}", label, (side, side), draw))
        if any((told.get("importance") or {}).values()):
            draw = _on_axes(partial(surface.draw_importance, name=name), told)
            size = (4.6, 1.1 + 0.5 * len(told["hps"]))
            label = f"{name}: importance of each HP"
            listed.append(Picture(f"importance-{file}", label, size, draw))
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
    rows = len(over_axis.compared_arms(by_metric))
    if not rows:
        return []
    label = f"optimum by {metric_of(by_metric).label} beside that by {LOSS.label}"
    draw = partial(over_axis.draw_agreement, by_loss=by_loss, by_metric=by_metric)
    return [Picture("agreement", label, (12.6, 0.6 + 3.8 * rows), draw)]


def _on_axes(draw: Callable[[Axes, Any], None], data: Any) -> Callable[[Figure], None]:
    return lambda figure: draw(figure.subplots(), data)


def _file_names(labels: Sequence[str]) -> list[str]:
    """Return labels as safe, distinct file names: an arm's label may come from an imported file."""
    names = [re.sub(r"[^A-Za-z0-9_-]+", "_", label) for label in labels]
    return [
        f"{name}-{names[:place].count(name) + 1}" if name in names[:place] else name
        for place, name in enumerate(names)
    ]
