"""Headings, their anchors and the contents: the same in Markdown as GitHub shows it and in HTML."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layerscope.report.document.parser import inline_text


@dataclass(frozen=True)
class Heading:
    """Args:
    markup: as it stands in the Markdown.
    slug: what a link to it names, without `#`.
    """

    level: int
    markup: str
    slug: str


def headings(markdown: str) -> tuple[Heading, ...]:
    """All of a document, `#` headings only; a line in a fence is none."""
    found = []
    in_fence = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            in_fence = not in_fence
        match = re.fullmatch(r"(#{1,6}) (.+)", line)
        if match and not in_fence:
            found.append((len(match[1]), match[2].strip()))
    slugs = anchors(inline_text(markup) for _, markup in found)
    return tuple(
        Heading(level, markup, slug) for (level, markup), slug in zip(found, slugs, strict=True)
    )


def anchors(texts: Iterable[str]) -> tuple[str, ...]:
    """GitHub's: letters, digits, `-` and `_` stay, in lower case; a repeated one is numbered."""
    taken: dict[str, int] = {}
    slugs = []
    for text in texts:
        plain = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        slug = plain
        while slug in taken:
            taken[plain] += 1
            slug = f"{plain}-{taken[plain]}"
        taken[slug] = 0
        slugs.append(slug)
    return tuple(slugs)


def with_contents(parts: Sequence[str], title: str, after: int, deepest: int) -> str:
    """The document, with links to its headings as a section of its own.

    Args:
        parts: sections in Markdown, in order.
        title: of the contents.
        after: so many parts stand before the contents.
        deepest: the level of the lowest headings that are listed; the document's own is 1.
    """
    before, behind = parts[:after], parts[after:]
    heading = f"## {title}"
    skeleton = "\n\n".join([*before, heading, *behind])
    listed = [
        entry
        for entry in headings(skeleton)
        if 2 <= entry.level <= deepest and entry.markup != title
    ]
    lines = [f"{'  ' * (e.level - 2)}- [{e.markup}](#{e.slug})" for e in listed]
    return "\n\n".join([*before, heading, "\n".join(lines), *behind]) + "\n"
