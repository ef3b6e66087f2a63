"""The site builds without a warning, works from a folder, and asks nothing of the network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.support.paths import ROOT

# What a browser fetches to show a page, by tag: its attribute with the address.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Links(HTMLParser):
    """The addresses in a page: what it fetches, and what it leads to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.followed: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in FETCHED and (address := given.get(FETCHED[tag])):
            self.fetched.append(address)
        elif tag == "a" and (address := given.get("href")):
            self.followed.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built so that a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    build(config)
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """Return the links of every page; 404.html is for servers, whose addresses are absolute."""
    return {path: Links(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_pages_and_styles_fetch_nothing_from_the_network(
    site: Path, pages: dict[Path, Links]
) -> None:
    assert len(pages) > 20
    fetched = {address for links in pages.values() for address in links.fetched}
    assert [address for address in fetched if urlsplit(address).netloc] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    imported = [found for text in styles for found in re.findall(r"url\(([^)]*)\)|@import", text)]
    assert [address for address in imported if "//" in address and "data:" not in address] == []


def test_every_relative_link_leads_to_a_file(site: Path, pages: dict[Path, Links]) -> None:
    dead = []
    for path, links in pages.items():
        for address in (*links.fetched, *links.followed):
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve()
            if not parts.scheme and not parts.netloc and parts.path and not target.is_file():
                dead.append(f"{path.relative_to(site)}: {address}")
    assert dead == []


def test_every_page_begins_with_one_title() -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert text.startswith("# "), path
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, path
