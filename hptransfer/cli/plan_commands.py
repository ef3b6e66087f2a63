"""The command that says what a sweep will cost; it writes nothing into the results folder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hptransfer.cli.terminal import (
    command_line,
    config_words,
    interruptible,
    print_config,
    print_json,
)
from hptransfer.errors import UserError
from hptransfer.system.console import say

if TYPE_CHECKING:
    from hptransfer.sweeping.plan.plan import PlanInputs


def plan_command(arguments: argparse.Namespace) -> int:
    """`hptransfer plan`.

    With --json: `shapes` (each an arm at a width: `parameters`; `trials` wanted, recorded and to
    run; `flops`; `evaluation_share` of the training's FLOPs; `packs` to run with `size`, `seconds`
    of a full one, `bytes`, `source` of the seconds and `interval_from`; `hours`), `total` (the same
    summed, and `money`), `place` (what one pack occupies), `wall_seconds` with so many `workers`,
    `target` (one run), `search_over_target` (as `transfer` gives it) and `notes`. An interval is
    {estimate, low, high}, its ends null where nothing tells them; hours are of `place.unit`.
    `packs`, `hours` and `money` are null where nothing tells how long packs take. With --budget the
    answer is another: see `docs/budget.md`.
    """
    from hptransfer.config.compose.compose import compose_file, find_sweep, sweep_config
    from hptransfer.results.folder import ResultsFolder
    from hptransfer.sweeping.plan.plan import read_inputs
    from hptransfer.sweeping.run.job import check_question

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be positive, but got {arguments.workers}.")
    composed = compose_file(
        find_sweep(arguments.sweep), arguments.overrides, config_dir=arguments.config_dir
    )
    sweep = sweep_config(composed)
    if arguments.print_config:
        return print_config(arguments, composed, sweep.name)
    check_question(sweep, ResultsFolder(arguments.results / sweep.name))
    words = [arguments.sweep, *config_words(arguments)]
    command = command_line("plan", arguments, *words)
    if arguments.budget is not None:
        command += f" --budget={arguments.budget}"
    if arguments.measure:
        command += " --measure"
    with interruptible(command, "nothing was written"):
        inputs = read_inputs(
            sweep,
            composed.runtime,
            composed.executor,
            root=arguments.results,
            workers=arguments.workers,
            measure=arguments.measure,
            say=lambda text: say(text, quiet=arguments.quiet),
        )
        text, answer, changes = _planned(inputs, arguments.budget)
    keys = {word.partition("=")[0] for word in changes}
    kept = [word for word in words if word.partition("=")[0] not in keys]
    next_command = command_line("sweep", arguments, *kept, *changes)
    if arguments.json:
        print_json(answer if arguments.budget is None else {**answer, "next": next_command})
    else:
        print(text)
        print(f"next: {next_command}")
    return 0


def _planned(inputs: PlanInputs, budget: str | None) -> tuple[str, dict[str, Any], list[str]]:
    """Return the plan of a sweep, or of a budget: as text, for JSON, and the overrides it wants."""
    from hptransfer.reporting.text.plan import budget_text, plan_text

    if budget is None:
        from hptransfer.sweeping.plan.plan import plan

        answer = plan(inputs)
        return plan_text(answer), answer, []
    from hptransfer.sweeping.plan.budget.propose import plan_budget
    from hptransfer.sweeping.plan.budget.units import parse_budget

    answer = plan_budget(inputs, parse_budget(budget))
    return budget_text(answer), answer, answer["overrides"]
