"""Samples of a trained model as a grid of images: one row per class of the held-out data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Split, load_data
from hptransfer.models.families.custom import prediction_of
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

    def predict(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        return prediction_of(model(x, t, *condition))

    return sample_grid(config, predict, split, sampler, device, columns=columns, seed=seed)


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
    labels = split.labels_at(np.arange(len(split))).numpy()
    chosen = np.unique(labels, return_index=True)[1][:MOST_GRID_ROWS]  # the first of each class
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


def _noise(config: TrialConfig, rows: int, columns: int, seed: int) -> Tensor:
    layout = config.data.layout
    shape = (columns, layout.channels, layout.image_size, layout.image_size)
    return torch.cat(
        [torch.randn(shape, generator=torch_generator(seed, "sample", row)) for row in range(rows)]
    )


GAP = 1  # pixels between images, before they are enlarged
SIDE = 64  # least side of an image in pixels, after it is enlarged


def lay_out_samples(samples: np.ndarray) -> np.ndarray:
    """Return samples (rows, columns, C, H, W) in [-1, 1] on one white page (H', W', 3) in [0, 1].

    One channel is shown as grey, three as colours; values outside [-1, 1] are clipped.
    """
    rows, columns, channels, height, width = samples.shape
    assert channels in (1, 3), f"{channels} channels are no image"
    images = np.clip((samples + 1) / 2, 0, 1).transpose(0, 1, 3, 4, 2)
    images = np.broadcast_to(images, (rows, columns, height, width, 3))
    padded = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=1.0)
    page = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + GAP), -1, 3)
    scale = max(1, -(-SIDE // height))
    return page[:-GAP, :-GAP].repeat(scale, axis=0).repeat(scale, axis=1)


def write_samples_png(path: Path, page: np.ndarray) -> None:
    """Write a page (H, W, 3) in [0, 1] as PNG."""
    from matplotlib import image

    path.parent.mkdir(parents=True, exist_ok=True)
    image.imsave(path, page)
