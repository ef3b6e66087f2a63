"""A fixed text encoder that needs no download: random word vectors with positions.

Every word has a fixed random vector, as random features have (Rahimi & Recht, 2007). A token is the
vector of its word plus the vector of its position; the pooled features are the sum of all tokens,
which does not depend on their order. All have unit variance. The encoder knows no language: it only
gives different sentences different features, always the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hptransfer.config.trial import CAPTION_CHANNELS, CAPTION_TOKENS
from hptransfer.errors import UserError
from hptransfer.system.random_streams import torch_generator

# The standard deviations of a word's and of a position's part of a token; their variances sum to 1.
_WORD_SCALE, _POSITION_SCALE = 0.8**0.5, 0.2**0.5
_SHOWN = 80  # characters of a caption that an error shows


def encode_captions(
    captions: Sequence[str], tokens: int = CAPTION_TOKENS, channels: int = CAPTION_CHANNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the features of N captions of at most `tokens` words.

    They are tokens (N, L, K), zero where padded, the mask (N, L), True at words, and pooled
    features (N, K) of unit variance. Case and punctuation do not count.

    Raises:
        UserError: a caption has no word, or too many.
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


@lru_cache(maxsize=1 << 14)
def _token(word: str, position: int, channels: int) -> Tensor:
    vectors = (
        torch.randn(channels, generator=torch_generator(0, f"word {word}")),
        torch.randn(channels, generator=torch_generator(0, "word position", position)),
    )
    return _WORD_SCALE * vectors[0] + _POSITION_SCALE * vectors[1]
