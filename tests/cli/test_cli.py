"""The command line: exit codes, one sentence for bad input, light start-up, the installed wheel."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hptransfer.analysis.of_folder import fresh_estimates
from hptransfer.cli.commands import COMMANDS
from hptransfer.cli.main import main
from hptransfer.cli.sweep_commands import _strict
from hptransfer.config import ExecutorConfig
from hptransfer.errors import MachineError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.sweeping.run import driver
from hptransfer.training import coordinate_record
from tests.support.paths import ROOT
from tests.support.sweeps import recorded_checks


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removeprefix("hptransfer: ").rstrip("\n")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command.name} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "overrides:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["swep"], "There is no command 'swep'. Did you mean sweep?"),
        (
            ["sweep", "quickstat"],
            "There is no sweep 'quickstat'. Did you mean quickstart or quickstart_muon?",
        ),
        (["sweep", "no.yaml"], "There is no sweep file no.yaml. Check the path."),
        (
            ["fit", "nowhere"],
            "A results folder must hold a sweep.yaml, but nowhere does not. Run `hptransfer sweep` "
            "first, or name the folder it printed.",
        ),
        (["list", "model"], "There is a list of models, sweeps, data, but not of 'model'."),
        (["train", "no.yaml"], "There is no config file no.yaml. Check the path."),
        (
            ["plan", "tiny.yaml", "runtime=gpu"],
            "There is no runtime=gpu. Did you mean runtime=cuda?",
        ),
        *(
            (
                [name, "quickstart"],
                f"`hptransfer {name}` is about a model, so it takes overrides such as model=dit "
                "and no sweep or file, but got 'quickstart'. Name the model, for example "
                f"`hptransfer {name} model=dit model.depth=2`.",
            )
            for name in ("check", "rules")
        ),
    ],
)
def test_names_that_do_not_exist(
    words: list[str], sentence: str, tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, *words) == sentence


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("sweep.widths=8,18", "`model.width` must be a multiple of the head dimension"),
        ("runtime.device=cuda:99", "needs that GPU, but torch sees"),
        ("runtime.device=tpu", "`runtime.device` must be cpu, cuda or cuda:N, but got 'tpu'."),
        ("executor.name=pbs", "`executor.name` must be local, ray or slurm, but got 'pbs'."),
        ("sweep.target.model.width=16", "at least as wide as the widest swept model"),
        ("sweep.target.model.base_width=16", "must have the swept models' base width"),
        ("sweep.parametrizations=mup,mup", "must name each one once, but got ['mup', 'mup']"),
        ("sweep.seeds=[-1]", "`sweep.seeds` must not be negative"),
        ("search.lr.low=-1990", "must lie within ±120"),
        ("search.lr.step=1e-9", "may have at most 10000 points"),
        ("sweep.widths=[0]", "`model.width` must be positive, but got 0."),
        ("data=fashion_mnist", "is read from a folder, but none is named."),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    override: str, part: str, tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = ["model.patch_size=8"] if "fashion" in override else []
    assert part in error_of(capsys, "sweep", "tiny.yaml", override, *patch)
    assert not list(Path().glob("results/*/ledger.jsonl"))


@pytest.mark.cluster
def test_resources_that_no_node_has_are_refused_in_seconds(
    running_ray: ExecutorConfig, tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = ("executor.name=ray", f"executor.address={running_ray.address}")
    assert main(["sweep", "tiny.yaml", *joined, "executor.cpus=4096"]) == 2
    *_before, error = capsys.readouterr().err.splitlines()
    assert "4096" in error
    assert not read_ledger_rows(Path("results/tiny"))


def test_bad_paths_are_one_sentence(tiny_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "must name a folder" in error_of(capsys, "check", "--config-dir", "nowhere")
    assert "is a folder. Name a file" in error_of(capsys, "train", ".")
    assert "is a sweep" in error_of(capsys, "train", "tiny.yaml")


@pytest.mark.parametrize(
    "words",
    [
        *(["status", "tiny", "a=1"], ["plot", "tiny", "a=1"], ["report", "tiny", "a=1"]),
        *(
            ["list", "--print-config"],
            ["list", "--results=x"],
            ["status", "tiny", "--config-dir=x"],
        ),
        *(["rules", "--results=x"], ["import", "a.csv", "b", "--print-config"]),
    ],
    ids=" ".join,
)
def test_what_a_command_would_ignore_is_refused(
    words: list[str], tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"nrecognized arguments: {words[-1]}" in error_of(capsys, *words)


def test_a_plot_as_text_takes_no_option_of_files(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tiny").mkdir()
    Path("tiny/sweep.yaml").write_text("name: x\n")
    for option in ("--json", "--out=x"):
        assert "neither --json nor --out" in error_of(
            capsys, "plot", "./tiny", "--terminal", option
        )


def test_what_a_folder_holds_is_checked_before_it_is_used(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tiny.yaml", "sweep.widths=8,16", "--quiet"]) == 0
    assert main(["fit", "tiny"]) == 0
    folder = Path("results/tiny")
    capsys.readouterr()
    for name in ("estimates.json", "check.json", "target/realised.json"):
        kept = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("[1]")
        assert "is not as hptransfer wrote it" in error_of(capsys, "plot", "tiny")
        (folder / name).unlink() if kept is None else (folder / name).write_bytes(kept)
    (folder / "ledger.jsonl").write_bytes(b"\x00" * 300)
    assert "is no row that was cut off" in error_of(capsys, "status", "tiny")


def test_overrides_of_fit_and_transfer_count_or_are_refused(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tiny.yaml", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["fit", "tiny", "sweep.widths=8,16", "--json"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [optimum["width"] for optimum in arms[0]["optima"]] == [8, 16]
    assert main(["transfer", "tiny", "sweep.target.model.width=96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"]["width"] == 96
    assert "The sweep decides `" in error_of(capsys, "transfer", "tiny", "optimizer.lr=1")
    assert "changes of the target run" in error_of(capsys, "transfer", "tiny", "name=x")


def test_estimates_follow_the_rows(tiny_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "tiny.yaml", "sweep.seeds=[0]", "--quiet"]) == 0
    assert main(["fit", "tiny"]) == 0
    assert main(["sweep", "tiny.yaml", "--quiet"]) == 0
    estimates = fresh_estimates(ResultsFolder(Path("results/tiny")))
    assert estimates["trials"] == {"fitted": 60, "missing": 0, "left_out": 0}
    lines = Path("results/tiny/ledger.jsonl").read_bytes().splitlines(keepends=True)
    Path("results/tiny/ledger.jsonl").write_bytes(b"".join(lines[:50]))
    capsys.readouterr()
    assert main(["fit", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "10 trials of the sweep are not finished" in out
    assert out.splitlines()[-1] == "next: hptransfer sweep results/tiny/sweep.yaml"


def test_print_config_composes_and_does_nothing(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tiny.yaml", "--print-config", "model.depth=3"]) == 0
    assert "depth: 3" in capsys.readouterr().out
    assert not Path("results").exists()


def test_flags_may_stand_anywhere(tiny_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--json", "tiny.yaml", "sweep.widths=[8]", "--results", "out", "seed=1"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["ran"] == 12
    assert Path("out/tiny/ledger.jsonl").is_file()


def test_strict_makes_another_verdict_exit_1(tiny_sweep: Path) -> None:
    assert main(["sweep", "tiny.yaml", "sweep.widths=8,16", "--quiet"]) == 0
    assert main(["fit", "tiny"]) == 0
    assert main(["fit", "tiny", "--strict"]) == 1


def test_check_fails_with_exit_1_and_names_the_module(
    capsys: pytest.CaptureFixture[str], tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.CHECK_SEEDS", (0, 1))
    assert main(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert main(["check", "parametrization.broken=readout_twice"]) == 1
    told = capsys.readouterr().out
    assert "fails the coordinate check" in told and "factor per doubling" in told
    assert main(["check", "--json", "parametrization.broken=readout_twice"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "fail"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    for line in capsys.readouterr().out.splitlines():
        _, program, *words = line.partition(":")[0].split()
        assert program == "hptransfer" and main(words) == 0
    capsys.readouterr()
    assert main(["list", "models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert "DiT small enough for a CPU" in models["dit"]


LIGHT = """
import sys
from hptransfer.cli.main import main
for command in sys.argv[1:]:
    code = main([command, "tiny"])
    heavy = {"torch", "ray", "hydra", "mup"} & set(sys.modules)
    if command in ("status", "fit"):
        heavy |= {"matplotlib", "scipy", "sklearn"} & set(sys.modules)
    if code or heavy:
        sys.exit(f"{command} ended with {code} and imported {heavy}")
"""


def test_reading_commands_import_neither_torch_nor_ray_nor_hydra(tiny_sweep: Path) -> None:
    assert main(["sweep", "tiny.yaml", "--quiet"]) == 0
    words = [sys.executable, "-c", LIGHT, "status", "fit", "plot", "report"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    root = ROOT
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(root),
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "hptransfer", "sweep", "quickstart", "--print-config"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "name: quickstart" in ended.stdout


def test_strict_is_exit_code_one_unless_everything_transfers() -> None:
    strict, loose = argparse.Namespace(strict=True), argparse.Namespace(strict=False)
    assert _strict(strict, ["transfers", "drifts"]) == 1
    assert _strict(strict, ["transfers"]) == _strict(loose, ["drifts"]) == 0


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_failed_gate_is_exit_code_one_and_leaves_stdout_to_json(
    tiny_sweep, monkeypatch, capsys, command: str
) -> None:
    recorded_checks(monkeypatch, mup="fail", standard="pass")
    assert main([command, "tiny.yaml", "sweep.gate=true", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "coordinate check of µP failed" in err


def test_a_gate_that_cannot_tell_says_so_and_goes_on(tiny_sweep, monkeypatch, capsys) -> None:
    recorded_checks(monkeypatch, mup="inconclusive", standard="pass")
    assert main(["sweep", "tiny.yaml", "sweep.gate=true", "sweep.widths=[8,16]"]) == 0
    out, err = capsys.readouterr()
    assert "the coordinate check cannot tell whether µP holds (inconclusive)" in out + err


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("inconclusive", 0), ("fail", 1)])
def test_a_check_exits_with_1_only_where_it_failed(
    tiny_sweep, monkeypatch, capsys, verdict: str, code: int
) -> None:
    whole = coordinate_record.coordinate_record

    def record(asked: Any, runs: Any) -> dict[str, Any]:
        return {**whole(asked, runs), "verdict": verdict}

    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.coordinate_record", record)
    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.CHECK_SEEDS", (0, 1))
    assert main(["check", "sweep.widths=[24,48]"]) == code
    assert ("next: " in capsys.readouterr().out) is (verdict == "pass")


def test_a_failed_machine_is_exit_code_three(tiny_sweep, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise MachineError("The disk is full.")

    monkeypatch.setattr(driver, "sweep", fail)
    assert main(["sweep", "tiny.yaml"]) == 3
    assert capsys.readouterr().err == "hptransfer: The disk is full.\n"


def test_a_transfer_prints_its_headline_first_and_the_value_beside_its_log2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "mine"
    shutil.copytree(ROOT / "results" / "studies" / "quickstart", study)
    assert main(["transfer", str(study), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    answer, value = told["answers"]["log2_lr"], told["hps"]["log2_lr"]
    assert main(["transfer", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == answer["headline"].splitlines()
    assert lines[3] == f"moves: {answer['moves']}, matters: {answer['matters']} -> transfers"
    assert lines[4:6] == [f"  {reason}" for reason in answer["reasons"]]
    ends = f"{2 ** value['low']:.3g} to {2 ** value['high']:.3g}"
    (shown,) = [line for line in lines if f"learning rate {2 ** value['value']:.4g} (" in line]
    assert ends in shown and f"log2: {value['value']:.2f}" in shown
    (cost,) = [line for line in lines if line.startswith("expected cost ")]
    assert f" {told['expected_regret']['mean']:.2g} (" in cost and "% more compute" in cost
    comments = (study / "target.yaml").read_text()
    assert all(f"# {line}" in comments for line in answer["headline"].splitlines())


SCATTERED = ("sweep.design.method=sobol", "search.clip_norm={low: -3, high: 2}", "name=scattered")


def test_scattered_points_of_several_hps_are_fitted_as_a_surface(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tiny.yaml", *SCATTERED, "sweep.widths=[8,16]", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "96 of 96 trials" in out and "best     shared width 8: loss " in out
    assert "next: hptransfer fit results/scattered" in out
    assert main(["fit", "results/scattered", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    axes = ["log2_lr", "log2_clip_norm"]
    assert [arm["hp"] for arm in found["arms"]] == axes * 2
    assert [surface["hps"] for surface in found["surfaces"]] == [axes] * 2
    shares = found["surfaces"][0]["importance"]["ped_anova"]
    assert sorted(shares) == sorted(axes) and sum(shares.values()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("method", ["refine", "tpe", "sobol"])
def test_one_searched_rate_is_fitted_whatever_the_design(
    method: str, tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    design = (f"sweep.design.method={method}", "sweep.design.points=6", "sweep.widths=8,16")
    assert main(["sweep", "tiny.yaml", *design, "sweep.parametrizations=[mup]", "--quiet"]) == 0
    before = Path("results/tiny/ledger.jsonl").read_bytes()
    assert main(["sweep", "tiny.yaml", *design, "sweep.parametrizations=[mup]", "--quiet"]) == 0
    assert Path("results/tiny/ledger.jsonl").read_bytes() == before
    assert "0 of" not in capsys.readouterr().out
    assert main(["fit", "results/tiny"]) == 0
    assert "are missing" not in capsys.readouterr().out


def test_a_terminal_without_greek_letters_gets_question_marks(tmp_path: Path) -> None:
    study = ROOT / "results" / "studies" / "quickstart"
    shutil.copytree(study, tmp_path / "mine")
    ended = subprocess.run(
        [sys.executable, "-m", "hptransfer", "fit", "mine", "--results", str(tmp_path)],
        env={**os.environ, "PYTHONIOENCODING": "latin-1:strict"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"transfers" in ended.stdout


def test_a_flag_that_cannot_be_read_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "quickstart", "--workers", "few"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--workers" in line and "'few'" in line and "--help" in line
