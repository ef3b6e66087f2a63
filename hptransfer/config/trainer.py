"""How one config is trained as a target: on what processes, and what it leaves on the way."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.config.checks import require_count, require_finite
from hptransfer.config.choices import Parallel


@dataclass(frozen=True)
class TrainerConfig:
    """What cannot change a target's result beyond float tolerance; the section `train`."""

    parallel: Parallel = Parallel.none  # ddp and fsdp run under torchrun
    accumulate: int = 1  # micro-batches a step and process: less memory, the same batch
    activation_checkpointing: bool = False  # compute each block's inside again in the backward
    log_every: int = 10  # steps between two lines of the log
    checkpoint_s: float = 600.0  # least seconds between two checkpoints; 0: at every log
    keep: int = 2  # checkpoints, the newest
    eval_every: int | None = None  # steps between held-out losses; null: at the end only
    sample_every: int | None = None  # steps between sample grids; null: at the end only
    sample_columns: int = 8  # samples a class in a grid
    sample_steps: int = 20  # of the sampler
    guidance: float = 2.0  # of the sampler

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every", "keep", "eval_every", "sample_every"):
            require_count(f"train.{name}", getattr(self, name))
        require_count("train.sample_columns", self.sample_columns, most=2**12)
        require_count("train.sample_steps", self.sample_steps, most=2**16)
        require_finite("train.checkpoint_s", self.checkpoint_s, least=0)
        require_finite("train.guidance", self.guidance, least=0)
