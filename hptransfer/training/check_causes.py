"""Why a coordinate check fails: what the model's structure shows, and which parameter to suspect.

Each cause is a dict of the check's record: `parameter` and its assumed `role` (None where it is no
parameter), `sentence`, the setting to `type` (None where there is none), and whether it is
`certain`, so that the check fails for it whatever was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.models.parametrization.dataflow import AttentionCall, Dataflow
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.roles import ShapedParameter, Wording, is_inner
from hptransfer.training.coordinate_record import OWN_OUTPUT

UNEVEN = 0.15  # relative deviation of a size from proportion that rounding may have
_UNITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # of the narrowest width, tried as multiples of widths

Shapes = Mapping[str, tuple[int, ...]]
Cause = dict[str, Any]
Slopes = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Structure:
    """What is known of a model besides its measurements."""

    widths: Sequence[int]
    parameters: Sequence[ShapedParameter]  # with the roles that were assumed
    inferred: Mapping[str, Role]  # the roles that follow where none is stated
    flow: Dataflow
    attention: Mapping[int, Sequence[AttentionCall]]  # by width
    shapes_at: Callable[[int], Shapes]  # parameters' shapes at any width
    words: Wording | None  # None for the families, whose roles nobody states

    @property
    def readouts(self) -> list[str]:
        """The modules that hold the model's readouts, and the model itself.

        A layer amid the network is none, whatever role it was given.
        """
        places = [p for s in self.parameters if s.name not in self.flow.reached for p in s.readouts]
        return [OWN_OUTPUT, *(place.rpartition(".")[0] for place in places)]

    def causes(self, outside: Slopes) -> list[Cause]:
        """Return the causes of slopes outside the limit, in the order of the forward pass."""
        wrong = [cause for shaped in self.parameters if (cause := _wrong_role(self, shaped))]
        found = [*_growing_heads(self), *_uneven_sizes(self, outside), *wrong]
        if not outside:
            return [cause for cause in found if cause["certain"]]
        sure = [slope for slope in outside if slope["unsure"] is None]
        return found or _suspects(self, sure)


def _cause(
    sentence: str,
    shaped: ShapedParameter | None = None,
    *,
    words: str | None = None,
    certain: bool = False,
) -> Cause:
    return {
        "parameter": None if shaped is None else shaped.name,
        "role": None if shaped is None else shaped.role.value,
        "sentence": sentence,
        "type": words,
        "certain": certain,
    }


def _typed(structure: Structure, name: str, role: Role) -> str | None:
    return None if structure.words is None else f'{structure.words.roles}=["{name}={role.value}"]'


def _listed(values: Sequence[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


# A head dimension that grows.


def _growing_heads(structure: Structure) -> list[Cause]:
    """Return a cause if q·k sums over a dimension that grows, and its scale does not make up."""
    widths = [width for width in structure.widths if width in structure.attention]
    growing: dict[str, list[int]] = {}
    for calls in zip(*(structure.attention[width] for width in widths), strict=False):
        sums = [call.head_dim * (call.scale or call.head_dim**-0.5) for call in calls]
        fixed = len({call.head_dim for call in calls}) == 1
        if not fixed and max(sums) > 1.01 * min(sums):
            growing.setdefault(calls[0].module, [call.head_dim for call in calls])
    if not growing:
        return []
    place, sizes = next(iter(growing.items()))
    more = f", and of {len(growing) - 1} more," if len(growing) > 1 else ""
    return [
        _cause(
            f"The head dimension of {place or 'the model'}{more} grows with the width: it is "
            f"{_listed(sizes)} at widths {_listed(widths)}. In training q·k grows with it, which a "
            "scale of 1/sqrt(head dimension) does not make up for. Keep the head dimension fixed "
            "and let the number of heads grow, or give scaled_dot_product_attention the scale "
            "base_head_dim**0.5 / head_dim.",
            certain=True,
        )
    ]


# Sizes that do not grow as the width.


def _uneven_sizes(structure: Structure, outside: Slopes) -> list[Cause]:
    """Return a cause if a parameter's size does not grow in proportion to the width."""
    widths = structure.widths
    shapes = [structure.shapes_at(width) for width in widths]
    wanted = [width / widths[0] for width in widths[1:]]
    known = {shaped.name: shaped for shaped in structure.parameters}
    uneven: dict[tuple[float, ...], list[str]] = {}
    taken_for_fixed = False
    for name, shaped in known.items():
        for dimension, size in enumerate(shapes[0][name]):
            growth = tuple(each[name][dimension] / size for each in shapes[1:])
            if _is_uneven(growth, wanted):
                uneven.setdefault(growth, []).append(name)
                taken_for_fixed |= dimension not in shaped.grows
    if not uneven:
        return []
    growth, names = next(iter(uneven.items()))
    others = len({name for each in uneven.values() for name in each}) - 1
    more = f", and {others} more do not either" if others else ""
    said = _listed([f"{each:.3g}" for each in growth])
    return [
        _cause(
            f"{names[0]} grows by {said}, not by {_listed([f'{w:.3g}' for w in wanted])}, from "
            f"width {widths[0]} to {_listed(widths[1:])}{more}. {_better_widths(structure)}",
            known[names[0]],
            certain=taken_for_fixed or any(slope["unsure"] != "noise" for slope in outside),
        )
    ]


def _is_uneven(growth: Sequence[float], wanted: Sequence[float]) -> bool:
    """Whether a size grows with the widths, or would if it were not rounded, but not as they do."""
    grows = any(each != 1 for each in growth)
    return grows and any(
        abs(each / ratio - 1) > UNEVEN for each, ratio in zip(growth, wanted, strict=True)
    )


def _better_widths(structure: Structure) -> str:
    for multiple in _UNITS:
        unit = multiple * structure.widths[0]
        shapes = [structure.shapes_at(unit * factor) for factor in (1, 2, 4)]
        sizes = zip(*(each.values() for each in shapes), strict=True)
        pairs = [(row[0], other, k) for row in sizes for k, other in ((2, row[1]), (4, row[2]))]
        if all(
            not _is_uneven((there / here,), (k,))
            for narrow, wide, k in pairs
            for here, there in zip(narrow, wide, strict=True)
        ):
            return f"Choose widths that are multiples of {unit}, or do not round this size."
    return "Let every size that grows be proportional to the width."


# Roles that the forward contradicts.


def _wrong_role(structure: Structure, shaped: ShapedParameter) -> Cause | None:
    """Return a cause if a parameter's role is not that of its use in the forward."""
    name, role, flow = shaped.name, shaped.role, structure.flow
    said = f"{name} has the role `{role.value}`, {shaped.reason}, but"
    if role in (Role.output, Role.input) and is_inner(shaped, flow):
        words = _typed(structure, name, Role.hidden)
        return _cause(
            f"{said} it lies amid the network: its fan-in grows, and its output meets "
            f"{flow.reached[name]}. Such a layer needs the role `hidden`.",
            shaped,
            words=words,
            certain=role is structure.inferred[name],  # a stated role is the user's word
        )
    if shaped.readouts:  # its layer's input is scaled
        return None
    if role is Role.input and name in flow.reused:
        return _cause(
            f"{said} the forward also multiplies by it as a readout does, summing over the "
            "dimension that grows. Multiply the input of that product by base width / width, or "
            "give the readout an nn.Linear of its own.",
            shaped,
        )
    if role is Role.input and name in flow.summed:
        return _cause(
            f"{said} the forward sums over its dimension that grows, as a readout does. Make it "
            "the weight of an nn.Linear that is called, or multiply the product's input by base "
            "width / width.",
            shaped,
        )
    if role is Role.hidden and name in structure.flow.readouts:
        return _cause(
            f"{said} its fan-in alone grows, and its output meets no growing weight: it is a "
            "readout.",
            shaped,
            words=_typed(structure, name, Role.output),
        )
    return None


# The first module that fails.


def _suspects(structure: Structure, outside: Slopes) -> list[Cause]:
    """Return the parameter of the first module whose size changes with the width.

    At initialisation no learning rate has a part in it, so those rows come first.
    """
    if not outside:
        return []
    at_init = [slope for slope in outside if slope["quantity"] == "init"]
    first = (at_init or outside)[0]
    shaped = _parameter_of(structure, first["module"])
    if shaped is None:
        return []
    name, role, inferred = shaped.name, shaped.role, structure.inferred[shaped.name]
    when = "at initialisation" if at_init else "in training"
    whose = "the model" if first["module"] == OWN_OUTPUT else first["module"]
    told = (
        f"{whose} is the first module whose output changes its size {when}. Its {name} has the "
        f"role `{role.value}`, {shaped.reason}"
    )
    if inferred is not role:
        words = _typed(structure, name, inferred)
        return [_cause(f"{told}; its shape and use give `{inferred.value}`.", shaped, words=words)]
    at = "the forward up to there, and its initialisation," if at_init else "the forward there"
    return [
        _cause(
            f"{told}. If that is right, see whether {at} has a factor or a sum that depends on "
            "the width, or whether the optimizer's groups were changed.",
            shaped,
        )
    ]


def _parameter_of(structure: Structure, output: str) -> ShapedParameter | None:
    """Return the weight of the module with that output, or the first parameter inside it."""
    module = "" if output == OWN_OUTPUT else output.partition("[")[0]
    inside = [p for p in structure.parameters if not module or p.name.startswith(f"{module}.")]
    own = [p for p in inside if p.name == f"{module}.weight"]
    growing = [p for p in inside if p.grows and len(p.shape) > 1]
    return next(iter([*own, *growing, *inside]), None)
