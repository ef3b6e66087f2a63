"""What we call things, and what others call them."""

from __future__ import annotations

import re
from functools import cache

from hptransfer.config.sweep import HYPERPARAMETERS, VLB_WEIGHT

KNOWN_HPS = {**HYPERPARAMETERS, "vlb_weight": VLB_WEIGHT}

_LOSSES = ("loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss")
_LR = ("lr", "learning_rate", "base_lr", "base_learning_rate", "peak_lr", "max_lr", "eta")
# Our name of a column -> what others call it, as `normalised` has it.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "width": (
        *("width", "d_model", "dmodel", "hidden_size", "hidden_dim", "n_embd", "embed_dim"),
        *("model_width", "model_dim", "n_embed", "hidden_width", "embedding_dim"),
    ),
    "loss": (*_LOSSES, "final_loss", "final_val_loss", "value", "best_val_loss"),
    "seed": ("seed", "random_seed", "rng_seed", "run_seed", "seed_id"),
    "parametrization": (
        *("parametrization", "parameterization", "parametrisation", "parameterisation"),
        *("param", "arm", "scaling", "mup", "use_mup"),
    ),
    "family": ("family", "architecture", "arch"),
    "step": ("step", "global_step", "checkpoint_step", "iteration", "iter", "checkpoint"),
    "steps": ("steps", "train_steps", "training_steps", "n_steps", "num_steps", "max_steps"),
    "depth": ("depth", "n_layer", "n_layers", "num_layers", "num_hidden_layers"),
    "batch_size": ("batch_size", "train_batch_size", "global_batch_size", "bs"),
    "diverged": ("diverged", "is_diverged", "has_diverged"),
    "status": ("status", "state", "run_state"),
    "n_seeds": ("n_seeds", "num_seeds", "seed_count"),
    "loss_std": ("loss_std", "loss_sd", "std_loss", "val_loss_std", "eval_loss_std"),
    "loss_at_init": ("loss_at_init", "init_loss", "initial_loss"),
    "train_loss": ("train_loss", "training_loss"),
    "diverged_at_step": ("diverged_at_step",),
    "flops": ("flops", "total_flops"),
    "seconds": ("seconds", "runtime_seconds"),
    "lr": _LR,
}
LOSS_STEMS = (*_LOSSES, "final_loss", "l")
# What wide tables' columns end in, before a number.
WIDE_STEMS = {
    "seed": ("seed", "s", "run_seed"),
    "width": ("width", "w", "d_model", "hidden_size", "n_embd", "d"),
    "step": ("step", "it", "iter"),
}
_BY_SPELLING = {spelled: ours for ours, names in SPELLINGS.items() for spelled in names}
_HP = re.compile(r"(?:log(?:2|10)_)?([a-z][a-z0-9_]*)")
_TRACKERS = r"^(params|metrics|config|summary|user_attrs|study_attrs|tags)[./_]"


@cache
def hp_of(name: str) -> str | None:
    """Return the HP that our name of a column stands for: `lr`, `log2_lr` and `log10_lr` are lr."""
    match = _HP.fullmatch(name)
    if match is None or (name in SPELLINGS and name != "lr"):
        return None
    hp = match[1]
    logged = name != hp
    known_hp = hp in KNOWN_HPS
    return hp if known_hp or (logged and hp not in SPELLINGS) else None


def normalised(column: str) -> str:
    """Return a header without case, unit, tracker's prefix and punctuation: `Val loss [nats]` is
    `val_loss`. A unit with a digit in it, such as (x1e-3), scales the numbers and stays.
    """
    name = column.strip().lower()
    name = re.sub(r"^log\s*_?(2|10)\s*[(\[]\s*([^)\]]+)[)\]]$", r"log\1_\2", name)
    name = re.sub(r"^(.+?)\s*[(\[,]\s*log\s*_?(2|10)\s*[)\]]?$", r"log\2_\1", name)
    name = re.sub(r"\s*[(\[][^()\[\]\d]*[)\]]", "", name)
    name = re.sub(_TRACKERS, "", name).removesuffix(".value")
    return re.sub(r"[^a-z0-9]+", "_", name).strip("_")


def known(column: str) -> str | None:
    """Return what a column surely is by its header, as our name; None for what nobody can tell."""
    name = normalised(column)
    if column.startswith("_"):  # a tracker's own, such as the `_step` of its last report
        return None
    if name in _BY_SPELLING:
        return _BY_SPELLING[name]
    logged = re.fullmatch(r"log_?(2|10)_?(.+)", name) or re.fullmatch(r"(.+?)_log_?(2|10)", name)
    if logged is None:
        return None
    base, hp = logged.groups() if logged[1].isdigit() else (logged[2], logged[1])
    hp = "lr" if hp in _LR else hp
    return f"log{base}_{hp}" if hp in KNOWN_HPS else None
