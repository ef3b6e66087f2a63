"""Three models of the diffusers library behind the forward protocol, small enough for a CPU.

Nothing in them is written for µP. Each grows by heads of 8 dimensions and has two blocks. The
library starts the readout as any linear layer, since it loads trained weights; here it starts at
zero, as in the released DiT and PixArt and as arXiv 2203.03466, Appendix D.2, advises.
"""

from __future__ import annotations

from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn

HEAD_DIM, DEPTH, PATCH = 8, 2, 4
SIZE, CLASSES = 8, 10  # of the digits
CAPTION_CHANNELS, POOLED_CHANNELS = 64, 64


class LabelModel(nn.Module):
    """A model of images, timesteps and labels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        (output,) = self.net(x, timestep=t, class_labels=y, return_dict=False)
        return output


class CaptionModel(nn.Module):
    """A model of images, timesteps and caption tokens with their mask."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        (output,) = self.net(
            x,
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask.to(x.dtype),
            timestep=t,
            return_dict=False,
        )
        return output


class PooledCaptionModel(nn.Module):
    """A model of images, timesteps, caption tokens and a caption's pooled features."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        (output,) = self.net(
            x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=t,
            return_dict=False,
        )
        return output


def shipped_dit(width: int) -> nn.Module:
    """Build DiT with labels, initialised as the library does."""
    return LabelModel(
        DiTTransformer2DModel(
            num_attention_heads=width // HEAD_DIM,
            attention_head_dim=HEAD_DIM,
            in_channels=1,
            num_layers=DEPTH,
            sample_size=SIZE,
            patch_size=PATCH,
            num_embeds_ada_norm=CLASSES,
        )
    )


def shipped_pixart(width: int) -> nn.Module:
    """Build PixArt-α with captions, initialised as the library does."""
    return CaptionModel(
        PixArtTransformer2DModel(
            num_attention_heads=width // HEAD_DIM,
            attention_head_dim=HEAD_DIM,
            in_channels=1,
            out_channels=1,
            num_layers=DEPTH,
            cross_attention_dim=width,
            sample_size=SIZE,
            patch_size=PATCH,
            caption_channels=CAPTION_CHANNELS,
        )
    )


def shipped_sd3(width: int) -> nn.Module:
    """Build the MMDiT of Stable Diffusion 3 with captions, initialised as the library does."""
    return PooledCaptionModel(
        SD3Transformer2DModel(
            sample_size=SIZE,
            patch_size=PATCH,
            in_channels=1,
            out_channels=1,
            num_layers=DEPTH,
            attention_head_dim=HEAD_DIM,
            num_attention_heads=width // HEAD_DIM,
            joint_attention_dim=CAPTION_CHANNELS,
            caption_projection_dim=width,
            pooled_projection_dim=POOLED_CHANNELS,
            pos_embed_max_size=SIZE // PATCH,
        )
    )


def dit(width: int) -> nn.Module:
    """Build DiT with a readout of zero."""
    return _with_zero_weight(shipped_dit(width), "net.proj_out_2")


def pixart(width: int) -> nn.Module:
    """Build PixArt-α with a readout of zero."""
    return _with_zero_weight(shipped_pixart(width), "net.proj_out")


def sd3(width: int) -> nn.Module:
    """Build the MMDiT of Stable Diffusion 3 with a readout of zero."""
    return _with_zero_weight(shipped_sd3(width), "net.proj_out")


def _with_zero_weight(model: nn.Module, layer: str) -> nn.Module:
    nn.init.zeros_(model.get_parameter(f"{layer}.weight"))
    return model
