"""Who is told how a sweep goes: a log, TensorBoard, tracking services, and a word at its end."""

from __future__ import annotations

from hptransfer.sweeping.trackers.watch import Watch, Watcher, watchers

__all__ = ["Watch", "Watcher", "watchers"]
