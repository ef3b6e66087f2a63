"""The shipped quickstart sweep."""

from __future__ import annotations

from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.config.sweep import SweepConfig

QUICKSTART = shipped_folder("sweeps") / "quickstart.yaml"


def quickstart(*overrides: str) -> SweepConfig:
    return sweep_config(compose_file(QUICKSTART, list(overrides)))
