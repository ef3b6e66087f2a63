"""The coordinate check, which shows whether a parametrization is µP (arXiv 2203.03466, App. D.1).

Every module's output is measured on a fixed probe batch at several widths. Under µP the output's
root mean square (RMS) at initialisation, and the RMS of its change after a few steps, do not depend
on width: the slope of log2 RMS over log2 width is near zero. Changes h_t - h_0 tell far more than
raw values: mean |activation| after training does not reveal a hidden rate that is wrong by m.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from hptransfer.config import (
    CustomConfig,
    Layout,
    ModelConfig,
    MuonConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import Precision, Schedule
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import with_width
from hptransfer.data import Dataset, load_data
from hptransfer.errors import MachineError, UserError
from hptransfer.models.families.custom import on_example
from hptransfer.models.parametrization.dataflow import UNWATCHED, attention_calls
from hptransfer.models.parametrization.roles import (
    Wording,
    custom_dataflow,
    on_meta,
    shaped_parameters,
)
from hptransfer.models.parametrization.rules import parameter_rules
from hptransfer.training.batches import evaluation_batches
from hptransfer.training.check_causes import Shapes, Structure
from hptransfer.training.coordinate_record import (
    CHECK_SEEDS,
    MEASURED_STEPS,
    OCTAVES_LOWER,
    OWN_OUTPUT,
    Asked,
    OutputSizes,
    WidthMeasurement,
    add_sizes,
    answer_at_telling_rate,
    coordinate_record,
    module_outputs,
    raised_sentence,
)
from hptransfer.training.device import is_out_of_memory, torch_device
from hptransfer.training.objectives import asked_in_training, noised
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.state import pack_losses, start_training

PROBE_SAMPLES = 64  # held-out samples of the probe batch


def coordinate_check(
    base: TrialConfig, widths: Sequence[int], log2_lr: float, runtime: RuntimeConfig
) -> dict[str, Any]:
    """Return the coordinate check of a trial's parametrization over `widths`.

    Every width is trained with the `check_seeds` of the trial. The base learning rate is
    2**log2_lr, or up to `OCTAVES_LOWER` octaves lower where the check may fail because of the rate.
    That of Muon is at least the `telling_rate`. The answer is the object of `hptransfer check
    --json`: slopes in octaves per width doubling, the verdict `pass`, `fail` or `inconclusive`, the
    causes of a failure, and the RMS values behind the slopes. An output that is exactly zero at all
    widths (a module initialised to zero, or one that has not changed yet) has no slope and is
    listed under `zero`.

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

    def at_rate(rate: float, width: int) -> WidthMeasurement:
        return measured(with_width(probe_config(base, rate), width), dataset, eager)

    def check_at(rate: float) -> dict[str, Any]:
        return check_record(base, {w: at_rate(rate, w) for w in widths}, rate)

    if not isinstance(base.optimizer, MuonConfig):
        return {**answer_at_telling_rate(check_at, log2_lr), "asked_log2_lr": log2_lr}
    near = min(widths, key=lambda width: abs(width - base.model.base_width))
    layers = [rule.name.rpartition(".")[0] for rule in parameter_rules(base) if rule.matrices]
    lowest = telling_rate(lambda rate: at_rate(rate, near), layers, log2_lr)
    answer = answer_at_telling_rate(check_at, max(log2_lr, lowest), lowest)
    return {**answer, "asked_log2_lr": log2_lr}


LEAST_EFFECT = 0.5  # octaves by which an output's change must grow with Muon's rate, per octave
OCTAVES_HIGHER = 8  # octaves by which Muon's rate is raised, one by one, until it has that effect


def telling_rate(
    measured_at: Callable[[float], WidthMeasurement], layers: Sequence[str], log2_lr: float
) -> float:
    """Return the lowest rate of Muon, from `OCTAVES_LOWER` below `log2_lr` on, that tells.

    At a low rate the output of a matrix changes because its input does, which AdamW changes, and a
    wrong factor is not seen. An output that grows by e octaves per octave of the rate has a slope
    of k·e where the factor is wrong by m^k. Returns the highest rate tried if none tells: there the
    check says what it can.

    Args:
        measured_at: the measurement of one width at a rate.
        layers: the modules whose weights Muon updates.
    """
    rate, highest = log2_lr - OCTAVES_LOWER, log2_lr + OCTAVES_HIGHER
    sizes = measured_at(rate).sizes
    while rate < highest:
        higher = measured_at(rate + 1).sizes
        if _effect(sizes, higher, layers) >= LEAST_EFFECT:
            break
        rate, sizes = rate + 1, higher
    return rate


def _effect(sizes: OutputSizes, higher: OutputSizes, layers: Sequence[str]) -> float:
    """Return the most octaves by which a layer's change is larger in `higher`, over all steps."""
    changed = [key for key in sizes if key[0] in layers and key[1] == "update"]
    pairs = [(np.mean(sizes[key]), np.mean(higher[key])) for key in changed]
    return max((float(np.log2(b / a)) for a, b in pairs if a > 0 and np.isfinite(b)), default=0.0)


def check_seeds(base: TrialConfig) -> list[int]:
    """Return the seeds with which a check trains each width: the trial's own and those after it."""
    return [base.seed + seed for seed in CHECK_SEEDS]


def probe_config(base: TrialConfig, log2_lr: float) -> TrialConfig:
    """Return the trial in float32 at a constant rate, for the steps that are measured.

    Batch size and duration are the base values: they have no part in a check over width or depth.
    """
    budget = dataclasses.replace(
        base.budget, steps=max(MEASURED_STEPS), schedule=Schedule.constant, warmup_fraction=0.0
    )
    own = dataclasses.replace(base.parametrization, base_batch_size=None, base_steps=None)
    config = dataclasses.replace(base, budget=budget, parametrization=own, precision=Precision.fp32)
    return with_hyperparameters(config, {"log2_lr": log2_lr})


def measured(config: TrialConfig, dataset: Dataset, runtime: RuntimeConfig) -> WidthMeasurement:
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
        again = "run the same command again"
        raise UserError(raised_sentence(error, config.model.width, again)) from error


def measure_width(
    config: TrialConfig, dataset: Dataset, runtime: RuntimeConfig
) -> WidthMeasurement:
    """Return the RMS of all outputs, and of their changes in training, at the config's width."""
    seeded = [dataclasses.replace(config, seed=seed) for seed in check_seeds(config)]
    state = start_training(seeded, dataset, torch_device(runtime), runtime)
    pack, first_batch = state.pack, state.batch(0)
    with torch.no_grad():
        loss_before = pack_losses(pack, first_batch).mean()
    at_init = [_outputs(pack, member, dataset) for member in range(len(seeded))]
    sizes: OutputSizes = {}
    for outputs in at_init:
        add_sizes(sizes, outputs, outputs, 0)
    for step in range(max(MEASURED_STEPS)):
        state.train_step(step)
        if step + 1 not in MEASURED_STEPS:
            continue
        for member, before in enumerate(at_init):
            add_sizes(sizes, before, _outputs(pack, member, dataset), step + 1)
    with torch.no_grad():
        loss_after = pack_losses(pack, first_batch).mean()
    state.close()
    return WidthMeasurement(sizes, float(1 - loss_after / loss_before))


@torch.no_grad()
def _outputs(pack: Pack, member: int, dataset: Dataset) -> dict[str, Tensor]:
    """Return every module's output on the probe batch for one member."""
    config = pack.configs[member]
    first = next(iter(evaluation_batches(config, dataset.validation)))
    batch = first.part(slice(PROBE_SAMPLES), pack.device)
    at = noised(config.objective, batch.images, batch.noise, batch.u)
    tensors = pack.member_tensors(member)
    no_features = torch.zeros(
        len(batch.u), config.feature_tokens, config.layout.feature_channels, device=pack.device
    )
    asked = asked_in_training(config, no_features)  # their values count in a loss alone
    outputs = module_outputs(
        pack.template,
        lambda model: functional_call(model, tensors, (at.x, at.t, *batch.condition), asked),
    )
    if config.layout.auxiliary:  # the model returns a loss, too, whose size is not the check's
        outputs.pop(f"{OWN_OUTPUT}[1]", None)
        outputs[OWN_OUTPUT] = outputs.pop(f"{OWN_OUTPUT}[0]")
    return outputs


@cache
def _structure(model: ModelConfig, layout: Layout, widths: tuple[int, ...]) -> Structure:
    """Return what a model's structure tells at the widths of a check."""
    parameters = shaped_parameters(model, layout)

    def shapes_at(width: int) -> Shapes:
        parts = on_meta(model, layout, width).named_parameters()
        return {name: tuple(p.shape) for name, p in parts}

    if not isinstance(model, CustomConfig):
        roles = {shaped.name: shaped.role for shaped in parameters}
        return Structure(widths, parameters, roles, UNWATCHED, {}, shapes_at, None)
    unstated = shaped_parameters(dataclasses.replace(model, roles=()), layout)
    attention = {
        width: on_example(
            dataclasses.replace(model, width=width), layout, attention_calls, device="meta"
        )
        for width in widths
    }
    return Structure(
        widths,
        parameters,
        {shaped.name: shaped.role for shaped in unstated},
        custom_dataflow(model, layout),
        attention,
        shapes_at,
        Wording(function=model.factory, roles="model.roles"),
    )


def check_record(
    base: TrialConfig, runs: Mapping[int, WidthMeasurement], log2_lr: float
) -> dict[str, Any]:
    """Return the `coordinate_record` of a trial's measurements by width."""
    structure = _structure(base.model, base.layout, tuple(sorted(runs)))
    asked = Asked(
        heading={
            "family": base.model.family,
            "parametrization": base.parametrization.scaling.value,
            "broken": base.parametrization.broken.value,
        },
        base_width=base.model.base_width,
        log2_lr=log2_lr,
        seeds=check_seeds(base),
        steps=MEASURED_STEPS,
        readouts=structure.readouts,
        higher="search.lr.low, search.lr.high",
        causes=structure.causes,
    )
    return coordinate_record(asked, runs)
