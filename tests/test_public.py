"""The public API as a notebook calls it: `import hptransfer`, the examples, and what comes back."""

from __future__ import annotations

import dataclasses
import doctest
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

import hptransfer
from hptransfer.cli.main import main
from hptransfer.errors import UserError
from tests.support.paths import ROOT

STUDY = "results/studies/quickstart"
FUNCTIONS = [name for name in hptransfer.__all__ if name[0].islower()]


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the quickstart's committed results."""
    left_out = shutil.ignore_patterns("figures")
    shutil.copytree(ROOT / STUDY, tmp_path / STUDY, ignore=left_out)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_package_is_light_and_shows_its_names() -> None:
    program = (
        "import sys, hptransfer; "
        "print(set(dir(hptransfer)) == {*hptransfer.__all__, '__version__', 'mup'}, "
        "{'torch', 'pandas', 'numpy', 'matplotlib', 'hydra', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "True set()", done.stderr
    assert hptransfer.__version__[0].isdigit()
    assert all(callable(getattr(hptransfer, name)) for name in hptransfer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tune'"):
        getattr(hptransfer, "tune")  # noqa: B009


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_public_function_runs(name: str, notebook: Path) -> None:
    function = getattr(hptransfer, name)
    example = doctest.DocTestParser().get_doctest(
        function.__doc__, {"hptransfer": hptransfer}, name, None, 0
    )
    assert example.examples, "every public function has an example"
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=told.append)
    assert told == []


def runs(**more: object) -> pd.DataFrame:
    """Return runs whose best log2 lr is -6 at every width."""
    return pd.DataFrame(
        [
            {
                "width": width,
                "lr": 2.0**x,
                "seed": seed,
                "loss": 1 - 0.05 * i + 0.02 * (x + 6) ** 2 + 0.003 * seed * (x % 2),
                **more,
            }
            for i, width in enumerate([64, 128, 256])
            for x in range(-9, -2)
            for seed in range(3)
        ]
    )


def test_a_frame_gives_what_the_commands_give_for_the_same_table(
    notebook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = hptransfer.fit(runs(parametrization="mup"), target_width=1024)
    runs(parametrization="mup").to_csv("DataFrame.csv", index=False)
    assert main(["import", "DataFrame.csv", "results/DataFrame"]) == 0
    capsys.readouterr()
    words = ("fit", "results/DataFrame", "sweep.target.model.width=1024")
    assert main([*words, "--json"]) == 0
    assert answer.to_dict() == json.loads(capsys.readouterr().out)
    assert main(list(words)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(str(answer).partition("\nnote: ")[0])


def test_an_answer_shows_its_numbers_by_name() -> None:
    answer = hptransfer.fit(runs(parametrization="mup"), target_width=1024)
    (arm,) = answer.arms
    record = answer.to_dict()["arms"][0]
    assert (arm.parametrization, arm.hp, arm.verdict) == ("mup", "log2_lr", "transfers")
    assert arm.drift == tuple(record["drift_octaves_per_doubling"].values()) == answer.drift
    assert answer.target is not None and answer.target.width == 1024
    assert answer.target.value == 2.0 ** record["target"]["emitted"]
    assert answer.target.expected_regret.high == record["target"]["expected_regret"]["high"]
    assert answer.optima["optimum"].tolist() == [each["optimum"] for each in record["optima"]]
    assert "<table" in answer._repr_html_() and "transfers" in answer._repr_html_()
    assert repr(answer) == "<Answer of sweep DataFrame: µP log2_lr transfers>"
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.record = {}  # pyright: ignore[reportAttributeAccessIssue]
    answer.to_dict()["arms"].clear()
    assert len(answer.arms) == 1, "a copy was given"
    assert hptransfer.fit(runs()).target is None


def test_columns_of_other_names_and_an_index_are_read() -> None:
    plain = hptransfer.fit(runs())
    renamed = runs().rename(columns={"lr": "eta"}).set_index(["width", "seed"])
    assert hptransfer.fit(renamed, columns={"lr": "eta"}).arms == plain.arms


def test_a_frame_that_cannot_be_read_is_one_sentence() -> None:
    with pytest.raises(UserError, match="width"):
        hptransfer.fit(runs().drop(columns="width"))
    with pytest.raises(UserError, match=r"verdict\.max_regret"):
        hptransfer.fit(runs(), "verdict.max_regrets=1")


def changed(column: str, value: object) -> pd.DataFrame:
    """Return runs of which row 3 has another value."""
    table = runs().astype({column: object})
    table.loc[3, column] = value
    return table


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: hptransfer.fit(runs(), columns={"lr": "eta"}), "The DataFrame has no column"),
        (
            lambda: hptransfer.fit(changed("width", "wide")),
            "The width in row 3 of the DataFrame is no number: 'wide'. Correct it, or name another "
            "column for the width with `columns`.",
        ),
        (
            lambda: hptransfer.fit(runs(parametrization=3)),
            "leave the column out: columns={'parametrization': ''}",
        ),
        (lambda: hptransfer.fit(runs(), columns={"loss": "l{seed}"}), "columns={'loss': 'loss_se"),
        (lambda: hptransfer.fit(runs().iloc[:0]), "The DataFrame must hold rows, but has none."),
        (lambda: hptransfer.fit(pd.DataFrame()), "The DataFrame must hold columns and rows, but"),
        (
            lambda: hptransfer.fit(runs(), columns=cast(Any, ["lr"])),
            "`columns` must be a dict of our names",
        ),
        (lambda: hptransfer.fit(runs(), target_width=-7), "`target_width` must be a positive "),
        (lambda: hptransfer.fit(runs(), "verdict.sur=1"), "Of a DataFrame the target and the ver"),
        (lambda: hptransfer.load_results("nowhere"), "Run `hptransfer.sweep` first"),
        (lambda: hptransfer.fit("nowhere"), "Run `hptransfer.sweep` first"),
    ],
)
def test_python_is_told_of_the_frame_and_of_arguments(
    call: Callable[[], object], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        call()
    assert told in str(refused.value)
    assert "--" not in str(refused.value) and ".csv" not in str(refused.value)


def test_notes_speak_of_the_frame() -> None:
    table = runs().assign(a=["x", "y", "z"] * 21, b=["p", "q", "q"] * 21)
    notes = "\n".join(hptransfer.fit(table).notes)
    assert "columns={'parametrization': 'a'})" in notes
    assert (
        "with columns={'parametrization': COLUMN}, or give rows.assign(parametrization='mup'))"
        in notes
    )


def test_an_arm_is_named_where_several_could_be_meant() -> None:
    both = pd.concat([runs(parametrization="a"), runs(parametrization="b")])
    answer = hptransfer.fit(both)
    assert answer.arm("b").parametrization == "b"
    with pytest.raises(UserError, match="It has a, b"):
        _ = answer.verdict
    with pytest.raises(UserError, match="got c"):
        answer.arm("c")


def test_a_folder_is_read_by_text_or_path_and_nothing_is_written(notebook: Path) -> None:
    before = files(notebook)
    results = hptransfer.load_results(STUDY)
    assert results == hptransfer.load_results(Path(STUDY))
    by_text, by_object = hptransfer.fit(STUDY), results.fit()
    assert by_text == by_object == hptransfer.fit(results) == hptransfer.fit(Path(STUDY))
    assert (
        results.estimates
        == by_text.to_dict()
        == json.loads(before[str(notebook / STUDY / "estimates.json")])
    )
    strict = results.fit("verdict.max_regret=1e-9")
    assert (by_text.verdict, strict.verdict) == ("transfers", "inconclusive")
    assert results.status["completed"] + results.status["diverged"] == 120
    assert files(notebook) == before
    with pytest.raises(UserError, match=r"must hold a sweep\.yaml"):
        hptransfer.load_results("nowhere")


def test_plots_of_an_answer_and_of_a_folder_are_figures_and_written_where_told(
    notebook: Path,
) -> None:
    answer = hptransfer.fit(runs(parametrization="mup"))
    before = files(notebook)
    drawn = hptransfer.plot(answer)
    assert {"summary", "basins-mup", "optimum_width"} <= set(drawn)
    lines = drawn["basins-mup"].axes[0].lines
    assert min(np.min(line.get_ydata(), initial=9.0) for line in lines) == pytest.approx(
        0.9, abs=0.02
    )
    assert files(notebook) == before
    hptransfer.plot(answer, into="pictures")
    assert (notebook / "pictures" / "summary.svg").is_file()


def test_what_is_no_table_and_what_has_no_losses_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="pandas DataFrame or a results folder, but got a list"):
        hptransfer.fit([{"width": 64, "lr": 0.1, "loss": 1.0}])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"results folder or what hptransfer\.fit returned"):
        hptransfer.plot(runs())  # pyright: ignore[reportArgumentType]
    optima = pd.DataFrame(
        {"width": [64, 128, 256], "log2_lr": [-6.0, -6.1, -6.0], "error": [0.1, 0.1, 0.1]}
    )
    with pytest.raises(UserError, match="that of a table of optima"):
        hptransfer.plot(hptransfer.fit(optima))
