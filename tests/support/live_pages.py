"""Served pages for tests: a recorded study that fills up row by row, and requests to its server."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from hptransfer.reporting.live.server import LiveServer
from hptransfer.results.folder import ResultsFolder
from hptransfer.sweeping.run.time_left import time_left_text
from tests.support.paths import ROOT

STUDY = ROOT / "results" / "studies" / "quickstart"
PATIENCE_SECONDS = 60.0  # a fit takes one on a free machine


def study_rows() -> list[bytes]:
    """Return the lines of the study's ledger: µP at the width 48 first."""
    return (STUDY / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def growing_study(folder: Path, rows: int) -> ResultsFolder:
    """Write a folder as it is while its sweep runs: the first rows of the study, no answer."""
    folder.mkdir(parents=True)
    shutil.copy(STUDY / "sweep.yaml", folder)
    (folder / "log.jsonl").write_text('{"event": "started", "trials": 120}\n')
    add_rows(folder, slice(0, rows))
    return ResultsFolder(folder)


def add_rows(folder: Path, which: slice) -> None:
    """Append rows of the study to a folder's ledger, as a sweep does."""
    if rows := study_rows()[which]:
        with (folder / "ledger.jsonl").open("ab") as file:
            file.writelines(rows)


@contextmanager
def serving(served: ResultsFolder | Path) -> Iterator[LiveServer]:
    """Serve pages in a thread."""
    with LiveServer(served, time_left=time_left_text) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Answered(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    text: str


def get(address: str, method: str = "GET", **headers: str) -> Answered:
    """Ask a server; header names have `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(address, headers=named, method=method), timeout=30) as answer:
            return Answered(answer.status, dict(answer.headers), answer.read().decode())
    except HTTPError as error:
        with error:
            return Answered(error.code, dict(error.headers), error.read().decode())


def news(page: str, until: Callable[[Any], bool] = lambda told: not told["busy"]) -> Any:
    """Return the news of a page once they are so."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not until(told := json.loads(get(f"{page}data.json").text)):
        assert time.monotonic() < give_up, told
        time.sleep(0.05)
    return told
