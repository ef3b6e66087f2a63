"""What people type as overrides, made fit for Hydra, and Hydra's complaints in one sentence."""

from __future__ import annotations

import difflib
import re

from hptransfer.errors import UserError

TRIAL_GROUPS = ("model", "parametrization", "objective", "data", "optimizer", "budget")
TRIAL_FIELDS = ("init", "precision", "seed")  # beside the groups
GROUPS = (*TRIAL_GROUPS, "runtime", "executor")
LISTS = ("sweep.widths", "sweep.seeds", "sweep.parametrizations", "transfer.allow")
OPEN = ("search.", "sweep.target.")  # mappings to which keys may be added

_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def group_choices(overrides: list[str]) -> dict[str, str]:
    """Return the groups chosen by overrides: {group: file}."""
    pairs = (override.split("=", 1) for override in overrides if "=" in override)
    return {key: value for key, value in (map(str.strip, pair) for pair in pairs) if key in GROUPS}


def normalised(overrides: list[str]) -> list[str]:
    """Return overrides as Hydra wants them; refuse `+`, which has nothing to add here."""
    return [_normalised(override) for override in overrides]


def _normalised(override: str) -> str:
    if override.startswith("~"):
        return override
    if "=" not in override:
        raise UserError(f"An override must read key=value, but got {override!r}.")
    key, value = override.split("=", 1)
    if key.startswith("+"):
        raise UserError(
            f"An override sets a key that exists, so it needs no +, but got {override!r}. Write "
            f"{override.lstrip('+')!r} if {key.lstrip('+')!r} is one."
        )
    if key == "data.sha256" and not value.startswith(("'", '"')):
        value = f"'{value}'"  # 1234e567... is a hash and no number
    if key in LISTS and not value.startswith("["):
        value = f"[{value}]"
    if key.startswith(OPEN):
        key = f"++{key}"
    return f"{key}={value}"


def nearest(word: str, known: list[str]) -> str:
    """Return a sentence that names the nearest known words, or all if none is near."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if not close and "." in word:
        leaf = word.rsplit(".", 1)[1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There is: {', '.join(known)}."


def explain(error: Exception, overrides: list[str], available: dict[str, list[str]]) -> str:
    """Put a Hydra or OmegaConf error into one sentence.

    `available` maps a group to its files, and the empty name to all keys of the schema.
    """
    text = str(error)
    cause = str(error.__cause__ or "")
    if found := re.search(r"Could not find '(?:(\w+)/)?(\S+)'", text):
        group, choice = found[1] or "", found[2]
        what = f"{group}={choice}" if group else choice
        return f"There is no {what}. {nearest(choice, available.get(group, []))}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _no_key(found[1], available[""])
    if found := re.search(r"Key '([^']+)' (?:is )?not in", f"{text} {cause}"):
        key = _full_key(text, cause) or found[1]
        return _no_key(key, available[""])
    if found := re.search(
        r"Value '(.*?)' of type '\w+' could not be converted to (\w+)", text + cause
    ):
        what = _TYPES.get(found[2], found[2])
        return f"`{_full_key(text, cause)}` must be {what}, but got {found[1]}."
    if found := re.search(r"Value '(.*?)' is not a valid bool", text + cause):
        return f"`{_full_key(text, cause)}` must be true or false, but got {found[1]}."
    if found := re.search(r"Invalid value '(.*?)', expected one of \[(.*?)\]", text + cause):
        key = _full_key(text, cause)
        return (
            f"`{key}` must be one of {found[2]}, but got {found[1]!r}. {_closest(found)}".rstrip()
        )
    if "--multirun" in text:
        return "An override gives one value; for a list write key=[a,b] in quotes."
    if "OverrideParseException" in type(error).__name__:
        return f"The override {_unparsed(text, overrides)!r} cannot be read as key=value."
    return " ".join(f"{text} {cause}".split())


def _no_key(key: str, known: list[str]) -> str:
    """Say that a key does not exist, or only for another choice of its group."""
    group = key.split(".")[0]
    if key in known:
        return (
            f"`{key}` exists, but not for the chosen {group}=. Leave it out where it is set (on "
            f"the command line or in the file), or choose another {group}=."
        )
    return f"There is no config key `{key}`. {nearest(key, known)}"


def _closest(found: re.Match[str]) -> str:
    close = difflib.get_close_matches(found[1], found[2].split(", "), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else ""


def _full_key(text: str, cause: str) -> str:
    if found := re.search(r"full_key: (\S+)", f"{text}\n{cause}"):
        return found[1]
    found = re.search(r"override (\S+?)=", text)
    return found[1] if found else ""


def _unparsed(text: str, overrides: list[str]) -> str:
    found = re.search(r"at input '(.*)'", text)
    tail = found[1] if found else ""
    if not tail and (found := re.search(r"token recognition error at: '(.*?)'", text)):
        tail = found[1]
    return next((o for o in overrides if tail and tail in o), " ".join(overrides))
