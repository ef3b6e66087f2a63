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
A SWEEP is a YAML file, or a name that is looked up in ./sweeps and then among the sweeps that
            come with hptransfer (`hptransfer list sweeps`).
overrides:  They change the config: group=choice or key=value, for example model.depth=4,
            'sweep.widths=[64,128]', search.lr.low=-12 (log2 of the lowest learning rate),
            executor=local, runtime.device=cuda or name=mine. A list is written
            sweep.widths=64,128 or 'sweep.widths=[64,128]'; both mean the same.
exit codes: 0: done. 1: it ran, and the answer is no. 2: the command or a file must be changed.
            3: the machine failed. 130, 143: interrupted.
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


SWEEP = _argument("sweep", help="a sweep: a YAML file or a name")
FOLDER = _argument(
    "folder", type=Path, help="a results folder: its path, or its name within --results"
)
RESULTS = _argument(
    "--results",
    type=Path,
    default=DEFAULT_ROOT,
    metavar="DIR",
    help=f"the folder that holds the results folders (default: {DEFAULT_ROOT})",
)
PRINT_CONFIG = _flag("--print-config", "print the complete config and do nothing else")
COMPOSED = (
    _argument("overrides", nargs="*", metavar="override", help="a change of the config: key=value"),
    _argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="a folder with your own config files, DIR/GROUP/CHOICE.yaml",
    ),
    PRINT_CONFIG,
)
SHRINK = _flag(
    "--shrink",
    "allow this sweep to ask for fewer trials than before; finished trials that it does not ask "
    "for stay on disk and are not used",
)
YES = _flag(
    "--yes",
    "do not ask where the GPU-hours, reckoned from FLOPs, exceed plan.confirm_gpu_hours; without a "
    "terminal such a command is refused",
)
STRICT = _flag("--strict", "exit with code 1 unless every verdict is `transfers`")
STEP = _argument(
    "--step",
    type=int,
    help="compare the losses at this training step (default: the last step)",
)
METRIC = _argument(
    "--metric",
    default="loss",
    help="compare trials by loss, train_loss, loss_noise_1_of_4 (to 4_of_4), frechet_distance, "
    "precision or recall, or by one of an average of the weights such as loss_ema_0.05 (default: "
    "loss)",
)
OUT = _argument(
    "--out",
    type=Path,
    metavar="DIR",
    help="write the files into DIR and nothing into the results folder, which may be read-only",
)
EVERYWHERE = (
    _flag("--json", "print JSON on standard output, and nothing else there"),
    _flag("--quiet", "print no progress, only the answer"),
)

COMMANDS = (
    Command(
        "run",
        "do everything: check, sweep, fit, transfer, try the value at the target, report",
        (SWEEP, *COMPOSED, RESULTS, SHRINK, YES, STRICT),
    ),
    Command(
        "list",
        "list the models, sweeps and data sets that there are",
        (
            _argument(
                "what",
                nargs="?",
                help="models, sweeps or data; without it these three words are explained",
            ),
        ),
    ),
    Command(
        "data",
        "say what a folder of latents or images holds, and which overrides state it",
        (
            _argument("folder", type=Path, help="a folder of latents or images"),
            _argument(
                "overrides",
                nargs="*",
                metavar="override",
                help="what you know of it: data.key=value, such as "
                "data.latent_column=latents_256, or data.image_size=64 for images",
            ),
        ),
    ),
    Command(
        "check",
        "check whether a model is really scaled by µP (coordinate check)",
        (
            *COMPOSED,
            RESULTS,
            _argument(
                "--axis",
                choices=("width", "depth"),
                default="width",
                help="what grows: the width, or the number of blocks at the base width",
            ),
        ),
    ),
    Command(
        "rules",
        "show a model's initialisation and learning-rate factors, and how they go with width",
        (
            *COMPOSED,
            _flag("--all", "show every parameter, not only the five roles that parameters have"),
        ),
    ),
    Command(
        "plan",
        "predict what a sweep will cost, or plan one for a budget; trains nothing by default",
        (
            SWEEP,
            *COMPOSED,
            RESULTS,
            _argument(
                "--workers",
                type=int,
                help="how many groups of trials train at the same time (default: asked of this "
                "machine; 1 for a cluster)",
            ),
            _argument(
                "--budget",
                metavar="8gpuh",
                help="propose the best sweep for this much: a number with h or min (wall time), "
                "cpuh, gpuh, %% (of the target run's FLOPs) or usd, such as 8gpuh",
            ),
            _flag(
                "--measure",
                "measure how long trials take by training a few steps, unless earlier runs tell; "
                "takes at most a minute and a quarter of the free memory. With --budget it also "
                "trains a small pilot sweep",
            ),
        ),
    ),
    Command(
        "sweep",
        "train the trials of a sweep that are not finished yet",
        (SWEEP, *COMPOSED, RESULTS, SHRINK, YES),
    ),
    Command(
        "status",
        "show how far a sweep is; --verify its rows or --export them",
        (
            FOLDER,
            RESULTS,
            PRINT_CONFIG,
            _flag(
                "--verify",
                "read every row of the ledger (the file of finished trials) and check its checksum",
            ),
            _argument(
                "--export",
                type=Path,
                metavar="FILE",
                help="write the rows to a .csv or .parquet file",
            ),
        ),
    ),
    Command(
        "logs",
        "show what a trial of your own trainer printed",
        (
            FOLDER,
            _argument("key", help="the trial's key; the first digits of it are enough"),
            RESULTS,
        ),
    ),
    Command(
        "import",
        "read the results of another program, or of another folder, into a results folder",
        (
            _argument(
                "source",
                type=Path,
                help="a CSV, Parquet, JSON, JSON lines or Optuna SQLite file, or a results folder",
            ),
            _argument(
                "folder",
                type=Path,
                help="the results folder that gets the rows: a path, or its NAME within --results; "
                "NAME/target takes the rows of the target itself",
            ),
            RESULTS,
            _argument(
                "--columns",
                nargs="+",
                metavar="OURS=THEIRS",
                help="which column is which, where the names do not tell. width= and loss= are "
                "needed, and a hyperparameter: lr=, log2_<name>=, log10_<name>= or ln_<name>=. "
                "seed, parametrization, family, step, steps, depth, batch_size, diverged, status, "
                "n_seeds and loss_std are read too. OURS:=VALUE gives one value for every row, "
                "OURS= ignores a column, and 'loss=run{seed} loss' takes several columns whose "
                "names differ in {seed}, {width}, ...",
            ),
            _argument(
                "--missing",
                choices=("diverged", "drop"),
                default="diverged",
                help="what an empty or NaN loss means: a diverged trial (diverged), or a row to "
                "ignore (drop); default: diverged",
            ),
            _argument(
                "--repeats",
                choices=("refuse", "seeds"),
                default="refuse",
                help="what several losses of the same trial mean: an error (refuse), or runs with "
                "different seeds (seeds); default: refuse",
            ),
        ),
    ),
    Command(
        "fit",
        "find the best value per width, how it moves with width, and the verdict",
        (FOLDER, *COMPOSED, RESULTS, STEP, METRIC, STRICT),
    ),
    Command(
        "transfer",
        "write the config of the target run, ready to train",
        (FOLDER, *COMPOSED, RESULTS, STEP, STRICT),
    ),
    Command(
        "plot",
        "draw a sweep's figures",
        (
            FOLDER,
            RESULTS,
            PRINT_CONFIG,
            _flag(
                "--terminal",
                "draw loss against learning rate as text in the terminal; writes no files",
            ),
            *(OUT, STEP, METRIC),
        ),
    ),
    Command(
        "report",
        "write a sweep's report as one HTML page, or serve the page while the sweep runs",
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
        "train a config such as target.yaml; with --trial train a recorded trial again",
        (
            _argument(
                "file",
                type=Path,
                help="a config file such as "
                "results/NAME/target.yaml; with --trial a results folder",
            ),
            *COMPOSED,
            RESULTS,
            _argument(
                "--trial",
                metavar="KEY",
                help="train the trial with this key again and compare; the first digits of the "
                "key are enough",
            ),
        ),
    ),
    Command(
        "sample",
        "draw images with a trained config, as one picture",
        (
            _argument(
                "file", type=Path, help="a config file that was trained with `hptransfer train`"
            ),
            *COMPOSED,
            RESULTS,
            _argument(
                "--weights",
                type=Path,
                metavar="FILE",
                help="a weights file to use (default: the one that `hptransfer train` kept)",
            ),
            _argument("--steps", type=int, default=20, help="steps of the sampler (default: 20)"),
            _argument(
                "--guidance",
                type=float,
                default=2.0,
                help="strength of classifier-free guidance; 1 is no guidance (default: 2)",
            ),
            _argument("--seed", type=int, default=0, help="seed of the noise (default: 0)"),
            _argument("--columns", type=int, default=10, help="images per class (default: 10)"),
        ),
    ),
)


def function_of(command: Command) -> Callable[[argparse.Namespace], int]:
    """The function that runs a command and returns the exit code, imported with what it needs."""
    if command.name in ("list", "check", "rules", "train", "sample"):
        from hptransfer.cli import model_commands as home
    elif command.name == "data":
        from hptransfer.cli import data_command as home
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
        description=f"{command.meaning[:1].upper()}{command.meaning[1:]}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for names, settings in (*command.arguments, *EVERYWHERE):
        parser.add_argument(*names, **settings)
    return parser
