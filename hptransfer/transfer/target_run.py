"""Training of one config as a target, and samples of it, in the run directory of its trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hptransfer.config import CustomConfig
from hptransfer.config.choices import Status
from hptransfer.config.compose.compose import (
    Composed,
    checked_name,
    compose_file,
    resolved_yaml,
    with_trial,
)
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, UserError
from hptransfer.results.curves import write_curve
from hptransfer.results.folder import ResultsFolder, RunFolder
from hptransfer.results.ledger_rows import ledger_row, read_ledger_rows
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.provenance import provenance
from hptransfer.results.sweep_file import read_facts
from hptransfer.results.trial_result import TrialResult
from hptransfer.system.files import opening, require_links_inside, write_text
from hptransfer.system.folder_lock import FolderLock
from hptransfer.system.safe_yaml import read_mapping

if TYPE_CHECKING:
    from hptransfer.training.sampling.samplers import SamplerConfig
    from hptransfer.training.target.parallel import ProcessGroup
    from hptransfer.training.target.record import LogEntry
    from hptransfer.training.target.run import RunListeners


def ignore(_message: object) -> None:
    """Do nothing with a message: the default of every callback here."""


def train(
    path: Path,
    overrides: Sequence[str],
    *,
    config_dir: Path | None,
    root: Path,
    announce: Callable[[str], None] = ignore,
    tell: Callable[[str], None] = ignore,
    show: Callable[[LogEntry], None] = ignore,
) -> dict[str, Any] | None:
    """Train one config in its run directory, record its row, and return its outcome as a dict.

    A run that was interrupted continues from its last sound checkpoint. If weights and row exist,
    nothing is trained. If only the row exists, the run is trained again for its weights, and the
    row is kept. Of several processes only the first returns the answer, the others None.

    Args:
        path: a config file, such as `target.yaml`.
        root: the folder that gets a results folder for a config that lies outside of one.
        announce: called with a sentence on where the run's files are, before it begins.
        tell: called with sentences for people.
        show: called with every entry of the run's log.
    """
    from hptransfer.training.batches import load_dataset, what_a_model_sees
    from hptransfer.training.target.parallel import ProcessGroup

    composed, folder, axes = trained_at(path, overrides, config_dir=config_dir, root=root)
    group = ProcessGroup.of(composed.trainer, composed.runtime)
    try:
        key = trial_key(composed.trial)
        known = _known(folder, key) if group.is_first else None
        if group.any(known is not None and _needs_nothing(known, folder.run(key))):
            return None if known is None else _answer(known, folder.run(key), recorded_before=True)
        # Refuses broken data before a run exists.
        load_dataset(composed.trial, composed.runtime, announce if group.is_first else None)
        if group.is_first:
            line, warning = what_a_model_sees(composed.trial, composed.runtime)
            if line is not None:
                announce(line)
            if warning is not None:
                tell(warning)
        with _writing(folder.run(key), group):
            if group.is_first:
                custom = isinstance(composed.trial.model, CustomConfig)
                compiles = composed.runtime.compiles(custom=custom)
                slow = (
                    "; its blocks are compiled first, which can take some minutes"
                    if compiles
                    else ""
                )
                announce(f"run      {folder.run(key).path}{slow}")
            result = _run(composed, folder.run(key), group, tell, show)
        if not group.is_first:
            return None
        fresh = ledger_row(result, hps(composed.trial, axes), provenance())
        before = _recorded(folder, result, fresh)
        return _answer(fresh, folder.run(key), recorded_before=before)
    finally:
        group.close()


def _known(folder: ResultsFolder, key: str) -> dict[str, Any] | None:
    return next((row for row in read_ledger_rows(folder.target) if row["trial_key"] == key), None)


def _needs_nothing(known: dict[str, Any], run: RunFolder) -> bool:
    return known["status"] != Status.completed.value or run.weights_file.is_file()


@contextmanager
def _writing(run: RunFolder, group: ProcessGroup) -> Iterator[None]:
    """Hold the lock of a run directory, so that one run at a time writes it."""
    if not group.is_first:
        yield
        return
    with opening(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(run.path).take()
    try:
        yield
    finally:
        lock.release()


def _run(
    composed: Composed,
    run: RunFolder,
    group: ProcessGroup,
    tell: Callable[[str], None],
    show: Callable[[LogEntry], None],
) -> TrialResult:
    """Train from the last checkpoint in the run directory, or from the start, to the end."""
    from hptransfer.training.batches import load_dataset
    from hptransfer.training.target.engine import micro_batch
    from hptransfer.training.target.parallel import explain_out_of_memory, is_lost_process
    from hptransfer.training.target.run import TrainingRun

    micro = micro_batch(composed.trial, composed.trainer, group)
    with (
        _watchers(composed, run, tell, show) as watchers,
        explain_out_of_memory(composed.trainer, micro),
    ):
        try:
            training = TrainingRun(
                composed.trial,
                composed.runtime,
                composed.trainer,
                load_dataset(composed.trial, composed.runtime),
                group,
                run,
                watchers,
            )
            if group.is_first:
                alone = with_trial(composed, composed.trial)
                write_text(run.config_file, resolved_yaml(alone, name=checked_name(composed.name)))
            training.train()
            return training.finish()
        except MachineError:  # is a RuntimeError too, and says more
            raise
        except RuntimeError as error:
            if is_lost_process(error):
                raise MachineError(
                    f"Process {group.rank} of the run lost another one, which was killed or "
                    "prints its own error. Type the same command again: the run goes on at its "
                    "last checkpoint."
                ) from error
            raise


@contextmanager
def _watchers(
    composed: Composed,
    run: RunFolder,
    tell: Callable[[str], None],
    show: Callable[[LogEntry], None],
) -> Iterator[RunListeners]:
    """Return the callbacks of a run: the caller's, TensorBoard's and the one that draws samples."""
    from hptransfer.sweeping.trackers.tensorboard import RunBoard
    from hptransfer.training.sampling.generate import lay_out_samples, write_samples_png
    from hptransfer.training.target.run import RunListeners

    board = RunBoard(run.path) if "tensorboard" in composed.executor.trackers else None

    def log(entry: LogEntry) -> None:
        show(entry)
        if board is not None:
            scalars = asdict(entry)
            board.write(scalars.pop("step"), scalars)

    def samples(step: int, drawn: np.ndarray) -> None:
        write_samples_png(run.samples_file(step), lay_out_samples(drawn))

    try:
        yield RunListeners(tell, log, samples)
    finally:
        if board is not None:
            board.close()


def _recorded(folder: ResultsFolder, result: TrialResult, fresh: dict[str, Any]) -> bool:
    """Record a row with its curves if its trial has none; return whether it had one."""
    key = fresh["trial_key"]
    with LedgerWriter(folder.target) as writer:
        if key in writer.keys:
            return True
        write_curve(folder.target, key, result.curve, result.held_out)
        writer.append([fresh])
    return False


def trained_at(
    path: Path, overrides: Sequence[str], *, config_dir: Path | None, root: Path
) -> tuple[Composed, ResultsFolder, tuple[str, ...]]:
    """Return a trainable config, its results folder and the searched axes its rows name.

    The folder is the file's own, or `root`/<name> for a file that lies elsewhere.
    """
    if "imported" in read_mapping(path):
        raise UserError(
            f"hptransfer can train only its own models, but {path} holds values for the model of "
            "another program. Use them there, or transfer to one of our models with model=."
        )
    composed = compose_file(path, list(overrides), config_dir=config_dir)
    if composed.sweep is not None and composed.sweep.search:
        raise UserError(
            f"A trained config must be of one trial, but {path} is a sweep (it has `search` "
            f"axes). Run `hptransfer sweep {path}`, or train the target.yaml that `hptransfer "
            "transfer` writes."
        )
    own = ResultsFolder(path.parent)
    if own.sweep_file.is_file():
        require_links_inside(own.path)
        return composed, own, read_facts(own).axes
    folder = ResultsFolder(root / checked_name(composed.name))
    require_links_inside(folder.path)
    return composed, folder, ("log2_lr",)


def _answer(row: dict[str, Any], run: RunFolder, *, recorded_before: bool) -> dict[str, Any]:
    return {
        "trial_key": row["trial_key"],
        "status": row["status"],
        "loss": row["loss"],
        "diverged_at_step": row["diverged_at_step"],
        "seconds": round(row["cost"]["seconds"], 2),
        "recorded_before": recorded_before,
        "run": str(run.path) if run.path.is_dir() else None,
        "weights": str(run.weights_file) if run.weights_file.is_file() else None,
    }


def draw(
    path: Path,
    overrides: Sequence[str],
    *,
    config_dir: Path | None,
    root: Path,
    weights: Path | None,
    sampler: SamplerConfig,
    columns: int,
    seed: int,
) -> Path:
    """Draw samples of a trained config; return the picture, or the array where data is latent.

    The file is named after the weights and how they were sampled.
    """
    from hptransfer.training.sampling.generate import generate, lay_out_samples, write_samples_png

    if columns < 1:
        raise UserError(f"--columns must be positive, but got {columns}.")
    composed, folder, _ = trained_at(path, overrides, config_dir=config_dir, root=root)
    key = trial_key(composed.trial)
    kept = folder.weights_file(key) if weights is None else weights
    if weights is None and not kept.is_file():
        raise UserError(
            f"Samples need trained weights, but there are none at {kept}. Run `hptransfer train "
            f"{path}` first, with the same overrides, or name a file with --weights."
        )
    drawn = generate(composed.trial, kept, sampler, composed.runtime, columns=columns, seed=seed)
    how = f"steps{sampler.steps}-guidance{sampler.guidance:g}-seed{seed}"
    name = key if weights is None else kept.stem
    picture = folder.target / "samples" / f"{name}-{how}.png"
    if composed.trial.data.layout.channels in (1, 3):
        write_samples_png(picture, lay_out_samples(drawn))
        return picture
    picture.parent.mkdir(parents=True, exist_ok=True)
    np.save(picture.with_suffix(".npy"), drawn)  # latents: an autoencoder makes images of them
    return picture.with_suffix(".npy")
