"""The measurement of pack costs on Ray's workers, before trials are cut into packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ray
from ray.exceptions import RayError, RayTaskError

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.errors import MachineError
from hptransfer.execution.pack_sizes import MeasureLimits, Measurement, PackCost, Trials
from hptransfer.execution.ray.cluster import joined_cluster, share_cores
from hptransfer.execution.ray.session import ray_session
from hptransfer.execution.resources import Resources, places, resources_of


def measure_packs(
    groups: Sequence[Trials],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    limits: MeasureLimits | None = None,
    say: Callable[[str], None],
) -> Measurement:
    """Measure on as many workers as there are groups or places.

    See `hptransfer.execution.measure_packs`. A worker ends with its measurement, so that
    its GPU is free for the packs.
    """
    request = resources_of(runtime, executor)
    with ray_session(executor), joined_cluster(executor, [request] * len(groups)) as cluster:
        workers = cluster.places(request)
        shares = min(workers, len(groups))
        task = ray.remote(
            num_cpus=request.cpus,
            num_gpus=request.gpus,
            memory=request.bundle.get("memory", 0.0),
            resources=dict(request.others),
            max_calls=1,
            max_retries=executor.retries,
        )(measured)
        share = _share(request, runtime, workers)
        parts = [groups[start::shares] for start in range(shares)]
        try:
            say(
                f"measuring how long packs of trials take: {len(groups)} shapes on {shares} workers"
            )
            tasks = [task.remote(part, runtime, request, share, limits) for part in parts]
            for count in range(1, shares + 1):
                ray.wait(tasks, num_returns=count)
                say(f"{count} of {shares} workers have finished measuring")
            answers = ray.get(tasks)
        except RayTaskError as error:  # a refusal, or a bug
            raise error.cause from error
        except RayError as error:
            raise MachineError(
                "The workers that measured pack sizes were lost (killed, out of memory, or their "
                "node is gone). Run the same command again, or set runtime.pack_size to measure "
                "nothing; no finished trial is lost."
            ) from error
    costs: dict[int, PackCost | None] = {}
    notes: tuple[str, ...] = ()
    for start, answer in enumerate(answers):
        costs |= dict(zip(range(start, len(groups), shares), answer[0], strict=True))
        notes += answer[1]
    return Measurement([costs[i] for i in range(len(groups))], workers, tuple(dict.fromkeys(notes)))


def _share(request: Resources, runtime: RuntimeConfig, workers: int) -> float:
    """Return the share of a GPU's memory, or of a node's, that one pack may use."""
    if runtime.on_gpu:
        return min(request.gpus, 1.0)
    fullest = max(places([node], request) for node in ray.nodes())
    return 1.0 / min(fullest, workers)


def measured(
    groups: Sequence[Trials],
    runtime: RuntimeConfig,
    request: Resources,
    share: float,
    limits: MeasureLimits | None,
) -> tuple[list[PackCost | None], tuple[str, ...]]:
    """Measure in a worker, which alone imports torch."""
    share_cores(request)
    from hptransfer.execution.measure import measured_costs

    return measured_costs(groups, runtime, share=share, limits=limits)
