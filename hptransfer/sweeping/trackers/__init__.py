"""Watchers of a sweep: its log, TensorBoard, tracking services, and a call at its end."""

from __future__ import annotations

from hptransfer.sweeping.trackers.watch import Watch, Watcher, watchers

__all__ = ["Watch", "Watcher", "watchers"]
