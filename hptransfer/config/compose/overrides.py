"""What people type as overrides, made fit for Hydra, and Hydra's complaints in one sentence."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

from hptransfer.errors import UserError, abbreviate
from hptransfer.system.safe_yaml import require_text

TRIAL_GROUPS = ("model", "parametrization", "objective", "data", "optimizer", "budget", "quality")
TRIAL_FIELDS = ("init", "precision", "seed")  # beside the groups
GROUPS = (*TRIAL_GROUPS, "runtime", "executor")
EXAMPLES = {  # a choice of each group
    **{"model": "dit", "parametrization": "mup", "objective": "ddpm", "data": "digits"},
    **{"optimizer": "adamw", "budget": "short", "quality": "frechet"},
    **{"runtime": "cpu", "executor": "local"},
}
LISTS = (
    *("sweep.widths", "sweep.seeds", "sweep.parametrizations", "transfer.allow"),
    *("sweep.vary.depth", "sweep.vary.batch_size", "sweep.vary.steps"),
)
OPEN = ("search.", "sweep.target.", "executor.resources.")  # mappings to which keys may be added
SECTIONS = (  # mappings that cannot be replaced by a value
    *("sweep", "search", "transfer", "verdict", "train", "executor.resources"),
    *("sweep.target", "sweep.realise", "sweep.design", "sweep.vary"),
)

LONGEST = 20_000  # characters of an override
_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def group_choices(overrides: list[str]) -> dict[str, str]:
    """Return the groups chosen by overrides: {group: file}."""
    pairs = (override.split("=", 1) for override in overrides if "=" in override)
    choices = {key.strip(): value.strip().strip("'\"") for key, value in pairs}
    return {key: value for key, value in choices.items() if key in GROUPS}


def normalised(override: str, known: list[str], texts: Collection[str]) -> str:
    """Return an override as Hydra wants it; refuse what sets no key of the schema.

    `known` are the schema's dotted keys, and `texts` those that hold text, which needs no quotes.
    """
    require_text(override, "An override", most=LONGEST)
    if override.startswith("~"):
        return _removal(override)
    if "=" not in override:
        raise UserError(f"An override must read key=value, but got {abbreviate(override)}.")
    key, value = (part.strip() for part in override.split("=", 1))
    if key.startswith("+"):
        raise UserError(
            "An override sets a key that exists, so it needs no +, but got "
            f"{abbreviate(override)}. "
            f"Write {abbreviate(override.lstrip('+'))} if {abbreviate(key.lstrip('+'))} is one."
        )
    if not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(
            "An override's key must be words with dots between, such as model.width, but got "
            f"{abbreviate(key)}."
        )
    if key not in known and not key.startswith(OPEN):
        raise UserError(no_key(key, known))
    if key in GROUPS:
        return f"{key}='{_choice(key, value)}'"
    if key in LISTS and not value.startswith("["):
        value = f"[{value}]"
    if key in texts and value not in ("", "null") and value[0] not in "'\"":
        value = quoted(value)
    if f"{key}.".startswith(OPEN):
        key = f"++{key}"
    return f"{key}={value}"


def _removal(override: str) -> str:
    if not re.fullmatch(r"~(search|sweep\.target|executor\.resources)(\.\w+)+", override):
        raise UserError(
            "A leading ~ removes an entry of search, sweep.target or executor.resources, such as "
            f"~search.lr, but got {abbreviate(override)}. Set the key to a value instead."
        )
    return override


def _choice(group: str, value: str) -> str:
    name = value.strip("'\"")
    if not _is_name(name):
        raise UserError(
            f"`{group}=` must name a file of the group {group}, such as {group}={EXAMPLES[group]}, "
            f"but got {abbreviate(value)}. Set single values as {group}.<key>=."
        )
    return name


def quoted(text: str) -> str:
    """Quote a text for Hydra, to which only backslashes before a quote are special."""
    inner = re.sub(r"(\\*)'", r"\1\1\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inner) + "'"


def require_sections(tree: Mapping[str, Any]) -> None:
    """Refuse a file that gives a value where a section of `key: value` lines belongs."""
    for name in (*GROUPS, *SECTIONS):
        node: Any = tree
        for part in name.split("."):
            if not isinstance(node, dict) or part not in node:
                break
            node = node[part]
        else:
            require_section(name, node)


def require_defaults(entries: Any) -> None:
    """Refuse a defaults list that is not of files and of group choices."""
    form = rf"(?:override )?(?:{'|'.join(GROUPS)})"
    for entry in entries if isinstance(entries, list) else [entries]:
        pair = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else None
        name = pair[1] if pair and re.fullmatch(form, pair[0]) else entry
        if not (isinstance(entries, list) and isinstance(name, str) and _is_name(name)):
            raise UserError(
                "`defaults` must be a list of base, _self_ and choices such as `override model: "
                f"dit`, but got {abbreviate(entry)}. Leave it out for the usual ones."
            )
    if "base" not in entries:
        raise UserError(
            "`defaults` must hold base, which every file starts from, but got "
            f"{abbreviate(entries)}. "
            "Leave it out for the usual ones."
        )


def _is_name(text: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*", text) is not None


def require_flat_lists(tree: Mapping[str, Any]) -> None:
    """Refuse a list or mapping as an entry of a list."""
    for name in (*LISTS, "executor.trackers", "model.roles"):
        *sections, key = name.split(".")
        section = functools.reduce(lambda node, part: node[part], sections, tree)
        for entry in section.get(key) or []:
            if isinstance(entry, list | dict):
                raise UserError(f"`{name}` must be a list of single values, but holds {entry}.")


def require_section(name: str, value: Any) -> None:
    """Refuse a value where a section belongs."""
    if not isinstance(value, dict):
        raise UserError(
            f"`{name}` must be a section of `key: value` lines, but got "
            f"{abbreviate(value)}. Give its "
            "keys, or leave it out."
        )


def checked_name(name: str) -> str:
    """Return a sweep's name if it can name a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(
            "A sweep's `name` names its results folder, so it must be letters, digits, dots, "
            f"dashes and underscores, but got {abbreviate(name)}. Set name=."
        )
    return name


def nearest(word: str, known: list[str], otherwise: list[str] | None = None) -> str:
    """Return a sentence that names the nearest known words, or all (`otherwise`) if none is."""
    word = word[:100]  # comparing goes with the length squared
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if not close and "." in word:
        leaf = word.rsplit(".", 1)[1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There is: {', '.join(known if otherwise is None else otherwise)}."


def explain(error: Exception, available: dict[str, list[str]]) -> str:
    """Put a Hydra or OmegaConf error into one sentence.

    `available` maps a group to its files, and the empty name to all keys of the schema.
    """
    text = str(error)
    whole = f"{text}\n{error.__cause__ or ''}"
    if found := re.search(r"(?:Could not find|load) '(?:(\w+)/)?([^']*)'", text):
        group, choice = found[1] or "", found[2]
        what = f"{group}={choice}" if group else f"config file {choice}"
        return f"There is no {what}. {nearest(choice, available.get(group, []))}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return no_key(found[1], available[""])
    key = _full_key(whole)
    if found := re.search(r"Could not delete from config.*?'([^']+)'", whole):
        return f"There is no `{found[1]}` to remove. Leave ~{found[1]} out."
    if found := re.search(
        r"Value '(.*)' of type '\w+' could not be converted to (\w+)", whole, re.S
    ):
        return f"`{key}` must be {_TYPES.get(found[2], 'text')}, but got {_short(found[1])}."
    if found := re.search(r"Value '(.*)' is not a valid (\w+)", whole, re.S):
        what = "true or false" if found[2] == "bool" else "a number"
        return f"`{key}` must be {what}, but got {_short(found[1])}."
    if found := re.search(r"Invalid value '(.*)', expected one of \[(.*?)\]", whole, re.S):
        return (
            f"`{key}` must be one of {found[2]}, but got {abbreviate(found[1])}. {_closest(found)}"
        ).rstrip()
    for pattern, what in _SHAPES.items():
        if re.search(pattern, whole):
            return f"`{key}` {what}."
    if found := re.search(r"Key '([^']*)' (?:is )?not in", whole):
        return no_key(key or found[1], available[""])
    return f"`{key or 'the config'}` cannot be set to what was given. Look at --print-config."


# What OmegaConf says of a value of the wrong shape, and what we say of its key.
_SHAPES = {
    r"is not Optional|NoneType is not a subclass": "must not be null",
    r"Cannot assign \w+ to Dict|is not a (?:DictConfig|dict)": "must be a mapping {key: value}",
    r"is not a ListConfig|Cannot assign \w+ to List|is not iterable": "must be a list [a, b]",
    r"(?:ListConfig|DictConfig|list|dict)\b.*(?:Cannot|cannot|not).*(?:convert|a supported)": (
        "must be a single value, and neither a list nor a mapping"
    ),
    r"is not a subclass of|incompatible|Unexpected": "cannot hold a value of this kind",
}


def _short(text: str) -> str:
    return " ".join(text[:200].split()) if len(text) <= 80 else abbreviate(text)


def no_key(key: str, known: list[str]) -> str:
    """Say that a key does not exist, or only for another choice of its group."""
    group = key.split(".")[0]
    if key in known:
        return (
            f"`{key}` exists, but not for the chosen {group}=. Leave it out where it is set (on "
            f"the command line or in the file), or choose another {group}=."
        )
    section = key.split(".")[0]
    near = [name for name in known if name.startswith(f"{section}.")]
    return f"There is no config key `{_short(key)}`. {nearest(key, known, near or _tops(known))}"


def _tops(known: list[str]) -> list[str]:
    return sorted({name.split(".")[0] for name in known})


def _closest(found: re.Match[str]) -> str:
    close = difflib.get_close_matches(found[1], found[2].split(", "), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else ""


def _full_key(text: str) -> str:
    if found := re.search(r"full_key: (\S+)", text):
        return found[1]
    found = re.search(r"override [+~]*(\S+?)=", text)
    return found[1] if found else ""
