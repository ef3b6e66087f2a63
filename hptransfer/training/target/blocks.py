"""What is done to a model block by block: compiling it, and computing its inside twice."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from hptransfer.errors import UserError
from hptransfer.training.compile import compile_blocks, compiled


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the members of a model's lists of blocks, outermost lists only, in its order."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


def compile_regions(model: nn.Module, *, custom: bool) -> None:
    """Compile a model by region: a family's blocks by kind, each block of one of the user's own.

    A model of the user's own without lists of blocks is one region.
    """
    if not custom:
        compile_blocks(model)
        return
    for region in blocks_of(model) or [model]:
        region.forward = compiled(region.forward)


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only what enters each block; its inside is computed again in the backward."""
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            "`train.activation_checkpointing` works block by block, but the model has no "
            "nn.ModuleList of blocks. Put its blocks into one, or leave it off."
        )
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again
