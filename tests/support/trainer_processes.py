"""Runs of the trainer that its tests compare, and what each process of several does.

`torchrun --nproc-per-node 2 -m tests.support.trainer_processes FOLDER` runs every parallel case,
with `compiled` after the folder the compiled ones; its first process writes what it saw into
the folder.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    DDPMConfig,
    DiTModernConfig,
    LionConfig,
    MMDiTConfig,
    MuonConfig,
    ParametrizationConfig,
    PixArtConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TrainerConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import (
    AutoShift,
    Init,
    Parallel,
    Prediction,
    WeightDecayMode,
    Weights,
)
from hptransfer.data import load_data
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.parallel import ProcessGroup
from tests.support.custom_models import Net, trial
from tests.support.tiny import TINY

STEPS, CUT = 4, 2
RUNTIME = RuntimeConfig()
COMPILING = RuntimeConfig(compile=True)
BUDGET = BudgetConfig(steps=STEPS, batch_size=8, eval_samples=18, eval_draws=2)
AVERAGED = dataclasses.replace(
    BUDGET, weights=Weights.ema, ema_fraction=0.3, judged_ema_fractions=(0.9,)
)
# Clipped in some steps and not in others, with a decay that differs between groups.
ADAMW = AdamWConfig(lr=2.0**-7, beta2=0.99, weight_decay=0.1, clip_norm=0.5)
LION = LionConfig(lr=2.0**-10, weight_decay=0.1, clip_norm=0.5, lr_mult_vector=3.0)
MUON = MuonConfig(lr=2.0**-6, adam_lr=2.0**-8, weight_decay=0.01, clip_norm=0.5, lr_mult_hidden=0.5)
INDEPENDENT = ParametrizationConfig(weight_decay_mode=WeightDecayMode.independent)
UNSCALED = ParametrizationConfig(weight_decay_mode=WeightDecayMode.unscaled)
BASE = dataclasses.replace(TINY, optimizer=ADAMW, budget=BUDGET, init=Init.paper)


class Skipping(Net):
    """A model with a layer that takes no part, and blocks in a list."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.spare = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def body(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = super().body(x, t, y)
        for block in self.blocks:
            h = h + torch.relu(block(h))
        return h


def skipping(width: int) -> nn.Module:
    """Build one, as `model.factory` asks."""
    return Skipping(width)


def of(model: Any, **changes: Any) -> TrialConfig:
    """Return a trial of a model, at twice its base width."""
    return dataclasses.replace(BASE, model=model, **changes)


UVIT = UViTConfig(width=16, base_width=8, depth=2, head_dim=4)
PIXART = PixArtConfig(width=16, base_width=8, depth=2, head_dim=4)
LEARNED = dataclasses.replace(TINY.model, learn_sigma=True)
TRIALS = {
    "dit": dataclasses.replace(BASE, budget=AVERAGED),
    "unscaled": dataclasses.replace(BASE, parametrization=UNSCALED),
    "learned variance": of(LEARNED, objective=DDPMConfig(deciding_vlb_weight=2e-3)),
    "repa": of(TINY.model, objective=RectifiedFlowConfig(repa_weight=0.5), budget=AVERAGED),
    "uvit": of(UVIT),
    "repa of uvit": of(UVIT, objective=RectifiedFlowConfig(repa_weight=0.5, repa_depth=2)),
    "pixart": of(PIXART),
    "dit_modern": of(
        DiTModernConfig(width=16, base_width=8, depth=2, head_dim=4),
        objective=RectifiedFlowConfig(prediction=Prediction.x, timestep_shift=AutoShift.auto),
    ),
    "mmdit": of(MMDiTConfig(width=16, base_width=8, depth=2, head_dim=4), budget=AVERAGED),
    "custom": dataclasses.replace(trial(width=16), optimizer=ADAMW, budget=BUDGET),
    "auxiliary": dataclasses.replace(
        trial("balanced", width=16),
        objective=RectifiedFlowConfig(auxiliary_weight=0.5),
        optimizer=ADAMW,
        budget=BUDGET,
    ),
    "muon": of(PIXART, optimizer=MUON, parametrization=INDEPENDENT, budget=AVERAGED),
    "lion": dataclasses.replace(BASE, optimizer=LION),
    "skipping": dataclasses.replace(
        trial("tests.support.trainer_processes:skipping"), optimizer=ADAMW, budget=AVERAGED
    ),
}
DDP = TrainerConfig(parallel=Parallel.ddp)
FSDP = TrainerConfig(parallel=Parallel.fsdp)
PARALLEL = {
    "ddp": DDP,
    "fsdp": FSDP,
    "ddp, accumulated": dataclasses.replace(DDP, accumulate=2),
    "fsdp, accumulated, checkpointed": dataclasses.replace(
        FSDP, accumulate=2, activation_checkpointing=True
    ),
    "ddp, checkpointed": dataclasses.replace(DDP, activation_checkpointing=True),
}
CASES = [
    *(("dit", how) for how in PARALLEL),
    *((name, how) for name in ("dit_modern", "uvit", "pixart", "mmdit") for how in ("ddp", "fsdp")),
    ("mmdit", "fsdp, accumulated, checkpointed"),
    ("unscaled", "fsdp"),
    ("learned variance", "fsdp"),
    ("learned variance", "ddp, accumulated"),
    ("repa", "ddp, accumulated"),
    ("repa", "fsdp, accumulated, checkpointed"),
    ("custom", "ddp"),
    ("custom", "fsdp"),
    ("auxiliary", "ddp, accumulated"),
    ("auxiliary", "fsdp"),
    ("skipping", "ddp"),
    ("skipping", "fsdp"),
    *((name, how) for name in ("muon", "lion") for how in ("ddp", "fsdp")),
]
COMPILED = [
    ("dit", "ddp"),
    ("dit", "fsdp, accumulated, checkpointed"),
    ("custom", "ddp"),
    ("custom", "fsdp"),
    ("skipping", "ddp"),
    ("skipping", "fsdp"),
]


def engine(
    name: str,
    trainer: TrainerConfig,
    group: ProcessGroup | None = None,
    runtime: RuntimeConfig = RUNTIME,
) -> Engine:
    """Return a trial's engine, in this process alone where no group is given."""
    config = TRIALS[name]
    dataset = load_data(config.data, None)
    return Engine(config, runtime, trainer, dataset, group or ProcessGroup.of(trainer, runtime))


def steps_of(engine: Engine, first: int = 0, last: int = STEPS) -> list[list[float]]:
    """Take steps; return each one's loss, gradient norm and whether it was clipped."""
    return [[float(value) for value in engine.train_step(step)] for step in range(first, last)]


def seen(running: Engine) -> dict[str, Any]:
    """Train an engine to its end, measuring midway; return all losses of it."""
    at_init, steps = running.held_out_loss(draws=1), steps_of(running, 0, CUT)
    held_out = [at_init, running.held_out_loss()]
    steps += steps_of(running, CUT)
    return {"steps": steps, "held_out": [*held_out, running.held_out_loss()]}


def cut_and_continued(name: str, how: str, group: ProcessGroup, folder: Path) -> dict[str, Any]:
    """Train, leave a state in the folder, go on, and go on from the state once more."""
    running = engine(name, PARALLEL[how], group)
    steps_of(running, 0, CUT)
    state = {name: tensor.clone() for name, tensor in running.state()}
    if group.is_first:
        save_file(state, folder / f"{how}.safetensors")
    went_on = [*steps_of(running, CUT), [running.held_out_loss()]]
    again = engine(name, PARALLEL[how], group)
    again.restore(state.__getitem__, CUT)
    weights = again.deciding_weights()
    assert (weights is not None) == group.is_first
    return {"went_on": went_on, "again": [*steps_of(again, CUT), [again.held_out_loss()]]}


def main(folder: Path) -> None:
    """Run everything in this process and the ones beside it."""
    group = ProcessGroup.of(DDP, RUNTIME)
    said: dict[str, Any] = {"size": group.size, "backend": torch.distributed.get_backend()}
    said["any"] = [group.any(group.rank == 1), group.any(False)]
    said["mean"] = float(group.mean(torch.tensor(float(group.rank))))
    said["facts"] = group.facts_from_first({"from": group.rank} if group.is_first else None)
    said["runs"] = {f"{name}: {how}": seen(engine(name, PARALLEL[how])) for name, how in CASES}
    said["cut"] = {
        how: cut_and_continued("dit", how, ProcessGroup.of(PARALLEL[how], RUNTIME), folder)
        for how in ("ddp", "fsdp")
    }
    fsdp = engine("dit", FSDP)
    said["held"] = sum(weight.to_local().numel() for weight in fsdp.weights.values())  # pyright: ignore
    if group.is_first:
        (folder / "said.json").write_text(json.dumps(said))
    group.close()


def main_compiled(folder: Path) -> None:
    """Run the compiled cases in this process and the ones beside it."""
    group = ProcessGroup.of(DDP, RUNTIME)
    runs = {f"{n}: {how}": seen(engine(n, PARALLEL[how], None, COMPILING)) for n, how in COMPILED}
    if group.is_first:
        (folder / "said.json").write_text(json.dumps({"runs": runs}))
    group.close()


if __name__ == "__main__":
    (main_compiled if sys.argv[2:] == ["compiled"] else main)(Path(sys.argv[1]))
