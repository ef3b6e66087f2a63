"""Splits of data sets, and the check that a folder is complete, finite and the one of the config.

A folder is opened by reading names and headers. A scan then reads every sample as training does, so
that a broken sample is named before a run starts, and hashes the name and bytes of every file. The
outcome is sealed: a small file records that a data set of this config, with files of these names,
sizes and modification times, was read without fault and has this hash. A worker then only lists the
files. If any file has changed, there is no seal for the new state, and the worker reads and hashes
all files. Remove the seals to have that done anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from hptransfer.config import DataConfig, DigitsConfig, FolderConfig, Layout
from hptransfer.errors import MachineError, UserError
from hptransfer.system.files import write_text
from hptransfer.system.random_streams import numpy_generator

# Exceptions that numpy, safetensors, Pillow, Arrow and json raise on broken files.
_FAILURES = (
    *(OSError, ValueError, SyntaxError, KeyError, EOFError, OverflowError),
    *(BadZipFile, zlib.error, struct.error, SafetensorError),
)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Replace an error of reading a file, in a `with` block, by a `UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except _FAILURES as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{path} is broken or cannot be read: {reason}. Copy or write it again."
        ) from error


Captions = tuple[Tensor, Tensor, Tensor]  # tokens (B, L, K), mask (B, L), pooled (B, A)


class Split(Protocol):
    """Samples by indices (B,); all tensors are on the CPU."""

    def __len__(self) -> int: ...

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1], or latents."""
        ...

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,), int64."""
        ...

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens (B, L, K), mask (B, L), True at real tokens, and pooled features (B, A)."""
        ...


class Dataset(NamedTuple):
    """The two splits of a data set; the validation split is never trained on."""

    train: Split
    validation: Split


@dataclass(frozen=True)
class MemorySplit:
    """Samples in memory, each described by one of a few encoded sentences."""

    images: Tensor  # (N, C, H, W) in [-1, 1]
    labels: Tensor  # (N,)
    caption: Tensor  # (N,): the row of each sample's sentence
    sentences: Captions  # (S, ...) each

    def __len__(self) -> int:
        return len(self.labels)

    def images_at(self, indices: np.ndarray) -> Tensor:
        return self.images[torch.from_numpy(indices)]

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return self.labels[torch.from_numpy(indices)]

    def captions_at(self, indices: np.ndarray) -> Captions:
        rows = self.caption[torch.from_numpy(indices)]
        tokens, mask, pooled = self.sentences
        return tokens[rows], mask[rows], pooled[rows]


@dataclass(frozen=True)
class SourceRows:
    """The samples at `rows` (N,) of a source, read on demand."""

    source: Split
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def images_at(self, indices: np.ndarray) -> Tensor:
        return self.source.images_at(self.rows[indices])

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return self.source.labels_at(self.rows[indices])

    def captions_at(self, indices: np.ndarray) -> Captions:
        return self.source.captions_at(self.rows[indices])


def split_rows(samples: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and of held-out samples; they depend on no trial's seed."""
    order = numpy_generator(0, "split").permutation(samples)
    return order[held_out:], order[:held_out]


READER_THREADS = 4  # threads per process; decoding and hashing release Python's lock
_CHECKS = "1"  # version of the scan's checks; seals of another version do not count


@cache
def reader_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READER_THREADS, thread_name_prefix="data")


def content_hash(folder: Path, files: Sequence[str]) -> str:
    """Return the first 16 hex digits of the sha256 over every file's name and bytes."""
    digest = hashlib.sha256()
    for start in range(0, len(files), 1024):
        names = files[start : start + 1024]
        for name, part in zip(
            names, reader_threads().map(lambda n: _hash(folder / n), names), strict=True
        ):
            digest.update(f"{name}\0{part}\n".encode())
    return digest.hexdigest()[:16]


def _hash(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(config: FolderConfig, folder: Path, files: Sequence[str]) -> str:
    """Return a key of everything that a scan depends on, without opening a file."""
    asked = dataclasses.replace(config, sha256="", held_out=1)
    digest = hashlib.sha256(f"{_CHECKS} {asked!r}\n".encode())
    for name in files:
        status = os.stat(folder / name)  # noqa: PTH116  (faster than Path.stat, for millions of files)
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _places(folder: Path) -> Iterator[Path]:
    """Yield the folders of seals: beside the data, for all users of them, or else the user's."""
    yield folder / ".hptransfer"
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hptransfer"


def sealed_hash(folder: Path, key: str) -> str | None:
    """Return the hash that a seal records; None if there is no seal."""
    for place in _places(folder):
        if (place / key).is_file():
            return (place / key).read_text(encoding="utf-8")
    return None


def write_seal(folder: Path, key: str, sha256: str) -> None:
    """Write a folder's seal; if no place can be written, every process scans for itself."""
    for place in _places(folder):
        try:
            write_text(place / key, sha256)
            return
        except (UserError, MachineError):
            continue


SCAN_SAMPLES = 64  # samples that a scan holds in memory at once


class Source(ABC):
    """All samples of a folder, by index as in a `Split`: one unlabelled class without captions."""

    folder: Path
    files: Sequence[str]  # all that are read, relative to the folder, ordered by names alone
    layout: Layout  # shapes found in the files, or the config's if the files do not fix them
    advice: Sequence[str] = ()  # overrides that an error suggests for such a folder

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def place(self, index: int) -> str:
        """Return the name of a sample's place, for errors."""

    @abstractmethod
    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1], or scaled latents."""

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return torch.zeros(len(indices), dtype=torch.long)

    def captions_at(self, indices: np.ndarray) -> Captions:
        none = torch.zeros(len(indices), 0)
        return none.unsqueeze(-1), none.bool(), none


def named_folder(config: DataConfig, folder: str | None) -> Path:
    """Return the folder of a data set; raise a `UserError` if none is named or it is missing."""
    missing = missing_folder(config, folder)
    if folder is None or missing is not None:
        raise UserError(missing)
    return Path(folder)


def missing_folder(config: DataConfig, folder: str | None) -> str | None:
    """Say that the folder of a data set is not named or not there; None where nothing is missing.

    Nothing is read. A data set that ships with hptransfer needs no folder.
    """
    if isinstance(config, DigitsConfig):
        return None
    if folder is None:
        return (
            f"data={config.name} is read from a folder, but none is named. Set "
            "runtime.data_folder=/path/to/it."
        )
    if not Path(folder).is_dir():
        return (
            f"data={config.name} is read from a folder, but {folder} is none. Set "
            "runtime.data_folder to one that exists."
        )
    return None


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
        layout = source.layout
        if config.caption_tokens == 0:  # captions count only if the config asks for them
            none = dict.fromkeys(("caption_tokens", "caption_channels", "pooled_channels"), 0)
            layout = dataclasses.replace(layout, **none)
        if layout != config.layout:
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
