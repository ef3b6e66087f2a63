"""The public functions that train: `hptransfer.sweep` and `hptransfer.coordinate_check`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.analysis.public import Results

if TYPE_CHECKING:
    from hptransfer.config.compose.compose import Composed
    from hptransfer.config.sweep import SweepConfig


def sweep(
    question: str | Path,
    *overrides: str,
    results: str | Path = "results",
    config_dir: str | Path | None = None,
    quiet: bool = True,
    shrink: bool = False,
) -> Results:
    """Run the missing trials of a sweep and return its results folder, as `hptransfer sweep` does.

    Every finished trial is recorded at once: an interrupted call is continued by the same call.

    Args:
        question: a sweep's file, or the name of one in `./sweeps` or among those that ship.
        overrides: in Hydra's form, e.g. `sweep.widths=[24,48]`.
        results: the folder that gets `NAME/`.
        config_dir: a folder of further config groups.
        quiet: whether only warnings are printed.
        shrink: whether the sweep may leave out recorded trials that the folder asked for before.

    Raises:
        UserError: a sweep that cannot be run.
        CheckFailed: a µP arm failed its coordinate check.
        TrialsFailed: trials raised, which is a bug; all other trials are recorded.

    Example:
        >>> results = hptransfer.sweep(
        ...     "quickstart", "name=small", "executor=local", "model.depth=1", "budget.steps=8",
        ...     "sweep.widths=[24,48]", "sweep.parametrizations=mup", "sweep.seeds=[0]",
        ...     "search.lr={low: -8, high: -4, step: 2}", "sweep.gate=false",
        ... )
        >>> results
        <Results in results/small: 6 of 6 trials recorded>
        >>> sorted(results.rows["width"].unique().tolist())
        [24, 48]
    """
    from hptransfer.config.compose.compose import compose_file, find_sweep
    from hptransfer.sweeping.run import driver, job

    path = find_sweep(str(question), Path(results))
    composed = compose_file(path, overrides, config_dir=_folder(config_dir))
    with job.open_job(composed, Path(results), quiet=quiet, shrink=shrink) as opened:
        job.gate(opened)
        driver.sweep(opened)
        return Results(opened.folder)


def coordinate_check(*overrides: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Check whether a model's parametrization is µP (arXiv 2203.03466, Appendix D.1).

    Args:
        overrides: of the model and the check, e.g. `model=dit`, `sweep.widths=[16,32,64]`; the
            widths are 1, 2 and 4 times the base width unless given.
        config_dir: a folder of further config groups.

    Returns:
        The object of `hptransfer check --json`: the `verdict` (`pass` or `fail`), and by module
        the slopes of log2 RMS over log2 width, in octaves per doubling of the width.

    Example:
        >>> answer = hptransfer.coordinate_check(
        ...     "model.depth=1", "model.base_width=16", "model.width=16", "model.head_dim=8"
        ... )
        >>> answer["verdict"], answer["widths"]
        ('pass', [16, 32, 64])
    """
    from hptransfer.sweeping.run.job import central_log2_lr
    from hptransfer.training.packs.coordinate_check import coordinate_check as checked

    composed, asked = composed_check(overrides, _folder(config_dir))
    return checked(asked.base, asked.widths, central_log2_lr(asked), composed.runtime)


def composed_check(
    overrides: Sequence[str], config_dir: Path | None
) -> tuple[Composed, SweepConfig]:
    """Return the config of a coordinate check; its widths are 1, 2 and 4 times the base width."""
    from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config

    path = shipped_folder("conf") / "check.yaml"
    composed = compose_file(path, overrides, config_dir=config_dir)
    assert composed.sweep is not None, "check.yaml asks a question"
    if not composed.sweep.sweep.widths:
        base_width = composed.trial.model.base_width
        widths = (base_width, 2 * base_width, 4 * base_width)
        section = dataclasses.replace(composed.sweep.sweep, widths=widths)
        asked = dataclasses.replace(composed.sweep, sweep=section)
        composed = dataclasses.replace(composed, sweep=asked)
    return composed, sweep_config(composed)


def _folder(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
