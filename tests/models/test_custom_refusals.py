"""What cannot be scaled or packed is refused, each in one sentence that says what to do."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.config import RuntimeConfig, TrainerConfig
from hptransfer.config.choices import Parallel
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.models.parametrization.rules import build_model, parameter_rules
from hptransfer.training.device import require_device_fits
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.parallel import ProcessGroup
from tests.support.custom_models import BASE, Net, trial


def changed(change: Callable[[Net, int], object]) -> Callable[[int], nn.Module]:
    def factory(width: int) -> nn.Module:
        model = Net(width)
        change(model, width)
        return model

    return factory


def set_forward(
    forward: Callable[[Net, Tensor, Tensor, Tensor], Any],
) -> Callable[[int], nn.Module]:
    return changed(lambda m, w: setattr(m, "forward", lambda x, t, y: forward(m, x, t, y)))


def add(name: str, make: Callable[[int], nn.Parameter]) -> Callable[[int], nn.Module]:
    return changed(lambda m, w: m.register_parameter(name, make(w)))


not_callable = 3
number = int
raising = {}.__getitem__
fixed = changed(lambda m, w: m.__init__(4))
deeper_when_wide = changed(lambda m, w: w > BASE and m.add_module("extra", nn.Linear(w, w)))
tied = changed(lambda m, w: m.add_module("again", m.hidden))
viewed = changed(
    lambda m, w: m.register_parameter("view", nn.Parameter(m.hidden.weight.detach().view(-1)))
)
five = add("five", lambda w: nn.Parameter(torch.zeros(1, 1, 1, 1, w)))
cube = add("cube", lambda w: nn.Parameter(torch.zeros(w, w, w)))
doubled = add("doubled", lambda w: nn.Parameter(torch.zeros(w, dtype=torch.float64)))
batch_norm = changed(lambda m, w: setattr(m, "norm", nn.BatchNorm1d(w)))
unseeded = add("unseeded", lambda w: nn.Parameter(torch.full((w,), random.random())))
empty = changed(lambda m, w: m.requires_grad_(False))
no_null_label = changed(lambda m, w: setattr(m, "label", nn.Embedding(10, w)))
flat_output = set_forward(lambda m, x, t, y: Net.forward(m, x, t, y).flatten(1))
infinite = set_forward(lambda m, x, t, y: Net.forward(m, x, t, y) / (10 - y)[:, None, None, None])
branching = set_forward(lambda m, x, t, y: Net.forward(m, x, t, y) if x.sum() > 0 else x)
uncalled = set_forward(
    lambda m, x, t, y: F.linear(m.body(x, t, y), m.readout.weight, m.readout.bias).view_as(x)
)
elsewhere = set_forward(lambda m, x, t, y: Net.forward(m, x + torch.ones(8), t, y))
fixed_layer = changed(lambda m, w: setattr(m, "hidden", nn.Linear(BASE, BASE)))
unlabelled = changed(lambda m, w: setattr(m, "forward", lambda x, t: x))
fading = changed(lambda m, w: nn.init.constant_(m.norm.bias, float(w > BASE)))
undefined = changed(lambda m, w: nn.init.constant_(m.hidden.bias, math.nan))


def exiting(width: int) -> nn.Module:
    raise SystemExit("bye")


REFUSALS = {
    "no colon": "must name the function .* but got 'no colon'",
    ":": "must name the function .* but got ':'",
    "no_such_module:build": "importing no_such_module raises ModuleNotFoundError",
    "absent": "has no function 'absent'",
    "not_callable": "has no function 'not_callable'",
    "number": "must return an nn.Module, but .* returns a int",
    "raising": "raises KeyError: 8 at width 8",
    "fixed": "gives the same shapes at widths 8 and 16",
    "deeper_when_wide": "extra.bias of .* is not the same at widths 8 and 16",
    "tied": "hidden.weight and again.weight share one",
    "viewed": "view and hidden.weight share one|hidden.weight and view share one",
    "five": "at most 4 dimensions, but five",
    "cube": "at most two dimensions, but cube .* grows in 3",
    "doubled": "must be float32 .* doubled is torch.float64",
    "batch_norm": "norm is a BatchNorm1d. Use nn.GroupNorm",
    "unseeded": "unseeded of .* differs between two calls from the same seed",
    "empty": "must have trainable parameters",
    "no_null_label": "raises IndexError.*the null label is the number of classes",
    "flat_output": r"shape \(2, 1, 8, 8\), but .* gives torch.Size\(\[2, 64\]\)",
    "infinite": "must be finite.* the null condition",
    "branching": "must run under torch.func.vmap.* raises RuntimeError.* an `if` on",
    "uncalled": "readout of .* is not. Call it",
    "elsewhere": "device of its inputs.* raises RuntimeError",
    "undefined": "hidden.bias",
    "exiting": "raises SystemExit: bye .* at width 8",
    "fixed_layer": r"raises RuntimeError.* \(line \d+ of custom_models.py\) at width 16, though",
    "unlabelled": "raises TypeError.* a model without labels needs model.condition=none",
    "fading": "zero either at every width or at none, but the mean sizes of norm.bias",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_scaled_or_packed_is_refused_in_a_sentence(name: str) -> None:
    factory = name if not name.isidentifier() else f"{__name__}:{name}"
    config = dataclasses.replace(trial(), model=dataclasses.replace(trial().model, factory=factory))  # pyright: ignore
    with pytest.raises(UserError, match=REFUSALS[name]) as caught:
        parameter_rules(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        (["hidden.weight=inner"], "one of input, hidden, output, vector, finite"),
        (["hidden.weight"], "must hold entries pattern=role"),
        (["blocks.*=hidden"], r"'blocks\.\*' matches none"),
        (["label.weight=output"], "label.weight is not"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(roles: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parameter_rules(trial(roles=roles))


def test_a_module_that_draws_as_it_is_imported_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    imports = "import torch\nfrom tests.support.custom_models import Net\n"
    text = f"{imports}drawn = torch.randn(3)\nbuild = Net\n"
    Path("drawing_module.py").write_text(text)
    before = torch.get_rng_state()
    ours, theirs = (
        build_model(
            dataclasses.replace(trial(), model=dataclasses.replace(trial().model, factory=f))
        )  # pyright: ignore
        for f in ("drawing_module:build", "tests.support.custom_models:Net")
    )
    assert torch.equal(torch.get_rng_state(), before)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def timestep_table(t: Tensor) -> Tensor:
    """The frequencies of DiT's published timestep embedding, which it makes on the CPU."""
    steps = torch.arange(start=0, end=4, dtype=torch.float32)
    freqs = torch.exp(-math.log(10_000) * steps / 4).to(device=t.device)
    return torch.cos(t[:, None] * freqs[None]).mean(1)


def scaled(scale: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int], nn.Module]:
    """Return a net whose images are multiplied by what `scale` gives for images and times."""
    return set_forward(lambda m, x, t, y: Net.forward(m, x * scale(x, t), t, y))


copied_table = scaled(lambda x, t: timestep_table(t)[:, None, None, None])
copied_list = scaled(lambda x, t: torch.tensor([1.0] * 8, device=x.device))
copied_number = scaled(lambda x, t: torch.as_tensor(2.0, device=x.device))
copied_numpy = scaled(lambda x, t: torch.from_numpy(numpy.ones(8, "f4")).to(x))
copied_like = scaled(lambda x, t: x.new_tensor([1.0] * 8))
copied_into = scaled(lambda x, t: torch.empty_like(x).copy_(torch.ones(8)))
copied_choice = scaled(lambda x, t: torch.where(x > 0, x, torch.tensor(1.0)))
copied_index = scaled(lambda x, t: x[..., torch.arange(8)])
copied_indices = scaled(lambda x, t: x[..., [1, 0, 3, 2, 5, 4, 7, 6]])

made_there = scaled(lambda x, t: torch.arange(8, device=x.device) + 2.0)
number_on_the_cpu = scaled(lambda x, t: torch.maximum(x * torch.tensor(2.0), torch.tensor(0.0)))
filled = scaled(lambda x, t: torch.zeros_like(x).fill_(torch.tensor(2.0)).masked_fill(x > 0, 1.0))
sliced = scaled(lambda x, t: x[..., :1] + x[:, 0, 0, 0, None, None, None])
buffered = changed(
    lambda m, w: (
        m.register_buffer("table", torch.ones(8)),
        setattr(m, "forward", lambda x, t, y: Net.forward(m, x * m.get_buffer("table"), t, y)),
    )
)
left_behind = changed(
    lambda m, w: (
        setattr(m, "table", torch.ones(8)),
        setattr(m, "forward", lambda x, t, y: Net.forward(m, x * m.table, t, y)),
    )
)


def on_a_gpu(name: str, **runtime: Any) -> None:
    config = dataclasses.replace(trial(), model=dataclasses.replace(trial().model, factory=name))  # pyright: ignore
    asked = RuntimeConfig(device="cuda", **runtime)
    require_device_fits(config, asked, captured=asked.captured)


@pytest.mark.parametrize("name", [name for name in globals() if name.startswith("copied_")])
def test_a_copy_from_the_host_is_found_before_a_graph_is_captured(name: str) -> None:
    """Each of these raises an error in a real capture; no device is needed to say so."""
    with pytest.raises(
        UserError, match=r"line \d+ of test_custom_refusals.py.*register_buffer"
    ) as e:
        on_a_gpu(f"{__name__}:{name}")
    assert "runtime.graph=false" in str(e.value) and "\n" not in str(e.value)
    on_a_gpu(f"{__name__}:{name}", graph=False)


@pytest.mark.parametrize(
    "name", ["made_there", "number_on_the_cpu", "filled", "sliced", "buffered"]
)
def test_what_a_graph_captures_is_not_refused(name: str) -> None:
    on_a_gpu(f"{__name__}:{name}")


@pytest.mark.parametrize("graph", [None, False])
def test_a_tensor_that_stays_on_the_cpu_is_found(graph: bool | None) -> None:
    with pytest.raises(UserError, match=r"device of its inputs.*Keep constant tensors as buffers"):
        on_a_gpu(f"{__name__}:left_behind", graph=graph)


def test_a_target_may_copy_from_the_host_but_leave_no_tensor_there() -> None:
    """A target is not captured; what it would raise on a GPU is said before it is built there."""

    def started(name: str) -> Engine:
        model = dataclasses.replace(trial().model, factory=f"{__name__}:{name}")  # pyright: ignore
        config = dataclasses.replace(trial(), model=model)
        here = ProcessGroup(0, 1, torch.device("cpu"), Parallel.none, owned=False)
        dataset = load_data(config.data, None)
        return Engine(config, RuntimeConfig(device="cuda"), TrainerConfig(), dataset, here)

    started("copied_table").close()
    with pytest.raises(UserError, match=r"device of its inputs.*Keep constant tensors as buffers"):
        started("left_behind")
