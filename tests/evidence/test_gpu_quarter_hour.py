"""The command for a quarter of an hour on a GPU: its order, its limits, and that it goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_quarter_hour
from benchmarks.gpu_quarter_hour import Step, run, steps

FACTS = {"device": "a GPU", "commit": "abc"}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def ended(out: Path, name: str) -> str:
    return json.loads((out / f"{name}.json").read_text())["ended"]


def test_the_steps_are_there_in_their_order(tmp_path: Path) -> None:
    found = steps(tmp_path, "/data")
    assert [step.name for step in found] == ["tests", "isolation", "throughput", "sweep"]
    files = {Path(word).name for word in found[0].command if word.endswith(".py")}
    assert "test_gpu.py" in files and "test_readme.py" not in files
    words = found[2].command
    assert {"72,6,64,64", "144,12,32,256", "288,28,256,256", "official", "ours"} <= set(words)
    assert steps(tmp_path, None)[3].command == ()


def test_steps_that_ended_are_skipped_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_quarter_hour, "END_SECONDS", 0.5)
    once = f"open({str(tmp_path / 'log')!r}, 'a').write('x'); print('2 passed')"
    slow = (
        f"import time, pathlib; pathlib.Path({str(tmp_path / 'go')!r}).exists() or time.sleep(60)"
    )
    todo = [
        Step("one", 1.0, python(once)),
        Step("two", 0.1, python(slow)),
        Step("three", 1.0, python("raise SystemExit('broken')")),
        Step("four", 1.0, ()),
    ]
    out = tmp_path / "out"
    assert run(todo, out, 6.0, FACTS) == 1
    names = [step.name for step in todo]
    assert [ended(out, name) for name in names] == ["passed", "cut off", "failed", "left out"]
    (tmp_path / "go").touch()
    assert run(todo, out, 12.0, FACTS) == 1
    assert ended(out, "two") == "passed"
    assert (tmp_path / "log").read_text() == "x"
    summary = (out / "summary.md").read_text()
    assert "a GPU" in summary and "2 passed" in summary and "broken" in summary


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    assert run([Step("one", 1.0, python("1 / 0"))], tmp_path, 1.0, FACTS) == 1
    assert ended(tmp_path, "one") == "left out"


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_quarter_hour.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("A GPU must be there") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
