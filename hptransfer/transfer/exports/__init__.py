"""Files that hold the target's values for other trainers: JSON, torch, diffusers, Megatron-LM.

Each file is described in docs/how_to/export.md.
"""

from __future__ import annotations

from pathlib import Path

from hptransfer.config import AdamWConfig, CustomConfig, TrialConfig
from hptransfer.models.parametrization.rules import branch_multipliers
from hptransfer.system.files import write_text
from hptransfer.transfer.exports import diffusers, megatron
from hptransfer.transfer.exports.diffusers import accelerate_text
from hptransfer.transfer.exports.factors import factors_text, resolved, torch_groups_text


def write_exports(folder: Path, config: TrialConfig) -> list[Path]:
    """Write every export of a target run; return the files."""
    paths = []
    for name, text in exports(config).items():
        paths.append(folder / name)
        write_text(folder / name, text)
    return paths


def exports(config: TrialConfig) -> dict[str, str]:
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
    return {
        "factors.json": factors_text(config),
        "torch_groups.py": torch_groups_text(config, parameters, readout="hook", says=notes),
        "diffusers_groups.py": torch_groups_text(
            config,
            parameters if theirs is None else theirs,
            readout="folded",
            says=[names, *notes],
        ),
        "diffusers_args.txt": diffusers.diffusers_arguments_text(config, config.optimizer),
        "accelerate.yaml": accelerate_text(config),
        "megatron_args.txt": megatron.megatron_arguments_text(config, config.optimizer),
        "megatron_groups.py": megatron.megatron_groups_text(config),
    }


# The files whose programs get their groups for AdamW.
OF_ADAMW = (
    *("torch_groups.py", "diffusers_groups.py", "diffusers_args.txt"),
    *("megatron_args.txt", "megatron_groups.py"),
)


def _refusal(name: str, config: TrialConfig) -> str:
    said = (
        f"{name} can only say AdamW, but the target trains with optimizer={config.optimizer.name}: "
        "take the values of every parameter from factors.json, or train with `hptransfer train`."
    )
    return f"raise NotImplementedError({said!r})\n" if name.endswith(".py") else f"# {said}\n"
