"""The benchmark of losses predicted from narrower widths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import loss_ahead
from tests.support.paths import ROOT

STUDIES = ROOT / "results" / "studies"


def test_a_target_that_was_swept_is_predicted_from_all_widths(tmp_path: Path) -> None:
    shutil.copytree(STUDIES / "quickstart", tmp_path / "quickstart")
    (case,) = loss_ahead.cases(tmp_path)
    told = json.loads((tmp_path / "quickstart/target/realised.json").read_text())
    assert (case.width, case.found) == (192, told["loss_at_transferred"])
    assert list(case.narrower.widths) == [24, 48, 96]
    found = loss_ahead.entry(case)
    for name in ("estimate", "low", "high"):  # beside what `hptransfer transfer` said itself
        assert found["mended"][name] == pytest.approx(told["predicted_loss"][name], abs=0.005)
    assert loss_ahead.summary([found])["mended"]["held"] == 1
    missed = {**found, "found": found["mended"]["high"] + 0.01}
    assert loss_ahead.summary([found, missed])["mended"]["held"] == 1


def test_widths_from_the_fourth_on_are_predicted_from_narrower_ones(tmp_path: Path) -> None:
    shutil.copytree(STUDIES / "lr_transfer", tmp_path / "lr_transfer")
    shutil.rmtree(tmp_path / "lr_transfer" / "target")
    found = [(c.arm, c.width, len(c.narrower.widths)) for c in loss_ahead.cases(tmp_path)]
    arms = ("mup", "standard", "standard_embed")
    assert found == [(arm, width, n) for arm in arms for width, n in ((128, 3), (256, 4))]
