"""Run the code blocks of a documentation page as they stand there, in page order.

| block | what is done with it |
| --- | --- |
| `bash` | run line by line; a line must end with code 0, or N where its comment says `exits N` |
| `python` | run, in one namespace for the page |
| `python`, `yaml` or `csv` that begins with `# file: NAME` | written to that file |
| a comment `<!-- before` ... `-->` | bash lines that the page needs and does not show |

All other blocks are shown only. `quickstart` is a tiny sweep here, and trials run in this process.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.cli.main import main
from hptransfer.training.packs import coordinate_check
from tests.support.paths import ROOT
from tests.support.tiny import TINY_SWEEP

BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```"
    r"|^<!-- before\n(?P<before>.*?)-->",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"# file: (\S+)\n")
EXITS = re.compile(r"#.*\bexits (\d+)\b")
QUICKSTART = (
    TINY_SWEEP.replace("name: tiny\n", "name: quickstart\n")
    .replace("depth: 1", "depth: 2")  # which all families can have
    .replace("pack_size: 4", "pack_size: 16")  # which is quicker
)
SHELL = re.compile(r"[|<>&;$*`]")  # what only a shell understands, outside quotes
QUOTED = re.compile(r"""'[^']*'|"[^"]*"|\s#.*""")  # and comments
SWEEPING = ("run", "sweep", "plan")  # the commands of many trials


@dataclass(frozen=True)
class Block:
    """A piece of a page that is run or written to a file."""

    kind: str  # bash, python, yaml or csv
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is written to; None where it is run."""
        title = FILE.match(self.text)
        return title[1] if title else None


def blocks_of(page: str) -> Iterator[Block]:
    """Yield the blocks of a page's text that are run, written or parsed, in page order."""
    for found in BLOCK.finditer(page):
        kind = "bash" if found["before"] else found["kind"]
        if kind in ("bash", "python", "yaml", "csv"):
            yield Block(kind, textwrap.dedent(found["before"] or found["text"]))


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page's blocks in a folder, which becomes the working folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    own = {"PATH": f"{Path(sys.executable).parent}", "PYTHONPATH": str(ROOT)}
    for name, path in own.items():  # for the processes of trials that a page's own code trains
        monkeypatch.setenv(name, os.pathsep.join([path, *filter(None, [os.environ.get(name)])]))
    monkeypatch.setattr(coordinate_check, "CHECK_SEEDS", (0, 1))
    # A bare name is looked up in ./sweeps first, so `quickstart` is the tiny sweep here.
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "quickstart.yaml").write_text(QUICKSTART)
    try:
        _run_blocks(page, folder)
    finally:  # another page may name a file of its own alike
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def _run_blocks(page: str, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.kind == "yaml":
            yaml.safe_load(block.text)
        if block.file:
            _write(folder / block.file, block)
        elif block.kind == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                run_line(line)
        elif block.kind == "python":
            exec(compile(block.text, "<a python block of the page>", "exec"), names)


def _write(path: Path, block: Block) -> None:
    """Write a block to its file: a table without its title, which is no row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FILE.sub("", block.text, count=1) if block.kind == "csv" else block.text)
    importlib.invalidate_caches()


def run_line(line: str) -> None:
    """Run a line of shell; one of `hptransfer` alone runs in this process, which is quicker."""
    expected = int(found[1]) if (found := EXITS.search(line)) else 0
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "hptransfer" and not SHELL.search(QUOTED.sub("", line)):
        code = main(shortened(words[1:]))
    else:
        code = _in_shell(line)
    assert code == expected, f"`{line}` ended with {code}, not with {expected}."


def shortened(words: list[str]) -> list[str]:
    """Return a command's words with lengths of training that fit the tiny sweep."""
    words = [word.replace("steps=75,150", "steps=6,12") for word in words]
    if "--budget" in words and "quickstart" in words:  # whose pilot must show a basin
        words.append("budget.steps=60")
    if words[0] in SWEEPING and not any(word.startswith("executor=") for word in words):
        words.append("executor=local")  # a page has few trials, and Ray takes seconds to start
    if words[:2] == ["run", "digits.yaml"]:  # the tutorial's 63 trials
        words += ["sweep.seeds=1", "sweep.widths=[32,64]"]
    return words


def _in_shell(line: str) -> int:
    """Run a line of shell with the commands and packages of this environment."""
    own = f'hptransfer() {{ "{sys.executable}" -m hptransfer "$@"; }}\n'
    ended = subprocess.run(["bash", "-c", own + line], capture_output=True, text=True)
    print(ended.stdout)
    print(ended.stderr, file=sys.stderr)
    return ended.returncode
