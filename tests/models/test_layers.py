"""Layers along the trial axis equal themselves for one trial after another."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hptransfer.models.families import layers

TRIALS = 3


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) - 0.5


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: layers.Linear(8, 5), uniform(TRIALS, 4, 6, 8)),
    "linear of vectors": (lambda: layers.Linear(8, 5), uniform(TRIALS, 4, 8)),
    "linear without bias": (lambda: layers.Linear(8, 5, bias=False), uniform(TRIALS, 4, 6, 8)),
    "embedding": (lambda: layers.Embedding(7, 5), torch.arange(12).view(TRIALS, 4) % 7),
    "layer norm": (lambda: layers.LayerNorm(8), uniform(TRIALS, 4, 6, 8)),
    "rms norm": (lambda: layers.RMSNorm(8, eps=1e-6), uniform(TRIALS, 4, 2, 6, 8)),
    "convolution": (lambda: layers.Conv2d(3, 2, 3, padding=1), uniform(TRIALS, 4, 3, 6, 6)),
    "patches": (lambda: layers.PatchEmbed(2, 3, 8), uniform(TRIALS, 4, 3, 6, 6)),
    "readout": (lambda: layers.Readout(8, 5), uniform(TRIALS, 4, 6, 8)),
    "attention": (lambda: layers.Attention(8, 4), uniform(TRIALS, 4, 6, 8)),
    "attention of few": (lambda: layers.Attention(8, 4), uniform(TRIALS, 4, 3, 8)),
    "mlp": (lambda: layers.Mlp(8, 16), uniform(TRIALS, 4, 6, 8)),
    "fused attention": (lambda: layers.Attention(8, 4), uniform(TRIALS, 2, 70, 8)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("trials", [1, TRIALS])
def test_a_layer_takes_its_parameters_with_a_trial_axis(name: str, trials: int) -> None:
    make, x = CASES[name]
    x, layer = x[:trials], make()
    tensors = {
        key: uniform(trials, *value.shape).requires_grad_()
        for key, value in (*layer.named_parameters(), *layer.named_buffers())
    }
    together = functional_call(layer, tensors, (x,))
    apart = [
        functional_call(layer, {key: value[t] for key, value in tensors.items()}, (x[t],))
        for t in range(trials)
    ]
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-5, atol=1e-6)
    weights = uniform(*together.shape)
    leaves = list(tensors.values())
    for mine, theirs in zip(
        torch.autograd.grad((together * weights).sum(), leaves),
        torch.autograd.grad((torch.stack(apart) * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trials", [0, 1, TRIALS])
def test_a_convolution_is_float32_under_bf16(trials: int) -> None:
    layer, x = layers.Conv2d(3, 2, 3, padding=1), uniform(TRIALS, 4, 3, 6, 6)
    x = x[:trials] if trials else x[0]
    stacked = {
        name: uniform(*x.shape[: x.ndim - 4], *value.shape)
        for name, value in layer.named_parameters()
    }
    with torch.autocast("cpu", torch.bfloat16):
        convolved = functional_call(layer, stacked, (x.bfloat16(),))
    assert torch.equal(convolved, functional_call(layer, stacked, (x.bfloat16().float(),)))


@pytest.mark.parametrize("gated", [True, False])
def test_a_residual_takes_a_multiplier_per_trial(gated: bool) -> None:
    x, branch = uniform(TRIALS, 4, 6, 8), uniform(TRIALS, 4, 6, 9)[..., 1:]
    gate = [uniform(TRIALS, 4, 8)] if gated else []
    multiplier = torch.tensor([1.0, 0.5, 3.0])
    layer = layers.Residual()
    together = functional_call(layer, {"multiplier": multiplier}, (x, branch, *gate))
    for t in range(TRIALS):
        alone = (x[t], branch[t], *(g[t] for g in gate))
        apart = functional_call(layer, {"multiplier": multiplier[t]}, alone)
        torch.testing.assert_close(together[t], apart)
        gates = gate[0][t].unsqueeze(-2) if gated else 1.0
        torch.testing.assert_close(apart, x[t] + multiplier[t] * gates * branch[t])


@pytest.mark.parametrize("lead", [(3,), (2, 3)])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("keys", [5, layers.FUSED_TOKENS, 80])
def test_attention_is_softmax_attention(lead: tuple[int, ...], masked: bool, keys: int) -> None:
    q, k, v = uniform(*lead, 2, 7, 4), uniform(*lead, 2, keys, 4), uniform(*lead, 2, keys, 4) + 1
    mask = (torch.arange(keys) < 4).expand(*lead, keys) if masked else None
    seen = slice(0, 4) if masked else slice(None)
    scores = torch.einsum("...qd,...kd->...qk", 30 * q, k[..., seen, :]) / math.sqrt(4)
    expected = torch.einsum("...qk,...kd->...qd", scores.softmax(-1), v[..., seen, :])
    torch.testing.assert_close(layers.attention(30 * q, k, v, mask), expected)


def test_few_tokens_attend_as_many_do() -> None:
    qkv, ways = uniform(2, 4, layers.FEW_TOKENS, 24).requires_grad_(), []
    heads = layers.split_heads(qkv, 3, 4)
    for mixed in (layers.self_attention(qkv, 4), layers.join_heads(layers.attention(*heads))):
        (grad,) = torch.autograd.grad(mixed.square().sum(), qkv, retain_graph=True)
        ways.append((mixed, grad))
    (few, few_grad), (many, many_grad) = ways
    torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(few_grad, many_grad, rtol=1e-5, atol=1e-6)


def test_gelu_is_torchs() -> None:
    x = torch.linspace(-12, 12, 4001, requires_grad=True)
    for approximate in ("tanh", "none"):
        ours, theirs = layers.gelu(x, approximate), nn.functional.gelu(x, approximate=approximate)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        slopes = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=2e-6)
