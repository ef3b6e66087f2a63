"""The command that says what a sweep will cost; it writes nothing into the results folder."""

from __future__ import annotations

import argparse

from hptransfer import results
from hptransfer.errors import UserError
from hptransfer.results import ResultsFolder
from hptransfer.terminal import interruptible, print_config, print_json, typed


def plan_command(arguments: argparse.Namespace) -> int:
    """`hptransfer plan`.

    With --json: `shapes` (each an arm at a width: `trials` wanted, recorded and to run; `flops`;
    `evaluation_share` of the training's FLOPs; `packs` to run with `size`, `seconds` of a full
    one, `bytes`, `source` of the seconds and `interval_from`; `hours`), `total` (the same summed,
    and `money`), `place` (what one pack occupies), `wall_seconds` with so many `workers`, `target`
    (one run), `search_over_target` (as `transfer` gives it) and `notes`. An interval is {estimate,
    low, high}, its ends null where nothing says; hours are of `place.unit`.
    """
    from hptransfer.catalogue import find_sweep
    from hptransfer.compose import compose_file, sweep_config
    from hptransfer.jobs import check_question
    from hptransfer.ledger_rows import rows_in
    from hptransfer.plan import plan
    from hptransfer.plan_text import plan_text

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
    with interruptible(
        typed("plan", arguments, arguments.sweep, *arguments.overrides), "nothing was written"
    ):
        answer = plan(
            sweep,
            composed.runtime,
            composed.executor,
            rows={row["trial_key"]: row for row in rows_in(folder.path)},
            target_rows=rows_in(folder.target),
            sizes=results.read_packs(folder.path),
            workers=arguments.workers or composed.executor.workers,
        )
    if arguments.json:
        print_json(answer)
    else:
        print(plan_text(answer))
        print(f"next: {typed('sweep', arguments, arguments.sweep, *arguments.overrides)}")
    return 0
