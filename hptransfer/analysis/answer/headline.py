"""The headline of an answer: value, cost, movement and evidence in three sentences.

The same words stand in `fit`, the report and `transfer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.answer.fitted_arm import FittedArm
from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.answer.text import MOST_PERCENT, percent
from hptransfer.analysis.answer.verdict import MORE_LIKELY, SPARE, Cost, Gap, Judged, Said
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.config.hyperparameters import hp_words, value_text
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.system.text import factor_text, rounded

WIDER_STEPS = 2.0  # grid steps by which a grid that is too narrow should reach farther


def headline(judged: Judged) -> str:
    """Return the answer in three sentences, a line each."""
    return "\n".join([value_sentence(judged), movement_sentence(judged), evidence_sentence(judged)])


def value_sentence(judged: Judged) -> str:
    """Return which value to use where, with its 90 % interval, and what it should cost."""
    arm = judged.arm
    words, there = hp_words(arm.hp), _place(judged)
    value = value_text(arm.hp, arm.value(judged.emitted))
    if arm.noise is None:
        return (
            f"Use {words} {value} at {there}. How sure that is cannot be said, because the noise "
            "of a run is not known."
        )
    if judged.beyond is not None:
        side, end = judged.beyond
        return (
            f"Use {words} {value} at {there} only until the grid is wider: the optimum probably "
            f"lies beyond its {side} end, {value_text(arm.hp, arm.value(end))}."
        )
    ends = [arm.value(quantile(arm.destination_draws, share)) for share in (0.05, 0.95)]
    low, high = (value_text(arm.hp, end) for end in sorted(ends))
    return (
        f"Use {words} {value} at {there} (90 % interval {low} to {high}). "
        f"{_expected_cost(judged.emitted_cost)}"
    )


def movement_sentence(judged: Judged) -> str:
    """Return how the optimum moves along the main axis, and what ignoring that would cost."""
    arm = judged.arm
    main = arm.layout.main
    slope = arm.slopes.get(main)
    if slope is None:
        return one_value_sentence(main)
    middle, low, high = (quantile(slope, share) for share in (0.5, 0.05, 0.95))
    if arm.noise is None:
        return f"{slope_words(arm.hp, main, _moved(arm, middle))}."
    verb = "would cost" if arm.has_target else "would have cost"
    moved = slope_words(arm.hp, main, _moved(arm, middle))
    ends = f"(90 % interval {_moved(arm, low)} to {_moved(arm, high)})"
    kept = f"Keeping {_setting(judged)}'s value instead {verb} {_cost_text(judged.ignoring_cost)}."
    return f"{moved} {ends}. {kept}"


def one_value_sentence(main: str) -> str:
    """Return why nothing can be said of a movement along an axis with one value."""
    return (
        f"Whether the optimum moves cannot be said, because the sweep has one value of the "
        f"{AXIS_WORDS[main]}."
    )


def slope_words(hp: str, main: str, moved: str) -> str:
    """Return what a doubling of the main axis does to the best value, without a full stop."""
    start = f"Each doubling of the {AXIS_WORDS[main]}"
    if hp.startswith("log2_"):
        return f"{start} multiplies the best {hp_words(hp)} by {moved}"
    return f"{start} changes the best {hp_words(hp)} by {moved}"


def evidence_sentence(judged: Judged) -> str:
    """Return what the answer rests on and what it holds for."""
    arm = judged.arm
    main = arm.layout.main
    settings = arm.on_main
    values = {"batch_size": "batch sizes", "steps": "numbers of training steps"}.get(
        main, f"{main}s"
    )
    seeds = sorted({len(arm.basins[setting].grid.losses) for setting in settings})
    runs = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    one = {"steps": "number of training steps"}.get(main, AXIS_WORDS[main])
    told = f"This rests on {len(settings)} {values if len(settings) > 1 else one} with {runs} "
    told += "seed" if seeds[-1] == 1 else "seeds"
    told += " each" if len(settings) > 1 else ""
    others = len(arm.basins) - len(settings)
    if others:
        axes = " and ".join(AXIS_WORDS[axis] for axis in arm.layout.axes[1:])
        told += f", and on {others} further combinations of {AXIS_WORDS[main]}, {axes}"
    held = [
        f"{AXIS_WORDS[name]} {value:g}"
        for name, value in arm.layout.at.items()
        if value is not None and name not in _apart(judged)
    ]
    parts = [told]
    if arm.noise is not None:
        parts.append(_reach(judged))
    sentences = [*parts, *([f"The answer holds for {', '.join(held)}"] if held else [])]
    return " ".join(f"{sentence}." for sentence in sentences)


def _reach(judged: Judged) -> str:
    """Return whether the grid is wide enough, without a full stop.

    It is too narrow exactly where a warning and `extend` tell how far it should reach, or where a
    width is lost.
    """
    if judged.gap is Gap.lost or wider_grids(judged):
        return "The grid is too narrow"
    arm = judged.arm
    early = [s for s in arm.on_main if max(arm.basins[s].beyond) > MORE_LIKELY]
    if not early:
        return "The grid is wide enough"
    main = arm.layout.main
    values = [f"{setting.value(main):g}" for setting in early]
    named = " and ".join(filter(None, [", ".join(values[:-1]), values[-1]]))
    return (
        f"The grid probably ends before the optimum of {AXIS_WORDS[main]} {named}, but a wider one "
        "would hardly change this value"
    )


def reasons(judged: Judged) -> list[str]:
    """Return why the verdict is what it is: one sentence on moving, one on mattering."""
    arm, rule = judged.arm, judged.arm.request.rule
    if judged.gap is not None:
        return [_gap_sentence(judged, judged.gap)]
    beyond = float((np.abs(arm.movement) > rule.max_octaves).mean())
    way = f"from {_setting(judged)} to {_place(judged)}"
    told = {
        Said.yes: f"The optimum moves {way}",
        Said.no: f"The optimum does not move {way}",
        Said.unclear: f"Whether the optimum moves {way} is unclear",
    }[judged.moves]
    low, high = (_moved(arm, quantile(arm.movement, share)) for share in (0.05, 0.95))
    moved = (
        f"{told}: {_change(arm, low, high)} (90 % interval). The probability that it changes by "
        f"more than {_largest_move(arm, rule.max_octaves)} is {_share(beyond)}."
    )
    if judged.limit is None:
        return [
            moved,
            "What ignoring the movement costs cannot be judged, because not all losses are "
            "positive. Set verdict.max_regret, the largest rise of the loss that you accept.",
        ]
    name, most = judged.limit
    cost: Floats = getattr(judged.ignoring_cost, name)
    unit = {
        "compute_percent": " % of the target's compute",
        "percent": " % of the loss",
        "loss": "",
    }
    matters = {
        Said.yes: "Ignoring the movement matters",
        Said.no: "Ignoring the movement does not matter",
        Said.unclear: "Whether ignoring the movement matters is unclear",
    }[judged.matters]
    return [
        moved,
        f"{matters}: keeping {_setting(judged)}'s value costs more than {most:g}{unit[name]} with "
        f"a probability of {_share(float((cost > most).mean()))}, and more than "
        f"{SPARE * most:g}{' %' if unit[name] else ''} with a probability of "
        f"{_share(float((cost > SPARE * most).mean()))}.",
    ]


def _change(arm: FittedArm, low: str, high: str) -> str:
    """Return between which ends the best value changes."""
    best = f"the best {hp_words(arm.hp)}"
    if arm.hp.startswith("log2_"):
        return f"{best} there is {low} to {high} times as large"
    return f"{best} changes by {low} to {high}"


def _largest_move(arm: FittedArm, octaves: float) -> str:
    """Return the largest movement that counts as none."""
    if arm.hp.startswith("log2_"):
        return f"a factor of {factor_text(octaves)} up or down"
    return f"{arm.unit * octaves:.3g}"


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
        is_log, words = arm.hp.startswith("log2_"), hp_words(arm.hp)
        way = "down" if self.side == "low" else "up"
        start, end = (value_text(arm.hp, arm.value(point)) for point in (self.start, self.end))
        log2 = f" (log2 {self.start:.4g} to {self.end:.4g})" if is_log else ""
        reach = f"Extend the grid of the {words} {way} from {start} to {end}{log2}."
        where = f"At {AXIS_WORDS[self.axis]} {self.setting.value(self.axis):g}"
        if self.octaves is None:
            return f"{where} every point failed. {reach}"
        by = f"{'multiply' if is_log else 'change'} the value by {_moved(arm, self.octaves)}"
        if self.share > MORE_LIKELY:
            by = "change the value by more than the grid can tell"
        return (
            f"{where} the optimum lies beyond the {self.side} end of the grid with a probability "
            f"of {_share(self.share)}, which would {by}. {reach}"
        )


def _gap_sentence(judged: Judged, gap: Gap) -> str:
    """Return what keeps the two questions from an answer."""
    arm = judged.arm
    axis = AXIS_WORDS[arm.layout.main]
    match gap:
        case Gap.one_setting:
            return (
                f"Whether the optimum moves can only be seen with two values of the {axis} or "
                f"more, but the sweep has {len(arm.on_main)}."
            )
        case Gap.no_noise:
            return (
                "How much a loss differs between runs (its noise) is not known, so no answer can "
                "be told from chance. It takes two seeds, standard deviations of the losses, or "
                "four neighbouring values."
            )
        case Gap.constant:
            return (
                "All losses are the same number, so there is no optimum. Check that the right "
                "column was read as the loss."
            )
        case Gap.lost:
            lost = judged.lost[-1].value(arm.layout.main)
            return (
                f"At {axis} {lost:g} every point failed, so the optimum there is not known. Add "
                f"lower values of the {hp_words(arm.hp)}."
            )
        case Gap.beyond:
            side, end = judged.beyond or ("", 0.0)
            return (
                f"At {_place(judged)} the optimum probably lies beyond the {side} end of all "
                f"swept values, {value_text(arm.hp, arm.value(end))}. First extend the grid of the "
                f"{hp_words(arm.hp)}."
            )


def wider_grids(judged: Judged) -> list[WiderGrid]:
    """Return the grids beyond whose end the emitted value would cost more than the limit.

    Where no limit is known, because not all losses are positive, they are those that more likely
    than not end before their optimum.
    """
    arm, limit = judged.arm, judged.limit
    if arm.noise is None:
        return []
    cost = None if limit is None else getattr(judged.emitted_cost, limit[0])
    found: list[WiderGrid] = []
    for setting in arm.on_main:
        grid, own = arm.basins[setting].grid, arm.optimum_draws(setting)
        ends = {"low": (grid.theta[0], own < grid.theta[0], -1.0)}
        if grid.cliff is None:
            ends["high"] = (grid.theta[-1], own > grid.theta[-1], 1.0)
        for side, (end, beyond, way) in ends.items():
            is_likely = beyond.mean() > 1.0 - arm.request.rule.sure
            if cost is None or limit is None:
                is_costly = beyond.mean() > MORE_LIKELY
            else:
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


def _expected_cost(cost: Cost) -> str:
    """Return the mean cost of a value in the loss, and the compute that would make up for it."""
    if not np.isfinite(quantile(cost.rise, 0.5)):
        return "Training probably fails at this value."
    said = f"Compared with the best value there it is expected to cost {_loss_text(cost)}."
    if cost.compute_percent is None or cost.typical_compute_percent is None:
        return said
    most = quantile(cost.compute_percent, 0.95)
    bound = f"with 95 % probability less than {percent(most)}"
    if most > MOST_PERCENT:
        bound = f"possibly {percent(most)}"
    mean = percent(cost.typical_compute_percent)
    return f"{said} That is worth {mean} more compute ({bound})."


def _cost_text(cost: Cost) -> str:
    """Return the mean cost in compute where it has a price, else in the loss."""
    if not np.isfinite(quantile(cost.rise, 0.5)):
        return "the whole run, since training probably fails at it"
    if cost.compute_percent is not None and cost.typical_compute_percent is not None:
        return f"{percent(cost.typical_compute_percent)} more compute"
    return _loss_text(cost)


def _loss_text(cost: Cost) -> str:
    if cost.mean_percent is not None:
        return f"{percent(cost.mean_percent)} of the loss"
    return f"{rounded(cost.mean_loss, 3)} in loss"


def _moved(arm: FittedArm, octaves: float) -> str:
    """Return a difference on the HP's axis as a factor, or in the HP's own unit."""
    if arm.hp.startswith("log2_"):
        return factor_text(octaves)
    return f"{arm.unit * octaves:+.2g}"


def _share(share: float) -> str:
    if share >= 0.995:
        return "over 99 %"
    return "under 1 %" if share <= 0.005 else f"{100 * share:.0f} %"
