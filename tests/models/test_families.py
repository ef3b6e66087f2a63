"""Every family is the original: names, shapes, counts, forward, masks; and so is every preset."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from hptransfer.config import (
    DigitsConfig,
    DiTConfig,
    DiTModernConfig,
    MMDiTConfig,
    ModelConfig,
    PixArtConfig,
    UViTConfig,
)
from hptransfer.config.choices import AdaLN, Conditioning
from hptransfer.config.compose.compose import compose_file, load_trial, resolved_yaml
from hptransfer.models.families import build_architecture
from hptransfer.models.families.layers import sincos_grid
from tests.support.family_references import (
    dit_modern_reference,
    mmdit_reference,
    pixart_reference,
    uvit_reference,
)


def built(*overrides: str) -> nn.Module:
    """Return a preset's model on the meta device, with overrides."""
    trial = compose_file(None, list(overrides)).trial
    with torch.device("meta"):
        return build_architecture(trial.model, trial.data.layout)


def expanded(compact: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """Write `blocks.0-27.name` out as one name a block."""
    shapes = {}
    for name, shape in compact.items():
        found = re.fullmatch(r"(.+)\.(\d+)-(\d+)\.(.+)", name)
        if found is None:
            shapes[name] = tuple(shape)
            continue
        for i in range(int(found[2]), int(found[3]) + 1):
            shapes[f"{found[1]}.{i}.{found[4]}"] = tuple(shape)
    return shapes


RELEASED = ("dit_xl_2", "dit_b_4", "pixart_xl_2", "uvit_h_2", "uvit_s_2_cifar10", "mmdit_d24")


@pytest.mark.parametrize("preset", RELEASED)
def test_state_dict_is_the_released_models(preset: str) -> None:
    file = Path(__file__).parent / "state_dicts" / f"{preset}.json"
    released = expanded(json.loads(file.read_text()))
    ours = {name: tuple(x.shape) for name, x in built(f"model={preset}").state_dict().items()}
    assert ours == released


# Counts of the released code's own models; DiT's totals include the frozen position table.
DIT_COUNTS = {
    "xl_2": (675_129_632, 674_834_720),
    "xl_4": (675_074_432, 675_000_704),
    "xl_8": (675_683_072, 675_664_640),
    "l_2": (458_102_816, 457_840_672),
    "l_4": (458_053_760, 457_988_224),
    "l_8": (458_594_816, 458_578_432),
    "b_2": (130_512_416, 130_315_808),
    "b_4": (130_475_648, 130_426_496),
    "b_8": (130_881_536, 130_869_248),
    "s_2": (32_963_360, 32_865_056),
    "s_4": (32_945_024, 32_920_448),
    "s_8": (33_148_160, 33_142_016),
    "paper model.width=72": (2_771_312, 2_752_880),
    "paper model.width=144": (10_799_168, 10_762_304),
    "paper": (42_624_608, 42_550_880),
    "paper model.width=360": (66_422_192, 66_330_032),
    "paper model.width=576": (169_354_400, 169_206_944),
    "paper model.width=1152": (675_129_632, 674_834_720),
}
COUNTS = {
    "pixart_0_04b model.width=72": 2_719_976,
    "pixart_0_04b model.width=144": 10_167_728,
    "pixart_0_04b": 39_246_656,
    "pixart_0_04b model.width=576": 154_138_208,
    "pixart_xl_2": 610_856_096,
    "uvit_s_2_cifar10": 44_255_328,
    "uvit_s_4_celeba64": 44_292_228,
    "uvit_m_4_in64": 130_940_292,
    "uvit_l_4_in64": 286_827_652,
    "uvit_l_2": 286_763_172,
    "uvit_h_2": 500_832_016,
    "uvit_l_4_512": 286_861_524,
    "uvit_h_4_512": 500_942_656,
    "uvit_s_2_text": 44_692_644,
    "uvit_s_2_deep_text": 58_345_636,
    "mmdit_d24": 2_028_328_000,
    "mmdit_d8": 76_602_432,
    "mmdit_d38": 8_056_627_520,
    "mmdit_tiny": 8_901_648,
}


@pytest.mark.parametrize(("preset", "counts"), DIT_COUNTS.items())
def test_dit_has_as_many_parameters_as_the_original(preset: str, counts: tuple[int, int]) -> None:
    model = built(*f"model=dit_{preset}".split())
    trainable = sum(p.numel() for p in model.parameters())
    assert (trainable + model.pos_embed.numel(), trainable) == counts  # pyright: ignore


@pytest.mark.parametrize(("preset", "count"), COUNTS.items())
def test_the_others_have_as_many_parameters_as_the_originals(preset: str, count: int) -> None:
    model = built(*f"model={preset}".split())
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("preset", "billions"),
    [("pixart_0_04b", 0.04), ("pixart_xl_2", 0.61), ("mmdit_0_18b", 0.18), ("mmdit_18b", 18)],
)
def test_the_papers_sizes_are_what_it_says(preset: str, billions: float) -> None:
    count = sum(p.numel() for p in built(f"model={preset}").parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.03)


def test_a_preset_chooses_data_and_objective_and_the_command_line_wins(tmp_path: Path) -> None:
    preset = compose_file(None, ["model=dit_s_8"]).trial
    assert (preset.data.name, preset.objective.name) == ("features", "ddpm")
    chosen = compose_file(None, ["data=digits", "model=dit_s_8", "model.width=128"])
    assert (chosen.trial.data.name, chosen.trial.model.width) == ("digits", 128)
    path = tmp_path / "as_run.yaml"
    path.write_text(resolved_yaml(chosen, name="as-run"))
    assert load_trial(path) == chosen.trial


LAYOUT = DigitsConfig().layout
FAMILIES: dict[str, ModelConfig] = {
    "dit": DiTConfig(),
    "dit_modern": DiTModernConfig(),
    "dit_modern block": DiTModernConfig(adaln=AdaLN.block, registers=0, bottleneck=5),
    "uvit": UViTConfig(depth=4),
    "uvit unconditional": UViTConfig(condition=Conditioning.none, final_conv=False),
    "uvit text": UViTConfig(condition=Conditioning.caption),
    "pixart": PixArtConfig(),
    "mmdit": MMDiTConfig(),
    "mmdit qk-norm": MMDiTConfig(qk_norm=True, position_grid=5),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def filled(config: ModelConfig, seed: int = 0) -> nn.Module:
    """Return a model on the digits with every parameter random, none zero."""
    model = build_architecture(config, LAYOUT)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model


def batch_for(config: ModelConfig, size: int = 3) -> tuple[Tensor, ...]:
    """Return random arguments of a model's forward; captions of 5, 6, 7, … tokens."""
    generator = torch.Generator().manual_seed(1)
    x, tokens, pooled = (
        torch.randn(size, *shape, generator=generator) for shape in ((1, 8, 8), (6, 64), (64,))
    )
    t = torch.linspace(17.3, 981.0, size)
    if config.conditioning is not Conditioning.caption:
        return x, t, torch.arange(size)
    return x, t, tokens, torch.arange(6) < 2 + torch.arange(size)[:, None], pooled


REFERENCES: dict[type[ModelConfig], Callable[..., Tensor]] = {
    DiTModernConfig: dit_modern_reference,
    UViTConfig: uvit_reference,
    PixArtConfig: pixart_reference,
    MMDiTConfig: mmdit_reference,
}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "dit"])
def test_the_forward_is_the_papers(family: str) -> None:  # DiT's is in tests/test_models.py
    config = FAMILIES[family]
    model, batch = filled(config), batch_for(config)
    expected = REFERENCES[type(config)](model.state_dict(), *batch)
    torch.testing.assert_close(model(*batch), expected, rtol=1e-5, atol=5e-5)


@every_family
def test_samples_do_not_see_each_other(family: str) -> None:
    model, batch = filled(FAMILIES[family]), batch_for(FAMILIES[family])
    felt = [part.requires_grad_() for part in batch if part.is_floating_point()]
    model(*batch)[1].sum().backward()
    for part in felt:
        if part.grad is not None:  # the pooled features of a family that does not use them
            assert not part.grad[0].any() and not part.grad[2].any()
    assert batch[0].grad is not None and batch[0].grad[1].any()


CONDITIONS = [  # family, argument, whether it reaches the output
    ("dit", 2, True),
    ("dit_modern", 2, True),
    ("dit_modern block", 2, True),
    ("uvit", 2, True),
    ("uvit unconditional", 2, False),
    ("uvit text", 2, True),
    ("uvit text", 4, False),
    ("pixart", 2, True),
    ("pixart", 4, False),
    ("mmdit", 2, True),
    ("mmdit", 3, False),  # padding is attended to
    ("mmdit", 4, True),
    *((family, part, True) for family in FAMILIES for part in (0, 1)),
]


@pytest.mark.parametrize(("family", "part", "reaches"), CONDITIONS)
def test_conditioning_reaches_the_output(family: str, part: int, reaches: bool) -> None:
    model, batch = filled(FAMILIES[family]), list(batch_for(FAMILIES[family]))
    before = model(*batch)
    batch[part] = batch[part].roll(1, dims=0)
    assert torch.equal(model(*batch), before) is not reaches


@every_family
def test_stacked_models_are_the_single_ones(family: str) -> None:
    models, batch = [filled(FAMILIES[family], seed) for seed in (0, 1)], batch_for(FAMILIES[family])
    states = stack_module_state(models)
    both = vmap(lambda state: functional_call(models[0], state, batch))(states)
    for stacked, model in zip(both, models, strict=True):
        torch.testing.assert_close(stacked, model(*batch), rtol=1e-5, atol=2e-5)


def test_padding_changes_nothing_in_pixart() -> None:
    model, (x, t, tokens, mask, pooled) = filled(PixArtConfig()), batch_for(PixArtConfig())
    other = torch.where(mask[..., None], tokens, torch.full_like(tokens, 7.0))
    assert torch.equal(model(x, t, tokens, mask, pooled), model(x, t, other, mask, pooled))
    seen = torch.where(mask[..., None], torch.full_like(tokens, 7.0), tokens)
    assert not torch.allclose(model(x, t, tokens, mask, pooled), model(x, t, seen, mask, pooled))


def test_a_caption_without_tokens_is_pixarts_null_caption() -> None:
    model, (x, t, tokens, mask, pooled) = filled(PixArtConfig()), batch_for(PixArtConfig())
    null = model.y_embedder.y_embedding.expand_as(tokens)  # pyright: ignore
    expected = model(x, t, null, torch.ones_like(mask), pooled)
    got = model(x, t, tokens, torch.zeros_like(mask), pooled)
    assert torch.equal(got, expected) and got.isfinite().all()


def test_uvit_takes_skips_last_in_first_out() -> None:
    config = UViTConfig(depth=6)
    model, put, taken = filled(config), [], []
    for block in model.in_blocks:  # pyright: ignore
        block.register_forward_hook(lambda _m, _i, output: put.append(output))
    for block in model.out_blocks:  # pyright: ignore
        block.register_forward_pre_hook(lambda _m, inputs: taken.append(inputs[1]))
    model(*batch_for(config))
    assert len(put) == 3
    assert all(a is b for a, b in zip(taken, reversed(put), strict=True))


@pytest.mark.parametrize(("side", "first"), [(2, 0), (3, 0), (5, 1), (6, 2)])
def test_mmdit_crops_the_centre_of_its_positions(side: int, first: int) -> None:
    config = MMDiTConfig(position_grid=side)
    model, batch, seen = filled(config), batch_for(config), []
    model.joint_blocks[0].register_forward_pre_hook(  # pyright: ignore
        lambda _m, inputs: seen.append(inputs[1])
    )
    model(*batch)
    middle = slice(first, first + 2)
    table = sincos_grid(side, config.width).view(side, side, -1)[middle, middle].flatten(0, 1)
    torch.testing.assert_close(seen[0], model.x_embedder(batch[0]) + table)  # pyright: ignore


def test_uvit_has_a_null_row_only_where_labels_are_dropped() -> None:
    for dropout, rows in ((0.0, 10), (0.1, 11)):
        model = build_architecture(UViTConfig(label_dropout=dropout), LAYOUT)
        assert model.label_emb.weight.shape == (rows, 24)  # pyright: ignore
