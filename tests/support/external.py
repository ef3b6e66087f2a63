"""Trainers that are not hptransfer's: shell lines and Python programs that run in milliseconds."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config.external import ExternalModel, ExternalTrainer, ExternalTrial
from hptransfer.results.trial_result import TrialResult
from hptransfer.training.external.run import ExternalRun

MARK = "HPTRANSFER_TEST_OF"  # the environment variable by which a test knows its processes


def python(script: str, *words: str) -> str:
    """Return the command that runs a script in a Python without its slow start."""
    text = script.replace("{", "{{").replace("}", "}}")
    return shlex.join([sys.executable, "-IS", "-c", text]) + "".join(f" {word}" for word in words)


def shell(script: str) -> str:
    """Return the command that runs a script in a shell."""
    return "sh -c " + shlex.quote(script.replace("{", "{{").replace("}", "}}"))


def trial(
    command: str = "", *, width: int = 64, seed: int = 0, log2_lr: float = -7.0, **trainer: Any
) -> ExternalTrial:
    """Return a trial of a command, or of the function that is named as `function`."""
    return ExternalTrial(
        ExternalTrainer(command=command, **trainer),
        ExternalModel(width),
        hps=(("lr", log2_lr),),
        fixed=(("steps", 100),),
        seed=seed,
    )


def run(folder: Path, config: ExternalTrial, *, retries: int = 0) -> TrialResult:
    """Run a trial whose ledger lies in a folder, which is also its working folder."""
    return ExternalRun(str(folder), str(folder), retries=retries).run(config)


def processes(word: str) -> dict[int, str]:
    """Return the command lines of the running processes in which a word occurs, by their ids."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, UnicodeDecodeError):
                continue
            if word in line and state != "Z":
                found[int(folder.name)] = line
    return found


def wait_until(
    holds: Callable[[], Any], seconds: float = 20.0, state: Callable[[], Any] = lambda: ""
) -> None:
    """Wait until something holds; fail where it does not in time, and tell the state then."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"it did not come to hold in time: {state()}"
        time.sleep(0.02)


# A planted basin: the best rate is 2^-7 at every width, and a doubling of the width is worth 13 %.
BASIN = """\
import math, sys
width, lr, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
noise = 0.002 * math.sin(1e4 * (width + lr) + 7 * seed)
loss = 1.5 * width ** -0.2 + 0.03 * (math.log2(lr) + 7) ** 2 + noise
print(f"val_loss={loss:.9f}")
"""

FILE: dict[str, Any] = {
    "train": {"command": python(BASIN, "{width} {lr} {seed}"), "result": r"val_loss=(\S+)"},
    "sweep": {"widths": [64, 128, 256], "target": {"width": 1024}},
    "search": {"lr": {"low": -9, "high": -5}},
    "fixed": {"steps": 100},
    "executor": "local",
}


def write_sweep(path: Path, **sections: Any) -> Path:
    """Write a sweep of the planted basin, with sections replaced or, by `...`, left out."""
    content = {**FILE, **sections}
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path
