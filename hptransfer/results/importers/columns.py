"""Which column of a sheet holds what: as `--columns` says, else by the column's name.

What was taken for what is always printed.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hptransfer.config.hyperparameters import LARGEST_LOG2
from hptransfer.errors import UserError
from hptransfer.results.importers.names import (
    LOGARITHMS,
    SPELLINGS,
    axis_of,
    hp_of,
    hp_spelled,
    is_complement,
    log_of,
    normalised,
    recognised,
)
from hptransfer.results.importers.read_file import Sheet
from hptransfer.results.importers.values import (
    follows,
    is_label_column,
    number_columns,
    texts_of,
    varies_within,
)

MOST_SHOWN = 12  # columns of a table that an error message lists
MOST_SEARCHED = 300  # columns among which one of labels is looked for
LEAST_LOG10 = -6.0  # logarithms below it are rather of another base: 10^-6 is no learning rate
_NUMBER = re.compile(r"(?:(?<![\w.)])[-+])?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_GOOD = re.compile(r"(^|_)(acc|accuracy|auc|f1|score|bleu|top\d*|precision|recall)(_|$)")
_TIME = re.compile(r"(^|_)(runtime|duration|created|timestamp|time)(_|$)")
_EXTREME = re.compile(r"__(min|max)$", re.IGNORECASE)  # of a chart that W&B exported
_LETTERS = {"w": "width", "s": "seed"}  # before a number in the name of a run
MOST_GUESSES = 3  # columns that are tried for a needed one that no name tells


class Unclear(UserError):
    """A table that more words of `--columns` would make clear, with such words to be tried."""

    def __init__(
        self,
        message: str,
        remedies: Sequence[Sequence[str]] = (),
        *,
        say: str = "Say which is which:",
        needs_words: bool = False,
    ) -> None:
        super().__init__(message)
        self.remedies = remedies
        self.say = say  # before the command that is proposed
        self.needs_words = needs_words  # whether no other way than words of `--columns` is left


@dataclass(frozen=True)
class Wide:
    """The columns of a wide table, each with the losses of one seed, width, ...

    They are what the pattern of a word such as `loss=loss_seed{seed}` matches.
    """

    pattern: str
    columns: Mapping[str, Mapping[str, str]]  # a column -> our name -> the value in its name

    @property
    def names(self) -> tuple[str, ...]:
        """Our names whose values the names of the columns hold."""
        return tuple(next(iter(self.columns.values())))


@dataclass(frozen=True)
class ChosenColumns:
    """The source of each of our columns: a column of the table, a constant, or column names."""

    columns: Mapping[str, str]  # our name -> a column of the sheet
    constants: Mapping[str, str]  # our name -> its value in all rows
    wide: Wide | None
    notes: tuple[str, ...] = ()  # on columns that were not taken
    off: frozenset[str] = frozenset()  # hyperparameters that some arms lack: empty is zero

    @cached_property
    def names(self) -> frozenset[str]:
        """All of our names that have a source."""
        of_wide = ("loss", *self.wide.names) if self.wide else ()
        return frozenset((*self.columns, *self.constants, *of_wide))

    @property
    def axes(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a name (`lr`, `log2_<hp>`, `log10_<hp>`, ...) and the ledger's axis."""
        return tuple((name, axis_of(name)) for name in sorted(self.names) if hp_of(name))

    def source(self, name: str) -> str:
        """Return where the values of one of our names stand, for a message."""
        return repr(self.columns.get(name) or self.word(name, name))

    def word(self, name: str, ours: str) -> str:
        """Return the word of `--columns` that reads the source of one of our names as another."""
        if name in self.columns:
            return f"{ours}={self.columns[name]}"
        if name in self.constants:
            return f"{ours}:={self.constants[name]}"
        assert self.wide is not None, "a name without column and value stands in column names"
        return f"loss={self.wide.pattern.replace(f'{{{name}}}', f'{{{ours}}}')}"

    def record(self) -> dict[str, str]:
        """Return the sources as words of `--columns` give them, for the folder's sweep.yaml."""
        said = {**self.columns, **{name: f":={text}" for name, text in self.constants.items()}}
        if self.wide:
            said["loss"] = self.wide.pattern
        return dict(sorted(said.items()))


def readings(
    what: str, low: float, high: float, word: Callable[[str], str]
) -> tuple[str, list[str]]:
    """Return a clause on what logarithms would be by each base, and the words that say which.

    Args:
        what: our name of the numbers that the logarithms are of, such as lr.
        low, high: the ends of the logarithms.
        word: of `--columns`, for our name with a base, such as log2_lr.
    """
    bases = ["log10", "log2", "ln"] if low >= LEAST_LOG10 else ["log2", "log10", "ln"]
    fitting = [
        (word(f"{base}_{what}"), [end * LOGARITHMS[base] for end in (low, high)])
        for base in bases
        if max(-low, high) * LOGARITHMS[base] <= LARGEST_LOG2
    ]
    told = [
        f"{shlex.quote(each)} makes them {2.0 ** ends[0]:.3g} to {2.0 ** ends[1]:.3g}"
        for each, ends in fitting
    ]
    nothing = f"no base makes them numbers within 2^±{LARGEST_LOG2:g}"
    return ", ".join(told) or nothing, [each for each, _ in fitting]


def choose_columns(words: Sequence[str], sheet: Sheet) -> ChosenColumns:
    """Return the source of each of our columns: `--columns` first, the rest by recognised names.

    A hyperparameter that a name tells is taken where it varies within a width; a column of labels
    is taken for the arm where no name tells the arm and it is the only such column.

    Raises:
        UserError: a word names no column, or a needed column has no source or several; the sentence
            says what to type.
    """
    given, unread = _given(words, sheet.columns, sheet.name)
    taken = given.names | unread
    taken_axes = {axis_of(name) for name in taken if hp_of(name)}
    used = {*given.columns.values(), *(given.wide.columns if given.wide else ())}
    by_level: dict[str, dict[int, list[str]]] = {}
    for column in sheet.columns:
        ours, level = recognised(column)
        if ours is None or ours in taken or column in used:
            continue
        if not (hp_of(ours) and axis_of(ours) in taken_axes):
            by_level.setdefault(ours, {}).setdefault(level, []).append(column)
    candidates = {ours: levels[min(levels)] for ours, levels in by_level.items()}
    candidates = {ours: _without_copies(named, sheet) for ours, named in candidates.items()}
    found = {ours: named[0] for ours, named in candidates.items() if len(named) == 1}
    chosen = replace(given, columns={**given.columns, **found})
    if "parametrization" not in {*chosen.names, *unread, *candidates}:
        chosen = _with_arms(chosen, sheet)
    chosen, left_out = _without_idle(chosen, frozenset(found), sheet)
    candidates = {ours: named for ours, named in candidates.items() if ours not in left_out}
    _require_enough(chosen, candidates, sheet)
    return chosen


def _without_copies(named: Sequence[str], sheet: Sheet) -> list[str]:
    """Return the columns, or the first of them where all hold the same."""
    if len(named) < 2:
        return list(named)
    cells = [texts_of(column) for _, column in sheet.load(list(named)).items()]
    return list(named[:1] if all(each == cells[0] for each in cells) else named)


def _without_idle(
    chosen: ChosenColumns, found: frozenset[str], sheet: Sheet
) -> tuple[ChosenColumns, set[str]]:
    """Leave out recognised columns that tell no trials of one width apart; return their names.

    Those are hyperparameters besides the learning rate that are the same, empty in some rows, or a
    fixed multiple of the learning rate at every width; and a family that follows from the width.
    """
    hps = [name for name in sorted(found) if hp_of(name)]
    has_lr = any(hp_of(name) == "lr" for name in chosen.names)
    further = [name for name in hps if hp_of(name) != "lr"]
    checked = [*further, *(["family"] if "family" in found else [])]
    if not checked:
        return chosen, set()
    groups = ["width", "parametrization", "family"]
    lr = next((name for name in chosen.columns if hp_of(name) == "lr"), None)
    names = [*checked, *(name for name in groups if name in chosen.columns), *([lr] if lr else [])]
    loaded = sheet.load(list(dict.fromkeys(chosen.columns[name] for name in names)))
    cells = {name: texts_of(loaded[chosen.columns[name]]) for name in names}
    count = len(loaded)
    widths = cells.get("width", [""] * count)
    arms = [cells[name] for name in groups if name in cells and name != "family"]
    labels = [cells[name] for name in ("family", "parametrization") if name in cells]
    rates = None if lr is None else number_columns(cells[lr], decimal_comma=sheet.decimal_comma)
    reasons, hints, off = dict[str, str](), dict[str, str](), dict[str, str]()
    families = cells.get("family", []) if "width" in cells else []
    if len(set(families)) > 1 and not varies_within(families, [widths]):
        reasons["family"] = "says nothing that the width does not say"
    for name in further:
        values = number_columns(cells[name], decimal_comma=sheet.decimal_comma)
        if values is None:
            reasons[name] = "holds texts"
        elif len({value for value in values if value == value}) < 2:
            reasons[name] = "is the same in every row"
        elif not varies_within(values, [widths]):
            reasons[name] = "is given by the width"
        elif lr is not None and rates is not None and follows(values, rates, arms):
            reasons[name] = "is a fixed multiple of the learning rate at every width"
            rate, column = chosen.columns[lr], chosen.columns[name]
            if _before_factor([rate, column], chosen, sheet) == column:
                reasons[name] = f"is {rate!r} before it was multiplied by a factor of the width"
                hints[name] = (
                    f"--columns lr={column} takes it; under µP this is the rate that transfers"
                )
        elif gaps := _gaps(values, rates or [0.0] * count, labels):
            if all(gaps.values()) and not is_complement(name):
                off[name] = " and ".join(sorted(" ".join(arm) for arm in gaps))
            else:
                reasons[name] = "is empty in some rows"
    if not has_lr and set(reasons) >= set(further) and further:
        del reasons[further[0]]  # rows need a hyperparameter, even one that does not vary
    notes = tuple(
        f"{chosen.columns[name]!r} {reason}, so it is not taken as {name} "
        f"({hints.get(name, f'--columns {name}={chosen.columns[name]} takes it')})"
        for name, reason in reasons.items()
        if reason != "is the same in every row"
    )
    notes += tuple(f"{chosen.columns[name]!r} is off for {arm}" for name, arm in off.items())
    kept = {name: column for name, column in chosen.columns.items() if name not in reasons}
    taken = replace(chosen, columns=kept, notes=(*chosen.notes, *notes), off=frozenset(off))
    return taken, set(reasons)


def _before_factor(named: Sequence[str], chosen: ChosenColumns, sheet: Sheet) -> str | None:
    """Return which of several columns of rates has them before a factor of the width, or None.

    Its name says so, or its rates are fewer: all widths share the grid of the rate that is set.
    """
    groups = [
        chosen.columns[name]
        for name in ("width", "parametrization", "family")
        if name in chosen.columns
    ]
    if "width" not in chosen.columns:
        return None
    loaded = sheet.load(list(dict.fromkeys([*named, *groups])))
    places = [texts_of(loaded[column]) for column in groups]
    rates: dict[str, list[float]] = {}
    for column in named:
        values = number_columns(texts_of(loaded[column]), decimal_comma=sheet.decimal_comma)
        if values is None:
            return None
        rates[column] = values
    for one, other in itertools.combinations(rates.values(), 2):
        if follows(one, other, []) or not follows(one, other, places):
            return None
    ranks = {
        column: ("base" not in normalised(column).split("_"), len(set(rates[column])))
        for column in named
    }
    first, second, *_ = sorted(ranks, key=lambda column: ranks[column])
    return first if ranks[first] < ranks[second] else None


def _gaps(
    values: Sequence[float], rates: Sequence[float], arms: Sequence[Sequence[str]]
) -> dict[tuple[str, ...], bool]:
    """Return the arms in which a value is missing, each with whether all of its values are."""
    missing: dict[tuple[str, ...], list[bool]] = {}
    for value, rate, *arm in zip(values, rates, *arms, strict=True):
        if not math.isnan(rate):
            missing.setdefault(tuple(arm), []).append(math.isnan(value))
    return {arm: all(each) for arm, each in missing.items() if any(each)}


def label_columns(chosen: ChosenColumns, sheet: Sheet) -> list[str]:
    """Return the columns that are not used and hold labels which vary within a width."""
    used = {*chosen.columns.values(), *(chosen.wide.columns if chosen.wide else ())}
    free = [c for c in sheet.columns if c not in used and is_label_column(normalised(c), c)]
    if not free or len(free) > MOST_SEARCHED:
        return []
    width = [chosen.columns["width"]] if "width" in chosen.columns else []
    needed = [chosen.columns[name] for name in ("loss",) if name in chosen.columns]
    loaded = sheet.load([*free, *width, *needed])
    widths = texts_of(loaded[width[0]]) if width else [""] * len(loaded)
    rows = [i for i, text in enumerate(texts_of(loaded[needed[0]])) if text] if needed else None
    found: dict[str, list[str]] = {}
    for name in free:
        cells, here = texts_of(loaded[name]), widths
        if rows is not None:
            cells, here = [cells[i] for i in rows], [widths[i] for i in rows]
        is_told = is_label_column(normalised(name), name, cells) and varies_within(cells, [here])
        if is_told and not any(_same_groups(cells, other) for other in found.values()):
            found[name] = cells
    return list(found)


def _same_groups(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether two columns of labels tell the same rows apart."""
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == len(set(one)) == len(set(other))


def _with_arms(chosen: ChosenColumns, sheet: Sheet) -> ChosenColumns:
    """Take the only column of labels for the arm; of several say that they could be."""
    found = label_columns(chosen, sheet)
    if len(found) == 1:
        return replace(chosen, columns={**chosen.columns, "parametrization": found[0]})
    if not found:
        return chosen
    word = shlex.quote(f"parametrization={found[0]}")
    note = (
        f"{' or '.join(map(repr, found))} could say how the models were parametrized (to use it: "
        f"--columns {word})"
    )
    return replace(chosen, notes=(*chosen.notes, note))


def _given(
    words: Sequence[str], columns: Sequence[str], file: str
) -> tuple[ChosenColumns, set[str]]:
    """Parse the words of `--columns`; return what they name, and what nothing is read as.

    They are ours=theirs, ours:=value, ours= (nothing is read as ours) and loss=pattern.
    """
    given, constants, unread = dict[str, str](), dict[str, str](), set[str]()
    wide: Wide | None = None
    for word in words:
        ours, equals, theirs = word.partition("=")
        constant = ours.endswith(":")
        ours = ours.removesuffix(":").strip()
        if not equals:
            raise UserError(
                f"`--columns` takes OURS=THEIRS, for example lr=learning_rate, but got {word!r}."
            )
        _require_ours(ours, theirs if not constant else "", columns)
        if ours in given or ours in constants or ours in unread or (ours == "loss" and wide):
            raise UserError(f"`--columns` must name {ours} once, but names it again: {word!r}.")
        if constant:
            constants[ours] = theirs.strip()
        elif not theirs:
            unread.add(ours)
        elif ours == "loss" and theirs not in columns and re.search(r"\{\w+\}", theirs):
            wide = _matching(theirs, columns, file)
        else:
            given[ours] = _column(theirs, ours, columns, file)
    chosen = ChosenColumns(given, constants, wide)
    hps = sorted(axis_of(name) for name in chosen.names if hp_of(name))
    repeated = next((hp for hp, after in itertools.pairwise(hps) if hp == after), None)
    if repeated:
        hp = repeated.removeprefix("log2_")
        raise UserError(f"`--columns` must give {hp} in one unit, but gives it in several.")
    return chosen, unread


def _require_ours(name: str, theirs: str = "", columns: Sequence[str] = ()) -> None:
    """Refuse a word that names nothing we read; an HP of another name is named as its column is."""
    is_told = name in SPELLINGS or log_of(name) or hp_spelled(name) == name
    if (is_told or (theirs in columns and normalised(theirs) == name)) and (
        name in SPELLINGS or hp_of(name)
    ):
        return
    near = difflib.get_close_matches(name, (*SPELLINGS, "lr", "log2_lr"), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"`--columns` names what hptransfer reads ({', '.join(SPELLINGS)}, log2_<hp>, log10_<hp> "
        f"or ln_<hp>), but got {name!r}. {hint}".rstrip()
    )


def _column(theirs: str, ours: str, columns: Sequence[str], file: str) -> str:
    if theirs in columns:
        return theirs
    same = [name for name in columns if normalised(name) == normalised(theirs)]
    if len(same) == 1:
        return same[0]
    near = difflib.get_close_matches(theirs, columns, n=3, cutoff=0.3)
    raise Unclear(
        f"{file} has no column {theirs!r}; it has {_listed(near or columns)}.",
        [[f"{ours}={column}"] for column in near],
    )


def _matching(pattern: str, columns: Sequence[str], file: str) -> Wide:
    parts = re.split(r"\{(\w+)\}", pattern)
    names = parts[1::2]
    for name in names:
        _require_ours(name)
    if "loss" in names or len(set(names)) < len(names):
        raise UserError(f"A pattern names once what columns differ in, but got {pattern!r}.")
    pieces = [
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>{_matched_by(part)})"
        for i, part in enumerate(parts)
    ]
    form = re.compile("".join(pieces), re.IGNORECASE)
    matches = {name: found for name in columns if (found := form.fullmatch(name))}
    if not matches:
        raise UserError(
            f"{file} has no column of the form {pattern!r}; it has {_listed(columns)}. Write what "
            "differs between the columns in braces, e.g. --columns 'loss=loss_seed{seed}'"
        )
    return Wide(pattern, {name: found.groupdict() for name, found in matches.items()})


def _matched_by(ours: str) -> str:
    return r".+?" if ours in ("parametrization", "family") else r"[-+]?[\d.]+(?:e[-+]?\d+)?"


def _require_enough(
    chosen: ChosenColumns, candidates: Mapping[str, list[str]], sheet: Sheet
) -> None:
    """Refuse a table whose width, loss or HP no column gives or several may give."""
    problems = []
    choices: dict[str, list[str]] = {}  # our name -> columns that may be tried
    for ours, named in candidates.items():
        if len(named) > 1:
            problem = f"{' or '.join(map(repr, named))} could be the {ours}"
            before = _before_factor(named, chosen, sheet) if ours == "lr" else None
            if before is not None:
                problem += (
                    f" ({before!r} is the rate before a factor of the width, which is what "
                    "transfers under µP)"
                )
            problems.append(problem)
            choices[ours] = named if before is None else [before]
    units = sorted((axis_of(name), name) for name in chosen.columns if hp_of(name))
    for (axis, name), (after, other) in itertools.pairwise(units):
        if axis == after:
            first, second = chosen.columns[name], chosen.columns[other]
            problems.append(f"{first!r} and {second!r} both give the {axis.removeprefix('log2_')}")
            kept = other if log_of(name) == "log" else name
            choices[kept] = [chosen.columns[kept]]
    needed = {"width": "a width", "loss": "a loss", "lr": "a learning rate (lr, or log2_<hp>)"}
    has_hp = bool(chosen.axes) or any(map(hp_of, candidates))
    missing = [
        ours
        for ours in needed
        if not (has_hp if ours == "lr" else ours in {*chosen.names, *candidates})
    ]
    pivoted = None
    if "loss" in missing:
        pivoted = _of_runs(chosen, sheet) or _pivoted(missing, chosen, sheet)
    if pivoted is not None:
        problems.append(pivoted.problem)
        told = {"lr" if hp_of(inner) else inner for inner in pivoted.inner}
        missing = [ours for ours in missing if ours not in ("loss", *told)]
    elif "loss" in missing and (chart := _chart(sheet)):
        problems.append(chart)
    problems += [f"no column is known as {needed[ours]}" for ours in missing]
    if problems:
        guessed, remark = _guesses(missing, chosen, choices, pivoted, sheet)
        raise Unclear(
            f"Rows need a width, a loss and a hyperparameter, but in {sheet.name} "
            f"{', and '.join(problems)}{remark}; its columns are {_listed(sheet.columns)}.",
            [list(words) for words in itertools.product(*guessed)],
            needs_words=True,
        )


@dataclass(frozen=True)
class Pivoted:
    """Columns of losses that differ in a number: a column for each width, learning rate or seed."""

    inner: Sequence[str]  # our names of what they differ in
    columns: Sequence[str]
    problem: str  # the clause that says so
    words: Sequence[str]  # of `--columns` that may read them


def _pivoted(missing: Sequence[str], chosen: ChosenColumns, sheet: Sheet) -> Pivoted | None:
    """Return the columns that seem to hold the losses of a pivoted table, or None.

    They differ in one number of their names, and no name tells what is in them. The number is what
    the rest of the name tells, else what is missing: a width, a learning rate, else a seed.
    """
    groups: dict[str, list[str]] = {}
    for column in sheet.columns:
        pieces = _NUMBER.split(column)
        is_free = recognised(column)[0] is None and column not in chosen.columns.values()
        if is_free and len(pieces) == 2 and not re.search("[{}]", column):
            groups.setdefault("{}".join(pieces), []).append(column)
    form, columns = max(groups.items(), key=lambda each: len(each[1]), default=("", []))
    told = {recognised(word)[0] for word in (form.format(""), *normalised(form).split("_"))}
    is_told = told & {"loss", "width", "lr", "seed"} or len(re.findall("[a-z]", form, re.I)) <= 3
    if len(columns) < 2 or not is_told or _GOOD.search(normalised(columns[0])):
        return None
    numbers = [float(_NUMBER.findall(column)[0]) for column in columns]
    is_whole = all(number == round(number) >= 0 for number in numbers)
    possible = {
        "width": "width" in missing and is_whole and min(numbers) > 0,
        "lr": "lr" in missing,
        "seed": is_whole and "seed" not in chosen.names,
    }
    fitting = sorted(
        (ours for ours in possible if possible[ours]), key=lambda ours: ours not in told
    )
    if not fitting:
        return None
    inner = fitting[0]

    def word(ours: str) -> str:
        return f"loss={form.format(f'{{{ours}}}')}"

    clause, words = f"{shlex.quote(word(inner))} reads them", [word(inner)]
    if inner == "lr" and max(numbers) <= 0:
        clause, words = readings("lr", min(numbers), max(numbers), word)
    problem = (
        f"{_listed([repr(column) for column in columns], 3)} seem to hold the losses of one "
        f"{inner} each ({clause})"
    )
    return Pivoted([inner], columns, problem, words)


def _of_runs(chosen: ChosenColumns, sheet: Sheet) -> Pivoted | None:
    """Return the columns that seem to hold the losses of one run each, as a chart has them.

    Their names differ in numbers, each of which stands behind a word that says what it is, as in
    `w64-lr0.01 - loss`. None where a word says nothing, or where only one number is in a name.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for column in sheet.columns:
        pieces = tuple(_NUMBER.split(column))
        is_free = column not in chosen.columns.values() and not re.search("[{}]", column)
        if is_free and len(pieces) > 2 and not _EXTREME.search(column):
            groups.setdefault(pieces, []).append(column)
    pieces, columns = max(groups.items(), key=lambda each: len(each[1]), default=((), []))
    if len(columns) < 2:
        return None
    numbers = list(zip(*map(_NUMBER.findall, columns), strict=True))
    names = [_before_number(piece) for piece in pieces[:-1]]
    inner = [name for name in names if name is not None]
    is_told = all(name or len({*each}) == 1 for name, each in zip(names, numbers, strict=True))
    if not is_told or not inner or len({*inner}) < len(inner):
        return None
    slots = [f"{{{name}}}" if name else each[0] for name, each in zip(names, numbers, strict=True)]
    pattern = "".join(itertools.chain(*zip(pieces, [*slots, ""], strict=True)))
    word = f"loss={pattern}"
    problem = (
        f"{_listed([repr(column) for column in columns], 3)} seem to hold the losses of one run "
        f"each ({shlex.quote(word)} reads them)"
    )
    return Pivoted(inner, columns, problem, [word])


def _before_number(piece: str) -> str | None:
    """Return our name of a number from the word before it, such as lr of `w64-lr`; else None."""
    found = re.search(r"([a-z][a-z_.]*?)[\s=:_-]*$", piece, re.IGNORECASE)
    if found is None:
        return None
    ours = _LETTERS.get(found[1].lower()) or recognised(found[1])[0]
    return ours if ours in ("width", "seed", "depth", "batch_size") or hp_of(ours or "") else None


def _chart(sheet: Sheet) -> str | None:
    """Say that a table looks like a chart that W&B exported, of runs whose names tell nothing."""
    runs = [_EXTREME.sub("", column) for column in sheet.columns if _EXTREME.search(column)]
    if not runs:
        return None
    return (
        f"{_listed([repr(column) for column in dict.fromkeys(runs)], 3)} look like a chart that "
        "W&B exported, with a column for each run, whose name does not tell its width and "
        "hyperparameters (export the table of runs instead, or write what differs between the "
        "names in braces, as in 'loss=w{width}-lr{lr} - val_loss')"
    )


def _guesses(
    missing: Sequence[str],
    chosen: ChosenColumns,
    choices: Mapping[str, Sequence[str]],
    pivoted: Pivoted | None,
    sheet: Sheet,
) -> tuple[list[list[str]], str]:
    """Return for each thing that is not clear the words of `--columns` that may tell it; a remark.

    A width is a column of whole numbers, a loss the column of most values, and a learning rate one
    of few values below 1, or of logarithms below 0.
    """
    guessed = [[f"{ours}={column}" for column in named] for ours, named in choices.items()]
    used = {*chosen.columns.values(), *itertools.chain.from_iterable(choices.values())}
    used |= set(chosen.wide.columns if chosen.wide else ())
    if pivoted is not None:
        guessed.append(list(pivoted.words))
        used |= set(pivoted.columns)
    free = [column for column in sheet.columns if column not in used][:MOST_SEARCHED]
    if not missing or not free:
        return guessed, ""
    loaded = sheet.load(free)
    values: dict[str, list[float]] = {}
    for column in free:
        read = number_columns(texts_of(loaded[column]), decimal_comma=sheet.decimal_comma)
        finite = [value for value in read or [] if math.isfinite(value)]
        if finite and not column.startswith("_"):
            values[column] = finite
    values = {c: v for c, v in values.items() if not _GOOD.search(normalised(c))}
    whole = [c for c, v in values.items() if all(each == round(each) >= 2 for each in v)]
    by_count = sorted(values, key=lambda column: -len(set(values[column])))
    fractions = [c for c in by_count if len(set(values[c])) > 1 and c not in whole]
    rates = [c for c in reversed(fractions) if max(values[c]) < 1 and min(values[c]) >= 0]
    logs = [c for c, v in values.items() if max(v) < 0 and len(set(v)) > 1]
    of_rates, remark = [f"lr={column}" for column in rates], ""
    if "lr" in missing and logs and not rates:
        column, low, high = logs[0], min(values[logs[0]]), max(values[logs[0]])
        clause, of_rates = readings("lr", low, high, lambda name: f"{name}={column}")
        remark = f", but {column!r} may hold its logarithms ({clause})"
    tried = {
        "width": [f"width={c}" for c in whole if not _TIME.search(normalised(c))],
        "loss": [f"loss={column}" for column in fractions if column not in rates[:1]],
        "lr": of_rates,
    }
    return guessed + [tried[ours][:MOST_GUESSES] for ours in missing], remark


def _listed(columns: Sequence[str], most: int = MOST_SHOWN) -> str:
    shown = ", ".join(columns[:most])
    return shown + (f" and {len(columns) - most} more" if len(columns) > most else "")
