"""The answer to a sweep as an object: the content of `estimates.json` with named attributes."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.analysis.answer.text import (
    OCTAVE,
    OCTAVE_COLUMNS,
    answer_lines,
    arm_names,
    estimates_text,
    octave_notes,
    octave_rows,
    optima_table,
    trial_notes,
)
from hptransfer.analysis.answer.transferred import worst_verdict
from hptransfer.config.choices import TRANSFERRING
from hptransfer.config.hyperparameters import hp_value
from hptransfer.config.sweep import CONDITIONS
from hptransfer.errors import UserError
from hptransfer.results.metrics import metric_of

if TYPE_CHECKING:
    import pandas as pd


# Columns of `optima` after those of the setting: fields of an optimum that hold one value.
OPTIMUM_COLUMNS = (
    *("optimum", "low", "high", "loss"),
    *("n_seeds", "n_points", "censored", "cliff"),
)


class Estimate(NamedTuple):
    """A number with its 90 % interval; None where the rows do not support it."""

    estimate: float | None
    low: float | None
    high: float | None


class Target(NamedTuple):
    """The target's optimum on the HP's axis, and the value to train it with."""

    width: int
    optimum: float  # by the law
    low: float | None
    high: float | None
    emitted: float  # what `hptransfer transfer` writes: the value of least expected cost
    expected_regret: Estimate  # loss at `emitted` minus loss at the optimum
    hp: str = "log2_lr"  # the axis

    @property
    def value(self) -> float:
        """The emitted value of the HP itself, such as a learning rate."""
        return hp_value(self.hp, self.emitted)


@dataclass(frozen=True)
class ArmEstimates:
    """What the rows of one arm say of one HP: an entry of `arms` in `estimates.json`."""

    record: Mapping[str, Any]

    @property
    def family(self) -> str:
        """The models' family, such as `dit`."""
        return self.record["family"]

    @property
    def parametrization(self) -> str:
        """`mup`, `standard`, `standard_embed`, or an imported arm's own label."""
        return self.record["parametrization"]

    @property
    def hp(self) -> str:
        """The searched HP as the ledger names it, such as `log2_lr`."""
        return self.record["hp"]

    @property
    def axis(self) -> str:
        """What the answer is read along: `width`, `depth`, `batch_size` or `steps`."""
        return self.record["axis"]

    @property
    def headline(self) -> str:
        """The answer in three lines: the value and its cost, the movement, what it rests on."""
        return self.record["headline"]

    @property
    def moves(self) -> str:
        """Whether the optimum moves on the way to the target: `yes`, `no` or `unclear`."""
        return self.record["moves"]

    @property
    def matters(self) -> str:
        """Whether ignoring that costs more than the limit: `yes`, `no` or `unclear`."""
        return self.record["matters"]

    @property
    def verdict(self) -> str:
        """`transfers`, `drifts` or `inconclusive`."""
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
    def extend(self) -> tuple[Mapping[str, Any], ...]:
        """Where a wider grid could change the value by more than the limit."""
        return tuple(self.record["extend"])

    @property
    def drift(self) -> Estimate:
        """Slope of the optimum, in octaves of the HP per doubling of the axis."""
        return _estimate(self.record["drift_octaves_per_doubling"])

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
            hp=self.hp,
        )

    @property
    def optima(self) -> pd.DataFrame:
        """A row per setting: `optimum` in log2 of the HP, its 90 % interval, `loss`, `censored`.

        The first columns are the width and what else varies of depth, batch size and steps.
        """
        import pandas as pd

        told = self.record["optima"]
        varied = [name for name in CONDITIONS if any(name in each for each in told)]
        return pd.DataFrame(told, columns=["width", *varied, *OPTIMUM_COLUMNS])


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
        """The optima of all arms, with `parametrization` and `hp` before each arm's columns.

        Where there are several families, `family` is the first column.
        """
        import pandas as pd

        several = len({arm.family for arm in self.arms}) > 1
        names = [*(["family"] if several else []), "parametrization", "hp"]
        tables = [arm.optima for arm in self.arms]
        for arm, table in zip(self.arms, tables, strict=True):
            for place, name in enumerate(names):
                table.insert(place, name, getattr(arm, name))
        if not tables:
            return pd.DataFrame(columns=[*names, "width", *OPTIMUM_COLUMNS])
        return pd.concat(tables, ignore_index=True)

    def arm(
        self, parametrization: str | None = None, hp: str | None = None, family: str | None = None
    ) -> ArmEstimates:
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
            if arm.parametrization == parametrization
            and hp in (None, arm.hp)
            and family in (None, arm.family)
        ]
        if not found:
            known = ", ".join(f"{arm.parametrization} {arm.hp}" for arm in self.arms) or "no arm"
            asked = " ".join(filter(None, (family, parametrization, hp)))
            raise UserError(f"The answer has {known}, but got {asked}. Name one that it has.")
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
        arms = self.record["arms"]
        named = zip(arm_names(arms, with_hp=False), arms, strict=True)
        told = ", ".join(f"{name} {arm['hp']} {arm['verdict']}" for name, arm in named)
        return f"<Answer of sweep {self.sweep}: {told or 'nothing fitted'}>"

    def __str__(self) -> str:
        return "\n".join([estimates_text(self.record), *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        arms, measured = self.record["arms"], metric_of(self.record).label
        parts = [f"<p>sweep {html.escape(self.sweep)}</p>"]
        for name, arm in zip(arm_names(arms), arms, strict=True):
            parts.append(f"<p><b>{html.escape(name)}</b><br>{_lines(answer_lines(arm))}</p>")
            parts.append(_table(*optima_table(arm, measured)) if arm["optima"] else "")
            octaves = octave_rows(arm)
            if octaves:
                parts.append(_table(OCTAVE_COLUMNS, octaves))
                parts.append(f"<p>{_lines(octave_notes(arm))}</p>")
            parts.append(f"<p>{_lines(f'warning: {warning}' for warning in arm['warnings'])}</p>")
        octave = [OCTAVE] if any(map(octave_rows, self.record["arms"])) else []
        notes = [*octave, *trial_notes(self.record), *(f"note: {note}" for note in self.notes)]
        return "".join([*parts, f"<p>{_lines(notes)}</p>"]).replace("<p></p>", "")


def _lines(lines: Iterable[str]) -> str:
    return "<br>".join(html.escape(line) for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{row('th', heads)}{''.join(row('td', cells) for cells in rows)}</table>"


def _estimate(told: Mapping[str, Any]) -> Estimate:
    return Estimate(told["estimate"], told["low"], told["high"])


def _default_label(labels: list[str]) -> str:
    """Return the label of µP, or of the only arm."""
    for scaling in TRANSFERRING:
        if scaling.value in labels:
            return scaling.value
    if len(labels) != 1:
        raise UserError(
            f"This answer is of several parametrizations and none is µP, so one must be named. It "
            f"has {', '.join(labels) or 'none'}. Take answer.arm(NAME), or see answer.arms."
        )
    return labels[0]
