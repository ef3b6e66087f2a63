"""What is drawn of a model and how a page shows it: conditions, noise, orientation, colours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hptransfer.config import DiTConfig, MMDiTConfig, ModelConfig, RuntimeConfig, TrialConfig
from hptransfer.data import load_data
from hptransfer.models.parametrization.rules import build_model
from hptransfer.models.weights import load_weights, save_weights
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.sampling import generate as module
from hptransfer.training.sampling.generate import lay_out_samples
from hptransfer.training.sampling.samplers import SamplerConfig


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that gives what a model's samples are drawn from."""

    def ask(model: ModelConfig, **words: Any) -> dict[str, Any]:
        config = TrialConfig(model=model)
        seen: dict[str, Any] = {}

        def load(*asked: Any) -> nn.Module:
            seen["model"] = load_weights(*asked)
            return seen["model"]

        def sample(
            _objective: Any, _net: Any, noise: Tensor, condition: Any, null: Any, _sampler: Any
        ) -> Tensor:
            trains = seen["model"].training
            seen.update(training=trains, noise=noise, condition=condition, null=null)
            return noise

        monkeypatch.setattr(module, "load_weights", load)

        monkeypatch.setattr(module, "sample", sample)
        path = tmp_path / "w.safetensors"
        save_weights(path, config, build_model(config).state_dict())
        module.generate(config, path, SamplerConfig(), RuntimeConfig(), **words)
        return seen

    return ask


def test_a_row_is_one_class_of_the_held_out_samples_and_has_noise_of_its_own(asked) -> None:
    seen = asked(DiTConfig(), columns=2, seed=3)
    (labels,), (null,) = seen["condition"], seen["null"]
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert null.tolist() == [10] * 20
    for row in range(10):
        noise = torch.randn(2, 1, 8, 8, generator=torch_generator(3, "sample", row))
        assert torch.equal(seen["noise"][2 * row : 2 * row + 2], noise)
    assert not seen["training"]


def test_a_row_is_one_held_out_caption_beside_the_empty_one(asked) -> None:
    split = load_data(TrialConfig().data, None).validation
    labels = split.labels_at(np.arange(len(split))).tolist()
    first = np.repeat([labels.index(label) for label in range(10)], 2)
    seen = asked(MMDiTConfig(), columns=2)
    for part, expected in zip(seen["condition"], split.captions_at(first), strict=True):
        assert torch.equal(part, expected)
    assert not any(part.any() for part in seen["null"])


def test_rows_are_held_out_and_ten_at_most(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_data(TrialConfig().data, None)
    held_out = dataclasses.replace(digits.validation, labels=torch.arange(360) % 12 + 1)  # pyright: ignore
    monkeypatch.setattr(module, "load_data", lambda *_: digits._replace(validation=held_out))
    (labels,) = asked(DiTConfig(), columns=1)["condition"]
    assert labels.tolist() == list(range(1, 11))


def test_a_page_shows_rows_downwards_columns_across_and_what_lies_outside_cut_off() -> None:
    samples = np.zeros((1, 1, 1, 64, 64))
    samples[0, 0, 0, 3, 5], samples[0, 0, 0, 7, 0] = 9.0, -9.0
    page = lay_out_samples(samples)
    assert page.shape == (64, 64, 3)
    assert page[3, 5].tolist() == [1.0] * 3 and page[7, 0].tolist() == [0.0] * 3
    assert page[5, 3].tolist() == [0.5] * 3


def test_a_page_of_colours_keeps_the_channels() -> None:
    samples = np.broadcast_to(np.array([1.0, 0.0, -1.0])[:, None, None], (1, 1, 3, 24, 24))
    page = lay_out_samples(samples)
    assert page.shape == (72, 72, 3)  # enlarged threefold, to 64 pixels or more
    assert page[10, 10].tolist() == [1.0, 0.5, 0.0]
