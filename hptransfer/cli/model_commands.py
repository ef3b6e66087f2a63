"""The commands about one model: what there is, its check and rules, its training and samples."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.cli.next_lines import after_check
from hptransfer.cli.terminal import (
    command_line,
    config_words,
    interruptible,
    print_config,
    print_json,
    print_recorded,
    say,
)
from hptransfer.config import TrialConfig
from hptransfer.config.choices import Init
from hptransfer.config.compose.compose import LISTS, compose_file, entries_of
from hptransfer.errors import UserError, abbreviate
from hptransfer.reporting.text import answers as text
from hptransfer.reporting.text.rules import rules_text
from hptransfer.results.folder import find_folder
from hptransfer.system.files import opening
from hptransfer.system.text import percent_text, rounded

if TYPE_CHECKING:
    from hptransfer.training.target.record import LogEntry

SHOWN_EVERY_S = 5.0  # least seconds between two lines of a run in progress
CUT_OFF = "the run goes on at its last checkpoint"


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
    _require_no_sweep("check", arguments)
    from hptransfer.sweeping.public import checked, checked_depths, composed_check

    composed, sweep = composed_check(arguments.overrides, arguments.config_dir)
    if arguments.print_config:
        return print_config(arguments, composed, sweep.name)
    over_depth = arguments.axis == "depth"
    if not (arguments.quiet or arguments.json):
        sizes = checked_depths(sweep) if over_depth else sweep.widths
        print(
            f"checking {sweep.base.model.family} at {arguments.axis}s "
            f"{', '.join(map(str, sizes))} ...",
            flush=True,
        )
    again = command_line("check", arguments, *config_words(arguments))
    with interruptible(again, kept="nothing is lost"):
        answer = checked(composed, sweep, arguments.axis)
    files = _drawn(arguments.results / "check", answer, sweep.base)
    if arguments.json:
        print_json({**answer, "files": files})
    else:
        print(text.check_text(answer))
        print(f"picture  {files[0]}")
        if answer["verdict"] == "pass" and not over_depth:
            print(f"next: {after_check(arguments, sweep.widths)}")
    return int(answer["verdict"] == "fail")


def _require_no_sweep(command: str, arguments: argparse.Namespace) -> None:
    """Refuse the name of a sweep or a file, which a command about a model takes for an override."""
    for word in arguments.overrides:
        if "=" not in word and not word.startswith(("~", "-")):
            raise UserError(
                f"`hptransfer {command}` is about a model, so it takes overrides such as model=dit "
                f"and no sweep or file, but got {abbreviate(word)}. Name the model, for example "
                f"`hptransfer {command} model=dit model.depth=2`."
            )


def _drawn(folder: Path, answer: dict[str, Any], base: TrialConfig) -> list[str]:
    """Draw a check beside earlier ones of other models; list the files."""
    from hptransfer.reporting.figures import check_pictures, write_pictures

    factory = re.sub(r"\W+", "_", getattr(base.model, "factory", ""))
    broken = "" if answer["broken"] == "none" else answer["broken"]
    init = "" if base.init is Init.adaln_zero else base.init.value
    over = "depth" if "depths" in answer else ""
    words = (answer["family"], factory, answer["parametrization"], broken, init, over)
    own = folder / "-".join(word for word in words if word)
    with opening(own):
        return [str(path) for path in write_pictures(own, check_pictures(answer))]


def rules_command(arguments: argparse.Namespace) -> int:
    """`hptransfer rules`."""
    _require_no_sweep("rules", arguments)
    composed = compose_file(None, arguments.overrides, config_dir=arguments.config_dir)
    if arguments.print_config:
        return print_config(arguments, composed, "rules")
    from hptransfer.models.parametrization import rule_table

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
    of_checks = ("init", "parametrization", "optimizer", "model.depth", "model.base_depth")
    kept = [word for word in arguments.overrides if word.startswith(of_checks)]
    return [f"model={family}", *kept]


def train_command(arguments: argparse.Namespace) -> int:
    """`hptransfer train`; of torchrun's processes the first one alone prints."""
    if arguments.trial is not None:
        return _replay(arguments)
    from hptransfer.transfer import target_run

    if arguments.print_config:
        return print_recorded(arguments, arguments.file)
    words = (str(arguments.file), *config_words(arguments))
    again = _launcher() + command_line("train", arguments, *words)
    others = os.environ.get("RANK", "0") != "0"
    with interruptible(again, CUT_OFF, at_once=False, quiet=others):
        answer = target_run.train(
            arguments.file,
            arguments.overrides,
            config_dir=arguments.config_dir,
            root=arguments.results,
            announce=lambda text: None if arguments.quiet else say(arguments, text),
            tell=lambda sentence: say(arguments, sentence),
            show=_shown(arguments),
        )
    if answer is not None:
        _print_trained(arguments, answer)
    return 0


def _launcher() -> str:
    """Return what torchrun was typed as before `hptransfer`; nothing without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    nodes = f" --nnodes {machines} ..." if machines > 1 else ""
    return f"torchrun{nodes} --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} -m "


def _shown(arguments: argparse.Namespace) -> Callable[[LogEntry], None]:
    """Return what prints a run's log as it grows, not too often."""
    printed_at = time.monotonic()

    def show(entry: LogEntry) -> None:
        nonlocal printed_at
        if arguments.quiet or time.monotonic() - printed_at < SHOWN_EVERY_S:
            return
        printed_at = time.monotonic()
        loss = "not finite" if entry.loss is None else f"{entry.loss:.4f}"
        say(
            arguments,
            f"step {entry.step}  loss {loss}  {rounded(entry.samples_per_second, 3)} samples/s  "
            f"{percent_text(100 * entry.utilisation)} of the peak speed of matrix products",
        )

    return show


def _print_trained(arguments: argparse.Namespace, answer: dict[str, Any]) -> None:
    if arguments.json:
        print_json(answer)
        return
    print(text.trained_line(answer))
    of_trial = [word for word in config_words(arguments) if not word.startswith("train.")]
    trained = ("sample", str(arguments.file), *of_trial)
    look_on = ("report", str(arguments.file.parent))
    command, *words = trained if answer["weights"] else look_on
    print(f"next: {command_line(command, arguments, *words)}")


def _replay(arguments: argparse.Namespace) -> int:
    """`hptransfer train FOLDER --trial KEY`: exit code 1 if the row is not what comes out now."""
    from hptransfer.sweeping.run import replay

    folder = find_folder(arguments.file, arguments.results)
    words = (folder, arguments.trial, arguments.overrides, arguments.config_dir)
    if arguments.print_config:
        _, again = replay.run_again(*words)
        return print_config(arguments, again, again.name)
    asked = (str(arguments.file), "--trial", arguments.trial, *config_words(arguments))
    again = command_line("train", arguments, *asked)
    with interruptible(again, kept="nothing recorded has changed"):
        answer = replay.replay(*words)
    if arguments.json:
        print_json(answer)
    else:
        print(replay.replay_text(answer))
        if answer["weights"]:
            words = (answer["config"], "--weights", answer["weights"])
            print(f"next: {command_line('sample', arguments, *words)}")
    return int(not answer["agrees"])


def sample_command(arguments: argparse.Namespace) -> int:
    """`hptransfer sample`."""
    from hptransfer.training.sampling.samplers import SamplerConfig
    from hptransfer.transfer import target_run

    if arguments.print_config:
        return print_recorded(arguments, arguments.file)
    words = (str(arguments.file), *config_words(arguments))
    with interruptible(command_line("sample", arguments, *words)):
        path = target_run.draw(
            arguments.file,
            arguments.overrides,
            config_dir=arguments.config_dir,
            root=arguments.results,
            weights=arguments.weights,
            sampler=SamplerConfig(steps=arguments.steps, guidance=arguments.guidance),
            columns=arguments.columns,
            seed=arguments.seed,
        )
    if arguments.json:
        print_json({"files": [str(path)]})
    else:
        print(f"samples  {path}")
    return 0
