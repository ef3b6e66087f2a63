"""Checkpoints of packs, from which another process ends the training with the same bits.

A checkpoint is one safetensors file: the tensors of `TrainingState` and, as metadata, counters as
JSON and a checksum over both. The file is replaced whole, so all of it is of one step. A pack
continues from it only where sums are the same to the bit: equal trials, versions, device, settings.

The file holds three float32 numbers per parameter, four with a moving average. Twelve DiTs of width
96 (4.7 million parameters) take 56 MB, 0.3 to 0.6 s to write and 0.2 s to read; 10^8 parameters
take 1.2 GB, 5 to 11 s and 4 s (one thread, a virtual disk that others used too; hashing takes 1 s
per 1.4 GB of these).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hptransfer.config import CheckpointConfig, TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError
from hptransfer.system.storage import Storage, open_storage
from hptransfer.training.device import differences, hardware_model, software_versions
from hptransfer.training.packs.state import MemberRecord, PackProgress, Report, TrainingState

CHECKPOINT_FORMAT = 1  # version of the file's layout; files of another version are not used
CURVE_TENSORS = ("losses_at_init", "curves", "held_out")  # in the file beside the state's


@dataclass(frozen=True)
class PackCheckpoints:
    """The checkpoints of a whole pack and of the parts that it may be divided into."""

    storage: Storage
    name: str
    every_s: float  # least seconds between two checkpoints

    @staticmethod
    def of(checkpoints: CheckpointConfig, configs: Sequence[TrialConfig]) -> PackCheckpoints:
        """Return the checkpoints of a whole pack."""
        return PackCheckpoints(
            open_storage(checkpoints.folder), pack_id(configs), checkpoints.every_s
        )

    def checkpoint(self, configs: Sequence[TrialConfig]) -> PackCheckpoint:
        """Return the checkpoint of the pack or of a part of it."""
        return PackCheckpoint(self.storage, f"{self.name}/{pack_id(configs)}", self.every_s)


class PackCheckpoint:
    """The checkpoint of trials that train together; `notes` are sentences about its use."""

    def __init__(self, storage: Storage, name: str, every_s: float) -> None:
        self.storage, self.name, self.every_s = storage, f"{name}.safetensors", every_s
        self.notes: list[str] = []
        self.saved_at = time.monotonic()

    def restore(self, state: TrainingState) -> PackProgress | None:
        """Restore a new state from the checkpoint, and return the pack's progress until then.

        None where there is no checkpoint, or one that is damaged or was made elsewhere: such a file
        stays until it is replaced, and the pack begins anew.
        """
        try:
            content = self.storage.read_bytes(self.name)
            if content is None:
                return None
            counters, tensors = _parsed(content)
            _require_same(counters["origin"], pack_origin(state))
            _require_fitting(tensors, state, len(counters["members"]))
        except (MachineError, ValueError) as error:
            self.notes.append(f"A pack began anew instead of at its checkpoint: {error}")
            return None
        left = {int(member): MemberRecord(*record) for member, record in counters["left"].items()}
        steps = counters["steps"]
        state.restore(tensors, members=counters["members"], left=left, step=steps[-1])
        self.notes.append(
            f"A pack of {len(state.started_with)} at width {state.started_with[0].model.width} "
            f"went on at step {steps[-1]} of {state.budget.steps}, where it had been cut off."
        )
        return PackProgress(
            losses_at_init=tensors["losses_at_init"].clone(),
            reports=_reports(steps, tensors),
            began=time.perf_counter() - counters["seconds"],
        )

    def save(self, state: TrainingState, progress: PackProgress) -> None:
        """Write the checkpoint at a report, unless the last one is younger than `every_s`.

        Where the checkpoint cannot be written the pack continues: it only has more to repeat after
        a fault.
        """
        if time.monotonic() - self.saved_at < self.every_s:
            return
        counters = {
            "origin": pack_origin(state),
            "members": state.members,
            "left": state.left,
            "steps": [report.step for report in progress.reports],
            "seconds": progress.seconds,
        }
        tensors = {
            **{name: tensor.cpu() for name, tensor in state.tensors().items()},
            "losses_at_init": progress.losses_at_init,
            **_curves(progress.reports),
        }
        try:
            self.storage.write_bytes(self.name, _content(counters, tensors))
        except MachineError as error:
            note = f"A pack could not leave a checkpoint and goes on without: {error}"
            self.notes += [] if note in self.notes else [note]
        self.saved_at = time.monotonic()


def pack_origin(state: TrainingState) -> dict[str, Any]:
    """Return what must be equal for a pack to continue with the same bits."""
    pack, device = state.pack, state.pack.device
    kernels = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    return {
        "format": CHECKPOINT_FORMAT,
        "trials": [trial_key(config) for config in state.started_with],
        **software_versions(),
        "device": f"{hardware_model(device)}, {kernels}" if kernels else hardware_model(device),
        "threads": pack.runtime.threads,
        "compile": [pack.runtime.compiled, pack.compiled],
        "graph": pack.runtime.captured,
        "held_out_curve": pack.runtime.held_out_curve,
    }


def _curves(reports: Sequence[Report]) -> dict[str, Tensor]:
    """Return the losses of all reports, one row per report: (reports, T) each."""
    curves = {"curves": [report.train_losses for report in reports]}
    held_out = [r.held_out_losses for r in reports if r.held_out_losses is not None]
    if held_out:
        curves["held_out"] = held_out
    return {name: torch.tensor(rows, dtype=torch.float64) for name, rows in curves.items()}


def _reports(steps: Sequence[int], tensors: Mapping[str, Tensor]) -> list[Report]:
    """Return the reports whose losses `_curves` returned."""
    train = [tuple(losses) for losses in tensors["curves"].tolist()]
    found = tensors.get("held_out")
    held_out = [None] * len(train) if found is None else [tuple(row) for row in found.tolist()]
    return [Report(*each) for each in zip(steps, train, held_out, strict=True)]


def _content(counters: Mapping[str, Any], tensors: dict[str, Tensor]) -> bytes:
    text = json.dumps(counters, separators=(",", ":"), allow_nan=False)
    return save(tensors, {"counters": text, "check": checksum(text, tensors)})


def _parsed(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a checkpoint's counters and tensors; raise ValueError if the file is damaged."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        text, check = (header["__metadata__"][name] for name in ("counters", "check"))
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError("it is damaged, or no checkpoint of a pack.") from error
    if check != checksum(text, tensors):
        raise ValueError("it is damaged: its checksum is another.")
    return json.loads(text), tensors


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a checkpoint's counters, as text, and of its tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_same(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changed := differences(was, now):
        raise ValueError(f"it would not end with the same bits, since {changed}.")


def _require_fitting(tensors: Mapping[str, Tensor], state: TrainingState, left: int) -> None:
    """Refuse tensors of other shapes, which the changed code of a model factory gives."""
    expected = {name: (left, *tensor.shape[1:]) for name, tensor in state.tensors().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items() if name not in CURVE_TENSORS}
    if found != expected:
        raise ValueError("the model has other parameters now.")


def pack_id(configs: Sequence[TrialConfig]) -> str:
    """Return the identity of trials in this order: 12 hex digits of a sha256 of their keys."""
    keys = ",".join(trial_key(config) for config in configs)
    return hashlib.sha256(keys.encode()).hexdigest()[:12]


def discard_pack(checkpoints: CheckpointConfig, configs: Sequence[TrialConfig]) -> None:
    """Remove all checkpoints of a whole pack and of its parts."""
    open_storage(checkpoints.folder).remove(pack_id(configs))
