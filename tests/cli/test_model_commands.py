"""The commands about one model, as typed: check, train, sample; and what each leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from hptransfer.cli import model_commands
from hptransfer.cli.main import main
from hptransfer.config import CustomConfig, TrialConfig
from hptransfer.config.choices import Init
from hptransfer.config.compose.compose import compose_file
from hptransfer.results.curves import read_curve
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.sweeping.run import job
from hptransfer.training.sampling.samplers import SamplerConfig

TARGET = """\
name: target
model: {width: 16, base_width: 8, depth: 1, head_dim: 4}
budget: {steps: 12, batch_size: 8, eval_samples: 16, eval_draws: 2}
"""
SMALL = ("model.base_width=8", "model.depth=1", "model.head_dim=4", "sweep.widths=8,16")


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a config that trains in a second into an empty folder, and go there."""
    monkeypatch.chdir(tmp_path)
    Path("target.yaml").write_text(TARGET)
    return Path("target.yaml")


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_check_draws_its_picture_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fails = ("parametrization.broken=hidden_lr", "search.lr.low=-9", "search.lr.high=-4")
    assert main(["check", *SMALL, *fails, "--results", "elsewhere"]) == 1
    (path,) = re.findall(r"^picture  (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert path == "elsewhere/check/dit-mup-hidden_lr/coordinate_check.png"
    assert image.imread(path).std() > 0


MINE = CustomConfig(factory="my.net:build")


@pytest.mark.parametrize(
    ("base", "broken", "name"),
    [
        (TrialConfig(), "none", "dit-mup"),
        (TrialConfig(), "input_lr", "dit-mup-input_lr"),
        (TrialConfig(init=Init.paper), "none", "dit-mup-paper"),
        (TrialConfig(model=MINE), "none", "custom-my_net_build-mup"),
    ],
)
def test_checks_of_different_models_lie_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: TrialConfig, broken: str, name: str
) -> None:
    monkeypatch.setattr("hptransfer.reporting.figures.check_pictures", lambda _: {})
    monkeypatch.setattr("hptransfer.reporting.figures.write_pictures", lambda folder, _: [folder])
    found = {"family": base.model.family, "parametrization": "mup", "broken": broken}
    assert model_commands._drawn(tmp_path, found, base) == [str(tmp_path / name)]


def test_a_check_takes_its_widths_from_the_base_width(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = answer(capsys, "check", "model.base_width=16", "--print-config")
    assert tree["sweep"]["widths"] == [16, 32, 64]
    tree = answer(capsys, "check", "model=dit_s_2", "--print-config")
    assert tree["sweep"]["widths"] == [256, 512, 1024]
    assert answer(capsys, "check", *SMALL, "--print-config")["sweep"]["widths"] == [8, 16]


def test_train_keeps_weights_and_sample_draws_them(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = answer(capsys, "train", "target.yaml")
    assert not trained["recorded_before"] and Path(trained["weights"]).is_file()
    key = trained["trial_key"]
    (picture,) = answer(capsys, "sample", "target.yaml", "--steps=3", "--columns=2")["files"]
    folder = "results/target/target/samples"
    assert picture == f"{folder}/{key}-steps3-guidance2-seed0.png"
    page = image.imread(picture)
    assert page.shape[:2] == ((10 * 9 - 1) * 8, (2 * 9 - 1) * 8)
    assert len(np.unique(page)) > 50
    for word in ("--guidance=1", "--seed=1"):
        other = answer(capsys, "sample", "target.yaml", "--steps=3", "--columns=2", word)
        assert not np.array_equal(image.imread(other["files"][0]), page)
    assert np.array_equal(image.imread(picture), page)  # nothing drawn before is overwritten


def test_a_row_without_weights_is_trained_again_and_stays_as_it_was(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = answer(capsys, "train", "target.yaml")
    ledger = Path("results/target/target/ledger.jsonl")
    before = ledger.read_bytes()
    Path(first["weights"]).unlink()
    assert main(["sample", "target.yaml"]) == 2
    assert "Samples need trained weights, but there are none at" in capsys.readouterr().err
    again = answer(capsys, "train", "target.yaml")
    assert again["recorded_before"] and again["loss"] == first["loss"]
    assert Path(again["weights"]).is_file() and ledger.read_bytes() == before


def test_a_diverged_target_keeps_no_weights(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        trained = answer(capsys, "train", "target.yaml", "optimizer.lr=1e30")
        assert trained["status"] == "diverged" and trained["weights"] is None
    assert main(["train", "target.yaml", "optimizer.lr=1e30"]) == 0
    assert "next: hptransfer report" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sample", "target.yaml", "--columns=0"], "--columns must be positive, but got 0."),
        (["sample", "target.yaml", "--weights=w.pt"], "There are no weights at w.pt."),
        (["sample", "target.yaml", "--guidance=nan"], "Guidance must be finite and not negative"),
        (["sample", "target.yaml", "--steps=0"], "A sampler's steps must be positive, but got 0."),
        (["sample", "missing.yaml"], "There is no config file missing.yaml"),
        (["train", "target.yaml", "name=../x"], "letters, digits, dots, dashes"),
    ],
)
def test_what_cannot_be_sampled_is_one_sentence(
    target: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_each_command_hands_its_words_on(
    target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("train", "sample"):
        assert answer(capsys, command, "target.yaml", "--print-config")["model"]["width"] == 16
    assert main(["train", "target.yaml", "seed=1"]) == 0
    assert capsys.readouterr().out.endswith("next: hptransfer sample target.yaml seed=1\n")
    asked: dict = {}
    monkeypatch.setattr(
        "hptransfer.transfer.target_run.draw", lambda *_, **words: asked.update(words)
    )
    answer(capsys, "sample", "target.yaml", "--steps=7", "--guidance=3", "--columns=5")
    assert (asked["sampler"], asked["columns"]) == (SamplerConfig(steps=7, guidance=3.0), 5)
    assert main(["rules", "init=paper", "model.width=96"]) == 0
    assert capsys.readouterr().out.endswith("next: hptransfer check model=dit init=paper\n")


def test_what_diverged_is_not_trained_again(
    target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "target.yaml", "optimizer.lr=1e30")
    assert not answer(capsys, *words)["recorded_before"]
    monkeypatch.delattr("hptransfer.training.packs.run.train_pack")
    assert answer(capsys, *words)["recorded_before"]


def test_a_question_is_not_trained(tiny_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny.yaml"]) == 2
    assert "is a sweep" in capsys.readouterr().err


def test_a_row_stands_in_its_sweeps_folder_on_the_axes_of_the_sweep(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = compose_file(tiny_sweep, ["search.init_scale={low: -1, high: 1}"])
    with job.open_job(composed, Path("results"), quiet=True) as tiny:
        pass
    (tiny.folder.path / "target.yaml").write_text(TARGET)
    trained = answer(capsys, "train", "results/tiny/target.yaml")
    (row,) = read_ledger(tiny.folder.target / "ledger.jsonl").rows
    assert row["hps"] == {"log2_lr": -6.0, "log2_init_scale": 0.0}
    assert read_curve(tiny.folder.target, trained["trial_key"])[-1][0] == 12


@pytest.mark.parametrize(("channels", "suffix"), [(1, "png"), (3, "png"), (4, "npy")])
def test_samples_are_a_picture_where_they_are_images(
    target: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    suffix: str,
) -> None:
    drawn = np.zeros((2, 3, channels, 8, 8))
    monkeypatch.setattr("hptransfer.training.sampling.generate.generate", lambda *_, **__: drawn)
    data = ("data=features", f"data.channels={channels}", "data.image_size=8")
    (name,) = answer(capsys, "sample", "target.yaml", *data, "--weights=target.yaml")["files"]
    assert name.endswith(f".{suffix}") and Path(name).is_file()
    if suffix == "npy":
        assert np.array_equal(np.load(name), drawn)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dit", "uvit", "pixart", "mmdit"])
def test_a_target_trained_ten_times_longer_gives_samples(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    family: str,
) -> None:
    """Keeps the README's command alive; that they are digits is for eyes, and for the loss."""
    monkeypatch.chdir(tmp_path)
    Path("target.yaml").write_text("name: long\nmodel: {width: 192}\noptimizer: {lr: 0.0078}\n")
    words = ("target.yaml", f"model={family}", "budget.steps=1500")
    assert answer(capsys, "train", *words)["loss"] < 0.5
    (picture,) = answer(capsys, "sample", *words)["files"]
    assert image.imread(picture).std() > 0.2
