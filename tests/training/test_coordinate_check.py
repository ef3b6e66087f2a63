"""The coordinate check passes µP and names what is broken in everything else."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from hptransfer.config import (
    AdamWConfig,
    DiTConfig,
    DiTModernConfig,
    MMDiTConfig,
    ModelConfig,
    ParametrizationConfig,
    PixArtConfig,
    RuntimeConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import Broken, Init, Scaling, Schedule
from hptransfer.config.identity import with_width
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.reporting.text.answers import check_text
from hptransfer.training.packs.coordinate_check import (
    WidthMeasurement,
    answer_at_telling_rate,
    check_record,
    coordinate_check,
    measure_width,
    module_outputs,
    probe_config,
)

BASE = TrialConfig(optimizer=AdamWConfig(beta2=0.99))
WIDTHS = (24, 48, 96)
CENTRAL = -6.5


@cache
def checked(base: TrialConfig, widths: tuple[int, ...] = WIDTHS) -> dict[str, Any]:
    return coordinate_check(base, widths, CENTRAL, RuntimeConfig())


@pytest.fixture
def two_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Average over two seeds where slopes are far from the limit whatever the seeds."""
    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.CHECK_SEEDS", (0, 1))


@pytest.mark.parametrize("init", [Init.paper, Init.adaln_zero])
def test_mup_passes(init: Init) -> None:
    answer = checked(dataclasses.replace(BASE, init=init))
    assert answer["verdict"] == "pass"
    assert answer["loss_drop"] >= 0.05
    assert all(abs(slope["slope"]) <= 0.2 for slope in answer["slopes"])
    assert {slope["quantity"] for slope in answer["slopes"]} == {"init", "update"}


@pytest.mark.usefixtures("two_seeds")
@pytest.mark.parametrize("scaling", [Scaling.standard, Scaling.standard_embed])
def test_standard_fails(scaling: Scaling) -> None:
    base = dataclasses.replace(BASE, parametrization=ParametrizationConfig(scaling=scaling))
    assert checked(base, (24, 48))["verdict"] == "fail"


@pytest.mark.usefixtures("two_seeds")
@pytest.mark.parametrize("broken", [b for b in Broken if b not in (Broken.none, Broken.branch)])
def test_broken_mup_fails_and_names_a_module(broken: Broken) -> None:
    base = dataclasses.replace(BASE, parametrization=ParametrizationConfig(broken=broken))
    answer = checked(base, (24, 48))
    assert answer["verdict"] == "fail"
    assert abs(answer["worst"]["slope"]) > 0.2
    assert answer["worst"]["module"]


def test_exact_zeros_are_listed_and_left_out() -> None:
    answer = checked(BASE)
    assert "blocks.0.adaLN_modulation.1 (init)" in answer["zero"]
    assert "final_layer.linear (init)" in answer["zero"]
    assert not [name for name in answer["zero"] if "step 6" in name]
    at_init = {s["module"] for s in answer["slopes"] if s["quantity"] == "init"}
    assert not at_init & {"blocks.0.adaLN_modulation.1", "final_layer.linear"}


@pytest.mark.usefixtures("two_seeds")
def test_a_rate_too_low_to_tell_does_not_pass() -> None:
    answer = coordinate_check(BASE, (24, 48), -16.0, RuntimeConfig())
    assert answer["verdict"] == "fail"
    assert "check at a higher learning rate" in answer["warnings"][0]


@pytest.mark.parametrize("widths", [(24,), (24, 24), (48,)])
def test_widths_that_cannot_tell_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="needs at least two different widths"):
        coordinate_check(BASE, widths, CENTRAL, RuntimeConfig())


@pytest.mark.parametrize("base_width", [16, 32])
def test_mup_passes_at_other_base_widths(base_width: int) -> None:
    base = dataclasses.replace(BASE, model=DiTConfig(base_width=base_width, width=base_width))
    widths = (base_width, 2 * base_width, 4 * base_width)
    assert coordinate_check(base, widths, CENTRAL, RuntimeConfig())["verdict"] == "pass"


@pytest.mark.usefixtures("two_seeds")
def test_updates_are_changes_since_initialisation() -> None:
    answer = coordinate_check(BASE, (24, 48), -30.0, RuntimeConfig())
    init = {(r["module"], r["width"]): r["rms"] for r in answer["rms"] if r["quantity"] == "init"}
    moved = [
        r for r in answer["rms"] if r["quantity"] == "update" and (r["module"], r["width"]) in init
    ]
    assert moved
    assert all((r["rms"] or 0.0) < 1e-4 * init[r["module"], r["width"]] for r in moved)


def test_a_module_that_is_still_at_one_width_only_fails() -> None:
    def record(still: float, loss_drop: float = 0.5) -> dict[str, Any]:
        sizes = {("a", "init", 0): [1.0], ("b", "init", 0): [still]}
        moving = {key: [1.0] for key in sizes}
        runs = {24: WidthMeasurement(sizes, loss_drop), 48: WidthMeasurement(moving, loss_drop)}
        return check_record(BASE, runs, -6.0)

    answer = record(0.0)
    assert (answer["verdict"], answer["zero"]) == ("fail", [])
    assert (answer["worst"]["module"], answer["worst"]["slope"]) == ("b", None)
    assert record(1.0)["verdict"] == "pass"
    assert record(1.0, loss_drop=0.04)["verdict"] == "fail"


@pytest.mark.parametrize(
    ("base_width", "widths", "expected"), [(24, (24, 48, 96), 0.024), (48, (24, 56, 96), 0.056)]
)
def test_the_loss_drop_is_that_of_the_width_nearest_to_the_base_width(
    base_width: int, widths: tuple[int, ...], expected: float
) -> None:
    base = dataclasses.replace(BASE, model=DiTConfig(width=base_width, base_width=base_width))
    runs = {width: WidthMeasurement({("a", "init", 0): [1.0]}, width / 1000) for width in widths}
    assert check_record(base, runs, -5.0)["loss_drop"] == expected


def test_the_probe_trains_six_steps_at_the_constant_rate_that_is_checked() -> None:
    probe = probe_config(BASE, -5.0)
    budget = probe.budget
    assert (budget.schedule, budget.warmup_fraction) == (Schedule.constant, 0.0)
    assert (budget.steps, probe.optimizer.lr) == (6, 2.0**-5)


FAMILIES = [
    DiTConfig(width=16, base_width=16),
    UViTConfig(width=16, base_width=16),
    DiTModernConfig(width=16, base_width=16),
    PixArtConfig(width=16, base_width=16),
    MMDiTConfig(width=16, base_width=16),
]
families = pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.family)


FOUR_DOUBLINGS = pytest.param((16, 32, 64, 128, 256), marks=pytest.mark.slow, id="four")


@families
@pytest.mark.parametrize("widths", [pytest.param((16, 32, 64), id="two"), FOUR_DOUBLINGS])
def test_every_family_passes_over_doublings_of_its_width(
    model: ModelConfig, widths: tuple[int, ...]
) -> None:
    answer = checked(dataclasses.replace(BASE, model=model), widths)
    assert answer["verdict"] == "pass" and answer["loss_drop"] >= 0.05
    modules = {slope["module"] for slope in answer["slopes"]}
    last = "out_blocks.0" if model.family == "uvit" else "blocks.1"
    assert any(last in name for name in modules)
    assert modules & {"final_layer.linear", "decoder_pred"}


@pytest.mark.usefixtures("two_seeds")
@families
def test_every_family_fails_under_the_standard_parametrization(model: ModelConfig) -> None:
    standard = ParametrizationConfig(scaling=Scaling.standard)
    base = dataclasses.replace(BASE, model=model, parametrization=standard)
    answer = checked(base, (16, 64))
    assert answer["verdict"] == "fail" and abs(answer["worst"]["slope"]) > 0.5


@pytest.mark.usefixtures("two_seeds")
def test_a_readout_that_starts_random_may_shrink_but_not_grow() -> None:
    model = UViTConfig(width=16, base_width=16)
    base = dataclasses.replace(BASE, model=model, init=Init.original)

    def at_init(config: TrialConfig) -> dict[str, Any]:
        probe, dataset = probe_config(config, CENTRAL), load_data(config.data, None)
        runs = {w: measure_width(with_width(probe, w), dataset, RuntimeConfig()) for w in (16, 64)}
        slopes = check_record(config, runs, CENTRAL)["slopes"]
        return next(s for s in slopes if (s["module"], s["quantity"]) == ("decoder_pred", "init"))

    sound = at_init(base)
    assert sound["ok"] and -0.7 < sound["slope"] < -0.3
    twice = ParametrizationConfig(broken=Broken.readout_twice)
    assert not at_init(dataclasses.replace(base, parametrization=twice))["ok"]


@pytest.mark.parametrize(
    ("slopes", "used", "verdict"),
    [
        ({-6.0: 0.1}, -6.0, "pass"),
        ({-6.0: 0.3, -7.0: 0.1}, -7.0, "pass"),  # the rate was near the edge of stability
        ({-6.0: 0.3, -7.0: -0.4, -8.0: 0.3}, -8.0, "fail"),
        ({-6.0: None, -7.0: 0.1}, -7.0, "pass"),  # sizes that were not finite
        ({-6.0: 0.65}, -6.0, "fail"),  # no rate mends that
        ({-6.0: 0.55, -7.0: 0.1}, -7.0, "pass"),  # with an interval of 0.45 to 0.65
        ({-9.0: 0.3}, -9.0, "fail"),  # nor does a lower one tell more
        ({-7.5: 0.3, -8.5: 0.1}, -7.5, "fail"),  # the lower one learned too little to tell
    ],
)
def test_a_failure_that_may_be_the_rates_is_looked_at_below(
    slopes: dict[float, float | None], used: float, verdict: str
) -> None:
    def check_at(log2_lr: float) -> dict[str, Any]:
        slope = slopes[log2_lr]  # no other rate may be asked for
        return {
            "log2_lr": log2_lr,
            "verdict": "pass" if slope is not None and abs(slope) <= 0.2 else "fail",
            "causes": [],
            "worst": {
                "slope": slope,
                "error": None if slope is None else 0.1,
                "ok": slope is not None and abs(slope) <= 0.2,
            },
            "loss_drop": 0.03 if log2_lr < -8 else 0.2,
        }

    answer = answer_at_telling_rate(check_at, next(iter(slopes)))
    assert (answer["log2_lr"], answer["verdict"]) == (used, verdict)


@pytest.mark.parametrize(
    ("name", "quantity", "octaves", "ok"),
    [
        ("final_layer.linear", "init", -0.69, True),
        ("final_layer.linear", "init", -0.71, False),
        ("final_layer.linear", "init", 0.21, False),
        ("final_layer.linear", "update", -0.21, False),
        ("final_layer", "init", -0.69, True),  # it holds the readout
        ("final_layer[1]", "init", -0.69, True),
        ("final_layer.adaLN_modulation.1", "init", -0.21, False),
        ("blocks.0", "init", -0.21, False),
    ],
)
def test_only_what_holds_a_readout_may_shrink_and_only_by_half_an_octave_more(
    name: str, quantity: str, octaves: float, ok: bool
) -> None:
    runs = {
        width: WidthMeasurement({(name, quantity, 0): [size]}, 0.5)
        for width, size in ((24, 1.0), (48, 2.0**octaves))
    }
    answer = check_record(BASE, runs, -6.0)
    assert answer["slopes"][0]["ok"] is ok


def test_the_worst_is_what_fails_and_has_no_slope_or_the_steepest() -> None:
    def worst(**sizes: float) -> str:
        wide = {(name.replace("_", "."), "init", 0): [size] for name, size in sizes.items()}
        runs = {
            24: WidthMeasurement({key: [1.0] for key in wide}, 0.5),
            48: WidthMeasurement(wide, 0.5),
        }
        return check_record(BASE, runs, -6.0)["worst"]["module"]

    assert worst(steep=2.0, still=0.0, steeper=4.0) == "still"
    assert worst(steep=2.0, steeper=4.0) == "steeper"
    runs = {
        width: WidthMeasurement(
            {("final_layer", "init", 0): [a], ("blocks.0", "init", 0): [b]}, 0.5
        )
        for width, a, b in ((24, 1.0, 1.0), (48, 2**-0.6, 2**0.3))
    }
    answer = check_record(BASE, runs, -6.0)
    assert answer["worst"]["module"] == "blocks.0"  # the readout falls faster, as it may


class Parts(torch.nn.Linear):
    """A layer whose outputs are several, of which some have no size."""

    def forward(self, x: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x, x > 0, None, super().forward(x)


def test_every_floating_output_of_every_module_with_parameters_is_recorded() -> None:
    plain, without = torch.nn.Linear(2, 2), torch.nn.ReLU()
    model = torch.nn.ModuleDict({"parts": Parts(2, 2), "plain": plain, "without": without})
    x = torch.ones(3, 2)

    def call(_: torch.nn.Module) -> None:
        model["parts"](x)
        model["without"](model["plain"](x))

    outputs = module_outputs(model, call)
    assert list(outputs) == ["parts[0]", "parts[3]", "plain"]
    assert torch.equal(outputs["plain"], plain(x))
    call(model)
    assert list(outputs) == ["parts[0]", "parts[3]", "plain"]  # the hooks are gone


# Noise, narrow widths, and causes.


def record_of_slopes(*octaves: float, spread: float = 0.0, first: int = 24, seeds: int = 8) -> Any:
    """Return the record of a module whose log2 RMS grows by `octaves` from width to width."""
    scatter = spread * np.resize([1.0, -1.0], seeds)
    levels = np.cumsum([0.0, *octaves])
    runs = {
        first * 2**index: WidthMeasurement({("a", "update", 2): list(2 ** (level + scatter))}, 0.5)
        for index, level in enumerate(levels)
    }
    return check_record(BASE, runs, -6.0)


@pytest.mark.parametrize(
    ("octaves", "spread", "first", "verdict", "unsure"),
    [
        ((0.32, 0.32), 0.0, 24, "fail", None),
        ((0.28, 0.28), 0.0, 24, "inconclusive", "narrow"),
        ((0.28, 0.28), 0.0, 64, "fail", None),
        ((0.3, 0.3), 0.5, 24, "inconclusive", "noise"),  # the interval includes the limit
        ((0.6, 0.1), 0.0, 24, "inconclusive", "narrow"),  # the deviation dies out
        ((0.6, 0.1), 0.5, 24, "pass", "noise"),  # both: nothing speaks for a fault
        ((0.1, 0.6), 0.0, 24, "fail", None),  # it grows
        ((1.6, 0.1), 0.0, 24, "fail", None),  # too steep to be the widths'
        ((0.33,), 0.0, 24, "inconclusive", "narrow"),
        ((0.33,), 0.0, 64, "fail", None),  # two widths that are wide enough
        ((-0.33,), 0.5, 64, "inconclusive", "noise"),
        ((0.6,), 0.1, 24, "fail", None),
        ((0.1, 0.1), 0.5, 24, "pass", None),
    ],
)
def test_a_slope_fails_only_where_neither_noise_nor_narrow_widths_explain_it(
    octaves: tuple[float, ...], spread: float, first: int, verdict: str, unsure: str | None
) -> None:
    answer = record_of_slopes(*octaves, spread=spread, first=first)
    (slope,) = answer["slopes"]
    assert (answer["verdict"], slope["unsure"]) == (verdict, unsure)
    assert bool(answer["warnings"]) == (verdict == "inconclusive")
    if verdict == "inconclusive":
        told = {"noise": "may be noise", "narrow": "too narrow to tell"}[str(unsure)]
        assert told in answer["warnings"][0] and "64,128,256" in answer["warnings"][0]
        assert "cannot tell whether µP holds (inconclusive)" in check_text(answer)
        assert answer["causes"] == []


def test_the_interval_is_students_over_seeds_and_widths() -> None:
    (slope,) = record_of_slopes(0.3, 0.3, spread=0.5)["slopes"]
    # Each width's mean has the error 0.5·√(8/7)/√8; the slope's is that over √2, since the widths
    # lie one octave apart; 2.0796 is Student's 97.5 % quantile at 3·7 degrees of freedom.
    error = 0.5 * (8 / 7) ** 0.5 / 8**0.5 / 2**0.5 * 2.0796
    assert slope["error"] == pytest.approx(error, rel=1e-3)
    assert record_of_slopes(0.3, 0.3, seeds=1)["slopes"][0]["error"] is None


def test_one_seed_alone_fails_only_what_is_steep() -> None:
    assert record_of_slopes(0.3, 0.3, seeds=1)["verdict"] == "inconclusive"
    assert record_of_slopes(0.6, 0.6, seeds=1)["verdict"] == "fail"


def test_a_failure_names_the_parameter_of_the_first_module_that_fails() -> None:
    sizes = [("x_embedder.proj", "update", 2), ("blocks.0.attn.qkv", "update", 2)]
    runs = {
        width: WidthMeasurement({key: [2.0**octave] for key in sizes}, 0.5)
        for octave, width in enumerate((24, 48))
    }
    (cause,) = check_record(BASE, runs, -6.0)["causes"]
    assert (cause["parameter"], cause["role"]) == ("x_embedder.proj.weight", "input")
    assert cause["type"] is None and not cause["certain"]
    assert "first module whose output changes its size in training" in cause["sentence"]
    text = check_text(check_record(BASE, runs, -6.0))
    assert f"cause    {cause['sentence']}" in text


def test_the_attention_weights_of_torchs_layer_are_not_measured() -> None:
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.ones(2, 3, 8)
    outputs = module_outputs(layer, lambda module: module(x, x, x))
    assert list(outputs) == ["(model)"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("widths", [(16, 32), (16, 32, 64)])
def test_narrow_dits_never_fail(depth: int, widths: tuple[int, ...]) -> None:
    model = DiTConfig(width=16, base_width=16, depth=depth, head_dim=8)
    answer = checked(dataclasses.replace(BASE, model=model), widths)
    assert answer["verdict"] != "fail"
    assert answer["verdict"] == "pass" or len(widths) == 2
