"""Resources that a pack asks for, and how many packs fit on nodes; without Ray's code."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.compose.external import TrialResources
from hptransfer.config.external import ExternalTrial
from hptransfer.errors import UserError

# Share of a node's resource `accelerator_type:NAME` that one task takes, as Ray itself does it.
ACCELERATOR_SHARE = 0.001
GIB = 2**30
# Resources that have fields of their own, so `executor.resources` must not name them.
OWN_FIELDS = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gib"}


@dataclass(frozen=True)
class Resources:
    """The resources that one pack asks for: amounts for each of its nodes."""

    cpus: float
    gpus: float
    memory_gib: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)  # by Ray's names
    nodes: int = 1  # nodes that the pack takes
    packed: bool = False  # whether one machine holds what all its nodes take together

    @property
    def bundle(self) -> dict[str, float]:
        """All amounts above zero on one machine by Ray's names; memory in bytes."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": int(self.memory_gib * GIB)}
        times = self.nodes if self.packed else 1
        return {
            name: amount * times for name, amount in {**amounts, **self.others}.items() if amount
        }

    @property
    def machines(self) -> int:
        """Count the machines that the pack takes."""
        return 1 if self.packed else self.nodes

    @property
    def kind(self) -> Kind:
        """What is equal for requests that can stand for one another."""
        return (self.machines, tuple(sorted(self.bundle.items())))

    def __str__(self) -> str:
        return _text(self.bundle, self.bundle)


Kind = tuple[int, tuple[tuple[str, float], ...]]


def resources_of_pack(
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    by_width: Mapping[int, TrialResources],
    pack: Sequence[TrialConfig | ExternalTrial],
) -> Resources:
    """Return what a pack asks for: the executor's resources, changed by those of its width."""
    given = by_width.get(pack[0].model.width)
    if given is not None:
        changes = {k: v for k, v in dataclasses.asdict(given).items() if v is not None}
        executor = dataclasses.replace(executor, **changes)
    return resources_of(runtime, executor)


def resources_of(runtime: RuntimeConfig, executor: ExecutorConfig) -> Resources:
    """Return what a pack asks for: by default one GPU on cuda, else none."""
    gpus = executor.gpus if executor.gpus is not None else float(runtime.on_gpu)
    if runtime.on_gpu and gpus <= 0:
        raise UserError(
            f"`executor.gpus` must be positive with runtime.device={runtime.device}, because Ray "
            f"hides GPUs that a pack does not ask for, but got {gpus:g}. Leave it null."
        )
    if runtime.device.startswith("cuda:"):
        raise UserError(
            "`runtime.device` must be `cuda` under Ray, which gives each pack its own GPU, but "
            f"got {runtime.device}. Use runtime.device=cuda, or executor.name=local."
        )
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"`executor.gpus` must be at most 1 or a whole number, but got {gpus:g}.")
    others = dict(executor.resources)
    for name, amount in others.items():
        if name in OWN_FIELDS:
            raise UserError(
                f"`executor.resources` is for custom resources, but got {name}. Use "
                f"executor.{OWN_FIELDS[name]}."
            )
        if amount <= 0:
            raise UserError(f"`executor.resources.{name}` must be positive, but got {amount:g}.")
    if executor.accelerator_type is not None:
        others[f"accelerator_type:{executor.accelerator_type}"] = ACCELERATOR_SHARE
    packed = executor.placement == "pack" and executor.nodes > 1
    memory = executor.memory_gib or 0.0
    return Resources(executor.cpus, gpus, memory, others, executor.nodes, packed)


def places(nodes: Sequence[Mapping[str, Any]], request: Resources) -> int:
    """Count the packs that fit on the living nodes of a list as `ray.nodes()` returns it."""
    on_each = [_places(offer, request.bundle) for offer in _offers(nodes)]
    count = sum(on_each) // request.machines
    while sum(min(places, count) for places in on_each) < count * request.machines:
        count -= 1  # no machine can serve one pack twice
    return count


def concurrent_packs(
    nodes: Sequence[Mapping[str, Any]], request: Resources, workers: int | None
) -> int:
    """Count the packs that run at a time: as many as the nodes hold, at most `workers`."""
    count = places(nodes, request)
    return count if workers is None else min(workers, count)


COMPILE_THREADS = "TORCHINDUCTOR_COMPILE_THREADS"  # the processes that torch compiles with


def compile_threads(node: Mapping[str, Any], request: Resources) -> int:
    """Return how many cores of a node, as `ray.nodes()` has it, each of its packs may compile with.

    It is at least what a pack asks for, and more where GPUs or memory leave cores without a pack.
    Torch itself would take all cores for every pack.
    """
    packs = max(places([node], dataclasses.replace(request, nodes=1, packed=False)), 1)
    return max(int(node["Resources"].get("CPU", 0.0)) // packs, 1)


def no_place(nodes: Sequence[Mapping[str, Any]], request: Resources) -> UserError:
    """Return the error of a pack that fits on no node: its request and the nodes' resources."""
    kinds = Counter(_text(offer, request.bundle) for offer in _offers(nodes))
    offers = "; ".join(f"{n} with {kind}" if n > 1 else kind for kind, n in kinds.most_common())
    where, what = "one node", f"{request}"
    if request.machines > 1:
        where, what = f"{request.machines} nodes", f"{request} on each"
    return UserError(
        f"A pack of trials must fit on {where}, but it asks for {what}, and the nodes have: "
        f"{offers or 'nothing'}. Ask for less (executor.cpus, gpus, memory_gib, resources, "
        "accelerator_type, nodes, or the sweep's section resources), change runtime.device, or "
        "add such a node; executor.wait_for_nodes_s waits for one."
    )


def _offers(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in nodes if node["Alive"]]


def _places(offer: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    return min(int(offer.get(name, 0.0) / amount + 1e-9) for name, amount in bundle.items())


def _text(amounts: Mapping[str, float], asked: Mapping[str, float]) -> str:
    """Return amounts as text: CPUs, GPUs and whatever else is asked for."""
    parts = [f"{amounts.get('CPU', 0.0):g} CPUs", f"{amounts.get('GPU', 0.0):g} GPUs"]
    if "memory" in asked:
        parts.append(f"{amounts.get('memory', 0.0) / GIB:.3g} GiB of memory")
    for name in sorted(asked.keys() - OWN_FIELDS.keys()):
        kind, _, accelerator = name.partition(":")
        if kind == "accelerator_type":
            parts.append(f"{accelerator}: {'yes' if amounts.get(name) else 'no'}")
        else:
            parts.append(f"{amounts.get(name, 0.0):g} {name}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def usable_cpus(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the CPUs this process may use: its affinity mask, and its cgroup's quota if lower."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(int(min(count, _cgroup_quota(groups))), 1)


def _cgroup_quota(groups: Path) -> float:
    """Return the lowest CPU quota of this process's cgroup (version 2) and those above it."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    except OSError:
        own = ""
    quota = math.inf
    for folder in (groups / own, *(groups / own).parents):
        if not folder.is_relative_to(groups):
            break
        try:
            allowed, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue  # no such file in the root group, nor under version 1
        if allowed != "max":
            quota = min(quota, int(allowed) / int(period))
    return quota
