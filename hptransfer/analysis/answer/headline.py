"""The headline of an answer: value, cost, movement and evidence in three sentences.

The same words stand in `fit`, the report and `transfer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.answer.fitted_arm import FittedArm
from hptransfer.analysis.answer.settings import AXIS_WORDS, Setting
from hptransfer.analysis.answer.verdict import MORE_LIKELY, SPARE, Cost, Gap, Judged, Said
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.config.hyperparameters import hp_words
from hptransfer.system.text import percent_text, rounded

WIDER_STEPS = 2.0  # grid steps by which a grid that is too narrow should reach farther
LEAST_PERCENT, MOST_PERCENT = 0.001, 1000.0  # beyond which a share is not told apart


def headline(judged: Judged) -> str:
    """Return the answer in three sentences, a line each."""
    return "\n".join([value_sentence(judged), movement_sentence(judged), evidence_sentence(judged)])


def value_sentence(judged: Judged) -> str:
    """Return which value to use where, with its 90 % factor, and what it should cost."""
    arm = judged.arm
    words, there = hp_words(arm.hp), _place(judged)
    value = arm.value(judged.emitted)
    if arm.noise is None:
        return f"use {words} {figure(value)} at {there}: no noise estimate says how sure that is"
    if judged.beyond is not None:
        side, end = judged.beyond
        return (
            f"use {words} {figure(value)} at {there} only until the grid is wider: the optimum "
            f"probably lies beyond its {side} end, {figure(arm.value(end))}"
        )
    ends = [arm.value(quantile(arm.destination_draws, share)) for share in (0.05, 0.95)]
    low, high = sorted(ends)
    cost = _cost_text(judged.emitted_cost)
    return (
        f"use {words} {figure(value)} at {there} ({figure(low)} to {figure(high)}): "
        f"expected to cost {cost}"
    )


def movement_sentence(judged: Judged) -> str:
    """Return how the optimum moves along the main axis, and what ignoring that would cost."""
    arm = judged.arm
    main = arm.layout.main
    slope = arm.slopes.get(main)
    if slope is None:
        return f"whether the optimum moves takes two values of the {AXIS_WORDS[main]}"
    middle, low, high = (quantile(slope, share) for share in (0.5, 0.05, 0.95))
    moved = f"the optimum moves by {_moved(arm, middle)} per doubling"
    if main != "width":
        moved += f" of the {AXIS_WORDS[main]}"
    if arm.noise is None:
        return moved
    verb = "would cost" if arm.has_target else "would have cost"
    cost = _cost_text(judged.ignoring_cost, share=False)
    kept = f"keeping {_setting(judged)}'s value instead {verb} {cost}"
    ends = f"{_moved(arm, low, bare=True)} to {_moved(arm, high, bare=True)}"
    return f"{moved} ({ends}); {kept}"


def evidence_sentence(judged: Judged) -> str:
    """Return what the answer rests on and what it holds for."""
    arm = judged.arm
    main = arm.layout.main
    settings = arm.on_main
    values = {"batch_size": "batch sizes", "steps": "training times"}.get(main, f"{main}s")
    seeds = sorted({len(arm.basins[setting].grid.losses) for setting in settings})
    runs = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    told = f"rests on {len(settings)} {values if len(settings) > 1 else AXIS_WORDS[main]}, {runs} "
    told += "seed" if seeds[-1] == 1 else "seeds"
    others = len(arm.basins) - len(settings)
    if others:
        told += f" and {others} further settings"
    held = [
        f"{AXIS_WORDS[name]} {value:g}"
        for name, value in arm.layout.at.items()
        if value is not None and name not in _apart(judged)
    ]
    parts = [told]
    if arm.noise is not None:
        is_narrow = judged.gap is Gap.lost or bool(wider_grids(judged)) or _ends_early(judged)
        parts.append(f"the grid is {'too narrow' if is_narrow else 'wide enough'}")
    return "; ".join([*parts, *([f"holds for {', '.join(held)}"] if held else [])])


def _ends_early(judged: Judged) -> bool:
    """Say whether some grid along the main axis probably ends before its optimum."""
    arm = judged.arm
    return any(max(arm.basins[setting].beyond) > MORE_LIKELY for setting in arm.on_main)


def reasons(judged: Judged) -> list[str]:
    """Return why the verdict is what it is: one sentence on moving, one on mattering."""
    arm, rule = judged.arm, judged.arm.request.rule
    if judged.gap is not None:
        return [_gap_sentence(judged, judged.gap)]
    beyond = float((np.abs(arm.movement) > rule.max_octaves).mean())
    way = f"from {_setting(judged)} to {_place(judged)}"
    told = {
        Said.yes: "The optimum moves",
        Said.no: "The optimum does not move",
        Said.unclear: "Whether the optimum moves is unclear",
    }[judged.moves]
    moved = (
        f"{told} {way}: by {_moved(arm, quantile(arm.movement, 0.05), bare=True)} to "
        f"{_moved(arm, quantile(arm.movement, 0.95))}, more than {arm.unit * rule.max_octaves:.3g} "
        f"with a probability of {_share(beyond)}."
    )
    if judged.limit is None:
        return [moved, "No law of the loss prices a cost here: set verdict.max_regret."]
    name, most = judged.limit
    cost: Floats = getattr(judged.ignoring_cost, name)
    unit = {
        "compute_percent": " % of the target's compute",
        "percent": " % of the loss",
        "loss": "",
    }
    matters = {
        Said.yes: "Ignoring that matters",
        Said.no: "Ignoring that does not matter",
        Said.unclear: "Whether ignoring that matters is unclear",
    }[judged.matters]
    return [
        moved,
        f"{matters}: it costs more than {most:g}{unit[name]} with a probability of "
        f"{_share(float((cost > most).mean()))}, more than twice that with one of "
        f"{_share(float((cost > SPARE * most).mean()))}.",
    ]


@dataclass(frozen=True)
class WiderGrid:
    """A grid whose end the optimum may lie beyond, so that the emitted value could change."""

    setting: Setting
    axis: str
    side: str  # low or high
    start: float  # the grid's end, a point of the HP's axis
    end: float  # to which it should reach
    share: float  # probability that the optimum lies beyond
    octaves: float | None  # by which the value there would then change; None: every point failed

    def sentence(self, arm: FittedArm) -> str:
        """Return the note that the grid should be wider."""
        reach = f"extend {arm.hp} from {arm.unit * self.start:.4g} to {arm.unit * self.end:.4g}."
        if self.octaves is None:
            where = f"{AXIS_WORDS[self.axis]} {self.setting.value(self.axis):g}"
            return f"At {where} every point failed: {reach}"
        by = f"by {_moved(arm, self.octaves)}"
        if self.share > MORE_LIKELY:
            by = "by more than the grid can tell"
        return (
            f"At {AXIS_WORDS[self.axis]} {self.setting.value(self.axis):g} the optimum lies beyond "
            f"the {self.side} end of the grid with a probability of {_share(self.share)}, which "
            f"would change the value {by}: {reach}"
        )


def _gap_sentence(judged: Judged, gap: Gap) -> str:
    """Return what keeps the two questions from an answer."""
    arm = judged.arm
    axis = AXIS_WORDS[arm.layout.main]
    match gap:
        case Gap.one_setting:
            return f"Moving takes two values of the {axis}, but the sweep has {len(arm.on_main)}."
        case Gap.no_noise:
            return (
                "Nothing tells the noise of a run, so no answer can be told from chance: it takes "
                "two seeds, standard deviations, or four neighbouring values."
            )
        case Gap.constant:
            return "All losses are the same number, so there is no optimum: is it the right column?"
        case Gap.lost:
            lost = judged.lost[-1].value(arm.layout.main)
            return (
                f"At {axis} {lost:g} every point failed, so nothing tells the optimum there: lower "
                "the grid."
            )
        case Gap.beyond:
            side, end = judged.beyond or ("", 0.0)
            return (
                f"At {_place(judged)} the optimum probably lies beyond the {side} end of all that "
                f"was swept, {figure(arm.value(end))}: extend {arm.hp} first."
            )


def wider_grids(judged: Judged) -> list[WiderGrid]:
    """Return the grids beyond whose end the emitted value would cost more than the limit."""
    arm, limit = judged.arm, judged.limit
    if arm.noise is None or limit is None:
        return []
    cost = getattr(judged.emitted_cost, limit[0])
    found: list[WiderGrid] = []
    for setting in arm.on_main:
        grid, own = arm.basins[setting].grid, arm.optimum_draws(setting)
        ends = {"low": (grid.theta[0], own < grid.theta[0], -1.0)}
        if grid.cliff is None:
            ends["high"] = (grid.theta[-1], own > grid.theta[-1], 1.0)
        for side, (end, beyond, way) in ends.items():
            is_likely = beyond.mean() > 1.0 - arm.request.rule.sure
            is_costly = float(np.mean(cost[beyond])) > limit[1] if beyond.any() else False
            if is_likely and (is_costly or judged.beyond is not None):
                found.append(
                    WiderGrid(
                        setting=setting,
                        axis=arm.layout.main,
                        side=side,
                        start=float(end),
                        end=float(end + way * WIDER_STEPS * grid.step),
                        share=float(beyond.mean()),
                        octaves=float(arm.destination_draws[beyond].mean() - judged.emitted),
                    )
                )
    return found


def lost_grids(arm: FittedArm) -> list[WiderGrid]:
    """Return the grids at the end of the main axis at which every point failed, to lower values.

    Where several hyperparameters are searched only learning rates are extended.
    """
    rates = [hp for hp in arm.arm.rows.hps if hp.endswith("lr")]
    if rates and arm.hp not in rates:
        return []
    main = arm.layout.main
    last = max((setting.value(main) for setting in arm.on_main), default=0.0)
    found: list[WiderGrid] = []
    for setting in arm.layout.on_main:
        theta = np.unique(arm.layout.rows_of(arm.arm.rows, setting).hps[arm.hp])
        theta = theta[np.isfinite(theta)]
        if setting.value(main) > last and len(theta):
            low = float(theta[0])
            step = float(np.median(np.diff(theta))) if len(theta) > 1 else 1.0
            end = low - WIDER_STEPS * step
            found.append(WiderGrid(setting, main, "low", low, end, share=1.0, octaves=None))
    return found


def _place(judged: Judged) -> str:
    """Return where the value holds: the main axis, and others where the target leaves `at`."""
    arm = judged.arm
    there = {arm.layout.main: 2.0 ** arm.destination[0], **_apart(judged)}
    return ", ".join(f"{AXIS_WORDS[axis]} {value:.6g}" for axis, value in there.items())


def _apart(judged: Judged) -> dict[str, float]:
    """Return the destination's values of the other axes where they are not those of `at`."""
    arm = judged.arm
    place = dict(zip(arm.layout.axes[1:], np.exp2(arm.destination[1:]), strict=True))
    held = {axis: arm.layout.at[axis] or value for axis, value in place.items()}
    return {a: float(v) for a, v in place.items() if not np.isclose(v, held[a])}


def _setting(judged: Judged) -> str:
    main = judged.arm.layout.main
    return f"{AXIS_WORDS[main]} {judged.arm.origin.value(main):g}"


def _cost_text(cost: Cost, *, share: bool = True) -> str:
    """Return the mean cost, in compute where it has a price, and in percent of the loss."""
    parts: list[str] = []
    if not np.isfinite(quantile(cost.rise, 0.5)):
        return "the run, as the value lies beyond the cliff"
    if cost.compute_percent is not None and cost.typical_compute_percent is not None:
        most = percent(quantile(cost.compute_percent, 0.95))
        mean = percent(cost.typical_compute_percent)
        parts.append(f"{mean} more compute" + (f" (95 %: below {most})" if share else ""))
    if cost.mean_percent is not None and (share or not parts):
        parts.append(f"{percent(cost.mean_percent)} of the loss")
    if not parts:
        parts.append(f"{figure(cost.mean_loss)} of the loss")
    return ", ".join(parts)


def percent(value: float) -> str:
    """Return a share in percent with two significant digits, within what is worth telling."""
    if value < LEAST_PERCENT:
        return f"less than {LEAST_PERCENT:g} %"
    if value > MOST_PERCENT:
        return f"over {MOST_PERCENT:g} %"
    return percent_text(value)


def figure(value: float) -> str:
    """Return a value of a hyperparameter with three significant digits."""
    return rounded(value, 3)


def _moved(arm: FittedArm, octaves: float, *, bare: bool = False) -> str:
    """Return a difference on the HP's axis in octaves, or in the HP's own unit."""
    if arm.hp.startswith("log2_"):
        return signed(octaves) if bare else f"{signed(octaves)} octaves"
    return f"{arm.unit * octaves:+.2g}"


def signed(value: float) -> str:
    """Return octaves with a sign and two decimals."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0.0 else text


def _share(share: float) -> str:
    if share >= 0.995:
        return "over 99 %"
    return "under 1 %" if share <= 0.005 else f"{100 * share:.0f} %"
