"""Definitions that both executors share: a pack to run, its outcome, and the error it raised."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable

from hptransfer.config import CheckpointConfig, RuntimeConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, TrialFailure, UserError
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.resources import Resources
from hptransfer.results.trial_result import TrialResult

RunPack = Callable[[Trials, RuntimeConfig], list[TrialResult]]
OnResults = Callable[[int, list[TrialResult]], Sequence[Trials] | None]


@runtime_checkable
class RunOnHosts(Protocol):
    """What runs packs of a trainer of the user's own, which may take several nodes."""

    @property
    def folder(self) -> str:
        """The results folder, into which trials write."""
        ...

    def on_hosts(self, hosts: Sequence[str]) -> RunPack:
        """Return what runs a pack on the nodes with these addresses; the first is its own."""
        ...


class PackError(RuntimeError):
    """A pack raised, which is a bug: an HP that makes training fail is a result, not an error.

    Args:
        reason: kind and first line of what was raised.
        frame: the last frame of its traceback, as `file:line in function`; empty if unknown.
        traceback_text: the whole traceback.
        is_lost: whether the machine ended it, so that another attempt may end otherwise.
    """

    def __init__(
        self,
        trial_keys: Sequence[str],
        reason: str,
        frame: str,
        traceback_text: str,
        is_lost: bool = False,
    ) -> None:
        super().__init__(
            f"Training the trials {', '.join(trial_keys)} together "
            f"raised:\n{traceback_text.rstrip()}"
        )
        self.trial_keys = tuple(trial_keys)
        self.reason = reason
        self.frame = frame
        self.traceback_text = traceback_text
        self.is_lost = is_lost

    def __reduce__(self) -> tuple[type[PackError], tuple[tuple[str, ...], str, str, str, bool]]:
        parts = (self.trial_keys, self.reason, self.frame, self.traceback_text, self.is_lost)
        return PackError, parts


OnError = Callable[[int, PackError], Sequence[Trials] | None]


ONE_CPU = Resources(cpus=1.0, gpus=0.0)


@dataclass(frozen=True)
class PackTask:
    """A pack on its way to a worker."""

    index: int  # of the pack, in the order in which packs are handed to the executor
    # Packs run in ascending order: pack 3 has the order (3,), and where it is replaced by smaller
    # packs, those have (3, 0), (3, 1) and so on.
    order: tuple[int, ...]
    configs: Trials
    runtime: RuntimeConfig
    run_pack: RunPack | None = None  # None: `hptransfer.training.packs.run.run_pack`
    checkpoints: CheckpointConfig | None = None  # None: a pack leaves none
    request: Resources = ONE_CPU  # of its worker

    def __repr__(self) -> str:
        return f"pack {self.index}"  # Ray Tune makes names of it

    def __lt__(self, other: PackTask) -> bool:
        return self.order < other.order

    def on_hosts(self, hosts: Sequence[str]) -> PackTask:
        """Return the task with the addresses of its nodes, which a trainer of the user's is told.

        The first is that of the node on which the task runs.
        """
        if not isinstance(self.run_pack, RunOnHosts):
            return self
        return dataclasses.replace(self, run_pack=self.run_pack.on_hosts(hosts))

    def run(self) -> PackOutcome:
        """Run the pack; an exception comes back as data."""
        try:
            return PackOutcome(self.index, self._results())
        except (UserError, MachineError) as error:
            return PackOutcome(self.index, [], type(error)(str(error)))
        except Exception as error:
            return PackOutcome(self.index, [], pack_error(self.configs, error))

    def _results(self) -> list[TrialResult]:
        if self.run_pack is not None:
            results = self.run_pack(self.configs, self.runtime)
        else:
            # Imported here because it imports torch, which the driver of a Ray sweep does not need.
            from hptransfer.training.packs.run import run_pack

            results = run_pack(self.configs, self.runtime, checkpoints=self.checkpoints)
        if [result.config for result in results] != list(self.configs):
            raise RuntimeError(
                "A pack must return one result per trial, in the order of its trials."
            )
        return results


@dataclass(frozen=True)
class PackOutcome:
    """A pack on its way back: its results, or the error it raised."""

    index: int
    results: list[TrialResult]
    error: Exception | None = None


class PackTasks:
    """The tasks of a sweep's packs, numbered as the packs are handed over."""

    def __init__(
        self,
        runtime: RuntimeConfig,
        run_pack: RunPack | None,
        checkpoints: CheckpointConfig | None,
        request_of: Callable[[Trials], Resources] = lambda _: ONE_CPU,
    ) -> None:
        self.runtime = runtime
        self.checkpoints = checkpoints
        self.run_pack = run_pack
        self._request_of = request_of
        self._made = 0

    def after_all(self, packs: Sequence[Trials]) -> list[PackTask]:
        """Return tasks that run after all earlier ones."""
        return [self._task((self._made,), configs) for configs in packs]

    def in_place_of(self, task: PackTask, parts: Sequence[Trials]) -> list[PackTask]:
        """Return tasks that run next, where `task` stood."""
        return [self._task((*task.order, n), configs) for n, configs in enumerate(parts)]

    def _task(self, order: tuple[int, ...], configs: Trials) -> PackTask:
        self._made += 1
        return PackTask(
            self._made - 1,
            order,
            tuple(configs),
            self.runtime,
            self.run_pack,
            self.checkpoints,
            self._request_of(configs),
        )


def pack_error(configs: Trials, error: BaseException) -> PackError:
    """Build the error of a pack that raised `error`."""
    if isinstance(error, TrialFailure):
        keys = [trial_key(config) for config in configs]
        return PackError(keys, error.reason, error.frame, error.text, error.is_lost)
    frames = traceback.extract_tb(error.__traceback__)
    reason, _, _ = f"{type(error).__name__}: {error}".partition("\n")
    frame = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    text = "".join(traceback.format_exception(error))
    return PackError([trial_key(config) for config in configs], reason, frame, text)


def raise_error(pack_index: int, error: PackError) -> NoReturn:
    """Raise the error of a pack that raised."""
    raise error


def ignore_start(pack_index: int) -> None:
    """Do nothing when a pack starts."""


def ignore_note(text: str) -> None:
    """Do nothing with a sentence."""
