"""What a step is given: batches per seed and the optimizer's controls, made ahead on the host."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from hptransfer.training.batches import Batch

Made = TypeVar("Made")

STEPS_AHEAD = 8  # steps whose inputs are made while a GPU works on an earlier one
MAKER_THREADS = 4  # threads that make them


class StepInputs(NamedTuple):
    """All that differs between two steps: tensors of equal shapes at every step."""

    batch: Batch  # per distinct seed: (S, B, ...)
    controls: Tensor  # (4, T): the schedule's multiplier, rate, epsilon, step

    def on(self, device: torch.device) -> StepInputs:
        """Return the same on a device."""
        return StepInputs.of([part.to(device) for part in self.parts()])

    def parts(self) -> list[Tensor]:
        """Return the tensors in a fixed order."""
        images, u, noise, condition = self.batch
        return [images, u, noise, *condition, self.controls]

    @staticmethod
    def of(parts: list[Tensor]) -> StepInputs:
        """Put tensors together again that `parts` listed."""
        images, u, noise, *condition, controls = parts
        return StepInputs(Batch(images, u, noise, tuple(condition)), controls)


class InputQueue(Generic[Made]):
    """Makes what the next steps are given in threads of its own; the result is the same."""

    def __init__(self, make: Callable[[int], Made], steps: int) -> None:
        self.make, self.steps = make, steps
        self.pool = ThreadPoolExecutor(MAKER_THREADS, thread_name_prefix="inputs")
        self.coming: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        """Return a step's inputs, and see to those of the steps after it."""
        wanted = {step, *range(step + 1, min(step + 1 + STEPS_AHEAD, self.steps))}
        self.coming = {
            s: self.coming.get(s) or self.pool.submit(self.make, s) for s in sorted(wanted)
        }
        return self.coming.pop(step).result()

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=True, cancel_futures=True)
