"""A study in slices: cut off and continued without Ray, brought back by import, replayed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.results.curves import read_curve
from hptransfer.results.ledger_rows import read_ledger_rows
from tests.support.tiny import TINY_SWEEP

# A machine that lacks Ray: whoever imports it, or looks whether it is there, finds nothing.
WITHOUT_RAY = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from hptransfer.cli.main import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    assert "ray" not in sys.modules, words
    if code:
        sys.exit(code)
"""
SLICED = TINY_SWEEP.replace("name: tiny", "name: sliced").replace("steps: 12", "steps: 300")
WORDS = (
    *("sliced.yaml", "executor=local", "executor.checkpoint_s=0", "runtime.pack_size=4"),
    *("sweep.widths=[8]", "search.lr.low=-6", "sweep.parametrizations=[mup]", "sweep.target={}"),
)


def begun(*commands: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process that runs commands one after another, to the first that fails."""
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_RAY, json.dumps(commands)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def packs_begun(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "checkpoints").rglob("*.safetensors")}


def a_slice(folder: Path, earlier: set[str]) -> tuple[int, str]:
    """Sweep until a pack that is none of the earlier ones leaves a checkpoint, and end it there.

    It is ended by SIGTERM, as `timeout -s TERM` does.
    """
    process = begun(("sweep", *WORDS))
    while process.poll() is None and packs_begun(folder) <= earlier:
        time.sleep(0.01)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


@pytest.fixture
def sliced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the sweep into an empty folder, and go there."""
    monkeypatch.chdir(tmp_path)
    Path("sliced.yaml").write_text(SLICED)
    return Path("results/sliced")


@pytest.mark.slow
def test_slices_without_ray_end_as_one_run_does(
    sliced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier: set[str] = set()
    for rows in (0, 4):  # in the first pack and in the second
        code, said = a_slice(sliced, earlier)
        assert code == 143, said
        assert "Continue with\n  hptransfer sweep sliced.yaml executor=local" in said
        assert ("go on at step" in said) == (rows > 0)
        assert len(read_ledger_rows(sliced)) == rows
        earlier |= packs_begun(sliced)
    assert main(["sweep", *WORDS]) == 0
    said = capsys.readouterr()
    assert "go on at step" in said.out + said.err

    assert main(["sweep", *WORDS, "--results=whole", "--quiet"]) == 0
    whole, cut = Path("whole/sliced"), sliced
    outcomes = [
        {r["trial_key"]: (r["status"], r["loss"], r["metrics"]) for r in read_ledger_rows(folder)}
        for folder in (whole, cut)
    ]
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 8
    assert all(read_curve(whole, key) == read_curve(cut, key) for key in outcomes[0])

    # Brought back from the other machine, where its first rows had been sent from.
    capsys.readouterr()
    assert main(["import", str(cut), "home", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["ledgers"]
    assert (answer["appended"], answer["wanted"], answer["curves"]) == (8, 8, 8)
    assert main(["import", str(whole), "home", "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["ledgers"]
    assert (again["appended"], again["identical"], again["differing"]) == (0, 8, 0)
    assert main(["sweep", "results/home/sweep.yaml", "--quiet"]) == 0


def test_every_command_of_a_slice_works_without_ray(sliced: Path) -> None:
    short = (*WORDS, "budget.steps=12")
    process = begun(
        ("plan", *short), ("sweep", *short, "--quiet"), ("status", "sliced"), ("fit", "sliced")
    )
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    key = read_ledger_rows(sliced)[0]["trial_key"]
    process = begun(("train", str(sliced), "--trial", key))
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "recorded loss" in said
