"""The public functions of the analysis: `hptransfer.fit` and `hptransfer.load_results`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.analysis.answer.answer import Answer
from hptransfer.analysis.of_folder import estimates_of, fresh_estimates, status, wanted_rows
from hptransfer.errors import UserError, abbreviate, require
from hptransfer.results.folder import ResultsFolder, find_folder
from hptransfer.results.metrics import metric_named
from hptransfer.results.sweep_file import read_facts
from hptransfer.results.table import rows_table

if TYPE_CHECKING:
    import pandas as pd


# What sentences of the command line say -> what they say to Python.
_FRAME_FILE = "DataFrame.csv"
_RETOLD = (
    (rf"\S*{re.escape(_FRAME_FILE)}", "the DataFrame"),
    (r"\bline (\d+)", lambda found: f"row {int(found[1]) - 2}"),  # the header is line 1
    (r"--columns (\w+)=([^\s')]+)", r"columns={'\1': '\2'}"),
    (r"--columns '(\w+)=([^']+)'", r"columns={'\1': '\2'}"),
    (r"`?--columns`?", "`columns`"),
    (r"column out: (\w+)=$", r"column out: columns={'\1': ''}"),
    (r"but it holds a header alone\. Add the trials below it", "but has none. Give a row per run"),
    (r"a header and rows, but it is empty", "columns and rows, but it is empty"),
    (r"Of imported rows", "Of a DataFrame"),
    (r"`hptransfer (sweep|fit|plot)`", r"`hptransfer.\1`"),
    (r"name the folder it printed", "name the folder that it wrote"),
)


def _retold(sentence: str) -> str:
    """Return a sentence about a table's file and a command as one about a DataFrame and a call."""
    for said, instead in _RETOLD:
        sentence = re.sub(said, instead, sentence)
    return sentence[:1].upper() + sentence[1:] if sentence.startswith("the ") else sentence


@contextmanager
def _in_python() -> Iterator[None]:
    """Tell refusals in the words of Python's callers."""
    try:
        yield
    except UserError as error:
        raise UserError(_retold(str(error))) from None


@dataclass(frozen=True)
class Results:
    """A results folder: the sweep as run, its rows, and what they answer. Nothing is written."""

    folder: ResultsFolder

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def sweep(self) -> dict[str, Any]:
        """The complete config of the sweep as run: the content of `sweep.yaml`."""
        return dict(read_facts(self.folder).tree)

    @property
    def rows(self) -> pd.DataFrame:
        """A row per finished trial that the sweep wants: its HPs, conditions, loss and cost."""
        return rows_table(wanted_rows(self.folder, read_facts(self.folder)))

    @property
    def status(self) -> dict[str, Any]:
        """How many trials are wanted and recorded, by status: `hptransfer status --json`."""
        return status(self.folder)

    @property
    def estimates(self) -> dict[str, Any]:
        """The content of `estimates.json`, made anew where rows were added since."""
        return fresh_estimates(self.folder)

    def fit(
        self,
        *overrides: str,
        target_width: int | None = None,
        step: int | None = None,
        metric: str = "loss",
    ) -> Answer:
        """Return the answer of the rows, as `fit` does."""
        return _of_folder(self.folder, overrides, target_width, step=step, metric=metric)

    def plot(self, into: str | Path | None = None) -> dict[str, Any]:
        """Return the pictures of the folder as matplotlib figures; see `hptransfer.plot`."""
        import hptransfer

        return hptransfer.plot(self, into)

    def __repr__(self) -> str:
        told = self.status
        return f"<Results in {self.path}: {told['recorded']} of {told['wanted']} trials recorded>"


def load_results(folder: str | Path, root: str | Path = "results") -> Results:
    """Return a results folder, named by its path or by its sweep's name in `root`.

    Raises:
        UserError: there is no sweep.

    Example:
        >>> results = hptransfer.load_results("results/studies/quickstart")
        >>> results
        <Results in results/studies/quickstart: 120 of 120 trials recorded>
        >>> results.rows[["width", "log2_lr", "seed", "loss"]].shape
        (120, 4)
        >>> results.sweep["sweep"]["widths"]
        [24, 48, 96]
    """
    with _in_python():
        return Results(find_folder(Path(folder), Path(root)))


def fit(
    rows: pd.DataFrame | Results | str | Path,
    *overrides: str,
    columns: Mapping[str, str] | None = None,
    target_width: int | None = None,
    step: int | None = None,
    metric: str = "loss",
    repeats: str = "refuse",
) -> Answer:
    """Return the answer of a sweep's rows: the optimum of every width, its drift and a verdict.

    Args:
        rows: a DataFrame with a row per training run and the columns `width`, `lr` and `loss`,
            better also `seed`; or a results folder. Further columns may be `parametrization`
            (the arm), other HPs (`weight_decay`, `log2_<hp>`), `steps`, `batch_size`, `depth`,
            `n_seeds` and `loss_std`. A missing or infinite loss is a diverged run.
        overrides: of the question, e.g. `verdict.max_regret=0.01`.
        columns: what columns of a DataFrame hold where their names do not say it, e.g.
            `{"lr": "peak_lr"}`.
        target_width: width of the model that is to be trained.
        step: training step at which losses are read, where rows have several.
        metric: what runs are judged by: `loss`, `train_loss`, `frechet_distance`, ...
        repeats: `seeds` counts several losses of one trial in a DataFrame as runs of seeds of their
            own; else they are refused.

    Raises:
        UserError: rows that cannot be what their columns say, or an unknown override.

    Example:
        >>> import pandas as pd
        >>> runs = pd.DataFrame(
        ...     [
        ...         {"width": width, "lr": 2.0**x, "seed": seed,
        ...          "loss": 1 - 0.05 * i + 0.02 * (x + 6) ** 2 + 0.003 * seed * (x % 2)}
        ...         for i, width in enumerate([64, 128, 256])
        ...         for x in range(-9, -2)
        ...         for seed in range(3)
        ...     ]
        ... )
        >>> answer = hptransfer.fit(runs, target_width=1024)
        >>> answer.verdict
        'transfers'
        >>> round(answer.target.value, 3)
        0.015
        >>> answer.optima[["width", "optimum"]].round(1)
           width  optimum
        0     64     -6.0
        1    128     -6.0
        2    256     -6.0
    """
    if isinstance(rows, Results):
        return _of_folder(rows.folder, overrides, target_width, step=step, metric=metric)
    if isinstance(rows, str | Path):
        folder = load_results(rows).folder
        return _of_folder(folder, overrides, target_width, step=step, metric=metric)
    if not hasattr(rows, "columns"):
        raise UserError(
            "Rows must be a pandas DataFrame or a results folder, but got a "
            f"{type(rows).__name__}. Give hptransfer.fit(pandas.DataFrame(rows))."
        )
    from hptransfer.results.importers.table import import_file

    require(
        repeats in ("refuse", "seeds"),
        f"`repeats` must be refuse or seeds, but got {abbreviate(repeats)}.",
    )
    require(
        isinstance(columns or {}, Mapping),
        "`columns` must be a dict of our names and the DataFrame's columns, such as "
        f"{{'lr': 'peak_lr'}}, but got {abbreviate(columns)}.",
    )
    named = rows.reset_index() if any(name is not None for name in rows.index.names) else rows
    words = [f"{ours}={theirs}" for ours, theirs in (columns or {}).items()]
    # By way of a file, so that a DataFrame is read by the very rules of `hptransfer import`.
    with _in_python(), tempfile.TemporaryDirectory() as place:
        source = Path(place) / _FRAME_FILE
        named.to_csv(source, index=False)
        folder = ResultsFolder(Path(place) / "DataFrame")
        imported = import_file(
            source,
            folder,
            words,
            drop_missing=False,
            repeats_are_seeds=repeats == "seeds",
            is_typed=False,
        )
        answer = _of_folder(folder, overrides, target_width, step=step, metric=metric)
    return Answer(answer.record, notes=tuple(map(_retold, imported["notes"])))


def _of_folder(
    folder: ResultsFolder,
    overrides: tuple[str, ...],
    target_width: int | None,
    *,
    step: int | None,
    metric: str,
) -> Answer:
    require(
        target_width is None or (isinstance(target_width, Integral) and target_width > 0),
        f"`target_width` must be a positive whole number, but got {abbreviate(target_width)}.",
    )
    with _in_python():
        key = f"sweep.target.{read_facts(folder).target_width_key}"
        named = () if target_width is None else (f"{key}={target_width}",)
        judged_by = metric_named(metric)
        return Answer(estimates_of(folder, (*overrides, *named), step=step, metric=judged_by))
