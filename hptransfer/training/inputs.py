"""The inputs of coming steps, made in threads on the host while a GPU works on earlier steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from hptransfer.training.batches import Batch

Inputs = TypeVar("Inputs")

STEPS_AHEAD = 8  # coming steps whose inputs are made in advance
MAKER_THREADS = 4  # threads that make inputs


class StepInputs(NamedTuple):
    """Everything that differs between two steps of a pack, in tensors of fixed shapes."""

    batch: Batch  # per distinct seed: (S, B, ...)
    controls: Tensor  # (4, T): the schedule's multiplier, rate, epsilon, step

    def on(self, device: torch.device) -> StepInputs:
        """Return the same inputs on a device."""
        return StepInputs.from_tensors([tensor.to(device) for tensor in self.tensors()])

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order, which `from_tensors` reads."""
        return [*self.batch.tensors(), self.controls]

    @staticmethod
    def from_tensors(tensors: list[Tensor]) -> StepInputs:
        """Return the inputs whose `tensors()` these are."""
        return StepInputs(Batch.from_tensors(tensors[:-1]), tensors[-1])


class InputQueue(Generic[Inputs]):
    """The inputs of steps by number; `make(step)` gives the same inputs at any time.

    With `ahead` the inputs of the next `STEPS_AHEAD` steps are made in threads; without it each
    step's inputs are made when they are asked for.
    """

    def __init__(self, make: Callable[[int], Inputs], steps: int, *, ahead: bool) -> None:
        self.make, self.steps = make, steps
        self.pool = None
        if ahead:
            self.pool = ThreadPoolExecutor(MAKER_THREADS, thread_name_prefix="inputs")
        self.coming: dict[int, Future[Inputs]] = {}

    def __call__(self, step: int) -> Inputs:
        """Return the inputs of step `step`."""
        if self.pool is None:
            return self.make(step)
        wanted = {step, *range(step + 1, min(step + 1 + STEPS_AHEAD, self.steps))}
        self.coming = {
            s: self.coming.get(s) or self.pool.submit(self.make, s) for s in sorted(wanted)
        }
        return self.coming.pop(step).result()

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
