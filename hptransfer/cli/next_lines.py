"""What to type next: the command that each command proposes on its line `next:`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hptransfer.analysis.answer.text import target_differs
from hptransfer.cli.terminal import command_line, config_words
from hptransfer.config.choices import Method
from hptransfer.config.sweep import TARGET_WORDS, Axis, read_axis
from hptransfer.results.folder import ResultsFolder, read_json
from hptransfer.results.metrics import LOSS
from hptransfer.results.sweep_file import ImportedFacts, SweepFacts, read_facts

QUICKSTART_WIDTHS = (24, 48, 96)  # of sweeps/quickstart.yaml
MORE_STEPS = 2  # grid steps by which an axis is extended


def after_check(arguments: argparse.Namespace, widths: Sequence[int]) -> str:
    """The quickstart of a model whose check passed at these widths, and swept at them."""
    words = config_words(arguments)
    if tuple(widths) != QUICKSTART_WIDTHS:
        listed = ",".join(map(str, widths))
        words = [word for word in words if not word.startswith("sweep.widths=")]
        words += [f"sweep.widths=[{listed}]", f"sweep.target.model.width={2 * widths[-1]}"]
    return command_line("sweep", arguments, "quickstart", *words)


def after_status(
    arguments: argparse.Namespace, folder: ResultsFolder, state: Mapping[str, Any]
) -> str:
    """The sweep where trials are missing, else the fit."""
    if state["wanted"] > state["recorded"]:
        return command_line("sweep", arguments, str(folder.sweep_file))
    return command_line("fit", arguments, str(folder.path))


def after_fit(
    arguments: argparse.Namespace, folder: ResultsFolder, estimates: Mapping[str, Any]
) -> list[str]:
    """The last lines of a fit: `next:` with a command, after what keeps it from being a transfer.

    The command runs trials that are missing, extends axes, draws a picture or transfers. A target
    that was only named in the fit is named again.
    """
    path, arms = str(folder.path), estimates["arms"]
    has_answer = any(arm["optima"] for arm in arms)

    def ending(name: str, *words: str, why: Sequence[str] = ()) -> list[str]:
        return [*why, f"next: {command_line(name, arguments, *words)}"]

    if estimates["trials"]["missing"]:
        return ending("sweep", str(folder.sweep_file))
    if has_answer and estimates["metric"] != LOSS.name:
        return ending("plot", path, *step_words(arguments), f"--metric={estimates['metric']}")
    facts = read_facts(folder)
    if isinstance(facts, ImportedFacts):
        if why := _wider_rows(arms):
            return ending("import", "MORE_ROWS.csv", path, why=why)
    elif wider := list(extended_axes(facts, arms)):
        return ending("sweep", str(folder.sweep_file), *wider)
    if not has_answer:
        return ending("status", path)
    widest = max(optimum["width"] for arm in arms for optimum in arm["optima"])
    width_key = facts.target_width_key
    farther = f"sweep.target.{width_key}={2 * widest}"
    targets = [arm["target"] for arm in arms if arm["target"]]
    if not estimates["trials"]["fitted"]:  # a table of optima, which cannot be transferred
        return ending("status", path) if targets else ending("fit", path, farther)
    if any(_is_swept(arm, widest) for arm in arms):
        why = (
            f"A transfer needs a target wider than {widest}, the widest that was swept, but the "
            f"target's width is {targets[0]['width']}."
        )
        return ending("fit", path, farther, why=[why])
    named = [word for word in arguments.overrides if word.startswith("sweep.target.")]
    named += _arm_word(facts, arms)
    if not targets:
        axis = arms[0]["axis"]
        if axis == "width":
            named.append(f"{width_key}={2 * widest}")
        else:
            last = max(optimum[axis] for arm in arms for optimum in arm["optima"])
            named += [f"{width_key}={widest}", f"{TARGET_WORDS[axis]}={2 * last:g}"]
    return ending("transfer", path, *named, *step_words(arguments))


def after_transfer(
    arguments: argparse.Namespace, folder: ResultsFolder, record: Mapping[str, Any]
) -> list[str]:
    """The last lines of a transfer: `next:` with a command, after what should come before training.

    The command runs or imports the trials of a wider grid where the answer asks for one. Else it
    trains the target, or writes the report where hptransfer cannot train it.
    """
    facts, path = read_facts(folder), str(folder.path)
    arms = [{"hp": hp, **told} for hp, told in record["answers"].items()]
    if isinstance(facts, ImportedFacts):
        if why := _wider_rows(arms):
            return [*why, f"next: {command_line('import', arguments, 'MORE_ROWS.csv', path)}"]
    elif wider := list(extended_axes(facts, arms)):
        why = "The grid is too narrow for this value, so widen it before the target is trained."
        command = command_line("sweep", arguments, str(folder.sweep_file), *wider)
        return [why, f"next: {command}"]
    if record["target"].get("start"):
        return [f"next: {start_words(record)}"]
    if record["target"]["params"] is None:
        return [f"next: {command_line('report', arguments, path)}"]
    return [f"next: {command_line('train', arguments, str(folder.target_file))}"]


def start_words(record: Mapping[str, Any]) -> str:
    """The command that starts the target of a trainer that is not ours."""
    starter = next(name for name in record["files"] if name.endswith((".sh", ".py")))
    return shlex.join(["bash" if starter.endswith(".sh") else "python", starter])


def _wider_rows(arms: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which rows of another program are needed where an answer asks for a wider grid."""
    asked = [wider for arm in arms for wider in arm["extend"]]
    if not asked:
        return []
    lost = [wider["sentence"] for wider in asked if wider["octaves"] is None]  # else a warning
    return [
        *dict.fromkeys(lost),
        "hptransfer cannot train the trials of a wider grid for you: train them with the program "
        "that made these rows, then import them into the same folder.",
    ]


def _is_swept(arm: Mapping[str, Any], widest: int) -> bool:
    """Say whether an arm's target is narrower than the widest proxy, or one of the proxies."""
    target = arm["target"]
    if target is None or arm["axis"] != "width" or target["width"] > widest:
        return False
    return target["width"] < widest or not target_differs(arm)


def _arm_word(facts: SweepFacts, arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The override that names one of several arms of another program, where none is µP's."""
    labels = list(dict.fromkeys(arm["parametrization"] for arm in arms))
    several = isinstance(facts, ImportedFacts) and len(labels) > 1 and "mup" not in labels
    return [f"parametrization={labels[0]}"] if several else []


def extended_axes(facts: SweepFacts, arms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield overrides of the sweep that extend each axis where an answer asks for a wider grid.

    The points of a design that is no grid follow from the ends, so that its sweep gets a name of
    its own.
    """
    words = []
    for name, entry in facts.tree["search"].items():
        axis = read_axis(name, entry)
        asked = [w for arm in arms if arm["hp"] == f"log2_{name}" for w in arm["extend"]]
        # Points of a surface may end far within the axis: then it takes no wider one.
        ends = {"low": axis.low, "high": axis.high}
        near = {w["side"] for w in asked if abs(w["from"] - ends[w["side"]]) < axis.step}
        words += _extended(name, axis, [side for side in ends if side in near])
    method = facts.tree["sweep"].get("design", {}).get("method", Method.grid.value)
    if words and method != Method.grid.value:
        words.append(f"name={facts.name}-wider")
    yield from words


def _extended(name: str, axis: Axis, sides: Sequence[str]) -> list[str]:
    reach = MORE_STEPS * axis.step
    ends = {"low": axis.low - reach, "high": axis.high + reach}
    if not axis.listed:
        return [f"search.{name}.{side}={ends[side]:g}" for side in sides]
    points = sorted([*axis.listed, *(ends[side] for side in sides)])
    return [f"search.{name}.points=[{','.join(map(repr, points))}]"] if sides else []


def after_report(arguments: argparse.Namespace, folder: ResultsFolder) -> str:
    """The fit, the target's training, or the import of its rows where it is trained elsewhere."""
    transferred = read_json(folder.transfer_file, "target")
    if transferred is None:
        return command_line("fit", arguments, str(folder.path))
    if transferred["target"].get("start"):
        return start_words(transferred)
    if transferred["target"]["params"] is None:
        return command_line("import", arguments, "TARGET_ROWS.csv", str(folder.target))
    return command_line("train", arguments, str(folder.target_file))


def step_words(arguments: argparse.Namespace) -> list[str]:
    """The option `--step` of this command, where it was given."""
    return [] if arguments.step is None else [f"--step={arguments.step}"]
