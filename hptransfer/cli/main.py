"""The command line: arguments and printing only."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from hptransfer.errors import Interrupted, MachineError, TrialsFailed, UserError
from hptransfer.system.version import package_version

COMMANDS = {
    "run": "check, sweep, fit, transfer, train the target, draw and report, in that order",
    "list": "what there is: models, sweeps, data",
    "check": "is a parametrization really µP? verdict by coordinate check",
    "rules": "how a model's init and factors go with width, beside the vanilla Transformer's",
    "plan": "what a sweep will cost, before anything runs",
    "sweep": "run what is missing of a sweep",
    "status": "how far a sweep is; --verify its ledger, --export its rows",
    "import": "rows of another program's table, or of another ledger, into a folder",
    "fit": "optimum per width with interval, law and verdict",
    "transfer": "the target run's config, ready to train",
    "plot": "draw the pictures of a sweep",
    "report": "one self-contained HTML page",
    "train": "train a config, such as an emitted target.yaml; --trial a recorded row again",
    "sample": "draw samples of a trained config as a picture",
}

# The module that holds a command, where it is not `commands`.
HOMES = {
    **dict.fromkeys(("list", "check", "rules"), "model_commands"),
    **dict.fromkeys(("train", "sample"), "train_commands"),
    **dict.fromkeys(("status", "import"), "ledger_commands"),
    "plan": "plan_commands",
}
PLAIN = ("list", "status", "import", "plot", "report")  # commands without anything to override

EPILOG = """\
a SWEEP is a file or a bare name: looked up in ./sweeps, then among those that ship
overrides:  group=choice  or  key=value, e.g.  model.depth=4  'sweep.widths=[64,128]'
            search.lr.low=-12  executor=local  runtime.device=cuda  name=mine
exit codes: 0 done; 1 it ran and the answer is no; 2 change the command; 3 the machine failed;
            130, 143 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # µ and − in a terminal that has neither
            stream.reconfigure(errors="replace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"hptransfer {package_version()}")
        return 0
    try:
        return _dispatch(words[0], words[1:])
    except (UserError, MachineError, TrialsFailed) as error:
        print(f"hptransfer: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as cut:
        return cut.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def _overview() -> str:
    lines = "\n".join(f"  {name:<9} {meaning}" for name, meaning in COMMANDS.items())
    return (
        "hptransfer: tune narrow proxies under µP, train the wide target once.\n\n"
        f"usage: hptransfer COMMAND [arguments] [overrides]\n\n{lines}\n\n{EPILOG}\n"
        "start here: hptransfer run quickstart"
    )


def _dispatch(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"There is: {', '.join(COMMANDS)}."
        raise UserError(f"There is no command {name!r}. {hint}")
    arguments = _parser(name).parse_intermixed_args(words)
    if name in PLAIN and arguments.overrides:
        raise UserError(
            f"`hptransfer {name}` reads what is there and takes no override, but got "
            f"{arguments.overrides[0]!r}. Override `sweep`, `fit` or `transfer` instead."
        )
    module = importlib.import_module(f"hptransfer.cli.{HOMES.get(name, 'sweep_commands')}")
    command: Callable[[argparse.Namespace], int] = getattr(module, f"{name}_command")
    return command(arguments)


_SUBJECTS = {
    "run": ("sweep", "a sweep file or name"),
    "plan": ("sweep", "a sweep file or name"),
    "sweep": ("sweep", "a sweep file or name"),
    "import": ("source", "CSV, Parquet, JSON, JSON lines, Optuna SQLite, or a sweep's folder"),
    "list": ("what", "models, sweeps or data"),
    "status": ("folder", "a results folder"),
    "fit": ("folder", "a results folder"),
    "transfer": ("folder", "a results folder"),
    "plot": ("folder", "a results folder"),
    "report": ("folder", "a results folder"),
    "train": ("file", "a config file, such as results/NAME/target.yaml, or with --trial a folder"),
    "sample": ("file", "a config file that was trained"),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals are one sentence, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.")


def _parser(name: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"hptransfer {name}",
        description=COMMANDS[name],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name in _SUBJECTS:
        subject, meaning = _SUBJECTS[name]
        kind = str if subject in ("sweep", "what") else Path
        parser.add_argument(subject, help=meaning, type=kind)
    parser.add_argument("overrides", nargs="*", metavar="override", help="Hydra override")
    parser.add_argument("--config-dir", type=Path, help="a folder of your own config groups")
    parser.add_argument("--print-config", action="store_true", help="compose, print, do nothing")
    parser.add_argument("--json", action="store_true", help="only JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the answer")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    if name == "import":
        parser.add_argument("folder", type=Path, help="the results folder that gets the rows")
        parser.add_argument(
            "--columns",
            nargs="+",
            metavar="OURS=THEIRS",
            help="where well-known names do not tell: width=, loss= and lr=, log2_<hp>= or "
            "log10_<hp>=; also seed, parametrization, family, step, steps, depth, batch_size, "
            "diverged, status, n_seeds, loss_std. OURS:=VALUE holds for every row, OURS= is not "
            "read, 'loss=run{seed} loss' takes several columns that differ in {seed}, {width}, ...",
        )
        parser.add_argument(
            "--missing",
            choices=("diverged", "drop"),
            default="diverged",
            help="an empty or NaN loss is a diverged trial (diverged), or left out (drop)",
        )
    if name == "status":
        parser.add_argument("--verify", action="store_true", help="read and check every line")
        parser.add_argument("--export", type=Path, metavar="FILE", help="rows as .csv or .parquet")
    if name == "plan":
        parser.add_argument("--workers", type=int, help="places for packs, where none can be asked")
        parser.add_argument("--budget", metavar="8gpuh", help="what to sweep for so much")
        parser.add_argument(
            "--measure",
            action="store_true",
            help="train a few steps (at most a minute, a quarter of the free memory) where nothing "
            "recorded or cached tells how long packs take; with --budget also a pilot",
        )
    if name == "plot":
        parser.add_argument("--terminal", action="store_true", help="basins as text, no files")
    if name in ("plot", "report"):
        parser.add_argument(
            "--out",
            type=Path,
            metavar="DIR",
            help="write here and nothing into the results folder, which may be read-only",
        )
    if name in ("fit", "transfer", "plot", "report"):
        parser.add_argument("--step", type=int, help="read losses at this step of training")
    if name in ("fit", "plot"):
        parser.add_argument(
            "--metric",
            default="loss",
            help="judge rows by loss (default), train_loss, frechet_distance, precision or recall",
        )
    if name == "rules":
        parser.add_argument("--all", action="store_true", help="every parameter, not only roles")
    if name == "train":
        parser.add_argument(
            "--trial",
            metavar="KEY",
            help="train this row of a results folder again, and compare; its first digits will do",
        )
    if name == "sample":
        parser.add_argument("--weights", type=Path, help="weights other than those `train` kept")
        parser.add_argument("--steps", type=int, default=20, help="model evaluations (20)")
        parser.add_argument("--guidance", type=float, default=2.0, help="1: none (2)")
        parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
        parser.add_argument("--columns", type=int, default=10, help="samples a class (10)")
    if name in ("run", "sweep"):
        parser.add_argument(
            "--shrink", action="store_true", help="leave out recorded trials not asked for any more"
        )
    if name in ("run", "fit", "transfer"):
        parser.add_argument(
            "--strict", action="store_true", help="exit 1 unless the verdict is `transfers`"
        )
    return parser
