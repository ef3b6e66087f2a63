"""Layouts of latents that other programs write: what was written is what is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hptransfer.config import FeaturesConfig
from hptransfer.config.compose.compose import compose_file, resolved_yaml
from hptransfer.config.identity import trial_key
from hptransfer.data import latent_statistics, load_data, open_folder
from hptransfer.data.captions import encode_captions
from hptransfer.data.describe import describe_folder
from hptransfer.data.layouts import LAYOUTS, find_layout
from hptransfer.data.statistics import Statistics, Sums, factors_for
from hptransfer.errors import UserError
from tests.support.data_folders import features as own_features
from tests.support.data_folders import needs_datasets, write, write_fast_dit, write_pixart
from tests.support.layout_folders import (
    CLASSES,
    H,
    K,
    L,
    N,
    arrays,
    write_edm2,
    write_lightning_dit,
    write_mds,
    write_parquet,
    write_saved_dataset,
    write_tokens,
    write_webdataset,
)

ALL = np.arange(N)


@pytest.fixture(autouse=True)
def no_seals_of_others(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep seals out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def stated(folder: Path, *words: str, data: str = "features") -> FeaturesConfig:
    """The config that `hptransfer data` proposes for a folder, with some words added."""
    from hptransfer.cli.data_command import _stated

    found = describe_folder(folder, _stated(folder, [w for w in words if w.startswith("data.")]))
    config = compose_file(None, [*found.overrides, *words]).trial.data
    assert isinstance(config, FeaturesConfig)
    load_data(config, str(folder))
    return config


def opened(folder: Path, *words: str):
    return open_folder(stated(folder, "data.scale=1.0", *words), str(folder))


def same(found: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=0)


def test_lightning_dit_shards_are_read_with_their_mirrored_copies(tmp_path: Path) -> None:
    held = write_lightning_dit(tmp_path)
    source = opened(tmp_path, "data.shift=0")
    order = np.random.default_rng(1).permutation(N)
    same(source.images_at(order), held["latents"][order])
    same(source.labels_at(order), held["labels"][order])
    some = np.stack([held["mirrored"][13], held["latents"][2], held["mirrored"][0]])
    same(source.images_at(np.array([N + 13, 2, N])), some)
    same(source.labels_at(np.array([N + 13, 2])), held["labels"][[13, 2]])


def test_held_out_samples_are_never_trained_on_mirrored(tmp_path: Path) -> None:
    held = write_lightning_dit(tmp_path)
    config = stated(tmp_path, "data.held_out=5", "data.shift=0", "data.scale=1")
    data = load_data(config, str(tmp_path))
    assert (len(data.train), len(data.validation)) == (30, 5)
    seen = data.train.images_at(np.arange(30)).numpy()
    kept = data.validation.images_at(np.arange(5)).numpy()
    assert {row.tobytes() for row in kept} <= {row.tobytes() for row in held["latents"]}
    both = {row.tobytes() for row in seen} | {row[..., ::-1].tobytes() for row in seen}
    assert len(both) == 30 and not both & {row.tobytes() for row in kept}
    plain = dataclasses.replace(config, mirrored=False)
    assert len(open_folder(plain, str(tmp_path))) == N
    assert len(load_data(plain, str(tmp_path)).train) == 15


def test_lightning_dit_is_normalised_by_channel_without_its_pickle(tmp_path: Path) -> None:
    held = write_lightning_dit(tmp_path)
    both = np.concatenate([held["latents"], held["mirrored"]])
    config = stated(tmp_path)
    mean, std = both.mean((0, 2, 3)), both.std((0, 2, 3))
    assert config.shift == pytest.approx(mean, abs=1e-3)
    assert config.scale == pytest.approx(1 / std, rel=1e-3)
    found = open_folder(config, str(tmp_path)).images_at(ALL).numpy()
    np.testing.assert_allclose(
        found, (held["latents"] - mean[:, None, None]) / std[:, None, None], atol=2e-3
    )


@pytest.mark.parametrize("inside", ["vae-sd", ""])
def test_edm2_and_repa_folders_are_read(tmp_path: Path, inside: str) -> None:
    held = write_edm2(tmp_path, inside)
    source = opened(tmp_path, "data.sample_posterior=false")
    same(source.images_at(ALL[::-1].copy()), held["latents"][::-1].copy())
    same(source.labels_at(ALL), held["labels"])
    drawn = opened(tmp_path).images_at(ALL).numpy()
    noise = (drawn - held["latents"]) / held["std"]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    same(opened(tmp_path).images_at(ALL[3:5]), drawn[3:5])


def test_without_labels_there_is_one_class(tmp_path: Path) -> None:
    write_edm2(tmp_path, labelled=False)
    source = opened(tmp_path)
    assert source.layout.classes == 1 and not source.labels_at(ALL).any()


FORMS = ("ndarray", "ndarray:float32", "ndarray:float32:4,8,8", "bytes", "npy")


@pytest.mark.parametrize("form", FORMS)
def test_mds_shards_are_read(tmp_path: Path, form: str) -> None:
    write_mds(tmp_path, form)
    words = ("data.image_size=8",) if form == "bytes" else ()
    source, held = opened(tmp_path, *words), arrays()
    order = np.random.default_rng(1).permutation(N)
    same(source.images_at(order), held["latents"][order])
    same(source.labels_at(order), held["labels"][order])
    check_captions(source, held)


def check_captions(source: Any, held: dict[str, np.ndarray]) -> None:
    tokens, mask, pooled = source.captions_at(ALL)
    same(mask, held["mask"])
    same(tokens, held["tokens"] * held["mask"][..., None])
    assert pooled.shape == (N, 0)


def test_webdataset_tars_are_read(tmp_path: Path) -> None:
    held = write_webdataset(tmp_path)
    source = opened(tmp_path)
    same(source.images_at(ALL), held["latents"].astype(np.float16).astype(np.float32))
    same(source.labels_at(ALL), held["labels"])
    check_captions(source, held)
    assert "shard-000001.tar, sample 1 (a/long" in source.place(13)


def test_captions_of_any_length_are_padded(tmp_path: Path) -> None:
    held = write_webdataset(tmp_path, "npy")
    source = opened(tmp_path, f"data.caption_tokens={L}", f"data.caption_channels={K}")
    tokens, mask, _ = source.captions_at(ALL)
    same(mask, np.arange(L) < (1 + ALL % L)[:, None])
    same(tokens, held["tokens"] * mask.numpy()[..., None])
    same(source.labels_at(ALL), held["labels"])


def test_captions_as_text_are_encoded_in_the_config_s_shapes(tmp_path: Path) -> None:
    write_webdataset(tmp_path, "txt")
    words = ("data.caption_tokens=4", "data.caption_channels=16")
    source = opened(tmp_path, *words)
    assert source.layout.classes == 1
    for found, expected in zip(
        source.captions_at(ALL[3:5]),
        encode_captions(["picture number 3", "picture number 4"], 4, 16),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("form", ["list", "fixed", "npy", "shaped", "raw"])
def test_parquet_files_are_read(tmp_path: Path, form: str) -> None:
    held = write_parquet(tmp_path, form)
    source = opened(tmp_path, *(("data.image_size=8",) if form == "raw" else ()))
    halves = form in ("shaped", "raw")
    latents = held["latents"].astype(np.float16).astype(np.float32) if halves else held["latents"]
    order = np.random.default_rng(1).permutation(N)
    same(source.images_at(order), latents[order])
    same(source.labels_at(order), held["labels"][order])
    assert source.place(13) == f"{tmp_path}/1.parquet, row 1,"
    if halves:
        tokens, mask, _ = source.captions_at(order)
        same(tokens, held["tokens"][order])
        assert mask.all()


def encoded() -> list[np.ndarray]:
    """Features of a frozen encoder: maps of 2x2 cells of 6 channels."""
    random = np.random.default_rng(2)
    return [random.normal(size=(4, 6)).astype(np.float16) for _ in range(N)]


WITH_FEATURES: dict[str, Callable[[Path, Any], Any]] = {
    "MDS": lambda folder, held: write_mds(folder, encoded=held),
    "WebDataset": lambda folder, held: write_webdataset(folder, encoded=held),
    "Parquet": lambda folder, held: write_parquet(folder, encoded=held),
    "datasets": lambda folder, held: write_saved_dataset(folder, encoded=held),
}


@needs_datasets
@pytest.mark.parametrize("name", WITH_FEATURES)
def test_features_of_an_encoder_are_a_column(tmp_path: Path, name: str) -> None:
    held = encoded()
    WITH_FEATURES[name](tmp_path, held)
    assert "data.feature_channels=6" in describe_folder(tmp_path).overrides
    source = opened(tmp_path)
    assert source.layout.feature_channels == 6
    order = np.random.default_rng(1).permutation(N)
    same(source.features_at(order), np.stack(held)[order].astype(np.float32))
    # Without REPA the same folder is read as if it had none.
    words = [w for w in describe_folder(tmp_path).overrides if "feature_channels" not in w]
    load_data(compose_file(None, words).trial.data, str(tmp_path))


def test_one_vector_of_an_image_is_a_map_of_one_cell(tmp_path: Path) -> None:
    held = [each[0] for each in encoded()]
    write_webdataset(tmp_path, encoded=held)
    same(opened(tmp_path).features_at(ALL), np.stack(held)[:, None].astype(np.float32))


def test_a_column_of_that_name_may_hold_anything_unless_it_is_asked_for(tmp_path: Path) -> None:
    write_webdataset(tmp_path, encoded=[np.zeros((5, 6), np.float32)] * N)
    found = describe_folder(tmp_path).overrides
    assert not any("feature_c" in word for word in found)
    with pytest.raises(UserError, match=r"square map of N cells in features, but they have shape"):
        describe_folder(tmp_path, FeaturesConfig(feature_channels=6))
    with pytest.raises(UserError, match="must have the column dino that data"):
        describe_folder(tmp_path, FeaturesConfig(feature_column="dino"))


def test_row_groups_leave_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = write_parquet(tmp_path)
    source: Any = opened(tmp_path)
    monkeypatch.setattr("hptransfer.data.layouts.parquet.CACHE_BYTES", 6000 * 4)
    for index in range(N):
        same(source.images_at(np.array([index])), held["latents"][index : index + 1])
        assert source._bytes <= 6000 * 4


@needs_datasets
@pytest.mark.parametrize("form", ["Array3D", "nested"])
def test_saved_datasets_of_latents_are_read(tmp_path: Path, form: str) -> None:
    held = write_saved_dataset(tmp_path, form)
    source = opened(tmp_path)
    order = np.random.default_rng(1).permutation(N)
    assert source.layout.classes == CLASSES
    same(source.images_at(order), held["latents"][order])
    same(source.labels_at(order), held["labels"][order])


@pytest.mark.parametrize("statistics", ["npz", "safetensors", ""])
@pytest.mark.parametrize("small", [True, False])
def test_tokens_become_latents(tmp_path: Path, small: bool, statistics: str) -> None:
    held = write_tokens(tmp_path, small, statistics)
    source = opened(tmp_path, "data.shift=0")
    expected = held["latents"]
    if statistics:
        std = np.sqrt(held["var"] + np.float32(1e-5))
        expected = (expected - held["mean"][:, None, None]) / std[:, None, None]
    torch.testing.assert_close(source.images_at(ALL), torch.from_numpy(expected))
    same(source.labels_at(ALL), held["labels"])


WRITERS: dict[str, Callable[[Path], Any]] = {
    "hptransfer": lambda folder: write(folder, own_features()),
    "fast-DiT": write_fast_dit,
    "PixArt-α": write_pixart,
    "LightningDiT": write_lightning_dit,
    "EDM2 or REPA": write_edm2,
    "MosaicML MDS": write_mds,
    "WebDataset": write_webdataset,
    "Parquet": write_parquet,
    "tokens (RAE)": lambda folder: write_tokens(folder, small=False),
    "Hugging Face dataset": write_saved_dataset,
}


@needs_datasets
@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_is_told_from_the_others(tmp_path: Path, name: str) -> None:
    assert set(WRITERS) == {layout.name for layout in LAYOUTS}
    WRITERS[name](tmp_path)
    found = find_layout(tmp_path)
    assert found is not None and found.name == name


def test_shift_and_scale_may_be_of_each_channel(tmp_path: Path) -> None:
    held = write_lightning_dit(tmp_path)
    config = stated(tmp_path, "data.shift=0.0609", "data.scale=1.5305", "data.mirrored=false")
    found = open_folder(config, str(tmp_path)).images_at(ALL)
    same(found, (held["latents"] - np.float32(0.0609)) * np.float32(1.5305))
    config = stated(tmp_path, "data.shift=1,2,3,4", "data.scale=[2,1,1,0.5]")
    assert config.shift == (1.0, 2.0, 3.0, 4.0)
    shift = np.array([1, 2, 3, 4], np.float32)[:, None, None]
    scale = np.array([2, 1, 1, 0.5], np.float32)[:, None, None]
    same(open_folder(config, str(tmp_path)).images_at(ALL), (held["latents"] - shift) * scale)


def test_factors_of_channels_are_written_and_read_again(tmp_path: Path) -> None:
    words = ("data=features", "data.shift=[1,2,3,4.5]", "data.scale=0.5", "name=mine")
    composed = compose_file(None, [*words])
    (tmp_path / "run.yaml").write_text(resolved_yaml(composed, name="mine"))
    again = compose_file(tmp_path / "run.yaml", []).trial
    assert again == composed.trial and trial_key(again) == trial_key(composed.trial)
    assert again.data.shift == (1.0, 2.0, 3.0, 4.5)  # pyright: ignore[reportAttributeAccessIssue]


def test_statistics_are_those_of_all_values() -> None:
    spread = torch.tensor([1.0, 5, 9])[:, None, None]
    values, sums = torch.randn(100, 3, 4, 4) * spread + 100, Sums()
    for part in values.split(7):
        sums.add(part)
    found = sums.statistics(100)
    assert found.mean == pytest.approx(values.double().mean((0, 2, 3)).tolist(), rel=1e-9)
    of_channels = values.double().transpose(0, 1).flatten(1).std(1, unbiased=False)
    assert found.std == pytest.approx(of_channels.tolist(), rel=1e-9)
    assert found.whole_std == pytest.approx(float(values.double().std(unbiased=False)), rel=1e-9)
    seen = found.seen((1.0, 2.0, 3.0), 0.5)
    assert seen.mean == pytest.approx(((np.array(found.mean) - [1, 2, 3]) / 2).tolist())


@pytest.mark.parametrize(
    ("channels", "mean", "std", "where"),
    [
        (4, 0.2, 5.5, "Stable Diffusion's"),
        (4, 0.0, 7.7, "SDXL's"),
        (16, 0.06, 0.653, "SD3's"),
        (16, 0.116, 2.77, "Flux's"),
        (32, 0.1, 3.0, "measured"),
        (4, 0.0, 1.0, None),
    ],
)
def test_the_factor_that_fits_is_proposed(channels, mean, std, where) -> None:
    stored = Statistics(10, (mean,) * channels, (std,) * channels)
    found = factors_for(stored, by_channel=False)
    assert (found is None) if where is None else (found is not None and where in found[0])
    if found is not None:
        assert stored.seen(*found[1:]).is_near_unit


def test_what_a_model_sees_is_known_after_the_first_reading(tmp_path: Path) -> None:
    held = write_parquet(tmp_path)
    config = stated(tmp_path)
    load_data.cache_clear()  # as another process: the seal holds the statistics
    found = latent_statistics(config, str(tmp_path))
    assert found is not None and found.samples == N and H == 8
    assert found.whole_std == pytest.approx(float(held["latents"].std()), rel=1e-5)
