"""µP in a loop that is not ours: `hptransfer.mup` on models and steps that know nothing of us."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import mup
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

import hptransfer
from hptransfer.errors import UserError
from tests.support.own_models import (
    CLASSES,
    FEATURES,
    LanguageModel,
    Loss,
    class_loss,
    conv_net,
    image_loss,
    language_loss,
    mlp,
    stepping,
    tokens_of,
)

BASE = 32
MODELS = {
    "mlp": (mlp, class_loss),
    "transformer": (LanguageModel, language_loss),
    "conv": (conv_net, image_loss),
}
models = pytest.mark.parametrize(("make", "loss_of"), MODELS.values(), ids=MODELS)

ROLES = {
    "mlp": {
        "input": ["0.weight"],
        "hidden": ["2.weight", "4.weight"],
        "output": ["6.weight"],
        "vector": ["0.bias", "2.bias", "4.bias"],
        "finite": ["6.bias"],
    },
    "conv": {
        "input": ["0.weight"],
        "vector": ["0.bias", "1.weight", "1.bias", "3.bias"],
        "hidden": ["3.weight"],
        "output": ["7.weight"],
        "finite": ["7.bias"],
    },
}


def seeded(make: Callable[[int], nn.Module], width: int, **words: Any) -> nn.Module:
    """Return the built model of seed 0 at base width 32."""
    torch.manual_seed(0)
    return hptransfer.mup.build(make, width=width, base_width=BASE, **words)


def by_name(model: nn.Module, groups: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Return a value of each parameter's group, by the parameter's name in `model`."""
    values = {id(p): group[key] for group in groups for p in group["params"]}
    return {name: values[id(p)] for name, p in model.named_parameters()}


def trained(model: Any, groups: list[dict[str, Any]], loss_of: Loss, steps: int = 3) -> list[float]:
    """Return the losses of a few AdamW steps."""
    step, optimizer = stepping(loss_of), torch.optim.AdamW(groups)
    return [float(step(model, optimizer, number)) for number in range(steps)]


@pytest.mark.parametrize("name", ROLES)
def test_roles_are_those_of_the_layers(name: str) -> None:
    make, _ = MODELS[name]
    model = seeded(make, 64)
    groups = hptransfer.mup.param_groups(model, lr=0.1)
    found: dict[str, list[str]] = {}
    for parameter, role in by_name(model, groups, "name").items():
        found.setdefault(role, []).append(parameter)
    assert found == ROLES[name]


@models
def test_at_the_base_width_it_is_the_users_own_model_to_the_bit(
    make: Callable[[int], nn.Module], loss_of: Loss
) -> None:
    built = seeded(make, BASE)
    torch.manual_seed(0)
    own = make(BASE)
    for name, value in own.named_parameters():
        assert torch.equal(value, built.get_parameter(name)), name
    groups = hptransfer.mup.param_groups(built, lr=0.25, weight_decay=0.5, eps=1e-6)
    assert {(g["lr"], g["weight_decay"], g["eps"]) for g in groups} == {(0.25, 0.5, 1e-6)}
    assert len([p for group in groups for p in group["params"]]) == len(list(own.parameters()))


class Reading(nn.Module):
    """A model that cannot be built without storage, with a table of very uneven entries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = mlp(int(torch.tensor(width).item()))
        self.uneven = nn.Parameter(torch.randn(3) ** 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("width", [BASE, 2 * BASE])
def test_measuring_does_not_move_the_users_generator(width: int) -> None:
    built = seeded(Reading, width)
    after = torch.rand(3)
    torch.manual_seed(0)
    own = Reading(width)
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(built.get_parameter("layers.2.weight"), own.get_parameter("layers.2.weight"))
    assert width > BASE or torch.equal(built.get_parameter("uneven"), own.uneven)


def exponent(values: list[float]) -> float:
    return float(np.polyfit(range(len(values)), np.log2(values), 1)[0])


STD = {"hidden": -0.5, "input": 0.0, "vector": 0.0, "output": -1.0, "finite": 0.0}
STEP = {"hidden": -1.0, "input": 0.0, "vector": 0.0, "output": -1.0, "finite": 0.0}


@models
def test_stds_and_first_steps_have_the_exponents_of_table_8(
    make: Callable[[int], nn.Module], loss_of: Loss
) -> None:
    """Folded: the readout's std and rate have the 1/m of its multiplier."""
    stds: dict[str, list[float]] = {}
    moves: dict[str, list[float]] = {}
    roles: dict[str, str] = {}
    for width in (32, 64, 128, 256):
        model = seeded(make, width)
        groups = hptransfer.mup.param_groups(model, lr=1e-3)
        roles = by_name(model, groups, "name")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trained(model, groups, loss_of, steps=1)
        for name, value in model.named_parameters():
            moved = (value.detach() - before[name]).abs()
            stds.setdefault(name, []).append(float(before[name].square().mean().sqrt()))
            moves.setdefault(name, []).append(float(moved[moved > 0].median()))
    for name, role in roles.items():
        few = before[name].numel() <= 256
        if stds[name][0]:
            allowed = 0.25 if few else 0.06
            assert exponent(stds[name]) == pytest.approx(STD[role], abs=allowed), name
        assert exponent(moves[name]) == pytest.approx(STEP[role], abs=0.03), name


def test_an_initialiser_that_is_no_power_of_the_width_is_continued_from_the_base() -> None:
    def xavier(width: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 500))
        for layer in model:
            nn.init.xavier_normal_(cast(nn.Linear, layer).weight)
        return model

    at_base, wide = seeded(xavier, BASE), seeded(xavier, 8 * BASE)
    weights = [f"{index}.weight" for index in range(3)]
    with torch.no_grad():
        std = [float(wide.get_parameter(w).std() / at_base.get_parameter(w).std()) for w in weights]
    assert std == pytest.approx([1.0, 8**-0.5, 1 / 8], rel=0.06)


def theirs(make: Callable[..., nn.Module], width: int) -> nn.Module:
    """Return the model of seed 0 under the mup package."""
    with_readout = partial(make, readout=mup.MuReadout)
    torch.manual_seed(0)
    model = with_readout(width)
    mup.set_base_shapes(model, with_readout(BASE), delta=with_readout(2 * BASE))
    return model


@pytest.mark.parametrize("name", ["mlp", "transformer"])
@pytest.mark.parametrize("m", [1, 4])
def test_it_starts_and_trains_as_the_mup_package(name: str, m: int) -> None:
    make, loss_of = MODELS[name]
    other = theirs(make, m * BASE)
    ours = seeded(make, m * BASE, readout="hook")
    for key, value in other.named_parameters():
        # A readout's bias of 4 entries is measured; all else is exact.
        assert torch.allclose(ours.get_parameter(key), value, rtol=1e-6), key
    groups = hptransfer.mup.param_groups(ours, lr=2**-6, weight_decay=0.1)
    optimizer = mup.MuAdamW(other.parameters(), lr=2**-6, weight_decay=0.1)
    rates = by_name(other, optimizer.param_groups, "lr")
    decays = by_name(other, optimizer.param_groups, "weight_decay")
    assert by_name(ours, groups, "lr") == rates
    assert by_name(ours, groups, "weight_decay") == decays
    step = stepping(loss_of)
    losses = [float(step(other, optimizer, number)) for number in range(4)]
    assert trained(ours, groups, loss_of, 4) == pytest.approx(losses, rel=1e-5)


@models
def test_folded_and_hooked_readouts_train_alike(
    make: Callable[[int], nn.Module], loss_of: Loss
) -> None:
    words: dict[str, Any] = {"lr": 2**-6, "weight_decay": 0.1, "eps": 1e-5}
    losses = []
    for readout in ("folded", "hook"):
        model = seeded(make, 128, readout=readout)
        losses.append(trained(model, hptransfer.mup.param_groups(model, **words), loss_of, 5))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "hidden", "others"),
    [("mup", 0.1 * 4, 0.1), ("independent", 0.1 / 0.5 * 4, 0.1 / 0.5), ("unscaled", 0.1, 0.1)],
)
def test_weight_decay_follows_its_mode(mode: str, hidden: float, others: float) -> None:
    model = seeded(mlp, 4 * BASE)
    groups = hptransfer.mup.param_groups(
        model, lr=0.5, weight_decay=0.1, weight_decay_mode=mode, eps_scaling="width", eps=1e-4
    )
    found = {group["name"]: group for group in groups}
    assert found["hidden"]["weight_decay"] == pytest.approx(hidden)
    assert found["vector"]["weight_decay"] == pytest.approx(others)
    factors = {name: g["weight_decay"] / others for name, g in found.items()}
    assert factors == pytest.approx({n: g["weight_decay_factor"] for n, g in found.items()})
    assert found["hidden"]["eps"] == 1e-4 / 4 and found["finite"]["eps"] == 1e-4


class Odd(nn.Module):
    """Parameters that do not grow, of no dimension, frozen, and layers of two ratios."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.module = nn.Linear(FEATURES, width)  # a name that wrappers use as well
        self.narrow = nn.Linear(width, width // 2 + 8)
        self.wide = nn.Linear(width // 2 + 8, width)
        self.fixed = nn.Parameter(torch.randn(3, 5))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.frozen = nn.Parameter(torch.randn(width), requires_grad=False)
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.module(x)) + self.frozen
        return self.readout(x + self.wide(torch.relu(self.narrow(x)))) * self.scale


def test_what_does_not_grow_has_no_factor_and_what_is_frozen_is_left() -> None:
    torch.manual_seed(0)
    own = Odd(4 * BASE)
    model = seeded(Odd, 4 * BASE)
    for name in ("fixed", "scale", "frozen"):
        assert torch.equal(model.get_parameter(name), own.get_parameter(name))
    groups = hptransfer.mup.param_groups(model, lr=1.0)
    assert id(model.get_parameter("frozen")) not in {id(p) for g in groups for p in g["params"]}
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["finite"] == 1.0
    assert rates["hidden, m = 4"] == 1 / 4  # the fan-in is the width
    assert rates["hidden, m = 3"] == pytest.approx(1 / 3)  # 72 over 24
    assert np.isfinite(trained(model, groups, class_loss)).all()


def test_a_tied_table_is_scaled_as_a_table_and_its_readout_by_a_hook() -> None:
    tied = partial(LanguageModel, tied=True)
    with pytest.raises(UserError, match=r"embed\.weight and readout\.weight are one tensor"):
        seeded(tied, 128)
    model = cast(LanguageModel, seeded(tied, 128, readout="hook"))
    assert model.readout.weight is model.embed.weight
    assert model.embed.weight.std().item() == pytest.approx(1.0, rel=0.05)
    groups = hptransfer.mup.param_groups(model, lr=1.0)
    rates = by_name(model, groups, "lr")
    assert (rates["embed.weight"], rates["blocks.0.fc1.weight"]) == (1.0, 1 / 4)
    x = torch.randn(2, 128)
    assert torch.allclose(model.readout(x), x @ model.embed.weight.T / 4, atol=1e-5)
    assert torch.allclose(model.readout(input=x), model.readout(x))


def test_a_tied_readout_that_comes_first_is_a_table_all_the_same() -> None:
    class ReadoutFirst(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.readout, self.embed = nn.Linear(width, 64, bias=False), nn.Embedding(64, width)
            self.embed.weight = self.readout.weight

    model = seeded(ReadoutFirst, 4 * BASE, readout="hook")
    (group,) = hptransfer.mup.param_groups(model, lr=1.0)
    assert (group["name"], group["lr"]) == ("input", 1.0)
    x, weight = torch.randn(2, 4 * BASE), model.get_parameter("readout.weight")
    assert torch.allclose(model.get_submodule("readout")(x), x @ weight.T / 4, atol=1e-6)


def test_stated_roles_count() -> None:
    model = seeded(mlp, 4 * BASE, roles=["4.weight=input", "4.*=finite"])
    groups = hptransfer.mup.param_groups(model, lr=1.0)
    names = by_name(model, groups, "name")
    assert (names["4.weight"], names["4.bias"], names["2.weight"]) == ("input", "finite", "hidden")
    wide = model.get_parameter("4.weight").std() / model.get_parameter("2.weight").std()
    assert wide.item() == pytest.approx(2.0, rel=0.05)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    for block in cast(LanguageModel, model).blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def compiled_in_part(model: nn.Module) -> nn.Module:
    blocks = cast(LanguageModel, model).blocks
    for index, block in enumerate(blocks):
        blocks[index] = cast(nn.Module, torch.compile(block, backend="eager"))
    return model


def replicated_in_part(model: nn.Module) -> nn.Module:
    blocks = cast(LanguageModel, model).blocks
    for index, block in enumerate(blocks):
        blocks[index] = DistributedDataParallel(block)
    return model


class Accelerated(nn.Module):
    """As accelerate's `prepare` leaves a model: compiled, in DDP, with a forward of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = DistributedDataParallel(
            cast(nn.Module, torch.compile(model, backend="eager"))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "float64": lambda model: model.to(torch.float64),
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled in part": compiled_in_part,
    "DDP": DistributedDataParallel,
    "DDP in part": replicated_in_part,
    "FSDP2": sharded,
    "accelerate": Accelerated,
    "inside another": lambda model: nn.ModuleDict({"student": model}),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_factors_are_found_by_name_whatever_wraps_the_model(wrap: Callable[..., Any]) -> None:
    words: dict[str, Any] = {"lr": 2**-6, "weight_decay": 0.1}
    plain = seeded(LanguageModel, 64)
    expected = hptransfer.mup.param_groups(plain, **words)
    wrapped = wrap(seeded(LanguageModel, 64))
    groups = hptransfer.mup.param_groups(wrapped, **words)
    rates = list(by_name(wrapped, groups, "lr").values())
    assert rates == list(by_name(plain, expected, "lr").values())
    assert [{**g, "params": len(g["params"])} for g in groups] == [
        {**g, "params": len(g["params"])} for g in expected
    ]
    losses = trained(plain, expected, language_loss)
    forward = wrapped["student"] if isinstance(wrapped, nn.ModuleDict) else wrapped
    assert trained(forward, groups, language_loss) == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
def test_two_processes_with_fsdp2_train_as_one() -> None:
    plain = seeded(LanguageModel, 64)
    losses = trained(plain, hptransfer.mup.param_groups(plain, lr=2**-6), language_loss)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "tests.support.own_loop_processes"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert printed == [pytest.approx(losses, rel=1e-5)] * 2


@models
def test_the_check_passes_a_built_model(make: Callable[[int], nn.Module], loss_of: Loss) -> None:
    answer = hptransfer.mup.check(make, stepping(loss_of), widths=[32, 64, 128], lr=2**-5, seeds=4)
    assert answer.verdict == "pass" and answer.passed, str(answer)
    assert answer.lr == 2**-5
    measured = {name for name, part in make(8).named_modules() if [*part.parameters()]} - {""}
    measured -= {"blocks"}  # a list, which has no output
    assert {"(model)", *measured} == set(answer.table["module"])
    assert "passes the coordinate check" in str(answer) and answer.worst in str(answer)


@models
def test_the_check_fails_one_rate_for_all_groups_and_names_a_module(
    make: Callable[[int], nn.Module], loss_of: Loss
) -> None:
    """Which is the standard parametrization's training of a µP initialisation."""
    step = stepping(loss_of)

    def flattened(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = 2**-5
        return step(model, optimizer, number)

    answer = hptransfer.mup.check(make, flattened, widths=[32, 64], lr=2**-5, seeds=2)
    assert answer.verdict == "fail"
    assert answer.record["worst"]["slope"] > 0.5
    assert "fails the coordinate check" in str(answer) and answer.worst in str(answer)
    assert answer.table["ok"].tolist()[0] is False


def test_the_check_fails_a_wrong_init_and_wrong_roles() -> None:
    checked = partial(hptransfer.mup.check, mlp, widths=[32, 64, 128], lr=2**-5, seeds=2)
    step = stepping(class_loss)
    assert checked(step, roles=["2.weight=input", "4.weight=input"]).verdict == "fail"
    assert checked(step, roles=["6.weight=input"]).verdict == "fail"

    def restarted(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number == 0:  # with a std of hidden weights that does not fall
            nn.init.normal_(model.get_parameter("2.weight"), std=0.2)
        return step(model, optimizer, number)

    assert checked(restarted).verdict == "fail"
    assert checked(step, roles=[]).verdict == "pass"


def narrowed(width: int) -> nn.Module:
    """Build an MLP through four channels."""
    layers = mlp(width)
    layers[2] = nn.Sequential(nn.Linear(width, 4), nn.Linear(4, width))
    return layers


def test_the_check_names_a_layer_that_was_taken_for_a_readout() -> None:
    checked = partial(
        hptransfer.mup.check, narrowed, stepping(class_loss), widths=[32, 64, 128], lr=2**-5
    )
    answer = checked()
    assert answer.verdict == "fail"
    (cause,) = answer.causes
    assert (cause["parameter"], cause["role"]) == ("2.0.weight", "output")
    assert "it lies amid the network" in cause["sentence"]
    assert cause["type"] == 'roles=["2.0.weight=hidden"]'
    assert cause["type"] in str(answer)
    assert checked(roles=["2.0.weight=hidden"]).verdict == "pass"


def test_the_check_fails_a_head_dimension_that_grows() -> None:
    class Wide(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.model = LanguageModel(width)
            self.extra = nn.MultiheadAttention(width, 2, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.model.embed(tokens)
            return self.model.readout(self.extra(h, h, h)[0])

    answer = hptransfer.mup.check(Wide, stepping(language_loss), widths=[32, 64], lr=2**-6, seeds=2)
    assert answer.verdict == "fail"
    assert "The head dimension of extra grows with the width: it is 16 and 32" in str(answer)


def test_the_checks_table_and_pictures_hold_what_was_measured(tmp_path: Path) -> None:
    def outputs(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
        return stepping(class_loss)(model, optimizer, step)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    answer = hptransfer.mup.check(
        mlp, outputs, widths=[64, 32], base_width=16, lr=2**-5, seeds=2, steps=3
    )
    assert torch.equal(torch.get_rng_state(), before)
    table = answer.table
    assert [*table.columns[:4]] == ["module", "quantity", "step", "slope"]
    assert {"rms_32", "rms_64"} <= set(table.columns)
    assert {*table["step"]} == {0, 2, 3}
    slopes = np.log2(table["rms_64"] / table["rms_32"])
    assert slopes.tolist() == pytest.approx(table["slope"].tolist(), abs=1e-3)
    own = table[(table["module"] == "(model)") & (table["quantity"] == "update")]
    readout = table[(table["module"] == "6") & (table["quantity"] == "update")]
    assert own["rms_32"].tolist() == readout["rms_32"].tolist()
    # The RMS is that of the model's output on the first batch.
    sizes = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = hptransfer.mup.build(mlp, width=32, base_width=16)
        x = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(0))
        sizes.append(float(model(x).double().square().mean().sqrt().detach()))
    at_init = table[(table["module"] == "(model)") & (table["step"] == 0)]["rms_32"]
    assert at_init.tolist() == pytest.approx([float(np.exp(np.log(sizes).mean()))], rel=1e-5)
    written = answer.plot(tmp_path / "pictures")
    assert {path.suffix for path in written} == {".png", ".svg", ".pdf"}
    assert all(path.is_file() for path in written)


class Wordy(nn.Module):
    """A model of keyword arguments with dropout, batch norm and a dict as its output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(mlp(width)[0], nn.BatchNorm1d(width), nn.Dropout(0.1))
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, *, x: Tensor, labels: Tensor) -> dict[str, Any]:
        logits = self.readout(torch.relu(self.body(x)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits, "no": None}


def test_the_check_takes_keyword_arguments_dropout_and_outputs_in_a_dict() -> None:
    seen = []

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
        x = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(step))
        loss = model(x=x, labels=x[:, :CLASSES].argmax(-1))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(int(model.body[1].num_batches_tracked))  # pyright: ignore
        return loss.item()

    checked = partial(hptransfer.mup.check, Wordy, train_step, widths=[32, 64], readout="hook")
    adamw = partial(torch.optim.AdamW, betas=(0.9, 0.95))
    answer = checked(lr=2**-5, seeds=2, make_optimizer=adamw)
    assert seen[:7] == [1, 2, 3, 4, 5, 6, 7], "measuring leaves buffers alone"
    assert "(model)[logits]" in {*answer.table["module"]}
    assert "(model)[loss]" not in {*answer.table["module"]}
    still = checked(lr=1e-9, seeds=1).table.query("quantity == 'update'")
    assert max(still["rms_64"].tolist()) < 1e-5, "dropout's masks are the same before and after"


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR with warm-up from zero": lambda o: lr_scheduler.LambdaLR(o, lambda n: n / 10),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "CosineAnnealingLR to zero": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "OneCycleLR with a rate a group": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=[group["lr"] for group in o.param_groups], total_steps=15
    ),
}
FLATTENING: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "OneCycleLR with one rate": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=15),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-1, cycle_momentum=False),
    "CosineAnnealingLR to a floor": lambda o: lr_scheduler.CosineAnnealingLR(o, 12, eta_min=1e-3),
}


def steps_of(optimizer: Any, schedule: Any, steps: int = 14) -> None:
    for _ in range(steps):
        optimizer.step()
        schedule.step()


def watched() -> torch.optim.Optimizer:
    return torch.optim.AdamW(hptransfer.mup.param_groups(seeded(mlp, 256), lr=0.1))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_that_multiply_pass(schedule: Callable[..., Any], before: bool) -> None:
    optimizer = watched()
    if before:
        hptransfer.mup.require_ratios(optimizer)
        steps_of(optimizer, schedule(optimizer))
    else:
        made = schedule(optimizer)
        hptransfer.mup.require_ratios(optimizer)
        steps_of(optimizer, made)


@pytest.mark.parametrize("schedule", FLATTENING.values(), ids=FLATTENING)
def test_schedules_of_absolute_rates_are_stopped(schedule: Callable[..., Any]) -> None:
    optimizer = watched()
    hptransfer.mup.require_ratios(optimizer)
    with pytest.raises(UserError, match=r"must keep their ratios.*LambdaLR") as told:
        steps_of(optimizer, schedule(optimizer))
    assert "`hidden`" in str(told.value) or "`output`" in str(told.value)


class AcceleratedOptimizer(torch.optim.Optimizer):
    """As accelerate's: a torch optimizer by class, whose step is its own optimizer's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> None:  # pyright: ignore
        self.optimizer.step(closure)


class ShardedOptimizer:
    """As DeepSpeed's ZeRO: steps one group at a time."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self) -> None:
        groups = self.optimizer.param_groups
        for group in groups:
            self.optimizer.param_groups = [group]
            self.optimizer.step()
        self.optimizer.param_groups = groups


class Engine(nn.Module):
    """As DeepSpeed's engine, which holds a wrapper as its `optimizer`."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.step = optimizer.step

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups


HOLDERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "nothing": lambda optimizer: optimizer,
    "accelerate": AcceleratedOptimizer,
    "ZeRO": ShardedOptimizer,
    "engine": lambda optimizer: Engine(ShardedOptimizer(optimizer)),
}


@pytest.mark.parametrize("loads", [False, True], ids=["fresh", "a loaded checkpoint"])
@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_the_watch_survives_what_holds_the_optimizer(hold: Callable[..., Any], loads: bool) -> None:
    optimizer = watched()
    held = hold(optimizer)
    handle = hptransfer.mup.require_ratios(held)
    if loads:
        optimizer.load_state_dict(optimizer.state_dict())
    for share in (0.0, 0.5, 1.0):
        for group in held.param_groups:
            group["lr"] = share * 0.1 * group["lr_factor"]
        held.step()
    for group in held.param_groups:
        group["lr"] = 0.1
    with pytest.raises(UserError, match="must keep their ratios"):
        held.step()
    handle.remove()
    held.step()


def test_a_float32_rate_on_the_device_keeps_its_ratio() -> None:
    groups = hptransfer.mup.param_groups(seeded(Odd, 4 * BASE), lr=0.1)
    optimizer = torch.optim.AdamW([{**g, "lr": torch.tensor(g["lr"])} for g in groups])
    hptransfer.mup.require_ratios(optimizer)
    steps_of(optimizer, lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n)))


def grown(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 2))


def cube(width: int) -> nn.Module:
    model = grown(width)
    model.register_parameter("cube", nn.Parameter(torch.ones(width, width, width)))
    return model


def unlike(width: int) -> nn.Module:
    return nn.Sequential(*grown(width), *(nn.Linear(2, 2) for _ in range(width // 8)))


def sometimes_zero(width: int) -> nn.Module:
    model = grown(width)
    if width > 16:
        nn.init.zeros_(cast(nn.Linear, model[1]).weight)
    return model


def infinite(width: int) -> nn.Module:
    model = grown(width)
    nn.init.constant_(cast(nn.Linear, model[1]).bias, float("inf"))
    return model


def matrix_readout(width: int) -> nn.Module:
    model = grown(width)
    model.register_parameter("table", nn.Parameter(torch.ones(width, 3)))
    return model


def raising(width: int) -> nn.Module:
    raise RuntimeError(f"no model of width {width}")


BUILD_REFUSALS = {
    "no function": ({"make_model": 3}, "`make_model` must be a function"),
    "raising": ({"make_model": raising}, "it raises RuntimeError: no model of width 16"),
    "no module": ({"make_model": lambda width: width}, "must return an nn.Module, but it returns"),
    "one size": ({"make_model": lambda _: nn.Linear(4, 4)}, "must grow with its width"),
    "three dimensions": ({"make_model": cube}, "grows in 3"),
    "other names": ({"make_model": unlike}, "must have the same parameters at every width"),
    "zero at one width": ({"make_model": sometimes_zero}, "must start at zero either at every"),
    "not finite": ({"make_model": infinite}, "must start finite, but 1.bias"),
    "lazy": ({"make_model": lambda w: nn.LazyLinear(w)}, "must have a shape and entries"),
    "meta": (
        {"make_model": lambda w: grown(w).to("meta")},
        "must be initialised when `make_model` returns",
    ),
    "width": ({"width": 0}, "`width` must be a positive whole number, but got 0"),
    "base width": ({"base_width": 16.0}, "`base_width` must be a positive whole number"),
    "role": ({"roles": ["1.weight=middle"]}, "`roles` must hold entries pattern=role"),
    "pattern": ({"roles": ["9.weight=input"]}, "Every pattern of `roles` must match a parameter"),
    "one role": ({"roles": "1.weight=input"}, "`roles` must be a list"),
    "readout": ({"readout": "both"}, "`readout` must be `hook` or `folded`, but got 'both'"),
    "no layer": (
        {"make_model": matrix_readout, "roles": ["table=output"], "readout": "hook"},
        "must be the weight of an nn.Linear or a convolution",
    ),
}


@pytest.mark.parametrize(("words", "told"), BUILD_REFUSALS.values(), ids=BUILD_REFUSALS)
def test_a_model_that_cannot_be_built_is_refused_in_a_sentence(
    words: dict[str, Any], told: str
) -> None:
    given = {"make_model": grown, "width": 32, "base_width": 16} | words
    with pytest.raises(UserError) as refused:
        hptransfer.mup.build(given.pop("make_model"), **given)
    assert told in str(refused.value)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def grown_later() -> nn.Module:
    model = hptransfer.mup.build(grown, width=32, base_width=16)
    model.register_parameter("late", nn.Parameter(torch.ones(3)))
    return model


GROUP_REFUSALS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "not built": (lambda: grown(32), {}, "this Sequential was built without it"),
    "no module": (lambda: 3, {}, "but got a int"),
    "added later": (grown_later, {}, "but late was frozen then, or added or renamed later"),
    "lr": (lambda: seeded(mlp, 64), {"lr": -1}, "`lr` must be a positive number, but got -1"),
    "no lr": (lambda: seeded(mlp, 64), {"lr": None}, "`lr` must be a positive number"),
    "decay": (lambda: seeded(mlp, 64), {"weight_decay": -1}, "must be zero or a positive number"),
    "mode": (
        lambda: seeded(mlp, 64),
        {"weight_decay_mode": "both"},
        "must be one of `mup`, `independent`, `unscaled`, but got 'both'",
    ),
}


@pytest.mark.parametrize(("model", "words", "told"), GROUP_REFUSALS.values(), ids=GROUP_REFUSALS)
def test_groups_that_cannot_be_made_are_refused_in_a_sentence(
    model: Callable[[], Any], words: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        hptransfer.mup.param_groups(model(), **{"lr": 0.1, **words})
    assert told in str(refused.value)


def raising_step(*_: Any) -> float:
    raise ZeroDivisionError("the data are gone")


def step_without_optimizer(model: nn.Module, _optimizer: Any, step: int) -> Tensor:
    return class_loss(model, step)


def step_of_a_part(model: Any, _optimizer: Any, step: int) -> Tensor:
    return class_loss(lambda x: model[6](model[0](x)), step)


def step_without_loss(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    stepping(class_loss)(model, optimizer, step)


CHECK_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "one width": ({"widths": [32, 32]}, "needs at least two different widths"),
    "lr": ({"lr": 0.0}, "`lr` must be a positive number"),
    "steps": ({"steps": 1}, "`steps` must be 2 or more"),
    "seeds": ({"seeds": 0}, "`seeds` must be 1 or more"),
    "no function": ({"train_step": None}, "`train_step` must be a function"),
    "raising": ({"train_step": raising_step}, "raised ZeroDivisionError: the data are gone"),
    "no step": (
        {"train_step": step_without_optimizer},
        "must take one step of the optimizer that it is given, but it took 0",
    ),
    "no call": ({"train_step": step_of_a_part}, "must call the model that it is given"),
    "no loss": ({"train_step": step_without_loss}, "must return the loss of its batch"),
}


@pytest.mark.parametrize(("words", "told"), CHECK_REFUSALS.values(), ids=CHECK_REFUSALS)
def test_a_check_that_cannot_tell_is_refused_in_a_sentence(
    words: dict[str, Any], told: str
) -> None:
    given = {"train_step": stepping(class_loss), "widths": [32, 64], "lr": 0.03, "seeds": 1}
    given |= words
    with pytest.raises(UserError) as refused:
        hptransfer.mup.check(mlp, given.pop("train_step"), **given)
    assert told in str(refused.value)


def test_a_loss_that_does_not_fall_is_no_pass() -> None:
    answer = hptransfer.mup.check(mlp, stepping(class_loss), widths=[32, 64], lr=1e-9, seeds=1)
    assert answer.verdict == "fail"
    assert "check at a higher learning rate (lr)" in str(answer)


def flat_optimizer() -> torch.optim.Optimizer:
    groups = hptransfer.mup.param_groups(seeded(mlp, 64), lr=0.1)
    return torch.optim.AdamW([{**group, "lr": 0.1} for group in groups])


RATIO_REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "not our groups": (
        lambda: torch.optim.AdamW(grown(8).parameters()),
        "must be those of hptransfer.mup.param_groups",
    ),
    "no optimizer": (lambda: "adam", "must be a torch optimizer, or hold one"),
    "flat from the start": (flat_optimizer, "must keep their ratios"),
    "SGD": (
        lambda: torch.optim.SGD(hptransfer.mup.param_groups(seeded(mlp, 64), lr=0.1)),
        "these are Adam's and the optimizer is SGD",
    ),
    "Adam with decay": (
        lambda: torch.optim.Adam(
            hptransfer.mup.param_groups(seeded(mlp, 64), lr=0.1, weight_decay=0.1)
        ),
        "Use AdamW, or weight_decay=0",
    ),
}


@pytest.mark.parametrize(("optimizer", "told"), RATIO_REFUSALS.values(), ids=RATIO_REFUSALS)
def test_an_optimizer_without_mups_ratios_is_refused_at_once(
    optimizer: Callable[[], Any], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        hptransfer.mup.require_ratios(optimizer())
    assert told in str(refused.value)


def test_adam_without_decay_is_taken() -> None:
    groups = hptransfer.mup.param_groups(seeded(mlp, 64), lr=0.1)
    hptransfer.mup.require_ratios(torch.optim.Adam(groups)).remove()


@pytest.mark.parametrize("name", ["build", "param_groups", "check", "require_ratios"])
def test_the_example_of_a_function_runs(name: str) -> None:
    text = inspect.getdoc(getattr(hptransfer.mup, name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {"hptransfer": hptransfer}, name, None, 0)
    assert example.examples
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=told.append)
    assert told == []


def test_the_module_is_reached_without_importing_torch_at_first() -> None:
    program = (
        "import sys, hptransfer; light = 'torch' not in sys.modules; "
        "print(light, 'mup' in dir(hptransfer), hptransfer.mup.build.__name__, "
        "'hydra' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "True True build False", done.stderr


def test_tokens_differ_between_steps() -> None:
    assert not torch.equal(tokens_of(0), tokens_of(1))


# Layers amid the network, seen in one forward.


def bottleneck(width: int) -> nn.Module:
    """A model of two inputs whose layer `down` has a growing fan-in and a fixed fan-out."""

    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.down = nn.Linear(FEATURES, width), nn.Linear(width, 4)
            self.up, self.readout = nn.Linear(4, width), nn.Linear(width, CLASSES)

        def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
            h = torch.relu(self.inside(x * scale))
            return self.readout(h + torch.relu(self.up(self.down(h))))

    return Bottleneck()


X = torch.ones(2, FEATURES)


@pytest.mark.parametrize("example", [X, (X,), (X, X), {"x": X, "scale": 2.0}])
def test_a_layer_amid_the_network_is_hidden_where_an_example_shows_it(example: Any) -> None:
    plain, seen = seeded(bottleneck, 128), seeded(bottleneck, 128, example=example)
    factors = []
    for model in (plain, seen):
        groups = hptransfer.mup.param_groups(model, lr=0.1)
        roles = by_name(model, groups, "name")
        factors.append((roles["down.weight"], roles["readout.weight"]))
    assert factors == [("output", "output"), ("hidden", "output")]
    m = 128 / BASE
    stds = [each.get_parameter("down.weight").detach().std() for each in (seen, plain)]
    assert float(stds[0] / stds[1]) == pytest.approx(
        m**0.5, rel=1e-3
    )  # m^-1/2 in place of the folded 1/m
    stated = seeded(bottleneck, 128, roles=["down.weight=hidden"])
    assert torch.equal(stated.get_parameter("down.weight"), seen.get_parameter("down.weight"))
    told = seeded(bottleneck, 128, example=example, roles=["down.weight=output"])
    assert torch.equal(told.get_parameter("down.weight"), plain.get_parameter("down.weight"))


def test_an_example_changes_no_random_number() -> None:
    seeded(bottleneck, 128)
    after = torch.rand(3)
    seeded(bottleneck, 128, example=X)
    assert torch.equal(after, torch.rand(3))


def test_the_check_takes_an_example_as_build_does() -> None:
    step = stepping(class_loss)
    words: dict[str, Any] = {"widths": [64, 128, 256], "lr": 0.02, "seeds": 2}
    without = hptransfer.mup.check(bottleneck, step, **words)
    assert without.verdict == "fail" and "down.weight=hidden" in without.causes[0]["type"]
    assert not hptransfer.mup.check(bottleneck, step, example=X, **words).causes


def test_bad_examples_and_normed_readouts_are_refused() -> None:
    for example in (torch.ones(2, 3), (X, X, X), {"y": X}):
        with pytest.raises(UserError, match="`example` must be arguments of the model's forward"):
            seeded(bottleneck, 128, example=example)

    def normed(width: int) -> nn.Module:
        model = mlp(width)
        nn.utils.parametrizations.weight_norm(model[6])
        return model

    with pytest.raises(UserError, match=r"no parametrization such as weight norm.* but 6 has one"):
        seeded(normed, 64)
