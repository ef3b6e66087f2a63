"""Which column of a sheet holds what: as `--columns` says, else by the column's name.

Recognised are our own names, those of a W&B table (`config.lr`, `summary.val/loss`) and those of
MLflow (`params.lr`, `metrics.val_loss`). What was taken for what is always printed.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from hptransfer.config.hyperparameters import HYPERPARAMETERS, VLB_WEIGHT
from hptransfer.errors import UserError

MOST_SHOWN = 12  # columns of a table that an error message lists
KNOWN_HPS = {**HYPERPARAMETERS, "vlb_weight": VLB_WEIGHT}
_LR = ("lr", "learning_rate", "base_lr", "base_learning_rate", "peak_lr", "max_lr", "eta")
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
_BY_SPELLING = {spelled: ours for ours, names in SPELLINGS.items() for spelled in names}
_HP = re.compile(r"(?:log(?:2|10)_)?([a-z][a-z0-9_]*)")
_TRACKERS = r"^(params|metrics|config|summary|user_attrs|study_attrs|tags)[./_]"


@dataclass(frozen=True)
class Wide:
    """The columns of a wide table, each with the losses of one seed, width, ...

    They are what the pattern of a word such as `loss=loss_seed{seed}` matches.
    """

    pattern: str
    columns: Mapping[str, Mapping[str, str]]  # a column -> our name -> the value in its name

    @property
    def names(self) -> tuple[str, ...]:
        """Our names whose values the names of the columns hold."""
        return tuple(next(iter(self.columns.values())))


@dataclass(frozen=True)
class ChosenColumns:
    """The source of each of our columns: a column of the table, a constant, or column names."""

    columns: Mapping[str, str]  # our name -> a column of the sheet
    constants: Mapping[str, str]  # our name -> its value in all rows
    wide: Wide | None

    @cached_property
    def names(self) -> frozenset[str]:
        """All of our names that have a source."""
        of_wide = ("loss", *self.wide.names) if self.wide else ()
        return frozenset((*self.columns, *self.constants, *of_wide))

    @property
    def axes(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a name (`lr`, `log2_<hp>`, `log10_<hp>`) and the ledger's, `log2_<hp>`."""
        return tuple((name, f"log2_{hp}") for name in sorted(self.names) if (hp := hp_of(name)))

    def record(self) -> dict[str, str]:
        """Return the sources as words of `--columns` give them, for the folder's sweep.yaml."""
        said = {**self.columns, **{name: f":={text}" for name, text in self.constants.items()}}
        if self.wide:
            said["loss"] = self.wide.pattern
        return dict(sorted(said.items()))


def choose_columns(words: Sequence[str], columns: Sequence[str], file: str) -> ChosenColumns:
    """Return the source of each of our columns: `--columns` first, the rest by recognised names.

    Args:
        words: the words of `--columns`.
        columns: the names of the table's columns.
        file: the file's name, for messages.

    Raises:
        UserError: a word names no column, or a needed column has no source or several; the sentence
            says what to type.
    """
    given, unread = _given(words, columns, file)
    taken = given.names | unread
    used = {*given.columns.values(), *(given.wide.columns if given.wide else ())}
    is_hp_given = any(map(hp_of, taken))
    candidates: dict[str, list[str]] = {}
    for column in columns:
        ours = recognised_name(column)
        if ours and ours not in taken and column not in used and not (is_hp_given and hp_of(ours)):
            candidates.setdefault(ours, []).append(column)
    found = {ours: named[0] for ours, named in candidates.items() if len(named) == 1}
    chosen = replace(given, columns={**given.columns, **found})
    _require_enough(chosen, candidates, columns, file)
    return chosen


def _given(
    words: Sequence[str], columns: Sequence[str], file: str
) -> tuple[ChosenColumns, set[str]]:
    """Parse the words of `--columns`; return what they name, and what nothing is read as.

    They are ours=theirs, ours:=value, ours= (nothing is read as ours) and loss=pattern.
    """
    given, constants, unread = dict[str, str](), dict[str, str](), set[str]()
    wide: Wide | None = None
    for word in words:
        ours, equals, theirs = word.partition("=")
        constant = ours.endswith(":")
        ours = ours.removesuffix(":").strip()
        if not equals:
            raise UserError(
                f"`--columns` takes OURS=THEIRS, e.g. lr=learning_rate, but got {word!r}."
            )
        _require_ours(ours)
        if ours in given or ours in constants or ours in unread or (ours == "loss" and wide):
            raise UserError(f"`--columns` must name {ours} once, but names it again: {word!r}.")
        if constant:
            constants[ours] = theirs.strip()
        elif not theirs:
            unread.add(ours)
        elif ours == "loss" and theirs not in columns and re.search(r"\{\w+\}", theirs):
            wide = _matching(theirs, columns, file)
        else:
            given[ours] = _column(theirs, ours, columns, file)
    chosen = ChosenColumns(given, constants, wide)
    hps = sorted(hp for name in chosen.names if (hp := hp_of(name)))
    repeated = next((hp for hp, after in itertools.pairwise(hps) if hp == after), None)
    if repeated:
        raise UserError(f"`--columns` must give {repeated} in one unit, but gives it in several.")
    return chosen, unread


def _require_ours(name: str) -> None:
    if name in SPELLINGS or hp_of(name):
        return
    near = difflib.get_close_matches(name, (*SPELLINGS, "lr", "log2_lr"), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"`--columns` names what hptransfer reads ({', '.join(SPELLINGS)}, log2_<hp> or "
        f"log10_<hp>), but got {name!r}. {hint}".rstrip()
    )


def _column(theirs: str, ours: str, columns: Sequence[str], file: str) -> str:
    if theirs in columns:
        return theirs
    same = [name for name in columns if normalised(name) == normalised(theirs)]
    if len(same) == 1:
        return same[0]
    near = difflib.get_close_matches(theirs, columns, n=3, cutoff=0.3)
    word = shlex.quote(f"{ours}={near[0] if near else 'COLUMN'}")
    raise UserError(
        f"{file} has no column {theirs!r}; it has {_listed(near or columns)}. Say e.g. --columns "
        f"{word}"
    )


def _matching(pattern: str, columns: Sequence[str], file: str) -> Wide:
    parts = re.split(r"\{(\w+)\}", pattern)
    names = parts[1::2]
    for name in names:
        _require_ours(name)
    if "loss" in names or len(set(names)) < len(names):
        raise UserError(f"A pattern names once what columns differ in, but got {pattern!r}.")
    pieces = [
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>{_matched_by(part)})"
        for i, part in enumerate(parts)
    ]
    form = re.compile("".join(pieces), re.IGNORECASE)
    matches = {name: found for name in columns if (found := form.fullmatch(name))}
    if not matches:
        raise UserError(
            f"{file} has no column of the form {pattern!r}; it has {_listed(columns)}. Write what "
            "differs between the columns in braces, e.g. --columns 'loss=loss_seed{seed}'"
        )
    return Wide(pattern, {name: found.groupdict() for name, found in matches.items()})


def _matched_by(ours: str) -> str:
    return r".+?" if ours in ("parametrization", "family") else r"[-+]?[\d.]+(?:e[-+]?\d+)?"


def _require_enough(
    chosen: ChosenColumns, candidates: Mapping[str, list[str]], columns: Sequence[str], file: str
) -> None:
    """Refuse a table whose width, loss or HP no column gives or several may give."""
    problems, words = [], []
    for ours, named in candidates.items():
        if len(named) > 1:
            problems.append(f"{' or '.join(map(repr, named))} could be the {ours}")
            words.append(f"{ours}={named[0]}")
    units = sorted((hp, name) for name in chosen.columns if (hp := hp_of(name)))
    for (hp, name), (after, other) in itertools.pairwise(units):
        if hp == after:
            first, second = chosen.columns[name], chosen.columns[other]
            problems.append(f"{first!r} and {second!r} both give the {hp}")
            words.append(f"{name}={first}")
    needed = {"width": "a width", "loss": "a loss", "lr": "a learning rate (lr, or log2_<hp>)"}
    has_hp = bool(chosen.axes) or any(map(hp_of, candidates))
    for ours, what in needed.items():
        if not (has_hp if ours == "lr" else ours in {*chosen.names, *candidates}):
            problems.append(f"no column is known as {what}")
            words.append(f"{ours}=COLUMN")
    if problems:
        raise UserError(
            f"Rows need a width, a loss and a hyperparameter, but in {file} "
            f"{', and '.join(problems)}; its columns are {_listed(columns)}. Say which is which, "
            f"e.g. --columns {shlex.join(words)}"
        )


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:MOST_SHOWN])
    return shown + (f" and {len(columns) - MOST_SHOWN} more" if len(columns) > MOST_SHOWN else "")


@cache
def hp_of(name: str) -> str | None:
    """Return the hyperparameter of one of our names, such as lr of `log10_lr`, or None."""
    match = _HP.fullmatch(name)
    if match is None or (name in SPELLINGS and name != "lr"):
        return None
    hp = match[1]
    logged = name != hp
    known_hp = hp in KNOWN_HPS
    return hp if known_hp or (logged and hp not in SPELLINGS) else None


def normalised(column: str) -> str:
    """Return a column's name without case, unit, tracker's prefix and punctuation.

    `Val loss [nats]` is `val_loss`. A unit with a digit in it, such as (x1e-3), scales the numbers
    and stays.
    """
    name = re.sub(r"\s*[(\[][^()\[\]\d]*[)\]]", "", column.strip().lower())
    name = re.sub(_TRACKERS, "", name).removesuffix(".value")
    return re.sub(r"[^a-z0-9]+", "_", name).strip("_")


def recognised_name(column: str) -> str | None:
    """Return our name for a column that its header tells; None where the header does not."""
    name = normalised(column)
    if column.startswith("_"):  # W&B's own, such as the `_step` of a run's last report
        return None
    if name in _BY_SPELLING:
        return _BY_SPELLING[name]
    logged = re.fullmatch(r"log(2|10)_(.+)", name)
    if logged is None:
        return None
    hp = "lr" if logged[2] in _LR else logged[2]
    return f"log{logged[1]}_{hp}" if hp in KNOWN_HPS else None
