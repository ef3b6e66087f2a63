"""The benchmark of the check's errors: what it counts, and the page that shows its record."""

from __future__ import annotations

import pytest

from benchmarks import check_zoo as bench
from tests.support.paths import ROOT
from tests.support.strict_json import strict
from tests.support.zoo import RIGHT, WRONG


@pytest.fixture(scope="module")
def cases() -> dict[str, bench.Case]:
    return {case.name: case for case in bench.cases()}


def test_right_and_wrong_models_are_asked(cases: dict[str, bench.Case]) -> None:
    expected = [case.expected for case in cases.values()]
    assert expected == ["pass"] * (len(bench.SHIPPED) + len(RIGHT)) + ["fail"] * len(WRONG)
    assert "quickstart model=dit_modern" in cases and "vit" in cases and "vit, wrong" in cases
    assert all(case.kind for case in cases.values())


def test_a_block_has_its_own_seeds_and_an_error_is_kept(
    cases: dict[str, bench.Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.CHECK_SEEDS", (0, 1))
    case = cases["scaled_embedding"]
    answers = [case.checked(block) for block in (0, 2)]
    assert [answer["seeds"] for answer in answers] == [[0, 1], [16, 17]]
    assert answers[0]["rms"] != answers[1]["rms"]
    found = bench.outcome((case, 0))
    assert found["verdict"] == "fail" and "mixer is the first module" in found["told"]
    told = bench.entry(case)
    for each in (found, {**found, "verdict": "pass"}, {**found, "verdict": "inconclusive"}):
        told = bench.added(told, each)
    assert (told["n"], told["pass"], told["inconclusive"], told["fail"]) == (3, 1, 1, 1)
    assert [each["verdict"] for each in told["wrong"]] == ["pass"]
    assert "output: readout" in told["roles"] and "mixer.weight" in told["roles"]


def test_the_page_shows_the_record_and_no_right_model_fails() -> None:
    record = strict(ROOT / "results" / "benchmarks" / "check_zoo.json")
    assert bench.page_table(record) in (ROOT / "benchmarks" / "README.md").read_text()
    assert {m["model"] for m in record["models"]} == {case.name for case in bench.cases()}
    errors = {m["model"]: len(m["wrong"]) for m in record["models"] if m["wrong"]}
    assert errors == {}
