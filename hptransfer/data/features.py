"""Precomputed latents and text features on disk, in any of the layouts in `layouts/`.

`write_features` writes hptransfer's own.
"""

from __future__ import annotations

from pathlib import Path

from hptransfer.config import FeaturesConfig
from hptransfer.data.layouts import find_layout, no_layout
from hptransfer.data.layouts.folder_layout import LatentSource
from hptransfer.data.layouts.manifest import write_features

__all__ = ["open_features", "write_features"]


def open_features(config: FeaturesConfig, folder: Path) -> LatentSource:
    """Return the source of a folder of latents, whose layout is found by its files' names."""
    layout = find_layout(folder)
    if layout is None:
        raise no_layout(folder)
    return layout.source(config, folder)
