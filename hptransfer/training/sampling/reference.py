"""What samples are compared with: features of the training split, or a file of their moments.

Features of the training split are computed once and kept on disk, in
`$XDG_CACHE_HOME/hptransfer/quality` (else `~/.cache`), which may be deleted at any time. A file's
name is the hash of everything that its numbers depend on: the data by content, the user's functions
with `quality.version` or the weights of our classifier, and which samples were taken. Features of
the digits by our classifier take a tenth of a second and are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hptransfer.config import DataConfig, DigitsConfig, QualityConfig, TrialConfig
from hptransfer.config.records import plain
from hptransfer.data import Split, load_data
from hptransfer.data.reading import Progress, progress_to, reading
from hptransfer.errors import UserError, require
from hptransfer.system.files import user_cache, write_whole
from hptransfer.system.text import say
from hptransfer.training.sampling.classifier import load_classifier, weights_file
from hptransfer.training.sampling.features import judged_features, require_functions
from hptransfer.training.sampling.quality import (
    CPU,
    Moments,
    RealSamples,
    RunningMoments,
    compared_rows,
)

IMAGES_READ_AT_ONCE = 500  # images of the training split in memory at once
ALIKE = 1e-2  # of the largest feature: how far those of one sample may lie apart in two batches
_FORMAT = 1  # of the files that are kept

Tensors = dict[str, Tensor]


def load_real_samples(
    config: TrialConfig,
    folder: str | None,
    device: torch.device = CPU,
    tell: Callable[[str], None] | None = None,
) -> RealSamples:
    """Return what a trial's samples are compared with; the trials of a sweep share it.

    Args:
        folder: where the data lie; None for data that ship with hptransfer.
        device: where functions of the user's compute.
        tell: gets a line now and then while features of a large data set are computed.

    Raises:
        UserError: our classifier was trained on other content, a function of the user's or the file
            of `quality.reference` is at fault, or there are too few samples for their features.
    """
    with progress_to(tell):
        return _real_samples(config.data, config.quality, folder, device)


@lru_cache(maxsize=2)
def _real_samples(
    data: DataConfig, quality: QualityConfig, folder: str | None, device: torch.device
) -> RealSamples:
    if not quality.extractor:
        load_classifier(data)
    require_functions(quality)
    train = load_data(data, folder).train
    features_at = partial(_features_at, data, quality, train, device)
    size = _feature_count(quality, features_at, len(train))
    if quality.reference:
        return RealSamples(train, _moments_of_file(quality, size), None)
    rows = compared_rows(quality, train)
    about = _about(data, quality)
    if not quality.extractor and isinstance(data, DigitsConfig):
        return RealSamples(train, _moments_of_all(features_at, len(train)), features_at(rows))
    known = _kept(about, lambda: _moments_of_all(features_at, len(train))._asdict())
    compared = _kept(
        {**about, "samples": quality.samples}, lambda: {"compared": _in_parts(features_at, rows)}
    )
    return RealSamples(train, Moments(**known), compared["compared"])


def _features_at(
    data: DataConfig,
    quality: QualityConfig,
    train: Split,
    device: torch.device,
    rows: np.ndarray,
) -> Tensor:
    """Return the features (B, F) of training samples at `rows` (B,)."""
    features = judged_features(data, quality, train.images_at(rows), device)
    if features is None:
        named = " of ".join(filter(None, (quality.extractor, quality.decoder)))
        raise UserError(
            "`quality.extractor` must give samples of the training split finite features, but "
            f"{named} gives NaN or infinity for one of the samples {rows[0]} to {rows[-1]} of that "
            "split. Correct the function, or set quality.samples=0."
        )
    return features


def _feature_count(
    quality: QualityConfig, features_at: Callable[[np.ndarray], Tensor], samples: int
) -> int:
    """Return F, the number of a sample's features, after a look at those of two samples.

    Raises:
        UserError: there are too few samples for a covariance, or a sample's features depend on
            what is beside it, as those of a network in training mode do.
    """
    together = features_at(np.arange(min(2, samples)))
    alone = features_at(np.arange(1))
    alike = together.shape[1:] == alone.shape[1:]
    apart = float((together[:1] - alone).abs().max()) if alike else float("inf")
    require(
        apart <= ALIKE * float(together.abs().max()),
        "`quality.extractor` must give a sample the same features whatever is beside it, but "
        f"{quality.extractor} does not. Put its network into eval mode, and let it draw nothing at "
        "random.",
    )
    size = together.shape[1]
    require(
        quality.samples > size,
        f"`quality.samples` must be more than the features, since their covariance needs it, but "
        f"got {quality.samples} samples, and {quality.extractor} gives {size} features. Set "
        f"quality.samples to {size + 1} or more, better several times that.",
    )
    return size


def _moments_of_all(features_at: Callable[[np.ndarray], Tensor], samples: int) -> Moments:
    progress = Progress("computing features of the training split", samples)
    found = RunningMoments()
    for first in range(0, samples, IMAGES_READ_AT_ONCE):
        rows = np.arange(first, min(first + IMAGES_READ_AT_ONCE, samples))
        found.add(features_at(rows))
        progress.at(first + len(rows))
    return Moments(*(part.cpu() for part in found.result))


def _in_parts(features_at: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
    parts = [
        features_at(rows[first : first + IMAGES_READ_AT_ONCE]).cpu()
        for first in range(0, len(rows), IMAGES_READ_AT_ONCE)
    ]
    return torch.cat(parts)


def _moments_of_file(quality: QualityConfig, size: int) -> Moments:
    """Return the moments in the file of `quality.reference`, of `size` features.

    The format is that of ADM's evaluator, pytorch-fid and others: `mu` (F,) and `sigma` (F, F).
    """
    path = Path(quality.reference)
    with reading(path):
        held = np.load(path, allow_pickle=False)
        names = getattr(held, "files", [])
        require(
            {"mu", "sigma"} <= set(names),
            f"`quality.reference` must name an .npz file with `mu` and `sigma`, but {path} holds "
            f"{', '.join(names[:8]) or 'one array without a name'}. Name another file, or none to "
            "compare with the training split.",
        )
        with held:
            mu, sigma = (np.ascontiguousarray(held[name], "<f8") for name in ("mu", "sigma"))
    require(
        mu.shape == (size,) and sigma.shape == (size, size),
        f"`quality.reference` must hold moments of the features that samples are judged in, but "
        f"{path} has mu {mu.shape} and sigma {sigma.shape}, and the extractor gives {size} "
        "features. Name the file that was made with this extractor.",
    )
    require(
        bool(np.isfinite(mu).all() and np.isfinite(sigma).all()),
        f"`quality.reference` must hold finite numbers, but {path} holds NaN or infinity. Make it "
        "again.",
    )
    found = hashlib.sha256(mu.tobytes() + sigma.tobytes()).hexdigest()[:16]
    require(
        found == quality.reference_sha256,
        "`quality.reference_sha256` must be the hash of the file's mu and sigma, so that a trial "
        f"says what it was compared with, but those of {path} hash to {found} and the config says "
        f"{quality.reference_sha256!r}. Set quality.reference_sha256={found} to compare with them.",
    )
    return Moments(torch.from_numpy(mu), torch.from_numpy(sigma))


def _about(data: DataConfig, quality: QualityConfig) -> dict[str, Any]:
    """Return everything that the features of the training split depend on."""
    own = ("extractor", "decoder", "version")
    judged_by = {name: getattr(quality, name) for name in own}
    if not quality.extractor:
        judged_by = {"classifier": hashlib.sha256(weights_file(data).read_bytes()).hexdigest()}
    return {"format": _FORMAT, "data": plain(data), **judged_by}


def _kept(about: dict[str, Any], compute: Callable[[], Tensors]) -> Tensors:
    """Return tensors from the user's cache, computed and written where they are not there."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = user_cache() / "quality" / f"{key}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (OSError, SafetensorError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            say(
                f"{path} is damaged ({reason}), so the features in it are computed again.",
                quiet=False,
            )
    made = compute()
    try:
        write_whole(path, save(made, {"sha256": _digest(made)}))
    except OSError as error:
        say(
            f"{path} could not be written ({error.strerror}), so every process computes the "
            "features of the training split for itself.",
            quiet=False,
        )
    return made


def _read(path: Path) -> Tensors:
    with safe_open(str(path), framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (file.metadata() or {}).get("sha256") != _digest(found):
            raise ValueError("its numbers are not those that were written")
    return found


def _digest(tensors: Tensors) -> str:
    """Return the hash of tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
