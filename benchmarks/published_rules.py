"""Write what `hptransfer rules` says into docs/evidence/published_rules.md.

Every `console` block of the page that begins with `$ hptransfer rules` gets the output of its
command. A test holds that the page is what this writes:

    python -m benchmarks.published_rules
"""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

from hptransfer.cli.main import main

PAGE = Path(__file__).parents[1] / "docs/evidence/published_rules.md"
BLOCK = re.compile(r"^```console\n\$ hptransfer (rules .*)\n(?:.*\n)*?```$", re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """Return the words of every command on the page, without `hptransfer`."""
    return [shlex.split(found[1]) for found in BLOCK.finditer(page)]


def written(page: str) -> str:
    """Return the page with the present output below every command."""
    return BLOCK.sub(lambda found: _block(found[1]), page)


def _block(command: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        code = main([*shlex.split(command), "--quiet"])
    assert code == 0, command
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    told = [line for line in lines if not line.startswith("next: ")]
    return "\n".join(["```console", f"$ hptransfer {command}", *told, "```"])


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
