"""The report's page: style sheet, elements, and matplotlib's SVG made fit to stand inside HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from hptransfer.reporting.figures.style import ARMS, DARK, FAIL, GRID, INK, MUTED, PAPER

JsonObject = Mapping[str, Any]  # an entry of estimates.json or another record of a folder


def style_sheet() -> str:
    """The page's CSS; every colour of the figures is a variable with a dark counterpart."""
    light = _variables({color: color for color in DARK}, ground="#f6f7f9", good="#00805c")
    dark = "color-scheme:dark;" + _variables(DARK, ground="#0e1114", good="#2fc79c")
    return (
        f":root{{color-scheme:light;{light}}}\n"
        "@media screen and (prefers-color-scheme:dark)"
        f"{{:root:not([data-theme=light]){{{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n{_file('report.css')}"
    )


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _variables(shown: Mapping[str, str], *, ground: str, good: str) -> str:
    """Return CSS variables: a name for each part of the page, and `--c<hex>` for each colour."""
    parts = {"ink": INK, "muted": MUTED, "line": GRID, "paper": PAPER, "bad": FAIL}
    named = {"ground": ground, "good": good, "accent": shown[ARMS[0]]}
    named |= {name: shown[color] for name, color in parts.items()}
    named |= {f"c{color.removeprefix('#')}": shown[color] for color in DARK}
    return ";".join(f"--{name}:{value}" for name, value in named.items())


def document(title: str, parts: Iterable[str], data: JsonObject) -> str:
    """A whole page from its parts, which are HTML already, and what its script draws.

    Its policy lets nothing be loaded and no other script run; a page with `live` in its data may
    ask its own server for news.
    """
    script = _file("report.js")
    policy = content_policy(live=bool(data.get("live")))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style_sheet()}</style>\n</head>\n<body>\n"
        "<main>\n" + "\n".join(part for part in parts if part) + "\n</main>\n"
        f'<script type="application/json" id="data">{json_in_html(data)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def content_policy(*, live: bool) -> str:
    """What a browser may load and run for a page: its own script, and news of its own server."""
    digest = hashlib.sha256(_file("report.js").encode()).digest()
    allowed = [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return "; ".join(allowed)


def json_in_html(value: Any) -> str:
    """Return a value as JSON in which no text can end a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


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
    inner = inner.replace("<svg", opening, 1).strip()
    return f'<figure data-name="{escape(name)}"{_css(css)}>{inner}</figure>'


def cell(text: str, css: str) -> str:
    """A cell; a number may break before its interval and nowhere else."""
    if css != "n":
        return element("td", text, css)
    number, bracket, rest = text.partition(" (")
    unbroken = [part.replace(" ", "\u00a0") for part in (number, rest)]
    return element("td", bracket.join(unbroken) if bracket else unbroken[0], css)


def _css(css: str) -> str:
    return f' class="{css}"' if css else ""
