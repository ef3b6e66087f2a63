"""Train the DiT of the diffusers library on 8x8 digits with accelerate.

Alone: accelerate launch --cpu diffusion.py --width 32 --lr 0.01. As a sweep: hptransfer run
accelerate.yaml.
"""

from __future__ import annotations

import argparse
import json

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingImports]
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hptransfer

BASE_WIDTH, HEAD_DIM = 32, 8
TIMES = 1000


def make_model(width: int) -> nn.Module:
    """Build a DiT of a width: the number of heads grows, their size stays."""
    model = DiTTransformer2DModel(
        num_attention_heads=width // HEAD_DIM,
        attention_head_dim=HEAD_DIM,
        in_channels=1,
        out_channels=1,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
        dropout=0.0,
    )
    nn.init.zeros_(model.proj_out_2.weight)
    return model


def loss_of(model: nn.Module, images: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    """Return the loss of rectified flow: the model predicts noise minus image."""
    noise = torch.randn(images.shape, generator=draw)
    t = torch.rand(len(images), generator=draw)
    share = t[:, None, None, None]
    noised = (1 - share) * images + share * noise
    predicted = model(noised, timestep=TIMES * t, class_labels=labels).sample
    return (predicted - (noise - images)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()

    pixels, digits = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    labels = torch.as_tensor(digits)
    torch.manual_seed(given.seed)
    model = hptransfer.mup.build(make_model, width=given.width, base_width=BASE_WIDTH)
    optimizer = torch.optim.AdamW(hptransfer.mup.param_groups(model, lr=given.lr))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / given.steps)

    accelerator = Accelerator()
    model, optimizer, decay = accelerator.prepare(model, optimizer, decay)
    draw = torch.Generator().manual_seed(given.seed)
    for step in range(1, given.steps + 1):
        chosen = torch.randint(1500, (64,), generator=draw)
        loss = loss_of(model, images[chosen], labels[chosen], draw)
        accelerator.backward(loss)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            hptransfer.report(step, loss=loss.item())
    model.eval()
    with torch.no_grad():
        fixed = torch.Generator().manual_seed(0)  # the same noise in every trial
        unseen = loss_of(model, images[1500:], labels[1500:], fixed)
    if accelerator.is_main_process:
        print(json.dumps({"loss": unseen.item()}))


if __name__ == "__main__":
    main()
