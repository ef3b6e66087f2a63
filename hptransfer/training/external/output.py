"""The output of a trial's command: kept in a log of bounded size, and searched for an answer."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hptransfer.results.folder import LOG_FILE
from hptransfer.training.external.trial import REPORTS_FILE, json_line, report_of

HEAD_BYTES = 8 << 20  # of a trial's output that the log keeps from its beginning
TAIL_BYTES = 1 << 20  # of its end, where there is more
READ_BYTES = 1 << 16  # of a command's output at a time
LONGEST_LINE = 1 << 16  # bytes of a line that are searched for an answer
LAST_LINES = 40  # of the log that a message about a failed trial keeps


class Output:
    """Takes the bytes of a command's output, for use in a `with` block.

    Args:
        folder: the trial's.
        pattern: that finds the loss, if the sweep gives one.
    """

    def __init__(self, folder: Path, pattern: str | None) -> None:
        self._path = folder / LOG_FILE
        self._reports = folder / REPORTS_FILE
        self._pattern = None if pattern is None else re.compile(pattern)
        self._written = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = self._left_out = 0
        self._line = b""
        self._ends_line = True
        # JSON lines with a loss and without a step: the last one, or two with different losses.
        self.answers: list[dict[str, Any]] = []
        self.found: str | None = None  # what the pattern found last
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self._lock = threading.Lock()
        self._is_closed = False
        self._error: OSError | None = None  # the first one at writing the log or a report

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _t: TracebackType | None,
    ) -> None:
        self.close()
        with suppress(OSError):  # of a full disk: `raise_error` says it
            self._file.close()

    def close(self) -> None:
        """Take no more output: what a process that outlives the command prints is dropped."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._remembering(self._take_line, self._line)
            if self._left_out:
                text = f"\n... {self._left_out} bytes were left out here ...\n"
                self._remembering(self._file.write, text.encode())
            self._remembering(self._file.write, b"".join(self._tail))

    def read_all(self, pipe: IO[bytes]) -> None:
        """Take what comes through a pipe, until no process holds its other end.

        An error at writing stops nothing, since a command whose output nobody reads would hang.
        """
        while chunk := os.read(pipe.fileno(), READ_BYTES):
            with self._lock:
                if not self._is_closed:
                    self._remembering(self.take, chunk)
        pipe.close()

    def _remembering(self, write: Callable[[bytes], Any], content: bytes) -> None:
        try:
            write(content)
        except OSError as error:
            self._error = self._error or error

    def raise_error(self) -> None:
        """Raise the first error at writing the log or a report, if there was one."""
        if self._error is not None:
            raise self._error

    def foot(self, text: str) -> None:
        """Write a line of hptransfer's own at the end of the closed log."""
        line = text if self._ends_line else f"\n{text}"
        self._remembering(self._file.write, line.encode() + b"\n")
        self._remembering(lambda _: self._file.flush(), b"")

    def head(self, text: str) -> None:
        """Write a line of hptransfer's own into the log."""
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def take(self, chunk: bytes) -> None:
        """Take bytes of the output in the order in which they come."""
        self._keep(chunk)
        self._ends_line = chunk.endswith(b"\n")
        first, *others = chunk.replace(b"\r", b"\n").split(b"\n")
        self._extend(first)
        for line in others:
            self._take_line(self._line)
            self._line = b""
            self._extend(line)

    def _extend(self, part: bytes) -> None:
        self._line += part[: LONGEST_LINE - len(self._line)]

    def _keep(self, chunk: bytes) -> None:
        room = max(HEAD_BYTES - self._written, 0)
        head, rest = chunk[:room], chunk[room:]
        if head:
            self._file.write(head)
            self._file.flush()
            self._written += len(head)
        if rest:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
            while self._tail_bytes - len(self._tail[0]) > TAIL_BYTES:
                gone = len(self._tail.popleft())
                self._tail_bytes -= gone
                self._left_out += gone

    def _take_line(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace")
        if text.strip():
            self.lines.append(text)
        if self._pattern is not None and (match := self._pattern.search(text)):
            self.found = match.group(1)
        if report_of(text) is not None:
            with self._reports.open("a", encoding="utf-8") as file:
                file.write(text.strip() + "\n")
        elif (told := json_line(text)) is not None and "loss" in told:
            self._take_answer(told)

    def _take_answer(self, told: dict[str, Any]) -> None:
        if self.answers and repr(self.answers[-1]["loss"]) == repr(told["loss"]):
            self.answers[-1] = told
        elif len(self.answers) < 2:
            self.answers.append(told)
