"""One number and its terms: what was read, each product, the sum, what was made of it.

Many terms are folded: the first ones are shown, and the others with their count and what they add
up to. explain.json has all of them.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from layerscope.explain.values import (
    Factor,
    Floats,
    Indices,
    Origin,
    Terms,
    Value,
    unit_in_last_place,
)
from layerscope.report.document import (
    Beside,
    Block,
    Break,
    Code,
    Column,
    Folded,
    Math,
    Paragraph,
    Span,
    Strong,
    Table,
    Text,
    columns_in,
    joined,
    markup,
)

MOST_SHOWN = 100  # terms of one form that are all shown
FIRST_SHOWN = 8  # of more than that
_MOST_TWICE = 12  # terms that are written with what they are made of, and with their numbers
_SHORTEST_RUN = 2  # terms that are 0 and stand as one
_MOST_CHANNELS = 4  # whose field is shown cell by cell
_MOST_ROWS = 8  # of a table with one row per channel
_LARGEST_WINDOW = 121  # cells of a window that is still shown
DIGITS = 6  # that count, at least; after the point too
_MOST_DIGITS = 10


def value_blocks(
    value: Value, source: str = "the network's own", remark: str = ""
) -> Iterator[Block]:
    """Yield everything about one number.

    Args:
        source: whose `actual` is; of a gradient it is autograd's.
        remark: what is to be said of it beside its own note.
    """
    yield Paragraph(joined((Strong((Code(value.name),)), " ", markup(_made_of(value)))))
    yield from _fields(value)
    for text in (common_origins(value), equation(value), _result(value, source)):
        if text:
            yield Paragraph(text)
    if value.note:
        yield Paragraph(markup(value.note))
    if remark:
        yield Paragraph(remark)
    if value.name.startswith("dL/"):
        for group in value.groups:
            yield from _places(value, group)


def _made_of(value: Value) -> str:
    if not value.num_terms:
        return "has no terms: nothing reaches it."
    forms = " and ".join(dict.fromkeys(_form(group) for group in value.groups))
    if value.num_terms == 1:
        return f"is {forms}:"
    padding = sum(int(g.is_padding.sum()) for g in value.groups if g.is_padding is not None)
    noted = f", {padding:,} of them on padding" if padding else ""
    what = "is the largest of" if value.reduction == "max" else "is the sum of"
    return f"{what} {value.num_terms:,} terms {forms}{noted}:"


def _form(group: Terms) -> str:
    """Return `x · w`, as the terms of a group are made."""
    symbols = r" \cdot ".join(part.symbol for part in group.factors)
    return f"${symbols}$"


def _result(value: Value, source: str) -> Text:
    """Put computed beside actual."""
    if value.actual is None:
        return ""
    dtype = str(value.dtype).removeprefix("torch.")
    source = "autograd's" if value.name.startswith("dL/") else source
    both = f"{full(value.computed)} in float64; {source}, in {dtype}: **{full(value.actual)}**"
    if value.ulps is None:
        return markup(f"{both}, which is beyond what {dtype} holds.")
    if is_noise(value):
        return markup(
            f"{both}. The terms cancel: what is left is the rounding of terms that add up to "
            f"{short(value.magnitude)} in absolute value, and an ulp of it means nothing."
        )
    unit = unit_in_last_place(value.actual, value.dtype)
    return markup(f"{both}; difference {ulps_text(value.ulps)} ulp (1 ulp here: {unit:.3g}).")


def is_noise(value: Value) -> bool:
    """Tell whether the terms cancel, so that computed and actual have no digits in common."""
    return value.cancels and value.ulps is not None and value.ulps > 4


# The sum --------------------------------------------------------------------------------------


def equation(value: Value) -> Text:
    """Return the terms with their numbers, and what they come to; empty without terms."""
    if not value.num_terms:
        return ""
    digits, is_max = digits_of(value), value.reduction == "max"
    lines = [
        _joined([_terms(group, is_max, digits, origins) for group in value.groups], is_max)
        for origins in _ways(value)
    ]
    spans: list[Span] = [lines[0]]
    for line in lines[1:]:
        spans += [Break(), f"= {line}"]
    return (*spans, " = ", Strong(full(value.computed)))


def _ways(value: Value) -> tuple[bool, ...]:
    """Return how the terms are written: with what their factors are made of, with their numbers.

    Both is too much of many terms, and of a single number it is the result twice.
    """
    if not any(_is_written(group, part) for group in value.groups for part in group.factors):
        return (False,)
    is_single = value.num_terms == 1 and len(value.groups[0].factors) == 1
    return (True,) if is_single or value.num_terms > _MOST_TWICE else (True, False)


def common_origins(value: Value) -> Text:
    """Return how the factors come about that many terms have in common."""
    digits = digits_of(value)
    found: dict[tuple[str, str], None] = {}
    for group in value.groups:
        for part in group.factors:
            if part.origin is not None and not _is_written(group, part):
                text = _origin(part.origin, 0, digits)
                number = short(float(np.reshape(part.values, -1)[0]), digits)
                found[part.symbol, f" = {text} = {number}"] = None
    if not found:
        return ""
    return joined(("With ", joined(((Math(s), text) for s, text in found), ", "), "."))


def _is_written(group: Terms, part: Factor) -> bool:
    """Tell whether a factor's origin stands in each term, not apart for all of them."""
    return part.origin is not None and (group.num_terms == 1 or not _is_constant(part))


def _is_constant(part: Factor) -> bool:
    columns = [part.values, *(part.origin.arguments if part.origin else ())]
    return all((column == np.reshape(column, -1)[0]).all() for column in columns)


def _joined(texts: Sequence[str], is_max: bool) -> str:
    return f"max({', '.join(texts)})" if is_max else " + ".join(texts)


def _terms(group: Terms, is_max: bool, digits: int, origins: bool) -> str:
    joint = ", " if is_max else " + "
    shown = _shown_terms(group)
    if is_max or len(shown) < group.num_terms:
        texts = [_term(group, number, digits, is_max, origins) for number in shown]
    else:
        texts = list(_runs(group, digits, origins))
    return joint.join([*texts, *_rest(group, shown, is_max, digits)])


def _shown_terms(group: Terms) -> list[int]:
    """Return all terms; of many the first that are not 0."""
    if group.num_terms <= MOST_SHOWN:
        return list(range(group.num_terms))
    return np.flatnonzero(group.products != 0)[:FIRST_SHOWN].tolist()


def _runs(group: Terms, digits: int, origins: bool) -> Iterator[str]:
    """Yield every term; those that are 0 and follow each other as one."""
    numbers = range(group.num_terms)
    for (is_zero, is_padding), run in groupby(numbers, lambda n: _is_nothing(group, n)):
        members = list(run)
        if not is_zero or len(members) < _SHORTEST_RUN:
            yield from (_term(group, number, digits, False, origins) for number in members)
        elif is_padding:
            yield f"({len(members):,} terms on padding: 0)"
        else:
            yield f"({len(members):,} terms that are 0)"


def _is_nothing(group: Terms, number: int) -> tuple[bool, bool]:
    """Tell whether a term is 0, and whether it is so since it reads padding."""
    padding = group.is_padding is not None and bool(group.is_padding[number])
    return bool(group.products[number] == 0), padding


def _rest(group: Terms, shown: Sequence[int], is_max: bool, digits: int) -> list[str]:
    hidden = np.delete(group.products, shown)
    if not len(hidden):
        return []
    if is_max:
        return [f"… {len(hidden):,} more, the largest {short(float(hidden.max()), digits)}"]
    zeros = int((hidden == 0).sum())
    if zeros == len(hidden):
        return [f"(… {zeros:,} more terms that are 0)"]
    noted = f", {zeros:,} of them 0," if zeros else ""
    total = full(math.fsum(hidden), digits)
    return [f"(… {len(hidden):,} more terms{noted} that add up to {total})"]


def _term(group: Terms, number: int, digits: int, bare: bool, origins: bool) -> str:
    texts = [_factor_text(group, part, number, digits, origins) for part in group.factors]
    if len(texts) > 1:
        return f"({' × '.join(texts)})"
    return f"({texts[0]})" if texts[0].startswith("-") and not bare else texts[0]


def _factor_text(
    group: Terms, part: Factor, number: int, digits: int, origins: bool = False
) -> str:
    """Return a factor of one term.

    Args:
        origins: written as what it is made of, where it is.
    """
    if part.symbol == "x" and group.is_padding is not None and group.is_padding[number]:
        return "pad"
    if origins and part.origin is not None and _is_written(group, part):
        return _origin(part.origin, number, digits)
    return short(float(np.broadcast_to(part.values, group.num_terms)[number]), digits)


def _origin(origin: Origin, number: int, digits: int) -> str:
    """Put in the numbers of one term; a negative one behind a sign is in brackets."""
    first, *others = origin.text.split("{}")
    text = first
    for column, following in zip(origin.arguments, others, strict=True):
        value = float(column if np.ndim(column) == 0 else column[number])
        printed = short(value, digits)
        behind_sign = text.rstrip()[-1:] in tuple("+-−·×/")
        text += f"({printed})" if value < 0 and behind_sign else printed
        text += following
    return text


def _places(value: Value, group: Terms) -> Iterator[Block]:
    """Yield where each factor of each term stands, folded away."""
    placed = [part for part in group.factors if part.places is not None]
    if group.num_terms < 2 or not placed:
        return
    digits, shown = digits_of(value), _shown_terms(group)
    columns = [Column("", (Math(part.symbol), " at")) for part in placed]
    columns += [Column("", (Math(part.symbol),), "number") for part in group.factors]
    rows = [
        (
            *(str(part.places[term].tolist()) for part in placed if part.places is not None),
            *(_factor_text(group, part, term, digits) for part in group.factors),
            short(float(group.products[term]), digits),
        )
        for term in shown
    ]
    hidden = group.num_terms - len(shown)
    more = f"… {hidden:,} more in explain.json." if hidden else ""
    title = "Where these terms stand"
    if rows:
        columns += columns_in("number", "product")
        yield Folded(title, (Table(tuple(columns), tuple(rows), note=more),))
    else:
        yield Folded(title, (Paragraph(f"All of them are 0. {more}".strip()),))


# The receptive field --------------------------------------------------------------------------


def _fields(value: Value) -> Iterator[Block]:
    """Yield what a window reads, channel by channel: the receptive field beside the filter.

    Of the first group of terms that reads a map of 2 dimensions; nothing where none does.
    """
    if not value.name.startswith("y["):
        return
    for group in value.groups:
        read = _placed_factor(group, "x")
        if read is not None and read.places is not None and read.places.shape[1] == 4:
            weight = _placed_factor(group, "w")
            yield from _channels(group, read, read.places, weight, digits_of(value))
            return


def _placed_factor(group: Terms, symbol: str) -> Factor | None:
    return next((f for f in group.factors if f.symbol == symbol and f.places is not None), None)


def _channels(
    group: Terms, read: Factor, places: Indices, weight: Factor | None, digits: int
) -> Iterator[Block]:
    of_term = places[:, 1]
    channels = list(dict.fromkeys(of_term.tolist()))
    window = group.num_terms // len(channels)
    if group.num_terms < 2 or window > _LARGEST_WINDOW:
        return
    if window == 1:
        if weight is not None:
            yield _one_cell(group, read, weight, channels, digits)
        return
    for channel in channels[:_MOST_CHANNELS]:
        yield from _channel(group, (read, weight), of_term == channel, channel, digits)
    if len(channels) > _MOST_CHANNELS:
        yield _other_channels(group, of_term, channels[_MOST_CHANNELS:])


def _channel(
    group: Terms,
    factors: tuple[Factor, Factor | None],
    mask: NDArray[np.bool_],
    channel: int,
    digits: int,
) -> Iterator[Block]:
    """Yield the field; with a filter also the filter and the products, as grids of their own."""
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
    yield Paragraph(f"Input channel {channel}: {what}{total}.")
    yield Beside(tuple(grids)) if len(grids) > 1 else grids[0]


def _grid(name: str, places: Indices, texts: list[str]) -> Table:
    """Return cells by the last two of their indices; the corner says which the first ones are."""
    corner = name if name == "x·w" else name + grid_place(places[0, :-2].tolist())
    columns = [str(column) for column in dict.fromkeys(places[:, -1].tolist())]
    rows: dict[int, list[str]] = {}
    for row, text in zip(places[:, -2].tolist(), texts, strict=True):
        rows.setdefault(row, []).append(text)
    return Table(
        columns_in("number", corner, *columns),
        tuple((str(row), *cells) for row, cells in rows.items()),
    )


def grid_place(first: Sequence[int]) -> str:
    """Return `[0,1,·,·]`: the row and the column are told beside the grid."""
    return f"[{','.join([*map(str, first), '·', '·'])}]"


def _numbers(group: Terms, part: Factor) -> Floats:
    return np.broadcast_to(part.values, group.num_terms)


def _one_cell(
    group: Terms, read: Factor, weight: Factor, channels: list[int], digits: int
) -> Table:
    """Return a row per channel, of a filter that sees one pixel."""
    columns = (_numbers(group, read), _numbers(group, weight), group.products)
    rows = [
        (str(channel), *(short(float(column[number]), digits) for column in columns))
        for number, channel in enumerate(channels[:_MOST_ROWS])
    ]
    hidden = group.products[_MOST_ROWS:]
    total = full(math.fsum(hidden), digits)
    note = f"… {len(hidden):,} more channels, whose products add up to {total}."
    titles = columns_in("number", "input channel", "x", "w", "x·w")
    return Table(titles, tuple(rows), note=note if len(hidden) else "")


def _other_channels(group: Terms, of_term: Indices, channels: list[int]) -> Folded:
    """Return each with the sum of its products, or of what it reads."""
    rows = [(str(c), full(math.fsum(group.products[of_term == c]))) for c in channels]
    title = f"{len(channels):,} more input channels, each with the sum of its products"
    columns = columns_in("number", "input channel", "sum of its products")
    return Folded(title, (Table(columns, tuple(rows)),))


# Real numbers: so many digits that the printed sums can be checked -----------------------------


def full(value: float, digits: int = DIGITS) -> str:
    """Write six decimals or more, at least so many digits that count: `-0.0285714`."""
    value += 0.0  # -0.0 as 0
    if _is_far_from_one(value):
        return f"{value:.{max(digits, DIGITS) - 1}e}"
    return f"{value:.{_decimals(value, digits)}f}"


def short(value: float, digits: int = DIGITS) -> str:
    """Write the same without the zeros at the end: `0.2`; a 0 as `0`.

    A float32 number that fewer digits tell from its neighbours has these: `0.3`.
    """
    mantissa, mark, exponent = full(value, digits).partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    text = "0" if mantissa == "-0" else f"{mantissa}{mark}{exponent}"
    if digits > DIGITS and math.isfinite(value) and float(np.float32(value)) == value:
        if not mark:
            return min(text, np.format_float_positional(np.float32(value), trim="-"), key=len)
        fewer = np.format_float_scientific(np.float32(value), trim="-", exp_digits=2)
        return min(text, fewer, key=len)
    return text


def digits_of(value: Value) -> int:
    """Return so many digits of each factor that the printed terms give the printed sum."""
    size, magnitude = abs(value.computed), value.magnitude
    if not size or value.cancels or not math.isfinite(magnitude):
        return DIGITS + 1
    last = DIGITS - 1 - _exponent(size) if _is_far_from_one(size) else _decimals(size, DIGITS)
    return min(max(DIGITS, 1 + last + _exponent(magnitude)), _MOST_DIGITS)


def ulps_text(ulps: float) -> str:
    """Write two digits, which are enough."""
    if ulps == 0:
        return "0"
    return f"{ulps:.2g}" if ulps < 1000 else f"{ulps:.3g}"


def _decimals(value: float, digits: int) -> int:
    """Return the number of digits after the point."""
    if not value or not math.isfinite(value):
        return DIGITS
    return max(DIGITS, digits - 1 - _exponent(value))


def _exponent(value: float) -> int:
    """Return the power of ten at which the first digit stands."""
    return math.floor(math.log10(abs(value)))


def _is_far_from_one(value: float) -> bool:
    return value != 0 and not 1e-3 <= abs(value) < 1e6
