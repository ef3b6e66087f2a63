"""The target for trainers built on diffusers and accelerate: names, arguments, launch config.

The names are those of diffusers 0.42; the arguments those that its DreamBooth and text-to-image
scripts share.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

import yaml

from hptransfer.config import RectifiedFlowConfig, TrialConfig
from hptransfer.config.choices import Prediction, Schedule, TimestepSampling
from hptransfer.transfer.exports.factors import Parameter
from hptransfer.transfer.exports.settings import Setting, settings, without_clipping

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

    DiT's timestep and label embedders are one of each here and one in every block there. REPA's
    head is left out, since their classes have none.
    """
    if family not in CLASSES:
        return None
    _, layers = CLASSES[family]
    parameters = [p for p in parameters if not p.name.startswith("projector.")]
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


def diffusers_arguments_text(config: TrialConfig, searched: Collection[str]) -> str:
    """Return the arguments of diffusers' training scripts that the target decides.

    Each stands on a line below where it comes from.
    """
    known = settings(config, searched)
    clip, batch = known["clip_norm"], known["batch_size"]
    first = {
        "learning_rate": known["lr"],
        "adam_beta1": known["beta1"],
        "adam_beta2": known["beta2"],
        "adam_epsilon": known["eps"],
        "adam_weight_decay": known["weight_decay"],
        "max_grad_norm": Setting(
            without_clipping(clip.value), f"{clip.origin}; the scripts would clip at 1 without it"
        ),
    }
    last = {
        "max_train_steps": known["steps"],
        "train_batch_size": Setting(
            batch.value,
            f"{batch.origin}. It is per process here: times processes and accumulation steps it "
            f"must be {batch.value}",
        ),
        "seed": known["seed"],
    }
    lines = [
        "# Arguments of diffusers' training scripts. The optimizer's groups are those of",
        "# diffusers_groups.py: give the script's optimizer `param_groups(transformer)` (in",
        "# train_dreambooth_sd3.py as `params_to_optimize`). With --learning_rate alone every",
        "# parameter has one rate. Leave --scale_lr off.",
        *_argument_lines(first),
        *_schedule_lines(config, known),
        *_argument_lines(last),
        *_flow_lines(config),
    ]
    return "\n".join(lines) + "\n"


def _argument_lines(arguments: Mapping[str, Setting]) -> list[str]:
    return [
        line
        for name, setting in arguments.items()
        for line in (f"# {setting.origin}", f"--{name}={setting.value}")
    ]


# What goes wrong silently on several processes.
STEPS_OF_PROCESSES = (
    "# accelerate steps a prepared scheduler once for every process at each step of the optimizer",
    "# (unless split_batches), so that a schedule of S steps ends after S / processes of them, and",
    "# a warm-up of W after W / processes.",
)


def _schedule_lines(config: TrialConfig, known: Mapping[str, Setting]) -> list[str]:
    steps, warmup = known["steps"].value, known["warmup_steps"]
    if config.budget.schedule is Schedule.linear_decay:
        return [
            "# --lr_scheduler has no constant rate with a linear decay at the end. In place of the",
            "# script's `get_scheduler` use `multiplier` of diffusers_groups.py, as",
            "# torch.optim.lr_scheduler.LambdaLR(",
            "#     optimizer, lambda step: multiplier(step // accelerator.num_processes))",
            *STEPS_OF_PROCESSES,
            "# The division undoes that.",
        ]
    name = "cosine" if config.budget.schedule is Schedule.cosine else "constant_with_warmup"
    return [
        *STEPS_OF_PROCESSES,
        "# The scripts of diffusers multiply both numbers by the processes themselves, so they",
        "# stand here for one. In a script of your own give get_scheduler",
        f"#     num_warmup_steps={warmup.value} * accelerator.num_processes,",
        f"#     num_training_steps={steps} * accelerator.num_processes",
        *_argument_lines(
            {"lr_scheduler": known["schedule"]._replace(value=name), "lr_warmup_steps": warmup}
        ),
    ]


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
    precision = settings(config)["precision"]
    machine = "your machine's"
    values = {
        "compute_environment": Setting("LOCAL_MACHINE", machine),
        "distributed_type": Setting("NO", f"{machine}: MULTI_GPU for several processes"),
        "machine_rank": Setting(0, machine),
        "main_training_function": Setting("main", "accelerate's own"),
        "mixed_precision": precision._replace(value="bf16" if precision.value == "bf16" else "no"),
        "num_machines": Setting(1, machine),
        "num_processes": Setting(1, f"{machine}; a prepared scheduler steps once for each of them"),
        "use_cpu": Setting(False, machine),
    }
    lines = [
        "# For `accelerate launch --config_file`. It has no field for rates or schedules, which",
        "# are in diffusers_args.txt and diffusers_groups.py.",
        *(f"{yaml.safe_dump({key: s.value}).strip()}  # {s.origin}" for key, s in values.items()),
    ]
    return "\n".join(lines) + "\n"
