"""The benchmarks run, their arithmetic is right, their records are whole; no time is asserted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    external_overhead,
    families,
    latency,
    measure,
    overhead,
    packing,
    packing_against,
    synthetic,
)
from benchmarks.overhead import PackTimes, Run
from hptransfer.analysis import of_folder
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.sweep_file import read_facts
from tests.support.figure_records import coordinate_check
from tests.support.strict_json import strict


def require_whole(answer: dict[str, Any], benchmark: str) -> None:
    assert answer["benchmark"] == benchmark
    assert answer["machine"]["cores"] >= 1 and answer["machine"]["python"]
    assert set(answer["machine"]["versions"]) == set(measure.PACKAGES)
    assert answer["provenance"]["hptransfer"] and answer["settings"]


def require_figures(answer: dict[str, Any], *, runs: int) -> dict[str, dict[str, Any]]:
    for figure in answer["figures"]:
        assert figure["n"] == runs
        assert figure["min"] <= figure["median"] <= figure["max"]
        assert (figure["aim"] is None) == (figure["verdict"] is None)
    return {figure["name"]: figure for figure in answer["figures"]}


@pytest.fixture
def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds of a real coordinate check."""
    monkeypatch.setattr(synthetic, "coordinate_check", lambda *_: coordinate_check())


@pytest.mark.usefixtures("no_check")
def test_a_synthetic_folder_is_what_a_sweep_would_have_written(tmp_path: Path) -> None:
    folder = synthetic.write_folder(tmp_path / "sweep", 2 * synthetic.ROWS_PER_SEED)
    facts, rows = read_facts(folder), read_ledger(folder.path).rows
    assert all(facts.wants(row) for row in rows)
    assert len(rows) == facts.wanted_count() == 2 * synthetic.ROWS_PER_SEED
    assert {row["status"] for row in rows} == {"completed", "diverged"}
    verdicts = {a["parametrization"]: a["verdict"] for a in of_folder.fit_folder(folder)["arms"]}
    assert verdicts == {"mup": "transfers", "standard": "drifts", "standard_embed": "drifts"}
    assert folder.check_file.is_file() and folder.realised_file.is_file()
    again = synthetic.write_folder(tmp_path / "again", 2 * synthetic.ROWS_PER_SEED)
    assert [row["loss"] for row in read_ledger(again.path).rows] == [row["loss"] for row in rows]


def test_a_synthetic_folder_of_a_broken_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="multiple of 200, but got 300"):
        synthetic.write_folder(tmp_path, 300)


@pytest.mark.slow
@pytest.mark.usefixtures("no_check")
def test_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "latency.json"
    assert latency.main(["--runs", "1", "--rows", "200", "--out", str(out)]) == 0
    answer = strict(out)
    require_whole(answer, "latency")
    figures = require_figures(answer, runs=1)
    assert {name: f["aim"] for name, f in figures.items() if f["aim"] is not None} == {
        "import hptransfer": 0.1,
        "hptransfer --help": 0.1,
        "hptransfer fit --help": 0.1,
        "a command that there is not": 0.1,
        "hptransfer fit, 200 rows": 1.0,
        "hptransfer plot, 200 rows": 3.5,
        "first trials, executor local": 8.0,
        "first trials, executor ray": 8.0,
    }
    assert "| hptransfer --help " in capsys.readouterr().out


def test_external_overhead(tmp_path: Path) -> None:
    out = tmp_path / "external.json"
    words = ["--trials", "3", "--seconds", "0.05", "--skip-ray", "--out", str(out)]
    assert external_overhead.main(words) == 0
    answer = strict(out)
    require_whole(answer, "external_overhead")
    figures = {figure["name"]: figure for figure in answer["figures"]}
    assert figures["command alone"]["n"] == 6 and figures["trial, local"]["n"] == 3
    alone = figures["command alone"]["median"]
    trial = figures["trial, local"]["median"]
    assert trial > alone > 0.05
    assert figures["added, local"]["median"] == pytest.approx(trial - alone, abs=1e-3)
    assert figures["ratio, local"]["median"] == pytest.approx(trial / alone, rel=0.01)
    assert figures["first trial, local"]["median"] > trial


@pytest.mark.slow
def test_overhead(tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    assert overhead.main(["--executor", "local", "--small", "--out", str(out)]) == 0
    answer = strict(out)
    require_whole(answer, "overhead")
    figures = require_figures(answer, runs=1)
    assert figures["workers"]["median"] == 1
    assert figures["imbalance over training"]["median"] == 0
    (packs,) = answer["packs"]
    assert sum(pack["trials"] for pack in packs) == 4 * 3
    training = sum(pack["training_seconds"] for pack in packs)
    assert figures["training, summed over packs"]["median"] == pytest.approx(training, abs=0.01)
    for pack in packs:
        span = pack["finished"] - pack["started"]
        assert 0 < pack["training_seconds"] <= span + 0.01


def test_overhead_is_what_the_definition_says() -> None:
    """Two workers from 10 to 30: 36 trained, 3 out of balance, 1 overhead, 2 x 2 at the end."""
    packs = (
        PackTimes(0, 48, 4, started=10.0, finished=20.0, training_seconds=9.5),
        PackTimes(1, 48, 4, started=10.0, finished=19.5, training_seconds=9.5),
        PackTimes(2, 24, 4, started=19.5, finished=27.0, training_seconds=7.5),
        PackTimes(3, 24, 4, started=20.0, finished=30.0, training_seconds=9.5),
    )
    run = Run(wall=32.0, packs=packs)
    assert (run.workers, run.first_pack, run.after_last) == (2, 10.0, 2.0)
    assert (run.first_training, run.training, run.imbalance) == (10.0, 36.0, 3.0)
    assert run.overhead_percent == pytest.approx(100 * (1 + 2 * 2) / 36)
    assert run.in_all_percent == pytest.approx(100 * (32 - 10 - 36 / 2) / (36 / 2))


def test_waiting_for_a_hand_out_is_overhead_and_not_imbalance() -> None:
    first = [PackTimes(i, 48, 4, started=0.0, finished=10.0, training_seconds=10.0) for i in (0, 1)]
    last = PackTimes(2, 24, 4, started=11.0, finished=20.0, training_seconds=9.0)
    run = Run(wall=20.0, packs=(*first, last))
    assert (run.workers, run.training, run.imbalance) == (2, 29.0, 9.0)
    assert run.overhead_percent == pytest.approx(100 * 2 / 29)


def test_a_pack_that_is_handed_out_again_counts_from_the_last_time() -> None:
    done = {"event": "finished", "pack": 0, "time": 109.0, "width": 24, "trials": 4}
    events = [
        {"event": "started", "pack": 0, "time": 101.0},
        {"event": "started", "pack": 0, "time": 104.0},
        {**done, "training_seconds": 4.0},
    ]
    assert overhead.read_packs(events, began=100.0) == (PackTimes(0, 24, 4, 4.0, 9.0, 4.0),)


def test_packing(tmp_path: Path) -> None:
    out = tmp_path / "packing.json"
    words = ["--widths", "24", "--sizes", "1", "2", "--seconds", "0.05", "--repeats", "2"]
    assert packing.main([*words, "--out", str(out)]) == 0
    answer = strict(out)
    require_whole(answer, "packing")
    found = [(pack["width"], pack["method"], pack["size"]) for pack in answer["packs"]]
    assert found == [(24, "plain", 1), (24, "pack", 1), (24, "pack", 2)]
    for pack in answer["packs"]:
        assert pack["trial_steps_per_second"]["n"] == 2
        assert pack["trial_steps_per_second"]["min"] > 0
    assert answer["packs"][1]["over_one_at_a_time"]["median"] == 1
    assert answer["packs"][0]["over_plain"]["median"] == 1


def test_a_figure_passes_below_its_aim_only() -> None:
    assert measure.Figure("wait", "s", (1.0, 2.0, 9.0), aim=2.5).verdict == "pass"
    assert measure.Figure("wait", "s", (1.0, 2.5, 2.6), aim=2.5).verdict == "fail"
    assert measure.Figure("wait", "s", (1.0,)).verdict == ""


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="hptransfer: There is no command 'fti'"):
        measure.wall_seconds([measure.sys.executable, "-m", "hptransfer", "fti"])


def test_the_machine_is_described_where_a_package_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "PACKAGES", ("torch", "no-such-package"))
    described = measure.machine()
    assert described["versions"]["torch"] and described["versions"]["no-such-package"] is None
    assert "no-such-package" not in measure.machine_line(described)


@pytest.mark.slow
def test_families(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "families.json"
    assert families.main(["--small", "--out", str(out)]) == 0
    answer = strict(out)
    require_whole(answer, "families")
    assert [row["family"] for row in answer["families"]] == ["dit", "uvit", "pixart", "mmdit"]
    for row in answer["families"]:
        assert row["parameters"] == row["original_parameters"]
        assert 0 <= row["distance_from_mup"] < 1e-4
        assert row["checks"]["standard"]["verdict"] == "fail"
        slopes = [abs(row["checks"][arm]["worst"]["slope"]) for arm in ("mup", "standard")]
        assert slopes[0] < slopes[1]
    table = " ".join(capsys.readouterr().out.split())
    assert "| mmdit | mmdit_d24 | 2,028,328,000 | 2,028,328,000 |" in table


def test_packing_against_compares_the_best_sizes() -> None:
    rates = {
        (way, size): [speed * size, 2 * speed * size]
        for way, speed in ((packing_against.BEFORE, 10.0), ("eager", 15.0), ("compiled", 30.0))
        for size in (1, 4)
    }
    core = {(packing_against.CORE, 1): [1e9, 2e9]}
    found = packing_against.entries(24, [1, 4], {**rates, **core}, 1e6)
    before, eager, compiled = found
    assert [entry["best"] for entry in (before, eager, compiled)] == [4, 4, 4]
    assert (eager["over_before"]["median"], compiled["over_before"]["median"]) == (1.5, 3.0)
    assert compiled["of_core"]["median"] == pytest.approx(30.0 * 4 * 1e6 / 1e9)
