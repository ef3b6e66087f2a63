"""What every command does at a terminal: print, keep JSON apart, end in order when interrupted."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hptransfer.config.compose.compose import compose_file, resolved_yaml
from hptransfer.results.folder import DEFAULT_ROOT
from hptransfer.results.importers.sweep_file import overridden, sweep_file_text
from hptransfer.system.safe_yaml import read_mapping
from hptransfer.system.signals import raised_as_interrupted


@contextmanager
def interruptible(
    resume: str,
    kept: str = "every finished trial is kept",
    *,
    at_once: bool = True,
    quiet: bool = False,
) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into one orderly end that says how to continue.

    Where that is not at once, what runs asks for it; `quiet` processes leave the saying to another.
    """
    try:
        with raised_as_interrupted(at_once=at_once):
            yield
    except KeyboardInterrupt:
        if not quiet:
            print(
                f"\nhptransfer: interrupted; {kept}. Continue with\n  {resume}",
                file=sys.stderr,
            )
        raise


def say(arguments: argparse.Namespace, text: str) -> None:
    """Print for people: on standard output, unless that is for JSON."""
    print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def print_json(value: Any) -> None:
    """Print strict JSON."""
    print(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False))


def command_line(command: str, arguments: argparse.Namespace, *words: str) -> str:
    """A command as one would type it after this one, with the same `--results`."""
    root = getattr(arguments, "results", DEFAULT_ROOT)
    extra = [] if root == DEFAULT_ROOT else [f"--results={root}"]
    return shlex.join(["hptransfer", command, *words, *extra])


def config_words(arguments: argparse.Namespace) -> list[str]:
    """The overrides of this command, with the folder in which their groups are found."""
    folder = arguments.config_dir
    return [*arguments.overrides, *([] if folder is None else [f"--config-dir={folder}"])]


def print_config(arguments: argparse.Namespace, composed: Any, name: str) -> int:
    """Print a composed config, as YAML or JSON."""
    if arguments.json:
        print_json({**composed.tree, "name": name})
    else:
        print(resolved_yaml(composed, name=name), end="")
    return 0


def print_recorded(arguments: argparse.Namespace, path: Path) -> int:
    """Print the config of a file that a run or an import wrote, with the overrides."""
    tree, overrides = read_mapping(path), getattr(arguments, "overrides", [])
    if "imported" in tree:  # no trial of ours, so nothing to compose
        changed = overridden(tree, overrides)
        print_json(changed) if arguments.json else print(sweep_file_text(changed), end="")
        return 0
    composed = compose_file(path, overrides, config_dir=getattr(arguments, "config_dir", None))
    return print_config(arguments, composed, composed.name)


class Clock:
    """Wall seconds per section of a run."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a section."""
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
