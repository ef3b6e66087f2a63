"""Every picture of a sweep, written from its estimates as PNG and SVG; no statistics here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.figures import basins, coordinate_check, optimum_width, realised, style, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure by file name, size in inches, and how to draw it; `label` says what it shows."""

    name: str
    label: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]


def write_figures(
    folder: Path,
    *,
    estimates: dict[str, Any],
    check: dict[str, Any] | None,
    realised: dict[str, Any] | None,
) -> list[Path]:
    """Write every picture of a sweep; list the files."""
    return write_pictures(folder, pictures(estimates=estimates, check=check, realised=realised))


def write_pictures(folder: Path, listed: Sequence[Picture]) -> list[Path]:
    """Write pictures as PNG (160 dpi) and SVG, the same bytes each time; list the files."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in listed:
        with matplotlib.style.context(["default", style.RC]):
            figure = Figure(figsize=picture.size)
            picture.draw(figure)
            # Once by hand: as the figure's own engine it would run again for each format.
            ConstrainedLayoutEngine().execute(figure)
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
                path = folder / f"{picture.name}{suffix}"
                figure.savefig(path, metadata=metadata)
                written.append(path)
    return written


def pictures(
    *,
    estimates: dict[str, Any],
    check: dict[str, Any] | None,
    realised: dict[str, Any] | None,
) -> list[Picture]:
    """List the pictures these records give, in the order a reader wants them."""
    arms = [arm for arm in estimates["arms"] if arm["optima"]]
    estimates = {**estimates, "arms": arms}
    listed = _of_sweep(estimates, realised) if arms else []
    if realised is not None:
        listed.append(_of_target(realised))
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
    names = _file_names([f"optimum_width-{hp}" if len(hps) > 1 else "optimum_width" for hp in hps])
    for name, hp in zip(names, hps, strict=True):
        data = optimum_width.optimum_width_data(estimates, own, hp=hp)
        draw = partial(_on_axes, draw=optimum_width.draw_optimum_width, data=data)
        listed.append(Picture(name, f"{data.y_label} over width", (4.6, 4.0), draw))
    return listed


def _of_target(own: dict[str, Any]) -> Picture:
    data = realised.realised_data(own)
    return Picture("realised", data.title, (4.4, 4.6), partial(realised.draw_realised, data=data))


def check_pictures(check: dict[str, Any]) -> list[Picture]:
    """List the pictures of a coordinate check."""
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


def _file_names(labels: list[str]) -> list[str]:
    """Make labels safe as file names; an arm's label may come from an imported file."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", label)
        names.append(f"{name}-{names.count(name) + 1}" if name in names else name)
    return names
