"""Train the classifiers in whose features samples are judged, and write them into the package.

    python -m benchmarks.classifier [digits] [fashion_mnist] [--folder FOLDER]
        [--out results/benchmarks/classifier.json]

Seed, order of samples and rate are fixed. One CPU thread: 5 s of it for the digits, three minutes
for Fashion-MNIST. On another kind of processor rounding gives other weights, as good as these.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import measure
from hptransfer.config import DataConfig, DigitsConfig, FashionMNISTConfig
from hptransfer.data import Split, batch_indices, load_data
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.sampling.classifier import Classifier, weights_file

SEED = 0
WARMUP = 0.1  # of the steps; then the rate falls linearly to zero
WEIGHT_DECAY = 1e-2
COMMAND = "python -m benchmarks.classifier"
COLUMNS = (
    "data",
    "parameters",
    "epochs",
    "train accuracy",
    "held-out accuracy",
    "CPU seconds",
    "KB",
)


class Recipe(NamedTuple):
    """A data set and how its classifier is trained."""

    data: DataConfig
    epochs: int
    batch_size: int
    lr: float


RECIPES = {
    "digits": Recipe(DigitsConfig(), epochs=30, batch_size=64, lr=2e-3),
    "fashion_mnist": Recipe(FashionMNISTConfig(), epochs=6, batch_size=128, lr=2e-3),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, write the weights, print the table and write the record."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("data", nargs="*", choices=[*RECIPES, []], help="both unless named")
    parser.add_argument("--folder", help="with the IDX files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/classifier.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    described = measure.machine()
    rows = [made(RECIPES[name], arguments.folder) for name in arguments.data or RECIPES]
    answer = measure.record("classifier", {"seed": SEED}, described)
    cells = [[str(value) for value in row.values()] for row in rows]
    measure.publish({**answer, "classifiers": rows}, COLUMNS, cells, arguments.out)
    return 0


def made(recipe: Recipe, folder: str | None) -> dict[str, Any]:
    """Train a data set's classifier, write it into the package and return its row."""
    dataset = load_data(recipe.data, folder)
    began = time.process_time()
    model = trained(recipe, dataset.train)
    seconds = time.process_time() - began
    accuracies = [round(accuracy(model, split), 4) for split in dataset]
    path = weights_file(recipe.data)
    about = {
        "data": recipe.data.name,
        "data_sha256": recipe.data.sha256,
        "held_out_accuracy": accuracies[1],
        "made_by": f"{COMMAND} {recipe.data.name}",
    }
    # One entry: the order of several would differ from file to file.
    path.write_bytes(save(model.state_dict(), {"about": json.dumps(about)}))
    return {
        "data": recipe.data.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": recipe.epochs,
        "train_accuracy": accuracies[0],
        "held_out_accuracy": accuracies[1],
        "cpu_seconds": round(seconds, 1),
        "kilobytes": round(path.stat().st_size / 1000),
    }


def trained(recipe: Recipe, train: Split) -> Classifier:
    """Train a classifier from its seed."""
    model = _initialised(Classifier(recipe.data.layout))
    steps = recipe.epochs * len(train) // recipe.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (WARMUP * steps), (1 - step / steps) / (1 - WARMUP)),
    )
    for step in range(steps):
        chosen = batch_indices(len(train), recipe.batch_size, SEED, step)
        loss = cross_entropy(model(train.images_at(chosen)), train.labels_at(chosen))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _initialised(model: Classifier) -> Classifier:
    """Draw weights with variance 2 / fan-in (arXiv 1502.01852, Eq. 10); biases zero."""
    generator = torch_generator(SEED, "classifier")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            torch.nn.init.zeros_(parameter)
    return model


@torch.no_grad()
def accuracy(model: Classifier, split: Split) -> float:
    """Return the share of a split's samples whose class is the most likely one."""
    right = [_right(model, split, part) for part in np.array_split(np.arange(len(split)), 60)]
    return float(torch.cat(right).float().mean())


def _right(model: Classifier, split: Split, chosen: np.ndarray) -> Tensor:
    return model(split.images_at(chosen)).argmax(1) == split.labels_at(chosen)


if __name__ == "__main__":
    sys.exit(main())
