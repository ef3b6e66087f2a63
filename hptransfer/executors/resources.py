"""What a pack asks of a cluster, and whether a cluster can give it; knows nothing of Ray's code."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.errors import UserError

# Seconds to wait for a cluster's head to accept a connection.
CONNECT_SECONDS = 5.0
# Ray's socket paths add about 70 characters to its folder, and may have 107 in all.
LONGEST_FOLDER = 24


@dataclass(frozen=True)
class Resources:
    """What one pack asks for."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


def resources_of(runtime: RuntimeConfig, executor: ExecutorConfig) -> Resources:
    """Work out what a pack asks for: by default one GPU on cuda, else none."""
    gpus = executor.gpus if executor.gpus is not None else float(runtime.on_gpu)
    if runtime.on_gpu and gpus <= 0:
        raise UserError(
            f"`executor.gpus` must be positive with runtime.device={runtime.device}, because Ray "
            f"hides the GPUs that were not asked for, but got {gpus:g}. Leave it null."
        )
    if runtime.device.startswith("cuda:"):
        raise UserError(
            "`runtime.device` must be `cuda` under Ray, which gives each pack its own GPU, but "
            f"got {runtime.device}. Use runtime.device=cuda, or executor.name=local."
        )
    return Resources(executor.cpus, gpus)


def concurrent_packs(
    nodes: Sequence[Mapping[str, Any]], request: Resources, workers: int | None
) -> int:
    """Count the packs that run at a time: `workers`, or as many as the nodes hold.

    Raises:
        UserError: no single node has what a pack asks for.
    """
    count = places(nodes, request)
    if not count:
        offers = "; ".join(str(offer) for offer in _offers(nodes))
        raise UserError(
            f"A pack must fit on one node, but it asks for {request}, and the nodes have: "
            f"{offers or 'nothing'}. Lower executor.cpus or executor.gpus, or change "
            "runtime.device."
        )
    return workers or count


def places(nodes: Sequence[Mapping[str, Any]], request: Resources) -> int:
    """Count the packs that fit on the living nodes, listed as `ray.nodes()` does."""
    return sum(_places(offer, request) for offer in _offers(nodes))


def _offers(nodes: Sequence[Mapping[str, Any]]) -> list[Resources]:
    return [
        Resources(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in nodes
        if node["Alive"]
    ]


def _places(offer: Resources, request: Resources) -> int:
    by_cpus = int(offer.cpus / request.cpus + 1e-9)
    by_gpus = int(offer.gpus / request.gpus + 1e-9) if request.gpus else by_cpus
    return min(by_cpus, by_gpus)


def require_answer(address: str) -> None:
    """Refuse an address where nothing listens, within seconds; Ray itself waits for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            f"`executor.address` must be local, auto or host:port, but got {address}: through a "
            "Ray client the ledger would be written on another machine. Run the same command on "
            "the cluster, for example with `ray job submit`."
        )
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise UserError(f"`executor.address` must be local, auto or host:port, but got {address}.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise no_cluster(address) from error


def no_cluster(address: str) -> UserError:
    """Build the error of an address where no Ray cluster answers."""
    return UserError(
        f"`executor.address` must name a running Ray cluster, but none answers at {address}. "
        "Start one with `ray start --head`, or use executor.address=local."
    )


def ray_environment(*, local: bool) -> dict[str, str]:
    """Build the variables Ray is started under: silent, private, leaving signals alone."""
    variables = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    if local:
        # Loopback only: no token is written into the home folder. Workers import what we import.
        paths = [path for path in sys.path if path]
        variables |= {
            "RAY_ADDRESS": "local",
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": os.pathsep.join(paths),
        }
    return variables


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a `with` block."""
    kept = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def short_temporary_folder() -> str:
    """Choose where Ray's sockets go: the temporary folder unless its path is too long for them."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep the SIGTERM handler in a `with` block; `ray.init` would leave one that exits with 15."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGTERM)
    terminated = False
    try:
        yield
    except SystemExit:
        terminated = True
    finally:
        signal.signal(signal.SIGTERM, kept)
    if terminated:
        signal.raise_signal(signal.SIGTERM)
