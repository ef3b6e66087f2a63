"""The report of a sweep as one self-contained HTML page.

The page holds no time stamps and no outside references: the same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.analysis.answer.text import trial_notes
from hptransfer.reporting.figures import Picture, wording
from hptransfer.reporting.page import sections
from hptransfer.reporting.page.page import JsonObject, bullets, document, element, picture, section

HALF_PAGE = 5.0  # inches that are readable in one of two columns

_CARD = {"transfers": "good", "drifts": "bad"}
_NOTE = (
    "Intervals are 90 % intervals. Regret is the loss at the transferred value minus the loss at "
    "the width's own optimum."
)

_KEY = (
    "Points are means over seeds, with the range over seeds; the thick line is the local fit.",
    "The window's ends are marked by | on that line.",
    "The large dot is the optimum with its 90 % interval; a hollow diamond is a censored optimum.",
    "Under a width's name: the share of draws whose best point is an end of the grid, above 5 %.",
    "× failed: diverged, or hardly better than at the start; the tint begins at the cliff, past "
    "which every point failed. ▲ lies above the picture.",
    "Over width: the line is the law, the shade its 90 % band, □ the value for the target"
    " and ★ the optimum that the target's own sweep found.",
)


def report_html(
    drawn: Sequence[tuple[Picture, str]],
    *,
    estimates: dict[str, Any],
    check: dict[str, Any] | None,
    realised: dict[str, Any] | None,
    transfer: dict[str, Any] | None,
    sweep: dict[str, Any],
    timing: dict[str, float] | None,
    commands: list[str],
) -> str:
    """Return the report of a sweep as HTML.

    Args:
        drawn: the pictures that these records give, each with its SVG.
        estimates, check, realised, transfer: as in `pictures`.
        sweep: what `sweep.yaml` holds.
        timing: seconds of each section of a run.
        commands: what makes the page again.
    """
    figures = {p.name: _figure(p, svg) for p, svg in drawn if p.name != "summary"}
    handed = transfer or {"cost": None, "files": None}
    parts = [
        _header(estimates, sweep),
        *_answers(estimates, figures),
        section("Values for the target", sections.target_values(transfer) if transfer else ""),
        section("Predicted against realised", _realised(realised, figures)),
        section(
            "Coordinate check",
            sections.check_sentence(check) if check else "",
            _grid(figures, ("coordinate",)),
        ),
        section("Cost", _beside(sections.cost_table(handed["cost"]), figures.get("cost"))),
        section("Where the time went", sections.timing_table(timing)),
        section("Files for the target", sections.files_list(handed["files"])),
        section("Commands", sections.command_list(commands)),
        section("Imported rows", sections.imported_table(sweep.get("imported"))),
        section("Provenance", sections.provenance_section(sweep)),
    ]
    return document(f"{estimates['sweep']}: hptransfer report", parts)


def _answers(estimates: JsonObject, figures: Mapping[str, str]) -> list[str]:
    """Return the sections on each arm, from its curves to its sections."""
    arms, surfaces = estimates["arms"], estimates.get("surfaces") or []
    return [
        section("The curves", _grid(figures, ("basins", "optimum_width"), _key())),
        section("Optimum at each width", *map(sections.arm_optima_table, arms)),
        section(
            "Does it transfer?",
            sections.transfer_table(arms),
            _grid(figures, ("regret", "loss_width")),
            *map(sections.laws_table, arms),
            *map(sections.quality_list, arms),
        ),
        section(
            "Loss and curvature over width",
            *map(sections.loss_table, arms),
            *map(sections.curvature_table, arms),
        ),
        section(
            "Several HPs together",
            _grid(figures, ("surface", "importance")),
            *map(sections.joint_table, surfaces),
            *map(sections.importance_table, surfaces),
        ),
        section(
            "Other conditions", _grid(figures, ("over",)), *map(sections.conditions_table, arms)
        ),
    ]


def _header(estimates: JsonObject, sweep: JsonObject) -> str:
    cards = "\n".join(_card(arm) for arm in estimates["arms"])
    question, statistic = sweep.get("question"), sweep.get("statistic")
    return "\n".join(
        [
            "<header>",
            element("p", "hptransfer report", "eyebrow"),
            element("h1", str(estimates["sweep"])),
            element("p", str(question), "question") if question else "",
            element("p", f"Deciding statistic: {statistic}", "muted") if statistic else "",
            f'<div class="cards">\n{cards}\n</div>',
            *(element("p", note, "note") for note in trial_notes(estimates)),
            element("p", _NOTE, "muted note"),
            "</header>",
        ]
    )


def _card(arm: JsonObject) -> str:
    reasons = list(arm.get("reasons") or [])
    if arm.get("verdict") in ("extend", "inconclusive"):
        reasons = reasons[1:]  # the headline quotes the first
    over = (arm.get("conditions") or {}).get("over") or []
    moving = [each["sentence"] for each in over if each["still_moves"]]
    warnings = [f"Warning: {warning}" for warning in [*moving, *(arm.get("warnings") or [])]]
    items = bullets(reasons) + bullets(warnings, "warning")
    css = _CARD.get(arm.get("verdict") or "", "")
    notes = f"<ul>{items}</ul>" if items else ""
    sentence = element("p", wording.headline(arm))
    return f'<div class="card {css}">{sentence}{notes}</div>'


def _grid(figures: Mapping[str, str], kinds: tuple[str, ...], last: str = "") -> str:
    chosen = [figure for name, figure in figures.items() if name.startswith(kinds)]
    if not chosen:
        return ""
    return '<div class="pictures">\n' + "\n".join([*chosen, last]) + "\n</div>"


def _key() -> str:
    return (
        f'<div class="key">{element("h3", "How to read the curves")}<ul>{bullets(_KEY)}</ul></div>'
    )


def _realised(realised: JsonObject | None, figures: Mapping[str, str]) -> str:
    if realised is None:
        return ""
    return _beside(sections.realised_table(realised), figures["realised"])


def _beside(text: str, figure: str | None) -> str:
    if not text or figure is None:
        return text
    return f'<div class="beside">\n<div>{text}</div>\n{figure}\n</div>'


def _figure(shown: Picture, svg: str) -> str:
    return picture(svg, shown.name, shown.label, "wide" if shown.size[0] > HALF_PAGE else "")
