"""A Ray cluster as places for packs: whether its head answers, and its nodes share the storage."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hptransfer.config import ExecutorConfig
from hptransfer.errors import MachineError, UserError
from hptransfer.execution.ray.session import answers
from hptransfer.execution.resources import (
    COMPILE_THREADS,
    Kind,
    Resources,
    compile_threads,
    concurrent_packs,
    no_place,
    places,
)
from hptransfer.execution.room import Offers
from hptransfer.system.storage import open_storage, without_credentials

# Seconds for which the nodes are not read again.
COUNT_SECONDS = 2.0
# Seconds between two looks at a cluster that has no place yet.
WAIT_SECONDS = 1.0
# Seconds that the head may be silent; Ray ends the whole process after 60.
HEAD_SECONDS = 20.0
# Seconds that there may be no node that a pack fits on; `executor.wait_for_nodes_s` may be longer.
NODE_SECONDS = 20.0
# Seconds between two looks at the head and the nodes.
LOOK_SECONDS = 3.0
# The most packs that an autoscaler is asked to make room for.
MOST_ASKED = 1000


class Cluster:
    """The Ray cluster that this process has joined, as places for packs."""

    def __init__(self, executor: ExecutorConfig) -> None:
        self._executor = executor
        self._head = ray.get_runtime_context().gcs_address
        self._met: set[Kind] = set()  # the requests for which there have been nodes
        self._nodes: Offers = {}
        self._read = -COUNT_SECONDS
        self._looked = self._heard = self._fitted = time.monotonic()

    def places(self, request: Resources) -> int:
        """Count the packs that may run at a time, on the nodes there are now."""
        return concurrent_packs(ray.nodes(), request, self._executor.workers)

    def nodes(self) -> Offers:
        """Return the resources of each living node, as they were at most two seconds ago."""
        if time.monotonic() - self._read >= COUNT_SECONDS:
            self._nodes = {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"]}
            self._read = time.monotonic()
        return self._nodes

    def wait_for_places(self, packs: Iterable[Resources]) -> None:
        """Return as soon as there have been nodes for each of the packs.

        Raises:
            UserError: there are none for one of them after `executor.wait_for_nodes_s`.
        """
        seconds = self._executor.wait_for_nodes_s
        end = time.monotonic() + seconds
        for request in packs:
            told = False
            while request.kind not in self._met:
                if places(nodes := ray.nodes(), request):
                    self._met.add(request.kind)
                    break
                if time.monotonic() >= end:
                    raise no_place(nodes, request)
                if not told:
                    told = True
                    print(
                        f"{_nobody_has(request)} that a pack of trials asks for. Waiting up to "
                        f"{seconds:g} s for {'one' if request.machines == 1 else 'them'}.",
                        file=sys.stderr,
                    )
                time.sleep(WAIT_SECONDS)

    def ask_for(self, packs: Sequence[Resources]) -> None:
        """Ask an autoscaling cluster for room for the packs left; other clusters ignore that."""
        if self._executor.wait_for_nodes_s > 0 and answers(self._head):
            at_a_time = packs[: self._executor.workers]
            bundles = [request.bundle for request in at_a_time for _ in range(request.machines)]
            request_resources(bundles=bundles[:MOST_ASKED])

    def look(self, packs: Iterable[Resources]) -> None:
        """Check every few seconds that the cluster answers, and ask it for room for the packs left.

        Raises:
            MachineError: the head is silent, where Ray would end this process later; or no node is
                left that one of the packs fits on, where Tune would wait for ever.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        packs = list(packs)
        if answers(self._head):
            self._heard = now
            nodes = ray.nodes()
            kinds = {request.kind: request for request in packs}
            if any(places(nodes, request) for request in kinds.values()):
                self._fitted = now
            self.ask_for(packs)
        self._looked = time.monotonic()
        if self._looked - self._heard > HEAD_SECONDS:
            raise MachineError(
                f"The Ray cluster's head at {self._head} must answer, but has not for "
                f"{HEAD_SECONDS:g} s. Start the cluster and run the same command again; no "
                "finished trial is lost."
            )
        if self._heard - self._fitted > max(NODE_SECONDS, self._executor.wait_for_nodes_s):
            raise MachineError(
                f"{_nobody_has(packs[0])} that a pack of trials asks for any more. Start nodes "
                "and run the same command again; no finished trial is lost."
            )


def _nobody_has(request: Resources) -> str:
    if request.machines == 1:
        return f"No node has the {request}"
    return f"There are no {request.machines} nodes with the {request} each"


@contextmanager
def joined_cluster(executor: ExecutorConfig, packs: Sequence[Resources]) -> Iterator[Cluster]:
    """Yield the cluster that `ray_session` has joined, once each pack alone fits on it.

    At the end of the `with` block, an autoscaling cluster is told that no pack is left.

    Args:
        packs: what each pack asks for.

    Raises:
        UserError: no nodes have what a pack asks for, after `executor.wait_for_nodes_s`.
    """
    cluster = Cluster(executor)
    cluster.ask_for(packs)
    try:
        cluster.wait_for_places(packs)
        yield cluster
    finally:
        cluster.ask_for([])


# Seconds in which every node must answer, with the start of its worker.
ANSWER_SECONDS = 60.0
# How often a node looks for the token, a second apart, since shared file systems lag.
LOOKS = 3


STORAGE = (
    "`executor.storage` must be a folder that every node sees, or a URL",
    "Name a shared folder, or set executor.storage=null: then packs of a lost node start again "
    "from their first step.",
)
RESULTS = (
    "`--results` must be a folder that every node sees, since trials of your own trainer write "
    "their logs and reports there",
    "Name a shared folder.",
)


def require_shared(
    folder: str, packs: Sequence[Resources], sentences: tuple[str, str] = STORAGE
) -> None:
    """Refuse a folder or URL that one of the nodes for packs does not share with this process.

    Args:
        packs: what each pack asks for.
        sentences: what must be so, and what to do where it is not.

    Raises:
        UserError: a node does not read there what this process writes.
        MachineError: a node does not answer.
    """
    name, token = f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)
    kinds = {request.kind: replace(request, nodes=1, packed=False) for request in packs}
    nodes = [n for n in ray.nodes() if any(places([n], each) for each in kinds.values())]
    storage = open_storage(folder)
    storage.write_bytes(name, token.encode())
    try:
        answers = [_asked(node["NodeID"], folder, name) for node in nodes]
        ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
        for node, answer in zip(nodes, answers, strict=True):
            if _read(node, answer) != token:
                raise UserError(
                    f"{sentences[0]}, but a file that this command writes to "
                    f"{without_credentials(folder)} does not appear on node "
                    f"{node['NodeManagerAddress']}. {sentences[1]}"
                )
    finally:
        storage.remove(name)


def share_cores(request: Resources) -> None:
    """Let torch compile in this worker with its share of the node's cores, unless a user set it.

    To be called before torch is imported, and only in a worker.
    """
    here = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == here]
    os.environ.setdefault(COMPILE_THREADS, str(compile_threads(node, request)))


def _asked(node_id: str, folder: str, name: str) -> ray.ObjectRef:
    pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(seen)
    return task.options(scheduling_strategy=pinned).remote(folder, name)


def seen(folder: str, name: str) -> str | None:
    """Return the token in the storage as this node sees it; None if there is none or no access."""
    for look in range(LOOKS):
        time.sleep(min(look, 1))
        try:
            content = open_storage(folder).read_bytes(name)
        except MachineError:
            continue
        if content is not None:
            return content.decode(errors="replace")
    return None


def _read(node: dict[str, Any], answer: ray.ObjectRef) -> str | None:
    try:
        return ray.get(answer, timeout=0)
    except RayError as error:
        raise MachineError(
            f"Node {node['NodeManagerAddress']} must see the storage, but did not answer within "
            f"{ANSWER_SECONDS:g} s: {type(error).__name__}. Mend or remove the node, and run the "
            "same command again; no finished trial is lost."
        ) from error
