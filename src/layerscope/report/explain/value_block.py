"""One number and its terms in Markdown: what was read, each product, the sum, what was made of it.

Many terms are folded: the first ones are shown, and the others with their count and what they add
up to. explain.json has all of them.
"""

from layerscope.explain.values import Terms, Value, unit_in_last_place
from layerscope.report.document.escape import escaped
from layerscope.report.explain.fields import field_tables
from layerscope.report.explain.numbers import full, short, ulps_text
from layerscope.report.explain.terms import common_origins, equation, places_table


def value_markdown(value: Value, source: str = "the network's own", remark: str = "") -> str:
    """Everything about one number.

    Args:
        source: whose `actual` is; of a gradient it is autograd's.
        remark: what is to be said of it beside its own note.
    """
    parts = [
        f"**{code(value.name)}** {_made_of(value)}",
        *field_tables(value),
        common_origins(value),
        equation(value),
        _result(value, source),
        value.note,
        remark,
        *(places_table(value, group) for group in value.groups if value.name.startswith("dL/")),
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


def _result(value: Value, source: str) -> str:
    """Computed beside actual."""
    if value.actual is None:
        return ""
    dtype = escaped(str(value.dtype).removeprefix("torch."))
    source = "autograd's" if value.name.startswith("dL/") else source
    both = f"{full(value.computed)} in float64; {source}, in {dtype}: **{full(value.actual)}**"
    if value.ulps is None:
        return f"{both}, which is beyond what {dtype} holds."
    if is_noise(value):
        return (
            f"{both}. The terms cancel: what is left is the rounding of terms that add up to "
            f"{short(value.magnitude)} in absolute value, and an ulp of it means nothing."
        )
    unit = unit_in_last_place(value.actual, value.dtype)
    return f"{both}; difference {ulps_text(value.ulps)} ulp (1 ulp here: {unit:.3g})."


def is_noise(value: Value) -> bool:
    """Whether the terms cancel, so that computed and actual have no digits in common."""
    return value.cancels and value.ulps is not None and value.ulps > 4
