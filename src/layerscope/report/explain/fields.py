"""What a window reads, channel by channel: the receptive field beside the filter."""

import math

import numpy as np

from layerscope.explain.values import Factor, Floats, Terms, Value
from layerscope.report.document.tables import pipes
from layerscope.report.explain.numbers import full

MOST_CHANNELS = 4  # whose field is shown cell by cell
MOST_ROWS = 8  # of a table with one row per channel
LARGEST = 121  # cells of a window that is still shown


def field_tables(value: Value) -> tuple[str, ...]:
    """Of the first group of terms that reads a map; nothing where none does."""
    for group in value.groups:
        read = _window_factor(value, group)
        if read is not None:
            return tuple(_channels(group, read))
    return ()


def _window_factor(value: Value, group: Terms) -> Factor | None:
    """The input of a forward window: one image, at least two columns or rows."""
    if not value.name.startswith("y[") or group.num_terms < 2:
        return None
    for part in group.factors:
        if part.symbol == "x" and part.places is not None and part.places.shape[1] == 4:
            return part
    return None


def _channels(group: Terms, read: Factor) -> list[str]:
    assert read.places is not None
    places = read.places
    weight = next((f for f in group.factors if f.symbol == "w" and f.places is not None), None)
    channels = list(dict.fromkeys(places[:, 1].tolist()))
    window = int((places[:, 1] == channels[0]).sum())
    if window > LARGEST:
        return []
    if window == 1:
        return [_one_cell(group, read, weight, channels)] if weight is not None else []
    parts = [_channel(group, read, weight, c) for c in channels[:MOST_CHANNELS]]
    if len(channels) > MOST_CHANNELS:
        parts.append(_other_channels(group, places[:, 1], channels[MOST_CHANNELS:]))
    return parts


def _channel(group: Terms, read: Factor, weight: Factor | None, channel: int) -> str:
    """One table: the field, and with a filter also the filter and the products."""
    assert read.places is not None
    mask = read.places[:, 1] == channel
    heights, widths = read.places[mask, 2], read.places[mask, 3]
    rows, columns = np.unique(heights), np.unique(widths)
    padding = np.zeros(mask.sum(), dtype=bool)
    if group.is_padding is not None:
        padding = group.is_padding[mask]
    panels = {"x": (np.broadcast_to(read.values, group.num_terms)[mask], padding)}
    if weight is not None:
        none = np.zeros(len(padding), dtype=bool)
        panels["w"] = (np.broadcast_to(weight.values, group.num_terms)[mask], none)
        panels["x·w"] = (group.products[mask], none)
    titles = [("row", False)] + [(f"{name}, col {c}", True) for name in panels for c in columns]
    order = {(h, w): n for n, (h, w) in enumerate(zip(heights, widths, strict=True))}
    lines = [
        [
            f"{row}",
            *(
                "pad" if hidden[order[row, c]] else full(float(values[order[row, c]]))
                for values, hidden in panels.values()
                for c in columns
            ),
        ]
        for row in rows
    ]
    what = "receptive field x, filter w and their products" if weight is not None else "window of x"
    total = f" The products add up to {full(float(group.products[mask].sum()))}." * bool(weight)
    return f"Input channel {channel}: {what}.{total}\n\n{pipes(titles, lines)}"


def _one_cell(group: Terms, read: Factor, weight: Factor, channels: list[int]) -> str:
    """A row per channel, of a filter that sees one pixel."""
    columns = [np.broadcast_to(part, group.num_terms) for part in (read.values, weight.values)]
    rows = [
        [str(channel), *(full(float(c[n])) for c in (*columns, group.products))]
        for n, channel in enumerate(channels[:MOST_ROWS])
    ]
    titles = ("input channel", "x", "w", "x·w")
    table = pipes([(title, True) for title in titles], rows)
    hidden = group.products[MOST_ROWS:]
    if not len(hidden):
        return table
    rest = f"{len(hidden):,} more channels, whose products add up to {full(math.fsum(hidden))}."
    return f"{table}\n\n… {rest}"


def _other_channels(group: Terms, of_term: Floats, channels: list[int]) -> str:
    """Each with the sum of its products."""
    rows = [[str(c), full(float(group.products[of_term == c].sum()))] for c in channels]
    table = pipes([("input channel", True), ("sum of its products x·w", True)], rows)
    title = f"{len(channels):,} more input channels, each with the sum of its products"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"
