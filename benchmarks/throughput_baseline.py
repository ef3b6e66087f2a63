"""One trial the way the released DiT script trains it, written anew without hptransfer's layers.

The model has the released one's layers, names and shapes (arXiv 2212.09748); its attention is
torch's fused one, as in the `timm` that the script uses. A step: noise and timesteps drawn on the
device, labels dropped, the hybrid loss with a learned variance (arXiv 2102.09672) with the
schedule's tables moved to the device where they are used and the data's likelihood computed for
every sample, AdamW without decay, an EMA by a loop over the parameters, `loss.item()`. Float32
parameters with TF32 products, or the same under bfloat16 autocast. Latents lie on the device from
the start: VAE, reading and copying are left out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.throughput_shapes import CHANNELS, EMA_DECAY, MLP_RATIO, PATCH_SIZE, Shape

TIMESTEPS, LABEL_DROPOUT, LR = 1000, 0.1, 1e-4


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply adaptive shift and scale (B, d) to tokens (B, N, d)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Attention(nn.Module):
    """Multi-head self-attention by torch's fused kernel."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, width // self.head_dim, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn, self.mlp = Attention(width, head_dim), Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class PlainDiT(nn.Module):
    """Predict noise and variance for latents x (B, C, H, W), timesteps t (B,), labels y (B,)."""

    pos_embed: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, self.outputs = shape.width, 2 * CHANNELS
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(CHANNELS, d, PATCH_SIZE, stride=PATCH_SIZE)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(shape.classes + 1, d)
        self.register_buffer("pos_embed", torch.zeros(1, shape.tokens, d))
        self.blocks = nn.ModuleList(Block(d, shape.head_dim) for _ in range(shape.depth))
        self.final_layer = nn.Module()
        self.final_layer.norm_final = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.final_layer.linear = nn.Linear(d, PATCH_SIZE**2 * self.outputs)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder.get_submodule("proj")(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder.get_submodule("mlp")(waves(t))
        c = c + self.y_embedder.get_submodule("embedding_table")(y)
        for block in self.blocks:
            x = block(x, c)
        last = self.final_layer
        shift, scale = last.get_submodule("adaLN_modulation")(c).chunk(2, dim=1)
        x = modulate(last.get_submodule("norm_final")(x), shift, scale)
        return self.image(last.get_submodule("linear")(x))

    def image(self, x: Tensor) -> Tensor:
        """Put tokens (B, N, p·p·C) back into an image (B, C, H, W)."""
        side, p = math.isqrt(x.shape[1]), PATCH_SIZE
        x = x.reshape(len(x), side, side, p, p, self.outputs).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(x), self.outputs, side * p, side * p)


def waves(t: Tensor) -> Tensor:
    """Cosines, then sines of timesteps (B,): (B, 256)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32) / 128)
    angle = t[:, None].float() * frequencies.to(t.device)[None]
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Diffusion:
    """The linear schedule's tables, kept on the CPU in float64 and moved where they are used."""

    def __init__(self) -> None:
        self.beta = np.linspace(1e-4, 2e-2, TIMESTEPS)
        self.signal = np.cumprod(1 - self.beta)
        before = np.append(1.0, self.signal[:-1])
        variance = self.beta * (1 - before) / (1 - self.signal)
        self.log_variance = np.log(np.append(variance[1], variance[1:]))
        self.from_clean = self.beta * np.sqrt(before) / (1 - self.signal)
        self.from_noised = (1 - before) * np.sqrt(1 - self.beta) / (1 - self.signal)

    def loss(
        self, model: Callable[..., Tensor], clean: Tensor, t: Tensor, noise: Tensor, y: Tensor
    ) -> Tensor:
        """Return each sample's squared error of the noise plus its term of the bound: (B,)."""
        x = at(np.sqrt(self.signal), t) * clean + at(np.sqrt(1 - self.signal), t) * noise
        predicted, fraction = model(x, t, y).chunk(2, dim=1)
        bound = self.bound(clean, x, t, predicted.detach(), fraction)
        return (noise - predicted).square().mean((1, 2, 3)) + bound

    def bound(self, clean: Tensor, x: Tensor, t: Tensor, noise: Tensor, fraction: Tensor) -> Tensor:
        """Return each sample's term of the variational bound in bits per dimension: (B,)."""
        true = self.posterior(clean, x, t)
        low, high = at(self.log_variance, t), at(np.log(self.beta), t)
        share = (fraction + 1) / 2
        log_variance = share * high + (1 - share) * low
        denoised = at(np.sqrt(1 / self.signal), t) * x - at(np.sqrt(1 / self.signal - 1), t) * noise
        mean = self.posterior(denoised, x, t)
        kl = 0.5 * (log_variance - low - 1 + torch.exp(low - log_variance))
        kl = kl + 0.5 * (true - mean).square() * torch.exp(-log_variance)
        first = likelihood(clean, mean, 0.5 * log_variance)
        terms = [nats.mean((1, 2, 3)) / math.log(2) for nats in (-first, kl)]
        return torch.where(t == 0, *terms)

    def posterior(self, clean: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the mean of the sample one step earlier (arXiv 2006.11239, Eq. 7)."""
        return at(self.from_clean, t) * clean + at(self.from_noised, t) * x


def at(table: np.ndarray, t: Tensor) -> Tensor:
    """Move a table to the device and return its values at t (B,), shaped for images."""
    return torch.from_numpy(table).to(t.device)[t].float()[:, None, None, None]


def likelihood(clean: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log mass of a pixel's bin of 256 under a Gaussian (arXiv 2006.11239, Eq. 13)."""

    def cdf(x: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    centred, precision = clean - mean, torch.exp(-log_scale)
    above = cdf(precision * (centred + 1 / 255))
    below = cdf(precision * (centred - 1 / 255))
    low, high = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
    inside = (above - below).clamp(min=1e-12).log()
    return torch.where(clean < -0.999, low, torch.where(clean > 0.999, high, inside))


def stepper(
    model: nn.Module, shape: Shape, device: torch.device, *, bf16: bool, compiled: bool
) -> Callable[[], float]:
    """Return what takes one step of training and gives its loss."""
    model = model.to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    if compiled:
        for block in model.get_submodule("blocks").children():
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0)
    diffusion, size, side = Diffusion(), shape.batch, shape.image_size
    latents = torch.randn(16 * size, CHANNELS, side, side, device=device)
    labels = torch.randint(0, shape.classes, (len(latents),), device=device)
    places = [slice(i * size, (i + 1) * size) for i in range(16)]
    averages = dict(ema.named_parameters())
    taken = 0

    def step() -> float:
        nonlocal taken
        x, y = latents[places[taken % 16]], labels[places[taken % 16]]
        taken += 1
        t = torch.randint(0, TIMESTEPS, (size,), device=device)
        y = torch.where(torch.rand(size, device=device) < LABEL_DROPOUT, shape.classes, y)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = diffusion.loss(model, x, t, torch.randn_like(x), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                averages[name].mul_(EMA_DECAY).add_(parameter, alpha=1 - EMA_DECAY)
        return loss.item()

    return step
