"""The numbers of a target's whole run, each with where it comes from, for other trainers' files."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from hptransfer.config import AdamWConfig, TrialConfig
from hptransfer.config.choices import Schedule
from hptransfer.config.hyperparameters import HYPERPARAMETERS
from hptransfer.transfer.exports.factors import resolved_adamw


class Setting(NamedTuple):
    """A number of the target's run."""

    value: Any
    origin: str  # the config key that it follows from, and how; for a comment in one line


def settings(config: TrialConfig, searched: Collection[str] = ()) -> dict[str, Setting]:
    """Return the numbers that hold for the whole run, by name.

    `lr`, `weight_decay` and `eps` are the base values, which the files of groups replace for each
    parameter. What only another optimizer than AdamW has is left out.

    Args:
        searched: the swept axes, such as `log2_lr`, whose values the sweep transferred.
    """
    budget, steps = config.budget, config.budget.steps
    shares = {"warmup": budget.warmup_fraction}
    if budget.schedule is Schedule.linear_decay:
        shares["decay"] = budget.decay_fraction
    found = {
        "clip_norm": Setting(config.optimizer.clip_norm, _origin("optimizer.clip_norm", searched)),
        "steps": Setting(steps, _origin("budget.steps", searched)),
        "batch_size": Setting(budget.batch_size, _origin("budget.batch_size", searched)),
        "schedule": Setting(budget.schedule.value, _origin("budget.schedule", searched)),
        "precision": Setting(config.precision.value, _origin("precision", searched)),
        "seed": Setting(config.seed, _origin("seed", searched)),
        **{
            f"{name}_steps": Setting(
                round(share * steps),
                f"{_origin(f'budget.{name}_fraction', searched)}: {share:.6g} of {steps} steps",
            )
            for name, share in shares.items()
        },
    }
    if not isinstance(config.optimizer, AdamWConfig):
        return found
    optimizer, adamw = config.optimizer, resolved_adamw(config)
    decay = "weight_decay" if optimizer.decay_timescale is None else "decay_timescale"
    return found | {
        "lr": Setting(optimizer.lr, _origin("optimizer.lr", searched)),
        "eps": Setting(optimizer.eps, _origin("optimizer.eps", searched)),
        "beta1": Setting(adamw["beta1"], _origin("optimizer.beta1", searched)),
        "beta2": Setting(adamw["beta2"], _origin("optimizer.beta2", searched)),
        "weight_decay": Setting(adamw["weight_decay"], _origin(f"optimizer.{decay}", searched)),
    }


def _origin(key: str, searched: Collection[str]) -> str:
    names = (axis.removeprefix("log2_") for axis in searched)
    known = [HYPERPARAMETERS[name] for name in names if name in HYPERPARAMETERS]
    is_searched = any(f"{hp.group}.{hp.field}" == key for hp in known)
    return f"{key} of target.yaml{', transferred from the proxies' if is_searched else ''}"


def without_clipping(clip_norm: float | None) -> float:
    """Return the norm that clips nothing where a trainer always clips: infinity for None."""
    return float("inf") if clip_norm is None else clip_norm
