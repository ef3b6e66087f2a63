"""The parts of a served page: how far a sweep is, and the list of sweeps, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from hptransfer.config.choices import arm_name
from hptransfer.config.hyperparameters import hp_value, hp_words, value_text
from hptransfer.reporting.live.state import SweepState
from hptransfer.reporting.page.page import element, section
from hptransfer.results.failed_trials import FailedTrial
from hptransfer.results.folder import ResultsFolder

MOST_LISTED = 50  # failed trials that the page lists


def link(address: str, text: str) -> str:
    """Return a link to an address below the page."""
    return f'<a href="{quote(address)}">{escape(text)}</a>'


def progress(state: SweepState) -> str:
    """Return a bar and a line of counts: trials recorded, running, failed, and the time left."""
    counts = state.counts
    wanted, recorded = counts["wanted"], counts["recorded"]
    share = 100 * recorded / wanted if wanted else 0.0
    parts = [f"{recorded:,} of {wanted:,} trials"]
    parts += [f"{state.running:,} running"] if state.running else []
    parts += [f"{counts[name]:,} {name}" for name in ("diverged", "stopped") if counts[name]]
    parts += [f'<a href="#trials">{len(state.failed):,} failed</a>'] if state.failed else []
    parts += [escape(state.left)] if state.left else []
    css = " bad" if state.word == "failed" or state.failed else ""
    said = f"<b>{state.word.capitalize()}</b>: {', '.join(parts)}."
    meter = f'<div class="meter"><span style="width:{share:.1f}%"></span></div>\n'
    return f'{meter if state.missing else ""}<p class="state{css}">{said}</p>'


def trials_section(state: SweepState) -> str:
    """Return what failed and why, what was left out, and links to the logs."""
    counts = state.counts
    lines = []
    if state.error:
        lines.append(
            element("p", f"The last command ended with an error: {state.error}", "warning")
        )
    if counts["diverged"]:
        many = f"{counts['diverged']:,} trials diverged: their loss turned non-finite."
        lines.append(element("p", f"{many} The curves show them as ×."))
    if counts["stopped"]:
        many = f"{counts['stopped']:,} trials were stopped early:"
        lines.append(element("p", f"{many} their loss rose far above its start and stayed."))
    if counts["notice"]:
        lines.append(element("p", counts["notice"], "muted"))
    if state.failed:
        many = len(state.failed)
        what = "One trial failed" if many == 1 else f"{many:,} trials failed"
        lines.append(element("p", f"{what}, because the training raised an error:"))
        items = "".join(f"<li>{_failed(each)}</li>" for each in state.failed[:MOST_LISTED])
        lines.append(f'<ul class="trials warning">{items}</ul>')
        rest = many - MOST_LISTED
        lines.append(element("p", f"And {rest:,} more." if rest > 0 else ""))
    name = ResultsFolder("").log_file.name
    log = link(f"files/{name}", f"log of the sweep ({name})") if state.has_log else ""
    sweep = link("files/sweep.yaml", "the sweep as it was asked (sweep.yaml)")
    lines.append(f"<p>{' · '.join(filter(None, (log, sweep)))}</p>")
    return section("Trials and logs", *lines)


def _failed(failed: FailedTrial) -> str:
    values = ", ".join(
        f"{hp_words(hp)} {value_text(hp, hp_value(hp, v))}" for hp, v in failed.hps.items()
    )
    where = (
        f"{arm_name(failed.parametrization)}, width {failed.width}, {values}, seed {failed.seed}"
    )
    said = escape(f"{where}: {failed.reason} ({failed.frame})")
    return f"{said} {link(f'files/{failed.log}', 'traceback')}"


class Listed(NamedTuple):
    """A sweep in the list of sweeps."""

    name: str
    word: str  # its state
    recorded: int
    wanted: int
    answers: tuple[str, ...]  # of each parametrization: name, verdict, value
    problem: str = ""  # why it cannot be read


def sweeps_table(listed: Sequence[Listed], root: str) -> str:
    """Return the table of the sweeps of a folder, each with a link to its page."""
    if not listed:
        return element(
            "p",
            f"There is no sweep in {root} yet. Start one with `hptransfer sweep quickstart`: it "
            "appears here by itself.",
        )
    rows = "".join(
        f"<tr><td>{_page_link(each.name)}</td><td>{_chip(each.word)}</td>"
        f'<td class="n">{each.recorded:,} of {each.wanted:,}</td>'
        f"<td>{_answers(each)}</td></tr>\n"
        for each in listed
    )
    heads = '<th>sweep</th><th>state</th><th class="n">trials</th><th>answer</th>'
    return (
        f'<div class="scroll"><table class="full list"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>"
    )


def _chip(word: str) -> str:
    css = {"running": "chip now", "done": "chip good", "failed": "chip bad"}
    return element("span", word, css.get(word, "chip"))


def _page_link(name: str) -> str:
    return f'<a href="{quote(name, safe="")}/">{escape(name)}</a>'


def _answers(each: Listed) -> str:
    if each.problem:
        return element("span", each.problem, "warning")
    if not each.answers:
        return element("span", "not fitted yet: its page shows the answer so far", "muted")
    return "<br>".join(escape(answer) for answer in each.answers)
