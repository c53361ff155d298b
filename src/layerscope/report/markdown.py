"""A document in Markdown, as GitHub reads it: tables, formulas, folded parts."""

import re
from collections.abc import Iterable, Iterator, Sequence

from layerscope.report.document import (
    Beside,
    Block,
    Break,
    Bullets,
    Cell,
    Code,
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
    Span,
    Strong,
    Struck,
    Table,
    Text,
    cell_text,
    joined,
    listed,
    spans_of,
)

_LINE = "<br>"


def to_markdown(document: Document) -> str:
    """Return the whole text."""
    return "\n\n".join(_written(document.blocks)) + "\n"


def _written(blocks: Sequence[Block]) -> list[str]:
    return [text for block in blocks if (text := "\n\n".join(_block(block, blocks)))]


def _block(block: Block, document: Sequence[Block]) -> Iterator[str]:
    match block:
        case Heading(level, text):
            yield f"{'#' * level} {inline(text)}"
        case Paragraph(text, role):
            yield _paragraph(inline(text, f"{_LINE}\n"), role)
        case Bullets(items):
            yield _list(items)
        case Facts(pairs):
            yield _list(joined((f"{name}: ", text)) for name, text in pairs)
        case Formula(latex):
            yield f"$$\n{latex}\n$$"
        case Figure(alt, _, file):
            shown = f"![{inline(alt)}]({file})" if file else f"{inline(alt)}: drawn on the page."
            yield shown
        case Table():
            yield from _table(block)
        case Beside(inside):
            yield from _written(inside)
        case Folded(page_only=False):
            yield from _folded(block)
        case Contents(title):
            links = listed(document, block)
            yield f"## {inline(title)}"
            yield "\n".join(
                f"{'  ' * (heading.level - 2)}- [{inline(heading.text)}](#{slug})"
                for heading, slug in links
            )
        case _:
            pass


def _paragraph(text: str, role: str) -> str:
    if role == "note":
        return f"> {text}"
    return f"**{text}**" if role in ("good", "bad") else text


def _list(items: Iterable[Text]) -> str:
    return "\n".join(f"- {inline(item)}" for item in items)


def _folded(block: Folded) -> Iterator[str]:
    inside = _written(block.blocks)
    if block.level:
        yield from (f"{'#' * block.level} {inline(block.title)}", *inside)
    else:
        opening = "<details open>" if block.is_open else "<details>"
        yield f"{opening}<summary>{_tags_escaped(block.title)}</summary>"
        yield from (*inside, "</details>")


def _table(table: Table) -> Iterator[str]:
    titles = [inline(column.title) for column in table.columns]
    rules = ["---:" if column.is_number else ":---" for column in table.columns]
    rows = [_cells(table, row) for row in table.rows]
    for number in table.flagged:
        rows[number] = [f"**{cell}**" for cell in rows[number]]
    if table.total is not None:
        rows.append([f"**{cell}**" for cell in _cells(table, table.total)])
    if table.title:
        yield f"**{inline(table.title)}**"
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows))
    if table.note:
        yield inline(table.note)


def _cells(table: Table, row: Sequence[Cell]) -> list[str]:
    cells = zip(row, table.columns, strict=True)
    return [inline(cell_text(cell, column)) for cell, column in cells]


def inline(text: Text, line: str = _LINE) -> str:
    """Return a text within a paragraph or a cell; what is plain holds no markup afterwards.

    Args:
        line: what ends a line.
    """
    return "".join(_span(span, line) for span in spans_of(text)).strip(" ")


def _span(span: Span, line: str) -> str:
    match span:
        case str():
            return _escaped(span)
        case Code(text):
            return _code(text)
        case Math(latex):
            return f"${latex}$"
        case Link(text):
            return f"[{_escaped(text)}]({span.address})"
        case Strong(text):
            return f"**{inline(text, line)}**"
        case Struck(text):
            return f"~~{inline(text, line)}~~"
        case Break():
            return line


def _code(text: str) -> str:
    """Return a name between as many backticks as it does not hold itself."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{text}{space}{fence}"


def _escaped(text: str) -> str:
    """Names come from outside: nothing in them is markup, and no cell ends early."""
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", _tags_escaped(text))
    # An underscore inside of a word is none of Markdown's.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def _tags_escaped(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
