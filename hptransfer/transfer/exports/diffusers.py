"""The target for trainers built on diffusers and accelerate: names, arguments, launch config.

The names are those of diffusers 0.42; the arguments those that its DreamBooth and text-to-image
scripts share.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import yaml

from hptransfer.config import AdamWConfig, RectifiedFlowConfig, TrialConfig
from hptransfer.config.choices import Precision, Prediction, Schedule, TimestepSampling
from hptransfer.transfer.exports.factors import Parameter, resolved_adamw

BLOCK = "transformer_blocks.{}"
QKV = ("to_q", "to_k", "to_v")


# Ours to theirs, a layer each; {} is the block's number. Three names: the rows in three parts.
DIT = {
    "x_embedder.proj": ("pos_embed.proj",),
    "t_embedder.mlp.0": (f"{BLOCK}.norm1.emb.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": (f"{BLOCK}.norm1.emb.timestep_embedder.linear_2",),
    "y_embedder.embedding_table": (f"{BLOCK}.norm1.emb.class_embedder.embedding_table",),
    "blocks.{}.adaLN_modulation.1": (f"{BLOCK}.norm1.linear",),
    "blocks.{}.attn.qkv": tuple(f"{BLOCK}.attn1.{part}" for part in QKV),
    "blocks.{}.attn.proj": (f"{BLOCK}.attn1.to_out.0",),
    "blocks.{}.mlp.fc1": (f"{BLOCK}.ff.net.0.proj",),
    "blocks.{}.mlp.fc2": (f"{BLOCK}.ff.net.2",),
    "final_layer.adaLN_modulation.1": ("proj_out_1",),
    "final_layer.linear": ("proj_out_2",),
}
PIXART = {
    "x_embedder.proj": ("pos_embed.proj",),
    "t_embedder.mlp.0": ("adaln_single.emb.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("adaln_single.emb.timestep_embedder.linear_2",),
    "t_block.1": ("adaln_single.linear",),
    "y_embedder.y_proj.fc1": ("caption_projection.linear_1",),
    "y_embedder.y_proj.fc2": ("caption_projection.linear_2",),
    "blocks.{}.scale_shift_table": (f"{BLOCK}.scale_shift_table",),
    "blocks.{}.attn.qkv": tuple(f"{BLOCK}.attn1.{part}" for part in QKV),
    "blocks.{}.attn.proj": (f"{BLOCK}.attn1.to_out.0",),
    "blocks.{}.cross_attn.q_linear": (f"{BLOCK}.attn2.to_q",),
    "blocks.{}.cross_attn.kv_linear": (f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_v"),
    "blocks.{}.cross_attn.proj": (f"{BLOCK}.attn2.to_out.0",),
    "blocks.{}.mlp.fc1": (f"{BLOCK}.ff.net.0.proj",),
    "blocks.{}.mlp.fc2": (f"{BLOCK}.ff.net.2",),
    "final_layer.scale_shift_table": ("scale_shift_table",),
    "final_layer.linear": ("proj_out",),
}
MMDIT = {
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "joint_blocks.{}.x_block.adaLN_modulation.1": (f"{BLOCK}.norm1.linear",),
    "joint_blocks.{}.x_block.attn.qkv": tuple(f"{BLOCK}.attn.{part}" for part in QKV),
    "joint_blocks.{}.x_block.attn.ln_q": (f"{BLOCK}.attn.norm_q",),
    "joint_blocks.{}.x_block.attn.ln_k": (f"{BLOCK}.attn.norm_k",),
    "joint_blocks.{}.x_block.attn.proj": (f"{BLOCK}.attn.to_out.0",),
    "joint_blocks.{}.x_block.mlp.fc1": (f"{BLOCK}.ff.net.0.proj",),
    "joint_blocks.{}.x_block.mlp.fc2": (f"{BLOCK}.ff.net.2",),
    "joint_blocks.{}.context_block.adaLN_modulation.1": (f"{BLOCK}.norm1_context.linear",),
    "joint_blocks.{}.context_block.attn.qkv": tuple(
        f"{BLOCK}.attn.add_{part}_proj" for part in "qkv"
    ),
    "joint_blocks.{}.context_block.attn.ln_q": (f"{BLOCK}.attn.norm_added_q",),
    "joint_blocks.{}.context_block.attn.ln_k": (f"{BLOCK}.attn.norm_added_k",),
    "joint_blocks.{}.context_block.attn.proj": (f"{BLOCK}.attn.to_add_out",),
    "joint_blocks.{}.context_block.mlp.fc1": (f"{BLOCK}.ff_context.net.0.proj",),
    "joint_blocks.{}.context_block.mlp.fc2": (f"{BLOCK}.ff_context.net.2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
CLASSES = {
    "dit": ("DiTTransformer2DModel", DIT),
    "pixart": ("PixArtTransformer2DModel", PIXART),
    "mmdit": ("SD3Transformer2DModel", MMDIT),
}


def renamed(parameters: Sequence[Parameter], family: str) -> list[Parameter] | None:
    """Return the parameters under the names of diffusers' class; None if it has no such class.

    DiT's timestep and label embedders are one of each here and one in every block there.
    """
    if family not in CLASSES:
        return None
    _, layers = CLASSES[family]
    numbers = [match[1] for p in parameters if (match := re.match(r"\w*blocks\.(\d+)\.", p.name))]
    blocks = list(dict.fromkeys(numbers))
    return [theirs for p in parameters for theirs in _renamed(p, layers, blocks)]


def _renamed(
    parameter: Parameter, layers: dict[str, tuple[str, ...]], blocks: Sequence[str]
) -> list[Parameter]:
    number = re.search(r"blocks\.(\d+)\.", parameter.name)
    general = re.sub(r"blocks\.\d+\.", "blocks.{}.", parameter.name)
    layer, _, kind = general.rpartition(".")
    names = layers[general] if general in layers else [f"{n}.{kind}" for n in layers[layer]]
    rows, *others = parameter.shape
    shape = (rows // len(names), *others)
    places = [number[1]] if number else blocks
    filled = [name.format(place) for name in names for place in places]
    return [
        dataclasses.replace(parameter, name=name, shape=shape) for name in dict.fromkeys(filled)
    ]


def diffusers_arguments_text(config: TrialConfig, optimizer: AdamWConfig) -> str:
    """Return the arguments of diffusers' training scripts that the target decides, one a line."""
    budget, adamw = config.budget, resolved_adamw(config)
    lines = [
        "# Arguments of diffusers' training scripts. The optimizer's groups are those of",
        "# diffusers_groups.py: give the script's optimizer `param_groups(transformer)` (in",
        "# train_dreambooth_sd3.py as `params_to_optimize`). With --learning_rate alone every",
        "# parameter has one rate. Leave --scale_lr off.",
        f"--learning_rate={optimizer.lr!r}",
        f"--adam_beta1={adamw['beta1']!r}",
        f"--adam_beta2={adamw['beta2']!r}",
        f"--adam_epsilon={optimizer.eps!r}",
        f"--adam_weight_decay={adamw['weight_decay']!r}",
        f"--max_grad_norm={'inf' if optimizer.clip_norm is None else repr(optimizer.clip_norm)}",
        *_schedule_lines(config),
        f"--max_train_steps={budget.steps}",
        f"# per process: times processes and accumulation steps it must be {budget.batch_size}",
        f"--train_batch_size={budget.batch_size}",
        f"--seed={config.seed}",
        *_flow_lines(config),
    ]
    return "\n".join(lines) + "\n"


def _schedule_lines(config: TrialConfig) -> list[str]:
    budget = config.budget
    warmup = f"--lr_warmup_steps={round(budget.warmup_fraction * budget.steps)}"
    if budget.schedule is Schedule.linear_decay:
        return [
            "# --lr_scheduler has no constant rate with a linear decay at the end. In place of the",
            "# script's `get_scheduler` use `multiplier` of diffusers_groups.py, as",
            "# torch.optim.lr_scheduler.LambdaLR(",
            "#     optimizer, lambda step: multiplier(step // accelerator.num_processes))",
            "# since accelerate steps a prepared scheduler once for every process.",
        ]
    name = "cosine" if budget.schedule is Schedule.cosine else "constant_with_warmup"
    return [f"--lr_scheduler={name}", warmup]


def _flow_lines(config: TrialConfig) -> list[str]:
    """Return the loss of diffusers' SD3 scripts where it is the target's.

    They draw a quantile u and take the scheduler's entry at the share u, from most noise to least:
    the share of noise is 1 - u, so a logit-normal's mean changes its sign. Their uniform one is
    `mode` of scale 0.
    """
    objective, image_size = config.objective, config.data.layout.image_size
    if config.model.family != "mmdit" or not isinstance(objective, RectifiedFlowConfig):
        return ["# the objective is the script's own: see `objective` in target.yaml"]
    if objective.prediction is Prediction.x:
        return ["# no script has a model that predicts the data: see `objective` in target.yaml"]
    shift = objective.shift(config.data.layout.channels * image_size**2) or 1.0
    lines = [
        "# of the SD3 scripts: the target noise - x, unweighted. The model's noise scheduler must",
        f"# have `shift` {shift:.6g}, or the timesteps are others.",
        "--precondition_outputs=0",
    ]
    if objective.timesteps is TimestepSampling.logit_normal:
        return [
            *lines,
            "--weighting_scheme=logit_normal",
            f"--logit_mean={0.0 - objective.logit_mean!r}",
            f"--logit_std={objective.logit_std!r}",
        ]
    return [*lines, "--weighting_scheme=mode", "--mode_scale=0.0"]


def accelerate_text(config: TrialConfig) -> str:
    """Return accelerate's launch config; of the target it holds the precision alone."""
    values = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "bf16" if config.precision is Precision.bf16 else "no",
        "num_machines": 1,
        "num_processes": 1,
        "use_cpu": False,
    }
    return (
        "# For `accelerate launch --config_file`. It has no field for rates or schedules, which\n"
        "# are in diffusers_args.txt and diffusers_groups.py. For several processes change\n"
        "# distributed_type (MULTI_GPU) and num_processes.\n"
        + yaml.safe_dump(values, sort_keys=False)
    )
