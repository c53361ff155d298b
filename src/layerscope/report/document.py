"""A document as a report builds it: what is said, before any format.

A report is a function from data to blocks. Writers turn blocks into what is read: `terminal`,
`markdown` and `html`. Text from outside, a layer's name say, is a plain string here; each writer
escapes it for its own format, so that nothing in a name is ever markup.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from layerscope.base.formatting import (
    UNKNOWN,
    at_least,
    bytes_exact,
    bytes_short,
    count_exact,
    count_short,
    number,
    percent,
    rate,
    seconds_short,
    shapes_tuple,
    share,
    signed,
)

# Text -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """A name as a program knows it."""

    text: str


@dataclass(frozen=True)
class Math:
    """A formula within a sentence, in LaTeX."""

    latex: str


@dataclass(frozen=True)
class Strong:
    """Stressed text."""

    text: "Text"


@dataclass(frozen=True)
class Struck:
    """Text that is wrong, as it was printed."""

    text: "Text"


@dataclass(frozen=True)
class Break:
    """The end of a line within a paragraph or a cell."""


@dataclass(frozen=True)
class Link:
    """The way to a file or folder beside the document.

    Args:
        path: relative to the document, as the system names it.
    """

    text: str
    path: Path

    @property
    def address(self) -> str:
        """The path as a relative address: nothing in it is a scheme, a query or an anchor."""
        return "./" + quote(os.fsencode(self.path.as_posix()))


Span = str | Code | Math | Strong | Struck | Break | Link
Text = str | tuple[Span, ...]

_MARKUP = re.compile(
    r"(?P<fence>`+) ?(?P<code>.+?) ?(?P=fence)(?!`)|\$(?P<math>[^$]+)\$"
    r"|\*\*(?P<strong>.+?)\*\*|~~(?P<struck>.+?)~~"
)


def markup(text: str) -> Text:
    """Read a sentence of our own, in which `code`, $math$, **strong** and ~~struck~~ are marked.

    Never of text from outside, in which these signs stand for themselves.
    """
    spans: list[Span] = []
    end = 0
    for found in _MARKUP.finditer(text):
        spans.append(text[end : found.start()])
        end = found.end()
        match found.lastgroup, found[found.lastgroup or 0]:
            case "code", inner:
                spans.append(Code(inner))
            case "math", inner:
                spans.append(Math(inner))
            case "strong", inner:
                spans.append(Strong(markup(inner)))
            case _, inner:
                spans.append(Struck(markup(inner)))
    spans.append(text[end:])
    return joined(spans)


def spans_of(text: Text) -> tuple[Span, ...]:
    """Return the parts of a text; one part where it is plain."""
    return (text,) if isinstance(text, str) else text


def joined(texts: Iterable[Text | Span], separator: Text = "") -> Text:
    """Return one text of several, with a separator between them."""
    spans: list[Span] = []
    for place, text in enumerate(texts):
        for part in (separator, text) if place else (text,):
            spans += spans_of(part) if isinstance(part, str | tuple) else (part,)
    spans = [span for span in spans if span != ""]
    if not spans:
        return ""
    return spans[0] if len(spans) == 1 and isinstance(spans[0], str) else tuple(spans)


def plain(text: Text) -> str:
    """Return the letters of a text, without its formulas."""
    return "".join(_plain_span(span) for span in spans_of(text))


def _plain_span(span: Span) -> str:
    match span:
        case str():
            return span
        case Code(text) | Link(text):
            return text
        case Math():
            return ""
        case Break():
            return "\n"
        case Strong(text) | Struck(text):
            return plain(text)


# Cells ----------------------------------------------------------------------------------------

Shape = tuple[int, ...]
Unit = Literal[
    "text", "shapes", "count", "bytes", "flops", "share", "percent", "seconds", "signed", "number",
    "byte_rate", "flop_rate",
]  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table, with one name in files and another on paper.

    Args:
        brief: three digits of its figures; a page has the exact ones behind them.
        rank: where a screen is too narrow, columns of the highest rank are the first to go into
            a table of their own below.
    """

    key: str
    title: Text
    unit: Unit = "text"
    brief: bool = False
    rank: int = 0

    @property
    def is_number(self) -> bool:
        """Right-aligned, and sorted by value."""
        return self.unit not in ("text", "shapes")


@dataclass(frozen=True)
class Sum:
    """A sum of what is known; with `lower_bound`, something is not."""

    value: int
    lower_bound: bool = False


@dataclass(frozen=True)
class Blank:
    """A cell in which nothing belongs, which is not the same as unknown."""


@dataclass(frozen=True)
class Shown:
    """Words that stand for a value, to sort by."""

    text: str
    value: float
    hint: str = ""


# A text, a value in the column's unit, shapes; None is unknown.
Cell = Text | int | float | Sequence[Shape] | Sum | Blank | Shown | None
BLANK = Blank()
NOTHING = "–"
MAX_EXACT = 1_000_000  # counts below it are short as they are


def cell_text(cell: Cell, column: Column, brief: bool | None = None) -> Text:
    """Return what a cell says: the only place where figures of a table become text.

    Args:
        brief: three digits instead of all; None: as the column has it.
    """
    short = column.brief if brief is None else brief
    match cell:
        case Blank():
            return NOTHING
        case None:
            return UNKNOWN
        case Shown(text):
            return text
        case Sum(value, lower_bound):
            return at_least(_figure(value, column.unit, short), lower_bound)
        case str():
            return cell
        case int() | float():
            return _figure(cell, column.unit, short)
        case _ if column.unit == "shapes":
            return shapes_tuple(cell) or NOTHING  # pyright: ignore[reportArgumentType]
        case _:
            return cell  # pyright: ignore[reportReturnType]


def _figure(value: float, unit: Unit, short: bool) -> str:
    match unit:
        case "bytes":
            return bytes_short(int(value)) if short else bytes_exact(int(value))
        case "share":
            return share(value)
        case "percent":
            return percent(value)
        case "seconds":
            return seconds_short(value)
        case "signed":
            return signed(value)
        case "number":
            return number(value)
        case "byte_rate":
            return rate(value, "B")
        case "flop_rate":
            return rate(value, "FLOP")
        case "flops" if short:
            return count_short(value)
        case _:
            return (
                count_short(value) if short and abs(value) >= MAX_EXACT else count_exact(int(value))
            )


def cell_value(cell: Cell) -> float | None:
    """Return the number that a cell stands for; None where it stands for none."""
    match cell:
        case Sum(value) | Shown(_, value):
            return value
        case int() | float():
            return cell
        case _:
            return None


# Blocks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heading:
    """Level 1 is the document's own."""

    level: int
    text: Text


@dataclass(frozen=True)
class Paragraph:
    """Sentences.

    Args:
        role: a verdict that is good or bad, a note that stands out, or quiet words beside a table.
    """

    text: Text
    role: Literal["", "good", "bad", "note", "quiet"] = ""


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Facts:
    """Names and what is known of each.

    Args:
        tiles: short ones, which a page shows large, side by side.
    """

    pairs: tuple[tuple[str, Text], ...]
    tiles: bool = False


@dataclass(frozen=True)
class Formula:
    """A formula on a line of its own, in LaTeX."""

    latex: str


@dataclass(frozen=True)
class Figure:
    """A drawing of ours, or a picture.

    Args:
        alt: what it shows, for those who do not see it.
        image: SVG, or a PNG's bytes.
        file: its name beside the document; empty where it is in the page only.
    """

    alt: str
    image: str | bytes
    file: str = ""


@dataclass(frozen=True)
class Table:
    """Rows as long as `columns`.

    Args:
        total: of the columns; its first cell says what it includes.
        key: its name in files.
        details: what stands behind each row; a page opens it, and sorts such a table.
        flagged: numbers of rows that are wrong.
        cards: on a narrow page each row is a card of its own.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] | None = None
    title: str = ""
    note: Text = ""
    key: str = ""
    details: tuple[tuple["Block", ...], ...] = ()
    flagged: frozenset[int] = field(default_factory=frozenset)
    cards: bool = False


@dataclass(frozen=True)
class Beside:
    """Small tables or drawings that stand next to each other where there is room."""

    blocks: tuple[Table | Figure, ...]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when they are opened.

    Args:
        level: of the heading that a Markdown document has in its place; 0: it folds there too.
        page_only: too long for a text that cannot hide it.
    """

    title: str
    blocks: tuple["Block", ...]
    level: int = 0
    is_open: bool = False
    page_only: bool = False


@dataclass(frozen=True)
class Contents:
    """Links to the headings of levels 2 to `deepest`."""

    title: str
    deepest: int


@dataclass(frozen=True)
class Space:
    """An empty line on a terminal."""


Block = (
    Heading | Paragraph | Bullets | Facts | Formula | Figure | Table | Beside | Folded | Contents
    | Space
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """Args:
    title: of a window.
    """

    title: str
    blocks: tuple[Block, ...]


def columns_in(unit: Unit, *titles: str) -> tuple[Column, ...]:
    """Return columns of one unit that have no name in files."""
    return tuple(Column("", title, unit) for title in titles)


def listed(blocks: Sequence[Block], contents: Contents) -> Iterator[tuple[Heading, str]]:
    """Yield the headings that the contents name, with their anchors."""
    headings = [Heading(2, contents.title) if isinstance(b, Contents) else b for b in blocks]
    headings = [block for block in headings if isinstance(block, Heading)]
    for heading, slug in zip(headings, anchors(plain(h.text) for h in headings), strict=True):
        if 2 <= heading.level <= contents.deepest and heading.text != contents.title:
            yield heading, slug


def anchors(texts: Iterable[str]) -> tuple[str, ...]:
    """Return GitHub's anchors of headings.

    Letters, digits, `-` and `_` stay, in lower case; a repeated one is numbered.
    """
    taken: dict[str, int] = {}
    slugs = []
    for text in texts:
        bare = re.sub(r"[^\w\- ]", "", " ".join(text.split()).lower()).replace(" ", "-")
        slug = bare
        while slug in taken:
            taken[bare] += 1
            slug = f"{bare}-{taken[bare]}"
        taken[slug] = 0
        slugs.append(slug)
    return tuple(slugs)
