"""The page of the Python API, from signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import hptransfer
import hptransfer.mup
from hptransfer.analysis.answer.answer import ArmEstimates, Estimate, Target
from website.reference.comments import comments_of
from website.reference.markdown import GENERATED, code, prose, sentence, table

INTRODUCTION = f"""\
# Python

For somebody who calls hptransfer from Python, a notebook or a training script: every public name
with its arguments and what it returns. {GENERATED}

Names are imported from the package: `import hptransfer`. A `hptransfer.errors.UserError`, which is
a `ValueError`, says in a sentence what must hold, what was given and what to do.
"""
RETURNED = (ArmEstimates, Target, Estimate)  # what attributes of public classes hold
SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n((?:[ ]{4}.*\n|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^(\w+): (.*(?:\n[ ]+.*)*)", re.MULTILINE)
MOST = 88  # characters of a signature on one line


def page() -> str:
    """Return the page of the Python API."""
    functions, classes = [], []
    named = [(name, getattr(hptransfer, name)) for name in hptransfer.__all__]
    named += [(f"mup.{name}", getattr(hptransfer.mup, name)) for name in hptransfer.mup.__all__]
    for name, thing in named:
        (classes if isinstance(thing, type) else functions).append((name, thing))
    listed = [
        (f"[`{name}`](#{name.lower().replace('.', '')})", _first_sentence(thing))
        for name, thing in functions + classes
    ]
    return "\n".join(
        [
            INTRODUCTION,
            table(("name", "what it does"), listed),
            *(f"## {name}\n\n{_function(name, thing)}" for name, thing in functions),
            *(f"## {name}\n\n{_class(thing)}" for name, thing in classes),
            *(f"## {cls.__name__}\n\n{_class(cls)}" for cls in RETURNED),
        ]
    )


def _first_sentence(thing: Any) -> str:
    return prose((inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " "))


def _function(name: str, function: Callable[..., Any]) -> str:
    return f"```python\n{signature_text(f'hptransfer.{name}', function)}\n```\n\n{_told(function)}"


class _Text:
    """An annotation that is shown as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _as_written(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter that is shown as its code has it, an enum's member as its value."""
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, str):
        default = _Text(json.dumps(default))
    return parameter.replace(annotation=_Text(parameter.annotation), default=default)


def signature_text(name: str, function: Callable[..., Any]) -> str:
    """Return a function's signature as it is written, an argument a line where it is long."""
    given = inspect.signature(function)
    shown = [_as_written(p) for p in given.parameters.values() if p.name not in ("self", "cls")]
    returned = _Text(given.return_annotation)
    text = f"{name}{given.replace(parameters=shown, return_annotation=returned)}"
    if len(text) <= MOST:
        return text
    lines: list[str] = []
    for p in shown:
        if p.kind is p.KEYWORD_ONLY and not any(line.startswith("    *") for line in lines):
            lines.append("    *,")
        lines.append(f"    {p},")
    return "\n".join([f"{name}(", *lines, f") -> {returned}"])


def _told(thing: Any) -> str:
    """Return a docstring as Markdown: its text, then its sections."""
    text = (inspect.getdoc(thing) or "") + "\n"
    prose_part = SECTION.sub("", text).strip()
    parts = [prose(prose_part), *_sections(text)]
    return "\n\n".join(parts) + "\n"


def _sections(text: str) -> Iterator[str]:
    for title, body in SECTION.findall(text):
        body = textwrap.dedent(body).strip()
        if title == "Example":
            yield f"Example:\n\n```pycon\n{body}\n```"
        elif title == "Returns":
            yield f"Returns: {prose(' '.join(body.split()))}"
        else:
            entries = ENTRY.findall(body)
            rows = [(code(name), sentence(" ".join(meaning.split()))) for name, meaning in entries]
            heads = {"Args": "argument", "Raises": "raises"}
            yield table((heads[title], "meaning" if title == "Args" else "when"), rows).strip()


def _class(cls: type) -> str:
    """Return what a class is, its attributes and its methods."""
    fields = comments_of(cls)
    rows = [(code(name), prose(fields.get(name, ""))) for name in _fields(cls)]
    methods = []
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, classmethod):
            member = member.__func__
        if isinstance(member, property):
            rows.append((code(name), _first_sentence(member)))
        elif inspect.isfunction(member):
            shown = signature_text(name, member)
            methods.append(f"```python\n{shown}\n```\n\n{_told(member)}")
    return "\n".join([_told(cls), table(("attribute", "what it holds"), rows), *methods])


def _fields(cls: type) -> list[str]:
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
        return [name for name in names if not name.startswith("_")]
    return list(getattr(cls, "_fields", ()))
