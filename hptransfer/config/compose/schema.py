"""What a config file may say: the groups with their members, and the sections beside them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hptransfer import config
from hptransfer.config import (
    ExecutorConfig,
    PlanConfig,
    RuntimeConfig,
    TrainerConfig,
    TrialConfig,
)
from hptransfer.config.choices import Scaling
from hptransfer.config.external import ExternalTrainer
from hptransfer.config.records import field_types
from hptransfer.config.sweep import DesignConfig, RealiseConfig, VaryConfig, VerdictConfig
from hptransfer.errors import UserError, abbreviate

# The dataclasses of each group. A group with several members has a field that names the member
# (the tag: `model.family`, `objective.name`, `data.name`), by which they are listed here.
MEMBERS: Mapping[str, Mapping[str, type]] = {
    "model": {
        "dit": config.DiTConfig,
        "dit_modern": config.DiTModernConfig,
        "uvit": config.UViTConfig,
        "pixart": config.PixArtConfig,
        "mmdit": config.MMDiTConfig,
        "custom": config.CustomConfig,
    },
    "parametrization": {"parametrization": config.ParametrizationConfig},
    "objective": {
        "rectified_flow": config.RectifiedFlowConfig,
        "ddpm": config.DDPMConfig,
        "vp": config.VPConfig,
    },
    "data": {
        "digits": config.DigitsConfig,
        "fashion_mnist": config.FashionMNISTConfig,
        "features": config.FeaturesConfig,
        "image_folder": config.ImageFolderConfig,
        "huggingface": config.HuggingFaceConfig,
    },
    "optimizer": {
        "adamw": config.AdamWConfig,
        "muon": config.MuonConfig,
        "lion": config.LionConfig,
    },
    "budget": {"budget": config.BudgetConfig},
    "quality": {"quality": config.QualityConfig},
    "runtime": {"runtime": RuntimeConfig},
    "executor": {"executor": ExecutorConfig},
}
GROUPS = tuple(MEMBERS)
TRIAL_GROUPS = GROUPS[:-2]  # the groups of a trial
TRIAL_FIELDS = ("init", "precision", "seed")  # the other fields of a trial
TAGS = {
    **{"model": "family", "objective": "name", "data": "name", "optimizer": "name"},
    "executor": "name",
}


@dataclass(frozen=True)
class SweepSection:
    """The section `sweep`."""

    widths: tuple[int, ...] = ()  # widths of the proxies, increasing
    parametrizations: tuple[Scaling, ...] = (Scaling.mup,)  # the parametrizations that are compared
    seeds: tuple[int, ...] = (0,)  # every point is trained once with each of them
    target: Mapping[str, Any] = field(default_factory=dict)  # e.g. `model: {width: 192}`
    realise: RealiseConfig = field(default_factory=RealiseConfig)
    design: DesignConfig = field(default_factory=DesignConfig)
    vary: VaryConfig = field(default_factory=VaryConfig)
    gate: bool = True  # sweep under µP only after the coordinate check of the model passed


@dataclass(frozen=True)
class TransferSection:
    """The section `transfer`."""

    allow: tuple[str, ...] = ()  # what a target may differ in besides width: depth


SECTIONS: Mapping[str, type] = {
    "train": TrainerConfig,
    "plan": PlanConfig,
    "sweep": SweepSection,
    "transfer": TransferSection,
    "verdict": VerdictConfig,
}
TEXTS = ("name", "question", "statistic")
# Mappings with keys of any name.
OPEN = (
    *("search", "sweep.target", "executor.resources", "executor.slurm.parameters", "fixed"),
    "resources",
)
# Fields that earlier versions did not write: a section without them still gives every field.
NEWER = {
    "budget": {"judged_ema_fractions"},
    "executor": {"slurm", "nodes", "placement"},
    "model": {"chunks", "feature_tokens"},
    "optimizer": {f.name for f in dataclasses.fields(config.OptimizerConfig)} - {"lr"}
    | {"decay_timescale"},
    "parametrization": {
        *("decayed", "base_batch_size", "base_steps", "duration_exponent", "most_one_minus_beta"),
    },
    "quality": {
        *("sampler", "extractor", "decoder", "version", "reference", "reference_sha256"),
    },
    "objective": {
        *("prediction", "least_time", "timestep_shift", "repa_weight", "repa_depth"),
        "auxiliary_weight",
    },
    "data": {
        *("shift", "mirrored", "latent_column", "label_column", "token_column", "mask_column"),
        *("pooled_column", "caption_column", "feature_channels", "feature_column"),
    },
}
UNTAGGED = {"optimizer": "adamw"}  # the member of a section without its tag, as they were written
# Keys that only a sweep of the user's own trainer has, and sections with a dot at the end.
EXTERNAL_ONLY = (
    *("fixed.", "resources.", "sweep.base_width."),
    *(f"train.{name}." for name in field_types(ExternalTrainer)),
)


def member(group: str, section: Mapping[str, Any]) -> type:
    """The dataclass of a group's section; its tag decides where the group has several."""
    members = MEMBERS[group]
    if len(members) == 1:
        (only,) = members.values()
        return only
    tag = section.get(TAGS[group], UNTAGGED.get(group))
    if not isinstance(tag, str) or tag not in members:
        raise UserError(
            f"`{group}.{TAGS[group]}` must be one of {', '.join(members)}, but got "
            f"{abbreviate(tag)}. Choose one with {group}=."
        )
    return members[tag]


def is_whole(group: str, section: Any) -> bool:
    """Whether a section gives every field of its group, as in the files that a run writes."""
    if not isinstance(section, Mapping):
        return False
    members = MEMBERS[group]
    tag = section.get(TAGS.get(group, ""), UNTAGGED.get(group))
    cls = members.get(str(tag)) if len(members) > 1 else next(iter(members.values()))
    return cls is not None and set(field_types(cls)) - NEWER.get(group, set()) <= set(section)


@functools.cache
def key_types() -> Mapping[str, Any]:
    """The type of every dotted key of a config file; of several members the last one's."""
    parts = [("", _trial_fields()), *(("", {name: str}) for name in TEXTS)]
    for group, members in MEMBERS.items():
        parts += [(group, field_types(cls)) for cls in members.values()]
    parts += [("train", field_types(ExternalTrainer)), ("sweep", {"base_width": int | None})]
    parts += [(name, field_types(cls)) for name, cls in SECTIONS.items()]
    keys = {name: Any for name in (*GROUPS, *SECTIONS, "search")}
    for prefix, types in parts:
        keys |= dict(_dotted(prefix, types))
    return keys


def _trial_fields() -> dict[str, Any]:
    return {name: field_types(TrialConfig)[name] for name in TRIAL_FIELDS}


def _dotted(prefix: str, types: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, kind in types.items():
        key = f"{prefix}.{name}" if prefix else name
        yield key, kind
        if dataclasses.is_dataclass(kind):
            yield from _dotted(key, field_types(kind))  # pyright: ignore[reportArgumentType]


def all_keys() -> list[str]:
    """Every dotted key of a config file, sorted."""
    return sorted(key_types())
