"""Tests of committed evidence and benchmarks."""
