"""The pages of config keys, from the dataclasses that read them and the comments behind fields."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.compose.compose import shipped_folder
from hptransfer.config.compose.external import ExternalSweepSection, TrialResources
from hptransfer.config.compose.schema import MEMBERS, SECTIONS, TAGS, TRIAL_FIELDS
from hptransfer.config.external import TOLD, ExternalTrainer
from hptransfer.config.hyperparameters import HYPERPARAMETERS, VLB_WEIGHT
from hptransfer.config.records import field_types, plain
from hptransfer.config.sweep import POINTS, ROUND, SweepConfig
from website.reference.comments import comments_of, comments_of_fields
from website.reference.markdown import GENERATED, code, prose, sentence, table

SWEEP = f"""\
# The sweep file

For somebody who writes a sweep of their own: every key of its YAML file with type, default and
meaning. {GENERATED}

A sweep file is a question: the trial that is repeated, the widths, the values of the
hyperparameters and the target. It starts from the shipped `base` and states what differs. This is
`sweeps/quickstart.yaml`:

```yaml
{{example}}```

Besides the keys below, a sweep file may set every key of [the trial's config](trial_config.md),
such as `model`, `budget` or `executor`. On the command line a key is written with dots:
`sweep.seeds=[0,1,2]`.
"""
SEARCH = """\
Each entry of `search` is a hyperparameter with the values to try. Its name is one of those below.
"""
AXIS = (
    ("`search.HP.low`", "number", "the first point, in log2: `low: -10` is 2^-10, about 0.001"),
    ("`search.HP.high`", "number", "the last point, in log2"),
    ("`search.HP.step`", "number", "from point to point in log2; 1, the default: a factor of two"),
    ("`search.HP`", "list of numbers", "the values themselves: `lr: [1e-3, 2e-3, 4e-3]`"),
    ("`search.HP.points`", "list of numbers", "points in log2, as a results folder records them"),
)
PLAN = """\
Where trials run on a GPU, `plan` reckons GPU-hours from their FLOPs. They are assumed and not
measured, and no trial depends on them.
"""
OWN = """\
A sweep whose file has `train.function` or `train.command` is one of [your own
trainer](../tutorials/your_own_training_loop.md). It starts from no `base`. It has these keys, those
of `executor`, and those of `sweep.realise`, `sweep.design`, `sweep.vary` and `verdict` above. The
names in `search` are any words of the trainer's. The function or the command is told those values,
the fixed ones, and {told}.
"""
TRIAL = f"""\
# The trial's config

For somebody who writes a config or an override: every key of a trial, and of the machine it runs
on, with type, default and meaning. {GENERATED}

A config is made of groups. `model=uvit` takes another choice of a group, and `model.depth=4` sets
one key of it. A file says the same by `- override model: uvit` among its `defaults` and by
`model: {{depth: 4}}`. `hptransfer run quickstart --print-config` prints the config that a command
composes.
"""


def sweep_page() -> str:
    """Return the page of the sweep file's keys."""
    example = (shipped_folder("sweeps") / "quickstart.yaml").read_text(encoding="utf-8")
    of_texts = comments_of(SweepConfig)
    texts = [
        (code(name), "text", "", prose(of_texts[name]))
        for name in ("name", "question", "statistic")
    ]
    defaults = (code("defaults"), "list", "", "the configs it starts from: `[base, _self_]`")
    hps = [
        (code(name), code(f"{hp.group}.{hp.field}"), prose(hp.meaning))
        for name, hp in {**HYPERPARAMETERS, "vlb_weight": VLB_WEIGHT}.items()
    ]
    methods = [
        (code(method.value), str(POINTS.get(method, "all of the grid")), str(ROUND.get(method, "")))
        for method in Method
    ]
    keys = ("key", "type", "default", "meaning")
    return "\n".join(
        [
            SWEEP.format(example=example),
            f"## The question\n\n{table(keys, [defaults, *texts])}",
            f"## The sweep\n\n{_section('sweep')}",
            "The number of points that a method takes, at each width and parametrization, where "
            f"none is set:\n\n{table(('method', 'points', 'points a round'), methods)}",
            f"## The values to search\n\n{SEARCH}\n"
            f"{table(('key', 'type', 'meaning'), AXIS)}\n{table(('HP', 'sets', 'meaning'), hps)}",
            "`one_minus_beta1` and `one_minus_beta2` are searched as 1 minus the beta; "
            "`vlb_weight` is for `objective=ddpm` alone.\n",
            f"## The verdict\n\n{_section('verdict')}",
            f"## The plan\n\n{PLAN}\n{_section('plan')}",
            f"## The transfer\n\n{_section('transfer')}",
            f"## A sweep of your own trainer\n\n{_own_trainer()}",
        ]
    )


def _own_trainer() -> str:
    """Return what the file of a sweep of the user's own trainer may say."""
    trainer = ExternalTrainer(function="module:function")
    shown = {**plain(trainer), "function": ""}
    alike = ("realise", "design", "vary")  # as in every other sweep
    section = plain(ExternalSweepSection())
    of_sweep = [
        _key(name, ExternalSweepSection, comments_of(ExternalSweepSection), "sweep", section)
        for name in field_types(ExternalSweepSection)
        if name not in alike
    ]
    fixed = Key("fixed", Mapping[str, Any], {}, "what no trial changes, by any name: steps, depth")
    of_width = plain(TrialResources())
    names = [name for name in TOLD if name != "depth"]
    told = OWN.format(told=", ".join(map(code, names[:-1])) + f" and {code(names[-1])}")
    keys = [*_keys_of(ExternalTrainer, "train", shown), *of_sweep, fixed]
    return "\n".join(
        [told, _of_keys([*keys, *_keys_of(TrialResources, "resources.WIDTH", of_width)])]
    )


def trial_page() -> str:
    """Return the page of the keys of a trial and of what runs it."""
    own = comments_of(TrialConfig)
    first = _of_keys(
        [_key(name, TrialConfig, own, None, plain(TrialConfig())) for name in TRIAL_FIELDS]
    )
    parts = [TRIAL, f"## Of the whole trial\n\n{first}"]
    for group in MEMBERS:
        parts.append(f"## {group}\n\n{_choices(group)}\n{_of_keys(list(_group_keys(group)))}")
    trainer = sentence(inspect.getdoc(SECTIONS["train"]) or "")
    parts.append(f"## train\n\n{trainer}\n\n{_section('train')}")
    return "\n".join(parts)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a config: what a table's row says of it."""

    name: str  # dotted
    kind: Any  # its type
    default: Any
    meaning: str
    owners: tuple[str, ...] = ()  # the choices that have it; empty: all


def _key(
    name: str,
    cls: type,
    comments: Mapping[str, str],
    prefix: str | None,
    defaults: Mapping[str, Any],
) -> Key:
    dotted = f"{prefix}.{name}" if prefix else name
    return Key(dotted, field_types(cls)[name], defaults[name], comments[name])


def _section(name: str) -> str:
    """Return the tables of a section's keys."""
    return _of_keys(list(_keys_of(SECTIONS[name], name, plain(SECTIONS[name]()))))


def _keys_of(cls: type, prefix: str, defaults: Mapping[str, Any]) -> Iterator[Key]:
    """Yield the keys of a dataclass, those of dataclasses in it by their dotted names."""
    comments = comments_of_fields(cls)
    for name, kind in field_types(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from _keys_of(typing.cast(type, kind), f"{prefix}.{name}", defaults[name])
        else:
            yield _key(name, cls, comments, prefix, defaults)


def _group_keys(group: str) -> Iterator[Key]:
    """Yield the keys of a group's members, alike ones once with the members that have them."""
    members = MEMBERS[group]
    found: dict[tuple[str, str, str], list[tuple[str, Key]]] = {}
    for member, cls in members.items():
        for key in _keys_of(cls, group, shown_values(group, member)):
            if len(members) > 1 and key.name == f"{group}.{TAGS[group]}":
                key = dataclasses.replace(key, kind=tuple(members), default=taken(group))
            found.setdefault((key.name, str(key.default), key.meaning), []).append((member, key))
    for held in found.values():
        (_, key), owners = held[0], tuple(member for member, _ in held)
        yield key if len(owners) == len(members) else dataclasses.replace(key, owners=owners)


def taken(group: str) -> str:
    """Return the choice of a group where none is named."""
    base = yaml.safe_load((shipped_folder("conf") / "base.yaml").read_text(encoding="utf-8"))
    return next(part[group] for part in base["defaults"] if group in part)


def shown_values(group: str, member: str) -> dict[str, Any]:
    """Return a member's values where nothing is set: those of its file in conf/."""
    folder = shipped_folder("conf") / group
    path = folder / f"{member}.yaml"
    path = path if path.is_file() else folder / f"{taken(group)}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _choices(group: str) -> str:
    """Return the table of a group's files, each with its first line."""
    files = sorted((shipped_folder("conf") / group).glob("*.yaml"))
    rows = [(code(f"{group}={path.stem}"), sentence(_first_comment(path))) for path in files]
    return table(("choice", "what it is"), rows)


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _of_keys(keys: Sequence[Key]) -> str:
    """Return the table of some keys, and what their choices mean."""
    rows = [
        (code(key.name), _type(key.kind), _default(key.default), prose(key.meaning)) for key in keys
    ]
    kinds = [(key.name, _enum_of(key.kind)) for key in keys]
    lists = [_meanings(name, kind) for name, kind in kinds if kind is not None]
    heads = ("key", "type", "default", "meaning")
    if any(key.owners for key in keys):
        heads = (*heads, "for")
        rows = [
            (*row, ", ".join(map(code, key.owners)) or "all")
            for row, key in zip(rows, keys, strict=True)
        ]
    return "\n".join([table(heads, rows), *lists])


def _meanings(name: str, kind: type[Enum]) -> str:
    """Return what each choice of a key means."""
    comments = comments_of(kind)
    lines = [f"- {code(m.value)}: {prose(comments[m.name])}" for m in kind]
    return "\n".join([f"Choices of `{name}`:\n", *lines]) + "\n"


def _enum_of(kind: Any) -> type[Enum] | None:
    inner = [kind, *typing.get_args(kind)]
    return next((k for k in inner if isinstance(k, type) and issubclass(k, Enum)), None)


TYPES: Mapping[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
}


def _type(kind: Any) -> str:
    """Return a field's type in words."""
    if isinstance(kind, tuple):  # the names of a group's members
        return ", ".join(map(code, kind))
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        inner = [_type(part) for part in parts if part is not type(None)]
        return "true, false or null" if bool in parts else f"{', '.join(inner)} or null"
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        of_items = _type(parts[0])
        return f"list of {of_items}s" if parts[0] in TYPES else f"list: {of_items}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "section"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(code(member.value) for member in kind)
    return TYPES[kind]


def _default(value: Any) -> str:
    """Return a default as YAML writes it."""
    if value == "":
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)
    return code(text.removesuffix("...\n").strip())
