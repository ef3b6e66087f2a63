"""Checkpoints of packs, from which another process ends the training with the same bits.

A checkpoint is one safetensors file: the tensors of `TrainingState` and, as metadata, counters as
JSON and a checksum over both. The file is replaced whole, so all of it is of one step. A pack
continues from it only where sums are the same to the bit: equal trials, versions, device, settings.

The file holds three float32 numbers per parameter, and one more for each moving average. Twelve
DiTs of width 96 (4.7 million parameters) take 56 MB, 0.3 to 0.6 s to write and 0.2 s to read; 10^8
parameters take 1.2 GB, 5 to 11 s and 4 s (one thread, a virtual disk that others used too; hashing
takes 1 s per 1.4 GB of these).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hptransfer.config import CheckpointConfig, TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError
from hptransfer.system.storage import open_storage
from hptransfer.training.checkpoint_pace import CheckpointPace
from hptransfer.training.device import differences, hardware_model, software_versions
from hptransfer.training.packs.state import MemberRecord, PackProgress, Report, TrainingState

CHECKPOINT_FORMAT = 1  # version of the file's layout; files of another version are not used
CURVE_TENSORS = ("losses_at_init", "curves", "held_out")  # in the file beside the state's


class PackCheckpoint:
    """The checkpoint of trials that train together; `notes` are sentences about its use."""

    def __init__(
        self,
        checkpoints: CheckpointConfig,
        whole: Sequence[TrialConfig],
        part: Sequence[TrialConfig],
    ) -> None:
        self.storage = open_storage(checkpoints.folder)
        self.pace = CheckpointPace(checkpoints.every_s)
        self.name = f"{pack_id(whole)}/{pack_id(part)}.safetensors"
        self.notes: list[str] = []

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
            if changed := differences(counters["origin"], pack_origin(state)):
                raise ValueError(
                    f"the results would differ in their last digits, because {changed}."
                )
            left = len(counters["members"])
            expected = {name: (left, *t.shape[1:]) for name, t in state.tensors().items()}
            curves = {name: tensors.pop(name) for name in CURVE_TENSORS if name in tensors}
            if {name: tuple(t.shape) for name, t in tensors.items()} != expected:
                raise ValueError("the model has other parameters than before.")
        except (MachineError, ValueError) as error:
            self.notes.append(
                f"A pack of trials started from its first step instead of its checkpoint: {error}"
            )
            return None
        records = {int(place): MemberRecord(*record) for place, record in counters["left"].items()}
        steps = counters["steps"]
        state.restore(tensors, members=counters["members"], left=records, step=steps[-1])
        self.notes.append(
            f"The {len(state.started_with)} trials that train together at width "
            f"{state.started_with[0].model.width} go on at step {steps[-1]} of "
            f"{state.budget.steps}, where they were interrupted."
        )
        at_init = curves.pop("losses_at_init").clone()
        losses = (map(tuple, rows.tolist()) for rows in curves.values())
        return PackProgress(
            losses_at_init=at_init,
            reports=[Report(*each) for each in zip(steps, *losses, strict=True)],
            began=time.perf_counter() - counters["seconds"],
        )

    def save(self, state: TrainingState, progress: PackProgress) -> None:
        """Write the checkpoint at a report, if one is due.

        Where the checkpoint cannot be written the pack continues: it only has more to repeat after
        a fault.
        """
        if self.pace.is_due:
            with self.pace.writing():
                self._write(state, progress)

    def _write(self, state: TrainingState, progress: PackProgress) -> None:
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
        }
        losses: dict[str, list[Any]] = {"curves": [r.train_losses for r in progress.reports]}
        if state.pack.runtime.held_out_curve:
            losses["held_out"] = [report.held_out_losses for report in progress.reports]
        tensors |= {n: torch.tensor(rows, dtype=torch.float64) for n, rows in losses.items()}
        text = json.dumps(counters, separators=(",", ":"), allow_nan=False)
        content = save(tensors, {"counters": text, "check": checksum(text, tensors)})
        try:
            self.storage.write_bytes(self.name, content)
        except MachineError as error:
            note = (
                f"A pack of trials could not write its checkpoint and goes on without one: {error}"
            )
            self.notes += [] if note in self.notes else [note]


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
        "mode": pack.mode,
        "held_out_curve": pack.runtime.held_out_curve,
    }


def _parsed(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a checkpoint's counters and tensors; raise ValueError if the file is damaged."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        text, check = (header["__metadata__"][name] for name in ("counters", "check"))
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError("it is damaged, or is no checkpoint of a pack.") from error
    if check != checksum(text, tensors):
        raise ValueError("it is damaged: its checksum does not match.")
    return json.loads(text), tensors


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a checkpoint's counters, as text, and of its tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack_id(configs: Sequence[TrialConfig]) -> str:
    """Return the identity of trials in this order: 12 hex digits of a sha256 of their keys."""
    keys = ",".join(trial_key(config) for config in configs)
    return hashlib.sha256(keys.encode()).hexdigest()[:12]


def discard_pack(checkpoints: CheckpointConfig, configs: Sequence[TrialConfig]) -> None:
    """Remove all checkpoints of a whole pack and of its parts."""
    open_storage(checkpoints.folder).remove(pack_id(configs))
