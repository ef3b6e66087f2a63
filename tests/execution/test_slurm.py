"""Packs as jobs of SLURM: what is submitted, what is told of it, and what a killed sweep leaves.

There is no SLURM here. Stand-ins of its programs run the job scripts, so that all of submitit and
of our own code is real (`tests/support/slurm_programs.py`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.cli.main import main
from hptransfer.config import ExecutorConfig, RuntimeConfig, SlurmConfig, TrialConfig
from hptransfer.config.compose.compose import compose_file, shipped_folder
from hptransfer.config.compose.schema import is_whole
from hptransfer.config.identity import trial_key
from hptransfer.config.records import plain
from hptransfer.errors import Interrupted, MachineError, TrialsFailed, UserError
from hptransfer.execution import PackError, run_packs
from hptransfer.execution.resources import resources_of_pack
from hptransfer.execution.slurm import cluster
from hptransfer.execution.slurm.cluster import SlurmCluster, State, grouped, state_of
from hptransfer.execution.slurm.files import (
    JobRecord,
    Lost,
    decoded,
    encoded,
    pack_folder,
    read_job,
    read_outcome,
    write_job,
)
from hptransfer.execution.slurm.job import PackJob
from hptransfer.execution.slurm.request import request_of, sbatch_parameters
from hptransfer.execution.work import PackTask
from hptransfer.results.curves import read_curve
from hptransfer.system.files import write_whole
from tests.support.paths import ROOT
from tests.support.slurm_jobs import cheap, held, killed, refused, result, warned
from tests.support.slurm_programs import Slurm
from website.reference.comments import comments_of_fields

RUNTIME = RuntimeConfig()
QUICK = SlurmConfig(poll_s=0.3)
ON_SLURM = ExecutorConfig(name="slurm", slurm=QUICK)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Put stand-ins of SLURM's programs on PATH; jobs run in an empty folder."""
    programs = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{programs.install()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    yield programs
    programs.end_all()


class Told:
    """What an executor reports."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.results: dict[int, list] = {}
        self.errors: dict[int, PackError] = {}
        self.notes: list[str] = []

    def run(
        self, packs: Sequence, run_pack: Callable, folder: Path, executor=ON_SLURM, **callbacks
    ) -> Told:
        """Run packs and keep what comes; returns itself."""
        run_packs(
            packs,
            RUNTIME,
            executor,
            on_results=callbacks.get("on_results", self.results.__setitem__),
            on_start=callbacks.get("on_start", self.started.append),
            on_error=self.errors.__setitem__,
            run_pack=run_pack,
            folder=folder,
            on_note=self.notes.append,
        )
        return self


@pytest.fixture
def packs(tiny_trial: Callable[..., TrialConfig]) -> list[tuple[TrialConfig]]:
    """Return three packs of one trial, with the seeds 0, 1 and 2."""
    return [(tiny_trial(seed=seed),) for seed in range(3)]


def test_packs_run_as_one_array_and_tell_what_other_executors_tell(slurm, packs, tmp_path) -> None:
    executor = dataclasses.replace(ON_SLURM, workers=2)
    told = Told().run(packs, cheap, tmp_path / "results", executor)
    assert sorted(told.started) == [0, 1, 2]
    assert {i: r[0].config.seed for i, r in told.results.items()} == {0: 0, 1: 1}
    assert [*told.errors] == [2]
    assert told.errors[2].reason == "ZeroDivisionError: a bug in the model"
    assert "slurm_jobs.py" in told.errors[2].frame
    assert "Traceback" in told.errors[2].traceback_text
    (call,) = slurm.calls("sbatch")
    assert "#SBATCH --array=0-2%2" in Path(call).read_text()
    assert slurm.jobs() == ["1_0", "1_1", "1_2"]
    assert told.notes == ["3 jobs were submitted as the array 1."]
    assert not list((tmp_path / "results").glob("trials/*/*.json"))  # recorded, so forgotten
    assert all(words.count("-j") == 1 for words in slurm.calls("sacct"))  # one for all jobs


def test_packs_that_results_and_errors_bring_are_submitted_too(slurm, packs, tmp_path) -> None:
    more = {0: [packs[1]]}
    told = Told()

    def on_results(index: int, results: list) -> list:
        told.results[index] = results
        return more.get(index, [])

    told.run(packs[:1], cheap, tmp_path, on_results=on_results)
    assert [told.results[i][0].config.seed for i in (0, 1)] == [0, 1]
    assert slurm.jobs() == ["1", "2"]


def test_a_job_that_is_cancelled_is_submitted_again(slurm, packs, tmp_path) -> None:
    (tmp_path / "hold").touch()

    def on_start(index: int) -> None:
        told.started.append(index)
        if len(told.started) == 1:
            subprocess.run(["scancel", "1"], check=True)
            (tmp_path / "hold").unlink()

    told = Told()
    told.run(packs[:1], held, tmp_path, on_start=on_start)
    assert told.started == [0, 0]
    assert [*told.results] == [0]
    assert slurm.jobs() == ["1", "2"] and slurm.state("1").startswith("CANCELLED")
    (note,) = told.notes
    assert note.startswith(f"Job 1 (trial {trial_key(packs[0][0])}) was lost and is submitted ag")


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            "OUT_OF_MEMORY",
            "SLURM ended its job 1 because it was out of memory; it had 2 GiB. Raise "
            "executor.memory_gib",
        ),
        ("TIMEOUT", "SLURM ended its job 1 at the time limit of 60 minutes. Raise executor.slurm"),
    ],
)
def test_a_job_without_memory_or_time_is_a_failed_trial(
    slurm, packs, tmp_path, state, sentence
) -> None:
    executor = dataclasses.replace(ON_SLURM, memory_gib=2.0)
    told = Told()
    told.run(packs[:1], held, tmp_path, executor, on_start=lambda index: slurm.end("1", state))
    assert slurm.jobs() == ["1"]
    assert told.errors[0].reason.startswith(sentence)
    assert "#SBATCH --mem=2048M" in Path(slurm.calls("sbatch")[0]).read_text()


def test_a_job_that_is_lost_too_often_ends_the_sweep_in_a_sentence(slurm, packs, tmp_path) -> None:
    executor = dataclasses.replace(ON_SLURM, retries=1)
    told = Told()

    def lose(index: int) -> None:
        slurm.end(slurm.jobs()[-1], "NODE_FAIL")

    with pytest.raises(MachineError, match=r"lost 2 times each .*job 2 is lost with its node"):
        told.run(packs[:1], held, tmp_path, executor, on_start=lose)
    assert not told.results and not told.errors


def test_a_trial_that_a_signal_ended_is_submitted_again_and_then_failed(
    slurm, packs, tmp_path
) -> None:
    executor = dataclasses.replace(ON_SLURM, retries=1)
    told = Told().run(packs[:1], killed, tmp_path, executor)
    assert slurm.jobs() == ["1", "2"]
    assert told.errors[0].reason == "every attempt was ended by SIGKILL"


def test_without_accounting_the_queue_says_which_job_is_gone(slurm, packs, tmp_path) -> None:
    (slurm.folder / "no_accounting").touch()
    told = Told()

    def on_start(index: int) -> None:
        told.started.append(index)
        if len(told.started) == 1:
            slurm.end("1", "FAILED")
            (tmp_path / "hold").unlink()

    (tmp_path / "hold").touch()
    told.run(packs[:1], held, tmp_path, on_start=on_start)
    assert [*told.results] == [0]
    assert slurm.jobs() == ["1", "2"]


def test_what_a_job_refuses_ends_the_sweep(slurm, packs, tmp_path) -> None:
    with pytest.raises(UserError, match="The data set is not there"):
        Told().run(packs[:1], refused, tmp_path)


def test_what_sbatch_refuses_is_said_in_its_words(slurm, packs, tmp_path) -> None:
    (slurm.folder / "refuse").touch()
    with pytest.raises(UserError, match="sbatch refused: invalid partition specified: nowhere"):
        Told().run(packs[:1], cheap, tmp_path)


def test_an_interrupted_sweep_leaves_its_jobs_and_says_how_to_end_them(
    slurm, packs, tmp_path, capsys
) -> None:
    (tmp_path / "hold").touch()

    def interrupt(index: int) -> None:
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        Told().run(packs, held, tmp_path, on_start=interrupt)
    err = " ".join(capsys.readouterr().err.split())
    assert "3 jobs stay queued or go on running" in err
    assert err.endswith("scancel 1_[0-2]")
    assert "RUNNING" in {slurm.state(job_id) for job_id in slurm.jobs()}


def test_a_sweep_whose_trials_fail_cancels_its_jobs_and_no_other(slurm, packs, tmp_path) -> None:
    (tmp_path / "hold").touch()

    def stop(index: int) -> None:
        raise TrialsFailed("three in a row")

    with pytest.raises(TrialsFailed):
        Told().run(packs, held, tmp_path, on_start=stop)
    assert {slurm.state(job_id) for job_id in slurm.jobs()} == {"CANCELLED by 1000"}
    assert not list(tmp_path.glob("trials/*/job.json"))
    slurm.set_state("1_0", "PENDING")
    other = JobRecord("of-another-sweep", 0, 3, "slurm", "2026-01-01T00:00:00", "1_0")
    SlurmCluster(ON_SLURM).cancel([other])
    assert slurm.state("1_0") == "PENDING"
    slurm.set_state("1_0", "CANCELLED")


SWEEP = """\
train: {{command: "sh {folder}/train.sh {{width}} {{lr}}"}}
sweep: {{widths: [64]}}
search: {{lr: {{low: -8, high: -6, step: 1}}}}
executor: {{name: slurm, slurm: {{poll_s: 0.3}}, trackers: []}}
"""
TRAIN = """\
echo "$1 $2" >>{folder}/trained
while test -e {folder}/hold; do sleep 0.1; done
echo '{{"loss": '$2'}}'
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """Write a sweep of three trials that last as long as the file `hold` is there."""
    (tmp_path / "train.sh").write_text(TRAIN.format(folder=tmp_path))
    (tmp_path / "hold").touch()
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP.format(folder=tmp_path))
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a ledger."""
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def rows(folder: Path) -> list[str]:
    """Return the trial keys of a ledger's rows."""
    return [row["trial_key"] for row in rows_of(folder)]


def test_a_killed_sweep_is_taken_up_with_its_jobs(slurm, sweep_file, tmp_path) -> None:
    command = [sys.executable, "-m", "hptransfer", "sweep", str(sweep_file)]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    slurm.wait_for("RUNNING", count=3)
    records = sorted(tmp_path.glob("results/mine/trials/*/job.json"))
    while not all(json.loads(path.read_text())["job_id"] for path in records):
        pass
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # One trial's id was never written, as if the sweep had been killed while it submitted.
    told = json.loads(records[0].read_text())
    write_whole(records[0], json.dumps({**told, "job_id": None}).encode())
    (tmp_path / "hold").unlink()
    slurm.wait_for("COMPLETED", count=2)
    assert main(["sweep", str(sweep_file), "--quiet"]) == 0
    assert len(slurm.calls("sbatch")) == 1
    trained = (tmp_path / "trained").read_text().splitlines()
    assert len(trained) == len({*trained}) == 3
    found = rows(tmp_path / "results" / "mine")
    assert len(found) == len({*found}) == 3
    assert not list(tmp_path.glob("results/mine/trials/*/job.json"))
    log = (records[0].parent / "log.txt").read_text()
    assert log.startswith("hptransfer: attempt 1") and '{"loss"' in log


def test_a_failure_that_nobody_waited_for_is_tried_again(slurm, packs, tmp_path) -> None:
    folder = pack_folder(tmp_path, packs[0])
    write_job(folder, JobRecord("mine-1", 0, 1, "slurm", "2026-01-01T00:00:00+00:00", "7"))
    failure = PackError([trial_key(packs[0][0])], "an old bug", "", "")
    content = {"submission": "mine-1", **encoded(failure)}
    (folder / "outcome.json").write_text(json.dumps(content))
    told = Told().run(packs[:1], cheap, tmp_path)
    assert [*told.results] == [0] and not told.errors
    assert len(slurm.jobs()) == 1


def test_a_submission_that_slurm_never_heard_of_is_made_again(slurm, packs, tmp_path) -> None:
    folder = pack_folder(tmp_path, packs[0])
    write_job(folder, JobRecord("mine-1", 0, 2, "slurm", "2026-01-01T00:00:00+00:00"))
    write_job(
        pack_folder(tmp_path, packs[1]),
        JobRecord("mine-1", 1, 2, "slurm", "2026-01-01T00:00:00+00:00"),
    )
    told = Told().run(packs[:2], cheap, tmp_path)
    assert sorted(told.results) == [0, 1]
    assert ["-n mine-1" in call for call in slurm.calls("squeue")].count(True) == 1
    assert "--name mine-1" in slurm.calls("sacct")[0]


# What runs inside a job


def pack_job(
    folder: Path, configs: Sequence[TrialConfig], run_pack: Callable, limit_s: float = 3600.0
) -> PackJob:
    """Return the job of a pack, which the sweep waits for."""
    task = PackTask(0, (0,), tuple(configs), RUNTIME, run_pack)
    write_job(folder, JobRecord("mine-1", 0, 1, "slurm", "2026-01-01T00:00:00", "7"))
    return PackJob(task, str(folder), "mine-1", limit_s)


def test_a_job_that_the_sweep_gave_up_does_nothing(packs, tmp_path) -> None:
    job = dataclasses.replace(pack_job(tmp_path, packs[0], cheap), submission="mine-0")
    job()
    assert not (tmp_path / "outcome.json").exists()


@pytest.mark.parametrize(("limit_s", "late"), [(3600.0, False), (0.0, True)])
def test_a_job_tells_its_time_limit_from_other_ends(packs, tmp_path, limit_s, late) -> None:
    before = signal.getsignal(signal.SIGINT)
    pack_job(tmp_path, packs[0], warned, limit_s=limit_s)()
    signal.signal(signal.SIGINT, before)
    ended = read_outcome(tmp_path, "mine-1", packs[0])
    assert ended == Lost("SIGUSR2 ended the job", at_time_limit=late)


def same(one: object, other: object) -> bool:
    """Whether two values are equal, where NaN equals itself."""
    return repr(one) == repr(other)


def test_every_end_of_a_job_is_read_as_it_was_written(packs) -> None:
    configs = packs[0]
    key = trial_key(configs[0])
    lost = PackError([key], "a reason", "file:1 in f", "text", is_lost=True)
    for ended in ([result(configs[0])], lost, UserError("Do this."), MachineError("x"), Lost("y")):
        told = json.loads(json.dumps(encoded(ended), allow_nan=False))
        read = decoded(told, configs)
        assert type(read) is type(ended)
        expected = vars(ended) if isinstance(ended, PackError) else ended
        assert same(vars(read) if isinstance(read, PackError) else read, expected)


def test_an_outcome_names_every_field_of_a_result(packs) -> None:
    (told,) = encoded([result(packs[0][0])])["results"]
    fields = {field.name for field in dataclasses.fields(result(packs[0][0]))}
    assert {*told} == (fields - {"config"}) | {"trial_key"}
    assert math.isinf(float(told["curve"][1][1])) and told["loss_at_init"] == "nan"


def test_foreign_files_are_refused_in_a_sentence(packs, tmp_path) -> None:
    record = dataclasses.asdict(JobRecord("mine-1", 0, 1, "slurm", "2026", "7"))
    for content in ("{", "[]", "{}", json.dumps({**record, "job_id": "-9 1"})):
        (tmp_path / "job.json").write_text(content)
        with pytest.raises(UserError, match="not as hptransfer wrote it"):
            read_job(tmp_path)
    told = encoded([result(packs[0][0])])
    (tmp_path / "outcome.json").write_text(json.dumps({"submission": "s", **told}))
    with pytest.raises(UserError, match="not as hptransfer wrote it"):
        read_outcome(tmp_path, "s", packs[1])  # the result of another trial
    assert read_outcome(tmp_path, "another", packs[0]) is None


# What is asked of SLURM


def test_states_are_read_from_slurms_words() -> None:
    words = {"CANCELLED by 1000": State.cancelled, "OUT_OF_MEMORY": State.out_of_memory}
    words |= {"PENDING": State.waiting, "REQUEUED": State.waiting, "": State.unknown}
    words |= {"COMPLETING": State.running, "NODE_FAIL": State.node_fail}
    words |= {"PREEMPTED": State.preempted, "BOOT_FAIL": State.node_fail}
    assert {word: state_of(word) for word in words} == words
    assert State.preempted.is_final and not State.unknown.is_final


def test_ids_of_an_array_are_written_as_one() -> None:
    assert grouped(["7_3", "7_1", "7_2", "9", "7_5"]) == ["7_[1-3,5]", "9"]


def test_a_job_asks_for_what_the_config_says(packs) -> None:
    asked = SlurmConfig(
        partition="gpu",
        account="me",
        qos="night",
        constraint="a100",
        timeout_min=2,
        parameters={"exclude": "node7", "exclusive": "true"},
        setup=["module load cuda"],
    )
    executor = ExecutorConfig(name="slurm", cpus=4, gpus=2, memory_gib=1.5, slurm=asked)
    request = resources_of_pack(RUNTIME, executor, {}, packs[0])
    task = PackTask(0, (0,), packs[0], RUNTIME, request=request)
    parameters = sbatch_parameters(request_of(task), executor, name="mine-1", at_once=3)
    from submitit.slurm.slurm import _make_sbatch_string

    lines = _make_sbatch_string("run", "f", map_count=9, **parameters).splitlines()
    for line in (
        *("--array=0-8%3", "--partition=gpu", "--account=me", "--qos=night", "--time=2"),
        *("--constraint=a100", "--exclude=node7", "--exclusive", "--cpus-per-task=4"),
        *("--gpus-per-node=2", "--mem=1536M", "--job-name=mine-1", "--signal=USR2@30"),
    ):
        assert f"#SBATCH {line}" in lines
    assert lines.index("module load cuda") < lines.index("export SUBMITIT_EXECUTOR=slurm")
    assert not any("wckey" in line or "None" in line for line in lines)
    with pytest.raises(UserError, match=r"executor\.cpus` must be a whole number"):
        request_of(dataclasses.replace(task, request=dataclasses.replace(request, cpus=0.5)))


def test_the_groups_file_shows_every_value_with_the_comment_of_its_field() -> None:
    text = (shipped_folder("conf") / "executor" / "slurm.yaml").read_text()
    assert yaml.safe_load(text)["slurm"] == plain(SlurmConfig())
    shown = dict(line.strip().split(":", 1) for line in text.partition("slurm:\n")[2].splitlines())
    comments = {name: rest.partition("  #")[2].strip() for name, rest in shown.items()}
    assert comments == comments_of_fields(SlurmConfig)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["executor=slurm", "executor.address=auto"], "executor.address` has no effect with exec"),
        (["executor=ray", "executor.slurm.qos=x"], "executor.slurm.qos` has no effect with execu"),
        (["executor=local", "executor.slurm.qos=x"], "or add executor=slurm"),
        (["executor=slurm", "executor.slurm.parameters.time=5"], "Set that."),
        (["executor=slurm", "executor.slurm.parameters.array=5"], "hptransfer sets itself"),
        (["executor=slurm", "executor.slurm.cluster=lsf"], "must be slurm or local"),
        (["executor=slurm", "executor.slurm.partitoin=x"], "Did you mean executor.slurm.partition"),
    ],
)
def test_fields_without_effect_and_foreign_values_are_refused(words, message) -> None:
    with pytest.raises(UserError) as refused:
        compose_file(None, words)
    assert message in str(refused.value)


def test_slurms_values_are_set_and_kept_by_the_command_line(tmp_path) -> None:
    words = ["executor=slurm", "executor.slurm.partition=gpu", "executor.cpus=2"]
    words += ["executor.slurm.parameters.exclude=node7", "executor.slurm.setup=[module load x]"]
    executor = compose_file(None, words).executor
    expected = SlurmConfig(
        partition="gpu", parameters={"exclude": "node7"}, setup=["module load x"]
    )
    assert executor == ExecutorConfig(name="slurm", cpus=2.0, slurm=expected)


def test_files_of_earlier_versions_still_give_every_value() -> None:
    section = plain(ExecutorConfig())
    assert is_whole("executor", {key: value for key, value in section.items() if key != "slurm"})
    assert not is_whole("executor", {key: section[key] for key in section if key != "cpus"})


def test_a_chosen_executor_replaces_that_of_the_file(sweep_file) -> None:
    assert compose_file(sweep_file).executor.name == "slurm"
    assert compose_file(sweep_file, ["executor=local"]).executor.name == "local"


def test_missing_packages_and_programs_are_said_in_a_sentence(
    sweep_file, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    assert main(["sweep", str(sweep_file)]) == 2
    assert "needs SLURM's program sbatch, which is not there" in capsys.readouterr().err
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    assert main(["sweep", str(sweep_file)]) == 2
    assert "pip install 'hptransfer[slurm]'" in capsys.readouterr().err
    assert not (tmp_path / "results" / "mine" / "sweep.yaml").exists()


def test_runs_that_no_folder_keeps_and_measurements_are_refused(packs) -> None:
    with pytest.raises(UserError, match="no results folder keeps"):
        run_packs(packs, RUNTIME, ON_SLURM, on_results=lambda index, results: None)


# Without SLURM: processes of this machine


def test_the_local_cluster_runs_a_sweep(sweep_file, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "hold").unlink()
    words = ["executor.slurm.cluster=local", "search.lr.low=-7"]
    assert main(["sweep", str(sweep_file), *words]) == 0
    assert len(rows(tmp_path / "results" / "mine")) == 2
    said = capsys.readouterr().err
    assert "each as a job of SLURM ..." in said and "Ray" not in said


@pytest.mark.cluster
@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_not_its_processes(sweep_file, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ["sweep", str(sweep_file), "executor.slurm.cluster=local", "search.lr.low=-7"]
    command = [sys.executable, "-m", "hptransfer", *words]
    said = tmp_path / "said"  # a file, since the processes that go on keep it open
    with said.open("w") as file:
        driver = subprocess.Popen(command, stderr=file, start_new_session=True)
    trained = tmp_path / "trained"
    until = time.monotonic() + 60.0
    while not trained.exists():
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)  # the sweep looks at its jobs
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    assert driver.wait(timeout=60) == 130
    err = said.read_text()
    assert "stay queued or go on running" in err and "\n  kill " in err
    (tmp_path / "hold").unlink()
    assert main([*words, "--quiet"]) == 0
    lines = trained.read_text().splitlines()
    assert len(lines) == len({*lines}) == 2


@pytest.mark.cluster
def test_packs_of_our_own_models_give_the_rows_of_the_local_executor(
    tiny_sweep, monkeypatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    small = ["sweep.widths=[8]", "sweep.seeds=1", "search.lr.low=-6", "--quiet"]
    jobs = ["executor=slurm", "executor.slurm.cluster=local"]
    assert main(["sweep", "tiny.yaml", *small]) == 0
    assert main(["sweep", "tiny.yaml", *small, *jobs, "name=jobs"]) == 0
    found = [
        {row["trial_key"]: (row["status"], row["loss"], row["metrics"]) for row in rows_of(folder)}
        for folder in (Path("results/tiny"), Path("results/jobs"))
    ]
    assert len(found[0]) == 4 and found[0] == found[1]
    assert len([*Path("results/jobs/slurm").iterdir()]) == 1  # one job for the pack
    assert read_curve(Path("results/jobs"), next(iter(found[0])))


# The recipe of a small job that runs the sweep


RECIPE = ROOT / "deploy" / "slurm_jobs.sbatch"


def test_the_recipes_command_composes(sweep_file) -> None:
    (command,) = re.findall(r"^hptransfer sweep .*executor=slurm", RECIPE.read_text(), re.M)
    assert compose_file(sweep_file, [command.split()[-1]]).executor.name == "slurm"


@pytest.mark.parametrize(("ending", "requeued"), [("sleep 60 & wait $!", True), ("exit 0", False)])
def test_the_recipe_is_queued_again_where_its_time_ends(tmp_path, ending, requeued) -> None:
    programs = {
        "hptransfer": f"#!/bin/bash\ntrap 'exit 130' USR1\ntouch {tmp_path}/began\n{ending}\n",
        "scontrol": f"#!/bin/sh\necho $* >{tmp_path}/requeued\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    job = subprocess.Popen(
        ["bash", str(RECIPE), "mine.yaml"], env={"PATH": path, "SLURM_JOB_ID": "7"}
    )
    while not (tmp_path / "began").exists():
        time.sleep(0.02)
    if requeued:
        job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == (130 if requeued else 0)
    assert (tmp_path / "requeued").exists() == requeued
