"""The smoke editions of the paper's sweeps: made latents, through `run` to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples import make_latents
from hptransfer.cli.main import main
from hptransfer.results.folder import ResultsFolder, read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    make_latents.main(folder)
    return folder


def test_the_script_says_how_to_run_each(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_latents.main(tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == len(make_latents.SWEEPS) == 4
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):  # the same bytes again
        assert path.read_bytes() == (latents / path.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize(("sweep", "layout"), make_latents.SWEEPS.items())
def test_a_smoke_edition_runs_to_its_report(
    sweep: str,
    layout: str,
    latents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = f"runtime.data_folder={latents / layout}"
    assert main(["run", sweep, folder, "--json", "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["transfer"]["target"]["width"] == 128 and answer["realised"] is not None
    results = ResultsFolder(Path("results") / sweep)
    assert results.report_file.stat().st_size > 100_000
    assert {path.suffix for path in results.figures.iterdir()} >= {".png", ".svg"}
    transferred = read_json(results.transfer_file, "target")
    assert transferred is not None
    assert (results.exports / "torchtitan.toml").is_file()
    assert main(["train", str(results.target_file), folder, "budget.steps=3", "--quiet"]) == 0


def test_lengths_and_batch_sizes_alone_are_compared_as_the_paper_does(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in dit_imagenet_conditions: µP alone, and conditions that vary one at a time."""
    monkeypatch.chdir(tmp_path)
    words = ["sweep.gate=false", "sweep.parametrizations=[mup]", "name=conditions"]
    vary = ["sweep.vary.steps=[3,5]", "sweep.vary.batch_size=[4,8]"]
    folder = f"runtime.data_folder={latents / 'fast_dit'}"
    assert main(["run", "dit_imagenet_smoke", folder, *words, *vary, "--quiet"]) == 0
    (arm,) = json.loads(Path("results/conditions/estimates.json").read_text())["arms"]
    assert set(arm["conditions"]["octaves_per_doubling"]) >= {"steps", "batch_size"}
