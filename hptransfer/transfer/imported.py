"""Values for a target from rows that another program made.

The target is a width of that program's family, or one of our models, which is then composed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hptransfer.analysis.of_folder import asked_conditions, estimated, table_of, wanted_rows
from hptransfer.analysis.target_rows import with_realised
from hptransfer.config.choices import TRANSFERRING, arm_name
from hptransfer.config.hyperparameters import hp_value
from hptransfer.config.sweep import CONDITIONS
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.sweep_file import overridden
from hptransfer.results.importers.table import UNKNOWN_LABEL
from hptransfer.results.sweep_file import ImportedFacts, SweepFacts
from hptransfer.system.files import write_text
from hptransfer.system.text import rounded

if TYPE_CHECKING:
    import pandas as pd

    from hptransfer.analysis.answer.transferred import Transferred
    from hptransfer.config import TrialConfig

KEYS = {"depth": "model.depth", "batch_size": "budget.batch_size", "steps": "budget.steps"}


def transfer_imported(
    folder: ResultsFolder,
    facts: ImportedFacts,
    overrides: Sequence[str],
    config_dir: Path | None,
    *,
    step: int | None,
) -> dict[str, Any]:
    """Write the values for a target and where they came from; return the transfer record."""
    words = [override.removeprefix("sweep.target.") for override in overrides]
    if any(word.startswith("model=") for word in words):
        return _to_ours(folder, facts, words, config_dir, step=step)
    return _to_theirs(folder, facts, words, step=step)


def _to_theirs(
    folder: ResultsFolder, facts: ImportedFacts, words: Sequence[str], *, step: int | None
) -> dict[str, Any]:
    """Transfer to another width of the rows' own family, which cannot be trained here."""
    label = next((w.partition("=")[2] for w in words if w.startswith("parametrization=")), None)
    asked = [f"sweep.target.{w}" for w in words if not w.startswith("parametrization=")]
    tree = overridden(facts.tree, asked)
    width = ((tree["sweep"].get("target") or {}).get("model") or {}).get("width")
    if width is None:
        raise UserError(
            f"A transfer needs the target's width, but {folder.sweep_file} names none. Give it, "
            "for example model.width=1024, or choose one of our models, for example "
            "model=dit_xl_2."
        )
    facts = dataclasses.replace(facts, tree=tree, target_width=width)
    table = table_for(folder, facts, width)
    family = _family(table)
    named, label = label, label or default_arm(table)
    _, target_at = asked_conditions(facts)
    answer = answer_of(facts, table, label, target_at, step)
    record = record_of(table, answer, distances(answer, target_at or {}), target_flops=None)
    record["warnings"] += [] if named else choice_of_arm(table, label)
    record["target"] = {
        "family": family,
        "width": width,
        "params": None,
        "parametrization": label,
        "config": None,
        "conditions": target_at,
    }
    write_text(folder.target_file, _values_yaml(facts.name, record))
    record["files"] = [str(folder.target_file), str(folder.transfer_file)]
    return with_realised(folder, record)


def _to_ours(
    folder: ResultsFolder,
    facts: ImportedFacts,
    words: Sequence[str],
    config_dir: Path | None,
    *,
    step: int | None,
) -> dict[str, Any]:
    """Transfer to one of our models, composed from the overrides."""
    from hptransfer.config.compose.compose import compose_file
    from hptransfer.config.hyperparameters import require_known_hp, with_hyperparameters
    from hptransfer.config.identity import canonical
    from hptransfer.results.table import conditions_of
    from hptransfer.training.flops import trial_flops
    from hptransfer.transfer import emit
    from hptransfer.transfer.exports import write_exports

    composed = compose_file(None, list(words), config_dir=config_dir)
    target = composed.trial
    for axis in facts.axes:
        require_known_hp(axis.removeprefix("log2_"), target.objective, target.optimizer)
    facts = dataclasses.replace(facts, target_width=target.model.width)
    table = table_for(folder, facts, target.model.width)
    _require_family(table, target)
    label, notes = _arm_for(table, target)
    answer = answer_of(facts, table, label, conditions_of(canonical(target)), step)
    trial = with_hyperparameters(target, answer.point)
    apart = distances(answer, conditions_of(canonical(target)))
    record = record_of(table, answer, apart, target_flops=trial_flops(trial))
    is_named = any(word.partition("=")[0] == "parametrization" for word in words)
    record["warnings"] += [*notes, *([] if is_named else choice_of_arm(table, label))]
    record["target"] = emit.target_entry(trial)
    write_text(folder.target_file, emit.target_yaml(composed, facts.name, trial, record))
    write_text(folder.groups_file, emit.parameter_table_text(trial))
    exported = write_exports(folder.exports, trial, searched=list(answer.point))
    record["files"] = [str(path) for path in (folder.target_file, folder.groups_file, *exported)]
    return with_realised(folder, record)


def table_for(folder: ResultsFolder, facts: SweepFacts, width: int) -> pd.DataFrame:
    table = table_of(wanted_rows(folder, facts), folder.path)
    widest = int(table["width"].max())
    if width < widest:
        raise UserError(
            "The target must be at least as wide as the widest swept model, but its width is "
            f"{width} and the rows go up to {widest}. Set model.width."
        )
    return table


def answer_of(
    facts: SweepFacts,
    table: pd.DataFrame,
    label: str,
    target_at: Mapping[str, Any] | None,
    step: int | None,
) -> Transferred:
    from hptransfer.analysis.answer.transferred import transferred

    at, _ = asked_conditions(facts, step)
    return transferred(estimated(facts, table, at=at, target_at=target_at), label)


def _family(table: pd.DataFrame) -> str:
    """Return the one family of the rows."""
    families = sorted(set(table["family"]))
    if len(families) > 1:
        raise UserError(
            f"A transfer needs rows of one family, but these are of {', '.join(families)}. Import "
            "each into a folder of its own."
        )
    return families[0]


def default_arm(table: pd.DataFrame) -> str:
    """Return the only arm, or µP's among several."""
    labels = sorted(set(table["parametrization"]) - {"shared"})
    if len(labels) <= 1:
        return labels[0] if labels else "shared"
    if "mup" in labels:
        return "mup"
    raise UserError(
        "A transfer must know which rows it takes its value from, but they have several "
        f"parametrizations: {', '.join(labels)}. Set parametrization={labels[0]}."
    )


def choice_of_arm(table: pd.DataFrame, taken: str) -> list[str]:
    """Say whose values were taken where rows have several parametrizations and none was named."""
    others = [name for name in sorted(set(table["parametrization"])) if name != taken]
    others = [name for name in others if name != "shared"]
    if not others:
        return []
    return [
        f"The rows have several parametrizations, and these values are those of "
        f"{arm_name(taken)}. To take the values of {' or '.join(map(arm_name, others))}, add "
        f"{' or '.join(f'parametrization={name}' for name in others)}."
    ]


def _require_family(table: pd.DataFrame, target: TrialConfig) -> None:
    found = _family(table)
    if found not in (target.model.family, UNKNOWN_LABEL):
        raise UserError(
            f"The target must be of the rows' family, but it is a {target.model.family} and they "
            f"are of {found}. Choose a model= of that family, or give only model.width to get the "
            "values."
        )


def _arm_for(table: pd.DataFrame, target: TrialConfig) -> tuple[str, list[str]]:
    """Return the arm of the target's parametrization, and what must be taken on trust."""
    label, base = target.parametrization.scaling.value, target.model.base_width
    notes = []
    if set(table["parametrization"]) <= {UNKNOWN_LABEL, "shared"}:
        notes.append(
            "The rows do not say how their models were parametrized, so it is taken to be "
            f"{label}. Check that this is so, or set parametrization=."
        )
        label = UNKNOWN_LABEL if UNKNOWN_LABEL in set(table["parametrization"]) else label
    if target.parametrization.scaling in TRANSFERRING:
        notes.append(
            "A µP learning rate is relative to a base width, which the rows do not say; it is "
            f"taken to be model.base_width={base}. Check that this is so, or set model.base_width."
        )
    return label, notes


def distances(answer: Transferred, wanted: Mapping[str, Any]) -> list[str]:
    """Say on which known conditions that were not varied the target differs from the rows."""
    varied = (answer.first["conditions"] or {}).get("axes", ())
    return [
        f"{KEYS[name]} is {wanted[name]:g} at the target and {answer.at[name]:g} at the proxies "
        f"({rounded(wanted[name] / answer.at[name], 3)} times)"
        for name in CONDITIONS
        if name not in varied
        and wanted.get(name) is not None
        and answer.at.get(name)
        and wanted[name] != answer.at[name]
    ]


def record_of(
    table: pd.DataFrame, answer: Transferred, apart: Sequence[str], *, target_flops: float | None
) -> dict[str, Any]:
    from hptransfer.analysis.answer.run_health import (
        gap_warnings,
        runs_near_value,
        train_validation_gap,
    )
    from hptransfer.analysis.answer.transferred import EMPTY_REGRET

    unknown = dict.fromkeys(("schedule", "weights", "ema_decay"))
    on = {**dict.fromkeys(("steps", "batch_size")), **unknown, "depth": None, **answer.holds_for}
    regret = {**EMPTY_REGRET, "reason": "; ".join(apart)} if apart else answer.expected_regret
    gap = train_validation_gap(runs_near_value(answer.of_condition(table), answer.point))
    return {
        "target": {},
        "hps": answer.hps,
        "expected_regret": {**regret, "conditional_on": on},
        "predicted_loss": None if apart else answer.predicted_loss,
        "realised_regret": None,
        "train_validation_gap": gap,
        "cost": _cost(table, answer, target_flops),
        "verdict": answer.verdict,
        "answers": answer.answers,
        "warnings": [
            *answer.warnings,
            *(
                "The answer holds only where nothing changes but what was swept, yet "
                f"{difference}. Make them equal, or sweep what differs."
                for difference in apart
            ),
            *gap_warnings(gap),
        ],
    }


def _cost(
    table: pd.DataFrame, answer: Transferred, target_flops: float | None
) -> dict[str, float | None]:
    """Return FLOPs and ratios as for a sweep of ours; null where the rows or we cannot say."""
    from hptransfer.analysis.answer.transferred import costs, points_of_width

    label = answer.first["parametrization"]
    runs = points_of_width(table, label, list(answer.arms)) * len(set(table["seed"]))
    return costs(table, label, target_flops=target_flops, direct_runs=runs)


def _values_yaml(name: str, record: Mapping[str, Any]) -> str:
    """Return the transferred values with where they came from; no config that could be trained."""
    from hptransfer.transfer.emit import provenance_lines

    target = record["target"]
    lines = [
        f"Values transferred from {name}, the rows of another program, for that program to train "
        "with.",
        "hptransfer cannot train this target, since it has no such model.",
        *provenance_lines(record),
    ]
    hps = {hp: value["value"] for hp, value in record["hps"].items()}
    tree = {
        "imported": name,
        "target": {key: target[key] for key in ("family", "width", "parametrization")},
        "log2": {hp.removeprefix("log2_"): value for hp, value in hps.items()},
        "values": {hp.removeprefix("log2_"): hp_value(hp, value) for hp, value in hps.items()},
    }
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {line}\n" for line in lines) + body
