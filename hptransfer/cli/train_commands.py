"""The commands that train a config and draw samples of it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hptransfer.cli.terminal import (
    command_line,
    config_words,
    interruptible,
    print_config,
    print_json,
    print_recorded,
    say,
)
from hptransfer.reporting.text import answers as text
from hptransfer.results.folder import find_folder

if TYPE_CHECKING:
    from hptransfer.training.target.record import LogEntry

SHOWN_EVERY_S = 5.0  # least seconds between two lines of a run in progress
CUT_OFF = "the run goes on at its last checkpoint"


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
            f"step {entry.step}  loss {loss}  {entry.samples_per_second:.4g} samples/s  "
            f"{100 * entry.utilisation:.2g}% of the matmul peak",
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
