"""The committed studies' answers are those that the code beside them makes of their rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hptransfer.analysis.of_folder import fit_folder
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.metrics import METRICS
from hptransfer.transfer.transfer import transfer
from tests.support.paths import ROOT

STUDIES = ROOT / "results" / "studies"
NAMES = sorted(path.name for path in STUDIES.iterdir() if path.is_dir())
SLOWEST = "mmdit_search"  # four HPs: ten times the seconds of another study
FIRST = ("conditions", "frechet", "quickstart")  # transferred in every run of the tests
# Another processor adds in another order. Where an answer rests on few draws that changed one of
# them: of 15 studies on two machines one had numbers that differed by up to 1 %.
RELATIVE, ABSOLUTE = 0.02, 1e-3


def differences(found: Any, committed: Any, where: str = "") -> list[str]:
    """Return where two JSON values differ by more than rounding, with both values."""
    if isinstance(found, dict) and isinstance(committed, dict) and set(found) == set(committed):
        pairs = [(found[name], committed[name], f"{where}.{name}") for name in found]
    elif isinstance(found, list) and isinstance(committed, list) and len(found) == len(committed):
        both = zip(found, committed, strict=True)
        pairs = [(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(both)]
    elif isinstance(found, float) and isinstance(committed, float):
        same = found == pytest.approx(committed, rel=RELATIVE, abs=ABSOLUTE)
        return [] if same else [f"{where}: {found} now, {committed} committed"]
    else:
        return [] if found == committed else [f"{where}: {found} now, {committed} committed"]
    return [line for one, other, place in pairs for line in differences(one, other, place)]


def of_study(name: str, to: Path) -> ResultsFolder:
    """Copy what a study was asked and what it recorded, without anything made from the rows."""
    folder = ResultsFolder(to / name)
    for part in ("sweep.yaml", "design.json", "ledger.jsonl", "target/ledger.jsonl"):
        if (STUDIES / name / part).is_file():
            (folder.path / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(STUDIES / name / part, folder.path / part)
    return folder


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == SLOWEST else n for n in NAMES],
)
def test_a_study_fitted_again_gives_its_committed_estimates(name: str, tmp_path: Path) -> None:
    folder, committed = of_study(name, tmp_path), ResultsFolder(STUDIES / name)
    by = [metric for metric in METRICS.values() if committed.estimates_by(metric).is_file()]
    assert by
    for metric in by:
        kept = read(committed.estimates_by(metric))
        assert differences(fit_folder(folder, metric=metric), kept) == [], (
            f"run `hptransfer fit results/studies/{name}` and commit what it writes"
        )


@pytest.mark.parametrize(
    "name", [n if n in FIRST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_a_study_transferred_again_gives_its_committed_transfer(name: str, tmp_path: Path) -> None:
    folder, committed = of_study(name, tmp_path), ResultsFolder(STUDIES / name)
    paths = {"files": None}  # where they lie differs
    kept = read(committed.transfer_file)
    assert kept is not None
    assert differences({**transfer(folder), **paths}, {**kept, **paths}) == []
    assert differences(read(folder.realised_file), read(committed.realised_file)) == []


def test_a_difference_is_found_wherever_it_is() -> None:
    assert differences({"a": [1.0, {"b": 2.0}]}, {"a": [1.0, {"b": 2.0 + 1e-6}]}) == []
    assert differences({"a": [1.0, {"b": 2.0}]}, {"a": [1.0, {"b": 2.1}]}) == [
        ".a[1].b: 2.0 now, 2.1 committed"
    ]
    assert differences({"a": 1}, {}) != [] and differences([1], [1, 2]) != []
    assert differences("transfers", "drifts") != [] and differences(None, 0.0) != []


def test_the_page_on_conditions_shows_the_studys_own_figures() -> None:
    page = " ".join(
        (ROOT / "docs" / "how_to" / "depth_batch_steps.md").read_text().replace("> ", "").split()
    )
    estimates = read(ResultsFolder(STUDIES / "conditions").estimates_file)
    assert estimates is not None
    told = estimates["arms"][0]["conditions"]
    cells: dict[tuple[float, float], list[str]] = {}
    for each in told["optima"]:
        ends = f"({each['low']:.2f} to {each['high']:.2f})"
        under = cells.setdefault((each["batch_size"], each["steps"]), [])
        under.append(f"{each['optimum']:.2f} {ends}")
    for (batch, steps), optima in cells.items():
        assert f"| {batch:g} | {steps:g} | {' | '.join(optima)} |" in page
    for each in told["octaves_per_doubling"].values():
        assert f"{each['estimate']:+.2f} ({each['low']:+.2f} to {each['high']:+.2f})" in page
    for line in estimates["arms"][0]["headline"].splitlines():
        assert line in page
