"""Files that hold the target's values for other trainers: JSON, torch, diffusers, Megatron-LM.

Each file is described in docs/how_to/export.md.
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
        "diffusers_args.txt": diffusers.diffusers_arguments_text(config),
        "accelerate.yaml": diffusers.accelerate_text(config),
        "megatron_args.txt": megatron.megatron_arguments_text(config),
        "megatron_groups.py": megatron.megatron_groups_text(config),
    }
