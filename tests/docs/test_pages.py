"""The code blocks of every page under docs/ run as they stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import Block, blocks_of, run_page
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
# Pages whose blocks are not run here, and why.
ELSEWHERE = {
    "how_to/import.md": "tests/test_import_page.py writes its tables first",
    "how_to/export.md": "its block is for the reader's own training code",
    "how_to/quality_of_samples.md": "its block reads the rows of a sweep that takes hours",
}
PAGES = [
    name
    for path in sorted(DOCS.rglob("*.md"))
    if (name := path.relative_to(DOCS).as_posix()) not in ELSEWHERE
    and any(blocks_of(path.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_a_page_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_page((DOCS / name).read_text(encoding="utf-8"), tmp_path, monkeypatch)


def test_pages_that_are_run_elsewhere_are_there() -> None:
    assert [name for name in ELSEWHERE if not (DOCS / name).is_file()] == []


PAGE = """\
# A page

<!-- before
mkdir sub
-->

```python
# file: made.py
WIDTH = 16
```

1. A list holds blocks as well:

    ```csv
    # file: sub/rows.csv
    width,lr,loss
    16,0.1,0.5
    ```

```python
import made
print(made.WIDTH)
```

```bash
cat sub/rows.csv > copy.csv   # only a shell does this
hptransfer list sweeps | grep quickstart

hptransfer fit no_such_folder \\
  --quiet                     # there is no such folder: exits 2
```

```console
$ never run
```

```text
never run
```
"""


def test_a_page_is_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(PAGE, tmp_path, monkeypatch)
    assert (tmp_path / "copy.csv").read_text() == "width,lr,loss\n16,0.1,0.5\n"


@pytest.mark.parametrize(
    "block",
    [
        "```bash\nhptransfer fit no_such_folder\n```",  # ends with 2, not 0
        "```bash\nhptransfer list sweeps  # exits 1\n```",
        "```bash\ncat no_such_file\n```",
        "```python\nassert False\n```",
    ],
)
def test_a_page_that_does_not_hold_fails(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        run_page(block, tmp_path, monkeypatch)


def test_blocks_that_are_only_shown_are_left_out() -> None:
    shown = "```console\n$ x\n```\n\n```text\nx\n```\n\n```sh\nx\n```\n\n```\nx\n```\n"
    assert list(blocks_of(shown + "```bash\nls\n```")) == [Block("bash", "ls\n")]
