"""The evidence pages: what the studies of results/studies answered, as tables and one picture.

    python -m benchmarks.studies [--results FOLDER] [--readme FILE]

reads each study's sweep.yaml, ledgers, estimates, transfer.json, target/realised.json and
convergence.json and writes the table of results/README.md, the two tables of README.md (between
HTML comments, all else stays) and the picture results/studies/families.png. Nothing is fitted
here: a study without its own estimates, or with older ones, is said to lack them; one that nobody
ran is `not run`. Time is the sum of the rows' own seconds.

    python -m benchmarks.studies --tidy FOLDER

brings a results folder into the form in which it is committed: ledgers above 1 MB compressed;
report, exports, weights, checkpoints, logs, vector graphics and pictures that answer no study's
question removed; no file above 5 MiB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import studies_picture
from benchmarks.studies_questions import FAMILIES
from benchmarks.studies_read import Study
from benchmarks.studies_tables import (
    answers_table,
    families_notes,
    families_table,
    family_study,
    filled,
    quickstart_table,
)
from benchmarks.studies_tidy import FILE_LIMIT, require_small, tidy
from hptransfer.errors import UserError
from hptransfer.system.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = "families.png"


def pages(results: Path, readme: Path) -> dict[Path, str]:
    """Return both pages with their tables as the studies are now."""
    studies, listed = results / "studies", results / "README.md"
    front = readme.read_text(encoding="utf-8")
    front = filled(front, "families", _families(studies, readme.parent))
    front = filled(front, "quickstart", quickstart_table(studies))
    answers = answers_table(studies, ROOT / "sweeps")
    return {readme: front, listed: filled(listed.read_text(encoding="utf-8"), "answers", answers)}


def _families(studies: Path, base: Path) -> str:
    """Return the families' picture, where one was drawn, their table and the commands."""
    shown = []
    if pictured(studies):
        link = (studies / PICTURE).relative_to(base)
        shown = [f"![The best rate over width, four families, µP and standard]({link})"]
    return "\n\n".join([*shown, families_table(studies), families_notes(studies, ROOT / "sweeps")])


def pictured(studies: Path) -> dict[str, Study]:
    """Return the families whose rate was swept for `lr_transfer` and fitted."""
    found = {family: family_study(studies, "lr_transfer", family) for family in FAMILIES}
    return {family: study for family, study in found.items() if isinstance(study, Study)}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or tidy one folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--tidy", type=Path, metavar="FOLDER", help="tidy this folder instead")
    arguments = parser.parse_args(argv)
    try:
        if arguments.tidy:
            print("\n".join(tidy(arguments.tidy)))
        else:
            _write(arguments.results, arguments.readme)
    except UserError as error:
        raise SystemExit(str(error)) from None
    return 0


def _write(results: Path, readme: Path) -> None:
    """Write the pages, and the picture of the families that there are."""
    require_small(results / "studies", FILE_LIMIT)
    for path, text in pages(results, readme).items():
        write_text(path, text)
        print(f"wrote {path}")
    if shown := pictured(results / "studies"):
        path = results / "studies" / PICTURE
        studies_picture.draw(shown, path)
        print(f"drew {path}: {', '.join(FAMILIES[family] for family in shown)}")


if __name__ == "__main__":
    sys.exit(main())
