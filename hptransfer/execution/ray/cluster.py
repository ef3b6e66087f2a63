"""A Ray cluster as places for packs: whether its head answers, and its nodes share the storage."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hptransfer.config import ExecutorConfig
from hptransfer.errors import MachineError, UserError
from hptransfer.execution.ray.session import answers
from hptransfer.execution.resources import Resources, concurrent_packs, no_place, places
from hptransfer.system.storage import open_storage, without_credentials

# Seconds for which a count of places holds.
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

    def __init__(self, executor: ExecutorConfig, request: Resources) -> None:
        self._executor = executor
        self._request = request
        self._head = ray.get_runtime_context().gcs_address
        self._count = 0
        self._counted = -COUNT_SECONDS
        self._looked = self._heard = self._fitted = time.monotonic()

    def places(self) -> int:
        """Count the packs that may run at a time, on the nodes there are now."""
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            self._count = concurrent_packs(ray.nodes(), self._request, self._executor.workers)
            self._counted = time.monotonic()
        return self._count

    def wait_for_a_place(self) -> None:
        """Return as soon as a pack fits on a node.

        Raises:
            UserError: none fits after `executor.wait_for_nodes_s`.
        """
        seconds = self._executor.wait_for_nodes_s
        end = time.monotonic() + seconds
        told = False
        while not places(nodes := ray.nodes(), self._request):
            if time.monotonic() >= end:
                raise no_place(nodes, self._request)
            if not told:
                told = True
                print(
                    f"No node has the {self._request} that a pack of trials asks for. Waiting up "
                    f"to {seconds:g} s for one.",
                    file=sys.stderr,
                )
            time.sleep(WAIT_SECONDS)

    def ask_for(self, packs: int) -> None:
        """Ask an autoscaling cluster for room for the packs left; other clusters ignore that."""
        if self._executor.wait_for_nodes_s > 0 and answers(self._head):
            wanted = min(packs, self._executor.workers or packs, MOST_ASKED)
            request_resources(bundles=[self._request.bundle] * wanted)

    def look(self, packs: int) -> None:
        """Check every few seconds that the cluster answers, and ask it for room for the packs left.

        Raises:
            MachineError: the head is silent, where Ray would end this process later; or no node is
                left that a pack fits on, where Tune would wait for ever.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        if answers(self._head):
            self._heard = now
            if places(ray.nodes(), self._request):
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
                f"A node must have the {self._request} that a pack of trials asks for, but none "
                "is left. Start nodes and run the same command again; no finished trial is lost."
            )


@contextmanager
def joined_cluster(executor: ExecutorConfig, request: Resources, packs: int) -> Iterator[Cluster]:
    """Yield the cluster that `ray_session` has joined, once a pack fits on it.

    At the end of the `with` block, an autoscaling cluster is told that no pack is left.

    Raises:
        UserError: no node has what a pack asks for, after `executor.wait_for_nodes_s`.
    """
    cluster = Cluster(executor, request)
    cluster.ask_for(packs)
    try:
        cluster.wait_for_a_place()
        yield cluster
    finally:
        cluster.ask_for(0)


# Seconds in which every node must answer, with the start of its worker.
ANSWER_SECONDS = 60.0
# How often a node looks for the token, a second apart, since shared file systems lag.
LOOKS = 3


def require_shared(folder: str, request: Resources) -> None:
    """Refuse a storage that one of the nodes for packs does not share with this process.

    Raises:
        UserError: a node does not read there what this process writes.
        MachineError: a node does not answer.
    """
    name, token = f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)
    nodes = [node for node in ray.nodes() if places([node], request)]
    storage = open_storage(folder)
    storage.write_bytes(name, token.encode())
    try:
        answers = [_asked(node["NodeID"], folder, name) for node in nodes]
        ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
        for node, answer in zip(nodes, answers, strict=True):
            if _read(node, answer) != token:
                raise UserError(
                    "`executor.storage` must be a folder that every node sees, or a URL, but a "
                    f"file that this command writes to {without_credentials(folder)} does not "
                    f"appear on node {node['NodeManagerAddress']}. Name a shared folder, or set "
                    "executor.storage=null: then packs of a lost node start again from their "
                    "first step."
                )
    finally:
        storage.remove(name)


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
