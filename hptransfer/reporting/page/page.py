"""The report's page: style sheet, elements, and matplotlib's SVG made fit to stand inside HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from hptransfer.reporting.figures.style import ARMS, DARK, FAIL, GRID, INK, MUTED, PAPER

JsonObject = Mapping[str, Any]  # an entry of estimates.json or another record of a folder

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1060px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:44px 0 12px}
h3{font-size:1rem;margin:20px 0 6px;color:var(--ink)}
p{margin:0 0 10px;max-width:72ch}
.eyebrow{color:var(--muted);font-size:.85rem;margin:0 0 4px}
.question{font-size:1.1rem}
.muted{color:var(--muted);font-size:.9rem}
.cards{display:grid;gap:12px;margin:22px 0 0}
.card{background:var(--paper);border:1px solid var(--line);border-left:5px solid var(--muted);
border-radius:8px;padding:14px 18px}
.card.good{border-left-color:var(--good)}.card.bad{border-left-color:var(--bad)}
.card p{margin:0;font-size:1.1rem;font-weight:600;line-height:1.45}
.card h3{margin:0 0 6px}.card p.more{font-size:1rem;font-weight:400}.card .scroll{margin:10px 0 0}
.card ul{margin:8px 0 0;padding-left:20px;color:var(--muted);font-size:.93rem}
.card li{margin:2px 0}.card li.warning,.warning{color:var(--bad)}
.note{margin-top:14px}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:14px;
align-items:start}
figure,.key{margin:0;background:var(--paper);border:1px solid var(--line);border-radius:8px;
padding:12px;break-inside:avoid}
.key ul{margin:4px 0;padding-left:20px;font-size:.93rem;color:var(--muted)}
.key h3{margin:4px 0 8px}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:14px;
align-items:start}.beside table{width:100%}
figure.wide{grid-column:1/-1;overflow-x:auto}
figure svg{display:block;width:100%;height:auto;max-width:560px;margin:0 auto}
figure.wide svg{max-width:820px;min-width:540px}.pictures{margin-bottom:18px}
.scroll{overflow-x:auto;margin:0 0 14px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem;min-width:50%}
caption{text-align:left;font-weight:600;padding:0 0 6px}
th,td{text-align:left;padding:6px 18px 6px 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{font-weight:600;color:var(--muted);font-size:.85rem}
td.n,th.n{text-align:right;white-space:nowrap}
table.full{width:100%}
pre{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:12px 14px;
overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin:0 0 12px}
.bar{display:block;height:9px;border-radius:3px;background:var(--accent);min-width:2px}
td.wide{width:55%;vertical-align:middle}
details{margin:0 0 12px}summary{cursor:pointer;padding:4px 0}
@media (max-width:560px){main{padding:20px 14px 48px}h1{font-size:1.55rem}
h2{margin-top:34px}figure{padding:8px 4px}.key{padding:10px 14px}.card{padding:12px 14px}
.card p{font-size:1.02rem}table{font-size:.82rem}th{font-size:.78rem}th,td{padding-right:9px}
td.n,th.n{white-space:normal}}
@media print{:root{--ground:#fff}body{font-size:11pt}main{max-width:none;padding:0}
.card,tr{break-inside:avoid}
h2,h3,caption,thead{break-after:avoid}.scroll{overflow:visible}
.pictures,.beside{grid-template-columns:1fr 1fr}
pre{white-space:pre-wrap;overflow-wrap:anywhere}}
"""


def style_sheet() -> str:
    """The page's CSS; every colour of the figures is a variable with a dark counterpart."""
    light = _variables({color: color for color in DARK}, ground="#f6f7f9", good="#00805c")
    dark = _variables(DARK, ground="#0e1114", good="#2fc79c")
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}" + _RULES
    )


def _variables(shown: Mapping[str, str], *, ground: str, good: str) -> str:
    """Return CSS variables: a name for each part of the page, and `--c<hex>` for each colour."""
    parts = {"ink": INK, "muted": MUTED, "line": GRID, "paper": PAPER, "bad": FAIL}
    named = {"ground": ground, "good": good, "accent": shown[ARMS[0]]}
    named |= {name: shown[color] for name, color in parts.items()}
    named |= {f"c{color.removeprefix('#')}": shown[color] for color in DARK}
    return ";".join(f"--{name}:{value}" for name, value in named.items())


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page from its parts, which are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style_sheet()}</style>\n</head>\n<body>\n"
        "<main>\n" + "\n".join(part for part in parts if part) + "\n</main>\n</body>\n</html>\n"
    )


def element(tag: str, text: str, css: str = "") -> str:
    """One element around plain text, which is escaped."""
    return f"<{tag}{_css(css)}>{escape(text)}</{tag}>"


def bullet_list(items: Iterable[str], css: str = "") -> str:
    """Return a list of plain text, or nothing where there are no items."""
    inner = "".join(element("li", item, css) for item in items)
    return f"<ul>{inner}</ul>" if inner else ""


def section(title: str, *parts: str) -> str:
    """A titled section, or nothing where all its parts are empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n{element('h2', title)}\n{body}\n</section>" if body else ""


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; a head that ends in # marks a column of numbers."""
    css = ["n" if head.endswith("#") else "" for head in heads]
    head = "".join(element("th", h.rstrip("#"), c) for h, c in zip(heads, css, strict=True))
    body = "".join(
        "<tr>" + "".join(cell(t, c) for t, c in zip(row, css, strict=True)) + "</tr>\n"
        for row in rows
    )
    title = element("caption", caption) if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def picture(svg: str, name: str, label: str, css: str = "") -> str:
    """A figure element around matplotlib's SVG: no outside references, ids made unique."""
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", inner)
    inner = inner.replace("xlink:href=", "href=")
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = inner.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for color in DARK:
        inner = inner.replace(color, f"var(--c{color.removeprefix('#')})")
    opening = f'<svg role="img" aria-label="{escape(label)}"'
    return f"<figure{_css(css)}>{inner.replace('<svg', opening, 1).strip()}</figure>"


def cell(text: str, css: str) -> str:
    """A cell; a number may break before its interval and nowhere else."""
    if css != "n":
        return element("td", text, css)
    number, bracket, rest = text.partition(" (")
    unbroken = [part.replace(" ", "\u00a0") for part in (number, rest)]
    return element("td", bracket.join(unbroken) if bracket else unbroken[0], css)


def _css(css: str) -> str:
    return f' class="{css}"' if css else ""
