"""The target for Megatron-LM and Megatron-Bridge: arguments, and overrides of optimizer groups.

The arguments are those of Megatron-LM's `arguments.py`; the overrides are megatron-core's
`ParamGroupOverride` by `ParamKey` (0.16 and later). Its own `--use-mup` has other rules and is not
to be set as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Precision, Schedule
from hptransfer.transfer.exports.factors import (
    Parameter,
    folded_groups,
    resolved,
    resolved_adamw,
)
from hptransfer.transfer.exports.settings import Setting, settings


def megatron_arguments_text(config: TrialConfig, searched: Collection[str]) -> str:
    """Return the arguments that the target decides, one a line below where it comes from."""
    known = settings(config, searched)
    clip = known["clip_norm"]
    own = {
        "--lr": known["lr"],
        "--min-lr": Setting(0.0, "every schedule of ours ends at zero, or stays"),
        "--adam-beta1": known["beta1"],
        "--adam-beta2": known["beta2"],
        "--adam-eps": known["eps"],
        "--weight-decay": known["weight_decay"],
        "--clip-grad": Setting(clip.value or 0.0, f"{clip.origin}; 0.0 is none"),
        "--train-iters": known["steps"],
        "--global-batch-size": known["batch_size"],
        **{f"--{name.replace('_', '-')}": s for name, s in _schedule(config, known).items()},
        "--seed": known["seed"],
    }
    lines = [
        "# Arguments of Megatron-LM. Learning rates, epsilon and weight decay by parameter are in",
        "# megatron_groups.py. Leave --use-mup off: it scales as well, by rules of its own.",
        *(line for name, s in own.items() for line in (f"# {s.origin}", f"{name} {s.value}")),
        *(
            [f"# {known['precision'].origin}", "--bf16"]
            if config.precision is Precision.bf16
            else []
        ),
        *_init_lines(config),
    ]
    return "\n".join(lines) + "\n"


def _schedule(config: TrialConfig, known: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return Megatron's scheduler, by the names of Megatron-Bridge's config."""
    schedule, steps, warmup = known["schedule"], known["steps"], known["warmup_steps"]
    match config.budget.schedule:
        case Schedule.constant:
            style = {"lr_decay_style": schedule._replace(value="constant")}
        case Schedule.cosine:
            style = {"lr_decay_style": schedule._replace(value="cosine"), "lr_decay_iters": steps}
        case Schedule.linear_decay:
            style = {
                "lr_decay_style": schedule._replace(value="WSD"),
                "lr_wsd_decay_style": schedule._replace(value="linear"),
                "lr_wsd_decay_iters": known["decay_steps"],
                "lr_decay_iters": steps,
            }
    return {**style, "lr_warmup_iters": warmup}


def megatron_bridge_text(config: TrialConfig, searched: Collection[str]) -> str:
    """Return overrides of a recipe of Megatron-Bridge, for its scripts' --config-file."""
    known = settings(config, searched)
    clip, decay = known["clip_norm"], known["weight_decay"]
    sections = {
        "optimizer": {
            "optimizer": Setting("adam", "optimizer of target.yaml"),
            "lr": known["lr"],
            "min_lr": Setting(0.0, "every schedule of ours ends at zero, or stays"),
            "adam_beta1": known["beta1"],
            "adam_beta2": known["beta2"],
            "adam_eps": known["eps"],
            "weight_decay": decay,
            "clip_grad": Setting(clip.value or 0.0, f"{clip.origin}; 0.0 is none"),
        },
        "scheduler": {
            **_schedule(config, known),
            "lr_warmup_init": Setting(0.0, "another start would be absolute for all groups"),
            "start_weight_decay": decay,
            "end_weight_decay": decay,
            "weight_decay_incr_style": Setting("constant", "the weight decay does not change"),
        },
        "train": {"train_iters": known["steps"], "global_batch_size": known["batch_size"]},
        "rng": {"seed": known["seed"]},
    }
    lines = [
        "# Overrides for a recipe of Megatron-Bridge (--config-file of its scripts). The rates by",
        "# parameter are no values of YAML: set in the script, before it calls `pretrain`,",
        "#     config.optimizer_config_override_provider = megatron_groups.bridge_provider()",
        "# Without that line every parameter has the one rate below, which is not µP. Leave",
        "# model.use_mup off: it scales as well, by rules of its own.",
    ]
    for section, entries in sections.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_yaml(s.value)}  # {s.origin}" for key, s in entries.items()]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """Return a number or word for YAML, which takes 1e-08 for text but not 1.0e-08."""
    return yaml.safe_dump(value).splitlines()[0]


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
    table = "\n".join(
        _group(lr, eps, decay / base if base else 1.0, members)
        for (lr, decay, eps), members in folded_groups(config).items()
    )
    return _FILE.replace("{family}", config.model.family).replace("{groups}", table)


def _group(lr: float, eps: float, decay: float, members: Sequence[Parameter]) -> str:
    names = "".join(f"            {p.name!r},\n" for p in members)
    roles = ", ".join(dict.fromkeys(p.role for p in members))
    values = f"dict(max_lr={lr!r}, min_lr=0.0, eps={eps!r}, wd_mult={decay!r})"
    origin = f"roles {roles}: optimizer.lr, .eps and .weight_decay times its factors"
    return f"    (  # {origin}\n        {values},\n        [\n{names}        ],\n    ),"


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


def bridge_provider():
    """Return these overrides for `optimizer_config_override_provider` of Megatron-Bridge."""
    from megatron.bridge.training.config import OptimizerConfigOverrideProvider

    class Target(OptimizerConfigOverrideProvider):
        def build_config_overrides(self, context):
            return overrides()

    return Target()


def _named(names):
    patterns = [re.compile(re.escape(name).replace(r"\\*", r"\\d+")) for name in names]

    def matches(param, name):
        while name.startswith("module."):
            name = name[len("module.") :]
        return any(pattern.fullmatch(name) for pattern in patterns)

    return matches
'''
