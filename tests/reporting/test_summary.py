"""What `fit` prints under its table: a tired reader must not take one arm or condition for all."""

from __future__ import annotations

from typing import Any

from hptransfer.analysis.answer.text import optima_table
from hptransfer.reporting.figures.style import arm_title
from hptransfer.reporting.text.answers import realised_line
from tests.support.figure_extras import over_training
from tests.support.figure_records import mup_arm, target_sweep


def printed(*arms: dict[str, Any]) -> list[str]:
    return optima_table(
        {"sweep": "mine", "arms": arms, "trials": {"missing": 0, "left_out": 0}}
    ).splitlines()


def test_the_answer_says_whether_the_optimum_still_moves() -> None:
    assert "  From 300 to 600 steps the optimum moved by -0.45 to -0.2 octaves." in printed(
        over_training()
    )


def test_verdicts_of_several_hps_name_theirs() -> None:
    decay = mup_arm() | {"hp": "log2_weight_decay"}
    verdicts = [line for line in printed(mup_arm(), decay) if line.startswith("µP")]
    assert [line.partition(":")[0] for line in verdicts] == [
        "µP, log2 lr",
        "µP, log2 weight decay",
    ]
    assert [line[:3] for line in printed(mup_arm()) if line.startswith("µP")] == ["µP:"]


def test_a_realised_regret_without_a_prediction_is_held_against_none() -> None:
    known = target_sweep() | {"reason": None, "predicted": {"mean": 0.0005}}
    assert realised_line(known).endswith(", predicted 0.00050: within the prediction")
    unknown = known | {"predicted": {"mean": None}}
    assert realised_line(unknown).endswith("), nothing was predicted")


def test_an_arm_has_one_name_in_the_terminal_and_in_pictures() -> None:
    for label, name in (("standard_embed", "standard_embed"), ("mup", "µP")):
        arm = mup_arm() | {"parametrization": label}
        assert f"{name}: {arm['verdict']}" in " ".join(printed(arm))
        assert arm_title(arm) == f"{name}: {arm['verdict']}"
