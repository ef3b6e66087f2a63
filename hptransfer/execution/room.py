"""Which pack is handed out next, where packs ask for different resources; without Ray's code.

Packs are handed out in their own order. A pack that fits nowhere now is overtaken by later ones,
but only by those that leave it room, so that it runs as soon as the packs before it have ended.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hptransfer.execution.resources import Kind, Resources
from hptransfer.execution.work import PackTask

Offers = Mapping[str, Mapping[str, float]]  # the resources of each living node, by its name
EPSILON = 1e-9  # of amounts, which are sums of fractions


class WaitingPacks:
    """The packs that are not handed out, by what they ask for; two threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_kind: dict[Kind, list[PackTask]] = {}

    def put(self, task: PackTask) -> None:
        """Add a pack."""
        with self._lock:
            heapq.heappush(self._by_kind.setdefault(task.request.kind, []), task)

    def first_of_each_kind(self) -> list[PackTask]:
        """Return the first pack of each kind of request, in the packs' own order."""
        with self._lock:
            return sorted(heap[0] for heap in self._by_kind.values() if heap)

    def take(self, task: PackTask) -> PackTask:
        """Remove the first pack of a kind of request, and return it.

        Another pack may have come before it meanwhile, which then is taken in its place.
        """
        with self._lock:
            return heapq.heappop(self._by_kind[task.request.kind])

    def clear(self) -> None:
        """Remove all packs."""
        with self._lock:
            self._by_kind.clear()


@dataclass(frozen=True)
class _Running:
    task: PackTask
    nodes: tuple[str, ...] = ()  # on which it runs; empty: not known before its worker starts


class Room:
    """The packs that run, and which of those that wait has room beside them.

    Nobody chooses the nodes of a pack but Ray. So packs of different requests are never on their
    way to their nodes at the same time, and none overtakes another while a pack is on its way.
    """

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}

    def hand_out(self, task: PackTask) -> None:
        """Take a pack in, which is on its way from now on."""
        self._running[task.index] = _Running(task)

    def started(self, index: int, nodes: Sequence[str]) -> None:
        """Note the nodes on which a pack runs."""
        self._running[index] = _Running(self._running[index].task, tuple(nodes))

    def ended(self, index: int) -> None:
        """Forget a pack that has ended or was lost."""
        del self._running[index]

    def next(self, waiting: Iterable[PackTask], offers: Offers) -> PackTask | None:
        """Return the pack to hand out now, or None.

        Args:
            waiting: the first pack of each kind of request, in the packs' order.
            offers: the resources of all living nodes, free or not.
        """
        on_their_way = [
            each.task
            for each in self._running.values()
            if not each.nodes and _fits(offers, each.task.request)  # else its node is gone
        ]
        kinds = {task.request.kind for task in on_their_way}
        free = self._free(offers)
        for task in on_their_way:
            _take(free, _likely_nodes(free, task.request), task.request)
        first: PackTask | None = None  # the first one that no node has room for now
        for task in waiting:
            if not _fits(offers, task.request):
                continue  # until such nodes join, the others go on
            if kinds and task.request.kind not in kinds:
                return None
            if first is None and _fits(free, task.request):
                return task
            if first is None:
                first = task
            elif self._leaves_room(task, first, free, offers):
                return task
        return None

    def _free(
        self, offers: Offers, *, after: PackTask | None = None
    ) -> dict[str, dict[str, float]]:
        """Return what running packs leave of the nodes; `after`: only those ordered after it."""
        free = {node: dict(offer) for node, offer in offers.items()}
        for each in self._running.values():
            if after is None or after < each.task:
                _take(free, each.nodes, each.task.request)
        return free

    def _leaves_room(self, task: PackTask, first: PackTask, free: Offers, offers: Offers) -> bool:
        """Whether a pack has room now, and leaves an earlier one its room on any choice of nodes.

        The room of the earlier pack is what all packs that were to run after it leave it.
        """
        fitting = [node for node in free if _holds(free[node], task.request)]
        if len(fitting) < task.request.machines:
            return False
        alone = task.request.machines == 1
        for nodes in [[node] for node in fitting] if alone else [fitting]:
            left = self._free(offers, after=first)
            _take(left, nodes, task.request)
            if not _fits(left, first.request):
                return False
        return True


def _holds(offer: Mapping[str, float], request: Resources) -> bool:
    return all(offer.get(k, 0.0) >= amount - EPSILON for k, amount in request.bundle.items())


def _fits(offers: Offers, request: Resources) -> bool:
    return sum(_holds(offer, request) for offer in offers.values()) >= request.machines


def _likely_nodes(free: Offers, request: Resources) -> list[str]:
    """Return the nodes that hold a pack most tightly, as Ray chooses them."""

    def left(node: str) -> float:
        return sum(free[node].get(k, 0.0) / amount for k, amount in request.bundle.items())

    fitting = sorted((node for node in free if _holds(free[node], request)), key=left)
    return fitting[: request.machines]


def _take(free: dict[str, dict[str, float]], nodes: Iterable[str], request: Resources) -> None:
    for node in nodes:
        if node in free:  # else the node is gone
            for name, amount in request.bundle.items():
                free[node][name] = free[node].get(name, 0.0) - amount
