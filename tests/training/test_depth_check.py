"""The coordinate check over depth: `complete` passes, and without its branch factor it fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config import (
    AdamWConfig,
    CustomConfig,
    DiTConfig,
    MMDiTConfig,
    ModelConfig,
    MuonConfig,
    ParametrizationConfig,
    PixArtConfig,
    RuntimeConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import Broken, Init, Scaling
from hptransfer.errors import UserError
from hptransfer.models.parametrization.muon import muon_factors
from hptransfer.models.parametrization.rules import parameter_rules
from hptransfer.reporting.figures.coordinate_check import last_updates
from hptransfer.reporting.text.answers import check_text
from hptransfer.training.packs.coordinate_check import probe_config
from hptransfer.training.packs.depth_check import LAST, depth_check, may_shrink

DEPTHS = (2, 4, 8)


@pytest.fixture
def four_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Average over four seeds where slopes are far from the limit whatever the seeds."""
    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.CHECK_SEEDS", range(4))


def trial(family: type[ModelConfig], **of_parametrization: Any) -> TrialConfig:
    of_parametrization = {"scaling": Scaling.complete, **of_parametrization}
    return TrialConfig(
        model=family(width=24, base_width=24, depth=2, base_depth=2),  # pyright: ignore
        parametrization=ParametrizationConfig(**of_parametrization),
        optimizer=AdamWConfig(beta2=0.99),
        init=Init.paper,
    )


def checked(config: TrialConfig, depths: tuple[int, ...] = DEPTHS) -> dict[str, Any]:
    return depth_check(config, depths, -6.5, RuntimeConfig())


OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in (PixArtConfig, MMDiTConfig)]


@pytest.mark.parametrize("family", [DiTConfig, *OTHERS])
def test_complete_passes_over_depth(family: type[ModelConfig]) -> None:
    answer = checked(trial(family))
    assert answer["verdict"] == "pass", answer["worst"]
    assert (answer["axis"], answer["depths"]) == ("depth", [2, 4, 8])
    modules = {slope["module"] for slope in answer["slopes"]}
    assert LAST in " ".join(modules) and "final_layer.linear" in modules
    assert not [name for name in modules if "blocks.0" in name or "blocks.1" in name]


@pytest.mark.usefixtures("four_seeds")
@pytest.mark.parametrize("family", [DiTConfig, PixArtConfig, MMDiTConfig])
def test_it_fails_without_the_branch_factor(family: type[ModelConfig]) -> None:
    answer = checked(trial(family, broken=Broken.branch), (2, 8))
    assert answer["verdict"] == "fail"
    assert answer["worst"]["slope"] > 0.4


@pytest.mark.usefixtures("four_seeds")
def test_standard_fails_over_depth_and_says_so_in_words() -> None:
    answer = checked(trial(DiTConfig, scaling=Scaling.standard), (2, 8))
    assert answer["verdict"] == "fail"
    text = check_text(answer)
    assert "modules that change with the depth, which µP forbids" in text
    assert "Trained at depths 2, 8" in text and "for comparison only" in text
    assert set(next(iter(last_updates(answer).values()))) == {2, 8}


def under_muon(**of_parametrization: Any) -> TrialConfig:
    own = trial(DiTConfig, **of_parametrization)
    muon = MuonConfig(adam_lr=2**-7)
    return dataclasses.replace(own, optimizer=muon, init=Init.adaln_zero)


@pytest.mark.slow
@pytest.mark.parametrize("a", [0.5, 1.0])
def test_complete_passes_over_depth_under_muon(a: float) -> None:
    answer = depth_check(under_muon(depth_alpha=a), (2, 4, 8), -4.0, RuntimeConfig())
    assert answer["verdict"] == "pass", answer["worst"]


@pytest.mark.slow
def test_under_muon_a_wrong_factor_of_depth_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor r^(a-1) is left out of the matrices' rate, at a rate at which they matter."""

    def without(matrices: Any, shaped: Any, config: TrialConfig, r: float) -> Any:
        return muon_factors(matrices, shaped, config, 1.0)

    monkeypatch.setattr("hptransfer.models.parametrization.rules.muon_factors", without)
    parameter_rules.cache_clear()
    answer = depth_check(under_muon(depth_alpha=0.5), (2, 8), -3.0, RuntimeConfig())
    parameter_rules.cache_clear()
    assert answer["verdict"] == "fail" and answer["worst"]["slope"] > 0.4


@pytest.mark.slow
@pytest.mark.usefixtures("four_seeds")
def test_under_muon_it_fails_without_the_branch_factor() -> None:
    answer = depth_check(under_muon(broken=Broken.branch), (2, 8), -6.5, RuntimeConfig())
    assert answer["verdict"] == "fail"


def test_what_may_shrink_follows_the_exponent() -> None:
    assert (may_shrink(1.0), may_shrink(0.5)) == (0.5, 0.5)
    assert may_shrink(0.75) == 0.25


def test_models_that_have_no_depth_rule_are_refused() -> None:
    with pytest.raises(UserError, match="no known rule for U-ViT"):
        checked(TrialConfig(model=UViTConfig(depth=4)), (4, 8))
    custom = TrialConfig(model=CustomConfig(factory="a:b"))
    with pytest.raises(UserError, match="the depth of a custom model is not known"):
        checked(custom)
    with pytest.raises(UserError, match="at least two different depths"):
        checked(trial(DiTConfig), (4,))


def test_a_check_measures_at_the_base_batch_size_and_duration() -> None:
    own = ParametrizationConfig(scaling=Scaling.complete, base_batch_size=1, base_steps=9000)
    probe = probe_config(dataclasses.replace(trial(DiTConfig), parametrization=own), -6.5)
    assert probe.batch_mult == probe.duration_mult == 1.0


def test_the_command_checks_depth(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["check", "parametrization=complete", "--axis", "depth", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert (code, answer["depths"]) == (0, [2, 4, 8])
    assert Path(answer["files"][0]).parent.name == "dit-complete-depth"
