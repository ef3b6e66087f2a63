"""Numbers, durations, intervals and tables as text for a terminal, and sentences printed there."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence

# Heads of columns that are set to the left.
LEFT = (
    *("parametrization", "HP", "module", "role", "parameter", "octaves per doubling of", "note"),
    "divided by the",
)

NOTHING = 0.02  # share of a cost's upper end below which its lower end is none


def say(text: str, *, quiet: bool) -> None:
    """Print a line on stderr, where a sweep's progress goes, unless quiet."""
    from rich.console import Console

    if not quiet:
        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its title above it; `rows` hold a text for each of `columns`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right")
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def interval_text(low: float | None, high: float | None, form: str) -> str:
    """Return an interval as [low, high]; an end the data does not support is a dash."""
    return f"[{decimal(low, form)}, {decimal(high, form)}]"


def decimal(value: float | None, form: str = "+.2f") -> str:
    """Write a number; a missing one is a dash, and none is -0."""
    if value is None:
        return "-"
    text = format(value, form)
    return text.replace("-", "", 1) if float(text) == 0 else text


def rounded(value: float, digits: int = 2) -> str:
    """Return a number to so many significant digits and without an exponent: 808.7 is 810."""
    return f"{float(f'{value:.{digits}g}'):g}"


def cost_text(record: Mapping[str, float | None], center: str = "estimate") -> str:
    """Return a cost, at the key `center`, with its 90 % interval, each in two digits.

    A lower end that is nothing beside the upper one is left out; an end that is not known is null.
    """
    middle, low, high = (record[name] for name in (center, "low", "high"))
    if middle is None:
        return "not known" if low is None else f"at least {rounded(low)}"
    if high is None:
        return rounded(middle) + ("" if low is None else f" ({rounded(low)} or more)")
    if low is None or low < NOTHING * high:
        return f"{rounded(middle)} (below {rounded(high)})"
    return f"{rounded(middle)} ({rounded(low)} to {rounded(high)})"


def factor_text(octaves: float | None) -> str:
    """Return the factor of so many octaves: two decimals, or two digits where it is very small."""
    if octaves is None:
        return "not finite"
    factor = 2.0**octaves
    return f"{factor:.2f}" if 0.1 <= factor < 100.0 else rounded(factor)


def percent_text(value: float) -> str:
    """Return a percentage to two significant digits."""
    return f"{rounded(value)} %"


def duration(seconds: float) -> str:
    """Return a time span in two or three digits, such as `0.2 s`, `2.1 min` or `2 h 01 min`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.2g} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{round(minutes) // 60} h {round(minutes) % 60:02d} min"


def count_text(number: int) -> str:
    """Return a number of parameters in three digits: in thousands, millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{rounded(number / size, 3)} {letter}"
    return str(number)


def nearest(word: str, known: Sequence[str], otherwise: Sequence[str] | None = None) -> str:
    """A sentence with the known words nearest to a word, or with all (`otherwise`) if none is."""
    word = word[:100]  # the time of comparing goes with the square of the length
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if not close and "." in word:
        leaf = word.rsplit(".", 1)[1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There is: {', '.join(known if otherwise is None else otherwise)}."
