"""Two hosts on one machine: network namespaces joined by a link that can be cut.

As root: `python -m tests.support.two_hosts FOLDER` sweeps across them, interrupts and continues,
cuts the link while both train, lets a fresh worker join, and prints what happened; FOLDER is what
the hosts share.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

SWEEP = """\
name: two_hosts
question: Does a sweep outlive its link?
statistic: Drift of the optimum.
model: {width: 8, base_width: 8, depth: 1, head_dim: 4}
budget: {steps: 600, batch_size: 8, eval_samples: 16, eval_draws: 2}
runtime: {pack_size: 3}
sweep:
  widths: [8, 16]
  parametrizations: [mup]
  seeds: [0, 1]
  gate: false
search:
  lr: {low: -8, high: -3, step: 1}
"""
PORT = 6379
# A node is dead after two seconds of silence, not half a minute.
FAST_DEATH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
STORE = ["--object-store-memory", "100000000"]
ONE_CPU = ["--num-cpus", "1", "--disable-usage-stats", "--block", *STORE]


def missing() -> str | None:
    """Say what this machine lacks for two hosts, if anything."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "ip and unshare are not installed"
    tried = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "this machine makes no network namespaces"


class TwoHosts:
    """A head and a worker, each with its own network and its own temporary folder of Ray's.

    Only `shared` is one folder on both. The cluster asks for a token.
    """

    head_ip, worker_ip = "10.213.77.1", "10.213.77.2"

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        tag = secrets.token_hex(2)
        self.head, self.worker = f"hpth{tag}", f"hptw{tag}"
        self.scratch = Path(f"/tmp/hpt2{tag}")  # short: Ray's sockets lie in it
        self._running: list[subprocess.Popen] = []

    @property
    def address(self) -> str:
        """Where the head listens."""
        return f"{self.head_ip}:{PORT}"

    def __enter__(self) -> TwoHosts:
        self.scratch.mkdir(mode=0o700)
        (self.scratch / "token").write_text(secrets.token_hex(32))
        (self.scratch / "ray").mkdir()
        try:
            for name in (self.head, self.worker):
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            pair = ("type", "veth", "peer", "name", "cable", "netns", self.worker)
            _run("ip", "-n", self.head, "link", "add", "cable", *pair)
            for name, ip in ((self.head, self.head_ip), (self.worker, self.worker_ip)):
                _run("ip", "-n", name, "addr", "add", f"{ip}/24", "dev", "cable")
            self.restore()
            folder = ("--temp-dir", f"{self.scratch}/ray", "--include-dashboard", "false")
            here = ("--node-ip-address", self.head_ip, "--port", str(PORT))
            self.start(self.head, _ray(), "start", "--head", *here, *folder, *ONE_CPU)
            self._wait_for_nodes(1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in reversed(self._running):
            _end(process)
        for name in (self.worker, self.head):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def join(self, nodes: int = 2) -> subprocess.Popen:
        """Start a worker; return as soon as the cluster has so many nodes."""
        own_folder = f"mount -t tmpfs none {self.scratch}/ray && exec "
        here = f"--address {self.address} --node-ip-address {self.worker_ip}"
        command = f"{own_folder}{_ray()} start {here} {' '.join(ONE_CPU)}"
        process = self.start(self.worker, "unshare", "-m", "sh", "-c", command)
        self._wait_for_nodes(nodes)
        return process

    def cut(self) -> None:
        """Unplug the link."""
        _run("ip", "-n", self.head, "link", "set", "cable", "down")

    def restore(self) -> None:
        """Plug it in."""
        for name in (self.head, self.worker):
            _run("ip", "-n", name, "link", "set", "cable", "up")

    def start(self, host: str, *command: str, log: str = "ray.log") -> subprocess.Popen:
        """Start a program on a host, in a process group of its own."""
        with (self.scratch / log).open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", host, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=self.shared,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def environment(self) -> dict[str, str]:
        """Return what programs of this cluster are run under."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **FAST_DEATH,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.scratch / "token"),
            "RAY_TMPDIR": str(self.scratch / "ray"),
            "OMP_NUM_THREADS": "1",
        }

    def alive(self) -> int:
        """Count the nodes that the head holds for alive."""
        program = (
            "import sys, ray; from ray._raylet import GcsClient; "
            f"nodes = GcsClient(address={self.address!r}).get_all_node_info(timeout=5).values(); "
            "print(sum(node.state == 0 for node in nodes))"
        )
        done = subprocess.run(
            ["ip", "netns", "exec", self.head, sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=self.environment(),
            check=False,
        )
        return int(done.stdout) if done.returncode == 0 else 0

    def _wait_for_nodes(self, count: int) -> None:
        self.wait_until(lambda: self.alive() == count, f"{count} nodes")

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        """Return as soon as a condition holds; raise with Ray's log if it does not."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                logs = [path.read_text()[-3000:] for path in self.scratch.glob("*.log")]
                raise TimeoutError(f"No {what} after {seconds:g} s:\n" + "\n".join(logs))
            time.sleep(0.3)


def sweep_command(shared: Path, results: str, overrides: Sequence[str]) -> list[str]:
    """Return the command of the sweep, its results in a folder of their own."""
    (shared / "two_hosts.yaml").write_text(SWEEP)
    words = ["sweep", "two_hosts.yaml", "--results", results, *overrides]
    return [sys.executable, "-m", "hptransfer", *words]


def rows(shared: Path, results: str) -> int:
    """Count the lines of a ledger."""
    ledger = shared / results / "two_hosts" / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.is_file() else 0


def disturbed_sweep(shared: Path, tell: Callable[[str], None]) -> int:
    """Sweep across two hosts: interrupt and continue, cut the link, and let a fresh worker join.

    Returns the sweep's exit code; its rows are in `shared/cluster`.
    """
    started = time.monotonic()

    def note(text: str) -> None:
        tell(f"{time.monotonic() - started:5.1f} s  {text}")

    with TwoHosts(shared) as hosts:
        note(f"head {hosts.address} is up, with a token")
        worker = hosts.join()
        note(f"worker {hosts.worker_ip} has joined")
        executor = ("executor.name=ray", f"executor.address={hosts.address}")
        storage = ("executor.checkpoint_s=0", f"executor.storage={shared}/checkpoints")
        command = sweep_command(shared, "cluster", [*executor, *storage])
        sweep = _until_a_row(hosts, command)
        sweep.send_signal(signal.SIGINT)
        note(f"interrupted after {rows(shared, 'cluster')} rows: exit code {sweep.wait(60)}")
        sweep = _until_a_row(hosts, command)
        note(f"the same command again, {rows(shared, 'cluster')} rows")
        hosts.cut()
        note(f"link cut, after {rows(shared, 'cluster')} rows")
        hosts.wait_until(lambda: hosts.alive() == 1, "dead node")
        note("the head holds the worker for dead")
        hosts.restore()
        _end(worker)
        hosts.join()
        note(f"link restored, a fresh worker has joined, {rows(shared, 'cluster')} rows")
        code = sweep.wait(timeout=200)
        note(f"the sweep ended with {code}, {rows(shared, 'cluster')} rows; it said:")
        tell((hosts.scratch / "sweep.log").read_text())
    return code


def _until_a_row(hosts: TwoHosts, command: Sequence[str]) -> subprocess.Popen:
    """Start the sweep and return once it has recorded one more row."""
    before = rows(hosts.shared, "cluster")
    sweep = hosts.start(hosts.head, *command, log="sweep.log")
    hosts.wait_until(
        lambda: rows(hosts.shared, "cluster") > before or sweep.poll() is not None, "row"
    )
    return sweep


def undisturbed_sweep(shared: Path) -> int:
    """Run the same sweep in one process; its rows are in `shared/local`."""
    command = sweep_command(shared, "local", ["executor.name=local"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=shared, env=environment, capture_output=True, check=False
    ).returncode


def losses(shared: Path, results: str) -> dict[str, float]:
    """Return a ledger's losses by trial, each of which must be there once."""
    lines = (shared / results / "two_hosts" / "ledger.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    by_key = {row["trial_key"]: row["loss"] for row in found}
    assert len(by_key) == len(found)
    return by_key


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _end(process: subprocess.Popen) -> None:
    """End a process that was started here, with all of its group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Run both sweeps and compare them."""
    if reason := missing():
        print(reason)
        return 2
    shared = Path(sys.argv[1]).resolve()
    shared.mkdir(parents=True, exist_ok=True)
    codes = disturbed_sweep(shared, print), undisturbed_sweep(shared)
    same = losses(shared, "cluster") == losses(shared, "local")
    print(f"undisturbed in one process: exit {codes[1]}; rows {'the same' if same else 'DIFFER'}")
    return 0 if same and codes == (0, 0) else 1


if __name__ == "__main__":
    sys.exit(main())
