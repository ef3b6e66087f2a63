"""What a convergence study answered: steps to equal loss over named baselines, regret, cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.convergence_plot import ratio_text
from benchmarks.studies_read import Record, Study
from benchmarks.studies_words import LINE, cost, plain


def over(record: Record) -> str:
    """Write the speed-up over one baseline, and the same with the cost of tuning counted."""
    tuned = ratio_text(record["speed_up_with_tuning"])
    return f"{ratio_text(record['speed_up'])}, with tuning counted {tuned}"


def answered(study: Study) -> str:
    """Say how many times fewer steps µP needed, over each baseline by its name."""
    assert study.convergence is not None, "asked of a study that holds it"
    found = study.convergence
    said = [
        f"Steps to equal loss at width {found['width']}, {len(found['seeds'])} seeds: µP's speed-up"
    ]
    said += [f"over {baseline['label']}: {over(baseline)}" for baseline in found["baselines"]]
    said += [
        f"Regret of µP's transferred rate at the target: {plain(found['transferred']['regret'])}",
        f"µP's tuning over the target run: {cost(found['cost'])}",
    ]
    said += [f"Warning: {warning}" for warning in found["warnings"]]
    return LINE.join(said)


# The baselines as convergence.json names them.
BASELINES = {
    "default": "at the original's default rate",
    "proxy_tuned": "at the widest proxy's best rate",
    "law_tuned": "at the rate its drift predicts",
    "target_tuned": "at the optimum fitted to the target's own grid",
}


def sped_up() -> list[tuple[str, Callable[[Study], str]]]:
    """Return the lines of the families' table, a baseline each."""
    return [
        (f"speed-up in steps to equal loss over standard {where}", partial(_cell, name=name))
        for name, where in BASELINES.items()
    ]


def _cell(study: Study, *, name: str) -> str:
    assert study.convergence is not None, "asked of a study that holds it"
    listed = {baseline["name"]: baseline for baseline in study.convergence["baselines"]}
    if name not in listed:
        return "no rate trained every seed"
    return f"rate {2 ** listed[name]['log2_lr']:.2g}: {over(listed[name])}"
