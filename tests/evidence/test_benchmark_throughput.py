"""The throughput benchmark runs, survives failures, and counts right; no time is asserted."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import throughput, throughput_processes, throughput_search
from benchmarks.throughput_baseline import Diffusion, PlainDiT
from benchmarks.throughput_plot import throughput_figure
from benchmarks.throughput_processes import Cut, Failed, Machine, fault, plain_rates, window_of
from benchmarks.throughput_profile import group_of, kernels, summary
from benchmarks.throughput_roofline import Linear, Peaks, floor, parameters, step_flops
from benchmarks.throughput_rows import aims, method_row, over, size_run
from benchmarks.throughput_search import Task, search
from benchmarks.throughput_shapes import (
    AIMED,
    CPU,
    DESIGN,
    METHODS,
    PRODUCT,
    SMALL,
    Shape,
    members,
    trial,
)
from hptransfer.config.identity import shape_signature
from hptransfer.models.parametrization.rules import build_model
from hptransfer.training import flops
from hptransfer.training.objectives import noised, objective_loss

CONTRACT = (
    "device", "date", "commit", "width", "depth", "batch", "tokens", "method", "T",
    "trial_steps_per_second", "warmup_seconds", "gib",
)  # fmt: skip
TINY = Shape(16, 2, 4, 4, head_dim=8, classes=10)
PEAKS = Peaks(fp32=1e12, bf16=2e12, bandwidth=1e11)
CONTEXT = {
    "device": "cpu", "date": "today", "commit": "abc", "peaks": PEAKS.record(), "threads": 1,
    "cpu": "some", "cores": 2, "load_at_start": 0.0, "versions": {"torch": "2"},
    "compile": None, "graph": None,
}  # fmt: skip
HERE = Machine("cpu", threads=1, seconds=0.01, blocks=3, limit=60, deadline=math.inf)


@pytest.mark.slow
def test_throughput(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "throughput.json"
    words = ["--device", "cpu", "--small", "--sizes", "2", "--processes", "2"]
    only = ["--only", "ours", "shared_eager"]  # `official` is one of the shared, alone
    assert throughput.main([*words, *only, "--out", str(out)]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [(row["method"], row["T"]) for row in rows] == [("ours", 2), ("shared_eager", 2)]
    for row in rows:
        assert tuple(row)[:7] == CONTRACT[:7] and set(CONTRACT) <= set(row)
        assert row["error"] is None and row["gib"] > 0 and row["warmup_seconds"] > 0
        assert 0 < row["range"][0] <= row["trial_steps_per_second"] <= row["range"][1]
        assert row["roofline_quotient"] > 0 and row["utilisation"] > 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    (axes,) = throughput_figure(rows).axes
    drawn = [tuple(np.asarray(points.get_offsets())[0]) for points in axes.collections]
    assert sorted(drawn) == sorted((row["trial_steps_per_second"], 0) for row in rows)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["16, 1, 4, 4"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "| 16, 1, 4, 4 | ours | fp32 | 2 |" in printed
    assert "ours over official, at least 1" in printed


STARTED: list[tuple[str, int]] = []  # kind and number of what the fake was asked to run at once


def fake_run(
    machine: Machine, jobs: Sequence[dict[str, Any]], cache: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Answer at once: packs take 10·T trial-steps/s up to four, and eight have no room."""
    job = jobs[0]
    STARTED.append((job["kind"], len(jobs)))
    if job["kind"] == "peaks":
        return [{"device": "cpu", "versions": {}, "peaks": PEAKS.record()}], {}
    if job["kind"] == "plain" and len(jobs) == 1 and job["precision"] == "fp32":
        raise Failed("ended with code 1: RuntimeError: planted")
    measured = {"warmup_seconds": 1.0, "gib": 2.0}
    if job["kind"] == "plain":
        ends = [0.1 * i for i in range(100)]
        return [{**measured, "ends": ends}] * len(jobs), {"start": 1.0, "block": 1.0, "end": 4.0}
    if job["size"] > 4:
        raise Failed("out of memory: planted")
    return [{**measured, "rates": [10.0 * job["size"]] * 3}], {}


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    STARTED.clear()
    monkeypatch.setattr(throughput, "run", fake_run)
    monkeypatch.setattr(throughput_search, "run", fake_run)


@pytest.mark.usefixtures("faked")
def test_a_method_that_fails_leaves_the_others(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    words = ["--device", "cpu", "--small", "--sizes", "1", "2", "4", "8", "16"]
    assert throughput.main([*words, "--out", str(out)]) == 0
    official, ours, shared = json.loads(out.read_text(encoding="utf-8"))
    assert official["trial_steps_per_second"] is None
    assert official["error"] == "ended with code 1: RuntimeError: planted"
    assert (ours["T"], ours["trial_steps_per_second"], ours["error"]) == (4, 40.0, None)
    assert [run["size"] for run in ours["runs"]] == [1, 2, 4, 8]  # 16 has no room either
    assert ours["runs"][-1]["error"] == "out of memory: planted"
    assert (shared["T"], shared["trial_steps_per_second"], shared["gib"]) == (2, 20.0, 4.0)


@pytest.mark.usefixtures("faked")
def test_a_record_is_resumed_and_not_begun_anew(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    words = ["--device", "cpu", "--small", "--out", str(out)]
    assert throughput.main([*words, "--only", "ours", "--sizes", "1", "2"]) == 0
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    row["runs"][0]["gib"] = 99.0
    out.write_text(json.dumps([row]), encoding="utf-8")
    assert throughput.main([*words, "--resume", "--sizes", "1", "2", "4"]) == 0
    rows = {row["method"]: row for row in json.loads(out.read_text(encoding="utf-8"))}
    assert list(rows) == ["ours", "official", "shared_eager"]
    assert [(run["size"], run["gib"]) for run in rows["ours"]["runs"]] == [(1, 99), (2, 2), (4, 2)]


@pytest.mark.usefixtures("faked")
def test_one_process_that_shares_with_nobody_is_measured_once(tmp_path: Path) -> None:
    """On a GPU k = 1 of the eager processes is `official_bf16`, which the fake lets succeed."""
    out = tmp_path / "throughput.json"
    only = ["--only", "official_bf16", "shared_eager", "--processes", "1", "2", "--small"]
    assert throughput.main(["--device", "cuda", *only, "--out", str(out)]) == 0
    alone, shared = json.loads(out.read_text(encoding="utf-8"))
    assert shared["runs"][0] == alone["runs"][0] and shared["T"] == 2
    assert STARTED == [("peaks", 1), ("plain", 1), ("plain", 2)]


def test_a_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    out.write_text('{"benchmark": "packing"}', encoding="utf-8")
    with pytest.raises(SystemExit, match="must be a record that this benchmark wrote"):
        throughput.main(["--device", "cpu", "--resume", "--out", str(out)])


def test_a_pack_stops_growing_when_it_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds, tried = {1: 10.0, 2: 20.0, 4: 20.3, 8: 99.0}, []

    def attempt(machine: Machine, task: Task, size: int, cache: Path) -> dict[str, Any]:
        tried.append(size)
        return size_run(size, rates=[speeds[size]])

    monkeypatch.setattr(throughput_search, "attempt", attempt)
    gpu = dataclasses.replace(HERE, device="cuda")
    for machine, method, expected in (
        (gpu, "ours", [1, 2, 4]),
        (gpu, "shared_eager", [1, 2, 4, 8]),
        (HERE, "ours", [1, 2, 4, 8]),
    ):
        tried.clear()
        task = Task(TINY, method, "fp32", compile=False)
        search(machine, task, (1, 2, 4, 8), [], lambda runs, one: None)
        assert tried == expected


def test_a_process_that_fails_is_a_failure_and_no_time_left_is_none(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"ended with code 1: KeyError: 'nothing'"):
        throughput_processes.run(HERE, [{"kind": "nothing"}], tmp_path)
    slow = dataclasses.replace(HERE, limit=0.0)
    with pytest.raises(Failed, match="took longer than 0 s"):
        throughput_processes.run(slow, [{"kind": "nothing"}], tmp_path)
    over_time = dataclasses.replace(HERE, deadline=time.monotonic())
    with pytest.raises(Cut):
        throughput_processes.run(over_time, [{"kind": "nothing"}], tmp_path)


def test_memory_is_told_from_other_failures() -> None:
    full = "Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.\n"
    assert fault(full, 1).startswith("out of memory: torch.OutOfMemoryError")
    assert fault("a\nValueError: b\nclosing", 1) == "ended with code 1: ValueError: b"
    assert fault("", -9) == "ended with code -9: "


def test_rates_are_those_of_the_common_window() -> None:
    """Steps of 0.5 s and of 1 s, the window from 2 to 8: 2 + 1 steps a second."""
    window = window_of(HERE, [{"step_seconds": 0.1}, {"step_seconds": 0.3}], now=1.0)
    assert window == pytest.approx({"start": 1.8, "block": 1.8, "end": 7.2})  # 3 slow steps, shared
    answers = [{"ends": [0.5 * i for i in range(30)]}, {"ends": [0.25 + i for i in range(12)]}]
    rates = plain_rates(answers, {"start": 2.0, "block": 2.0, "end": 8.0})
    assert rates == pytest.approx([3.0, 3.0, 3.0])


@pytest.mark.parametrize("shape", [*AIMED, *CPU], ids=str)
def test_flops_and_parameters_are_those_that_torch_counts(shape: Shape) -> None:
    config = trial(shape, "fp32", 1e-4)
    _, counted = flops.step_flops(config.model, config.data.layout, shape.batch)
    assert step_flops(shape) == pytest.approx(counted, rel=0.02)
    with torch.device("meta"):
        model = PlainDiT(shape)
    assert parameters(shape) == sum(p.numel() for p in model.parameters())


def test_the_roofline_is_the_hand_count() -> None:
    """Peak 1e12, bandwidth 1e11: rows of a layer are dear, its weights cheap."""
    layer = Linear(rows=1000, inputs=10, outputs=20)  # 4e5 FLOPs, 0.4 µs; its memory takes longer
    forward = (1000 * 10 + 10 * 20 + 1000 * 20) * 4 / 1e11
    assert layer.seconds(1e12, 1e11, 4) == pytest.approx(3 * forward)
    assert layer.seconds(1e9, 1e11, 4) == pytest.approx(3 * 4e5 / 1e9)
    first = dataclasses.replace(layer, input_gradient=False)
    assert first.seconds(1e12, 1e11, 4) == pytest.approx(2 * forward)

    found = floor(TINY, "fp32", PEAKS)
    stream = 4 * 4 * 16  # batch, tokens, width
    # Five residual points of 4 + 6 elements, two blocks of GELU with 4 + 4.
    assert found["elementwise"] == pytest.approx((5 * 10 + 2 * 8) * stream * 4 / 1e11)
    assert found["attention"] == pytest.approx(2 * (4 + 8) * stream * 4 / 1e11)
    assert found["optimizer"] == pytest.approx(parameters(TINY) * 36 / 1e11)
    assert found["seconds"] == pytest.approx(sum(v for k, v in found.items() if k != "seconds"))
    half = floor(TINY, "bf16", PEAKS)
    assert half["elementwise"] == pytest.approx(found["elementwise"] / 2)
    assert half["optimizer"] == pytest.approx(parameters(TINY) * 38 / 1e11)


def test_the_plain_model_and_its_loss_are_the_trials_own() -> None:
    config = trial(TINY, "fp32", 1e-4)
    at_base = dataclasses.replace(config.model, base_width=TINY.width)
    ours, theirs = build_model(dataclasses.replace(config, model=at_base)), PlainDiT(TINY)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.2 * torch.randn(p.shape, generator=generator)
        for name, p in theirs.named_parameters()
    }
    weights["pos_embed"] = ours.get_buffer("pos_embed")
    theirs.load_state_dict(weights)
    ours.load_state_dict(weights, strict=False)
    clean, noise = (torch.randn(4, 4, 4, 4, generator=generator) for _ in range(2))
    u, labels = torch.tensor([0.0025, 0.0055, 0.3, 0.99]), torch.tensor([0, 3, 9, 10])
    at = noised(config.objective, clean, noise, u)
    loss = objective_loss(config.objective, ours(at.x, at.t, labels), at)
    theirs_loss = Diffusion().loss(theirs, clean, (u * 1000).long(), noise, labels).mean()
    torch.testing.assert_close(
        ours(at.x, at.t, labels), theirs(at.x, at.t, labels), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(loss, theirs_loss, rtol=1e-5, atol=0)


def test_members_fit_into_one_pack_and_differ() -> None:
    trials = members(SMALL[0], "fp32", 10)
    assert len({shape_signature(config) for config in trials}) == 1
    assert len({(config.optimizer.lr, config.seed) for config in trials}) == 10
    assert [config.seed for config in trials] == [0] * 8 + [1] * 2
    assert trials[0].budget.ema_decay == pytest.approx(0.9999)


def test_shapes_with_aims_and_the_main_ratio_come_first() -> None:
    assert len(PRODUCT) == 4 * 3 * 3 * 2 and set(DESIGN) <= set(PRODUCT)
    order = throughput.ordered(DESIGN, METHODS)
    assert len(order) == len(set(order)) == len(DESIGN) * len(METHODS)
    assert order[:6] == [(shape, m) for shape in AIMED for m in ("official", "ours")]
    assert {shape for shape, _ in order[: 3 * len(METHODS)]} == set(AIMED)


def test_a_row_is_its_fastest_size() -> None:
    runs = [
        size_run(k, rates=[rate, rate, 9 * rate]) for k, rate in ((1, 10.0), (2, 30.0), (4, 20.0))
    ]
    row = method_row(TINY, "ours_fp32", "fp32", runs, CONTEXT)
    assert (row["method"], row["T"], row["trial_steps_per_second"]) == ("ours", 2, 30.0)
    assert row["range"] == [30.0, 270.0] and row["runs"] == runs
    assert row["tflops"] == pytest.approx(30 * step_flops(TINY) / 1e12, rel=1e-3)
    assert row["utilisation"] == pytest.approx(row["tflops"], rel=1e-3)  # of a peak of 1 TFLOP/s
    quotient = 1 / 30 / floor(TINY, "fp32", PEAKS)["seconds"]
    assert row["roofline_quotient"] == pytest.approx(quotient, rel=1e-3)


def test_aims_are_judged_on_the_fastest_of_ours() -> None:
    def row(method: str, precision: str, speed: float) -> dict[str, Any]:
        run = size_run(8, rates=[speed], warmup_seconds=31.0, gib=1.0)
        return method_row(AIMED[1], method, precision, [run], CONTEXT)

    rows = [row("official", "fp32", 10.0), row("ours_fp32", "fp32", 150.0)]
    rows += [row("ours", "bf16", 230.0), row("shared_eager", "bf16", 40.0)]
    rows += [row("shared_compiled", "bf16", 20.0)]
    assert over(rows[2], rows, "official") == 23
    verdicts = {words: verdict for _, words, _, verdict in aims(rows, gpu=True)}
    assert verdicts == {
        "ours over official, at least 22": "pass",
        "ours over shared, at least 6": "fail",
        "warm-up of a new shape, s, at most 30": "fail",
        "warm-up of a cached shape, s, at most 5": "not measured",
    }


def test_a_profile_is_shares_of_the_wall_time() -> None:
    names = {
        "sm90_xmma_gemm_bf16bf16": "matmul",
        "fmha_cutlassF_bf16": "attention",
        "triton_poi_fused__to_copy_add_gelu_3": "norm and elementwise",
        "triton_poi_fused_add_lerp_mul_sqrt_0": "optimizer",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "void at::native::vectorized_elementwise_kernel<4>": "norm and elementwise",
    }
    assert {name: group_of(name) for name in names} == names
    events = [{"ph": "X", "cat": "kernel", "name": n, "dur": 1e5} for n in names]
    found = summary(kernels({"traceEvents": [*events, {"ph": "X", "cat": "cpu_op"}]}), wall=1.0)
    assert found["groups"]["norm and elementwise"] == 0.2
    assert found["groups"]["idle"] == 0.4
