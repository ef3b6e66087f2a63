"""The scale benchmark in its small form: its records are whole; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import overhead_packs, scale, scale_schedule
from hptransfer.config.identity import trial_key
from hptransfer.execution.pack_sizes import lower_bound, makespan
from hptransfer.results.ledger_rows import read_ledger


@pytest.mark.slow
def test_the_small_form_gives_a_whole_record(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    words = ["--trials", "2000", "--runs", "1", "--workers", "20", "--out", str(out)]
    assert scale.main(words) == 0
    answer = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert answer["counts"]["trials"] == answer["counts"]["rows"] == 2000
    assert 0 < answer["counts"]["pending_packs"] < answer["counts"]["packs"]
    names = [figure["name"] for figure in answer["figures"]]
    assert len(set(names)) == len(names) == 8
    assert all(figure["n"] == 1 and figure["min"] > 0 for figure in answer["figures"])
    (still, *lossy) = answer["schedule"]["cases"]
    assert still["lost"] == 0 and still["repeated_share"] == pytest.approx(0.0, abs=1e-9)
    assert all(case["lost"] > 0 for case in lossy if case["losses_per_hour"] == 0.1)
    assert all(case["over_bound"] >= still["over_bound"] >= 1 for case in lossy)


def test_a_half_recorded_sweep_resumes_with_the_other_half(tmp_path: Path) -> None:
    composed, packs = scale.planned(800)
    trials = [config for pack in packs for config in pack]
    rows = scale.rows_of(trials, scale.sweep_config(composed))
    assert [row["trial_key"] for row in rows] == [trial_key(config) for config in trials]
    scale.appended(tmp_path, rows[:400], 8)
    assert len(read_ledger(tmp_path).rows) == 400
    left = scale.resumed(tmp_path, packs)
    missing = {row["trial_key"] for row in rows[400:]}
    assert missing <= {trial_key(config) for pack in left for config in pack}
    assert all(any(trial_key(c) in missing for c in pack) for pack in left)


def test_without_losses_the_schedule_is_the_list_schedule() -> None:
    seconds = [9.0, 7.0, 6.0, 5.0, 3.0, 2.0]
    case = scale_schedule.schedule(seconds, 2, 0.0, None, seed=0)
    assert case["makespan"] == makespan(seconds, 2)
    assert case["over_bound"] == makespan(seconds, 2) / lower_bound(seconds, 2)
    assert case["utilisation"] == pytest.approx(sum(seconds) / (2 * case["makespan"]))


def test_checkpoints_spare_what_a_lost_pack_had_done() -> None:
    """One worker, a pack of two hours, about two losses an hour."""
    cases = {
        every: scale_schedule.schedule([7200.0], 1, 2.0, every, seed=3) for every in (60.0, None)
    }
    saved, anew = cases[60.0], cases[None]
    assert saved["lost"] > 0 and anew["lost"] > 0
    assert 7200.0 * saved["repeated_share"] <= 60.0 * saved["lost"]
    assert anew["repeated_share"] > saved["repeated_share"]
    waited = scale_schedule.REPLACED * saved["lost"]
    assert saved["makespan"] == pytest.approx(7200.0 * (1 + saved["repeated_share"]) + waited)


def test_a_number_of_trials_that_no_sweep_has_is_refused() -> None:
    with pytest.raises(SystemExit, match="multiple of 400, but got 300"):
        scale.main(["--trials", "300"])


def test_overhead_of_a_pack_is_as_defined() -> None:
    """Two workers, warm at 2.0: eight packs of a second until 6.4 leave 0.8 s in all."""
    ended = [1.9, 2.0, *(2.0 + 1.1 * (i // 2 + 1) for i in range(8))]
    overhead, share = overhead_packs.summarised([1.0] * 10, ended, 2)
    assert overhead.values == pytest.approx((0.1,))
    assert share.values == pytest.approx((1 - 8 / 8.8,))
