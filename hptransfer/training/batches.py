"""The inputs of a training step and of the deciding loss, as pure functions of (seed, step).

Trials that share a seed see the same samples, noise, timesteps and conditions at every step,
whatever their width and hyperparameters. Every trial of a data set, whatever its seed, is evaluated
on the same held-out triples of sample, noise and timestep; the timesteps of a sample's draws are
stratified: one in each equal part of the time axis. Packs and targets both draw from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Conditioning
from hptransfer.config.trial import JUDGED
from hptransfer.data import (
    Dataset,
    EpochOrder,
    SourceRows,
    Split,
    batch_indices,
    epoch_order,
    latent_statistics,
    load_data,
    missing_folder,
)
from hptransfer.data.reading import progress_to
from hptransfer.data.statistics import seen_line, unit_warning
from hptransfer.results.metrics import NOISE_PARTS
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.objectives import on_token_grid
from hptransfer.training.sampling.classifier import feature_maps_of

ALL_SAMPLES = slice(None)


class Batch(NamedTuple):
    """The inputs of a step or of a part of a step, for one seed (B, ...) or several (S, B, ...)."""

    images: Tensor  # (..., B, C, H, W)
    u: Tensor  # (..., B): quantiles of the time axis, in [0, 1)
    noise: Tensor  # (..., B, C, H, W)
    features: Tensor  # (..., B, tokens, D): a frozen encoder's, on the model's grid; or empty
    condition: tuple[Tensor, ...]  # labels, or tokens, mask and pooled features: (..., B, ...)

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order, which `from_tensors` reads."""
        return [self.images, self.u, self.noise, self.features, *self.condition]

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor]) -> Batch:
        """Return the batch whose `tensors()` these are."""
        images, u, noise, features, *condition = tensors
        return Batch(images, u, noise, features, tuple(condition))

    def part(self, index: slice | Tensor, device: torch.device) -> Batch:
        """Return the samples at `index` of the first axis, on a device.

        A slice of a `pinned` batch is copied without waiting for the device.
        """
        parts = [tensor[index].to(device, non_blocking=True) for tensor in self.tensors()]
        return Batch.from_tensors(parts)

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies by itself.

        Torch keeps the memory until such a copy has ended.
        """
        return Batch.from_tensors([tensor.pin_memory() for tensor in self.tensors()])


def train_batch(
    config: TrialConfig,
    train: Split,
    step: int,
    part: slice = ALL_SAMPLES,
    order: EpochOrder | None = None,
) -> Batch:
    """Return the batch of one trial's step `step` (from 0), on the CPU.

    Conditions are replaced by the null condition as often as `model.label_dropout` says. With
    `part` only these samples of the batch are returned. The whole batch's randomness is drawn in
    any case, so that a sample's noise does not depend on how a batch is divided among processes.
    `order` is that of `batch_indices`.
    """
    size, seed = config.budget.batch_size, config.seed
    chosen = batch_indices(len(train), size, seed, step, order)[part]
    images = train.images_at(chosen)
    uniform = torch.rand(size, generator=torch_generator(seed, "label dropout", step))
    shape = (size, *images.shape[1:])
    condition = conditions_at(config, train, chosen)
    return Batch(
        images=images,
        u=torch.rand(size, generator=torch_generator(seed, "timestep", step))[part],
        noise=torch.randn(shape, generator=torch_generator(seed, "noise", step))[part],
        features=aligned_features(config, train, chosen, images),
        condition=with_null_condition(
            config, condition, (uniform < config.model.label_dropout)[part]
        ),
    )


def aligned_features(
    config: TrialConfig, split: Split, chosen: np.ndarray, images: Tensor
) -> Tensor:
    """Return a frozen encoder's features of the chosen samples on the model's grid of tokens.

    They are those of the classifier that ships with the data, or those stored beside the latents:
    (B, tokens, D), or (B, 0, 0) where none are used.
    """
    if not config.feature_tokens:
        return images.new_zeros(len(chosen), 0, 0)
    if isinstance(config.data, JUDGED):
        features = feature_maps_of(config.data, images)
    else:
        assert isinstance(split, SourceRows), "features are stored in folders only"
        features = split.features_at(chosen)
    return on_token_grid(features, config.feature_tokens)


def conditions_at(config: TrialConfig, split: Split, chosen: np.ndarray) -> tuple[Tensor, ...]:
    """Return the chosen samples' conditions: labels (B,), or tokens, mask and pooled features."""
    if config.model.conditioning is Conditioning.caption:
        return split.captions_at(chosen)
    return (split.labels_at(chosen),)


def with_null_condition(
    config: TrialConfig, condition: tuple[Tensor, ...], where: Tensor
) -> tuple[Tensor, ...]:
    """Return conditions in which the samples at the mask `where` (B,) have the null condition.

    The null condition is the label after the last class, or an empty caption: tokens and pooled
    features zero, every token masked.
    """
    if config.model.conditioning is Conditioning.caption:
        return tuple(
            part.masked_fill(where.view(-1, *[1] * (part.ndim - 1)), 0) for part in condition
        )
    (labels,) = condition
    return (torch.where(where, config.data.layout.classes, labels),)


class PackBatches:
    """The batches of a pack's distinct seeds; members that share a seed share its batch."""

    def __init__(self, configs: Sequence[TrialConfig], dataset: Dataset) -> None:
        by_seed = {config.seed: config for config in configs}
        self.configs = [by_seed[seed] for seed in seeds_of(configs)]
        self.train = dataset.train
        # Orders of all seeds and of all epochs that the steps made in advance touch. A permutation
        # of 60,000 samples takes 1 ms, and 64 of them at every step would take longer than it.
        ahead = (STEPS_AHEAD + 1) * configs[0].budget.batch_size
        epochs = math.ceil(ahead / len(self.train)) + 1
        self.order = lru_cache(maxsize=len(self.configs) * epochs)(epoch_order)

    def at(self, step: int) -> Batch:
        """Return the batches of a step, on the CPU, with a leading axis over the seeds (S, ...)."""
        batches = [
            train_batch(config, self.train, step, order=self.order).tensors()
            for config in self.configs
        ]
        return Batch.from_tensors([torch.stack(parts) for parts in zip(*batches, strict=True)])


def seeds_of(configs: Sequence[TrialConfig]) -> list[int]:
    """Return the distinct seeds of trials in the order of a pack's batches."""
    return list(dict.fromkeys(config.seed for config in configs))


def load_dataset(
    config: TrialConfig, runtime: RuntimeConfig, tell: Callable[[str], None] | None = None
) -> Dataset:
    """Return a trial's data set; one in a folder is read from `runtime.data_folder`.

    Args:
        tell: gets a line now and then while a large folder is read for the first time.

    Raises:
        UserError: the data is not there, is broken, or its content hash is not the config's.
    """
    with progress_to(tell):
        return load_data(config.data, runtime.data_folder)


def what_a_model_sees(config: TrialConfig, runtime: RuntimeConfig) -> tuple[str | None, str | None]:
    """Return a line on the statistics of latents, and a warning where they are far from 0 and 1."""
    data = config.data
    stored = latent_statistics(data, runtime.data_folder)
    if stored is None or not isinstance(data, FeaturesConfig):
        return None, None
    line = seen_line(stored.seen(data.shift, data.scale))
    return line, unit_warning(stored, data.shift, data.scale)


def missing_data(config: TrialConfig, runtime: RuntimeConfig) -> str | None:
    """Say that the folder of a trial's data is not named or not there; None where it is."""
    return missing_folder(config.data, runtime.data_folder)


Inputs = TypeVar("Inputs")

STEPS_AHEAD = 8  # coming steps whose inputs are made in advance
MAKER_THREADS = 4  # threads that make inputs


class StepInputs(NamedTuple):
    """Everything that differs between two steps of a pack, in tensors of fixed shapes."""

    batch: Batch  # per distinct seed: (S, B, ...)
    controls: Tensor  # (n, T): what the optimizer takes, and the step

    def on(self, device: torch.device) -> StepInputs:
        """Return the same inputs on a device."""
        return StepInputs.from_tensors([tensor.to(device) for tensor in self.tensors()])

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order, which `from_tensors` reads."""
        return [*self.batch.tensors(), self.controls]

    @staticmethod
    def from_tensors(tensors: list[Tensor]) -> StepInputs:
        """Return the inputs whose `tensors()` these are."""
        return StepInputs(Batch.from_tensors(tensors[:-1]), tensors[-1])


class InputQueue(Generic[Inputs]):
    """The inputs of steps by number; `make(step)` gives the same inputs at any time.

    With `ahead` the inputs of the next `STEPS_AHEAD` steps are made in threads; without it each
    step's inputs are made when they are asked for.
    """

    def __init__(self, make: Callable[[int], Inputs], steps: int, *, ahead: bool) -> None:
        self.make, self.steps = make, steps
        self.pool = None
        if ahead:
            self.pool = ThreadPoolExecutor(MAKER_THREADS, thread_name_prefix="inputs")
        self.coming: dict[int, Future[Inputs]] = {}

    def __call__(self, step: int) -> Inputs:
        """Return the inputs of step `step`."""
        if self.pool is None:
            return self.make(step)
        wanted = {step, *range(step + 1, min(step + 1 + STEPS_AHEAD, self.steps))}
        self.coming = {
            s: self.coming.get(s) or self.pool.submit(self.make, s) for s in sorted(wanted)
        }
        return self.coming.pop(step).result()

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def evaluation_batches(config: TrialConfig, validation: Split) -> Iterator[Batch]:
    """Yield one batch per stratified draw over the first `eval_samples` held-out samples."""
    count = min(config.budget.eval_samples, len(validation))
    chosen = np.arange(count)
    images, condition = validation.images_at(chosen), conditions_at(config, validation, chosen)
    draws = config.budget.eval_draws
    for draw in range(draws):
        generator = torch_generator(0, "evaluation", draw)
        # Rotating the strata over the samples gives every draw the whole time axis.
        stratum = (torch.arange(count) + draw) % draws
        u = (stratum + torch.rand(count, generator=generator)) / draws
        noise = torch.randn(images.shape, generator=generator)
        yield Batch(images, u, noise, images.new_zeros(count, 0, 0), condition)


def sums_by_noise(losses: Tensor, u: Tensor) -> Tensor:
    """Return the sums (..., NOISE_PARTS) of losses (..., B) over parts of the noise levels.

    The parts are equal in the samples' quantiles of time u (B,); the first has the least noise.
    """
    parts = torch.arange(NOISE_PARTS, device=u.device).unsqueeze(1)
    # Rounding may make the last quantile 1.
    chosen = (u * NOISE_PARTS).long().clamp_max(NOISE_PARTS - 1) == parts
    return torch.where(chosen, losses.unsqueeze(-2), 0.0).sum(-1)
