"""The trials of the Optuna studies in a SQLite file, read as plain tables and never written.

Optuna itself would create and migrate tables in the file, and unpickle what its samplers keep
there. Values, parameters and attributes are plain numbers and JSON.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.importers.sheet import Sheet

OPTUNA_SCHEMA = 12  # of the tables that Optuna 3.0 to 5.0 write
_ODD_VALUES = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def optuna_sheet(path: Path) -> Sheet:
    """Return the trials of all studies in a file as one table.

    Its columns are `params.*`, `user_attrs.*`, `study_attrs.*`, `value` and `state`.

    Raises:
        UserError: the file is another database or has another schema, or a study maximises its
            value or has several.
    """
    import pandas as pd

    try:
        with closing(_connect(path)) as base:
            _require_readable(base, path)
            trials = _trials(base)
    except sqlite3.Error as error:
        raise UserError(
            f"{path} must be a SQLite file that Optuna wrote, but: {error}. Name that file, or "
            "export its trials: study.trials_dataframe().to_csv('trials.csv')"
        ) from None
    frame = pd.DataFrame(trials, index=[f"{t['number']} of study {t['study']}" for t in trials])
    return Sheet(path.name, tuple(frame.columns), lambda names: frame.filter(list(names)), "trial")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _require_readable(base: sqlite3.Connection, path: Path) -> None:
    (version,) = base.execute("SELECT schema_version FROM version_info").fetchone() or (None,)
    if version != OPTUNA_SCHEMA:
        raise UserError(
            f"Optuna studies of schema {OPTUNA_SCHEMA} are read, but {path} has {version}. "
            "Export it with its own Optuna: study.trials_dataframe().to_csv('trials.csv')"
        )
    for name, direction, objective in base.execute(
        "SELECT study_name, direction, objective FROM study_directions JOIN studies USING "
        "(study_id) ORDER BY objective DESC"
    ):
        if objective > 0 or direction == "MAXIMIZE":
            problem = "has several objectives" if objective > 0 else "maximises its value"
            raise UserError(
                f"A study must minimise one loss, but {name!r} in {path} {problem}. Export its "
                "trials and name the loss: study.trials_dataframe().to_csv('trials.csv')"
            )


def _trials(base: sqlite3.Connection) -> list[dict[str, Any]]:
    studies = dict(base.execute("SELECT study_id, study_name FROM studies"))
    of_study: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for study, key, value in base.execute(
        "SELECT study_id, key, value_json FROM study_user_attributes ORDER BY key"
    ):
        of_study[study][f"study_attrs.{key}"] = json.loads(value)
    found: dict[int, dict[str, Any]] = {}
    for trial, number, study, state in base.execute(
        "SELECT trial_id, number, study_id, state FROM trials ORDER BY study_id, number"
    ):
        name = studies[study]
        found[trial] = {"study": name, "number": number, "state": state, **of_study[study]}
    for trial, key, value, distribution in base.execute(
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
    ):
        choices = json.loads(distribution)["attributes"].get("choices")
        found[trial][f"params.{key}"] = value if choices is None else choices[int(value)]
    for trial, key, value in base.execute(
        "SELECT trial_id, key, value_json FROM trial_user_attributes"
    ):
        found[trial][f"user_attrs.{key}"] = json.loads(value)
    for trial, value, kind in base.execute("SELECT trial_id, value, value_type FROM trial_values"):
        found[trial]["value"] = _ODD_VALUES.get(kind, value)
    return list(found.values())
