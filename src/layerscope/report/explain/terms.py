"""The terms of one value, written out as a sum, and as a table of where they stand."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from layerscope.explain.values import Factor, Origin, Terms, Value
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes
from layerscope.report.explain.numbers import digits_of, full, short

MOST_SHOWN = 100  # terms of one form that are all shown
FIRST_SHOWN = 8  # of more than that
_MOST_TWICE = 12  # terms that are written with what they are made of, and with their numbers
_SHORTEST_RUN = 2  # terms that are 0 and stand as one


def equation(value: Value) -> str:
    """The terms with their numbers, and what they come to; empty without terms."""
    if not value.num_terms:
        return ""
    digits, is_max = digits_of(value), value.reduction == "max"
    total = f"**{full(value.computed)}**"
    lines = [
        _joined([_terms(group, is_max, digits, origins) for group in value.groups], is_max)
        for origins in _ways(value)
    ]
    return "<br>\n= ".join([*lines[:-1], f"{lines[-1]} = {total}"])


def _ways(value: Value) -> tuple[bool, ...]:
    """How the terms are written: with what their factors are made of, and with their numbers.

    Both is too much of many terms, and of a single number it is the result twice.
    """
    if not any(_is_written(group, part) for group in value.groups for part in group.factors):
        return (False,)
    is_single = value.num_terms == 1 and len(value.groups[0].factors) == 1
    return (True,) if is_single or value.num_terms > _MOST_TWICE else (True, False)


def common_origins(value: Value) -> str:
    """How the factors come about that many terms have in common."""
    digits = digits_of(value)
    found: dict[str, None] = {}
    for group in value.groups:
        for part in group.factors:
            if part.origin is not None and not _is_written(group, part):
                text = _origin(part.origin, 0, digits)
                number = short(float(np.reshape(part.values, -1)[0]), digits)
                found[f"${part.symbol}$ = {text} = {number}"] = None
    return f"With {', '.join(found)}." if found else ""


def _is_written(group: Terms, part: Factor) -> bool:
    """Whether a factor's origin stands in each term, not apart for all of them."""
    return part.origin is not None and (group.num_terms == 1 or not _is_constant(part))


def _is_constant(part: Factor) -> bool:
    columns = [part.values, *(part.origin.arguments if part.origin else ())]
    return all((column == np.reshape(column, -1)[0]).all() for column in columns)


def _joined(texts: Sequence[str], is_max: bool) -> str:
    return f"max({', '.join(texts)})" if is_max else " + ".join(texts)


def _terms(group: Terms, is_max: bool, digits: int, origins: bool) -> str:
    joint = ", " if is_max else " + "
    shown = shown_terms(group)
    if is_max or len(shown) < group.num_terms:
        texts = [_term(group, number, digits, is_max, origins) for number in shown]
    else:
        texts = list(_runs(group, digits, origins))
    return joint.join([*texts, *_rest(group, shown, is_max, digits)])


def shown_terms(group: Terms) -> list[int]:
    """All terms; of many the first that are not 0."""
    if group.num_terms <= MOST_SHOWN:
        return list(range(group.num_terms))
    return np.flatnonzero(group.products != 0)[:FIRST_SHOWN].tolist()


def _runs(group: Terms, digits: int, origins: bool) -> Iterator[str]:
    """Every term; those that are 0 and follow each other as one."""
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
    """Whether a term is 0, and whether it is so since it reads padding."""
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
    texts = [factor_text(group, part, number, digits, origins) for part in group.factors]
    if len(texts) > 1:
        return f"({' × '.join(texts)})"
    return f"({texts[0]})" if texts[0].startswith("-") and not bare else texts[0]


def factor_text(group: Terms, part: Factor, number: int, digits: int, origins: bool = False) -> str:
    """A factor of one term.

    Args:
        origins: written as what it is made of, where it is.
    """
    if part.symbol == "x" and group.is_padding is not None and group.is_padding[number]:
        return "pad"
    if origins and part.origin is not None and _is_written(group, part):
        return _origin(part.origin, number, digits)
    return short(float(np.broadcast_to(part.values, group.num_terms)[number]), digits)


def _origin(origin: Origin, number: int, digits: int) -> str:
    """With the numbers of one term; a negative one behind a sign is in brackets."""
    first, *others = origin.text.split("{}")
    text = first
    for column, following in zip(origin.arguments, others, strict=True):
        value = float(column if np.ndim(column) == 0 else column[number])
        printed = short(value, digits)
        behind_sign = text.rstrip()[-1:] in tuple("+-−·×/")
        text += f"({printed})" if value < 0 and behind_sign else printed
        text += following
    return escaped(text)


def places_table(value: Value, group: Terms) -> str:
    """Where each factor of each term stands, folded away; empty where there is nothing to tell."""
    placed = [part for part in group.factors if part.places is not None]
    if group.num_terms < 2 or not placed:
        return ""
    digits, shown = digits_of(value), shown_terms(group)
    titles = [(f"${part.symbol}$ at", False) for part in placed]
    titles += [(f"${part.symbol}$", True) for part in group.factors]
    rows = [
        [
            *(str(part.places[term].tolist()) for part in placed if part.places is not None),
            *(factor_text(group, part, term, digits) for part in group.factors),
            short(float(group.products[term]), digits),
        ]
        for term in shown
    ]
    hidden = group.num_terms - len(shown)
    more = f"\n\n… {hidden:,} more in explain.json." if hidden else ""
    table = pipes([*titles, ("product", True)], rows) if rows else "All of them are 0."
    return f"<details><summary>Where these terms stand</summary>\n\n{table}{more}\n\n</details>"
