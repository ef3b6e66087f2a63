"""µP for a training loop that is not ours: any torch module, any forward, any data.

`build` makes the model of a width, `param_groups` the groups of its AdamW, `check` tells whether a
training step with both is µP, and `require_ratios` stops a scheduler that would undo it. Nothing
here needs a config.
"""

from __future__ import annotations

from collections.abc import Sequence

from hptransfer.models.parametrization.built import Example, MakeModel, build
from hptransfer.models.parametrization.kept_ratios import require_ratios
from hptransfer.models.parametrization.own_groups import param_groups
from hptransfer.models.parametrization.rules import ReadoutForm
from hptransfer.reporting.own_check import CheckAnswer
from hptransfer.training.own_check import SEEDS, STEPS, MakeOptimizer, TrainStep, check_step

__all__ = ["CheckAnswer", "build", "check", "param_groups", "require_ratios"]


def check(
    make_model: MakeModel,
    train_step: TrainStep,
    *,
    widths: Sequence[int],
    lr: float,
    base_width: int | None = None,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    roles: Sequence[str] = (),
    readout: ReadoutForm | str = ReadoutForm.folded,
    example: Example | None = None,
    steps: int = STEPS,
    seeds: int = SEEDS,
    make_optimizer: MakeOptimizer | None = None,
    device: str | None = None,
) -> CheckAnswer:
    """Check whether your own training step is µP (arXiv 2203.03466, Appendix D.1).

    For every width and seed a model is made by `build` and trained for a few steps. Outputs of all
    modules, the model's own among them, are measured on what the first step called the model with.
    Under µP neither their root mean square (RMS) at initialisation nor that of their change since
    depends on the width. A check that fails narrowly is repeated at half and a quarter of the rate,
    since steps near the edge of stability are no small changes.

    Args:
        make_model: as in `build`.
        train_step: `train_step(model, optimizer, step)` trains on one batch of your data, takes one
            step of the optimizer, and returns the loss of the batch. Let the batch follow from
            `step` alone: step 0 is asked for twice, and the widths should see the same data. Random
            numbers of torch are seeded.
        widths: two or more, at best three that double, from 64 on. Narrower models are too small
            for µP's limit, and true µP may then fail narrowly.
        lr: the learning rate at the base width, at which the loss falls.
        base_width: as in `build`; the smallest width unless given.
        weight_decay: as in `param_groups`.
        eps: as in `param_groups`.
        roles: as in `build`.
        readout: as in `build`.
        example: as in `build`.
        steps: steps after which changes are measured last.
        seeds: models a width, over which an RMS is averaged; with few, true µP may fail by noise.
        make_optimizer: from the groups to the optimizer; `torch.optim.AdamW` unless given.
        device: where models are moved to after they were built; the batches are yours.

    Returns:
        An answer with `verdict` (`pass`, `fail`, or `inconclusive` where noise or narrow widths
        leave it open), `causes`, `table` (a DataFrame), `plot(path)` and a text: `print(answer)`
        names the module that changes most with the width, and the parameter to suspect.

    Raises:
        UserError: a model that `build` refuses, or a step that raises or does not step.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> def make_model(width):
        ...     return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width),
        ...                          nn.ReLU(), nn.Linear(width, 4))
        >>> def train_step(model, optimizer, step):
        ...     draw = torch.Generator().manual_seed(step)
        ...     x = torch.randn(64, 8, generator=draw)
        ...     loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(-1))
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
        >>> answer = hptransfer.mup.check(
        ...     make_model, train_step, widths=[64, 128, 256], lr=0.02, seeds=4
        ... )
        >>> answer.verdict
        'pass'
    """
    more = {} if make_optimizer is None else {"make_optimizer": make_optimizer}
    return CheckAnswer(
        check_step(
            make_model,
            train_step,
            widths=widths,
            base_width=base_width,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            roles=roles,
            readout=readout,
            example=example,
            steps=steps,
            seeds=seeds,
            device=device,
            **more,
        )
    )
