"""Models of a training loop that is not ours: any module, initialised as µP says.

`build` asks a function from a width to an `nn.Module` for the model at three widths. Roles come
from shapes, and from one forward where there is an example, as a custom model's do (roles.py).
Initialisation continues from the base width: a
tensor keeps the std that it has there, times m^-1/2 if it is hidden (arXiv 2203.03466, Table 8).
The readout's 1/m is folded into its weight, or multiplies its layer's input (rules.py).

What was found is attached to the model as a record. It is looked up by the names of parameters, so
that it is found again in a copy, and inside whatever wraps the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from hptransfer.config import ParametrizationConfig
from hptransfer.errors import UserError, abbreviate, require
from hptransfer.models.families.custom import made
from hptransfer.models.parametrization.factors import Role, role_factors
from hptransfer.models.parametrization.measured import (
    MEASURED_DRAWS,
    MeasuredSpread,
    continuing_multiplier,
    measuring_stream,
    spreads_of,
)
from hptransfer.models.parametrization.roles import (
    ShapedParameter,
    Wording,
    dataflow_of,
    growing_parameters,
    require_plain_readouts,
    require_scalable_readouts,
    with_stated_roles,
    without_inner_readouts,
)
from hptransfer.models.parametrization.rules import ReadoutForm
from hptransfer.system.random_streams import kept_random_numbers

MakeModel = Callable[[int], nn.Module]  # the model of a width, initialised
Example = Tensor | tuple[Any, ...] | Mapping[str, Any]  # arguments of a model's forward

ENOUGH_ENTRIES = 4096  # of a tensor, over draws: its std is then known within 1.1 %
WORDS = Wording(function="make_model", roles="roles")
# What wrappers put between a module's name and its own parameters' names: torch.compile, DDP and
# accelerate, FSDP1, activation checkpointing.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_RECORD = "_hptransfer_mup"


@dataclass(frozen=True)
class MupRecord:
    """What `build` found out about a model, by the names that its parameters had then."""

    width: int
    base_width: int
    readout: ReadoutForm
    parameters: tuple[ShapedParameter, ...]


def build(
    make_model: MakeModel,
    *,
    width: int,
    base_width: int,
    roles: Sequence[str] = (),
    readout: ReadoutForm | str = ReadoutForm.folded,
    example: Example | None = None,
) -> nn.Module:
    """Return the model of a width, initialised and scaled as µP says, for any training loop.

    At the base width, and with one seed, it is what `make_model` returns, to the bit. At any other
    width a tensor starts with the std that it has at the base width, times m^-1/2 if both its
    dimensions grow; m is the ratio of its fan-in to that at the base width (arXiv 2203.03466,
    Table 8). Tensors that do not grow, and those of no dimension, have no factor.

    The model is drawn from torch's global generators, as by `make_model(width)`: set the seed
    before. The models that are drawn to be measured leave the generators as they were.

    Args:
        make_model: from a width to an `nn.Module` with initialised parameters. Only sizes may
            depend on the width: keep the head dimension fixed and let the number of heads grow.
        width: of the model that is returned.
        base_width: at which the hyperparameters were tuned; there every factor is 1.
        roles: `pattern=role` for parameters by name, where the inferred role is wrong; a role is
            input, hidden, output, vector or finite, and the first pattern that matches counts.
        readout: `folded` puts the readout's 1/m into its weight, learning rate, weight decay and
            epsilon, so that the forward stays as it is. `hook` multiplies its layer's input. Both
            train alike under Adam, but a clipped global gradient norm sees another scale.
        example: arguments of the forward, on a few samples: a tensor, a tuple, or a dict of named
            ones. One forward of the model of the base width is then watched, and a layer whose
            fan-out is fixed, but whose output goes on into the network (shared keys and values, a
            bottleneck, a router of experts), has the role hidden without being told.

    Raises:
        UserError: a model that µP cannot scale, an unknown role, sizes that are not positive, or an
            example that the model cannot be called with.

    Example:
        >>> from torch import nn
        >>> def make_model(width):
        ...     return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.ReLU(),
        ...                          nn.Linear(width, 2))
        >>> model = hptransfer.mup.build(make_model, width=256, base_width=32)
        >>> [group["name"] for group in hptransfer.mup.param_groups(model, lr=0.01)]
        ['input', 'vector', 'hidden', 'output', 'finite']
    """
    require(callable(make_model), f"`make_model` must be a function, but got {make_model!r}.")
    for name, value in (("width", width), ("base_width", base_width)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
        require(whole, f"`{name}` must be a positive whole number, but got {abbreviate(value)}.")
    require(
        not isinstance(roles, str), f"`roles` must be a list of pattern=role, but got {roles!r}."
    )
    form = _form(readout)
    inferred = inferred_parameters(make_model, width, base_width, example)
    parameters = _with_roles(make_model, inferred, base_width, roles, form)
    model = _made(make_model, width)
    _require_started(model, parameters)
    if width != base_width:
        _continue_from_base(make_model, model, width, base_width, parameters)
    _place_readout_factors(model, parameters, form)
    setattr(model, _RECORD, MupRecord(width, base_width, form, parameters))
    return model


def _form(readout: ReadoutForm | str) -> ReadoutForm:
    try:
        return ReadoutForm(readout)
    except ValueError:
        known = " or ".join(f"`{form.value}`" for form in ReadoutForm)
        raise UserError(f"`readout` must be {known}, but got {readout!r}.") from None


def _made(make_model: MakeModel, width: int) -> nn.Module:
    return made(make_model, width, setting=WORDS.function, function="it")


def empty_model(make_model: MakeModel, width: int) -> nn.Module:
    """Return a model without storage; one that cannot be built so has it, and draws."""
    with kept_random_numbers(), torch.device("meta"):
        model = _made(make_model, width)
    _require_shapes(model)
    return model


def inferred_parameters(
    make_model: MakeModel, width: int, base_width: int, example: Example | None
) -> tuple[ShapedParameter, ...]:
    """Return the roles that follow from shapes, and from the forward where there is an example."""
    empty = cache(partial(empty_model, make_model))
    parameters = growing_parameters(empty, base_width, width, WORDS)
    if example is None:
        return parameters
    with kept_random_numbers(measuring_stream(0).initial_seed()):
        model = _made(make_model, base_width)
        flow = dataflow_of(model, partial(_call_on, example), parameters=parameters)
    return without_inner_readouts(parameters, flow)


def _call_on(example: Example, model: nn.Module) -> None:
    by_name = isinstance(example, Mapping)
    arguments = () if by_name else (example,) if isinstance(example, Tensor) else tuple(example)
    try:
        model(*arguments, **(example if by_name else {}))
    except Exception as error:
        raise UserError(
            "`example` must be arguments of the model's forward (a tensor, a tuple, or a dict of "
            f"named ones), but calling the model with it raises {abbreviate(error, 200)}."
        ) from error


def _with_roles(
    make_model: MakeModel,
    inferred: tuple[ShapedParameter, ...],
    base_width: int,
    roles: Sequence[str],
    form: ReadoutForm,
) -> tuple[ShapedParameter, ...]:
    parameters = with_stated_roles(roles, inferred, WORDS)
    base = empty_model(make_model, base_width)
    require_plain_readouts(parameters, base, WORDS)
    if form is ReadoutForm.hook:
        require_scalable_readouts(parameters, base, WORDS)
    for shaped in parameters:
        if form is ReadoutForm.folded and shaped.readouts and shaped.role is not Role.output:
            raise UserError(
                "A readout's factor must act on the layer's input where its weight has another "
                f"use, but {' and '.join(shaped.places)} are one tensor. Build the model with "
                'readout="hook", or give each place its own parameter.'
            )
    return parameters


def _require_shapes(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        require(
            not isinstance(value, UninitializedParameter) and value.numel() > 0,
            f"A parameter must have a shape and entries when `make_model` returns, but {name} has "
            "none. Run a lazy module once inside `make_model`.",
        )


def _require_started(model: nn.Module, parameters: Sequence[ShapedParameter]) -> None:
    for shaped in parameters:
        value = model.get_parameter(shaped.name)
        require(
            not value.is_meta,
            "A model must be initialised when `make_model` returns, but "
            f"{shaped.name} lies on the meta device. Build it with storage.",
        )
        require(
            bool(value.isfinite().all()),
            f"A parameter must start finite, but {shaped.name} starts with NaN or infinity.",
        )


def _continue_from_base(
    make_model: MakeModel,
    model: nn.Module,
    width: int,
    base_width: int,
    parameters: Sequence[ShapedParameter],
) -> None:
    """Multiply a drawn model's tensors so that their stds continue those at base width."""
    drawn = _spreads(make_model, width, model)
    base = _spreads(make_model, base_width, None)
    with torch.no_grad():
        for shaped in parameters:
            name = shaped.name
            multiplier = continuing_multiplier(shaped, base[name], drawn[name], width / base_width)
            if multiplier != 1.0:
                model.get_parameter(name).mul_(multiplier)


def _spreads(
    make_model: MakeModel, width: int, first: nn.Module | None
) -> dict[str, MeasuredSpread]:
    """Return the spread of every parameter over `first` and further draws.

    A large tensor's std is known from one draw, so that a large model is not built twice.
    """

    def models() -> Iterator[nn.Module]:
        drawn = first if first is not None else draw(0)
        yield drawn
        random = [p.numel() for p in drawn.parameters() if p.min() != p.max()]
        draws = math.ceil(ENOUGH_ENTRIES / min(random, default=ENOUGH_ENTRIES))
        yield from (draw(number) for number in range(1, min(draws, MEASURED_DRAWS)))

    def draw(number: int) -> nn.Module:
        with kept_random_numbers(measuring_stream(number).initial_seed()):
            return _made(make_model, width)

    return spreads_of(models())


def _place_readout_factors(
    model: nn.Module, parameters: Sequence[ShapedParameter], form: ReadoutForm
) -> None:
    for shaped in parameters:
        f = forward_factor(shaped)
        if f == 1.0:
            continue
        if form is ReadoutForm.folded:
            with torch.no_grad():
                model.get_parameter(shaped.name).mul_(f)
            continue
        for place in shaped.readouts:
            layer = model.get_submodule(place.rpartition(".")[0])
            layer.register_forward_pre_hook(partial(_scale_input, f), with_kwargs=True)


def forward_factor(shaped: ShapedParameter) -> float:
    """Return what multiplies a readout's input, 1/m; 1 for every other parameter."""
    if not shaped.readouts:
        return 1.0
    return role_factors(Role.output, shaped.width_mult, ParametrizationConfig()).forward


def _scale_input(
    f: float, _layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if arguments:
        return (arguments[0] * f, *arguments[1:]), named
    first, *_ = named
    return arguments, {**named, first: named[first] * f}


def record_of(model: nn.Module) -> MupRecord | None:
    """Return the record that `build` attached to this very module, if any."""
    return vars(model).get(_RECORD)


def trained_parameters(
    model: nn.Module,
) -> list[tuple[str, nn.Parameter, ShapedParameter, ReadoutForm]]:
    """Return the trainable parameters of a built model, or of what wraps it, with their records.

    Raises:
        UserError: a trainable parameter is of no model that `build` returned.
    """
    require(
        isinstance(model, nn.Module),
        f"`model` must be what hptransfer.mup.build returned, but got a {type(model).__name__}.",
    )
    known: dict[int, tuple[ShapedParameter, ReadoutForm]] = {}
    for part in model.modules():
        record = record_of(part)
        if record is None:
            continue
        find = _finder(record)
        for name, parameter in part.named_parameters():
            shaped = find(name)
            if shaped is not None:
                known[id(parameter)] = (shaped, record.readout)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    require(
        bool(known),
        "`model` must be what hptransfer.mup.build returned, wrapped or not, but this "
        f"{type(model).__name__} was built without it: it does not know its base shapes.",
    )
    for name, parameter in trained:
        require(
            id(parameter) in known,
            f"Every trainable parameter must be one that hptransfer.mup.build knows, but {name} "
            "was frozen then, or added or renamed later. Make it in `make_model`, trainable.",
        )
    return [(name, parameter, *known[id(parameter)]) for name, parameter in trained]


def _finder(record: MupRecord) -> Callable[[str], ShapedParameter | None]:
    """Return what finds a parameter's record by its name, with or without wrappers' names in it."""
    exact = {place: shaped for shaped in record.parameters for place in shaped.places}
    plain: dict[str, set[str]] = {}
    for place in exact:
        plain.setdefault(_without_wrappers(place), set()).add(place)
    sure = {name: exact[min(places)] for name, places in plain.items() if len(places) == 1}

    def find(name: str) -> ShapedParameter | None:
        return exact.get(name) or sure.get(_without_wrappers(name))

    return find


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
