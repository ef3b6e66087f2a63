"""Reading YAML that a stranger may have written: plain values, bounded, every key once."""

from __future__ import annotations

import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hptransfer.errors import UserError, abbreviate, require

LARGEST_FILE = 1_000_000  # bytes
MOST_VALUES = 100_000  # of a file, once its aliases are written out
LONGEST_TEXT = 2_000  # characters
_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_TAGS = _SCALARS | {f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, to which a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a file of `key: value` lines; UserError where it is anything else."""
    text = read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _require_modest(loader, node, path)
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{path} must be YAML, but {_problem(error)}.") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        what = "nests too deeply" if isinstance(error, RecursionError) else "holds a broken number"
        raise UserError(f"{path} must be YAML that can be read, but it {what}.") from None
    if not isinstance(content, dict):
        held = "nothing" if content is None else abbreviate(content)
        raise UserError(f"{path} must hold `key: value` lines, but holds {held}.")
    require_plain(content, str(path))
    return content


def read_text(path: Path) -> str:
    """Read a regular file of modest size as UTF-8; a pipe or device is never opened."""
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


def require_plain(value: Any, where: str) -> None:
    """Refuse what a config cannot hold: resolvers, control characters, keys that are no text."""
    if isinstance(value, str):
        require_text(value, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            require(
                isinstance(key, str), f"{where}: a key must be text, but got {abbreviate(key)}."
            )
            require_text(key, where)
            require_plain(item, where)
    elif isinstance(value, list):
        for item in value:
            require_plain(item, where)
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


def _require_modest(loader: _Loader, node: yaml.Node, path: Path) -> None:
    """Refuse repeated keys, foreign tags, and aliases that grow without bound."""
    sizes: dict[int, int] = {}  # of a node with its aliases written out; 0: not yet known

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            require(sizes[id(node)] > 0, f"{path} must be finite, but an alias holds itself.")
            return sizes[id(node)]
        _require_known_tag(loader, node, path)
        sizes[id(node)] = 0
        total = 1 + sum(size(child) for child in _children(node))
        require(
            total <= MOST_VALUES,
            f"{path} must be a config, at most {MOST_VALUES:,} values, but its aliases stand for "
            "more.",
        )
        if isinstance(node, yaml.MappingNode):
            _require_each_key_once(node, path)
        sizes[id(node)] = total
        return total

    size(node)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _require_known_tag(loader: _Loader, node: yaml.Node, path: Path) -> None:
    tag = node.tag
    sound = tag in _TAGS and (
        tag not in _SCALARS or tag == loader.resolve(yaml.ScalarNode, node.value, (True, False))
    )
    require(
        sound,
        f"{path} must be YAML of plain values, but line {node.start_mark.line + 1} has "
        f"{abbreviate(tag.replace('tag:yaml.org,2002:', '!!'))}. Leave the tag out.",
    )


def _require_each_key_once(node: yaml.MappingNode, path: Path) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        require(
            isinstance(key, yaml.ScalarNode),
            f"{path}: a key must be text, but the one in line {line} is a list or a mapping.",
        )
        require(
            key.value not in seen,
            f"{path} must give every key once, but line {line} gives "
            f"{abbreviate(key.value)} again. "
            "Remove one.",
        )
        seen.add(key.value)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1} cannot be read: " if mark else "it cannot be read: "
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is broken"
    return where + " ".join(str(what).split())
