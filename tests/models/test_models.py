"""DiT's parameters are the original's, and its forward does what the paper says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hptransfer.config import DigitsConfig, DiTConfig, Layout, TrialConfig
from hptransfer.config.choices import Init
from hptransfer.models.families import build_architecture
from hptransfer.models.families.layers import PatchEmbed, TimestepEmbedder, Unpatchify, sincos_grid
from hptransfer.models.parametrization.rules import build_model

LATENTS = Layout(channels=4, image_size=32, classes=1000)  # what the released models take


def trainable(depth: int, d: int, p: int, c: int, k: int, outputs: int) -> int:
    """Return DiT's trainable parameters in closed form, `outputs` channels a pixel."""
    block = depth * (18 * d * d + 15 * d)
    embedders = (p * p * c * d + d) + (256 * d + d + d * d + d) + (k + 1) * d
    return block + embedders + (2 * d * d + 2 * d) + (p * p * outputs * (d + 1))


@pytest.mark.parametrize(
    ("width", "depth", "head_dim", "patch", "with_sigma"),
    [
        (1152, 28, 72, 2, 674_834_720),
        (768, 12, 64, 4, 130_426_496),
        (384, 12, 64, 8, 33_142_016),
        (288, 28, 72, 2, 42_550_880),
    ],
)
def test_parameter_counts_are_the_originals(
    width: int, depth: int, head_dim: int, patch: int, with_sigma: int
) -> None:
    assert trainable(depth, width, patch, 4, 1000, 8) == with_sigma
    config = DiTConfig(
        width=width, base_width=head_dim * 4, depth=depth, head_dim=head_dim, patch_size=patch
    )
    with torch.device("meta"):
        model = build_architecture(config, LATENTS)
    count = sum(p.numel() for p in model.parameters())
    assert count == trainable(depth, width, patch, 4, 1000, 4)  # no learned sigma: 4, not 8
    assert model.pos_embed.shape == (1, (32 // patch) ** 2, width)  # pyright: ignore


def test_state_dict_has_the_original_names() -> None:
    model = build_architecture(DiTConfig(depth=1), DigitsConfig().layout)
    block = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    modules = [
        "x_embedder.proj",
        "t_embedder.mlp.0",
        "t_embedder.mlp.2",
        *(f"blocks.0.{name}" for name in block),
        "final_layer.linear",
        "final_layer.adaLN_modulation.1",
    ]
    expected = {f"{module}.{part}" for module in modules for part in ("weight", "bias")}
    expected |= {"pos_embed", "y_embedder.embedding_table.weight"}
    assert set(model.state_dict()) == expected


def test_positions_are_the_original_sincos_table() -> None:
    table = sincos_grid(3, 8)[0].numpy()
    frequencies = 1 / 10000 ** (np.arange(2) / 2)
    for row in range(3):
        for column in range(3):
            across, down = column * frequencies, row * frequencies
            expected = [*np.sin(across), *np.cos(across), *np.sin(down), *np.cos(down)]
            np.testing.assert_allclose(table[3 * row + column], expected, atol=1e-6)


def test_patches_are_embedded_as_by_a_convolution() -> None:
    embed = PatchEmbed(4, 3, 16)
    x = torch.randn(2, 3, 8, 12)
    by_convolution = embed.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(x), by_convolution, rtol=1e-5, atol=1e-5)


def test_unpatchify_puts_every_value_in_its_place() -> None:
    rows, columns, p, channels = 2, 2, 4, 3
    tokens = torch.arange(rows * columns * p * p * channels, dtype=torch.float32)
    tokens = tokens.view(1, rows * columns, p * p * channels)
    image = Unpatchify(p, channels)(tokens)[0]
    assert image.shape == (channels, 8, 8)
    for r, c, channel in ((0, 0, 0), (5, 2, 1), (7, 7, 2)):
        token, place = (r // p) * columns + c // p, ((r % p) * p + c % p) * channels + channel
        assert image[channel, r, c] == tokens[0, token, place]


def test_timesteps_are_embedded_cosines_first() -> None:
    embedder = TimestepEmbedder(8)
    seen = []
    embedder.mlp[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    embedder(torch.tensor([0.0, 250.0]))
    assert seen[0].shape == (2, 256)
    assert torch.equal(seen[0][0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert float(seen[0][1, 0]) == pytest.approx(np.cos(250.0), abs=1e-6)


def random_model() -> torch.nn.Module:
    model = build_model(dataclasses.replace(TrialConfig(), init=Init.paper))
    torch.nn.init.normal_(model.final_layer.linear.weight)  # pyright: ignore
    return model


def test_samples_do_not_see_each_other() -> None:
    x = torch.randn(3, 1, 8, 8, requires_grad=True)
    random_model()(x, torch.full((3,), 10.0), torch.arange(3))[1].sum().backward()
    assert x.grad is not None
    assert x.grad[1].abs().sum() > 0
    assert not x.grad[0].any() and not x.grad[2].any()


@pytest.mark.parametrize("changed", ["t", "y"])
def test_conditioning_reaches_the_output(changed: str) -> None:
    model = random_model()
    x, t, y = torch.randn(1, 1, 8, 8), torch.tensor([10.0]), torch.tensor([3])
    other = model(x, t + 500 if changed == "t" else t, y + 1 if changed == "y" else y)
    assert not torch.allclose(model(x, t, y), other)


@pytest.mark.parametrize("init", list(Init))
def test_every_init_predicts_zero_before_training(init: Init) -> None:
    model = build_model(dataclasses.replace(TrialConfig(), init=init))
    x = torch.randn(2, 1, 8, 8)
    assert not model(x, torch.tensor([1.0, 900.0]), torch.tensor([0, 10])).any()


def reference_forward(
    w: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """DiT as released (facebookresearch/DiT, models.py), written anew: patch 4, heads of 8."""

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, w[f"{name}.weight"], w[f"{name}.bias"])

    def modulated(value: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(value, value.shape[-1:], eps=1e-6)
        return normed * (1 + scale[:, None]) + shift[:, None]

    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=4)
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    angle = t.double()[:, None] * frequencies
    c = linear("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], dim=-1).float())
    c = linear("t_embedder.mlp.2", F.silu(c)) + w["y_embedder.embedding_table.weight"][y]
    for block in ("blocks.0", "blocks.1"):
        parts = linear(f"{block}.adaLN_modulation.1", F.silu(c)).chunk(6, dim=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        b, n, d = h.shape
        qkv = linear(f"{block}.attn.qkv", modulated(h, shift_a, scale_a))
        q, k, v = qkv.reshape(b, n, 3, d // 8, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        h = h + gate_a[:, None] * linear(f"{block}.attn.proj", mixed)
        inner = linear(f"{block}.mlp.fc1", modulated(h, shift_m, scale_m))
        inner = F.gelu(inner, approximate="tanh")
        h = h + gate_m[:, None] * linear(f"{block}.mlp.fc2", inner)
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, dim=1)
    out = linear("final_layer.linear", modulated(h, shift, scale))
    out = out.reshape(len(x), 2, 2, 4, 4, 1)  # rows, columns, p, p, channels
    return torch.einsum("nhwpqc->nchpwq", out).reshape(len(x), 1, 8, 8)


def test_the_forward_is_the_released_models() -> None:
    model = build_model(TrialConfig())  # readout multiplier 1 at base width
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
        x = torch.randn(3, 1, 8, 8, generator=generator)
        t, y = torch.tensor([0.0, 17.3, 981.0]), torch.tensor([0, 7, 10])
        expected = reference_forward(model.state_dict(), x, t, y)
        torch.testing.assert_close(model(x, t, y), expected, rtol=1e-5, atol=2e-5)
