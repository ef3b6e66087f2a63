"""Errors of broken files, as sentences that name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from safetensors import SafetensorError

from hptransfer.errors import UserError

# Exceptions that numpy, safetensors, Pillow, Arrow and json raise on broken files.
_FAILURES = (
    *(OSError, ValueError, SyntaxError, KeyError, EOFError, OverflowError),
    *(BadZipFile, zlib.error, struct.error, SafetensorError),
)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Replace an error of reading a file, in a `with` block, by a `UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except _FAILURES as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{path} is broken or cannot be read: {reason}. Copy or write it again."
        ) from error
