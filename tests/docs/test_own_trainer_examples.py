"""The examples of one's own trainer: each script runs alone, and each sweep comes to a verdict."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hptransfer
from hptransfer.cli.main import main
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples" / "own_trainer"
SWEEPS = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
NEEDS = {"accelerate.yaml": ("accelerate", "diffusers"), "hf_trainer.yaml": ("transformers",)}
# Where the optimum is known or was seen to be, in log2, by width.
OPTIMA = {
    "function.yaml": {32: -5, 64: -5, 128: -5},
    "command.yaml": {32: -5, 64: -5, 128: -5},
    "accelerate.yaml": {32: -6, 64: -6},
    "hf_trainer.yaml": {32: -6, 64: -6},
    "shell.yaml": {64: -7, 128: -7.5, 256: -8},  # which its formula states
}
ALONE = {
    "command.yaml": "python train.py --width 32 --lr 0.03 --steps 2",
    "accelerate.yaml": "accelerate launch --cpu diffusion.py --width 16 --lr 0.01 --steps 2",
    "hf_trainer.yaml": "python hf_trainer.py --width 32 --lr 0.01 --steps 2",
    "shell.yaml": "./bowl.sh 64 0.008 0",
}


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of the examples, with the programs and packages of this environment."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("results"))
    monkeypatch.chdir(tmp_path / "examples")
    own = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
    for name, path in own.items():
        monkeypatch.setenv(name, os.pathsep.join([path, *filter(None, [os.environ.get(name)])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def require_packages(sweep: str) -> None:
    for package in NEEDS.get(sweep, ()):
        pytest.importorskip(package)


def test_every_example_is_tested() -> None:
    assert sorted(OPTIMA) == SWEEPS
    assert sorted([*ALONE, "function.yaml"]) == SWEEPS


LATE = ("accelerate.yaml", "hf_trainer.yaml")  # their imports take long


@pytest.mark.parametrize(
    "sweep",
    [pytest.param(s, marks=pytest.mark.slow) if s in LATE else s for s in sorted(ALONE)],
)
def test_a_script_runs_alone(sweep: str) -> None:
    require_packages(sweep)
    done = subprocess.run(ALONE[sweep].split(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["loss"] > 0


@pytest.mark.parametrize(
    "sweep", [pytest.param(s, marks=() if s == "shell.yaml" else pytest.mark.slow) for s in SWEEPS]
)
def test_a_sweep_finds_the_optimum_of_each_width(
    sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_packages(sweep)
    assert main(["run", sweep, "executor=local"]) == 0
    assert re.search(r"-> (transfers|drifts|inconclusive)", capsys.readouterr().out)
    results = hptransfer.load_results(f"results/{Path(sweep).stem}")
    means = results.rows.pivot_table(index="width", columns="log2_lr", values="loss")
    assert set(means.index) == set(OPTIMA[sweep])
    for width, expected in OPTIMA[sweep].items():
        assert float(means.loc[width].idxmin()) == pytest.approx(expected, abs=1)


def test_the_shell_script_s_law_is_found() -> None:
    assert main(["run", "shell.yaml", "executor=local", "--quiet"]) == 0
    told = json.loads(Path("results/shell/transfer.json").read_text())
    assert told["verdict"] == "drifts"
    start = Path("results/shell/target.sh").read_text().splitlines()[-1]
    rate = float(start.split()[2])
    assert rate == pytest.approx(0.002, rel=0.4)  # 0.008 times (64 / 1024) ^ 0.5
