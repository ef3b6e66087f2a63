"""The settings of an arm: every width, depth, batch size and training time that it was trained at.

One axis is the main one, along which the answer is read: the width where it varies, else the first
of depth, batch size and training time that does. Settings that differ in another axis too tell how
the optimum follows that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.answer.reference import HeldCondition, known_values, reference
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.config.sweep import AXIS_WORDS, CONDITIONS
from hptransfer.errors import UserError

AXES = ("width", *CONDITIONS)


@dataclass(frozen=True, order=True)
class Setting:
    """One width under one condition; None where an axis does not vary or is not known."""

    width: int
    depth: float | None = None
    batch_size: float | None = None
    steps: float | None = None

    def value(self, axis: str) -> float:
        """Return the setting's value on an axis that varies."""
        value = getattr(self, axis)
        assert value is not None, "only axes that vary are compared"
        return float(value)


@dataclass(frozen=True)
class Layout:
    """An arm's settings, what varies between them, and where the answer is read."""

    axes: tuple[str, ...]  # that vary and can be told apart, the main one first
    confounded: tuple[str, ...]  # that vary only together with the main axis
    at: HeldCondition  # depth, batch size and steps at which the main axis is read
    settings: tuple[Setting, ...]
    left_out: int  # rows that do not say an axis that varies

    @property
    def main(self) -> str:
        """The axis along which the answer is read."""
        return self.axes[0]

    @property
    def on_main(self) -> tuple[Setting, ...]:
        """The settings along the main axis, ascending, all other axes as in `at`."""
        others = [axis for axis in self.axes[1:] if axis != "width"]
        chosen = [s for s in self.settings if all(getattr(s, a) == self.at[a] for a in others)]
        return tuple(sorted(chosen, key=lambda setting: setting.value(self.main)))

    def log2(self, settings: Sequence[Setting]) -> Floats:
        """Return log2 of the axes, (setting, axis)."""
        return np.log2([[setting.value(axis) for axis in self.axes] for setting in settings])

    def place(self, width: float | None, condition: Mapping[str, float | None]) -> Floats:
        """Return log2 of the axes at a target, (axis,); what it does not say is as in `at`."""
        widest = max(setting.width for setting in self.settings)
        told = {**self.at, **{n: v for n, v in condition.items() if v is not None}}
        values = [
            (widest if width is None else width) if axis == "width" else told[axis]
            for axis in self.axes
        ]
        return np.log2(np.array(values, dtype=np.float64))

    def rows_of(self, rows: TrialArrays, setting: Setting) -> TrialArrays:
        """Return the rows of one setting."""
        return rows.where(_is_at(rows, setting))


def lay_out(rows: TrialArrays, asked: Mapping[str, float | None] | None) -> Layout:
    """Return an arm's layout.

    Args:
        rows: one arm's.
        asked: depth, batch size and steps at which the answer is read; None: by the rows.

    Raises:
        UserError: no row has what is asked.
    """
    values: dict[str, Floats] = {"width": rows.width.astype(np.float64), **rows.conditions}
    varied = [axis for axis in AXES if len(known_values(values[axis])) > 1] or ["width"]
    known = np.logical_and.reduce([~np.isnan(values[axis]) for axis in varied])
    kept = rows.where(known)
    own = np.unique(np.stack([values[axis][known] for axis in varied], axis=1), axis=0)
    confounded = tuple(axis for axis in varied[1:] if _follows(own, varied, axis))
    settings = [
        Setting(**{**{"width": int(rows.width[0])}, **_named(varied, place)})
        for place in own.tolist()
    ]
    if not settings:
        raise UserError(
            "Every column that varies must be known for some rows, but no row gives its "
            f"{' and '.join(AXIS_WORDS[axis] for axis in varied)}. Add these columns."
        )
    return Layout(
        axes=tuple(axis for axis in varied if axis not in confounded),
        confounded=confounded,
        at={**reference(kept, asked), **({} if varied[0] == "width" else {varied[0]: None})},
        settings=tuple(settings),
        left_out=int((~known).sum()),
    )


def _named(axes: Sequence[str], place: Sequence[float]) -> dict[str, float]:
    named = dict(zip(axes, place, strict=True))
    return {axis: int(v) if axis == "width" else v for axis, v in named.items()}


def _follows(places: Floats, axes: Sequence[str], axis: str) -> bool:
    """Say whether an axis has one value for each value of the main axis, and they are several."""
    main, other = places[:, 0], places[:, list(axes).index(axis)]
    if len(np.unique(main)) < 2:
        return False
    return all(len(np.unique(other[main == value])) == 1 for value in np.unique(main))


def _is_at(rows: TrialArrays, setting: Setting) -> NDArray[np.bool_]:
    here = rows.width == setting.width
    for name in CONDITIONS:
        value = getattr(setting, name)
        if value is not None:
            here = here & (rows.conditions[name] == value)
    return here
