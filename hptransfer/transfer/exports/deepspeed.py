"""The target for trainers built on DeepSpeed: its JSON config, without a scheduler of its own.

DeepSpeed reads Hjson, which has comments, but accelerate and transformers read the same file as
plain JSON. So a comment is a key of its own, the setting's name with `#` before it: DeepSpeed looks
up the keys that it knows and passes over the others, on the highest level alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Precision
from hptransfer.transfer.exports.settings import settings

GROUPS = (
    "left out: an optimizer that DeepSpeed builds has one rate for all parameters. Give "
    "deepspeed.initialize(optimizer=) one of param_groups(model) of torch_groups.py"
)
SCHEDULER = (
    "left out: WarmupLR, WarmupDecayLR, OneCycle and LRRangeTest write one absolute rate into all "
    "groups, which undoes µP. Safe: lr_scheduler=LambdaLR(optimizer, multiplier), of "
    "torch_groups.py, which multiplies each group's own rate (so does WarmupCosineLR). DeepSpeed "
    "steps it once a step of the optimizer, whatever the number of processes"
)


def deepspeed_text(config: TrialConfig, searched: Collection[str]) -> str:
    """Return DeepSpeed's config, with a comment before each setting."""
    known = settings(config, searched)
    clip, batch, precision = (known[name] for name in ("clip_norm", "batch_size", "precision"))
    with_comments: list[tuple[str, str, Any]] = [
        ("train_batch_size", f"{batch.origin}, of all processes and accumulations", batch.value),
        ("gradient_clipping", f"{clip.origin}; 0.0 is none", clip.value or 0.0),
        (
            "torch_autocast",
            f"{precision.origin}; weights stay float32, as in the sweep, unlike under `bf16`",
            {"enabled": config.precision is Precision.bf16, "dtype": "bfloat16"},
        ),
    ]
    tree: dict[str, Any] = {}
    for name, comment, value in with_comments:
        tree |= {f"#{name}": comment, name: value}
    tree |= {"#optimizer": GROUPS, "#scheduler": SCHEDULER}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
