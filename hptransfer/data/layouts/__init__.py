"""The layouts in which folders of latents are read, one module each."""

from __future__ import annotations

from pathlib import Path

from hptransfer.data.layouts import (
    edm2,
    fast_dit,
    lightning_dit,
    manifest,
    mds,
    parquet,
    pixart,
    saved_dataset,
    tokens,
    webdataset,
)
from hptransfer.data.layouts.folder_layout import FolderLayout
from hptransfer.errors import UserError

# In the order in which a folder is asked for them.
LAYOUTS: tuple[FolderLayout, ...] = (
    manifest.LAYOUT,
    fast_dit.LAYOUT,
    pixart.LAYOUT,
    saved_dataset.LAYOUT,
    mds.LAYOUT,
    edm2.LAYOUT,
    lightning_dit.LAYOUT,
    tokens.LAYOUT,
    webdataset.LAYOUT,
    parquet.LAYOUT,
)
SHOWN = 6  # names of a folder that an error lists


def find_layout(folder: Path) -> FolderLayout | None:
    """Return the layout of a folder of latents; None if it has none that is read."""
    return next((layout for layout in LAYOUTS if layout.find(folder)), None)


def no_layout(folder: Path) -> UserError:
    """Return the error that says what a folder holds, and what each layout needs."""
    names = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in folder.iterdir()
        if not path.name.startswith(".")
    )
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    found = f"{', '.join(names[:SHOWN])}{more}" if names else "nothing"
    needs = "".join(f"\n  {layout.name}: {layout.needs}" for layout in LAYOUTS)
    return UserError(
        f"data=features needs a folder in one of the layouts below, but {folder} holds {found}. "
        "Set runtime.data_folder, or write one with hptransfer.data.features.write_features."
        f"{needs}"
    )
