"""The files of `conf/` show every value with its meaning, as the dataclasses have them."""

from __future__ import annotations

import pytest
import yaml

from hptransfer.config.compose.compose import shipped_folder
from hptransfer.config.compose.schema import MEMBERS
from hptransfer.config.records import plain
from website.reference.comments import comments_of_fields

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
            shown[key.split(":")[0]] = comment.strip()
    assert shown == comments_of_fields(cls)


def test_every_file_of_conf_says_what_it_is_in_its_first_line() -> None:
    for path in shipped_folder("conf").rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("# "), path
