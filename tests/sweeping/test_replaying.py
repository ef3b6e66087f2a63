"""A recorded trial trained again: what it gives, what it leaves, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config import (
    BudgetConfig,
    CustomConfig,
    DDPMConfig,
    FashionMNISTConfig,
    MMDiTConfig,
    ParametrizationConfig,
    PixArtConfig,
    RectifiedFlowConfig,
    TrialConfig,
    UViTConfig,
    VPConfig,
)
from hptransfer.config.choices import (
    Conditioning,
    Init,
    Precision,
    Scaling,
    Schedule,
    TimestepSampling,
    Weights,
)
from hptransfer.config.hyperparameters import hps, with_hyperparameters
from hptransfer.errors import UserError
from hptransfer.results.ledger_rows import encode_row, ledger_row, read_ledger_rows
from hptransfer.sweeping.run.replay import comparison, trial_of
from tests.support.foreign_tables import records, write_csv
from tests.support.tiny import TINY, completed

Printed = pytest.CaptureFixture[str]
FOLDER = Path("results/small")
# One rate so high that the trial diverges, and a pack of all points of a seed.
SWEEP = """\
name: small
model: {width: 16, base_width: 16, depth: 2}
budget: {steps: 12, batch_size: 16, eval_samples: 16, eval_draws: 2}
executor: {name: local}
runtime: {pack_size: 4}
sweep:
  widths: [16, 32]
  parametrizations: [mup, standard]
  gate: false
  target: {model: {width: 64}}
search:
  lr: {low: -7.3, high: 64.7, step: 72}
"""
MODELS = {
    "dit": "model=dit",
    "pixart": "model=pixart",
    "mmdit": "model=mmdit",
    "uvit": "model.final_conv=false",
    "uvit_conv": "model=uvit",
}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what runs the small sweep of a model once, and names the folder above its results."""
    home = tmp_path_factory.mktemp("sweeps")
    (home / "small.yaml").write_text(SWEEP)

    def of(model: str) -> Path:
        root = home / model
        family = "model=uvit" if model.startswith("uvit") else MODELS[model]
        words = dict.fromkeys((family, MODELS[model], "name=small", "--quiet"))
        if not root.exists():
            assert main(["sweep", str(home / "small.yaml"), *words, f"--results={root}"]) == 0
        return root

    return of


@pytest.fixture
def small(
    sweeps: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[dict[str, Any]]]:
    """Return what copies a swept model's folder to results/small, and returns its rows."""
    monkeypatch.chdir(tmp_path)

    def of(model: str = "dit") -> list[dict[str, Any]]:
        shutil.copytree(sweeps(model), "results")
        return list(read_ledger_rows(FOLDER))

    return of


def replayed(capsys: Printed, key: str, *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["train", str(FOLDER), "--trial", key, "--json", *words]) == code
    return json.loads(capsys.readouterr().out)


def rewrite(rows: list[dict[str, Any]], folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(map(encode_row, rows)))


NIGHTLY = ("pixart", "uvit_conv")


@pytest.mark.parametrize(
    "model", [pytest.param(n, marks=[pytest.mark.slow] * (n in NIGHTLY)) for n in MODELS]
)
def test_every_row_of_a_sweep_comes_out_again_to_the_bit(
    small: Callable[..., list[dict]], capsys: Printed, model: str
) -> None:
    rows = small(model)
    assert {r["status"] for r in rows} == {"completed", "diverged"}
    assert {r["parametrization"] for r in rows} == {"shared", "mup", "standard"}
    for recorded in rows:
        answer = replayed(capsys, recorded["trial_key"])
        assert answer["equal"], answer
        assert answer["now"]["loss"] == recorded["loss"]
        assert answer["now"]["diverged_at_step"] == recorded["diverged_at_step"]
        assert (answer["weights"] is None) == (recorded["status"] == "diverged")


def test_only_weights_and_their_config_are_added_and_samples_can_be_drawn_of_them(
    small: Callable[..., list[dict]], capsys: Printed
) -> None:
    recorded = small()[0]
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert main(["train", FOLDER.name, "--trial", recorded["trial_key"]]) == 0
    said = capsys.readouterr().out
    assert "equal to the bit" in said
    assert repr(recorded["loss"]) in said
    after = {path for path in FOLDER.rglob("*") if path.is_file()}
    kept = FOLDER / "trials" / f"{recorded['trial_key']}.safetensors"
    assert after - before.keys() == {kept, kept.with_suffix(".yaml")}
    assert all(path.read_bytes() == content for path, content in before.items())
    (command,) = (line for line in said.splitlines() if line.startswith("next: hptransfer sample"))
    assert main([*command.split()[2:], "--steps=2", "--columns=1"]) == 0
    picture = Path(capsys.readouterr().out.split()[-1])
    assert recorded["trial_key"] in picture.name
    assert picture.is_file()


def test_its_config_may_be_printed_and_nothing_is_trained(
    small: Callable[..., list[dict]], capsys: Printed
) -> None:
    recorded = small()[0]
    asked = ["train", str(FOLDER), "--trial", recorded["trial_key"]]
    capsys.readouterr()
    assert main([*asked, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert not (FOLDER / "trials").exists()
    assert main(asked) == 0
    kept = (FOLDER / "trials" / f"{recorded['trial_key']}.yaml").read_text()
    assert printed in kept and "run again" not in printed


def test_a_key_may_be_cut_short_as_long_as_it_names_one_row(
    small: Callable[..., list[dict]], capsys: Printed
) -> None:
    rows = small()
    key = rows[0]["trial_key"]
    assert replayed(capsys, key[:7])["trial_key"] == key
    assert main(["train", str(FOLDER), "--trial", ""]) == 2
    assert f"{len(rows)} keys begin with ''" in capsys.readouterr().err
    assert main(["train", str(FOLDER), "--trial", "nothing"]) == 2
    assert "no key begins with 'nothing'" in capsys.readouterr().err


def test_the_targets_own_rows_are_found(small: Callable[..., list[dict]], capsys: Printed) -> None:
    rows = small()
    key = rows[0]["trial_key"]
    rewrite([rows[0]], FOLDER / "target")
    rewrite(rows[1:])
    assert replayed(capsys, key)["equal"]
    assert replayed(capsys, rows[1]["trial_key"])["equal"]


@pytest.mark.parametrize(
    ("change", "equal", "code"),
    [
        (lambda r: {**r, "loss": r["loss"] * 1.0005}, False, 0),
        (lambda r: {**r, "loss": r["loss"] * 1.002}, False, 1),
        (lambda r: {**r, "loss": None, "status": "diverged", "diverged_at_step": 3}, False, 1),
    ],
)
def test_another_loss_or_status_is_said_and_beyond_the_tolerance_exits_1(
    small: Callable[..., list[dict]],
    capsys: Printed,
    change: Callable[[dict], dict],
    equal: bool,
    code: int,
) -> None:
    rows = small()
    rewrite([change(rows[0]), *rows[1:]])
    answer = replayed(capsys, rows[0]["trial_key"], code=code)
    assert (answer["equal"], answer["agrees"]) == (equal, code == 0)
    assert answer["recorded"]["status"] == change(rows[0])["status"]
    assert answer["now"]["loss"] == rows[0]["loss"]
    if answer["difference"] is not None:
        assert answer["difference"] == rows[0]["loss"] - change(rows[0])["loss"]


def test_only_what_cannot_change_the_trial_is_overridden(
    small: Callable[..., list[dict]], capsys: Printed
) -> None:
    key = small()[0]["trial_key"]
    assert replayed(capsys, key, "runtime.threads=1", "runtime=cpu")["equal"]
    for word in ("optimizer.lr=0.1", "seed=3", "executor=local", "runtimes.device=cuda"):
        assert main(["train", str(FOLDER), "--trial", key, word]) == 2
        assert f"only runtime.* may be changed, but got {word!r}" in capsys.readouterr().err


def test_rows_of_another_program_and_folders_without_a_sweep_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("theirs.csv"), records())
    assert main(["import", "theirs.csv", "theirs"]) == 0
    key = read_ledger_rows(Path("results/theirs"))[0]["trial_key"]
    assert main(["train", "results/theirs", "--trial", key]) == 2
    assert "was trained by another program" in capsys.readouterr().err
    assert main(["train", "theirs.csv", "--trial", key]) == 2
    assert "must hold a sweep.yaml, but theirs.csv does not" in capsys.readouterr().err


TRIALS = [
    TrialConfig(),
    TINY,
    TrialConfig(
        model=UViTConfig(width=48, condition=Conditioning.caption, final_conv=False),
        parametrization=ParametrizationConfig(scaling=Scaling.standard_embed, init_scale=0.3),
        objective=VPConfig(),
        data=FashionMNISTConfig(),
        init=Init.paper,
        precision=Precision.bf16,
        seed=2,
    ),
    TrialConfig(
        model=PixArtConfig(learn_sigma=True),
        objective=DDPMConfig(deciding_vlb_weight=0.001),
        budget=BudgetConfig(schedule=Schedule.constant, weights=Weights.ema, stop_after=0.25),
    ),
    TrialConfig(
        model=MMDiTConfig(width=48, base_depth=1, qk_norm=True),
        objective=RectifiedFlowConfig(timesteps=TimestepSampling.logit_normal, logit_std=0.5),
    ),
    TrialConfig(model=CustomConfig(width=64, factory="my.net:build", roles=("a.*=input",))),
]


def recorded_of(config: TrialConfig, *axes: str) -> dict[str, Any]:
    """Return the row of an invented result as a ledger gives it back."""
    made = ledger_row(completed(config), hps(config, axes), {"hptransfer": "0.1.0"})
    return json.loads(encode_row(made))


@pytest.mark.parametrize("config", TRIALS, ids=lambda config: config.model.family)
def test_a_row_gives_its_trial_back(config: TrialConfig) -> None:
    assert trial_of(recorded_of(config)) == config


def test_swept_values_come_back_with_all_their_digits() -> None:
    config = with_hyperparameters(TINY, {"log2_lr": -5.584357, "log2_init_scale": 0.12345})
    recorded = recorded_of(config, "log2_lr", "log2_init_scale")
    assert recorded["config"]["optimizer"]["lr"] != config.optimizer.lr
    assert trial_of(recorded) == config
    assert trial_of({**recorded, "hps": {}}).optimizer.lr == recorded["config"]["optimizer"]["lr"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"family": "newer"}},
        {"model": {"family": "dit", "windows": 3}},
        {"model": {"family": "dit", "width": 48}},
        {"model": {"family": "dit", "width": "48"}},
    ],
)
def test_what_this_version_reads_as_another_trial_is_refused(change: dict[str, Any]) -> None:
    recorded = recorded_of(TINY)
    with pytest.raises(
        UserError, match=r"cannot be trained again by this version of hptransfer.*: 0\.1\.0\."
    ):
        trial_of({**recorded, "config": {**recorded["config"], **change}})


def test_early_ends_are_equal_only_at_the_same_step() -> None:
    ended = {**recorded_of(TINY), "status": "diverged", "loss": None, "diverged_at_step": 7}
    assert comparison(ended, dict(ended), None)["equal"]
    later = comparison(ended, {**ended, "diverged_at_step": 8}, None)
    assert (later["equal"], later["agrees"], later["difference"]) == (False, True, None)
    lost = dataclasses.replace(completed(TINY), loss=0.5)
    assert not comparison(ended, ledger_row(lost, {}, {}), None)["agrees"]
