"""The regret that the transferred value really has at the target, from the target's own rows.

The rows are ours, or another trainer's that were imported; they are never fitted with the sweep's.
Nothing here imports torch, Ray or Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hptransfer.analysis.answer.realised import realised_regret
from hptransfer.analysis.basins.numbers import SAME_POINT, SCHEMA, number
from hptransfer.analysis.basins.units import unit_of
from hptransfer.config.hyperparameters import hyperparameter
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.results.sweep_file import read_facts
from hptransfer.results.table import conditions_of, rows_table

ENOUGH = 3  # trained values of the first HP from which its regret is read
# Units of the HP's axis (`basins/units.py`, octaves of `log2_<hp>`): a trained value this near to
# the transferred one counts as the transferred one, rounded.
NEAR = 0.1


def realised_answer(folder: ResultsFolder, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the target's rows say of the transferred values in `record`; None without rows.

    With fewer than three values of the first HP there is a loss, no regret, and a `reason`.
    """
    rows = target_rows(folder, record)
    if not rows:
        return None
    (hp, value), *_ = record["hps"].items()
    trained = rows_table(rows)
    theta, sound = trained[hp].to_numpy(dtype=np.float64), trained["loss"].notna().to_numpy()
    values = np.unique(theta[sound].round(9))
    near = _near(folder, hp)
    at_value = np.abs(theta - value["value"]) <= near
    common = {
        **_at_value(trained.loc[at_value], record),
        "foreign": "foreign" in rows[0]["config"],
    }
    ends = (values.min() - near, values.max() + near) if len(values) else (np.inf, -np.inf)
    if len(values) < ENOUGH or not ends[0] <= value["value"] <= ends[1]:
        reason = _reason(len(values), value["value"], hp, trained=bool(at_value.any()))
        return {**_unanswered(record, hp), **common, "reason": reason}
    answer = realised_regret(
        trained.loc[_of_whole_seeds(trained, hp)],
        transferred=value["value"],
        predicted=record["expected_regret"],
        hp=hp,
        width=record["target"]["width"],
    )
    return {**answer, **common, "reason": None}


def _near(folder: ResultsFolder, hp: str) -> float:
    """Return how near to the transferred value a trained one counts as it, on the HP's axis.

    A linear HP's unit is read from the values that the sweep trained.
    """
    is_log = hp.startswith("log2_")
    swept = () if is_log else read_facts(folder).points.get(hp, ())
    return NEAR * unit_of(hp, np.array(swept))


def _of_whole_seeds(trained: pd.DataFrame, hp: str) -> NDArray[np.bool_]:
    """Say which rows are of the seeds with most values: a point that lacks a seed is not fitted."""
    seed, theta = trained["seed"].to_numpy(), trained[hp].to_numpy(dtype=np.float64)
    counts = {int(each): len(np.unique(theta[seed == each])) for each in np.unique(seed)}
    whole = [each for each, count in counts.items() if count == max(counts.values())]
    return np.isin(seed, whole)


def with_realised(folder: ResultsFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write a transfer record, with what the target's rows say by now, into the folder; return it.

    `realised.json` is there while there is a regret to draw.
    """
    complete, answer = _completed(folder, record)
    write_json(folder.transfer_file, complete)
    if answer is not None:
        write_json(folder.realised_file, answer)
    else:
        folder.realised_file.unlink(missing_ok=True)
    return complete


def _completed(
    folder: ResultsFolder, record: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a transfer record with what the target's rows say, and their answer if it has a
    regret.
    """
    answer = realised_answer(folder, record)
    told = ("loss_at_transferred", "n_seeds", "predicted_loss", "loss_as_predicted", "reason")
    has_regret = answer is not None and answer["reason"] is None
    complete = {
        **record,
        "realised_regret": answer["regret"] if answer and has_regret else None,
        "realised": answer and {name: answer[name] for name in told},
    }
    return complete, answer if has_regret else None


def refreshed(folder: ResultsFolder) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return a folder's transfer record and the realised answer, made anew from the target's rows.

    Either is None where there is none. Nothing is written.
    """
    record = read_json(folder.transfer_file, "target")
    if record is None or "config" not in record["target"]:  # older records cannot tell its rows
        return record, read_json(folder.realised_file, "hp")
    return _completed(folder, record)


def target_rows(folder: ResultsFolder, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the target's ledger that differ from its config in the first HP alone.

    Rows of another trainer count where there are none of ours, and must agree in all they say.
    """
    rows = [row for row in read_ledger_rows(folder.target) if _at_other_hps(row, record)]
    config = record["target"].get("config")
    first, *_ = record["hps"]
    if config is not None:
        asked = _without(config, first)
        ours = [row for row in rows if _without(row["config"], first) == asked]
        if ours:
            return ours
    return [row for row in rows if "foreign" in row["config"] and _agrees(row, record)]


def _at_other_hps(row: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    first, *others = record["hps"]
    return first in row["hps"] and all(
        abs(row["hps"].get(hp, float("inf")) - record["hps"][hp]["value"]) < SAME_POINT
        for hp in others
    )


def _without(config: Mapping[str, Any], first: str) -> dict[str, Any]:
    """Return a trial's short form without its seed and the first HP."""
    kept = {name: group for name, group in config.items() if name != "seed"}
    if "external" in config:
        return {**kept, "hps": sorted(kept["hps"].keys())}
    hp = hyperparameter(first)
    group = {k: v for k, v in kept.pop(hp.group, {}).items() if k != hp.field}
    return {**kept, **({hp.group: group} if group else {})}


def _agrees(row: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Say whether a foreign row is of the target, as far as it says."""
    target = record["target"]
    wanted = conditions_of(target["config"]) if target.get("config") else {}
    said = {
        name: value for name, value in conditions_of(row["config"]).items() if value is not None
    }
    return (
        row["width"] == target["width"]
        and row["parametrization"] in (target["parametrization"], "shared")
        and all(wanted.get(name, value) == value for name, value in said.items())
    )


def _at_value(rows: pd.DataFrame, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss that the transferred value gave, beside the one that was predicted."""
    losses = rows["loss"].to_numpy(dtype=np.float64)
    loss = number(float(losses.mean())) if len(losses) else None  # null where a seed failed
    predicted = record.get("predicted_loss") or {}
    low, high = predicted.get("low"), predicted.get("high")
    as_predicted = None
    if loss is not None and low is not None and high is not None:
        as_predicted = bool(low <= loss <= high)
    return {
        "loss_at_transferred": loss,
        "n_seeds": int(rows["n_seeds"].to_numpy().sum()),
        "predicted_loss": predicted or None,
        "loss_as_predicted": as_predicted,
    }


def _unanswered(record: Mapping[str, Any], hp: str) -> dict[str, Any]:
    predicted = record["expected_regret"]
    return {
        "schema": SCHEMA,
        "width": record["target"]["width"],
        "hp": hp,
        "transferred": record["hps"][hp]["value"],
        "optimum": None,
        "regret": dict.fromkeys(("estimate", "low", "high")),
        "predicted": {name: predicted.get(name) for name in ("mean", "low", "high")},
        "missed": False,
    }


def _reason(values: int, value: float, hp: str, *, trained: bool) -> str:
    """Say what a regret still needs."""
    near = f"{hp}={value:.4g}"
    if not trained:
        return (
            "The cost of the transferred value can be measured only with the target trained at "
            f"that value, but no row is at {near}. Train it there."
        )
    more = max(ENOUGH - values, 1)
    return (
        "The cost of the transferred value can be measured only with the target's loss at other "
        f"values too, but its rows have {values} {('value' if values == 1 else 'values')} around "
        f"{near}. Train the target at {more} more, on both sides of it."
    )
