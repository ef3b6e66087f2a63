"""A table of optima with errors: read in any unit, fitted to a law, and priced at nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hptransfer
from hptransfer.cli.main import main
from tests.support.foreign_tables import records, write_csv

WIDTHS = (64, 128, 256, 512)
SD = 0.1  # octaves
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def optimum(width: int, drift: float = -0.4) -> float:
    return -7.0 + drift * math.log2(width / 64)


def fitted(capsys: Printed, folder: str = "mine", *words: str) -> dict[str, Mapping[str, Any]]:
    capsys.readouterr()
    assert main(["fit", folder, "--json", *words]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    return {arm["parametrization"]: arm for arm in arms}


def in_log2(width: int) -> dict[str, float]:
    return {"width": width, "optimum": optimum(width), "error": SD}


def in_log2_named(width: int) -> dict[str, float]:
    return {"d_model": width, "log2_lr": optimum(width), "std": SD}


def in_log10(width: int) -> dict[str, float]:
    log10 = optimum(width) * math.log10(2)
    return {"width": width, "log10_optimal_lr": log10, "stderr": SD * math.log10(2)}


def in_rates(width: int) -> dict[str, float]:
    rate = 2.0 ** optimum(width)
    return {"width": width, "lr": rate, "error": rate * SD * math.log(2)}


def in_rates_with_octaves(width: int) -> dict[str, float]:
    return {"width": width, "best_lr": 2.0 ** optimum(width), "error_octaves": SD}


def with_ends(width: int) -> dict[str, float]:
    ends = {"low": -1.645 * SD, "high": 1.645 * SD}
    return {
        "width": width,
        "lr_opt": 2.0 ** optimum(width),
        **{name: 2.0 ** (optimum(width) + away) for name, away in ends.items()},
    }


@pytest.mark.parametrize(
    "row", [in_log2, in_log2_named, in_log10, in_rates, in_rates_with_octaves, with_ends]
)
def test_optima_are_read_in_every_unit(row: Any, capsys: Printed):
    write_csv(Path("optima.csv"), [row(width) for width in WIDTHS])
    assert main(["import", "optima.csv", "results/mine"]) == 0
    out = capsys.readouterr().out
    assert "a table of optima, fitted without losses" in out
    assert "imported 4 optima of optima.csv" in out
    (arm,) = fitted(capsys).values()
    assert arm["hp"] == "log2_lr"
    for told in arm["optima"]:
        assert told["optimum"] == pytest.approx(optimum(told["width"]), abs=1e-5)
        assert (told["high"] - told["low"]) / 2 / 1.645 == pytest.approx(SD, rel=0.01)
        assert told["loss"] is None


def test_drift_target_and_movement_are_answered_and_costs_are_not(capsys: Printed):
    rows = [
        {
            "width": w,
            "lr": 2.0 ** optimum(w, drift),
            "lr_std": 2.0 ** optimum(w, drift) * 0.04,
            "arm": arm,
        }
        for arm, drift in (("mup", 0.0), ("sp", -0.8))
        for w in WIDTHS
    ]
    write_csv(Path("optima.csv"), rows)
    assert main(["import", "optima.csv", "mine"]) == 0
    arms = fitted(capsys, "mine", "sweep.target.model.width=2048")
    for name, drift, moves in (("mup", 0.0, "no"), ("standard", -0.8, "yes")):
        arm = arms[name]
        slope = arm["drift_octaves_per_doubling"]
        assert slope["low"] < drift < slope["high"]
        assert slope["estimate"] == pytest.approx(drift, abs=0.05)
        target = arm["target"]
        assert target["low"] < optimum(2048, drift) < target["high"]
        assert target["emitted"] == pytest.approx(optimum(2048, drift), abs=0.2)
        assert arm["cost"]["ignoring"]["movement"]["estimate"] == pytest.approx(2 * drift, abs=0.2)
        assert (arm["moves"], arm["matters"], arm["verdict"]) == (moves, "unclear", "inconclusive")
        assert arm["cost"]["emitted"]["loss"]["mean"] is None and arm["loss_law"] is None
        assert any("holds no losses" in reason for reason in arm["reasons"])
        assert len(arm["headline"].splitlines()) == 3


def test_intervals_at_the_target_hold_what_they_say():
    """Planted optima without drift: the target lies in the 90 % interval in most of 40 tables."""
    rng = np.random.default_rng(7)
    inside = 0
    for i in range(40):
        rows = [
            {"width": w, "log2_lr": -8.0 + SD * rng.standard_normal(), "error": SD} for w in WIDTHS
        ]
        write_csv(Path("optima.csv"), rows)
        assert main(["import", "optima.csv", f"results/t{i}"]) == 0
        target = hptransfer.fit(f"results/t{i}", target_width=1024).target
        assert target is not None and target.low is not None and target.high is not None
        inside += target.low < -8.0 < target.high
    assert inside >= 33


def test_optima_of_several_conditions_give_a_joint_law(capsys: Printed):
    rows = [
        {"width": w, "depth": d, "log2_lr": optimum(w, 0.0) - 0.5 * math.log2(d / 4), "error": SD}
        for w in (64, 128, 256)
        for d in (4, 8, 16)
    ]
    write_csv(Path("optima.csv"), rows)
    assert main(["import", "optima.csv", "mine"]) == 0
    (arm,) = fitted(capsys).values()
    slopes = arm["conditions"]["octaves_per_doubling"]
    assert slopes["depth"]["estimate"] == pytest.approx(-0.5, abs=0.05)
    assert slopes["width"]["estimate"] == pytest.approx(0.0, abs=0.05)


def test_optima_that_our_own_answer_gave_are_read(capsys: Printed):
    write_csv(Path("rows.csv"), records())
    assert main(["import", "rows.csv", "trials"]) == 0
    answer = hptransfer.fit("results/trials")
    answer.optima.to_csv("optima.csv", index=False)
    assert main(["import", "optima.csv", "mine"]) == 0
    (arm,) = fitted(capsys).values()
    frame = hptransfer.fit(answer.optima)  # without a file
    assert frame.arm().drift.estimate == arm["drift_octaves_per_doubling"]["estimate"]
    assert arm["parametrization"] == "mup"
    own = answer.arm().drift.estimate
    assert arm["drift_octaves_per_doubling"]["estimate"] == pytest.approx(own, abs=0.05)


def test_the_same_optima_are_counted_once_and_others_refused(capsys: Printed):
    write_csv(Path("a.csv"), [in_log2(width) for width in WIDTHS[:2]])
    write_csv(Path("b.csv"), [in_log2(width) for width in WIDTHS[1:]])
    write_csv(Path("c.csv"), [{**in_log2(width), "optimum": -9.0} for width in WIDTHS])
    for name in ("a.csv", "b.csv", "a.csv"):
        assert main(["import", name, "mine"]) == 0
    assert "imported 0 optima of a.csv into results/mine; 2 were there already" in (
        capsys.readouterr().out
    )
    (arm,) = fitted(capsys).values()
    assert [told["width"] for told in arm["optima"]] == list(WIDTHS)
    assert main(["import", "c.csv", "mine"]) == 2
    assert "A setting has one optimum, but c.csv gives -9" in capsys.readouterr().err


def refusals() -> Sequence[tuple[str, list[dict[str, Any]], str]]:
    good = [in_log2(width) for width in WIDTHS]
    return (
        ("no error", [{**good[0], "error": ""}], "holds no optimum with an error"),
        ("zero", [{**row, "error": 0} for row in good], "with an error above zero, but line 2"),
        ("texts", [{**row, "error": "small"} for row in good], "'error' of rows.csv holds texts"),
        ("two", [good[0], {**good[0], "optimum": -9}], "A setting has one optimum"),
    )


@pytest.mark.parametrize(("rows", "sentence"), [each[1:] for each in refusals()])
def test_bad_optima_are_refused(rows: list[dict[str, Any]], sentence: str, capsys: Printed):
    write_csv(Path("rows.csv"), rows)
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not Path("results").exists()


def test_logarithms_of_an_unknown_base_are_asked_about(capsys: Printed):
    rows = [
        {"width": width, "optimum": -3.0 - i / 4, "error": 0.1} for i, width in enumerate(WIDTHS)
    ]
    write_csv(Path("rows.csv"), rows)
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    assert (
        "'optimum' of rows.csv holds logarithms, -3.75 to -3, without telling their base" in error
    )
    for word in ("log10_optimum=optimum", "log2_optimum=optimum", "ln_optimum=optimum"):
        assert f"{word} makes them" in error
    assert error.endswith("import rows.csv results/mine --columns log10_optimum=optimum\n")
    assert main(["import", "rows.csv", "mine", "--columns", "log10_optimum=optimum"]) == 0
    (arm,) = fitted(capsys).values()
    assert arm["optima"][0]["optimum"] == pytest.approx(-3 * math.log2(10), abs=1e-4)


def test_logarithms_of_optima_that_are_called_rates_are_never_guessed(capsys: Printed):
    for name in ("lr", "log_best_lr"):
        write_csv(Path("rows.csv"), [{"width": w, name: optimum(w), "error": 0.1} for w in WIDTHS])
        assert main(["import", "rows.csv", "mine"]) == 2
        assert f"ln_optimum={name} makes them" in capsys.readouterr().err
    words = ["--columns", "ln_optimum=log_best_lr"]
    assert main(["import", "rows.csv", "mine", *words]) == 0
    (arm,) = fitted(capsys).values()
    told = arm["optima"][0]["optimum"]
    assert told == pytest.approx(optimum(WIDTHS[0]) * math.log2(math.e), abs=1e-4)


@pytest.mark.parametrize("more", [{}, {"loss": 3.0}])
@pytest.mark.parametrize("name", ["best_lr", "optimum", "lr_opt"])
def test_optima_without_errors_are_refused_with_an_error_for_all(
    name: str, more: dict[str, float], capsys: Printed
):
    rows = [{"width": width, name: 2.0 ** optimum(width), **more} for width in WIDTHS]
    write_csv(Path("rows.csv"), rows)
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    assert f"rows.csv looks like a table of optima, {name!r} by width" in error
    assert error.endswith("2: hptransfer import rows.csv results/mine --columns log2_error:=0.3\n")
    assert error.count("\n") == 1 and not Path("results").exists()
    assert main(["import", "rows.csv", "mine", "--columns", "log2_error:=0.3"]) == 0
    assert "log2_error := 0.3" in capsys.readouterr().out
    (arm,) = fitted(capsys).values()
    told = arm["optima"][0]
    assert told["optimum"] == pytest.approx(optimum(WIDTHS[0]), abs=1e-4)
    assert main(["import", "rows.csv", "other", "--columns", "log2_error:=small"]) == 2
    assert "must be numbers" in capsys.readouterr().err


def test_trials_and_optima_do_not_mix(capsys: Printed):
    write_csv(Path("rows.csv"), records())
    write_csv(Path("optima.csv"), [in_log2(width) for width in WIDTHS])
    assert main(["import", "rows.csv", "trials"]) == main(["import", "optima.csv", "mine"]) == 0
    for source, folder, sentence in (
        ("rows.csv", "mine", "holds a table of optima, which trials cannot be fitted with"),
        ("optima.csv", "trials", "holds trials, which optima cannot be fitted with"),
    ):
        assert main(["import", source, folder]) == 2
        assert sentence in capsys.readouterr().err
    for words in (["plot"], ["plot", "--terminal"], ["report"], ["transfer", "model.width=2048"]):
        assert main([words[0], "mine", *words[1:]]) == 2
        assert "holds a table of optima and no trials" in capsys.readouterr().err


def test_losses_that_are_called_an_error_are_losses(capsys: Printed):
    rows = [
        {**{k: v for k, v in row.items() if k != "val_loss"}, "error": row["val_loss"]}
        for row in records()
    ]
    write_csv(Path("rows.csv"), rows)
    assert main(["import", "rows.csv", "mine"]) == 2
    assert "results/mine --columns loss=error\n" in capsys.readouterr().err
