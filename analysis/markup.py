"""Markdown to HTML as the report needs it: tables with captions in regions that scroll and take the
focus, headers with a scope, and run_ids that link to MLflow where its address is known. HTML in the
text is shown as text.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markupsafe import Markup

LONG = 24
"""Characters from which on a cell is kept wide enough to be read: tables scroll sideways."""


class Writer:
    """Turns Markdown into HTML; `links` maps what stands in a code span to where it leads."""

    def __init__(self, links: Mapping[str, str]) -> None:
        self._links = links
        self._caption = ""
        self._numbers = itertools.count(1)
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        # A rule is bound to the renderer, which is then its first argument.
        rule = self._markdown.add_render_rule
        rule("table_open", lambda *_: self._open())
        rule("table_close", lambda *_: "</table></div>\n")
        rule("th_open", lambda *_: '<th scope="col">')
        rule("td_open", lambda _, tokens, i, *more: _cell(tokens[i + 1].content))
        rule("code_inline", lambda _, tokens, i, *more: str(self.code(tokens[i].content)))

    def html(self, text: str, caption: str) -> Markup:
        """The text as HTML; its tables are captioned `caption`, numbered where there are more."""
        self._caption, self._numbers = caption, itertools.count(1)
        # A number and its interval stay on one line.
        return Markup(
            self._markdown.render(text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"))
        )

    def code(self, text: str) -> Markup:
        """A run_id, or whatever else stands in code, linked where it leads somewhere."""
        shown = f"<code>{escape(text)}</code>"
        target = self._links.get(text)
        return Markup(f'<a href="{escape(target)}">{shown}</a>' if target else shown)

    def _open(self) -> str:
        number = next(self._numbers)
        caption = escape(self._caption + (f" ({number})" if number > 1 else ""))
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}, table">'
            f'<table><caption class="hidden">{caption}</caption>\n'
        )


def _cell(content: str) -> str:
    return '<td class="long">' if len(content) >= LONG else "<td>"
