"""The tables of results/README.md and README.md, from the studies' records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import yaml

from benchmarks import studies_words as words
from benchmarks.studies_questions import FAMILIES, QUESTIONS, Edition, Question, editions
from benchmarks.studies_read import NO_GPU, NOT_RUN, Study, read_study

Cells = tuple[str, ...]

COLUMNS = ("question", "command", "trained", "answer (90 % intervals)", "the paper")
ANSWERS: dict[str, Callable[[Study], str]] = {
    "quickstart": words.transferred,
    "lr_transfer": words.transferred,
    "init_scale": words.transferred,
    "output_scale": words.transferred,
    "mmdit_search": words.searched_together,
    "conditions": words.under_conditions,
    "convergence": words.sped_up,
    "frechet": words.by_both_measures,
}
# The baselines that convergence.json names, as the families' table says them.
BASELINES = {
    "default": "at the original's default rate",
    "proxy_tuned": "at the widest proxy's best rate",
    "law_tuned": "at the rate its drift predicts",
    "target_tuned": "at the best rate of the target's own grid",
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
            words.LINE.join(f"`{command}`" for command in _commands(first, study, sweeps)),
            words.UNKNOWN if study is None else f"{study.count}; {study.hours}",
            _answer(first, study),
            paper,
        )
        paper = "as above"


def _commands(edition: Edition, study: Study | None, sweeps: Path) -> tuple[str, ...]:
    """Return what to type; widths are named where others were swept than the sweep's file says."""
    if study is None:
        return edition.commands()
    text = (sweeps / f"{edition.sweep}.yaml").read_text(encoding="utf-8")
    if study.widths == yaml.safe_load(text)["sweep"]["widths"]:
        return edition.commands()
    return edition.commands(f"'sweep.widths=[{','.join(map(str, study.widths))}]'")


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
    return f"not answered: `{edition.commands()[-1]}`"


def families_table(studies: Path) -> str:
    """Return a column for each family, from its `lr_transfer` and its `convergence`.

    What no family has run has no row.
    """
    swept = {family: family_study(studies, "lr_transfer", family) for family in FAMILIES}
    compared = {family: family_study(studies, "convergence", family) for family in FAMILIES}
    rows = [
        _row("µP: drift of the best rate", swept, lambda s: _drift(s, "mup")),
        _row("standard: drift of the best rate", swept, lambda s: _drift(s, "standard")),
        _row("regret of µP's rate at the target, predicted", swept, words.predicted),
        _row("… and realised, by sweeping the target", swept, words.realised),
        _row(
            "µP's tuning: narrowest width and all, over one target run; all, over a direct search",
            swept,
            words.bare_cost,
        ),
        *(
            _row(
                f"fewer steps to equal loss than standard {where}",
                compared,
                lambda s, name=name: words.over_named(s, name),
            )
            for name, where in BASELINES.items()
        ),
        _row("swept", swept, _swept),
    ]
    return _table(("", *FAMILIES.values()), [row for row in rows if set(row[1:]) != {NOT_RUN}])


def _row(label: str, studies: Mapping[str, Study | str], say: Callable[[Study], str]) -> Cells:
    return (label, *(s if isinstance(s, str) else say(s) for s in studies.values()))


def _drift(study: Study, parametrization: str) -> str:
    arm = study.arm(parametrization)
    return f"{words.drift(arm)}, {words.verdict(arm)}"


def _swept(study: Study) -> str:
    widths = f"widths {min(study.widths)} to {max(study.widths)}, target {study.facts.target_width}"
    seeds = len(study.facts.tree["sweep"]["seeds"])
    return f"{widths}; {seeds} seeds, {study.trials}; {study.hours}"


def families_notes(studies: Path, sweeps: Path) -> str:
    """Say what the families' table is of, and what to type for it."""
    asked = [Edition(_question(sweep), sweep, "dit") for sweep in ("lr_transfer", "convergence")]
    found = [(edition, read_study(studies / edition.name)) for edition in asked]
    commands = [
        f"`{command}`"
        for edition, study in found
        if study is not None
        for command in _commands(edition, study, sweeps)
    ]
    others = ", ".join(f"`model={family}`" for family in list(FAMILIES)[1:])
    return (
        "CPU editions: small models on the embedded digits (8x8), where a target trains within two "
        "minutes; tuning pays as the target grows away from its proxies. Drift is in octaves per "
        f"doubling of the width; brackets hold 90 % intervals.{_compared_at(found[1][1])} What "
        "else was asked, the speed-ups with tuning counted, and what is not answered yet: "
        "[results](results/README.md). "
        f"Commands: {', '.join(commands)}; the other families with {others}."
    )


def _compared_at(study: Study | None) -> str:
    """Say of which target the speed-ups are; nothing where none was trained."""
    if study is None or study.convergence is None:
        return ""
    told = study.convergence
    return f" Speed-ups are of targets of width {told['width']}, {len(told['seeds'])} seeds."


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
            rows.append((name, study, *[words.UNKNOWN] * 6))
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
