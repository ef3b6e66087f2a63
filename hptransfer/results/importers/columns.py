"""Which column of a sheet is what: as the user says, or by well-known names, always told."""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from hptransfer.config.hyperparameters import HYPERPARAMETERS, VLB_WEIGHT
from hptransfer.errors import UserError

MOST_SHOWN = 12  # columns that a sentence lists


@dataclass(frozen=True)
class Wide:
    """Columns that each hold the losses of one seed, width, ...: `loss=loss_seed{seed}`."""

    pattern: str
    columns: Mapping[str, Mapping[str, str]]  # a column -> what its name says, by our names


@dataclass(frozen=True)
class Chosen:
    """What each of our names is read from."""

    columns: Mapping[str, str]  # our name -> a column of the sheet
    constants: Mapping[str, str] = field(default_factory=dict)  # the same for every row
    wide: Wide | None = None
    found: tuple[str, ...] = ()  # our names that were recognised and not given
    notes: tuple[str, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name of ours that has a value."""
        inner = next(iter(self.wide.columns.values())) if self.wide else {}
        loss = ("loss",) if self.wide else ()
        return frozenset((*self.columns, *self.constants, *inner, *loss))

    @cached_property
    def hps(self) -> tuple[str, ...]:
        """Our names that are hyperparameters: `lr`, `log2_<hp>`, `log10_<hp>`."""
        return tuple(sorted(name for name in self.names if hp_of(name)))

    @cached_property
    def axes(self) -> tuple[tuple[str, str], ...]:
        """Those names, each with the axis that the ledger has for it: `log2_<hp>`."""
        return tuple((name, f"log2_{hp_of(name)}") for name in self.hps)

    def record(self) -> dict[str, str]:
        """Return the choice as `--columns` words would say it, for the folder's sweep.yaml."""
        said = {**self.columns, **{name: f":={text}" for name, text in self.constants.items()}}
        if self.wide:
            said["loss"] = self.wide.pattern
        return dict(sorted(said.items()))


def choose(words: Sequence[str], columns: Sequence[str], file: str) -> Chosen:
    """Return what is read from where: `--columns` first, the rest by well-known names.

    Raises:
        UserError: an unknown name or column, or one that is needed and cannot be told, with what
            to type.
    """
    given, constants, unread, wide = _given(words, columns, file)
    taken = {*given, *constants, *unread, *(("loss",) if wide else ())}
    taken |= set(next(iter(wide.columns.values()))) if wide else set()
    used = {*given.values(), *(wide.columns if wide else ())}
    hp_given = any(hp_of(name) for name in taken)
    candidates: dict[str, list[str]] = {}
    for column in columns:
        ours = known(column)
        if ours and ours not in taken and column not in used and not (hp_of(ours) and hp_given):
            candidates.setdefault(ours, []).append(column)
    notes = _prefer_log2(candidates)
    if "loss" not in candidates and "loss" not in taken:
        wide = _recognised_wide(columns, {*taken, *candidates})
    found = {ours: named[0] for ours, named in candidates.items() if len(named) == 1}
    if wide:
        inner = next(iter(wide.columns.values()))
        found = {ours: column for ours, column in found.items() if ours not in inner}
    chosen = Chosen({**given, **found}, constants, wide, tuple(sorted(found)), notes)
    doubtful = {ours: named for ours, named in candidates.items() if len(named) > 1}
    _require_enough(chosen, doubtful, columns, file)
    return chosen


def _given(
    words: Sequence[str], columns: Sequence[str], file: str
) -> tuple[dict[str, str], dict[str, str], set[str], Wide | None]:
    """Parse `--columns`: ours=theirs, ours:=value, ours= (not read), loss=a pattern."""
    given: dict[str, str] = {}
    constants: dict[str, str] = {}
    unread: set[str] = set()
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
    named = [*given, *constants, *(next(iter(wide.columns.values())) if wide else ())]
    hps = sorted(hp for name in named if (hp := hp_of(name)))
    repeated = next((hp for hp, after in itertools.pairwise(hps) if hp == after), None)
    if repeated:
        raise UserError(f"`--columns` must give {repeated} in one unit, but gives it in several.")
    return given, constants, unread, wide


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


def _prefer_log2(candidates: dict[str, list[str]]) -> tuple[str, ...]:
    """Of an HP that stands there in several units keep log2's; say so."""
    hps: dict[str, list[str]] = {}
    for ours in candidates:
        if hp := hp_of(ours):
            hps.setdefault(hp, []).append(ours)
    notes = []
    for forms in hps.values():
        *_, kept = sorted(forms, key=lambda name: (name.startswith("log"), "log2" in name))
        for name in set(forms) - {kept}:
            (*_, column), (*_, instead) = candidates.pop(name), candidates[kept]
            notes.append(f"{column!r} is not read: {instead!r} says the same in another unit")
    return tuple(notes)


def _recognised_wide(columns: Sequence[str], taken: set[str]) -> Wide | None:
    """Find columns such as loss_seed0, loss_seed1, or 64, 128, 256 beside learning rates."""
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        match = re.fullmatch(r"(.*?)_?([a-z_]+?)_?(\d+)", normalised(column))
        if match is None:
            continue
        before, stem, number = match.groups()
        whole = f"{before}_{stem}".strip("_")
        for ours, stems in WIDE_STEMS.items():
            for each in stems:
                prefix = whole.removesuffix(each).strip("_")
                if ours not in taken and whole.endswith(each) and prefix in ("", *LOSS_STEMS):
                    found.setdefault(ours, {}).setdefault(column, number)
    for ours, each in found.items():
        if len(each) > 1 and len(found) == 1:
            return Wide(f"(columns by {ours})", {c: {ours: number} for c, number in each.items()})
    bare = [column for column in columns if re.fullmatch(r"\d+", column)]
    if len(bare) > 1 and "width" not in taken and min(map(int, bare)) >= 8:
        return Wide("{width}", {column: {"width": column} for column in bare})
    return None


def _require_enough(
    chosen: Chosen, doubtful: Mapping[str, list[str]], columns: Sequence[str], file: str
) -> None:
    """Refuse what is ambiguous or lacks a width, a loss or an HP; say what to type."""
    problems = [
        f"{' or '.join(map(repr, named))} could be the {ours}" for ours, named in doubtful.items()
    ]
    words = [shlex.quote(f"{ours}={named[0]}") for ours, named in doubtful.items()]
    free = [name for name in columns if name not in chosen.columns.values()]
    for ours in ("width", "loss", "lr"):
        told = chosen.hps if ours == "lr" else ours in chosen.names
        if not told and ours not in doubtful and not (ours == "lr" and any(map(hp_of, doubtful))):
            needed = "a learning rate (lr, or log2_<hp>)" if ours == "lr" else f"a {ours}"
            problems.append(f"no column is known as {needed}")
            words.append(shlex.quote(f"{ours}={_nearest(ours, free)}"))
    if problems:
        raise UserError(
            f"Rows need a width, a loss and a hyperparameter, but in {file} "
            f"{', and '.join(problems)}; its columns are {_listed(columns)}. Say which is which, "
            f"e.g. --columns {' '.join(words)}"
        )


def _nearest(ours: str, free: Sequence[str]) -> str:
    """Return the column that is most like what we know under a name."""
    spelled = SPELLINGS.get(ours) or SPELLINGS["lr"]
    scored = [
        (max(difflib.SequenceMatcher(None, normalised(c), s).ratio() for s in spelled), c)
        for c in free
    ]
    return max(scored, default=(0.0, "COLUMN"))[1]


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:MOST_SHOWN])
    return shown + (f" and {len(columns) - MOST_SHOWN} more" if len(columns) > MOST_SHOWN else "")


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
