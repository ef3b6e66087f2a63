"""The user's own functions, named as package.module:function in a config: imported, and named where
they fail.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hptransfer.errors import UserError, require

# Code that is not the user's: torch's, hptransfer's, and code that has no file.
_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")


@cache
def user_function(name: str, setting: str, what: str) -> Callable[..., Any]:
    """Return the function of that name; modules are looked for in the current folder, too.

    Args:
        setting: the config key that names the function, for messages.
        what: what the key must name, such as "the function that builds your model from a width".

    Raises:
        UserError: the name has another form, its module cannot be imported, or has no such
            function.
    """
    require(
        re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None,
        f"`{setting}` must name {what}, as package.module:function, but got {name!r}.",
    )
    module_name, _, function = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        # An import must neither use the trial's random numbers nor create tensors without storage.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"`{setting}` must name a module that can be imported, but importing {module_name} "
            f"raises {error_text(error)}. Modules are looked for in {folder} and on PYTHONPATH."
        ) from error
    require(
        callable(getattr(module, function, None)),
        f"`{setting}` must name a function of its module, but {module.__name__} has no "
        f"function {function!r}. Write package.module:function.",
    )
    return getattr(module, function)


def error_text(error: BaseException) -> str:
    """Return an error's kind, its message on one line, and the line of the user's code."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300].rstrip('.')}{_place(error)}"


def _place(error: BaseException) -> str:
    """Return the deepest line of the user's own code that an error passed through, if any."""
    line = own_line(traceback.extract_tb(error.__traceback__))
    return f" ({line})" if line else ""


def own_line(frames: Iterable[traceback.FrameSummary]) -> str:
    """Return the deepest of some frames that is the user's own, as "line 3 of file"; else empty."""
    own = [frame for frame in frames if not frame.filename.startswith(_FOREIGN)]
    return f"line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
