"""Checkpoints of training runs: files of bounded size, and what was damaged is passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hptransfer.errors import UserError
from hptransfer.training.target.checkpoints import RunCheckpoints
from hptransfer.training.target.record import RunProgress
from tests.support.files import flip

TENSORS = {f"weights/{name}": torch.arange(float(n)) for name, n in (("a", 7), ("b", 3), ("c", 9))}


def saved(folder: Path, *steps: int, keep: int = 2) -> RunCheckpoints:
    checkpoints = RunCheckpoints(folder, keep, chunk_bytes=40)
    for step in steps:
        checkpoints.save(step, TENSORS.items(), {"at": step})
    return checkpoints


def test_tensors_come_back_from_files_of_bounded_size(tmp_path: Path) -> None:
    found, notes = saved(tmp_path, 5).newest()
    assert found is not None and not notes and (found.step, found.facts) == (5, {"at": 5})
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensor(name), tensor)
    assert len(set(found.files.values())) == 2  # 28 + 12 bytes, then 36


def test_a_model_of_other_tensors_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    found = saved(tmp_path, 5).read(5)
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    found.require(shapes)
    for change, said in (
        ({"weights/d": (2,)}, r"weights/d is missing in .* and of shape \(2,\) in the model"),
        (
            {"weights/b": (1,)},
            r"weights/b is of shape \(3,\) in .* and of shape \(1,\) in the model",
        ),
    ):
        with pytest.raises(UserError, match=said):
            found.require({**shapes, **change})
    with pytest.raises(UserError, match=r"weights/c is of shape .* missing in the model"):
        found.require({name: shapes[name] for name in ("weights/a", "weights/b")})


def test_the_newest_stay_and_a_past_that_was_left_goes(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 5, 10, 15)
    assert checkpoints.steps() == [10, 15]
    (tmp_path / ".20.partial").mkdir()  # of a process that was killed
    checkpoints.save(12, TENSORS.items(), {})
    assert checkpoints.steps() == [10, 12] and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: flip(folder / "00001.safetensors"), "00001.safetensors is missing"),
        (lambda folder: (folder / "00000.safetensors").unlink(), "00000.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest is missing"),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest is missing"),
        (lambda folder: renamed(folder, "at", "as"), "manifest was changed"),
        (lambda folder: folder.rename(folder.with_name("11")), "manifest was changed"),
    ],
)
def test_what_is_damaged_is_told_and_passed_over(
    tmp_path: Path, damage: Callable[[Path], Any], sentence: str
) -> None:
    checkpoints = saved(tmp_path, 5, 10)
    damage(tmp_path / "10")
    found, (note,) = checkpoints.newest()
    assert found is not None and found.step == 5 and sentence in note


def renamed(folder: Path, word: str, other: str) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(f'"{word}"', f'"{other}"'))


def test_a_loss_at_init_that_is_not_finite_is_kept_in_strict_json() -> None:
    progress = RunProgress(float("inf"), step=3, curve=[(3, 0.5)])
    text = json.dumps(progress.facts(1.0), allow_nan=False)
    again = RunProgress.of(json.loads(text))
    assert not math.isfinite(again.loss_at_init)
    assert (again.step, again.curve) == (3, [(3, 0.5)])
