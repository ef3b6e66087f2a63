"""The tables of results/README.md and README.md, from the studies' records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks import studies_words as words
from benchmarks.studies_convergence import answered, sped_up
from benchmarks.studies_questions import FAMILIES, QUESTIONS, Edition, Question, editions
from benchmarks.studies_read import NO_GPU, NOT_RUN, Study, read_study

Cells = tuple[str, ...]

UNTRIED = "–"
COLUMNS = ("question", "command", "trained", "answer (90 % intervals)", "the paper")
ANSWERS: dict[str, Callable[[Study], str]] = {
    "quickstart": words.transferred,
    "lr_transfer": words.transferred,
    "init_scale": words.transferred,
    "output_scale": words.transferred,
    "mmdit_search": words.searched_together,
    "conditions": words.under_conditions,
    "convergence": answered,
    "frechet": words.by_both_measures,
}


def filled(text: str, block: str, table: str) -> str:
    """Put a table between the comments `studies:<block>` and `studies:end`."""
    pattern = rf"(<!-- studies:{block}\b.*?-->\n).*?(<!-- studies:end -->)"
    changed, count = re.subn(
        pattern, lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(
            f"A page must hold one block from <!-- studies:{block} --> to <!-- studies:end -->, "
            f"but this one holds {count}. Put the two comments where the table belongs."
        )
    return changed


def answers_table(studies: Path, sweeps: Path) -> str:
    """Return the table of all questions: a row for each study, run or not."""
    rows = [row for question in QUESTIONS for row in _rows(question, studies, sweeps)]
    return _table(COLUMNS, rows)


def _rows(question: Question, studies: Path, sweeps: Path) -> Iterator[Cells]:
    """Yield a question's rows; what the paper found stands in the first."""
    paper = question.paper
    found = [(each, read_study(studies / each.name)) for each in editions(question, sweeps)]
    for _, grouped in groupby(found, key=lambda pair: (pair[0].sweep, pair[1] or NOT_RUN)):
        together = list(grouped)
        first, study = together[0]
        yield (
            _asked([edition for edition, _ in together], linked=study is not None),
            words.LINE.join(f"`{command}`" for command in first.commands),
            UNTRIED if study is None else f"{study.count}; {study.hours}",
            _answer(first, study),
            paper,
        )
        paper = "as above"


def _asked(group: Sequence[Edition], *, linked: bool) -> str:
    first = group[0]
    names = ", ".join(FAMILIES[edition.family] for edition in group)
    asked = f"{first.question.title}, {names} ({'GPU' if first.needs_gpu else 'CPU'} edition)"
    return f"[{asked}](studies/{first.name})" if linked else asked


def _answer(edition: Edition, study: Study | None) -> str:
    if study is None:
        return NO_GPU if edition.needs_gpu else NOT_RUN
    return _lack(edition, study) or ANSWERS[edition.question.sweep](study)


def _lack(edition: Edition, study: Study) -> str | None:
    """Say why a study gives no answer; None where it does, of all trials or of those so far."""
    if study.holds(edition.question.record):
        return None
    if study.finished < study.wanted:
        return f"not finished: {study.finished} of {study.wanted} trials"
    return f"not answered: `{edition.commands[-1]}`"


def families_table(studies: Path) -> str:
    """Return a column for each family, from its `lr_transfer` and its `convergence`."""
    found = {f: family_study(studies, "lr_transfer", f) for f in FAMILIES}
    target = {f: family_study(studies, "convergence", f) for f in FAMILIES}
    lines: list[Cells] = []

    def add(label: str, studies: dict[str, Study | str], say: Callable[[Study], str]) -> None:
        cells = (s if isinstance(s, str) else say(s) for s in studies.values())
        lines.append((label, *cells))

    for arm in ("mup", "standard", "standard_embed"):
        name = {"mup": "µP", "standard_embed": "standard, µP's embedding rate"}.get(arm, arm)
        add(
            f"{name}: drift of the best rate, octaves per doubling",
            found,
            lambda s, arm=arm: f"{words.drift(s.arm(arm))}, {words.verdict(s.arm(arm))}",
        )
    add("regret at the target, predicted", found, words.predicted)
    add("… realised, by sweeping the target", found, words.realised)
    add("µP's tuning over the target run", found, _cost)
    for label, say in sped_up():
        add(label, target, say)
    add("trained", found, lambda s: s.count)
    add("… for the speed-up", target, lambda s: s.count)
    add("device and time", found, lambda s: s.hours)
    add("… for the speed-up", target, lambda s: s.hours)
    return _table(("", *FAMILIES.values()), lines)


def _cost(study: Study) -> str:
    return UNTRIED if study.transfer is None else words.cost(study.transfer["cost"])


def families_commands() -> str:
    """Say what to type for the families' table."""
    asked = [Edition(_question(sweep), sweep, "dit") for sweep in ("lr_transfer", "convergence")]
    commands = ", ".join(f"`{command}`" for edition in asked for command in edition.commands)
    others = ", ".join(f"`model={family}`" for family in list(FAMILIES)[1:])
    return f"In brackets: 90 % intervals. Commands: {commands}; the other families with {others}."


def _question(sweep: str) -> Question:
    return next(question for question in QUESTIONS if question.sweep == sweep)


def quickstart_table(studies: Path) -> str:
    """Return the quickstart's answers: a row for each family."""
    columns = (
        "family", "µP: drift (90 % interval)", "verdict", "standard: drift", "verdict",
        "regret predicted", "realised", "core-seconds",
    )  # fmt: skip
    rows: list[Cells] = []
    for family, name in FAMILIES.items():
        study = family_study(studies, "quickstart", family)
        if isinstance(study, str):
            rows.append((name, study, *[UNTRIED] * 6))
            continue
        arms = [study.arm("mup"), study.arm("standard")]
        said = [cell for arm in arms for cell in (words.drift(arm), words.verdict(arm))]
        regrets = (words.predicted(study), words.realised(study))
        rows.append((name, *said, *regrets, f"{study.seconds:.0f}"))
    return _table(columns, rows)


def family_study(studies: Path, sweep: str, family: str) -> Study | str:
    """Return a family's study, or why there is none."""
    edition = Edition(_question(sweep), sweep, family)
    study = read_study(studies / edition.name)
    return NOT_RUN if study is None else _lack(edition, study) or study


def _table(columns: Sequence[str], rows: Sequence[Cells]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
