"""Trials of a trainer that is not ours: a Python function or a command, and what identifies a run.

hptransfer knows nothing of such a trainer but what a sweep file says: its width, its searched
hyperparameters and its fixed values are words of the trainer, which it is told in each trial.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import shlex
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hptransfer.config.checks import require_count, require_finite, require_positive
from hptransfer.errors import UserError, abbreviate, require

FAMILY = "external"  # `model.family` of a trainer that is not ours
ARM = "trainer"  # the label of the arm of a sweep that names no parametrizations
# What every trial is told besides its hyperparameters and fixed values.
TOLD = ("width", "base_width", "depth", "seed", "parametrization", "folder", "trial_key", "hosts")
# Words that only a shell understands: a chain of commands, a pipe, or a redirection.
SHELL_SIGN = r"&&|\|\|?|[^'\"]*;|&|\d?>>?(&\d|[\w./-]*)|<"
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class ExternalArm:
    """A parametrization by the trainer's own word for it."""

    value: str

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"\w[\w.-]{0,39}", self.value) is not None and self.value != "shared",
            "`sweep.parametrizations` of your own trainer must be words of at most 40 letters, "
            f"digits, dots and dashes, other than shared, but got {abbreviate(self.value)}.",
        )


@dataclass(frozen=True)
class ExternalTrainer:
    """The section `train` of a sweep whose trials another program trains."""

    function: str = ""  # package.module:function, which is called with an `hptransfer.Trial`
    command: str = ""  # a command line with placeholders such as {width}, {lr} and {seed}
    version: str = ""  # change it with the trainer's code: no trial's key depends on the code
    result: str | None = None  # regular expression that finds the loss in the command's output
    timeout_s: float | None = None  # seconds that an attempt at a trial may take; null: any
    grace_s: float = 10.0  # seconds between SIGTERM and SIGKILL for a trial that must end
    stop_hopeless: bool = False  # give up a trial whose reported loss rose and stays high

    def __post_init__(self) -> None:
        require(
            bool(self.function) != bool(self.command),
            "A sweep of your own trainer names either `train.function` (package.module:function) "
            f"or `train.command`, but got function={self.function!r} and "
            f"command={abbreviate(self.command)}. Give one of them.",
        )
        require(
            not self.function or re.fullmatch(r"[\w.]+:[\w.<>]+", self.function) is not None,
            "`train.function` must have the form package.module:function, but got "
            f"{abbreviate(self.function)}.",
        )
        if self.result is not None:
            self._require_pattern(self.result)
        if self.timeout_s is not None:
            require_positive("train.timeout_s", self.timeout_s)
        require_finite("train.grace_s", self.grace_s, least=0)
        if self.command:
            self._require_no_shell()

    @property
    def name(self) -> str:
        """The function or the command, for messages."""
        return self.function or self.command

    def _require_pattern(self, pattern: str) -> None:
        require(
            bool(self.command),
            "`train.result` finds the loss in the output of a command, but this sweep trains with "
            "a function, which returns its loss. Leave train.result out.",
        )
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise UserError(
                f"`train.result` must be a regular expression, but got {abbreviate(pattern)}: "
                f"{error}."
            ) from None
        require(
            groups == 1,
            "`train.result` must have one group in parentheses, which is the loss, but "
            f"{abbreviate(pattern)} has {groups}. Write it like val_loss=(\\S+).",
        )

    @property
    def words(self) -> list[str]:
        """The command's words with their placeholders.

        Raises:
            UserError: the command cannot be split into words, or it has none.
        """
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UserError(
                f"`train.command` must be a command line, but {abbreviate(self.command)} cannot "
                f"be split into words ({error}). Close its quotes."
            ) from None
        require(
            bool(words),
            "`train.command` must be a command line, but it is empty. Give one, for example "
            "python train.py --width {width} --lr {lr}.",
        )
        return words

    def _require_no_shell(self) -> None:
        """Refuse the unquoted signs of a shell, which a program would get as arguments."""
        try:
            words = self.words and shlex.split(self.command, posix=False)  # quotes stay
        except ValueError:  # quotes behind backslashes
            words = []
        for word in words:
            require(
                re.fullmatch(SHELL_SIGN, word) is None,
                f"`train.command` is read by no shell, so {abbreviate(word)} would be an argument "
                "of the program. Write bash -c '...' around the whole line, or remove it.",
            )

    @property
    def placeholders(self) -> set[str]:
        """The names in braces of the command.

        Raises:
            UserError: braces that hold no name.
        """
        found = set()
        for word in self.words:
            try:
                parts = list(string.Formatter().parse(word))
            except ValueError as error:
                raise self._no_placeholder(word, str(error)) from None
            for _, name, form, conversion in parts:
                if name is None:
                    continue
                if not re.fullmatch(r"[A-Za-z_]\w*", name) or form or conversion:
                    raise self._no_placeholder(word, f"{{{name}}} is no name in braces")
                found.add(name)
        return found

    def _no_placeholder(self, word: str, reason: str) -> UserError:
        return UserError(
            "A placeholder of `train.command` must be a name in braces such as {width}, but got "
            f"{abbreviate(word)} ({reason}). Write {{{{ and }}}} for braces that the command is "
            "to get."
        )

    def command_words(self, values: Mapping[str, Any]) -> list[str]:
        """Return the command's words with the placeholders filled in; no shell reads them."""
        told = {name: value_text(value) for name, value in values.items()}
        return [word.format_map(told) for word in self.words]


def is_external(content: Mapping[str, Any]) -> bool:
    """Say whether a file's content is the sweep of a trainer that is not ours."""
    train = content.get("train")
    return isinstance(train, Mapping) and bool({"function", "command"} & set(train))


def value_text(value: Any) -> str:
    """Return a value as a command line or a config has it: numbers in 9 digits, null as `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class ExternalModel:
    """The width of a trial's model, and that at which its parametrization changes nothing."""

    width: int
    base_width: int | None = None
    family: str = field(default=FAMILY, init=False)
    depth_mult: float = field(default=1.0, init=False)  # depth scaling is the trainer's own

    def __post_init__(self) -> None:
        require_count("sweep.widths", self.width)
        require_count("sweep.base_width", self.base_width)


@dataclass(frozen=True)
class ExternalTrial:
    """One run of a trainer that is not ours: all that it is told, which is its identity."""

    trainer: ExternalTrainer
    model: ExternalModel
    hps: tuple[tuple[str, float], ...] = ()  # name -> log2 of the value
    fixed: tuple[tuple[str, Scalar], ...] = ()  # what no trial of the sweep changes, by name
    parametrization: str = ARM  # the arm, a word of the trainer
    seed: int = 0

    def told(self) -> dict[str, Any]:
        """Return what the trainer is told, but for its folder, key and hosts."""
        fixed = dict(self.fixed)
        return {
            "width": self.model.width,
            "base_width": self.model.base_width,
            "depth": fixed.get("depth"),
            "seed": self.seed,
            "parametrization": self.parametrization,
            **fixed,
            **self.values,
        }

    @property
    def values(self) -> dict[str, float]:
        """The values of the hyperparameters by name, in 12 digits."""
        return {name: float(f"{2.0**log2:.12g}") for name, log2 in self.hps}

    def canonical(self) -> dict[str, Any]:
        """Return the JSON object whose hash is the trial's key: what can change the result."""
        trainer = {
            name: getattr(self.trainer, name)
            for name in ("function", "command", "version", "result", "stop_hopeless")
            if getattr(self.trainer, name)
        }
        base = {} if self.model.base_width is None else {"base_width": self.model.base_width}
        return {
            "external": trainer,
            "model": {"family": FAMILY, "width": self.model.width, **base},
            "parametrization": self.parametrization,
            "hps": self.values,
            "fixed": dict(self.fixed),
            "seed": self.seed,
        }

    def with_width(self, width: int) -> ExternalTrial:
        """Return the trial at another width."""
        return dataclasses.replace(self, model=ExternalModel(width, self.model.base_width))

    def with_hps(self, log2_values: Mapping[str, float]) -> ExternalTrial:
        """Return the trial with hyperparameters set, by `log2_<name>`."""
        given = {name.removeprefix("log2_"): value for name, value in log2_values.items()}
        return dataclasses.replace(self, hps=tuple({**dict(self.hps), **given}.items()))

    def with_fixed(self, values: Mapping[str, Scalar]) -> ExternalTrial:
        """Return the trial with fixed values set."""
        return dataclasses.replace(self, fixed=tuple({**dict(self.fixed), **values}.items()))


def require_names(search: Iterable[str], fixed: Mapping[str, Any]) -> None:
    """Refuse names that a trial could not be told, and fixed values that are no plain values."""
    for section, names in (("search", search), ("fixed", fixed)):
        for name in names:
            require(
                re.fullmatch(r"[A-Za-z_]\w*", str(name)) is not None,
                f"A name in `{section}` must consist of letters, digits and underscores, but got "
                f"{abbreviate(name)}.",
            )
            require(
                name not in TOLD or (section, name) == ("fixed", "depth"),
                f"`{section}.{name}` cannot be set, because every trial is told its {name} "
                "already. Choose another name.",
            )
    for name, value in fixed.items():
        require(
            value is None or isinstance(value, str | int | float | bool),
            f"`fixed.{name}` must be a number, text, true, false or null, but got "
            f"{abbreviate(value)}.",
        )
        require(
            not isinstance(value, float) or math.isfinite(value),
            f"`fixed.{name}` must be finite, but got {value}. Put it in quotes, as text.",
        )
        require(
            name not in search,
            f"`{name}` stands in `search` and in `fixed`, but a value is either searched or "
            "fixed. Remove one of them.",
        )


def require_placeholders(trial: ExternalTrial, *, search: Iterable[str], seeds: int) -> None:
    """Refuse a command with placeholders that do not exist, or without one that trials differ in.

    A command without any of width, seed and hyperparameters is taken to read the file that the
    environment variable HPTRANSFER_TRIAL names.
    """
    if not trial.trainer.command:
        return
    used = trial.trainer.placeholders
    known = {*TOLD, *trial.told()}
    for name in sorted(used - known):
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
        hint = f"Did you mean {{{near[0]}}}?" if near else f"There is: {', '.join(sorted(known))}."
        raise UserError(f"`train.command` uses {{{name}}}, but no trial has such a value. {hint}")
    differing = ["width", *search, *(["seed"] if seeds > 1 else [])]
    missing = [name for name in differing if name not in used]
    require(
        not missing or len(missing) == len(differing),
        f"`train.command` has placeholders, but none for {', '.join(missing)}, in which the trials "
        f"differ, so they would all train alike. Add {{{'} and {'.join(missing)}}}, or use none of "
        "these placeholders and read the JSON file that HPTRANSFER_TRIAL names.",
    )
