"""Weights: ours round trip, published files load, foreign ones are refused in one sentence."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hptransfer.config import (
    DiTConfig,
    DiTModernConfig,
    ModelConfig,
    ParametrizationConfig,
    PixArtConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import Init, Scaling
from hptransfer.config.identity import canonical_json, with_scaling, with_width
from hptransfer.errors import UserError
from hptransfer.models.parametrization.rules import build_model
from hptransfer.models.weights import load_weights, save_weights
from hptransfer.training.packs.run import run_pack, train_trial
from hptransfer.training.sampling.generate import generate, lay_out_samples
from hptransfer.training.sampling.samplers import Sampler, SamplerConfig
from tests.support.custom_models import Net, trial

BASE = dataclasses.replace(TrialConfig(), init=Init.paper)
WIDE = with_width(BASE, 48)


def state_of(config: TrialConfig, seed: int = 7) -> dict[str, torch.Tensor]:
    return build_model(dataclasses.replace(config, seed=seed)).state_dict()


def same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[n], state[n]) for n in state)


def test_ours_round_trip_with_the_readout_factor(tmp_path: Path) -> None:
    path = tmp_path / "weights" / "w.safetensors"
    save_weights(path, WIDE, state_of(WIDE))
    model = load_weights(WIDE, path)
    assert same(model, state_of(WIDE))
    assert float(model.get_buffer("final_layer.linear.multiplier")) == 0.5
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata() == {
            "base_width": "24",
            "multipliers": '{"final_layer.linear.multiplier": 0.5}',
            "parametrization": "mup",
            "trial": canonical_json(WIDE),
        }
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]  # nothing partial is left


def test_trained_weights_give_the_recorded_loss(
    tiny_trial: Callable[..., TrialConfig], runtime: RuntimeConfig, tmp_path: Path
) -> None:
    config = tiny_trial()
    result, weights = train_trial(config, runtime)
    (by_pack,) = run_pack([config], runtime)
    assert result.loss == by_pack.loss
    untrained = build_model(config).state_dict()
    assert any(not torch.equal(value, untrained[name]) for name, value in weights.items())
    save_weights(tmp_path / "w.safetensors", config, weights)
    loaded = load_weights(config, tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state_of(BASE, 1), "ema": state, "opt": {}, "args": 3},
        lambda state: {"state_dict": state_of(BASE, 1), "state_dict_ema": state},
        lambda state: {"state_dict": {f"module.{n}": v for n, v in state.items()}},
        lambda state: {f"ema_model.{n}": v for n, v in state.items()},
        lambda state: {f"model.{n}": v for n, v in state.items()},
        lambda state: {f"module._orig_mod.{n}": v for n, v in state.items()},
        lambda state: {n: v for n, v in state.items() if n != "pos_embed"},
        lambda state: {
            **{f"model.diffusion_model.{n}": v for n, v in state.items()},
            "first_stage_model.x": torch.ones(2),
        },
    ],
)
def test_published_layouts_load(tmp_path: Path, wrap: Callable) -> None:
    torch.save(wrap(state_of(BASE)), tmp_path / "w.pt")
    assert same(load_weights(BASE, tmp_path / "w.pt"), state_of(BASE))


def test_a_file_states_the_parametrization(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", with_scaling(WIDE, Scaling.standard), state_of(WIDE))
    with safe_open(str(tmp_path / "w.safetensors"), framework="pt") as file:
        assert file.metadata()["parametrization"] == "standard"


def test_a_table_in_the_file_is_used(tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, model=PixArtConfig())
    state = {name: value + 1 for name, value in state_of(config).items()}
    torch.save(state, tmp_path / "w.pt")
    assert same(load_weights(config, tmp_path / "w.pt"), state)


def test_weights_in_any_memory_layout_are_kept(tmp_path: Path) -> None:
    state = {n: v.mT.contiguous().mT if v.ndim == 2 else v for n, v in state_of(BASE).items()}
    save_weights(tmp_path / "w.safetensors", BASE, state)
    assert same(load_weights(BASE, tmp_path / "w.safetensors"), state)


def test_an_interrupted_write_leaves_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, BASE, state_of(BASE))

    def interrupted(_tensors: object, name: str, _metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("hptransfer.models.weights.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, BASE, state_of(BASE, 1))
    assert same(load_weights(BASE, path), state_of(BASE))


class Nested(torch.nn.Module):
    """A model whose own names start like a wrapper's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = Net(width)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(*inputs)


def test_a_models_own_names_are_no_wrappers(tmp_path: Path) -> None:
    config = trial(f"{__name__}:Nested", width=8)
    torch.save(state_of(config), tmp_path / "w.pt")
    assert same(load_weights(config, tmp_path / "w.pt"), state_of(config))


def complaint(config: TrialConfig, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(config, path)
    return str(caught.value)


def test_a_mup_checkpoint_needs_its_base_width(tmp_path: Path) -> None:
    save_file(state_of(WIDE), tmp_path / "w.safetensors")
    sentence = complaint(WIDE, tmp_path / "w.safetensors")
    assert (
        "does not give its base_width in its metadata. The config says 24 at width 48" in sentence
    )
    standard = dataclasses.replace(
        WIDE, parametrization=ParametrizationConfig(scaling=Scaling.standard)
    )
    assert same(load_weights(standard, tmp_path / "w.safetensors"), state_of(WIDE))
    torch.save({"base_width": 24, "model": state_of(WIDE)}, tmp_path / "w.pt")
    assert same(load_weights(WIDE, tmp_path / "w.pt"), state_of(WIDE))
    other = dataclasses.replace(WIDE, model=DiTConfig(width=48, base_width=16))
    assert complaint(other, tmp_path / "w.pt").endswith("Set model.base_width=24.")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (DiTConfig(depth=1), "10 not the model's (blocks.1.attn.qkv.weight"),
        (DiTConfig(depth=3), "10 missing (blocks.2.attn.qkv.weight"),
        (DiTConfig(width=48, base_width=48), "of another shape (pos_embed [1, 4, 24] for"),
        (PixArtConfig(), "missing (t_block.1.weight"),
    ],
)
def test_weights_of_another_model_are_one_sentence(
    tmp_path: Path, model: ModelConfig, expected: str
) -> None:
    torch.save(state_of(BASE), tmp_path / "w.pt")
    sentence = complaint(dataclasses.replace(BASE, model=model), tmp_path / "w.pt")
    assert expected in sentence and sentence.endswith(
        "Choose the model= that they were trained as."
    )


def test_names_that_are_missing_are_listed_up_to_three(tmp_path: Path) -> None:
    state = state_of(BASE)
    names = [name for name, _ in build_model(BASE).named_parameters()][:4]
    for count, end in ((3, f"({', '.join(names[:3])})"), (4, f"({', '.join(names[:3])}, ...)")):
        kept = {name: value for name, value in state.items() if name not in names[:count]}
        torch.save(kept, tmp_path / "w.pt")
        assert f"{count} missing {end}." in complaint(BASE, tmp_path / "w.pt")


def test_a_depth_scaled_checkpoint_needs_its_base_width_too(tmp_path: Path) -> None:
    deep = dataclasses.replace(BASE, model=DiTConfig(depth=4, base_depth=2))
    torch.save(state_of(deep), tmp_path / "w.pt")
    assert "does not give its base_width" in complaint(deep, tmp_path / "w.pt")


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("w.safetensors", b"nonsense", "must be a file of weights"),
        ("w.pt", b"nonsense", "w.pt"),
        ("w.pt", b"", "must be a file of weights"),
        ("w.pt", pickle.dumps({"model": Evil()}, protocol=2), "must hold tensors only"),
    ],
    ids=["safetensors", "torch", "empty", "pickle"],
)
def test_unreadable_files_are_one_sentence(
    tmp_path: Path, name: str, content: bytes, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in complaint(BASE, tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_no_file_and_no_state_dict(tmp_path: Path) -> None:
    assert "There are no weights at" in complaint(BASE, tmp_path / "w.pt")
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    assert "must be a state dict, or hold one under" in complaint(BASE, tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    assert "it is a list" in complaint(BASE, tmp_path / "w.pt")


@pytest.mark.parametrize("model", [DiTConfig(), DiTModernConfig(), PixArtConfig()])
def test_samples_have_a_row_per_class_and_are_repeatable(
    tmp_path: Path, runtime: RuntimeConfig, model: ModelConfig
) -> None:
    config = dataclasses.replace(BASE, model=model)
    state = state_of(config)
    torch.nn.init.normal_(state["final_layer.linear.weight"], std=0.1)
    save_weights(tmp_path / "w.safetensors", config, state)
    sampler = SamplerConfig(Sampler.dpm_solver, steps=3, guidance=2.0)
    drawn = generate(config, tmp_path / "w.safetensors", sampler, runtime, columns=2)
    assert drawn.shape == (10, 2, 1, 8, 8) and np.isfinite(drawn).all()
    assert not np.allclose(drawn[0], drawn[1]) and not np.allclose(drawn[0, 0], drawn[0, 1])
    again = generate(config, tmp_path / "w.safetensors", sampler, runtime, columns=2)
    assert np.array_equal(drawn, again)


def test_a_page_holds_every_image_in_its_place() -> None:
    samples = np.full((2, 3, 1, 8, 8), -1.0)
    samples[1, 2] = 1.0
    page = lay_out_samples(samples)
    assert page.shape == ((2 * 9 - 1) * 8, (3 * 9 - 1) * 8, 3)
    assert page[:64, :64].max() == 0.0 and page[72:, 144:].min() == 1.0
    assert page[64:72].min() == 1.0  # the gap is white


@pytest.mark.parametrize(
    "parametrization",
    [ParametrizationConfig(scaling=Scaling.standard), ParametrizationConfig(output_scale=2.0)],
)
def test_weights_are_used_as_they_were_scaled(
    tmp_path: Path, parametrization: ParametrizationConfig
) -> None:
    save_weights(tmp_path / "w.safetensors", WIDE, state_of(WIDE))
    other = dataclasses.replace(WIDE, parametrization=parametrization)
    sentence = complaint(other, tmp_path / "w.safetensors")
    assert '{"final_layer.linear.multiplier": 0.5} (parametrization=mup)' in sentence
