"""A sweep across two hosts whose link is cut: see two_hosts.py, which can also be run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.two_hosts import disturbed_sweep, losses, missing, undisturbed_sweep

pytestmark = pytest.mark.cluster


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_sweep_outlives_a_cut_link(tmp_path: Path) -> None:
    told: list[str] = []
    assert disturbed_sweep(tmp_path, told.append) == 0, "\n".join(told)
    assert any("interrupted after" in text and "exit code 130" in text for text in told)
    assert any("go on at step" in text for text in told), "no pack used its checkpoint"
    assert undisturbed_sweep(tmp_path) == 0
    expected = losses(tmp_path, "local")
    assert len(expected) == 24
    assert losses(tmp_path, "cluster") == expected
