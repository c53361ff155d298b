"""Markdown as GitHub reads it, as far as our documents use it: tables, formulas, folded parts."""

from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

_SEEN = ("text", "text_special", "code_inline")


def make_parser() -> MarkdownIt:
    """A new one, to which rules may be added."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return parser.use(dollarmath_plugin, allow_space=False, allow_digits=False)


def inline_text(markup: str) -> str:
    """What a reader sees of one line of Markdown."""
    (token,) = _parser().parseInline(markup)
    return visible_text(token)


def visible_text(inline: Token) -> str:
    """Of an inline token."""
    return "".join(child.content for child in inline.children or () if child.type in _SEEN)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return make_parser()
