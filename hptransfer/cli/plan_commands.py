"""The command that says what a sweep will cost; it writes nothing into the results folder."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hptransfer.cli.terminal import interruptible, print_config, print_json, typed
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes_file import read_packs
from hptransfer.results.folder import ResultsFolder

if TYPE_CHECKING:
    from hptransfer.config.compose.compose import Composed
    from hptransfer.config.sweep import SweepConfig


def plan_command(arguments: argparse.Namespace) -> int:
    """`hptransfer plan`.

    With --json: `shapes` (each an arm at a width: `trials` wanted, recorded and to run; `flops`;
    `evaluation_share` of the training's FLOPs; `packs` to run with `size`, `seconds` of a full
    one, `bytes`, `source` of the seconds and `interval_from`; `hours`), `total` (the same summed,
    and `money`), `place` (what one pack occupies), `wall_seconds` with so many `workers`, `target`
    (one run), `search_over_target` (as `transfer` gives it) and `notes`. An interval is {estimate,
    low, high}, its ends null where nothing says; hours are of `place.unit`. With --budget
    the answer is another: see `docs/budget.md`.
    """
    from hptransfer.config.compose.catalogue import find_sweep
    from hptransfer.config.compose.compose import compose_file, sweep_config
    from hptransfer.reporting.text.plan import plan_text
    from hptransfer.results.ledger_rows import read_ledger_rows
    from hptransfer.sweeping.plan.plan import plan
    from hptransfer.sweeping.run.job import check_question

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be positive, but got {arguments.workers}.")
    composed = compose_file(
        find_sweep(arguments.sweep), arguments.overrides, config_dir=arguments.config_dir
    )
    sweep = sweep_config(composed)
    if arguments.print_config:
        return print_config(arguments, composed, sweep.name)
    folder = ResultsFolder(arguments.results / sweep.name)
    check_question(sweep, folder)
    if arguments.budget is not None:
        return _budget(arguments, composed, sweep, folder)
    with interruptible(
        typed("plan", arguments, arguments.sweep, *arguments.overrides), "nothing was written"
    ):
        answer = plan(
            sweep,
            composed.runtime,
            composed.executor,
            rows={row["trial_key"]: row for row in read_ledger_rows(folder.path)},
            target_rows=read_ledger_rows(folder.target),
            sizes=read_packs(folder.path),
            workers=arguments.workers or composed.executor.workers,
        )
    if arguments.json:
        print_json(answer)
    else:
        print(plan_text(answer))
        print(f"next: {typed('sweep', arguments, arguments.sweep, *arguments.overrides)}")
    return 0


def _budget(
    arguments: argparse.Namespace, composed: Composed, sweep: SweepConfig, folder: ResultsFolder
) -> int:
    """Say what to sweep for a budget, and the command that does."""
    from hptransfer.reporting.text.plan import budget_text
    from hptransfer.results.ledger_rows import read_ledger_rows
    from hptransfer.sweeping.plan.budget.propose import plan_budget
    from hptransfer.sweeping.plan.budget.units import parse_budget

    words = [arguments.sweep, *arguments.overrides]
    with interruptible(
        f"{typed('plan', arguments, *words)} --budget={arguments.budget}", "nothing was written"
    ):
        answer = plan_budget(
            sweep,
            parse_budget(arguments.budget),
            composed.runtime,
            composed.executor,
            rows=read_ledger_rows(folder.path),
            sizes=read_packs(folder.path),
            workers=arguments.workers or composed.executor.workers,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    keys = {word.partition("=")[0] for word in answer["overrides"]}
    kept = [word for word in arguments.overrides if word.partition("=")[0] not in keys]
    command = typed("sweep", arguments, arguments.sweep, *kept, *answer["overrides"])
    if arguments.json:
        print_json({**answer, "next": command})
    else:
        print(budget_text(answer))
        print(f"next: {command}")
    return 0
