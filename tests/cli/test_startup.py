"""What a command imports: help and refusals nothing heavy, so that they answer at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Prints which of the modules named in the second argument the code of the first one has imported.
IMPORTED = "import sys; exec(sys.argv[1]); print(*sorted({*sys.argv[2].split()} & {*sys.modules}))"
HEAVY = (
    "numpy pandas scipy sklearn matplotlib torch torch._dynamo hydra omegaconf ray fsspec rich "
    "optuna"
)
# Their own import takes more time than all of `hptransfer --help` may.
SLOW = f"{HEAVY} yaml importlib.metadata asyncio multiprocessing"


def imported(code: str, of: str, folder: Path) -> str:
    """Return which of some modules a new process has imported after running a line of code."""
    words = [sys.executable, "-c", IMPORTED, code, of]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def command(*words: str, code: int) -> str:
    """Return code that runs a command and insists on its exit code, that of help being raised."""
    return (
        "from hptransfer.cli.main import main\n"
        f"try: code = main({list(words)!r})\n"
        "except SystemExit as ended: code = ended.code or 0\n"
        f"assert code == {code}, code"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import hptransfer",
        "import hptransfer; hptransfer.__all__; dir(hptransfer)",
        command("--help", code=0),
        command("sweep", "--help", code=0),
        command("rules", "--help", code=0),
        command("fitt", code=2),
        command("fit", code=2),
        command("sweep", "quickstart", "--shrnk", code=2),
        command("report", "--port", "many", code=2),
    ],
)
def test_help_and_wrong_words_import_nothing_slow(code: str, tmp_path: Path) -> None:
    assert imported(code, SLOW, tmp_path) == ""


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", "nothing"),
        ("run", "nothing"),
        ("plan", "quickstart", "model.dept=3"),
        ("fit", "nowhere"),
        ("report", "nowhere"),
        ("check", "quickstart"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_heavy(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    assert imported(command(*words, code=2), HEAVY, tmp_path) == ""


def test_the_driver_needs_torch_only_for_trials_of_our_own_models(tmp_path: Path) -> None:
    code = "import hptransfer.sweeping.run.driver"
    assert imported(code, "torch ray hydra pandas matplotlib", tmp_path) == ""


def test_a_model_is_built_without_torchs_compiler(tmp_path: Path) -> None:
    """To import the compiler takes longer than to import torch."""
    code = command("rules", "model=dit", "--all", code=0)
    assert imported(code, "torch torch._dynamo sympy", tmp_path) == "torch"
