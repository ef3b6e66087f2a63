"""`hptransfer data`: what it says of a folder, and that its overrides are all a sweep needs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file
from hptransfer.data import check, load_data
from hptransfer.data.reading import Progress, progress_to
from hptransfer.sweeping.run.job import open_job
from tests.support.data_folders import write_images
from tests.support.layout_folders import (
    N,
    arrays,
    npy_bytes,
    write_edm2,
    write_lightning_dit,
    write_parquet,
    write_webdataset,
)

TINY = """\
question: Does it start?
model: {base_width: 8, depth: 1, head_dim: 4}
budget: {steps: 4, batch_size: 4, eval_samples: 2, eval_draws: 1}
sweep: {widths: [8, 16], gate: false}
search:
  lr: {low: -8, high: -7, step: 1}
runtime: {pack_size: 2}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, and keep seals out of the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["data", *words]) == 0
    return capsys.readouterr().out


def test_a_folder_is_described_and_its_overrides_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_edm2(tmp_path / "latents")
    text = said(capsys, "latents", "data.sample_posterior=false")
    assert "layout    EDM2 or REPA, 21 files" in text
    assert f"samples   {N}\n" in text and "shape     4 channels, 8 x 8" in text
    assert "classes   3\ncaptions  none\nstored    mean " in text
    pasted = shlex.split(text.rstrip().rsplit("\n", 1)[1])
    assert f"runtime.data_folder={tmp_path}/latents" in pasted
    assert {"data.held_out=2", "data.classes=3", "data.sample_posterior=false"} <= set(pasted)
    monkeypatch.setattr(check, "scan_source", lambda *_: pytest.fail("read twice"))
    config = compose_file(None, pasted)
    assert len(load_data(config.trial.data, config.runtime.data_folder).train) == N - 2


def test_only_the_seal_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "rows")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    text = said(capsys, "rows")
    after = {path for path in (tmp_path / "rows").rglob("*") if path not in before}
    seal = next(line.split()[1] for line in text.splitlines() if line.startswith("sealed"))
    assert (tmp_path / seal).parent == tmp_path / "rows/.hptransfer" and tmp_path / seal in after
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert {path.parent for path in after if path.is_file()} == {tmp_path / "rows/.hptransfer"}


def test_a_forgotten_factor_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows").mkdir()
    columns = {"latent": [npy_bytes(each * 5.5) for each in arrays()["latents"]]}
    pq.write_table(pa.table(columns), tmp_path / "rows/0.parquet")
    text = said(capsys, "rows")
    assert "standard deviation 5.5" in text and "data.scale=0.18215" in text
    assert "factors   those of Stable Diffusion's VAE, which fit best" in text
    assert "classes   1, without labels" in text


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lightning_dit(tmp_path / "latents")
    tree = json.loads(said(capsys, "latents", "--json"))
    assert (tree["layout"], tree["samples"], tree["mirrored"]) == ("LightningDiT", N, True)
    assert tree["factors"] == "measured by channel" and len(tree["stored"]["mean"]) == 4
    assert np.allclose(tree["seen"]["mean"], 0, atol=1e-3)
    assert any(word.startswith("data.scale=[") for word in tree["overrides"])


def test_images_and_captions_of_text_are_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "pictures")
    text = said(capsys, "pictures", "data.image_size=8")
    assert "layout    one folder of images a class, 20 files" in text
    assert "data=image_folder" in text and "data.image_size=8 data.classes=2" in text
    write_webdataset(tmp_path / "tars", "txt")
    assert "add data.caption_tokens=32 data.caption_channels=64" in said(capsys, "tars")


def test_what_cannot_be_described_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        (["nowhere"], "There is no folder nowhere."),
        (["empty"], "but empty holds nothing."),
        (["empty", "model.width=8"], "takes overrides of data. alone, but got 'model.width'"),
    ):
        assert main(["data", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_a_sweep_says_first_what_the_model_sees_and_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_edm2(tmp_path / "latents")
    words = shlex.split(said(capsys, "latents").rstrip().rsplit("\n", 1)[1])
    words = [word for word in words if not word.startswith(("data.shift", "data.scale"))]
    (tmp_path / "tiny.yaml").write_text(TINY)
    with open_job(compose_file(Path("tiny.yaml"), words), Path("results"), quiet=False):
        err = capsys.readouterr().err
    assert "data: 20 samples, as the model sees them mean " in err and "warning" not in err
    scaled = compose_file(Path("tiny.yaml"), ["name=other", *words, "data.scale=8"])
    with open_job(scaled, Path("results"), quiet=True):
        err = capsys.readouterr().err
    assert err.startswith("warning: the latents should have mean 0 and standard deviation 1")
    assert "Set data.shift=0 data.scale=1" in err


def test_long_reading_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hptransfer.data.reading.TOLD_EVERY_S", 0.0)
    told: list[str] = []
    with progress_to(told.append):
        Progress("reading the samples of /data", 4).at(1)
    Progress("reading the samples of /data", 4).at(2)  # nobody listens
    assert len(told) == 1
    assert told[0].startswith("reading the samples of /data: 1 of 4 (25%), about")
