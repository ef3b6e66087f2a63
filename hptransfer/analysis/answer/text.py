"""The estimates of a sweep as text: what `hptransfer fit` prints, and the words of other places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.config.choices import arm_name
from hptransfer.config.hyperparameters import hp_value, hp_words, value_text
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.results.metrics import LOSS, METRICS, ema_metric, metric_of
from hptransfer.system.text import cost_text, decimal, percent_text, rounded, text_table

OCTAVE = "An octave is a factor of two: +1 doubles the hyperparameter, -1 halves it."
CENSORED = {
    "grid_low": "on the grid's lower edge",
    "grid_high": "on the grid's upper edge",
    "divergence": "next to a point that failed or blew up",
    "flat": "flat: no clear minimum",
    "too_few": "too few points",
}
# Octaves of the learning rate per doubling that others found, and where.
PUBLISHED = {
    "depth": "-0.5; 0 with depth scaling",
    "batch_size": "+0.5",
    "steps": "-0.32",
}
LEAST_PERCENT, MOST_PERCENT = 0.001, 1000.0  # beyond which a share is not told apart
COMPLETE = "complete"  # the arm whose factors follow depth, batch size and steps as published
SOURCES = (
    "published: width 0 under µP (arXiv 2203.03466), depth (2310.02244; 2505.01618), batch size "
    "(square-root rule at equal tokens, 2205.10287), training steps (language models, 2409.19913)."
)
OF_COMPLETE = (
    "published: 0, since `complete` has the rules for width, depth, batch size and duration in its "
    "factors (arXiv 2512.22382; for the power -0.32 of the duration, 2409.19913)."
)
# Powers of the duration by which the field lets rates follow it at one batch size.
POWERS_OF_DURATION = {-0.5: "square root", -0.32: "fitted to language models", 0.0: "none"}
USUAL_EXPONENT = 0.5  # parametrization.duration_exponent unless it was set


def arm_names(arms: Sequence[Mapping[str, Any]], *, with_hp: bool = True) -> list[str]:
    """Return a name for each arm: its family and hyperparameter where there are several."""
    families, hps = ({arm.get(key) for arm in arms} for key in ("family", "hp"))
    names = []
    for arm in arms:
        family = f"{arm['family']} " if len(families) > 1 else ""
        hp = f", {hp_words(arm['hp'])}" if with_hp and len(hps) > 1 else ""
        names.append(f"{family}{arm_name(arm['parametrization'])}{hp}")
    return names


def estimates_text(estimates: Mapping[str, Any]) -> str:
    """Return every arm's answer, why it is so, its optima and warnings.

    Estimates by another metric than the loss also say how far their optima are from the loss's, and
    those by the loss which moving average of the weights is best, where rows hold some.
    """
    arms, measured = estimates["arms"], metric_of(estimates).label
    parts = [f"sweep {estimates['sweep']}"]
    parts += [
        arm_text(name, arm, measured) for name, arm in zip(arm_names(arms), arms, strict=True)
    ]
    told_in_octaves = "agreement" in estimates or any(map(octave_rows, arms))
    parts += ["\n".join([*([OCTAVE] if told_in_octaves else []), *trial_notes(estimates)])]
    parts += [agreement_text(estimates)] if "agreement" in estimates else []
    parts += [averages_text(estimates["averages"])] if "averages" in estimates else []
    return "\n\n".join(part for part in parts if part)


def arm_text(name: str, arm: Mapping[str, Any], measured: str) -> str:
    """Return an arm's headline, verdict and reasons, then its optima, conditions and warnings."""
    lines = [name, *answer_lines(arm)]
    if arm["optima"]:
        lines.append(text_table("", *optima_table(arm, measured)))
    octaves = octave_rows(arm)
    if octaves:
        lines.append(text_table("", OCTAVE_COLUMNS, octaves))
        lines += [f"  {note}" for note in octave_notes(arm)]
    lines += [f"  warning: {warning}" for warning in arm["warnings"]]
    return "\n".join(lines)


def answer_lines(arm: Mapping[str, Any]) -> list[str]:
    """Return an arm's headline, what it says in single words, and the reasons, indented."""
    return [*arm["headline"].splitlines(), verdict_line(arm), *(f"  {r}" for r in arm["reasons"])]


def verdict_line(told: Mapping[str, Any]) -> str:
    """Return in single words whether the optimum moves, whether that matters, and the verdict."""
    return f"moves: {told['moves']}, matters: {told['matters']} -> {told['verdict']}"


def optima_table(arm: Mapping[str, Any], measured: str) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of an arm's optima along its axis."""
    hp, axis = arm["hp"], arm["axis"]
    is_log = hp.startswith("log2_")
    noted = any(each["censored"] for each in arm["optima"])
    heads = [AXIS_WORDS[axis], hp_words(hp), "90 % interval", *(["log2"] if is_log else [])]
    rows = [
        [
            f"{each[axis]:g}",
            value_text(hp, hp_value(hp, each["optimum"])),
            _interval(hp, each),
            *([f"{each['optimum']:.2f}"] if is_log else []),
            _loss(each["loss"]),
            str(each["n_seeds"]),
            *([CENSORED.get(each["censored"], "")] if noted else []),
        ]
        for each in arm["optima"]
    ]
    return [*heads, measured, "seeds", *(["note"] if noted else [])], rows


def _interval(hp: str, optimum: Mapping[str, Any]) -> str:
    low, high = optimum["low"], optimum["high"]
    if low is None and high is None and optimum["noise"]["sd"] is not None:
        return "wider than the grid"
    return value_span(hp, low, high)


def value_span(hp: str, low: float | None, high: float | None) -> str:
    """Return the values of a hyperparameter between two points of its axis."""
    return _span(
        *(None if end is None else value_text(hp, hp_value(hp, end)) for end in (low, high))
    )


def target_differs(arm: Mapping[str, Any]) -> dict[str, float]:
    """Return the target's depth, batch size and steps where they are not those of the answer."""
    target, axis = arm["target"] or {}, arm["axis"]
    held = {name: value for name, value in arm["at"].items() if name in target and name != axis}
    return {name: target[name] for name, value in held.items() if target[name] != value}


def span(low: float | None, high: float | None, form: str) -> str:
    """Return an interval in words; an end beyond the grid is not known."""
    return _span(*(None if end is None else decimal(end, form) for end in (low, high)))


def _span(low: str | None, high: str | None) -> str:
    match low, high:
        case None, None:
            return "not known"
        case None, end:
            return f"up to {end}"
        case end, None:
            return f"{end} or more"
    return f"{low} to {high}"


OCTAVE_COLUMNS = ("octaves per doubling of", "estimate", "90 % interval", "published")


def octave_rows(arm: Mapping[str, Any]) -> list[list[str]]:
    """Return how the optimum follows each axis, beside published exponents where there are any.

    It is empty where only one axis varies.
    """
    told = arm["conditions"]
    if told is None:
        return []
    known = dict(PUBLISHED) if arm["hp"] == "log2_lr" else {}
    if known and arm["parametrization"] == "mup":
        known["width"] = "0"
    if known and arm["parametrization"] == COMPLETE:
        known = dict.fromkeys(AXIS_WORDS, "0")
    # The square-root rule is one at equal tokens.
    equal = "" if told["tokens"] is None else known.pop("batch_size", "")
    rows = [
        (AXIS_WORDS[axis], each, known.get(axis, ""))
        for axis, each in told["octaves_per_doubling"].items()
    ]
    if told["tokens"] is not None:
        rows.append(("tokens, both grown alike", told["tokens"]["both"], ""))
        rows.append(("batch size at equal tokens", told["tokens"]["batch_size"], equal))
    return [
        [name, decimal(each["estimate"]), span(each["low"], each["high"], "+.2f"), published]
        for name, each, published in rows
    ]


def octave_notes(arm: Mapping[str, Any]) -> list[str]:
    """Return what the rows of `octave_rows` need to be read."""
    notes = []
    if arm["conditions"]["tokens"] is not None:
        notes.append(
            "Tokens are batch size times training steps. Twice the tokens move the optimum by the "
            "octaves of the training steps where the training is longer, by those of the batch "
            "size where the batch is larger, and by half their sum where both grow alike. Twice "
            "the batch at equal tokens moves it by the batch size's octaves minus the steps'."
        )
    if arm["hp"] != "log2_lr":
        return notes
    notes.append(OF_COMPLETE if arm["parametrization"] == COMPLETE else SOURCES)
    duration = duration_sentence(arm)
    return [*notes, duration] if duration else notes


def duration_sentence(arm: Mapping[str, Any]) -> str | None:
    """Return how the best rate follows the duration, beside the field's rules and what to set.

    None where the steps do not vary, or the rate transfers under neither µP nor `complete`. Under
    `complete` the factors lower the rate already; the record does not hold by which exponent, so
    the sentence names the usual one as its condition.
    """
    moved = arm["conditions"]["octaves_per_doubling"].get("steps")
    if moved is None or arm["parametrization"] not in ("mup", COMPLETE):
        return None
    already = USUAL_EXPONENT if arm["parametrization"] == COMPLETE else 0.0
    power, low, high = (
        None if moved[end] is None else moved[end] - already for end in ("estimate", "low", "high")
    )
    if power is None:
        return None
    rules = [f"{decimal(rule, '.2f')} ({words})" for rule, words in POWERS_OF_DURATION.items()]
    held = [
        decimal(rule, ".2f")
        for rule in POWERS_OF_DURATION
        if (low is None or low <= rule) and (high is None or rule <= high)
    ]
    condition, otherwise = "The", ""
    if already:
        condition = "If these trials name base_steps and have duration_exponent=0.5, the"
        otherwise = f"; from another exponent, add {decimal(-moved['estimate'])} to it"
    return (
        f"{condition} best rate goes with the power {decimal(power, '.2f')} of the training steps "
        f"(90 % interval {span(low, high, '.2f')}), for which the field has {', '.join(rules)}: "
        f"the interval holds {' and '.join(held) or 'none of these'}; to scale a target so, set "
        f"parametrization.duration_exponent={min(max(-power, 0.0), 1.0):.2f}{otherwise}."
    )


def trial_notes(estimates: Mapping[str, Any]) -> list[str]:
    """Return a sentence on missing trials and one on recorded trials that were left out."""
    missing, left_out = (estimates["trials"][name] for name in ("missing", "left_out"))
    notes = []
    if missing:
        notes.append(
            f"{missing} trials of the sweep are not finished, so the answer may still change."
        )
    if left_out:
        notes.append(left_out_sentence(left_out))
    return notes


def left_out_sentence(count: int) -> str:
    """Return what became of recorded rows that a sweep does not ask for."""
    if count == 1:
        return "1 recorded row is not used, because the sweep does not ask for it any more."
    return f"{count} recorded rows are not used, because the sweep does not ask for them any more."


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def agreement_text(estimates: Mapping[str, Any]) -> str:
    """Say how far the optima by a metric are from those by the loss."""
    told, by = estimates["agreement"], metric_of(estimates).label
    names = arm_names(told)
    cells = [
        [
            name,
            str(at["width"]),
            _optimum(at["by_loss"]),
            _optimum(at["by_metric"]),
            _spanned(at["difference"], "+.2f"),
            cost_text(at["loss_regret"]),
        ]
        for name, arm in zip(names, told, strict=True)
        for at in arm["widths"]
    ]
    columns = [
        "parametrization",
        "width",
        "by loss",
        f"by {by}",
        "octaves apart",
        "costs in loss",
    ]
    title = f"log2 of the best value by {by}, beside that by loss"
    lines = [text_table(title, columns, cells)]
    for name, arm in zip(names, told, strict=True):
        mean = arm["mean_difference"]
        widths = f"{mean['widths']} width{'' if mean['widths'] == 1 else 's'}"
        if mean["widths"] == 0:
            lines.append(f"{name}: how far the optimum by {by} lies from that by loss is not known")
            continue
        lines.append(
            f"{name}: over {widths} the optimum by {by} lies {_spanned(mean, '+.2f')} octaves from "
            "that by loss on average"
        )
    return "\n".join(lines)


AVERAGES = (
    "Horizons of moving averages are shares of the steps, and each is at its own best swept value. "
    "The last column says how much the next best lies above the best in the same runs: mean over "
    "the seeds with its 90 % interval. `hptransfer fit --metric={}` fits the optimum under one."
)


def averages_text(compared: Sequence[Mapping[str, Any]]) -> str:
    """Say which moving average of the weights is best at every width, by each measure and arm.

    Where horizons have their best at other points, these points stand in a second table.
    """
    parts = []
    for name, arm in zip(arm_names(compared, with_hp=False), compared, strict=True):
        label = METRICS[arm["measure"]].label
        heads = ["width", *(_horizon_text(e["horizon"]) for e in arm["widths"][0]["horizons"])]
        title = f"{name}: lowest {label} over the swept values, by the horizon of an average"
        cells = [
            [
                str(at["width"]),
                *(_loss(each["value"]) for each in at["horizons"]),
                _horizon_text(at["lowest"]),
                "-" if at["margin"] is None else cost_text(at["margin"]),
            ]
            for at in arm["widths"]
        ]
        parts.append(text_table(title, [*heads, "best", "next is worse by"], cells))
        points = [[each["point"] for each in at["horizons"]] for at in arm["widths"]]
        if any(point != row[0] for row in points for point in row):
            hps = next(list(point) for row in points for point in row if point)
            cells = [
                [str(at["width"]), *map(_point, row)]
                for at, row in zip(arm["widths"], points, strict=True)
            ]
            parts.append(text_table(f"{name}: {', '.join(hps)} at that", heads, cells))
    last = compared[0]["widths"][-1]["horizons"][-1]["horizon"]
    return "\n".join([*parts, AVERAGES.format(ema_metric(LOSS, last).name)])


def _horizon_text(horizon: float | None) -> str:
    return "deciding" if horizon is None else f"{horizon:g}"


def _point(point: Mapping[str, float] | None) -> str:
    values = [] if point is None else point.values()
    return ", ".join("off" if value is None else f"{value:g}" for value in values) or "-"


def _optimum(told: Mapping[str, Any]) -> str:
    return f"{told['optimum']:.2f}" + (f" ({told['censored']})" if told["censored"] else "")


def _spanned(told: Mapping[str, Any], form: str) -> str:
    ends = span(told["low"], told["high"], form)
    return ends if told["estimate"] is None else f"{decimal(told['estimate'], form)} ({ends})"


def cost_sentence(cost: Mapping[str, Any]) -> str:
    """Return the three ratios of `costs` in two sentences; each must be known."""
    names = ("arm_over_target", "narrowest_over_target", "over_direct_search")
    all_widths, narrowest, direct = (percent_text(cost[f"{name}_percent"]) for name in names)
    return (
        f"The trials of the target's parametrization cost {all_widths} of one target run, and "
        f"those of its narrowest width alone {narrowest}. Together they cost {direct} of the same "
        "search at the target's own width"
    )


def decay_lines(timescales: Mapping[str, Mapping[str, float] | None]) -> list[str]:
    """Return a line on the weight decay as a time scale; none where nothing decays."""
    ends = [each[end] for each in timescales.values() if each for end in ("low", "high")]
    if not ends:
        return []
    low, high = (rounded(end, 3) for end in (min(ends), max(ends)))
    left_out = [role for role, each in timescales.items() if each is None]
    but = f"; {' and '.join(left_out)} parameters do not decay" if left_out else ""
    runs = low if low == high else f"{low} to {high}"
    return [f"Weight decay alone would shrink weights by the factor e in τ = {runs} runs{but}."]


def percent(value: float) -> str:
    """Return a share in percent with two significant digits, within what is worth telling."""
    if value < LEAST_PERCENT:
        return f"less than {LEAST_PERCENT:g} %"
    if value > MOST_PERCENT:
        return f"over {MOST_PERCENT:g} %"
    return percent_text(value)
