"""The page of commands, from the registry that the command line reads."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection

from hptransfer.cli.commands import COMMANDS, EPILOG, EVERYWHERE, Command, parser_of
from website.reference.markdown import GENERATED, code, prose, sentence, table

INTRODUCTION = f"""\
# Commands

For somebody at a terminal: every command of `hptransfer` with its arguments, options and exit
codes. `hptransfer COMMAND --help` prints the same. {GENERATED}
"""
OVERRIDES = """\
Words of the form `group=choice` or `key=value` change the config that a command composes. They may
stand anywhere behind the command; put quotes around those with brackets or blanks.

```console
$ hptransfer run quickstart model=uvit executor=local name=uvit
$ hptransfer sweep quickstart 'sweep.widths=[24,48]' search.lr.low=-12
```

[The sweep file](sweep_file.md) lists the keys of a sweep, [the trial's config](trial_config.md)
those of a trial and of the machine it runs on.
"""
CODE = re.compile(r"(?P<codes>\d+(?:, \d+)*):? (?P<meaning>[^;.]+)")


def page() -> str:
    """Return the page of commands."""
    listed = table(
        ("command", "what it does"),
        [(f"[`{c.name}`](#hptransfer-{c.name})", sentence(c.meaning)) for c in COMMANDS],
    )
    everywhere = argparse.ArgumentParser(prog="hptransfer", add_help=True)
    for names, settings in EVERYWHERE:
        everywhere.add_argument(*names, **settings)
    common = _arguments(everywhere)
    parts = [
        INTRODUCTION,
        listed,
        f"## Every command\n\n{common}",
        f"## Overrides\n\n{OVERRIDES}",
        f"## Exit codes\n\n{table(('code', 'meaning'), exit_codes())}",
        *(_section(command) for command in COMMANDS),
    ]
    return "\n".join(parts)


def exit_codes() -> list[tuple[str, str]]:
    """Return each exit code with its meaning, as the help states them."""
    _, _, text = EPILOG.partition("exit codes: ")
    found = CODE.finditer(" ".join(text.split()))
    return [(code(each["codes"]), sentence(each["meaning"])) for each in found]


def _section(command: Command) -> str:
    parser = parser_of(command)
    words = [_usage(action) for action in parser._actions if not action.option_strings]
    usage = " ".join(["hptransfer", command.name, *words, "[options]"])
    common = [name for names, _ in EVERYWHERE for name in names]
    own = _arguments(parser, without=["--help", *common])
    return (
        f"## hptransfer {command.name}\n\n{sentence(command.meaning)}\n\n"
        f"```text\n{usage}\n```\n\n{own}"
    )


def _usage(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    shown = name if name == "override" else name.upper()
    return {"*": f"[{shown} ...]", "?": f"[{shown}]"}.get(str(action.nargs), shown)


def _arguments(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> str:
    """Return the table of a parser's arguments, but for some options."""
    shown = [a for a in parser._actions if not set(without) & set(a.option_strings)]
    return table(("argument", "meaning"), [(_name(a), _meaning(a)) for a in shown])


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(_usage(action))
    takes_value = action.nargs != 0
    value = str(action.metavar or action.dest.upper()) if not action.choices else ""
    if action.choices:
        value = "|".join(map(str, action.choices))
    several = " ..." if action.nargs == "+" else ""
    return code(", ".join(action.option_strings) + (f" {value}{several}" if takes_value else ""))


def _meaning(action: argparse.Action) -> str:
    text = sentence(action.help or "")
    if action.option_strings and action.default not in (None, False, argparse.SUPPRESS):
        text += f" Default: {code(prose(str(action.default)))}."
    return text
