"""Benchmarks: what hptransfer costs beside the training itself; see README.md in this folder."""
