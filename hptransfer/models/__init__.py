"""From a model config to a plain `nn.Module`, and to the way its parameters start.

A model's `forward` only wires its children; a family adds one file here and one case each below.
"""

from __future__ import annotations

from torch import nn

from hptransfer.config import DataConfig, DiTConfig, ModelConfig
from hptransfer.models import dit
from hptransfer.models.initializers import Initializer
from hptransfer.vocabulary import Init


def build_architecture(model: ModelConfig, data: DataConfig) -> nn.Module:
    """Build a family's member, on the current default device, in torch's default initialisation."""
    match model:
        case DiTConfig():
            return dit.DiT(model, data)
    raise TypeError(f"no model for {type(model).__name__}; known: DiTConfig")


def initializer(model: ModelConfig, name: str, init: Init) -> Initializer:
    """Say how the parameter `name` of a family starts."""
    match model:
        case DiTConfig():
            return dit.initializer(name, init)
    raise TypeError(f"no initialisation for {type(model).__name__}; known: DiTConfig")
