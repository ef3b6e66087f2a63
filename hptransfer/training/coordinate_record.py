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
CHECK_SEEDS = tuple(range(8))  # seeds of the trials over which an RMS is averaged
LEAST_LOSS_DROP = 0.05  # share by which the base width's loss must fall for a check to count
OCTAVES_LOWER = 2  # octaves by which the rate is lowered, one by one, while a check fails
DECISIVE_SLOPE = 0.5  # |slope| in octaves per doubling above which no lower rate is tried

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
    the limit. Slopes of a wrong factor only get clearer at lower rates.
    """
    slope = answer["worst"]["slope"]
    failed = answer["verdict"] == "fail" and answer["loss_drop"] >= LEAST_LOSS_DROP
    return failed and (slope is None or abs(slope) <= DECISIVE_SLOPE)


def module_outputs(
    model: nn.Module, call: Callable[[nn.Module], object], *, own_name: str = ""
) -> dict[str, Tensor]:
    """Return the outputs of all modules with parameters, by name, in one call of the model.

    The model's own output is among them if `own_name` names it. Several outputs of one module are
    named `name[index]` or `name[key]`; what has no RMS (a mask, None, a loss) is left out.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        for ending, part in _parts(output):
            if isinstance(part, Tensor) and part.is_floating_point():
                outputs[name + ending] = part.detach()

    hooks = [
        module.register_forward_hook(partial(record, name or own_name))
        for name, module in model.named_modules()
        if (name or own_name) and any(True for _ in module.parameters())
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
        lowest = -LARGEST_SLOPE - (0.5 if may_shrink else 0.0)
        if key not in zero:
            slopes.append(_slope(key, widths, sizes[key], lowest=lowest))
    failed = [slope for slope in slopes if not slope["ok"]]
    warnings = []
    if not loss_drop >= LEAST_LOSS_DROP:  # a loss that is NaN did not fall either
        warnings.append(
            f"At the base width the loss fell by only {percent_text(100 * loss_drop)} in "
            f"{max(asked.steps)} steps at learning rate {rounded(2.0**asked.log2_lr, 3)}. The "
            f"check needs a fall of {percent_text(100 * LEAST_LOSS_DROP)} to tell anything: check "
            f"at a higher learning rate ({asked.higher})."
        )
    return {
        **asked.heading,
        "widths": widths,
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
        "worst": max(slopes, key=_excess),
        "verdict": "fail" if failed or warnings else "pass",
        "warnings": warnings,
        "rms": [
            {"module": m, "quantity": q, "step": s, "width": w, "rms": _typical(rows)}
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
) -> dict[str, Any]:
    module, quantity, step = key
    typical = [_typical(rows) for rows in sizes]
    slope = None
    if all(value is not None for value in typical):
        logs = [math.log2(value) for value in typical if value is not None]
        slope = float(np.polyfit(np.log2(widths), logs, 1)[0])
    return {
        "module": module,
        "quantity": quantity,
        "step": step,
        "slope": None if slope is None else round(slope, 4),
        "lowest": lowest,
        "ok": slope is not None and lowest <= slope <= LARGEST_SLOPE,
    }
