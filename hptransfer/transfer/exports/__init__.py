"""Files that hold the target's values for other trainers: JSON, torch, diffusers, Megatron-LM.

Each file is described in docs/export.md.
"""

from __future__ import annotations

from pathlib import Path

from hptransfer.config import CustomConfig, TrialConfig
from hptransfer.models.parametrization.rules import branch_multipliers
from hptransfer.system.files import write_text
from hptransfer.transfer.exports import diffusers, megatron
from hptransfer.transfer.exports.factors import factors_text, resolved, torch_groups_text


def write_exports(folder: Path, config: TrialConfig) -> list[Path]:
    """Write every export of a target run; return the files."""
    paths = []
    for name, text in exports(config).items():
        paths.append(folder / name)
        write_text(folder / name, text)
    return paths


def exports(config: TrialConfig) -> dict[str, str]:
    """Return the text of every export by file name."""
    parameters = resolved(config)
    theirs = diffusers.renamed(parameters, config.model.family)
    notes = [_branches(config)] if branch_multipliers(config) else []
    if isinstance(config.model, CustomConfig):
        notes.append(f"Weights start as {config.model.factory} draws them, times a factor each.")
    return {
        "factors.json": factors_text(config),
        "torch_groups.py": torch_groups_text(config, parameters, readout="hook", says=notes),
        "diffusers_groups.py": torch_groups_text(
            config,
            parameters if theirs is None else theirs,
            readout="folded",
            says=[_names(config.model.family), *notes],
        ),
        "diffusers_args.txt": diffusers.diffusers_arguments_text(config),
        "accelerate.yaml": diffusers.accelerate_text(config),
        "megatron_args.txt": megatron.megatron_arguments_text(config),
        "megatron_groups.py": megatron.megatron_groups_text(config),
    }


def _branches(config: TrialConfig) -> str:
    (factor,) = set(branch_multipliers(config).values())
    return f"Depth is scaled: multiply every residual branch by {factor:.6g}, which no group can."


def _names(family: str) -> str:
    if family not in diffusers.CLASSES:
        return f"Names are hptransfer's: diffusers has no class of the family {family}."
    return f"Names are those of diffusers' {diffusers.CLASSES[family][0]}."
