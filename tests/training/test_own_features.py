"""Samples judged by the user's own extractor and decoder, or against a file of moments."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from hptransfer.config import (
    BudgetConfig,
    DigitsConfig,
    DiTConfig,
    FeaturesConfig,
    QualityConfig,
    RuntimeConfig,
    TrialConfig,
    VPConfig,
)
from hptransfer.config.choices import Sampler
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import trial_key
from hptransfer.data import load_data
from hptransfer.data.features import write_features
from hptransfer.errors import UserError
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.metrics import METRICS
from hptransfer.results.table import rows_table
from hptransfer.system.files import user_cache
from hptransfer.training.packs.run import run_pack
from hptransfer.training.sampling import quality as judging
from hptransfer.training.sampling import reference
from hptransfer.training.sampling.quality import (
    RunningMoments,
    draw_quality_samples,
    moments,
    precision_and_recall,
    sample_quality,
)
from hptransfer.training.sampling.reference import load_real_samples
from tests.support import extractors

OWN = "tests.support.extractors:features"
DECODER = "tests.support.extractors:decode"
MODEL = DiTConfig(width=8, base_width=8, depth=1, head_dim=4)
BUDGET = BudgetConfig(steps=4, batch_size=8, eval_samples=16, eval_draws=1)
SHIFT, SCALE = (0.5, -0.25, 0.0, 1.0), 0.5


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without statistics that were computed before, in memory or on disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reference._real_samples.cache_clear()
    extractors.CALLS.clear()


@pytest.fixture
def latents(tmp_path: Path) -> RuntimeConfig:
    """Write 60 latents, and return the runtime that reads them."""
    generator = torch.Generator().manual_seed(0)
    shard = {
        "latents": 2 * torch.randn(60, 4, 8, 8, generator=generator),
        "labels": torch.arange(60) % 3,
    }
    write_features(tmp_path / "latents", [shard], classes=3)
    return RuntimeConfig(data_folder=str(tmp_path / "latents"))


def of_latents(runtime: RuntimeConfig, **data: Any) -> FeaturesConfig:
    config = FeaturesConfig(
        channels=4, image_size=8, classes=3, held_out=10, shift=SHIFT, scale=SCALE, **data
    )
    with pytest.raises(UserError, match=r"data\.sha256=") as told:
        load_data(config, runtime.data_folder)
    (found,) = (word for word in str(told.value).split() if word.startswith("data.sha256="))
    return dataclasses.replace(config, sha256=found.partition("=")[2])


def asking(data: Any = None, **quality: Any) -> TrialConfig:
    asked = QualityConfig(**{"samples": 100, "steps": 2, "extractor": OWN, **quality})
    return TrialConfig(data=data or DigitsConfig(), model=MODEL, budget=BUDGET, quality=asked)


def plainly(real: np.ndarray, drawn: np.ndarray) -> float:
    """Return the Fréchet distance as pytorch-fid computes it."""
    (mu, other_mu), (sigma, other) = (
        [part.mean(0) for part in (real, drawn)],
        [np.cov(part, rowvar=False) for part in (real, drawn)],
    )
    root: Any = scipy.linalg.sqrtm(sigma @ other)
    return float(((mu - other_mu) ** 2).sum() + np.trace(sigma + other - 2 * root.real))


def noise(count: int, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(3))


def test_the_distance_is_the_plain_formula_of_the_extractors_features() -> None:
    config = asking()
    drawn = 2 * noise(100)
    found = sample_quality(config, load_real_samples(config, None), drawn)
    train = load_data(config.data, None).train
    real = extractors.features(train.images_at(np.arange(len(train)))).double().numpy()
    clipped = extractors.features(drawn.clamp(-1, 1)).double().numpy()
    assert found is not None
    assert found.frechet_distance == pytest.approx(plainly(real, clipped), rel=1e-6)
    ours = sample_quality(
        asking(extractor=""), load_real_samples(asking(extractor=""), None), drawn
    )
    assert ours is not None and ours.frechet_distance != found.frechet_distance


def test_latents_are_judged_as_images_of_the_decoder_in_the_scale_of_the_vae(latents) -> None:
    config = asking(of_latents(latents), decoder=DECODER)
    seen = noise(100, 4)
    found = sample_quality(config, load_real_samples(config, latents.data_folder), seen)
    train = load_data(config.data, latents.data_folder).train
    stored = seen / SCALE + torch.tensor(SHIFT).view(-1, 1, 1)
    held: Any = train
    real = held.source.stored_at(held.rows)
    images = [extractors.decode(part).clamp(-1, 1) for part in (real, stored)]
    assert images[0].shape == (50, 3, 16, 16)
    expected = plainly(*(extractors.features(part).double().numpy() for part in images))
    assert found is not None and found.frechet_distance == pytest.approx(expected, rel=1e-6)
    assert max(extractors.CALLS[:-2]) <= 50
    directly = asking(config.data)
    of_latents_alone = sample_quality(
        directly, load_real_samples(directly, latents.data_folder), seen
    )
    expected = plainly(*(extractors.features(part).double().numpy() for part in (real, stored)))
    assert of_latents_alone is not None
    assert of_latents_alone.frechet_distance == pytest.approx(expected, rel=1e-6)


def test_a_packs_members_are_judged_as_the_trials_alone(latents) -> None:
    base = asking(of_latents(latents), decoder=DECODER)
    trials = [with_hyperparameters(base, {"log2_lr": rate}) for rate in (-7.0, -5.0, 200.0)]
    together = run_pack(trials, latents)
    alone = [run_pack([trial], latents)[0] for trial in trials]
    for one, other in zip(together[:2], alone, strict=False):
        assert one.quality is not None and one.quality == pytest.approx(other.quality, rel=1e-4)
    assert together[0].quality != pytest.approx(together[1].quality, rel=1e-2)
    assert together[2].quality is None is alone[2].quality


def test_what_is_kept_on_disk_gives_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = asking()
    first = load_real_samples(config, None)
    computed = sum(extractors.CALLS)
    kept = sorted((user_cache() / "quality").iterdir())
    assert len(kept) == 2 and computed > 1400
    reference._real_samples.cache_clear()
    extractors.CALLS.clear()
    again = load_real_samples(config, None)
    assert extractors.CALLS == [2, 1]  # the look at two samples
    for one, other in zip(
        (*first.moments, first.compared), (*again.moments, again.compared), strict=True
    ):
        assert one is not None and other is not None and torch.equal(one, other)
    for changed in (asking(version="2"), asking(samples=110)):
        before = len(kept)
        load_real_samples(changed, None)
        kept = sorted((user_cache() / "quality").iterdir())
        assert len(kept) == before + (2 if changed.quality.version else 1)
    load_real_samples(asking(extractor=""), None)  # digits by our classifier take no time
    assert sorted((user_cache() / "quality").iterdir()) == kept


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_computed_again_and_said(damage: str, capsys) -> None:
    config = asking()
    first = load_real_samples(config, None)
    for path in (user_cache() / "quality").iterdir():
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes({"cut": content[:-9], "flip": content, "empty": b""}[damage])
    reference._real_samples.cache_clear()
    again = load_real_samples(config, None)
    assert capsys.readouterr().err.count("is damaged (") == 2
    assert torch.equal(first.moments.covariance, again.moments.covariance)
    reference._real_samples.cache_clear()
    load_real_samples(config, None)
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    load_real_samples(asking(), None)
    assert "so every process computes the features of the training split" in capsys.readouterr().err


def test_moments_of_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    points = 1e3 + torch.randn(101, 5, generator=torch.Generator().manual_seed(0)).double()
    whole = moments(points)

    def in_parts(size: int) -> Any:
        running = RunningMoments()
        for part in points.split(size):
            running.add(part)
        return running.result

    for one, other in zip(in_parts(7), whole, strict=True):
        assert torch.equal(one, other)
    monkeypatch.setattr(judging, "VALUES_AT_ONCE", 50)
    for size in (4, 10, 100):  # the last part of 100 is one point
        for one, other in zip(in_parts(size), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_of_many_samples_some_are_compared_by_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MOST_COMPARED", 40)
    config = asking()
    real, drawn = load_real_samples(config, None), noise(100)
    found = sample_quality(config, real, drawn)
    chosen = judging.compared_samples(config.quality)
    assert len(chosen) == 40 == len(np.unique(chosen)) and chosen[0] == 1 and chosen[-1] == 98
    train = load_data(config.data, None).train
    rows = np.unique(judging.quality_rows(config, train)[chosen])
    of_drawn = extractors.features(drawn[chosen].clamp(-1, 1))
    expected = precision_and_recall(extractors.features(train.images_at(rows)), of_drawn)
    assert found is not None and (found.precision, found.recall) == expected


def write_reference(path: Path, size: int = extractors.FEATURES, **more: Any) -> Path:
    random = np.random.default_rng(0)
    points = random.normal(size=(500, size))
    held = {"mu": points.mean(0), "sigma": np.cov(points, rowvar=False), **more}
    np.savez(path, **{name: value for name, value in held.items() if value is not None})
    return path


def compared_with(path: Path) -> TrialConfig:
    """Return a trial that is compared with a sound file."""
    with np.load(path) as held:
        content = b"".join(held[name].astype("<f8").tobytes() for name in ("mu", "sigma"))
    return asking(reference=str(path), reference_sha256=hashlib.sha256(content).hexdigest()[:16])


def test_a_file_of_moments_takes_the_place_of_the_training_split(tmp_path: Path, runtime) -> None:
    config = compared_with(write_reference(tmp_path / "reference.npz"))
    (result,) = run_pack([config], runtime)
    assert result.quality is not None and result.quality[1:] == (None, None)
    assert sum(extractors.CALLS) == 3 + 100  # none of the training split but two looks
    points = np.random.default_rng(0).normal(size=(500, extractors.FEATURES))
    drawn = noise(100)
    found = sample_quality(config, load_real_samples(config, None), drawn)
    expected = plainly(points, extractors.features(drawn.clamp(-1, 1)).double().numpy())
    assert found is not None and found[1:] == (None, None)
    assert found.frechet_distance == pytest.approx(expected, rel=1e-6)


def test_rows_of_such_a_trial_have_no_precision_and_say_so(tmp_path: Path, runtime) -> None:
    config = compared_with(write_reference(tmp_path / "reference.npz"))
    averaged = dataclasses.replace(config.budget, judged_ema_fractions=(0.5,))
    (result,) = run_pack([dataclasses.replace(config, budget=averaged)], runtime)
    row = ledger_row(result, {"log2_lr": -6.0}, {})
    assert {"frechet_distance", "frechet_distance_ema_0.5"} <= row["metrics"].keys()
    assert not any(name.startswith("precision") for name in row["metrics"])
    assert len(rows_table([row], METRICS["frechet_distance"])) == 1
    with pytest.raises(UserError, match=r"above 0 and without quality.reference under"):
        rows_table([row], METRICS["precision"])
    row["metrics"]["frechet_distance"] = 0.0  # as of features that are the same for all images
    with pytest.raises(
        UserError, match=f"must be positive to be judged by, but trial {row['trial_key']}"
    ):
        rows_table([row], METRICS["frechet_distance"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mu": None}, "with `mu` and `sigma`, but .*reference.npz holds sigma. Name"),
        ({"size": 7}, r"but .*reference.npz has mu \(7,\) and sigma \(7, 7\).*gives 12 features"),
        ({"mu": np.full(12, np.nan)}, "must hold finite numbers, but .*reference.npz"),
        ({"sigma": np.array([{}])}, "reference.npz is broken or cannot be read: Object arrays"),
        ({}, "reference.npz hash to [0-9a-f]{16} and the config says '0123'"),
    ],
)
def test_a_reference_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = write_reference(tmp_path / "reference.npz", **change)
    with pytest.raises(UserError, match=sentence):
        load_real_samples(asking(reference=str(path), reference_sha256="0123"), None)


def test_a_reference_that_is_not_there_or_another_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.npz is broken or cannot be read: .*No such file"):
        load_real_samples(asking(reference=str(tmp_path / "gone.npz")), None)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"one.npy holds one array without a name"):
        load_real_samples(asking(reference=str(tmp_path / "one.npy")), None)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("too_few_rows", r"must return 2 rows of features .* returns a tensor of shape \(1, 12\)"),
        ("maps", r"returns a tensor of shape \(2, 12, 3, 3\) and type float32"),
        ("endless", "gives NaN or infinity for one of the samples 0 to 1 of that split"),
        ("in_training_mode", "the same features whatever is beside it, .*eval mode"),
        (
            "broken",
            r"extractors:broken raises RuntimeError: no weights for 1 channels \(line \d+ of",
        ),
        (
            "hundred_and_fifty",
            "got 100 samples, and .* gives 150 features. Set quality.samples to 151",
        ),
        ("gone", "no function 'gone'"),
    ],
)
def test_a_faulty_extractor_is_one_sentence_before_training(
    name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asking(extractor=f"tests.support.extractors:{name}")
    monkeypatch.setattr(
        "hptransfer.training.packs.run.train_pack", lambda *_: pytest.fail("trained")
    )
    with pytest.raises(UserError, match=sentence):
        run_pack([config], RuntimeConfig())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("flat_images", r"must return 2 images of 1 or 3 channels .*of shape \(2, 256\)"),
        (
            "endless_images",
            "extractors:features of tests.support.extractors:endless_images gives NaN",
        ),
        ("gone", "`quality.decoder` must name a function of its module"),
    ],
)
def test_a_faulty_decoder_is_one_sentence(latents, name: str, sentence: str) -> None:
    config = asking(of_latents(latents), decoder=f"tests.support.extractors:{name}")
    with pytest.raises(UserError, match=sentence):
        load_real_samples(config, latents.data_folder)


def test_samples_whose_images_are_not_finite_have_no_quality(latents) -> None:
    for decoder in ("", "tests.support.extractors:first_channels"):
        config = asking(of_latents(latents), decoder=decoder)
        real, samples = load_real_samples(config, latents.data_folder), noise(100, 4)
        assert sample_quality(config, real, samples) is not None
        samples[70] = 3e38  # finite, and infinite in the VAE's scale
        assert sample_quality(config, real, samples) is None


def test_functions_are_found_in_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_features.py").write_text("from tests.support.extractors import features as f\n")
    monkeypatch.chdir(tmp_path)
    real = load_real_samples(asking(extractor="my_features:f"), None)
    assert real.moments.mean.shape == (extractors.FEATURES,)
    with pytest.raises(UserError, match=r"`quality.extractor` must name .*, as package.module:fun"):
        load_real_samples(asking(extractor="my_features"), None)
    with pytest.raises(UserError, match="importing no_such_module raises ModuleNotFoundError"):
        load_real_samples(asking(extractor="no_such_module:f"), None)


def test_the_sampler_and_its_guidance_are_those_of_the_config() -> None:
    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return 0.3 * x.pow(2) + labels.view(-1, 1, 1, 1) / 10

    def drawn(**quality: Any) -> Tensor:
        config = asking(**quality)
        train = load_data(config.data, None).train
        return draw_quality_samples(config, train, model, torch.device("cpu"))

    first = drawn(steps=5)
    assert torch.equal(first, drawn(steps=5, sampler=Sampler.dpm_solver))
    assert not torch.allclose(first, drawn(steps=5, sampler=Sampler.euler), atol=1e-2)
    assert not torch.allclose(first, drawn(steps=5, guidance=2.0), atol=1e-2)


@pytest.mark.parametrize(
    ("quality", "changes", "sentence"),
    [
        ({"sampler": Sampler.ddim}, {}, "objective=rectified_flow takes euler or dpm_solver"),
        (
            {"sampler": Sampler.euler},
            {"objective": VPConfig()},
            "objective=vp takes ddim or dpm_so",
        ),
        ({"decoder": DECODER}, {}, "`quality.decoder` makes images of latents .*data=digits"),
        (
            {"extractor": "", "version": "2"},
            {},
            "`quality.version` has no effect without quality.ext",
        ),
        ({"reference_sha256": "0"}, {}, "has no effect without quality.reference, but got 0"),
        (
            {"samples": 0},
            {},
            "`quality.extractor` has no effect without quality.samples, but got te",
        ),
        ({"extractor": ""}, {"data": FeaturesConfig()}, "Set quality.extractor to a function"),
    ],
)
def test_fields_that_do_not_fit_are_refused(
    quality: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    asked = QualityConfig(**{"samples": 100, "extractor": OWN, **quality})
    with pytest.raises(UserError, match=sentence):
        TrialConfig(quality=asked, **changes)


def test_keys_depend_on_the_functions_and_their_version_and_old_ones_stay() -> None:
    asked = TrialConfig(quality=QualityConfig(samples=1000))
    assert trial_key(asked) == "f21a3030313b"
    own: list[dict[str, Any]] = [
        {"extractor": OWN},
        {"extractor": OWN, "version": "2"},
        {"extractor": OWN, "reference": "a.npz", "reference_sha256": "0"},
        {"extractor": OWN, "reference": "a.npz", "reference_sha256": "1"},
        {"sampler": Sampler.euler},
    ]
    keys = {trial_key(TrialConfig(quality=QualityConfig(samples=1000, **words))) for words in own}
    decoded = QualityConfig(samples=1000, extractor=OWN, decoder=DECODER)
    keys |= {
        trial_key(TrialConfig(data=FeaturesConfig(), quality=quality))
        for quality in (decoded, dataclasses.replace(decoded, decoder=""))
    }
    assert len(keys) == 7 and trial_key(asked) not in keys
