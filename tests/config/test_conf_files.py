"""The files of `conf/` show every value with its meaning, as the dataclasses have them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize

import pytest
import yaml

from hptransfer.config.compose.compose import shipped_folder
from hptransfer.config.compose.schema import MEMBERS
from hptransfer.config.records import plain

# The file that shows all keys of a group's member, where it is not named as the member.
SHOWN_BY = {
    "parametrization": "mup",
    "budget": "short",
    "quality": "none",
    "runtime": "cpu",
    "executor": "ray",
}
# Values of these files that differ from the dataclass's defaults.
CHANGED = {"adamw": {"beta2": 0.99}}
FILES = [
    (group, SHOWN_BY.get(group, name), cls)
    for group, members in MEMBERS.items()
    for name, cls in members.items()
]


def comments_of_fields(cls: type) -> dict[str, str]:
    """Return the comment behind each field of a dataclass, its bases' where it has none."""
    found = {}
    names = {field.name for field in dataclasses.fields(cls)}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        lines = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and node.lineno in lines:
                found[ast.unparse(node.target)] = lines[node.lineno]
    return {name: comment for name, comment in found.items() if name in names}


@pytest.mark.parametrize(("group", "name", "cls"), FILES, ids=lambda part: str(part))
def test_a_file_shows_every_value_with_the_comment_of_its_field(
    group: str, name: str, cls: type
) -> None:
    text = (shipped_folder("conf") / group / f"{name}.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {**plain(cls()), **CHANGED.get(name, {})}
    shown = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            key, _, comment = line.partition("  #")
            shown[key.split(":")[0]] = f"#{comment}"
    assert shown == comments_of_fields(cls)


def test_every_file_of_conf_says_what_it_is_in_its_first_line() -> None:
    for path in shipped_folder("conf").rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("# "), path
