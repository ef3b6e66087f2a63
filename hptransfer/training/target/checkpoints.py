"""Checkpoints of a training run: tensors in files of bounded size beside a manifest of checksums.

A checkpoint is the folder `checkpoints/<step>`: it is written under another name and renamed last,
so it is there whole or not at all. What was damaged later is found by its checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

from hptransfer.errors import UserError
from hptransfer.models.weights import write_tensors
from hptransfer.system.files import require_inside, sync_folder, writing
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.progress import RunProgress
from hptransfer.training.target.record import ProcessStart

MANIFEST_FORMAT = 1  # of the manifest; no other is read
FILE_BYTES = 2 << 30  # of tensors in one file, unless one alone is larger
MANIFEST = "manifest.json"
TENSOR_FILE_NAME = re.compile(r"\d{5}\.safetensors")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A sound checkpoint: the steps taken, the facts beside its tensors, and where these lie."""

    step: int
    facts: dict[str, Any]
    files: Mapping[str, Path]  # by the tensor's name

    def require(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse a model whose tensors are others now, or of other shapes."""
        found: dict[str, tuple[int, ...]] = {}
        for path in set(self.files.values()):
            with safe_open(str(path), framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        wanted = {name: tuple(shape) for name, shape in shapes.items()}
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise UserError(
                    "A run goes on with the model it began with, but in its checkpoint of step "
                    f"{self.step} {name} is {_said(found.get(name))}, and in the model "
                    f"{_said(wanted.get(name))}. Bring the model's code back, or remove the run's "
                    "folder to train anew."
                )

    def tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        with safe_open(str(self.files[name]), framework="pt") as file:
            return file.get_tensor(name)


class RunCheckpoints:
    """The checkpoints in a folder, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int, chunk_bytes: int = FILE_BYTES) -> None:
        self.folder, self.keep, self.chunk_bytes = folder, keep, chunk_bytes

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints there are, sound or not, in order."""
        names = (path.name for path in self.folder.glob("*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self) -> tuple[SavedCheckpoint | None, list[str]]:
        """Return the newest sound checkpoint, and a sentence about each newer one that is not."""
        notes = []
        for step in reversed(self.steps()):
            try:
                return self.read(step), notes
            except ValueError as error:
                notes.append(f"The checkpoint of step {step} is no use: {error}.")
        return None, notes

    def read(self, step: int) -> SavedCheckpoint:
        """Return a checkpoint; raise ValueError, saying why, if it is not as it was written."""
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
            path = _inside(folder, entry["name"])
            if not _is_whole(path, entry["sha256"]):
                raise ValueError(f"its file {path.name} is missing or damaged")
            files |= dict.fromkeys(entry["tensors"], path)
        return SavedCheckpoint(step, content["facts"], files)

    def save(
        self, step: int, tensors: Iterable[tuple[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint and remove what is older than those kept, or of a later step.

        Later steps are of a past that was left: the run went on before them.
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
            if final.exists():  # damaged, or training would have gone on from there
                shutil.rmtree(final)
            partial.rename(final)
            sync_folder(self.folder)
        self._prune(step)

    def _prune(self, step: int) -> None:
        kept = [at for at in self.steps() if at <= step][-self.keep :]
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in map(str, kept):
                shutil.rmtree(path, ignore_errors=True)


def _chunks(tensors: Iterable[tuple[str, Tensor]], most: int) -> Iterator[dict[str, Tensor]]:
    """Group tensors in order, so that a group holds at most so many bytes or one tensor."""
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
    """Write a file of tensors and return its entry in the manifest."""
    write_tensors(path, chunk)
    return {"name": path.name, "sha256": _digest(path), "tensors": list(chunk)}


def _inside(folder: Path, name: str) -> Path:
    if not TENSOR_FILE_NAME.fullmatch(name):
        raise ValueError("its manifest names files that no checkpoint has")
    require_inside(folder, folder / name)
    return folder / name


def _said(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there, can be read, and holds what was written."""
    try:
        return _digest(path) == sha256
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ResumedRun(NamedTuple):
    """What earlier processes did of a run."""

    progress: RunProgress
    starts: list[ProcessStart]


def checkpoint_facts(past: ResumedRun, origin: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what a checkpoint holds beside its tensors, after so many seconds."""
    return {
        "origin": dict(origin),
        "progress": past.progress.facts(seconds),
        "starts": [start._asdict() for start in past.starts],
    }


def resume(
    engine: Engine,
    checkpoints: RunCheckpoints,
    origin: Mapping[str, Any],
    tell: Callable[[str], None],
) -> ResumedRun:
    """Put the engine where the newest sound checkpoint was; at the start where there is none."""
    group = engine.group
    saved = (
        _newest(checkpoints, origin, engine.config.budget.steps, tell) if group.is_first else None
    )
    known = group.facts_from_first(None if saved is None else saved.facts)
    if known is None:
        return ResumedRun(RunProgress(engine.at_init_loss()), [])
    progress = RunProgress.of(known["progress"])
    if saved is not None:
        saved.require(engine.shapes())
    engine.restore(_reading(saved), progress.step)
    return ResumedRun(progress, [ProcessStart(**start) for start in known["starts"]])


def _newest(
    checkpoints: RunCheckpoints, origin: Mapping[str, Any], steps: int, tell: Callable[[str], None]
) -> SavedCheckpoint | None:
    """Find the checkpoint to go on from, and tell what is to be said of it."""
    saved, notes = checkpoints.newest()
    for note in notes:
        tell(note)
    if saved is None:
        if notes:
            tell("No checkpoint is left to go on from, so the run begins anew.")
        return None
    was = saved.facts["origin"]
    others = [
        f"{name} was {was[name]} and is {now}" for name, now in origin.items() if was[name] != now
    ]
    bits = f", not to the bit, since {', '.join(others)}" if others else ""
    tell(f"The run goes on at step {saved.step} of {steps}{bits}.")
    return saved


def _reading(saved: SavedCheckpoint | None) -> Callable[[str], Tensor]:
    """Return what reads tensors of a checkpoint; other processes than the first never call it."""

    def read(name: str) -> Tensor:
        assert saved is not None, "only the first process reads"
        return saved.tensor(name)

    return read
