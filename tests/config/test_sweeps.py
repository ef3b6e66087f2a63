"""The shipped sweeps: each can be planned and realised, and its header says what it costs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config import RuntimeConfig
from hptransfer.config.choices import Scaling, Status
from hptransfer.config.compose.compose import (
    compose_file,
    resolved_yaml,
    shipped_folder,
    sweep_config,
)
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.results import ledger_rows
from hptransfer.sweeping.design.trials import check_target, realised, wanted
from hptransfer.sweeping.plan.plan import planned_trials
from hptransfer.training.packs.run import run_pack
from tests.support.data_folders import FASHION_MNIST, needs_fashion_mnist
from tests.support.recorded_rows import PROVENANCE, append_rows, result

SWEEPS = {path.stem: path for path in sorted(shipped_folder("sweeps").glob("*.yaml"))}
FASHION = [name for name in SWEEPS if name.endswith("_fashion")]
PAPER = (
    *("dit_imagenet", "dit_imagenet_conditions", "pixart_sa1b", "mmdit_captioned"),
    "uvit_imagenet",
)
FAMILIES = ("dit", "uvit", "pixart", "mmdit")


def shipped(name: str, *overrides: str) -> SweepConfig:
    return sweep_config(compose_file(SWEEPS[name], list(overrides)))


def header(name: str) -> str:
    """Return the comment that opens a sweep file."""
    lines = SWEEPS[name].read_text().splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_can_be_planned_and_its_target_realised(name: str) -> None:
    sweep = shipped(name)
    assert sweep.question.endswith("?") and sweep.statistic.endswith(".")
    assert len(planned_trials(sweep)) >= len(sweep.widths) * len(sweep.seeds)
    assert sweep.target is not None
    check_target(sweep, sweep.target)
    middle = {f"log2_{hp}": (axis.low + axis.high) / 2 for hp, axis in sweep.search}
    pack = realised(sweep, sweep.target, middle)
    assert len({trial_key(config) for config in pack}) == len(pack)
    assert len(pack) >= sweep.realise.seeds * sweep.realise.points


@pytest.mark.parametrize("name", SWEEPS)
def test_every_header_says_on_what_and_for_how_long(name: str) -> None:
    if name in FASHION:
        assert re.search(r"H100: about \d+ minutes", header(name))
        assert re.search(rf"timeout -s TERM 480 hptransfer (run|sweep) {name} ", header(name))
    elif name in PAPER:
        assert re.search(r"GPU-hours by FLOPs .* for the \d+ trials", header(name))
        assert "arXiv 2505.15270" in header(name)
    else:
        assert re.search(r"CPU.* (minutes?|hours?)\b", header(name))


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sweeps_have_smoke_editions_of_the_same_kind(name: str) -> None:
    smoke = shipped(f"{name.removesuffix('_conditions')}_smoke")
    sweep = shipped(name)
    assert smoke.axes == sweep.axes and smoke.design.method == sweep.design.method
    assert type(smoke.base.model) is type(sweep.base.model) and smoke.base.init is sweep.base.init
    assert type(smoke.base.objective) is type(sweep.base.objective)
    same = ("beta1", "beta2", "eps", "weight_decay", "clip_norm")
    assert all(
        getattr(smoke.base.optimizer, field) == getattr(sweep.base.optimizer, field)
        for field in same
    )


def test_the_papers_sizes_are_those_of_its_sweeps() -> None:
    """Widths, rates, lengths and targets as arXiv 2505.15270 has them."""
    sweeps = {name: shipped(name) for name in PAPER}
    dit, others = sweeps["dit_imagenet"], sweeps["dit_imagenet_conditions"]
    assert dit.widths == (144, 288, 576)
    assert dict(dit.search)["lr"].points == (-13, -12, -11, -10, -9)
    assert (dit.base.budget.steps, dit.base.budget.batch_size) == (200_000, 256)
    assert dit.base.budget.ema_decay == pytest.approx(0.9999, abs=1e-8)
    assert dit.target is not None and dit.target.budget.ema_decay == pytest.approx(0.9999, abs=1e-8)
    assert len(others.conditions) == 5
    pixart = sweeps["pixart_sa1b"]
    assert pixart.target is not None
    of_target, of_proxy = pixart.target.budget, pixart.base.budget
    epochs = [b.steps * b.batch_size / 11e6 for b in (of_proxy, of_target)]
    assert epochs == pytest.approx([5, 30], rel=1e-4)
    for budget in (of_proxy, of_target):
        assert budget.warmup_fraction * budget.steps == pytest.approx(1000, rel=1e-3)
        assert budget.ema_fraction * budget.steps == pytest.approx(10_000, rel=1e-3)
    assert len(planned_trials(sweeps["mmdit_captioned"])) == 80
    # Both files ask for the same trials where their questions meet.
    assert len(set(wanted(dit)) & set(wanted(others))) == 10


@pytest.mark.parametrize("name", FASHION)
def test_a_gpu_edition_asks_what_its_cpu_edition_asks(name: str) -> None:
    sweep, small = shipped(name), shipped(name.removesuffix("_fashion"))
    assert sweep.axes == small.axes and sweep.parametrizations == small.parametrizations
    assert sweep.varied == small.varied and sweep.design.method == small.design.method
    assert len(sweep.widths) >= len(small.widths)
    data, model = sweep.base.data, sweep.base.model
    assert (data.layout.image_size // getattr(model, "patch_size", 0)) ** 2 == 256
    assert type(model) is type(small.base.model) and model.base_width == sweep.widths[0]


@pytest.mark.parametrize("name", ["init_scale", "output_scale"])
def test_scales_are_swept_at_a_rate_of_the_learning_rate_study(name: str) -> None:
    """At base width the arms are one model, and unit scale is the rate study's own trial."""
    scales, rates = shipped(name), shipped("lr_transfer")
    assert any(trial_key(config) in wanted(rates) for config in wanted(scales).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rate_study_is_of_five_widths_and_one_init_in_every_family(family: str) -> None:
    for name in ("lr_transfer", "lr_transfer_fashion"):
        sweep = shipped(name, f"model={family}")
        doublings = [math.log2(width / sweep.widths[0]) for width in sweep.widths]
        assert doublings == [0, 1, 2, 3, 4]
        assert set(sweep.parametrizations) == set(Scaling) - {Scaling.complete}
        assert sweep.base.model.family == family


def planted_loss(log2_lr: float, steps: int) -> float:
    """Return a basin whose optimum falls by half an octave per doubling of the steps."""
    return 0.6 + 0.02 * (log2_lr + 5.0 + 0.5 * math.log2(steps / 150)) ** 2


def test_the_conditions_targets_rate_is_shifted_and_its_length_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    composed = compose_file(SWEEPS["conditions"], [])
    sweep = sweep_config(composed)
    folder = tmp_path / "results" / sweep.name
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(resolved_yaml(composed, name=sweep.name))
    rows = []
    for index, config in enumerate(wanted(sweep).values()):
        point = hps(config, sweep.axes)
        loss = planted_loss(point["log2_lr"], config.budget.steps) + 2e-4 * (index * 7 % 5 - 2)
        rows.append(ledger_rows.ledger_row(result(config=config, loss=loss), point, PROVENANCE))
    append_rows(folder, rows)
    assert main(["transfer", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert -7.1 < answer["hps"]["log2_lr"]["value"] < -6.1  # -5 and half of three octaves
    assert any("1200" in warning for warning in answer["warnings"]), answer["warnings"]


@needs_fashion_mnist
@pytest.mark.parametrize(
    "model", [*(f"model={family}" for family in FAMILIES), "model.condition=caption"]
)
def test_every_family_trains_on_fashion_mnist_by_class_or_caption(model: str) -> None:
    caption = ["model=uvit", model] if "condition" in model else [model]
    tiny = ["model.depth=2", "budget.steps=4", "budget.batch_size=4", "budget.eval_samples=8"]
    composed = compose_file(SWEEPS["lr_transfer_fashion"], [*caption, *tiny, "precision=fp32"])
    runtime = RuntimeConfig(data_folder=FASHION_MNIST)
    (trained,) = run_pack([composed.trial], runtime)
    assert trained.status is Status.completed
    assert trained.loss is not None and trained.loss < trained.loss_at_init
