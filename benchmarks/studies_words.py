"""What a study answered, in words: every figure with its 90 % interval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.convergence_plot import ratio_text
from benchmarks.studies_read import NOT_RUN, Record, Study
from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.style import hp_name

UNKNOWN = "–"
LINE = "<br>"  # between the sentences of an answer
DIGITS = 4  # of losses and regrets: the losses lie near 0.5
COSTS = {
    "narrowest_over_target_percent": "by the narrowest proxies",
    "arm_over_target_percent": "by the whole arm",
    "over_direct_search_percent": "of a direct search",
}


def signed(record: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Write an estimate with its sign and its interval, as `+0.05 (−0.32 to +0.23)`."""
    if record is None or record["estimate"] is None:
        return UNKNOWN
    center = _sign(record["estimate"], digits)
    if record["low"] is None or record["high"] is None:
        return f"{center} (no interval)"
    return f"{center} ({_sign(record['low'], digits)} to {_sign(record['high'], digits)})"


def _sign(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def plain(record: Record | None, digits: int = DIGITS, center: str = "estimate") -> str:
    """Write an estimate with its interval, a regret for instance."""
    if record is None or (record[center] is None and record["low"] is None):
        return UNKNOWN
    return wording.estimate_text(record, digits, center)


def drift(arm: Record | None) -> str:
    """Write an arm's drift in octaves per doubling of the width."""
    return UNKNOWN if arm is None else signed(arm["drift_octaves_per_doubling"])


def verdict(arm: Record | None) -> str:
    """Write an arm's verdict with the two answers that it rests on."""
    if arm is None:
        return UNKNOWN
    return f"{arm['verdict']} (moves: {arm['moves']}, matters: {arm['matters']})"


def predicted(study: Study) -> str:
    """Write what the transferred value was predicted to cost at the target."""
    return UNKNOWN if study.transfer is None else plain(_regret(study), center="mean")


def _regret(study: Study) -> Record | None:
    """Return the predicted regret; None where the target differs on what was not swept."""
    found = study.transfer and study.transfer["expected_regret"]
    return found if found and found.get("mean") is not None else None


def realised(study: Study) -> str:
    """Write what it did cost there, by the target's own rows."""
    if study.realised is None:
        return NOT_RUN
    return plain(study.realised["regret"])


def cost(ratios: Record) -> str:
    """Write what tuning cost: narrowest proxies, whole arm, against a direct search; in percent."""
    known = {name: ratios[name] for name in COSTS if ratios[name] is not None}
    return ", ".join(f"{_percent(value)} {COSTS[name]}" for name, value in known.items())


def bare_cost(study: Study) -> str:
    """Write the same three in figures alone."""
    if study.transfer is None:
        return UNKNOWN
    ratios = (study.transfer["cost"][name] for name in COSTS)
    return ", ".join(UNKNOWN if ratio is None else _percent(ratio) for ratio in ratios)


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 100 else f"{value:.3g} %"


def transferred(study: Study) -> str:
    """Say of every arm and HP whether it transfers, and what that cost at the target."""
    several = len({arm["hp"] for arm in study.arms}) > 1
    said = [
        f"{_subject(arm, several=several)}: {verdict(arm)}, drift {drift(arm)}"
        for arm in study.arms
    ]
    return LINE.join([_joined(said), *_at_target(study)])


def _subject(arm: Record, *, several: bool) -> str:
    name = arm_name(arm["parametrization"])
    return f"{name}, {hp_name(arm['hp'])}" if several else name


def _joined(said: Sequence[str]) -> str:
    return "; ".join(said) + " octaves per doubling" if said else UNKNOWN


def _at_target(study: Study) -> list[str]:
    if study.transfer is None:
        return []
    regrets = f"Regret at the target: predicted {predicted(study)}, realised {realised(study)}"
    return [regrets]


def searched_together(study: Study) -> str:
    """Say what several HPs searched together gave: verdicts, shares, flat directions."""
    assert study.estimates is not None, "asked of a study that holds them"
    said = [transferred(study)]
    for surface in study.estimates.get("surfaces") or []:
        shares = surface["importance"]["total"]
        if shares:
            named = ", ".join(f"{hp_name(hp)} {100 * v:.0f} %" for hp, v in shares.items())
            said.append(f"Shares of the variance at the widest width (Sobol, total): {named}")
    return LINE.join(said)


def under_conditions(study: Study) -> str:
    """Say how the optimum follows all that varies, and what the target's warnings say."""
    said = [
        f"{arm_name(arm['parametrization'])}, per doubling of the {axis.replace('_', ' ')}: "
        f"{signed(slope)} octaves"
        for arm in study.arms
        for axis, slope in arm["conditions"]["octaves_per_doubling"].items()
    ]
    warned = [] if study.transfer is None else study.transfer["warnings"]
    said += [f"The target's warning: “{_typeset(warning)}”" for warning in warned]
    return LINE.join([*said, *_at_target(study)])


def _typeset(sentence: str) -> str:
    """Give a sentence of the analysis true minus signs, and no full stop."""
    return re.sub(r"(?<![\w^])-(?=\d)", "−", sentence).removesuffix(".")


def by_both_measures(study: Study) -> str:
    """Say how far the optimum by Fréchet distance lies from that by loss, and what that costs."""
    assert study.by_metric is not None, "asked of a study that holds it"
    said = []
    for arm in study.by_metric["agreement"]:
        apart, widest = arm["mean_difference"], arm["widths"][-1]
        said.append(
            f"{arm_name(arm['parametrization'])}: best by Fréchet distance minus best by loss "
            f"{signed(apart)} octaves, mean of {apart['widths']} widths; at width "
            f"{widest['width']} {signed(widest['difference'])}, where the rate best by Fréchet "
            f"distance costs {plain(widest['loss_regret'])} of loss and the one best by loss "
            f"{plain(widest['metric_regret'], 2)} octaves of Fréchet distance"
        )
    return LINE.join(said)


def over_baseline(record: Record) -> str:
    """Write the speed-up over one baseline, and the same with the cost of tuning counted."""
    tuned = ratio_text(record["speed_up_with_tuning"])
    return f"{ratio_text(record['speed_up'])}, with tuning counted {tuned}"


def over_named(study: Study, name: str) -> str:
    """Write the speed-up over the baseline of that name, and the baseline's rate."""
    assert study.convergence is not None, "asked of a study that holds it"
    (found,) = (each for each in study.convergence["baselines"] if each["name"] == name)
    return f"{ratio_text(found['speed_up'])}, rate {2 ** found['log2_lr']:.2g}"


def sped_up(study: Study) -> str:
    """Say how many times fewer steps µP needed, over each baseline by its name."""
    assert study.convergence is not None, "asked of a study that holds it"
    found = study.convergence
    said = [
        f"Steps to equal loss at width {found['width']}, {len(found['seeds'])} seeds: µP's speed-up"
    ]
    said += [f"over {each['label']}: {over_baseline(each)}" for each in found["baselines"]]
    said += [
        f"Regret of µP's transferred rate at the target: {plain(found['transferred']['regret'])}",
        f"µP's tuning over the target run: {cost(found['cost'])}",
    ]
    said += [f"Warning: {warning}" for warning in found["warnings"]]
    return LINE.join(said)
