"""The files of an explanation that a person reads: Markdown, the same as HTML, and the drawing."""

import base64
from functools import partial
from pathlib import Path
from typing import BinaryIO

from layerscope.base.files import write_atomically
from layerscope.explain.explanation import Explanation

DRAWING, PICTURE = "explain.svg", "explain.png"


def write_document(directory: Path, explanation: Explanation) -> tuple[Path, ...]:
    """explain.md, explain.html and explain.svg, each atomically; returns what was written.

    Of a photo also explain.png, which is inside of the page as the drawing is.
    """
    from layerscope.report.document.page import html_page
    from layerscope.report.explain.markdown import explanation_markdown
    from layerscope.report.explain.overview import (
        overview_drawing,
        overview_style,
        standalone_drawing,
    )

    drawing = overview_drawing(
        explanation.costs, explanation.specs.layers, explanation.network_name
    )
    markdown = explanation_markdown(explanation, DRAWING, PICTURE)
    title = f"{explanation.network_name}: the arithmetic of every layer"
    drawings = {DRAWING: drawing}
    if explanation.picture is not None:
        drawings[PICTURE] = _inlined(explanation.picture)
    texts = {
        "explain.md": markdown,
        "explain.html": html_page(markdown, title, drawings, overview_style()),
        DRAWING: standalone_drawing(drawing),
    }
    files = {name: text.encode() for name, text in texts.items()}
    if explanation.picture is not None:
        files[PICTURE] = explanation.picture
    for name, content in files.items():
        write_atomically(directory / name, partial(_put, content))
    return tuple(directory / name for name in files)


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _inlined(png: bytes) -> str:
    source = base64.b64encode(png).decode()
    return f'<img class="photo" alt="The input" src="data:image/png;base64,{source}">'
