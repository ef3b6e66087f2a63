"""The time left of a running sweep, read from its recorded rows."""

from __future__ import annotations

from pathlib import Path

from hptransfer.results.sweep_file import read_facts
from hptransfer.sweeping.run.time_left import recorded_seconds_left, time_left_text
from tests.support.recorded_rows import write_sweep


def test_trials_left_take_what_recorded_ones_of_their_width_took(tmp_path: Path) -> None:
    folder, rows = write_sweep(tmp_path / "tiny", "sweep.widths=[8,16]")
    facts = read_facts(folder)
    # Of every arm and width one trial is recorded: each of the others takes 1.25 s as well.
    places = {(row["parametrization"], row["width"]): row for row in rows}
    recorded = list(places.values())
    left = recorded_seconds_left(facts, recorded, packs_at_a_time=2)
    assert left is not None and left.likely == 1.25 * (len(rows) - len(recorded)) / 2
    assert time_left_text(facts, recorded, 2) == str(left)


def test_a_width_without_rows_is_read_from_the_nearest(tmp_path: Path) -> None:
    folder, rows = write_sweep(tmp_path / "tiny", "sweep.parametrizations=[mup]")
    narrow = [row for row in rows if row["width"] < 32]
    left = recorded_seconds_left(read_facts(folder), narrow, packs_at_a_time=1)
    missing = len(rows) - len(narrow)
    assert left is not None and left.likely == 2 * 1.25 * missing  # twice as wide as 16
    assert left.low < left.likely < left.high


def test_nothing_is_told_before_the_first_row_and_after_the_last(tmp_path: Path) -> None:
    folder, rows = write_sweep(tmp_path / "tiny")
    facts = read_facts(folder)
    assert recorded_seconds_left(facts, [], packs_at_a_time=1) is None
    assert time_left_text(facts, rows, 1) is None
