"""Pack costs that a test puts into the cache of packs, as if they had been measured before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.identity import with_width
from hptransfer.execution.measure import PackCache, cost_facts, shape_facts
from hptransfer.execution.pack_sizes import PackCost


def remember(base: TrialConfig, widths: Iterable[int], cost_of: Callable[[int], PackCost]) -> None:
    """Put costs of a trial at some widths on this machine's CPU into the cache."""
    cache = PackCache.read()
    for width in widths:
        facts = cost_facts([with_width(base, width)], RuntimeConfig(), torch.device("cpu"))
        cache.add(facts, cost_of(width))


def remember_of_gpu(base: TrialConfig, widths: Iterable[int], cost: PackCost, name: str) -> None:
    """Put a cost of a trial at some widths on a GPU of that name into the cache."""
    cache, runtime = PackCache.read(), RuntimeConfig(device="cuda")
    for width in widths:
        cache.add({**shape_facts([with_width(base, width)], runtime), "device": name}, cost)
