"""The device that a runtime names, its hardware, and errors of its memory."""

from __future__ import annotations

import gc
import platform
from pathlib import Path

import torch

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.errors import MachineError, UserError


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the error that caused it, says that a device's memory ran out.

    While a CUDA graph is captured, the out-of-memory error is the context of the capture's error.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def release_memory(device: torch.device) -> None:
    """Free the memory of objects that nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def trial_too_large(config: TrialConfig, device: torch.device) -> MachineError:
    """Return the error of a single trial that does not fit into a device's memory."""
    layout, budget = config.data.layout, config.budget
    patch = getattr(config.model, "patch_size", 1)
    memory = ""
    if device.type == "cuda":
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        memory = f", which has {gib:.0f} GiB"
    return MachineError(
        f"One trial alone does not fit into the memory of {device_name(device)}{memory}: width "
        f"{config.model.width}, batch {budget.batch_size}, {(layout.image_size // patch) ** 2} "
        "tokens. Use a larger device, lower budget.batch_size (another question), or leave this "
        "width out; nothing recorded was lost."
    )


def torch_device(runtime: RuntimeConfig) -> torch.device:
    """Return the runtime's device.

    Raises:
        UserError: torch does not see that device.
    """
    if runtime.device.split(":")[0] not in ("cpu", "cuda"):
        raise UserError(
            f"`runtime.device` must be cpu, cuda or cuda:N, but got {runtime.device!r}."
        )
    device = torch.device(runtime.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device={runtime.device} needs that GPU, but torch sees "
            f"{torch.cuda.device_count()} here. Set runtime.device=cpu or run on a GPU machine."
        )
    return device


def device_name(device: torch.device) -> str:
    """Return a device's name for ledger rows and run records: `cpu`, or the GPU's own name."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def hardware_model(device: torch.device) -> str:
    """Return the hardware's model name: the GPU's, or that of the CPU as Linux tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models and models[0] else platform.machine()
