"""What the names of columns mean: our words for them, and hyperparameters of any name.

Recognised are our own names, those of a W&B table (`config.lr`, `summary.val/loss`) and of MLflow
(`params.lr`, `metrics.val_loss`), and names within a group of a config (`optimizer.learning_rate`).
"""

from __future__ import annotations

import math
import re
from functools import cache

from hptransfer.config.hyperparameters import HYPERPARAMETERS, VLB_WEIGHT

KNOWN_HPS = {**HYPERPARAMETERS, "vlb_weight": VLB_WEIGHT}
_LR = (
    *("lr", "learning_rate", "base_lr", "base_learning_rate", "peak_lr", "max_lr", "eta"),
    *("init_lr", "initial_lr", "peak_learning_rate", "max_learning_rate", "learningrate"),
)
# Our name of a column -> what other programs call it, as `normalised` writes it.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "width": (
        *("width", "d_model", "dmodel", "hidden_size", "hidden_dim", "n_embd", "embed_dim"),
        *("model_width", "model_dim", "n_embed", "hidden_width", "embedding_dim"),
    ),
    "loss": (
        *("loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss"),
        *("final_loss", "final_val_loss", "value", "best_val_loss"),
    ),
    "seed": (
        *("seed", "random_seed", "rng_seed", "run_seed", "seed_id", "replicate", "repeat"),
        *("global_seed", "torch_seed"),
    ),
    "parametrization": (
        *("parametrization", "parameterization", "parametrisation", "parameterisation"),
        *("param", "arm", "scaling", "mup", "use_mup", "mup_enabled", "is_mup", "enable_mup"),
        *("mup_use", "with_mup"),
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
_BY_SPELLING = {spelled: ours for ours, names in SPELLINGS.items() for spelled in names}
_MEASURED = frozenset(
    {"loss", "loss_std", "loss_at_init", "train_loss", "diverged", "diverged_at_step", "flops"}
    | {"seconds", "n_seeds", "status", "step"}
)
# Other programs' names of hyperparameters -> ours.
_HP_SPELLINGS = {
    **dict.fromkeys(("wd", "weight_decay", "weightdecay", "l2"), "weight_decay"),
    **dict.fromkeys(("eps", "epsilon", "adam_eps", "adam_epsilon"), "eps"),
    **dict.fromkeys(
        ("clip_norm", "grad_clip", "grad_clip_norm", "gradient_clip_norm", "max_grad_norm"),
        "clip_norm",
    ),
    **dict.fromkeys(("warmup_fraction", "warmup_ratio"), "warmup_fraction"),
    **{f"{of}beta{_}{n}": f"beta{n}" for n in "12" for of in ("", "adam_") for _ in ("", "_")},
    **{name: name for name in ("init_std", "init_scale", "output_scale", "vlb_weight")},
    **{name: name for name in ("output_mult", "input_mult", "embed_mult", "attn_mult")},
}
# Last words of names that are hyperparameters of their own, such as `matrix_lr` -> our word.
_HP_ENDS = {
    "learning_rate": "lr",
    **{end: end for end in ("lr", "weight_decay", "eps", "init_std", "beta1", "beta2")},
    **{end: end for end in ("momentum", "dropout", "drop_path", "label_smoothing")},
    **{end: end for end in ("ema", "ema_decay", "ema_rate")},
    "wd": "weight_decay",
}
# Last words of hyperparameters that are compared as they are, not by their logarithm.
LINEAR_ENDS = (
    *("momentum", "dropout", "drop_path", "label_smoothing", "ema", "ema_decay", "ema_rate"),
)
# First word of a logarithm's name -> octaves in one of its units; `log` does not tell the base.
LOGARITHMS = {"log2": 1.0, "log10": math.log2(10.0), "ln": math.log2(math.e), "log": math.nan}
_LOG = "|".join(LOGARITHMS)
_HP = re.compile(rf"(?:({_LOG})_)?([a-z][a-z0-9_]*)")
_TRACKER = re.compile(r"^(params|metrics|config|summary|user_attrs|study_attrs|tags)[./_]")
_LOGGED = re.compile(r"^(metrics|summary|tags)[./_]")
# Groups of a config, whose names say nothing of a column inside them.
_GROUP = re.compile(
    r"^(optimizer|optim|opt|model|training|train|trainer|config|cfg|hparams|hp|params|args|run|data"
    r"|scheduler|network|net|budget|experiment|exp|parametrization|parameterization)[./]+"
)
_JOINED_GROUP = re.compile(r"^(optimizer|optim|opt|cfg|hparams|hp|args|training)_")
PLAIN_LEVEL = 0  # of a name that is ours or a well-known spelling
ODD_LEVEL = 10  # of a config's value among logged metrics, or a measured one in a config


@cache
def hp_of(name: str) -> str | None:
    """Return the hyperparameter of one of our names, such as lr of `log10_lr`, or None."""
    match = _HP.fullmatch(name)
    if match is None or (name in SPELLINGS and name != "lr"):
        return None
    return match[2] if match[2] == "lr" or match[2] not in SPELLINGS else None


def log_of(name: str) -> str:
    """Return the first word of a logarithm's name, such as log10 of `log10_lr`; else ""."""
    first, _, rest = name.partition("_")
    return first if rest and first in LOGARITHMS else ""


def axis_of(name: str) -> str:
    """Return the ledger's axis of a name of a hyperparameter.

    It is `log2_<hp>`, and `log2_one_minus_beta1` for beta1; those of `LINEAR_ENDS` are their own.
    """
    hp = hp_of(name)
    assert hp is not None, "only hyperparameters have an axis"
    if hp == name and is_linear(name):
        return name
    if hp == name and is_complement(name):
        start, beta = name[: -len("beta1")], name[-len("beta1") :]
        return f"log2_{start}one_minus_{beta}"
    return f"log2_{hp}"


def is_linear(name: str) -> bool:
    """Say whether a hyperparameter is compared as it is, not by its logarithm."""
    return any(name == end or name.endswith(f"_{end}") for end in LINEAR_ENDS)


def is_complement(name: str) -> bool:
    """Say whether what is compared is the logarithm of one minus the hyperparameter."""
    return re.fullmatch(r"(?!one_minus_|.*_one_minus_)(.+_)?beta[12]", name) is not None


def hp_spelled(spelled: str) -> str | None:
    """Return the hyperparameter that a normalised name is known for, or None."""
    if spelled in _LR:
        return "lr"
    if spelled in KNOWN_HPS:
        return spelled
    if spelled in _HP_SPELLINGS:
        return _HP_SPELLINGS[spelled]
    if spelled in _BY_SPELLING:
        return None
    for end, ours in _HP_ENDS.items():
        if spelled == end:
            return ours
        if spelled.endswith(f"_{end}"):
            return f"{spelled.removesuffix(end)}{ours}"
    return None


def normalised(column: str) -> str:
    """Return a column's name without case, unit, tracker's prefix and punctuation.

    `Val loss [nats]` is `val_loss`. A unit with a digit in it, such as (x1e-3), scales the numbers
    and stays.
    """
    return _words(_TRACKER.sub("", _bare(column)))


def _bare(column: str) -> str:
    name = re.sub(rf"\b({_LOG})\s*\(([^()]+)\)", r"\1_\2", column.strip().lower())
    return re.sub(r"\s*[(\[][^()\[\]\d]*[)\]]", "", name)


def _words(name: str) -> str:
    name = name.removesuffix(".value")
    return re.sub(r"[^a-z0-9µμ]+", "_", name).strip("_").replace("µ", "mu").replace("μ", "mu")


def is_logged_metric(column: str) -> bool:
    """Say whether a tracker logged a column's values while a run was training."""
    return _LOGGED.match(column.strip().lower()) is not None


def recognised(column: str) -> tuple[str | None, int]:
    """Return our name for a column that its header tells, and how far the header is from it.

    Of several columns with one of our names those of the lowest level are meant.
    """
    if column.startswith("_"):  # W&B's own, such as the `_step` of a run's last report
        return None, PLAIN_LEVEL
    cased = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", column.strip())
    spelled: list[str] = []
    for bare in (_TRACKER.sub("", _bare(each)) for each in (column, cased)):
        inner, outer = re.sub(r"[./](name|type)$", "", bare), ""
        while inner != outer:
            outer, inner = inner, _GROUP.sub("", inner)
        spelled += [_words(bare), _words(inner), _JOINED_GROUP.sub("", _words(inner))]
    for level, name in enumerate(spelled):
        ours = _recognised_name(name)
        if ours is not None:
            is_odd = _has_tracker(column) and is_logged_metric(column) != (ours in _MEASURED)
            return ours, level + (ODD_LEVEL if is_odd else PLAIN_LEVEL)
    for name in spelled[2::3]:  # without its groups: `optim.muon.lr` is `muon_lr`
        ours = hp_spelled(name)
        if ours is not None and hp_of(ours) == ours and not is_logged_metric(column):
            return ours, len(spelled)
    return None, PLAIN_LEVEL


def _has_tracker(column: str) -> bool:
    return _TRACKER.match(column.strip().lower()) is not None


def _recognised_name(name: str) -> str | None:
    if name in _BY_SPELLING:
        return _BY_SPELLING[name]
    logged = re.fullmatch(rf"({_LOG})(_?)(.+)", name)
    if logged is None:
        return _HP_SPELLINGS.get(name)
    log, blank, hp = logged[1], logged[2], hp_spelled(logged[3])
    # `ln_eps` is a layer norm's, and `logit_lr` no logarithm.
    is_told = hp == "lr" or (blank and log != "ln")
    return f"{log}_{hp}" if hp is not None and is_told else None
