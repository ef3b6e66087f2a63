"""`hptransfer import`: which columns are hyperparameters, arms and runs, and what it proposes."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hptransfer
from hptransfer.cli.main import main
from hptransfer.results.importers.names import axis_of, recognised
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.table import rows_table
from tests.support.foreign_tables import records, write_csv

MINE = Path("results/mine")
WIDTHS = (64, 128, 256)
RATES = tuple(2.0**x for x in range(-10, -5))
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loss_of(width: int, *away: float) -> float:
    return 3.0 - 0.1 * math.log2(width) + sum(0.03 * each**2 for each in away)


def grid(name: str, values: Sequence[float], best: float, **more: object) -> list[dict]:
    """Trials over width, lr and one more hyperparameter whose optimum is `best`."""
    return [
        {"width": w, "lr": lr, name: v, **more, "loss": loss_of(w, math.log2(lr) + 8, v - best)}
        for w in WIDTHS
        for lr in RATES
        for v in values
    ]


def rows() -> list[dict]:
    return list(read_ledger(MINE).rows)


def arms() -> set[str]:
    return {row["parametrization"] for row in rows()}


def proposed(error: str) -> Iterator[list[str]]:
    """Yield the words of every import that a refusal proposes."""
    for text in error.split("hptransfer import ")[1:]:
        yield ["import", *shlex.split(text.split(";")[0])]


def run_every_proposal(words: Sequence[str], capsys: Printed) -> list[list[str]]:
    """Refuse an import, and run each command that the refusal proposes."""
    assert main(["import", *words]) == 2
    commands = list(proposed(capsys.readouterr().err))
    assert commands
    for i, (verb, source, folder, *rest) in enumerate(commands):
        assert folder == "results/mine"
        assert main([verb, source, f"results/tried{i}", *rest]) == 0
    return commands


@pytest.mark.parametrize(
    ("name", "values", "axis"),
    [
        ("weight_decay", (0.01, 0.03, 0.1), "log2_weight_decay"),
        ("wd", (0.01, 0.03, 0.1), "log2_weight_decay"),
        ("matrix_lr", (0.01, 0.03, 0.1), "log2_matrix_lr"),
        ("muon.learning_rate", (0.01, 0.03, 0.1), "log2_muon_lr"),
        ("params.adam_lr", (0.01, 0.03, 0.1), "log2_adam_lr"),
        ("momentum", (0.8, 0.9, 0.95), "momentum"),
        ("attn_dropout", (0.0, 0.1, 0.2), "attn_dropout"),
        ("ema_decay", (0.99, 0.999, 0.9999), "ema_decay"),
        ("config.beta2", (0.9, 0.95, 0.99), "log2_one_minus_beta2"),
    ],
)
def test_a_column_of_a_hyperparameter_is_an_axis(name: str, values: tuple[float, ...], axis: str):
    write_csv(Path("rows.csv"), grid(name, values, values[1]))
    assert main(["import", "rows.csv", "mine"]) == 0
    found = {row["hps"][axis] for row in rows()}
    if axis.startswith("log2_"):
        kept = [1 - v if "one_minus" in axis else v for v in values]
        values = tuple(round(math.log2(v), 6) for v in kept)
    assert sorted(found) == pytest.approx(sorted(values)) and set(rows()[0]["hps"]) == {
        "log2_lr",
        axis,
    }
    assert axis in rows_table(rows()).columns
    assert main(["status", "mine", "--verify"]) == 0


def test_a_linear_hyperparameter_is_fitted_on_its_own_scale(capsys: Printed):
    write_csv(Path("rows.csv"), grid("momentum", (0.8, 0.85, 0.9, 0.95, 1.0), 0.87))
    assert main(["import", "rows.csv", "mine"]) == 0
    capsys.readouterr()
    assert main(["fit", "mine", "--json"]) == 0
    found = {arm["hp"]: arm for arm in json.loads(capsys.readouterr().out)["arms"]}
    assert set(found) == {"log2_lr", "momentum"}
    assert found["log2_lr"]["optima"][-1]["optimum"] == pytest.approx(-8, abs=0.2)


def test_a_hyperparameter_of_zero_is_off(capsys: Printed):
    write_csv(Path("rows.csv"), grid("weight_decay", (0.0, 0.01, 0.1), 0.05))
    assert main(["import", "rows.csv", "mine"]) == 0
    points = {row["hps"]["log2_weight_decay"] for row in rows()}
    assert (
        None in points
        and len(points) == 3
        and "Infinity" not in MINE.joinpath("ledger.jsonl").read_text()
    )
    table = rows_table(rows())
    off = np.isneginf(table["log2_weight_decay"].to_numpy())
    assert off.sum() == len(WIDTHS) * len(RATES)
    assert main(["status", "mine", "--verify", "--export", "out.csv"]) == 0
    assert main(["import", "out.csv", "again"]) == 0  # an exported -inf is off again
    again = read_ledger("results/again").rows
    assert sorted(str(r["hps"]) for r in again) == sorted(str(r["hps"]) for r in rows())
    assert main(["fit", "mine", "--print-config"]) == 0


def test_a_fit_of_a_hyperparameter_that_may_be_off(capsys: Printed):
    found = [
        {"width": w, "lr": lr, "wd": wd, "seed": seed, "loss": round(loss, 5)}
        for w in WIDTHS
        for lr in RATES
        for wd in (0.0, 0.01, 0.02, 0.04, 0.08)
        for seed in range(2)
        for away in [4.0 if wd == 0.0 else math.log2(wd / 0.03)]
        for loss in [loss_of(w, math.log2(lr) + 8, away) + 0.001 * ((seed + round(1e3 * lr)) % 2)]
    ]
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    capsys.readouterr()
    assert main(["fit", "mine", "--json"]) == 0
    arms = {arm["hp"]: arm for arm in json.loads(capsys.readouterr().out)["arms"]}
    optimum = arms["log2_weight_decay"]["optima"][-1]["optimum"]
    assert optimum == pytest.approx(math.log2(0.03), abs=0.3)
    assert arms["log2_lr"]["optima"][-1]["optimum"] == pytest.approx(-8, abs=0.2)


def test_a_hyperparameter_that_an_arm_lacks_is_off_there(capsys: Printed):
    sgd = grid("momentum", (0.8, 0.9, 0.95), 0.9, optimizer="sgd")
    adam = [{**row, "momentum": ""} for row in grid("momentum", (0.0,), 0.0, optimizer="adam")]
    write_csv(Path("rows.csv"), [*sgd, *adam])
    assert main(["import", "rows.csv", "mine"]) == 0
    assert "'momentum' is off for adam\n" in capsys.readouterr().out
    found = {(row["parametrization"], row["hps"]["momentum"]) for row in rows()}
    assert found == {("adam", 0.0), ("sgd", 0.8), ("sgd", 0.9), ("sgd", 0.95)}
    sgd[4]["momentum"] = ""  # and one that lacks it in some rows only is not taken
    write_csv(Path("gap.csv"), [*sgd, *adam])
    assert main(["import", "gap.csv", "gap"]) == 2
    assert "'momentum' is empty in some rows" in capsys.readouterr().err


def test_columns_that_tell_no_trials_apart_are_no_axes(capsys: Printed):
    found = grid("weight_decay", (0.01, 0.1), 0.05, eps=1e-8)
    for row in found:
        row |= {"embed_lr": 3 * row["lr"], "dropout": 0.1 * row["width"] / 256}
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    out = capsys.readouterr().out
    assert set(rows()[0]["hps"]) == {"log2_lr", "log2_weight_decay"}
    assert "'embed_lr' is a fixed multiple of the learning rate at every width" in out
    assert "'dropout' is given by the width" in out and "eps" not in out
    assert main(["import", "rows.csv", "eps", "--columns", "eps=eps"]) == 0
    assert "log2_eps" in read_ledger("results/eps").rows[0]["hps"]


def test_a_column_may_be_named_as_a_hyperparameter_of_its_own():
    write_csv(Path("rows.csv"), grid("gamma", (0.5, 1.0, 2.0), 1.0))
    assert main(["import", "rows.csv", "mine", "--columns", "gamma=gamma"]) == 0
    assert {row["hps"]["log2_gamma"] for row in rows()} == {-1.0, 0.0, 1.0}


def test_a_rate_named_as_the_learning_rate_leaves_the_others(capsys: Printed):
    found = [{"matrix_lr": row.pop("lr"), **row} for row in grid("adam_lr", RATES, 0.0)]
    write_csv(Path("rows.csv"), found)
    for folder, words in (("mine", []), ("named", ["--columns", "lr=matrix_lr"])):
        assert main(["import", "rows.csv", folder, *words]) == 0
    assert set(rows()[0]["hps"]) == {"log2_matrix_lr", "log2_adam_lr"}
    named = read_ledger("results/named").rows
    assert set(named[0]["hps"]) == {"log2_lr", "log2_adam_lr"} and len(named) == len(rows())


@pytest.mark.parametrize(
    ("column", "ours"),
    [
        ("optimizer.learning_rate", "lr"),
        ("config.optim.lr", "lr"),
        ("model.hidden_size", "width"),
        ("hiddenSize", "width"),
        ("training.seed", "seed"),
        ("mup/enabled", "parametrization"),
        ("optim.muon.lr", "muon_lr"),
        ("config.optimizer.adam.learningRate", "adam_lr"),
        ("optimizer.weight_decay", "weight_decay"),
        ("optimizer.beta1", "beta1"),
        ("trainer.max_steps", "steps"),
        ("train/loss", "train_loss"),
        ("metrics.learning_rate_schedule", None),
        ("_step", None),
    ],
)
def test_names_within_groups(column: str, ours: str | None):
    assert recognised(column)[0] == ours


def test_the_values_of_a_flag_are_arms():
    found = [{"mup/enabled": flag, **row} for flag in ("true", "False") for row in records()]
    for row in found:
        row |= {"model.hidden_size": row.pop("width"), "training.seed": row.pop("seed")}
        row |= {"optimizer.learning_rate": row.pop("lr"), "val.loss": row.pop("val_loss")}
        del row["param"]
    Path("runs.json").write_text(json.dumps(found))
    assert main(["import", "runs.json", "mine"]) == 0
    assert arms() == {"mup", "standard"} and len(rows()) == len(found)


def labelled(**columns: Callable[[int], str]) -> list[dict]:
    """Trials of two arms, with columns of texts made from the row's number."""
    found = []
    for arm in range(2):
        for i, row in enumerate(records()):
            texts = {name: text(2 * i + arm) for name, text in columns.items()}
            kept = {k: v for k, v in row.items() if k != "param"}
            found.append({**kept, "val_loss": row["val_loss"] + arm, **texts})
    return found


def optimizer(i: int) -> str:
    return ("adamw", "muon")[i % 2]


def test_the_only_column_of_labels_is_the_arm():
    found = labelled(run_name=lambda i: f"run {i}", optimizer=optimizer, notes=lambda i: "ok")
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    assert arms() == {"adamw", "muon"} and len(rows()) == len(found)


def test_labels_that_follow_from_the_width_are_no_arms(capsys: Printed):
    found = [{"size_class": f"w{row['width']}", **row} for row in records()]
    for row in found:
        del row["param"]
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    assert arms() == {"imported"}


def test_of_several_columns_of_labels_one_is_to_be_named(capsys: Printed):
    found = labelled(optimizer=optimizer, schedule=lambda i: ("cosine", "linear")[i // 2 % 2])
    write_csv(Path("rows.csv"), found)
    commands = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert ["--columns", "parametrization=optimizer"] in [command[3:] for command in commands]
    named = ["--columns", "parametrization=optimizer"]
    assert main(["import", "rows.csv", "mine", *named]) == 0
    assert arms() == {"adamw", "muon"}


def test_two_columns_of_labels_that_are_both_needed_are_proposed_together(capsys: Printed):
    found = [
        {**row, "val_loss": row["val_loss"] + i + 2 * j, "optimizer": opt, "data": data}
        for i, opt in enumerate(("adamw", "muon"))
        for j, data in enumerate(("images", "text"))
        for row in ({k: v for k, v in each.items() if k != "param"} for each in records())
    ]
    write_csv(Path("rows.csv"), found)
    *_, command = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert command[3:] == ["--columns", "parametrization=optimizer", "family=data"]
    assert main(["import", "rows.csv", "mine", *command[3:]]) == 0 and len(rows()) == len(found)


def test_several_families_are_told_apart_and_named(capsys: Printed):
    found = labelled(arch=lambda i: ("dit", "unet")[i % 2])
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    assert main(["fit", "mine"]) == 0
    out = capsys.readouterr().out
    assert "\ndit imported\n" in out and "\nunet imported\n" in out


def test_a_row_of_a_parent_is_no_trial(capsys: Printed):
    found = [
        {
            "run_id": f"r{i}",
            "status": "FINISHED",
            "params.lr": row["lr"],
            "params.width": row["width"],
            "params.seed": row["seed"],
            "metrics.val_loss": row["val_loss"],
        }
        for i, row in enumerate(records())
    ]
    parent = {**dict.fromkeys(found[0], ""), "run_id": "p", "status": "FINISHED"}
    best = {**parent, "run_id": "q", "metrics.val_loss": 2.5}
    write_csv(Path("rows.csv"), [parent, *found[:5], best, *found[5:]])
    assert main(["import", "rows.csv", "mine"]) == 0
    said = (
        "2 rows without a hyperparameter and a loss or width, so no trial; ignored (first: line 2)"
    )
    assert said in capsys.readouterr().out
    assert len(rows()) == len(found)


def repeated() -> list[dict]:
    """Runs of three seeds that no column tells apart."""
    return [{k: v for k, v in row.items() if k != "seed"} for row in records()]


def test_repeats_are_refused_with_the_words_that_make_them_seeds(capsys: Printed):
    found = repeated()
    write_csv(Path("rows.csv"), found)
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert command[3:] == ["--repeats", "seeds"]
    assert not MINE.exists()
    tried = read_ledger("results/tried0").rows
    assert {row["seed"] for row in tried} == {0, 1, 2} and len(tried) == len(found)
    assert sorted(row["loss"] for row in tried) == sorted(row["val_loss"] for row in found)


def test_repeats_are_counted_once_however_often_they_are_imported(capsys: Printed):
    found = repeated()
    write_csv(Path("a.csv"), found[:40])
    write_csv(Path("b.csv"), found[40:])
    for name in ("a.csv", "b.csv", "a.csv"):
        assert main(["import", name, "mine", "--repeats", "seeds"]) == 0
    assert "imported 0 trials from a.csv into results/mine; 40 more were already there" in (
        capsys.readouterr().out
    )
    assert len(rows()) == len(found)


def test_repeats_of_a_data_frame(capsys: Printed):
    frame = pd.DataFrame(repeated())
    with pytest.raises(ValueError, match=r'hptransfer\.fit\(rows, repeats="seeds"\)'):
        hptransfer.fit(frame)
    with pytest.raises(ValueError, match="`repeats` must be refuse or seeds, but got True"):
        hptransfer.fit(frame, repeats=True)  # type: ignore[arg-type]
    answer = hptransfer.fit(frame, repeats="seeds")
    assert set(answer.optima["n_seeds"]) == {3}


@pytest.mark.parametrize(
    ("rename", "expected"),
    [
        ({"width": "n"}, ["width=n"]),
        ({"lr": "step size"}, ["lr=step size"]),
        ({"val_loss": "nats"}, ["loss=nats"]),
        ({"width": "n", "lr": "step size", "val_loss": "nats"}, None),
    ],
)
def test_columns_of_unknown_names_are_guessed_and_the_guess_works(
    rename: dict[str, str], expected: list[str] | None, capsys: Printed
):
    found = [{rename.get(k, k): v for k, v in row.items()} for row in records()]
    write_csv(Path("rows.csv"), found)
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    expected = expected or [
        f"{o}={t}" for o, t in (("width", "n"), ("loss", "nats"), ("lr", "step size"))
    ]
    assert command[3:] == ["--columns", *expected]


def test_two_columns_for_one_thing_give_words_that_work(capsys: Printed):
    found = [{**row, "loss": row["val_loss"] + 1} for row in records()]
    write_csv(Path("rows.csv"), found)
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert command[3:] == ["--columns", "loss=val_loss"]
    same = [{**row, "config.lr": row["lr"]} for row in records()]
    write_csv(Path("same.csv"), same)
    assert main(["import", "same.csv", "same"]) == 0  # columns that agree are one


BASES = {"log10": 10.0, "log2": 2.0, "ln": math.e}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("log_lr", "'log_lr' of rows.csv holds logarithms, {}, without telling their base"),
        ("lr", "'lr' of rows.csv holds logarithms, {}, and no lr, which is never negative"),
        ("step size", "'step size' may hold its logarithms"),
        ("log(learning rate)", "without telling their base"),
    ],
)
def test_logarithms_are_refused_with_each_reading_and_its_words(
    name: str, told: str, base: str, capsys: Printed
):
    points = {row["lr"]: math.log(row["lr"], BASES[base]) for row in records()}
    found = [{name: points[row.pop("lr")], **row} for row in records()]
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    ends = f"{min(points.values()):g} to {max(points.values()):g}"
    assert told.format(ends) in error and error.count("\n") == 1 and not MINE.exists()
    readings = {each: shlex.quote(f"{each}_lr={name}") for each in BASES}
    assert all(f"{word} makes them " in error for word in readings.values())
    assert f"{readings[base]} makes them {min(points):.3g} to " in error
    assert len(list(proposed(error))) == 1
    for each, word in readings.items():
        assert main(["import", "rows.csv", f"results/{each}", "--columns", *shlex.split(word)]) == 0
    right = {row["hps"]["log2_lr"] for row in read_ledger(f"results/{base}").rows}
    assert sorted(right) == pytest.approx([math.log2(lr) for lr in points], abs=1e-5)


def test_a_logarithm_in_a_word_or_beside_the_rate_is_asked_about_too(capsys: Printed):
    found = [{"log_lr": math.log10(row["lr"]), **row} for row in records()]
    write_csv(Path("rows.csv"), found)
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert command[3:] == ["--columns", "lr=lr"]
    for word in ("log_lr=log_lr", "lr=log_lr"):
        words = ["rows.csv", "results/mine", "--columns", word]
        (command,) = run_every_proposal(words, capsys)
        assert command[3:] == ["--columns", "log10_lr=log_lr"]


def test_a_layer_norms_eps_is_no_logarithm():
    assert recognised("ln_eps")[0] is None and recognised("logit_lr")[0] == "logit_lr"
    assert recognised("log_wd")[0] == "log_weight_decay"


def test_a_negative_rate_among_others_is_a_bad_row(capsys: Printed):
    write_csv(Path("rows.csv"), [*records(), {**records()[0], "lr": -0.5}])
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("it is -0.5. Correct or remove that row.\n")


def test_logarithms_that_no_base_makes_rates(capsys: Printed):
    write_csv(Path("rows.csv"), [{**row, "lr": -1000 * row["width"]} for row in records()])
    assert main(["import", "rows.csv", "mine"]) == 2
    assert "no base makes them numbers within 2^±120" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("lr", "base_lr"), ("base_lr", "lr"), ("lr", "max_lr")])
def test_of_two_rates_the_one_before_the_factor_is_proposed(
    names: tuple[str, str], capsys: Printed
):
    found = []
    for arm in ("mup", "sp"):
        for row in records(arm=arm):
            after = row["lr"] * (64 / row["width"] if arm == "mup" else 1)
            rates = {name: after if name == "lr" else row["lr"] for name in names}
            found.append({**rates, **{k: v for k, v in row.items() if k != "lr"}})
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    before = next(name for name in names if name != "lr")
    assert f"({before!r} is the rate before a factor of the width, which is what transfers" in error
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert command[3:] == ["--columns", f"lr={before}"]
    rates = {row["hps"]["log2_lr"] for row in read_ledger("results/tried0").rows}
    assert rates == {math.log2(row["lr"]) for row in records()}


def test_the_rate_after_the_factor_is_not_proposed_for_repeats(capsys: Printed):
    found = [
        {"width": r["width"], "base_lr": r["lr"], "lr": r["lr"] * f, "loss": r["val_loss"] + f}
        for f in (1.0, 0.7)
        for r in records()
        if r["seed"] == 0
    ]
    write_csv(Path("rows.csv"), found)
    words = ["rows.csv", "results/mine", "--columns", "lr=base_lr"]
    (command,) = run_every_proposal(words, capsys)
    assert command[3:] == ["--repeats", "seeds", "--columns", "lr=base_lr"]


def test_a_rate_before_the_factor_of_another_name_is_told(capsys: Printed):
    found = [{"mup_base_lr": r["lr"], **r, "lr": r["lr"] * 64 / r["width"]} for r in records()]
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    told = "'mup_base_lr' is 'lr' before it was multiplied by a factor of the width"
    out = capsys.readouterr().out
    assert told in out and "(--columns lr=mup_base_lr takes it; under µP this is the rate" in out
    assert main(["import", "rows.csv", "before", "--columns", "lr=mup_base_lr"]) == 0
    rates = {row["hps"]["log2_lr"] for row in read_ledger("results/before").rows}
    assert rates == {math.log2(row["lr"]) for row in records()}


@pytest.mark.parametrize(
    ("index", "inner", "header", "expected"),
    [
        ("width", "lr", "{}", "loss={lr}"),
        ("width", "lr", "lr={}", "loss=lr={lr}"),
        ("width", "log2", "{}", "loss={log2_lr}"),
        ("lr", "width", "{}", "loss={width}"),
        ("lr", "width", "w{}", "loss=w{width}"),
        ("step size", "width", "{}", "loss={width}"),
        ("", "width", "{}", "loss={width}"),
    ],
)
def test_pivoted_tables_are_recognised(
    index: str, inner: str, header: str, expected: str, capsys: Printed
):
    rates = {lr: round(math.log2(lr)) if inner == "log2" else lr for lr in RATES}
    losses = {(w, lr): loss_of(w, math.log2(lr) + 8) for w in WIDTHS for lr in RATES}
    if inner == "width":
        heads = [header.format(w) for w in WIDTHS]
        lines = [[lr, *(losses[w, lr] for w in WIDTHS)] for lr in RATES]
    else:
        heads = [header.format(rates[lr]) for lr in RATES]
        lines = [[w, *(losses[w, lr] for lr in RATES)] for w in WIDTHS]
    Path("rows.csv").write_text(
        "\n".join(",".join(map(str, line)) for line in [[index, *heads], *lines])
    )
    assert main(["import", "rows.csv", "mine"]) == 2
    error = capsys.readouterr().err
    what = "width" if inner == "width" else "lr"
    assert f"seem to hold the losses of one {what} each" in error and error.count("\n") == 1
    assert expected in error
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert expected in command
    tried = read_ledger("results/tried0").rows
    assert {(r["width"], 2.0 ** r["hps"]["log2_lr"]): r["loss"] for r in tried} == losses


def test_a_column_for_each_seed_is_recognised(capsys: Printed):
    found = [{f"run{i}": loss_of(w, i / 9) + i for i in range(3)} for w in WIDTHS]
    found = [{"width": w, "lr": 0.1, **row} for w, row in zip(WIDTHS, found, strict=True)]
    write_csv(Path("rows.csv"), found)
    (command,) = run_every_proposal(["rows.csv", "results/mine"], capsys)
    assert command[3:] == ["--columns", "loss=run{seed}"]


def test_neighbouring_rates_stay_apart():
    """In CPython hash(-1.0) equals hash(-2.0), the log2 of the rates 0.5 and 0.25."""
    rng = np.random.default_rng(0)
    rates = [0.5, 0.25, 0.125, 0.001, 0.0010001, *map(float, rng.uniform(1e-4, 1e-1, 200))]
    found = [{"width": 64, "lr": rate, "loss": 1 + i} for i, rate in enumerate(rates)]
    write_csv(Path("rows.csv"), found)
    assert main(["import", "rows.csv", "mine"]) == 0
    assert len({row["trial_key"] for row in rows()}) == len(rates)
    points = {row["hps"]["log2_lr"]: row["loss"] for row in rows()}
    assert (points[-1.0], points[-2.0], points[-3.0]) == (1, 2, 3) and len(points) == len(rates)


def test_axes_of_names():
    assert axis_of("lr") == axis_of("log10_lr") == "log2_lr"
    assert axis_of("momentum") == "momentum" and axis_of("log2_momentum") == "log2_momentum"
    assert axis_of("beta1") == axis_of("log2_one_minus_beta1") == "log2_one_minus_beta1"
