"""What both executors share: a pack, how one is run, and the error of a pack that raised."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, UserError
from hptransfer.results.trial_result import TrialResult

Pack = Sequence[TrialConfig]
RunPack = Callable[[Pack, RuntimeConfig], list[TrialResult]]
OnResults = Callable[[int, list[TrialResult]], Sequence[Pack] | None]


class PackError(RuntimeError):
    """A pack raised, which is a bug: an HP that makes training fail is a result, not an error."""

    def __init__(self, trial_keys: Sequence[str], traceback_text: str) -> None:
        super().__init__(
            f"The pack of trials {', '.join(trial_keys)} raised:\n{traceback_text.rstrip()}"
        )
        self.trial_keys = tuple(trial_keys)
        self.traceback_text = traceback_text

    def __reduce__(self) -> tuple[type[PackError], tuple[tuple[str, ...], str]]:
        return PackError, (self.trial_keys, self.traceback_text)


@dataclass(frozen=True)
class Work:
    """A pack on its way to a worker."""

    index: int
    configs: Pack
    runtime: RuntimeConfig
    run_pack: RunPack | None = None
    checkpoints: CheckpointConfig | None = None

    def __repr__(self) -> str:
        return f"pack {self.index}"  # Ray Tune makes names of it

    def run(self) -> Outcome:
        """Run the pack; what it raises comes back as data."""
        try:
            results = run_one(self)
        except (UserError, MachineError) as error:
            return Outcome(self.index, [], type(error)(str(error)))
        except Exception as error:
            return Outcome(self.index, [], pack_error(self.configs, error))
        return Outcome(self.index, results)


@dataclass(frozen=True)
class Outcome:
    """A pack on its way back: its results, or the error it raised."""

    index: int
    results: list[TrialResult]
    error: Exception | None = None


def run_one(work: Work) -> list[TrialResult]:
    """Run a pack here, with `hptransfer.training.packs.run.run_pack` unless told otherwise."""
    if work.run_pack is not None:
        results = work.run_pack(work.configs, work.runtime)
    else:
        # Imported here because it imports torch, which the driver of a Ray sweep does not need.
        from hptransfer.training.packs.run import run_pack

        results = run_pack(work.configs, work.runtime, checkpoints=work.checkpoints)
    if [result.config for result in results] != list(work.configs):
        raise RuntimeError("A pack must return one result per trial, in the order of its trials.")
    return results


def pack_error(configs: Pack, error: Exception) -> PackError:
    """Build the error of a pack that raised `error`, with its traceback as text."""
    text = "".join(traceback.format_exception(error))
    return PackError([trial_key(config) for config in configs], text)


def ignore_start(pack_index: int) -> None:
    """Do nothing when a pack starts."""
