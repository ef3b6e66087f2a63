"""Sweeps of the user's own trainer whose driver is killed: no row is lost and no process left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hptransfer.config import ExecutorConfig
from tests.support.chaos import outcome
from tests.support.external import processes as running
from tests.support.external import python, wait_until, write_sweep

KILLS = 5
LATEST_SECONDS = 0.8  # a driver is killed at most so long after a trial is seen to run
# It goes on from its checkpoint, has a child in a session of its own, and ignores SIGTERM.
TRAINER = """\
import json, math, os, signal, subprocess, sys, time
width, lr, mark = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sh", "-c", "sleep 600; : " + mark], start_new_session=True)
told = json.load(open(os.environ["HPTRANSFER_TRIAL"]))
state = told["folder"] + "/checkpoint"
start = int(open(state).read()) if os.path.exists(state) else 0
loss = width ** -0.2 + 0.03 * (math.log2(lr) + 7) ** 2
for step in range(start, 4):
    # A printed line that was not read yet is lost with the driver, and one in this file is not.
    with open(told["folder"] + "/reports.jsonl", "a") as file:
        print(json.dumps({"step": step, "loss": loss * (4 - step)}), file=file)
    time.sleep(0.08)
    open(state + ".part", "w").write(str(step + 1))
    os.replace(state + ".part", state)
print(json.dumps({"loss": loss, "steps_taken": 4.0}))
"""


class Driver:
    """The sweep's command, started again and again in a folder."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.overrides = folder, overrides
        self.mark = uuid.uuid4().hex
        write_sweep(
            folder / "mine.yaml",
            train={"command": python(TRAINER, "{width} {lr} {mark}"), "grace_s": 0.2},
            search={"lr": {"low": -8, "high": -5}},
            fixed={"mark": self.mark},
            executor=...,
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hptransfer", "sweep", "mine.yaml", "--quiet", *words]
        return subprocess.Popen(
            [*command, *self.overrides],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.DEVNULL,
        )

    def lines(self, name: str) -> list[bytes]:
        """Return the whole lines of a ledger."""
        path = self.folder / "results" / name / "ledger.jsonl"
        return path.read_bytes().splitlines() if path.is_file() else []

    def outcomes(self, name: str) -> list[tuple[str, Any]]:
        """Return what of each row must not depend on what happened around it."""
        return sorted(outcome(json.loads(line)) for line in self.lines(name))

    def processes(self) -> dict[int, str]:
        """Return the processes of trials that run."""
        return running(self.mark)


def attack(driver: Driver, seed: int) -> None:
    """Kill a driver again and again at random moments, and let the sweep end."""
    chance = random.Random(seed)
    kills = 0
    while kills < KILLS:
        before = driver.lines("mine")
        process = driver.start()
        wait_until(lambda p=process: driver.processes() or p.poll() is not None, 120)
        time.sleep(chance.uniform(0, LATEST_SECONDS))
        assert process.poll() is None, "the sweep ended before it was killed often enough"
        process.kill()
        process.wait(60)
        kills += 1
        assert driver.lines("mine")[: len(before)] == before
    assert driver.start().wait(300) == 0


def check(driver: Driver) -> None:
    """Compare a sweep that was killed with an undisturbed one."""
    wait_until(lambda: not driver.processes(), 30, driver.processes)
    assert driver.start("name=calm").wait(300) == 0
    found = driver.outcomes("mine")
    assert len({key for key, _ in found}) == len(found) == 12
    for ours, undisturbed in zip(found, driver.outcomes("calm"), strict=True):
        assert ours == undisturbed
    wait_until(lambda: not driver.processes(), 30, driver.processes)


@pytest.mark.slow
def test_a_local_sweep_survives_the_death_of_its_driver(tmp_path: Path) -> None:
    driver = Driver(tmp_path, ["executor=local"])
    attack(driver, seed=1)
    check(driver)


def test_an_interrupted_sweep_ends_its_trials_before_itself(tmp_path: Path) -> None:
    driver = Driver(tmp_path, ["executor=local"])
    process = driver.start()
    wait_until(lambda: driver.processes() or process.poll() is not None, 120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not driver.processes()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_on_ray_survives_the_death_of_its_driver(
    tmp_path: Path, running_ray: ExecutorConfig
) -> None:
    driver = Driver(tmp_path, ["executor=ray", f"executor.address={running_ray.address}"])
    attack(driver, seed=2)
    check(driver)


@pytest.mark.slow
@pytest.mark.cluster
def test_killed_processes_of_trials_on_ray_are_tried_again(
    tmp_path: Path, running_ray: ExecutorConfig
) -> None:
    driver = Driver(
        tmp_path,
        ["executor=ray", f"executor.address={running_ray.address}", "executor.retries=20"],
    )
    process, chance = driver.start(), random.Random(3)
    for _ in range(KILLS):
        wait_until(lambda: driver.processes() or process.poll() is not None, 120)
        time.sleep(chance.uniform(0, 0.2))
        victims = sorted(driver.processes())
        if victims:
            os.kill(chance.choice(victims), signal.SIGKILL)
    assert process.wait(300) == 0
    check(driver)
