"""Estimates are taken from their file only where rows and question are still the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hptransfer.analysis import of_folder
from hptransfer.analysis.of_folder import fit_folder, fresh_estimates
from hptransfer.cli.main import main
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger
from tests.support.files import rewrite_json
from tests.support.paths import ROOT
from tests.support.recorded_rows import append_rows, write_sweep

STUDIES = ROOT / "results" / "studies"


@pytest.fixture
def swept(tmp_path: Path) -> ResultsFolder:
    """A copy of the quickstart's rows, with nothing derived from them."""
    return copied("quickstart", tmp_path)


def copied(study: str, to: Path) -> ResultsFolder:
    folder = ResultsFolder(to / study)
    folder.path.mkdir()
    for name in ("sweep.yaml", "ledger.jsonl"):
        shutil.copy(STUDIES / study / name, folder.path / name)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def verdicts(estimates: dict[str, Any]) -> list[str]:
    return [arm["verdict"] for arm in estimates["arms"]]


def test_a_fit_of_another_question_is_printed_and_not_kept(
    swept: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(swept.path)
    assert "matters: no -> transfers" in printed(capsys, "fit", path)
    own = swept.estimates_file.read_bytes()
    out = printed(capsys, "fit", path, "verdict.max_regret=1e-9")
    assert "matters: yes -> inconclusive" in out
    assert "This answer was not stored in the folder" in out
    assert swept.estimates_file.read_bytes() == own
    assert json.dumps(fresh_estimates(swept), indent=1, ensure_ascii=False) in own.decode()
    printed(capsys, "transfer", path)
    assert json.loads(swept.transfer_file.read_text())["verdict"] == "transfers"


def test_a_fit_at_another_step_does_not_stick(tmp_path: Path) -> None:
    conditions = copied("conditions", tmp_path)
    own = fit_folder(conditions)
    late = fit_folder(conditions, step=600)
    assert late["step"] == 600 and late["arms"][0]["at"]["steps"] == 600
    assert late["arms"][0]["optima"] != own["arms"][0]["optima"]
    assert fresh_estimates(conditions) == own
    assert fresh_estimates(conditions, step=600) == late


def test_estimates_are_read_while_they_are_right_and_never_written_by_readers(
    swept: ResultsFolder,
) -> None:
    found = fresh_estimates(swept)
    assert not swept.estimates_file.exists()
    assert fit_folder(swept) == found
    marked = rewrite_json(swept.estimates_file, {"surfaces": ["read, not made"]})
    assert fresh_estimates(swept) == marked


def test_an_upgrade_of_the_analysis_makes_estimates_anew(
    swept: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fit_folder(swept)
    rewrite_json(swept.estimates_file, {"arms": []})
    monkeypatch.setattr(of_folder, "ANALYSIS_VERSION", of_folder.ANALYSIS_VERSION + 1)
    assert fresh_estimates(swept)["arms"] == found["arms"]


def test_a_changed_threshold_in_the_sweeps_file_counts(swept: ResultsFolder) -> None:
    assert verdicts(fit_folder(swept))[0] == "transfers"
    text = swept.sweep_file.read_text()
    assert text.count("max_regret: null") == 1
    swept.sweep_file.write_text(text.replace("max_regret: null", "max_regret: 1.0e-9"))
    assert verdicts(fresh_estimates(swept))[0] == "inconclusive"


def test_estimates_of_other_losses_in_as_many_rows_are_not_taken(tmp_path: Path) -> None:
    folders, found = [], []
    for name, best in (("first", -6.0), ("second", -7.0)):
        folder, rows = write_sweep(tmp_path / name / "swept")
        losses = [0.5 + 0.02 * (row["hps"]["log2_lr"] - best) ** 2 for row in rows]
        append_rows(folder.path, [{**row, "loss": x} for row, x in zip(rows, losses, strict=True)])
        folders.append(folder)
        found.append(fit_folder(folder))
    assert len(read_ledger(folders[0].path).rows) == len(read_ledger(folders[1].path).rows)
    shutil.copy(folders[0].estimates_file, folders[1].estimates_file)
    assert fresh_estimates(folders[1]) == found[1] != found[0]


def test_plot_and_report_show_the_target_of_the_last_transfer(
    swept: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def target() -> float:
        return fresh_estimates(swept)["arms"][0]["target"]["width"]

    fit_folder(swept)
    assert target() == 192
    printed(capsys, "transfer", str(swept.path), "model.width=256")
    assert target() == 256
    assert "256" in printed(capsys, "plot", str(swept.path), "--terminal")
    printed(capsys, "transfer", str(swept.path))
    assert target() == 192


def test_an_imported_tables_target_and_its_steps_are_those_of_the_transfer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        f"{width},{2.0**theta},{1.0 - 0.05 * i + 0.02 * (theta + 6.0) ** 2 + 0.002 * seed},{seed}"
        for i, width in enumerate((24, 48, 96))
        for theta in range(-9, -2)
        for seed in range(2)
    ]
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(["width,lr,loss,seed", *lines]) + "\n")
    folder = ResultsFolder(tmp_path / "mine")
    printed(capsys, "import", str(table), str(folder.path))
    assert fresh_estimates(folder)["arms"][0]["target"] is None
    printed(capsys, "transfer", str(folder.path), "model.width=512", "budget.steps=900")
    assert fresh_estimates(folder)["arms"][0]["target"]["width"] == 512
    assert json.loads(folder.transfer_file.read_text())["target"]["conditions"]["steps"] == 900
