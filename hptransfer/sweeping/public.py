"""The public functions that train: `hptransfer.sweep` and `hptransfer.coordinate_check`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.analysis.public import Results
from hptransfer.errors import require
from hptransfer.system.text import say

if TYPE_CHECKING:
    from hptransfer.config.compose.compose import Composed
    from hptransfer.config.sweep import SweepConfig
    from hptransfer.training.external.trial import Trial


def sweep(
    question: str | Path | Callable[[Trial], Any],
    *overrides: str,
    results: str | Path = "results",
    config_dir: str | Path | None = None,
    quiet: bool = True,
    shrink: bool = False,
    folder: str | Path | None = None,
    widths: Sequence[int] = (),
    search: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 1,
    target_width: int | None = None,
    version: str = "",
) -> Results:
    """Run the missing trials of a sweep and return its results folder, as `hptransfer sweep` does.

    Every finished trial is recorded at once: an interrupted call is continued by the same call.

    Args:
        question: a sweep's file, or the name of one in `./sweeps` or among those that ship; or a
            function that trains one `hptransfer.Trial` and returns its loss, or a mapping with its
            loss and other numbers. Each call of the function is made in a process of its own.
        overrides: in Hydra's form, e.g. `sweep.widths=[24,48]` or `executor=local`.
        results: the folder that gets `NAME/`.
        config_dir: a folder of further config groups.
        folder: the results folder of a function's sweep. This and all further arguments are only
            for a function.
        widths: the widths of the proxies.
        search: the hyperparameters to search by name, as in a sweep file: a list of values, or
            `{"low": -10, "high": -4}` in log2.
        fixed: values that every trial gets as `trial.fixed`; another value is another question.
        seeds: how many seeds each point is trained with, or a list of them.
        target_width: width of the model that is to be trained at last.
        version: change it with the function's code, which no trial's key depends on.
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

        >>> def run(trial):
        ...     import math
        ...     return 1 / trial.width**0.2 + 0.02 * (math.log2(trial.hps["lr"]) + 7) ** 2
        >>> results = hptransfer.sweep(
        ...     run, "executor=local", folder="results/mine", widths=[64, 128, 256],
        ...     search={"lr": {"low": -9, "high": -5}}, target_width=1024,
        ... )
        >>> round(results.fit().target.value, 3)
        0.008
    """
    from hptransfer.config.compose.compose import compose_file, compose_function, find_sweep
    from hptransfer.sweeping.run import driver, job

    of_function = {
        **{"folder": folder, "widths": list(widths), "search": search, "fixed": fixed},
        **{"target_width": target_width, "version": version},
    }
    if callable(question):
        require(
            folder is not None,
            "The sweep of a function needs a results folder to record its trials in, but none is "
            "given. Name one, for example folder='results/mine'.",
        )
        place, pickled = Path(str(folder)), _pickled(question)
        content = _function_content(question, place.name, seeds, of_function)
        composed, root = compose_function(content, overrides), place.parent
    else:
        given = [name for name, value in of_function.items() if value]
        require(
            not given,
            f"The arguments {', '.join(given)} are for the sweep of a function, but got the sweep "
            f"file {question}. Give them as overrides, such as sweep.widths=[64,128].",
        )
        root, pickled = Path(results), None
        path = find_sweep(str(question), root)
        composed = compose_file(path, overrides, config_dir=_folder(config_dir))
    with job.open_job(composed, root, quiet=quiet, shrink=shrink, pickled=pickled) as opened:
        for answer in job.gate(opened):
            for warning in answer["warnings"] if answer["verdict"] == "inconclusive" else ():
                say(f"The coordinate check cannot tell: {warning}", quiet=False)
        driver.sweep(opened)
        return Results(opened.folder)


def _function_content(
    function: Callable[[Trial], Any],
    name: str,
    seeds: int | Sequence[int],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the sections of a function's sweep, as they would stand in a file."""
    target = {} if given["target_width"] is None else {"width": given["target_width"]}
    return {
        "name": name,
        "train": {
            "function": ":".join(_name_of(function)),
            "version": given["version"],
        },
        "sweep": {
            "widths": given["widths"],
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            "target": target,
        },
        "search": dict(given["search"] or {}),
        "fixed": dict(given["fixed"] or {}),
    }


def _name_of(function: Callable[[Trial], Any]) -> tuple[str, str]:
    """Return the module and the name of a function; `__main__` where it has no module."""
    name = getattr(function, "__qualname__", f"<{type(function).__name__}>")
    return getattr(function, "__module__", None) or "__main__", name


def _pickled(function: Callable[[Trial], Any]) -> bytes | None:
    """Return a function pickled by value; None where another process can import it by its name."""
    module, name = _name_of(function)
    if module != "__main__" and "<" not in name:
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is function or not hasattr(function, "__self__"):
            return None  # a decorated function is found by its name too, but no bound method
    import cloudpickle

    return cloudpickle.dumps(function)


def coordinate_check(
    *overrides: str, config_dir: str | Path | None = None, axis: str = "width"
) -> dict[str, Any]:
    """Check whether a model's parametrization is µP (arXiv 2203.03466, Appendix D.1).

    Args:
        overrides: of the model and the check, e.g. `model=dit`, `sweep.widths=[16,32,64]`; the
            widths are 1, 2 and 4 times the base width unless given.
        config_dir: a folder of further config groups.
        axis: `width`, or `depth` for models of the base width with 1, 2 and 4 times the base depth
            (`sweep.vary.depth` names others).

    Returns:
        The object of `hptransfer check --json`: the `verdict` (`pass`, `fail` or
        `inconclusive`), the suspected `causes`, and by module the slopes of log2 RMS over log2
        width (or depth), in octaves per doubling.

    Example:
        >>> answer = hptransfer.coordinate_check(
        ...     "model.depth=1", "model.base_width=16", "model.width=16", "model.head_dim=8"
        ... )
        >>> answer["verdict"], answer["widths"]
        ('pass', [16, 32, 64])
    """
    composed, asked = composed_check(overrides, _folder(config_dir))
    return checked(composed, asked, axis)


def checked(composed: Composed, asked: SweepConfig, axis: str) -> dict[str, Any]:
    """Return the coordinate check of a composed config over an axis."""
    from hptransfer.sweeping.run.job import central_log2_lr

    require(axis in ("width", "depth"), f"`axis` must be width or depth, but got {axis!r}.")
    log2_lr = central_log2_lr(asked)
    if axis == "depth":
        from hptransfer.training.packs.depth_check import depth_check

        return depth_check(asked.base, checked_depths(asked), log2_lr, composed.runtime)
    from hptransfer.training.packs.coordinate_check import coordinate_check as over_width

    return over_width(asked.base, asked.widths, log2_lr, composed.runtime)


def checked_depths(asked: SweepConfig) -> tuple[int, ...]:
    """Return the depths of a check: those that the sweep varies, or 1, 2 and 4 base depths."""
    model = asked.base.model
    base_depth = getattr(model, "base_depth", None) or getattr(model, "depth", 1)
    return tuple(sorted(asked.vary.depth)) or (base_depth, 2 * base_depth, 4 * base_depth)


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
