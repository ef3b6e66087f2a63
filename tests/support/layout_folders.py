"""Folders of latents as other programs write them, by small writers that share no code with ours.

Each writes the 20 samples of `arrays`, as its program's documentation or source says.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N, C, H, L, K, A, CLASSES = 20, 4, 8, 6, 5, 7, 3
Encoded = list[np.ndarray] | None  # features of a frozen encoder, one array a sample; None: none


def arrays() -> dict[str, np.ndarray]:
    """Latents, standard deviations, mirrored latents, labels, and text features of 20 samples."""
    random = np.random.default_rng(0)
    latents = random.normal(size=(N, C, H, H)).astype(np.float32)
    return {
        "latents": latents,
        "std": random.uniform(0.1, 1, size=(N, C, H, H)).astype(np.float32),
        "mirrored": latents[..., ::-1].copy(),
        "labels": (np.arange(N) * 2) % CLASSES,
        "tokens": random.normal(size=(N, L, K)).astype(np.float32),
        "mask": np.arange(L) <= (np.arange(N) % L)[:, None],
        "pooled": random.normal(size=(N, A)).astype(np.float32),
    }


SAFETENSORS = {"float32": "F32", "float16": "F16", "int64": "I64"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write the format by hand: the header's length, its JSON, then the values."""
    header: dict[str, Any] = {"__metadata__": {"total_size": "20"}}
    at = 0
    for name, tensor in tensors.items():
        kind = {"dtype": SAFETENSORS[str(tensor.dtype)], "shape": list(tensor.shape)}
        header[name] = {**kind, "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def write_lightning_dit(folder: Path) -> dict[str, np.ndarray]:
    """Shards of 12 and 8 samples, and the pickle that LightningDiT leaves beside them."""
    held = arrays()
    folder.mkdir(parents=True, exist_ok=True)
    for rank, part in enumerate((slice(12), slice(12, N))):
        shard = {
            "latents": held["latents"][part],
            "latents_flip": held["mirrored"][part],
            "labels": held["labels"][part],
        }
        write_safetensors(folder / f"latents_rank{rank:02}_shard000.safetensors", shard)
    (folder / "latents_stats.pt").write_bytes(b"\x80\x02}q\x00.")  # a pickle
    return held


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_edm2(
    folder: Path, inside: str = "vae-sd", labelled: bool = True
) -> dict[str, np.ndarray]:
    """Small files of mean and standard deviation in two subfolders, as REPA has them."""
    held, labels = arrays(), []
    for i in range(N):
        name = f"{i // 10:05}/img-mean-std-{i:08}.npy"
        path = folder / inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate([held["latents"][i], held["std"][i]]))
        labels.append([name, int(held["labels"][i])])
    text = json.dumps({"labels": labels[::-1] if labelled else None})
    (folder / inside / "dataset.json").write_text(text)
    (folder / "images").mkdir(exist_ok=True)
    return held


MDS_DTYPES = {"uint8": 8, "float16": 18, "float32": 34, "int64": 65}


def mds_array(array: np.ndarray, dtype: bool, shape: bool) -> bytes:
    """An ndarray as MDS encodes it, with its dtype and its shape before its values if asked."""
    head = bytes([MDS_DTYPES[str(array.dtype)]]) if dtype else b""
    if shape:
        head += bytes([array.ndim << 2]) + bytes(array.shape)  # dimensions below 256: one byte each
    return head + array.tobytes()


def mds_columns(form: str, encoded: Encoded) -> tuple[dict[str, tuple[str, int | None]], Any]:
    """The columns of an MDS folder, and what gives a sample's bytes by column."""
    held = arrays()
    whole = {
        "ndarray": (("ndarray", None), lambda a: mds_array(a, True, True)),
        "ndarray:float32": (("ndarray:float32", None), lambda a: mds_array(a, False, True)),
        "ndarray:float32:4,8,8": (("ndarray:float32:4,8,8", 1024), lambda a: a.tobytes()),
        "bytes": (("bytes", None), lambda a: a.tobytes()),
        "npy": (("bytes", None), npy_bytes),
    }
    encoding, encode = whole[form]
    columns = {
        "caption": ("str", None),
        "extra": ("pkl", None),  # a column that is not used may even be pickled
        "latents": encoding,
        "label": ("int", 8),
        "mask": ("ndarray:uint8", None),
        "tokens": ("ndarray", None),
    }
    if encoded is not None:
        columns["features"] = ("ndarray:float16", None)

    def sample(i: int) -> dict[str, bytes]:
        own = {} if encoded is None else {"features": mds_array(encoded[i], False, True)}
        return own | {
            "caption": f"picture {i}".encode(),
            "extra": b"\x80\x04N.",
            "latents": encode(held["latents"][i]),
            "label": struct.pack("<q", held["labels"][i]),
            "mask": mds_array(held["mask"][i].astype(np.uint8), False, True),
            "tokens": mds_array(held["tokens"][i], True, True),
        }

    return dict(sorted(columns.items())), sample


def write_mds(
    folder: Path,
    form: str = "ndarray",
    compression: str | None = None,
    encoded: Encoded = None,
) -> None:
    """An index and shards of 12 and 8 samples."""
    folder.mkdir(parents=True, exist_ok=True)
    columns, sample = mds_columns(form, encoded)
    shared = {
        "version": 2,
        "format": "mds",
        "compression": compression,
        "hashes": [],
        "size_limit": 67108864,
        "column_names": list(columns),
        "column_encodings": [encoding for encoding, _ in columns.values()],
        "column_sizes": [size for _, size in columns.values()],
    }
    text, shards = json.dumps(shared, sort_keys=True).encode(), []
    for number, part in enumerate((range(12), range(12, N))):
        bodies = []
        for i in part:
            values = sample(i)
            sizes = [len(values[name]) for name, (_, size) in columns.items() if size is None]
            bodies.append(
                struct.pack(f"<{len(sizes)}I", *sizes) + b"".join(values[name] for name in columns)
            )
        ends = np.cumsum([0, *map(len, bodies)]) + 4 + 4 * (len(bodies) + 1) + len(text)
        content = struct.pack(f"<{2 + len(bodies)}I", len(bodies), *ends) + text + b"".join(bodies)
        name = f"shard.{number:05}.mds"
        entry = {**shared, "samples": len(bodies), "zip_data": None}
        entry["raw_data"] = {"basename": name, "bytes": len(content), "hashes": {}}
        if compression:
            entry["zip_data"] = {"basename": f"{name}.{compression}", "bytes": 9, "hashes": {}}
            name += f".{compression}"
        (folder / name).write_bytes(content)
        shards.append(entry)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_webdataset(
    folder: Path, features: str = "npz", encoded: Encoded = None
) -> dict[str, np.ndarray]:
    """Tar files of 12 and 8 samples; text features in one npz, or in npy files, or captions."""
    held = arrays()
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((range(12), range(12, N))):
        files: list[tuple[str, bytes]] = [("notes", b"no sample")]
        for i in part:
            key = f"{'a/' * (i % 2)}{'long' * 30}{i:06}"  # longer than a plain tar header holds
            files.append((f"{key}.latent.npy", npy_bytes(held["latents"][i].astype(np.float16))))
            files.append((f"{key}.jpg", b"not read"))
            if encoded is not None:
                files.append((f"{key}.features.npy", npy_bytes(encoded[i])))
            if features == "npz":
                packed = io.BytesIO()
                mask = held["mask"][i][None].astype(np.int64)
                np.savez(packed, caption_feature=held["tokens"][i][None], attention_mask=mask)
                files.append((f"{key}.npz", packed.getvalue()))
                files.append((f"{key}.cls", str(held["labels"][i]).encode()))
            elif features == "npy":
                files.append((f"{key}.tokens.npy", npy_bytes(held["tokens"][i][: 1 + i % L])))
                files.append(
                    (f"{key}.json", json.dumps({"label": int(held["labels"][i])}).encode())
                )
            else:
                files.append((f"{key}.txt", f"picture number {i}".encode()))
        write_tar(folder / f"shard-{number:06}.tar", files)
    return held


def write_parquet(
    folder: Path, form: str = "list", encoded: Encoded = None
) -> dict[str, np.ndarray]:
    """Files of 12 and 8 rows in groups of 5; latents as lists or as bytes with shape and dtype."""
    held = arrays()
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((slice(12), slice(12, N))):
        latents = held["latents"][part]
        columns: dict[str, Any] = {
            "label": held["labels"][part].tolist(),
            "caption": [f"picture number {i}" for i in range(N)[part]],
        }
        if encoded is not None:
            columns["features"] = [each.astype(np.float32).tolist() for each in encoded[part]]
        if form == "list":
            columns["latent"] = latents.tolist()
        elif form == "fixed":
            flat = pa.array(latents.ravel())
            for size in (H, H, C):
                flat = pa.FixedSizeListArray.from_arrays(flat, size)
            columns["latent"] = flat
        elif form == "npy":
            columns["latent"] = [npy_bytes(each) for each in latents]
        else:
            columns["latent"] = [each.astype(np.float16).tobytes() for each in latents]
            columns["tokens"] = [each.tobytes() for each in held["tokens"][part]]
            columns["tokens_shape"] = [[L, K]] * len(latents)
            columns["tokens_dtype"] = ["float32"] * len(latents)
            if form == "shaped":
                columns["latent_shape"] = [[C, H, H]] * len(latents)
                columns["latent_dtype"] = ["float16"] * len(latents)
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=5)
    return held


def write_saved_dataset(
    folder: Path, form: str = "Array3D", encoded: Encoded = None
) -> dict[str, np.ndarray]:
    """A dataset of Hugging Face's package with latents, labels with names, and captions."""
    import datasets

    held = arrays()
    latent: Any = datasets.Array3D((C, H, H), "float32")
    if form == "nested":
        latent = datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("float32"))))
    kinds = {"latents": latent, "label": datasets.ClassLabel(names=["a", "b", "c"])}
    columns = {"latents": held["latents"].tolist(), "label": held["labels"].tolist()}
    columns["caption"] = [f"picture number {i}" for i in range(N)]
    kinds["caption"] = datasets.Value("string")
    if encoded is not None:
        columns["features"] = [each.astype(np.float32).tolist() for each in encoded]
        kinds["features"] = datasets.Array2D(encoded[0].shape, "float32")
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    datasets.disable_progress_bars()
    table.save_to_disk(str(folder), num_shards=2)
    return held


def write_tokens(folder: Path, small: bool, statistics: str = "npz") -> dict[str, np.ndarray]:
    """Tokens (64, 4) of an encoder whose latents are `latents`, in shards or in small files."""
    held = arrays()
    tokens = held["latents"].reshape(N, C, H * H).transpose(0, 2, 1)
    folder.mkdir(parents=True, exist_ok=True)
    if small:
        labels = []
        for i in range(N):
            path = folder / "tokens" / f"{i // 10:05}/{i:08}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, tokens[i])
            labels.append([f"{i // 10:05}/{i:08}.npy", int(held["labels"][i])])
        (folder / "tokens/dataset.json").write_text(json.dumps({"labels": labels}))
    else:
        for number, part in enumerate((slice(12), slice(12, N))):
            shard = {"tokens": tokens[part].copy(), "labels": held["labels"][part]}
            write_safetensors(folder / f"{number}.safetensors", shard)
    held["mean"] = np.arange(C, dtype=np.float32)
    held["var"] = np.arange(1, C + 1, dtype=np.float32)
    if statistics == "npz":
        np.savez(folder / "statistics.npz", mean=held["mean"], var=held["var"])
    elif statistics == "safetensors":
        std = np.sqrt(held["var"] + np.float32(1e-5))
        places = np.ones((1, C, H, H), np.float32)
        whole = {"mean": held["mean"][:, None, None] * places, "std": std[:, None, None] * places}
        write_safetensors(folder / "stats.safetensors", whole)
    return held
