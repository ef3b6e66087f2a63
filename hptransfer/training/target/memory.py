"""What to do where a device's memory does not hold a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hptransfer.config import TrainerConfig
from hptransfer.config.choices import Parallel
from hptransfer.errors import MachineError
from hptransfer.training.packs.run import is_out_of_memory


@contextmanager
def fitting(trainer: TrainerConfig, micro_batch: int) -> Iterator[None]:
    """Turn running out of memory, in a `with` block, into a `MachineError` that says what helps."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        ways = [f"raise train.accumulate above {trainer.accumulate}"] * (micro_batch > 1)
        if not trainer.activation_checkpointing:
            ways.append("set train.activation_checkpointing=true")
        if trainer.parallel is not Parallel.fsdp:
            ways.append("share the model among GPUs by train.parallel=fsdp")
        ways.append("use more or larger GPUs")
        raise MachineError(
            f"The device's memory does not hold the run with {micro_batch} samples a process at a "
            f"time. To need less without changing the result, {', or '.join(ways)}."
        ) from error
