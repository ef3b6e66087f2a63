"""The output of a trial's command: kept in a log of bounded size, and searched for an answer."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hptransfer.results.folder import LOG_FILE
from hptransfer.training.external.trial import REPORTS_FILE, json_line, report_of

HEAD_BYTES = 8 << 20  # of a trial's output that the log keeps from its beginning
TAIL_BYTES = 1 << 20  # of its end, where there is more
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
        self._is_long = False
        self.answers: list[dict[str, Any]] = []  # JSON lines with a loss and without a step
        self.found: str | None = None  # what the pattern found last
        self.lines: deque[str] = deque(maxlen=LAST_LINES)

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _t: TracebackType | None,
    ) -> None:
        if self._line:
            self._take_line(self._line)
        if self._left_out:
            self._file.write(f"\n... {self._left_out} bytes were left out here ...\n".encode())
        self._file.write(b"".join(self._tail))
        self._file.close()

    def head(self, text: str) -> None:
        """Write a line of hptransfer's own into the log."""
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def take(self, chunk: bytes) -> None:
        """Take bytes of the output in the order in which they come."""
        self._keep(chunk)
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
            self.answers.append(told)
