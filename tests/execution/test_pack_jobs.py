"""Pack sizes of a sweep: measured once, recorded, reused; and packs that do not fit."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hptransfer.config import TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import UserError
from hptransfer.execution.measure import cache_file
from hptransfer.execution.pack_sizes import Trials
from hptransfer.sweeping.run import driver
from hptransfer.training.packs import run as trial
from tests.support.sweeps import LEDGER, PACKS, known_costs, opened, outcomes, rows

__all__ = ["known_costs", "opened"]
MEASURED = "runtime.pack_size=null"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that is filled with the width and size of each pack that is handed out."""
    handed: list[tuple[int, int]] = []
    run = driver.run_packs

    def run_packs(packs: Sequence[Trials], *rest, **more) -> None:
        handed.extend((pack[0].model.width, len(pack)) for pack in packs)
        run(packs, *rest, **more)

    monkeypatch.setattr(driver, "run_packs", run_packs)
    return handed


def lose_last_row() -> None:
    LEDGER.write_bytes(b"".join(LEDGER.read_bytes().splitlines(keepends=True)[:-1]))


def test_a_continued_sweep_has_the_recorded_packs(opened, known_costs, seen) -> None:
    asked = known_costs({1: 1.0, 2: 1.2, 4: 1.8})
    job = opened("sweep.widths=[8]", MEASURED)
    driver.sweep(job)
    assert asked == [8] and seen == [(8, 4)] * 3
    (entry,) = json.loads(PACKS.read_text())["packs"].values()
    assert entry == {"width": 8, "size": 4, "seconds": 1.8, "warmup": 0.0}
    written, whole = PACKS.read_bytes(), outcomes()
    lose_last_row()
    seen.clear()
    again = known_costs({1: 1.0, 2: 2.5}, workers=64)
    assert driver.sweep(job) == 1
    assert again == [] and seen == [(8, 4)]
    assert outcomes() == whole and PACKS.read_bytes() == written


def test_only_shapes_that_are_pending_and_unknown_are_measured(opened, known_costs, seen) -> None:
    known_costs({1: 1.0, 2: 1.2, 4: 1.8})
    driver.sweep(opened("sweep.widths=[8]", MEASURED))
    asked = known_costs({1: 1.0, 2: 1.2})
    seen.clear()
    driver.sweep(opened("sweep.widths=8,16", "sweep.parametrizations=[mup]", MEASURED))
    assert asked == [16] and seen == [(16, 2)] * 6
    assert [entry["size"] for entry in json.loads(PACKS.read_text())["packs"].values()] == [4, 2]
    assert driver.sweep(opened("sweep.widths=8,16", "sweep.parametrizations=[mup]", MEASURED)) == 0
    assert asked == [16]


def test_a_given_size_wins_and_measures_and_records_nothing(opened, known_costs, seen) -> None:
    asked = known_costs({1: 1.0, 2: 1.2, 4: 1.8})
    driver.sweep(opened("sweep.widths=[8]", "runtime.pack_size=3"))
    assert asked == [] and seen == [(8, 3)] * 4 and not PACKS.exists()
    driver.sweep(opened("sweep.widths=8,16", MEASURED))
    assert asked == [16, 16]  # two arms; nothing is left to run at width 8
    written = PACKS.read_bytes()
    seen.clear()
    driver.sweep(opened("sweep.widths=8,16", "sweep.seeds=0,1,2", "runtime.pack_size=6"))
    assert {size for _, size in seen} == {6} and PACKS.read_bytes() == written


def test_the_longest_packs_run_first(opened, known_costs, seen) -> None:
    known_costs({1: 1.0, 2: 1.2, 4: 1.8})
    driver.sweep(opened("sweep.widths=[8]", MEASURED))
    lose_last_row()
    seen.clear()
    known_costs({1: 0.1})
    driver.sweep(opened("sweep.widths=8,16", "sweep.parametrizations=[mup]", MEASURED))
    assert seen[0] == (8, 4) and {width for width, _ in seen[1:]} == {16}


def test_what_is_measured_is_said_unless_quiet(
    opened, known_costs, capsys: pytest.CaptureFixture[str]
) -> None:
    known_costs({1: 1.0, 2: 1.2, 4: 1.8})
    job = opened("sweep.widths=[8]", MEASURED)
    loud = dataclasses.replace(job, quiet=False)
    driver.sweep(loud)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "measuring how many trials train best together ...",
        "a note",
        "packs of 4 at width 8",
    ]
    LEDGER.unlink()
    PACKS.unlink()
    driver.sweep(job)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "content",
    ["{", '{"packs": {"a": {"size": 3}}}', '{"packs": 3}']
    + [
        f'{{"packs": {{"a": {{"width": 8, "size": {size}, "seconds": {s}, "warmup": 0}}}}}}'
        for size, s in ((0, 1.0), (2, -1.0))
    ],
)
def test_a_damaged_record_is_refused(opened, known_costs, content: str) -> None:
    known_costs({1: 1.0})
    job = opened("sweep.widths=[8]", MEASURED)
    PACKS.write_text(content)
    with pytest.raises(UserError, match=r"packs.json is not as hptransfer wrote it"):
        driver.sweep(job)
    assert not LEDGER.exists() or rows() == {}


def test_a_really_measured_sweep_continues_as_if_undisturbed(opened) -> None:
    job = opened("sweep.widths=8,16", "sweep.seeds=[0]", MEASURED)
    driver.sweep(job)
    assert len(json.loads(cache_file().read_text())["packs"]) >= 2
    whole, written = outcomes(), PACKS.read_bytes()
    lines = LEDGER.read_bytes().splitlines(keepends=True)
    LEDGER.write_bytes(b"".join(lines[::3]))
    cache_file().unlink()
    assert driver.sweep(job) == len(lines) - len(lines[::3])
    assert outcomes() == whole and PACKS.read_bytes() == written
    assert not cache_file().exists()


def test_a_pack_that_does_not_fit_loses_nothing_and_is_said_once(
    opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.sweep(opened("sweep.widths=[8]", "name=roomy"))
    train = trial.train_pack

    def train_pack(configs: Sequence[TrialConfig], *rest):
        if len(configs) > 2 and configs[0].seed == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return train(configs, *rest)

    monkeypatch.setattr(trial, "train_pack", train_pack)
    capsys.readouterr()
    driver.sweep(opened("sweep.widths=[8]"))
    said = [line for line in capsys.readouterr().err.splitlines() if "did not fit" in line]
    assert said == [
        "the pack of 4 trials at width 8 did not fit into memory, so it ran as packs of 2 + 2"
    ] * len(said)
    assert len(said) == 2  # seed 0 begins two packs of four
    roomy = outcomes(Path("results/roomy/ledger.jsonl"))
    assert rows().keys() == roomy.keys() and len(roomy) == 12
    for key, (status, loss) in outcomes().items():
        assert status == roomy[key][0]
        assert math.isclose(loss or 0.0, roomy[key][1] or 0.0, rel_tol=1e-5)


def test_keys_of_shapes_are_those_of_trials(tiny_trial) -> None:
    """What packs.json names is stable: the key of the shape's own trial."""
    from hptransfer.config.identity import shape_signature
    from hptransfer.execution.pack_sizes import by_shape

    config = tiny_trial(-3.0, seed=5)
    assert list(by_shape([config])) == [trial_key(shape_signature(config))]
    assert list(by_shape([config, tiny_trial(-9.0)])) == list(by_shape([config]))
