"""What the trial axis gains: training steps per second of a pack against one trial at a time.

    python -m benchmarks.packing [--widths 24 48 96 192] [--sizes 1 2 4 8] [--threads 1]
                                 [--device cpu] [--seconds 1] [--repeats 5] [--out FILE]

At the quickstart's shapes, batch and objective, under µP. A pack holds the first trials of the
sweep in its own order: learning rates from low to high, then the next seed. Counted is what a
sweep's training loop does at each step, batch included; evaluation is not. Trial-steps per second
are pack size x steps / seconds of a block of about `--seconds`; all blocks of a width take turns,
forth and back, `--repeats` times, after one untimed turn. A ratio is taken within a turn. `plain`
is the trial alone without a trial axis: the same model and batch in an ordinary loop with
`torch.optim.AdamW`, at a constant rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.config.sweep import SweepConfig
from hptransfer.data import Dataset, load_data
from hptransfer.models.parametrization.rules import build_model, param_groups
from hptransfer.sweeping.design.trials import wanted
from hptransfer.training.batches import train_batch
from hptransfer.training.device import torch_device
from hptransfer.training.objectives import noised, objective_loss
from hptransfer.training.packs.state import start_training

PLAIN = 0  # stands for the trial without a trial axis among the pack sizes
COLUMNS = ("width", "pack", "trial-steps/s", "min", "max", "over one at a time", "over plain")
Step = Callable[[int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    arguments = _arguments(argv)
    described = measure.machine()
    overrides = [f"runtime.device={arguments.device}", f"runtime.threads={arguments.threads}"]
    composed = compose_file(shipped_folder("sweeps") / "quickstart.yaml", overrides)
    sweep, device = sweep_config(composed), torch_device(composed.runtime)
    torch.set_num_threads(arguments.threads)
    dataset = load_data(sweep.base.data, composed.runtime.data_folder)
    described["device"] = _device_name(device)
    sizes = sorted({PLAIN, 1, *arguments.sizes})
    found = []
    for width in arguments.widths:
        trials = members(sweep, width, max(sizes))
        steps = {size: stepper(trials[:size], dataset, device) for size in sizes if size != PLAIN}
        steps[PLAIN] = plain_stepper(trials[0], dataset, device)
        rates = turns(steps, device, seconds=arguments.seconds, repeats=arguments.repeats)
        found += [_entry(width, size, rates) for size in sizes]
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    answer = {**measure.record("packing", settings, described), "packs": found}
    measure.publish(answer, COLUMNS, [_cells(entry) for entry in found], arguments.out)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96, 192])
    parser.add_argument("--sizes", type=measure.count, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=measure.count, default=1, help="CPU threads of a pack")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one block, about")
    parser.add_argument("--repeats", type=measure.count, default=5, help="timed blocks of each")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/packing.json"))
    return parser.parse_args(argv)


def members(sweep: SweepConfig, width: int, count: int) -> list[TrialConfig]:
    """Return the first trials of the sweep's µP arm at a width, of as many seeds as it takes."""
    asked = dataclasses.replace(
        sweep, widths=(width,), parametrizations=(Scaling.mup,), seeds=tuple(range(count))
    )
    return list(islice(wanted(asked).values(), count))


def stepper(trials: Sequence[TrialConfig], dataset: Dataset, device: torch.device) -> Step:
    """Return what takes one step of a pack; past its budget the schedule starts again."""
    state = start_training(trials, dataset, device, RuntimeConfig(device=str(device)))
    budget = trials[0].budget
    return lambda step: state.train_step(step % budget.steps)


def plain_stepper(config: TrialConfig, dataset: Dataset, device: torch.device) -> Step:
    """Return what takes one step of a trial in an ordinary torch loop, at a constant rate."""
    model = build_model(config).to(device)
    optimizer = torch.optim.AdamW(param_groups(model, config))

    def step(number: int) -> None:
        batch = train_batch(config, dataset.train, number % config.budget.steps)
        images, u, noise = (part.to(device) for part in batch[:3])
        (labels,) = batch.condition
        at = noised(config.objective, images, noise, u)
        loss = objective_loss(config.objective, model(at.x, at.t, labels.to(device)), at)
        if not bool(torch.isfinite(loss)):
            raise RuntimeError(f"The plain trial diverged at width {config.model.width}.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def turns(
    steps: dict[int, Step], device: torch.device, *, seconds: float, repeats: int
) -> dict[int, list[float]]:
    """Return each size's trial-steps per second in each turn, the untimed first left out."""
    rates: dict[int, list[float]] = {size: [] for size in steps}
    taken = dict.fromkeys(steps, 0)
    for turn in range(repeats + 1):
        for size in sorted(steps, reverse=bool(turn % 2)):
            count, elapsed = _block(steps[size], taken[size], device, seconds)
            taken[size] += count
            if turn:
                rates[size].append(max(size, 1) * count / elapsed)
    return rates


def _block(step: Step, first: int, device: torch.device, seconds: float) -> tuple[int, float]:
    """Take steps until `seconds` are over, at least three; return how many and the true time."""
    _finish(device)
    started, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - started < seconds:
        step(first + count)
        count += 1
    _finish(device)
    return count, time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _entry(width: int, size: int, rates: dict[int, list[float]]) -> dict[str, Any]:
    def over(base: int) -> dict[str, Any]:
        pairs = zip(rates[size], rates[base], strict=True)
        return measure.spread([rate / other for rate, other in pairs])

    return {
        "width": width,
        "method": "plain" if size == PLAIN else "pack",
        "size": max(size, 1),
        "trial_steps_per_second": measure.spread(rates[size]),
        "over_one_at_a_time": over(1),
        "over_plain": over(PLAIN),
    }


def _cells(entry: dict[str, Any]) -> list[str]:
    rate = entry["trial_steps_per_second"]
    name = "plain" if entry["method"] == "plain" else str(entry["size"])
    ratios = [entry["over_one_at_a_time"], entry["over_plain"]]
    return [
        str(entry["width"]),
        name,
        *(f"{rate[key]:.1f}" for key in ("median", "min", "max")),
        *(f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for r in ratios),
    ]


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


if __name__ == "__main__":
    sys.exit(main())
