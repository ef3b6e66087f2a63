"""The test that all nodes of a cluster see the same storage of checkpoints."""

from __future__ import annotations

import secrets
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hptransfer.errors import MachineError, UserError
from hptransfer.execution.resources import Resources, places
from hptransfer.system.storage import open_storage, without_credentials

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
    write_token(folder, name, token)
    try:
        answers = [_asked(node["NodeID"], folder, name) for node in nodes]
        ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
        for node, answer in zip(nodes, answers, strict=True):
            if _read(node, answer) != token:
                raise UserError(
                    f"`executor.storage` must be a folder that every node sees, or a URL, but what "
                    f"this command writes to {without_credentials(folder)} is not there on node "
                    f"{node['NodeManagerAddress']}. Name a shared folder, or set "
                    "executor.storage=null to start lost packs again from their first step."
                )
    finally:
        open_storage(folder).remove(name)


def _asked(node_id: str, folder: str, name: str) -> ray.ObjectRef:
    pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(seen)
    return task.options(scheduling_strategy=pinned).remote(folder, name)


def seen(folder: str, name: str) -> str | None:
    """Return the token in the storage as this node sees it; None if there is none or no access."""
    for look in range(LOOKS):
        time.sleep(min(look, 1))
        try:
            token = probe_token(folder, name)
        except MachineError:
            continue
        if token is not None:
            return token
    return None


def _read(node: dict[str, Any], answer: ray.ObjectRef) -> str | None:
    try:
        return ray.get(answer, timeout=0)
    except RayError as error:
        raise MachineError(
            f"Node {node['NodeManagerAddress']} did not say within {ANSWER_SECONDS:g} s whether it "
            f"sees the storage: {type(error).__name__}. Mend or remove it, and run the same "
            "command again; nothing recorded was lost."
        ) from error


def write_token(folder: str, name: str, token: str) -> None:
    """Leave a token in a storage for other nodes to find."""
    open_storage(folder).write_bytes(name, token.encode())


def probe_token(folder: str, name: str) -> str | None:
    """Return the token that this node sees in a storage, or None."""
    content = open_storage(folder).read_bytes(name)
    return None if content is None else content.decode(errors="replace")
