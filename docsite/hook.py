"""MkDocs hook: pages that are not in docs/, links that lead out of docs/, and checks that MkDocs does not have.

In the repository, a link is the path from one file to another. In the site, the pages of PAGES have another place,
so links to them and from them are changed. Any other file outside docs/ that a page links to is copied into the
site, at its path in the repository.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.livereload import LiveReloadServer
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages outside docs/: their files in the repository, and their places in the site.
PAGES = {
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "SECURITY.md": "about/security-policy.md",
    "deploy/chart/README.md": "chart.md",
    "examples/README.md": "examples.md",
}
# Files that are not in the site: a link to one leads to this page instead.
_REPLACED = {"README.md": "index.md"}

ROOT = Path(__file__).resolve().parents[1]
# A link to a file of the repository. Code is matched too, so that a link in code stays as it is.
_LINK = re.compile(r"^```.*?^```|`[^`\n]+`|\]\((?P<path>(?![a-z]+:|/)[^()\s#]+)", re.MULTILINE | re.DOTALL)
_EXTERNAL = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"?(?:https?:)?//[^>]*>")
_BLOCKS = ("<li>", "<table>", "<pre>", "<blockquote>")

log = logging.getLogger("mkdocs.hooks.docsite")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of PAGES, and the other files outside docs/ that pages link to."""
    for path, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for page in list(files.documentation_pages()):
        for path in _linked(page):
            outside = path == _place(path) and not path.startswith("../")
            if outside and (ROOT / path).is_file() and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Make the links of a page lead to the places of their targets in the site.

    A link whose target is not in the site stays as it is, and MkDocs warns of it.
    """
    source, here = _source(page.file), posixpath.dirname(page.file.src_uri)

    def changed(match: re.Match[str]) -> str:
        if match["path"] is None:
            return match[0]
        place = _place(_resolved(source, match["path"]))
        found = files.get_file_from_path(place) is not None
        return f"]({posixpath.relpath(place, here or '.')}" if found else match[0]

    return _LINK.sub(changed, markdown)


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Warn if lists, tables or code differ from what a reader of the repository sees (CommonMark).

    Python-Markdown, which MkDocs uses, needs an empty line before a list, and four spaces before the content of a
    list item.
    """
    expected = MarkdownIt("commonmark").enable("table").render(page.markdown or "")
    for block in _BLOCKS:
        seen, meant = _count(html, block), _count(expected, block)
        if seen != meant:
            log.warning("%s: expected %d of %s, as CommonMark has, got %d", _source(page.file), meant, block, seen)
    return html


def on_serve(server: LiveReloadServer, **_: object) -> LiveReloadServer:
    for path in PAGES:
        server.watch(str(ROOT / path))
    return server


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Warn if the page would load something from another host."""
    for match in _EXTERNAL.finditer(output):
        log.warning("%s: loads from another host: %s", _source(page.file), match[0])
    return output


def _count(html: str, block: str) -> int:
    return len(re.findall(rf"{block[:-1]}[ >]", html))


def _linked(page: File) -> Iterator[str]:
    """The paths in the repository of the files that a page links to."""
    for match in _LINK.finditer(page.content_string):
        if match["path"] is not None:
            yield _resolved(_source(page), match["path"])


def _resolved(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _source(page: File) -> str:
    """The page's file in the repository."""
    return next((path for path, place in PAGES.items() if place == page.src_uri), f"docs/{page.src_uri}")


def _place(path: str) -> str:
    """The place in the site of a file in the repository."""
    return (PAGES | _REPLACED).get(path) or path.removeprefix("docs/")
