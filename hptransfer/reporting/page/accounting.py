"""Sections of the report: FLOPs and time spent, commands, files, imported rows, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import yaml

from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.cost import DENOMINATORS
from hptransfer.reporting.page.page import JsonObject, bullets, cell, element, table
from hptransfer.system.text import duration
from hptransfer.system.version import package_version


def cost_table(cost: JsonObject | None) -> str:
    """Tabulate FLOPs and the three ratios, each with its denominator."""
    if cost is None:
        return ""
    totals = [
        ("the whole sweep", wording.flops_text(cost["sweep_flops"])),
        ("one target run", wording.flops_text(cost["target_flops"])),
    ]
    ratios = [(what, wording.percent_text(cost[key]), of) for key, what, of in DENOMINATORS]
    return "\n".join(
        [
            table("", ("", "FLOPs#"), totals),
            table("", ("what", "share#", "of what"), ratios),
            element("p", "FLOPs are counted operator by operator, backward included.", "muted"),
        ]
    )


def timing_table(timing: Mapping[str, float] | None) -> str:
    """Tabulate seconds per section, the longest first, with a bar for each."""
    if not timing:
        return ""
    total = sum(timing.values())
    longest = max(timing.values()) or 1.0
    rows = "".join(
        f"<tr>{element('td', name)}{cell(duration(seconds), 'n')}"
        f'<td class="wide"><span class="bar" style="width:{100 * seconds / longest:.1f}%">'
        "</span></td></tr>\n"
        for name, seconds in sorted(timing.items(), key=lambda item: -item[1])
    )
    whole = element("p", f"{duration(total)} in all.")
    return f'{whole}\n<div class="scroll"><table class="full"><tbody>\n{rows}</tbody></table></div>'


def command_list(commands: list[str]) -> str:
    """Show the exact commands, ready to copy."""
    return f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""


def files_list(files: list[str] | None) -> str:
    """List what was written for the target: its config, and exports for other trainers."""
    return f"<ul>{bullets(files)}</ul>" if files else ""


def imported_table(imported: JsonObject | None) -> str:
    """Tabulate the files that imported rows came from, and what each column was read as."""
    if not imported:
        return ""
    rows = [
        (name, ", ".join(f"{ours} from {theirs}" for ours, theirs in columns.items()))
        for name, columns in (imported.get("files") or {}).items()
    ]
    said = f"{imported['rows']:,} rows of another program's sweep."
    return element("p", said) + "\n" + table("", ("file", "columns"), rows)


def provenance_section(sweep: JsonObject) -> str:
    """Show the version and the sweep as it was run."""
    text = yaml.safe_dump(dict(sweep), sort_keys=False, allow_unicode=True, width=88)
    return "\n".join(
        [
            element("p", f"hptransfer {package_version()}."),
            "<details><summary>The sweep as it was run</summary>",
            f"<pre>{escape(text)}</pre></details>",
        ]
    )
