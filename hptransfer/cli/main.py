"""The command line: which command is asked, and its exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from hptransfer.cli.commands import COMMANDS, EPILOG, function_of, parser_of
from hptransfer.errors import Interrupted, MachineError, TrialsFailed, UserError
from hptransfer.system.text import nearest
from hptransfer.system.version import package_version


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may have neither µ nor −
            stream.reconfigure(errors="replace")
    if words == ["--version"]:
        print(f"hptransfer {package_version()}")
        return 0
    try:
        return _run(words)
    except (UserError, MachineError, TrialsFailed) as error:
        print(f"hptransfer: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as cut:
        return cut.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    commands = {command.name: command for command in COMMANDS}
    name, *rest = words
    if name not in commands:
        raise UserError(f"There is no command {name!r}. {nearest(name, list(commands))}")
    command = commands[name]
    arguments = parser_of(command).parse_intermixed_args(rest)  # before the imports of its code
    return function_of(command)(arguments)


def _overview() -> str:
    lines = "\n".join(f"  {command.name:<9} {command.meaning}" for command in COMMANDS)
    return (
        "hptransfer: tune narrow models under µP, then train the wide target once.\n\n"
        f"usage: hptransfer COMMAND [arguments] [overrides]\n\n{lines}\n\n{EPILOG}\n"
        "`hptransfer COMMAND --help` explains a command. Start with: hptransfer run quickstart"
    )
