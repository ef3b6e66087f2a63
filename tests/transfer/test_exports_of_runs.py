"""Exports that hold a whole run: each parsed as its program parses it, and compared with ours."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
import tomllib
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from hptransfer.config import TrialConfig
from hptransfer.config.compose.compose import compose_file
from hptransfer.models.parametrization.rules import build_model, param_groups
from hptransfer.training.schedule import lr_multiplier
from hptransfer.transfer.exports import exports
from tests.transfer.test_exports import MEGATRON, by_parameter, loaded, target, words

SEARCHED = ["log2_lr"]
SCHEDULES = ("constant", "cosine", "linear_decay")


@functools.cache
def texts(config: TrialConfig) -> dict[str, str]:
    return exports(config, SEARCHED)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_torchtitan_job_file_holds_the_run(schedule: str) -> None:
    config = target("dit", f"budget.schedule={schedule}", "precision=bf16")
    found = tomllib.loads(texts(config)["torchtitan.toml"])
    optimizer = {"name": "AdamW", "lr": 0.003, "beta1": 0.9, "beta2": 0.99}
    assert found["optimizer"] == {**optimizer, "eps": 1e-8, "weight_decay": 0.1}
    assert found["training"] == {
        **{"steps": 150, "global_batch_size": 64, "max_norm": 0.5},
        "mixed_precision_param": "bfloat16",
    }
    assert found["lr_scheduler"]["warmup_steps"] == 11
    ratio = found["lr_scheduler"].get("decay_ratio")
    assert ratio == {"constant": 0.0, "cosine": None, "linear_decay": 0.3}[schedule]
    unclipped = texts(target("dit", "optimizer.clip_norm=null"))["torchtitan.toml"]
    assert tomllib.loads(unclipped)["training"]["max_norm"] == float("inf")


def as_torchtitan(step: int, *, warmup: int, decay: int, steps: int, kind: str) -> float:
    """Return the factor of torchtitan's scheduler: warm-up, plateau and decay, counted from 1."""
    first_of_decay = steps + 1 - decay
    if step < warmup:
        return (step + 1) / warmup
    if step < first_of_decay:
        return 1.0
    progress = (step + 1 - first_of_decay) / decay
    if kind == "cosine":
        return 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
    return 1 - progress


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_torchtitans_schedule_is_ours_but_for_a_step(schedule: str) -> None:
    config = target("dit", f"budget.schedule={schedule}", "budget.steps=200")
    found = tomllib.loads(texts(config)["torchtitan.toml"])["lr_scheduler"]
    warmup, ratio = found["warmup_steps"], found.get("decay_ratio")
    decay = 200 - warmup if ratio is None else round(200 * ratio)
    share = torch.tensor([config.budget.warmup_fraction])
    for step in range(200):
        theirs = as_torchtitan(
            step, warmup=warmup, decay=decay, steps=200, kind=found["decay_type"]
        )
        assert theirs == pytest.approx(lr_multiplier(config.budget, step, share).item(), abs=0.02)


class Recorded:
    """A config of torchtitan's: keyword arguments as attributes."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


@pytest.mark.parametrize("family", ["dit", "uvit", "mmdit"])
def test_a_torchtitan_config_gives_every_parameter_our_values(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torchtitan", "torchtitan.components"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    stub = ModuleType("torchtitan.components.optimizer")
    container = type("Container", (), {"Config": Recorded})
    vars(stub).update(
        LRSchedulersContainer=container, OptimizersContainer=container, ParamGroupConfig=Recorded
    )
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    config = target(family)
    asked = loaded(texts(config)["torchtitan_config.py"])["as_target"](
        Recorded(training=Recorded(), debug=Recorded())
    )
    assert (asked.training.steps, asked.training.max_norm, asked.debug.seed) == (150, 0.5, 0)
    model = build_model(config, "folded")
    ours = by_parameter(param_groups(model, config, "folded"))
    for name in ours:
        for wrapped in (name, f"_orig_mod.{name}", re.sub(r"\.", "._orig_mod.", name, count=1)):
            matching = [
                group for group in asked.optimizer.param_groups if re.search(group.pattern, wrapped)
            ]
            assert len(matching) == 1, wrapped
            kwargs = matching[0].optimizer_kwargs
            theirs = tuple(kwargs[key] for key in ("lr", "weight_decay", "eps"))
            assert theirs == pytest.approx(ours[name]), name
            assert kwargs["betas"] == (0.9, 0.99)
            assert set(kwargs) <= set(inspect.signature(torch.optim.AdamW).parameters)


def test_a_deepspeed_config_holds_the_run_and_names_the_schedulers_that_undo_mup() -> None:
    config = target("dit", "precision=bf16")
    text = texts(config)["deepspeed.json"]
    found = json.loads(text, object_pairs_hook=refusing_duplicates)  # DeepSpeed refuses them
    settings = {key: value for key, value in found.items() if not key.startswith("#")}
    assert settings == {
        "train_batch_size": 64,
        "gradient_clipping": 0.5,
        "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
    }
    assert {f"#{key}" for key in (*settings, "optimizer", "scheduler")} == found.keys() - settings
    for name in ("WarmupLR", "WarmupDecayLR", "OneCycle", "LRRangeTest", "LambdaLR"):
        assert name in found["#scheduler"]
    unclipped = json.loads(texts(target("dit", "optimizer.clip_norm=null"))["deepspeed.json"])
    assert unclipped["gradient_clipping"] == 0.0 and not unclipped["torch_autocast"]["enabled"]


def refusing_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_overrides_of_megatron_bridge_hold_the_run(schedule: str) -> None:
    config = target("dit", f"budget.schedule={schedule}")
    found = yaml.safe_load(texts(config)["megatron_bridge.yaml"])
    assert found["optimizer"] == {
        **{"optimizer": "adam", "lr": 0.003, "min_lr": 0.0, "adam_beta1": 0.9},
        **{"adam_beta2": 0.99, "adam_eps": 1e-8, "weight_decay": 0.1, "clip_grad": 0.5},
    }
    assert found["train"] == {"train_iters": 150, "global_batch_size": 64}
    scheduler = found["scheduler"]
    assert (scheduler["start_weight_decay"], scheduler["end_weight_decay"]) == (0.1, 0.1)
    arguments = words(texts(config)["megatron_args.txt"])
    for key in ("lr_decay_style", "lr_warmup_iters", "lr_decay_iters", "lr_wsd_decay_iters"):
        assert str(scheduler.get(key)) == str(arguments.get(f"--{key.replace('_', '-')}"))


def test_megatron_bridge_gets_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = loaded(MEGATRON)
    bridge = ModuleType("megatron.bridge.training.config")
    vars(bridge)["OptimizerConfigOverrideProvider"] = object
    for name in ("megatron", "megatron.core", "megatron.core.optimizer", "megatron.bridge"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, module in {
        "megatron.core.optimizer.optimizer_config": stubs["config"],
        "megatron.core.optimizer_param_scheduler": stubs["scheduler"],
        "megatron.bridge.training": ModuleType("megatron.bridge.training"),
        "megatron.bridge.training.config": bridge,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    file = loaded(texts(target("dit"))["megatron_groups.py"])
    given = file["bridge_provider"]().build_config_overrides(None)
    assert list(given.values()) == list(file["overrides"]().values())
    assert len(given) > 1


@pytest.mark.parametrize(
    "name", ["torchtitan.toml", "megatron_bridge.yaml", "accelerate.yaml", "deepspeed.json"]
)
def test_every_number_says_where_it_comes_from(name: str) -> None:
    lines = texts(target("dit"))[name].splitlines()
    if name == "deepspeed.json":
        keys = set(json.loads("\n".join(lines)))
        assert all(key.startswith("#") or f"#{key}" in keys for key in keys)
        return
    assert [line for line in lines if re.search(r"[:=] \S", line) and "#" not in line] == []


@pytest.mark.parametrize("name", ["diffusers_args.txt", "megatron_args.txt"])
def test_every_argument_stands_below_its_origin(name: str) -> None:
    lines = texts(target("dit", "precision=bf16"))[name].splitlines()
    above = dict(zip(lines[1:], lines, strict=False))
    for line in (line for line in lines if line.startswith("--")):
        if line.partition("=")[0] not in ("--weighting_scheme", "--mode_scale"):
            assert above[line].startswith("# "), line


def test_comments_tell_what_the_sweep_transferred() -> None:
    text = texts(target("dit"))["torchtitan.toml"]
    assert re.findall(r"(\w+) = .*transferred", text) == ["lr"]
    untold = exports(target("dit"))["torchtitan.toml"]
    assert "transferred" not in untold


def test_the_steps_of_several_processes_are_told() -> None:
    cosine = texts(target("dit", "budget.schedule=cosine"))["diffusers_args.txt"]
    assert "num_training_steps=150 * accelerator.num_processes" in cosine
    assert "once for every process" in cosine
    assert "once for every process" in texts(target("dit"))["diffusers_args.txt"]


def test_another_optimizer_leaves_files_that_their_programs_can_read() -> None:
    config = compose_file(None, ["optimizer=muon"]).trial
    found = texts(config)
    assert list(json.loads(found["deepspeed.json"])) == ["#"]
    assert tomllib.loads(found["torchtitan.toml"]) == {}
    assert yaml.safe_load(found["megatron_bridge.yaml"]) is None
