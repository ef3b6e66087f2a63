"""The public function that draws: `hptransfer.plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.analysis.answer.answer import Answer
from hptransfer.analysis.public import Results, load_results
from hptransfer.errors import UserError
from hptransfer.reporting.of_folder import folder_pictures
from hptransfer.results.metrics import metric_named

if TYPE_CHECKING:
    from hptransfer.reporting.figures import Figure


def plot(
    shown: Results | Answer | str | Path,
    into: str | Path | None = None,
    *,
    step: int | None = None,
    metric: str = "loss",
) -> dict[str, Figure]:
    """Return the pictures of a results folder, or of an answer, as matplotlib figures by name.

    Args:
        shown: a results folder, as an object or as its path, or what `hptransfer.fit` returned.
        into: a folder that gets each picture as PNG, SVG and PDF; without it none is written.
        step: training step at which a folder's losses are read, where rows have several.
        metric: what a folder's rows are judged by: `loss`, `train_loss`, `frechet_distance`, ...

    Raises:
        UserError: something else is given, or an answer without losses.

    Example:
        >>> figures = hptransfer.plot("results/studies/quickstart")
        >>> list(figures)[:4]
        ['summary', 'basins-mup', 'basins-standard', 'optimum_width']
        >>> figures["summary"].savefig("summary.png")
    """
    from hptransfer.reporting.figures import drawn, pictures, write_pictures

    if not isinstance(shown, Answer | Results | str | Path):
        raise UserError(
            "What is plotted must be a results folder or what hptransfer.fit returned, but got a "
            f"{type(shown).__name__}. Fit it first: hptransfer.plot(hptransfer.fit(rows))."
        )
    if isinstance(shown, Answer):
        if any(
            optimum["loss"] is None for arm in shown.record["arms"] for optimum in arm["optima"]
        ):
            raise UserError(
                "Pictures need the losses of trials, but the answer is that of a table of optima. "
                "See its attributes `optima`, `drift` and `target`."
            )
        listed = pictures(estimates=shown.to_dict())
    else:
        found = shown if isinstance(shown, Results) else load_results(shown)
        listed = folder_pictures(found.folder, step, metric_named(metric))
    if into is not None:
        write_pictures(Path(into), listed)
    return {picture.name: drawn(picture) for picture in listed}
