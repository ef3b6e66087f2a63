"""The README's commands run as written, and what it says of the files is so."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import pages
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
INSTALL, TEST, *_ = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
STUDIES = ROOT / "results" / "studies"
FAMILIES = {"DiT": "", "U-ViT": "-uvit", "PixArt-α": "-pixart", "MMDiT": "-mmdit"}


def record(*names: str) -> Any:
    return json.loads(STUDIES.joinpath(*names).read_text())


def test_it_can_be_finished() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 1100, "about a thousand words"


def test_your_model_and_your_table_come_to_a_verdict_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {(w, lr): 1 / w + (lr + 6) ** 2 / 50 for w in (64, 128, 256) for lr in range(-9, -3)}
    rows = [f"{width},{2.0**lr},{loss}" for (width, lr), loss in losses.items()]
    (tmp_path / "rows.csv").write_text("\n".join(["width,lr,loss", *rows]) + "\n")
    small = pages.QUICKSTART.replace(", depth: 2, head_dim: 4", "")  # a model of one's own has none
    monkeypatch.setattr(pages, "QUICKSTART", small.replace("seeds: [0, 1]", "seeds: [0]"))
    _, page = README.split("## Your model\n")
    pages.run_page(page, tmp_path, monkeypatch)
    verdicts = re.findall(r"-> (transfers|drifts|inconclusive)", capsys.readouterr().out)
    assert len(verdicts) >= 2 and Path("results/elsewhere/estimates.json").is_file()


def test_ci_runs_the_second_command_as_written() -> None:
    assert TEST.strip() in (ROOT / ".ci" / "run").read_text()


def test_the_explanation_has_an_item_for_each_line_of_the_output() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    lines = shown.splitlines()
    assert lines[0] == "µP" and lines[4].startswith("moves: ")
    assert lines[5].split()[:3] == ["width", "learning", "rate"] and "predict" in lines[-1]
    items = re.findall(r"^\d\. (.*)", README, re.MULTILINE)
    assert len(items) == 6  # lines 1 to 4, the table, the last line
    assert "verdict" in items[3] and items[4].startswith("The table")


def test_the_table_says_what_the_records_hold() -> None:
    for name, suffix in FAMILIES.items():
        study = f"lr_transfer{suffix}"
        arms = {arm["parametrization"]: arm for arm in record(study, "estimates.json")["arms"]}
        realised = record(study, "target", "realised.json")
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", README, re.MULTILINE)
        mup, standard, cost = (cell.replace("−", "-").replace(" %", "") for cell in row.split("|"))
        for told, arm in ((mup, arms["mup"]), (standard, arms["standard"])):
            drift = arm["drift_octaves_per_doubling"]["estimate"]
            assert float(told) == pytest.approx(100 * (2**drift - 1), abs=0.51)
        estimate, bound = (float(figure) for figure in re.findall(r"[\d.]+", cost))
        percents = [
            100 * realised["regret"][end] / realised["optimum"]["loss"]
            for end in ("estimate", "high")
        ]
        assert [estimate, bound] == pytest.approx(percents, rel=0.5)


def test_the_claims_of_the_prose_hold_in_the_records() -> None:
    arms = {arm["parametrization"]: arm for arm in record("lr_transfer", "estimates.json")["arms"]}
    assert "Under µP one learning rate is best for all of them." in README
    assert arms["mup"]["moves"] == "no"
    assert "Under the standard parametrization\nthe best rate falls" in README
    assert arms["standard"]["drift_octaves_per_doubling"]["high"] < 0
    assert "µP is no faster than a standard parametrization whose rate was tuned too" in README
    for suffix in FAMILIES.values():
        for run in record(f"convergence{suffix}", "convergence.json")["baselines"]:
            if run["name"] != "default":
                assert run["speed_up"]["verdict"] != "faster", (suffix, run["name"])
    assert "No figure on a GPU has been recorded yet." in README
    on_gpus = {path.name for path in (ROOT / "results").rglob("*cuda*")}
    assert on_gpus == {"dry_cuda.json"}  # of a device without kernels


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_speed_and_robustness_says_what_the_records_hold() -> None:
    page = (ROOT / "docs" / "evidence" / "benchmarks.md").read_text()
    benchmarks = ROOT / "results" / "benchmarks"
    for name, told in {
        "latency": {
            "hptransfer fit, 10000 rows": "{:.1f} s",
            "hptransfer plot, 10000 rows": "{:.1f} s",
        },
        "scale": {"plan": "{:.1f} s", "status": "{:.1f} s", "fit": "{:.1f} s"},
        "overhead_packs": {"overhead of a pack": "{:.3f} s"},
    }.items():
        figures = json.loads((benchmarks / f"{name}.json").read_text())["figures"]
        medians = {figure["name"]: figure["median"] for figure in figures}
        for figure, form in told.items():
            assert form.format(medians[figure]) in page, figure
    for row in json.loads((benchmarks / "families.json").read_text())["families"]:
        assert row["original_parameters"] == row["parameters"] and row["distance_from_mup"] == 0
        slopes = [row["checks"][arm]["worst"]["slope"] for arm in ("mup", "standard")]
        text = f"{row['parameters']:,} | {slopes[0]:+.2f} (passes) | {slopes[1]:+.2f} (fails)"
        assert text.replace("-", "−") in page


@pytest.mark.slow
def test_the_first_command_ends_with_the_answer(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    ended = subprocess.run(
        ["bash", "-c", INSTALL], cwd=tmp_path / "clone", capture_output=True, text=True, check=True
    )
    for words in ("µP: transfers", "standard: drifts", "The target was swept too", "it held"):
        assert words in ended.stdout
    assert (tmp_path / "clone" / "results" / "quickstart" / "report.html").is_file()
