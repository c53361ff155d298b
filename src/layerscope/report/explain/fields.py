"""What a window reads, channel by channel: the receptive field beside the filter."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerscope.explain.values import Factor, Floats, Indices, Terms, Value
from layerscope.report.document.tables import pipes
from layerscope.report.explain.numbers import digits_of, full, short

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
            weight = _factor(group, "w")
            return tuple(_channels(group, read, read.places, weight, digits_of(value)))
    return ()


def _factor(group: Terms, symbol: str) -> Factor | None:
    return next((f for f in group.factors if f.symbol == symbol and f.places is not None), None)


def _channels(
    group: Terms, read: Factor, places: Indices, weight: Factor | None, digits: int
) -> list[str]:
    of_term = places[:, 1]
    channels = list(dict.fromkeys(of_term.tolist()))
    window = group.num_terms // len(channels)
    if group.num_terms < 2 or window > LARGEST:
        return []
    if window == 1:
        return [_one_cell(group, read, weight, channels, digits)] if weight is not None else []
    parts = [
        _channel(group, (read, weight), of_term == channel, channel, digits)
        for channel in channels[:MOST_CHANNELS]
    ]
    if len(channels) > MOST_CHANNELS:
        parts.append(_other_channels(group, of_term, channels[MOST_CHANNELS:]))
    return parts


def _channel(
    group: Terms,
    factors: tuple[Factor, Factor | None],
    mask: NDArray[np.bool_],
    channel: int,
    digits: int,
) -> str:
    """The field; with a filter also the filter and the products, each as a grid of its own."""
    read, weight = factors
    texts = [short(number, digits) for number in _numbers(group, read)[mask].tolist()]
    if group.is_padding is not None:
        padded = group.is_padding[mask]
        texts = ["pad" if hidden else text for hidden, text in zip(padded, texts, strict=True)]
    assert read.places is not None
    grids = [_grid("x", read.places[mask], texts)]
    what, total = "what the window reads", ""
    if weight is not None:
        assert weight.places is not None
        where, products = weight.places[mask], group.products[mask]
        numbers = [short(number, digits) for number in _numbers(group, weight)[mask].tolist()]
        grids.append(_grid("w", where, numbers))
        grids.append(_grid("x·w", where, [short(number, digits) for number in products.tolist()]))
        what = "receptive field x, filter w and their products x·w"
        total = f"; these add up to {full(math.fsum(products), digits)}"
    return f"Input channel {channel}: {what}{total}.\n\n" + "\n\n".join(grids)


def _grid(name: str, places: Indices, texts: list[str]) -> str:
    """Cells by the last two of their indices; the corner says which the first ones are."""
    corner = name if name == "x·w" else f"{name}{grid_place(places[0, :-2].tolist())}"
    columns = list(dict.fromkeys(places[:, -1].tolist()))
    rows: dict[int, list[str]] = {}
    for row, text in zip(places[:, -2].tolist(), texts, strict=True):
        rows.setdefault(row, []).append(text)
    titles = [(corner, True), *((str(column), True) for column in columns)]
    return pipes(titles, [[str(row), *cells] for row, cells in rows.items()])


def grid_place(first: Sequence[int]) -> str:
    """`\\[0,1,·,·\\]`: the row and the column are told beside the grid."""
    return rf"\[{','.join([*map(str, first), '·', '·'])}\]"


def _numbers(group: Terms, part: Factor) -> Floats:
    return np.broadcast_to(part.values, group.num_terms)


def _one_cell(group: Terms, read: Factor, weight: Factor, channels: list[int], digits: int) -> str:
    """A row per channel, of a filter that sees one pixel."""
    columns = (_numbers(group, read), _numbers(group, weight), group.products)
    rows = [
        [str(channel), *(short(float(column[number]), digits) for column in columns)]
        for number, channel in enumerate(channels[:MOST_ROWS])
    ]
    table = pipes([(title, True) for title in ("input channel", "x", "w", "x·w")], rows)
    hidden = group.products[MOST_ROWS:]
    if not len(hidden):
        return table
    total = full(math.fsum(hidden), digits)
    return f"{table}\n\n… {len(hidden):,} more channels, whose products add up to {total}."


def _other_channels(group: Terms, of_term: Indices, channels: list[int]) -> str:
    """Each with the sum of its products, or of what it reads."""
    rows = [[str(c), full(math.fsum(group.products[of_term == c]))] for c in channels]
    table = pipes([("input channel", True), ("sum of its products", True)], rows)
    title = f"{len(channels):,} more input channels, each with the sum of its products"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"
