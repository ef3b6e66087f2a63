"""The rows of a ledger as a data frame for the analysis, and the meaning of its columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config import BudgetConfig, TransformerConfig
from hptransfer.config.choices import Status
from hptransfer.config.external import is_external
from hptransfer.config.sweep import CONDITIONS, fixed_condition
from hptransfer.errors import UserError
from hptransfer.results.metrics import LOSS, Metric, Reading, metrics_of_all, was_asked

if TYPE_CHECKING:
    import pandas as pd


class TableColumn(NamedTuple):
    """A column of `rows_table`, as the data dictionary of an exported file describes it."""

    name: str
    dtype: str
    unit: str
    meaning: str


TABLE_COLUMNS = tuple(
    TableColumn(*described)
    for described in (
        ("trial_key", "str", "", "the trial's identity: 12 hex digits of its config's sha256"),
        ("status", "str", "", "completed, diverged or stopped"),
        ("loss", "float64", "the objective's", "held-out loss, or a metric; NaN unless completed"),
        ("family", "str", "", "architecture with one scaling axis"),
        ("width", "int64", "features", "d, the axis that is scaled"),
        (
            "parametrization",
            "str",
            "",
            "mup, complete, standard, standard_embed; shared at base width",
        ),
        ("seed", "int64", "", "seed of initialisation, data order, noise and timesteps"),
        ("log2_<hp>", "float64", "octaves", "log2 of a searched hyperparameter each; -inf: off"),
        ("depth", "float64", "blocks", "of the model; NaN where it has none or it is not known"),
        ("batch_size", "float64", "samples", "of a training step; NaN where it is not known"),
        ("steps", "float64", "steps", "trained before the loss was taken; NaN where not known"),
        ("n_seeds", "int64", "", "runs whose mean the loss is: 1 but for imported rows"),
        ("loss_sd", "float64", "the objective's", "sd between those runs, if a row gives it"),
        ("loss_at_init", "float64", "the objective's", "the same loss before the first step"),
        ("train_loss", "float64", "the objective's", "mean over the last training steps"),
        ("clipped_share", "float64", "", "of steps whose gradient was clipped; NaN if not known"),
        ("diverged_at_step", "Int64", "steps", "step that turned non-finite; missing if none"),
        ("stopped_at_step", "Int64", "steps", "step at which it was given up as hopeless"),
        ("flops", "float64", "FLOPs", "of the whole trial, forward and backward"),
        ("seconds", "float64", "seconds", "the pack's wall time over its members"),
    )
)


def rows_table(rows: Iterable[Mapping[str, Any]], metric: Metric = LOSS) -> pd.DataFrame:
    """Return the frame of some rows, one row each, with the columns `TABLE_COLUMNS` in order.

    Column `loss` holds the judged number of the metric. `loss_at_init` and `loss_sd` are missing
    where they are of the loss and the metric is another. Neither samples nor the loss at some noise
    levels are judged before training. For the log2 of a Fréchet distance, `loss_at_init` is the
    largest value of all rows, since the samples of a diverging trial are noise, as those of an
    untrained model are.

    Raises:
        UserError: a completed row lacks the metric.
    """
    import pandas as pd

    rows = list(rows)
    _require_measured(rows, metric)
    hps = sorted({name for row in rows for name in row["hps"]})
    records = [_record(row, metric) for row in rows]
    if metric.reading is Reading.log2:
        worst = max((r["loss"] for r in records if r["loss"] is not None), default=None)
        records = [{**record, "loss_at_init": worst} for record in records]
    dtypes: dict[str, str] = {}
    for column in TABLE_COLUMNS:
        names = hps if column.name == "log2_<hp>" else [column.name]
        dtypes.update(dict.fromkeys(names, column.dtype))
    return pd.DataFrame(records, columns=list(dtypes)).astype(dtypes)


def _require_measured(rows: Sequence[Mapping[str, Any]], metric: Metric) -> None:
    completed = [row for row in rows if row["status"] == Status.completed.value]
    lacking = sum(not was_asked(row, metric) for row in completed)
    if lacking:
        there = ", ".join(each.name for each in metrics_of_all(rows))
        raise UserError(
            f"Every completed row must hold the metric it is judged by, but {lacking} of "
            f"{len(completed)} have no {metric.name}. {metric.remedy} one that all rows have: "
            f"{there}."
        )


def _measured(row: Mapping[str, Any], metric: Metric) -> float | None:
    """Return a row's judged number; None where its trial failed, or the number is not finite."""
    value = row["loss"] if metric is LOSS else row["metrics"].get(metric.name)
    if value is None or metric.reading is Reading.plain:
        return value
    if metric.reading is Reading.negated:
        return -value
    if value <= 0:
        raise UserError(
            f"A {metric.name} must be positive to be judged by, but trial {row['trial_key']} has "
            f"{value:g}: its features do not tell samples from data. Judge by another metric, or "
            "sweep with another quality.extractor."
        )
    return math.log2(value)


def _record(row: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    foreign = row["config"].get("foreign", {})
    starts_alike = not metric.of_samples and not metric.of_some_noise
    return {
        "trial_key": row["trial_key"],
        "status": row["status"],
        "loss": _measured(row, metric),
        "family": row["config"]["model"]["family"],
        "width": row["width"],
        "parametrization": row["parametrization"],
        "seed": row["seed"],
        **{name: -math.inf if value is None else value for name, value in row["hps"].items()},
        **conditions_of(row["config"]),
        "n_seeds": foreign.get("n_seeds", 1),
        "loss_sd": foreign.get("loss_sd") if metric is LOSS else None,
        "loss_at_init": row["metrics"]["loss_at_init"] if starts_alike else None,
        "train_loss": row["metrics"]["train_loss"],
        "clipped_share": row["metrics"].get("clipped_share"),
        "diverged_at_step": row["diverged_at_step"],
        "stopped_at_step": row["stopped_at_step"],
        "flops": row["cost"]["flops"],
        "seconds": row["cost"]["seconds"],
    }


def conditions_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the depth, batch size and steps of a row's config; None where one is not known.

    A config of ours leaves out fields that have their default. The config of an imported row has
    all that is known, and that of a trainer that is not ours may have them in `fixed`. It may also
    be the tree of a sweep's file.
    """
    if "external" in config or is_external(config):
        return dict(fixed_condition(config["fixed"]))
    model = config["model"]
    defaults = {}
    if "foreign" not in config:
        defaults = _BUDGET if model.get("family") == "custom" else {**_BUDGET, **_BLOCKS}
    found = {**defaults, **config.get("budget", {}), **model}
    return {name: found.get(name) for name in CONDITIONS}


_BUDGET = {"batch_size": BudgetConfig.batch_size, "steps": BudgetConfig.steps}
_BLOCKS = {"depth": TransformerConfig.depth}  # of every family but custom models
