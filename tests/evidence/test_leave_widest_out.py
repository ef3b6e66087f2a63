"""The next width, predicted from the narrower ones: recorded basins bear the predictions out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import leave_widest_out as bench
from benchmarks.leave_widest_out_rivals import RIVALS, gaussian_process, parabola
from hptransfer.analysis.basins.curve import Floats
from tests.support.paths import ROOT
from tests.support.strict_json import strict

THETA: Floats = np.arange(-9.0, -2.0)


def basin(optimum: float, *, level: float = -1.0) -> tuple[Floats, Floats]:
    return THETA, level + 0.02 * (THETA - optimum) ** 2


def test_recorded_widths_bear_out_what_narrower_ones_predict() -> None:
    tasks = [
        t for t in bench.study_tasks(ROOT / "results" / "studies") if t.arm.group == "quickstart"
    ]
    cases = [bench.case(task) for task in tasks]
    figures = {e["method"]: e for e in bench.summary(cases) if e["group"] == "quickstart"}
    ours = figures[bench.OURS]
    assert ours["n"] == ours["intervals"] == 10
    assert ours["held"] >= 6
    for rival in RIVALS:
        assert ours["mean_percent"] < figures[rival]["mean_percent"]


def test_studies_of_several_conditions_or_hyperparameters_are_left_out() -> None:
    tasks = list(bench.study_tasks(ROOT / "results" / "studies"))
    assert not any(task.arm.name.startswith(("conditions", "mmdit_search")) for task in tasks)
    assert all(len(task.points) >= 2 and max(task.points) < task.held_out for task in tasks)
    assert len({(task.arm.name, task.held_out) for task in tasks}) == len(tasks)


def test_a_value_costs_what_the_basin_says() -> None:
    found = bench.Found(*basin(-6.3))
    assert found.optimum == pytest.approx(-6.3) and found.bottom == pytest.approx(-1.0)
    assert found.costs_percent(-6.3) == pytest.approx(0.0, abs=1e-9)
    assert found.costs_percent(-5.3) == pytest.approx(100.0 * np.expm1(0.02))
    assert found.costs_percent(-8.0) == pytest.approx(100.0 * np.expm1(0.02 * 1.7**2))
    edge, slope = 0.02 * 3.3**2, 0.02 * (3.3**2 - 2.3**2)
    assert found.costs_percent(-2.5) == pytest.approx(100.0 * np.expm1(edge + 0.5 * slope))


def test_an_optimum_at_the_grids_end_is_only_bounded() -> None:
    found = bench.Found(*basin(-11.0))
    assert found.is_bounded_only and found.optimum == -9.0
    assert found.costs_percent(-9.0) == 0.0 and found.costs_percent(-12.0) == 0.0
    assert bench._held(bench.Prediction(-6.0, -7.0, -5.0), found) is None


def test_rivals_follow_a_straight_law() -> None:
    points = {width: basin(-4.5 - 0.4 * at) for at, width in enumerate((32, 64, 128))}
    assert parabola(*points[64]) == pytest.approx(-4.9)
    values = {name: rival(points, 256)[0] for name, rival in RIVALS.items()}
    assert values == {
        "widest's best point": -5.0,
        "parabola at the widest": pytest.approx(-5.3),
        "line through parabolas": pytest.approx(-5.7),
        "Gaussian process": pytest.approx(-5.7, abs=0.1),
    }


def test_the_gaussian_process_is_less_sure_of_noisy_basins() -> None:
    rng = np.random.default_rng(0)

    def width(noise: float) -> float:
        points = {
            n: (THETA, basin(-5.5)[1] + noise * rng.standard_normal(len(THETA)))
            for n in (32, 64, 128)
        }
        value, low, high = gaussian_process(points, 256)
        assert low is not None and high is not None and low <= value <= high
        return high - low

    assert width(0.0005) < width(0.01)


def test_a_public_sweep_over_depth_is_read(tmp_path: Path) -> None:
    lines = ["optimizer,width,depth,lr,loss"]
    for depth in (2, 4, 8):
        lines += [
            f"adam,128,{depth},{2.0**t},{3.0 + 0.1 * (t + 6) ** 2 - 0.1 * depth}" for t in THETA
        ]
    lines += ["adam,128,8,0.25,", f"adam,128,8,{2.0**-6},2.3"]
    file = tmp_path / "public.csv"
    file.write_text("\n".join(lines))
    (task,) = bench.csv_tasks(file)
    assert (task.arm.axis, task.held_out, list(task.points)) == ("depth", 8, [2, 4])
    assert task.found.optimum == pytest.approx(-6.0, abs=0.1)
    assert task.found.theta[-1] == -3.0  # the failed rate is no point
    assert task.predictions()[bench.OURS].value == pytest.approx(-6.0, abs=0.3)


def test_the_record_and_the_picture_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out.json"
    studies.mkdir()
    (studies / "quickstart").symlink_to(ROOT / "results" / "studies" / "quickstart")
    assert bench.main(["--studies", str(studies), "--out", str(out)]) == 0
    answer = strict(out)
    assert [case["held_out"] for case in answer["cases"]] == [96, 96]
    assert {entry["group"] for entry in answer["summary"]} == {"quickstart", "all recorded", "all"}
    assert "| quickstart mup " in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_the_page_shows_the_records_tables() -> None:
    page = (ROOT / "docs" / "evidence" / "README.md").read_text()
    record = strict(ROOT / "results" / "benchmarks" / "leave_widest_out.json")
    for text in bench.page_tables(record).values():
        assert text in page
    losses = record["losses"]
    assert f"{losses['held']} of {losses['n']}" in page and f"n = {len(record['cases'])} " in page
