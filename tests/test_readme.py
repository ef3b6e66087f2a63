"""The README's commands run as written, and what it says of the files is so."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.training.packs import coordinate_check
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
INSTALL, TEST, USE = BLOCKS


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.strip().splitlines()]


def test_every_command_of_the_use_section_runs(
    tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All words are those written, but for the lengths of training that the tiny sweep has."""
    monkeypatch.setattr(coordinate_check, "CHECK_SEEDS", (0, 1))
    # A bare name is looked up in ./sweeps first, so `quickstart` is the tiny sweep here.
    Path("sweeps").mkdir()
    tiny = tiny_sweep.read_text().replace("name: tiny\n", "name: quickstart\n")
    (Path("sweeps") / "quickstart.yaml").write_text(tiny)
    for program, *words in commands(USE):
        assert program == "hptransfer"
        words = [word.replace("steps=75,150", "steps=6,12") for word in words]
        if "--budget" in words:  # whose pilot must show a basin
            words.append("budget.steps=60")
        assert main(words) == 0, words


def test_the_python_example_runs(tiny_sweep: Path) -> None:
    assert main(["sweep", "tiny.yaml", "--quiet"]) == 0
    assert main(["transfer", "tiny", "--quiet"]) == 0
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    made: dict[str, Any] = {}
    exec(example.replace("results/quickstart/", "results/tiny/"), made)
    assert made["optimizer"].param_groups


def test_ci_runs_the_second_command_as_written() -> None:
    assert TEST.strip() in (ROOT / ".ci" / "run").read_text()


def test_the_file_map_names_every_package() -> None:
    (tree,) = re.findall(r"## Files\n\n```\n(.*?)```", README, re.DOTALL)
    named = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    there = {path.parent.name for path in (ROOT / "hptransfer").glob("*/__init__.py")}
    assert named == there


def test_the_claims_figures_are_those_of_the_committed_rows() -> None:
    import json

    study = ROOT / "results" / "studies" / "quickstart"
    arms = json.loads((study / "estimates.json").read_text())["arms"]
    for arm in arms:
        drift = arm["drift_octaves_per_doubling"]
        text = f"**{drift['estimate']:+.2f}** ({drift['low']:+.2f} to {drift['high']:+.2f})"
        assert text.replace("-", "−") in README
    regret = json.loads((study / "target" / "realised.json").read_text())["regret"]
    assert f"{regret['estimate']:.4f} ({regret['low']:.4f} to {regret['high']:.4f})" in README


def test_the_families_figures_are_those_of_the_committed_records() -> None:
    import json

    record = json.loads((ROOT / "results/benchmarks/families.json").read_text())
    for row in record["families"]:
        slopes = [row["checks"][arm]["worst"]["slope"] for arm in ("mup", "standard")]
        counts = f"{row['original_parameters']:,} | {row['parameters']:,}"
        text = f"{counts} | {slopes[0]:+.2f} (passes) | {slopes[1]:+.2f} (fails)"
        assert text.replace("-", "−") in README
    for family in ("uvit", "pixart", "mmdit"):
        study = ROOT / "results" / "studies" / f"quickstart-{family}"
        for arm in json.loads((study / "estimates.json").read_text())["arms"]:
            drift = arm["drift_octaves_per_doubling"]
            text = f"{drift['estimate']:+.2f} ({drift['low']:+.2f} to {drift['high']:+.2f})"
            assert f"{text.replace('-', '−')} | {arm['verdict']}" in README
        regret = json.loads((study / "target" / "realised.json").read_text())["regret"]
        assert f"{regret['estimate']:.4f} ({regret['low']:.4f} to {regret['high']:.4f})" in README


@pytest.mark.slow
def test_the_first_command_ends_with_the_answer(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    ended = subprocess.run(
        ["bash", "-c", INSTALL], cwd=tmp_path / "clone", capture_output=True, text=True, check=True
    )
    for words in ("µP: transfers", "standard: drifts", "The target was swept too", "it held"):
        assert words in ended.stdout
    assert (tmp_path / "clone" / "results" / "quickstart" / "report.html").is_file()
