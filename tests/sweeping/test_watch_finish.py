"""The word at a sweep's end: posts, commands, and what they never show."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.request import Request

import pytest

from hptransfer.config import ExecutorConfig
from hptransfer.errors import UserError
from hptransfer.sweeping.trackers import finish as finish_module
from hptransfer.sweeping.trackers import watchers
from hptransfer.sweeping.trackers.finish import finish


class Receiver(BaseHTTPRequestHandler):
    """Keeps what was posted; its path says what it answers."""

    posts: ClassVar[list[tuple[str, dict[str, str], Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append((self.path, dict(self.headers), json.loads(body)))
        if self.path.startswith("/slow"):
            time.sleep(1.5)
        if self.path.startswith("/to-"):
            self.send_response(302)
            self.send_header("Location", f"{self.path.split('/')[1][3:]}://127.0.0.1/hush")
        else:
            self.send_response(500 if self.path.startswith("/broken") else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """Serve on loopback; yield host and port."""
    Receiver.posts.clear()
    http = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def end(folder: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", target)
    with watchers(folder, "demo", ExecutorConfig(trackers=[], on_finish="env:HOOK")):
        pass


def test_a_url_gets_a_post(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch):
    end(tmp_path, f"http://me:se%20cret@{server}/hook?token=abc", monkeypatch)
    ((path, headers, said),) = Receiver.posts
    assert path == "/hook?token=abc"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6c2UgY3JldA=="
    assert headers["Host"] == server
    assert said == {
        "sweep": "demo",
        "folder": str(tmp_path),
        "outcome": "done",
        "counts": {"rows": 0, "completed": 0, "diverged": 0, "stopped": 0},
        "hours": said["hours"],
    }


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("broken", "it answered with status 500"),
        ("to-file", "it answered with status 302"),
        ("to-ftp", "it redirects to a URL of 'ftp'"),
        ("slow", "timed out"),
    ],
)
def test_a_post_that_fails_is_told_without_its_secrets(
    tmp_path: Path,
    server: str,
    path: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(finish_module, "POST_SECONDS", 0.5)
    end(tmp_path, f"http://me:secret@{server}/{path}/hush?token=hush", monkeypatch)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"hptransfer: executor.on_finish (http://{server}) failed: ")
    assert why in err
    everything = err + (tmp_path / "log.jsonl").read_text()
    assert "secret" not in everything
    assert "hush" not in everything


def test_a_redirect_never_leaves_encryption():
    handler: Any = finish_module._SameKind()
    request = Request("https://a.example/x", method="POST")
    with pytest.raises(URLError, match="redirects to a URL of 'http'"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://a.example/x")
    assert handler.redirect_request(request, None, 302, "", {}, "https://a.example/y") is not None


def test_nobody_listening_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    end(tmp_path, "http://127.0.0.1:9/hook", monkeypatch)
    assert "Connection refused" in capsys.readouterr().err


PROGRAM = """
import json, os, sys
said = json.load(sys.stdin)
names = {k: v for k, v in os.environ.items() if k.startswith("HPTRANSFER_")}
print("this goes nowhere")
open(sys.argv[1], "w").write(json.dumps([said, names, sys.argv[2]]))
"""


def test_a_command_runs_without_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    program = tmp_path / "tell.py"
    program.write_text(PROGRAM)
    answer = tmp_path / "answer.json"
    end(tmp_path, f"{sys.executable} {program} {answer} '$HOME; a b'", monkeypatch)
    said, names, word = json.loads(answer.read_text())
    assert word == "$HOME; a b"
    assert said["outcome"] == names["HPTRANSFER_OUTCOME"] == "done"
    assert (names["HPTRANSFER_SWEEP"], names["HPTRANSFER_ROWS"]) == ("demo", "0")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("program", "why"),
    [("import sys; sys.exit(3)", "exit code 3"), ("import time; time.sleep(60)", "more than")],
)
def test_a_command_that_fails_is_told(
    tmp_path: Path,
    program: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(finish_module, "COMMAND_SECONDS", 2.0)
    end(tmp_path, f"{sys.executable} -c '{program}'", monkeypatch)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert why in err


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://example.org/x",
        "http://",
        "http://me:secret@host:port/",
        "no-such-command --secret",
        "echo 'secret",
        " ",
    ],
)
def test_what_cannot_work_is_refused_at_the_start(target: str):
    with pytest.raises(UserError, match=r"executor\.on_finish") as refused:
        finish(target)
    assert "secret" not in str(refused.value)
