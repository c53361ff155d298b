"""The files of an explanation that a person reads: Markdown, the same as HTML, and the drawing."""

from pathlib import Path

from layerscope.explain.explanation import Explanation
from layerscope.files import write_text

DRAWING = "explain.svg"


def write_document(directory: Path, explanation: Explanation) -> tuple[Path, ...]:
    """explain.md, explain.html and explain.svg, each atomically; returns what was written."""
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
    markdown = explanation_markdown(explanation, DRAWING)
    title = f"{explanation.network_name}: the arithmetic of every layer"
    texts = {
        "explain.md": markdown,
        "explain.html": html_page(markdown, title, {DRAWING: drawing}, overview_style()),
        DRAWING: standalone_drawing(drawing),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    return tuple(directory / name for name in texts)
