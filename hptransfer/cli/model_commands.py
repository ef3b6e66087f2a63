"""The commands about a model: each reads its arguments, asks and prints the answer."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from hptransfer.cli.next_lines import after_check
from hptransfer.cli.terminal import (
    command_line,
    config_words,
    interruptible,
    print_config,
    print_json,
)
from hptransfer.config import TrialConfig
from hptransfer.config.choices import Init
from hptransfer.config.compose.compose import LISTS, compose_file, entries_of
from hptransfer.reporting.text import answers as text
from hptransfer.reporting.text.rules import rules_text
from hptransfer.system.files import opening


def list_command(arguments: argparse.Namespace) -> int:
    """`hptransfer list`."""
    entries = LISTS if arguments.what is None else entries_of(arguments.what)
    if arguments.json:
        print_json(entries)
    else:
        longest = max(map(len, entries), default=0)
        for name, meaning in entries.items():
            print(f"{name:<{longest}}  {meaning}")
    return 0


def check_command(arguments: argparse.Namespace) -> int:
    """`hptransfer check`."""
    from hptransfer.sweeping.public import composed_check
    from hptransfer.sweeping.run import job

    composed, sweep = composed_check(arguments.overrides, arguments.config_dir)
    if arguments.print_config:
        return print_config(arguments, composed, sweep.name)
    from hptransfer.training.packs.coordinate_check import coordinate_check

    if not (arguments.quiet or arguments.json):
        print(f"checking {sweep.base.model.family} at widths {list(sweep.widths)} ...", flush=True)
    again = command_line("check", arguments, *config_words(arguments))
    with interruptible(again, kept="nothing is lost"):
        answer = coordinate_check(
            sweep.base, sweep.widths, job.central_log2_lr(sweep), composed.runtime
        )
    files = _drawn(arguments.results / "check", answer, sweep.base)
    if arguments.json:
        print_json({**answer, "files": files})
    else:
        print(text.check_text(answer))
        print(f"picture  {files[0]}")
        if answer["verdict"] == "pass":
            print(f"next: {after_check(arguments, sweep.widths)}")
    return int(answer["verdict"] == "fail")


def _drawn(folder: Path, answer: dict[str, Any], base: TrialConfig) -> list[str]:
    """Draw a check beside earlier ones of other models; list the files."""
    from hptransfer.reporting.figures import check_pictures, write_pictures

    factory = re.sub(r"\W+", "_", getattr(base.model, "factory", ""))
    broken = "" if answer["broken"] == "none" else answer["broken"]
    init = "" if base.init is Init.adaln_zero else base.init.value
    words = (answer["family"], factory, answer["parametrization"], broken, init)
    own = folder / "-".join(word for word in words if word)
    with opening(own):
        return [str(path) for path in write_pictures(own, check_pictures(answer))]


def rules_command(arguments: argparse.Namespace) -> int:
    """`hptransfer rules`."""
    composed = compose_file(None, arguments.overrides, config_dir=arguments.config_dir)
    if arguments.print_config:
        return print_config(arguments, composed, "rules")
    from hptransfer.models.parametrization.rules import rule_table

    table = rule_table.role_table(composed.trial)
    parameters = rule_table.parameter_table(composed.trial) if arguments.all else []
    if arguments.json:
        print_json(parameters if arguments.all else table)
        return 0
    print(rules_text(table, parameters))
    check = _checkable(arguments, composed.trial.model.family)
    print(f"next: {command_line('check', arguments, *check)}")
    return 0


def _checkable(arguments: argparse.Namespace, family: str) -> list[str]:
    """Return the overrides of a check that fits a laptop: the family's small model on its data."""
    if family == "custom":
        return config_words(arguments)
    of_checks = ("init", "parametrization", "model.depth", "model.base_depth")
    kept = [word for word in arguments.overrides if word.startswith(of_checks)]
    return [f"model={family}", *kept]
