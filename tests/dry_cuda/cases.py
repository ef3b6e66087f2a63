"""What is run on the dry run's device: a table of cases, each a function that returns its findings.

    python -m tests.dry_cuda.cases NAME...    # in a process that has the dry run's libraries loaded

prints one line of JSON for each case; `run.py` starts such processes.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hptransfer.config import (
    CheckpointConfig,
    MuonConfig,
    RuntimeConfig,
    TrainerConfig,
    TrialConfig,
)
from hptransfer.config.choices import Precision, WeightDecayMode, Weights
from hptransfer.data import load_data
from hptransfer.errors import MachineError
from hptransfer.execution.measure import measure
from hptransfer.training.device import is_out_of_memory
from hptransfer.training.packs.run import run_pack, validation_loss
from hptransfer.training.packs.state import WARM_UP, TrainingState, start_training
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.parallel import ProcessGroup
from tests.dry_cuda import device
from tests.support.checkpoints import CutOff, cut_off_at
from tests.support.packs import varied

Found = dict[str, Any]
GPU = torch.device("cuda")
CAPTURED = RuntimeConfig(device="cuda", compile=False, graph=True)
EAGER = RuntimeConfig(device="cuda", compile=False, graph=False)
FAST = RuntimeConfig(device="cuda", compile=True, graph=True)
FAMILIES = ("dit", "dit_modern", "uvit", "pixart", "mmdit")
MODELS = {  # of a user's own, by name
    "net": "tests.support.custom_models:net",
    "vit": "tests.support.zoo:vit",
}


def pack_of(
    family: str, precision: str = "fp32", optimizer: str = "adamw", **budget: Any
) -> list[TrialConfig]:
    """Return four trials of two seeds with 64 tokens, which differ in all that they may."""
    factory = MODELS.get(family)
    trials = varied("custom" if factory else family, weights=Weights.ema, **budget)
    if factory:
        own = dict(factory=factory, width=32, base_width=16)
    else:
        own = dict(patch_size=1, head_dim=8)
    trials = [
        dataclasses.replace(
            trial,
            precision=Precision(precision),
            model=dataclasses.replace(trial.model, **own),
        )
        for trial in trials
    ]
    if optimizer == "muon":
        muon = MuonConfig(weight_decay=0.1)
        mode = WeightDecayMode.independent
        trials = [
            dataclasses.replace(
                trial,
                optimizer=muon,
                parametrization=dataclasses.replace(trial.parametrization, weight_decay_mode=mode),
            )
            for trial in trials
        ]
    return trials


class Attentions(TorchDispatchMode):
    """The attention kernels that were called in a `with` block, by the names of their ops."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = re.fullmatch(r"aten::_scaled_dot_product_(\w+)_attention", func.name())
        self.called |= {called[1]} if called else set()
        return func(*args, **(kwargs or {}))


def started(trials: Sequence[TrialConfig], runtime: RuntimeConfig) -> TrainingState:
    return start_training(trials, load_data(trials[0].data, None), GPU, runtime)


def evaluate(state: TrainingState) -> None:
    validation_loss(state.pack, state.dataset.validation, flat=state.pack.flat, draws=1)


COUNTED = 4  # steps after the warm-up whose waits and allocations count


def steps_of(
    trials: Sequence[TrialConfig], runtime: RuntimeConfig, *, watched: bool = True
) -> Found:
    """Evaluate, train past the warm-up and the capture, then count over `COUNTED` steps more."""
    state = started(trials, runtime)
    attentions = Attentions()
    evaluate(state)
    first = WARM_UP + 1
    for step in range(first):
        if watched and step == 0:  # operator by operator
            with attentions:
                state.train_step(step)
        else:
            state.train_step(step)
    counted = counted_steps(state.train_step, first)
    evaluate(state)
    state.close()
    return {"attention": sorted(attentions.called), **counted}


def counted_steps(train_step: Callable[[int], object], first: int) -> Found:
    """Take `COUNTED` steps from step `first` on; return what the device counted meanwhile."""
    before = device.counters()
    for step in range(first, first + COUNTED):
        train_step(step)
    after = device.counters().since(before)
    return {
        "waits_a_step": after.waits / COUNTED,
        "kernels_a_step": after.kernels / COUNTED,
        "allocations": after.allocations,
        "pageable": after.pageable,
    }


def captured_steps(*pack: str, count: int = 4) -> Found:
    """A pack whose step is captured, as on a GPU without a compiler."""
    return steps_of(pack_of(*pack)[:count], CAPTURED)


def eager_steps(*pack: str) -> Found:
    """A pack that runs operator by operator."""
    return steps_of(pack_of(*pack), EAGER)


def large_evaluation() -> Found:
    """Memory that an eager pack takes for a step, and for an evaluation of 32 batches (MB)."""
    state = started(pack_of("dit", eval_samples=256), EAGER)
    state.train_step(0)  # the workspace of products is there

    def taken_mb(run: Callable[[], object]) -> float:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    step, evaluation = taken_mb(lambda: state.train_step(1)), taken_mb(lambda: evaluate(state))
    state.close()
    return {"step_mb": step, "evaluation_mb": evaluation}


def target_steps(*trial: str, accumulate: int = 1) -> Found:
    """A target's steps, whose batches are made ahead, and whose loss the host reads."""
    config, trainer = pack_of(*trial)[0], TrainerConfig(accumulate=accumulate)
    group = ProcessGroup.of(trainer, EAGER)
    engine = Engine(config, EAGER, trainer, load_data(config.data, None), group)
    first = 2  # by which all memory is there
    for step in range(first):
        engine.train_step(step)
    counted = counted_steps(engine.train_step, first)
    engine.close()
    return counted


def compacted() -> Found:
    """A captured pack of which two members leave is captured anew."""
    state = started(pack_of("dit"), CAPTURED)
    for step in range(WARM_UP + 2):
        state.train_step(step)
    state.alive = torch.tensor([True, False, True, False])  # on the host: no kernel counts the dead
    state.compact()
    state.alive = state.alive.to(GPU)
    for step in range(WARM_UP + 2, 2 * WARM_UP + 4):
        state.train_step(step)
    state.close()
    return {"members": state.members}


def restored() -> Found:
    """A pack that is cut off at its third report, and goes on from its checkpoint."""
    trials = pack_of("dit", steps=8)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = CheckpointConfig(folder, every_s=0.0)
        with suppress(CutOff):
            run_pack(trials, CAPTURED, cut_off_at(3), checkpoints)
        return {"notes": list(run_pack(trials, CAPTURED, checkpoints=checkpoints)[0].notes)}


def probed() -> Found:
    """The probe's sizes, as a GPU's pack sizes are measured."""
    cost = measure(pack_of("dit"), CAPTURED, GPU, capacity=float(device.CAPACITY))
    return {"sizes": [point.size for point in cost.points]}


def equal_packs(
    make: Callable[..., list[TrialConfig]], runtime: RuntimeConfig = CAPTURED, packs: int = 10
) -> Found:
    """Memory that is in use, and that torch holds, after each of some equal packs (MB)."""
    allocated, reserved = [], []
    for index in range(packs):
        trials = [dataclasses.replace(t, seed=2 * index + t.seed) for t in make("dit", steps=6)]
        run_pack(trials, runtime)
        allocated.append(torch.cuda.memory_allocated() / 1e6)
        reserved.append(torch.cuda.memory_reserved() / 1e6)
    return {"allocated_mb": allocated, "reserved_mb": reserved}


def wide(family: str = "dit", **budget: Any) -> list[TrialConfig]:
    """Return trials whose memory is large beside the 20 MiB blocks of the allocator."""
    return [
        dataclasses.replace(t, model=dataclasses.replace(t.model, width=384, base_width=384))
        for t in pack_of(family, **budget)
    ]


@contextmanager
def capacity_of(size: int) -> Iterator[None]:
    """Let the device have less memory in a `with` block."""
    device.set_capacity(size)
    try:
        yield
    finally:
        device.set_capacity(device.CAPACITY)


MARGIN = 1.2  # of a device's memory over what a pack needs, for the allocator's blocks


def peak_of(trials: Sequence[TrialConfig]) -> int:
    """Return the most device memory that a pack takes when it is alone."""
    clean()
    device.reset()
    run_pack(trials, CAPTURED)
    return device.peak_bytes()


def fitting_packs() -> Found:
    """Equal packs on a device that holds each of them, but not two at a time."""
    trials = wide(steps=6)
    with capacity_of(int(MARGIN * peak_of(trials))):
        sizes = [[result.pack_size for result in run_pack(trials, CAPTURED)] for _ in range(2)]
        one = [run_pack(trials[:1], CAPTURED)[0].pack_size for _ in range(2)]
    return {"pack_sizes": sizes, "single": one}


def halved() -> Found:
    """A pack of four on a device that holds two of its trials."""
    trials = wide(steps=6)
    with capacity_of(int(MARGIN * peak_of(trials[:2]))):
        return {"pack_sizes": [result.pack_size for result in run_pack(trials, CAPTURED)]}


def too_large() -> Found:
    """A single trial that the device does not hold."""
    trials = wide(steps=6)[:1]
    with capacity_of(peak_of(trials) // 2):
        try:
            run_pack(trials, CAPTURED)
        except MachineError as error:
            return {"refusal": str(error)}
    return {"refusal": ""}


def taken_by_a_cycle() -> Found:
    """A single trial, while objects that died in a cycle hold all memory that it still needs."""
    trials, littered = wide(steps=6)[:1], []

    def litter(report: object) -> None:
        if not littered:
            littered.append(True)
            free = torch.cuda.mem_get_info()[0] >> 21 << 21  # whole blocks of the allocator
            cycle: list[Any] = [torch.empty(free, dtype=torch.uint8, device=GPU)]
            cycle.append(cycle)

    with capacity_of(int(MARGIN * peak_of(trials))):
        gc.disable()
        try:
            return {
                "pack_sizes": [result.pack_size for result in run_pack(trials, CAPTURED, litter)]
            }
        finally:
            gc.enable()


def instantiation() -> Found:
    """A graph that the device cannot instantiate for want of memory: the pack is halved."""
    device.fail_instantiations(1)
    results = run_pack(pack_of("dit", steps=6), CAPTURED)
    found = {"pack_sizes": [result.pack_size for result in results]}
    device.fail_instantiations(1)
    state = started(pack_of("dit")[:1], CAPTURED)
    try:
        for step in range(WARM_UP + 1):
            state.train_step(step)
    except RuntimeError as error:
        return {**found, "text": str(error).splitlines()[0], "kind": type(error).__name__}
    return found


def triton_module() -> Found:
    """A Triton kernel that the driver cannot load for want of memory."""
    torch._dynamo.reset()
    device.fail_modules(1)
    try:
        torch.compile(lambda x: x.sin() + x.cos())(torch.zeros(64, device=GPU))
    except RuntimeError as error:
        return {"text": str(error).splitlines()[0], "recognised": is_out_of_memory(error)}
    finally:
        device.fail_modules(0)
    return {"text": "", "recognised": False}


def compiled_steps(*pack: str) -> Found:
    """The default of a GPU, and how often Dynamo compiled: evaluation adds nothing."""
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    state = started(pack_of(*pack), FAST)
    state.train_step(0)
    compiled_once = counted["unique_graphs"]
    state.close()
    found = steps_of(pack_of(*pack), FAST, watched=False)
    return {
        **found,
        "functions": compiled_once,
        "recompiled": counted["unique_graphs"] - compiled_once,
    }


KINDS = [("fp32", "adamw"), ("bf16", "muon")]
OTHER_KINDS = [("bf16", "adamw"), ("fp32", "muon")]


def captured_cases(kinds: Sequence[tuple[str, str]]) -> dict[str, Callable[[], Found]]:
    """Return the captured steps of all models in some precisions and optimizers, by name."""
    return {
        " ".join((name, *kind)): partial(captured_steps, name, *kind)
        for name in (*FAMILIES, *MODELS)
        for kind in kinds
    }


STEPS: dict[str, Callable[[], Found]] = {  # the steps of one pack
    **captured_cases(KINDS),
    "eager dit bf16": partial(eager_steps, "dit", "bf16"),
    "eager mmdit bf16": partial(eager_steps, "mmdit", "bf16"),
    "dit fp32 single": partial(captured_steps, "dit", count=1),
}
MORE_STEPS: dict[str, Callable[[], Found]] = {  # by night
    **captured_cases(OTHER_KINDS),
    **{
        f"eager {n} bf16": partial(eager_steps, n, "bf16") for n in ("dit_modern", "uvit", "pixart")
    },
}
PACKS: dict[str, Callable[[], Found]] = {  # whole packs, one after another
    "large evaluation": large_evaluation,
    "target": partial(target_steps, "dit", "bf16", accumulate=2),
    "target of Muon": partial(target_steps, "dit", "fp32", "muon"),
    "compacted": compacted,
    "restored": restored,
    "probed": probed,
    "equal packs": partial(equal_packs, pack_of, packs=4),
    "packs that fit alone": fitting_packs,
    "memory for half": halved,
    "memory for none": too_large,
    "memory of a dead cycle": taken_by_a_cycle,
    "memory for a graph": instantiation,
}
NIGHTLY: dict[str, Callable[[], Found]] = {
    **{
        f"compiled {family} bf16 adamw": partial(compiled_steps, family, "bf16")
        for family in (*FAMILIES, *MODELS)
    },
    "compiled dit fp32 muon": partial(compiled_steps, "dit", "fp32", "muon"),
    "ten equal packs": partial(equal_packs, wide),
    "compiled ten equal packs": partial(equal_packs, wide, FAST),
    "memory for Triton": triton_module,
}


CASES = {**STEPS, **MORE_STEPS, **PACKS, **NIGHTLY}


def clean() -> None:
    """Give back what earlier cases left."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def run_case(name: str) -> Found:
    """Run a case and return its findings, with what the device counted."""
    clean()
    device.reset()
    began = time.perf_counter()
    try:
        found = CASES[name]()
    except Exception as error:
        lines = traceback.format_exception(error)
        found = {"error": "".join(lines)[-3000:], "first_invalid": device.first_invalid()}
    counted, peak = device.counters(), device.peak_bytes() / 1e6
    clean()
    left = torch.cuda.memory_allocated() / 1e6
    of_device = {n: getattr(counted, n) for n in ("graphs", "nodes", "stray", "invalid", "refused")}
    took = {"peak_mb": peak, "left_mb": left, "seconds": time.perf_counter() - began}
    return {"case": name, **of_device, **took, **found}


def main(names: Sequence[str]) -> None:
    """Run cases, each answered by one line of JSON, and leave without the runtime's clean-up."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in names:
        print(json.dumps(run_case(name)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
