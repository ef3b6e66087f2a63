"""Trials of a command or function of the user's own: its answers, its failures and its end."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from hptransfer.config.choices import Status
from hptransfer.config.external import ExternalTrial
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, TrialFailure, UserError
from hptransfer.results.folder import trial_folder
from hptransfer.training.external import run as external_run
from hptransfer.training.external.output import HEAD_BYTES, LAST_LINES, TAIL_BYTES
from hptransfer.training.external.trial import Trial, gave_up_at, read_reports, report
from tests.support.external import processes, python, run, shell, trial, wait_until

REPORT = (  # how a program without hptransfer reports
    "import json, os\n"
    "folder = json.load(open(os.environ['HPTRANSFER_TRIAL']))['folder']\n"
    "def report(**entry):\n"
    "    print(json.dumps(entry), file=open(folder + '/reports.jsonl', 'a'), flush=True)\n"
    "def answer(**entry):\n"
    "    print(json.dumps(entry), file=open(folder + '/result.json', 'w'), flush=True)\n"
)


def folder_of(root: Path, config: ExternalTrial) -> Path:
    return trial_folder(root, trial_key(config))


def log_of(root: Path, config: ExternalTrial) -> str:
    return (folder_of(root, config) / "log.txt").read_text(errors="replace")


def failure(root: Path, config: ExternalTrial, *, retries: int = 0) -> TrialFailure:
    with pytest.raises(TrialFailure) as caught:
        run(root, config, retries=retries)
    return caught.value


# What a trial is told


def test_a_command_is_told_its_trial_by_placeholders_and_in_a_file(tmp_path: Path) -> None:
    script = (
        "import json, os, sys\n"
        "told = json.load(open(os.environ['HPTRANSFER_TRIAL']))\n"
        "print(json.dumps({'loss': 0.5}))\n"
        "open('told.json', 'w').write(json.dumps([sys.argv[1:], told]))"
    )
    places = "{width} {lr} {seed} {parametrization} {steps} {depth} {folder} {trial_key} {hosts}"
    config = trial(python(script, places), seed=3)
    assert run(tmp_path, config).loss == 0.5
    words, told = json.loads((tmp_path / "told.json").read_text())
    folder, key = folder_of(tmp_path, config), trial_key(config)
    assert words[:6] == ["64", "0.0078125", "3", "trainer", "100", "null"]
    assert words[6:8] == [str(folder), key] and words[8:] == [",".join(told["hosts"])]
    assert told["hps"] == {"lr": 2.0**-7} and told["fixed"] == {"steps": 100}
    assert (told["width"], told["seed"], told["trial_key"]) == (64, 3, key)
    assert told["folder"] == str(folder) and told["base_width"] is told["depth"] is None


def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    config = trial(python("import sys; print('loss', len(sys.argv))", "'$HOME; ls *'"))
    with pytest.raises(TrialFailure, match="answered no loss"):
        run(tmp_path, config)
    assert "loss 2\n" in log_of(tmp_path, config)


# Channels of answers


def test_the_answer_in_the_folder_decides_before_all_others(tmp_path: Path) -> None:
    script = (
        f"{REPORT}"
        "report(step=1, loss=4.0)\n"
        "print('val_loss=3.0')\n"
        "print(json.dumps({'loss': 2.0, 'from': 2.0}))\n"
        "answer(loss=1.0, accuracy=0.75, note='text', flag=True)\n"
    )
    result = run(tmp_path, trial(python(script), result=r"val_loss=(\S+)"))
    assert (result.status, result.loss) == (Status.completed, 1.0)
    assert result.metrics == {"accuracy": 0.75}
    assert result.held_out == ((1, 4.0),)


def test_a_json_line_decides_before_the_pattern_and_the_reports(tmp_path: Path) -> None:
    script = f"{REPORT}report(step=1, loss=4.0)\nprint('val_loss=3.0')\nprint('{{\"loss\": 2.0}}')"
    assert run(tmp_path, trial(python(script), result=r"val_loss=(\S+)")).loss == 2.0


def test_the_pattern_decides_before_the_reports(tmp_path: Path) -> None:
    script = f"{REPORT}report(step=1, loss=4.0)\nprint('val_loss=3.0')"
    assert run(tmp_path, trial(python(script), result=r"val_loss=(\S+)")).loss == 3.0


def test_the_pattern_finds_the_last_match_also_behind_carriage_returns(tmp_path: Path) -> None:
    config = trial(shell(r"printf 'loss=9\n 1%% loss=3\r99%% loss=2.5e-1\r'"), result=r"loss=(\S+)")
    assert run(tmp_path, config).loss == 0.25


def test_the_loss_that_was_reported_last_is_the_last_channel(tmp_path: Path) -> None:
    script = f"{REPORT}for step in (0, 10, 20): report(step=step, loss=3.0 - step / 10, lr=step)"
    result = run(tmp_path, trial(python(script)))
    assert (result.loss, result.loss_at_init, result.metrics) == (1.0, 3.0, {"lr": 20.0})
    assert result.held_out == result.curve == ((0, 3.0), (10, 2.0), (20, 1.0))


def test_json_lines_with_a_step_make_the_curve(tmp_path: Path) -> None:
    lines = [{"step": 0, "loss": 3.0}, {"step": 10.0, "loss": 2.0}, {"loss": 1.5, "flops": 8.0}]
    script = f"echo noise; printf '%s\\n' {' '.join(repr(json.dumps(line)) for line in lines)}"
    result = run(tmp_path, trial(shell(script)))
    assert (result.loss, result.flops) == (1.5, 8.0)
    assert result.held_out == ((0, 3.0), (10, 2.0))


def test_a_long_curve_is_thinned_and_its_last_point_stays(tmp_path: Path) -> None:
    result = run(
        tmp_path, trial(python(f"{REPORT}for s in range(999): report(step=s, loss=1.0+s)"))
    )
    assert len(result.held_out) <= external_run.MOST_CURVE_POINTS
    assert result.held_out[-1] == (998, 999.0) and result.loss_at_init == 1.0


def test_two_answers_are_refused_and_one_that_is_repeated_is_not(tmp_path: Path) -> None:
    lines = ['{"loss": 0.5}', '{"loss": 0.5, "accuracy": 1}', '{"loss": NaN}', '{"loss": NaN}']
    assert run(tmp_path, trial(shell(f"printf '%s\\n' '{lines[0]}' '{lines[1]}'"))).metrics == {
        "accuracy": 1.0
    }
    config = trial(shell(f"printf '%s\\n' '{lines[0]}' '{{\"loss\": 0.25}}' '{lines[0]}'"))
    said = failure(tmp_path, config).reason
    assert "several JSON lines with different ones (0.5 and 0.25)" in said and '"step"' in said
    assert run(tmp_path, trial(shell(f"printf '%s\\n' '{lines[2]}' '{lines[3]}'"))).loss is None


@pytest.mark.parametrize(
    ("script", "pattern", "said"),
    [
        ('echo \'{"loss": "low"}\'', None, "must be a number, but the trial answered 'low'"),
        ("echo '{\"loss\": null}'", None, "must be a number, but the trial answered None"),
        ("echo '{\"loss\": [1]}'", None, r"must be a number, but the trial answered \[1\]"),
        ('echo \'{"loss": 1' + "0" * 400 + "}'", None, "must be a number, but the trial answ"),
        ("echo loss=low", r"loss=(\S+)", "must be a number, but train.result found 'low'"),
        ("echo lost=1", r"loss=(\S+)", r"train.result=loss=\(.*was found nowhere"),
        ("exit 0", None, "exit code 0 but answered no loss; print a JSON line"),
        ("echo '[1]' > $(dirname $HPTRANSFER_TRIAL)/result.json", None, "must hold a JSON object"),
        ("echo why; exit 7", None, "exit code 7; last line: 'why'"),
        ("exit 7", None, "exit code 7; last line: 'it printed nothing'"),
        ("kill -SEGV $$", None, "SIGSEGV ended it"),
        ("kill -40 $$", None, "signal 40 ended it"),
        ("echo no >&2; exit 127", None, "exit code 127; last line: 'no'"),
        ("echo no >&2; exit 126", None, "exit code 126; last line: 'no'"),
    ],
)
def test_an_answer_that_is_no_loss_is_a_failure_with_a_sentence(
    tmp_path: Path, script: str, pattern: str | None, said: str
) -> None:
    with pytest.raises(TrialFailure, match=said):
        run(tmp_path, trial(shell(script), result=pattern))


def test_a_failure_names_the_log_and_keeps_its_last_lines(tmp_path: Path) -> None:
    config = trial(shell("seq 100; echo out of luck >&2; exit 3"))
    found = failure(tmp_path, config)
    assert found.reason == "it ended with exit code 3; last line: 'out of luck'"
    lines = found.text.splitlines()
    assert f"The whole log is {folder_of(tmp_path, config) / 'log.txt'}." in lines[1]
    assert lines[-LAST_LINES:] == [*map(str, range(62, 101)), "out of luck"]
    assert log_of(tmp_path, config).splitlines()[1:-1] == [*map(str, range(1, 101)), "out of luck"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_loss_that_is_not_finite_is_a_diverged_trial(tmp_path: Path, value: str) -> None:
    result = run(tmp_path, trial(shell(f"echo '{{\"loss\": {value}}}'")))
    assert (result.status, result.loss) == (Status.diverged, None)
    assert run(tmp_path, trial(shell("echo loss=nan"), result="loss=(.*)")).loss is None


def test_a_reported_loss_that_is_not_finite_ends_the_trial(tmp_path: Path) -> None:
    began = time.monotonic()
    script = f"{REPORT}report(step=0, loss=2.0)\nreport(step=7, loss=float('nan'))\n"
    result = run(tmp_path, trial(python(f"{script}import time; time.sleep(60)")))
    assert (result.status, result.diverged_at_step) == (Status.diverged, 7)
    assert time.monotonic() - began < 5


def test_a_hopeless_trial_is_stopped_only_where_the_sweep_says_so(tmp_path: Path) -> None:
    reports = "".join(f"report(step={step}, loss={loss})\n" for step, loss in enumerate((2, 4, 3)))
    config = trial(python(f"{REPORT}{reports}import time; time.sleep(60)"), stop_hopeless=True)
    result = run(tmp_path, config)
    assert (result.status, result.stopped_at_step, result.loss) == (Status.stopped, 1, None)
    assert run(tmp_path, trial(python(f"{REPORT}{reports}"))).loss == 3.0


def test_strange_json_does_not_end_the_reading_of_the_output(tmp_path: Path) -> None:
    script = (
        "print('{\"a\":' + '[' * 60000)\n"
        "print('{\"step\": 1, \"x\": 1' + '0' * 400 + '}')\n"
        "print('{\"step\": 1' + '0' * 5000 + '}')\n"
        'print(\'{"step": true, "x": 7}\')\n'
        'print(\'{"step": 2, "loss": 0.5}\')\n'
    )
    result = run(tmp_path, trial(python(script)))
    assert (result.loss, result.held_out, result.metrics) == (0.5, ((2, 0.5),), {})


# Output


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("newline", ["", "\\n"])
def test_an_output_of_200_mb_is_bounded_in_memory_and_on_disk(tmp_path: Path, newline: str) -> None:
    script = (
        "import os\n"
        f"for _ in range(200): os.write(1, (b'x' * 999_999 + b'{newline or 'x'}'))\n"
        "os.write(1, b'\\nthe end\\n{\"loss\": 0.5}\\n')"
    )
    config, before = trial(python(script)), peak_bytes()
    assert run(tmp_path, config).loss == 0.5
    assert peak_bytes() - before < 40 << 20
    log = folder_of(tmp_path, config) / "log.txt"
    assert log.stat().st_size < HEAD_BYTES + TAIL_BYTES + (1 << 17)
    text = log.read_text()
    assert "bytes were left out here" in text
    assert text.splitlines()[-3:-1] == ["the end", '{"loss": 0.5}']


def test_binary_output_is_kept_and_searched(tmp_path: Path) -> None:
    script = "import os; os.write(1, bytes(range(256)) * 9 + b'\\nloss=0.5')"
    config = trial(python(script), result=r"loss=(\S+)")
    assert run(tmp_path, config).loss == 0.5
    content = (folder_of(tmp_path, config) / "log.txt").read_bytes()
    assert bytes(range(256)) * 9 in content
    assert content.endswith(b"\nloss=0.5\nhptransfer: the trial's process ended with exit code 0\n")


def test_a_log_that_cannot_be_written_is_the_machines_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial(shell("seq 100000; echo '{\"loss\": 0.5}'"))
    folder = folder_of(tmp_path, config)
    folder.mkdir(parents=True)
    (folder / "log.txt").symlink_to("/dev/full")
    with pytest.raises(MachineError, match=r"could not be written: No space left on device\. Free"):
        run(tmp_path, config)


# Attempts


COUNT = "echo x >> attempts; n=$(wc -l < attempts); "


@pytest.mark.parametrize("end", ["kill -KILL $$", "exit 137", "exit 143", "kill -TERM $$"])
def test_an_attempt_that_a_signal_ends_is_made_again(tmp_path: Path, end: str) -> None:
    script = f"{COUNT} [ $n -ge 3 ] || {end}; echo '{{\"loss\": 0.5}}'"
    assert run(tmp_path, trial(shell(script)), retries=2).loss == 0.5
    assert (tmp_path / "attempts").read_text() == "x\n" * 3


def test_a_trial_that_is_always_killed_fails_after_its_retries(tmp_path: Path) -> None:
    config = trial(shell(f"{COUNT} echo n=$n; kill -KILL $$"))
    found = failure(tmp_path, config, retries=2)
    assert found.reason.startswith("every attempt was ended by SIGKILL, as a machine does that is ")
    assert (tmp_path / "attempts").read_text() == "x\n" * 3
    log = log_of(tmp_path, config)
    assert [f"attempt {n} at trial" in log for n in (1, 2, 3, 4)] == [True, True, True, False]


def test_a_bug_is_not_tried_again(tmp_path: Path) -> None:
    assert "exit code 1;" in failure(tmp_path, trial(shell(f"{COUNT} exit 1")), retries=2).reason
    assert (tmp_path / "attempts").read_text() == "x\n"


def test_an_attempt_goes_on_from_the_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    script = (
        f"{REPORT}"
        "import signal\n"
        "state = folder + '/checkpoint'\n"
        "start = int(open(state).read()) if os.path.exists(state) else 0\n"
        "for step in range(start, 50, 10):\n"
        "    report(step=step, loss=5.0 - step / 10 + (0.5 if start == 0 and step == 30 else 0))\n"
        "    if step == 20: open(state, 'w').write('20')\n"
        "    if start == 0 and step == 30: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = run(tmp_path, trial(python(script)), retries=1)
    assert result.held_out == ((0, 5.0), (10, 4.0), (20, 3.0), (30, 2.0), (40, 1.0))
    assert result.loss == 1.0


def test_what_an_attempt_reported_beyond_its_last_checkpoint_is_taken_back(tmp_path: Path) -> None:
    script = (
        f"{REPORT}"
        "import signal\n"
        "first = not os.path.exists('second')\n"
        "open('second', 'w')\n"
        "for step in (0, 10, 20, 30) if first else (0, 10): report(step=step, loss=9.0 - step)\n"
        "if first: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = run(tmp_path, trial(python(script)), retries=1)
    assert (result.held_out, result.loss) == (((0, 9.0), (10, -1.0)), -1.0)


def test_answers_of_an_earlier_attempt_do_not_count(tmp_path: Path) -> None:
    script = (
        f"{REPORT}"
        "import sys\n"
        "first = not os.path.exists('second')\n"
        "open('second', 'w')\n"
        "if first: answer(loss=0.5); sys.exit(137)\n"
    )
    assert "answered no loss" in failure(tmp_path, trial(python(script)), retries=1).reason


# The end of a trial's processes


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    config = trial(shell("echo going; exec sleep 60"), timeout_s=0.3)
    assert failure(tmp_path, config).reason == "it took longer than train.timeout_s=0.3"
    assert time.monotonic() - began < 5
    assert "going\n" in log_of(tmp_path, config)


STUBBORN = """\
trap '' TERM
sh -c "trap '' TERM; sleep 300; : MARK" &
setsid sh -c "trap '' TERM; sleep 300; : MARK" &
echo ready
while true; do sleep 300; : MARK; done
"""


def test_a_command_that_ignores_sigterm_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    config = trial(shell(STUBBORN.replace("MARK", mark)), timeout_s=0.5, grace_s=0.5)
    began = time.monotonic()
    failure(tmp_path, config)
    assert 1.0 < time.monotonic() - began < 6
    wait_until(lambda: not processes(mark), 3)


def test_a_command_may_end_in_order_within_its_grace(tmp_path: Path) -> None:
    script = "trap 'echo saved > saved; exit 0' TERM; echo go; sleep 60 & wait"
    failure(tmp_path, trial(shell(script), timeout_s=0.5, grace_s=5))
    assert (tmp_path / "saved").is_file()


def test_what_a_command_leaves_behind_is_killed_when_it_ends(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    orphan = f"while true; do sleep 1; echo {mark}; done"
    config = trial(shell(f"setsid sh -c '{orphan}' & sleep 0.2; echo '{{\"loss\": 0.5}}'"))
    began = time.monotonic()
    assert run(tmp_path, config).loss == 0.5
    assert not processes(mark) and time.monotonic() - began < 4


RUNNER = """\
import sys
from pathlib import Path
from tests.support.external import run, trial
run(Path(sys.argv[1]), trial(sys.argv[2], grace_s=0.5))
"""


@pytest.mark.parametrize("victim", ["runner", "first", "supervisor"])
def test_no_process_of_a_trial_outlives_those_that_run_it(tmp_path: Path, victim: str) -> None:
    mark = uuid.uuid4().hex
    command = shell(STUBBORN.replace("MARK", mark))
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path), command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: sum("supervise.py" not in line for line in processes(mark).values()) >= 4)
    supervising = sorted(pid for pid, line in processes(mark).items() if "supervise.py" in line)
    parent = {pid: int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in supervising}
    first = next(pid for pid in supervising if parent[pid] == runner.pid)
    supervisor = next(pid for pid in supervising if parent[pid] == first)
    os.kill(
        {"runner": runner.pid, "first": first, "supervisor": supervisor}[victim], signal.SIGKILL
    )
    runner.wait(20)
    wait_until(lambda: not processes(mark), 10)


def test_a_trial_that_another_process_still_trains_is_not_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_run, "LOCK_SECONDS", 0.3)
    config = trial(shell("echo x >> attempts; sleep 1.5; echo '{\"loss\": 0.5}'"), grace_s=0)
    losses = []
    first = threading.Thread(target=lambda: losses.append(run(tmp_path, config).loss))
    first.start()
    wait_until((tmp_path / "attempts").is_file)
    assert failure(tmp_path, config).reason == "another process still trains this trial; end it"
    first.join()
    assert losses == [0.5] and (tmp_path / "attempts").read_text() == "x\n"
    monkeypatch.setattr(external_run, "LOCK_SECONDS", 10.0)
    assert run(tmp_path, config).loss == 0.5


def test_a_command_that_cannot_be_started_is_named_with_its_host(tmp_path: Path) -> None:
    reason = failure(tmp_path, trial("./not-there {width}")).reason
    assert reason.startswith("the command './not-there' could not be started on ")
    assert reason.endswith("No such file or directory")
    (tmp_path / "plain.py").write_text("print(1)")
    assert failure(tmp_path, trial("./plain.py")).reason.endswith("Permission denied")
    gone = external_run.ExternalRun(str(tmp_path), str(tmp_path / "gone"))
    with pytest.raises(TrialFailure, match=f"No such file or directory, in {tmp_path}/gone"):
        gone.run(trial("true"))


# Functions


MODULE = """\
import os, signal, sys, time

def good(trial):
    print("hello", flush=True)
    for step in (0, 10):
        trial.report(step, loss=3.0 - step / 10, grad_norm=1.0)
    assert trial.folder.is_dir() and not trial.should_stop
    return {"loss": trial.hps["lr"] * trial.width, "flops": 7.0, "accuracy": 0.5, "note": "x"}

class Value:
    def __init__(self, value):
        self.value = value

    def item(self):
        if self.value is None:
            raise ValueError("only one element tensors can be converted")
        return self.value

def values(trial):
    return {"loss": 0.5, "small": Value(2.0), "large": Value(None)}

def raises(trial):
    raise ValueError(f"width {trial.width} is cursed\\nreally")

def text(trial):
    return "0.5x"

def lossless(trial):
    return {"accuracy": 1.0}

def nothing(trial):
    pass

def leaves(trial):
    sys.exit("no data")

def stops(trial):
    for step, loss in enumerate([2.0, 2.0, 5.0, 4.0, 4.0]):
        trial.report(step, loss=loss)
        if trial.should_stop:
            return loss
    raise AssertionError("should_stop came too late")

def killed(trial):
    if trial.checkpoint.exists():
        return float(trial.checkpoint.read_text())
    trial.checkpoint.write_text("0.25")
    os.kill(os.getpid(), signal.SIGKILL)

constant = 7
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "lab.py").write_text(MODULE)
    return tmp_path


def function(name: str, **more) -> ExternalTrial:
    return trial(function=f"lab:{name}", **more)


def test_a_function_reports_and_returns_a_loss_with_other_numbers(lab: Path) -> None:
    result = run(lab, function("good"))
    assert (result.loss, result.flops) == (0.5, 7.0)
    assert result.metrics == {"accuracy": 0.5, "grad_norm": 1.0}
    assert result.held_out == ((0, 3.0), (10, 2.0))
    assert "hello\n" in log_of(lab, function("good"))


def test_numbers_of_arrays_count_and_arrays_are_left_out(lab: Path) -> None:
    assert run(lab, function("values")).metrics == {"small": 2.0}


@pytest.mark.parametrize(
    ("name", "reason", "frame"),
    [
        ("raises", "ValueError: width 64 is cursed", "lab.py:23 in raises"),
        ("text", "`loss` must be a number, but got '0.5x'.", ""),
        ("lossless", "must give the loss in it, but got only 'accuracy'", ""),
        ("nothing", "the trial's function returned nothing and reported no loss", ""),
        ("leaves", "it ended with exit code 1; last line: 'no data'", ""),
        ("gone", "lab:gone is not, in the folder", ""),
        ("constant", "`train.function` must be a function, but lab:constant is 7.", ""),
    ],
)
def test_a_function_without_a_loss_fails_with_a_sentence(
    lab: Path, name: str, reason: str, frame: str
) -> None:
    found = failure(lab, function(name))
    assert reason in found.reason and found.frame.endswith(frame)
    assert bool(found.frame) == bool(frame)


def test_a_function_is_told_to_stop(lab: Path) -> None:
    result = run(lab, function("stops", stop_hopeless=True))
    assert (result.status, result.stopped_at_step) == (Status.stopped, 2)


def test_a_killed_function_finds_its_checkpoint(lab: Path) -> None:
    assert run(lab, function("killed"), retries=1).loss == 0.25


def test_hopelessness_is_judged_from_the_first_loss_on() -> None:
    assert gave_up_at([2.0, 4.0, 1.0]) == 1
    assert gave_up_at([2.0, 2.9, 2.0, 3.1, 1.0]) == 3
    assert gave_up_at([2.0, 2.9, 2.0]) is gave_up_at([0.0, 9.0]) is gave_up_at([2.0]) is None
    began = time.monotonic()
    assert gave_up_at([2.0] * 100_000) is None
    assert time.monotonic() - began < 1


def test_a_program_without_a_sweep_reports_nothing_and_has_no_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HPTRANSFER_TRIAL", raising=False)
    report(1, loss=0.5)
    with pytest.raises(UserError, match="the environment variable HPTRANSFER_TRIAL is not set"):
        Trial.current()


def test_only_rank_zero_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Trial(64, None, None, 0, "trainer", {}, {}, tmp_path, "key")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        told.report(int(rank), loss=float(rank), other=2)
    found = read_reports(tmp_path / "reports.jsonl")
    assert (found.losses, found.metrics) == (((0, 0.0),), {"other": 2.0})
    with pytest.raises(UserError, match="`other` must be a number, but got 'x'"):
        monkeypatch.setenv("RANK", "0")
        told.report(1, loss=1.0, other="x")  # pyright: ignore[reportArgumentType]


def test_a_report_that_is_cut_off_is_read_once_it_is_whole(tmp_path: Path) -> None:
    from hptransfer.training.external.trial import ReportsReader

    path = tmp_path / "reports.jsonl"
    reader = ReportsReader(path)
    assert reader.read().losses == ()
    path.write_text('{"step": 1, "loss": 1.0}\nno report\n{"step": 2, "lo')
    assert reader.read().losses == ((1, 1.0),)
    with path.open("a") as file:
        file.write('ss": NaN}\n')
    assert reader.read().diverged_at == 2 and math.isnan(reader.read().losses[1][1])


TORCHRUN = """\
import sys
import time

import torch.distributed as dist
import torch

import hptransfer

dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
for step in (0, 10):
    hptransfer.report(step, loss=float(total) - step / 10 + dist.get_rank())
dist.barrier()
if sys.argv[1] == "hangs":
    hptransfer.report(20, loss=float("nan"))
    time.sleep(600)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("word", ["ends", "hangs"])
def test_torchrun_trains_a_trial_in_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    (tmp_path / "train.py").write_text(TORCHRUN)
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2"
    command = f"{launch} train.py {word} {mark} {{width}} {{lr}}"
    result = run(tmp_path, trial(command, grace_s=0))
    if word == "ends":
        assert (result.loss, result.held_out) == (2.0, ((0, 3.0), (10, 2.0)))
    else:  # killed, with its workers, which have process groups of their own
        assert (result.status, result.diverged_at_step) == (Status.diverged, 20)
    assert not processes(mark)
