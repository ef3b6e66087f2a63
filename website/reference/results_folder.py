"""The page of a results folder: its files, a ledger's row, the columns of a table, JSON records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hptransfer.results.folder import ResultsFolder, RunFolder
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.metrics import METRICS
from hptransfer.results.table import TABLE_COLUMNS
from website.reference.comments import comments_of
from website.reference.markdown import GENERATED, code, prose, table

STUDY = Path(__file__).parents[2] / "results" / "studies" / "quickstart"
INTRODUCTION = f"""\
# The results folder

For somebody who reads `results/NAME/` by eye or by a script: what each file is, and what its
records hold. {GENERATED}

All files are text, but for pictures and weights. JSON is strict: a number that is not known or not
finite is `null`. Points of a hyperparameter are in log2 where its name begins with `log2_`.
"""
# Files that other parts of the code write beside those of `ResultsFolder`.
BESIDE = {
    "ledger.jsonl": "the finished trials, a row of JSON each; lines are only ever appended",
    "curves/KEY.json": "the training loss of each trial by step",
    "estimates-METRIC.json": "what `fit --metric` wrote",
    "packs.json": "how many trials trained together at each width, and the seconds they took",
    "failed.json": "the trials whose training raised: which, why, and where the traceback is",
    "failed/KEY.log": "the traceback of each",
    "tensorboard/": "the same for TensorBoard",
    "optuna.db": "the search as a study of Optuna, where an Optuna method chose the points",
    "checkpoints/": "the state of trials in training, from which a sweep that was cut off goes on",
    "trials/KEY/": "what a trial of your own trainer left: what it was told (`trial.json`), "
    "printed (`log.txt`) and reported (`reports.jsonl`), and what it wrote there itself",
    "target.sh": "the target run of your own trainer as a command; `target.py` where a function "
    "trains it",
    "trials/KEY.safetensors": "the weights of a trial that `train --trial` trained again",
    "trials/KEY/job.json": "with `executor=slurm`: the job of a trial that is under way",
    "trials/KEY/outcome.json": "with `executor=slurm`: how that job ended, until it is recorded",
    "slurm/": "with `executor=slurm`: the scripts and logs of jobs, and what submitit hands them",
    ".lock": "which process is writing the folder",
}
BESIDE_RUN = {
    "samples/STEP.png": "samples that were drawn after so many steps, a row per class",
    "tensorboard/": "losses and speed for TensorBoard",
    ".lock": "which process is writing the folder",
}
# Fields of a row that no comment describes.
BESIDE_ROW = {
    "metrics.loss_ema_0.05": "the held-out loss of a moving average of the weights with this share "
    "of `budget.judged_ema_fractions`; the quality of samples has such fields, too",
    "check": "12 hex digits of the sha256 of all before it",
}
RECORDS = (
    "transfer.json",
    "target/realised.json",
    "check.json",
    "packs.json",
    "target_groups.json",
)


def page() -> str:
    """Return the page of a results folder."""
    of_folder = {**_below(ResultsFolder), **BESIDE}
    of_run = {**_below(RunFolder), **BESIDE_RUN}
    columns = [(code(c.name), c.dtype, c.unit, prose(c.meaning)) for c in TABLE_COLUMNS]
    by_rule = {f"metrics.{m.name}": m.axis for m in METRICS.values() if m.of_some_noise}
    row = {**comments_of(ledger_row), **by_rule, **BESIDE_ROW}
    files = ("file", "what it holds")
    return "\n".join(
        [
            INTRODUCTION,
            f"## Files\n\n{table(files, _rows(of_folder))}",
            "## Files of a training run\n\nEach training run of the target has a folder "
            f"`target/runs/KEY/`.\n\n{table(files, _rows(of_run))}",
            "## A row of the ledger\n\nA line of `ledger.jsonl` is a JSON object with these "
            f"fields.\n\n{table(('field', 'meaning'), _rows(row))}",
            "## The table of rows\n\n`hptransfer status NAME --export rows.csv` writes these "
            "columns, with a data dictionary beside them; "
            "`hptransfer.load_results(NAME).rows` is the same table.\n\n"
            f"{table(('column', 'type', 'unit', 'meaning'), columns)}",
            "## The record of the answer\n\n`estimates.json` is described on "
            "[a page of its own](answer_record.md).\n",
            "## Other records\n\nExamples from the recorded quickstart. Only the first entry of "
            "each list is shown.\n",
            *(f"### {name}\n\n```json\n{_example(name)}\n```\n" for name in RECORDS),
        ]
    )


def _below(cls: type) -> dict[str, str]:
    """Return the files that a class of paths names, with the comment behind each."""
    comments = comments_of(cls)
    paths = {vars(cls)[name].name: text for name, text in comments.items() if name in vars(cls)}
    return {path if "." in path else f"{path}/": text for path, text in paths.items()}


def _rows(meanings: dict[str, str]) -> list[tuple[str, str]]:
    return [(code(name), prose(meaning)) for name, meaning in meanings.items()]


def _example(name: str) -> str:
    record = json.loads((STUDY / name).read_text(encoding="utf-8"))
    return json.dumps(abridged(record), indent=1, ensure_ascii=False)


def abridged(value: Any) -> Any:
    """Return a JSON value with the first entry of each list of records, and of each map of keys."""
    if isinstance(value, list):
        is_records = bool(value) and isinstance(value[0], dict | list)
        return [abridged(value[0])] if is_records else value
    if isinstance(value, dict):
        return {name: abridged(item) for name, item in value.items()}
    return value
