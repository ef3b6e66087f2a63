"""A Ray session for the length of a command: on this machine alone, or joined to a cluster.

Address, authentication, environment and signal handlers are settled before Ray starts.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import PlacementGroupID
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from hptransfer.config import ExecutorConfig
from hptransfer.errors import UserError
from hptransfer.execution.resources import usable_cpus

# Seconds to wait for a cluster's head to accept a connection.
CONNECT_SECONDS = 5.0
# Ray's socket paths add about 70 characters to its folder, and may have 107 in all.
LONGEST_FOLDER = 22


def require_answer(address: str) -> None:
    """Refuse an address where nothing listens, within seconds; Ray itself waits for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            f"`executor.address` must be local, auto or host:port, but got {address}. Through a "
            "Ray client the sweep would run on the head node, away from its results folder. Run "
            "the same command on the cluster, for example with `ray job submit`."
        )
    if not answers(address):
        raise no_cluster(address)


def answers(address: str) -> bool:
    """Whether something listens at `host:port`.

    Raises:
        UserError: the address is no `host:port`.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise UserError(f"`executor.address` must be local, auto or host:port, but got {address}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def no_cluster(address: str) -> UserError:
    """Return the error of an address where no Ray cluster answers."""
    return UserError(
        "`executor.address` must be that of a running Ray cluster, but none answers at "
        f"{address}. Start one with `ray start --head`, or use executor.address=local."
    )


def wrong_token(address: str) -> UserError:
    """Return the error of a cluster that refuses this process's token, or has none itself."""
    return UserError(
        f"The Ray cluster at {address} must have the same authentication as this command, but it "
        f"refuses RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} or has another token. Give both the "
        "same RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH."
    )


def auth_mode(address: str) -> str:
    """Return the authentication mode for joining `host:port`; print a warning if it is unsafe.

    Raises:
        UserError: nobody chose a mode for an address that others can reach.
    """
    chosen = os.environ.get("RAY_AUTH_MODE", "").lower()
    safe = is_loopback(address)
    if chosen == "disabled" and not safe:
        print(
            f"Warning: RAY_AUTH_MODE=disabled, so anyone who can reach {address} can run programs "
            "there. Use RAY_AUTH_MODE=token unless you trust the whole network.",
            file=sys.stderr,
        )
    if chosen:
        return chosen
    if _has_token():
        return "token"
    if safe:
        return "disabled"
    raise UserError(
        f"A Ray cluster that others can reach must ask for a token, but {address} is reachable "
        "from other machines and neither RAY_AUTH_MODE nor a token is set. Start the cluster and "
        "this command with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN_PATH (`ray get-auth-token "
        "--generate`), or with RAY_AUTH_MODE=disabled on a network that you trust."
    )


def _has_token() -> bool:
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches `host:port`."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ray_environment(auth: str, *, local: bool) -> dict[str, str]:
    """Return the variables for starting Ray: silent, private, without its signal handlers."""
    variables = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_AUTH_MODE": auth,
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # `PackQueue` has the real limit
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    if local:
        # Workers import what we import.
        paths = [path for path in sys.path if path]
        variables |= {"RAY_ADDRESS": "local", "PYTHONPATH": os.pathsep.join(paths)}
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
    """Return the folder for Ray's sockets: the temporary one, or /tmp if its path is too long."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep the SIGTERM handler over a `with` block, where `ray.init` would leave its own."""
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
    if _shared is not None:
        with redirect_stdout(Brief(sys.stderr)):
            yield _shared.folder()
            _free_places()
        return
    address = None if executor.address == "local" else _cluster_address(executor.address)
    # Ray prints to stdout that a node or a worker died, say, and may do so until it is shut down.
    with _surroundings(address) as folder, redirect_stdout(Brief(sys.stderr)):
        try:
            _init(address, folder)
            yield Path(folder)
        finally:
            _shut_down()


@contextmanager
def _surroundings(address: str | None) -> Iterator[str]:
    """Set the environment of a Ray session for a `with` block; yield a folder, removed after it."""
    auth = auth_mode(address) if address else "disabled"
    with (
        tempfile.TemporaryDirectory(
            prefix="hpt", dir=short_temporary_folder(), ignore_cleanup_errors=True
        ) as folder,
        environment(ray_environment(auth, local=address is None)),
    ):
        yield folder


class _SharedRay:
    """A Ray of this machine that several `ray_session`s share, started in a thread when wanted."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._starter = ThreadPoolExecutor(1)
        self._started: Future[None] | None = None

    def start(self) -> None:
        """Start Ray without waiting for it."""
        if self._started is None:
            self._started = self._starter.submit(_init, None, self._folder)

    def folder(self) -> Path:
        """Wait until Ray has started; return a new folder for one session."""
        self.start()
        assert self._started is not None, "Ray has just been started"
        self._started.result()
        return Path(tempfile.mkdtemp(dir=self._folder))

    def close(self) -> None:
        """End Ray if it was started, and then the thread, whose end would kill Ray's processes."""
        if self._started is not None:
            wait([self._started])
            with redirect_stdout(Brief(sys.stderr)):
                _shut_down()
        self._starter.shutdown()


_shared: _SharedRay | None = None


@contextmanager
def shared_ray(*, ahead: bool) -> Iterator[None]:
    """Let all `ray_session`s on this machine in a `with` block share one Ray.

    Args:
        ahead: whether Ray starts at once, while this process does something else.
    """
    global _shared
    with _surroundings(None) as folder:
        _shared = _SharedRay(folder)
        try:
            if ahead:
                _shared.start()
            yield
        finally:
            shared, _shared = _shared, None
            shared.close()


def _free_places() -> None:
    """End the workers of a Ray of our own that is used again: Tune leaves them in their places."""
    for name, group in placement_group_table().items():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


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
