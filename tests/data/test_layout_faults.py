"""Folders of latents that are broken, in every layout: each is named by its file and sample."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hptransfer.cli.data_command import _stated
from hptransfer.config import FeaturesConfig
from hptransfer.config.compose.compose import compose_file
from hptransfer.data import load_data
from hptransfer.data.describe import describe_folder
from hptransfer.errors import UserError
from tests.support.data_folders import needs_datasets
from tests.support.layout_folders import (
    N,
    arrays,
    npy_bytes,
    write_edm2,
    write_lightning_dit,
    write_mds,
    write_parquet,
    write_safetensors,
    write_saved_dataset,
    write_tar,
    write_tokens,
    write_webdataset,
)

LATENTS = ("data=features", "data.held_out=5", "data.image_size=8", "data.classes=3")
CAPTIONED = ("data.caption_tokens=6", "data.caption_channels=5")


@pytest.fixture(autouse=True)
def no_seals_of_others(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep seals out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def refusal(folder: Path, *words: str) -> str:
    """Return the sentence with which a sweep on a folder is refused."""
    config = compose_file(None, [*LATENTS, *words]).trial.data
    with pytest.raises(UserError) as caught:
        load_data(config, str(folder))
    return str(caught.value)


def cut(path: Path, count: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def safetensors_without(path: Path, name: str) -> None:
    held = arrays()
    shard = {"latents": held["latents"], "latents_flip": held["mirrored"], "labels": held["labels"]}
    write_safetensors(path, {key: value for key, value in shard.items() if key != name})


def poisoned_shard(path: Path) -> None:
    held = arrays()
    held["mirrored"][7, 0, 0, 0] = np.nan
    shard = {"latents": held["latents"], "latents_flip": held["mirrored"], "labels": held["labels"]}
    write_safetensors(path, shard)


SECOND = "latents_rank01_shard000.safetensors"
LIGHTNING = {
    "truncated": (lambda f: cut(f / SECOND), f"{SECOND} is broken or cannot be read"),
    "no labels": (
        lambda f: safetensors_without(f / SECOND, "labels"),
        f"{SECOND} lacks labels. Extract that shard again.",
    ),
    "no mirrored": (
        lambda f: safetensors_without(f / SECOND, "latents_flip"),
        "lacks latents_flip",
    ),
    "NaN": (
        lambda f: poisoned_shard(f / SECOND),
        f"{SECOND}: latents_flip, sample 7, is not all finite. Write that sample again",
    ),
    "channels": (
        lambda f: write_safetensors(
            f / SECOND,
            {"latents": np.zeros((2, 3, 8, 8), np.float32), "labels": np.zeros(2, np.int64)}
            | {"latents_flip": np.zeros((2, 3, 8, 8), np.float32)},
        ),
        f"{SECOND}: latents must hold an array of shape (2, 4, 8, 8)",
    ),
    "count": (
        lambda f: write_safetensors(
            f / SECOND,
            {"latents": np.zeros((2, 4, 8, 8), np.float32), "labels": np.zeros(3, np.int64)}
            | {"latents_flip": np.zeros((2, 4, 8, 8), np.float32)},
        ),
        f"{SECOND}: labels must hold an array of shape (2,)",
    ),
}


@pytest.mark.parametrize("fault", LIGHTNING)
def test_broken_lightning_dit_shards_are_named(tmp_path: Path, fault: str) -> None:
    write_lightning_dit(tmp_path)
    break_it, sentence = LIGHTNING[fault]
    break_it(tmp_path)
    assert sentence in refusal(tmp_path)


def test_broken_edm2_folders_are_named(tmp_path: Path) -> None:
    held = write_edm2(tmp_path)
    seventh = tmp_path / "vae-sd/00000/img-mean-std-00000007.npy"
    whole = seventh.read_bytes()
    moments = np.concatenate([held["latents"][7], held["std"][7]])
    moments[5, 1, 1] = np.inf
    np.save(seventh, moments)
    assert f"{seventh} (or its label) is not all finite" in refusal(tmp_path)
    np.save(seventh, moments[:6])
    assert f"{seventh} must hold an array of shape (8, 8, 8) and" in refusal(tmp_path)
    seventh.write_bytes(whole[:-8])
    assert f"{seventh} is broken or cannot be read" in refusal(tmp_path)
    np.save(seventh, np.array([None]), allow_pickle=True)
    assert f"{seventh} is broken or cannot be read" in refusal(tmp_path)
    seventh.unlink()
    assert f"there is no {seventh} (1 are missing)" in refusal(tmp_path)
    seventh.write_bytes(whole)
    (tmp_path / "vae-sd/00000/more.npy").write_bytes(whole)
    assert "dataset.json must list the label of every file, but lists none of 00000/more.npy" in (
        refusal(tmp_path)
    )
    (tmp_path / "vae-sd/00000/more.npy").unlink()
    listed = tmp_path / "vae-sd/dataset.json"
    listed.write_text(listed.read_text().replace(", 1]", ", [1.0, 0.0]]"))
    assert "as its label, but gives 00000/img-mean-std-00000002.npy [1.0, 0.0]" in refusal(tmp_path)
    listed.write_text("{}")
    assert f"{listed} is broken or cannot be read: 'labels'" in refusal(tmp_path)
    np.save(tmp_path / "vae-sd/00000/img-mean-std-00000000.npy", moments[:5])
    write_edm2(tmp_path)
    np.save(tmp_path / "vae-sd/00000/img-mean-std-00000000.npy", moments[:5])
    assert "must hold the mean and standard deviation of a square latent" in refusal(tmp_path)


def edit_index(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "index.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def mds_bytes(folder: Path, at: Callable[[bytes], int], value: bytes) -> None:
    """Overwrite bytes of the second shard."""
    path = folder / "shard.00001.mds"
    content = bytearray(path.read_bytes())
    start = at(bytes(content))
    content[start : start + len(value)] = value
    path.write_bytes(content)


def third_sample(content: bytes) -> int:
    return struct.unpack_from("<I", content, 4 * 3)[0]


SHARD = "shard.00001.mds"
MDS = {
    "truncated": (lambda f: cut(f / SHARD), f"{SHARD} is broken or cannot be read: it has "),
    "missing": (lambda f: (f / SHARD).unlink(), f"{SHARD} is broken or cannot be read: [Errno 2]"),
    "samples": (
        lambda f: mds_bytes(f, lambda _: 0, b"\x07"),
        f"{SHARD} is broken or cannot be read: it has 7 samples where index.json says 8",
    ),
    "offset": (
        lambda f: mds_bytes(f, lambda _: 12, b"\xff\xff\xff\x7f"),
        f"{SHARD}, sample 1, is broken or cannot be read: it is said to lie in the bytes",
    ),
    "sizes": (
        lambda f: mds_bytes(f, third_sample, b"\xff"),
        f"{SHARD}, sample 2, is broken or cannot be read: its columns have",
    ),
    "outside": (
        lambda f: edit_index(f, lambda t: t["shards"][1]["raw_data"].update(basename="../x.mds")),
        "it names ../x.mds, outside its own folder",
    ),
    "version": (
        lambda f: edit_index(f, lambda t: t["shards"][0].update(version=3)),
        "must be an index of MDS shards, version 2, but is not: ValueError format 'mds' version 3",
    ),
    "no column": (
        lambda f: edit_index(
            f,
            lambda t: (
                t["shards"][1].update(column_names=list("abc"), column_sizes=[1] * 3)
                or t["shards"][1].update(column_encodings=["bytes"] * 3)
            ),
        ),
        f"Every shard must have the column latents, as the first one has, but {{}}/{SHARD} has a",
    ),
    "pickled": (
        lambda f: edit_index(
            f, lambda t: [s["column_encodings"].__setitem__(5, "pkl") for s in t["shards"]]
        ),
        "the column tokens is pickled, which is never read",
    ),
}


@pytest.mark.parametrize("fault", MDS)
def test_broken_mds_shards_are_named(tmp_path: Path, fault: str) -> None:
    write_mds(tmp_path)
    break_it, sentence = MDS[fault]
    break_it(tmp_path)
    assert sentence.format(tmp_path) in refusal(tmp_path, *CAPTIONED)


def test_compressed_mds_shards_name_the_command(tmp_path: Path) -> None:
    write_mds(tmp_path, compression="zstd")
    found = refusal(tmp_path)
    assert f"{tmp_path}/shard.00000.mds.zstd is compressed with zstd" in found
    loop = 'for f in *.zstd; do zstd -dc "$f" > "${f%.zstd}"; done'
    assert f"Run `cd {tmp_path} && {loop}` and keep the index" in found


def test_raw_bytes_need_their_shape(tmp_path: Path) -> None:
    write_mds(tmp_path, "bytes")
    found = refusal(tmp_path, "data.image_size=16")
    assert "has 1024 raw bytes, which are not (4, 16, 16) values of float16 or float32" in found
    assert f"{tmp_path}/shard.00000.mds, sample 0, is broken" in found


def poisoned_tar(folder: Path, change: Callable[[int, list[tuple[str, bytes]]], None]) -> None:
    """Write one tar of all samples, each of which `change` may alter."""
    held, files = arrays(), []
    for i in range(N):
        parts = [("npy", npy_bytes(held["latents"][i])), ("cls", b"1")]
        change(i, parts)
        files += [(f"{i:04}.{part}", content) for part, content in parts]
    write_tar(folder / "0.tar", files)


def seventh(part: str, content: bytes | None) -> Callable[[Path], None]:
    def change(i: int, parts: list[tuple[str, bytes]]) -> None:
        if i == 7:
            parts[:] = [(name, held) for name, held in parts if name != part]
            if content is not None:
                parts.append((part, content))

    return lambda folder: poisoned_tar(folder, change)


BROKEN = np.zeros((4, 8, 8), np.float32)
BROKEN[3, 2, 1] = np.nan
WEBDATASET = {
    "no label": (seventh("cls", None), "Every sample must have the part .cls as the first one has"),
    "label": (
        seventh("cls", b"cat"),
        "0.tar, sample 7 (0007), must have a whole number as its cls",
    ),
    "large label": (seventh("cls", b"3"), "sample 7 (0007), is labelled 3, outside 0 to 2."),
    "NaN": (seventh("npy", npy_bytes(BROKEN)), "0.tar, sample 7 (0007), is not all finite."),
    "no npy": (seventh("npy", b"x"), "0.tar, sample 7 (0007), .npy is broken or cannot be read"),
    "channels": (
        seventh("npy", npy_bytes(BROKEN[:3])),
        "sample 7 (0007), must have latents of shape (4, 8, 8) as the first sample, but has (3, 8",
    ),
    "whole numbers": (
        seventh("npy", npy_bytes(np.zeros((4, 8, 8), np.int64))),
        "sample 7 (0007), npy must hold an array of dtype float16",
    ),
    "pickled": (
        seventh("npy", npy_bytes(np.array([{}], dtype=object))),
        "0.tar, sample 7 (0007), .npy is broken or cannot be read",
    ),
    "truncated": (
        lambda f: (poisoned_tar(f, lambda *_: None), cut(f / "0.tar", 12000)),
        "0.tar is broken or cannot be read",
    ),
    "no tar": (lambda f: (f / "0.tar").write_bytes(b"x" * 2000), "0.tar is broken or cannot be"),
    "pickles": (
        lambda f: write_tar(f / "0.tar", [("0.pth", b"x"), ("0.pickle", b"x")]),
        "its first one has .pth, .pickle, of which none is read",
    ),
}


@pytest.mark.parametrize("fault", WEBDATASET)
def test_broken_tars_are_named(tmp_path: Path, fault: str) -> None:
    write_it, sentence = WEBDATASET[fault]
    write_it(tmp_path)
    found = refusal(tmp_path)
    assert sentence in found and f"{tmp_path}/0.tar" in found


def test_captions_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_webdataset(tmp_path / "a", "npy")
    few = ("data.caption_tokens=4", "data.caption_channels=5")
    found = refusal(tmp_path / "a", *few)
    assert "sample 4 (long" in found
    assert "must have a caption of at most 4 tokens of 5 channels, but has (5, 5). Raise" in found
    write_webdataset(tmp_path / "b", "txt")
    text = ("data.caption_tokens=2", "data.caption_channels=5", "data.pooled_channels=5")
    found = refusal(tmp_path / "b", *text, "data.classes=1")
    assert "sample 0 (long" in found and "must have 1 to 2 words, but 'picture number 0'" in found


def rows(folder: Path, change: Callable[[dict], object], name: str = "1.parquet") -> None:
    columns = pq.read_table(folder / name).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), folder / name, row_group_size=5)


PARQUET = {
    "truncated": (lambda f: cut(f / "1.parquet"), "1.parquet is broken or cannot be read"),
    "no column": (
        lambda f: rows(f, lambda t: t.pop("label")),
        "must have the columns of the first, but {}/1.parquet lacks label",
    ),
    "NaN": (
        lambda f: rows(f, lambda t: t["latent"][6][0][0].__setitem__(0, float("nan"))),
        "{}/1.parquet, row 6, is not all finite.",
    ),
    "ragged": (
        lambda f: rows(f, lambda t: t["latent"][6][0][0].pop()),
        "{}/1.parquet: latent, near row 5, is broken or cannot be read: the lists in one cell",
    ),
    "empty": (
        lambda f: rows(f, lambda t: t["latent"].__setitem__(3, None)),
        "{}/1.parquet, row 3, is broken or cannot be read: its latent is 'None' and no array",
    ),
    "empty label": (
        lambda f: rows(f, lambda t: t["label"].__setitem__(3, None)),
        "{}/1.parquet, row 3, must have a whole number as its label, but has 'None'",
    ),
}


@pytest.mark.parametrize("fault", PARQUET)
def test_broken_parquet_files_are_named(tmp_path: Path, fault: str) -> None:
    write_parquet(tmp_path)
    break_it, sentence = PARQUET[fault]
    break_it(tmp_path)
    assert sentence.format(tmp_path) in refusal(tmp_path)


def test_a_row_group_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    write_parquet(tmp_path)
    monkeypatch.setattr("hptransfer.data.layouts.parquet.CACHE_BYTES", 1000)
    assert "Write it again with a smaller row_group_size." in refusal(tmp_path)


@needs_datasets
def test_broken_saved_datasets_are_named(tmp_path: Path) -> None:
    import datasets

    write_saved_dataset(tmp_path / "a")
    table = datasets.load_from_disk(str(tmp_path / "a"))
    assert isinstance(table, datasets.Dataset)
    columns = table.with_format("numpy")[:]
    columns["latents"][5, 0, 0, 0] = np.nan
    broken = {**columns, "latents": columns["latents"].tolist()}
    datasets.Dataset.from_dict(broken).save_to_disk(str(tmp_path / "b"))
    assert f"{tmp_path}/b, sample 5, is not all finite." in refusal(tmp_path / "b")
    datasets.DatasetDict(train=table).save_to_disk(str(tmp_path / "c"))  # pyright: ignore
    assert f"Set runtime.data_folder={tmp_path}/c/train" in refusal(tmp_path / "c")
    found = refusal(tmp_path / "a", "data.latent_column=caption")
    assert "is broken or cannot be read: its caption is 'picture number 0' and no array" in found


def spoiled(index: int, change: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Features of all samples, of which one is changed."""
    held = [np.ones((4, 6), np.float16) for _ in range(N)]
    held[index] = change(held[index])
    return held


FEATURED = ("data.feature_channels=6", "data.classes=3")


def test_features_that_do_not_fit_are_named_by_file_and_sample(tmp_path: Path) -> None:
    write_mds(tmp_path / "cells", encoded=spoiled(14, lambda each: each[:1]))
    assert (
        f"{tmp_path}/cells/shard.00001.mds, sample 2, must have features of shape (4, 6) as the "
        "first sample, but has (1, 6). Extract it again, or leave it out."
    ) in refusal(tmp_path / "cells", *FEATURED)
    write_parquet(tmp_path / "nan", encoded=spoiled(13, lambda each: each * np.float16("nan")))
    found = refusal(tmp_path / "nan", *FEATURED)
    assert f"{tmp_path}/nan/1.parquet, row 1, has features that are not all finite. Write" in found
    write_mds(tmp_path / "token", encoded=spoiled(0, lambda each: np.ones((5, 6), np.float16)))
    found = refusal(tmp_path / "token", *FEATURED)
    assert "shard.00000.mds, sample 0, must have features (N, D) of a square map" in found
    assert "(5, 6). Drop class and register tokens" in found


def test_features_that_are_missing_are_named(tmp_path: Path) -> None:
    write_webdataset(tmp_path / "none")
    found = refusal(tmp_path / "none", *FEATURED)
    assert f"{tmp_path}/none holds none. Write them beside the latents as the array or co" in found

    def without(i: int, parts: list[tuple[str, bytes]]) -> None:
        if i != 7:
            parts.append(("features.npy", npy_bytes(np.ones((4, 6), np.float16))))

    (tmp_path / "some").mkdir()
    poisoned_tar(tmp_path / "some", without)
    sentence = "have the part .features.npy as the first one has, but {}/some/0.tar, sample 7 (0007"
    assert sentence.format(tmp_path) in refusal(tmp_path / "some", *FEATURED)
    with pytest.raises(UserError, match=r"sample 7 \(0007\), .features.npy is broken or cannot be"):
        describe_folder(tmp_path / "some")
    write_mds(tmp_path / "shard", encoded=spoiled(0, lambda each: each))
    names = ["caption", "extra", "other", "label", "latents", "mask", "tokens"]
    edit_index(tmp_path / "shard", lambda t: t["shards"][1].update(column_names=names))
    found = refusal(tmp_path / "shard", *FEATURED)
    assert "Every shard must have the column features, as the first one has, but" in found


def test_broken_tokens_are_named(tmp_path: Path) -> None:
    write_tokens(tmp_path / "a", small=True)
    one = tmp_path / "a/tokens/00000/00000003.npy"
    np.save(one, np.full((64, 4), np.nan, np.float32))
    assert f"{one} is not all finite" in refusal(tmp_path / "a")
    np.save(one, np.zeros((65, 4), np.float32))
    assert f"{one} must hold an array of shape (64, 4)" in refusal(tmp_path / "a")
    np.save(tmp_path / "a/tokens/00000/00000000.npy", np.zeros((65, 4), np.float32))
    assert "must have a square number of tokens (H·H, D), but has shape (65, 4). Drop" in (
        refusal(tmp_path / "a")
    )
    write_tokens(tmp_path / "b", small=False)
    np.savez(tmp_path / "b/statistics.npz", mean=np.zeros(3), var=np.ones(4))
    assert "statistics.npz must hold finite mean of shape (4,) or (4, 8, 8)" in (
        refusal(tmp_path / "b")
    )
    np.savez(tmp_path / "b/statistics.npz", mean=np.zeros(4))
    assert "statistics.npz is broken or cannot be read" in refusal(tmp_path / "b")
    np.savez(tmp_path / "b/statistics.npz", mean=np.zeros(4), std=np.zeros(4))
    assert "must hold positive std, but one is 0 or less" in refusal(tmp_path / "b")
    (tmp_path / "b/statistics.npz").rename(tmp_path / "b/normalization_stats.pt")
    assert "normalization_stats.pt is a pickle, which is never read" in refusal(tmp_path / "b")
    write_safetensors(tmp_path / "b/1.safetensors", {"latents": np.zeros((3, 4), np.float32)})
    (tmp_path / "b/normalization_stats.pt").unlink()
    assert "b/1.safetensors is broken or cannot be read: " in refusal(tmp_path / "b")


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    found = refusal(tmp_path, "data.latent_column=moments")
    assert (
        "must have the column moments that data.latent_column names, but has label, capt" in found
    )
    (tmp_path / "1.parquet").unlink()
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "0.parquet")
    found = refusal(tmp_path)
    assert f"{tmp_path}/0.parquet must have a column of latents, named latents, latent," in found
    assert "but has a, b. Set data.latent_column to the one that holds them." in found


def test_latents_of_another_shape_say_so(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    found = refusal(tmp_path, "data.channels=16", "data.image_size=32")
    assert f"in {tmp_path} channels is 4 and not 16, image_size is 8 and not 32" in found


def test_a_folder_of_no_layout_says_what_it_holds_and_what_each_needs(tmp_path: Path) -> None:
    for name in ("a.pt", "b.bin", "c.txt", "d", "e", "f", "g"):
        (tmp_path / name).write_text("")
    for ask in (lambda: refusal(tmp_path), lambda: described(tmp_path)):
        found = ask()
        assert f"{tmp_path} holds a.pt, b.bin, c.txt, d, e, f and 1 more." in found
        assert "\n  MosaicML MDS: index.json and shard.00000.mds, ..." in found


def described(folder: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        describe_folder(folder, _stated(folder, list(words)))
    return str(caught.value)


def test_a_shift_and_a_scale_fit_the_channels() -> None:
    with pytest.raises(
        UserError, match=r"`data\.scale` must be one number, or one for each of the 4"
    ):
        FeaturesConfig(scale=(1.0, 2.0))
    with pytest.raises(UserError, match=r"`data.scale` must be positive, but got -1.0"):
        FeaturesConfig(scale=(1.0, 2.0, 3.0, -1.0))
    with pytest.raises(UserError, match=r"`data.shift` must be finite, but got nan"):
        FeaturesConfig(shift=float("nan"))
    with pytest.raises(UserError, match=r"`data.scale` must be a number or a list \[a, b\]"):
        compose_file(None, ["data=features", "data.scale=big"])
