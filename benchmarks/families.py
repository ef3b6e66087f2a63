"""The four families against their originals: parameter counts, µP in motion, the `mup` package.

    python -m benchmarks.families [--small] [--out results/benchmarks/families.json]

For each family: parameters of a released model as its authors' code gives them, and of our preset;
the steepest slope of the coordinate check under µP and under the standard parametrization (octaves
per width doubling; widths 16 to 256, eight seeds); and how far three AdamW steps end from those of
the same model under `mup.set_base_shapes`, `MuReadout` and `MuAdamW`, as a share of the output, the
largest of three widths.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mup
import torch
from torch import Tensor, nn

from benchmarks import measure
from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Init, Scaling
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.identity import with_scaling, with_width
from hptransfer.data import load_data
from hptransfer.models.families import build_architecture
from hptransfer.models.families.layers import Readout
from hptransfer.models.parametrization.rules import build_model, param_groups, parameter_count
from hptransfer.training.batches import train_batch
from hptransfer.training.packs.coordinate_check import coordinate_check

# Trainable parameters of the authors' own code, instantiated.
ORIGINALS = {
    "dit": ("dit_xl_2", 674_834_720),
    "uvit": ("uvit_h_2", 500_832_016),
    "pixart": ("pixart_xl_2", 610_856_096),
    "mmdit": ("mmdit_d24", 2_028_328_000),
}
WIDTHS, SMALL_WIDTHS = (16, 32, 64, 128, 256), (16, 32)
LOG2_LR = -6.5  # where the checks start; they go lower where a rate is near instability
ORACLE_STEPS = 3
COLUMNS = (
    "family", "model", "original", "ours", "µP slope", "standard slope", "from mup", "check, s"
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--small", action="store_true", help="two widths: a smoke test")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/families.json"))
    arguments = parser.parse_args(argv)
    described = measure.machine()
    widths = SMALL_WIDTHS if arguments.small else WIDTHS
    rows = [_family(family, widths) for family in ORIGINALS]
    answer = measure.record("families", {"widths": list(widths), "log2_lr": LOG2_LR}, described)
    measure.publish({**answer, "families": rows}, COLUMNS, [_cells(r) for r in rows], arguments.out)
    return 0


def _family(family: str, widths: Sequence[int]) -> dict[str, Any]:
    preset, original = ORIGINALS[family]
    released = compose_file(None, [f"model={preset}", "parametrization=standard"]).trial
    base = compose_file(
        None, [f"model={family}", f"model.width={widths[0]}", f"model.base_width={widths[0]}"]
    ).trial
    started = time.perf_counter()
    checks = {
        scaling: _checked(base, scaling, widths) for scaling in (Scaling.mup, Scaling.standard)
    }
    seconds = time.perf_counter() - started
    return {
        "family": family,
        "model": preset,
        "original_parameters": original,
        "parameters": parameter_count(released),
        "checks": {scaling.value: answer for scaling, answer in checks.items()},
        "distance_from_mup": max(_distance_from_mup(with_width(base, w)) for w in widths[:3]),
        "check_seconds": round(seconds, 1),
    }


def _checked(base: TrialConfig, scaling: Scaling, widths: Sequence[int]) -> dict[str, Any]:
    answer = coordinate_check(with_scaling(base, scaling), widths, LOG2_LR, RuntimeConfig())
    kept = ("verdict", "log2_lr", "loss_drop", "worst")
    return {name: answer[name] for name in kept}


def _distance_from_mup(config: TrialConfig) -> float:
    """Return the largest difference of outputs over a few steps, as a share of their size."""
    config = dataclasses.replace(config, init=Init.paper)
    ours, theirs = build_model(config), _under_mup(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    lr = config.optimizer.lr
    betas = (config.optimizer.beta1, config.optimizer.beta2)
    steppers = (
        torch.optim.AdamW(param_groups(ours, config)),
        mup.MuAdamW(theirs.parameters(), lr=lr, betas=betas, weight_decay=0.0),
    )
    train, distance = load_data(config.data, None).train, 0.0
    for step in range(ORACLE_STEPS + 1):
        batch = train_batch(config, train, step)
        arguments = (batch.images, 1000 * batch.u, *batch.condition)
        outputs: list[Tensor] = [network(*arguments) for network in (ours, theirs)]
        if step:  # before the first step a zero readout gives zero
            distance = max(distance, _relative_distance(*outputs))
        for output, stepper in zip(outputs, steppers, strict=True):
            stepper.zero_grad()
            (output - batch.noise).square().mean().backward()
            stepper.step()
    return distance


@torch.no_grad()
def _relative_distance(ours: Tensor, theirs: Tensor) -> float:
    size = theirs.abs().max()
    if not 0 < size < float("inf"):
        raise RuntimeError(f"The reference's largest output is {float(size)}: nothing to compare.")
    return float((ours - theirs).abs().max() / size)


def _under_mup(config: TrialConfig) -> nn.Module:
    """Build what mup's guide says to build for this trial."""

    def built(width: int) -> nn.Module:
        model = build_architecture(with_width(config, width).model, config.data.layout)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, Readout):
                model.set_submodule(name, mup.MuReadout(layer.in_features, layer.out_features))
        return model

    base_width = config.model.base_width
    model = built(config.model.width)
    mup.set_base_shapes(model, built(base_width), delta=built(2 * base_width), rescale_params=False)
    return model


def _cells(row: dict[str, Any]) -> list[str]:
    slopes = []
    for arm in ("mup", "standard"):
        check = row["checks"][arm]
        slopes.append(f"{check['worst']['slope']:+.2f} ({check['verdict']})")
    return [
        row["family"],
        row["model"],
        f"{row['original_parameters']:,}",
        f"{row['parameters']:,}",
        *slopes,
        f"{row['distance_from_mup']:.0e}",
        f"{row['check_seconds']:.0f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
