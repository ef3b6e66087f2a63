"""The answer of a coordinate check of somebody's own training step, as Python sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.reporting.text.answers import check_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CheckAnswer:
    """Whether a training step follows µP; printed, it says so in sentences.

    Everything is read from `record`, the object that `hptransfer check --json` prints.
    """

    record: Mapping[str, Any]  # of the last check, where lower rates were tried

    @property
    def verdict(self) -> str:
        """`pass`, `fail`, or `inconclusive` where noise or narrow widths leave it open."""
        return self.record["verdict"]

    @property
    def passed(self) -> bool:
        """Whether the verdict is `pass`."""
        return self.verdict == "pass"

    @property
    def causes(self) -> list[Mapping[str, Any]]:
        """What is suspected: parameter, its role, a sentence, and the setting to type."""
        return list(self.record["causes"])

    @property
    def worst(self) -> str:
        """The module that changes most with the width; `(model)` is the model's own output."""
        return self.record["worst"]["module"]

    @property
    def lr(self) -> float:
        """The learning rate that was checked: the one asked for, or one or two octaves lower."""
        return 2.0 ** self.record["log2_lr"]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each module, quantity (`init`, `update`) and step, with slope and RMS.

        `slope` is that of log2 RMS over log2 width: 0 for a size that does not depend on the width,
        accepted between `lowest` and `highest`. `rms_64` is the RMS at width 64, a geometric mean
        over seeds. `error` is half the slope's interval over the seeds. Rows that do not pass come
        first.
        """
        import pandas as pd

        keys = ["module", "quantity", "step"]
        rows = sorted(self.record["slopes"], key=lambda slope: slope["ok"])
        slopes = pd.DataFrame(rows).assign(highest=self.record["limit"])
        sizes = pd.DataFrame(self.record["rms"]).pivot(index=keys, columns="width", values="rms")
        sizes.columns = [f"rms_{width}" for width in sizes.columns]
        joined = slopes.join(sizes, on=keys)
        order = [*keys, "slope", "error", "lowest", "highest", "ok", *sizes.columns]
        return joined.reindex(columns=order)

    def plot(self, path: str | Path) -> list[Path]:
        """Write the check's pictures, and return their files.

        Args:
            path: a folder, which gets each picture as PNG, SVG and PDF.
        """
        from hptransfer.reporting.figures import check_pictures, write_pictures

        return write_pictures(Path(path), check_pictures(self.record))

    def __str__(self) -> str:
        return check_text(self.record, whole_list="answer.record['zero']")

    def __repr__(self) -> str:
        return f"<CheckAnswer: {self.verdict}, worst module {self.worst}>"
