"""Where the device's time goes: kernels of a few steps, by group, as a share of the wall time."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

STEPS, TOP = 10, 15

# The first pattern that a kernel's name matches is its group.
GROUPS = (
    ("attention", r"flash|fmha|attention|attn|softmax|sdpa|_scaled_dot"),
    ("matmul", r"gemm|gemv|cutlass|cublas|nvjet|xmma|bmm|addmm|\bmm\b|matmul|splitk|linear|conv"),
    ("optimizer", r"adam|lerp|optimi[sz]er|\bema\b|foreach|multi_tensor|addcmul|addcdiv"),
    ("copies", r"memcpy|memset|copy|\bcat\b|stack|index|gather|fill|zero"),
    ("norm and elementwise", r"."),
)
_PATTERNS, _REST = dict(GROUPS), GROUPS[-1][0]
GPU_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")


def group_of(kernel: str) -> str:
    """Name the group of a kernel or, on the CPU, of an operator."""
    plain = kernel.lower()
    # Inductor names a fused kernel after all that is in it, casts included: that is no copy.
    if re.match(r"triton_(poi|per|red)_", plain):
        return "optimizer" if re.search(_PATTERNS["optimizer"], plain) else _REST
    return next(name for name, pattern in GROUPS if re.search(pattern, plain))


def profiled(
    step: Callable[[int], Any], first: int, device: torch.device, folder: Path
) -> dict[str, Any]:
    """Profile some steps; return each group's share of the wall time and the longest kernels."""
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities):
        step(first)  # the profiler's own start
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        for number in range(first + 1, first + 1 + STEPS):
            step(number)
        if gpu:
            torch.cuda.synchronize(device)
        wall = time.perf_counter() - began
    if gpu:
        trace = folder / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return summary(kernels(json.loads(trace.read_text(encoding="utf-8"))), wall)
    averages = profiler.key_averages()
    return summary([(a.key, a.self_cpu_time_total / 1e6) for a in averages], wall)


def kernels(trace: dict[str, Any]) -> list[tuple[str, float]]:
    """Return name and seconds of everything that ran on the GPU."""
    return [
        (event["name"], event["dur"] / 1e6)
        for event in trace["traceEvents"]
        if event.get("ph") == "X" and event.get("cat") in GPU_CATEGORIES
    ]


def summary(timed: Sequence[tuple[str, float]], wall: float) -> dict[str, Any]:
    """Return the groups' shares of `wall` seconds; what no kernel filled is idle.

    Kernels that overlap count twice, so that idle is at least what is said.
    """
    seconds: dict[str, float] = defaultdict(float)
    by_kernel: dict[str, float] = defaultdict(float)
    for name, spent in timed:
        seconds[group_of(name)] += spent
        by_kernel[name] += spent
    groups = {name: seconds[name] for name, _ in sorted(GROUPS, key=lambda g: -seconds[g[0]])}
    groups["idle"] = max(wall - sum(groups.values()), 0.0)
    return {
        "steps": STEPS,
        "wall_seconds": round(wall, 6),
        "groups": {name: round(spent / wall, 4) for name, spent in groups.items()},
        "kernels": [
            {"name": name[:160], "group": group_of(name), "share": round(spent / wall, 4)}
            for name, spent in sorted(by_kernel.items(), key=lambda item: -item[1])[:TOP]
        ],
    }
