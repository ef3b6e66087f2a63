"""The guard that a built model's groups keep the ratios of their learning rates.

µP lies in the ratios of the groups' rates. A schedule may move all rates by one factor. A scheduler
that sets one absolute rate for all groups turns µP into the standard parametrization.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from hptransfer.errors import UserError, require

RATIO_TOLERANCE = 1e-5  # relative, of a rate over what its ratio asks for; float32 rates round
# Torch's optimizers whose step does not depend on a gradient's scale, as Table 8's column for Adam
# asks. Optimizers of other packages are taken at their word.
SCALE_FREE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")

Group = dict[str, Any]


def require_ratios(optimizer: Any) -> RemovableHandle:
    """Make an optimizer refuse to step once its groups' learning rates have lost µP's ratios.

    Some schedulers set one absolute rate for all groups, which undoes µP without a word. After this
    call the first step with such rates raises; rates that are all zero (a warm-up's first step)
    pass. Call it at any time after the optimizer was made, and wrapped or not.

    Args:
        optimizer: with the groups of `param_groups`, or what holds it as its attribute
            `optimizer`: accelerate's, DeepSpeed's or your own wrapper.

    Returns:
        A handle, whose `remove()` ends the watch.

    Raises:
        UserError: at once, where the groups are not µP's or the optimizer is none that µP's rates
            for Adam hold for; later, from the optimizer's `step`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = hptransfer.mup.build(lambda width: nn.Sequential(
        ...     nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2)
        ... ), width=256, base_width=32)
        >>> optimizer = torch.optim.AdamW(hptransfer.mup.param_groups(model, lr=0.01))
        >>> watch = hptransfer.mup.require_ratios(optimizer)
        >>> for group in optimizer.param_groups:
        ...     group["lr"] = 0.01  # what a scheduler of absolute rates does
        >>> optimizer.step()
        Traceback (most recent call last):
        hptransfer.errors.UserError: The learning rates of µP's groups must keep their ratios, but
        that of `hidden` is 0.01 beside 0.01 of `input`, where it must be 0.125 times as large. Take
        a schedule that multiplies each group's own rate, such as torch's LambdaLR or transformers'
        get_cosine_schedule_with_warmup.
    """
    inner = _innermost(optimizer)
    _require_scale_free(inner)
    watch = _Watch(list(inner.param_groups))
    watch.require_ratios()

    def before_step(stepping: Any, *_: object) -> None:
        # DeepSpeed's ZeRO shows the optimizer one group at a time.
        if len(stepping.param_groups) >= len(watch.groups):
            watch.groups = list(stepping.param_groups)
        watch.require_ratios()

    def after_loading(loaded: Any) -> None:
        watch.groups = list(loaded.param_groups)

    inner.register_load_state_dict_post_hook(after_loading)
    return inner.register_step_pre_hook(before_step)


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside of wrappers that hold it as `optimizer`."""
    inner, seen = optimizer, set()
    while getattr(inner, "optimizer", None) is not None and id(inner) not in seen:
        seen.add(id(inner))
        inner = inner.optimizer
    require(
        isinstance(inner, torch.optim.Optimizer),
        "`optimizer` must be a torch optimizer, or hold one as its attribute `optimizer`, but got "
        f"a {type(optimizer).__name__}.",
    )
    return inner


def _require_scale_free(optimizer: torch.optim.Optimizer) -> None:
    kind = type(optimizer)
    of_torch = next(base for base in kind.__mro__ if base.__module__.startswith("torch.optim"))
    name = of_torch.__name__
    require(
        name in (*SCALE_FREE, "Optimizer"),
        f"µP's learning rates must be those of the optimizer's kind, but these are Adam's and the "
        f"optimizer is {kind.__name__}. Use AdamW.",
    )
    for group in optimizer.param_groups:
        coupled = name == "Adam" and not group.get("decoupled_weight_decay", False)
        require(
            not (coupled and group.get("weight_decay", 0.0)),
            "Weight decay must be decoupled from the gradient to follow the width, but "
            "torch.optim.Adam adds it to the gradient. Use AdamW, or weight_decay=0.",
        )


class _Watch:
    """The groups whose rates must keep their ratios."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups

    def require_ratios(self) -> None:
        """Raise unless every rate over its factor is the same.

        Raises:
            UserError: names the group that is furthest off, beside one that has the largest factor.
        """
        bases = [_base_rate(group) for group in self.groups]
        if max(bases) - min(bases) <= RATIO_TOLERANCE * max(bases):
            return
        places = range(len(bases))
        first = max(places, key=lambda i: self.groups[i]["lr_factor"])
        worst = max(places, key=lambda i: abs(bases[i] - bases[first]))
        one, other = self.groups[first], self.groups[worst]
        wanted = other["lr_factor"] / one["lr_factor"]
        raise UserError(
            "The learning rates of µP's groups must keep their ratios, but that of "
            f"`{other['name']}` is {float(other['lr']):.4g} beside {float(one['lr']):.4g} of "
            f"`{one['name']}`, where it must be {wanted:.4g} times as large. Take a schedule that "
            "multiplies each group's own rate, such as torch's LambdaLR or transformers' "
            "get_cosine_schedule_with_warmup."
        )


def _base_rate(group: Group) -> float:
    """Return a group's rate over its factor: the rate at the base width."""
    require(
        "lr_factor" in group,
        "The optimizer's groups must be those of hptransfer.mup.param_groups, but "
        f"`{group.get('name', 'one of them')}` has no `lr_factor`.",
    )
    base = float(group["lr"]) / group["lr_factor"]
    require(
        math.isfinite(base),
        f"A learning rate must be finite, but that of `{group['name']}` is {group['lr']}.",
    )
    return base
