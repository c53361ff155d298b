"""A layer as the page shows it: a row to sort by, and what stands behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.base.formatting import (
    bytes_exact,
    bytes_short,
    count_exact,
    count_short,
    seconds_short,
    shape_text,
    shapes_tuple,
    share,
)
from layerscope.operations import Formula
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.reconcile.rows import Row
from layerscope.report.profile.formulas import general_mathml, substituted_mathml
from layerscope.report.profile.lines import LayerLine, layer_lines, layer_seconds
from layerscope.report.profile.row_text import RowText, row_text
from layerscope.theory.table import LayerCost


@dataclass(frozen=True)
class CellView:
    """`sort` is empty where the value is unknown; `hint` is the exact figure."""

    text: str
    sort: str
    hint: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class FormulaView:
    """Quantities that one formula gives alike; the formulas are MathML."""

    quantities: str
    general: Any
    substituted: Any


@dataclass(frozen=True)
class LayerView:
    """A row of the table and its details."""

    key: str
    type: str
    cells: tuple[CellView, ...]
    facts: tuple[tuple[str, str], ...]
    formulas: tuple[FormulaView, ...]
    rows: tuple[RowText, ...]


def layer_columns(profile: Profile) -> tuple[tuple[str, bool], ...]:
    """Return the titles behind the layer's name, and whether they are numbers."""
    columns = [
        *(("type", False), ("output of one sample", True), ("parameters", True)),
        *(("output", True), ("saved", True), ("forward FLOPs", True), ("backward FLOPs", True)),
    ]
    if profile.times:
        columns += [("time", True), ("forward FLOP/s", True), ("of roofline", True)]
    return (*columns, ("reasons", True))


def layer_views(profile: Profile) -> tuple[LayerView, ...]:
    """Return the layers in execution order."""
    times = {timing.layer: timing for timing in profile.times or ()}
    lines = {line.name: line for line in layer_lines(profile)}
    rows: dict[str, list[Row]] = {}
    for row in profile.rows:
        rows.setdefault(row.layer, []).append(row)
    views = []
    for cost in profile.costs.layers:
        mine = rows.get(cost.layer, [])
        cells = [*_cost_cells(cost, lines[cost.layer])]
        if profile.times:
            cells += _time_cells(times.get(cost.layer))
        num_reasons = len({reason.code for row in mine for reason in row.reasons})
        views.append(
            LayerView(
                key=cost.layer,
                type=cost.type,
                cells=(*cells, CellView(str(num_reasons), str(num_reasons))),
                facts=_facts(cost, times.get(cost.layer)),
                formulas=_formulas(profile.costs.formulas.get(cost.layer, ())),
                rows=tuple(row_text(row) for row in mine),
            )
        )
    return tuple(views)


def _cost_cells(cost: LayerCost, line: LayerLine) -> tuple[CellView, ...]:
    shape = cost.output_shapes[0][1:] if cost.output_shapes else ()
    elements = str(cost.output_elements)
    return (
        CellView(cost.type, cost.type, is_number=False),
        CellView(shape_text(shape) or "–", elements, f"{cost.output_elements:,} elements"),
        _count(cost.num_parameters, exact=True),
        _bytes(cost.output_bytes),
        _bytes(line.saved_bytes),
        _count(cost.forward_flops),
        _count(cost.backward_flops),
    )


def _time_cells(timing: LayerTiming | None) -> tuple[CellView, ...]:
    if timing is None:
        return (CellView("unknown", ""),) * 3
    seconds = layer_seconds(timing)
    return (
        CellView(seconds_short(seconds), repr(seconds)),
        CellView(count_short(timing.flops_per_second), _sort(timing.flops_per_second)),
        CellView(share(timing.roofline_fraction), _sort(timing.roofline_fraction)),
    )


def _count(count: int | None, exact: bool = False) -> CellView:
    text = count_exact(count) if exact else count_short(count)
    return CellView(text, _sort(count), count_exact(count))


def _bytes(num_bytes: int | None) -> CellView:
    return CellView(bytes_short(num_bytes), _sort(num_bytes), bytes_exact(num_bytes))


def _sort(value: float | None) -> str:
    return "" if value is None else repr(value)


def _facts(cost: LayerCost, timing: LayerTiming | None) -> tuple[tuple[str, str], ...]:
    facts = [
        ("input", shapes_tuple(cost.input_shapes) or "–"),
        ("output", shapes_tuple(cost.output_shapes) or "–"),
    ]
    if cost.num_calls > 1:
        facts.append(("calls, summed in every figure", str(cost.num_calls)))
    if cost.num_parameters:
        facts.append(("parameters", bytes_exact(cost.parameter_bytes)))
    if cost.buffer_bytes:
        facts.append(("buffers", bytes_exact(cost.buffer_bytes)))
    if timing is not None:
        for name, spread in (("forward", timing.forward), ("backward", timing.backward)):
            if spread is not None:
                least, most = seconds_short(spread.minimum), seconds_short(spread.maximum)
                median = seconds_short(spread.median)
                facts.append((f"time, {name}", f"{median} median, {least} to {most}"))
    return tuple(facts)


def _formulas(formulas: Sequence[Formula]) -> tuple[FormulaView, ...]:
    """The first call's; a formula that stands for several quantities is shown once."""
    from markupsafe import Markup

    groups: dict[tuple[Any, tuple[tuple[str, int], ...]], list[Formula]] = {}
    for formula in formulas:
        key = (formula.function, tuple(formula.arguments.items()))
        groups.setdefault(key, []).append(formula)
    return tuple(
        FormulaView(
            " = ".join(formula.quantity for formula in same),
            Markup(general_mathml(same[0])),
            Markup(substituted_mathml(same[0])),
        )
        for same in groups.values()
    )
