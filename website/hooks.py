"""The hooks that mkdocs calls: which files the site has, its tabs, and links to folders.

Files have their paths in the repository as names (`docs/index.md`, `results/README.md`), so every
relative link of a page leads to the same file here as on GitHub. Pages of docs/ lose that prefix in
the site. Whatever else they link to is added to it, and what those pages link to in turn.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

from website.reference import reference_pages

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?P<target>[^)\s#]+)(?:#[^)\s]*)?\)")
TO_FOLDER = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)\)")
NAME = re.compile(r"`(?P<name>\w+\.md)`")
CODE_IN_ROW = re.compile(r"(?<=[|\s])`[^`\n]*\\\|[^`\n]*`")
SCHEME = re.compile(r"\w+:")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that GitHub gives them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the pages of docs/ and of the reference, and all that they link to."""
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    of_docs = {f"docs/{file.src_uri}": file for file in files if file.src_dir == config.docs_dir}
    generated = {f"docs/reference/{name}": text for name, text in reference_pages().items()}
    texts = {name: of_docs[name].content_string for name in of_docs if name.endswith(".md")}
    linked = linked_files(texts | generated, {*of_docs, *generated})
    config.nav = expanded(
        config.nav or [], [n for n in [*of_docs, *generated, *linked] if n.endswith(".md")]
    )
    return Files(
        [
            *of_theme,
            *(file_of(name, config) for name in [*of_docs, *linked]),
            *(page_of(name, text, config) for name, text in generated.items()),
        ]
    )


def file_of(name: str, config: MkDocsConfig) -> File:
    """Return a file of the repository as one of the site."""
    file = File(name, str(ROOT), config.site_dir, use_directory_urls=config.use_directory_urls)
    file.dest_uri = dest_of(file)
    if posixpath.basename(name).startswith("."):  # which mkdocs leaves out unless told
        file.inclusion = InclusionLevel.INCLUDED
    return file


def page_of(name: str, text: str, config: MkDocsConfig) -> File:
    """Return a page that no file holds."""
    file = File.generated(config, name, content=text)
    file.dest_uri = dest_of(file)
    return file


def dest_of(file: File) -> str:
    """Return where a file lies in the site: pages of docs/ at its top."""
    if file.src_uri == "README.md":
        return "readme.html"  # index.html is docs/index.md's
    return file.dest_uri.removeprefix("docs/")


def linked_files(texts: Mapping[str, str], known: set[str]) -> list[str]:
    """Return the files of the repository that pages link to, directly or by one another."""
    found: list[str] = []
    to_read = list(texts.items())
    while to_read:
        page, text = to_read.pop()
        for target in targets_of(page, text):
            if target not in known and (ROOT / target).is_file():
                known = known | {target}
                found.append(target)
                if target.endswith(".md"):
                    to_read.append((target, (ROOT / target).read_text(encoding="utf-8")))
    return found


def targets_of(page: str, text: str) -> Iterator[str]:
    """Yield the paths in the repository that a page's relative links lead to."""
    for link in LINK.finditer(text):
        if not SCHEME.match(link["target"]):
            yield path_in_repository(page, link["target"])


def path_in_repository(page: str, target: str) -> str:
    """Return the path in the repository of what a page calls `target`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def expanded(nav: list[Any], pages: list[str]) -> list[Any]:
    """Return the navigation with the pages that its patterns match, such as `docs/concepts/*`.

    A folder's README.md comes first; a page that an earlier pattern named is not repeated, and an
    entry that matches no page is left out.
    """
    entries = []
    for entry in nav:
        ((title, patterns),) = entry.items()
        is_page = isinstance(patterns, str)
        found: list[str] = []
        for pattern in [patterns] if is_page else patterns:
            matched = fnmatch.filter(pages, pattern)
            matched.sort(key=lambda name: (not name.endswith("/README.md"), name))
            found += [name for name in matched if name not in found]
        if found:
            entries.append({title: found[0] if is_page else found})
    return entries


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with links that files on their own cannot have.

    A link to a folder leads to its first page, or becomes plain text where it has none. The name of
    a page that is written from the code, such as `commands.md` beside it, becomes a link.
    """
    here = posixpath.dirname(page.file.src_uri)
    in_nav = [name for entry in config.nav or [] for name in _names(entry)]

    def to_page(link: re.Match[str]) -> str:
        folder = path_in_repository(page.file.src_uri, link["target"])
        is_folder = link["target"].endswith("/") or (ROOT / folder).is_dir()
        if SCHEME.match(link["target"]) or not is_folder:
            return link[0]
        inside = [name for name in in_nav if name.startswith(f"{folder}/")]
        if not inside or not folder.startswith("docs/"):
            return link["text"]
        return f"[{link['text']}]({posixpath.relpath(inside[0], here)})"

    def to_generated(name: re.Match[str]) -> str:
        target = files.get_file_from_path(posixpath.join(here, name["name"]))
        is_generated = target is not None and target.generated_by is not None
        return f"[{name['name']}]({name['name']})" if is_generated else name[0]

    # GitHub takes the backslash before a bar in a table's code away, Python-Markdown shows it.
    markdown = CODE_IN_ROW.sub(lambda code: code[0].replace("\\|", "|"), markdown)
    return NAME.sub(to_generated, TO_FOLDER.sub(to_page, markdown))


def _names(entry: dict[str, Any]) -> list[str]:
    (content,) = entry.values()
    return [content] if isinstance(content, str) else content
