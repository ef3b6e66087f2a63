"""What is printed of an answer: the headline first, and nothing that can be taken for another's."""

from __future__ import annotations

from typing import Any

import pytest

from hptransfer.analysis.answer.answer import Answer
from hptransfer.analysis.answer.text import (
    OCTAVE,
    duration_sentence,
    estimates_text,
    octave_notes,
    octave_rows,
)
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


def moving(arm: dict[str, Any], parametrization: str, steps: tuple[float, ...]) -> dict[str, Any]:
    """Return an arm whose optimum moves so by a doubling of the steps: estimate, low, high."""
    moved = dict(zip(("estimate", "low", "high"), steps, strict=True))
    octaves = arm["conditions"]["octaves_per_doubling"] | {"steps": moved}
    conditions = arm["conditions"] | {"octaves_per_doubling": octaves}
    return arm | {"parametrization": parametrization, "conditions": conditions}


@pytest.mark.parametrize(
    ("parametrization", "steps", "power", "held", "exponent"),
    [
        ("mup", (-0.05, -0.10, 0.01), "-0.05", "0.00", "0.05"),
        ("mup", (-0.4, -0.55, -0.3), "-0.40", "-0.50 and -0.32", "0.40"),
        ("mup", (-0.9, -1.0, -0.8), "-0.90", "none of these", "0.90"),
        ("mup", (0.2, 0.1, 0.3), "0.20", "none of these", "0.00"),
        ("complete", (0.0, -0.1, 0.1), "-0.50", "-0.50", "0.50"),
        ("complete", (0.18, 0.1, 0.25), "-0.32", "-0.32", "0.32"),
        ("complete", (0.45, 0.3, 0.6), "-0.05", "0.00", "0.05"),
    ],
)
def test_the_fitted_power_of_the_duration_stands_beside_the_fields(
    parametrization: str, steps: tuple[float, ...], power: str, held: str, exponent: str
) -> None:
    (arm,) = study("conditions")["arms"]
    said = duration_sentence(moving(arm, parametrization, steps))
    assert said is not None and said.count(".") and "\n" not in said
    assert f"best rate goes with the power {power} of the training steps" in said
    assert f"the interval holds {held};" in said
    assert f"parametrization.duration_exponent={exponent}" in said
    for rule in ("-0.50 (square root)", "-0.32 (fitted to language models)", "0.00 (none)"):
        assert rule in said
    assert ("If these trials name base_steps" in said) == (parametrization == "complete")
    assert said in octave_notes(moving(arm, parametrization, steps))


def test_only_a_rate_that_was_swept_over_steps_under_a_transferring_rule_has_such_a_power() -> None:
    (arm,) = study("conditions")["arms"]
    assert duration_sentence(moving(arm, "standard", (0.0, -0.1, 0.1))) is None
    octaves = {k: v for k, v in arm["conditions"]["octaves_per_doubling"].items() if k != "steps"}
    without = arm | {"conditions": arm["conditions"] | {"octaves_per_doubling": octaves}}
    assert duration_sentence(without) is None
    assert not any("best rate" in note for note in octave_notes(arm | {"hp": "log2_eps"}))


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
