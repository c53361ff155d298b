"""What a window reads, channel by channel: the receptive field beside the filter."""

import math

import numpy as np
from numpy.typing import NDArray

from layerscope.explain.values import Factor, Floats, Indices, Terms, Value
from layerscope.report.document.tables import pipes
from layerscope.report.explain.numbers import full

MOST_CHANNELS = 4  # whose field is shown cell by cell
MOST_ROWS = 8  # of a table with one row per channel
LARGEST = 121  # cells of a window that is still shown


def field_tables(value: Value) -> tuple[str, ...]:
    """Of the first group of terms that reads a map of 2 dimensions; nothing where none does."""
    if not value.name.startswith("y["):
        return ()
    for group in value.groups:
        read = _factor(group, "x")
        if read is not None and read.places is not None and read.places.shape[1] == 4:
            return tuple(_channels(group, read, read.places, _factor(group, "w")))
    return ()


def _factor(group: Terms, symbol: str) -> Factor | None:
    return next((f for f in group.factors if f.symbol == symbol and f.places is not None), None)


def _channels(group: Terms, read: Factor, places: Indices, weight: Factor | None) -> list[str]:
    of_term = places[:, 1]
    channels = list(dict.fromkeys(of_term.tolist()))
    window = group.num_terms // len(channels)
    if group.num_terms < 2 or window > LARGEST:
        return []
    if window == 1:
        return [_one_cell(group, read, weight, channels)] if weight is not None else []
    parts = [
        _channel(group, (read, weight), of_term == channel, channel)
        for channel in channels[:MOST_CHANNELS]
    ]
    if len(channels) > MOST_CHANNELS:
        parts.append(_other_channels(group, of_term, channels[MOST_CHANNELS:]))
    return parts


def _channel(
    group: Terms, factors: tuple[Factor, Factor | None], mask: NDArray[np.bool_], channel: int
) -> str:
    """One table: the field, and with a filter also the filter and the products."""
    read, weight = factors
    assert read.places is not None
    rows, columns = read.places[mask, 2], read.places[mask, 3]
    texts = [full(number) for number in _numbers(group, read)[mask].tolist()]
    if group.is_padding is not None:
        padded = group.is_padding[mask]
        texts = ["pad" if hidden else text for hidden, text in zip(padded, texts, strict=True)]
    panels = [("x", columns, texts)]
    labels = {row: str(row) for row in rows.tolist()}
    title = "row of x"
    if weight is not None:
        assert weight.places is not None
        of_weight = weight.places[mask]
        labels = {x: f"{x} ({w})" for x, w in zip(rows, of_weight[:, -2], strict=True)}
        title = "row of x (of w)"
        weights, products = _numbers(group, weight)[mask], group.products[mask]
        panels.append(("w", of_weight[:, -1], [full(number) for number in weights.tolist()]))
        panels.append(("x·w", of_weight[:, -1], [full(number) for number in products.tolist()]))
    titles = [(title, False)]
    for name, of_panel, _ in panels:
        titles += [(f"{name}, col {column}", True) for column in dict.fromkeys(of_panel.tolist())]
    texts_of_row = [
        [cells[term] for _, _, cells in panels for term in np.flatnonzero(rows == row)]
        for row in labels
    ]
    texts_of_row = [
        [cells[term] for _, _, cells in panels for term in np.flatnonzero(rows == row)]
        for row in labels
    ]
    lines = [[label, *cells] for label, cells in zip(labels.values(), texts_of_row, strict=True)]
    what, total = "what the window reads", ""
    if weight is not None:
        what = "receptive field x, filter w and their products x·w"
        total = f"; these add up to {full(math.fsum(group.products[mask]))}"
    return f"Input channel {channel}: {what}{total}.\n\n{pipes(titles, lines)}"


def _numbers(group: Terms, part: Factor) -> Floats:
    return np.broadcast_to(part.values, group.num_terms)


def _one_cell(group: Terms, read: Factor, weight: Factor, channels: list[int]) -> str:
    """A row per channel, of a filter that sees one pixel."""
    columns = (_numbers(group, read), _numbers(group, weight), group.products)
    rows = [
        [str(channel), *(full(float(column[number])) for column in columns)]
        for number, channel in enumerate(channels[:MOST_ROWS])
    ]
    table = pipes([(title, True) for title in ("input channel", "x", "w", "x·w")], rows)
    hidden = group.products[MOST_ROWS:]
    if not len(hidden):
        return table
    rest = f"{len(hidden):,} more channels, whose products add up to {full(math.fsum(hidden))}."
    return f"{table}\n\n… {rest}"


def _other_channels(group: Terms, of_term: Indices, channels: list[int]) -> str:
    """Each with the sum of its products, or of what it reads."""
    rows = [[str(c), full(math.fsum(group.products[of_term == c]))] for c in channels]
    table = pipes([("input channel", True), ("sum of its products", True)], rows)
    title = f"{len(channels):,} more input channels, each with the sum of its products"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"
