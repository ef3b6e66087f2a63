"""A frozen text encoder that needs no download: hashed word vectors with positions.

Every word has a fixed random vector of its own, as random features have (Rahimi & Recht, 2007); a
token is its word's vector plus its position's, and a caption's pooled features are their sum, which
forgets the order. All have unit variance. It knows no language: it only tells sentences, words and
their order apart, always in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hptransfer.config.data import CAPTION_CHANNELS, CAPTION_TOKENS, FolderConfig
from hptransfer.errors import UserError
from hptransfer.system.random_streams import torch_generator

# A token's standard deviation due to its word and to its position: half as much, 1 together.
_WORD_SCALE, _POSITION_SCALE = 0.8**0.5, 0.2**0.5
_SHOWN = 80  # characters of a caption in a complaint


def encode_captions(
    captions: Sequence[str], tokens: int = CAPTION_TOKENS, channels: int = CAPTION_CHANNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode N captions of at most `tokens` words, case and punctuation aside.

    Returns tokens (N, L, K), zero where padded, mask (N, L), True at words, and pooled features
    (N, K) of unit variance.
    """
    features = torch.zeros(len(captions), tokens, channels)
    mask = torch.zeros(len(captions), tokens, dtype=torch.bool)
    for row, caption in enumerate(captions):
        words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", caption.lower())
        if not 0 < len(words) <= tokens:
            shown = caption if len(caption) <= _SHOWN else f"{caption[:_SHOWN]}..."
            raise UserError(
                f"A caption must have 1 to {tokens} words, but {shown!r} has {len(words)}. "
                "Shorten it, or raise data.caption_tokens where the data set has that key."
            )
        for position, word in enumerate(words):
            features[row, position] = _token(word, position, channels)
        mask[row, : len(words)] = True
    words_each = mask.sum(1, keepdim=True)
    return features, mask, features.sum(1) / words_each.sqrt()


def encode_named_captions(
    captions: Sequence[str], places: Sequence[str], config: FolderConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode N captions in the config's sizes, and name the place of one that has no right length.

    Returns what `encode_captions` does.
    """
    encoded = []
    for caption, place in zip(captions, places, strict=True):
        try:
            encoded.append(
                encode_captions([caption], config.caption_tokens, config.caption_channels)
            )
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    tokens, mask, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    return tokens, mask, pooled


@lru_cache(maxsize=1 << 14)
def _token(word: str, position: int, channels: int) -> Tensor:
    vectors = (
        torch.randn(channels, generator=torch_generator(0, f"word {word}")),
        torch.randn(channels, generator=torch_generator(0, "word position", position)),
    )
    return _WORD_SCALE * vectors[0] + _POSITION_SCALE * vectors[1]
