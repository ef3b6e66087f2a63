"""Files that hold the target's values for other trainers, from plain JSON to Megatron-Bridge.

Each file is described in docs/how_to/export.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from hptransfer.config import AdamWConfig, CustomConfig, TrialConfig
from hptransfer.models.parametrization.rules import branch_multipliers
from hptransfer.system.files import write_text
from hptransfer.transfer.exports import diffusers, megatron, torchtitan
from hptransfer.transfer.exports.deepspeed import deepspeed_text
from hptransfer.transfer.exports.diffusers import accelerate_text
from hptransfer.transfer.exports.factors import factors_text, resolved, torch_groups_text


def write_exports(
    folder: Path, config: TrialConfig, *, searched: Collection[str] = ()
) -> list[Path]:
    """Write every export of a target run; return the files.

    Args:
        searched: the swept axes, such as `log2_lr`, which comments tell from what was fixed.
    """
    paths = []
    for name, text in exports(config, searched).items():
        paths.append(folder / name)
        write_text(folder / name, text)
    return paths


def exports(config: TrialConfig, searched: Collection[str] = ()) -> dict[str, str]:
    """Return the text of every export by file name.

    Formats that can only say AdamW hold, under another optimizer, the sentence that says so.
    """
    if not isinstance(config.optimizer, AdamWConfig):
        said = {"factors.json": factors_text(config), "accelerate.yaml": accelerate_text(config)}
        return {**said, **{name: _refusal(name, config) for name in OF_ADAMW}}
    parameters = resolved(config)
    theirs = diffusers.renamed(parameters, config.model.family)
    notes = [
        f"Depth is scaled: multiply every residual branch by {factor:.6g}, which no group can."
        for factor in set(branch_multipliers(config).values())
    ]
    if isinstance(config.model, CustomConfig):
        notes.append(f"Weights start as {config.model.factory} draws them, times a factor each.")
    family = config.model.family
    names = f"Names are hptransfer's: diffusers has no class of the family {family}."
    if theirs is not None:
        names = f"Names are those of diffusers' {diffusers.CLASSES[family][0]}."
    if theirs is not None and config.objective.repa_weight:
        names += " It has no head for REPA: torch_groups.py has the rows of `projector`."
    return {
        "factors.json": factors_text(config),
        "torch_groups.py": torch_groups_text(config, parameters, readout="hook", says=notes),
        "diffusers_groups.py": torch_groups_text(
            config,
            parameters if theirs is None else theirs,
            readout="folded",
            says=[names, *notes],
        ),
        "diffusers_args.txt": diffusers.diffusers_arguments_text(config, searched),
        "accelerate.yaml": accelerate_text(config),
        "deepspeed.json": deepspeed_text(config, searched),
        "torchtitan.toml": torchtitan.torchtitan_toml(config, searched),
        "torchtitan_config.py": torchtitan.torchtitan_config_text(config, searched),
        "megatron_args.txt": megatron.megatron_arguments_text(config, searched),
        "megatron_bridge.yaml": megatron.megatron_bridge_text(config, searched),
        "megatron_groups.py": megatron.megatron_groups_text(config),
    }


# The files whose programs get their groups for AdamW.
OF_ADAMW = (
    *("torch_groups.py", "diffusers_groups.py", "diffusers_args.txt", "deepspeed.json"),
    *("torchtitan.toml", "torchtitan_config.py"),
    *("megatron_args.txt", "megatron_bridge.yaml", "megatron_groups.py"),
)


def _refusal(name: str, config: TrialConfig) -> str:
    said = (
        f"{name} can only say AdamW, but the target trains with optimizer={config.optimizer.name}: "
        "take the values of every parameter from factors.json, or train with `hptransfer train`."
    )
    if name.endswith(".json"):
        return json.dumps({"#": said}) + "\n"
    return f"raise NotImplementedError({said!r})\n" if name.endswith(".py") else f"# {said}\n"
