"""Checkpoints of a target's run: how they are written and read, and how a run resumes from one.

A checkpoint is the folder `checkpoints/<step>`: tensors in files of bounded size beside a manifest
of checksums. The folder is written under another name and renamed last, so that it is there whole
or not at all. Later damage is found by the checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from hptransfer.errors import UserError
from hptransfer.models.weights import write_tensors
from hptransfer.system.files import require_inside, sync_folder, writing
from hptransfer.training.device import differences
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.record import ProcessStart, RunProgress

MANIFEST_FORMAT = 1  # version of the manifest's layout; checkpoints of another are not used
FILE_BYTES = 2 << 30  # most bytes of tensors in one file, unless one tensor alone is larger
MANIFEST = "manifest.json"
TENSOR_FILE_NAME = re.compile(r"\d{5}\.safetensors")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose checksums are right: its step, its facts, and where its tensors are."""

    step: int  # steps taken
    facts: dict[str, Any]  # the run's origin, progress and starts
    files: Mapping[str, Path]  # the file of each tensor, by the tensor's name

    def require(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse a model whose tensors have other names or `shapes` than the checkpoint's."""
        found: dict[str, tuple[int, ...]] = {}
        for path in set(self.files.values()):
            with safe_open(str(path), framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        wanted = {name: tuple(shape) for name, shape in shapes.items()}
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise UserError(
                    f"A run must go on with the model that it began with, but {name} is "
                    f"{_said(found.get(name))} in its checkpoint of step {self.step} and "
                    f"{_said(wanted.get(name))} in the model. Restore the model's code, or remove "
                    "the run's folder to train from the start."
                )

    def tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        with safe_open(str(self.files[name]), framework="pt") as file:
            return file.get_tensor(name)


class RunCheckpoints:
    """The checkpoints in a folder; the newest `keep` are kept, older ones are removed."""

    def __init__(self, folder: Path, keep: int, chunk_bytes: int = FILE_BYTES) -> None:
        self.folder, self.keep, self.chunk_bytes = folder, keep, chunk_bytes

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in the folder, damaged ones included, in order."""
        names = (path.name for path in self.folder.glob("*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self) -> tuple[SavedCheckpoint | None, list[str]]:
        """Return the newest sound checkpoint, and a sentence about each damaged newer one."""
        notes = []
        for step in reversed(self.steps()):
            try:
                return self.read(step), notes
            except ValueError as error:
                notes.append(f"The checkpoint of step {step} cannot be used: {error}.")
        return None, notes

    def read(self, step: int) -> SavedCheckpoint:
        """Return the checkpoint of a step.

        Raises:
            ValueError: the checkpoint is damaged or of another version; the message says why.
        """
        folder = self.folder / str(step)
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            check = content.pop("check")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError("its manifest is missing or damaged") from None
        if (
            check != _digest_of(content)
            or content["format"] != MANIFEST_FORMAT
            or content["step"] != step
        ):
            raise ValueError("its manifest was changed, or is of another version")
        files: dict[str, Path] = {}
        for entry in content["files"]:
            path = folder / entry["name"]
            if not TENSOR_FILE_NAME.fullmatch(entry["name"]):
                raise ValueError("its manifest names files that no checkpoint has")
            require_inside(folder, path)
            with suppress(OSError):
                if _digest(path) == entry["sha256"]:
                    files |= dict.fromkeys(entry["tensors"], path)
                    continue
            raise ValueError(f"its file {path.name} is missing or damaged")
        return SavedCheckpoint(step, content["facts"], files)

    def save(
        self, step: int, tensors: Iterable[tuple[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint; remove those older than the newest `keep`, and those of later steps.

        Checkpoints of later steps were damaged or left behind, since the run resumed before them.

        Raises:
            MachineError: the checkpoint cannot be written.
        """
        partial, final = self.folder / f".{step}.partial", self.folder / str(step)
        with writing(final):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            files = [
                _written(partial / f"{number:05}.safetensors", chunk)
                for number, chunk in enumerate(_chunks(tensors, self.chunk_bytes))
            ]
            content = {
                "format": MANIFEST_FORMAT,
                "step": step,
                "facts": dict(facts),
                "files": files,
            }
            content["check"] = _digest_of(content)
            with (partial / MANIFEST).open("x", encoding="utf-8") as file:
                json.dump(content, file, indent=1, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            if final.exists():  # damaged, since the run would have resumed from a sound one
                shutil.rmtree(final)
            partial.rename(final)
            sync_folder(self.folder)
        kept = [at for at in self.steps() if at <= step][-self.keep :]
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in map(str, kept):
                shutil.rmtree(path, ignore_errors=True)


def resume(
    engine: Engine,
    checkpoints: RunCheckpoints,
    origin: Mapping[str, Any],
    tell: Callable[[str], None],
) -> tuple[RunProgress, list[ProcessStart]]:
    """Restore the engine from the newest sound checkpoint; return its progress and its starts.

    Without a checkpoint the run begins at step 0, and its loss at initialisation is measured. All
    processes must call this; the first one alone reads files.

    Args:
        origin: what must be equal for the same result to the bit (`run_origin`).
        tell: is given sentences for people.

    Raises:
        UserError: the model now has other tensors than the checkpoint.
    """
    group = engine.group
    steps = engine.config.budget.steps
    saved = _newest(checkpoints, origin, steps, tell) if group.is_first else None
    known = group.facts_from_first(None if saved is None else saved.facts)
    if known is None:
        # One draw is enough, since this loss only scales other losses.
        return RunProgress(engine.held_out_loss(draws=1)), []
    progress = RunProgress.of(known["progress"])
    if saved is not None:
        saved.require(engine.shapes())
    engine.restore({}.__getitem__ if saved is None else saved.tensor, progress.step)
    return progress, [ProcessStart(**start) for start in known["starts"]]


def _newest(
    checkpoints: RunCheckpoints, origin: Mapping[str, Any], steps: int, tell: Callable[[str], None]
) -> SavedCheckpoint | None:
    """Return the newest sound checkpoint, and tell people of it and of damaged newer ones."""
    saved, notes = checkpoints.newest()
    for note in notes:
        tell(note)
    if saved is None:
        if notes:
            tell("No usable checkpoint is left, so the run starts from its first step.")
        return None
    changed = differences(saved.facts["origin"], origin)
    bits = f", but its last digits will differ, because {changed}" if changed else ""
    tell(f"The run goes on at step {saved.step} of {steps}{bits}.")
    return saved


def _chunks(tensors: Iterable[tuple[str, Tensor]], most: int) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors in groups, in order; a group has at most `most` bytes, or one tensor."""
    chunk: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if chunk and size + tensor.nbytes > most:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = tensor.contiguous()
        size += tensor.nbytes
    if chunk:
        yield chunk


def _written(path: Path, chunk: dict[str, Tensor]) -> dict[str, Any]:
    """Write tensors to a file, and return the file's entry in the manifest."""
    write_tensors(path, chunk)
    return {"name": path.name, "sha256": _digest(path), "tensors": list(chunk)}


def _said(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
