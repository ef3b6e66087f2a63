"""Chaos: a sweep on a Ray cluster while its workers, nodes, driver, disk and ledger are attacked.

    python -m tests.support.chaos --kills 100 --seed 0

Every fault is drawn from one seeded stream. After each start of the driver the ledger must still
hold every line that it held before; in the end it must equal an undisturbed run's: same keys, same
losses to the bit, none twice, none missing. A sweep that ends too early gets more seeds. Needs
root, for a small disk that can be filled and made read-only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "HPTRANSFER_CHAOS"
DISK = "size=6m"
# A fault strikes so many seconds after a row was recorded, at most.
LATEST_S = 3.0
MORE_SEEDS = 8
TITLES = {b"ray::PackWorker", b"ray::ResourceTrainable"}  # of processes that run packs
DRIVER_FAULTS = ("kill driver", "terminate driver", "interrupt driver")
CLUSTER_FAULTS = ("kill worker", "kill node")
DISK_FAULTS = ("fill disk", "make disk read-only")
CUT = "cut last line"
ENDING = (*DRIVER_FAULTS, *DISK_FAULTS, CUT)  # the driver's life
FAULTS = (*CLUSTER_FAULTS, *ENDING)
KILLS = ("kill driver", *CLUSTER_FAULTS)
SIGNALS: dict[str, signal.Signals] = dict(
    zip(DRIVER_FAULTS, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT), strict=True)
)

# Every fault once, in as few starts as can be.
EACH_ONCE = ([*CLUSTER_FAULTS, "kill driver"], *([fault] for fault in ENDING[1:]))

SWEEP = """\
name: chaos
question: Does it survive?
statistic: None.
model: {{width: 8, base_width: 8, depth: 1, head_dim: 4}}
budget: {{steps: 150, batch_size: 8, eval_samples: 16, eval_draws: 2}}
runtime: {{pack_size: 2}}
sweep:
  widths: [8, 16, 32]
  parametrizations: [mup, standard]
  seeds: {seeds}
  gate: false
search:
  lr: {{low: -8, high: -1, step: 1}}
"""


@dataclass
class Summary:
    """What was done to a sweep, and what it lost."""

    trials: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    rows_lost: int = 0
    rows_changed: int = 0
    rows_twice: int = 0
    tracebacks: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Processes and nodes ended by SIGKILL."""
        return sum(self.faults[name] for name in KILLS)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, altered or doubled."""
        return not (self.rows_lost or self.rows_changed or self.rows_twice or self.tracebacks)

    def text(self) -> str:
        """Say it in a few lines."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        exits = ", ".join(f"{how} {count}" for how, count in sorted(self.exits.items()))
        return (
            f"{self.trials} trials, {self.starts} starts of the driver, {self.kills} kills, "
            f"{sum(self.faults.values())} faults in {self.seconds:.0f} s\n"
            f"faults: {faults}\nexit codes after them: {exits}\n"
            f"rows lost: {self.rows_lost}, rows changed: {self.rows_changed}, rows twice: "
            f"{self.rows_twice}, tracebacks: {self.tracebacks}"
        )


def environment() -> dict[str, str]:
    """Return what the driver and the cluster run under."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        "RAY_health_check_initial_delay_ms": "0",
    }


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk for the length of a `with` block."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Nodes:
    """Ray's in-process cluster: a head without CPUs, and nodes of one CPU."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.mark = uuid.uuid4().hex
        os.environ.update({MARK: self.mark} | {k: environment()[k] for k in _RAY_VARIABLES})
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add() for _ in range(count)]

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return str(self._cluster.address)

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)

    def kill_node(self, chance: random.Random) -> None:
        """Lose a node, and let another join."""
        lost = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.remove_node(lost, allow_graceful=False)
        self._nodes.append(self._add())

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill a process that runs packs; False where none does for ten seconds."""
        deadline = time.monotonic() + 10
        while not (workers := sorted(self._workers())):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        with suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
        return True

    def _workers(self) -> Iterator[int]:
        """Yield the processes that run packs; a raylet's are its children, for they lose their
        environment when Ray gives them a title."""
        raylets = {pid for pid in _processes() if self._is_ours(pid)}
        for pid in _processes():
            with suppress(OSError):
                parent = int(_bytes(pid, "status").decode().split("PPid:")[1].split()[0])
                if parent in raylets and TITLES & {
                    *_bytes(pid, "cmdline").rstrip(b"\0").split(b".")
                }:
                    yield pid

    def _is_ours(self, pid: int) -> bool:
        with suppress(OSError):
            return f"{MARK}={self.mark}".encode() in _bytes(pid, "environ")
        return False

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


_RAY_VARIABLES = tuple(name for name in environment() if name.startswith("RAY_"))


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _bytes(pid: int, name: str) -> bytes:
    return (Path("/proc") / str(pid) / name).read_bytes()


class Chaos:
    """A sweep that is started, attacked and started again."""

    def __init__(self, folder: Path, nodes: Nodes, seed: int, seeds: int) -> None:
        self.chance = random.Random(seed)
        self.folder, self.nodes, self.disk = folder, nodes, folder / "disk"
        self.sweep = folder / "chaos.yaml"
        self.seeds = 0
        self.grow(seeds)
        self.summary = Summary()
        self._lines: set[bytes] = set()  # that the ledger held

    @property
    def ledger(self) -> Path:
        return self.disk / "chaos" / "ledger.jsonl"

    def grow(self, seeds: int = MORE_SEEDS) -> None:
        """Ask for more trials."""
        self.seeds += seeds
        self.sweep.write_text(SWEEP.format(seeds=list(range(self.seeds))))

    def strike_each(self) -> None:
        """Let every fault strike once; one that came too late for a life comes in the next."""
        for faults in EACH_ONCE:
            while missing := [fault for fault in faults if not self.summary.faults[fault]]:
                if self.live(missing):
                    self.grow()

    def drawn_faults(self) -> list[str]:
        """Draw what happens in one life of the driver: up to twelve losses, and an end."""
        losses = self.chance.choices(CLUSTER_FAULTS, k=self.chance.randint(0, 12))
        weights = [3 if fault in KILLS else 1 for fault in ENDING]
        return [*losses, *self.chance.choices(ENDING, weights)]

    def command(self, *words: str) -> list[str]:
        """Return the sweep's command."""
        return [sys.executable, "-m", "hptransfer", "sweep", str(self.sweep), *words]

    def start(self) -> subprocess.Popen[str]:
        """Start the driver."""
        self.summary.starts += 1
        words = (
            *(f"--results={self.disk}", f"executor.address={self.nodes.address}"),
            *(f"executor.storage={self.folder / 'storage'}", "executor.checkpoint_s=0"),
        )
        return subprocess.Popen(
            self.command(*words),
            env=environment(),
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def lines(self) -> list[bytes]:
        """Return the ledger's whole lines."""
        if not self.ledger.exists():
            return []
        return [line for line in self.ledger.read_bytes().split(b"\n")[:-1] if line]

    def _wait_for_news(self, driver: subprocess.Popen[str]) -> None:
        """Wait until the driver has recorded a row or has ended."""
        before, deadline = len(self.lines()), time.monotonic() + 120
        while len(self.lines()) <= before and driver.poll() is None:
            assert time.monotonic() < deadline, "the driver records nothing"
            time.sleep(0.02)

    def live(self, faults: Sequence[str]) -> bool:
        """Start the driver, let faults strike, and see what is left; whether the sweep is done."""
        driver = self.start()
        for fault in faults:
            self._wait_for_news(driver)
            time.sleep(self.chance.uniform(0, LATEST_S))
            if driver.poll() is None and self._strike(fault, driver):
                self.summary.faults[fault] += 1
        _, err = driver.communicate(timeout=300)
        self._free_disk()
        last = faults[-1] if faults else "no fault"
        if last == CUT:
            self.summary.faults[CUT] += self._cut_last_line()
        self.summary.exits[f"{last} {driver.returncode}:"] += 1
        if "Traceback" in err:
            self.summary.tracebacks += 1
            print(err, file=sys.stderr)
        self._compare_with_before()
        return driver.returncode == 0

    def _strike(self, fault: str, driver: subprocess.Popen[str]) -> bool:
        match fault:
            case "kill worker":
                return self.nodes.kill_worker(self.chance)
            case "kill node":
                self.nodes.kill_node(self.chance)
            case "fill disk":
                with suppress(OSError), (self.disk / "filler").open("wb") as file:
                    while True:
                        file.write(bytes(4096))
            case "make disk read-only":
                self._make_read_only()
            case _:
                driver.send_signal(SIGNALS.get(fault, signal.SIGKILL))
        return fault != CUT  # counted once the line is cut

    def _make_read_only(self) -> None:
        # Through a mount of its own, since the disk is busy while the ledger is open.
        path = str(self.ledger.parent)
        subprocess.run(["mount", "--bind", path, path], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)

    def _free_disk(self) -> None:
        subprocess.run(["umount", str(self.ledger.parent)], check=False, capture_output=True)
        (self.disk / "filler").unlink(missing_ok=True)

    def _cut_last_line(self) -> bool:
        lines = self.lines()
        if not lines:
            return False
        cut = self.chance.randrange(1, len(lines[-1]))
        with self.ledger.open("r+b") as file:
            file.truncate(self.ledger.stat().st_size - cut)
        self._lines.discard(lines[-1])  # this one we took away ourselves
        return True

    def _compare_with_before(self) -> None:
        lines = self.lines()
        self.summary.rows_lost += len(self._lines - set(lines))
        self._lines |= set(lines)

    def finish(self, undisturbed: dict[str, Any]) -> Summary:
        """Let the sweep end, and compare it with an undisturbed one."""
        while not self.live([]):
            pass
        found = [outcome(json.loads(line)) for line in self.lines()]
        ours = dict(found)
        self.summary.trials = len(undisturbed)
        self.summary.rows_twice = len(found) - len(ours)
        self.summary.rows_lost += len(undisturbed.keys() - ours.keys())
        self.summary.rows_changed += sum(ours[k] != v for k, v in undisturbed.items() if k in ours)
        self.summary.rows_changed += len(ours.keys() - undisturbed.keys())
        return self.summary


def outcome(row: dict[str, Any]) -> tuple[str, Any]:
    """Return a row's key, and all that must not depend on what happened around it."""
    kept = ("status", "loss", "width", "parametrization", "hps", "seed", "config", "metrics")
    return row["trial_key"], {k: row[k] for k in (*kept, "diverged_at_step")}


def run(folder: Path, *, kills: int, seed: int, seeds: int, every_fault: bool = False) -> Summary:
    """Attack a sweep until so many kills are reached, or with each fault once."""
    started = time.monotonic()
    nodes = Nodes(2)
    try:
        with small_disk(folder / "disk"):
            chaos = Chaos(folder, nodes, seed, seeds)
            if every_fault:
                chaos.strike_each()
            while chaos.summary.kills < kills:
                if chaos.live(chaos.drawn_faults()):
                    chaos.grow()
                print(f"{chaos.summary.kills} kills, {len(chaos.lines())} rows", file=sys.stderr)
            undisturbed = _undisturbed(chaos)
            summary = chaos.finish(undisturbed)
    finally:
        nodes.close()
    summary.seconds = time.monotonic() - started
    return summary


def _undisturbed(chaos: Chaos) -> dict[str, Any]:
    words = ("--quiet", "executor=local", "name=undisturbed", f"--results={chaos.folder}")
    subprocess.run(chaos.command(*words), env=environment(), check=True, stdout=subprocess.DEVNULL)
    lines = (chaos.folder / "undisturbed" / "ledger.jsonl").read_text().splitlines()
    return dict(outcome(json.loads(line)) for line in lines)


def main() -> int:
    """Run and say how it went."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=16, help="seeds of the sweep at first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        summary = run(
            Path(folder), kills=arguments.kills, seed=arguments.seed, seeds=arguments.seeds
        )
    print(summary.text())
    return 0 if summary.sound else 1


if __name__ == "__main__":
    sys.exit(main())
