"""One number and its terms in Markdown: what was read, each product, the sum, what was made of it.

Many terms are folded: the first ones are shown, and the others with their count and what they add
up to. explain.json has all of them.
"""

import math

import numpy as np

from layerscope.explain.values import Terms, Value, unit_in_last_place
from layerscope.report.document.escape import escaped
from layerscope.report.explain.fields import field_tables
from layerscope.report.explain.numbers import factor, full, short, ulps_text

MOST_SHOWN = 36  # terms written out in a line
FIRST_SHOWN = 8  # of more than that


def value_markdown(value: Value) -> str:
    """Everything about one number."""
    parts = [f"**{code(value.name)}** {_made_of(value)}", *field_tables(value), _equation(value)]
    return "\n\n".join(part for part in [*parts, _result(value), value.note] if part)


def code(name: str) -> str:
    """As it stands in explain.json; names of values hold no backtick."""
    return f"`{name}`"


def _made_of(value: Value) -> str:
    if not value.num_terms:
        return "has no terms: nothing reaches it."
    plural = "" if value.num_terms == 1 else "s"
    count = f"{value.num_terms:,} term{plural}"
    padding = sum(int(g.is_padding.sum()) for g in value.groups if g.is_padding is not None)
    noted = f", {padding:,} of them on padding" if padding else ""
    what = "is the largest of" if value.reduction == "max" else "is the sum of"
    return f"{what} {count}{noted}:"


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
    numbers = [float(np.broadcast_to(f.values, group.num_terms)[number]) for f in group.factors]
    if bare and len(numbers) == 1:
        return short(numbers[0])
    if len(numbers) == 1:
        return factor(numbers[0])
    return f"({' × '.join(short(n) for n in numbers)})"


def _result(value: Value) -> str:
    """Computed beside actual."""
    if value.actual is None:
        return ""
    assert value.ulps is not None
    dtype = escaped(str(value.dtype).removeprefix("torch."))
    source = "autograd's" if value.name.startswith("dL/") else "the network's own"
    unit = unit_in_last_place(value.actual, value.dtype)
    return (
        f"{full(value.computed)} in float64; {source}, in {dtype}: **{full(value.actual)}**; "
        f"difference {ulps_text(value.ulps)} ulp (1 ulp here: {unit:.3g})."
    )
