"""Data sets in folders, and the check that one is complete, finite and the one of the config.

A folder is opened by reading names and headers. A scan then reads every sample as training does, so
that a broken sample is named before a run starts, and hashes every file. The outcome is sealed (see
`hptransfer.data.seal`): as long as no file changes, workers and later runs do not scan again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hptransfer.config import FolderConfig, Layout
from hptransfer.data.seal import content_hash, fingerprint, sealed_hash, write_seal
from hptransfer.data.split import Dataset, SourceRows, Split, split_rows
from hptransfer.errors import UserError

SCAN_SAMPLES = 64  # samples that a scan holds in memory at once


class Source(Split, Protocol):
    """All samples of a folder."""

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        ...

    @property
    def files(self) -> Sequence[str]:
        """All files that are read, relative to the folder, in an order that only names decide."""
        ...

    @property
    def advice(self) -> Sequence[str]:
        """Overrides that an error suggests for a folder of this kind, beside its shapes."""
        ...

    @property
    def layout(self) -> Layout:
        """The shapes found in the files, or the config's if the files do not fix them."""
        ...

    def place(self, index: int) -> str:
        """Return the name of a sample's place, for errors."""
        ...


def named_folder(config: FolderConfig, folder: str | None) -> Path:
    """Return the folder of a data set; raise a `UserError` if none is named or it is missing."""
    if folder is None:
        raise UserError(
            f"data={config.name} is read from a folder, but none is named. Set "
            "runtime.data_folder=/path/to/it."
        )
    if not Path(folder).is_dir():
        raise UserError(
            f"data={config.name} is read from a folder, but {folder} is none. Set "
            "runtime.data_folder to one that exists."
        )
    return Path(folder)


def split_source(config: FolderConfig, source: Source) -> Dataset:
    """Return the training and the held-out split of a source."""
    kept, held_out = split_rows(len(source), config.held_out)
    return Dataset(SourceRows(source, kept), SourceRows(source, held_out))


def check_source(config: FolderConfig, source: Source, *, trust_seal: bool) -> None:
    """Raise a `UserError` if a source is broken or is not the one of the config."""
    if config.held_out >= len(source):
        raise UserError(
            f"`data.held_out` must leave both splits non-empty of the {len(source)} samples in "
            f"{source.folder}, but got {config.held_out}. Set data.held_out to a smaller number."
        )
    key = fingerprint(config, source.folder, source.files)
    found = sealed_hash(source.folder, key) if trust_seal else None
    if found is None:
        found = content_hash(source.folder, source.files)
        if _misfits(config, source.layout):
            raise _not_as_named(config, source, found)
        scan_source(config, source)
        write_seal(source.folder, key, found)
    if found != config.sha256:
        raise _not_as_named(config, source, found)


def scan_source(config: FolderConfig, source: Source) -> None:
    """Read every sample as training does; raise a `UserError` at the first broken one."""
    for start in range(0, len(source), SCAN_SAMPLES):
        indices = np.arange(start, min(start + SCAN_SAMPLES, len(source)))
        _refuse(source, indices, ~_finite(source.images_at(indices)), "is not all finite")
        labels, classes = source.labels_at(indices), source.layout.classes
        outside = (labels < 0) | (labels >= classes)
        values = ", ".join(str(label) for label in labels[outside][:1].tolist())
        _refuse(source, indices, outside, f"is labelled {values}, outside 0 to {classes - 1}")
        if config.caption_tokens:
            tokens, mask, pooled = source.captions_at(indices)
            finite = _finite(tokens) & _finite(pooled)
            _refuse(source, indices, ~finite, "has caption features that are not all finite")
            _refuse(source, indices, ~mask.any(1), "has a caption of no token")


def _finite(values: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(values).flatten(1).all(1)


def _refuse(source: Source, indices: np.ndarray, bad: torch.Tensor, what: str) -> None:
    if bool(bad.any()):
        place = source.place(int(indices[bad.numpy()][0]))
        raise UserError(f"{place} {what}. Write that sample again, or leave it out.")


def _misfits(config: FolderConfig, found: Layout) -> bool:
    """Whether shapes differ from the config's; captions count only if it asks for them."""
    if config.caption_tokens == 0:
        found = dataclasses.replace(found, caption_tokens=0, caption_channels=0, pooled_channels=0)
    return found != config.layout


def _not_as_named(config: FolderConfig, source: Source, sha256: str) -> UserError:
    """Return the error that lists all overrides which a folder needs, ready to be pasted."""
    if config.caption_tokens and not source.layout.caption_tokens:
        return UserError(
            f"The config asks for captions, but {source.folder} holds none. Choose a folder with "
            "captions, or a model without (model=dit, model=uvit) and data.caption_tokens=0 "
            "data.caption_channels=0 data.pooled_channels=0."
        )
    found = dataclasses.asdict(source.layout)
    stated = {name: getattr(config, name) for name in found} | {"sha256": config.sha256}
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
