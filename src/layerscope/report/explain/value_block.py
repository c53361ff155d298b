"""One number and its terms in Markdown: what was read, each product, the sum, what was made of it.

Many terms are folded: the first ones are shown, and the others with their count and what they add
up to. explain.json has all of them.
"""

import math

import numpy as np

from layerscope.explain.values import Factor, Terms, Value, unit_in_last_place
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes
from layerscope.report.explain.fields import field_tables
from layerscope.report.explain.numbers import full, short, ulps_text

MOST_SHOWN = 36  # terms written out in a line
FIRST_SHOWN = 8  # of more than that


def value_markdown(value: Value, source: str = "the network's own") -> str:
    """Everything about one number.

    Args:
        source: whose `actual` is; of a gradient it is autograd's.
    """
    parts = [
        f"**{code(value.name)}** {_made_of(value)}",
        *field_tables(value),
        _equation(value),
        _result(value, source),
        value.note,
        *(_indices(group) for group in value.groups if value.name.startswith("dL/")),
    ]
    return "\n\n".join(part for part in parts if part)


def code(name: str) -> str:
    """As it stands in explain.json; names of values hold no backtick."""
    return f"`{name}`"


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
    """`x · w`, as the terms of a group are made."""
    symbols = r" \cdot ".join(part.symbol for part in group.factors)
    return f"${symbols}$"


def _equation(value: Value) -> str:
    """The terms with their numbers, and what they come to."""
    if not value.num_terms:
        return ""
    written = [_terms(group, value.reduction == "max") for group in value.groups]
    if value.reduction == "max":
        return f"max({', '.join(written)}) = **{full(value.computed)}**"
    return f"{' + '.join(written)} = **{full(value.computed)}**"


def _terms(group: Terms, is_max: bool) -> str:
    shown = group.num_terms if group.num_terms <= MOST_SHOWN else FIRST_SHOWN
    texts = [_term(group, number, bare=is_max) for number in range(shown)]
    hidden = group.products[shown:]
    joint = ", " if is_max else " + "
    if not len(hidden):
        return joint.join(texts)
    if is_max:
        rest = f"… {len(hidden):,} more, the largest {short(float(hidden.max()))}"
    else:
        rest = f"(… {len(hidden):,} more terms that add up to {full(math.fsum(hidden))})"
    return joint.join([*texts, rest])


def _term(group: Terms, number: int, bare: bool) -> str:
    texts = [_factor(group, part, number) for part in group.factors]
    if len(texts) > 1:
        return f"({' × '.join(texts)})"
    return f"({texts[0]})" if texts[0].startswith("-") and not bare else texts[0]


def _factor(group: Terms, part: Factor, number: int) -> str:
    if part.symbol == "x" and group.is_padding is not None and group.is_padding[number]:
        return "pad"
    return short(float(np.broadcast_to(part.values, group.num_terms)[number]))


def _result(value: Value, source: str) -> str:
    """Computed beside actual."""
    if value.actual is None:
        return ""
    assert value.ulps is not None
    dtype = escaped(str(value.dtype).removeprefix("torch."))
    source = "autograd's" if value.name.startswith("dL/") else source
    unit = unit_in_last_place(value.actual, value.dtype)
    return (
        f"{full(value.computed)} in float64; {source}, in {dtype}: **{full(value.actual)}**; "
        f"difference {ulps_text(value.ulps)} ulp (1 ulp here: {unit:.3g})."
    )


def _indices(group: Terms) -> str:
    """Where each factor of each term stands, folded away."""
    placed = [part for part in group.factors if part.places is not None]
    if group.num_terms < 2 or not placed:
        return ""
    shown = group.num_terms if group.num_terms <= MOST_SHOWN else FIRST_SHOWN
    titles = [(f"${part.symbol}$ at", False) for part in placed]
    titles += [(f"${part.symbol}$", True) for part in group.factors]
    rows = [
        [
            *(str(part.places[term].tolist()) for part in placed if part.places is not None),
            *(_factor(group, part, term) for part in group.factors),
            short(float(group.products[term])),
        ]
        for term in range(shown)
    ]
    hidden = group.num_terms - shown
    more = f"\n\n… {hidden:,} more in explain.json." if hidden else ""
    table = pipes([*titles, ("product", True)], rows)
    return f"<details><summary>Where these terms stand</summary>\n\n{table}{more}\n\n</details>"
