"""The Ray Tune executor: packs run on Ray's workers, and lost packs are handed out again.

Tune runs in a thread of its own, and this thread waits for Tune's events. So callbacks and signal
handlers run in this thread, and their exceptions end the sweep. Lost packs are retried here and not
by Tune: Tune would retry a worker that was lost while it trained, but not one that was lost while
it started.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ray.exceptions import RayTaskError

from hptransfer.config import ExecutorConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.ray.cluster import (
    LOOK_SECONDS,
    RESULTS,
    Cluster,
    joined_cluster,
    require_shared,
)
from hptransfer.execution.ray.session import ray_session
from hptransfer.execution.ray.tune_thread import (
    Channel,
    LoopEnded,
    PackLost,
    PackStarted,
    TuneEvent,
    tune_thread,
)
from hptransfer.execution.work import (
    OnError,
    OnResults,
    PackError,
    PackOutcome,
    PackTask,
    PackTasks,
    RunOnHosts,
    pack_error,
)

# Seconds until a pack that was lost once is handed out again; twice as many after each further
# loss, so that a machine that is short of memory for a while does not use up all retries.
RETRY_SECONDS = 3.0


def run_on_workers(
    packs: Sequence[Trials],
    tasks: PackTasks,
    executor: ExecutorConfig,
    on_results: OnResults,
    on_start: Callable[[int], None],
    on_error: OnError,
) -> None:
    """Run the packs on Ray's workers; see `hptransfer.execution.run_packs`."""
    waiting = tasks.after_all(packs)
    requests = [task.request for task in waiting]
    channel = Channel()
    with (
        ray_session(executor) as folder,
        joined_cluster(executor, requests) as cluster,
    ):
        if executor.address != "local":
            if tasks.checkpoints is not None:
                require_shared(tasks.checkpoints.folder, requests)
            if isinstance(tasks.run_pack, RunOnHosts):
                require_shared(tasks.run_pack.folder, requests, RESULTS)
        with tune_thread(channel, cluster.nodes, executor.workers, folder) as start_tune:
            start_tune()
            unfinished = _UnfinishedPacks(channel, cluster, tasks, executor.retries)
            unfinished.add(waiting)
            unfinished.follow(on_results, on_start, on_error, start_tune)


class _UnfinishedPacks:
    """The packs that are neither recorded nor failed, and how often each was lost."""

    def __init__(self, channel: Channel, cluster: Cluster, tasks: PackTasks, retries: int) -> None:
        self._channel = channel
        self._cluster = cluster
        self._tasks = tasks
        self._attempts = retries + 1  # of one pack
        self._missing: dict[int, PackTask] = {}
        self._running: set[int] = set()
        self._losses: Counter[int] = Counter()
        self._due: dict[int, float] = {}  # when a lost pack is handed out again
        self._given_up: set[int] = set()
        self._last_loss: BaseException | None = None

    def add(self, tasks: Sequence[PackTask]) -> None:
        """Hand out further packs."""
        for task in tasks:
            self._missing[task.index] = task
            self._channel.tasks.put(task)

    def follow(
        self,
        on_results: OnResults,
        on_start: Callable[[int], None],
        on_error: OnError,
        start_tune: Callable[[], None],
    ) -> None:
        """Report packs until none is missing.

        Raises:
            MachineError: at the end, if packs were lost more often than they are retried.
        """
        while len(self._missing) > len(self._given_up):
            match self._next_event():
                case PackStarted(index):
                    self._running.add(index)
                    on_start(index)
                case PackOutcome(index, _, PackError() as error):
                    self._replace(index, on_error(index, error))
                case PackOutcome(_, _, Exception() as error):
                    raise error
                case PackOutcome(index, results):
                    self._done(index)
                    further = self._tasks.after_all(on_results(index, results) or ())
                    self._cluster.wait_for_places(task.request for task in further)
                    self.add(further)
                case PackLost(index, RayTaskError() as error):  # the worker raised beside the pack
                    raised = pack_error(self._missing[index].configs, error)
                    self._replace(index, on_error(index, raised))
                case PackLost(index, error):
                    self._count_loss(index, error)
                case LoopEnded(error):
                    self._restart(error, start_tune)
        if self._missing:
            raise self._lost_for_good() from self._last_loss

    def _next_event(self) -> TuneEvent:
        while True:
            self._cluster.look(task.request for task in self._missing.values())
            now = time.monotonic()
            for index in [index for index, due in self._due.items() if due <= now]:
                del self._due[index]
                self._channel.tasks.put(self._missing[index])
            wait = min([LOOK_SECONDS, *(due - now for due in self._due.values())])
            try:
                return self._channel.events.get(timeout=wait)
            except queue.Empty:
                continue

    def _done(self, index: int) -> PackTask:
        self._running.discard(index)
        return self._missing.pop(index)

    def _replace(self, index: int, parts: Sequence[Trials] | None) -> None:
        self.add(self._tasks.in_place_of(self._done(index), parts or ()))

    def _count_loss(self, index: int, error: BaseException | None) -> None:
        self._running.discard(index)
        self._losses[index] += 1
        self._last_loss = error
        if self._losses[index] >= self._attempts:
            self._given_up.add(index)
        else:
            self._due[index] = time.monotonic() + RETRY_SECONDS * 2 ** (self._losses[index] - 1)

    def _restart(self, error: BaseException | None, start_tune: Callable[[], None]) -> None:
        """Start Tune again after its loop ended, which ends the workers too.

        Tune knows only some of the ways in which a worker is lost. Ray's memory monitor ends one
        with an `OutOfMemoryError`, which is no `RayActorError`, and Tune then ends its own loop.
        """
        for index in [*(self._running or self._missing.keys() - self._given_up)]:
            self._count_loss(index, error)
        self._channel.tasks.clear()
        for index in self._missing.keys() - self._given_up - self._due.keys():
            self._channel.tasks.put(self._missing[index])
        if len(self._missing) > len(self._given_up):
            start_tune()

    def _lost_for_good(self) -> MachineError:
        keys = [trial_key(config) for task in self._missing.values() for config in task.configs]
        reason = next(filter(None, map(str.strip, str(self._last_loss).splitlines())), "nothing")
        return MachineError(
            f"The workers of {len(self._missing)} packs were lost {self._attempts} times each "
            "(killed, out of memory, or their node is gone). Free memory or use a smaller "
            "runtime.pack_size, and run the same command again; no finished trial is lost. The "
            f"trials are {', '.join(keys)}. Ray says of the last loss: {reason}"
        )
