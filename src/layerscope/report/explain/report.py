"""An explanation to look at and to keep."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from layerscope.base.files import write_atomically
from layerscope.base.formatting import UNKNOWN
from layerscope.dry_run import Shape
from layerscope.explain.explanation import Explanation, LayerExplanation
from layerscope.explain.values import Value
from layerscope.report.document import (
    Block,
    Cell,
    Column,
    Paragraph,
    Space,
    Table,
)
from layerscope.report.explain.content import (
    DRAWING,
    PICTURE,
    class_of,
    explanation_document,
    loss_words,
)
from layerscope.report.explain.overview import (
    overview_drawing,
    overview_style,
    standalone_drawing,
)
from layerscope.report.explain.records import save_explain_json
from layerscope.report.explain.values import is_noise
from layerscope.report.html import to_page
from layerscope.report.markdown import to_markdown
from layerscope.report.terminal import Screen, TextScreen


class ExplanationReport:
    """What `layerscope.explain` returns: printed, it is the table of values."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation

    @property
    def values(self) -> tuple[Value, ...]:
        """The values of all layers, then the loss's."""
        return self.explanation.values

    def value(self, layer: str, name: str) -> Value:
        """Return the value of a layer by its name, `y[0,0,1,1]`.

        Raises:
            KeyError: there is none.
        """
        for value in self.values:
            if (value.layer, value.name) == (layer, name):
                return value
        raise KeyError(f"{layer} {name}")

    def __str__(self) -> str:
        screen = TextScreen()
        show_explanation(screen, self.explanation)
        return screen.text

    def __repr__(self) -> str:
        settings = self.explanation.settings
        return f"<ExplanationReport of {settings.network}, input {settings.input_shape}>"

    def show(self, screen: Screen) -> None:
        """Print the same on a screen, with colour where it has any."""
        show_explanation(screen, self.explanation)

    def save(self, directory: str | Path) -> tuple[Path, ...]:
        """Write explain.json, .md, .html and .svg, each atomically; the directory is made.

        Returns what was written.
        """
        folder = Path(directory)
        path = folder / "explain.json"
        save_explain_json(path, self.explanation)
        return (path, *write_document(folder, self.explanation))


def write_document(directory: Path, explanation: Explanation) -> tuple[Path, ...]:
    """Write explain.md, explain.html and explain.svg, each atomically; return what was written.

    Of a photo also explain.png, which is inside of the page as the drawing is.
    """
    document = explanation_document(explanation)
    drawing = overview_drawing(
        explanation.costs, explanation.specs.layers, explanation.network_name
    )
    texts = {
        "explain.md": to_markdown(document),
        "explain.html": to_page(document, overview_style()),
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


# On a terminal --------------------------------------------------------------------------------

# Where terms cancel, a difference is large in ulp of what is left and small beside the terms.
_COLUMNS = (
    Column("", "value"),
    Column("", "computed", "number"),
    Column("", "actual", "number"),
    Column("", "off, ulp", "number", rank=1),
    Column("", "off / Σ|terms|", "number", rank=3),
    Column("", "terms", "count", rank=2),
)


def show_explanation(screen: Screen, explanation: Explanation) -> None:
    """Show a table per layer, then the loss and the updates."""
    settings = explanation.settings
    screen.panel(
        f"{settings.network}, explained",
        [
            ("input", f"{_sizes(settings.input_shape)}, {settings.dtype}"),
            *settings.origin,
            ("loss", f"{loss_words(explanation)}, mean of the batch"),
        ],
    )
    screen.show(*_summary(explanation))


def _summary(explanation: Explanation) -> Iterator[Block]:
    for layer in explanation.layers:
        if layer.is_chosen:
            yield from _layer(explanation, layer)
    rows = (_row(_with_class(explanation, value), value) for value in explanation.loss.values)
    yield Table(_COLUMNS, tuple(rows), title=f"loss: {explanation.loss.kind}")
    if explanation.refused_types:
        yield Paragraph(f"not explained: {', '.join(explanation.refused_types)}")
    yield Paragraph(verdict(explanation))


def _layer(explanation: Explanation, layer: LayerExplanation) -> Iterator[Block]:
    spec = layer.spec
    inputs = " and ".join(_sizes(shape) for shape in spec.input_shapes) or "nothing"
    title = f"{layer.key}: {spec.type}, {inputs} → {_sizes(spec.output_shape)}"
    if layer.refused is not None:
        yield Paragraph(title)
        yield Paragraph(f"not explained: {layer.refused}")
        yield Space()
        return
    updated = [
        (f"{update.optimizer}: {value.name}", value)
        for update in explanation.updates_of(layer.key)
        for value in update.values[-1:]
    ]
    named = [*((value.name, value) for value in layer.values), *updated]
    yield Table(_COLUMNS, tuple(_row(name, value) for name, value in named), title=title)
    if layer.note:
        yield Paragraph(layer.note)
        yield Space()


def _row(name: str, value: Value) -> tuple[Cell, ...]:
    ulps = UNKNOWN if value.ulps is None else f"{value.ulps:.3g}"
    share = _share_of_terms(value)
    return (
        name,
        _number(value.computed),
        _number(value.actual),
        "cancels" if is_noise(value) else ulps,
        None if share is None else f"{share:.2g}",
        value.num_terms,
    )


def _number(value: float | None) -> str | None:
    """Return as many digits as tell float32 values apart."""
    return None if value is None else f"{value:.9g}"


def _share_of_terms(value: Value) -> float | None:
    if value.actual is None:
        return None
    difference = abs(value.computed - value.actual)
    return difference / value.magnitude if difference and value.magnitude else difference


def _sizes(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "one number"


def verdict(explanation: Explanation) -> str:
    """Return whether computed and actual agree everywhere, and what is meant by that."""
    updated = [value for update in explanation.updates for value in update.values]
    shown = [v for v in (*explanation.values, *updated) if v.actual is not None]
    exponents = _exponents(explanation.values)
    off = [value for value in shown if not _agrees(value, exponents)]
    criterion = (
        "they differ by at most 16 + √n roundings (of the network's dtype) of the sum of the "
        "absolute values of their n terms; behind a softmax by as many more as its inputs differ, "
        "since exponents are rounded too"
    )
    noise = sum(is_noise(value) for value in shown)
    cancels = (
        f" Of {noise:,} of them (`cancels`) the terms cancel, so that only rounding is left: off "
        "in ulp means nothing there."
    ) * bool(noise)
    if not off:
        return (
            f"All {len(shown):,} values that the network shows agree within rounding: {criterion}."
            f"{cancels}"
        )
    names = ", ".join(f"{value.layer} {value.name}" for value in off[:8])
    more = f" and {len(off) - 8:,} more" * (len(off) > 8)
    return (
        f"{len(off):,} of {len(shown):,} values that the network shows do not agree within "
        f"rounding: {names}{more}. The others do: {criterion}.{cancels}"
    )


def _exponents(values: Sequence[Value]) -> dict[str, float]:
    """Return how far the inputs of each softmax lie apart, by layer; the loss is one too."""
    return {
        value.layer: float(np.ptp(value.products))
        for value in values
        if value.name.startswith("max[")
    }


def _agrees(value: Value, exponents: Mapping[str, float]) -> bool | None:
    """Compare: -ln p near 0 is the difference of two numbers of which the larger is 1 or more."""
    least = 1.0 if value.name == "L" and value.layer in exponents else 0.0
    return value.agrees(exponents.get(value.layer, 0.0), least)


def _with_class(explanation: Explanation, value: Value) -> str:
    """Return `p[0,3] cat`, where the classes' names are known."""
    names, found = explanation.settings.class_names, class_of(value)
    return value.name if found is None or found >= len(names) else f"{value.name} {names[found]}"
