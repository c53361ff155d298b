"""Every table of the walkthrough, for any network: values, not yet text.

profile.json, the Markdown and the HTML page write the same tables.
"""

from collections.abc import Sequence

from layerscope.base.formatting import at_least, count_exact
from layerscope.report.document import BLANK, Cell, Column, Sum, Table
from layerscope.theory.table import CostTable, LayerCost, Total

_LAYER = Column("layer", "layer", "text")
_PARAMETERS = Column("num_parameters", "parameters", "count")
_FORWARD = Column("forward_flops", "forward FLOPs", "flops")
_BACKWARD = Column("backward_flops", "backward FLOPs", "flops")
_OUTPUT_BYTES = Column("output_bytes", "output bytes", "bytes")
_OUTPUT_SHAPE = Column("output_shapes", "output shape", "shapes")
_INPUT_SHAPE = Column("input_shapes", "input shape", "shapes")
_GRADIENT = (
    Column("gradient_shape", "gradient shape", "shapes"),
    Column("gradient_bytes", "gradient bytes", "bytes"),
    Column("parameter_gradient_bytes", "parameter-gradient bytes", "bytes"),
    _BACKWARD,
    Column("bias_gradient_flops", "bias-sum FLOPs, apart", "flops"),
)


def walkthrough_tables(costs: CostTable) -> tuple[Table, ...]:
    """Return them in the walkthrough's order; gradients in that in which backward computes them."""
    blocks = costs.blocks()
    return (
        *(forward_of_block(block, layers) for block, layers in blocks),
        *(backward_of_block(block, layers) for block, layers in reversed(blocks)),
        *summary_tables(costs),
    )


def summary_tables(costs: CostTable) -> tuple[Table, ...]:
    """Return both passes, parameters, memory, computation and types of the whole network."""
    return (
        _forward(costs),
        _backward(costs),
        _parameters(costs),
        _memory(costs),
        _computation(costs.total()),
        _by_type(costs),
    )


def forward_of_block(block: Total, layers: Sequence[LayerCost]) -> Table:
    """Return what its layers make, and their sum."""
    return _table(
        f"forward:{block.name}",
        f"Forward, {block.name}",
        (_LAYER, _OUTPUT_SHAPE, _OUTPUT_BYTES, _PARAMETERS, _FORWARD),
        tuple(
            (c.layer, c.output_shapes, c.output_bytes, c.num_parameters, c.forward_flops)
            for c in layers
        ),
        ("block total", BLANK, block.output_bytes, block.num_parameters, _forward_flops(block)),
    )


def _forward(costs: CostTable) -> Table:
    rows: list[tuple[Cell, ...]] = [("input", BLANK, (costs.input_shape,), costs.input_bytes, 0, 0)]
    rows += [
        (
            *(c.layer, c.input_shapes, c.output_shapes),
            *(c.output_bytes, c.num_parameters, c.forward_flops),
        )
        for c in costs.layers
    ]
    total = costs.total()
    return _table(
        "forward",
        "Forward pass",
        (_LAYER, _INPUT_SHAPE, _OUTPUT_SHAPE, _OUTPUT_BYTES, _PARAMETERS, _FORWARD),
        tuple(rows),
        (
            *("total, input included", BLANK, BLANK, total.output_bytes + costs.input_bytes),
            *(total.num_parameters, _forward_flops(total)),
        ),
    )


def backward_of_block(block: Total, layers: Sequence[LayerCost]) -> Table:
    """Return the gradients of its layers, the last layer's first, and their sum."""
    return _table(
        f"backward:{block.name}",
        f"Backward, {block.name}",
        (_LAYER, *_GRADIENT),
        tuple(_gradient_row(cost) for cost in reversed(layers)),
        _gradient_total("block total", block),
    )


def _backward(costs: CostTable) -> Table:
    return _table(
        "backward",
        "Backward pass",
        (_LAYER, *_GRADIENT),
        tuple(_gradient_row(cost) for cost in reversed(costs.layers)),
        _gradient_total("total", costs.total()),
        note="The gradient is that of the layer's input. Every layer computes one here, the first "
        "too, as in the textbook; what this network really skips stands among the reasons.",
    )


def _gradient_row(cost: LayerCost) -> tuple[Cell, ...]:
    return (
        cost.layer,
        BLANK if cost.gradient_shape is None else (cost.gradient_shape,),
        cost.gradient_bytes,
        cost.parameter_gradient_bytes,
        cost.backward_flops,
        cost.bias_gradient_flops,
    )


def _gradient_total(name: str, total: Total) -> tuple[Cell, ...]:
    return (
        *(name, BLANK, total.gradient_bytes, total.parameter_gradient_bytes),
        *(_backward_flops(total), Sum(total.bias_gradient_flops, total.lower_bound)),
    )


def _parameters(costs: CostTable) -> Table:
    def row(total: Total) -> tuple[Cell, ...]:
        sizes = (total.num_parameters, total.parameter_bytes, total.buffer_bytes)
        return (total.name, *sizes)

    types = [each for each in costs.by_type() if each.num_parameters or each.buffer_bytes]
    return _table(
        "parameters",
        "Parameters and buffers",
        (
            Column("type", "type", "text"),
            _PARAMETERS,
            Column("parameter_bytes", "parameter bytes", "bytes"),
            Column("buffer_bytes", "buffer bytes", "bytes"),
        ),
        tuple(row(each) for each in types),
        row(costs.total()),
        note="Buffers are statistics and counters; they are no parameters.",
    )


def _memory(costs: CostTable) -> Table:
    total = costs.total()
    outputs = total.output_bytes + costs.input_bytes
    parameters, gradients = total.parameter_bytes, total.gradient_bytes
    ours = total.parameter_gradient_bytes
    return _table(
        "memory",
        f"Memory, batch of {costs.input_shape[0] if costs.input_shape else 1:,}",
        (
            Column("what", "what", "text"),
            Column("forward_bytes", "forward", "bytes"),
            Column("backward_bytes", "backward", "bytes"),
            Column("total_bytes", "both", "bytes"),
        ),
        (
            ("activations, input included", outputs, gradients, outputs + gradients),
            ("parameters, the same in both", parameters, parameters, parameters),
            ("parameter gradients", BLANK, ours, ours),
        ),
        (
            *("total", outputs + parameters, gradients + parameters + ours),
            outputs + gradients + parameters + ours,
        ),
        note="All that is ever written, as the textbook adds it up; the gradients of activations "
        "stand in the backward column. No step holds it at one time: gradients are freed as they "
        "are used, and not every output is kept. See the peak.",
    )


def _computation(total: Total) -> Table:
    forward, backward = total.forward_flops, total.backward_flops

    def row(name: str, flops: int) -> tuple[Cell, ...]:
        part = _part(flops, forward + backward, total.lower_bound)
        return (name, Sum(flops, total.lower_bound), part)

    return _table(
        "computation",
        "Computational cost of a step",
        (
            Column("pass", "pass", "text"),
            Column("flops", "FLOPs", "flops"),
            Column("share", "of both", "share"),
        ),
        (row("forward", forward), row("backward", backward)),
        row("total", forward + backward),
        note="Bias sums are counted apart: "
        f"{at_least(count_exact(total.bias_gradient_flops), total.lower_bound)} additions.",
    )


def _by_type(costs: CostTable) -> Table:
    whole = costs.total()

    def row(total: Total) -> tuple[Cell, ...]:
        return (
            *(total.name, total.num_layers, _forward_flops(total)),
            _part(total.forward_flops, whole.forward_flops, whole.lower_bound),
            _backward_flops(total),
            _part(total.backward_flops, whole.backward_flops, whole.lower_bound),
            total.output_bytes,
        )

    return _table(
        "types",
        "Breakdown by type of layer",
        (
            Column("type", "type", "text"),
            Column("num_layers", "layers", "count"),
            *(_FORWARD, Column("forward_share", "of forward", "share")),
            *(_BACKWARD, Column("backward_share", "of backward", "share")),
            _OUTPUT_BYTES,
        ),
        tuple(row(each) for each in costs.by_type()),
        row(whole),
        note=f"Unknown, and missing in the totals: {', '.join(whole.unknown)}."
        if whole.unknown
        else "",
    )


def _forward_flops(total: Total) -> Cell:
    return _unless_unknown(total.forward_flops, total)


def _backward_flops(total: Total) -> Cell:
    return _unless_unknown(total.backward_flops, total)


def _unless_unknown(flops: int, total: Total) -> Cell:
    """At least 0 FLOPs is no more than not knowing."""
    return None if total.lower_bound and not flops else Sum(flops, total.lower_bound)


def _part(part: int, whole: int, lower_bound: bool) -> float | None:
    """Unknown where the whole is."""
    return None if lower_bound or not whole else part / whole


def _table(
    key: str,
    title: str,
    columns: tuple[Column, ...],
    rows: tuple[tuple[Cell, ...], ...],
    total: tuple[Cell, ...],
    note: str = "",
) -> Table:
    return Table(columns, rows, total, title, note, key)
