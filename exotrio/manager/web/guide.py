"""The guide: the documentation of this version, as HTML.

``docs`` has symbolic links to the pages in the repository; a wheel has the pages themselves there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from markupsafe import Markup

from exotrio.manager.rules.errors import NotFound

DOCS = Path(__file__).parent / "docs"
PAGES = {
    "readme": ("README", "README.md"),
    "guide": ("Guide", "examples/README.md"),
    "production": ("Production", "examples/deploy/README.md"),
    "proof": ("Proof", "tests/README.md"),
    "changes": ("Changes", "examples/CHANGES.md"),
}
"""Name of a page to its title, and to its path in the repository, from which its links are resolved."""
_NAMES = {path: name for name, (_, path) in PAGES.items()}


@cache
def guide_page(name: str) -> Markup:
    """Return a page as HTML, or refuse with 404. The first call for a page takes a tenth of a second."""
    # Here, since most state managers never show it.
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    if name not in PAGES:
        raise NotFound(f"there is no page {name!r}")

    def every(tokens: list[Token]) -> Iterator[Token]:
        for token in tokens:
            yield token
            yield from every(token.children or [])

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse((DOCS / f"{name}.md").read_text("utf-8"))
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", anchor(inline.content))
    is_linked = [True]
    for token in every(tokens):
        if token.type == "image":
            # The picture shows the dashboard, in which the reader already is.
            token.type, token.content, token.children = "text", "", None
        elif token.type == "link_open":
            target = _target(PAGES[name][1], str(token.attrGet("href")))
            is_linked.append(target is not None)
            if target is None:
                token.tag = "span"
                token.attrs.clear()
            else:
                token.attrSet("href", target)
        elif token.type == "link_close" and not is_linked.pop():
            token.tag = "span"
    content = markdown.renderer.render(tokens, markdown.options, {})
    # Screen readers would announce an empty one as the heading of a column.
    return Markup(content.replace("<th></th>", "<td></td>"))


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _target(page: str, link: str) -> str | None:
    """Return the target of a link here; None for a file that is only in the repository."""
    parts = urlsplit(link)
    if parts.scheme or not parts.path:
        return link
    name = _NAMES.get(posixpath.normpath(posixpath.join(posixpath.dirname(page), parts.path)))
    if name is None:
        return None
    return f"/guide/{name}#{parts.fragment}" if parts.fragment else f"/guide/{name}"
