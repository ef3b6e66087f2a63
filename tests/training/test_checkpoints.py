"""Packs that are cut off go on where they left a checkpoint, and end with the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Precision, Status, Weights
from hptransfer.errors import MachineError, UserError
from hptransfer.system.storage import LocalStorage
from hptransfer.training import device
from hptransfer.training.packs import checkpoint as checkpoint_module
from hptransfer.training.packs import run
from hptransfer.training.packs.checkpoint import discard_pack, pack_id
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import WARM_UP, Report
from tests.support.checkpoints import RUNTIME, cut_off, told, with_death
from tests.support.packs import ABSURD, FAMILIES, varied

STEPS = 8


def files(checkpoints: CheckpointConfig) -> list[Path]:
    return sorted(Path(checkpoints.folder).rglob("*.safetensors"))


@pytest.mark.parametrize("deaths", [(), (0, 2), (0, 5)])
@pytest.mark.parametrize("weights", list(Weights))
def test_a_pack_cut_off_at_any_report_ends_with_the_same_bits(
    weights: Weights,
    deaths: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    averages: dict[str, Any] = dict(
        weights=weights, ema_fraction=0.5, judged_ema_fractions=(0.2, 0.9)
    )
    trials = varied("dit", steps=STEPS, **averages)
    for member, step in zip((1, 3), deaths, strict=False):
        with_death(member, step, monkeypatch)
    whole = run_pack(trials, RUNTIME)
    expected = told(whole)
    died = [result for result in whole if result.status is Status.diverged]
    assert [result.diverged_at_step for result in died] == list(deaths)
    for report in range(STEPS):
        checkpoints = CheckpointConfig(str(tmp_path / f"{report}"), every_s=0.0)
        cut_off(trials, checkpoints, report)
        heard: list[int] = []
        results = run_pack(trials, RUNTIME, lambda r, to=heard: to.append(r.step), checkpoints)
        assert told(results) == expected
        went_on = [f"go on at step {report} of {STEPS}" in note for note in results[0].notes]
        assert went_on == ([True] if report else [])
        assert heard == list(range(report + 1, STEPS + 1))


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_ends_with_the_same_bits(
    family: str, precision: Precision, checkpoints: CheckpointConfig
) -> None:
    trials = [
        dataclasses.replace(config, precision=precision)
        for config in varied(family, steps=4, rates=(-8.0, ABSURD, -7.0), weights=Weights.ema)
    ]
    cut_off(trials, checkpoints, 2)
    assert told(run_pack(trials, RUNTIME, checkpoints=checkpoints)) == told(
        run_pack(trials, RUNTIME)
    )


FAST = [
    pytest.param(RuntimeConfig(compile=True), marks=pytest.mark.slow, id="compiled"),
    pytest.param(RuntimeConfig(device="cuda"), marks=pytest.mark.gpu, id="captured"),
    pytest.param(
        RuntimeConfig(device="cuda", compile=False, graph=False), marks=pytest.mark.gpu, id="cuda"
    ),
]


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("report", [1, WARM_UP + 3])  # before a capture, and after one
@pytest.mark.parametrize("runtime", FAST)
def test_compiled_and_captured_packs_end_with_the_same_bits(
    runtime: RuntimeConfig,
    report: int,
    precision: Precision,
    checkpoints: CheckpointConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cost in ("RECAPTURE_FLOPS", "RECOMPILE_FLOPS"):  # so that the dead are left out at once
        monkeypatch.setattr(run, cost, 0.0)
    trials = [
        dataclasses.replace(config, precision=precision)
        for config in varied(
            "dit",
            steps=3 * WARM_UP,
            rates=(-8.0, ABSURD, -7.0),
            weights=Weights.ema,
            judged_ema_fractions=(0.3,),
        )
    ]
    cut_off(trials, checkpoints, report, runtime)
    results = run_pack(trials, runtime, checkpoints=checkpoints)
    (note,) = results[0].notes
    assert "go on at step" in note
    assert told(results) == told(run_pack(trials, runtime))


def test_a_pack_cut_off_again_and_again_ends_with_the_same_bits(
    checkpoints: CheckpointConfig,
) -> None:
    trials = varied("dit", steps=STEPS)
    for _ in range(STEPS - 1):
        cut_off(trials, checkpoints, 1)  # one report further each time
    assert told(run_pack(trials, RUNTIME, checkpoints=checkpoints)) == told(
        run_pack(trials, RUNTIME)
    )
    assert len(files(checkpoints)) == 1


def test_a_checkpoint_is_really_used(checkpoints: CheckpointConfig) -> None:
    trials = varied("dit", steps=STEPS)
    cut_off(trials, checkpoints, 5)
    (path,) = files(checkpoints)
    assert path.relative_to(checkpoints.folder).as_posix() == (
        f"{pack_id(trials)}/{pack_id(trials)}.safetensors"
    )
    rewrite(path, lambda tensors: {**tensors, "moment1": tensors["moment1"] + 1})
    assert told(run_pack(trials, RUNTIME, checkpoints=checkpoints)) != told(
        run_pack(trials, RUNTIME)
    )


def rewrite(path: Path, change: Callable[[dict], dict], **counters: Any) -> None:
    """Change a checkpoint's tensors and counters, with a checksum that is right."""
    text, _ = _metadata(path)
    tensors = change(load_file(path))
    text = json.dumps({**json.loads(text), **counters})
    save_file(tensors, path, {"counters": text, "check": checkpoint_module.checksum(text, tensors)})


def _metadata(path: Path) -> tuple[str, str]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]["counters"], header["__metadata__"]["check"]


def flipped(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "foreign": lambda content: b"not a checkpoint at all, but long enough to have a header",
    "truncated": lambda content: content[: len(content) // 2],
    "flipped": flipped,
    "counters": lambda content: content.replace(b'\\"steps\\":[1,', b'\\"steps\\":[2,'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_not_used(
    damage: str, checkpoints: CheckpointConfig
) -> None:
    trials = varied("dit", steps=4)
    cut_off(trials, checkpoints, 2)
    (path,) = files(checkpoints)
    before = path.read_bytes()
    path.write_bytes(DAMAGES[damage](before))
    assert path.read_bytes() != before
    results = run_pack(trials, RUNTIME, checkpoints=checkpoints)
    assert told(results) == told(run_pack(trials, RUNTIME))
    (note,) = results[0].notes
    assert "started from its first step" in note and "damaged" in note


ELSEWHERE = [
    ("torch", lambda patch: patch.setattr(torch, "__version__", "1.0.0")),
    (
        "hptransfer",
        lambda patch: patch.setattr(device, "package_version", lambda: "9.9"),
    ),
    (
        "device",
        lambda patch: patch.setattr(checkpoint_module, "hardware_model", lambda device: "abacus"),
    ),
    ("format", lambda patch: patch.setattr(checkpoint_module, "CHECKPOINT_FORMAT", 0)),
]


@pytest.mark.parametrize(("what", "change"), ELSEWHERE)
def test_a_checkpoint_from_elsewhere_is_said_and_not_used(
    what: str,
    change: Callable[[pytest.MonkeyPatch], None],
    checkpoints: CheckpointConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials = varied("dit", steps=4)
    with monkeypatch.context() as patch:
        change(patch)
        cut_off(trials, checkpoints, 2)
    heard: list[int] = []
    results = run_pack(trials, RUNTIME, lambda r: heard.append(r.step), checkpoints)
    assert heard == [1, 2, 3, 4]
    (note,) = results[0].notes
    assert "last digits" in note and f"{what} was" in note


def test_other_settings_and_other_parameters_are_not_gone_on_from(
    checkpoints: CheckpointConfig,
) -> None:
    trials = varied("dit", steps=4)
    cut_off(trials, checkpoints, 2)
    threads = dataclasses.replace(RUNTIME, threads=2)
    (note,) = run_pack(trials, threads, checkpoints=checkpoints)[0].notes
    assert "threads was 1 and is 2" in note
    torch.set_num_threads(1)
    discard_pack(checkpoints, trials)
    cut_off(trials, checkpoints, 2)
    (path,) = files(checkpoints)
    rewrite(path, lambda tensors: {**tensors, "flat": tensors["flat"][:, 1:].contiguous()})
    (note,) = run_pack(trials, RUNTIME, checkpoints=checkpoints)[0].notes
    assert "other parameters" in note


def test_another_order_or_set_of_trials_is_another_pack(checkpoints: CheckpointConfig) -> None:
    trials = varied("dit", steps=4)
    assert len({pack_id(trials), pack_id(trials[::-1]), pack_id(trials[:2])}) == 3
    assert pack_id(trials) == pack_id(list(trials))


@pytest.mark.parametrize(
    ("every_s", "takes_s", "begun"),
    [
        (25.0, 0, [30, 60]),  # and none at the last of eight reports
        (25.0, 3, [30]),  # the next would be due 60 s after its end
        (25.0, 1, [30, 61]),  # 20 s are less than what was asked
        (0.0, 2, [10, 22, 34, 46, 58, 70, 82]),
    ],
)
def test_checkpoints_are_not_more_frequent_than_asked_and_take_a_small_share_of_the_time(
    every_s: float,
    takes_s: int,
    begun: list[int],
    checkpoints: CheckpointConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials, now = varied("dit", steps=STEPS), [0.0]
    written: list[int] = []
    write = LocalStorage.write_bytes

    def writing(storage: LocalStorage, name: str, content: bytes) -> None:
        written.append(int(now[0]))
        now[0] += takes_s
        write(storage, name, content)

    def tick(_: Report) -> None:
        now[0] += 10

    monkeypatch.setattr(LocalStorage, "write_bytes", writing)
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: now[0])
    run_pack(trials, RUNTIME, tick, dataclasses.replace(checkpoints, every_s=every_s))
    assert written == begun


@pytest.mark.parametrize("operation", ["write_bytes", "read_bytes"])
def test_a_pack_goes_on_where_checkpoints_fail(
    operation: str, checkpoints: CheckpointConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MachineError("The disk is full.")

    trials = varied("dit", steps=4)
    monkeypatch.setattr(LocalStorage, operation, full)
    results = run_pack(trials, RUNTIME, checkpoints=checkpoints)
    assert told(results) == told(run_pack(trials, RUNTIME))
    (note,) = results[0].notes
    assert "The disk is full." in note


def test_an_unknown_storage_is_the_users_error() -> None:
    with pytest.raises(UserError, match="fsspec knows"):
        run_pack(varied("dit", steps=2), RUNTIME, checkpoints=CheckpointConfig("nosuch://x"))


def test_halves_have_checkpoints_of_their_own_and_all_are_discarded(
    checkpoints: CheckpointConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, train = varied("dit", steps=4), run.train_pack

    def train_pack(configs: Sequence[TrialConfig], *rest: Any) -> run.PackOutcome:
        if len(configs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return train(configs, *rest)

    monkeypatch.setattr(run, "train_pack", train_pack)
    expected = told(run_pack(trials, RUNTIME))
    cut_off(trials, checkpoints, 6)  # the first half has four reports
    other = varied("dit", steps=3)
    cut_off(other[:2], checkpoints, 2)
    assert len(files(checkpoints)) == 3
    assert told(run_pack(trials, RUNTIME, checkpoints=checkpoints)) == expected
    discard_pack(checkpoints, trials)
    (kept,) = files(checkpoints)
    assert kept.stem == pack_id(other[:2])
    discard_pack(checkpoints, trials)  # a second time does nothing


def test_checkpoints_lie_behind_urls_too() -> None:
    checkpoints = CheckpointConfig("memory://packs/of/mine", every_s=0.0)
    trials = varied("dit", steps=4)
    cut_off(trials, checkpoints, 2)
    heard: list[int] = []
    results = run_pack(trials, RUNTIME, lambda r: heard.append(r.step), checkpoints)
    assert heard == [3, 4]
    assert told(results) == told(run_pack(trials, RUNTIME))
    discard_pack(checkpoints, trials)
    heard.clear()
    run_pack(trials, RUNTIME, lambda r: heard.append(r.step), checkpoints)
    assert heard == [1, 2, 3, 4]


def test_seconds_of_earlier_processes_count(checkpoints: CheckpointConfig) -> None:
    trials = varied("dit", steps=4)
    cut_off(trials, checkpoints, 2)
    (path,) = files(checkpoints)
    rewrite(path, lambda tensors: tensors, seconds=4000.0)
    results = run_pack(trials, RUNTIME, checkpoints=checkpoints)
    assert all(1000 < result.seconds < 1500 for result in results)
    assert math.isfinite(results[0].loss or math.nan)
