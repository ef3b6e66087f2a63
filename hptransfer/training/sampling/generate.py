"""Samples of a trained model as a grid: one row per class of the held-out data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Split, load_data
from hptransfer.models.weights import load_weights
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import conditions_at, with_null_condition
from hptransfer.training.device import torch_device
from hptransfer.training.sampling.samplers import Model, SamplerConfig, sample

MOST_GRID_ROWS = 10  # classes in one picture


def generate(
    config: TrialConfig,
    weights: Path,
    sampler: SamplerConfig,
    runtime: RuntimeConfig,
    *,
    columns: int,
    seed: int = 0,
) -> np.ndarray:
    """Return samples (rows, columns, C, H, W) of the weights in a file, in [-1, 1] for images.

    Each row is one class of the held-out data, in order, with the label or caption of the class's
    first held-out sample. The noise of a row depends on (seed, row) only.
    """
    device = torch_device(runtime)
    torch.set_num_threads(runtime.threads)
    model = load_weights(config, weights).to(device).eval()
    split = load_data(config.data, runtime.data_folder).validation
    return sample_grid(config, model, split, sampler, device, columns=columns, seed=seed)


def sample_grid(
    config: TrialConfig,
    model: Model,
    split: Split,
    sampler: SamplerConfig,
    device: torch.device,
    *,
    columns: int,
    seed: int = 0,
) -> np.ndarray:
    """Return samples of a model for the classes of a split, as `generate` does."""
    chosen = _one_of_each_class(split)
    condition = conditions_at(config, split, np.repeat(chosen, columns))
    null = with_null_condition(
        config, condition, torch.ones(len(chosen) * columns, dtype=torch.bool)
    )
    samples = sample(
        config.objective,
        model,
        _noise(config, len(chosen), columns, seed).to(device),
        [part.to(device) for part in condition],
        [part.to(device) for part in null],
        sampler,
    )
    return samples.unflatten(0, (len(chosen), columns)).cpu().numpy()


def _one_of_each_class(split: Split) -> np.ndarray:
    """Return the index of the first sample of each of the first classes."""
    labels = split.labels_at(np.arange(len(split))).numpy()
    _, first = np.unique(labels, return_index=True)
    return first[:MOST_GRID_ROWS]


def _noise(config: TrialConfig, rows: int, columns: int, seed: int) -> Tensor:
    layout = config.data.layout
    shape = (columns, layout.channels, layout.image_size, layout.image_size)
    return torch.cat(
        [torch.randn(shape, generator=torch_generator(seed, "sample", row)) for row in range(rows)]
    )
