"""Where a run goes on: the newest sound checkpoint, agreed on by all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from hptransfer.training.target.checkpoints import Checkpoints, Saved
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.progress import Progress
from hptransfer.training.target.record import Start


class Past(NamedTuple):
    """What earlier processes did of a run."""

    progress: Progress
    starts: list[Start]


def facts(past: Past, origin: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what a checkpoint holds beside its tensors, after so many seconds."""
    return {
        "origin": dict(origin),
        "progress": past.progress.facts(seconds),
        "starts": [start._asdict() for start in past.starts],
    }


def resumed(
    engine: Engine,
    checkpoints: Checkpoints,
    origin: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Past:
    """Put the engine where the newest sound checkpoint was; at the start where there is none."""
    group = engine.group
    saved = (
        _newest(checkpoints, origin, engine.config.budget.steps, tell) if group.is_first else None
    )
    known = group.facts_from_first(None if saved is None else saved.facts)
    if known is None:
        return Past(Progress(engine.at_init_loss()), [])
    progress = Progress.of(known["progress"])
    if saved is not None:
        saved.require(engine.shapes())
    engine.restore(_reading(saved), progress.step)
    return Past(progress, [Start(**start) for start in known["starts"]])


def _newest(
    checkpoints: Checkpoints, origin: Mapping[str, Any], steps: int, tell: Callable[[str], None]
) -> Saved | None:
    """Find the checkpoint to go on from, and tell what is to be said of it."""
    saved, notes = checkpoints.newest()
    for note in notes:
        tell(note)
    if saved is None:
        if notes:
            tell("No checkpoint is left to go on from, so the run begins anew.")
        return None
    was = saved.facts["origin"]
    others = [
        f"{name} was {was[name]} and is {now}" for name, now in origin.items() if was[name] != now
    ]
    bits = f", not to the bit, since {', '.join(others)}" if others else ""
    tell(f"The run goes on at step {saved.step} of {steps}{bits}.")
    return saved


def _reading(saved: Saved | None) -> Callable[[str], Tensor]:
    """Return what reads tensors of a checkpoint; other processes than the first never call it."""

    def read(name: str) -> Tensor:
        assert saved is not None, "only the first process reads"
        return saved.tensor(name)

    return read
