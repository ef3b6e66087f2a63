"""What the code says of its fields: the comment behind each."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from typing import Any


@functools.cache
def comments_of(thing: type | Callable[..., Any]) -> dict[str, str]:
    """Return the comment behind each field, attribute or key that a class or function states."""
    source = textwrap.dedent(inspect.getsource(thing))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return {name: lines[line] for name, line in _stated(ast.parse(source)) if line in lines}


def _stated(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the names that code gives values to, a dict's in a dict by dotted ones, and lines."""
    if isinstance(node, ast.AnnAssign):
        yield ast.unparse(node.target), node.end_lineno or node.lineno
    elif isinstance(node, ast.Assign):
        yield ast.unparse(node.targets[0]), node.end_lineno or node.lineno
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield f"{prefix}{key.value}", key.lineno
                yield from _stated(value, f"{prefix}{key.value}.")
            elif key is None:  # a mapping that is unpacked into this one
                yield from _stated(value, prefix)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _stated(child, prefix)


def comments_of_fields(cls: type) -> dict[str, str]:
    """Return the comment behind each field of a dataclass, its bases' where it has none."""
    names = {field.name for field in dataclasses.fields(cls)}
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    found = {name: text for base in bases for name, text in comments_of(base).items()}
    return {name: text for name, text in found.items() if name in names}
