"""A document as one HTML page that needs nothing else and fetches nothing."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources

from layerscope.report.document import (
    Beside,
    Block,
    Break,
    Bullets,
    Cell,
    Code,
    Column,
    Contents,
    Document,
    Facts,
    Figure,
    Folded,
    Formula,
    Heading,
    Link,
    Math,
    Paragraph,
    Shown,
    Space,
    Span,
    Strong,
    Struck,
    Table,
    Text,
    anchors,
    cell_text,
    cell_value,
    listed,
    plain,
    spans_of,
)
from layerscope.report.latex import mathml

_LONG_CELL = 48  # characters of a sentence that is broken into lines
# A product, or a number and its unit, is not torn apart at a line's end.
_TOGETHER = re.compile(
    r"(?<=[\dd]) (?=× [-\dp])|(?<=[\dd] ×) (?=[-\dp])"
    r"|(?<=\d) (?=(?:(?:[KMGT]i)?B|[mµn]?s)\b|%)"
)
_CLASSES = {"good": "verdict holds", "bad": "verdict broken", "note": "note", "quiet": "quiet"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src '{style_hash}'; {script_policy}img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}</main>
{script}</body>
</html>
"""
_NOTEBOOK_STYLE = (
    ".layerscope{font-variant-numeric:tabular-nums}"
    ".layerscope .verdict{font-weight:600}"
    ".layerscope .row{display:flex;flex-wrap:wrap;gap:0 2rem}"
    ".layerscope dt{font-weight:600;float:left;clear:left;margin-right:.5em}"
    ".layerscope dd{margin:0 0 .2em}"
    ".layerscope caption{text-align:left;font-weight:600}"
    ".layerscope td{padding:.1em .8em .1em 0}"
    ".layerscope td.number{text-align:right}"
)


def to_page(document: Document, style: str = "") -> str:
    """Return the page. Its policy allows its own style and script, and nothing from outside.

    Args:
        style: CSS of the drawings.
    """
    style = resource("page.css") + style
    sorts = any(isinstance(block, Table) and block.details for block in document.blocks)
    script = resource("page.js") if sorts else ""
    return _PAGE.format(
        style_hash=_hash(style),
        script_policy=f"script-src '{_hash(script)}'; " if sorts else "",
        title=escape(document.title),
        style=style,
        body="".join(_blocks(document.blocks)),
        script=f"<script>{script}</script>\n" if sorts else "",
    )


def fragment(blocks: Sequence[Block]) -> str:
    """Return blocks with a style of their own, to stand in a notebook."""
    body = "".join(_blocks(blocks))
    return f'<div class="layerscope"><style>{_NOTEBOOK_STYLE}</style>{body}</div>'


def resource(name: str) -> str:
    """Return a file of the folder `page`."""
    return (resources.files("layerscope.report") / "page" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return the sum by which a Content-Security-Policy knows the page's own style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    headings = [b.title if isinstance(b, Contents) else plain(b.text)
                for b in blocks if isinstance(b, Heading | Contents)]  # fmt: skip
    slugs = iter(anchors(headings))
    for block in blocks:
        match block:
            case Heading(level, text):
                yield f'<h{level} id="{escape(next(slugs))}">{inline(text)}</h{level}>\n'
            case Contents(title):
                yield f'<h2 id="{escape(next(slugs))}">{inline(title)}</h2>\n'
                yield _nested([(h.level, _link(h, slug)) for h, slug in listed(blocks, block)], 2)
            case _:
                yield _block(block)


def _block(block: Block) -> str:
    match block:
        case Paragraph(text, role):
            return f"<p{_class(_CLASSES.get(role, ''))}>{inline(text)}</p>\n"
        case Bullets(items):
            listed_items = "".join(f"<li>{inline(item)}</li>\n" for item in items)
            return f"<ul>\n{listed_items}</ul>\n"
        case Facts(pairs, tiles):
            facts = "".join(
                f"<div><dt>{inline(name)}</dt><dd>{inline(text)}</dd></div>\n"
                for name, text in pairs
            )
            return f'<dl class="{"tiles" if tiles else "facts"}">\n{facts}</dl>\n'
        case Formula(latex):
            return f'<div class="scroll formula">{mathml(latex, True)}</div>\n'
        case Figure():
            return _figure(block)
        case Table():
            return _layer_table(block) if block.details else _table(block)
        case Beside(inside):
            return f'<div class="row">\n{"".join(map(_block, inside))}</div>\n'
        case Folded(title, inside, _, is_open):
            opening = "<details open>" if is_open else "<details>"
            body = "".join(_blocks(inside))
            return f"{opening}<summary>{inline(title)}</summary>\n{body}</details>\n"
        case Heading() | Contents() | Space():
            return ""


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _link(heading: Heading, slug: str) -> str:
    return f'<a href="#{escape(slug)}">{inline(heading.text)}</a>'


def _nested(entries: Sequence[tuple[int, str]], level: int) -> str:
    """Return a list of entries; those of a deeper level are lists in it."""
    items: list[str] = []
    place = 0
    while place < len(entries):
        end = place + 1
        while end < len(entries) and entries[end][0] > level:
            end += 1
        inside = _nested(entries[place + 1 : end], level + 1)
        items.append(f"<li>{entries[place][1]}{inside}</li>\n")
        place = end
    return f"<ul>\n{''.join(items)}</ul>\n" if items else ""


def _figure(figure: Figure) -> str:
    if isinstance(figure.image, bytes):
        source = base64.b64encode(figure.image).decode()
        alt = escape(figure.alt)
        return f'<p><img class="photo" alt="{alt}" src="data:image/png;base64,{source}"></p>\n'
    if figure.file:
        return f"<p>{figure.image}</p>\n"
    return f'<div class="scroll tall" tabindex="0">{figure.image}</div>\n'


# Tables ---------------------------------------------------------------------------------------


def _table(table: Table) -> str:
    parts = [f"<caption>{inline(table.title)}</caption>\n"] if table.title else []
    titles = "".join(_title(column) for column in table.columns)
    parts.append(f"<thead>\n<tr>{titles}</tr>\n</thead>\n<tbody>\n")
    for number, row in enumerate(table.rows):
        flag = _class("broken" if number in table.flagged else "")
        parts.append(f"<tr{flag}>{_row(table, row)}</tr>\n")
    parts.append("</tbody>\n")
    if table.total is not None:
        parts.append(f"<tfoot>\n<tr>{_row(table, table.total)}</tr>\n</tfoot>\n")
    return _scrolled(f"<table{_class('cards' if table.cards else '')}>", parts, table)


def _scrolled(opening: str, parts: Iterable[str], table: Table) -> str:
    note = f'<p class="quiet">{inline(table.note)}</p>\n' if table.note else ""
    return f'<div class="scroll" tabindex="0">{opening}\n{"".join(parts)}</table></div>\n{note}'


def _title(column: Column) -> str:
    return f'<th scope="col"{_class("number" * column.is_number)}>{inline(column.title)}</th>'


def _row(table: Table, row: Sequence[Cell]) -> str:
    cells = zip(row, table.columns, strict=True)
    return "".join(_cell(cell, column, table.cards) for cell, column in cells)


def _cell(cell: Cell, column: Column, is_card: bool) -> str:
    text = cell_text(cell, column)
    name = "number" if column.is_number else "prose" * (len(plain(text)) > _LONG_CELL)
    label = f' data-label="{escape(plain(column.title))}"' if is_card else ""
    return f"<td{_class(name)}{label}{_hint(cell, column)}>{inline(text)}</td>"


def _hint(cell: Cell, column: Column) -> str:
    """Return the exact figure, where a cell has three digits of it."""
    exact = cell_text(cell, column, brief=False) if column.brief else ""
    exact = cell.hint if isinstance(cell, Shown) else plain(exact)
    return f' title="{escape(exact)}"' if exact not in ("", cell_text(cell, column)) else ""


def _layer_table(table: Table) -> str:
    """Return a table that sorts, in which each row's first cell opens what stands behind it."""
    first, *others = table.columns
    by_value = [
        column.is_number or any(cell_value(row[place]) is not None for row in table.rows)
        for place, column in enumerate(table.columns)
    ]
    heads = [
        '<th scope="col" aria-sort="ascending"><button type="button">#</button></th>',
        f'<th scope="col" aria-sort="none" class="key">{_button(first.title)}</th>',
        *(
            f'<th scope="col" aria-sort="none"{_class("number" * column.is_number)}>'
            f"{_button(column.title)}</th>"
            for column in others
        ),
    ]
    parts = [f"<thead><tr>{''.join(heads)}</tr></thead>\n"]
    for number, (row, details) in enumerate(zip(table.rows, table.details, strict=True), 1):
        name = cell_text(row[0], first)
        target = f"{table.key}-{number}"
        opener = f'<button type="button" aria-expanded="true" aria-controls="{target}">'
        cells = "".join(
            _sorted_cell(cell, column, is_value)
            for cell, column, is_value in zip(row[1:], others, by_value[1:], strict=True)
        )
        parts.append(
            f'<tbody>\n<tr><td class="number" data-sort="{number}">{number}</td>'
            f'<th scope="row" class="key" data-text="{escape(plain(name))}">'
            f"{opener}{inline(name)}</button></th>{cells}</tr>\n"
            f'<tr class="details" id="{target}"><td colspan="{len(table.columns) + 1}">'
            f'<div class="inside">\n{"".join(_blocks(details))}</div></td></tr>\n</tbody>\n'
        )
    if table.total is not None:
        parts.append(f"<tfoot><tr><td></td>{_row(table, table.total)}</tr></tfoot>\n")
    hint = (
        '<p class="quiet">A column’s head sorts by it; a row’s name opens what stands behind it. '
        "A pointer that rests on a short figure is shown the exact one.</p>\n"
        '<p><button type="button" id="expand" aria-pressed="false">Open all</button></p>\n'
    )
    return hint + _scrolled(f'<table id="{table.key}-table" class="sortable">', parts, table)


def _button(title: Text) -> str:
    return f'<button type="button">{inline(title)}</button>'


def _sorted_cell(cell: Cell, column: Column, by_value: bool) -> str:
    text, value = cell_text(cell, column), cell_value(cell)
    key = f' data-text="{escape(plain(text))}"'
    if by_value:
        key = f' data-sort="{"" if value is None else repr(value)}"'
    name = _class("number" * column.is_number)
    return f"<td{name}{key}{_hint(cell, column)}>{inline(text)}</td>"


# Text -----------------------------------------------------------------------------------------


def inline(text: Text) -> str:
    """Return the markup of a text; what is plain in it is escaped."""
    return "".join(map(_span, spans_of(text)))


def _span(span: Span) -> str:
    match span:
        case str():
            return escape(_TOGETHER.sub("\u00a0", span), quote=False)
        case Code(text):
            return f"<code>{escape(text, quote=False)}</code>"
        case Math(latex):
            return mathml(latex, False)
        case Link(text):
            return f'<a href="{escape(span.address)}">{escape(text)}</a>'
        case Strong(text):
            return f"<strong>{inline(text)}</strong>"
        case Struck(text):
            return f"<s>{inline(text)}</s>"
        case Break():
            return "<br>"
