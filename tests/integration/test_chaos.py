"""A sweep survives whatever happens to its workers, nodes, driver, disk and ledger."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import chaos


@pytest.fixture
def can_mount(tmp_path: Path) -> None:
    """Skip where no disk can be mounted."""
    folder = tmp_path / "probe"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", chaos.DISK, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_survives_every_fault_once(tmp_path: Path, can_mount: None) -> None:
    summary = chaos.run(tmp_path, kills=0, seed=1, seeds=3, every_fault=True)
    assert set(summary.faults) == set(chaos.FAULTS), summary.text()
    assert summary.sound, summary.text()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_survives_a_hundred_kills(tmp_path: Path, can_mount: None) -> None:
    summary = chaos.run(tmp_path, kills=100, seed=0, seeds=16)
    print(summary.text())
    assert summary.kills >= 100
    assert summary.sound, summary.text()
