"""The check that a folder is complete, finite and the one of the config.

A folder is opened by reading names and headers. A scan then reads every sample as training does, so
that a broken sample is named before a run starts, and hashes the name and bytes of every file. The
outcome is sealed, and a worker then only lists the files.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hptransfer.config import FolderConfig
from hptransfer.data.reading import Progress
from hptransfer.data.seal import Seal, content_hash, fingerprint, read_seal, write_seal
from hptransfer.data.source import Source
from hptransfer.data.statistics import Sums
from hptransfer.errors import UserError

SCAN_SAMPLES = 64  # samples that a scan holds in memory at once


def check_source(config: FolderConfig, source: Source, *, trust_seal: bool) -> Seal:
    """Return the seal of a source; raise a `UserError` if it is broken or not the config's."""
    if config.held_out >= len(source):
        raise UserError(
            f"`data.held_out` must leave both splits non-empty of the {len(source)} samples in "
            f"{source.folder}, but got {config.held_out}. Set data.held_out to a smaller number."
        )
    key = fingerprint(config, source.folder, source.files)
    seal = read_seal(source.folder, key) if trust_seal else None
    if seal is None:
        found = content_hash(source.folder, source.files)
        layout = source.layout
        if config.caption_tokens == 0:  # captions count only if the config asks for them
            none = dict.fromkeys(("caption_tokens", "caption_channels", "pooled_channels"), 0)
            layout = dataclasses.replace(layout, **none)
        if config.layout.feature_channels == 0:  # so do features
            layout = dataclasses.replace(layout, feature_channels=0)
        if layout != config.layout:
            raise _not_as_named(config, source, found)
        seal = scan_source(config, source, found)
        write_seal(source.folder, key, seal)
    if seal.sha256 != config.sha256:
        raise _not_as_named(config, source, seal.sha256)
    return seal


def scan_source(config: FolderConfig, source: Source, sha256: str) -> Seal:
    """Read every sample as training does; raise a `UserError` at the first broken one."""
    samples, sums, largest = len(source) * (1 + source.mirrored), Sums(), 0
    progress = Progress(f"reading the samples of {source.folder}", samples)
    for start in range(0, samples, SCAN_SAMPLES):
        indices = np.arange(start, min(start + SCAN_SAMPLES, samples))
        stored = source.stored_at(indices)
        _refuse(source, indices, ~_finite(stored), "is not all finite")
        sums.add(stored)
        labels, classes = source.labels_at(indices), source.layout.classes
        outside = (labels < 0) | (labels >= classes)
        values = ", ".join(str(label) for label in labels[outside][:1].tolist())
        _refuse(source, indices, outside, f"is labelled {values}, outside 0 to {classes - 1}")
        largest = max(largest, int(labels.max()))
        if config.caption_tokens:
            tokens, mask, pooled = source.captions_at(indices)
            finite = _finite(tokens) & _finite(pooled)
            _refuse(source, indices, ~finite, "has caption features that are not all finite")
            _refuse(source, indices, ~mask.any(1), "has a caption of no token")
        if config.layout.feature_channels:
            finite = _finite(source.features_at(indices))
            _refuse(source, indices, ~finite, "has features that are not all finite")
        progress.at(int(indices[-1]) + 1)
    return Seal(sha256, largest + 1, sums.statistics(samples))


def _finite(values: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(values).flatten(1).all(1)


def _refuse(source: Source, indices: np.ndarray, bad: torch.Tensor, what: str) -> None:
    if bool(bad.any()):
        place = source.place(int(indices[bad.numpy()][0]))
        raise UserError(f"{place} {what}. Write that sample again, or leave it out.")


def _not_as_named(config: FolderConfig, source: Source, sha256: str) -> UserError:
    """Return the error that lists all overrides which a folder needs, ready to be pasted."""
    if config.caption_tokens and not source.layout.caption_tokens:
        return UserError(
            f"The config asks for captions, but {source.folder} holds none. Choose a folder with "
            "captions, or a model without (model=dit, model=uvit) and data.caption_tokens=0 "
            "data.caption_channels=0 data.pooled_channels=0."
        )
    if config.layout.feature_channels and not source.layout.feature_channels:
        return UserError(
            f"The config asks for features of a frozen encoder, but {source.folder} holds none. "
            "Write them beside the latents as the array or column `features`, or set "
            "objective.repa_weight=0 data.feature_channels=0."
        )
    found = dataclasses.asdict(source.layout)
    stated = dataclasses.asdict(config.layout) | {"sha256": config.sha256}
    found["sha256"] = sha256
    differing = [name for name in found if found[name] != stated[name]]
    shown = [f"data.{name}={found[name]}" for name in found if found[name] or name in differing]
    differences = ", ".join(
        f"{name} is {found[name]} and not {stated[name] or 'stated'}" for name in differing
    )
    return UserError(
        f"data={config.name} must state the shapes and the content's hash, so that a trial says "
        f"what it saw, but in {source.folder} {differences}. Set "
        f"{' '.join([*shown, *source.advice])}"  # to be pasted, so without a full stop
    )
