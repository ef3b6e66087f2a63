"""Samples of trained models: samplers, pictures, and quality in a classifier's features."""
