"""YAML files of plain values: text, numbers, booleans, null, lists and mappings; every key once."""

from __future__ import annotations

import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from hptransfer.errors import UserError, abbreviate, require

LARGEST_FILE = 1_000_000  # bytes
MOST_VALUES = 100_000  # of a file, each alias counted as often as it is used
LONGEST_TEXT = 2_000  # characters
MERGE = "tag:yaml.org,2002:merge"  # the tag of the key `<<`


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but that a date is text, as is a whole number as a key.

    A repeated key is refused.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == MERGE or not isinstance(key.value, str):
                continue
            if key.value in seen:
                problem = f"it gives {abbreviate(key.value)} again, but every key must stand once"
                raise ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        made = super().construct_mapping(node, deep)
        return {str(key) if type(key) is int else key: value for key, value in made.items()}


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a file of `key: value` lines.

    Raises:
        UserError: anything else, or a file that cannot be read.
    """
    try:
        content = _Loader(read_text(path)).get_single_data()
    except UserError:
        raise
    except yaml.YAMLError as error:
        raise UserError(f"{path} must be YAML of plain values, but {_problem(error)}.") from None
    except (RecursionError, ValueError) as error:
        what = "nests too deeply" if isinstance(error, RecursionError) else "holds a broken number"
        raise UserError(f"{path} must be YAML of plain values, but it {what}.") from None
    if not isinstance(content, dict):
        held = "nothing" if content is None else abbreviate(content)
        raise UserError(f"{path} must hold `key: value` lines, but holds {held}.")
    require_plain(content, str(path))
    return content


def read_text(path: Path) -> str:
    """The text of a regular file of modest size in UTF-8; a pipe or device is never opened."""
    try:
        status = path.stat()
        require(not stat.S_ISDIR(status.st_mode), f"{path} is a folder. Name a file in it.")
        require(stat.S_ISREG(status.st_mode), f"{path} must be a file, but is a pipe or a device.")
        require(
            status.st_size <= LARGEST_FILE,
            f"{path} must be a config, at most {LARGEST_FILE:,} bytes, but has {status.st_size:,}.",
        )
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no config file {path}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} must be YAML in UTF-8, but byte {error.start + 1} is not. Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{abbreviate(str(path))} must be a file to read, but: {reason}.") from None


def require_plain(content: Any, where: str) -> None:
    """Refuse what a config cannot hold.

    That is a value of another kind than the module's first line names, a key that is no text, text
    with `${...}` or control characters, and more values than a config has.
    """
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        require(count <= MOST_VALUES, f"{where} must be a config, at most {MOST_VALUES:,} values.")
        if isinstance(value, str):
            require_text(value, where)
        elif isinstance(value, dict):
            for key in value:
                require(
                    isinstance(key, str), f"{where}: a key must be text, but got {abbreviate(key)}."
                )
                require_text(key, where)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            require(
                value is None or isinstance(value, bool | int | float),
                f"{where}: a value must be text, a number, true, false, null, a list or a mapping.",
            )
            require(
                not isinstance(value, int) or abs(value) < 2**63,
                f"{where}: a whole number must have 63 bits at most, but got more.",
            )


def require_text(text: str, where: str, *, most: int = LONGEST_TEXT) -> None:
    """Refuse text that is too long, looks something up, or holds control characters."""
    require(
        len(text) <= most,
        f"{where}: text may have {most:,} characters, but got {len(text):,}: {abbreviate(text)}.",
    )
    require(
        "${" not in text,
        f"{where}: a config holds values and looks nothing up, so ${{...}} must not stand in it, "
        f"but got {abbreviate(text)}. Write the value out.",
    )
    require(text != "???", f"{where}: ??? stands for a missing value. Write the value out.")
    odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), "")
    require(
        not odd, f"{where}: text must be free of control characters, but got {abbreviate(text)}."
    )


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1} cannot be read: " if mark else "it cannot be read: "
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is broken"
    return where + " ".join(str(what).split())
