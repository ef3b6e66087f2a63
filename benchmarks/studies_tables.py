"""What README.md takes from the studies' records: its small table and the quickstart's output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks import studies_words as words
from benchmarks.studies_questions import FAMILIES, Edition, question_of
from benchmarks.studies_read import Study
from benchmarks.studies_sections import answered
from hptransfer.analysis.answer.text import arm_text
from hptransfer.config.choices import arm_name
from hptransfer.reporting.text.answers import realised_line
from hptransfer.results.metrics import LOSS


def filled(text: str, block: str, table: str) -> str:
    """Put a table between the comments `studies:<block>` and `studies:end`."""
    pattern = rf"(<!-- studies:{block}\b.*?-->\n).*?(<!-- studies:end -->)"
    changed, count = re.subn(
        pattern, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(
            f"A page must hold one block from <!-- studies:{block} --> to <!-- studies:end -->, "
            f"but this one holds {count}. Put the two comments where the table belongs."
        )
    return changed


def family_studies(studies: Path, sweep: str) -> Mapping[str, Study | str]:
    """Return each family's study of a sweep, or why there is none."""
    question = question_of(sweep)
    return {f: answered(studies, Edition(question, sweep, f)) for f in question.families}


def measured_table(studies: Path) -> str:
    """Return a row for each family: how its best rate moves, and what µP's rate costs."""
    columns = (
        "", "best rate under µP", "best rate under standard", "loss given up at the target",
    )  # fmt: skip
    rows = [
        [FAMILIES[family], *([study, words.UNKNOWN, words.UNKNOWN] if isinstance(study, str) else
         [_change(study, "mup"), _change(study, "standard"), _given_up(study)])]
        for family, study in family_studies(studies, "lr_transfer").items()
    ]  # fmt: skip
    return words.table(columns, rows)


def _change(study: Study, parametrization: str) -> str:
    """Write by how many percent the best rate changes when the width doubles."""
    arm = study.arm(parametrization)
    moved = None if arm is None else arm["drift_octaves_per_doubling"]["estimate"]
    return words.UNKNOWN if moved is None else words.change(moved)


def _given_up(study: Study) -> str:
    """Write what the transferred rate costs at the target, in percent of the loss there."""
    if study.realised is None or study.realised["regret"] is None:
        return words.UNKNOWN
    regret, loss = study.realised["regret"], study.realised["optimum"]["loss"]
    mean, high = (f"{float(f'{100 * regret[key] / loss:.1g}'):g} %" for key in ("estimate", "high"))
    return f"{mean}, at most {high}"


def quickstart_output(studies: Path) -> str:
    """Return what `hptransfer run quickstart` prints of µP, without the verdict's reasons.

    The last line is what it prints of the target's own runs.
    """
    study = family_studies(studies, "quickstart")["dit"]
    if isinstance(study, str):
        return study
    arm = study.arm("mup")
    assert arm is not None and study.realised is not None, "the quickstart trains both"
    told = arm_text(arm_name("mup"), arm, LOSS.label).splitlines()
    lines = [line.rstrip() for line in told if line.strip() not in ["", *arm["reasons"]]]
    return "\n".join(["```text", *lines, realised_line(study.realised), "```"])
