"""Pictures and report of a results folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.analysis.of_folder import fresh_estimates, require_trials
from hptransfer.analysis.target_rows import refreshed
from hptransfer.config.choices import TRANSFERRING
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.results.metrics import LOSS, Metric
from hptransfer.results.sweep_file import read_facts
from hptransfer.system.files import opening, write_text

if TYPE_CHECKING:
    from hptransfer.reporting.figures import Picture


def _records(folder: ResultsFolder, step: int | None) -> dict[str, Any]:
    """Return the arguments of `pictures`, made anew where rows were added since; none is written.

    A record is None where the folder has no such file.
    """
    require_trials(folder)
    transfer, realised = refreshed(folder)
    return {
        "estimates": fresh_estimates(folder, step=step),
        "check": mup_check(folder),
        "realised": realised,
        "transfer": transfer,
    }


def plot_folder(
    folder: ResultsFolder,
    *,
    out: Path | None = None,
    step: int | None = None,
    metric: Metric = LOSS,
) -> list[Path]:
    """Draw every picture of a folder into its `figures`; return the files.

    Args:
        out: the folder that gets `figures` instead.
    """
    from hptransfer.reporting.figures import write_pictures

    place = _place(folder, out)
    listed = folder_pictures(folder, step, metric)
    with opening(place.path, "choose another with --out"):
        return write_pictures(place.figures_by(metric), listed)


def folder_pictures(folder: ResultsFolder, step: int | None, metric: Metric) -> list[Picture]:
    """Return the pictures of a folder, not drawn yet.

    By a metric, the first compares its optima with those by the loss.
    """
    from hptransfer.reporting.figures import agreement_pictures, pictures

    if metric is LOSS:
        return pictures(**_records(folder, step))
    by_loss = fresh_estimates(folder, step=step)
    by_metric = fresh_estimates(folder, step=step, metric=metric)
    return agreement_pictures(by_loss, by_metric) + pictures(estimates=by_metric)


def _place(folder: ResultsFolder, out: Path | None) -> ResultsFolder:
    """Return where pictures and report go, or say that they cannot go into the folder."""
    if out is not None:
        return ResultsFolder(out)
    for path in (folder.path, folder.figures):
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(
                f"Pictures and report go into the results folder, but {path} cannot be written. "
                "Add --out DIR to write them into a folder of your own."
            )
    return folder


def mup_check(folder: ResultsFolder) -> dict[str, Any] | None:
    """Return the coordinate check of the µP arm, or of `complete`, if there is one."""
    checks = (read_json(folder.check_file, "checks") or {"checks": []})["checks"]
    by_arm = {check["parametrization"]: check for check in checks}
    return next((by_arm[s.value] for s in TRANSFERRING if s.value in by_arm), None)


def report_folder(
    folder: ResultsFolder,
    commands: Sequence[str],
    *,
    out: Path | None = None,
    step: int | None = None,
) -> Path:
    """Write the report with the pictures in it, and the pictures beside it; return the page.

    Args:
        commands: what was typed to come here, for the page.
        out: the folder that gets both instead.
    """
    from hptransfer.reporting.figures import pictures, write_pictures
    from hptransfer.reporting.page.report import report_html

    place = _place(folder, out)
    records = _records(folder, step)
    listed = pictures(**records)
    timing = read_json(folder.timing_file, "seconds")
    with opening(place.path, "choose another with --out"):
        files = {path.name: path for path in write_pictures(place.figures, listed)}
        page = report_html(
            [(p, files[f"{p.name}.svg"].read_text(encoding="utf-8")) for p in listed],
            **records,
            sweep=dict(read_facts(folder).tree),
            timing=timing and timing["seconds"],
            commands=list(commands),
            rows=read_ledger_rows(folder.path),
        )
        write_text(place.report_file, page)
    return place.report_file


def record_timing(folder: ResultsFolder, seconds: dict[str, float], *, worked: bool) -> None:
    """Keep where the time of a `run` went; a run that only read what was there changes nothing."""
    if worked or not folder.timing_file.is_file():
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        write_json(folder.timing_file, {"seconds": rounded})
