"""Pictures and report of a results folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hptransfer.analysis.of_folder import fresh_estimates
from hptransfer.analysis.target_rows import refreshed
from hptransfer.config.choices import Scaling
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.metrics import LOSS, Metric
from hptransfer.results.sweep_file import read_facts
from hptransfer.system.files import opening


def plot(folder: ResultsFolder, *, step: int | None = None, metric: Metric = LOSS) -> list[Path]:
    """Draw every picture of a folder from its estimates."""
    from hptransfer.reporting.figures import write_figures

    if metric is not LOSS:
        return _plot_by(folder, metric, step=step)
    transfer, realised = refreshed(folder)
    with opening(folder.figures):
        return write_figures(
            folder.figures,
            estimates=fresh_estimates(folder, step=step),
            check=mup_check(folder),
            realised=realised,
            transfer=transfer,
        )


def _plot_by(folder: ResultsFolder, metric: Metric, *, step: int | None) -> list[Path]:
    """Draw what a metric gave, and its optima beside those by the loss."""
    from hptransfer.reporting.figures import pictures, write_pictures
    from hptransfer.reporting.figures.agreement import agreement_pictures

    by_loss = fresh_estimates(folder, step=step)
    by_metric = fresh_estimates(folder, step=step, metric=metric)
    listed = [
        *agreement_pictures(by_loss, by_metric),
        *pictures(estimates=by_metric, check=None, realised=None, transfer=None),
    ]
    with opening(folder.figures):
        return write_pictures(folder.figures_by(metric), listed)


def mup_check(folder: ResultsFolder) -> dict[str, Any] | None:
    """Return the µP arm's coordinate check, if there is one."""
    checks = (read_json(folder.check_file, "checks") or {"checks": []})["checks"]
    return next((c for c in checks if c["parametrization"] == Scaling.mup.value), None)


def report(folder: ResultsFolder, commands: Sequence[str], *, step: int | None = None) -> Path:
    """Write the report, with the pictures in it."""
    from hptransfer.reporting.page.report import write_report

    plot(folder, step=step)
    write_report(
        folder.report_file,
        estimates=fresh_estimates(folder, step=step),
        check=mup_check(folder),
        realised=read_json(folder.realised_file, "hp"),
        transfer=read_json(folder.transfer_file, "target"),
        sweep=dict(read_facts(folder).tree),
        figures=folder.figures,
        timing=_timing(folder),
        commands=list(commands),
    )
    return folder.report_file


def _timing(folder: ResultsFolder) -> dict[str, float] | None:
    recorded = read_json(folder.timing_file, "seconds")
    return recorded and recorded["seconds"]


def record_timing(folder: ResultsFolder, seconds: dict[str, float], *, worked: bool) -> None:
    """Keep where the time of a `run` went; a run that only read what was there changes nothing."""
    if worked or not folder.timing_file.is_file():
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        write_json(folder.timing_file, {"seconds": rounded})
