"""The main job end to end on real digits, small: run, continue, kill, change, refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file
from hptransfer.errors import Interrupted
from hptransfer.reporting import of_folder as pages
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.system.signals import end_if_asked, raised_as_interrupted, requested_signal
from hptransfer.training.packs.state import TrainingState
from tests.support.files import unchangeable
from tests.support.sweeps import LEDGER, outcomes, rows, run


def test_run_does_everything_and_further_runs_keep_what_is_there(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "tiny.yaml") == 0
    out = capsys.readouterr().out
    said = (
        "moves: ",
        "verdict",
        "transfer",
        "measured The target was swept",
        "time",
        "summary.png",
    )
    for word in (*said, "report.html"):
        assert word in out
    assert out.count("moves: ") == 2  # the answer of each parametrization, once
    folder = Path("results/tiny")
    for name in ("sweep.yaml", "estimates.json", "target.yaml", "target_groups.json"):
        assert (folder / name).is_file()
    assert (folder / "figures" / "summary.png").read_bytes()[:4] == b"\x89PNG"
    assert len(rows()) == 6 * 2 * (1 + 2 + 2)
    assert len(rows(folder / "target" / "ledger.jsonl")) == 2 * 4
    assert set(rows()) & set(rows(folder / "target" / "ledger.jsonl")) == set()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run("run", "tiny.yaml") == 0
    for path, content in before.items():
        if path.name not in (".lock", "report.html", "timing.json"):
            assert path.read_bytes() == content, path
    # Every row of the target counts, and completes the transfer.
    assert run("run", "tiny.yaml", "sweep.realise.seeds=1") == 0
    realised = json.loads((folder / "target" / "realised.json").read_text())
    assert realised["optimum"]["n_seeds"] == 2  # those of the first run stay
    transfer = json.loads((folder / "transfer.json").read_text())
    assert transfer["realised_regret"] == realised["regret"]


def test_steps_one_by_one_give_the_same_and_answer_in_json(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml") == 0
    capsys.readouterr()
    answers = {}
    for command in ("status", "fit", "transfer", "plot", "report"):
        assert run(command, "tiny", "--json") == 0
        answers[command] = json.loads(capsys.readouterr().out)
    assert answers["status"]["recorded"] == answers["status"]["wanted"] == 60
    arms = {arm["parametrization"]: arm for arm in answers["fit"]["arms"]}
    assert set(arms) == {"mup", "standard"}
    assert [optimum["width"] for optimum in arms["mup"]["optima"]] == [8, 16, 32]
    assert answers["transfer"]["target"]["width"] == 64
    assert run("train", "results/tiny/target.yaml", "--json") == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["status"] == "completed" and not trained["recorded_before"]
    assert run("train", "results/tiny/target.yaml", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["recorded_before"] and again["loss"] == trained["loss"]


def test_the_emitted_config_is_the_transferred_trial(tiny_sweep: Path) -> None:
    assert run("sweep", "tiny.yaml") == 0
    assert run("transfer", "results/tiny") == 0
    record = json.loads(Path("results/tiny/transfer.json").read_text())
    trial = compose_file(Path("results/tiny/target.yaml"), []).trial
    assert trial.optimizer.lr == pytest.approx(2 ** record["hps"]["log2_lr"]["value"])
    assert trial.model.width == 64 and trial.budget.steps == 12
    groups = json.loads(Path("results/tiny/target_groups.json").read_text())
    by_name = {group["parameter"]: group for group in groups}
    assert by_name["blocks.0.mlp.fc1.weight"]["lr_factor"] == 8 / 64
    assert by_name["final_layer.linear.weight"]["forward_factor"] == 8 / 64
    assert by_name["x_embedder.proj.weight"]["role"] == "input"
    cost = record["cost"]
    assert cost["sweep_flops"] == pytest.approx(sum(r["cost"]["flops"] for r in rows().values()))
    assert 0 < cost["narrowest_over_target_percent"] < cost["arm_over_target_percent"]


def test_transfer_elsewhere_says_what_the_answer_does_not_cover(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml") == 0
    deeper = ("transfer", "tiny", "model.width=128", "model.depth=4")
    assert run(*deeper) == 2
    assert "The target must be as deep as the swept models" in capsys.readouterr().err
    assert run(*deeper, "transfer.allow=depth") == 0
    record = json.loads(Path("results/tiny/transfer.json").read_text())
    assert record["expected_regret"]["mean"] is None
    assert (
        "model.depth is 4 at the target and 1 at the proxies (4 times)"
        in (record["expected_regret"]["reason"])
    )
    capsys.readouterr()
    for override, sentence in (
        ("model.width=16", "at least as wide as the widest swept model"),
        ("model.base_width=16", "must have the swept models' base width"),
        ("parametrization=standard_embed", "must be one of those that were swept"),
        ("transfer.allow=width", "`transfer.allow` may hold only depth, but got ['width']"),
    ):
        assert run("transfer", "tiny", override) == 2
        assert sentence in capsys.readouterr().err


def test_growing_axes_adds_only_the_missing_trials(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml", "sweep.widths=8,16") == 0
    first = LEDGER.read_bytes()
    assert main(["sweep", "tiny.yaml", "sweep.seeds=0,1,2"]) == 0
    assert "36 of 90 trials are finished; 54 more to run" in capsys.readouterr().out
    assert LEDGER.read_bytes().startswith(first)
    assert run("sweep", "tiny.yaml", "sweep.widths=8,16", "--shrink") == 0
    assert "54 recorded rows are not used" in capsys.readouterr().out


def test_a_changed_base_trial_under_an_old_name_is_refused(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml", "sweep.widths=[8]") == 0
    before = LEDGER.read_bytes(), Path("results/tiny/sweep.yaml").read_bytes()
    assert run("sweep", "tiny.yaml", "budget.steps=13") == 2
    assert capsys.readouterr().err == (
        "hptransfer: results/tiny holds another sweep: budget.steps was 12 and is now 13. A "
        "changed base config is another question, so give this sweep a name of its own with "
        "name=tiny-2.\n"
    )
    assert (LEDGER.read_bytes(), Path("results/tiny/sweep.yaml").read_bytes()) == before
    assert run("sweep", "tiny.yaml", "budget.steps=13", "name=tiny-2", "sweep.widths=[8]") == 0


def test_the_gate_spends_nothing_on_a_broken_mup_arm(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = ("parametrization.broken=readout_twice", "sweep.gate=true")
    assert run("sweep", "tiny.yaml", *broken) == 1
    assert "The coordinate check of µP failed" in capsys.readouterr().out
    assert not LEDGER.exists()
    kept = json.loads(Path("results/tiny/check.json").read_text())
    assert [check["verdict"] for check in kept["checks"]] == ["fail", "fail"]


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hptransfer", *words]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_rows(count: int) -> None:
    deadline = time.monotonic() + 90
    while not LEDGER.exists() or LEDGER.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "the sweep did not start"
        time.sleep(0.02)


SLOWER = ("runtime.pack_size=2", "budget.steps=40")


def test_killed_sweeps_end_with_the_rows_of_an_undisturbed_one(tiny_sweep: Path) -> None:
    words = (*SLOWER, "sweep.widths=[8,16]")
    assert run("sweep", "tiny.yaml", *words, "name=undisturbed") == 0
    for killed in range(2):  # a first start, and one that continues
        process = start("sweep", "tiny.yaml", *words)
        wait_for_rows(8 * (killed + 1))
        process.kill()
        process.communicate()
    assert 0 < len(rows()) < 36
    assert run("sweep", "tiny.yaml", *words) == 0
    assert outcomes() == outcomes(Path("results/undisturbed/ledger.jsonl"))


def test_a_terminated_process_leaves_a_clean_ledger_and_says_how_to_continue(
    tiny_sweep: Path,
) -> None:
    process = start("sweep", "tiny.yaml", *SLOWER)
    wait_for_rows(2)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Continue with\n  hptransfer sweep tiny.yaml runtime.pack_size=2" in err
    assert "Traceback" not in err
    assert 0 < len(rows()) < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_an_interrupted_command_leaves_a_clean_ledger_and_says_how_to_continue(
    tiny_sweep: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        wait_for_rows(2)
        os.kill(os.getpid(), number)

    kept = signal.signal(number, signal.SIG_IGN)  # a signal that comes too late must not end pytest
    try:
        sender = threading.Thread(target=interrupt, daemon=True)
        sender.start()
        assert main(["sweep", "tiny.yaml", *SLOWER]) == 130
        sender.join()
    finally:
        signal.signal(number, kept)
    err = capsys.readouterr().err
    assert "Continue with\n  hptransfer sweep tiny.yaml runtime.pack_size=2" in err
    assert 0 < len(rows()) < 60


class Ended:
    """Something whose finaliser is interrupted, so that Python drops the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_python_drops_ends_the_sweep_after_its_pack(
    tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = TrainingState.train_step

    def interrupted(state: TrainingState, step: int) -> None:
        if step == 5:
            Ended()
        train(state, step)

    monkeypatch.setattr(TrainingState, "train_step", interrupted)
    assert run("sweep", "tiny.yaml", *SLOWER) == 130
    assert len(rows()) == 2  # the pack that was running is kept
    assert "Continue with" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dropped_interruption_is_raised_at_the_end_at_the_latest() -> None:
    with pytest.raises(Interrupted), raised_as_interrupted():
        Ended()
    end_if_asked()  # it is asked no more


def test_what_ends_by_itself_after_a_signal_was_not_interrupted() -> None:
    with raised_as_interrupted(at_once=False):
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested_signal() == signal.SIGTERM
    assert requested_signal() is None


def test_an_edited_line_is_refused_with_its_number(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml", "sweep.widths=[8]") == 0
    lines = LEDGER.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"seed":', '"seed": ')
    LEDGER.write_text("".join(lines))
    capsys.readouterr()
    for command in (["fit", "tiny"], ["sweep", "tiny.yaml", "sweep.widths=[8]"]):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert "Line 3 of" in error and error.count("\n") == 1


def test_a_torn_last_line_runs_again(tiny_sweep: Path) -> None:
    assert run("sweep", "tiny.yaml", "sweep.widths=[8]") == 0
    whole = outcomes()
    LEDGER.write_bytes(LEDGER.read_bytes()[:-40])
    assert run("sweep", "tiny.yaml", "sweep.widths=[8]") == 0
    assert outcomes() == whole


def test_a_read_only_folder_is_one_sentence(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml", "sweep.widths=[8]") == 0
    folder = Path("results/tiny")
    before = LEDGER.read_bytes()
    capsys.readouterr()
    with unchangeable(folder):
        assert run("sweep", "tiny.yaml") == 2
    error = capsys.readouterr().err
    assert "must be writable" in error and error.count("\n") == 1
    assert LEDGER.read_bytes() == before


def test_an_idle_run_keeps_the_timing_of_the_one_that_worked(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    pages.record_timing(folder, {"sweep": 60.0}, worked=True)
    pages.record_timing(folder, {"sweep": 0.1}, worked=False)
    assert read_json(folder.timing_file, "seconds") == {"seconds": {"sweep": 60.0}}
    pages.record_timing(folder, {"sweep": 2.0}, worked=True)
    assert read_json(folder.timing_file, "seconds") == {"seconds": {"sweep": 2.0}}


def test_the_set_limit_reaches_fit_and_transfer(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("sweep", "tiny.yaml", "verdict.max_regret=0.5") == 0
    for words, limit in (((), 0.5), (("verdict.max_regret=0.25",), 0.25)):
        capsys.readouterr()
        assert run("fit", "tiny", *words, "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        limits = [arm["cost"]["ignoring"]["limit"] for arm in printed["arms"]]
        assert limits == [{"of": "loss", "most": limit}] * 2
    seen = {}
    import hptransfer.analysis.answer.estimates as module

    whole = module.estimate
    monkeypatch.setattr(module, "estimate", lambda *a, **k: (seen.update(k), whole(*a, **k))[1])
    assert run("transfer", "tiny") == 0
    assert seen["rule"].max_regret == 0.5


def test_the_report_shows_the_mup_arms_check(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    write_json(
        folder.check_file, {"checks": [{"parametrization": "standard"}, {"parametrization": "mup"}]}
    )
    assert pages.mup_check(folder) == {"parametrization": "mup"}
