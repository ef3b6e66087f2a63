"""Printing sentences for people."""

from __future__ import annotations

from rich.console import Console


def say(text: str, *, quiet: bool) -> None:
    """Print a line on stderr, where a sweep's progress goes, unless quiet."""
    if not quiet:
        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
