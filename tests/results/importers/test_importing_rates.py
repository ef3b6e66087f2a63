"""A rate that was logged after µP's factor, which falls as 1/width, is asked about."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from tests.support.foreign_tables import records, write_csv

Printed = pytest.CaptureFixture[str]


def warnings_of(arm: str, power: float, tmp_path: Path, capsys: Printed) -> list[str]:
    """Import rates times (width / 64)^-power, fit them, and return the fit's warnings."""
    rows = records(arm=arm)
    for row in rows:
        row["lr"] = float(row["lr"]) * math.exp2(-power * math.log2(int(row["width"]) / 64))
    source = write_csv(tmp_path / "rows.csv", rows)
    folder = str(tmp_path / "mine")
    assert main(["import", str(source), folder]) == 0
    capsys.readouterr()
    assert main(["fit", folder, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["arms"]
    assert found["drift_octaves_per_doubling"]["estimate"] == pytest.approx(-power, abs=0.04)
    return [warning for warning in found["warnings"] if "after µP's factor" in warning]


def test_a_mup_arm_whose_optimum_falls_as_one_over_width_is_asked_about(
    tmp_path: Path, capsys: Printed
):
    (warning,) = warnings_of("mup", 1.0, tmp_path, capsys)
    assert "import the rates before that factor" in warning


@pytest.mark.parametrize(("arm", "power"), [("standard", 1.0), ("mup", 0.0), ("mup", 0.8)])
def test_other_arms_are_not(arm: str, power: float, tmp_path: Path, capsys: Printed):
    assert not warnings_of(arm, power, tmp_path, capsys)
