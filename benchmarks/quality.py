"""What the quality measures say of data, of spoilt data and of models in training.

    python -m benchmarks.quality [--folder FOLDER] [--small] [--out results/benchmarks/quality.json]

Without models: training and held-out samples, parts of them, blurred ones, ones with a class
missing, noise; for the digits, and with a folder for Fashion-MNIST. With models: DiTs of the digits
after 75 to 600 steps, by 100 to 2,000 samples, and of the clothes after 30 and 150 steps. One CPU
thread: about two minutes of it for the digits, as much again for the clothes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks import measure
from hptransfer.config import (
    DataConfig,
    DigitsConfig,
    DiTConfig,
    FashionMNISTConfig,
    QualityConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.data import load_data
from hptransfer.models.parametrization.rules import build_model
from hptransfer.results.trial_result import Quality
from hptransfer.system.random_streams import numpy_generator, torch_generator
from hptransfer.training.packs.run import train_trial
from hptransfer.training.sampling.quality import draw_quality_samples, sample_quality
from hptransfer.training.sampling.reference import load_real_samples

LOG2_LR = -6.5


class Training(NamedTuple):
    """A DiT in training: after how many steps, and by how many samples before and at the last."""

    patch_size: int
    steps: tuple[int, ...]
    samples: int
    last: tuple[int, ...]


DIGITS = Training(2, (75, 150, 300, 600), 1000, (100, 200, 500, 1000, 2000))
CLOTHES = Training(4, (30, 150), 500, (100, 500))
SMALL = Training(4, (6, 12), 100, (100,))
COLUMNS = ("data", "samples of", "n", "Fréchet distance", "precision", "recall", "loss")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--folder", help="with the IDX files of Fashion-MNIST")
    parser.add_argument("--small", action="store_true", help="few steps and samples: a smoke test")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/quality.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    described = measure.machine()
    asked: list[tuple[DataConfig, str | None, Training]] = [(DigitsConfig(), None, DIGITS)]
    if arguments.folder is not None:
        asked.append((FashionMNISTConfig(), arguments.folder, CLOTHES))
    if arguments.small:
        asked = [(data, folder, SMALL) for data, folder, _ in asked]
    rows = []
    for data, folder, training in asked:
        rows += [*_of_data(data, folder), *_of_models(data, folder, training)]
    steps = {data.name: training.steps for data, _, training in asked}
    answer = measure.record("quality", {"steps": steps, "log2_lr": LOG2_LR}, described)
    cells = [[_cell(row[name]) for name in row] for row in rows]
    measure.publish({**answer, "rows": rows}, COLUMNS, cells, arguments.out)
    return 0


def _of_data(data: DataConfig, folder: str | None) -> Iterator[dict[str, Any]]:
    """Judge what is no model's: data, parts of it, spoilt data, noise."""
    dataset = load_data(data, folder)
    held_out = min(len(dataset.validation), 5000)
    real = dataset.validation.images_at(np.arange(held_out))
    labels = dataset.validation.labels_at(np.arange(held_out))
    order = numpy_generator(0, "parts").permutation(len(dataset.train))
    noise = torch.randn(real.shape, generator=torch_generator(0, "noise"))
    kinds: list[tuple[str, Tensor]] = [
        *(
            (f"the training split, {n} of it", dataset.train.images_at(order[:n]))
            for n in (100, 200, 500, 1000, 5000)
            if n <= len(order)
        ),
        ("the held-out split", real),
        ("the same without one class of ten", real[labels != 3]),
        ("the same, one class only", real[labels == 3]),
        ("the same with noise of a tenth", real + 0.1 * noise),
        ("the same with noise of a half", real + 0.5 * noise),
        ("the same, blurred", _blurred(real)),
        ("noise", noise),
        ("faint noise, three tenths of it", 0.3 * noise),
    ]
    for kind, images in kinds:
        config = TrialConfig(data=data, quality=QualityConfig(samples=max(100, len(images))))
        known = load_real_samples(config, folder)
        yield _row(data, kind, len(images), sample_quality(config, known, images))


def _blurred(images: Tensor) -> Tensor:
    return avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def _of_models(
    data: DataConfig, folder: str | None, training: Training
) -> Iterator[dict[str, Any]]:
    """Judge a model before, during and after training, at the end by ever more samples."""
    shape = DiTConfig(width=32, base_width=16, patch_size=training.patch_size)
    base = with_hyperparameters(TrialConfig(data=data, model=shape), {"log2_lr": LOG2_LR})
    for n in sorted({training.samples, min(training.last)}):
        yield _of_model(base, folder, build_model(base), n, "a DiT before training", None)
    for count in training.steps:
        config = dataclasses.replace(base, budget=dataclasses.replace(base.budget, steps=count))
        result, weights = train_trial(config, RuntimeConfig(data_folder=folder))
        model = build_model(config)
        model.load_state_dict(weights, strict=False)
        name = f"a DiT of width 32 after {count} steps"
        for n in training.last if count == training.steps[-1] else [training.samples]:
            yield _of_model(config, folder, model, n, name, result.loss)


def _of_model(
    config: TrialConfig,
    folder: str | None,
    model: torch.nn.Module,
    n: int,
    name: str,
    loss: float | None,
) -> dict[str, Any]:
    asked = dataclasses.replace(config, quality=QualityConfig(samples=n))
    known = load_real_samples(asked, folder)
    images = draw_quality_samples(asked, known.train, model, torch.device("cpu"))
    return {**_row(config.data, name, n, sample_quality(asked, known, images)), "loss": loss}


def _row(data: DataConfig, kind: str, n: int, quality: Quality | None) -> dict[str, Any]:
    assert quality is not None, "nothing here is infinite"
    known = {name: value for name, value in quality._asdict().items() if value is not None}
    measured = {name: round(value, 4) for name, value in known.items()}
    return {"data": data.name, "samples_of": kind, "n": n, **measured, "loss": None}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
