"""The replay of a ledger's row: its config trained again as a pack of one, and both compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.compose.compose import (
    Composed,
    compose_file,
    read_trial,
    resolved_yaml,
    with_trial,
)
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import trial_key
from hptransfer.errors import UserError, abbreviate
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.ledger import OUTCOME_FIELDS
from hptransfer.results.ledger_rows import iterate_ledger_rows, ledger_row
from hptransfer.results.provenance import provenance
from hptransfer.system.files import write_text
from hptransfer.system.signals import end_if_asked

# Relative difference up to which two losses agree: devices and versions of torch differ by less.
TOLERANCE = 1e-3


def replay(
    folder: ResultsFolder,
    prefix: str,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> dict[str, Any]:
    """Train a recorded trial again, keep its weights, and return the comparison of both results.

    Args:
        prefix: the first digits of the trial's key, enough of them to tell it from the others.
        overrides: of `runtime` only; they cannot change a result beyond float tolerance.

    Raises:
        UserError: no such row, several, another program's, or an override of the trial.
    """
    from hptransfer.training.packs.run import train_trial

    recorded, again = run_again(folder, prefix, overrides, config_dir)
    key = recorded["trial_key"]
    weights_file = folder.replayed_weights(key)
    result, _ = train_trial(
        again.trial, again.runtime, lambda report: end_if_asked(), weights_file=weights_file
    )
    completed = result.status is Status.completed
    if completed:
        said = resolved_yaml(again, name=again.name, comment=f"Trial {key}, run again.")
        write_text(weights_file.with_suffix(".yaml"), said)
    fresh = ledger_row(result, recorded["hps"], provenance())
    return comparison(recorded, fresh, weights_file if completed else None)


def run_again(
    folder: ResultsFolder,
    prefix: str,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> tuple[dict[str, Any], Composed]:
    """Return the row that `replay` trains again, and its trial as a config."""
    _require_of_runtime(overrides)
    recorded = find_row(folder, prefix)
    config = trial_of(recorded)
    composed = compose_file(folder.sweep_file, list(overrides), config_dir=config_dir)
    return recorded, with_trial(composed, config)


def _require_of_runtime(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.split("=")[0].split(".")[0] != "runtime":
            raise UserError(
                "With --trial a finished trial is trained again as it was, so only runtime.* may "
                f"be changed, but got {abbreviate(override)}. Train a config file to change the "
                "rest."
            )


def find_row(folder: ResultsFolder, prefix: str) -> dict[str, Any]:
    """Return the row whose key begins with `prefix`, of the sweep's ledger or of its target's.

    Raises:
        UserError: none or several, or a row that another program made.
    """
    found = {
        row["trial_key"]: row
        for home in (folder.target, folder.path)  # rows of the sweep's own ledger win
        for row in iterate_ledger_rows(home)
        if row["trial_key"].startswith(prefix)
    }
    if not found:
        raise UserError(
            f"--trial must be the beginning of the key of a row in {folder.path}, but no key "
            f"begins with {abbreviate(prefix)}. `hptransfer status {folder.path} --export "
            "rows.csv` lists the keys."
        )
    if len(found) > 1:
        first = sorted(found)[:3]
        others = ", ..." if len(found) > len(first) else ""
        raise UserError(
            f"--trial must name one row, but {len(found)} keys begin with {abbreviate(prefix)}: "
            f"{', '.join(first)}{others}. Give more digits."
        )
    (only,) = found.values()
    if {"foreign", "external"} & set(only["config"]):
        raise UserError(
            f"Trial {only['trial_key']} was trained by another program, whose model hptransfer "
            "does not have. Train it again with that program."
        )
    return only


def trial_of(recorded: Mapping[str, Any]) -> TrialConfig:
    """Return the trial that a row of ours records: the inverse of `identity.canonical`.

    A row's config keeps 12 digits of its numbers. The full values of swept HPs follow from `hps`,
    which keeps 9 decimals in log2: enough for every point that designs choose.

    Raises:
        UserError: a config that this version does not read as the trial with the row's key.
    """
    try:
        rounded = read_trial(recorded["config"])
        exact = with_hyperparameters(rounded, recorded["hps"])
    except (KeyError, UserError) as error:
        raise _unread(recorded, str(error)) from None
    for config in (exact, rounded):
        if trial_key(config) == recorded["trial_key"]:
            return config
    raise _unread(recorded, f"its key would be {trial_key(rounded)}")


def _unread(recorded: Mapping[str, Any], reason: str) -> UserError:
    version = recorded["provenance"].get("hptransfer")
    return UserError(
        f"Trial {recorded['trial_key']} cannot be trained again by this version of hptransfer, "
        f"which reads its config differently ({reason}). Use the version that wrote the row: "
        f"{version}."
    )


def comparison(
    recorded: Mapping[str, Any], now: Mapping[str, Any], weights_file: Path | None
) -> dict[str, Any]:
    """Compare a row with that of the same trial run again.

    `equal` holds where status, loss and the step of an early end are the same to the bit, `agrees`
    where the status is, and the loss to `TOLERANCE`.
    """
    was, is_now = recorded["loss"], now["loss"]
    difference = None if None in (was, is_now) else is_now - was
    relative = abs(difference) / abs(was) if difference else difference
    return {
        "trial_key": recorded["trial_key"],
        "family": recorded["config"]["model"]["family"],
        **{name: recorded[name] for name in ("width", "parametrization", "seed", "hps")},
        "recorded": _end(recorded),
        "now": _end(now),
        "difference": difference,
        "relative_difference": relative,
        "tolerance": TOLERANCE,
        "equal": all(recorded[name] == now[name] for name in OUTCOME_FIELDS),
        "agrees": recorded["status"] == now["status"] and (relative or 0.0) <= TOLERANCE,
        "weights": None if weights_file is None else str(weights_file),
        "config": None if weights_file is None else str(weights_file.with_suffix(".yaml")),
    }


def _end(of: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a trial ended, on which device and with which code."""
    made = {name: of["provenance"].get(name) for name in ("commit", "torch")}
    return {**{name: of[name] for name in OUTCOME_FIELDS}, "device": of["cost"]["device"], **made}


def replay_text(answer: Mapping[str, Any]) -> str:
    """Return the comparison as text: the trial, both results, and whether they agree."""
    hps = ", ".join(f"{name} {value:g}" for name, value in answer["hps"].items())
    lines = [
        f"trial    {answer['trial_key']}: {answer['family']} at width {answer['width']}, "
        f"{answer['parametrization']}, seed {answer['seed']}, {hps}",
        f"recorded {_end_text(answer['recorded'])}",
        f"now      {_end_text(answer['now'])}",
        f"result   {_judged(answer)}",
    ]
    if answer["weights"]:
        lines.append(f"weights  {answer['weights']}")
    return "\n".join(lines)


def _end_text(end: Mapping[str, Any]) -> str:
    ends = {
        Status.completed.value: f"loss {end['loss']!r}",
        Status.diverged.value: f"diverged at step {end['diverged_at_step']}",
        Status.stopped.value: f"stopped at step {end['stopped_at_step']}",
    }
    commit = f", commit {end['commit']}" if end["commit"] else ""
    return f"{ends[end['status']]}  ({end['device']}, torch {end['torch']}{commit})"


def _judged(answer: Mapping[str, Any]) -> str:
    if answer["equal"]:
        return "equal to the bit"
    if answer["difference"] is None:
        return "ended in the same way, at another step" if answer["agrees"] else "ended otherwise"
    within = "within" if answer["agrees"] else "beyond"
    return (
        f"differs by {answer['difference']:+.3g} in loss, which is "
        f"{answer['relative_difference']:.2g} of the loss: {within} the tolerance of "
        f"{answer['tolerance']:g}"
    )
