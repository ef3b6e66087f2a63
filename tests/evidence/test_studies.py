"""The evidence pages say what the studies' records hold, and a tidied study is the same study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import studies, studies_tables, studies_tidy
from benchmarks import studies_words as words
from benchmarks.studies_picture import ARMS, draw, panels
from benchmarks.studies_questions import FAMILIES, QUESTIONS, Edition
from benchmarks.studies_read import Study, read_study
from benchmarks.studies_tables import ANSWERS, answers_table, families_table, filled
from hptransfer.analysis import of_folder
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.metrics import METRICS
from hptransfer.system.folder_lock import FolderLock
from tests.support.files import rewrite_json
from tests.support.paths import ROOT

STUDIES = ROOT / "results" / "studies"
SWEEPS = ROOT / "sweeps"
RATIO = {"estimate": 2.0, "low": 1.5, "high": 2.7, "relation": "=", "n_seeds": 3}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a results folder of its own: the quickstart's rows, as `lr_transfer`'s too."""
    for family in FAMILIES:
        names = [Edition(q, q.sweep, family).name for q in QUESTIONS[:2]]
        assert names[0].startswith("quickstart") and names[1].startswith("lr_transfer")
        shutil.copytree(STUDIES / names[0], tmp_path / "results" / "studies" / names[1])
    return tmp_path / "results"


def study(path: Path) -> Study:
    found = read_study(path)
    assert found is not None
    return found


def cells(table: str, start: str) -> list[str]:
    """Return the cells of the one row that begins so."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_committed_pages_say_what_the_committed_studies_hold() -> None:
    for path, text in studies.pages(ROOT / "results", ROOT / "README.md").items():
        assert path.read_text() == text, f"run python -m benchmarks.studies: {path.name} is behind"


def test_every_committed_study_is_in_its_committed_form() -> None:
    studies_tidy.require_small(STUDIES, studies_tidy.FILE_LIMIT)
    for dropped in ("report.html", "log.jsonl", "*.pdf", "*.safetensors", "checkpoints"):
        assert list(STUDIES.rglob(dropped)) == []


def test_every_question_has_a_sweep_and_a_way_to_say_its_answer() -> None:
    assert {question.sweep for question in QUESTIONS} == set(ANSWERS)
    for question in QUESTIONS:
        assert (SWEEPS / f"{question.sweep}.yaml").is_file(), question.sweep


def test_the_families_table_holds_the_records_figures(results: Path) -> None:
    table = families_table(results / "studies")
    drifts = cells(table, "µP: drift")[1:]
    for name, cell in zip(FAMILIES, drifts, strict=True):
        suffix = "" if name == "dit" else f"-{name}"
        folder = results / "studies" / f"lr_transfer{suffix}"
        arm = json.loads((folder / "estimates.json").read_text())["arms"][0]
        found = arm["drift_octaves_per_doubling"]
        text = f"{found['estimate']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
        said = f"{arm['verdict']} (moves: {arm['moves']}, matters: {arm['matters']})"
        assert cell == f"{text.replace('-', '−')}, {said}"
    assert cells(table, "µP's tuning")[1] == "41.7 %, 809 %, 33.7 %"
    assert cells(table, "swept")[1].startswith(
        "widths 24 to 96, target 192; 3 seeds, 120 + 18 trials; CPU, 0.0"
    )


def test_what_no_family_has_run_has_no_row(results: Path) -> None:
    table = families_table(results / "studies")
    realised = results / "studies" / "lr_transfer" / "target" / "realised.json"
    found = json.loads(realised.read_text())["regret"]
    assert cells(table, "… and realised")[1] == words.plain(found)
    assert "fewer steps" not in table
    for family in FAMILIES:
        suffix = "" if family == "dit" else f"-{family}"
        shutil.rmtree(results / "studies" / f"lr_transfer{suffix}" / "target")
    table = families_table(results / "studies")
    assert "realised" not in table and "not run" not in table
    assert len(table.splitlines()) == 2 + 5


def test_a_command_names_the_widths_that_were_swept_if_the_file_has_others(
    results: Path, tmp_path: Path
) -> None:
    row, sweeps = "[a. the learning rate, three parametrizations, DiT", tmp_path / "sweeps"
    typed = cells(answers_table(results / "studies", SWEEPS), row)[1]
    assert typed.startswith("`hptransfer run lr_transfer 'sweep.widths=[24,48,96]' --results ")
    shutil.copytree(SWEEPS, sweeps)
    shutil.copy(SWEEPS / "quickstart.yaml", sweeps / "lr_transfer.yaml")
    typed = cells(answers_table(results / "studies", sweeps), row)[1]
    assert typed == "`hptransfer run lr_transfer --results results/studies`"


def test_a_study_without_rows_or_answers_says_so(results: Path) -> None:
    shutil.rmtree(results / "studies" / "lr_transfer-uvit")
    ledger = results / "studies" / "lr_transfer-pixart" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:100]))
    (results / "studies" / "lr_transfer-mmdit" / "estimates.json").unlink()
    _, sound, absent, partial, unfitted = cells(families_table(results / "studies"), "standard: d")
    assert sound.endswith("drifts (moves: yes, matters: yes)")
    assert (absent, partial) == ("not run", "not finished: 100 of 120 trials")
    assert unfitted.startswith("not answered: `hptransfer run lr_transfer model=mmdit ")
    assert list(studies.pictured(results / "studies")) == ["dit"]


def test_an_answer_of_the_trials_so_far_says_how_many_there_are(results: Path) -> None:
    folder = results / "studies" / "lr_transfer"
    rows = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(rows[:100]))
    of_folder.fit_folder(ResultsFolder(folder))
    table = families_table(results / "studies")
    assert "target 192; 3 seeds, 100 of 120 + 18 trials; " in cells(table, "swept")[1]
    assert "(" in cells(table, "µP: drift")[1]


def test_estimates_of_fewer_rows_are_no_answer(results: Path) -> None:
    estimates = results / "studies" / "lr_transfer" / "estimates.json"
    rewrite_json(estimates, {"trials": {"fitted": 96, "missing": 0}})
    assert cells(families_table(results / "studies"), "µP: drift")[1].startswith("not answered")


def test_a_gpu_edition_is_a_row_of_its_own_until_it_ran(results: Path, tmp_path: Path) -> None:
    sweeps = tmp_path / "sweeps"
    shutil.copytree(SWEEPS, sweeps, ignore=shutil.ignore_patterns("[!l]*_fashion.yaml"))
    row = cells(
        answers_table(results / "studies", sweeps),
        "a. the learning rate, three parametrizations, DiT, U-ViT, PixArt-α, MMDiT (GPU",
    )
    assert row[3] == "not run: it needs a GPU"
    shutil.copytree(
        results / "studies" / "lr_transfer", results / "studies" / "lr_transfer_fashion"
    )
    table = answers_table(results / "studies", sweeps)
    assert "(studies/lr_transfer_fashion)" in table and "µP: transfers (moves: no" in table
    assert "U-ViT, PixArt-α, MMDiT (GPU edition)" in table


def convergence() -> dict[str, Any]:
    """Return what a convergence study's answer holds of what the pages say."""
    over = {"speed_up": RATIO, "speed_up_with_tuning": {**RATIO, "estimate": 0.3}}
    regret = {"estimate": 0.001, "low": 0.0, "high": 0.002}
    runs = [
        {"name": name, "label": f"standard, {name}", "log2_lr": -10 - i, "regret": regret, **over}
        for i, name in enumerate(studies_tables.BASELINES)
    ]
    ratios = {
        "narrowest_over_target_percent": 5.5,
        "arm_over_target_percent": 81.0,
        "over_direct_search_percent": 3.0,
    }
    return {
        "width": 128,
        "seeds": [0, 1, 2],
        "transferred": {"label": "µP, transferred", "regret": regret},
        "baselines": runs,
        "cost": ratios,
        "warnings": [],
    }


def test_a_speed_up_names_its_baseline_and_counts_the_tuning(results: Path) -> None:
    folder = results / "studies" / "convergence"
    (results / "studies" / "lr_transfer").rename(folder)
    start = "fewer steps to equal loss than standard at the or"
    command = "`python -m benchmarks.convergence results/studies/convergence`"
    assert cells(families_table(results / "studies"), start)[1] == f"not answered: {command}"
    (folder / "convergence.json").write_text(json.dumps(convergence()))
    cell = cells(families_table(results / "studies"), start)[1]
    assert cell == "×2 (1.5 to 2.7), rate 0.00098"
    own_grid = "fewer steps to equal loss than standard at the best rate of"
    assert cells(families_table(results / "studies"), own_grid)[1].endswith(", rate 0.00012")
    said = words.sped_up(study(folder))
    counted = "standard, default: ×2 (1.5 to 2.7), with tuning counted ×0.3 (1.5 to 2.7)"
    assert counted in said and "3 seeds" in said


def test_agreement_is_said_of_each_arm_with_its_interval(results: Path) -> None:
    # By the training loss, which the quickstart's rows have, in place of the Fréchet distance.
    folder = ResultsFolder(results / "studies" / "lr_transfer")
    found = of_folder.fit_folder(folder, metric=METRICS["train_loss"])["agreement"]
    folder.estimates_by(METRICS["train_loss"]).rename(
        folder.estimates_by(METRICS["frechet_distance"])
    )
    lines = words.by_both_measures(study(folder.path)).split(words.LINE)
    for name, arm, line in zip(("µP", "standard"), found, lines, strict=True):
        assert line.startswith(f"{name}: best by Fréchet distance minus best by loss ")
        assert words.signed(arm["mean_difference"]) in line
        assert f"{words.plain(arm['widths'][-1]['loss_regret'])} of loss" in line


def test_a_moving_optimum_is_said_with_the_tools_own_warning(results: Path) -> None:
    folder = results / "studies" / "lr_transfer"
    estimates = json.loads((folder / "estimates.json").read_text())
    slopes = {"batch_size": {"estimate": 0.4, "low": 0.3, "high": 0.5}}
    moving = {"octaves_per_doubling": slopes}
    rewrite_json(
        folder / "estimates.json", {"arms": [{**estimates["arms"][0], "conditions": moving}]}
    )
    rewrite_json(folder / "transfer.json", {"warnings": ["At 1200 steps it is extrapolated."]})
    said = words.under_conditions(study(folder)).split(words.LINE)
    assert said[:2] == [
        "µP, per doubling of the batch size: +0.40 (+0.30 to +0.50) octaves",
        "The target's warning: “At 1200 steps it is extrapolated”",
    ]


def test_the_picture_has_both_arms_of_every_family(results: Path) -> None:
    found = studies.pictured(results / "studies")
    drawn = panels(found)
    assert [(p.family, p.arm) for p in drawn] == [(f, arm) for f in FAMILIES for arm in ARMS]
    colors = {(c.at, c.color) for panel in drawn for c in panel.curves}
    assert len(colors) == 3, "a width has the same colour everywhere"
    for panel in drawn:
        assert panel.floor < min(c.loss for c in panel.curves)
        assert max(c.loss for c in panel.curves) < panel.ceiling
    path = results / "families.png"
    draw(found, path)
    first = path.read_bytes()
    draw(found, path)
    assert path.read_bytes() == first and len(first) > 50_000


def test_a_page_without_its_comments_is_refused() -> None:
    page = "before\n<!-- studies:answers, by us -->\nold\n<!-- studies:end -->\nafter\n"
    changed = filled(page, "answers", "new")
    assert changed == page.replace("\nold\n", "\n\nnew\n\n")
    assert filled(changed, "answers", "new") == changed
    with pytest.raises(SystemExit, match="one block from <!-- studies:families -->"):
        filled(page, "families", "new")


def test_tidying_keeps_the_evidence_and_what_it_says(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results / "studies" / "lr_transfer"
    before, rows = studies_tables.families_table(results / "studies"), read_ledger(folder).rows
    for name in ("report.html", "log.jsonl", "figures/summary.pdf", "figures/regret.png"):
        (folder / name).touch()
    for name in (
        "exports",
        "tensorboard",
        "curves",
        "convergence/curves",
        "target/runs/x/checkpoints",
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "file").touch()
    studies_tidy.tidy(folder)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {
        *("sweep.yaml", "ledger.jsonl", "estimates.json", "transfer.json", "check.json"),
        *("packs.json", "target.yaml", "target_groups.json", "convergence/curves/file"),
        *("target/ledger.jsonl", "target/realised.json"),
        *("figures/summary.png", "figures/realised.png"),
    }
    assert read_ledger(folder).rows == rows
    assert studies_tables.families_table(results / "studies") == before
    assert studies_tidy.tidy(folder) == []


def test_a_folder_that_is_written_in_is_not_tidied(results: Path) -> None:
    folder = results / "studies" / "lr_transfer"
    lock = FolderLock(folder).take()
    try:
        with pytest.raises(UserError, match="pid"):
            studies_tidy.tidy(folder)
    finally:
        lock.release()
    assert (folder / "figures" / "summary.svg").is_file()


def test_what_is_too_large_to_be_committed_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(bytes(2000))
    (tmp_path / "estimates.json").write_bytes(bytes(500))
    with pytest.raises(SystemExit, match=r"ledger\.jsonl"):
        studies_tidy.require_small(tmp_path, 1000)
    with pytest.raises(SystemExit, match="stay under"):
        studies_tidy.require_small(tmp_path, 5000, tree=2400)
    studies_tidy.require_small(tmp_path, 5000, tree=2500)
