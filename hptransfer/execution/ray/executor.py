"""The Ray Tune executor: what is to be run, what came of it, and what was lost on the way.

Tune runs in a thread of its own and this thread waits for its events: so callbacks and signal
handlers run here, and their exceptions end the sweep. Who retries is decided here too: Tune would
retry a worker that was lost while it trained, but not one that was lost while it started.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Sequence

from ray.exceptions import RayTaskError

from hptransfer.config import CheckpointConfig, ExecutorConfig, RuntimeConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError
from hptransfer.execution.ray.cluster import LOOK_SECONDS, Cluster, joined_cluster
from hptransfer.execution.ray.session import ray_session
from hptransfer.execution.ray.shared_storage import require_shared
from hptransfer.execution.ray.tune_thread import Channel, Ended, Event, Failed, Started, tune_thread
from hptransfer.execution.resources import resources_of
from hptransfer.execution.work import OnResults, Outcome, Pack, RunPack, Work, ignore_start


def run_packs(
    packs: Sequence[Pack],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    on_results: OnResults,
    on_start: Callable[[int], None] = ignore_start,
    run_pack: RunPack | None = None,
    checkpoints: CheckpointConfig | None = None,
) -> None:
    """Run the packs on Ray's workers; see `hptransfer.execution.run_packs`."""

    def work(index: int, configs: Pack) -> Work:
        return Work(index, tuple(configs), runtime, run_pack, checkpoints)

    request = resources_of(runtime, executor)
    channel = Channel()
    with (
        ray_session(executor) as folder,
        joined_cluster(executor, request, len(packs)) as cluster,
    ):
        if checkpoints is not None and executor.address != "local":
            require_shared(checkpoints.folder, request)
        with tune_thread(channel, cluster.places, request, folder):
            sweep = _Sweep(channel, cluster, work, executor.retries)
            sweep.add(packs)
            sweep.follow(on_results, on_start)


class _Sweep:
    """The packs that are still to be reported."""

    def __init__(
        self,
        channel: Channel,
        cluster: Cluster,
        work: Callable[[int, Pack], Work],
        retries: int,
    ) -> None:
        self._channel = channel
        self._cluster = cluster
        self._work = work
        self._attempts = retries + 1
        self._added = 0
        self._missing: dict[int, Work] = {}
        self._losses: Counter[int] = Counter()
        self._given_up: set[int] = set()
        self._last_loss: Exception | None = None

    def add(self, packs: Sequence[Pack]) -> None:
        """Hand out further packs."""
        for configs in packs:
            self._missing[self._added] = self._work(self._added, configs)
            self._hand_out(self._added)
            self._added += 1

    def follow(self, on_results: OnResults, on_start: Callable[[int], None]) -> None:
        """Report packs until none is missing; those that cannot be run are raised last."""
        while len(self._missing) > len(self._given_up):
            match self._next_event():
                case Started(index):
                    on_start(index)
                case Outcome(index, results, error):
                    if error is not None:
                        raise error
                    del self._missing[index]
                    self.add(on_results(index, results) or ())
                case Failed(_, RayTaskError() as error) | Ended(error):
                    raise RuntimeError(
                        f"Ray Tune ended with {len(self._missing)} packs to run."
                    ) from error
                case Failed(index, error):
                    self._lost(index, error)
        if self._missing:
            raise self._lost_for_good() from self._last_loss

    def _hand_out(self, index: int) -> None:
        self._channel.works.put((index, self._missing[index]))

    def _next_event(self) -> Event:
        while True:
            self._cluster.look(len(self._missing))
            try:
                return self._channel.events.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue

    def _lost(self, index: int, error: Exception) -> None:
        self._losses[index] += 1
        self._last_loss = error
        if self._losses[index] < self._attempts:
            self._hand_out(index)
        else:
            self._given_up.add(index)

    def _lost_for_good(self) -> MachineError:
        keys = [trial_key(config) for work in self._missing.values() for config in work.configs]
        reason = next(filter(None, map(str.strip, str(self._last_loss).splitlines())), "nothing")
        return MachineError(
            f"The workers of {len(self._missing)} packs were lost {self._attempts} times each "
            f"(killed, out of memory, or their node is gone); their trials are {', '.join(keys)}. "
            "Free memory or use a smaller runtime.pack_size, and run the same command again; "
            f"nothing recorded was lost. Ray says of the last: {reason}"
        )
