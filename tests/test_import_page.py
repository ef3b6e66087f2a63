"""The examples of docs/how_to/import.md, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import hptransfer
from hptransfer.cli.main import main
from hptransfer.results.importers.columns import SPELLINGS
from hptransfer.results.ledger_rows import read_ledger
from tests.support.foreign_tables import (
    POINTS,
    SEEDS,
    WIDTHS,
    loss_of,
    records,
    write_csv,
    write_messy,
)

PAGE = Path(hptransfer.__file__).parents[1] / "docs" / "how_to" / "import.md"


def write_examples() -> None:
    """Write the files that the page's examples name."""
    write_messy(Path("rows.csv"))
    names = {"width": "size", "lr": "step size", "val_loss": "nats"}
    odd = [{names[key]: row[key] for key in names} for row in records() if row["seed"] == 0]
    write_csv(Path("odd.csv"), odd)
    wide = [
        {"width": width, "lr": 2.0**point}
        | {f"run{seed} loss": loss_of(width, point, seed) for seed in SEEDS}
        for width in WIDTHS
        for point in POINTS
    ]
    write_csv(Path("wide.csv"), wide)
    steps = [{**row, "step": step} for row in records() for step in (500, 1000)]
    write_csv(Path("steps.csv"), steps)
    target = [{**row, "width": 4096} for row in records() if row["width"] == 512]
    write_csv(Path("target_rows.csv"), target)


def test_the_page_s_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_examples()
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 9
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "hptransfer"
        assert main(words) == 0, f"{command}: {capsys.readouterr().err}"
    assert len(read_ledger("results/wide").rows) == len(WIDTHS) * len(POINTS) * len(SEEDS)
    assert len(read_ledger("results/mine/target").rows) == len(POINTS) * len(SEEDS)


def test_the_page_names_every_column_that_is_read():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in SPELLINGS if f"{name}`" not in text and f"**{name}**" not in text] == [
        "diverged_at_step"
    ]
