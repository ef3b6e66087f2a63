"""Initialisers of single parameters: a distribution, and its std for a given shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Distribution(Enum):
    """The distributions that the families' initialisations use."""

    zero = "zero"
    one = "one"  # the gain of a norm
    normal = "normal"  # N(0, std²)
    fan_in_normal = "fan_in_normal"  # N(0, 1/fan_in)
    uniform = "uniform"  # of the given std
    fan_in_uniform = "fan_in_uniform"  # uniform with variance 1/(3·fan_in): torch's own
    xavier_uniform = "xavier_uniform"  # uniform with variance 2/(fan_in + fan_out)


@dataclass(frozen=True)
class Initializer:
    """A distribution, with its std where the shape does not give it."""

    distribution: Distribution
    given_std: float = 0.0  # std of `normal` and `uniform`; the shape gives the others'

    def std(self, shape: Sequence[int]) -> float:
        """Return the std for a weight of `shape` (fan_out, fan_in, *kernel).

        The kernel counts into the fan-in, as in a patch embedding.
        """
        match self.distribution:
            case Distribution.zero | Distribution.one:
                return 0.0
            case Distribution.normal | Distribution.uniform:
                return self.given_std
            case Distribution.fan_in_normal:
                return math.prod(shape[1:]) ** -0.5
            case Distribution.fan_in_uniform:
                return (3 * math.prod(shape[1:])) ** -0.5
            case Distribution.xavier_uniform:
                return math.sqrt(2.0 / (shape[0] + math.prod(shape[1:])))

    def draw(self, shape: Sequence[int], std: float, generator: torch.Generator) -> Tensor:
        """Return a float32 tensor of `shape`, drawn from this distribution with the given std."""
        match self.distribution:
            case Distribution.zero:
                return torch.zeros(tuple(shape))
            case Distribution.one:
                return torch.ones(tuple(shape))
            case Distribution.normal | Distribution.fan_in_normal:
                return torch.randn(tuple(shape), generator=generator) * std
            case Distribution.uniform | Distribution.fan_in_uniform | Distribution.xavier_uniform:
                uniform = torch.rand(tuple(shape), generator=generator)
                return (2 * uniform - 1) * (math.sqrt(3.0) * std)


ZERO = Initializer(Distribution.zero)
ONE = Initializer(Distribution.one)
FAN_IN = Initializer(Distribution.fan_in_normal)
FAN_IN_UNIFORM = Initializer(Distribution.fan_in_uniform)
XAVIER = Initializer(Distribution.xavier_uniform)


def normal(std: float) -> Initializer:
    """Return the initialiser N(0, std²)."""
    return Initializer(Distribution.normal, std)
