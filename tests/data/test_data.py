"""Data sets in folders: what is written is what is read, and it is read on demand."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hptransfer.config import DataConfig, DigitsConfig, FeaturesConfig, ImageFolderConfig
from hptransfer.config.choices import Status
from hptransfer.config.compose.compose import Composed, compose_file
from hptransfer.data import (
    MemorySplit,
    batch_indices,
    check,
    digits,
    images,
    load_data,
    open_folder,
    verify_data,
)
from hptransfer.data.captions import encode_captions
from hptransfer.data.features import write_features
from hptransfer.data.source import split_rows
from hptransfer.errors import UserError
from hptransfer.training.packs.run import run_pack
from tests.support.data_folders import (
    CAPTIONED,
    K,
    L,
    N,
    features,
    needs_datasets,
    picture,
    write,
    write_fast_dit,
    write_hugging_face,
    write_images,
    write_pixart,
)

ALL = np.arange(N)


@pytest.fixture(autouse=True)
def no_seals_of_others(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep seals out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def overrides_in(message: str) -> list[str]:
    return message.split(" Set ")[1].removesuffix(".").split()


def pasted(folder: Path, choice: str, *words: str) -> Composed:
    """Compose with what the first refusal says is to be pasted."""
    words = (f"data={choice}", "data.held_out=5", f"runtime.data_folder={folder}", *words)
    first = compose_file(None, [*words])
    with pytest.raises(UserError, match=f"data={choice} must state the shapes") as caught:
        load_data(first.trial.data, str(folder))
    return compose_file(None, [*words, *overrides_in(str(caught.value))])


def stated(folder: Path, choice: str, *words: str) -> DataConfig:
    return pasted(folder, choice, *words).trial.data


def test_the_order_of_samples_is_the_one_that_recorded_rows_were_trained_in() -> None:
    steps = [batch_indices(6, 4, seed=0, step=step).tolist() for step in range(3)]
    assert steps == [[1, 4, 3, 2], [0, 5, 5, 3], [1, 4, 2, 0]]


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("safetensors", torch.float32),
        ("safetensors", torch.bfloat16),
        ("npy", torch.float32),
        ("npy", torch.float16),
    ],
)
def test_shards_give_back_what_was_written(tmp_path: Path, storage, dtype) -> None:
    arrays = features(dtype=dtype)
    write(tmp_path, arrays, storage)
    config = stated(tmp_path, "features", "data.scale=0.5")
    assert config.layout == dataclasses.replace(
        config.layout, channels=4, image_size=8, classes=3, caption_tokens=L
    )
    load_data(config, str(tmp_path))
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    order = np.random.default_rng(0).permutation(N)  # rows of both shards, in any order
    torch.testing.assert_close(
        whole.images_at(order), arrays["latents"][order].float() / 2, rtol=0, atol=0
    )
    assert torch.equal(whole.labels_at(order), arrays["labels"][order])
    tokens, mask, pooled = whole.captions_at(order)
    assert mask.dtype == torch.bool and torch.equal(mask, arrays["mask"][order])
    assert torch.equal(tokens[mask], arrays["tokens"][order][mask].float())
    assert not tokens[~mask].any()  # what a file says of padding is not read
    assert torch.equal(pooled, arrays["pooled"][order].float())


def test_labels_and_pooled_features_may_be_missing(tmp_path: Path) -> None:
    arrays = features()
    del arrays["labels"], arrays["pooled"]
    write(tmp_path, arrays)
    config = stated(tmp_path, "features")
    assert (config.layout.classes, config.layout.pooled_channels) == (1, 0)
    train = load_data(config, str(tmp_path)).train
    assert not train.labels_at(ALL[:15]).any()
    assert train.captions_at(ALL[:15])[2].shape == (15, 0)


def test_captions_of_a_folder_may_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, features())
    config = stated(tmp_path, "features")
    without = dataclasses.replace(config, caption_tokens=0, caption_channels=0, pooled_channels=0)
    assert len(load_data(without, str(tmp_path)).train) == N - 5


def test_fast_dit_folders_are_read(tmp_path: Path) -> None:
    arrays = write_fast_dit(tmp_path)
    config = stated(tmp_path, "features", "data.classes=3")
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    load_data(config, str(tmp_path))
    assert torch.equal(whole.images_at(ALL[::-1]), arrays["latents"].flip(0))
    assert torch.equal(whole.labels_at(ALL), arrays["labels"])


@pytest.mark.parametrize("extracted", [True, False])
def test_pixart_extractions_are_read(tmp_path: Path, extracted: bool) -> None:
    arrays = write_pixart(tmp_path, extracted=extracted)
    config = stated(tmp_path, "features", "data.sample_posterior=false")
    assert isinstance(config, FeaturesConfig) and config.scale == 0.18215  # theirs are not scaled
    load_data(config, str(tmp_path))
    whole = open_folder(config, str(tmp_path))
    torch.testing.assert_close(whole.images_at(ALL), 0.18215 * arrays["latents"])
    tokens, mask, pooled = whole.captions_at(ALL)
    assert torch.equal(mask, arrays["mask"]) and pooled.shape == (N, 0)
    assert torch.equal(tokens, arrays["tokens"] * arrays["mask"][..., None])
    assert not whole.labels_at(ALL).any()


def test_a_posterior_is_drawn_once_a_sample(tmp_path: Path) -> None:
    arrays = write_pixart(tmp_path)
    config = dataclasses.replace(stated(tmp_path, "features"), scale=1.0)
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    mean, std = arrays["moments"].chunk(2, 1)
    noise = (whole.images_at(ALL) - mean) / std
    assert torch.equal(whole.images_at(ALL)[7:9], whole.images_at(np.array([7, 8])))
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    assert (noise[1:] - noise[:-1]).abs().flatten(1).amax(1).min() > 1  # each sample's own


def test_shorter_captions_are_padded_where_the_config_leaves_room(tmp_path: Path) -> None:
    write_pixart(tmp_path, tokens=4)
    words = ("data.caption_tokens=6", "data.caption_channels=5")
    whole = open_folder(stated(tmp_path, "features", *words), str(tmp_path))  # pyright: ignore
    tokens, mask, _ = whole.captions_at(ALL)
    assert tokens.shape == (N, 6, K) and not mask[:, 4:].any() and not tokens[:, 4:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_image_folders_are_cropped_scaled_and_labelled(tmp_path: Path, channels: int) -> None:
    write_images(tmp_path)
    config = stated(tmp_path, "image_folder", f"data.channels={channels}", "data.image_size=8")
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    load_data(config, str(tmp_path))
    assert config.layout.classes == 2
    assert whole.labels_at(ALL).tolist() == [0] * 10 + [1] * 10  # `Axolotl` before `tree_frog`
    assert Path(whole.place(0)).parent.name == "Axolotl"
    images = whole.images_at(ALL)
    assert images.shape == (N, channels, 8, 8)
    assert (
        images.dtype == torch.float32 and -1 <= float(images.min()) < 0 < float(images.max()) <= 1
    )
    with Image.open(whole.place(0)) as image:
        expected = image.convert("L" if channels == 1 else "RGB")
    expected = expected.resize((10, 8), Image.Resampling.BICUBIC).crop((1, 0, 9, 8))
    expected = np.asarray(expected).reshape(8, 8, channels) / 127.5 - 1
    np.testing.assert_allclose(images[0].permute(1, 2, 0), expected, atol=1e-6)


def test_the_shorter_side_is_halved_while_it_can_be(tmp_path: Path) -> None:
    """As in arXiv 2105.05233's crop: 41x33 is 20x16 by boxes, then 10x8, and the middle stays."""
    (tmp_path / "a").mkdir()
    big = picture(0, (41, 33))
    big.save(tmp_path / "a/big.png")
    config = ImageFolderConfig(image_size=8, classes=1)
    found = open_folder(config, str(tmp_path)).images_at(np.array([0]))[0]
    halved = big.resize((20, 16), Image.Resampling.BOX).resize((10, 8), Image.Resampling.BOX)
    expected = np.asarray(halved.crop((1, 0, 9, 8))) / 127.5 - 1
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)


def test_captions_come_from_a_file_beside_a_list_or_the_class(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "tree_frog/000.txt").write_text("A frog, asleep.\n")
    (tmp_path / "tree_frog/captions.txt").write_text("002.webp\ttwo frogs\n000.png\tunread\n")
    config = stated(tmp_path, "image_folder", "data.image_size=8", *CAPTIONED)
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    load_data(config, str(tmp_path))
    asked = np.array([10, 11, 12, 0])
    sentences = ["A frog, asleep.", "two frogs", "a photo of a tree frog", "a photo of a Axolotl"]
    for found, expected in zip(
        whole.captions_at(asked), encode_captions(sentences, 9, 16), strict=True
    ):
        assert torch.equal(found, expected)


@needs_datasets
def test_hugging_face_folders_are_read(tmp_path: Path) -> None:
    write_hugging_face(tmp_path)
    config = stated(tmp_path, "huggingface", "data.image_size=8", *CAPTIONED)
    assert config.layout.classes == 3
    load_data(config, str(tmp_path))
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    assert whole.labels_at(ALL).tolist() == [i % 3 for i in range(N)]
    expected = picture(13).resize((10, 8), Image.Resampling.BICUBIC).crop((1, 0, 9, 8))
    expected = torch.from_numpy(np.asarray(expected) / 127.5 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(whole.images_at(np.array([13, 2]))[0], expected)
    tokens, _, _ = whole.captions_at(np.array([13]))
    assert torch.equal(tokens, encode_captions(["picture number 13"], 9, 16)[0])


def test_streamed_batches_are_those_of_the_same_content_in_memory(tmp_path: Path) -> None:
    arrays = features()
    write(tmp_path, arrays)
    train = load_data(stated(tmp_path, "features"), str(tmp_path)).train
    kept, _ = split_rows(N, 5)
    tokens = arrays["tokens"] * arrays["mask"][..., None]
    sentences = (tokens[kept], arrays["mask"][kept], arrays["pooled"][kept])
    memory = MemorySplit(
        arrays["latents"][kept], arrays["labels"][kept], torch.arange(len(kept)), sentences
    )
    for step in range(5):
        chosen = batch_indices(len(train), 8, seed=3, step=step)
        assert torch.equal(train.images_at(chosen), memory.images_at(chosen))
        assert torch.equal(train.labels_at(chosen), memory.labels_at(chosen))
        for ours, theirs in zip(train.captions_at(chosen), memory.captions_at(chosen), strict=True):
            assert torch.equal(ours, theirs)


@given(st.integers(2, 300), st.data())
def test_splits_are_disjoint_and_cover(samples: int, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(1, samples - 1))
    kept, held = split_rows(samples, held_out)
    assert len(held) == held_out
    assert sorted([*kept, *held]) == list(range(samples))
    assert np.array_equal(kept, split_rows(samples, held_out)[0])


def own_memory() -> int:
    """Return this process's own resident memory in bytes; mapped files are the kernel's to drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("storage", ["npy", "safetensors"])
def test_a_large_shard_is_not_read_whole(tmp_path: Path, storage: str) -> None:
    latents = torch.zeros(4096, 4, 32, 32)  # 64 MB
    write_features(tmp_path, [{"latents": latents}], storage=storage)
    del latents
    config = FeaturesConfig(image_size=32, classes=1, held_out=5)
    before = own_memory()
    whole = open_folder(config, str(tmp_path))
    for step in range(10):
        assert whole.images_at(batch_indices(4096, 4, seed=0, step=step)).shape == (4, 4, 32, 32)
    assert own_memory() - before < 16 * 2**20


def test_decoded_images_are_kept_up_to_a_limit(tmp_path: Path, monkeypatch) -> None:
    write_images(tmp_path)
    config = stated(tmp_path, "image_folder", "data.image_size=8", "data.channels=3")
    reads = []
    monkeypatch.setattr(images, "CACHE_BYTES", 4 * 3 * 8 * 8)
    whole = open_folder(config, str(tmp_path))  # pyright: ignore[reportArgumentType]
    read = whole.content  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(whole, "content", lambda index: [reads.append(index), read(index)][1])
    first = whole.images_at(ALL)
    assert torch.equal(whole.images_at(ALL), first)
    assert len(reads) == 2 * N - 4


def test_a_sealed_folder_is_scanned_again_only_where_it_changed(
    tmp_path: Path, monkeypatch
) -> None:
    write(tmp_path, features())
    config = stated(tmp_path, "features")
    load_data(config, str(tmp_path))
    load_data.cache_clear()  # as another process would find it
    scans, scan = [], check.scan_source
    monkeypatch.setattr(check, "scan_source", lambda *given: [scans.append(1), scan(*given)][1])
    load_data(config, str(tmp_path))
    assert scans == []
    verify_data(config, str(tmp_path))
    assert len(scans) == 1
    load_data.cache_clear()
    changed = features()
    changed["latents"][19] += 1  # the same names and sizes
    write(tmp_path, changed)
    with pytest.raises(UserError, match=r"sha256 is \w{16} and not \w{16}\. Set data"):
        load_data(config, str(tmp_path))
    assert len(scans) == 2


def test_a_folder_that_cannot_be_written_is_sealed_in_the_cache(
    tmp_path: Path, monkeypatch
) -> None:
    write(tmp_path / "data", features())
    (tmp_path / "data/.hptransfer").write_text("in the way")  # root ignores permissions
    config = stated(tmp_path / "data", "features")
    load_data(config, str(tmp_path / "data"))
    load_data.cache_clear()
    monkeypatch.setattr(check, "scan_source", lambda *_: pytest.fail("scanned twice"))
    load_data(config, str(tmp_path / "data"))


def test_the_hash_is_of_names_and_bytes_whatever_the_place(tmp_path: Path) -> None:
    write(tmp_path / "a", features())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = stated(tmp_path / "a", "features")
    assert len(load_data(config, str(tmp_path / "b")).validation) == 5


SMALL = (
    *("model.width=16", "model.base_width=8", "model.head_dim=8", "model.depth=1"),
    *("budget.steps=20", "budget.batch_size=6", "budget.eval_samples=5", "budget.eval_draws=2"),
    *("optimizer.lr=0.01", "data.caption_tokens=1", "data.caption_channels=1"),
)


@pytest.mark.parametrize("family", ["dit", "pixart", "mmdit"])
def test_trials_train_on_features(tmp_path: Path, family: str) -> None:
    write(tmp_path, features())
    composed = pasted(tmp_path, "features", f"model={family}", *SMALL)
    (result,) = run_pack([composed.trial], composed.runtime)
    assert result.status is Status.completed and result.loss is not None
    assert 0 < result.loss < 3
    (again,) = run_pack([composed.trial], composed.runtime)
    assert again.loss == result.loss


def test_the_encoder_tells_sentences_words_and_order_apart() -> None:
    tokens, mask, pooled = encode_captions(
        ["a red cat", "A red cat!", "red a cat", "a red dog", "cat"]
    )
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(pooled[0], pooled[1])
    assert not torch.allclose(tokens[0], tokens[2]) and torch.allclose(pooled[0], pooled[2])
    assert torch.equal(tokens[0, :2], tokens[3, :2]) and not torch.equal(tokens[0, 2], tokens[3, 2])
    assert mask.sum(1).tolist() == [3, 3, 3, 3, 1]
    assert not tokens[~mask].any() and tokens[mask].all(1).any()


def test_the_encoder_gives_unit_variance() -> None:
    words = [f"word{i}" for i in range(480)]
    sentences = [" ".join(words[i : i + 6]) for i in range(0, 480, 6)]
    tokens, _, pooled = encode_captions(sentences)
    assert float(tokens.var()) == pytest.approx(1, abs=0.02)
    assert float(pooled.var()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("caption", ["", " ... ", "one two three four"])
def test_captions_of_no_or_too_many_words_are_refused(caption: str) -> None:
    with pytest.raises(UserError, match=r"must have 1 to 3 words, but .* has (0|4)\. Shorten it"):
        encode_captions([caption], tokens=3)


def test_every_digit_has_a_sentence_about_its_class() -> None:
    about = [
        encode_captions([template.format(noun) for template in digits.TEMPLATES])[0]
        for noun in digits.NOUNS
    ]
    for split in load_data(DigitsConfig(), None):
        indices = np.arange(len(split))
        tokens, mask, pooled = split.captions_at(indices)
        assert tokens.shape[1:] == (6, 64) and mask.any(1).all() and pooled.shape[1:] == (64,)
        for label, sentence in zip(split.labels_at(indices).tolist(), tokens, strict=True):
            assert (about[label] == sentence).all((1, 2)).any()
