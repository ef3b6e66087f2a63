"""The record of a coordinate check: module outputs, their slopes over width, and the verdict.

The check of a trial (packs/coordinate_check.py) and that of a user's own step (own_check.py) share
it. Under µP an output's root mean square (RMS) at initialisation, and the RMS of its change after a
few steps, do not depend on width (arXiv 2203.03466, Appendix D.1): the slope of log2 RMS over log2
width is near zero.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from hptransfer.system.text import percent_text, rounded

LARGEST_SLOPE = 0.2  # largest |slope| that passes, in octaves per doubling; true µP stays near 0.1
MEASURED_STEPS = (2, 3, 4, 5, 6)  # steps taken when changes of outputs are measured
CHECK_SEEDS = tuple(range(8))  # seeds over which an RMS is averaged, from a trial's own on
LEAST_LOSS_DROP = 0.05  # share by which the base width's loss must fall for a check to count
OCTAVES_LOWER = 2  # octaves by which the rate is lowered, one by one, while a check fails
DECISIVE_SLOPE = 0.5  # |slope| in octaves per doubling; surely above it no lower rate is tried
NARROW_WIDTH = 64  # below it true µP may stray from one width to the next
SLIGHT_EXCESS = (
    0.1  # beyond the limit that right models of a narrow width may reach (separate keys)
)
CONFIDENCE = 0.95  # of the interval of a slope over seeds
OWN_OUTPUT = "(model)"  # the name of the model itself among its modules

OutputSizes = dict[tuple[str, str, int], list[float]]  # (module, quantity, step) -> RMS per seed


class WidthMeasurement(NamedTuple):
    """The measurements of one width."""

    sizes: OutputSizes
    loss_drop: float  # share by which the loss of the first batch fell


class Asked(NamedTuple):
    """What a coordinate check was asked, in its record and in its warnings."""

    heading: Mapping[str, str]  # family, parametrization and broken
    base_width: int
    log2_lr: float
    seeds: Sequence[int]
    steps: Sequence[int]  # steps taken when changes of outputs are measured
    readouts: Iterable[str]  # names of the modules that are readouts
    higher: str  # what sets a higher learning rate
    # From the slopes outside the limit to the causes that are told (check_causes.py).
    causes: Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]
    axis: str = "width"  # or depth: of the sizes in `runs`
    may_shrink: float = 0.0  # octaves per doubling by which any output may fall besides the limit


def answer_at_telling_rate(
    check_at: Callable[[float], dict[str, Any]], log2_lr: float, lowest: float = -math.inf
) -> dict[str, Any]:
    """Return the check at `log2_lr`, or at a lower rate if the rate alone may make it fail.

    `check_at` returns the `check_record` at a log2 learning rate, which is never below `lowest`. Of
    several checks the last one counts in which the base width's loss fell enough, or else the
    first.
    """
    answers = []
    for lowered in range(OCTAVES_LOWER + 1):
        if log2_lr - lowered < lowest:
            break
        answers.append(check_at(log2_lr - lowered))
        if not _may_pass_lower(answers[-1]):
            break
    return next((a for a in reversed(answers) if a["loss_drop"] >= LEAST_LOSS_DROP), answers[0])


def _may_pass_lower(answer: Mapping[str, Any]) -> bool:
    """Whether a check may pass at a lower rate.

    Near the edge of stability a few steps are no longer small changes, and slopes of true µP exceed
    the limit, by as much as their intervals over seeds there. Slopes of a wrong factor only get
    clearer at lower rates.
    """
    worst = answer["worst"]
    if any(cause["certain"] for cause in answer["causes"]):
        return False
    failed = not worst["ok"] and answer["loss_drop"] >= LEAST_LOSS_DROP
    if not failed or worst["slope"] is None:
        return failed
    return abs(worst["slope"]) - (worst["error"] or 0.0) <= DECISIVE_SLOPE


def module_outputs(model: nn.Module, call: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """Return the outputs of all modules with parameters, by name, in one call of the model.

    The model's own output is among them as `OWN_OUTPUT`. Several outputs of one module are named
    `name[index]` or `name[key]`; what has no RMS (a mask, None, a loss) is left out. So is what
    torch's parametrizations give: weights, and no activations.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, nn.MultiheadAttention):
            output = output[0]  # without the weights, a mean over heads that shrinks with them
        for ending, part in _parts(output):
            if isinstance(part, Tensor) and part.is_floating_point():
                outputs[name + ending] = part.detach()

    hooks = [
        module.register_forward_hook(partial(record, name or OWN_OUTPUT))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters()) and "parametrizations" not in name.split(".")
    ]
    try:
        call(model)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _parts(output: Any) -> Iterator[tuple[str, Any]]:
    """Yield a module's outputs, each with the ending of its name; of several none that is ()."""
    if isinstance(output, Tensor):
        yield "", output
        return
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, Mapping)):
        output = vars(output)
    if isinstance(output, Mapping):
        parts: Iterable[tuple[Any, Any]] = output.items()
    else:
        parts = enumerate(output) if isinstance(output, Sequence) else ()
    for index, part in parts:
        if isinstance(part, Tensor) and part.ndim:
            yield f"[{index}]", part


def add_sizes(
    sizes: OutputSizes, at_init: Mapping[str, Tensor], now: Mapping[str, Tensor], step: int
) -> None:
    """Add the RMS of one seed's outputs at initialisation (step 0), or of their changes since."""
    for module, value in now.items():
        change = value - at_init[module] if step else value
        rms = float(change.double().square().mean().sqrt())
        sizes.setdefault((module, "update" if step else "init", step), []).append(rms)


def raised_sentence(error: Exception, width: int, again: str) -> str:
    """Return what is told of an exception that steps at a width raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason, _, _ = f"{type(error).__name__}: {error}".partition("\n")
    return (
        f"A model must train at every width of the coordinate check, but a few steps at width "
        f"{width} raised {reason} ({place.filename}:{place.lineno} in "
        f"{place.name}). Mend the cause and {again}."
    )


def coordinate_record(asked: Asked, runs: Mapping[int, WidthMeasurement]) -> dict[str, Any]:
    """Return the coordinate check of measurements by width: slopes, verdict and RMS values.

    Its `loss_drop` is that of the width nearest to the base width.
    """
    loss_drop = runs[min(runs, key=lambda width: abs(width - asked.base_width))].loss_drop
    widths = sorted(runs)
    keys = list(runs[widths[0]].sizes)
    sizes = {key: [runs[w].sizes[key] for w in widths] for key in keys}
    zero = {key for key, rows in sizes.items() if not np.any(rows)}
    shrinking = _may_shrink(asked.readouts)
    slopes = []
    for key in keys:
        may_shrink = (key[0].partition("[")[0], key[1]) in shrinking
        lowest = -LARGEST_SLOPE - asked.may_shrink - (0.5 if may_shrink else 0.0)
        if key not in zero:
            over_width = asked.axis == "width"
            slopes.append(_slope(key, widths, sizes[key], lowest=lowest, over_width=over_width))
    outside = [slope for slope in slopes if not slope["ok"]]
    sure = [slope for slope in outside if slope["unsure"] is None]
    warnings = []
    if not loss_drop >= LEAST_LOSS_DROP:  # a loss that is NaN did not fall either
        warnings.append(
            f"At the base {asked.axis} the loss fell by only {percent_text(100 * loss_drop)} in "
            f"{max(asked.steps)} steps at learning rate {rounded(2.0**asked.log2_lr, 3)}. The "
            f"check needs a fall of {percent_text(100 * LEAST_LOSS_DROP)} to tell anything: check "
            f"at a higher learning rate ({asked.higher})."
        )
    causes = asked.causes(outside)
    failed = bool(sure or warnings or any(cause["certain"] for cause in causes))
    verdict = "fail" if failed else "inconclusive" if outside else "pass"
    return {
        **asked.heading,
        f"{asked.axis}s": widths,
        "log2_lr": asked.log2_lr,
        "seeds": list(asked.seeds),
        "steps": list(asked.steps),
        "limit": LARGEST_SLOPE,
        "loss_drop": round(loss_drop, 4),
        "slopes": slopes,
        "zero": [
            f"{module} (init)" if quantity == "init" else f"{module} (update, step {step})"
            for module, quantity, step in keys
            if (module, quantity, step) in zero
        ],
        "worst": max(sure or outside or slopes, key=_excess),
        "verdict": verdict,
        "causes": list(causes),
        "warnings": [
            *warnings,
            *([] if failed else _unsure_sentences(asked.axis, outside, widths)),
        ],
        "rms": [
            {"module": m, "quantity": q, "step": s, asked.axis: w, "rms": _typical(rows)}
            for (m, q, s) in keys
            if (m, q, s) not in zero
            for w, rows in zip(widths, sizes[m, q, s], strict=True)
        ],
    }


def _excess(slope: Mapping[str, Any]) -> float:
    """Return by how much a slope lies outside the allowed interval; negative if inside."""
    value = slope["slope"]
    return math.inf if value is None else max(value - LARGEST_SLOPE, slope["lowest"] - value)


def _typical(rms_per_seed: Sequence[float]) -> float | None:
    """Return the geometric mean over seeds, or None where it is zero or not finite."""
    values = np.asarray(rms_per_seed)
    if not np.all(np.isfinite(values)) or np.any(values <= 0):
        return None
    return float(np.exp(np.log(values).mean()))


def _may_shrink(readouts: Iterable[str]) -> set[tuple[str, str]]:
    """Return the (module, quantity) pairs whose RMS may fall as m^-1/2 under µP.

    That is a readout's output at initialisation where its weights are not zero (arXiv 2203.03466,
    Appendix D.1), in every module that holds the readout.
    """
    parts = [name.split(".") for name in readouts]
    return {(".".join(p[:n]), "init") for p in parts for n in range(1, len(p) + 1)}


def _slope(
    key: tuple[str, str, int],
    widths: Sequence[int],
    sizes: Sequence[Sequence[float]],
    *,
    lowest: float,
    over_width: bool,
) -> dict[str, Any]:
    module, quantity, step = key
    typical = [_typical(rows) for rows in sizes]
    slope = error = last = None
    if all(value is not None for value in typical):
        logs = np.log2([value for value in typical if value is not None])
        log2_widths = np.log2(widths)
        centred = log2_widths - log2_widths.mean()
        weights = centred / (centred @ centred)
        slope = float(weights @ logs)
        last = float((logs[-1] - logs[-2]) / (log2_widths[-1] - log2_widths[-2]))
        error = _half_interval(weights, sizes)
    found = {
        "module": module,
        "quantity": quantity,
        "step": step,
        "slope": None if slope is None else round(slope, 4),
        "error": None if error is None else round(error, 4),
        "lowest": lowest,
        "unsure": None,
    }
    if _excess(found) <= 0:
        return {**found, "ok": True}
    may_be_noise = slope is not None and _may_be_noise(found)
    dies_out = over_width and last is not None and len(widths) > 2 and _dies_out(found, last)
    few = len(widths) == 2 or _excess(found) <= SLIGHT_EXCESS
    narrow = dies_out or (over_width and few and widths[0] < NARROW_WIDTH)
    if may_be_noise:
        found["unsure"] = "noise"
    elif slope is not None and narrow and not _is_decisive(found):
        found["unsure"] = "narrow"
    return {**found, "ok": may_be_noise and dies_out}


def _half_interval(weights: np.ndarray[Any, Any], sizes: Sequence[Sequence[float]]) -> float | None:
    """Return half the length of a slope's interval over seeds; None for one seed.

    The spread over seeds is pooled over the widths.
    """
    from scipy.special import stdtrit  # slow to import

    seeds = len(sizes[0])
    if seeds < 2:
        return None
    variances = [np.var(np.log2(rows), ddof=1) for rows in sizes]
    error = math.sqrt(float(np.mean(variances)) / seeds) * float(np.linalg.norm(weights))
    freedom = len(sizes) * (seeds - 1)
    return error * float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def _is_decisive(slope: Mapping[str, Any]) -> bool:
    return _excess(slope) > DECISIVE_SLOPE - LARGEST_SLOPE


def _may_be_noise(slope: Mapping[str, Any]) -> bool:
    """Whether a slope's interval over seeds includes the limit; of one seed, if it is not steep."""
    if slope["error"] is None:
        return not _is_decisive(slope)
    return _excess(slope) <= slope["error"]


def _dies_out(slope: Mapping[str, Any], last: float) -> bool:
    """Whether a slope outside the limit lies inside at the last doubling, `last`.

    The deviation of narrow models dies out as they widen, while that of a wrong factor stays.
    """
    return _excess({**slope, "slope": last}) <= 0 or (last > 0) != (slope["slope"] > 0)


def _unsure_sentences(
    axis: str, outside: Sequence[Mapping[str, Any]], widths: Sequence[int]
) -> list[str]:
    """Return why a check is inconclusive, and what to do."""
    reasons = {slope["unsure"] for slope in outside}
    wider = ",".join(str(NARROW_WIDTH * multiple) for multiple in (1, 2, 4))
    told = []
    if "noise" in reasons:
        told.append(
            "What lies outside the limit may be noise: over the seeds the slopes' intervals "
            "include the limit."
        )
    if "narrow" in reasons:
        told.append(
            f"Widths {', '.join(map(str, widths))} are too narrow to tell: what lies outside the "
            "limit is not steep, and true µP strays as much there."
        )
    advice = f"Check at wider widths, such as {wider}." if axis == "width" else "Check more depths."
    return [f"{sentence} {advice}" for sentence in told]
