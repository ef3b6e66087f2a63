"""The speed of a run, and its utilisation of the device.

Utilisation is the model's FLOP/s (forward and backward, counted by torch on meta tensors; FLOPs
that activation checkpointing repeats do not count) over the FLOP/s of one large matrix product at
the run's precision, measured on the same device when the run starts.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from hptransfer.config.choices import Precision

TIMED_PRODUCTS = 5  # matrix products that are timed; their median counts
MATRIX_ROWS = {
    "cpu": 768,
    "cuda": 8192,
}  # rows of the square matrices: 20 ms on a core, 2 ms on an H100


def matmul_peak(device: torch.device, precision: Precision) -> float:
    """Return the FLOP/s of a product of square matrices at a precision, on one device."""
    size = MATRIX_ROWS[device.type]
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    left, right = (torch.full((size, size), 0.5, device=device, dtype=dtype) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision is not Precision.fp32_ieee
    try:
        torch.mm(left, right)  # the first one loads kernels
        return (
            2.0 * size**3 / statistics.median(_seconds(left, right) for _ in range(TIMED_PRODUCTS))
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait(left.device)
    began = time.perf_counter()
    torch.mm(left, right)
    _wait(left.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Speed:
    """The work of a step and the peak of the devices, of all processes of a run together."""

    batch_size: int  # samples per step
    step_flops: float  # FLOPs per step, forward and backward
    peak: float  # FLOP/s of all devices

    def of(self, steps: int, seconds: float) -> dict[str, float]:
        """Return samples per second, TFLOP/s and utilisation of `steps` that took `seconds`."""
        flops = steps * self.step_flops / seconds
        return {
            "samples_per_second": float(f"{steps * self.batch_size / seconds:.6g}"),
            "tflops": float(f"{flops / 1e12:.6g}"),
            "utilisation": float(f"{flops / self.peak:.4g}"),
        }
