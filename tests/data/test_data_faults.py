"""Data sets in folders that are broken: each is named in one sentence before a run starts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hptransfer.config import DataConfig, FeaturesConfig, FolderConfig, ImageFolderConfig
from hptransfer.config.compose.compose import compose_file
from hptransfer.data import load_data
from hptransfer.data.features import write_features
from hptransfer.errors import UserError
from tests.support.data_folders import (
    CAPTIONED,
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

# The shapes of `write`: a file that is broken must be found although the config states them right.
FEATURES = (
    *("data=features", "data.held_out=5", "data.image_size=8", "data.classes=3"),
    *("data.caption_tokens=6", "data.caption_channels=5", "data.pooled_channels=7"),
)
PLAIN = ("data=features", "data.held_out=5", "data.image_size=8", "data.classes=3")
PIXART = (*PLAIN[:-1], "data.classes=1", "data.caption_tokens=6", "data.caption_channels=5")
IMAGES = ("data=image_folder", "data.held_out=5", "data.image_size=8", "data.classes=2")


@pytest.fixture(autouse=True)
def no_seals_of_others(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep seals out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@cache
def config_of(*words: str) -> DataConfig:
    return compose_file(None, [*words]).trial.data


def refusal(folder: Path | None, *words: str) -> str:
    """Return the sentence with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        load_data(config_of(*words), None if folder is None else str(folder))
    return str(caught.value)


def cut(path: Path, count: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def edit_npy(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


def poison(path: Path, row: int, value: float) -> None:
    array = np.load(path)
    array[row] = value
    np.save(path, array)


def edit_manifest(path: Path, change: Callable[[dict], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


NPY_FAULTS = {
    "truncated": (lambda f: cut(f / "0001.latents.npy"), "0001.latents.npy is broken or cannot be"),
    "longer": (
        lambda f: (f / "0000.mask.npy").write_bytes((f / "0000.mask.npy").read_bytes() + b"x"),
        "0000.mask.npy is broken or cannot be read: it has 201 bytes where its header says 200.",
    ),
    "no header": (lambda f: (f / "0000.tokens.npy").write_bytes(b""), "0000.tokens.npy is broken"),
    "pickled": (
        lambda f: np.save(f / "0000.labels.npy", np.array([None] * 12)),
        "0000.labels.npy is broken or cannot be read",
    ),
    "missing": (lambda f: (f / "0001.labels.npy").unlink(), "0001.labels.npy is broken or cannot"),
    "count": (
        lambda f: edit_npy(f / "0001.pooled.npy", lambda a: a[:7]),
        "0001.pooled.npy must hold an array of shape (8, 7) and of dtype float32, but it has shape "
        "(7, 7) and dtype float32.",
    ),
    "dtype": (
        lambda f: edit_npy(f / "0000.latents.npy", lambda a: a.astype(np.float16)),
        "0000.latents.npy must hold an array of shape (12, 4, 8, 8) and of dtype float32, but",
    ),
    "byte order": (
        lambda f: edit_npy(f / "0000.latents.npy", lambda a: a.astype(">f4")),
        "and dtype >f4. Write it again.",
    ),
    "NaN": (
        lambda f: poison(f / "0001.latents.npy", 3, np.nan),
        "0001.latents.npy, sample 3, is not all finite. Write that sample again, or leave it out.",
    ),
    "infinite caption": (
        lambda f: poison(f / "0000.pooled.npy", 2, np.inf),
        "0000.latents.npy, sample 2, has caption features that are not all finite.",
    ),
    "empty caption": (
        lambda f: poison(f / "0001.mask.npy", 7, False),
        "0001.latents.npy, sample 7, has a caption of no token.",
    ),
    "label": (
        lambda f: poison(f / "0000.labels.npy", 11, 3),
        "0000.latents.npy, sample 11, is labelled 3, outside 0 to 2.",
    ),
    "negative label": (
        lambda f: poison(f / "0000.labels.npy", 0, -1),
        "0000.latents.npy, sample 0, is labelled -1, outside 0 to 2.",
    ),
}


@pytest.mark.parametrize("fault", NPY_FAULTS)
def test_a_broken_shard_is_named(tmp_path: Path, fault: str) -> None:
    write(tmp_path, features(), "npy")
    break_it, sentence = NPY_FAULTS[fault]
    break_it(tmp_path)
    found = refusal(tmp_path, *FEATURES)
    assert found.startswith(f"{tmp_path}/") and sentence in found


def drop(path: Path, name: str) -> None:
    arrays = load_file(path)
    del arrays[name]
    save_file(arrays, path)


def test_a_broken_safetensors_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, features())
    whole = (tmp_path / "0001.safetensors").read_bytes()
    cut(tmp_path / "0001.safetensors")
    assert "0001.safetensors is broken or cannot be read: " in refusal(tmp_path, *FEATURES)
    (tmp_path / "0001.safetensors").write_bytes(whole)
    drop(tmp_path / "0001.safetensors", "mask")
    assert "0001.safetensors is broken" in refusal(tmp_path, *FEATURES)
    assert "no tensor named mask" in refusal(tmp_path, *FEATURES)
    (tmp_path / "0001.safetensors").unlink()
    assert "0001.safetensors is broken or cannot be read: " in refusal(tmp_path, *FEATURES)


MANIFEST_FAULTS = {
    "format": (lambda t: t.update(format="other"), "format 'other' version 1"),
    "no arrays": (lambda t: t.pop("arrays"), "KeyError 'arrays'"),
    "storage": (lambda t: t.update(storage="zip"), "must name the storage safetensors or npy"),
    "no shards": (lambda t: t.update(shards=[]), "must list shards of one sample or more each"),
    "elsewhere": (lambda t: t["shards"][0].update(name="../x"), "must name shards in its own"),
    "twice": (lambda t: t["shards"][1].update(name="0000"), "must name every shard once"),
    "no latents": (lambda t: t["arrays"].pop("latents"), "must list the array latents"),
    "unknown": (lambda t: t["arrays"].update(x=t["arrays"]["mask"]), "but lists 'x'"),
    "no mask": (lambda t: t["arrays"].pop("mask"), "must list mask where it lists tokens"),
    "flat": (lambda t: t["arrays"]["latents"].update(shape=[64]), "gives shape (64,)"),
    "oblong": (lambda t: t["arrays"]["latents"].update(shape=[4, 8, 4]), "but gives 8x4"),
    "mask": (lambda t: t["arrays"]["mask"].update(shape=[5]), "as many tokens as tokens"),
    "classes": (lambda t: t["arrays"].pop("labels"), "1 without labels, but states 3"),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path: Path, fault: str) -> None:
    write(tmp_path, features())
    change, sentence = MANIFEST_FAULTS[fault]
    edit_manifest(tmp_path / "manifest.json", change)
    found = refusal(tmp_path, *FEATURES)
    assert found.startswith(str(tmp_path / "manifest.json")) and sentence in found
    (tmp_path / "manifest.json").write_text("{")
    assert "manifest.json is broken or cannot be read" in refusal(tmp_path, *FEATURES)


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    uneven = [{"latents": torch.zeros(2, 4, 8, 8)}, {"latents": torch.zeros(2, 4, 4, 4)}]
    with pytest.raises(UserError, match="but shard 1 has"):
        write_features(tmp_path, uneven)
    with pytest.raises(UserError, match="one row a sample"):
        write_features(tmp_path, [{**uneven[0], "labels": torch.zeros(3).long()}])
    with pytest.raises(UserError, match="may list the arrays latents"):
        write_features(tmp_path, [{**uneven[0], "names": torch.zeros(2)}])
    assert not (tmp_path / "manifest.json").exists()


def test_one_sentence_says_all_that_differs(tmp_path: Path) -> None:
    write(tmp_path, features())
    found = refusal(tmp_path, "data=features", "data.held_out=5", "data.sha256=0123456789abcdef")
    assert f"in {tmp_path} image_size is 8 and not 32, classes is 3 and not 1000" in found
    start = "Set data.channels=4 data.image_size=8 data.classes=3 data.caption_tokens=6 "
    assert f"{start}data.caption_channels=5 data.pooled_channels=7 data.sha256=" in found
    asked = ("data.caption_tokens=9", "data.caption_channels=5")
    write(tmp_path / "plain", features(captions=False))
    found = refusal(tmp_path / "plain", *PLAIN, *asked)
    assert f"The config asks for captions, but {tmp_path}/plain holds none." in found


def test_a_folder_must_be_named_exist_and_hold_something(tmp_path: Path) -> None:
    for choice in ("features", "image_folder", "huggingface"):
        assert "Set runtime.data_folder=/path/to/it." in refusal(None, f"data={choice}")
        found = refusal(tmp_path / "nowhere", f"data={choice}")
        assert f"but {tmp_path}/nowhere is none" in found
    assert f"but {tmp_path} holds nothing. Set" in refusal(tmp_path, *PLAIN)
    assert "but there is no class folder" in refusal(tmp_path, *IMAGES)
    (tmp_path / "cat").mkdir()
    assert f"but {tmp_path}/cat holds none" in refusal(tmp_path, *IMAGES)


@pytest.mark.parametrize("held_out", [N, N + 1])
def test_held_out_samples_must_leave_some_to_train_on(tmp_path: Path, held_out: int) -> None:
    write(tmp_path, features())
    found = refusal(tmp_path, *FEATURES, f"data.held_out={held_out}")
    assert f"non-empty of the {N} samples in {tmp_path}, but got {held_out}" in found


def test_broken_fast_dit_folders_are_named(tmp_path: Path) -> None:
    write_fast_dit(tmp_path)
    latents, labels = tmp_path / "imagenet256_features", tmp_path / "imagenet256_labels"
    assert f"{latents}/002.npy (or its label) is labelled 2, outside 0 to 1" in refusal(
        tmp_path, *PLAIN[:-1], "data.classes=2"
    )
    poison(latents / "004.npy", 0, np.nan)
    assert f"{latents}/004.npy (or its label) is not all finite" in refusal(tmp_path, *PLAIN)
    edit_npy(latents / "003.npy", lambda a: a[:, :3])
    assert "must hold an array of shape (1, 4, 8, 8) and" in refusal(tmp_path, *PLAIN)
    cut(latents / "002.npy")
    assert f"{latents}/002.npy is broken" in refusal(tmp_path, *PLAIN)
    (labels / "009.npy").unlink()
    found = refusal(tmp_path, *PLAIN)
    assert f"{latents}/009.npy has no counterpart {labels}/009.npy (1 are missing)" in found
    edit_npy(latents / "000.npy", lambda a: a[0])
    (latents / "009.npy").unlink()
    assert "000.npy must hold one square latent (1, C, H, H)" in refusal(tmp_path, *PLAIN)
    (tmp_path / "imagenet512_features").mkdir()
    assert "must hold one folder imagenet*_features, but holds 2" in refusal(tmp_path, *PLAIN)


def test_broken_pixart_extractions_are_named(tmp_path: Path) -> None:
    write_pixart(tmp_path)
    latents = tmp_path / "img_vae_features/256resolution/noflip"
    captions = tmp_path / "caption_feature_wmask"
    tight = (*PIXART[:-2], "data.caption_tokens=2", "data.caption_channels=5")
    assert "caption_tokens is 6 and not 2" in refusal(tmp_path, *tight)
    edit_npy(latents / "008.npy", lambda a: a[:6])
    assert f"{latents}/008.npy must hold an array of shape (8, 8, 8)" in refusal(tmp_path, *PIXART)
    np.savez(captions / "005.npz", caption_feature=np.zeros((1, 9, 5), np.float32))
    (latents / "008.npy").write_bytes((latents / "007.npy").read_bytes())
    found = refusal(tmp_path, *PIXART)
    assert f"{captions}/005.npz must hold a caption of at most 6 tokens of 5 features" in found
    cut(captions / "004.npz")
    assert f"{captions}/004.npz is broken or cannot be read" in refusal(tmp_path, *PIXART)
    (captions / "003.npz").unlink()
    assert "set1/003.png has no " in refusal(tmp_path, *PIXART)
    items = [{"path": "a/000.png"}, {"path": "b/000.png"}]
    (tmp_path / "data_info.json").write_text(json.dumps(items))
    assert "000.npy is that of 2 images" in refusal(tmp_path, *PIXART)
    (tmp_path / "data_info.json").write_text("[1]")
    assert "data_info.json must be a list of" in refusal(tmp_path, *PIXART)


def test_broken_images_and_captions_are_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "Axolotl/001.txt").write_text("one two three four five six seven eight nine ten")
    found = refusal(tmp_path, *IMAGES, *CAPTIONED)
    assert found.startswith(f"{tmp_path}/Axolotl/001.PNG: A caption must have 1 to 9 words")
    (tmp_path / "Axolotl/001.txt").unlink()
    (tmp_path / "tree_frog/captions.txt").write_text("000.png a frog\n")
    assert "tree_frog/captions.txt must read file name, tab" in refusal(
        tmp_path, *IMAGES, *CAPTIONED
    )
    cut(tmp_path / "tree_frog/004.png")
    assert f"{tmp_path}/tree_frog/004.png is broken or cannot be" in refusal(tmp_path, *IMAGES)
    cut(tmp_path / "Axolotl/003.jpg", 100)
    assert f"{tmp_path}/Axolotl/003.jpg is broken or cannot be" in refusal(tmp_path, *IMAGES)
    picture(0).convert("I;16").save(tmp_path / "Axolotl/000.png")
    assert "has more than 8 bits a channel" in refusal(tmp_path, *IMAGES)
    (tmp_path / "Axolotl/000.png").write_text("not an image")
    assert f"{tmp_path}/Axolotl/000.png is broken" in refusal(tmp_path, *IMAGES)


@needs_datasets
def test_broken_hugging_face_folders_are_named(tmp_path: Path) -> None:
    import datasets

    words = ("data=huggingface", "data.held_out=5", "data.image_size=8", "data.classes=3")
    assert f"{tmp_path} is broken or cannot be read" in refusal(tmp_path, *words)
    write_hugging_face(tmp_path / "a", labels=[0] * 7 + [-1] + [1] * (N - 8))
    assert f"{tmp_path}/a, sample 7, is labelled -1, outside 0 to 2" in refusal(
        tmp_path / "a", *words
    )
    found = refusal(tmp_path / "a", *words, "data.label_column=kind")
    assert "must have the column kind, but has image, label, caption" in found
    found = refusal(tmp_path / "a", *words, "data.image_column=label")
    assert "The column label in" in found and "must be of images" in found
    write_hugging_face(tmp_path / "b", captions=["a cat"] * 3 + [None] * (N - 3))
    found = refusal(tmp_path / "b", *words, *CAPTIONED)
    assert f"{tmp_path}/b, sample 3, must have a caption of type str, but has None" in found
    table = datasets.load_from_disk(str(tmp_path / "a"))
    datasets.DatasetDict(train=table, test=table).save_to_disk(str(tmp_path / "c"))  # pyright: ignore
    found = refusal(tmp_path / "c", *words)
    assert f"holds test, train. Set runtime.data_folder={tmp_path}/c/test" in found


def test_without_the_extra_the_package_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hptransfer.data.images.find_spec", lambda _: None)
    assert "Run pip install 'hptransfer[huggingface]'." in refusal(tmp_path, "data=huggingface")


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (FeaturesConfig, {"caption_tokens": 3}, "must both be positive, or both 0"),
        (FeaturesConfig, {"pooled_channels": -1}, "must be 0 or more, but got -1"),
        (FeaturesConfig, {"scale": 0.0}, "`data.scale` must be positive, but got 0.0"),
        (FeaturesConfig, {"held_out": 0}, "`data.held_out` must be positive, but got 0"),
        (ImageFolderConfig, {"channels": 4}, "must be 1 (grey) or 3 (RGB) for images, but got 4"),
        (
            ImageFolderConfig,
            {"caption_tokens": 3, "caption_channels": 8},
            "must be `data.caption_channels`, since both come from one encoder, but got 0 and 8",
        ),
    ],
)
def test_configs_that_no_folder_can_fit_are_refused(
    kind: type[FolderConfig], changes: dict, sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        kind(**changes)
    assert sentence in str(caught.value)


def test_what_is_to_be_pasted_ends_without_a_full_stop(tmp_path: Path) -> None:
    write(tmp_path, features())
    assert re.search(
        r"data.sha256=[0-9a-f]{16}$", refusal(tmp_path, "data=features", "data.held_out=5")
    )


def test_a_list_of_captions_names_images_of_its_folder(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "tree_frog/captions.txt").write_text("nope\ta red circle\n")
    found = refusal(tmp_path, *IMAGES, *CAPTIONED)
    assert "must name an image of its folder, but there is no 'nope'" in found


def test_each_kind_of_data_says_how_it_gives_captions() -> None:
    for choice, words in (
        ("features", "the next error then names the shapes"),
        ("image_folder", "set data.caption_tokens=32 data.caption_channels=64"),
    ):
        with pytest.raises(UserError, match=words):
            compose_file(None, [f"data={choice}", "model=pixart"])
