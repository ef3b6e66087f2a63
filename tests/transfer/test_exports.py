"""Exports for other trainers: what they say is what our own trainer does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import examples.mlp
from hptransfer.config import RectifiedFlowConfig, TrialConfig
from hptransfer.config.compose.compose import compose_file
from hptransfer.models.parametrization.rules import build_model, param_groups
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.objectives import flow_times
from hptransfer.training.schedule import lr_multiplier
from hptransfer.transfer.exports import exports, write_exports
from tests.support import custom_models

CAPTIONS = "data=small_captioned_latents"
CLIPPED = ("optimizer.clip_norm=0.5", "optimizer.weight_decay=0.1")
FAMILIES = {
    "dit": ("model=dit",),
    "dit_modern": ("model=dit_modern",),
    "uvit": ("model=uvit",),
    "pixart": ("model=pixart", CAPTIONS),
    "mmdit": ("model=mmdit", CAPTIONS, "model.qk_norm=true", "data.pooled_channels=32"),
}

# The choices of --weighting_scheme of diffusers' SD3 scripts.
SD3_SCHEMES = ("sigma_sqrt", "logit_normal", "mode", "cosmap")

# Those fields of accelerate's ClusterConfig that a launch without a plugin may have.
CLUSTER_CONFIG = {
    "compute_environment",
    "debug",
    "distributed_type",
    "downcast_bf16",
    "enable_cpu_affinity",
    "gpu_ids",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "main_training_function",
    "mixed_precision",
    "num_machines",
    "num_processes",
    "rdzv_backend",
    "same_network",
    "use_cpu",
}

# Runs a written file where hptransfer cannot be imported, on parameters of given names and shapes.
PROGRAM = """
import importlib.util, json, sys
sys.modules["hptransfer"] = None
import torch
path, shapes, readout = sys.argv[1:]
spec = importlib.util.spec_from_file_location("groups", path)
groups = importlib.util.module_from_spec(spec)
spec.loader.exec_module(groups)
class Model:
    def named_parameters(self):
        for name, shape in json.load(open(shapes)).items():
            yield name, torch.nn.Parameter(torch.empty(shape, device="meta"))
found = groups.param_groups(Model(), readout)
print(json.dumps([{k: v for k, v in group.items() if k != "params"} for group in found]))
"""


def target(family: str, *overrides: str) -> TrialConfig:
    words = [*FAMILIES[family], "model.width=48", "optimizer.lr=0.003", *CLIPPED, *overrides]
    return compose_file(None, words).trial


def by_parameter(groups: list[dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(float(f"{group[key]:.12g}") for key in ("lr", "weight_decay", "eps"))
        for group in groups
        for name in group["names"]
    }


def run_groups(path: Path, model: nn.Module, readout: str) -> list[dict[str, Any]]:
    shapes = path.with_name("shapes.json")
    shapes.write_text(json.dumps({n: list(p.shape) for n, p in model.named_parameters()}))
    command = [sys.executable, "-c", PROGRAM, str(path), str(shapes), readout]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("readout", ["hook", "folded"])
def test_the_torch_file_gives_our_groups(family: str, readout: str) -> None:
    config = target(family, "parametrization.output_scale=0.5")
    model = build_model(config, readout)
    found = loaded(exports(config)["torch_groups.py"])["param_groups"](model, readout)
    ours = param_groups(model, config, readout)
    assert by_parameter(found) == by_parameter(ours)
    assert {tuple(group["betas"]) for group in found} == {(0.9, 0.99)}
    assert len(found) == len(ours) > 1


def test_the_torch_file_needs_torch_alone_and_knows_a_decay_that_is_independent_of_the_rate(
    tmp_path: Path,
) -> None:
    config = target("dit", "parametrization.weight_decay_mode=independent")
    write_exports(tmp_path, config)
    model = build_model(config)
    found = run_groups(tmp_path / "torch_groups.py", model, "hook")
    assert by_parameter(found) == by_parameter(param_groups(model, config))


def loaded(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "groups"}
    exec(compile(text, "groups.py", "exec", dont_inherit=True), namespace)
    return namespace


def test_a_model_of_another_width_is_refused() -> None:
    groups = loaded(exports(target("dit"))["torch_groups.py"])
    with pytest.raises(ValueError, match="must have the target's shape"):
        groups["param_groups"](build_model(target("dit", "model.width=96")))
    with pytest.raises(KeyError, match="is no parameter of the target"):
        groups["param_groups"](nn.Linear(2, 2))


def test_the_torch_file_scales_readouts_as_ours() -> None:
    config = target("dit", "init=paper", "parametrization.output_scale=0.5")
    groups = loaded(exports(config)["torch_groups.py"])
    model = build_model(config, "folded")  # its forward has no factor
    ours = build_model(config)
    groups["scale_readouts"](model)
    model.load_state_dict(ours.state_dict())
    nn.init.normal_(model.get_parameter("final_layer.linear.weight"))
    ours.load_state_dict(model.state_dict())
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 500.0]), torch.tensor([1, 2])
    assert torch.allclose(model(x, t, y), ours(x, t, y), atol=1e-6)


def mlp_target(*overrides: str) -> TrialConfig:
    """Return the MLP of `examples`, whose biases and hidden weights µP wants otherwise."""
    sizes = ("model=custom", "model.factory=examples.mlp:build", "model.base_width=16")
    return compose_file(None, [*sizes, "model.width=64", *overrides]).trial


def mlp(seed: int) -> nn.Module:
    """Return the MLP as a user's own training code builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return examples.mlp.build(64)


@pytest.mark.parametrize("readout", ["hook", "folded"])
@pytest.mark.parametrize("scaling", ["mup", "standard"])
def test_a_custom_model_starts_as_ours(scaling: str, readout: str) -> None:
    config = mlp_target(f"parametrization.scaling={scaling}", "parametrization.init_scale=0.5")
    groups = loaded(exports(config)["torch_groups.py"])
    ours = build_model(config, readout)
    same_draw = mlp(torch_generator(config.seed, "init").initial_seed())
    groups["initialise"](same_draw, seed=0, readout=readout)
    for name, parameter in same_draw.named_parameters():
        assert torch.allclose(parameter, ours.get_parameter(name), rtol=1e-6), name
    other_draw = mlp(seed=5)
    groups["initialise"](other_draw, seed=0, readout=readout)
    for name, parameter in other_draw.named_parameters():
        if parameter.numel() > 1000:
            std = ours.get_parameter(name).std().item()
            assert parameter.std().item() == pytest.approx(std, rel=0.1), name


def test_a_custom_model_that_starts_otherwise_or_twice_is_refused() -> None:
    groups = loaded(exports(mlp_target())["torch_groups.py"])
    model = mlp(seed=0)
    bias = model.get_parameter("hidden.0.bias").detach().clone()
    groups["initialise"](model, seed=0)
    ratio = model.get_parameter("hidden.0.bias") / bias
    assert ratio.tolist() == pytest.approx([2.0] * 64, rel=0.2)  # torch's falls with width^-1/2
    with pytest.raises(ValueError, match="call initialise once"):
        groups["initialise"](model, seed=0)
    changed = mlp(seed=0)
    nn.init.normal_(changed.get_parameter("hidden.1.weight"), std=0.5)
    first = changed.get_parameter("hidden.0.bias").detach().clone()
    with pytest.raises(ValueError, match=r"hidden\.1\.weight must be as the code of the tuned"):
        groups["initialise"](changed, seed=0)
    assert torch.equal(changed.get_parameter("hidden.0.bias"), first)  # nothing is half changed


def test_frozen_parameters_of_a_custom_model_are_left_alone() -> None:
    config = custom_models.trial("half")
    groups = loaded(exports(config)["torch_groups.py"])
    model = custom_models.half(config.model.width)
    groups["initialise"](model, seed=0)
    assert "label.weight" not in [n for g in groups["param_groups"](model) for n in g["names"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_starts_with_our_stds(family: str) -> None:
    config = target(family, "init=paper", "parametrization.init_scale=2")
    groups = loaded(exports(config)["torch_groups.py"])
    ours, model = build_model(config), build_model(config)
    nn.utils.vector_to_parameters(
        torch.zeros(sum(p.numel() for p in model.parameters())), model.parameters()
    )
    groups["initialise"](model, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.numel() > 500:
            std = ours.get_parameter(name).std().item()
            assert parameter.std().item() == pytest.approx(std, rel=0.15), name


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear_decay"])
def test_the_schedule_is_ours(schedule: str) -> None:
    config = target("dit", f"budget.schedule={schedule}", "budget.steps=40")
    multiplier = loaded(exports(config)["torch_groups.py"])["multiplier"]
    warmup = torch.tensor([config.budget.warmup_fraction])
    for step in range(40):
        ours = lr_multiplier(config.budget, step, warmup).item()
        assert multiplier(step) == pytest.approx(ours, abs=1e-6)


def theirs(family: str, config: TrialConfig) -> nn.Module:
    """Build the diffusers class with the target's sizes."""
    models = pytest.importorskip("diffusers.models.transformers")
    layout, model = config.data.layout, config.model
    common = {
        "num_attention_heads": model.width // 8,
        "attention_head_dim": 8,
        "num_layers": 2,
        "sample_size": layout.image_size,
        "patch_size": 4,
        "in_channels": layout.channels,
        "out_channels": layout.channels,
    }
    if family == "dit":
        return models.DiTTransformer2DModel(**common, num_embeds_ada_norm=layout.classes)
    if family == "pixart":
        return models.PixArtTransformer2DModel(
            **common, cross_attention_dim=model.width, caption_channels=layout.caption_channels
        )
    return models.SD3Transformer2DModel(
        **common,
        joint_attention_dim=layout.caption_channels,
        caption_projection_dim=model.width,
        pooled_projection_dim=layout.pooled_channels,
        pos_embed_max_size=2,
        qk_norm="rms_norm",
    )


@pytest.mark.parametrize("family", ["dit", "pixart", "mmdit"])
def test_the_diffusers_file_names_and_shapes_every_parameter_of_their_class(family: str) -> None:
    config = target(family)
    model = theirs(family, config)
    groups = loaded(exports(config)["diffusers_groups.py"])["param_groups"](model)
    named = [name for group in groups for name in group["names"]]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    readout = {"dit": "proj_out_2", "pixart": "proj_out", "mmdit": "proj_out"}[family]
    assert rates[f"{readout}.weight"] == pytest.approx(0.003 / 2)  # folded
    assert rates["pos_embed.proj.weight"] == pytest.approx(0.003)
    query = next(name for name in rates if name.endswith("to_q.weight"))
    assert rates[query] == pytest.approx(0.003 / 2)


@pytest.mark.parametrize("family", ["uvit", "dit_modern"])
def test_a_family_without_a_diffusers_class_keeps_our_names_and_says_so(family: str) -> None:
    text = exports(target(family))["diffusers_groups.py"]
    assert f"diffusers has no class of the family {family}" in text
    loaded(text)["param_groups"](build_model(target(family)))


def words(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = [line.replace(" ", "=", 1).partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


def test_the_diffusers_arguments_hold_what_they_can() -> None:
    config = target("mmdit", "budget.schedule=cosine", "objective.timesteps=logit_normal")
    text = exports(config)["diffusers_args.txt"]
    found = words(text)
    assert float(found["--learning_rate"]) == 0.003
    assert (found["--max_grad_norm"], found["--lr_scheduler"]) == ("0.5", "cosine")
    assert (found["--weighting_scheme"], found["--precondition_outputs"]) == ("logit_normal", "0")
    unclipped = exports(target("dit", "optimizer.clip_norm=null"))["diffusers_args.txt"]
    assert math.isinf(float(words(unclipped)["--max_grad_norm"]))
    assert "multiplier(step // accelerator.num_processes)" in unclipped
    assert "--lr_scheduler=" not in unclipped  # no name for a decay at the end
    accelerate = yaml.safe_load(exports(target("dit", "precision=bf16"))["accelerate.yaml"])
    assert (accelerate["mixed_precision"], accelerate["distributed_type"]) == ("bf16", "NO")
    assert set(accelerate) <= CLUSTER_CONFIG  # accelerate refuses a file with any other


def test_the_diffusers_arguments_tell_the_shift_and_refuse_a_predicted_x() -> None:
    def told(*overrides: str) -> str:
        return exports(target("mmdit", *overrides))["diffusers_args.txt"]

    assert "`shift` 1, or" in told()
    assert "`shift` 3, or" in told("objective.timestep_shift=3")
    assert "`shift` 0.25, or" in told(
        "objective.timestep_shift=auto", "data.image_size=8", "data.channels=4"
    )
    refused = told("objective.prediction=x")
    assert "no script has a model that predicts the data" in refused
    assert "--weighting_scheme" not in refused


@pytest.mark.parametrize(
    "drawn", [("uniform",), ("logit_normal", "objective.logit_mean=0.7", "objective.logit_std=0.5")]
)
def test_the_diffusers_arguments_draw_our_timesteps(drawn: tuple[str, ...]) -> None:
    diffusers = pytest.importorskip("diffusers")
    training_utils = pytest.importorskip("diffusers.training_utils")
    name, *overrides = drawn
    config = target("mmdit", f"objective.timesteps={name}", *overrides)
    found = words(exports(config)["diffusers_args.txt"])
    scheme = found["--weighting_scheme"]
    assert scheme in SD3_SCHEMES
    # As the SD3 scripts do.
    u = training_utils.compute_density_for_timestep_sampling(
        weighting_scheme=scheme,
        batch_size=20_000,
        logit_mean=float(found.get("--logit_mean", 0.0)),
        logit_std=float(found.get("--logit_std", 1.0)),
        mode_scale=float(found.get("--mode_scale", 1.29)),
        generator=torch.Generator().manual_seed(0),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    indices = (u * scheduler.config.num_train_timesteps).long().clamp(max=999)
    theirs = scheduler.sigmas[indices]
    weights = training_utils.compute_loss_weighting_for_sd3(scheme, theirs)
    assert torch.equal(weights, torch.ones_like(theirs))
    assert isinstance(config.objective, RectifiedFlowConfig)
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    assert torch.allclose(theirs.quantile(levels), flow_times(config.objective, levels), atol=0.02)


# megatron-core's two classes as far as the written file uses them.
MEGATRON = """
import sys, types
from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class ParamWithNamePredicate:
    name: str
    fn: Any
@dataclass(frozen=True)
class ParamKey:
    with_name_predicate: Any
config, scheduler = types.ModuleType("config"), types.ModuleType("scheduler")
config.ParamKey, config.ParamWithNamePredicate = ParamKey, ParamWithNamePredicate
scheduler.ParamGroupOverride = dict
"""


def test_the_megatron_overrides_match_every_parameter_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = target("dit")
    stubs = loaded(MEGATRON)
    for name in ("megatron", "megatron.core", "megatron.core.optimizer"):
        monkeypatch.setitem(sys.modules, name, stubs["types"].ModuleType(name))
    optimizer = "megatron.core.optimizer.optimizer_config"
    monkeypatch.setitem(sys.modules, optimizer, stubs["config"])
    scheduler = "megatron.core.optimizer_param_scheduler"
    monkeypatch.setitem(sys.modules, scheduler, stubs["scheduler"])
    overrides = loaded(exports(config)["megatron_groups.py"])["overrides"]()
    labels = {(values["lr_mult"], values["wd_mult"]) for values in overrides.values()}
    assert len(labels) == len(overrides) > 1  # a checkpoint's groups are told apart by these
    assert all(values["lr_mult"] == pytest.approx(1.0) for values in overrides.values())
    model = build_model(config, "folded")
    ours = by_parameter(param_groups(model, config, "folded"))
    for name, parameter in model.named_parameters():
        found = [
            values
            for key, values in overrides.items()
            if key.with_name_predicate.fn(parameter, f"module.module.{name}")
        ]
        assert len(found) == 1, name
        rate, decay, eps = ours[name]
        (values,) = found
        assert values["max_lr"] == pytest.approx(rate)
        assert values["wd_mult"] * config.optimizer.weight_decay == pytest.approx(decay)
        assert values["eps"] == pytest.approx(eps)


def test_the_megatron_arguments_hold_what_they_can() -> None:
    found = words(exports(target("dit"))["megatron_args.txt"])
    assert float(found["--lr"]) == 0.003 and float(found["--clip-grad"]) == 0.5
    assert (found["--lr-decay-style"], found["--lr-wsd-decay-iters"]) == ("WSD", "45")
    assert "--init-method-std" not in found  # fan-in stds differ
    unclipped = exports(target("dit", "optimizer.clip_norm=null"))["megatron_args.txt"]
    assert words(unclipped)["--clip-grad"] == "0.0"  # which is none there
    cosine = words(exports(target("dit", "budget.schedule=cosine"))["megatron_args.txt"])
    assert cosine["--lr-decay-style"] == "cosine"


def test_factors_are_resolved_and_strict_json() -> None:
    config = target("mmdit", "parametrization.output_scale=0.5")
    found = json.loads(exports(config)["factors.json"])
    model, folded_model = build_model(config), build_model(config, "folded")
    for readout, rows, built in (
        ("hook", found["parameters"], model),
        ("folded", found["folded"], folded_model),
    ):
        ours = by_parameter(param_groups(built, config, readout))
        for row in rows:
            values = (row["lr"], row["weight_decay"], row["eps"])
            assert values == pytest.approx(ours[row["name"]]), row["name"]
    assert [row["name"] for row in found["folded"]] == ["final_layer.linear.weight"]
    assert found["forward_multipliers"] == {"final_layer.linear.multiplier": 0.25}
    assert len(found["parameters"]) == len(list(model.parameters()))


def test_depth_scaling_is_said_to_be_the_readers() -> None:
    text = exports(target("dit", "model.depth=4", "model.base_depth=2"))["torch_groups.py"]
    assert "multiply every residual branch by 0.5" in text


@pytest.mark.parametrize("optimizer", ["muon", "lion"])
def test_another_optimizer_is_said_as_json_and_refused_by_what_has_adamw_alone(
    optimizer: str,
) -> None:
    words = [f"optimizer={optimizer}", "optimizer.lr_mult_adaln=2", "model.width=48"]
    config = compose_file(None, words).trial
    texts = exports(config)
    said = json.loads(texts["factors.json"])
    assert said["optimizer"]["name"] == optimizer.capitalize()
    rates = {p["name"]: p["lr"] for p in said["parameters"]}
    adaln, qkv = (f"blocks.0.{name}.weight" for name in ("adaLN_modulation.1", "attn.qkv"))
    assert rates[adaln] == 2 * rates[qkv]
    for group in param_groups(build_model(config), config):
        names: Any = group["names"]
        assert {rates[name] for name in names} == {group["lr"]}
    if optimizer == "muon":
        assert said["matrices"][adaln] == {"count": 6, "rows": 48, "columns": 48, "scale": 1.0}
        assert "x_embedder.proj.weight" not in said["matrices"]
    with pytest.raises(NotImplementedError, match=f"torch_groups.py .* optimizer={optimizer}"):
        exec(texts["torch_groups.py"], {})
    assert texts["megatron_args.txt"].startswith("# megatron_args.txt can only say AdamW")
    assert texts["megatron_args.txt"].count("\n") == 1
