"""A Ray session for the length of a command: on this machine alone, or joined to a cluster."""

from __future__ import annotations

import io
import logging
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import AuthenticationError

from hptransfer.config import ExecutorConfig
from hptransfer.execution.ray.connection import (
    auth_mode,
    environment,
    no_cluster,
    own_sigterm,
    ray_environment,
    require_answer,
    short_temporary_folder,
    wrong_token,
)
from hptransfer.execution.resources import usable_cpus

COLOURS = re.compile("\x1b\\[[0-9;]*m")
# Bytes of Ray's object store. Results are small; by default Ray would claim 30 % of the memory.
OBJECT_STORE_BYTES = 200 * 10**6
# Seconds that `ray.shutdown` may take; it would try for a minute to reach a head that is gone.
SHUTDOWN_SECONDS = 10.0


class Brief(io.TextIOBase):
    """Passes on the first line of each text; further lines are stack traces of Ray's processes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text's first line, without colours."""
        first, _, rest = text.partition("\n")
        self._stream.write(COLOURS.sub("", first if rest else text))
        return len(text)


@contextmanager
def ray_session(executor: ExecutorConfig) -> Iterator[Path]:
    """Start or join Ray for the length of a `with` block; yield a folder that is then removed.

    Afterwards the process's environment and signal handlers are as before. What is printed
    meanwhile goes to stderr, since stdout holds only the command's answer. A Ray of this machine
    alone has the CPUs that this process may use, listens on loopback only, and keeps its files
    where no other user can read them.

    Raises:
        UserError: no cluster answers, or not to this process's token.
    """
    address = None if executor.address == "local" else _cluster_address(executor.address)
    auth = auth_mode(address) if address else "disabled"
    with (
        tempfile.TemporaryDirectory(
            prefix="hpt", dir=short_temporary_folder(), ignore_cleanup_errors=True
        ) as folder,
        environment(ray_environment(auth, local=address is None)),
        redirect_stdout(Brief(sys.stderr)),  # where Ray prints that a node died, say
    ):
        try:
            _init(address, folder)
            yield Path(folder)
        finally:
            _shut_down()


def _cluster_address(address: str) -> str:
    """Return `host:port` of a cluster that answers; `auto` is the one of this machine."""
    if address == "auto":
        try:
            found = canonicalize_bootstrap_address(address)
        except ConnectionError as error:
            raise no_cluster(address) from error
        if found is None:
            raise no_cluster(address)
        address = found
    require_answer(address)
    return address


def _init(address: str | None, folder: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Ray opens its own folder to all users, hence one below ours.
        options |= {"include_dashboard": False, "_temp_dir": f"{folder}/r"}
        options |= {"object_store_memory": OBJECT_STORE_BYTES, "num_cpus": usable_cpus()}
    try:
        with own_sigterm():
            ray.init(address or "local", **options)
    except AuthenticationError as error:
        raise wrong_token(str(address)) from error
    except ConnectionError as error:
        raise no_cluster(str(address)) from error


def _shut_down() -> None:
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(SHUTDOWN_SECONDS)
