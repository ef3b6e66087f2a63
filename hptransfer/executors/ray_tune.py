"""The Ray Tune executor: one Tune trial is one pack, handed out by one queue; the only Ray here.

Tune runs in a thread of its own and this thread waits for its events: so callbacks and signal
handlers run here, their exceptions end the sweep, and Tune's own handlers (which turn Ctrl-C into
a clean exit) are never installed.
"""

from __future__ import annotations

import logging
import queue
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.search import Searcher

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.errors import MachineError
from hptransfer.executors.pack import Outcome, Pack, RunPack, Work, ignore_start
from hptransfer.executors.resources import (
    Resources,
    concurrent_packs,
    environment,
    no_cluster,
    own_sigterm,
    places,
    ray_environment,
    require_answer,
    resources_of,
    short_temporary_folder,
)
from hptransfer.identity import trial_key
from hptransfer.outcome import TrialResult

# Times a pack is handed out again when its worker process or node is lost.
RETRIES = 2
# Seconds that Tune's thread has to leave its loop when the sweep is cut.
CUT_SECONDS = 3.0
# Seconds without news after which the nodes are looked at.
NODE_CHECK_SECONDS = 20.0
# Results are small; Ray would otherwise claim 30 % of the memory.
OBJECT_STORE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class _Started:
    index: int


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


class _Channel:
    """Joins Tune's thread with ours; Tune pickles all it is given, for a restore we never do."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[_Started | Outcome | _Ended] = queue.SimpleQueue()
        self.cut = threading.Event()

    def __reduce__(self) -> tuple[type[_Channel], tuple[()]]:
        return _Channel, ()


class _Cut(BaseException):
    """Leaves Tune's loop; not an Exception, because Tune survives those."""


class PackWorker(tune.Trainable):
    """Runs packs in a reused actor. A pack's exception comes back as data: retries are for
    lost workers only."""

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
    """Hands out packs in order, and passes on what came of them."""

    def __init__(self, works: Sequence[Work], channel: _Channel) -> None:
        super().__init__()
        self._waiting = deque(works)
        self._channel = channel

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Hand out the next pack."""
        return {"work": self._waiting.popleft()} if self._waiting else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on a pack's results; one lost beyond its retries has none and is missed later."""
        if result is not None and not error:
            self._channel.events.put(result["outcome"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger says what is left to do."""

    restore = save


class _Watch(tune.Callback):
    """Tells when packs start, and leaves Tune's loop once the sweep is cut."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._channel.cut.is_set():
            raise _Cut

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._channel.events.put(_Started(trial.config["work"].index))


def run_packs(
    packs: Sequence[Pack],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    on_results: Callable[[int, list[TrialResult]], None],
    on_start: Callable[[int], None] = ignore_start,
    run_pack: RunPack | None = None,
) -> None:
    """Run the packs on Ray's workers; see `hptransfer.executors.run_packs`."""
    request = resources_of(runtime, executor)
    works = [Work(i, tuple(configs), runtime, run_pack) for i, configs in enumerate(packs)]
    channel = _Channel()
    with ray_session(executor) as folder:
        tuner = _tuner(
            PackQueue(works, channel),
            _Watch(channel),
            request,
            workers=concurrent_packs(ray.nodes(), request, executor.workers),
            folder=folder,
        )
        thread = threading.Thread(target=_fit, args=(tuner, channel), daemon=True)
        thread.start()
        try:
            _follow(channel, works, request, on_results=on_results, on_start=on_start)
        finally:
            channel.cut.set()
            thread.join(CUT_SECONDS)


def _tuner(
    packs: PackQueue, watch: _Watch, request: Resources, *, workers: int, folder: Path
) -> tune.Tuner:
    bundle = {"CPU": request.cpus, "GPU": request.gpus}
    return tune.Tuner(
        tune.with_resources(PackWorker, tune.PlacementGroupFactory([bundle])),
        tune_config=tune.TuneConfig(
            search_alg=packs,
            num_samples=-1,
            max_concurrent_trials=workers,
            reuse_actors=True,
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="packs",
            storage_path=str(folder),
            verbose=0,
            callbacks=[watch],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _fit(tuner: tune.Tuner, channel: _Channel) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `_follow` raises what it would log
    try:
        errors = tuner.fit().errors
    except _Cut:
        return
    except BaseException as error:  # whatever it was, `_follow` must not wait for ever
        errors = [error]
    channel.events.put(_Ended(errors[0] if errors else None))


def _follow(
    channel: _Channel,
    works: Sequence[Work],
    request: Resources,
    *,
    on_results: Callable[[int, list[TrialResult]], None],
    on_start: Callable[[int], None],
) -> None:
    missing = {work.index: work for work in works}
    while missing:
        match _next_event(channel, request):
            case _Started(index):
                on_start(index)
            case Outcome(index, results, error):
                if error is not None:
                    raise error
                del missing[index]
                on_results(index, results)
            case _Ended(RayError() as error) if not isinstance(error, RayTaskError):
                raise _lost(list(missing.values())) from error
            case _Ended(error):
                raise RuntimeError(f"Ray Tune ended with {len(missing)} packs to run.") from error


def _next_event(channel: _Channel, request: Resources) -> _Started | Outcome | _Ended:
    """Wait for an event; meanwhile check that nodes are left, for Tune would wait for ever."""
    while True:
        try:
            return channel.events.get(timeout=NODE_CHECK_SECONDS)
        except queue.Empty:
            if not places(ray.nodes(), request):
                raise MachineError(
                    f"No node is left that has the {request} a pack asks for. Start nodes and run "
                    "the same command again; nothing recorded was lost."
                ) from None


def _lost(missing: Sequence[Work]) -> MachineError:
    keys = [trial_key(config) for work in missing for config in work.configs]
    return MachineError(
        f"The workers of {len(missing)} packs were lost {RETRIES + 1} times each (killed, out of "
        f"memory, or their node is gone); their trials are {', '.join(keys)}. Free memory or use "
        "a smaller runtime.pack_size, and run the same command again; nothing recorded was lost."
    )


@contextmanager
def ray_session(executor: ExecutorConfig) -> Iterator[Path]:
    """Start or join Ray for the length of a `with` block; yields a folder that is then removed.

    The process's environment and signal handlers are afterwards as they were; stdout is left to
    the command's answer, so what is printed meanwhile goes to stderr.
    """
    local = executor.address == "local"
    with (
        tempfile.TemporaryDirectory(
            prefix="hpt", dir=short_temporary_folder(), ignore_cleanup_errors=True
        ) as folder,
        environment(ray_environment(local=local)),
        redirect_stdout(sys.stderr),  # where Ray prints that a worker died, say
    ):
        try:
            _init(executor.address, folder if local else None)
            yield Path(folder)
        finally:
            ray.shutdown()


def _init(address: str, folder: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if folder is not None:
        options |= {"include_dashboard": False, "_temp_dir": folder}
        options |= {"object_store_memory": OBJECT_STORE_BYTES}
    else:
        require_answer(address)
    try:
        with own_sigterm():
            ray.init(address, **options)
    except ConnectionError as error:
        raise no_cluster(address) from error
