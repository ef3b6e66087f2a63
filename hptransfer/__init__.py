"""Hyperparameter transfer for diffusion transformers: sweep small, train large once.

`build_model(config)` and `param_groups(model, config)` put a trial's parametrization into any torch
training loop; `load_trial(path)` reads a config such as an emitted target.yaml, and
`load_weights(config, path)` a model's weights, published or our own.
"""

from __future__ import annotations

from typing import Any

_EXPORTS = {
    "build_model": "hptransfer.models.parametrization",
    "param_groups": "hptransfer.models.parametrization",
    "load_trial": "hptransfer.config.compose.compose",
    "load_weights": "hptransfer.models.weights",
}


def __getattr__(name: str) -> Any:
    """Import the public functions on first use: torch takes seconds, `fit` does not need it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
