"""Overrides as people type them on the command line: `group=choice` and `key=value`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.config.compose.schema import GROUPS, OPEN, all_keys, key_types
from hptransfer.config.records import is_list, is_text, nearest
from hptransfer.errors import UserError, abbreviate
from hptransfer.system.safe_yaml import require_plain, require_text

LONGEST = 20_000  # characters of an override
EXAMPLES = {  # a choice of each group
    **{"model": "dit", "parametrization": "mup", "objective": "ddpm", "data": "digits"},
    **{"optimizer": "adamw", "budget": "short", "quality": "frechet"},
    **{"runtime": "cpu", "executor": "local"},
}


@dataclass(frozen=True)
class Change:
    """One override of a value: the key with its value, or the key removed."""

    key: str  # dotted
    value: Any = None
    removed: bool = False


@dataclass(frozen=True)
class Overrides:
    """The overrides of a command: files chosen for groups, and changes in the order typed."""

    choices: dict[str, str]  # group -> the chosen file's name
    changes: tuple[Change, ...]


def read_overrides(words: Sequence[str]) -> Overrides:
    """The meaning of overrides as typed.

    Raises:
        UserError: a word that is no override, or sets a key that no config file has.
    """
    choices: dict[str, str] = {}
    changes = []
    for word in words:
        require_text(word, "An override", most=LONGEST)
        if word.startswith("~"):
            changes.append(_removal(word))
            continue
        key, text = _key_and_text(word)
        if key in GROUPS:
            choices[key] = choice(key, text)
        else:
            changes.append(Change(key, _value(key, text, word)))
    return Overrides(choices, tuple(changes))


def _key_and_text(word: str) -> tuple[str, str]:
    if "=" not in word:
        raise UserError(f"An override must read key=value, but got {abbreviate(word)}.")
    key, text = (part.strip() for part in word.split("=", 1))
    if key.startswith("+"):
        raise UserError(
            f"An override sets a key that exists, so it needs no +, but got {abbreviate(word)}. "
            f"Write {abbreviate(word.lstrip('+'))} if {abbreviate(key.lstrip('+'))} is one."
        )
    if not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(
            "An override's key must be words with dots between, such as model.width, but got "
            f"{abbreviate(key)}."
        )
    if key not in key_types() and not key.startswith(tuple(f"{name}." for name in OPEN)):
        raise UserError(no_key(key))
    return key, text


def _removal(word: str) -> Change:
    mappings = "|".join(name.replace(".", r"\.") for name in OPEN)
    if not re.fullmatch(rf"~({mappings})(\.\w+)+", word):
        raise UserError(
            "A leading ~ removes an entry of search, sweep.target or executor.resources, such as "
            f"~search.lr, but got {abbreviate(word)}. Set the key to a value instead."
        )
    return Change(word[1:], removed=True)


def choice(group: str, text: str) -> str:
    """The name of a group's file as given, unquoted.

    Raises:
        UserError: text that cannot be the name of a file.
    """
    name = text.strip("'\"")
    if not is_file_name(name):
        raise UserError(
            f"`{group}=` must name a file of the group {group}, such as {group}={EXAMPLES[group]}, "
            f"but got {abbreviate(text)}. Set single values as {group}.<key>=."
        )
    return name


def is_file_name(text: str) -> bool:
    """Whether text can be the name of a config file: letters, digits, `_`, `.` and `-`."""
    return re.fullmatch(r"\w[\w.-]*", text) is not None


def _value(key: str, text: str, word: str) -> Any:
    """The value of an override: of Hydra's grammar, but a key that holds text needs no quotes.

    A list needs no brackets, so that `sweep.widths=24,48` is one. One number of `sweep.seeds` is
    how many seeds there are, and not a list of one.
    """
    kind = key_types().get(key)
    if is_text(kind) and text not in ("", "null") and text[0] not in "'\"":
        return text
    if is_list(kind) and not text.startswith("[") and ("," in text or key != "sweep.seeds"):
        text = f"[{text}]"
    value = _parsed(key, text, word)
    require_plain(value, f"`{key}`")
    return value


def _parsed(key: str, text: str, word: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
        value = parsed.value()
    except (HydraException, ValueError, RecursionError):
        raise UserError(f"The override {abbreviate(word)} cannot be read as key=value.") from None
    if parsed.is_sweep_override():
        raise UserError("An override gives one value; for a list write key=[a,b] in quotes.")
    return value


def no_key(key: str) -> str:
    """The sentence for a key that no config file has, or that the chosen group's file has not."""
    known = all_keys()
    section = key.split(".")[0]
    if key in known:
        return (
            f"`{key}` exists, but not for the chosen {section}=. Leave it out where it is set (on "
            f"the command line or in the file), or choose another {section}=."
        )
    near = [name for name in known if name.startswith(f"{section}.")]
    tops = sorted({name.split(".")[0] for name in known})
    return f"There is no config key {abbreviate(key)}. {nearest(key, known, near or tops)}"
