"""What `benchmarks.throughput` trains: shapes, methods, and the trial of a shape."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    DDPMConfig,
    DiTConfig,
    FeaturesConfig,
    TrialConfig,
)
from hptransfer.config.choices import Precision, Schedule, Weights

CHANNELS, PATCH_SIZE, MLP_RATIO = 4, 2, 4
LOG2_LRS = tuple(-14 + step / 4 for step in range(8))  # of a pack's members; all of them stable
EMA_DECAY = 0.9999
STEPS = 10**6  # of a trial's budget: more than any measurement takes

METHODS = ("official", "ours", "official_bf16", "shared_compiled", "shared_eager", "ours_fp32")
PACK_SIZES = (1, 2, 4, 8, 16, 32, 64)
PROCESSES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Shape:
    """A DiT and its batch. Patches are 2x2 of 4 channels, so `tokens` is a square."""

    width: int
    depth: int
    batch: int
    tokens: int
    head_dim: int = 72
    classes: int = 1000

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Width, depth, batch and tokens."""
        return self.width, self.depth, self.batch, self.tokens

    @property
    def image_size(self) -> int:
        """Latent pixels a side."""
        return PATCH_SIZE * math.isqrt(self.tokens)

    @property
    def base_width(self) -> int:
        """The width from which µP scales: the narrowest of a family, or one head."""
        return 72 if self.width % 72 == 0 else self.head_dim

    def __str__(self) -> str:
        return ", ".join(map(str, self.size))

    def fields(self) -> dict[str, Any]:
        """Return the shape for JSON."""
        return asdict(self)


AIMED = (Shape(72, 6, 64, 64), Shape(144, 12, 32, 256), Shape(288, 28, 256, 256))
_CENTRE = (144, 12, 64, 256)
_AXES = ((72, 144, 288, 576), (6, 12, 28), (32, 64, 256), (64, 256))


def _around() -> tuple[Shape, ...]:
    """Vary one axis at a time around the centre."""
    varied = [
        (*_CENTRE[:axis], value, *_CENTRE[axis + 1 :])
        for axis, values in enumerate(_AXES)
        for value in values
    ]
    return tuple(Shape(*size) for size in dict.fromkeys([_CENTRE, *varied]))


DESIGN = tuple(dict.fromkeys([*AIMED, *_around()]))
PRODUCT = tuple(dict.fromkeys([*DESIGN, *(Shape(*size) for size in itertools.product(*_AXES))]))
CPU = tuple(
    Shape(*size, head_dim=8, classes=10)
    for size in ((24, 2, 64, 4), (96, 2, 64, 4), (192, 2, 64, 4), (96, 2, 64, 64))
)
SMALL = (Shape(16, 1, 4, 4, head_dim=8, classes=10),)


def shape_of(text: str) -> Shape:
    """Read width,depth,batch,tokens from the command line."""
    known = {shape.size: shape for shape in (*PRODUCT, *CPU, *SMALL)}
    try:
        width, depth, batch, tokens = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a shape is width,depth,batch,tokens such as 72,6,64,64, but got {text!r}"
        ) from None
    if (
        width % 8
        or min(depth, batch) < 1
        or math.isqrt(max(tokens, 0)) ** 2 != tokens
        or not tokens
    ):
        raise argparse.ArgumentTypeError(
            "a shape needs a width that is a multiple of 8 (of 72 on a GPU), depth and batch of 1 "
            f"or more and a square of tokens, but got {text!r}"
        )
    size = (width, depth, batch, tokens)
    free = Shape(*size) if width % 72 == 0 else Shape(*size, head_dim=8, classes=10)
    return known.get(size, free)


def precision_of(method: str, *, gpu: bool) -> str:
    """Say in which arithmetic a method trains: the best there is, unless its name says which."""
    if method == "official_bf16":
        return "bf16"
    return "bf16" if gpu and method not in ("official", "ours_fp32") else "fp32"


def members(shape: Shape, precision: str, count: int) -> list[TrialConfig]:
    """Return a pack's trials: eight learning rates of one seed, then those of the next."""
    return [
        trial(shape, precision, 2.0 ** LOG2_LRS[i % len(LOG2_LRS)], seed=i // len(LOG2_LRS))
        for i in range(count)
    ]


def trial(shape: Shape, precision: str, lr: float, *, seed: int = 0) -> TrialConfig:
    """Return a trial that does what the released script does: DDPM with learned variance, AdamW
    without decay, a constant rate, EMA.
    """
    return TrialConfig(
        model=DiTConfig(
            width=shape.width,
            base_width=shape.base_width,
            depth=shape.depth,
            head_dim=shape.head_dim,
            patch_size=PATCH_SIZE,
            mlp_ratio=MLP_RATIO,
            learn_sigma=True,
        ),
        objective=DDPMConfig(),
        data=FeaturesConfig(
            channels=CHANNELS, image_size=shape.image_size, classes=shape.classes, held_out=1
        ),
        optimizer=AdamWConfig(lr=lr),
        budget=BudgetConfig(
            steps=STEPS,
            batch_size=shape.batch,
            schedule=Schedule.constant,
            warmup_fraction=0.0,
            weights=Weights.ema,
            ema_fraction=-1 / (math.log(EMA_DECAY) * STEPS),
            eval_samples=1,
            eval_draws=1,
        ),
        precision=Precision(precision),
        seed=seed,
    )


def shapes_of(words: Sequence[Shape] | None, *, gpu: bool, small: bool, full: bool) -> list[Shape]:
    """Return the shapes to measure, those with aims first."""
    if words:
        return list(dict.fromkeys(words))
    if small:
        return list(SMALL)
    if not gpu:
        return list(CPU)
    return list(PRODUCT if full else DESIGN)
