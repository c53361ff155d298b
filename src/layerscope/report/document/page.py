"""A Markdown document as one HTML file that needs nothing else and fetches nothing."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from importlib import resources
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from layerscope.report.document.headings import anchors
from layerscope.report.document.mathematics import mathml
from layerscope.report.document.parser import make_parser, visible_text

# The only tags that a document may hold itself; everything else is shown as it is written.
_TAGS = re.compile(r"(?:</?details>|<details open>|<summary>[^<>]*</summary>|<br>|\s)*")
_LONG_CELL = 48  # characters of a sentence that is broken into lines
_TOGETHER = re.compile(
    r"(?<=[\dd]) (?=× [-\dp])|(?<=[\dd] ×) (?=[-\dp])|(?<=\d) (?=(?:[KMG]i)?B\b)"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src '{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def html_page(markdown: str, title: str, drawings: Mapping[str, str], style: str = "") -> str:
    """The page; formulas become MathML.

    Args:
        title: of the window; not yet escaped.
        drawings: SVG by the file name that an image of the document has.
        style: CSS of the drawings.
    """
    style = resource("document.css") + style
    parser = _renderer()
    tokens = parser.parse(markdown)
    _name_headings(tokens)
    _style_cells(tokens)
    tokens = _side_by_side(tokens)
    body = parser.renderer.render(tokens, parser.options, {"drawings": drawings})
    return _PAGE.format(style_hash=_hash(style), title=escape(title), style=style, body=body)


def resource(name: str) -> str:
    """A file of this package's html folder."""
    return (resources.files("layerscope.report.document") / "html" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """By which the page's Content-Security-Policy knows its own style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _name_headings(tokens: Sequence[Token]) -> None:
    """Anchors as GitHub makes them."""
    places = [place for place, token in enumerate(tokens) if token.type == "heading_open"]
    slugs = anchors(visible_text(tokens[place + 1]) for place in places)
    for place, slug in zip(places, slugs, strict=True):
        tokens[place].attrSet("id", slug)


def _style_cells(tokens: Sequence[Token]) -> None:
    """By class: the page's policy forbids styles of single elements."""
    for place, token in enumerate(tokens):
        if token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            if style == "text-align:right":
                token.attrSet("class", "number")
            elif len(visible_text(tokens[place + 1])) > _LONG_CELL:
                token.attrSet("class", "prose")


def _side_by_side(tokens: Sequence[Token]) -> list[Token]:
    """Tables that follow each other stand in a row, as far as there is room."""
    made: list[Token] = []
    start = 0  # of the tables that followed each other until now
    for place, token in enumerate(tokens):
        before = tokens[place - 1].type if place else ""
        if token.type == "table_open" and before != "table_close":
            start = len(made)
        made.append(token)
        after = tokens[place + 1].type if place + 1 < len(tokens) else ""
        is_last = token.type == "table_close" and after != "table_open"
        if is_last and sum(inner.type == "table_open" for inner in made[start:]) > 1:
            made.insert(start, _markup('<div class="row">\n'))
            made.append(_markup("</div>\n"))
    return made


def _markup(content: str) -> Token:
    """Of our own, which no document can hold."""
    return Token("own_markup", "", 0, content=content)


def _own_markup(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
    return tokens[place].content


@lru_cache(maxsize=1)
def _renderer() -> MarkdownIt:
    parser = make_parser()
    for name, rule in _RULES.items():
        parser.add_render_rule(name, rule)
    return parser


def _text(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
    """A product, or a number and its unit, is not torn apart at a line's end."""
    return escape(_TOGETHER.sub("\u00a0", tokens[place].content), quote=False)


def _inline_formula(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
    return mathml(tokens[place].content.strip(), False)


def _formula(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
    return f'<div class="scroll formula">{mathml(tokens[place].content.strip(), True)}</div>\n'


def _tags(_: Any, tokens: Sequence[Token], place: int, *__: Any) -> str:
    content = tokens[place].content
    return content if _TAGS.fullmatch(content) else escape(content)


def _image(_: Any, tokens: Sequence[Token], place: int, __: Any, env: dict[str, Any]) -> str:
    """Only drawings of our own: nothing is fetched."""
    token = tokens[place]
    drawing = env["drawings"].get(token.attrs.get("src"))
    return escape(token.content) if drawing is None else drawing


def _table_open(*_: Any) -> str:
    return '<div class="scroll" tabindex="0"><table>\n'


def _table_close(*_: Any) -> str:
    return "</table></div>\n"


_RULES = {
    "text": _text,
    "math_inline": _inline_formula,
    "math_inline_double": _formula,
    "math_block": _formula,
    "html_block": _tags,
    "html_inline": _tags,
    "image": _image,
    "own_markup": _own_markup,
    "table_open": _table_open,
    "table_close": _table_close,
}
