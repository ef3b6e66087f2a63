"""The commands about a sweep and its folder: each reads its arguments and prints the answer.

What trains, draws or computes is imported where it is used, after all that can refuse the command.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.analysis import of_folder
from hptransfer.analysis.answer.text import estimates_text
from hptransfer.cli.next_lines import (
    after_fit,
    after_report,
    after_status,
    after_transfer,
    step_words,
)
from hptransfer.cli.terminal import (
    Clock,
    command_line,
    config_words,
    interruptible,
    print_config,
    print_json,
    print_recorded,
    say,
)
from hptransfer.config.compose.compose import Composed, compose_file, find_sweep, sweep_config
from hptransfer.config.sweep import ExternalSweep
from hptransfer.errors import UserError, abbreviate
from hptransfer.reporting.text import answers as text
from hptransfer.reporting.text.plan import budget_text, external_plan_text, plan_text
from hptransfer.results.export import export_rows
from hptransfer.results.folder import ResultsFolder, find_folder, read_json, trial_log
from hptransfer.results.importers.ledger import import_ledger, is_ledger
from hptransfer.results.importers.table import import_file
from hptransfer.results.ledger_rows import find_ledger, read_ledger_rows, verify_folder
from hptransfer.results.metrics import metric_named
from hptransfer.results.sweep_file import read_facts
from hptransfer.system.signals import raised_as_interrupted
from hptransfer.system.text import say as say_on_stderr


@contextmanager
def _job(arguments: argparse.Namespace, *, with_target: bool) -> Iterator[Any]:
    """Compose a sweep and hold its folder; None where the sweep was only to be printed.

    Args:
        with_target: whether the command goes on to the target's own trials.
    """
    path = find_sweep(arguments.sweep, arguments.results)
    composed = compose_file(path, arguments.overrides, config_dir=arguments.config_dir)
    if arguments.print_config:
        print_config(arguments, composed, sweep_config(composed).name)
        yield None
        return
    _confirm(arguments, composed, with_target=with_target)
    from hptransfer.execution import kept_executor
    from hptransfer.sweeping.run import job as jobs

    quiet = arguments.quiet or arguments.json
    shrink = arguments.shrink
    ahead = jobs.runs_trials(composed, arguments.results)
    with (
        kept_executor(composed.executor, ahead=ahead),  # starts while open_job imports torch
        jobs.open_job(composed, arguments.results, quiet=quiet, shrink=shrink) as job,
    ):
        yield job


def _confirm(arguments: argparse.Namespace, composed: Composed, *, with_target: bool) -> None:
    """Ask before more GPU-hours than `plan.confirm_gpu_hours`; refuse where nobody can answer.

    Raises:
        UserError: there is no terminal to ask at, or the answer is no.
    """
    sweep = sweep_config(composed)
    assert composed.sweep is not None
    plan = composed.sweep.plan
    is_asked = composed.runtime.on_gpu and not isinstance(sweep, ExternalSweep)
    if arguments.yes or not is_asked or plan.confirm_gpu_hours is None:
        return
    from hptransfer.sweeping.plan.plan import gpu_hours_ahead, read_inputs
    from hptransfer.sweeping.run.job import check_question

    check_question(sweep, ResultsFolder(arguments.results / sweep.name))
    inputs = read_inputs(
        sweep,
        composed.runtime,
        composed.executor,
        root=arguments.results,
        workers=None,
        measure=False,
        say=lambda _: None,
        reckoning=plan,
    )
    hours = gpu_hours_ahead(inputs, with_target=with_target)
    if hours <= plan.confirm_gpu_hours:
        return
    much = (
        f"about {hours:,.0f} GPU-hours on {plan.gpu}, reckoned from FLOPs and not measured, which "
        f"is more than plan.confirm_gpu_hours={plan.confirm_gpu_hours:g}"
    )
    if not sys.stdin.isatty():
        raise UserError(
            f"This command would take {much}. Look at `hptransfer plan`, and add --yes to start."
        )
    print(f"This command takes {much}. Start it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was started, since the answer was not y.")


def _resuming(arguments: argparse.Namespace) -> list[str]:
    """Return the words of a command behind the sweep's name, to type it again."""
    return [*config_words(arguments), *(["--yes"] if arguments.yes else [])]


def _gate(arguments: argparse.Namespace, job: Any) -> int:
    """Check a job's arms and say how; return the exit code if it may not go on, else 0."""
    from hptransfer.sweeping.run import job as jobs

    try:
        checks = jobs.gate(job)
    except jobs.CheckFailed as failed:
        say(arguments, str(failed))
        return failed.exit_code
    for answer in checks:
        say(arguments, text.check_line(answer))
    return 0


def run_command(arguments: argparse.Namespace) -> int:
    """`hptransfer run`."""
    resume = command_line("run", arguments, arguments.sweep, *_resuming(arguments))
    clock = Clock()
    with interruptible(resume), _job(arguments, with_target=True) as job:
        if job is None:
            return 0
        from hptransfer.reporting import of_folder as pages
        from hptransfer.sweeping.run import driver
        from hptransfer.transfer import transfer as pipeline

        refused = _gate(arguments, job)
        if refused:
            return refused
        clock.lap("check")
        ran = driver.sweep(job)
        clock.lap("sweep")
        of_folder.fit_folder(job.folder)
        transferred = pipeline.transfer(job.folder)
        clock.lap("fit and transfer")
        realised = pipeline.realise(job, transferred)
        clock.lap("target")
        pages.record_timing(job.folder, clock.laps, worked=ran > 0)
        pages.report_folder(job.folder, [resume])
        clock.lap("plot and report")
    return _finish_run(arguments, job.folder, realised, clock)


def _finish_run(
    arguments: argparse.Namespace, folder: ResultsFolder, realised: Any, clock: Clock
) -> int:
    estimates = read_json(folder.estimates_file, "arms")
    transferred = read_json(folder.transfer_file, "target")
    assert estimates is not None and transferred is not None, "run has just written both"
    if arguments.json:
        print_json({**estimates, "transfer": transferred, "realised": realised})
    else:
        print(estimates_text(estimates))
        print(text.target_lines(transferred))
        if realised is not None:
            print(text.realised_line(realised))
        print(text.timing_line(clock.laps))
        print(f"picture  {folder.figures / 'summary.png'}\nreport   {folder.report_file}")
        print("\n".join(after_transfer(arguments, folder, transferred)))
    return _strict(arguments, [transferred["verdict"]])


def _strict(arguments: argparse.Namespace, verdicts: list[str]) -> int:
    return int(arguments.strict and any(verdict != "transfers" for verdict in verdicts))


def sweep_command(arguments: argparse.Namespace) -> int:
    """`hptransfer sweep`."""
    resume = command_line("sweep", arguments, arguments.sweep, *_resuming(arguments))
    with interruptible(resume), _job(arguments, with_target=False) as job:
        if job is None:
            return 0
        from hptransfer.sweeping.run import driver
        from hptransfer.sweeping.run import job as jobs

        refused = _gate(arguments, job)
        if refused:
            return refused
        if not arguments.quiet:
            say(arguments, jobs.intention(job))
        ran = driver.sweep(job)
    state = of_folder.status(job.folder)
    if arguments.json:
        print_json({**state, "ran": ran})
    else:
        print(text.status_text(state))
        print(f"next: {after_status(arguments, job.folder, state)}")
    return 0


def on_results_folder(
    command: Callable[[argparse.Namespace, ResultsFolder], int],
) -> Callable[[argparse.Namespace], int]:
    """Find the folder that a command names; with --print-config only print its config."""

    @functools.wraps(command)
    def found(arguments: argparse.Namespace) -> int:
        folder = find_folder(arguments.folder, arguments.results)
        if arguments.print_config:
            return print_recorded(arguments, folder.sweep_file)
        return command(arguments, folder)

    return found


@on_results_folder
def fit_command(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """`hptransfer fit`."""
    metric = metric_named(arguments.metric)
    estimates = of_folder.fit_folder(
        folder,
        arguments.overrides,
        config_dir=arguments.config_dir,
        step=arguments.step,
        metric=metric,
    )
    if arguments.json:
        print_json(estimates)
    else:
        print(estimates_text(estimates))
        if arguments.overrides or arguments.step is not None:
            print(
                "This answer was not stored in the folder, because it was asked with changes "
                f"that {folder.sweep_file.name} does not have."
            )
        print("\n".join(after_fit(arguments, folder, estimates)))
    return _strict(arguments, [arm["verdict"] for arm in estimates["arms"]])


@on_results_folder
def transfer_command(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """`hptransfer transfer`."""
    from hptransfer.transfer import transfer as pipeline

    record = pipeline.transfer(
        folder, arguments.overrides, arguments.config_dir, step=arguments.step
    )
    if arguments.json:
        print_json(record)
    else:
        print(text.transfer_lines(record))
        print(f"written  {folder.target_file}")
        print("\n".join(after_transfer(arguments, folder, record)))
    return _strict(arguments, [record["verdict"]])


@on_results_folder
def plot_command(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """`hptransfer plot`."""
    from hptransfer.reporting import of_folder as pages

    metric = metric_named(arguments.metric)
    if arguments.terminal and (arguments.json or arguments.out is not None):
        raise UserError(
            "`hptransfer plot --terminal` prints text and writes no file, so it takes neither "
            "--json nor --out. Leave them out, or leave out --terminal."
        )
    if arguments.terminal:
        of_folder.require_trials(folder)
        found = of_folder.fresh_estimates(folder, step=arguments.step, metric=metric)
        print(_basins_text(found))
        return 0
    drawn = pages.plot_folder(folder, out=arguments.out, step=arguments.step, metric=metric)
    paths = [str(path) for path in drawn]
    if arguments.json:
        print_json({"files": paths})
    else:
        print("\n".join(paths))
        elsewhere = [] if arguments.out is None else [f"--out={arguments.out}"]
        print(f"next: {command_line('report', arguments, str(folder.path), *elsewhere)}")
    return 0


def _basins_text(estimates: Mapping[str, Any]) -> str:
    from hptransfer.reporting.text.basins import basins_text

    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return basins_text(
        estimates,
        columns=min(shutil.get_terminal_size((80, 24)).columns, 120),
        unicode=encoding == "utf8",
        colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ,
    )


def report_command(arguments: argparse.Namespace) -> int:
    """`hptransfer report`."""
    if arguments.serve and not arguments.print_config:
        return _serve_report(arguments)
    if arguments.folder is None or arguments.port is not None:
        raise UserError(
            "`hptransfer report` without --serve writes the page of one sweep, so it takes the "
            "name of its results folder and no --port. Name the folder, or add --serve."
        )
    return _write_report(arguments)


@on_results_folder
def _write_report(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    from hptransfer.reporting import of_folder as pages

    made_by = _made_by(arguments, folder)
    path = pages.report_folder(folder, made_by, out=arguments.out, step=arguments.step)
    if arguments.json:
        print_json({"files": [str(path)]})
    else:
        print(f"report   {path}")
        print(f"next: {after_report(arguments, folder)}")
    return 0


def _serve_report(arguments: argparse.Namespace) -> int:
    """Serve the pages of one sweep or of all until a signal asks for the end."""
    from hptransfer.reporting.live.server import LiveServer
    from hptransfer.sweeping.run.time_left import time_left_text

    if arguments.out is not None:
        raise UserError("`hptransfer report --serve` writes no file. Leave --out out, or --serve.")
    root, name = arguments.results, arguments.folder
    served = root if name is None else find_folder(name, root)
    options = {"port": arguments.port or 0, "step": arguments.step}
    with (
        suppress(KeyboardInterrupt),
        raised_as_interrupted(),
        LiveServer(served, time_left=time_left_text, **options) as server,
    ):
        if arguments.json:
            print_json({"url": server.url})
        else:
            print(f"report   {server.url} (Ctrl-C ends it)")
        sys.stdout.flush()
        server.serve_forever()
    return 0


def _made_by(arguments: argparse.Namespace, folder: ResultsFolder) -> list[str]:
    """Return the commands that make a folder's report again, from its rows' source on."""
    tree, path = read_facts(folder).tree, str(folder.path)
    steps = step_words(arguments)
    imported = tree.get("imported") or {}
    files = imported.get("files") or {}
    repeats = ["--repeats", "seeds"] if imported.get("repeats") == "seeds" else []
    rows = [
        command_line(
            *("import", arguments, name, path, *repeats, "--columns"),
            *(
                f"{ours}{'' if theirs.startswith(':=') else '='}{theirs}"
                for ours, theirs in taken.items()
            ),
        )
        for name, taken in files.items()
    ] or [command_line("sweep", arguments, str(folder.sweep_file))]
    transfer, done = [], read_json(folder.transfer_file, "target")
    if done is not None:
        width = [f"model.width={done['target']['width']}"] if files else []
        transfer = [command_line("transfer", arguments, path, *width, *steps)]
    return [
        *rows,
        command_line("fit", arguments, path, *steps),
        *transfer,
        command_line("report", arguments, path, *steps),
    ]


@on_results_folder
def status_command(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """`hptransfer status`."""
    asked: dict[str, Any] = {}
    if arguments.verify:
        asked["verified"] = verify_folder(folder)
    state = of_folder.status(folder)
    if arguments.export is not None:
        asked["exported"] = export_rows(folder, read_facts(folder), arguments.export)
    if arguments.json:
        print_json({**state, **asked})
        return 0
    print(text.status_text(state))
    for ledger in asked.get("verified", []):
        print(
            f"verified {ledger['file']}: {ledger['rows']} rows, {ledger['bytes']} bytes, "
            f"{ledger['curves']} curves; sha256 {ledger['sha256']}"
        )
    if exported := asked.get("exported"):
        print(
            f"exported {exported['rows']} rows to {exported['file']}; what the columns mean is "
            f"written to {exported['dictionary']}"
        )
    print(f"next: {after_status(arguments, folder, state)}")
    return 0


def import_command(arguments: argparse.Namespace) -> int:
    """`hptransfer import`."""
    folder = ResultsFolder(_named(arguments.folder, arguments.results))
    source = _named(arguments.source, arguments.results)
    if not is_ledger(source):
        return _import_table(arguments, folder)
    if arguments.columns:
        raise UserError(
            f"`--columns` says what the columns of another program mean, but {source} is a ledger "
            "of hptransfer, whose columns are known. Leave --columns out."
        )
    if arguments.repeats == "seeds":
        raise UserError(
            f"`--repeats` is for the table of another program, but {source} is a ledger of "
            "hptransfer, whose rows have their seeds. Leave --repeats out."
        )
    answer = import_ledger(source, folder)
    if arguments.json:
        print_json(answer)
        return 0
    for ledger in answer["ledgers"]:
        print(_imported_text(ledger))
    if not arguments.quiet:
        state = of_folder.status(folder)
        print(f"next: {after_status(arguments, folder, state)}")
    return 0


def _import_table(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """Import rows that another program wrote."""
    words, drop = arguments.columns or [], arguments.missing == "drop"
    answer = import_file(
        arguments.source,
        folder,
        words,
        drop_missing=drop,
        repeats_are_seeds=arguments.repeats == "seeds",
    )
    if arguments.json:
        print_json(answer)
        return 0
    for note in [] if arguments.quiet else answer["notes"]:
        print(note)
    what = "trials" if find_ledger(folder.path) is not None else "optima"
    print(
        f"imported {answer['appended']} {what} from {answer['source']} into {answer['into']}; "
        f"{answer['identical']} more were already there"
    )
    if answer["repaired"]:
        print(answer["repaired"])
    if arguments.quiet:
        return 0
    into_target = not folder.sweep_file.is_file()  # a target's rows have the sweep above them
    after = ("report", folder.path.parent) if into_target else ("fit", folder.path)
    print(f"next: {command_line(after[0], arguments, str(after[1]))}")
    return 0


def _named(path: Path, root: Path) -> Path:
    """Return a path, or what NAME and NAME/target mean: places in the folder of results.

    A path of several parts stands as it is, unless it begins with a folder that only `root` has.
    """
    first = Path(*path.parts[:1])
    try:
        is_here = path.exists() or first.exists()
        is_name = len(path.parts) == 1 or (root / first).is_dir()
    except OSError as error:
        raise UserError(
            f"A path must be readable, but {abbreviate(str(path))} is not: {error.strerror}. "
            "Check it."
        ) from None
    return root / path if is_name and not is_here else path


def _imported_text(ledger: Mapping[str, Any]) -> str:
    wanted = "" if ledger["wanted"] is None else f" (the sweep asks for {ledger['wanted']} of them)"
    lines = [
        f"imported {ledger['appended']} rows{wanted} and {ledger['curves']} curves from "
        f"{ledger['source']} into {ledger['into']}; {ledger['identical']} more were already there"
    ]
    if ledger["differing"]:
        gap = ledger["largest_difference"]
        by = "" if gap is None else f", by up to {gap:.3g} in loss"
        lines.append(
            f"{ledger['differing']} trials have another result there{by}; the results that were "
            "here are kept"
        )
    notes = (ledger["notice"], ledger["repaired"])
    return "\n".join([*lines, *(note for note in notes if note)])


if TYPE_CHECKING:
    from hptransfer.sweeping.plan.plan import PlanInputs


def plan_command(arguments: argparse.Namespace) -> int:
    """`hptransfer plan`.

    With --json: `shapes` (each an arm at a width: `parameters`; `trials` wanted, recorded and to
    run; `flops`; `evaluation_share` of the training's FLOPs; `packs` to run with `size`, `seconds`
    of a full one, `bytes`, `source` of the seconds and `interval_from`; `hours`), `total` (the same
    summed, and `money`), `place` (what one pack occupies), `wall_seconds` with so many `workers`,
    `target` (one run), `reckoned` (GPU-hours from FLOPs at an assumed speed; null without a GPU),
    `search_over_target` (as `transfer` gives it), `search_over_target_by_size` (the same by
    parameters x samples) and `notes`. An interval is
    {estimate, low, high}, its ends null where nothing tells them; hours are of `place.unit`.
    `packs`, `hours` and `money` are null where nothing tells how long packs take. With --budget the
    answer is another: see `docs/how_to/budget.md`.
    """
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be positive, but got {arguments.workers}.")
    path = find_sweep(arguments.sweep, arguments.results)
    composed = compose_file(path, arguments.overrides, config_dir=arguments.config_dir)
    sweep = sweep_config(composed)
    assert composed.sweep is not None
    if arguments.print_config:
        return print_config(arguments, composed, sweep.name)
    from hptransfer.sweeping.run.job import check_question

    check_question(sweep, ResultsFolder(arguments.results / sweep.name))
    words = [arguments.sweep, *config_words(arguments)]
    command = command_line("plan", arguments, *words)
    if isinstance(sweep, ExternalSweep):
        return _plan_external(arguments, composed.executor, sweep, words)
    if arguments.budget is not None:
        command += f" --budget={arguments.budget}"
    if arguments.measure:
        command += " --measure"
    from hptransfer.sweeping.plan.plan import read_inputs

    with interruptible(command, "nothing was written"):
        inputs = read_inputs(
            sweep,
            composed.runtime,
            composed.executor,
            root=arguments.results,
            workers=arguments.workers,
            measure=arguments.measure,
            say=lambda text: say_on_stderr(text, quiet=arguments.quiet),
            reckoning=composed.sweep.plan,
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


def _plan_external(
    arguments: argparse.Namespace, executor: Any, sweep: Any, words: list[str]
) -> int:
    from hptransfer.sweeping.plan.external import plan_external

    for flag in ("budget", "measure"):
        if getattr(arguments, flag):
            raise UserError(
                f"`hptransfer plan --{flag}` needs a model of hptransfer, whose FLOPs it knows, "
                "but this sweep trains with your own trainer. Leave it out: the plan is made from "
                "the seconds of trials that are finished."
            )
    folder = ResultsFolder(arguments.results / sweep.name)
    rows = {row["trial_key"]: row for row in read_ledger_rows(folder.path)}
    answer = plan_external(sweep, executor, rows, arguments.workers)
    if arguments.json:
        print_json(answer)
    else:
        print(external_plan_text(answer))
        print(f"next: {command_line('sweep', arguments, *words)}")
    return 0


def logs_command(arguments: argparse.Namespace) -> int:
    """`hptransfer logs`."""
    folder = find_folder(arguments.folder, arguments.results)
    path = trial_log(folder, arguments.key)
    content = path.read_text(encoding="utf-8", errors="replace")
    if arguments.json:
        print_json({"file": str(path), "lines": content.splitlines()})
    else:
        print(content, end="")
    return 0


def _planned(inputs: PlanInputs, budget: str | None) -> tuple[str, dict[str, Any], list[str]]:
    """Return the plan of a sweep, or of a budget: as text, for JSON, and the overrides it wants."""
    if budget is None:
        from hptransfer.sweeping.plan.plan import plan

        answer = plan(inputs)
        return plan_text(answer), answer, []
    from hptransfer.sweeping.plan.budget.propose import plan_budget
    from hptransfer.sweeping.plan.budget.units import parse_budget

    answer = plan_budget(inputs, parse_budget(budget))
    return budget_text(answer), answer, answer["overrides"]
