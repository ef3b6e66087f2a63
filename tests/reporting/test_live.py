"""The served report: who may ask, what is answered while a sweep runs, and nothing written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.reporting.live import watched
from hptransfer.reporting.live.server import LiveServer
from hptransfer.reporting.live.state import RunLog, state_word
from hptransfer.results.failed_trials import FailedTrial, add_failed
from hptransfer.results.folder import ResultsFolder
from hptransfer.system.folder_lock import FolderLock
from tests.support.live_pages import add_rows, get, growing_study, news, serving

EVIL = "<script>alert('x')</script>"


def stamps(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and time of change of every file in a folder."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fail_a_trial(folder: Path, reason: str = "RuntimeError: out of luck") -> None:
    failed = FailedTrial(
        trial_key="0123456789ab",
        width=48,
        parametrization="mup",
        hps={"log2_lr": -6.0},
        seed=1,
        reason=reason,
        frame="model.py:7 in forward",
        log="failed/0123456789ab.log",
    )
    add_failed(folder, failed, "Traceback (most recent call last): ...\n")


def test_only_who_has_the_token_and_asks_for_this_machine_is_answered(tmp_path: Path) -> None:
    with serving(growing_study(tmp_path / "mine", 0)) as server:
        host = f"http://127.0.0.1:{server.server_address[1]}"
        assert len(server.token) >= 20
        for path in ("/", "/data.json", "/wrong/", f"/{server.token[:-1]}/"):
            assert get(host + path).status == 404, path
        for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            assert get(server.url, Host=name).status == 403, name
        for name in ("localhost:9000", "127.0.0.1:9000", "[::1]:9000", "localhost"):
            assert get(server.url, Host=name).status == 200, name  # through a tunnel
        assert get(server.url, "POST").status == 501
        page = get(server.url)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy
        assert get(server.url, "HEAD").text == ""


def test_files_are_served_as_text_and_only_from_inside_the_folder(tmp_path: Path) -> None:
    folder = growing_study(tmp_path / "mine", 1).path
    fail_a_trial(folder)
    (tmp_path / "secret.log").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "inner.log").write_text("secret")
    (folder / "weights.safetensors").write_bytes(b"x")
    (folder / ".hidden.log").write_text("x")
    with serving(ResultsFolder(folder)) as server:
        log = get(f"{server.url}files/log.jsonl")
        assert log.status == 200 and '"event": "started"' in log.text
        assert log.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "Traceback" in get(f"{server.url}files/failed/0123456789ab.log").text
        (folder / "link.log").symlink_to(tmp_path / "secret.log")
        (folder / "linked").symlink_to(tmp_path / "secrets")
        for path in (
            *("../secret.log", "%2e%2e/secret.log", "..%2fsecret.log", "%2fetc%2fhosts.log"),
            *(
                f"{tmp_path}/secret.log",
                "link.log",
                "linked/inner.log",
                "failed",
                "",
                ".",
                "none.log",
            ),
            *("weights.safetensors", ".hidden.log", "log.jsonl%00", "failed//0123456789ab.log"),
        ):
            answer = get(f"{server.url}files/{path}")
            assert answer.status == 404 and "secret" not in answer.text, path


def test_the_page_follows_the_rows_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, fit = [], watched.fresh_estimates

    def counted(*arguments: Any, **options: Any) -> dict[str, Any]:
        fits.append(threading.current_thread().name)
        return fit(*arguments, **options)

    monkeypatch.setattr(watched, "fresh_estimates", counted)
    monkeypatch.setattr(watched, "REST", 0.0)
    folder = growing_study(tmp_path / "mine", 0)
    before = stamps(tmp_path)
    with serving(folder) as server:
        first = news(server.url)
        assert "No trial is finished yet" in first["parts"]["answer"]
        assert first["charts"]["panels"] == [] and not fits
        assert stamps(tmp_path) == before

        add_rows(folder.path, slice(0, 24))
        before = stamps(tmp_path)
        some = news(server.url, lambda told: told["charts"]["panels"])
        assert "<b>Stopped</b>: 24 of 120 trials" in some["parts"]["state"]
        assert "so far: inconclusive" in some["parts"]["answer"]
        assert [width["name"] for width in some["charts"]["settings"]] == ["48"]
        assert some["charts"]["panels"][0]["title"] == "µP, so far: inconclusive"

        again = get(f"{server.url}data.json")
        for _ in range(3):
            same = get(f"{server.url}data.json", If_None_Match=again.headers["ETag"])
            assert (same.status, same.text) == (304, "")
        assert stamps(tmp_path) == before

        add_rows(folder.path, slice(24, 120))
        (folder.path / "log.jsonl").open("a").write('{"event": "finished", "outcome": "done"}\n')
        before = stamps(tmp_path)
        last = news(server.url, lambda told: len(told["charts"]["arms"]) == 2)
        assert "<b>Done</b>: 120 of 120 trials" in last["parts"]["state"]
        assert "so far" not in last["parts"]["answer"]
        assert stamps(tmp_path) == before
        assert len(fits) == 2 and all(name.startswith("live-report") for name in fits)


def test_a_page_is_answered_while_a_fit_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_end = threading.Event(), threading.Event()

    def endless(*_: Any, **__: Any) -> dict[str, Any]:
        started.set()
        assert may_end.wait(60)
        raise ValueError("of such rows")

    monkeypatch.setattr(watched, "fresh_estimates", endless)
    with serving(growing_study(tmp_path / "mine", 8)) as server:
        get(server.url)
        assert started.wait(60)
        told = json.loads(get(f"{server.url}data.json").text)
        assert told["busy"] and "8 of 120 trials" in told["parts"]["state"]
        may_end.set()
        said = news(server.url)["parts"]["answer"]
        assert "cannot be fitted (ValueError: of such rows)" in said


def test_what_runs_and_what_failed_is_told(tmp_path: Path) -> None:
    folder = growing_study(tmp_path / "mine", 12).path
    with (folder / "log.jsonl").open("a") as log:
        for pack in (0, 1):
            print(json.dumps({"event": "pack_started", "pack": pack, "trials": 12}), file=log)
    fail_a_trial(folder, f"RuntimeError: {EVIL}")
    with FolderLock(folder), serving(ResultsFolder(folder)) as server:
        parts = news(server.url)["parts"]
        assert "<b>Running</b>: 12 of 120 trials, 24 running, 1 failed, ~" in parts["state"]
        assert " left" in parts["state"]
        assert (
            "µP, width 48, learning rate 0.0156, seed 1: RuntimeError: &lt;script&gt;"
            in (parts["trials"])
        )
        assert 'href="files/failed/0123456789ab.log"' in parts["trials"]
        assert 'href="files/log.jsonl"' in parts["trials"]
        assert EVIL not in get(server.url).text


def test_a_damaged_ledger_is_told_on_the_page(tmp_path: Path) -> None:
    folder = growing_study(tmp_path / "mine", 3).path
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"loss":0', b'"loss":1', 1))
    with serving(ResultsFolder(folder)) as server:
        assert "its checksum does not match" in news(server.url)["parts"]["state"]


def test_all_sweeps_of_a_folder_are_listed_each_with_its_page(tmp_path: Path) -> None:
    growing_study(tmp_path / "a <b>", 0)
    growing_study(tmp_path / "inner" / "two", 24)
    (tmp_path / "no sweep").mkdir()
    with serving(tmp_path) as server:
        listed = news(server.url)["parts"]["list"]
        assert 'href="a%20%3Cb%3E/"' in listed and "a &lt;b&gt;" in listed
        assert 'href="inner%2Ftwo/"' in listed and "24 of 120" in listed
        assert "not started" in listed and "no sweep" not in listed
        page = get(f"{server.url}inner%2Ftwo/")
        assert page.status == 200 and "<h1>" in page.text
        assert get(f"{server.url}inner%2Ftwo/files/sweep.yaml").status == 200
        for path in ("none/", "..%2F", "inner/", "no%20sweep/", "inner%2Ftwo"):
            assert get(f"{server.url}{path}").status == 404, path
        add_rows(tmp_path / "a <b>", slice(0, 8))
        assert (
            "8 of 120"
            in news(server.url, lambda told: "8 of" in told["parts"]["list"])["parts"]["list"]
        )


def test_nothing_runs_on_after_the_end(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with serving(growing_study(tmp_path / "mine", 8)) as server:
        news(server.url)
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    assert left == []


def test_a_log_is_read_on_and_a_line_being_written_is_left(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.read_on()
    path.write_text('{"event": "pack_started", "pack": 0, "trials": 4}\n{"event": "pack_sta')
    log.read_on()
    assert log.running == {0: 4}
    with path.open("a") as file:
        file.write(
            'rted", "pack": 1, "trials": 3}\nnot json\n{"event": "pack_finished", "pack": 0}\n'
        )
    log.read_on()
    assert log.running == {1: 3} and log.packs_at_a_time == 2
    path.write_text('{"event": "finished", "outcome": "failed", "error": "E: x"}\n')
    log.read_on()
    assert (log.running, log.outcome, log.error) == ({}, "failed", "E: x")


@pytest.mark.parametrize(
    ("recorded", "missing", "is_running", "has_failed", "word"),
    [
        (0, 9, False, False, "not started"),
        (0, 9, True, False, "running"),
        (4, 5, False, False, "stopped"),
        (4, 5, False, True, "failed"),
        (9, 0, False, False, "done"),
    ],
)
def test_the_state_of_a_sweep_is_one_word(
    recorded: int, missing: int, is_running: bool, has_failed: bool, word: str
) -> None:
    counts = {"recorded": recorded, "missing": missing}
    assert state_word(**counts, is_running=is_running, has_failed=has_failed) == word


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "Name the folder, or add --serve"),
        (["report", "mine", "--port=1"], "Name the folder, or add --serve"),
        (["report", "mine", "--serve", "--out=x"], "writes no file"),
        (["report", "mine", "--serve", "--port=99999"], "must be a free port"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    growing_study(tmp_path / "mine", 0)
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    folder = growing_study(tmp_path / "mine", 0)
    with serving(folder) as server, pytest.raises(Exception, match="must be a free port"):
        LiveServer(folder, time_left=lambda *_: None, port=server.server_address[1])


def test_the_command_prints_one_address_and_ends_at_an_interruption(tmp_path: Path) -> None:
    growing_study(tmp_path / "results" / "mine", 0)
    command = [sys.executable, "-m", "hptransfer", "report", "mine", "--serve"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as running:  # fmt: skip
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("report   http://127.0.0.1:") and "Ctrl-C" in line
        assert get(line.split()[1]).status == 200
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=30)
    assert (running.returncode, out, error) == (0, "", "")
