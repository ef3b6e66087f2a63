"""What is printed of an answer: the headline first, and nothing that can be taken for another's."""

from __future__ import annotations

from typing import Any

import pytest

from hptransfer.analysis.answer.answer import Answer
from hptransfer.analysis.answer.text import OCTAVE, estimates_text, octave_rows
from hptransfer.reporting.text.answers import realised_line
from tests.support.figure_records import (
    bare,
    noiseless,
    over_depth,
    study,
    target_sweep,
    two_families,
)


def printed(estimates: dict[str, Any]) -> list[str]:
    return estimates_text(estimates).splitlines()


@pytest.mark.parametrize("told", [study, bare, noiseless, over_depth, two_families])
def test_every_arm_opens_with_its_headline_verdict_and_reasons(told: Any) -> None:
    estimates = told()
    lines = printed(estimates)
    at = 0
    for arm in estimates["arms"]:
        said = [
            *arm["headline"].splitlines(),
            f"moves: {arm['moves']}, matters: {arm['matters']} -> {arm['verdict']}",
            *(f"  {reason}" for reason in arm["reasons"]),
        ]
        at = lines.index(said[0], at)
        assert lines[at : at + len(said)] == said
        assert lines[at - 2] == "" or at == 3  # below the arm's name
        at += len(said)
    is_in_octaves = any(arm["conditions"] for arm in estimates["arms"])
    assert any("octave is a factor of two" in line for line in lines) == is_in_octaves


def test_the_table_names_the_axis_and_gives_the_values_themselves() -> None:
    lines = printed(over_depth())
    (head,) = [line for line in lines if "90 % interval" in line and "rate  " in line]
    assert head.split()[:3] == ["depth", "learning", "rate"]
    rows = [line.split() for line in lines if line.split()[:1] in (["2"], ["4"], ["8"])]
    for row, optimum in zip(rows, over_depth()["arms"][0]["optima"], strict=True):
        assert row[:2] == [f"{optimum['depth']:g}", f"{2 ** optimum['optimum']:.3g}"]
        assert row[5] == f"{optimum['optimum']:.2f}"
    assert not any("on the grid" in line for line in lines)
    censored = [line for line in printed(bare()) if line.endswith("on the grid's lower edge")]
    assert [line.split()[:2] for line in censored] == [["64", "0.000977"]]
    assert "not known" in censored[0]


def test_arms_of_several_families_or_hps_are_named_apart() -> None:
    assert {"dit µP", "uvit µP"} <= set(printed(two_families()))
    named = set(printed(study("mmdit_search")))
    assert {"µP, learning rate", "µP, gradient clip norm", "µP, warm-up share"} <= named
    assert "µP" in printed(study())


def test_conditions_are_told_in_octaves_beside_published_exponents() -> None:
    (arm,) = study("conditions")["arms"]
    told = arm["conditions"]
    rows = {row[0]: row[1:] for row in octave_rows(arm)}
    assert list(rows) == [
        *("width", "batch size", "training steps"),
        *("tokens, both grown alike", "batch size at equal tokens"),
    ]
    batch, steps = (told["octaves_per_doubling"][axis] for axis in ("batch_size", "steps"))
    assert rows["batch size"][0] == f"{batch['estimate']:+.2f}"
    assert rows["batch size"][1] == f"{batch['low']:+.2f} to {batch['high']:+.2f}"
    both, equal = (told["tokens"][name]["estimate"] for name in ("both", "batch_size"))
    assert both == pytest.approx((batch["estimate"] + steps["estimate"]) / 2, abs=0.01)
    assert equal == pytest.approx(batch["estimate"] - steps["estimate"], abs=0.01)
    published = {name: row[2] for name, row in rows.items() if row[2]}
    assert published == {
        "width": "0",
        "training steps": "-0.32",
        "batch size at equal tokens": "+0.5",
    }
    lines = printed(study("conditions"))
    assert any("octaves per doubling of" in line for line in lines)
    assert sum("2409.19913" in line for line in lines) == 1
    # Nothing was published on other hyperparameters, and the rule for tokens needs both.
    other = arm | {"hp": "log2_weight_decay", "conditions": told | {"tokens": None}}
    assert [row[3] for row in octave_rows(other)] == ["", "", ""]
    alone = arm | {"conditions": told | {"tokens": None}}
    assert [row[3] for row in octave_rows(alone)] == ["0", "+0.5", "-0.32"]
    assert octave_rows(study()["arms"][0]) == []


def test_an_answer_shows_the_same_in_a_notebook() -> None:
    estimates = study("conditions")
    page = Answer(estimates, notes=("1 < 2",))._repr_html_()
    first, *_ = estimates["arms"][0]["headline"].splitlines()
    assert f"<p><b>µP</b><br>{first}<br>" in page
    assert page.index(first) < page.index("moves: ") < page.index("<table>")
    assert "<th>width</th><th>learning rate</th>" in page
    assert "<th>octaves per doubling of</th>" in page
    assert OCTAVE in page and page.endswith("<br>note: 1 &lt; 2</p>")


def test_the_answer_object_says_what_the_record_says() -> None:
    told = study()
    answer = Answer(told)
    mup, standard = answer.arms
    assert (mup.moves, mup.matters) == (told["arms"][0]["moves"], told["arms"][0]["matters"])
    assert mup.headline == told["arms"][0]["headline"]
    assert standard.extend == () and standard.axis == "width"
    assert answer.verdict == mup.verdict
    told["arms"] += [told["arms"][0] | {"hp": "log2_eps", "verdict": "inconclusive"}]
    assert answer.verdict == "inconclusive"
    told["arms"] += [told["arms"][0] | {"hp": "log2_wd", "verdict": "drifts"}]
    assert answer.verdict == "drifts"


def test_optima_have_a_column_for_what_varies_and_for_several_families() -> None:
    assert list(Answer(study()).optima)[:4] == ["parametrization", "hp", "width", "optimum"]
    assert list(Answer(over_depth()).optima)[2:5] == ["width", "depth", "optimum"]
    families = Answer(two_families())
    assert list(families.optima["family"]) == ["dit"] * 3 + ["uvit"] * 3
    assert families.arm(family="uvit").family == "uvit"


def test_a_realised_cost_without_a_prediction_is_held_against_none() -> None:
    known = target_sweep() | {"predicted": {"mean": 0.0005, "low": 0.0, "high": 0.0015}}
    said = realised_line(known)
    assert "0.0005 (below 0.0015)" in said and "held" in said
    unknown = known | {"predicted": {"mean": None}}
    assert "Nothing was predicted" in realised_line(unknown)
