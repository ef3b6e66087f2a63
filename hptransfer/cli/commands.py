"""The registry of commands: name, meaning, arguments and function of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hptransfer.errors import UserError
from hptransfer.results.folder import DEFAULT_ROOT

EPILOG = """\
a SWEEP is a file or a bare name: looked up in ./sweeps, then among those that ship
overrides:  group=choice  or  key=value, e.g.  model.depth=4  'sweep.widths=[64,128]'
            search.lr.low=-12  executor=local  runtime.device=cuda  name=mine
exit codes: 0 done; 1 it ran and the answer is no; 2 change the command; 3 the machine failed;
            130, 143 interrupted
"""


Argument = tuple[tuple[str, ...], dict[str, Any]]  # of argparse's `add_argument`


@dataclass(frozen=True)
class Command:
    """A command of `hptransfer`."""

    name: str
    meaning: str
    arguments: tuple[Argument, ...]  # besides --json and --quiet, which every command has


def _argument(*names: str, **settings: Any) -> Argument:
    return names, settings


def _flag(name: str, meaning: str) -> Argument:
    return _argument(name, action="store_true", help=meaning)


SWEEP = _argument("sweep", help="a sweep file or name")
FOLDER = _argument("folder", type=Path, help="a results folder, or the name of one in --results")
RESULTS = _argument(
    "--results", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="folder of results folders"
)
PRINT_CONFIG = _flag("--print-config", "compose, print, do nothing")
COMPOSED = (
    _argument("overrides", nargs="*", metavar="override", help="Hydra override"),
    _argument("--config-dir", type=Path, metavar="DIR", help="a folder of your own config groups"),
    PRINT_CONFIG,
)
SHRINK = _flag("--shrink", "leave out recorded trials that are not asked for any more")
STRICT = _flag("--strict", "exit 1 unless the verdict is `transfers`")
STEP = _argument("--step", type=int, help="read losses at this step of training")
METRIC = _argument(
    "--metric",
    default="loss",
    help="judge rows by loss (default), train_loss, frechet_distance, precision or recall",
)
OUT = _argument(
    "--out",
    type=Path,
    metavar="DIR",
    help="write here and nothing into the results folder, which may be read-only",
)
EVERYWHERE = (
    _flag("--json", "only JSON on standard output"),
    _flag("--quiet", "no progress, only the answer"),
)

COMMANDS = (
    Command(
        "run",
        "check, sweep, fit, transfer, train the target, draw and report, in that order",
        (SWEEP, *COMPOSED, RESULTS, SHRINK, STRICT),
    ),
    Command(
        "list",
        "what there is: models, sweeps, data",
        (_argument("what", nargs="?", help="models, sweeps or data; nothing: these words"),),
    ),
    Command(
        "check",
        "is a parametrization really µP? verdict by coordinate check",
        (*COMPOSED, RESULTS),
    ),
    Command(
        "rules",
        "how a model's init and factors go with width, beside the vanilla Transformer's",
        (*COMPOSED, _flag("--all", "every parameter, not only roles")),
    ),
    Command(
        "plan",
        "what a sweep will cost, before anything runs",
        (
            SWEEP,
            *COMPOSED,
            RESULTS,
            _argument("--workers", type=int, help="places for packs, where none can be asked"),
            _argument("--budget", metavar="8gpuh", help="what to sweep for so much"),
            _flag(
                "--measure",
                "train a few steps (at most a minute, a quarter of the free memory) where nothing "
                "recorded or cached tells how long packs take; with --budget also a pilot",
            ),
        ),
    ),
    Command(
        "sweep",
        "run what is missing of a sweep",
        (SWEEP, *COMPOSED, RESULTS, SHRINK),
    ),
    Command(
        "status",
        "how far a sweep is; --verify its ledger, --export its rows",
        (
            FOLDER,
            RESULTS,
            PRINT_CONFIG,
            _flag("--verify", "read and check every line"),
            _argument("--export", type=Path, metavar="FILE", help="rows as .csv or .parquet"),
        ),
    ),
    Command(
        "import",
        "rows of another program's table, or of another ledger, into a folder",
        (
            _argument(
                "source",
                type=Path,
                help="CSV, Parquet, JSON, JSON lines, Optuna SQLite, or a sweep's folder",
            ),
            _argument(
                "folder",
                type=Path,
                help="what gets the rows: a path, or the NAME or NAME/target of a folder in "
                "--results",
            ),
            RESULTS,
            _argument(
                "--columns",
                nargs="+",
                metavar="OURS=THEIRS",
                help="where well-known names do not tell: width=, loss= and lr=, log2_<hp>=, "
                "log10_<hp>= or ln_<hp>=; also seed, parametrization, family, step, steps, depth, "
                "batch_size, diverged, status, n_seeds, loss_std. OURS:=VALUE holds for every "
                "row, OURS= is not read, 'loss=run{seed} loss' takes several columns that differ "
                "in {seed}, {width}, ...",
            ),
            _argument(
                "--missing",
                choices=("diverged", "drop"),
                default="diverged",
                help="an empty or NaN loss is a diverged trial (diverged), or left out (drop)",
            ),
            _argument(
                "--repeats",
                choices=("refuse", "seeds"),
                default="refuse",
                help="several losses of one trial are refused, or counted as runs of seeds of "
                "their own (seeds)",
            ),
        ),
    ),
    Command(
        "fit",
        "optimum per width with interval, law and verdict",
        (FOLDER, *COMPOSED, RESULTS, STEP, METRIC, STRICT),
    ),
    Command(
        "transfer",
        "the target run's config, ready to train",
        (FOLDER, *COMPOSED, RESULTS, STEP, STRICT),
    ),
    Command(
        "plot",
        "draw the pictures of a sweep",
        (
            FOLDER,
            RESULTS,
            PRINT_CONFIG,
            _flag("--terminal", "basins as text, no files"),
            *(OUT, STEP, METRIC),
        ),
    ),
    Command(
        "report",
        "one self-contained HTML page; --serve shows a sweep while it runs",
        (
            _argument(
                "folder",
                type=Path,
                nargs="?",
                help="a results folder, or the name of one in --results; with --serve nothing: all",
            ),
            *(RESULTS, PRINT_CONFIG, OUT, STEP),
            _flag("--serve", "serve the page on this machine until Ctrl-C, kept up to date"),
            _argument("--port", type=int, help="serve at this port (a free one)"),
        ),
    ),
    Command(
        "train",
        "train a config, such as an emitted target.yaml; --trial a recorded row again",
        (
            _argument(
                "file",
                type=Path,
                help="a config file, such as results/NAME/target.yaml, or with --trial a folder",
            ),
            *COMPOSED,
            RESULTS,
            _argument(
                "--trial",
                metavar="KEY",
                help="train this row of a results folder again, and compare; its first digits "
                "will do",
            ),
        ),
    ),
    Command(
        "sample",
        "draw samples of a trained config as a picture",
        (
            _argument("file", type=Path, help="a config file that was trained"),
            *COMPOSED,
            RESULTS,
            _argument("--weights", type=Path, help="weights other than those `train` kept"),
            _argument("--steps", type=int, default=20, help="model evaluations (20)"),
            _argument("--guidance", type=float, default=2.0, help="1: none (2)"),
            _argument("--seed", type=int, default=0, help="of the noise (0)"),
            _argument("--columns", type=int, default=10, help="samples a class (10)"),
        ),
    ),
)


def function_of(command: Command) -> Callable[[argparse.Namespace], int]:
    """The function that runs a command and returns the exit code, imported with what it needs."""
    if command.name in ("list", "check", "rules", "train", "sample"):
        from hptransfer.cli import model_commands as home
    else:
        from hptransfer.cli import sweep_commands as home
    return getattr(home, f"{command.name}_command")


class _Parser(argparse.ArgumentParser):
    """A parser that refuses arguments in one sentence, as all other refusals are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.")


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of a command's arguments, which raises `UserError` where they are wrong."""
    parser = _Parser(
        prog=f"hptransfer {command.name}",
        description=command.meaning,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for names, settings in (*command.arguments, *EVERYWHERE):
        parser.add_argument(*names, **settings)
    return parser
