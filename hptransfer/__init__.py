"""Hyperparameter transfer for diffusion transformers: sweep small proxies, train the target once."""

__version__ = "0.1.0"
