"""Tune's side of a sweep: one Tune trial is one attempt at a pack, handed out by one queue.

Tune runs in a thread of its own, so that its signal handlers (which turn Ctrl-C into a clean exit)
are never installed; it is joined to the driver's thread by queues alone.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from hptransfer.errors import MachineError
from hptransfer.execution.resources import Resources
from hptransfer.execution.work import Outcome, Work

# Seconds that Tune's thread has to leave its loop when the sweep is over.
CUT_SECONDS = 3.0
# Seconds between two looks for a pack while none runs.
POLL_SECONDS = 0.05
# More packs than any cluster runs at a time; how many do is counted from its nodes.
TUNE_LIMIT = 100_000


@dataclass(frozen=True)
class Started:
    """A worker has taken a pack."""

    index: int


@dataclass(frozen=True)
class Failed:
    """A pack's worker or node was lost; Tune made an error of it."""

    index: int
    error: Exception


@dataclass(frozen=True)
class Ended:
    """Tune has left its loop, which it should not."""

    error: BaseException | None


Event = Started | Outcome | Failed | Ended


class Channel:
    """Joins Tune's thread with the driver's.

    Packs go by their index, so that one that was lost goes first again.
    """

    def __init__(self) -> None:
        self.works: queue.PriorityQueue[tuple[int, Work]] = queue.PriorityQueue()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
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
    """Runs packs in a reused actor. A pack's exception comes back as data: what Tune calls an
    error is a worker that was lost."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first pack."""
        self._work: Work = config["work"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self._work = new_config["work"]
        return True

    def step(self) -> dict[str, Any]:
        """Run the pack."""
        return {"outcome": self._work.run(), "done": True}


class PackQueue(Searcher):
    """Hands out packs, no more at a time than the nodes hold; passes on what came of them.

    Tune's own limit is fixed when it starts, so nodes that join later would stay idle. The queue is
    never finished, for results may bring further packs: the end of a sweep cuts Tune's loop.
    """

    def __init__(self, channel: Channel, places: Callable[[], int]) -> None:
        super().__init__()
        self._channel = channel
        self._places = places
        self._running = 0

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Leave the limit to this queue."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Hand out the next pack; None while others run and there is none, or no place for it."""
        while (work := self._next()) is None:
            if self._running:
                return None
            time.sleep(POLL_SECONDS)  # Tune would wait a second here
        self._running += 1
        return {"work": work}

    def _next(self) -> Work | None:
        self._channel.leave_if_cut()
        if self._running >= self._places():
            return None
        try:
            return self._channel.works.get_nowait()[1]
        except queue.Empty:
            return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on a pack's results; of one whose worker was lost the watch tells."""
        self._running -= 1
        if result is not None and not error:
            self._channel.events.put(result["outcome"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger says what is left to do."""

    restore = save

    def __reduce__(self) -> tuple[type[PackQueue], tuple[Channel, type[int]]]:
        return PackQueue, (self._channel, int)


class _EachOnce(FIFOScheduler):
    """Starts every pack once, the earliest first.

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
        chosen = min(waiting, key=lambda trial: trial.config["work"].index)
        self._chosen.add(chosen.trial_id)
        return chosen


class _Watch(tune.Callback):
    """Tells when packs start and workers are lost; leaves Tune's loop when the sweep is over."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._channel.leave_if_cut()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._channel.events.put(Started(trial.config["work"].index))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._channel.events.put(Failed(trial.config["work"].index, _error_of(trial)))


def _error_of(trial: Any) -> Exception:
    """Return what Tune has just noted in this process's own folder: most kinds as text only."""
    if trial.pickled_error_file is not None:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return MachineError(Path(trial.error_file).read_text())


@contextmanager
def tune_thread(
    channel: Channel, places: Callable[[], int], request: Resources, folder: Path
) -> Iterator[None]:
    """Run Tune beside a `with` block; it is cut at the block's end."""
    tuner = tune.Tuner(
        tune.with_resources(PackWorker, tune.PlacementGroupFactory([request.bundle])),
        tune_config=tune.TuneConfig(
            search_alg=PackQueue(channel, places),
            scheduler=_EachOnce(),
            num_samples=-1,
            max_concurrent_trials=TUNE_LIMIT,
            reuse_actors=True,
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="packs",
            storage_path=str(folder),
            verbose=0,
            callbacks=[_Watch(channel)],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    thread = threading.Thread(target=_fit, args=(tuner, channel), daemon=True)
    thread.start()
    try:
        yield
    finally:
        channel.cut.set()
        thread.join(CUT_SECONDS)


def _fit(tuner: tune.Tuner, channel: Channel) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the driver raises what it would log
    try:
        tuner.fit()
    except _Cut:
        return
    except BaseException as error:  # whatever it was, the driver must not wait for ever
        channel.events.put(Ended(error))
    else:
        channel.events.put(Ended(None))
