"""Steps to equal loss at the target: µP at the transferred rate against named baselines.

    hptransfer sweep convergence executor=local
    python -m benchmarks.convergence results/convergence

The target is trained through the same packs as the sweep, with its held-out loss measured at every
report: under µP at the transferred rate; under the standard parametrization at the original's
default rate, at the widest proxy's best rate and at the rate its drift predicts; and at every point
of the sweep's grid under both, for the target-tuned baseline and the regrets. Rows go to
`<folder>/convergence/`; run again, the command goes on with what is missing. The answer goes to
`<folder>/convergence.json`, the picture to `<folder>/figures/convergence.png` and `.svg`.

What is compared, and how, stands in sweeps/convergence.yaml and docs/evidence/convergence.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import convergence_answer, measure
from benchmarks.convergence_answer import Run, risen
from benchmarks.convergence_plot import draw, ratio_text
from benchmarks.convergence_study import AXIS, Candidate, Row, Study, opened, own_fit, train
from hptransfer.cli.terminal import interruptible
from hptransfer.config.identity import trial_key
from hptransfer.errors import Interrupted, MachineError, UserError
from hptransfer.results.curves import read_held_out
from hptransfer.results.folder import write_json
from hptransfer.results.provenance import provenance
from hptransfer.transfer import emit

COLUMNS = ("at the target", "log2 lr", "loss", "regret", "µP needs fewer steps", "tuning counted")

OPTIMUM = ("optimum", "low", "high", "loss", "censored")  # of the target's own grid


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, answer, draw and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convergence", description=__doc__)
    parser.add_argument("folder", type=Path, help="a sweep's results folder")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the answer")
    arguments = parser.parse_args(argv)
    try:
        with interruptible(f"python -m benchmarks.convergence {arguments.folder}"):
            answer = _answered(opened(arguments.folder), quiet=arguments.quiet)
    except (UserError, MachineError) as error:
        print(f"convergence: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as cut:
        return cut.exit_code
    print(measure.table_text(COLUMNS, [_cells(entry) for entry in _entries(answer)]))
    for warning in answer["warnings"]:
        print(f"warning: {warning}")
    return 0


def _answered(study: Study, *, quiet: bool) -> dict[str, Any]:
    compared = train(study, quiet=quiet)
    answer = answered(study, compared)
    write_json(study.folder.path / "convergence.json", answer)
    draw(answer, study.folder.figures)
    return answer


def answered(study: Study, compared: Sequence[Candidate]) -> dict[str, Any]:
    """Return the answer from the recorded rows and their curves; µP's rate is the first."""
    rows, ours = study.recorded(), compared[0]
    keys = {c.name: map(trial_key, study.configs(c.scaling, c.log2_lr)) for c in compared}
    runs = {name: [_run(study, rows[key]) for key in each] for name, each in keys.items()}
    entries = []
    for each in compared:
        entry = _entry(each, runs[each.name], own_fit(study, each.scaling, each.log2_lr))
        if each is not ours:
            tuning = (ours.tuning, each.tuning)
            entry |= convergence_answer.speed_up(runs[ours.name], runs[each.name], tuning)
        entries.append(entry)
    return {
        "schema": 1,
        "sweep": study.sweep.name,
        "question": study.sweep.question,
        "statistic": study.sweep.statistic,
        "family": study.target.model.family,
        "width": study.target.model.width,
        "steps": study.target.budget.steps,
        "seeds": list(study.sweep.seeds),
        "conditional_on": emit.conditional_on(study.target),
        "runs": len(rows),
        "device": next(iter(rows.values()))["cost"]["device"],
        "seconds": round(sum(row["cost"]["seconds"] for row in rows.values()), 1),
        "transferred": entries[0],
        "baselines": entries[1:],
        "cost": emit.search_cost(
            study.sweep, study.proxies, study.target, points=len(study.grid())
        ),
        "warnings": _warnings(compared, runs, entries),
        "provenance": provenance(),
    }


def _warnings(
    compared: Sequence[Candidate],
    runs: Mapping[str, Sequence[Run]],
    entries: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Say what a ratio does not tell: optima on an edge, and runs that were lower before."""
    edges = [
        f"{entry['label']}: the optimum of the target's own grid is censored "
        f"({entry['optimum']['censored']}), so its regret is a bound."
        for entry in (entries[0], entries[-1])
        if entry["optimum"]["censored"] is not None
    ]
    return [*edges, *(text for c in compared for text in risen(c.label, runs[c.name]))]


def _run(study: Study, row: Row) -> Run:
    curve = read_held_out(study.rows, row["trial_key"])
    if row["loss"] is not None and not curve:
        raise UserError(
            f"Trial {row['trial_key']} in {study.rows} has no held-out curve, which steps to equal "
            "loss are read from. Move that folder away and run this again."
        )
    return Run(
        seed=row["seed"],
        steps=study.target.budget.steps,
        loss_at_init=row["metrics"]["loss_at_init"],
        loss=row["loss"],
        curve=tuple((step, loss) for step, loss in curve if loss is not None),
    )


def _entry(candidate: Candidate, runs: Sequence[Run], answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "label": candidate.label,
        "parametrization": candidate.scaling.value,
        AXIS: candidate.log2_lr,
        "tuning_target_runs": round(candidate.tuning, 4),
        "loss": convergence_answer.mean_loss(runs),
        "losses": [run.loss for run in runs],
        "trained": [run.trained for run in runs],
        "regret": answer["regret"],
        "predicted_regret": answer["predicted"],
        "optimum": {name: answer["optimum"][name] for name in OPTIMUM},
        "curve": convergence_answer.band(runs),
    }


def _entries(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [answer["transferred"], *answer["baselines"]]


def _cells(entry: Mapping[str, Any]) -> list[str]:
    loss, regret = entry["loss"], entry["regret"]["estimate"]
    return [
        entry["label"],
        f"{entry[AXIS]:.2f}",
        "-" if loss is None else f"{loss:.4f}",
        "-" if regret is None else f"{regret:.4f}",
        *(ratio_text(entry.get(name)) for name in ("speed_up", "speed_up_with_tuning")),
    ]


if __name__ == "__main__":
    sys.exit(main())
