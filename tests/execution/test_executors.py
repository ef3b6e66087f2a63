"""One contract for all executors, and what only Ray has to survive.

The functions that stand in for `run_pack` are at the top of the module, so that workers can
import them; they are cheap where a test is about the executor and not about training.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray

from hptransfer.config import CheckpointConfig, ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.identity import trial_key
from hptransfer.errors import Interrupted, MachineError, UserError
from hptransfer.execution import PackError, kept_executor, run_packs
from hptransfer.execution.ray.session import auth_mode, own_sigterm, require_answer
from hptransfer.execution.resources import (
    Resources,
    compile_threads,
    concurrent_packs,
    no_place,
    resources_of,
    usable_cpus,
)
from hptransfer.execution.work import PackTask
from hptransfer.results.trial_result import TrialResult
from tests.support.executors import RUNTIME, Recorder, cheap, executor

__all__ = ["executor"]

GIB = 2**30
RAY = ExecutorConfig(name="ray")
# Executors that start all they need, and must leave nothing of it.
OWN = [
    pytest.param(ExecutorConfig(name="local"), id="local"),
    pytest.param(RAY, id="ray", marks=pytest.mark.cluster),
]


def raise_at_seed_two(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Raise, as a bug would."""
    if configs[0].seed == 2:
        raise ZeroDivisionError("a bug in the model")
    return cheap(configs, runtime)


def raise_for_seed_two(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Raise in every pack that holds seed 2."""
    if any(config.seed == 2 for config in configs):
        raise ZeroDivisionError("a bug in the model")
    return cheap(configs, runtime)


def refuse(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Raise what the user can fix."""
    raise UserError("The data set is not there. Download it.")


def forget_one(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Return fewer results than trials."""
    return cheap(configs, runtime)[1:]


def sleep(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Take a minute, but for seed 0."""
    time.sleep(0.0 if configs[0].seed == 0 else 60.0)
    return cheap(configs, runtime)


def die(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Kill the worker, as the kernel does without memory: at seed 1 once, at seed 2 always."""
    marker = Path(runtime.data_folder or "") / f"died{configs[0].seed}"
    if configs[0].seed == 2 or (configs[0].seed == 1 and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return cheap(configs, runtime)


def _packs(make: Callable[..., TrialConfig], count: int) -> list[tuple[TrialConfig, ...]]:
    return [tuple(make(lr, seed=seed) for lr in (-7.0, -5.0)) for seed in range(count)]


def _facts(result: TrialResult) -> tuple:
    return result.status, result.loss, result.train_loss, result.flops, result.curve


@pytest.fixture
def clean_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short temporary folder, which must be empty in the end."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


class TestContract:
    def test_real_packs_give_the_same_in_any_order(self, executor, tiny_trial):
        packs = _packs(tiny_trial, 3)
        expected = Recorder().run(packs, ExecutorConfig(name="local"))
        found = Recorder().run(packs[::-1], executor)
        assert sorted(found.results) == [0, 1, 2]
        assert sorted(found.started) == [0, 1, 2]
        assert found.threads == {threading.current_thread()}
        for index, pack in enumerate(packs):
            results = found.results[2 - index]
            assert [result.config for result in results] == list(pack)
            assert [result.status for result in results] == [Status.completed] * 2
            assert list(map(_facts, results)) == list(map(_facts, expected.results[index]))

    @pytest.mark.parametrize("started", OWN)
    def test_a_bug_stops_the_sweep_and_keeps_what_was_recorded(
        self, started, tiny_trial, capfd, clean_folder
    ):
        recorder = Recorder()
        packs = _packs(tiny_trial, 30)
        environment, handlers = dict(os.environ), _handlers()
        with pytest.raises(PackError) as caught:
            recorder.run(packs, started, raise_at_seed_two)
        assert caught.value.trial_keys == tuple(map(trial_key, packs[2]))
        assert "ZeroDivisionError: a bug in the model" in str(caught.value)
        assert "in raise_at_seed_two" in str(caught.value)
        assert recorder.results and set(recorder.results) < set(range(30)) - {2}
        assert capfd.readouterr() == ("", "")
        assert dict(os.environ) == environment
        assert _handlers() == handlers
        assert list(clean_folder.iterdir()) == []

    def test_the_parts_of_a_pack_that_raised_run_in_its_place(self, executor, tiny_trial):
        def halves(index: int, error: PackError) -> list:
            raised.append(error)
            pack = packs[index]
            parts = [pack[: len(pack) // 2], pack[len(pack) // 2 :]] if len(pack) > 1 else []
            packs.extend(parts)
            return parts

        raised: list[PackError] = []
        recorder = Recorder()
        packs = [
            tuple(tiny_trial(seed=seed) for seed in range(first, first + 4)) for first in (0, 4)
        ]
        run_packs(
            packs[:2],
            RUNTIME,
            executor,
            on_results=recorder.on_results,
            on_start=recorder.on_start,
            on_error=halves,
            run_pack=raise_for_seed_two,
        )
        assert [len(error.trial_keys) for error in raised] == [4, 2, 1]
        assert raised[-1].reason == "ZeroDivisionError: a bug in the model"
        assert raised[-1].frame.endswith(" in raise_for_seed_two")
        recorded = [result.config.seed for found in recorder.results.values() for result in found]
        assert sorted(recorded) == [0, 1, 3, 4, 5, 6, 7]
        if executor.name == "local":  # a worker of Ray's takes its next pack at once
            assert recorder.started == [0, 2, 3, 4, 5, 1]

    def test_an_error_while_recording_stops_the_sweep(self, executor, tiny_trial):
        def full_disk(index: int, results: list[TrialResult]) -> None:
            seen.append(index)
            raise MachineError("The disk is full.")

        seen: list[int] = []
        with pytest.raises(MachineError, match="The disk is full"):
            run_packs(
                _packs(tiny_trial, 5), RUNTIME, executor, on_results=full_disk, run_pack=cheap
            )
        assert len(seen) == 1

    def test_results_may_bring_further_packs(self, executor, tiny_trial):
        def one_more(index: int, results: list[TrialResult]) -> list:
            recorder.on_results(index, results)
            return _packs(tiny_trial, 6)[index + 2 : index + 3] if index < 4 else []

        recorder = Recorder()
        run_packs(
            _packs(tiny_trial, 2),
            RUNTIME,
            dataclasses.replace(executor, workers=1),
            on_results=one_more,
            on_start=recorder.on_start,
            run_pack=cheap,
        )
        assert recorder.started == list(range(6))
        seeds = {index: found[0].config.seed for index, found in recorder.results.items()}
        assert seeds == {index: index for index in range(6)}

    def test_a_pack_knows_where_its_checkpoints_go(self, executor, tiny_trial, tmp_path):
        class Stop(Exception):
            pass

        def stop(index: int, results: list[TrialResult]) -> None:
            raise Stop

        places = CheckpointConfig(str(tmp_path), every_s=0.0)
        with pytest.raises(Stop):
            run_packs(_packs(tiny_trial, 1), RUNTIME, executor, on_results=stop, checkpoints=places)
        assert any(path.is_file() for path in tmp_path.rglob("*"))

    def test_nothing_pending_does_nothing(self, executor):
        assert Recorder().run([], executor).results == {}


def _handlers() -> list:
    return [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]


@pytest.mark.parametrize("run_pack", [refuse, forget_one])
def test_an_error_is_the_same_from_a_worker_and_in_this_process(run_pack, tiny_trial):
    pack = _packs(tiny_trial, 1)[0]
    sent = pickle.loads(pickle.dumps(PackTask(0, (0,), pack, RUNTIME, run_pack)))
    error = pickle.loads(pickle.dumps(sent.run())).error
    with pytest.raises((UserError, PackError)) as caught:
        Recorder().run([pack], ExecutorConfig(name="local"), run_pack)
    assert type(error) is type(caught.value) is (UserError if run_pack is refuse else PackError)
    assert str(error).splitlines()[-1] == str(caught.value).splitlines()[-1]


NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0, "memory": 6.0 * GIB, "disk": 2.0}},
    {
        "Alive": True,
        "Resources": {"CPU": 16.0, "GPU": 2.0, "memory": 13.0 * GIB, "accelerator_type:H100": 1.0},
    },
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("request_", "workers", "count"),
    [
        (Resources(1, 0), None, 20),
        (Resources(4, 0), None, 5),
        (Resources(1, 1), None, 2),
        (Resources(1, 0.5), None, 4),
        (Resources(1, 0), 3, 3),
        (Resources(0.1, 0), None, 200),
        (Resources(1, 0), 30, 20),
        (Resources(1, 0, 3.0), None, 6),
        (Resources(1, 0, 0.0, {"disk": 0.5}), None, 4),
        (Resources(1, 0, 0.0, {"accelerator_type:H100": 0.001}), None, 16),
    ],
)
def test_packs_at_a_time_follow_from_the_nodes(request_: Resources, workers: int, count: int):
    assert concurrent_packs(NODES, request_, workers) == count


@pytest.mark.parametrize("request_", [Resources(32, 0), Resources(1, 4), Resources(17, 1)])
def test_what_no_node_has_is_refused(request_: Resources):
    assert concurrent_packs(NODES, request_, None) == 0
    error = no_place([*NODES, NODES[0]], request_)
    assert "the nodes have: 2 with 4 CPUs and 0 GPUs; 16 CPUs and 2 GPUs" in str(error)


@pytest.mark.parametrize(
    ("offer", "asked", "threads"),
    [
        ({"CPU": 128.0, "GPU": 8.0}, Resources(1.0, 1.0), 16),  # a pack on each GPU
        ({"CPU": 128.0, "GPU": 8.0}, Resources(1.0, 0.5), 8),
        ({"CPU": 128.0}, Resources(1.0, 0.0), 1),
        ({"CPU": 128.0}, Resources(4.0, 0.0), 4),
        ({"CPU": 2.0, "GPU": 8.0}, Resources(1.0, 1.0), 1),
        ({"GPU": 1.0}, Resources(0.0, 1.0), 1),
    ],
)
def test_packs_compile_with_their_share_of_a_nodes_cores(offer, asked, threads: int) -> None:
    assert compile_threads({"Alive": True, "Resources": offer}, asked) == threads


def test_a_pack_on_cuda_asks_for_one_gpu():
    cuda = RuntimeConfig(device="cuda")
    assert resources_of(cuda, RAY) == Resources(1.0, 1.0)
    assert resources_of(cuda, ExecutorConfig(gpus=0.5)) == Resources(1.0, 0.5)
    assert resources_of(RUNTIME, ExecutorConfig(cpus=2.0)) == Resources(2.0, 0.0)
    with pytest.raises(UserError, match=r"executor\.gpus"):
        resources_of(cuda, ExecutorConfig(gpus=0.0))
    with pytest.raises(UserError, match=r"runtime\.device=cuda, or"):
        resources_of(RuntimeConfig(device="cuda:1"), RAY)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://head:10001", "head"])
def test_an_address_where_no_cluster_answers_is_refused(address: str):
    with pytest.raises(UserError, match=address):
        require_answer(address)


def test_the_own_sigterm_handler_survives_one_that_exits():
    def own(number: int, frame: object) -> None:
        raise Interrupted(number)

    kept = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(Interrupted), own_sigterm():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, kept)


def test_the_local_executor_does_not_import_ray():
    program = (
        "import sys, hptransfer.execution, "
        "hptransfer.sweeping.run.progress, "
        "hptransfer.results.ledger_writer; "
        "sys.exit(bool({'ray', 'torch', 'hydra', 'pandas'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_of_what_ray_prints_the_first_line_is_passed_on():
    from hptransfer.execution.ray.session import Brief

    stream = io.StringIO()
    print(
        "\x1b[33m(raylet)\x1b[0m The node died.\n    *** StackTrace\n    main()", file=Brief(stream)
    )
    print("another line", file=Brief(stream))
    assert stream.getvalue() == "(raylet) The node died.\nanother line\n"


@pytest.mark.cluster
@pytest.mark.parametrize(("number", "joins"), [(signal.SIGINT, False), (signal.SIGUSR1, True)])
def test_an_interrupted_sweep_raises_and_keeps_its_rows(
    number: signal.Signals, joins: bool, tiny_trial, request: pytest.FixtureRequest
):
    def interrupt(received: int, frame: object) -> None:
        raise Interrupted(received)

    def kill_soon(index: int, results: list[TrialResult]) -> None:
        done[index] = time.monotonic()
        threading.Timer(0.5, os.kill, (os.getpid(), number)).start()

    done: dict[int, float] = {}
    executor = request.getfixturevalue("running_ray") if joins else RAY
    kept = signal.signal(number, interrupt)
    try:
        with pytest.raises(Interrupted):
            run_packs(
                _packs(tiny_trial, 4), RUNTIME, executor, on_results=kill_soon, run_pack=sleep
            )
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, kept)
    assert list(done) == [0]


@pytest.mark.cluster
def test_sweeps_of_one_command_share_a_ray_that_ends_with_it(tiny_trial):
    nodes: list[str] = []
    packs = _packs(tiny_trial, 4)
    with kept_executor(RAY, ahead=True):
        for _ in range(2):  # the second needs the places of the first one's workers
            recorder = Recorder()
            recorder.run(packs, RAY, cheap)
            assert sorted(recorder.results) == [0, 1, 2, 3]
            nodes.append(ray.get_runtime_context().get_node_id())
    assert len({*nodes}) == 1
    assert not ray.is_initialized()
    with kept_executor(RAY, ahead=False):
        pass  # nothing was asked for, so nothing was started
    assert not ray.is_initialized()


@pytest.mark.cluster
def test_a_lost_worker_is_replaced_and_one_that_always_dies_is_named(
    running_ray, tiny_trial, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr("hptransfer.execution.ray.executor.RETRY_SECONDS", wait := 1.0)
    recorder = Recorder()
    packs = _packs(tiny_trial, 4)
    with pytest.raises(
        MachineError, match=f"run the same .* trials are {trial_key(packs[2][0])}, "
    ):
        recorder.run(packs, running_ray, die, RuntimeConfig(data_folder=str(tmp_path)))
    assert sorted(recorder.results) == [0, 1, 3]
    assert recorder.started.count(1) >= 2
    starts = [at for i, at in zip(recorder.started, recorder.times, strict=True) if i == 2]
    first, second, third = starts
    assert second - first >= wait and third - second >= 2 * wait
    assert capfd.readouterr().out == ""


@pytest.mark.cluster
def test_resources_that_no_node_has_are_refused(running_ray, tiny_trial):
    executor = dataclasses.replace(running_ray, cpus=1000.0)
    with pytest.raises(UserError, match="asks for 1000 CPUs and 0 GPUs, and the nodes have: "):
        Recorder().run(_packs(tiny_trial, 1), executor, cheap)


def shuffled(configs, runtime):
    """Return the results in another order."""
    return cheap(configs, runtime)[::-1]


@pytest.mark.parametrize("size", [2])
def test_results_out_of_order_are_a_bug(tiny_trial, size: int) -> None:
    from hptransfer.execution import PackError, run_packs

    pack = tuple(tiny_trial(lr) for lr in (-7.0, -5.0))
    with pytest.raises(PackError, match="in the order of its trials"):
        run_packs(
            [pack],
            RuntimeConfig(),
            ExecutorConfig(name="local"),
            on_results=lambda *_: None,
            run_pack=shuffled,
        )


class TestAuthentication:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch, tmp_path):
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_what_others_can_reach_needs_a_token(self, monkeypatch):
        with pytest.raises(UserError, match=r"10\.0\.0\.1:6379 is reachable .*RAY_AUTH_MODE"):
            auth_mode("10.0.0.1:6379")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
        assert auth_mode("10.0.0.1:6379") == "token"

    @pytest.mark.parametrize("address", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379"])
    def test_a_loopback_needs_none(self, address, capfd):
        assert auth_mode(address) == "disabled"
        assert capfd.readouterr().err == ""

    def test_going_without_on_purpose_is_told(self, monkeypatch, capfd):
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        assert auth_mode("head:6379") == "disabled"
        assert "anyone who can reach head:6379" in capfd.readouterr().err


def test_cpus_are_those_of_the_affinity_mask_and_the_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert usable_cpus(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert usable_cpus(tmp_path) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cpus(tmp_path) == 6
