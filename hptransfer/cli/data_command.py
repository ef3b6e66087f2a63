"""The command about data: what a folder holds, and which overrides state it."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.cli.terminal import interruptible, print_json, say
from hptransfer.config.compose.compose import read_overrides
from hptransfer.config.records import plain, read_record
from hptransfer.errors import UserError, abbreviate

if TYPE_CHECKING:
    from hptransfer.config import FolderConfig


def data_command(arguments: argparse.Namespace) -> int:
    """`hptransfer data`."""
    from hptransfer.data.describe import describe_folder, description_text
    from hptransfer.data.reading import progress_to

    folder = arguments.folder
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Name one that exists.")
    again = shlex.join(["hptransfer", "data", str(folder), *arguments.overrides])
    tell = None if arguments.quiet else lambda line: say(arguments, line)
    with interruptible(again, kept="nothing was written"), progress_to(tell):
        found = describe_folder(folder, _stated(folder, arguments.overrides))
    if arguments.json:
        print_json(dataclasses.asdict(found))
        return 0
    print(description_text(found))
    return 0


def _stated(folder: Path, words: list[str]) -> FolderConfig:
    """Return the config of the kind of data that a folder holds, with the overrides of `data.`"""
    from hptransfer.data.describe import kind_of

    read = read_overrides(words)
    for key in (*read.choices, *(change.key for change in read.changes)):
        if not key.startswith("data."):
            raise UserError(
                f"`hptransfer data` finds the kind of data by itself and takes overrides of data. "
                f"alone, but got {abbreviate(key)}. Leave it out."
            )
    kind = kind_of(folder)
    changes = {change.key.removeprefix("data."): change.value for change in read.changes}
    return read_record(type(kind), {**plain(kind), **changes}, "data")
