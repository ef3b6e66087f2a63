"""Watchers of a sweep: its log, TensorBoard and tracking services."""
