"""A small web server on this machine alone: pages of sweeps, their news, and their logs as text.

Every address begins with a random token, so that no other user of the machine and no other site
in the browser can read it. The host that is asked for must be this machine's loopback, so that no
other name leads here. Only files inside a results folder are served, and nothing is written.
"""

from __future__ import annotations

import hmac
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from hptransfer.errors import UserError
from hptransfer.reporting.live.state import TimeLeft
from hptransfer.reporting.live.watched import Watched, WatchedRoot, WatchedSweep, tag_of
from hptransfer.reporting.page.page import content_policy
from hptransfer.results.folder import ResultsFolder

LOOPBACK = "127.0.0.1"
LOCAL_NAMES = (LOOPBACK, "localhost", "[::1]")  # of this machine, as a tunnel's far end names it
TEXT_FILES = (".jsonl", ".json", ".log", ".yaml")
CHUNK_BYTES = 1 << 16  # of a file that are sent at a time
IDLE_SECONDS = 10.0  # after which a connection that asks nothing is closed


class LiveServer(ThreadingHTTPServer):
    """Serves one sweep, or all those in a folder of results folders.

    Use it in a `with` block around `serve_forever`.

    Args:
        served: a results folder, or the folder that holds results folders.
        port: 0 takes a free one.
        step: training step at which losses are read, where rows have several.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True  # a browser's idle connection must not hold up the end

    def __init__(
        self,
        served: ResultsFolder | Path,
        *,
        time_left: TimeLeft,
        port: int = 0,
        step: int | None = None,
    ) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="live-report")
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port must be a free port of this machine, but {port} is not: {error}. Choose "
                "another, or leave --port out."
            ) from None
        self.token = secrets.token_urlsafe(16)
        self._time_left, self._step = time_left, step
        self._sweeps: dict[Path, WatchedSweep] = {}
        self._served = served
        self._root = None if isinstance(served, ResultsFolder) else WatchedRoot(served, self._pool)

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.token}/"

    def server_close(self) -> None:
        """Close the port, and wait for the worker."""
        super().server_close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent where a browser went away, and print any other error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def find(self, words: list[str]) -> tuple[Watched, Path | None, list[str]] | None:
        """Return the page that an address means, its folder, and the rest of the address."""
        if isinstance(self._served, ResultsFolder):
            return self._sweep(self._served), self._served.path, words
        assert self._root is not None
        if words in ([""], ["data.json"]):
            return self._root, None, words
        folder = self._root.folders().get(words[0])
        if folder is None or len(words) == 1:
            return None
        return self._sweep(folder), folder.path, words[1:]

    def _sweep(self, folder: ResultsFolder) -> WatchedSweep:
        if folder.path not in self._sweeps:
            watched = WatchedSweep(folder, self._pool, self._time_left, step=self._step)
            return self._sweeps.setdefault(folder.path, watched)
        return self._sweeps[folder.path]


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: LiveServer
    server_version, sys_version = "hptransfer", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer with a page, its news, or a file."""
        token, *words = [unquote(word) for word in urlsplit(self.path).path.split("/")[1:]]
        if not self._is_local():
            self._refuse(HTTPStatus.FORBIDDEN)
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._answer(words)

    def _answer(self, words: list[str]) -> None:
        match self.server.find(words):
            case (page, _, [""]):
                self._send(page.page().encode(), "text/html")
            case (page, _, ["data.json"]):
                self._send_news(page.content())
            case (_, Path() as folder, ["files", *inner]):
                self._send_file(folder, inner)
            case _:
                self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def _is_local(self) -> bool:
        host = self.headers.get("Host", "")
        name, colon, port = host.rpartition(":")
        return (name if colon and port.isdigit() else host) in LOCAL_NAMES

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(f"{status.phrase}\n".encode(), "text/plain", status=status)

    def _send_news(self, content: bytes) -> None:
        tag = tag_of(content)
        if self.headers.get("If-None-Match") == tag:
            self._begin(HTTPStatus.NOT_MODIFIED, {"ETag": tag})
        else:
            self._send(content, "application/json", ETag=tag)

    def _send_file(self, folder: Path, inner: list[str]) -> None:
        file = _opened(folder, inner)
        if file is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with file:
            left = file.seek(0, 2)  # a log may grow meanwhile
            file.seek(0)
            self._begin(HTTPStatus.OK, _typed("text/plain", left))
            while self.command != "HEAD" and (chunk := file.read(min(left, CHUNK_BYTES))):
                self.wfile.write(chunk)
                left -= len(chunk)

    def _send(
        self, content: bytes, kind: str, *, status: HTTPStatus = HTTPStatus.OK, **headers: str
    ) -> None:
        self._begin(status, {**_typed(kind, len(content)), **headers})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        fixed = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"{content_policy(live=True)}; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows the address alone."""


def _typed(kind: str, size: int) -> dict[str, str]:
    return {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(size)}


def _opened(folder: Path, inner: list[str]) -> IO[bytes] | None:
    """Open a text file of a folder; None where it is none, or lies outside by its path or links."""
    if any(not word or word.startswith(".") or "/" in word or "\0" in word for word in inner):
        return None
    root = folder.resolve()
    path = root.joinpath(*inner).resolve()
    if not path.is_relative_to(root) or path.suffix not in TEXT_FILES or not path.is_file():
        return None
    try:
        return path.open("rb")
    except OSError:
        return None
