"""What `import --json` and `fit --json` print is what the documents say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from tests.support.foreign_tables import records, write_csv

DOCS = Path(__file__).parents[3] / "docs"
# Values of these are keyed by names of the sweep, or told in another document.
ELSEWHERE = {"surfaces", "octaves_per_doubling", "columns"}


def named(document: str) -> set[str]:
    """Return the fields that a document names; of `a.b` both."""
    words = re.findall(r"`([a-z_0-9.]+)`", (DOCS / document).read_text())
    return {part for word in words for part in word.split(".")}


def fields(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            if name not in ELSEWHERE:
                yield from fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_field_that_is_printed_is_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "depth": depth} for row in records() for depth in (2, 4)]
    for row in rows:
        row["val_loss"] = float(str(row["val_loss"])) + 0.01 * int(str(row["depth"]))
    write_csv(Path("rows.csv"), rows)
    optima = [{"width": width, "optimum": -8.0, "error": 0.1} for width in (64, 128)]
    write_csv(Path("optima.csv"), optima)
    for source, folder in (("rows.csv", "trials"), ("optima.csv", "optima")):
        told = printed(capsys, "import", source, folder)
        assert told["schema"] == 1
        assert set(fields(told)) <= named("how_to/import.md")
        fitted = printed(capsys, "fit", folder, "sweep.target.model.width=4096")
        assert fitted["schema"] == 2
        undocumented = set(fields(fitted)) - named("reference/answer_record.md")
        assert not undocumented, sorted(undocumented)
