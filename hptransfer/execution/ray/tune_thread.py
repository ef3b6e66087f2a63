"""The thread in which Ray Tune runs: one Tune trial is one attempt at a pack, taken from one queue.

Tune runs in a thread of its own, so that its signal handlers (which turn Ctrl-C into a clean exit)
are never installed. The driver's thread and Tune's share two queues and nothing else.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import placement_group_table

from hptransfer.errors import MachineError
from hptransfer.execution.ray.cluster import share_cores
from hptransfer.execution.room import Offers, Room, WaitingPacks
from hptransfer.execution.work import PackError, PackOutcome, PackTask

# Seconds that Tune's thread has to leave its loop when the sweep is over.
CUT_SECONDS = 3.0
# Seconds between two looks into the queue while no pack runs.
POLL_SECONDS = 0.05
# Seconds in which a worker that has started must say on which nodes it is.
NODES_SECONDS = 20.0
# Seconds in which Ray notices that a node is gone.
NODE_DEATH_SECONDS = 45.0
# Tune's own limit of packs at a time, more than any cluster runs: `PackQueue` has the real limit.
TUNE_LIMIT = 100_000


@dataclass(frozen=True)
class PackStarted:
    """A worker has taken a pack."""

    index: int


@dataclass(frozen=True)
class PackLost:
    """A pack's worker or node was lost; Tune reports that as the error of its trial."""

    index: int
    error: Exception


@dataclass(frozen=True)
class LoopEnded:
    """Tune has left its loop although the sweep is not over; all workers end with the loop."""

    error: BaseException | None


TuneEvent = PackStarted | PackOutcome | PackLost | LoopEnded


class Channel:
    """The queues between Tune's thread and the driver's.

    Packs are taken in their own order, so that a lost pack is taken before all later ones.
    """

    def __init__(self) -> None:
        self.tasks = WaitingPacks()
        self.events: queue.SimpleQueue[TuneEvent] = queue.SimpleQueue()
        self.cut = threading.Event()

    def leave_if_cut(self) -> None:
        """End Tune's loop once the sweep is over."""
        if self.cut.is_set():
            raise _Cut

    def __reduce__(self) -> tuple[type[Channel], tuple[()]]:
        return Channel, ()  # Tune pickles all it is given, for a restore we never do


class _Cut(BaseException):
    """Leaves Tune's loop; not an Exception, because Tune survives those."""


class PackWorker(tune.Trainable):
    """Runs packs in a reused actor.

    The exception of a pack comes back as data. An error of a Tune trial is a lost worker.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return what the pack asks for: a bundle on each of its machines."""
        request = config["task"].request
        bundles = [request.bundle] * request.machines
        strategy = "STRICT_SPREAD" if request.machines > 1 else "PACK"
        return tune.PlacementGroupFactory(bundles, strategy)

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first pack."""
        self._task: PackTask = config["task"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self._task = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        """Run the pack."""
        task, nodes = self._task, self.nodes()
        living = _addresses()
        if not living.keys() >= set(nodes):
            _end_as_lost()
        hosts = [living[node] for node in nodes] * (task.request.nodes // len(nodes))
        if task.run_pack is None:  # else it is a trainer of the user's own
            share_cores(task.request)
        outcome = task.on_hosts(hosts).run()
        if isinstance(outcome.error, PackError) and _lost_a_node(nodes):
            _end_as_lost()
        return {"outcome": outcome, "done": True}

    def nodes(self) -> list[str]:
        """Return the names of the nodes that the pack takes; the first is this actor's."""
        group = ray.util.get_current_placement_group()
        assert group is not None, "Tune starts every actor in a placement group"
        nodes = placement_group_table(group)["bundles_to_node_id"]
        return [nodes[bundle] for bundle in sorted(nodes)]


def _addresses() -> dict[str, str]:
    """Return the addresses of the living nodes."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _lost_a_node(nodes: Sequence[str]) -> bool:
    """Whether one of several nodes is gone, which Ray notices later than a program on it."""
    end = time.monotonic() + NODE_DEATH_SECONDS
    while len(nodes) > 1 and time.monotonic() < end:
        if not _addresses().keys() >= set(nodes):
            return True
        time.sleep(1.0)
    return False


def _end_as_lost() -> NoReturn:
    """End this worker as if its own node were gone, so that the pack gets other nodes."""
    os._exit(1)


class PackQueue(Searcher):
    """Hands out packs that the nodes have room for, and passes on their outcomes.

    Tune's own limit is fixed when it starts, so nodes that join later would stay idle. The queue is
    never finished, since results may bring further packs: the end of a sweep cuts Tune's loop.
    """

    def __init__(self, channel: Channel, nodes: Callable[[], Offers], workers: int | None) -> None:
        super().__init__()
        self._channel = channel
        self._nodes = nodes
        self._workers = workers
        self._packs: dict[str, int] = {}  # the pack of each Tune trial
        self._room = Room()

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Leave the limit to this queue."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Hand out the next pack; None while others run and there is none, or no place for it."""
        while (task := self._next()) is None:
            if self._packs:
                return None
            time.sleep(POLL_SECONDS)  # Tune would wait a second here
        self._packs[trial_id] = task.index
        self._room.hand_out(task)
        return {"task": task}

    def _next(self) -> PackTask | None:
        self._channel.leave_if_cut()
        if self._workers is not None and len(self._packs) >= self._workers:
            return None
        chosen = self._room.next(self._channel.tasks.first_of_each_kind(), self._nodes())
        return None if chosen is None else self._channel.tasks.take(chosen)

    def started(self, index: int, nodes: Sequence[str]) -> None:
        """Note on which nodes a pack runs."""
        self._room.started(index, nodes)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on a pack's results; `_Reports` passes on that a worker was lost."""
        self._room.ended(self._packs.pop(trial_id))
        if result is not None and not error:
            self._channel.events.put(result["outcome"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger says what is left to do."""

    restore = save

    def __reduce__(self) -> tuple[type[PackQueue], tuple[Channel, type[dict], None]]:
        return PackQueue, (self._channel, dict, None)


class StartEachPackOnce(FIFOScheduler):
    """Starts every pack once, in the packs' own order.

    Tune's own order offers a worker that has become free to a pack whose own worker is still
    starting, and drops that one: where packs are shorter than a start, late workers never come.
    """

    def __init__(self) -> None:
        super().__init__()
        self._chosen: set[str] = set()

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next pack that has no worker yet."""
        waiting = [
            trial
            for trial in tune_controller.get_live_trials()
            if trial.status == "PENDING" and trial.trial_id not in self._chosen
        ]
        if not waiting:
            return None
        chosen = min(waiting, key=lambda trial: trial.config["task"].order)
        self._chosen.add(chosen.trial_id)
        return chosen


class _Reports(tune.Callback):
    """Reports started packs and lost workers, and leaves Tune's loop when the sweep is over."""

    def __init__(self, channel: Channel, packs: PackQueue) -> None:
        self._channel = channel
        self._packs = packs

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._channel.leave_if_cut()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["task"].index
        # A worker that does not answer is lost, which Tune tells later.
        with suppress(RayError):
            actor = trial.temporary_state.ray_actor
            self._packs.started(index, ray.get(actor.nodes.remote(), timeout=NODES_SECONDS))
        self._channel.events.put(PackStarted(index))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._channel.events.put(PackLost(trial.config["task"].index, _error_of(trial)))


def _error_of(trial: Any) -> Exception:
    """Return the error that Tune has just written into the trial's folder; most kinds as text."""
    if trial.pickled_error_file is not None:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    _count_and_time, _, text = Path(trial.error_file).read_text().partition("\n")
    return MachineError(text)


@contextmanager
def tune_thread(
    channel: Channel, nodes: Callable[[], Offers], workers: int | None, folder: Path
) -> Iterator[Callable[[], None]]:
    """Yield a function that starts Tune in a thread; Tune's loop is cut at the block's end.

    The function may be called again once Tune's loop has ended by itself.
    """
    threads: list[threading.Thread] = []

    def start() -> None:
        packs = PackQueue(channel, nodes, workers)
        tuner = _tuner(f"packs{len(threads)}", channel, packs, folder)
        threads.append(threading.Thread(target=_fit, args=(tuner, channel), daemon=True))
        threads[-1].start()

    try:
        yield start
    finally:
        channel.cut.set()
        for thread in threads[-1:]:
            thread.join(CUT_SECONDS)


def _tuner(name: str, channel: Channel, packs: PackQueue, folder: Path) -> tune.Tuner:
    return tune.Tuner(
        PackWorker,
        tune_config=tune.TuneConfig(
            search_alg=packs,
            scheduler=StartEachPackOnce(),
            num_samples=-1,
            max_concurrent_trials=TUNE_LIMIT,
            reuse_actors=True,
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder),
            verbose=0,
            callbacks=[_Reports(channel, packs)],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _fit(tuner: tune.Tuner, channel: Channel) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the driver raises what it would log
    try:
        tuner.fit()
    except _Cut:
        return
    except BaseException as error:  # whatever it was, the driver must not wait for ever
        reason = error.__cause__ or error
        # The frames of a traceback would keep Tune's workers alive.
        reason.__context__ = reason.__cause__ = None
        channel.events.put(LoopEnded(reason.with_traceback(None)))
    else:
        channel.events.put(LoopEnded(None))
