"""The quality of samples of every member of a pack."""

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
    """What was measured of a pack's samples, by where its members stood at the start."""

    qualities: Mapping[int, Quality | None] = field(default_factory=dict)
    seconds: float = 0.0


def measure_pack_quality(outcome: PackOutcome, known: RealSamples) -> PackQuality:
    """Draw and judge samples of the members that completed."""
    began = time.perf_counter()
    sound = [
        place
        for place, member in enumerate(outcome.members)
        if outcome.diverged_at[member] < 0 and outcome.stopped_at[member] < 0
    ]
    config = outcome.pack.configs[0]
    drawn = draw_pack_samples(outcome.pack, known.train, outcome.weights, sound)
    qualities = {
        outcome.members[place]: sample_quality(config, known, images)
        for place, images in zip(sound, drawn, strict=True)
    }
    return PackQuality(qualities, time.perf_counter() - began)


def draw_pack_samples(
    pack: Pack, train: Split, flat: Tensor, members: Sequence[int]
) -> Iterator[Tensor]:
    """Yield samples (n, C, H, W) of some members of a pack with weights `flat` (T, P).

    On a CPU each draws alone, to the bit what it draws from these weights in any other pack: drawn
    together, U-ViTs and narrow MMDiTs differ by 1e-6. On a GPU the whole pack draws at once, since
    one small model would leave it idle, and a part of a compiled pack had to be compiled anew.
    """
    if pack.device.type == "cpu":
        for m in members:
            yield _together(pack.keep([m]), train, flat[m : m + 1])[0]
    elif members:
        yield from _together(pack, train, flat)[list(members)]


def _together(pack: Pack, train: Split, flat: Tensor) -> Tensor:
    weights = flat.detach().requires_grad_(pack.compiled)

    def predict(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        # Under training's rules of differentiation, for which a compiled pack was compiled.
        with torch.set_grad_enabled(pack.compiled):
            return pack.predict(x, t, condition, flat=weights).detach()

    with pack.arithmetic():
        return draw_quality_samples(pack.configs[0], train, predict, pack.device, (len(pack),))
