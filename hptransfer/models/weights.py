"""Weight files: written as safetensors with the trial's config, read from these and published ones.

A µP model's readout is scaled by its base width over its width, which no state dict holds. Without
the base width in a file's metadata, a µP checkpoint looks like one of the standard parametrization.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hptransfer.config import TrialConfig
from hptransfer.config.identity import canonical_json
from hptransfer.errors import UserError
from hptransfer.models.parametrization.rules import build_model, forward_multipliers
from hptransfer.system.files import opening, writing

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model.")  # put before names by trainers
# In one file with an autoencoder, as SD3 is published.
MODEL_PREFIX_IN_BUNDLES = "model.diffusion_model."
# Of nested state dicts, moving averages first.
STATE_DICT_KEYS = ("ema", "model_ema", "state_dict_ema", "state_dict", "model")
NAMES_SHOWN = 3  # names of each kind in a complaint

Stored = tuple[dict[str, Tensor], dict[str, str]]  # tensors and metadata by name


def save_weights(path: Path, config: TrialConfig, weights: Mapping[str, Tensor]) -> None:
    """Write a trial's trained parameters to a safetensors file, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
        MachineError: the disk is full or broken.
    """
    with opening(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "base_width": str(config.model.base_width),
        "parametrization": config.parametrization.scaling.value,
        "multipliers": _multipliers(config),
        "trial": canonical_json(config),
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        write_tensors(partial, contiguous, metadata)
        partial.replace(path)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors to a safetensors file, and wait until they are on the disk.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file(tensors, str(path), metadata)
    except SafetensorError as error:  # safetensors raises this if the disk is full
        raise OSError(errno.EIO, str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_weights(config: TrialConfig, path: str | Path) -> nn.Module:
    """Return a trial's model with the weights of a file: one of hptransfer, or a published one.

    Files other than .safetensors are read by `torch.load(weights_only=True)`. Prefixes that
    trainers add to names are removed. If a file holds a moving average and raw weights, the average
    is taken.

    Raises:
        UserError: the file is broken, or is not of this model in this parametrization.

    Example:
        >>> import torch
        >>> config = hptransfer.load_trial("results/studies/quickstart/target.yaml")
        >>> trained = hptransfer.build_model(config).state_dict()
        >>> torch.save({"model": trained, "base_width": config.model.base_width}, "weights.pt")
        >>> model = hptransfer.load_weights(config, "weights.pt")
    """
    path = Path(path)
    tensors, metadata = _stored(path)
    model = build_model(config)
    _require_scaled_alike(config, metadata, path)
    tensors = _unwrapped(tensors, set(model.state_dict()))
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UserError(
            f"Weights must be finite, but {broken[0]} in {path} is not, so the run that wrote "
            "them had diverged. Take an earlier checkpoint."
        )
    # The model computes its buffers, so that a checkpoint may leave them out.
    trained = {name for name, _ in model.named_parameters()}
    tables = {name: value for name, value in model.state_dict().items() if name not in trained}
    _require_match(model.state_dict(), {**tables, **tensors}, path)
    model.load_state_dict({**tables, **tensors}, strict=True)
    return model


def _stored(path: Path) -> Stored:
    if not path.is_file():
        raise UserError(f"There are no weights at {path}. Check the path.")
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                names, metadata = list(file.keys()), file.metadata() or {}
                return {name: file.get_tensor(name) for name in names}, metadata
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or "it ends too early"
        raise UserError(
            f"{path} must be a file of weights, but it cannot be read: {reason}. Copy it again."
        ) from None
    except UnpicklingError:
        raise UserError(
            f"{path} must hold tensors only, but it holds objects that would run code when read. "
            "Save its state dict as .safetensors."
        ) from None
    return _innermost(content)


def _innermost(content: Any) -> Stored:
    """Return the tensors of a checkpoint, and the text and numbers beside them as metadata."""
    metadata: dict[str, str] = {}
    while isinstance(content, dict) and not all(isinstance(v, Tensor) for v in content.values()):
        metadata |= {k: str(v) for k, v in content.items() if isinstance(v, str | int | float)}
        inner = [content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), dict)]
        if not inner:
            found = ", ".join(map(str, list(content)[:5]))
            raise UserError(
                "A checkpoint must be a state dict, or hold one under "
                f"{', '.join(STATE_DICT_KEYS)}, but it has {found}. Save the model's state dict."
            )
        content = inner[0]
    if not isinstance(content, dict):
        raise UserError(f"A checkpoint must be a state dict, but it is a {type(content).__name__}.")
    return content, metadata


def _unwrapped(tensors: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Return tensors without wrappers' prefixes, removed while all names share one."""
    ours = [name for name in tensors if name.startswith(MODEL_PREFIX_IN_BUNDLES)]
    if ours:
        return {name.removeprefix(MODEL_PREFIX_IN_BUNDLES): tensors[name] for name in ours}
    for _ in WRAPPER_PREFIXES:
        prefix = next(
            (p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in tensors)), None
        )
        if prefix is None or wanted & tensors.keys():
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _require_scaled_alike(config: TrialConfig, metadata: Mapping[str, str], path: Path) -> None:
    """Refuse weights whose forward multipliers are not the config's, or are unknown."""
    stated = metadata.get("base_width", "").removesuffix(".0") or None
    own = str(config.model.base_width)
    if stated is not None and stated != own:
        raise UserError(
            f"Weights must be used at the base width they were trained with, but {path} says "
            f"{stated} and the config says {own}. Set model.base_width={stated}."
        )
    multipliers = _multipliers(config)
    recorded = metadata.get("multipliers", multipliers)
    if recorded != multipliers:
        raise UserError(
            f"Weights must be scaled as they were trained, but {path} was trained with "
            f"{recorded} (parametrization={metadata.get('parametrization')}) and the config gives "
            f"{multipliers}. Set parametrization, its output_scale and model.base_depth as there."
        )
    if stated is None and any(factor != 1 for factor in forward_multipliers(config).values()):
        raise UserError(
            f"A µP model is scaled by factors relative to its base width, but {path} does not "
            f"give its base_width in its metadata. The config says {own} at width "
            f"{config.model.width}, which gives {multipliers}. Store base_width beside the "
            "tensors (metadata of .safetensors, a key of the checkpoint), or set "
            "parametrization=standard with output_scale 1 if the model was trained without µP."
        )


def _multipliers(config: TrialConfig) -> str:
    """Return the forward multipliers other than 1 as sorted JSON."""
    scaled = {name: f for name, f in forward_multipliers(config).items() if f != 1}
    return json.dumps(scaled, sort_keys=True)


def _require_match(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors whose names or shapes are not the model's."""
    missing = [name for name in wanted if name not in found]
    foreign = [name for name in found if name not in wanted]
    other = [
        f"{name} {list(found[name].shape)} for {list(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "not the model's": foreign, "of another shape": other}
    complaints = [
        f"{len(n)} {kind} ({', '.join(n[:NAMES_SHOWN])}{', ...' if len(n) > NAMES_SHOWN else ''})"
        for kind, n in kinds.items()
        if n
    ]
    if complaints:
        raise UserError(
            f"The weights in {path} must be this model's, but of its {len(wanted)} tensors there "
            f"are {'; '.join(complaints)}. Choose the model= that they were trained as."
        )
