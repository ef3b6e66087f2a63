"""The answer to a sweep as an object: the content of `estimates.json` with named attributes."""

from __future__ import annotations

import html
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.analysis.answer.text import arm_lines, estimates_text
from hptransfer.analysis.answer.transferred import worst_verdict
from hptransfer.config.choices import Scaling, arm_name
from hptransfer.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


# Columns of `optima`: the fields of an optimum in estimates.json that hold one value.
OPTIMUM_COLUMNS = (
    *("width", "optimum", "low", "high", "loss"),
    *("n_seeds", "n_points", "censored", "cliff"),
)


class Estimate(NamedTuple):
    """A number with its 90 % interval; None where the rows do not support it."""

    estimate: float | None
    low: float | None
    high: float | None


class Target(NamedTuple):
    """The target's optimum in log2 of the HP, and the value to train it with."""

    width: int
    optimum: float  # of the law of the optimum
    low: float | None
    high: float | None
    emitted: float  # what `hptransfer transfer` writes: one value for all widths, or the law's
    expected_regret: Estimate  # loss at `emitted` minus loss at the optimum

    @property
    def value(self) -> float:
        """The emitted value of the HP itself, such as a learning rate."""
        return 2.0**self.emitted


@dataclass(frozen=True)
class ArmEstimates:
    """What the rows of one arm say of one HP: an entry of `arms` in `estimates.json`."""

    record: Mapping[str, Any]

    @property
    def parametrization(self) -> str:
        """`mup`, `standard`, `standard_embed`, or an imported arm's own label."""
        return self.record["parametrization"]

    @property
    def hp(self) -> str:
        """The searched HP as the ledger names it, such as `log2_lr`."""
        return self.record["hp"]

    @property
    def verdict(self) -> str:
        """`transfers`, `drifts`, `inconclusive` or `extend`."""
        return self.record["verdict"]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is what it is, in sentences."""
        return tuple(self.record["reasons"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before using the answer, in sentences."""
        return tuple(self.record["warnings"])

    @property
    def drift(self) -> Estimate:
        """Slope of the optimum, in octaves of the HP per doubling of the width."""
        return _estimate(self.record["drift_octaves_per_doubling"])

    @property
    def law(self) -> Mapping[str, Any]:
        """The law of the optimum over width: its `name`, and what `estimates.json` says of it."""
        return self.record["law"]

    @property
    def target(self) -> Target | None:
        """The answer at the target's width; None where no target was named."""
        told = self.record["target"]
        if told is None or told["emitted"] is None:
            return None
        regret = told["expected_regret"] or dict.fromkeys(("mean", "low", "high"))
        return Target(
            width=told["width"],
            optimum=told["optimum"],
            low=told["low"],
            high=told["high"],
            emitted=told["emitted"],
            expected_regret=Estimate(regret["mean"], regret["low"], regret["high"]),
        )

    @property
    def optima(self) -> pd.DataFrame:
        """A row per width: `optimum` in log2 of the HP, its 90 % interval, `loss`, `censored`."""
        import pandas as pd

        told = [[each[name] for name in OPTIMUM_COLUMNS] for each in self.record["optima"]]
        return pd.DataFrame(told, columns=list(OPTIMUM_COLUMNS))


@dataclass(frozen=True, repr=False)
class Answer:
    """The answer to a sweep: optima, drifts, verdicts and targets of all its arms.

    `verdict`, `drift`, `target` and `warnings` are those of the arm that a transfer takes: µP's,
    or the only one. `print(answer)` shows what `hptransfer fit` prints.
    """

    record: Mapping[str, Any]  # what `estimates.json` holds
    notes: tuple[str, ...] = ()  # how the rows of a DataFrame were read

    @property
    def sweep(self) -> str:
        """The sweep's name."""
        return self.record["sweep"]

    @property
    def arms(self) -> tuple[ArmEstimates, ...]:
        """An answer per arm and searched HP."""
        return tuple(ArmEstimates(arm) for arm in self.record["arms"])

    @property
    def optima(self) -> pd.DataFrame:
        """The optima of all arms, with `parametrization` and `hp` before each arm's columns."""
        import pandas as pd

        rows = [
            [arm.parametrization, arm.hp, *values]
            for arm in self.arms
            for values in arm.optima.itertuples(index=False)
        ]
        return pd.DataFrame(rows, columns=["parametrization", "hp", *OPTIMUM_COLUMNS])

    def arm(self, parametrization: str | None = None, hp: str | None = None) -> ArmEstimates:
        """Return one arm's answer: µP's or the only arm's, and the first HP's, unless named.

        Raises:
            UserError: no such arm, or several arms without µP and none named.
        """
        labels = list(dict.fromkeys(arm.parametrization for arm in self.arms))
        if parametrization is None:
            parametrization = _default_label(labels)
        found = [
            arm
            for arm in self.arms
            if arm.parametrization == parametrization and hp in (None, arm.hp)
        ]
        if not found:
            known = ", ".join(f"{arm.parametrization} {arm.hp}" for arm in self.arms) or "no arm"
            raise UserError(
                f"The answer has {known}, but got {parametrization} {hp or ''}".rstrip()
                + ". Name one that it has."
            )
        return found[0]

    @property
    def verdict(self) -> str:
        """The worst verdict of the HPs of the arm that a transfer takes."""
        taken = self.arm().parametrization
        return worst_verdict([arm.verdict for arm in self.arms if arm.parametrization == taken])

    @property
    def drift(self) -> Estimate:
        """Drift of the first HP's optimum, in octaves per doubling of the width."""
        return self.arm().drift

    @property
    def target(self) -> Target | None:
        """The first HP's answer at the target's width; None where no target was named."""
        return self.arm().target

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all HPs of the arm that a transfer takes."""
        taken = self.arm().parametrization
        said = [w for arm in self.arms if arm.parametrization == taken for w in arm.warnings]
        return tuple(dict.fromkeys(said))

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of what `estimates.json` holds: numbers, texts, lists and dicts."""
        return deepcopy(dict(self.record))

    def __repr__(self) -> str:
        told = ", ".join(
            f"{arm_name(arm.parametrization)} {arm.hp} {arm.verdict}" for arm in self.arms
        )
        return f"<Answer of sweep {self.sweep}: {told or 'no arm'}>"

    def __str__(self) -> str:
        return "\n".join([estimates_text(self.record), *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        shown = self.optima.fillna("")
        table = shown.to_html(index=False, float_format="{:.4g}".format, border=0)
        said = [line for arm in self.record["arms"] for line in arm_lines(arm, hp_named=True)]
        said += [f"note: {note}" for note in self.notes]
        lines = "<br>".join(html.escape(line) for line in said)
        return f"<p>sweep {html.escape(self.sweep)}</p>{table}<p>{lines}</p>"


def _estimate(told: Mapping[str, Any]) -> Estimate:
    return Estimate(told["estimate"], told["low"], told["high"])


def _default_label(labels: list[str]) -> str:
    """Return the label of µP, or of the only arm."""
    if Scaling.mup.value in labels:
        return Scaling.mup.value
    if len(labels) != 1:
        raise UserError(
            f"Without a µP arm an answer of several arms must name one, but it has "
            f"{', '.join(labels) or 'none'}. Take answer.arm(NAME), or see answer.arms."
        )
    return labels[0]
