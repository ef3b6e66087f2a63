"""The quality of the samples of every member of a pack that completed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hptransfer.data import Split
from hptransfer.results.trial_result import Quality
from hptransfer.training.packs.loop import PackOutcome
from hptransfer.training.packs.pack import Pack
from hptransfer.training.sampling.draw import draw_quality_samples
from hptransfer.training.sampling.quality import RealSamples, sample_quality


@dataclass(frozen=True)
class PackQuality:
    """The quality of samples, by the trial's place in the pack at the start."""

    qualities: Mapping[int, Quality | None] = field(default_factory=dict)
    seconds: float = 0.0  # wall time of drawing and measuring


def measure_pack_quality(outcome: PackOutcome, real: RealSamples) -> PackQuality:
    """Return the quality of samples drawn from the members that completed."""
    began = time.perf_counter()
    sound = [
        place
        for place, member in enumerate(outcome.members)
        if outcome.diverged_at[member] < 0 and outcome.stopped_at[member] < 0
    ]
    config = outcome.pack.configs[0]
    drawn = draw_pack_samples(outcome.pack, real.train, outcome.weights, sound)
    qualities = {
        outcome.members[place]: sample_quality(config, real, images)
        for place, images in zip(sound, drawn, strict=True)
    }
    return PackQuality(qualities, time.perf_counter() - began)


def draw_pack_samples(
    pack: Pack, train: Split, flat: Tensor, members: Sequence[int]
) -> Iterator[Tensor]:
    """Yield samples (n, C, H, W) of the given members of a pack with weights `flat` (T, P).

    On a CPU each member draws alone, so that its samples are the same to the bit in any pack: drawn
    together, samples of U-ViTs and narrow MMDiTs differ by 1e-6. On a GPU the whole pack draws at
    once, since one small model leaves a GPU idle, and a part of a compiled pack would be compiled
    anew.
    """
    if pack.device.type == "cpu":
        for m in members:
            yield _draw_together(pack.keep([m]), train, flat[m : m + 1])[0]
    elif members:
        yield from _draw_together(pack, train, flat)[list(members)]


def _draw_together(pack: Pack, train: Split, flat: Tensor) -> Tensor:
    weights = flat.detach().requires_grad_(pack.compiled)

    def predict(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        # Gradients are enabled as in training, since a compiled pack was compiled for that.
        with torch.set_grad_enabled(pack.compiled):
            return pack.predict(x, t, condition, flat=weights).detach()

    with pack.arithmetic():
        return draw_quality_samples(pack.configs[0], train, predict, pack.device, (len(pack),))
