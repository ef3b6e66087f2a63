"""`hptransfer import` of other programs' tables: formats, columns, and the folder they make."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.results.importers import read_file
from hptransfer.results.ledger_rows import encode_row, read_ledger
from tests.support.foreign_tables import (
    EXPECTED,
    POINTS,
    SEEDS,
    WIDTHS,
    loss_of,
    outcomes,
    records,
    write_csv,
    write_messy,
)

MINE = Path("results/mine")
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_messy_table_comes_to_a_verdict_in_two_commands(capsys: Printed):
    write_messy(Path("Rows of June.csv"))
    assert main(["import", "Rows of June.csv", "results/mine"]) == 0
    out = capsys.readouterr().out
    assert (
        "columns: loss = 'Val loss [nats]'; lr = 'Learning rate'; parametrization = 'Param'; "
        "seed = 'Seed'; width = 'Width (d_model)'\n" in out
    )
    assert "rows without a loss, counted as diverged trials (first: line " in out
    assert "numbers have a decimal comma" in out
    assert out.splitlines()[-1] == "next: hptransfer fit results/mine"
    assert main(["fit", "mine", "--json"]) == 0
    arms = {arm["parametrization"]: arm for arm in json.loads(capsys.readouterr().out)["arms"]}
    assert {name: arm["verdict"] for name, arm in arms.items()} == {
        "mup": "transfers",
        "standard": "drifts",
    }
    optima = {o["width"]: o["optimum"] for o in arms["mup"]["optima"]}
    assert optima == pytest.approx(dict.fromkeys(WIDTHS, -7.4), abs=0.3)
    assert arms["standard"]["drift_octaves_per_doubling"]["estimate"] == pytest.approx(
        -0.8, abs=0.15
    )


def test_every_command_works_on_an_imported_folder(capsys: Printed):
    write_messy(Path("rows.csv"))
    assert main(["import", "rows.csv", "mine"]) == 0
    assert main(["status", "mine", "--verify", "--export", "out.csv"]) == 0
    out = capsys.readouterr().out
    count = 2 * len(EXPECTED)
    assert f"mine: {count} of {count} trials are finished" in out
    assert f"verified results/mine/ledger.jsonl: {count} rows" in out
    assert main(["report", "mine"]) == 0
    assert main(["fit", "mine", "--print-config"]) == 0
    page = (MINE / "report.html").read_text()
    assert "Val loss [nats]" in page  # what was taken for what
    assert (MINE / "figures" / "summary.png").is_file()
    capsys.readouterr()
    ours = outcomes()
    assert main(["import", "out.csv", "again"]) == 0  # our own export is a table like another
    assert outcomes(Path("results/again")) == ours


def test_a_ledger_line_is_small_and_says_that_it_is_foreign():
    write_messy(Path("rows.csv"))
    assert main(["import", "rows.csv", "mine"]) == 0
    rows = read_ledger(MINE).rows
    assert max(len(encode_row(row)) for row in rows) < 600
    assert all(row["config"]["foreign"] == {} and row["source"] == "rows.csv" for row in rows)
    assert "time" not in rows[0]["provenance"]


def write_json(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def write_json_columns(path: Path, rows: list[dict]) -> Path:
    columns = {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
    path.write_text(json.dumps(columns))
    return path


def write_json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    import pandas as pd

    pd.DataFrame(rows).to_parquet(path)
    return path


def write_wandb(path: Path, rows: list[dict]) -> Path:
    nested = [
        {
            "name": f"run-{i}",
            "config": {"lr": row["lr"], "d_model": row["width"], "seed": row["seed"]},
            "summary": {"val/loss": row["val_loss"], "train/loss": 1.0, "_step": 1000 + i},
            "state": "finished",
        }
        for i, row in enumerate(rows)
    ]
    broken = {**nested[0], "state": "crashed", "summary": {"val/loss": 9.0}}
    return write_json(path, [*nested, broken])


def write_mlflow(path: Path, rows: list[dict]) -> Path:
    return write_csv(
        path,
        [
            {
                "run_id": f"{i:032x}",
                "status": "FINISHED",
                "metrics.val_loss": row["val_loss"],
                "params.learning_rate": row["lr"],
                "params.hidden_size": row["width"],
                "params.seed": row["seed"],
                "tags.mlflow.runName": f"run-{i}",
            }
            for i, row in enumerate(rows)
        ],
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", write_csv),
        ("rows.json", write_json),
        ("columns.json", write_json_columns),
        ("rows.jsonl", write_json_lines),
        ("rows.parquet", write_parquet),
        ("wandb.json", write_wandb),
        ("mlflow.csv", write_mlflow),
    ],
)
def test_every_format_gives_the_same_rows(name: str, write, capsys: Printed):
    write(Path(name), records())
    arm = [] if name not in ("wandb.json", "mlflow.csv") else ["--columns", "parametrization:=µP"]
    assert main(["import", name, "mine", *arm]) == 0
    assert outcomes() == EXPECTED
    assert ("with status 'crashed', ignored" in capsys.readouterr().out) == (name == "wandb.json")


def test_an_optuna_study_is_read_and_left_as_it_was(capsys: Printed):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    study = optuna.create_study(storage="sqlite:///study.db", study_name="w64")
    study.set_user_attr("parametrization", "muP")
    space = optuna.distributions

    def add(point: float, width: int, **outcome: object) -> None:
        study.add_trial(
            optuna.trial.create_trial(
                params={"lr": 2.0**point, "width": width},
                distributions={
                    "lr": space.FloatDistribution(1e-5, 1, log=True),
                    "width": space.CategoricalDistribution(list(WIDTHS)),
                },
                user_attrs={"seed": 1},
                **outcome,
            )
        )

    for width in WIDTHS:
        for point in POINTS:
            add(point, width, value=loss_of(width, point, 1))
    states = optuna.trial.TrialState
    add(-3.0, 64, state=states.FAIL)
    add(-3.0, 128, state=states.PRUNED)
    before = Path("study.db").read_bytes()
    assert main(["import", "sqlite:///study.db", "mine"]) == 0
    assert "1 row with status 'pruned', ignored" in capsys.readouterr().out
    wanted = {key: loss for key, loss in EXPECTED.items() if key[-1] == 1}
    assert outcomes() == {**wanted, ("mup", 64, -3.0, 1): None}
    assert Path("study.db").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["results", "study.db"]


def test_a_json_value_may_be_one_long_line():
    rows = [{**row, "note": "x" * 20_000} for row in records()]
    write_json(Path("rows.json"), rows)
    assert Path("rows.json").stat().st_size > read_file.LONGEST_LINE
    assert main(["import", "rows.json", "mine"]) == 0
    assert outcomes() == EXPECTED


WIDE = {
    "seeds": ("width,lr,loss_seed0,loss_seed1,loss_seed2", "seed", ["loss=loss_seed{seed}"]),
    "named": ("width,lr,run0 loss,run1 loss,run2 loss", "seed", ["loss=run{seed} loss"]),
    "widths": ("lr,seed,64,128,256,512", "width", ["loss={width}"]),
    "rates": ("width,seed," + ",".join(f"lr={2.0**p!r}" for p in POINTS), "lr", ["loss=lr={lr}"]),
}


@pytest.mark.parametrize("kind", WIDE)
def test_wide_tables_are_the_long_ones(kind: str, capsys: Printed):
    header, inner, words = WIDE[kind]
    if inner == "seed":
        keys = [(w, p, [(w, p, s) for s in SEEDS]) for w in WIDTHS for p in POINTS]
        lines = [[w, 2.0**p, *(loss_of(*key) for key in cells)] for w, p, cells in keys]
    elif inner == "width":
        lines = [[2.0**p, s, *(loss_of(w, p, s) for w in WIDTHS)] for p in POINTS for s in SEEDS]
    else:
        lines = [[w, s, *(loss_of(w, p, s) for p in POINTS)] for w in WIDTHS for s in SEEDS]
    Path("wide.csv").write_text("\n".join([header, *(",".join(map(str, x)) for x in lines)]))
    assert main(["import", "wide.csv", "mine", "--columns", "parametrization:=mup", *words]) == 0
    assert f"loss by {inner} = " in capsys.readouterr().out
    assert outcomes() == EXPECTED


def test_checkpoints_become_rows_of_so_many_steps(capsys: Printed):
    rows = [
        {**row, "global_step": step, "val_loss": row["val_loss"] + 100 / step}  # type: ignore[operator]
        for row in records()
        for step in (100, 200)
    ]
    write_csv(Path("rows.csv"), rows)
    assert main(["import", "rows.csv", "mine"]) == 0
    assert "only under a constant learning rate" in capsys.readouterr().out
    found = read_ledger(MINE).rows
    assert {row["config"]["budget"]["steps"] for row in found} == {100, 200}
    assert len(found) == 2 * len(EXPECTED)


def test_means_with_seed_counts_and_standard_deviations():
    Path("rows.csv").write_text("width,log2_lr,loss,n_seeds,loss_std\n64,-7,3.1,5,0.01\n")
    assert main(["import", "rows.csv", "mine"]) == 0
    assert read_ledger(MINE).rows[0]["config"]["foreign"] == {"n_seeds": 5, "loss_sd": 0.01}


def test_a_chart_of_a_tracker_has_a_run_a_column(capsys: Printed):
    runs = [(width, point) for width in WIDTHS for point in POINTS]
    names = [f"w{width} lr{2.0**point} - val/loss" for width, point in runs]
    header = ["Step", *names, *(f"{name}__MIN" for name in names)]
    cells = [str(loss_of(*run, seed=0)) for run in runs]
    lines = [",".join(header), *(",".join([step, *cells, *cells]) for step in ("500", "1000"))]
    Path("chart.csv").write_text("\n".join(lines))
    words = ["loss=w{width} lr{lr} - val/loss", "parametrization:=mup"]
    assert main(["import", "chart.csv", "mine", "--columns", *words]) == 0
    found = read_ledger(MINE).rows
    assert len(found) == 2 * len(runs)
    assert outcomes() == {key: loss for key, loss in EXPECTED.items() if key[-1] == 0}
