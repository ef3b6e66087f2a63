"""The coordinate check of a training step that is not ours.

The user's step trains the model on the user's data. What the model was called with in its first
step is kept as the probe: outputs are measured on it before any step and after each of a few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from hptransfer.errors import MachineError, UserError, abbreviate, require
from hptransfer.models.parametrization.built import (
    WORDS,
    Example,
    MakeModel,
    build,
    empty_model,
    inferred_parameters,
    record_of,
)
from hptransfer.models.parametrization.dataflow import UNWATCHED, AttentionCall, attention_calls
from hptransfer.models.parametrization.own_groups import param_groups
from hptransfer.models.parametrization.roles import (
    ShapedParameter,
    dataflow_of,
)
from hptransfer.models.parametrization.rules import ReadoutForm
from hptransfer.system.random_streams import kept_random_numbers
from hptransfer.training.check_causes import Shapes, Structure
from hptransfer.training.coordinate_record import (
    CHECK_SEEDS,
    MEASURED_STEPS,
    Asked,
    OutputSizes,
    WidthMeasurement,
    add_sizes,
    answer_at_telling_rate,
    coordinate_record,
    module_outputs,
    raised_sentence,
)

Probe = tuple[tuple[Any, ...], dict[str, Any]]
TrainStep = Callable[[nn.Module, torch.optim.Optimizer, int], Any]
MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

STEPS, SEEDS = max(MEASURED_STEPS), len(CHECK_SEEDS)  # those of our own coordinate check


def check_step(
    make_model: MakeModel,
    train_step: TrainStep,
    *,
    widths: Sequence[int],
    base_width: int | None = None,
    lr: float,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    roles: Sequence[str] = (),
    readout: ReadoutForm | str = ReadoutForm.folded,
    example: Example | None = None,
    steps: int = STEPS,
    seeds: int = SEEDS,
    make_optimizer: MakeOptimizer = torch.optim.AdamW,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Return the `coordinate_record` of a user's own step; see `hptransfer.mup.check`."""
    widths = _checked_widths(widths, base_width)
    base_width = widths[0] if base_width is None else base_width
    require(steps >= 2, f"`steps` must be 2 or more, but got {steps}.")
    require(seeds >= 1, f"`seeds` must be 1 or more, but got {seeds}.")
    require(callable(train_step), f"`train_step` must be a function, but got {train_step!r}.")

    def built(width: int) -> nn.Module:
        words: dict[str, Any] = {"roles": roles, "readout": readout, "example": example}
        return build(make_model, width=width, base_width=base_width, **words).to(device)

    def check_at(log2_lr: float) -> dict[str, Any]:
        def trained(model: nn.Module) -> torch.optim.Optimizer:
            rates = {"lr": 2.0**log2_lr, "weight_decay": weight_decay, "eps": eps}
            return make_optimizer(param_groups(model, **rates))

        measured = _Measuring(built, trained, train_step, range(2, steps + 1), range(seeds))
        runs = {width: measured.at(width) for width in widths}
        unstated = inferred_parameters(make_model, base_width, base_width, example)
        structure = _structure(make_model, unstated, measured)
        asked = Asked(
            heading={"family": "custom", "parametrization": "mup", "broken": "none"},
            base_width=base_width,
            log2_lr=log2_lr,
            seeds=range(seeds),
            steps=range(2, steps + 1),
            readouts=structure.readouts,
            higher="lr",
            causes=structure.causes,
        )
        return coordinate_record(asked, runs)

    require(lr > 0 and math.isfinite(lr), f"`lr` must be a positive number, but got {lr}.")
    log2_lr = math.log2(lr)
    with kept_random_numbers():
        return {**answer_at_telling_rate(check_at, log2_lr), "asked_log2_lr": log2_lr}


def _checked_widths(widths: Sequence[int], base_width: int | None) -> list[int]:
    listed = sorted(set(widths))
    require(
        len(listed) >= 2 and set(listed) != {base_width},
        "A coordinate check needs at least two different widths, but got "
        f"widths={abbreviate(list(widths))}. Take three that double, such as [64, 128, 256].",
    )
    return listed


class _Measuring:
    """The measurements of one learning rate."""

    def __init__(
        self,
        built: Callable[[int], nn.Module],
        optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
        train_step: TrainStep,
        steps: Sequence[int],
        seeds: Sequence[int],
    ) -> None:
        self.built, self.optimizer_of, self.train_step = built, optimizer_of, train_step
        self.steps, self.seeds = steps, seeds
        self.parameters: tuple[ShapedParameter, ...] = ()
        self.flow = UNWATCHED
        self.attention: dict[int, list[AttentionCall]] = {}

    def at(self, width: int) -> WidthMeasurement:
        """Return the RMS of all outputs, and of their changes in training, at a width."""
        sizes: OutputSizes = {}
        drops = []
        for seed in self.seeds:
            torch.manual_seed(seed)
            model = self.built(width)
            try:
                drops.append(self._trained(model, seed, sizes))
            except (UserError, MachineError):
                raise
            except Exception as error:
                again = "call hptransfer.mup.check again"
                raise UserError(raised_sentence(error, width, again)) from error
        before, after = map(sum, zip(*drops, strict=True))
        return WidthMeasurement(sizes, 1 - after / before if before else math.nan)

    def _trained(self, model: nn.Module, seed: int, sizes: OutputSizes) -> tuple[float, float]:
        """Train one model; return the loss of step 0's batch before and after training."""
        initial = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer = self.optimizer_of(model)
        torch.manual_seed(seed)  # so that what a step draws does not depend on the width
        probe, before = _first_step(self.train_step, model, optimizer)
        at_init = _outputs(model, initial, probe)
        require(
            bool(at_init), "A model must have modules with parameters whose outputs are tensors."
        )
        add_sizes(sizes, at_init, at_init, 0)
        if seed == self.seeds[0]:
            self._look(model, probe)
        for step in range(1, max(self.steps) + 1):
            if step in self.steps:
                add_sizes(sizes, at_init, _outputs(model, None, probe), step)
            if step < max(self.steps):
                _loss(self.train_step(model, optimizer, step))
        return before, _loss(self.train_step(model, optimizer, 0))

    def _look(self, model: nn.Module, probe: Probe) -> None:
        """Watch the forward on the probe, for what is told of a failure."""
        record = record_of(model)
        assert record is not None, "it is a built model"

        def call(model: nn.Module) -> None:
            _called(model, None, probe)

        if not self.attention:
            self.parameters = record.parameters
            self.flow = dataflow_of(model, call, parameters=record.parameters)
        self.attention[record.width] = attention_calls(model, call)


def _structure(
    make_model: MakeModel, unstated: Sequence[ShapedParameter], measured: _Measuring
) -> Structure:
    """Return what is known of a user's model besides its measurements."""
    empty = cache(partial(empty_model, make_model))

    def shapes_at(width: int) -> Shapes:
        return {name: tuple(p.shape) for name, p in empty(width).named_parameters()}

    return Structure(
        sorted(measured.attention),
        measured.parameters,
        {shaped.name: shaped.role for shaped in unstated},
        measured.flow,
        measured.attention,
        shapes_at,
        WORDS,
    )


def _first_step(
    train_step: TrainStep, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Probe, float]:
    """Take step 0; return what it called the model with, and its loss.

    Raises:
        UserError: the step did not call the model, or took no or several optimizer steps.
    """
    probes: list[Probe] = []
    taken: list[int] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not probes:
            copied = tree_map(_copied, (arguments, named))
            probes.append(copied)

    watching = model.register_forward_pre_hook(keep, with_kwargs=True)
    counting = optimizer.register_step_post_hook(lambda *_: taken.append(1))
    try:
        loss = _loss(train_step(model, optimizer, 0))
    finally:
        watching.remove()
        counting.remove()
    require(
        bool(probes),
        "`train_step` must call the model that it is given, since its outputs are measured in that "
        "call, but it did not. Call model(...) in it, not a part of the model.",
    )
    require(
        len(taken) == 1,
        "`train_step` must take one step of the optimizer that it is given, but it took "
        f"{len(taken)}.",
    )
    return probes[0], loss


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _loss(returned: Any) -> float:
    try:
        return float(returned.detach() if isinstance(returned, Tensor) else returned)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            "`train_step` must return the loss of its batch, a number or a tensor of one entry, "
            f"but it returned {abbreviate(returned)}."
        ) from None


@torch.no_grad()
def _outputs(
    model: nn.Module, parameters: dict[str, Tensor] | None, probe: Probe
) -> dict[str, Tensor]:
    """Return every module's output on the probe, with the model's own parameters or with others.

    Dropout draws the same masks each time, and buffers are left as they were.
    """
    return module_outputs(model, lambda model: _called(model, parameters, probe))


def _called(model: nn.Module, parameters: dict[str, Tensor] | None, probe: Probe) -> None:
    arguments, named = probe
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with kept_random_numbers(seed=0):
        if parameters is None:
            model(*arguments, **named)
        else:
            functional_call(model, parameters, arguments, named)
    for buffer, kept in buffers:
        buffer.copy_(kept)
