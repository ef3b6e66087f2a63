"""The sections of results/README.md: a question, its answer, a picture and a table of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks import studies_words as words
from benchmarks.studies_questions import (
    FAMILIES,
    SECTIONS,
    Edition,
    Question,
    Section,
    of_cpu,
    of_gpu,
)
from benchmarks.studies_read import NOT_RUN, Record, Study, read_study
from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import hp_name
from hptransfer.results.metrics import METRICS

Found = Mapping[Edition, Study | str]  # a study, or why there is no answer
# The rates of the standard parametrization that convergence.json names.
BASELINES = {
    "default": "the original's default rate",
    "proxy_tuned": "best at the widest proxy",
    "law_tuned": "predicted from its drift",
    "target_tuned": "best at the target itself",
}
AXES = {
    "four_axes": "`complete`",
    "four_axes_without_duration": "`complete`, without its rule for the duration",
    "four_axes_width_alone": "µP, by the width alone",
}
MEASURES = {"loss": "loss", "frechet_distance": "Fréchet distance"}  # of averages, in a sentence
SCALES = {"init_scale": "scale of the initialisation", "output_scale": "scale of the output"}


def results_sections(studies: Path, sweeps: Path) -> str:
    """Return a section for each question, and one of what was not run."""
    written = [section_text(section, studies, sweeps) for section in SECTIONS]
    return "\n\n".join([*written, _not_run(studies, sweeps)])


def section_text(section: Section, studies: Path, sweeps: Path) -> str:
    """Return a section: what was asked, the answer, the picture, the table, and how."""
    found = {
        edition: answered(studies, edition)
        for question in section.questions
        for edition in [*of_cpu(question), *_ran(of_gpu(question, sweeps), studies)]
    }
    sound = {edition: study for edition, study in found.items() if isinstance(study, Study)}
    answer = ANSWERS[section.name](sound) if sound else "There is no answer yet."
    parts = [f"## {section.title}", section.asked, f"**Answer.** {answer}"]
    if (studies.parent / section.picture).is_file():
        parts.append(f"![{section.shows}]({section.picture})")
    note = NOTES[section.name](sound) if sound and section.name in NOTES else ""
    how = "\n".join(filter(None, [note and f"- {note}", _how(section, found, sweeps)]))
    parts += [TABLES[section.name](found), how]
    return "\n\n".join(parts)


def answered(studies: Path, edition: Edition) -> Study | str:
    """Return a study with its answer, or say why it has none."""
    study = read_study(studies / edition.name)
    if study is None:
        return NOT_RUN
    if study.holds(edition.question.record):
        return study
    if study.finished < study.wanted:
        return f"not finished: {study.finished} of {study.wanted} trials"
    return f"not answered: `{edition.commands()[-1]}`"


def _ran(editions: Sequence[Edition], studies: Path) -> list[Edition]:
    return [e for e in editions if read_study(studies / e.name) is not None]


def _how(section: Section, found: Found, sweeps: Path) -> str:
    """Say what to type, what was trained and what the paper found."""
    lines = [f"- Command: {_commands(question, found, sweeps)}." for question in section.questions]
    sound = [study for study in found.values() if isinstance(study, Study)]
    if sound:
        counts = dict.fromkeys(study.count for study in sound)
        each = " each" if len(sound) > len(counts) else ""
        lines.append(f"- Trained: {'; '.join(counts)}{each}; {_hours(sound)}.")
    return "\n".join([*lines, f"- The paper: {section.paper}"])


def _hours(studies: Sequence[Study]) -> str:
    devices = sorted({device for study in studies for device in study.devices})
    where = "core-hours of a CPU" if devices == ["cpu"] else f"hours of {', '.join(devices)}"
    return f"{words.span([s.seconds / 3600 for s in studies], words.two_digits)} {where}"


def _commands(question: Question, found: Found, sweeps: Path) -> str:
    """Return what to type for a question's first family, and how the others differ."""
    first, *others = of_cpu(question)
    shown = words.listed([f"`{line}`" for line in commands(first, found[first], sweeps)])
    if not others:
        return shown
    models = words.listed([f"`model={edition.family}`" for edition in others])
    return f"{shown}; for the other families add {models}"


def commands(edition: Edition, study: Study | str, sweeps: Path) -> tuple[str, ...]:
    """Return what to type; widths are named where others were swept than the sweep's file says."""
    if isinstance(study, str):
        return edition.commands()
    text = (sweeps / f"{edition.sweep}.yaml").read_text(encoding="utf-8")
    if study.widths == yaml.safe_load(text)["sweep"]["widths"]:
        return edition.commands()
    return edition.commands(f"'sweep.widths=[{','.join(map(str, study.widths))}]'")


def _not_run(studies: Path, sweeps: Path) -> str:
    """List the editions that nobody ran, and why."""
    missing = [
        edition
        for section in SECTIONS
        for question in section.questions
        for edition in [*of_cpu(question), *of_gpu(question, sweeps)[:1]]
        if read_study(studies / edition.name) is None
    ]
    lines = [f"- `{edition.commands()[0]}`" for edition in missing]
    reason = (
        "These sweeps were not run. Those whose name ends in `_fashion` ask the same questions of "
        "Fashion-MNIST at 32x32 pixels, and need a GPU for many hours; FOLDER holds its four files."
    )
    return "\n\n".join(["## What was not run", reason if lines else "Nothing.", *_block(lines)])


def _block(lines: Sequence[str]) -> list[str]:
    return ["\n".join(lines)] if lines else []


def _rows(found: Found, write: Callable[[Study], Sequence[str]], columns: int) -> list[list[str]]:
    """Return a row for each family: its cells, or why there are none."""
    return [
        [
            _name(edition, study),
            *(
                write(study)
                if isinstance(study, Study)
                else [study, *[words.UNKNOWN] * (columns - 2)]
            ),
        ]
        for edition, study in found.items()
    ]


def _name(edition: Edition, study: Study | str) -> str:
    name = FAMILIES[edition.family] + (", on a GPU" if edition.needs_gpu else "")
    return name if study == NOT_RUN else f"[{name}](studies/{edition.name})"


def _rates_table(found: Found) -> str:
    columns = (
        "family", "drift under µP", "under standard", "under standard_embed", "predicted cost",
        "measured cost",
    )  # fmt: skip
    return words.table(columns, _rows(found, _rate_cells, len(columns)))


def _rate_cells(study: Study) -> list[str]:
    arms = [words.judged(study.arm(name)) for name in ("mup", "standard", "standard_embed")]
    return [*arms, words.predicted(study), words.measured(study)]


def _quickstart_table(found: Found) -> str:
    columns = ("family", "drift under µP", "under standard", "predicted cost", "measured cost")
    return words.table(columns, _rows(found, _two_arms, len(columns)))


def _two_arms(study: Study) -> list[str]:
    arms = [words.judged(study.arm(name)) for name in ("mup", "standard")]
    return [*arms, words.predicted(study), words.measured(study)]


def _moves(found: Mapping[Edition, Study]) -> str:
    mup, standard = ([s.arm(name) for s in found.values()] for name in ("mup", "standard"))
    return (
        f"When the width doubles, the best rate under µP changes by {_drifts(mup)} octaves; it "
        f"{_verdicts(mup)}. Under the standard parametrization it changes by {_drifts(standard)} "
        f"octaves; it {_verdicts(standard)}."
    )


def _drifts(arms: Sequence[Record | None]) -> str:
    known = [arm["drift_octaves_per_doubling"]["estimate"] for arm in arms if arm is not None]
    return words.span([value for value in known if value is not None], words.sign)


def _verdicts(arms: Sequence[Record | None]) -> str:
    """Count the verdicts, as `transfers in 3 of 4 families, is inconclusive in 1`."""
    told = [arm["verdict"] for arm in arms if arm is not None]
    counts = {verdict: told.count(verdict) for verdict in sorted(set(told), key=told.count)[::-1]}
    said = {"inconclusive": "is inconclusive"}
    first, *others = counts.items()
    parts = [f"{said.get(first[0], first[0])} in {first[1]} of {len(told)} families"]
    return words.listed([*parts, *(f"{said.get(v, v)} in {n}" for v, n in others)])


def _tuning(found: Mapping[Edition, Study]) -> str:
    """Say what the tuning cost beside one target run, and beside sweeping the target."""
    costs = [study.transfer["cost"] for study in found.values() if study.transfer is not None]
    names = ("narrowest_over_target_percent", "arm_over_target_percent")
    names = (*names, "over_direct_search_percent")
    if not costs or any(c[name] is None for c in costs for name in names):
        return ""
    narrowest, arm, direct = (words.span([c[n] for c in costs], words.percent) for n in names)
    return (
        f"Tuning µP at the narrowest width alone costs {narrowest} of one target run. Tuning at "
        f"all widths costs {arm} of one target run, or {direct} of the same sweep of the target."
    )


def _muon_answer(found: Mapping[Edition, Study]) -> str:
    arms = [study.arm("mup") for study in found.values()]
    costs = [cost for study in found.values() if (cost := _cost_percent(study)) is not None]
    given_up = (
        f" At the target the transferred rate costs {words.span(costs, words.percent)} of the loss."
        if costs
        else ""
    )
    surely = sum(_leaves_out_zero(arm["drift_octaves_per_doubling"]) for arm in arms if arm)
    return (
        f"When the width doubles, Muon's best rate changes by {_drifts(arms)} octaves; the "
        f"interval leaves out zero in {surely} of {len(arms)} studies, and the verdict is "
        f"{_counted(arms)}.{given_up}"
    )


def _counted(arms: Sequence[Record | None]) -> str:
    """Count the verdicts, as `transfers` in 3 and `inconclusive` in 1."""
    told = [arm["verdict"] for arm in arms if arm is not None]
    return words.listed([f"`{v}` in {told.count(v)}" for v in dict.fromkeys(told)])


def _leaves_out_zero(told: Record) -> bool:
    return told["low"] is not None and (told["low"] > 0 or told["high"] < 0)


def _cost_percent(study: Study) -> float | None:
    """Return what the transferred value costs at the target, in percent of its best loss."""
    if study.realised is None or study.realised["regret"] is None:
        return None
    return 100 * study.realised["regret"]["estimate"] / study.realised["optimum"]["loss"]


def _muon_table(found: Found) -> str:
    columns = ("family", "widths", "drift of Muon's rate", "predicted cost", "measured cost")
    return words.table(columns, _rows(found, _muon_cells, len(columns)))


def _muon_cells(study: Study) -> list[str]:
    widths = ", ".join(map(str, study.widths))
    return [widths, words.judged(study.arm("mup")), words.predicted(study), words.measured(study)]


def _muon_note(found: Mapping[Edition, Study]) -> str:
    """Say which rate AdamW has beside Muon, and of which targets the best rate is not known."""
    rates = sorted({study.facts.tree["optimizer"]["adam_lr"] for study in found.values()})
    told = f"AdamW's base rate beside Muon: {words.listed([f'{rate:.3g}' for rate in rates])}."
    at_end = [f"`{edition.name}`" for edition, study in found.items() if _ends_at_best(study)]
    if not at_end:
        return told
    return (
        f"{told} At the target of {words.listed(at_end)} the lowest loss is that of the outermost "
        "rate tried, so the best rate may lie beyond, and the cost be larger."
    )


def _ends_at_best(study: Study) -> bool:
    """Whether the lowest loss at the target is that of the outermost rate tried."""
    found = None if study.realised is None else study.realised["optimum"]["censored"]
    return found in ("grid_low", "grid_high")


def _scales_answer(found: Mapping[Edition, Study]) -> str:
    told = {SCALES[e.question.sweep]: s for e, s in found.items()}
    verdicts = (_of_each(told, name) for name in ("mup", "standard"))
    return "Under µP the verdict is {}. Under the standard parametrization it is {}.".format(
        *verdicts
    )


def _of_each(told: Mapping[str, Study], parametrization: str) -> str:
    arms = {scale: study.arm(parametrization) for scale, study in told.items()}
    return words.listed([f"`{arm['verdict']}` for the {s}" for s, arm in arms.items() if arm])


def _scales_table(found: Found) -> str:
    columns = ("swept", "drift under µP", "under standard", "predicted cost", "measured cost")
    rows = _rows(found, _two_arms, len(columns))
    for edition, row in zip(found, rows, strict=True):
        row[0] = f"[{SCALES[edition.sweep.removesuffix('_fashion')]}](studies/{edition.name})"
    return words.table(columns, rows)


def _search_answer(found: Mapping[Edition, Study]) -> str:
    (study, *_) = found.values()
    by_verdict: dict[str, list[str]] = {}
    for arm in study.arms:
        by_verdict.setdefault(arm["verdict"], []).append(hp_name(arm["hp"]))
    said = [f"`{verdict}` for {words.listed(names)}" for verdict, names in by_verdict.items()]
    costs = f"{words.measured(study)}, where {words.predicted(study)} was predicted"
    return (
        f"The verdict is {words.listed(said)}. All transferred values together cost, in loss at "
        f"the target: {costs}."
    )


def _search_table(found: Found) -> str:
    columns = ("hyperparameter", "drift", "verdict", "share of what matters at the widest proxy")
    rows = []
    for edition, study in found.items():
        if isinstance(study, str):
            rows.append([_name(edition, study), study, words.UNKNOWN, words.UNKNOWN])
            continue
        shares = _shares(study)
        rows += [
            [hp_name(arm["hp"]), words.drift(arm), arm["verdict"],
             words.percent(100 * shares[arm["hp"]]) if arm["hp"] in shares else words.UNKNOWN]
            for arm in study.arms
        ]  # fmt: skip
    return words.table(columns, rows)


def _flat_note(found: Mapping[Edition, Study]) -> str:
    """Return which hyperparameters had no clear minimum at some widths."""
    (study, *_) = found.values()
    told = []
    for arm in study.arms:
        flat = [str(each["width"]) for each in arm["optima"] if each["censored"] == "flat"]
        if flat:
            told.append(f"{hp_name(arm['hp'])} at width {words.listed(flat)}")
    if not told:
        return ""
    return (
        f"No clear minimum was found for {'; for '.join(told)}. There a wide range gives the same "
        "loss, so a drift says little, and the cost says what matters."
    )


def _shares(study: Study) -> Record:
    """Return each hyperparameter's share of the variance of the loss (total Sobol index)."""
    assert study.estimates is not None, "asked of a study that holds them"
    return next((s["importance"]["total"] for s in study.estimates.get("surfaces") or []), {}) or {}


def _conditions_answer(found: Mapping[Edition, Study]) -> str:
    (study, *_) = found.values()
    told = [
        f"{words.sign(slope['estimate'])} octaves when the {axis} doubles"
        for axis, slope in _slopes(study).items()
        if slope["estimate"] is not None
    ]
    start = "Yes: it" if _moved(study) else "No movement is shown: it"
    return f"{start} changes by {words.listed(told)}."


def _warned(found: Mapping[Edition, Study]) -> str:
    """Return what `hptransfer transfer` warns of at the target."""
    (study, *_) = found.values()
    warned = [] if study.transfer is None else study.transfer["warnings"]
    return " ".join(
        f"The target's own warning: “{words.typeset(each).rstrip('.')}.”" for each in warned
    )


def _slopes(study: Study) -> dict[str, Record]:
    """Return the slopes in octaves per doubling of what varies, by its name in words."""
    (arm, *_) = study.arms
    slopes: Mapping[str, Record] = arm["conditions"]["octaves_per_doubling"]
    named = {"width": "width", "batch_size": "batch size", "steps": "number of steps"}
    return {named.get(axis, axis): slope for axis, slope in slopes.items()}


def _moved(study: Study) -> bool:
    """Whether an interval of a slope over batch size or steps leaves out zero."""
    slopes = [slope for name, slope in _slopes(study).items() if name != "width"]
    return any(map(_leaves_out_zero, slopes))


def _conditions_table(found: Found) -> str:
    rows = []
    for edition, study in found.items():
        if isinstance(study, str):
            rows.append([_name(edition, study), study])
            continue
        rows += [[f"the {name} doubles", words.signed(s)] for name, s in _slopes(study).items()]
        rows.append(["predicted cost at the target", words.predicted(study)])
        rows.append(["measured cost at the target", words.measured(study)])
    return words.table(("when", "the best rate changes by, in octaves"), rows)


def _axes_answer(found: Mapping[Edition, Study]) -> str:
    """Say which of the transferred rates gives the lowest loss, and what they cost."""
    told = {edition.sweep: study for edition, study in found.items()}
    if set(told) != set(AXES):
        return "Not all of them were run."
    losses = {name: _at_transferred(study) for name, study in told.items()}
    costs = {name: words.percent(_cost_percent(study) or 0.0) for name, study in told.items()}
    all_four, no_duration, width = AXES
    better = losses[all_four] < losses[width]
    return (
        f"{'Yes' if better else 'No, not on these data'}. At the transferred rate the target "
        f"reaches a loss of {losses[all_four]:.4f} with the rules of `complete`, and of "
        f"{losses[width]:.4f} with µP. Under `complete` that rate lies "
        f"{_octaves_off(told[all_four])} the best one at the target, and costs "
        f"{costs[all_four]} of the loss; under µP it costs {costs[width]}. Without its rule for "
        f"the duration `complete` reaches {losses[no_duration]:.4f}: its rate then lies "
        f"{_octaves_off(told[no_duration])} the best one, and costs {costs[no_duration]}."
    )


def _at_transferred(study: Study) -> float:
    """Return the target's own mean loss at the transferred rate."""
    basin = _target_basin(study)
    return basin["mean"][basin["theta"].index(_realised(study)["transferred"])]


def _realised(study: Study) -> Record:
    assert study.realised is not None, "the commands train the target too"
    return study.realised


def _target_basin(study: Study) -> Record:
    return _realised(study)["optimum"]["basin"]


def _octaves_off(study: Study) -> str:
    """Write how far below or above the target's fitted best rate the transferred one lies."""
    off = _realised(study)["transferred"] - _realised(study)["optimum"]["optimum"]
    return f"{abs(off):.1f} octaves {'above' if off > 0 else 'below'}"


def _axes_table(found: Found) -> str:
    columns = (
        "scaled by", "transferred rate", "loss of the target there", "best of the rates tried",
        "predicted cost", "measured cost",
    )  # fmt: skip
    rows = _rows(found, _axes_cells, len(columns))
    for edition, row in zip(found, rows, strict=True):
        row[0] = f"[{AXES[edition.sweep]}](studies/{edition.name})"
    return words.table(columns, rows)


def _axes_cells(study: Study) -> list[str]:
    basin = _target_basin(study)
    best = min(range(len(basin["mean"])), key=basin["mean"].__getitem__)
    return [
        f"{2 ** _realised(study)['transferred']:.3g}",
        f"{_at_transferred(study):.4f}",
        f"{basin['mean'][best]:.4f}, at {2 ** basin['theta'][best]:.2g}",
        words.predicted(study),
        words.measured(study),
    ]


def _axes_note(found: Mapping[Edition, Study]) -> str:
    """Say how many seeds this rests on, and where it is explained."""
    seeds = max(_realised(study)["optimum"]["n_seeds"] for study in found.values())
    return (
        f"Seeds for each rate at the target: {seeds}. Why it fails, and what to do: "
        "[the how-to](../docs/how_to/smaller_in_all_four.md#an-example)."
    )


def _speed_ups(found: Mapping[Edition, Study]) -> str:
    """Say how many times more steps a standard run needs, by its rate."""
    default, tuned = (
        words.span(_ratios(found, name, "speed_up"), words.two_digits)
        for name in ("default", "proxy_tuned")
    )
    return (
        f"For equal loss a standard run at the default rate of the original code needs {default} "
        f"times as many steps as µP. A standard run whose rate was tuned on the same proxies needs "
        f"{tuned} times as many."
    )


def _with_tuning(found: Mapping[Edition, Study]) -> str:
    told = [
        f"{words.span(_ratios(found, name, 'speed_up_with_tuning'), words.two_digits)} ({where})"
        for name, where in BASELINES.items()
    ]
    return (
        f"With the compute of the tuning counted on both sides, the ratios are "
        f"{words.listed(told)}; below 1 µP needs more."
    )


def _ratios(found: Mapping[Edition, Study], name: str, key: str) -> list[float]:
    return [b[key]["estimate"] for study in found.values() if (b := _baseline(study, name))[key]]


def _baseline(study: Study, name: str) -> Record:
    assert study.convergence is not None, "asked of a study that holds it"
    return next(each for each in study.convergence["baselines"] if each["name"] == name)


def _steps_table(found: Found) -> str:
    heads = [_name(edition, study) for edition, study in found.items()]
    rows = [
        [where, *(s if isinstance(s, str) else _speed_up(s, name) for s in found.values())]
        for name, where in BASELINES.items()
    ]
    rows.append(["cost of µP's own rate, in loss", *(_own_cost(study) for study in found.values())])
    return words.table(("steps over µP's, rate of the standard run", *heads), rows)


def _speed_up(study: Study, name: str) -> str:
    found = _baseline(study, name)
    return f"{words.ratio(found['speed_up'])}, rate {2 ** found['log2_lr']:.2g}"


def _own_cost(study: Study | str) -> str:
    if isinstance(study, str):
        return words.UNKNOWN
    assert study.convergence is not None, "asked of a study that holds it"
    return words.cost(study.convergence["transferred"]["regret"])


def _frechet_answer(found: Mapping[Edition, Study]) -> str:
    (study, *_) = found.values()
    apart = [arm["mean_difference"] for arm in _agreement(study)]
    told = words.span([a["estimate"] for a in apart if a["estimate"] is not None], words.sign)
    surely = (
        "The intervals leave zero out"
        if any(map(_leaves_out_zero, apart))
        else "No difference is shown"
    )
    return f"It lies {told} octaves from the rate that is best by loss. {surely}."


def _agreement(study: Study) -> Sequence[Record]:
    assert study.by_metric is not None, "asked of a study that holds it"
    return study.by_metric["agreement"]


def _frechet_table(found: Found) -> str:
    columns = (
        "parametrization", "best by distance less best by loss, octaves",
        "loss given up for the distance", "distance given up for the loss, octaves",
    )  # fmt: skip
    rows = []
    for edition, study in found.items():
        if isinstance(study, str):
            rows.append([_name(edition, study), study, words.UNKNOWN, words.UNKNOWN])
            continue
        for arm in _agreement(study):
            widest = arm["widths"][-1]
            rows.append(
                [arm_name(arm["parametrization"]), words.signed(arm["mean_difference"]),
                 words.cost(widest["loss_regret"]), words.cost(widest["metric_regret"], digits=2)]
            )  # fmt: skip
    return words.table(columns, rows)


def _averages_answer(found: Mapping[Edition, Study]) -> str:
    (study, *_) = found.values()
    told = []
    for record in _averages(study):
        best: dict[str, list[str]] = {}
        for at in record["widths"]:
            best.setdefault(_horizon(at["lowest"]), []).append(str(at["width"]))
        where = [f"{horizon} at width {words.listed(widths)}" for horizon, widths in best.items()]
        told.append(
            f"By the {MEASURES[record['measure']]} the best horizon is {' and '.join(where)}."
        )
    return " ".join(told)


def _averages(study: Study) -> Sequence[Record]:
    assert study.estimates is not None, "asked of a study that holds them"
    return study.estimates["averages"]


def _horizon(share: float | None) -> str:
    return "none" if share is None else f"{share:g}"


def _margin(record: Record) -> str:
    """Write how much worse the next horizon is, which is not negative but where seeds disagree."""
    low = None if record["low"] is None else max(0.0, record["low"])
    return words.cost({**record, "low": low})


def _averages_table(found: Found) -> str:
    columns = (
        *("judged by", "width", "best horizon", "lowest there", "of the weights themselves"),
        "the next horizon is worse by",
    )
    rows = []
    for edition, study in found.items():
        if isinstance(study, str):
            rows.append([_name(edition, study), study, *[words.UNKNOWN] * 4])
            continue
        for record in _averages(study):
            label = METRICS[record["measure"]].label
            for at in record["widths"]:
                value = {each["horizon"]: each["value"] for each in at["horizons"]}
                rows.append(
                    [label, str(at["width"]), _horizon(at["lowest"]),
                     f"{value[at['lowest']]:.4f}", f"{value[None]:.4f}", _margin(at["margin"])]
                )  # fmt: skip
    return words.table(columns, rows)


ANSWERS: dict[str, Callable[[Mapping[Edition, Study]], str]] = {
    "rates": _moves,
    "muon": _muon_answer,
    "quickstart": _moves,
    "scales": _scales_answer,
    "search": _search_answer,
    "repa": _search_answer,
    "conditions": _conditions_answer,
    "axes": _axes_answer,
    "steps": _speed_ups,
    "frechet": _frechet_answer,
    "averages": _averages_answer,
}
NOTES: dict[str, Callable[[Mapping[Edition, Study]], str]] = {  # what else the records say
    "rates": _tuning,
    "muon": _muon_note,
    "search": _flat_note,
    "repa": _flat_note,
    "conditions": _warned,
    "axes": _axes_note,
    "steps": _with_tuning,
}
TABLES: dict[str, Callable[[Found], str]] = {
    "rates": _rates_table,
    "muon": _muon_table,
    "quickstart": _quickstart_table,
    "scales": _scales_table,
    "search": _search_table,
    "repa": _search_table,
    "conditions": _conditions_table,
    "axes": _axes_table,
    "steps": _steps_table,
    "frechet": _frechet_table,
    "averages": _averages_table,
}
