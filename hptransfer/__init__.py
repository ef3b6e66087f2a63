"""Hyperparameter transfer for diffusion transformers: sweep small, train large once."""

__version__ = "0.1.0"
