"""The job of one `sweep` command: its folder and lock, its coordinate checks, and its intention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.config import DigitsConfig, FolderConfig
from hptransfer.config.choices import TRANSFERRING, Scaling, arm_name
from hptransfer.config.compose.compose import Composed, compose_file, resolved_yaml, sweep_config
from hptransfer.config.hyperparameters import HYPERPARAMETERS, with_hyperparameters
from hptransfer.config.identity import with_scaling, with_width
from hptransfer.config.sweep import ExternalSweep, SweepConfig
from hptransfer.errors import UserError
from hptransfer.execution import require_executor
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.ledger_rows import iterate_ledger_rows, read_ledger_rows
from hptransfer.sweeping.design.trials import (
    check_same_question,
    check_target,
    left_out,
    overrides_to_keep,
    wanted,
)
from hptransfer.system.files import require_links_inside, write_text
from hptransfer.system.folder_lock import FolderLock
from hptransfer.system.safe_yaml import read_mapping
from hptransfer.system.text import factor_text, say
from hptransfer.training.external.run import ExternalRun, require_trainer


class CheckFailed(Exception):
    """The coordinate check failed, so no compute is spent on the arm; exit code 1."""

    exit_code = 1


@dataclass(frozen=True)
class Job:
    """A sweep with its results folder, whose lock it holds while it is open."""

    composed: Composed
    sweep: SweepConfig
    folder: ResultsFolder
    quiet: bool = False  # whether only warnings are printed
    lock: FolderLock | None = None  # None: whoever writes the folder takes its lock
    pickled: bytes | None = None  # the function of `hptransfer.sweep(function, ...)`
    working_folder: Path = field(default_factory=Path.cwd)  # in which trials of a trainer start

    def runner(self, folder: Path) -> ExternalRun | None:
        """What runs the trials of a ledger's folder; None: they are of our own models."""
        if not isinstance(self.sweep, ExternalSweep):
            return None
        executor = self.composed.executor
        return ExternalRun(
            folder=str(folder.absolute()),
            working_folder=str(self.working_folder),
            # A lost job is submitted again, so that SLURM can say meanwhile what ended it.
            retries=0 if executor.name == "slurm" else executor.retries,
            pickled=self.pickled,
        )


@contextmanager
def open_job(
    composed: Composed,
    root: Path,
    *,
    quiet: bool,
    shrink: bool = False,
    pickled: bytes | None = None,
) -> Iterator[Job]:
    """Hold a sweep's folder for a `with` block, with the sweep written into it.

    Everything that a refused command could change is read and written under the folder's lock.

    Args:
        shrink: whether the sweep may leave out recorded trials that the folder asked for before.
        pickled: the function that trains, where no other process could import it.

    Raises:
        UserError: another command writes the folder, the folder holds another question, the sweep
            leaves recorded trials out, it has no trials, or its data are not there.
    """
    sweep = sweep_config(composed)
    folder = ResultsFolder(root / sweep.name)
    require_links_inside(folder.path)
    check_question(sweep, folder)
    if told := _preparing(sweep, composed):
        say(told, quiet=quiet)
    if pickled is None:
        _require_data(sweep, composed, quiet=quiet)
    with FolderLock(folder.path) as lock:
        check_question(sweep, folder)  # again: another command may have written one meanwhile
        _check_shrinking(sweep, folder, allowed=shrink, quiet=quiet)
        write_text(folder.sweep_file, resolved_yaml(composed, name=sweep.name))
        yield Job(composed, sweep, folder, quiet, lock, pickled)


def runs_trials(composed: Composed, root: Path) -> bool:
    """Whether a sweep will run trials at once, as far as can be said without torch.

    Of an adaptive design it is said where no trial is recorded.

    Raises:
        UserError: no trial can answer the sweep's question, or its folder holds another one.
    """
    sweep = sweep_config(composed)
    folder = ResultsFolder(root / sweep.name)
    require_links_inside(folder.path)
    check_question(sweep, folder)
    ours = not isinstance(sweep, ExternalSweep)
    if ours and not isinstance(sweep.base.data, DigitsConfig):
        data = composed.runtime.data_folder
        if data is None or not Path(data).is_dir():
            return False  # it will be refused
    done = {row["trial_key"] for row in iterate_ledger_rows(folder.path)}
    return not done if sweep.is_adaptive else not done.issuperset(wanted(sweep))


def _preparing(sweep: SweepConfig, composed: Composed) -> str:
    """Return a line on what happens before the first trial is trained; empty: nothing slow."""
    if isinstance(sweep, ExternalSweep):
        return ""
    parts = ["reading all of the data"] if isinstance(sweep.base.data, FolderConfig) else []
    parts += ["checking the parametrization"] if _is_gated(sweep) else []
    if composed.runtime.pack_size is None:
        parts.append("measuring how many trials train best together")
    if not parts:
        return ""
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return (
        f"preparing {sweep.name}: {listed}. The first time this may take a minute or more; "
        "what is known already is not done again."
    )


def check_question(sweep: SweepConfig, folder: ResultsFolder) -> None:
    """Refuse a sweep that no trial can answer, or whose folder holds another question."""
    _require_trials(sweep)
    if sweep.target is not None:
        check_target(sweep, sweep.target)
    if folder.sweep_file.is_file():
        if "imported" in read_mapping(folder.sweep_file):
            raise UserError(
                f"A sweep needs a results folder of its own, but {folder.path} holds rows that "
                "were imported from another program. Set name= to another name."
            )
        check_same_question(recorded_sweep(folder), sweep, folder.path)


def _check_shrinking(
    sweep: SweepConfig, folder: ResultsFolder, *, allowed: bool, quiet: bool
) -> None:
    """Refuse or say that a sweep asks for less than its folder asked for before."""
    if not folder.sweep_file.is_file():
        return
    recorded = recorded_sweep(folder)
    to_keep = " ".join(overrides_to_keep(recorded, sweep))
    if not to_keep:
        return
    rows = {row["trial_key"]: row for row in read_ledger_rows(folder.path)}
    gone = [rows[key] for key in left_out(recorded, sweep, rows)]
    widths = ", ".join(map(str, sorted({row["width"] for row in gone})))
    if gone and not allowed:
        raise UserError(
            f"A sweep must go on asking for all its finished trials, but {folder.path} holds "
            f"{len(gone)} that this command does not ask for (widths {widths}), so no fit would "
            f"use them. Add {to_keep} to keep them in use, or --shrink to go on without them; "
            "their rows stay on disk."
        )
    unused = (
        "None of those trials was finished, so nothing is lost."
        if not gone
        else "Its finished trial that this command does not ask for is not used from here on."
        if len(gone) == 1
        else f"Its {len(gone)} finished trials that this command does not ask for are not used "
        "from here on."
    )
    say(
        f"{folder.path} asked for more trials before; with {to_keep} this command would ask for "
        f"them, too. {unused}",
        quiet=quiet,
    )


def _require_trials(sweep: SweepConfig) -> None:
    """Refuse widths and axes without trials, by building those at the ends of every axis."""
    for width in sweep.widths:
        proxy = with_width(sweep.base, width)
        for name, axis in sweep.search:
            for end in (axis.low, axis.high):
                with_hyperparameters(proxy, {f"log2_{name}": end})


def recorded_sweep(folder: ResultsFolder) -> SweepConfig:
    """Return the sweep as it was run."""
    return sweep_config(compose_file(folder.sweep_file, []))


def _require_data(sweep: SweepConfig, composed: Composed, *, quiet: bool) -> None:
    """Refuse a sweep whose data, device, trainer or executor is not there.

    Of latents it says which mean and standard deviation a model sees.
    """
    require_executor(composed.executor)
    if isinstance(sweep, ExternalSweep):
        trial = sweep.base.with_hps(dict.fromkeys(sweep.axes, 0.0))
        require_trainer(trial, str(Path.cwd()), here=composed.executor.is_here)
        return
    from hptransfer.training.batches import load_dataset, what_a_model_sees
    from hptransfer.training.device import require_device_fits, torch_device

    if composed.executor.is_here:
        torch_device(composed.runtime)
    runtime = composed.runtime
    require_device_fits(sweep.base, runtime, captured=runtime.captured)
    load_dataset(sweep.base, composed.runtime, lambda line: say(line, quiet=quiet))
    line, warning = what_a_model_sees(sweep.base, composed.runtime)
    if line is not None:
        say(line, quiet=quiet)
    if warning is not None:
        say(warning, quiet=False)
    if sweep.base.quality.samples and composed.executor.is_here:
        from hptransfer.training.sampling.reference import load_real_samples

        device = torch_device(composed.runtime)
        folder = composed.runtime.data_folder
        load_real_samples(sweep.base, folder, device, lambda line: say(line, quiet=quiet))


def check(job: Job) -> list[dict[str, Any]]:
    """Return the coordinate checks of all arms at the sweep's widths and central learning rate.

    Checks are kept in check.json, and made again where widths, rate or seed have changed.
    """
    asked = {"widths": list(job.sweep.widths), "asked_log2_lr": central_log2_lr(job.sweep)}
    arms = [scaling.value for scaling in job.sweep.parametrizations]
    recorded = read_json(job.folder.check_file, "checks")
    kept = recorded["checks"] if recorded else []
    known = {
        c["parametrization"]: c
        for c in kept
        if asked.items() <= c.items() and c.get("seeds", [0])[0] == job.sweep.base.seed
    }
    missing = [arm for arm in arms if arm not in known]
    if missing:
        from hptransfer.training.packs.coordinate_check import coordinate_check

        for arm in missing:
            base = with_scaling(job.sweep.base, Scaling(arm))
            known[arm] = coordinate_check(
                base, asked["widths"], asked["asked_log2_lr"], job.composed.runtime
            )
        write_json(job.folder.check_file, {"checks": list(known.values())})
    return [known[arm] for arm in arms]


def central_log2_lr(sweep: SweepConfig) -> float:
    """Return the middle of the learning-rate axis, or the base trial's rate where it is fixed."""
    axes = dict(sweep.search)
    if "lr" in axes:
        return (axes["lr"].low + axes["lr"].high) / 2
    return HYPERPARAMETERS["lr"].log2(sweep.base)


def gate(job: Job) -> list[dict[str, Any]]:
    """Return the checks of all arms; none where `sweep.gate` is false or there is one width.

    Raises:
        CheckFailed: an arm under which a width must transfer (`mup` or `complete`) failed.
    """
    if not _is_gated(job.sweep):
        return []
    checks = check(job)
    for answer in checks:
        must_pass = Scaling(answer["parametrization"]) in TRANSFERRING
        if must_pass and answer["verdict"] == "fail":
            raise CheckFailed(failure_sentence(answer))
    return checks


def _is_gated(sweep: SweepConfig) -> bool:
    """Say whether coordinate checks come before the sweep."""
    return len(sweep.widths) > 1 and sweep.gate


def failure_sentence(answer: dict[str, Any]) -> str:
    """Return why a coordinate check failed, and what to do."""
    worst = answer["worst"]
    causes = answer.get("causes", ())  # which checks of earlier versions do not have
    told = " ".join(cause["sentence"] for cause in causes)
    changes = (
        f"the size of {worst['module']} ({worst['quantity']}, step {worst['step']}) is multiplied "
        f"by {factor_text(worst['slope'])} per doubling of the width, and under µP it must stay "
        f"between {factor_text(-answer['limit'])} and {factor_text(answer['limit'])}."
    )
    if any(cause["certain"] for cause in causes):
        reason = told
    else:
        reason = " ".join(answer["warnings"]) or f"{changes} {told}".strip()
    return (
        f"The coordinate check of {arm_name(answer['parametrization'])} failed: {reason} The "
        "sweep would not test µP, so it was not started. Correct the model or its "
        "parametrization, or set sweep.gate=false to sweep all the same."
    )


def intention(job: Job) -> str:
    """Return a line on how many trials are recorded and how many will run."""
    done = {row["trial_key"] for row in iterate_ledger_rows(job.folder.path)}
    if job.sweep.is_adaptive:
        return (
            f"{job.sweep.name}: {len(done)} trials are finished; further ones are chosen in rounds"
        )
    keys = set(wanted(job.sweep))
    missing, present = len(keys - done), len(keys & done)
    if not present:
        return f"{job.sweep.name}: {missing} trials to run"
    if not missing:
        return f"{job.sweep.name}: all {present} trials are finished"
    return f"{job.sweep.name}: {present} of {len(keys)} trials are finished; {missing} more to run"
