"""The target for torchtitan: a job file for its versions with TOML, a Python config for later ones.

Versions up to 0.2 read a TOML job file whose optimizer has one rate. Those of 2026 have configs in
Python, with optimizer groups by the parameters' names (`ParamGroupConfig`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Precision, Schedule
from hptransfer.transfer.exports.factors import Parameter, folded_groups
from hptransfer.transfer.exports.settings import Setting, settings, without_clipping

SCHEDULES = {  # ours -> decay_type, and the fields of `settings` that make its decay_ratio
    Schedule.constant: "linear",
    Schedule.cosine: "cosine",
    Schedule.linear_decay: "linear",
}


def torchtitan_toml(config: TrialConfig, searched: Collection[str]) -> str:
    """Return the sections of a TOML job file that the target decides."""
    known = settings(config, searched)
    clip = known["clip_norm"]
    precision = "bfloat16" if config.precision is Precision.bf16 else "float32"
    optimizer = {
        "name": Setting("AdamW", "optimizer of target.yaml"),
        **{name: known[name] for name in ("lr", "beta1", "beta2", "eps", "weight_decay")},
    }
    training = {
        "steps": known["steps"],
        "global_batch_size": known["batch_size"],
        "max_norm": clip._replace(value=without_clipping(clip.value)),
        "mixed_precision_param": known["precision"]._replace(value=precision),
    }
    sections = {
        "optimizer": optimizer,
        "lr_scheduler": _scheduler(config, known),
        "training": training,
    }
    lines = [
        "# For torchtitan with TOML job files (0.2 and earlier). Lay these sections over your",
        "# model's job file. It gives every parameter one rate, which is not µP: give the model's",
        "# TrainSpec a `build_optimizers_fn` that builds AdamW from `param_groups` of",
        "# torch_groups.py. Its scheduler multiplies each group's own rate, as µP wants it.",
    ]
    for section, entries in sections.items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(s.value)}  # {s.origin}" for key, s in entries.items()]
    return "\n".join(lines) + "\n"


def _scheduler(config: TrialConfig, known: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return torchtitan's scheduler: without a `decay_ratio` it decays from the warm-up's end."""
    budget, schedule = config.budget, known["schedule"]
    found = {
        "warmup_steps": known["warmup_steps"],
        "decay_type": schedule._replace(value=SCHEDULES[budget.schedule]),
    }
    if budget.schedule is Schedule.constant:
        found["decay_ratio"] = schedule._replace(value=0.0)
    if budget.schedule is Schedule.linear_decay:
        origin = "budget.decay_fraction of target.yaml"
        found["decay_ratio"] = Setting(budget.decay_fraction, origin)
    return found


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def torchtitan_config_text(config: TrialConfig, searched: Collection[str]) -> str:
    """Return a Python file that puts the target's groups and schedule into a `Trainer.Config`."""
    known = settings(config, searched)
    clip = known["clip_norm"]
    betas = (known["beta1"].value, known["beta2"].value)
    groups = [
        _group(lr, decay, eps, members)
        for (lr, decay, eps), members in folded_groups(config).items()
    ]
    schedule = [
        f"    {key}={s.value!r},  # {s.origin}" for key, s in _scheduler(config, known).items()
    ]
    lines = {
        "family": config.model.family,
        "batch": f"{known['batch_size'].value} samples ({known['batch_size'].origin})",
        "groups": "\n".join(groups),
        "betas": f"{betas!r}  # {known['beta1'].origin}, and optimizer.beta2",
        "schedule": "\n".join(schedule),
        "steps": f"{known['steps'].value!r}  # {known['steps'].origin}",
        "max_norm": f"float({str(without_clipping(clip.value))!r})  # {clip.origin}",
        "seed": f"{known['seed'].value!r}  # {known['seed'].origin}",
    }
    return re.sub(r"\{(\w+)\}", lambda found: lines[found[1]], _FILE)


def _group(lr: float, decay: float, eps: float, members: list[Parameter]) -> str:
    """Return a group as source: the values are those of torch's AdamW."""
    roles = ", ".join(dict.fromkeys(member.role for member in members))
    names = "".join(f"            {member.name!r},\n" for member in members)
    return (
        f"    (  # roles {roles}: optimizer.lr, .weight_decay and .eps times its factors\n"
        f"        dict(lr={lr!r}, weight_decay={decay!r}, eps={eps!r}),\n"
        f"        [\n{names}        ],\n    ),"
    )


_FILE = '''"""The target for torchtitan with configs in Python (2026): groups, schedule, clipping.

    from torchtitan_config import as_target

    def my_run() -> Trainer.Config:
        return as_target(my_model_config())

Names are hptransfer's {family}: change the patterns to your model's; a parameter that none of them
matches is refused by torchtitan. The readout's factor is folded into its rate, decay and epsilon,
so start its weight with the folded std of factors.json. Set `training.num_tokens_per_train_step`
to the tokens of {batch}.
"""

import re

from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer
from torchtitan.components.optimizer import ParamGroupConfig

# * stands for a number
GROUPS = [
{groups}
]
BETAS = {betas}
SCHEDULE = dict(
{schedule}
)
STEPS = {steps}
MAX_NORM = {max_norm}
SEED = {seed}


def as_target(config):
    """Return a `Trainer.Config` with the target's optimizer groups, schedule, length and clipping.

    torchtitan multiplies each group's own rate by the schedule, so that µP's ratios stay.
    """
    config.optimizer = OptimizersContainer.Config(
        param_groups=[
            ParamGroupConfig(
                pattern=pattern(names),
                optimizer_name="AdamW",
                optimizer_kwargs=dict(values, betas=BETAS),
            )
            for values, names in GROUPS
        ]
    )
    config.lr_scheduler = LRSchedulersContainer.Config(**SCHEDULE)
    config.training.steps, config.training.max_norm = STEPS, MAX_NORM
    config.debug.seed = SEED
    return config


def pattern(names):
    """Return the regular expression of whole names, also inside of compiled or wrapped blocks."""
    inside = r"\\.(?:_orig_mod\\.|_checkpoint_wrapped_module\\.)*"
    parts = [name.split(".") for name in names]
    whole = [inside.join(r"\\d+" if p == "*" else re.escape(p) for p in each) for each in parts]
    return rf"^(?:_orig_mod\\.)?(?:{'|'.join(whole)})$"
'''
