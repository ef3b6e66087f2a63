"""The coordinate check, which shows whether a parametrization is µP (arXiv 2203.03466, App. D.1).

Every module's output is measured on a fixed probe batch at several widths. Under µP the output's
root mean square (RMS) at initialisation, and the RMS of its change after a few steps, do not depend
on width: the slope of log2 RMS over log2 width is near zero. Changes h_t - h_0 tell far more than
raw values: mean |activation| after training does not reveal a hidden rate that is wrong by m.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Precision, Schedule
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import with_width
from hptransfer.data import Dataset, load_data
from hptransfer.errors import MachineError, UserError
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import parameter_rules
from hptransfer.system.text import percent_text, rounded
from hptransfer.training.batches import evaluation_batches
from hptransfer.training.device import is_out_of_memory, torch_device
from hptransfer.training.objectives import noised
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.state import pack_losses, start_training

LARGEST_SLOPE = 0.2  # largest |slope| that passes, in octaves per doubling; true µP stays near 0.1
MEASURED_STEPS = (2, 3, 4, 5, 6)  # steps taken when changes of outputs are measured
CHECK_SEEDS = tuple(range(8))  # seeds of the trials over which an RMS is averaged
PROBE_SAMPLES = 64  # held-out samples of the probe batch
LEAST_LOSS_DROP = 0.05  # share by which the base width's loss must fall for a check to count
OCTAVES_LOWER = 2  # octaves by which the rate is lowered, one by one, while a check fails
DECISIVE_SLOPE = 0.5  # |slope| in octaves per doubling above which no lower rate is tried

OutputSizes = dict[tuple[str, str, int], list[float]]  # (module, quantity, step) -> RMS per seed


class WidthMeasurement(NamedTuple):
    """The measurements of one width."""

    sizes: OutputSizes
    loss_drop: float  # share by which the loss of the first batch fell


def coordinate_check(
    base: TrialConfig, widths: Sequence[int], log2_lr: float, runtime: RuntimeConfig
) -> dict[str, Any]:
    """Return the coordinate check of a trial's parametrization over `widths`.

    The base learning rate is 2**log2_lr, or up to `OCTAVES_LOWER` octaves lower where the check may
    fail because of the rate. The answer is the object of `hptransfer check --json`: slopes in
    octaves per width doubling, the verdict `pass` or `fail`, and the RMS values behind the slopes.
    An output that is exactly zero at all widths (a module initialised to zero, or one that has not
    changed yet) has no slope and is listed under `zero`.

    Raises:
        UserError: `widths` are fewer than two different ones, or the model raises an exception.
        MachineError: the trials of a width do not fit into the device's memory.
    """
    if len(set(widths)) < 2 or set(widths) == {base.model.base_width}:
        raise UserError(
            "A coordinate check needs at least two different widths, since at the base width "
            f"every parametrization is the same model, but got widths={list(widths)}. Set "
            "sweep.widths."
        )
    torch.set_num_threads(runtime.threads)
    dataset = load_data(base.data, runtime.data_folder)
    eager = dataclasses.replace(runtime, compile=False, graph=False)

    def check_at(rate: float) -> dict[str, Any]:
        probe = probe_config(base, rate)
        runs = {w: _measured(with_width(probe, w), dataset, eager) for w in widths}
        return check_record(base, runs, rate)

    return {**answer_at_telling_rate(check_at, log2_lr), "asked_log2_lr": log2_lr}


def answer_at_telling_rate(
    check_at: Callable[[float], dict[str, Any]], log2_lr: float
) -> dict[str, Any]:
    """Return the check at `log2_lr`, or at a lower rate if the rate alone may make it fail.

    `check_at` returns the `check_record` at a log2 learning rate. Of several checks the last one
    counts in which the base width's loss fell enough, or else the first.
    """
    answers = []
    for lowered in range(OCTAVES_LOWER + 1):
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


def probe_config(base: TrialConfig, log2_lr: float) -> TrialConfig:
    """Return the trial in float32 at a constant rate, for the steps that are measured."""
    budget = dataclasses.replace(
        base.budget, steps=max(MEASURED_STEPS), schedule=Schedule.constant, warmup_fraction=0.0
    )
    config = dataclasses.replace(base, budget=budget, precision=Precision.fp32)
    return with_hyperparameters(config, {"log2_lr": log2_lr})


def _measured(config: TrialConfig, dataset: Dataset, runtime: RuntimeConfig) -> WidthMeasurement:
    """Return `measure_width`; an exception that the model raises ends it with a sentence."""
    try:
        return measure_width(config, dataset, runtime)
    except (UserError, MachineError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MachineError(
                f"The {len(CHECK_SEEDS)} trials of a coordinate check must fit into memory "
                f"together, but at width {config.model.width} they do not. Lower "
                "budget.batch_size, leave this width out, or set sweep.gate=false to sweep "
                "without the check."
            ) from error
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason, _, _ = f"{type(error).__name__}: {error}".partition("\n")
        raise UserError(
            f"A model must train at every width of the coordinate check, but a few steps at width "
            f"{config.model.width} raised {reason} ({place.filename}:{place.lineno} in "
            f"{place.name}). Mend the cause and run the same command again."
        ) from error


def measure_width(
    config: TrialConfig, dataset: Dataset, runtime: RuntimeConfig
) -> WidthMeasurement:
    """Return the RMS of all outputs, and of their changes in training, at the config's width."""
    seeded = [dataclasses.replace(config, seed=seed) for seed in CHECK_SEEDS]
    state = start_training(seeded, dataset, torch_device(runtime), runtime)
    pack, first_batch = state.pack, state.batch(0)
    with torch.no_grad():
        loss_before = pack_losses(pack, first_batch).mean()
    at_init = [_outputs(pack, seed, dataset) for seed in range(len(CHECK_SEEDS))]
    sizes: OutputSizes = {}
    for outputs in at_init:
        for module, value in outputs.items():
            sizes.setdefault((module, "init", 0), []).append(_rms(value))
    for step in range(max(MEASURED_STEPS)):
        state.train_step(step)
        if step + 1 not in MEASURED_STEPS:
            continue
        for seed, before in enumerate(at_init):
            for module, value in _outputs(pack, seed, dataset).items():
                change = _rms(value - before[module])
                sizes.setdefault((module, "update", step + 1), []).append(change)
    with torch.no_grad():
        loss_after = pack_losses(pack, first_batch).mean()
    state.close()
    return WidthMeasurement(sizes, float(1 - loss_after / loss_before))


def _rms(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())


@torch.no_grad()
def _outputs(pack: Pack, member: int, dataset: Dataset) -> dict[str, Tensor]:
    """Return every module's output on the probe batch for one member."""
    config = pack.configs[member]
    first = next(iter(evaluation_batches(config, dataset.validation)))
    batch = first.part(slice(PROBE_SAMPLES), pack.device)
    at = noised(config.objective, batch.images, batch.noise, batch.u)
    tensors = pack.member_tensors(member)
    return module_outputs(
        pack.template,
        lambda model: functional_call(model, tensors, (at.x, at.t, *batch.condition)),
    )


def module_outputs(model: nn.Module, call: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """Return the outputs of all modules with parameters, by name, in one call of the model.

    Several outputs of one module are named `name[index]`; a mask or None among them has no RMS and
    is left out.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[name] = output.detach()
            return
        for index, part in enumerate(output):
            if isinstance(part, Tensor) and part.is_floating_point():
                outputs[f"{name}[{index}]"] = part.detach()

    hooks = [
        module.register_forward_hook(partial(record, name))
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    call(model)
    for hook in hooks:
        hook.remove()
    return outputs


def check_record(
    base: TrialConfig, runs: Mapping[int, WidthMeasurement], log2_lr: float
) -> dict[str, Any]:
    """Return the coordinate check of measurements by width: slopes, verdict and RMS values.

    Its `loss_drop` is that of the width nearest to the base width.
    """
    loss_drop = runs[min(runs, key=lambda width: abs(width - base.model.base_width))].loss_drop
    widths = sorted(runs)
    keys = list(runs[widths[0]].sizes)
    sizes = {key: [runs[w].sizes[key] for w in widths] for key in keys}
    zero = {key for key, rows in sizes.items() if not np.any(rows)}
    shrinking = _may_shrink(base)
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
            f"{max(MEASURED_STEPS)} steps at learning rate {rounded(2.0**log2_lr, 3)}. The check "
            f"needs a fall of {percent_text(100 * LEAST_LOSS_DROP)} to tell anything: check at a "
            "higher learning rate (search.lr.low, search.lr.high)."
        )
    return {
        "family": base.model.family,
        "parametrization": base.parametrization.scaling.value,
        "broken": base.parametrization.broken.value,
        "widths": widths,
        "log2_lr": log2_lr,
        "seeds": list(CHECK_SEEDS),
        "steps": list(MEASURED_STEPS),
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


def _may_shrink(base: TrialConfig) -> set[tuple[str, str]]:
    """Return the (module, quantity) pairs whose RMS may fall as m^-1/2 under µP.

    That is a readout's output at initialisation where its weights are not zero (arXiv 2203.03466,
    Appendix D.1), in every module that holds the readout.
    """
    readouts = [
        rule.name.rpartition(".")[0] for rule in parameter_rules(base) if rule.role is Role.output
    ]
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
