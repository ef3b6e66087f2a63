"""The target for trainers built on Megatron-LM: arguments, and overrides of optimizer groups.

The arguments are those of Megatron-LM's `arguments.py`; the overrides are megatron-core's
`ParamGroupOverride` by `ParamKey` (0.16 and later). Its own `--use-mup` has other rules and is not
to be set as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from hptransfer.config import AdamWConfig, TrialConfig
from hptransfer.config.choices import Precision, Schedule
from hptransfer.transfer.exports.factors import (
    Parameter,
    patterns,
    resolved,
    resolved_adamw,
    with_factor_in_weight,
)


def megatron_arguments_text(config: TrialConfig, optimizer: AdamWConfig) -> str:
    """Return the arguments that the target decides, one a line."""
    budget, adamw = config.budget, resolved_adamw(config)
    lines = [
        "# Arguments of Megatron-LM. Learning rates, epsilon and weight decay by parameter are in",
        "# megatron_groups.py. Leave --use-mup off: it scales as well, by rules of its own.",
        "--optimizer adam",
        f"--lr {optimizer.lr!r}",
        "--min-lr 0.0",
        f"--adam-beta1 {adamw['beta1']!r}",
        f"--adam-beta2 {adamw['beta2']!r}",
        f"--adam-eps {optimizer.eps!r}",
        f"--weight-decay {adamw['weight_decay']!r}",
        f"--clip-grad {0.0 if optimizer.clip_norm is None else optimizer.clip_norm!r}",
        f"--train-iters {budget.steps}",
        f"--global-batch-size {budget.batch_size}",
        *_schedule_lines(config),
        *(["--bf16"] if config.precision is Precision.bf16 else []),
        f"--seed {config.seed}",
        *_init_lines(config),
    ]
    return "\n".join(lines) + "\n"


def _schedule_lines(config: TrialConfig) -> list[str]:
    budget = config.budget
    warmup = f"--lr-warmup-iters {round(budget.warmup_fraction * budget.steps)}"
    match budget.schedule:
        case Schedule.constant:
            return ["--lr-decay-style constant", warmup]
        case Schedule.cosine:
            return ["--lr-decay-style cosine", f"--lr-decay-iters {budget.steps}", warmup]
        case Schedule.linear_decay:
            decay = round(budget.decay_fraction * budget.steps)
            return [
                "--lr-decay-style WSD",
                "--lr-wsd-decay-style linear",
                f"--lr-wsd-decay-iters {decay}",
                f"--lr-decay-iters {budget.steps}",
                warmup,
            ]


def _init_lines(config: TrialConfig) -> list[str]:
    """Return the one std of all hidden matrices, if they share one."""
    stds = sorted({p.init_std for p in resolved(config) if p.role == "hidden" and p.init_std})
    if len(stds) == 1:
        return [
            "# Megatron-LM divides it by sqrt(2 layers) for the last matrix of a residual branch",
            "# and uses it for embeddings too: initialise those as factors.json says",
            f"--init-method-std {stds[0]!r}",
        ]
    between = f"{stds[0]:.4g} to {stds[-1]:.4g}" if stds else "zero"
    return [
        f"# --init-method-std is one std for all, but hidden matrices start at {between}:",
        "# initialise each parameter as factors.json says",
    ]


def megatron_groups_text(config: TrialConfig) -> str:
    """Return a Python file that makes megatron-core's optimizer overrides by parameter name."""
    base = resolved_adamw(config)["weight_decay"]
    groups: dict[tuple[float, float, float], list[Parameter]] = {}
    for parameter in patterns([with_factor_in_weight(p) for p in resolved(config)]):
        key = (parameter.lr, parameter.eps, parameter.weight_decay / base if base else 1.0)
        groups.setdefault(key, []).append(parameter)
    table = "\n".join(_group(*key, members) for key, members in groups.items())
    return _FILE.replace("{family}", config.model.family).replace("{groups}", table)


def _group(lr: float, eps: float, decay: float, members: Sequence[Parameter]) -> str:
    names = "".join(f"            {p.name!r},\n" for p in members)
    values = f"dict(max_lr={lr!r}, min_lr=0.0, eps={eps!r}, wd_mult={decay!r})"
    return f"    (\n        {values},\n        [\n{names}        ],\n    ),"


_FILE = '''"""Overrides of megatron-core's optimizer groups for the target run, by parameter name.

    get_megatron_optimizer(config, model_chunks, config_overrides=overrides())

For megatron-core 0.16 and later. In Megatron-LM's own training loop, return `overrides()` from
`get_megatron_optimizer_config` in place of the standard ones. The names are those of hptransfer's
{family}: change them to your model's. The readout's factor is folded into its rate and epsilon, so
start its weight with the folded std of factors.json.
"""

import re

from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride

# * stands for a number
GROUPS = [
{groups}
]


def overrides():
    """Return one override per group; every parameter is in exactly one.

    A checkpoint's groups are told apart by `lr_mult` and others, but not by epsilon (and before
    0.19 not by `max_lr`), so each has an `lr_mult` of its own. The scheduler does not read it.
    """
    return {
        ParamKey(
            with_name_predicate=ParamWithNamePredicate(name=f"target_{i}", fn=_named(names))
        ): ParamGroupOverride(**values, lr_mult=1.0 + 1e-9 * i)
        for i, (values, names) in enumerate(GROUPS)
    }


def _named(names):
    patterns = [re.compile(re.escape(name).replace(r"\\*", r"\\d+")) for name in names]

    def matches(param, name):
        while name.startswith("module."):
            name = name[len("module.") :]
        return any(pattern.fullmatch(name) for pattern in patterns)

    return matches
'''
