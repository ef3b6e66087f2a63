"""The program that calls a user's function for one trial.

`python -m hptransfer.training.external.call` calls the function that `train.function` names with
the trial that HPTRANSFER_TRIAL names, and writes what the function returns to `result.json`. A
function of a notebook, which no other process could import, comes pickled by the process that runs
the sweep, in a file of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.system.files import write_whole
from hptransfer.training.external.supervise import FAILURE_FILE, RESULT_FILE
from hptransfer.training.external.trial import VARIABLE, Trial, as_number, numbers_of

PICKLED = "HPTRANSFER_FUNCTION"  # the environment variable with the file of a pickled function


def load(name: str) -> Callable[[Trial], Any]:
    """Return the function named package.module:function.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, path = name.partition(":")
    if module == "__main__" or "<" in path:
        raise UserError(
            f"`train.function` must be importable where trials run, but {name} was a function of "
            "a notebook or a script. Call hptransfer.sweep with it again, or move it into a module."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UserError(
            f"`train.function` must be importable where trials run, but {name} is not, in the "
            f"folder {here}: {type(error).__name__}: {error}. Start hptransfer in the "
            "folder of the module, or install the module there."
        ) from error
    if not callable(found):
        raise UserError(f"`train.function` must be a function, but {name} is {found!r}.")
    return found


def main() -> int:
    path = Path(os.environ[VARIABLE])
    trial = Trial.read(path)
    function_name = json.loads(path.read_text(encoding="utf-8"))["function"]
    try:
        if pickled := os.environ.get(PICKLED):
            import cloudpickle

            function = cloudpickle.loads(Path(pickled).read_bytes())
        else:
            function = load(function_name)
        answer = _plain(function(trial))
    except UserError as error:
        return _failed(trial, str(error), "", error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1]
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return _failed(trial, reason, f"{last.filename}:{last.lineno} in {last.name}", error)
    if answer is not None:
        write_whole(trial.folder / RESULT_FILE, json.dumps(answer).encode())
    return 0


def _plain(returned: Any) -> dict[str, float] | None:
    """Return what a function returned as a mapping of numbers; None where it returned nothing."""
    if returned is None:
        return None
    if isinstance(returned, Mapping):
        if "loss" not in returned:
            raise UserError(
                "A function that returns a mapping must give the loss in it, but got only "
                f"{', '.join(map(repr, returned)) or 'an empty one'}. Return {{'loss': ...}}."
            )
        others = {name: _plain_value(value) for name, value in returned.items()}
        return {**numbers_of(others), "loss": as_number("loss", returned["loss"])}
    return {"loss": as_number("loss", returned)}


def _plain_value(value: Any) -> Any:
    """Return Python's number of a numpy number or of a tensor of one element; else the value."""
    try:
        return value.item()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return value


def _failed(trial: Trial, reason: str, frame: str, error: BaseException) -> int:
    traceback.print_exception(error)
    told = json.dumps({"reason": reason, "frame": frame})
    write_whole(trial.folder / FAILURE_FILE, told.encode())
    return 1


if __name__ == "__main__":
    sys.exit(main())
