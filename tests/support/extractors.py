"""Extractors and a decoder of a user's own for the tests, sound ones and faulty ones."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

FEATURES = 12
CALLS: list[int] = []  # images in each call of `features`


@cache
def network(channels: int) -> nn.Module:
    """Return a small convolutional network with fixed random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        layers = nn.Conv2d(channels, FEATURES, 3, stride=2), nn.BatchNorm2d(FEATURES), nn.GELU()
        return nn.Sequential(*layers).requires_grad_(False).eval()


def features(images: Tensor) -> Tensor:
    CALLS.append(len(images))
    return network(images.shape[1]).to(images.device)(images).mean((-2, -1))


def decode(latents: Tensor) -> Tensor:
    """Return images (B, 3, 2h, 2w) of latents of 3 channels or more, some values beyond [-1, 1]."""
    return 1.5 * torch.tanh(latents[:, :3]).repeat_interleave(2, -1).repeat_interleave(2, -2)


def in_training_mode(images: Tensor) -> Tensor:
    return nn.functional.batch_norm(images, None, None, training=True).mean((-2, -1))


def too_few_rows(images: Tensor) -> Tensor:
    return features(images)[:-1] if len(images) > 1 else features(images)[:0]


def maps(images: Tensor) -> Tensor:
    return network(images.shape[1])(images)


def endless(images: Tensor) -> Tensor:
    return features(images) / 0


def broken(images: Tensor) -> Tensor:
    raise RuntimeError(f"no weights for {images.shape[1]} channels")


def hundred_and_fifty(images: Tensor) -> Tensor:
    return features(images).repeat(1, 13)[:, :150]


def first_channels(latents: Tensor) -> Tensor:
    return latents[:, :3]


def flat_images(latents: Tensor) -> Tensor:
    return latents.flatten(1)


def endless_images(latents: Tensor) -> Tensor:
    return decode(latents) / 0
