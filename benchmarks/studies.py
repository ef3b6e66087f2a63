"""The pages of results: what the studies of results/studies answered, in words and pictures.

    python -m benchmarks.studies [--results FOLDER] [--readme FILE]

reads each study's sweep.yaml, ledgers, estimates, transfer.json, target/realised.json and
convergence.json. It writes the sections of results/README.md, the table and the quickstart's
output in README.md (between HTML comments, all else stays) and two pictures, families.png and
learning_rate.png in results/studies. The short tables of docs/evidence/README.md are written from
the records of `benchmarks.leave_widest_out` and `benchmarks.planted`. Nothing is fitted here: a
study without its own estimates, or with older ones, is said to lack them; one that nobody ran is
`not run`. Time is the sum of the rows' own seconds.

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

from benchmarks import studies_picture, studies_readme_picture
from benchmarks.studies_evidence import PAGE, evidence_blocks
from benchmarks.studies_questions import FAMILIES
from benchmarks.studies_read import Study
from benchmarks.studies_sections import results_sections
from benchmarks.studies_tables import family_studies, filled, measured_table, quickstart_output
from benchmarks.studies_tidy import FILE_LIMIT, require_small, tidy
from hptransfer.errors import UserError
from hptransfer.system.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PICTURE, README_PICTURE = "families.png", "learning_rate.png"


def pages(results: Path, readme: Path) -> dict[Path, str]:
    """Return README.md and results/README.md with what the studies say now."""
    studies, listed = results / "studies", results / "README.md"
    front = readme.read_text(encoding="utf-8")
    front = filled(front, "quickstart", quickstart_output(studies))
    front = filled(front, "measured", measured_table(studies))
    sections = f"\n{results_sections(studies, ROOT / 'sweeps')}\n"
    return {readme: front, listed: filled(listed.read_text(encoding="utf-8"), "answers", sections)}


def evidence_page(page: Path, benchmarks: Path) -> str:
    """Return docs/evidence/README.md with its short tables as the records are now."""
    text = page.read_text(encoding="utf-8")
    for name, block in evidence_blocks(benchmarks).items():
        text = filled(text, name, block)
    return text


def pictured(studies: Path) -> dict[str, Study]:
    """Return the families whose rate was swept for `lr_transfer` and fitted."""
    found = family_studies(studies, "lr_transfer")
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
            write_text(ROOT / PAGE, evidence_page(ROOT / PAGE, ROOT / "results" / "benchmarks"))
            print(f"wrote {ROOT / PAGE}")
    except UserError as error:
        raise SystemExit(str(error)) from None
    return 0


def _write(results: Path, readme: Path) -> None:
    """Draw the pictures of the families that there are, and write the pages."""
    studies = results / "studies"
    require_small(studies, FILE_LIMIT)
    shown = pictured(studies)
    if shown:
        studies_picture.draw(shown, studies / PICTURE)
        print(f"drew {studies / PICTURE}: {', '.join(FAMILIES[family] for family in shown)}")
    if "dit" in shown:
        studies_readme_picture.draw_readme(shown["dit"], studies / README_PICTURE)
        print(f"drew {studies / README_PICTURE}")
    for path, text in pages(results, readme).items():
        write_text(path, text)
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
