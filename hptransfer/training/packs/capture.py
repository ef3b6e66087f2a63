"""A pack's training step as one CUDA graph: forward, backward, optimizer and moving averages.

The first steps run operator by operator, so that everything is compiled and every library has its
workspace. Then one step is captured, and each later step copies its inputs and replays the graph.
All steps run on a CUDA stream of their own. That stream and the caller's wait for each other, so
that nothing runs beside a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from hptransfer.training.inputs import StepInputs

WARM_UP = 3  # steps that run operator by operator before the capture
BUFFERS = 2  # pinned copies of a step's inputs: one is filled while the other is being sent


class CapturedStep:
    """A training step that is captured as a CUDA graph after `WARM_UP` calls, then replayed."""

    def __init__(self, take: Callable[[StepInputs], None], device: torch.device) -> None:
        self.take, self.device = take, device
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.static: list[Tensor] = []
        self.on_their_way: deque[tuple[list[Tensor], torch.cuda.Event]] = deque()
        self.taken = 0

    def __call__(self, inputs: StepInputs) -> None:
        """Take one step with these inputs."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._send(inputs.tensors())
            if self.graph is not None:
                self.graph.replay()
            elif self.taken < WARM_UP:
                self.take(StepInputs.from_tensors(self.static))
            else:
                self.graph = self._captured()
                self.graph.replay()
        self.taken += 1
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Other threads make inputs on the host meanwhile: only this thread's calls are captured.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.take(StepInputs.from_tensors(self.static))
        return graph

    def _send(self, parts: list[Tensor]) -> None:
        """Copy a step's inputs to the graph's own tensors, without waiting for the device."""
        if not self.static:
            self.static = [torch.empty_like(part, device=self.device) for part in parts]
        pinned = self._free_buffer(parts)
        for part, buffer, static in zip(parts, pinned, self.static, strict=True):
            buffer.copy_(part)
            static.copy_(buffer, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(self.stream)
        self.on_their_way.append((pinned, arrived))

    def _free_buffer(self, parts: list[Tensor]) -> list[Tensor]:
        """Return pinned tensors that no copy reads; wait for the oldest copy if needed."""
        if len(self.on_their_way) < BUFFERS:
            return [torch.empty_like(part, pin_memory=True) for part in parts]
        pinned, arrived = self.on_their_way.popleft()
        arrived.synchronize()
        return pinned
