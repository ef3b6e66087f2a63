"""Samples of transferred targets, trained longer, side by side in one picture.

    python -m benchmarks.samples results/quickstart results/quickstart-uvit ... [--steps 1500]

Each folder's target.yaml is trained for `--steps` (what was trained before is not trained again)
and sampled with DPM-Solver++: ten rows, a class each, and a group of columns a folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from hptransfer.training.sampling.generate import generate, lay_out_samples, write_samples_png
from hptransfer.training.sampling.samplers import SamplerConfig
from hptransfer.transfer import target_run

COLUMNS = 5  # samples a class
BETWEEN = 24  # white pixels between groups
GUIDANCE = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Train, sample, print the losses and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samples", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="results folders with a target.yaml")
    parser.add_argument("--steps", type=measure.count, default=1500, help="of training")
    parser.add_argument("--out", type=Path, default=Path("results/samples.png"))
    arguments = parser.parse_args(argv)
    pages = [_page(folder / "target.yaml", arguments.steps) for folder in arguments.folders]
    gap = np.ones((len(pages[0]), BETWEEN, 3))
    spaced = [part for page in pages for part in (page, gap)][:-1]
    write_samples_png(arguments.out, np.concatenate(spaced, axis=1))
    print(f"picture {arguments.out}")
    return 0


def _page(target: Path, steps: int) -> np.ndarray:
    words = [f"budget.steps={steps}"]
    trained = target_run.train(target, words, config_dir=None, root=target.parent)
    assert trained is not None, "one process trains"
    print(f"{target}: loss {trained['loss']:.4f}, {trained['seconds']:.0f} s", flush=True)
    composed, _, _ = target_run.trained_at(target, words, config_dir=None, root=target.parent)
    drawn = generate(
        composed.trial,
        Path(trained["weights"]),
        SamplerConfig(guidance=GUIDANCE),
        composed.runtime,
        columns=COLUMNS,
    )
    return lay_out_samples(drawn)


if __name__ == "__main__":
    sys.exit(main())
