"""The evidence pages say what the studies' records hold, and a tidied study is the same study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import studies, studies_tidy
from benchmarks import studies_words as words
from benchmarks.studies_picture import ARMS, draw, panels
from benchmarks.studies_questions import (
    FAMILIES,
    PUBLISHED,
    QUESTIONS,
    SECTIONS,
    Edition,
    Section,
    question_of,
)
from benchmarks.studies_read import Study, read_study
from benchmarks.studies_readme_picture import draw_readme, readme_panels, window
from benchmarks.studies_sections import (
    ANSWERS,
    BASELINES,
    TABLES,
    answered,
    commands,
    results_sections,
    section_text,
)
from benchmarks.studies_tables import filled, measured_table, quickstart_output
from hptransfer.analysis import of_folder
from hptransfer.cli.main import main
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.metrics import METRICS
from hptransfer.system.folder_lock import FolderLock
from tests.support.files import rewrite_json
from tests.support.paths import ROOT

STUDIES = ROOT / "results" / "studies"
SWEEPS = ROOT / "sweeps"
SWEPT = ("quickstart", "lr_transfer")
RATIO = {"estimate": 2.0, "low": 1.5, "high": 2.7, "relation": "=", "n_seeds": 3}


RATES = next(section for section in SECTIONS if section.name == "rates")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a results folder of its own: the quickstart's rows, as `lr_transfer`'s too."""
    for family in PUBLISHED:
        names = [Edition(question_of(sweep), sweep, family).name for sweep in SWEPT]
        shutil.copytree(STUDIES / names[0], tmp_path / "results" / "studies" / names[1])
    return tmp_path / "results"


def study(path: Path) -> Study:
    found = read_study(path)
    assert found is not None
    return found


def section(name: str) -> Section:
    return next(each for each in SECTIONS if each.name == name)


def written(results: Path, name: str = "rates", sweeps: Path = SWEEPS) -> str:
    return section_text(section(name), results / "studies", sweeps)


def cells(text: str, start: str) -> list[str]:
    """Return the cells of the one row whose first cell begins so."""
    rows = [line for line in text.splitlines() if line.startswith((f"| {start}", f"| [{start}"))]
    (row,) = rows
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_the_committed_pages_say_what_the_committed_records_hold() -> None:
    for path, text in studies.pages(ROOT / "results", ROOT / "README.md").items():
        assert path.read_text() == text, f"run python -m benchmarks.studies: {path.name} is behind"
    page = ROOT / studies.PAGE
    assert page.read_text() == studies.evidence_page(page, ROOT / "results" / "benchmarks")


def test_no_cell_of_the_results_is_long() -> None:
    rows = [row for row in (ROOT / "results/README.md").read_text().splitlines() if "|" in row]
    assert rows and max(len(cell) for row in rows for cell in row.split(" | ")) < 90


def test_every_committed_study_is_in_its_committed_form() -> None:
    studies_tidy.require_small(STUDIES, studies_tidy.FILE_LIMIT)
    for dropped in ("report.html", "log.jsonl", "*.pdf", "*.safetensors", "checkpoints"):
        assert list(STUDIES.rglob(dropped)) == []


def test_every_question_has_a_sweep_an_answer_and_a_table() -> None:
    names = [each.name for each in SECTIONS]
    assert names == list(ANSWERS) == list(TABLES)
    for question in QUESTIONS:
        assert (SWEEPS / f"{question.sweep}.yaml").is_file(), question.sweep
    for each in SECTIONS:
        assert (ROOT / "results" / each.picture).is_file(), each.picture


def test_the_table_of_rates_holds_the_records_figures(results: Path) -> None:
    text = written(results)
    for family, name in ((family, FAMILIES[family]) for family in PUBLISHED):
        folder = results / "studies" / Edition(RATES.questions[0], "lr_transfer", family).name
        arm = json.loads((folder / "estimates.json").read_text())["arms"][0]
        found = arm["drift_octaves_per_doubling"]
        told = f"{found['estimate']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
        drift, verdict = cells(text, name)[1].split("), ")
        assert verdict == arm["verdict"]
        assert f"{drift})" == told.replace("-", "−").replace("−0.00", "0.00").replace(
            "+0.00", "0.00"
        )
    assert "it transfers in 4 of 4 families" in text
    assert "120 + 18 trials each; " in text and " core-hours of a CPU." in text


def test_a_cost_is_rounded_to_what_it_means() -> None:
    assert words.cost({"estimate": 0.00064, "low": 1e-6, "high": 0.0024}) == "0.0006 (below 0.0024)"
    assert (
        words.cost({"estimate": 0.0065, "low": 7e-4, "high": 0.0154}) == "0.0065 (0.0007 to 0.0154)"
    )
    assert words.cost({"estimate": 1e-6, "low": 0.0, "high": 1e-4}) == "below 0.0001"
    assert words.cost({"estimate": 0.01, "low": 0.0, "high": None}) == "0.0100 (no upper bound)"
    assert words.cost({"estimate": 0.01, "low": None, "high": None}) == "0.0100 (no interval)"
    assert words.cost(None) == words.cost({"estimate": None, "low": None, "high": None}) == "–"


def test_numbers_in_words() -> None:
    assert [words.change(log2) for log2 in (0.03, -0.75, 0.004)] == ["+2 %", "−41 %", "0 %"]
    assert [words.two_digits(v) for v in (0.119, 1.02, 4.47, 17.2, 809.0)] == [
        "0.12", "1.0", "4.5", "17", "809",
    ]  # fmt: skip
    assert words.span([0.8, 0.804], words.two_digits) == "0.80"
    assert words.listed(["a", "b", "c"]) == "a, b and c" and words.listed(["a"]) == "a"
    bound = {**RATIO, "relation": ">", "high": None}
    assert words.ratio(bound) == "> 2.0 (1.5 to open)"


def test_a_command_names_the_widths_that_were_swept_if_the_file_has_others(
    results: Path, tmp_path: Path
) -> None:
    edition, sweeps = Edition(RATES.questions[0], "lr_transfer", "dit"), tmp_path / "sweeps"
    found = answered(results / "studies", edition)
    (typed,) = commands(edition, found, SWEEPS)
    assert typed.startswith("hptransfer run lr_transfer 'sweep.widths=[24,48,96]' --results ")
    assert f"`{typed}`" in written(results)
    shutil.copytree(SWEEPS, sweeps)
    shutil.copy(SWEEPS / "quickstart.yaml", sweeps / "lr_transfer.yaml")
    (typed,) = commands(edition, found, sweeps)
    assert typed == "hptransfer run lr_transfer --results results/studies"


def test_a_study_without_rows_or_answers_says_so(results: Path) -> None:
    shutil.rmtree(results / "studies" / "lr_transfer-uvit")
    ledger = results / "studies" / "lr_transfer-pixart" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:100]))
    (results / "studies" / "lr_transfer-mmdit" / "estimates.json").unlink()
    text = written(results)
    assert cells(text, "DiT")[2].endswith("), drifts")
    assert cells(text, "U-ViT")[1] == "not run"
    assert cells(text, "PixArt-α")[1] == "not finished: 100 of 120 trials"
    assert cells(text, "MMDiT")[1].startswith("not answered: `hptransfer run lr_transfer model=m")
    assert "it transfers in 1 of 1 families" in text
    assert list(studies.pictured(results / "studies")) == ["dit"]
    assert "- `hptransfer run lr_transfer model=uvit " in results_sections(
        results / "studies", SWEEPS
    )


def test_a_question_that_nobody_asked_has_no_answer(results: Path) -> None:
    for name in ("scales", "search", "conditions", "steps", "frechet"):
        text = written(results, name)
        assert "**Answer.** There is no answer yet." in text and "not run" in text


def test_an_answer_of_the_trials_so_far_says_how_many_there_are(results: Path) -> None:
    folder = results / "studies" / "lr_transfer"
    rows = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(rows[:100]))
    of_folder.fit_folder(ResultsFolder(folder))
    text = written(results)
    assert "3 seeds, 100 of 120 + 18 trials" in text
    assert "(" in cells(text, "DiT")[1]


def test_estimates_of_fewer_rows_are_no_answer(results: Path) -> None:
    estimates = results / "studies" / "lr_transfer" / "estimates.json"
    rewrite_json(estimates, {"trials": {"fitted": 96, "missing": 0}})
    assert cells(written(results), "DiT")[1].startswith("not answered")


def test_a_gpu_edition_is_listed_as_not_run_until_it_ran(results: Path) -> None:
    missing = "- `hptransfer run lr_transfer_fashion runtime.data_folder=FOLDER --results "
    assert missing in results_sections(results / "studies", SWEEPS)
    shutil.copytree(
        results / "studies" / "lr_transfer", results / "studies" / "lr_transfer_fashion"
    )
    text = results_sections(results / "studies", SWEEPS)
    assert missing not in text
    assert cells(written(results), "DiT, on a GPU]")[1].endswith("), transfers")


def convergence() -> dict[str, Any]:
    """Return what a convergence study's answer holds of what the pages say."""
    over = {"speed_up": RATIO, "speed_up_with_tuning": {**RATIO, "estimate": 0.3}}
    regret = {"estimate": 0.001, "low": 0.0, "high": 0.002}
    runs = [
        {"name": name, "label": f"standard, {name}", "log2_lr": -10 - i, "regret": regret, **over}
        for i, name in enumerate(BASELINES)
    ]
    return {"width": 128, "seeds": [0, 1, 2], "transferred": {"regret": regret}, "baselines": runs}


def test_a_speed_up_names_its_baseline_and_counts_the_tuning(results: Path) -> None:
    folder = results / "studies" / "convergence"
    (results / "studies" / "lr_transfer").rename(folder)
    command = "`python -m benchmarks.convergence results/studies/convergence`"
    assert f"not answered: {command}" in cells(written(results, "steps"), "the original's")
    (folder / "convergence.json").write_text(json.dumps(convergence()))
    text = written(results, "steps")
    assert cells(text, "the original's")[1] == "2.0 (1.5 to 2.7), rate 0.00098"
    assert cells(text, "best at the target itself")[1].endswith(", rate 0.00012")
    assert cells(text, "cost of µP's own")[1] == "0.0010 (below 0.0020)"
    assert "at the default rate of the original code needs 2.0 times" in text
    assert "the ratios are 0.30 (the original's default rate)" in text


def test_agreement_is_said_of_each_parametrization(results: Path) -> None:
    # By the training loss, which the quickstart's rows have, in place of the Fréchet distance.
    folder = ResultsFolder(results / "studies" / "frechet")
    (results / "studies" / "lr_transfer").rename(folder.path)
    found = of_folder.fit_folder(folder, metric=METRICS["train_loss"])["agreement"]
    folder.estimates_by(METRICS["train_loss"]).rename(
        folder.estimates_by(METRICS["frechet_distance"])
    )
    text = written(results, "frechet")
    for name, arm in zip(("µP", "standard"), found, strict=True):
        row = cells(text, name)
        assert row[1] == words.signed(arm["mean_difference"])
        assert row[2] == words.cost(arm["widths"][-1]["loss_regret"])


def test_a_moving_optimum_is_said_with_the_tools_own_warning(results: Path) -> None:
    folder = results / "studies" / "conditions"
    (results / "studies" / "lr_transfer").rename(folder)
    estimates = json.loads((folder / "estimates.json").read_text())
    slopes = {"batch_size": {"estimate": 0.4, "low": 0.3, "high": 0.5}}
    moving = {"octaves_per_doubling": slopes}
    rewrite_json(
        folder / "estimates.json", {"arms": [{**estimates["arms"][0], "conditions": moving}]}
    )
    rewrite_json(folder / "transfer.json", {"warnings": ["At 1200 steps it lies -1 off."]})
    text = written(results, "conditions")
    assert "Yes: it changes by +0.40 octaves when the batch size doubles." in text
    assert "The target's own warning: “At 1200 steps it lies −1 off.”" in text
    assert cells(text, "the batch size doubles")[1] == "+0.40 (+0.30 to +0.50)"
    slopes["batch_size"]["low"] = -0.1
    rewrite_json(
        folder / "estimates.json", {"arms": [{**estimates["arms"][0], "conditions": moving}]}
    )
    assert "No movement is shown: it changes by +0.40" in written(results, "conditions")


def test_the_readmes_table_has_a_row_for_each_family(results: Path) -> None:
    shutil.rmtree(results / "studies" / "lr_transfer-uvit")
    table = measured_table(results / "studies")
    assert len(table.splitlines()) == 2 + len(PUBLISHED)
    assert cells(table, "DiT")[3].count("%") == 2
    assert cells(table, "U-ViT")[1:] == ["not run", "–", "–"]


def test_the_quickstarts_output_is_what_the_command_prints(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results / "studies" / "quickstart"
    shutil.copytree(STUDIES / "quickstart", folder)
    shown = quickstart_output(results / "studies").splitlines()[1:-1]
    assert main(["fit", str(folder)]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [shown[0], shown[-1].split()[0]] == ["µP", "measured"]
    estimates = json.loads((folder / "estimates.json").read_text())
    assert estimates["arms"][0]["headline"].splitlines()[2] in shown
    table = next(i for i, line in enumerate(printed) if line.split()[:1] == ["width"])
    assert printed[table] in shown and printed[table + 1] in shown


def test_the_picture_has_both_arms_of_every_family(results: Path) -> None:
    found = studies.pictured(results / "studies")
    drawn = panels(found)
    assert [(p.family, p.arm) for p in drawn] == [(f, arm) for f in PUBLISHED for arm in ARMS]
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


def test_the_readmes_picture_says_what_the_record_says(results: Path) -> None:
    found = study(results / "studies" / "lr_transfer")
    mup, standard = readme_panels(found)
    assert mup.title == "µP: the best learning rate stays"
    assert standard.title == "Standard: the best learning rate moves"
    shown = window(found)
    for curve in (*mup.curves, *standard.curves):
        assert shown.losses[0] < curve.loss < shown.losses[1]
        assert shown.thetas[0] < curve.optimum < shown.thetas[1]
    paths = [results / "one.png", results / "two.png"]
    for path in paths:
        draw_readme(found, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_page_without_its_comments_is_refused() -> None:
    page = "before\n<!-- studies:answers, by us -->\nold\n<!-- studies:end -->\nafter\n"
    changed = filled(page, "answers", "new")
    assert changed == page.replace("old", "new")
    assert filled(changed, "answers", "new") == changed
    with pytest.raises(SystemExit, match="one block from <!-- studies:measured -->"):
        filled(page, "measured", "new")


def test_tidying_keeps_the_evidence_and_what_it_says(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results / "studies" / "lr_transfer"
    before, rows = written(results), read_ledger(folder).rows
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
    assert written(results) == before
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
