"""How fast a trial's step could be on a device whose matrix rate and bandwidth were measured.

The floor is a sum over kernels that run one after another, each bound by arithmetic or by memory:

- Every matrix product takes max(FLOPs / peak, bytes / bandwidth), reading its two operands and
  writing its result once. A linear layer has three: forward, gradient of the input, gradient of
  the weight (float32). The patch embedding and the first layers of the timestep's and the
  conditioning's paths have no gradient of their input to compute, but that of SiLU(c) is needed.
- Attention forward is one kernel (2 products; reads q, k, v, writes its output), backward another
  (5 products, the scores computed again; reads q, k, v, the output and its gradient, writes three
  gradients). The scores never reach memory.
- Elementwise work between two products is one kernel. At each residual point (two a block, and the
  readout): forward reads the stream and the branch, writes the stream and the modulated norm (4);
  backward reads the gradients of stream and modulated norm, the stream and the branch, writes the
  gradients of stream and branch (6). GELU is the epilogue of its neighbours: forward writes its
  result too (MLP ratio), backward reads what it was applied to (MLP ratio). All in units of
  batch x tokens x width elements; vectors of batch x width, noise, loss and biases are left out.
- AdamW and EMA per parameter: read weight, gradient, two moments and average, write all but the
  gradient: 9 floats; under bfloat16 also a bfloat16 copy of the weight.

Activations, their gradients and the weights that products read have 2 bytes under bfloat16, 4 in
float32. A quotient of 1 is this floor; launches, padding (head dimension 72 is none of a tile) and
products too small to fill the device come on top.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.throughput_shapes import CHANNELS, MLP_RATIO, PATCH_SIZE, Shape

WAVES = 256  # sines and cosines of a timestep
OPTIMIZER_FLOATS = 9


@dataclass(frozen=True)
class Peaks:
    """What a device was measured to do: FLOP/s of large products, bytes/s read plus written."""

    fp32: float  # TF32 where the device has it
    bf16: float
    bandwidth: float

    def flops(self, precision: str) -> float:
        """Return the peak in a precision."""
        return self.bf16 if precision == "bf16" else self.fp32

    def record(self) -> dict[str, Any]:
        """Return the peaks for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Linear:
    """`count` products of (rows, inputs) with (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int
    count: int = 1
    input_gradient: bool = True

    @property
    def flops(self) -> float:
        """Of one product; forward and both gradients have as many each."""
        return 2.0 * self.rows * self.inputs * self.outputs

    @property
    def step_flops(self) -> float:
        """Of all, forward and backward."""
        return self.count * self.flops * (3 if self.input_gradient else 2)

    def seconds(self, peak: float, bandwidth: float, size: int) -> float:
        """Return the floor of all, forward and backward, at `size` bytes an activation."""
        x, w, y = self.rows * self.inputs, self.inputs * self.outputs, self.rows * self.outputs
        moved = (x + w + y) * size
        passes = 2 if self.input_gradient else 1  # forward and input gradient move the same
        weight_gradient = (x + y) * size + 4 * w
        compute = self.flops / peak
        floor = passes * max(compute, moved / bandwidth)
        return self.count * (floor + max(compute, weight_gradient / bandwidth))


def linears(shape: Shape) -> list[Linear]:
    """Return every linear layer of a shape's model."""
    d, batch, tokens, depth = shape.width, shape.batch, shape.batch * shape.tokens, shape.depth
    patch = PATCH_SIZE**2 * CHANNELS
    return [
        Linear(tokens, patch, d, input_gradient=False),
        Linear(batch, WAVES, d, input_gradient=False),
        Linear(batch, d, d),
        Linear(batch, d, 6 * d, depth),  # adaLN
        Linear(tokens, d, 3 * d, depth),  # q, k, v
        Linear(tokens, d, d, depth),
        Linear(tokens, d, MLP_RATIO * d, depth),
        Linear(tokens, MLP_RATIO * d, d, depth),
        Linear(batch, d, 2 * d),
        Linear(tokens, d, 2 * patch),
    ]


def parameters(shape: Shape) -> int:
    """Count a shape's parameters, biases and label table included."""
    weights = sum(part.count * (part.inputs + 1) * part.outputs for part in linears(shape))
    return weights + (shape.classes + 1) * shape.width


def attention_flops(shape: Shape) -> float:
    """Return the FLOPs of one of attention's products over all blocks."""
    return 2.0 * shape.depth * shape.batch * shape.tokens**2 * shape.width


def step_flops(shape: Shape) -> float:
    """Return a step's model FLOPs: forward, and twice that backward; nothing computed again."""
    return sum(part.step_flops for part in linears(shape)) + 6 * attention_flops(shape)


def floor(shape: Shape, precision: str, peaks: Peaks) -> dict[str, float]:
    """Return the least seconds of a trial's step and its parts."""
    peak, bandwidth, size = peaks.flops(precision), peaks.bandwidth, _bytes(precision)
    stream = shape.batch * shape.tokens * shape.width
    product = attention_flops(shape) / peak
    attended = shape.depth * stream * size / bandwidth
    points = 2 * shape.depth + 1
    elementwise = points * (4 + 6) * stream + shape.depth * 2 * MLP_RATIO * stream
    stored = 4 * OPTIMIZER_FLOATS + (2 if precision == "bf16" else 0)
    parts = {
        "matmul": sum(part.seconds(peak, bandwidth, size) for part in linears(shape)),
        "attention": max(2 * product, 4 * attended) + max(5 * product, 8 * attended),
        "elementwise": elementwise * size / bandwidth,
        "optimizer": parameters(shape) * stored / bandwidth,
    }
    return {**parts, "seconds": sum(parts.values())}


def _bytes(precision: str) -> int:
    return 2 if precision == "bf16" else 4


def measured_peaks(device_name: str, *, small: bool) -> Peaks:
    """Measure a device: square products of random numbers, and a copy of a large tensor."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device(device_name)
    side, floats = (8192, 2**29) if device.type == "cuda" else (1024, 2**26)
    if small:
        side, floats = 256, 2**20

    def finished() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def product(dtype: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * side**3 / _seconds(lambda: torch.mm(a, b, out=out), finished)

    def copied() -> float:
        source = torch.rand(floats, device=device)
        target = torch.empty_like(source)
        return 2 * 4 * floats / _seconds(lambda: target.copy_(source), finished)

    return Peaks(product(torch.float32), product(torch.bfloat16), copied())


def _seconds(work: Callable[[], Any], finished: Callable[[], float]) -> float:
    """Return the seconds of one call: the best of five runs of about a tenth of a second."""
    work()
    started = finished()
    work()
    calls = max(1, min(100, round(0.1 / max(finished() - started, 1e-6))))
    best = float("inf")
    for _ in range(5):
        started = finished()
        for _ in range(calls):
            work()
        best = min(best, (finished() - started) / calls)
    return best
