"""Tests of models and parametrizations."""
