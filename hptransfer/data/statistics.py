"""Mean and standard deviation of latents, as stored and as a model sees them.

A model sees x = (z − shift)·scale of a stored latent z. Diffusion needs x near mean 0 and standard
deviation 1, since the noise has that. The latents of every VAE have their own factor, and to forget
it is the most common fault with stored latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ByChannel = float | tuple[float, ...]  # one number, or one for each channel

# Factors by which published trainers normalise the latents of a VAE: name, channels, shift, scale.
# Stable Diffusion (arXiv 2112.10752), SDXL (2307.01952), SD3 (2403.03206), and Flux's config.
VAES = (
    ("Stable Diffusion", 4, 0.0, 0.18215),
    ("SDXL", 4, 0.0, 0.13025),
    ("SD3", 16, 0.0609, 1.5305),
    ("Flux", 16, 0.1159, 0.3611),
)
MOST_MEAN = 0.5  # largest distance of the mean from 0 that passes without a warning
LEAST_STD, MOST_STD = 0.7, 1.4  # standard deviations between which nothing is warned of
MOST_STATED = 64  # channels up to which a shift and a scale for each may be written into a config


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of latents by channel, over all samples and places."""

    samples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def whole_mean(self) -> float:
        """The mean over all channels."""
        return float(np.mean(self.mean))

    @property
    def whole_std(self) -> float:
        """The standard deviation of all values, whatever their channel."""
        return math.sqrt(np.mean(np.square(self.std)) + np.var(self.mean))

    def seen(self, shift: ByChannel, scale: ByChannel) -> Statistics:
        """Return the statistics of (z − shift)·scale."""
        mean = (np.array(self.mean) - shift) * scale
        std = np.array(self.std) * np.abs(scale)
        return Statistics(self.samples, tuple(mean.tolist()), tuple(std.tolist()))

    @property
    def is_near_unit(self) -> bool:
        """Whether the mean is near 0 and the standard deviation near 1."""
        return abs(self.whole_mean) <= MOST_MEAN and LEAST_STD <= self.whole_std <= MOST_STD


class Sums:
    """Running statistics by channel (Chan, Golub and LeVeque 1979), in float64."""

    def __init__(self) -> None:
        self._samples, self._count = 0, 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Take in a batch (B, C, H, W)."""
        values = values.double().transpose(0, 1).flatten(1)
        count, mean = values.shape[1], values.mean(1)
        squares, apart = (values - mean[:, None]).square().sum(1), mean - self._mean
        whole = self._count + count
        self._squares = self._squares + squares + apart.square() * self._count * count / whole
        self._mean = self._mean + apart * count / whole
        self._count = whole

    def statistics(self, samples: int) -> Statistics:
        """Return the statistics of all that was taken in."""
        std = (self._squares / self._count).sqrt()
        return Statistics(samples, tuple(self._mean.tolist()), tuple(std.tolist()))


def factors_for(stored: Statistics, *, by_channel: bool) -> tuple[str, ByChannel, ByChannel] | None:
    """Return the shift and scale that latents need, and where they come from; None: none.

    They are those of the VAE that fits best, or else measured, as (z − mean)/std. `by_channel`: one
    for each channel, measured, as the trainer of such a folder takes them.
    """
    if by_channel and len(stored.mean) <= MOST_STATED:
        if np.allclose(stored.mean, 0, atol=0.01) and np.allclose(stored.std, 1, atol=0.01):
            return None
        shift = tuple(rounded(value) for value in stored.mean)
        return (
            "measured by channel",
            shift,
            tuple(rounded(1 / (value or 1)) for value in stored.std),
        )
    if stored.is_near_unit:
        return None
    fits = {
        name: (shift, scale)
        for name, channels, shift, scale in VAES
        if channels == len(stored.mean) and stored.seen(shift, scale).is_near_unit
    }
    if fits:
        best = min(fits, key=lambda name: abs(math.log(stored.seen(*fits[name]).whole_std)))
        return f"those of {best}'s VAE, which fit best", *fits[best]
    return "measured", rounded(stored.whole_mean), rounded(1 / (stored.whole_std or 1))


def rounded(value: float) -> float:
    """Return a number with four digits, which is more than statistics of latents are known to."""
    return float(f"{value:.4g}")


def as_override(value: ByChannel) -> str:
    """Return a number, or one for each channel, as an override gives it."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def factor_overrides(shift: ByChannel, scale: ByChannel) -> list[str]:
    """Return the overrides that set shift and scale, none where they change nothing."""
    shown = [f"data.shift={as_override(shift)}"] if shift != 0 else []
    return [*shown, *([f"data.scale={as_override(scale)}"] if scale != 1 else [])]


def seen_line(seen: Statistics) -> str:
    """Return the line on what a model sees of latents."""
    return (
        f"data: {seen.samples:,} samples, as the model sees them mean {seen.whole_mean:.3g}, "
        f"standard deviation {seen.whole_std:.3g}"
    )


def unit_warning(stored: Statistics, shift: ByChannel, scale: ByChannel) -> str | None:
    """Return a sentence where a model sees latents far from mean 0 and standard deviation 1."""
    seen = stored.seen(shift, scale)
    if seen.is_near_unit:
        return None
    where, *better = factors_for(stored, by_channel=False) or ("", 0.0, 1.0)
    words = factor_overrides(*better) or ["data.shift=0", "data.scale=1"]
    return (
        f"warning: the latents should have mean 0 and standard deviation 1, as the noise has, but "
        f"the model sees mean {seen.whole_mean:.3g} and standard deviation {seen.whole_std:.3g}. "
        f"Has a factor been forgotten? Set {' '.join(words)}{f' ({where})' if where else ''}, or "
        "go on if you mean it."
    )
