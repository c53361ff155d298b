"""Every table of the walkthrough, for any network: values, not yet text.

A column's key is the name of what it shows of a layer or a total. profile.json, the Markdown and
the page write the same tables.
"""

from collections.abc import Iterable, Sequence

from layerscope.base.formatting import at_least, count_exact
from layerscope.report.document import BLANK, Cell, Column, Sum, Table
from layerscope.theory.table import CostTable, LayerCost, Total

_LAYER = Column("layer", "layer")
_TYPE = Column("type", "type")
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
    columns = (_LAYER, _OUTPUT_SHAPE, _OUTPUT_BYTES, _PARAMETERS, _FORWARD)
    return Table(
        columns,
        _layer_rows(columns, layers),
        _total_row(columns, block, "block total"),
        title=f"Forward, {block.name}",
        key=f"forward:{block.name}",
    )


def backward_of_block(block: Total, layers: Sequence[LayerCost]) -> Table:
    """Return the gradients of its layers, the last layer's first, and their sum."""
    return Table(
        (_LAYER, *_GRADIENT),
        _layer_rows((_LAYER, *_GRADIENT), reversed(layers)),
        _total_row((_LAYER, *_GRADIENT), block, "block total"),
        title=f"Backward, {block.name}",
        key=f"backward:{block.name}",
    )


def _forward(costs: CostTable) -> Table:
    columns = (_LAYER, _INPUT_SHAPE, _OUTPUT_SHAPE, _OUTPUT_BYTES, _PARAMETERS, _FORWARD)
    image = ("input", BLANK, (costs.input_shape,), costs.input_bytes, 0, 0)
    total = costs.total()
    return Table(
        columns,
        (image, *_layer_rows(columns, costs.layers)),
        _total_row(
            columns,
            total,
            "total, input included",
            output_bytes=total.output_bytes + costs.input_bytes,
        ),
        title="Forward pass",
        key="forward",
    )


def _backward(costs: CostTable) -> Table:
    return Table(
        (_LAYER, *_GRADIENT),
        _layer_rows((_LAYER, *_GRADIENT), reversed(costs.layers)),
        _total_row((_LAYER, *_GRADIENT), costs.total(), "total"),
        title="Backward pass",
        key="backward",
        note="The gradient is that of the layer's input. Every layer computes one here, the first "
        "too, as in the textbook; what this network really skips stands among the reasons.",
    )


def _parameters(costs: CostTable) -> Table:
    columns = (
        *(_TYPE, _PARAMETERS, Column("parameter_bytes", "parameter bytes", "bytes")),
        Column("buffer_bytes", "buffer bytes", "bytes"),
    )
    types = [each for each in costs.by_type() if each.num_parameters or each.buffer_bytes]
    whole = costs.total()
    return Table(
        columns,
        tuple(_total_row(columns, each, each.name) for each in types),
        _total_row(columns, whole, whole.name),
        title="Parameters and buffers",
        key="parameters",
        note="Buffers are statistics and counters; they are no parameters.",
    )


def _memory(costs: CostTable) -> Table:
    total = costs.total()
    outputs = total.output_bytes + costs.input_bytes
    parameters, gradients = total.parameter_bytes, total.gradient_bytes
    ours = total.parameter_gradient_bytes
    return Table(
        (
            Column("what", "what"),
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
        title=f"Memory, batch of {costs.input_shape[0] if costs.input_shape else 1:,}",
        key="memory",
        note="All that is ever written, as the textbook adds it up; the gradients of activations "
        "stand in the backward column. No step holds it at one time: gradients are freed as they "
        "are used, and not every output is kept. See the peak.",
    )


def _computation(total: Total) -> Table:
    forward, backward = total.forward_flops, total.backward_flops

    def row(name: str, flops: int) -> tuple[Cell, ...]:
        part = _part(flops, forward + backward, total.lower_bound)
        return (name, Sum(flops, total.lower_bound), part)

    return Table(
        (
            Column("pass", "pass"),
            Column("flops", "FLOPs", "flops"),
            Column("share", "of both", "share"),
        ),
        (row("forward", forward), row("backward", backward)),
        row("total", forward + backward),
        title="Computational cost of a step",
        key="computation",
        note="Bias sums are counted apart: "
        f"{at_least(count_exact(total.bias_gradient_flops), total.lower_bound)} additions.",
    )


def _by_type(costs: CostTable) -> Table:
    whole = costs.total()
    columns = (
        *(_TYPE, Column("num_layers", "layers", "count")),
        *(_FORWARD, Column("forward_share", "of forward", "share")),
        *(_BACKWARD, Column("backward_share", "of backward", "share"), _OUTPUT_BYTES),
    )

    def row(total: Total) -> tuple[Cell, ...]:
        forward = _part(total.forward_flops, whole.forward_flops, whole.lower_bound)
        backward = _part(total.backward_flops, whole.backward_flops, whole.lower_bound)
        shares = {"forward_share": forward, "backward_share": backward}
        return _total_row(columns, total, total.name, **shares)

    unknown = ", ".join(whole.unknown)
    return Table(
        columns,
        tuple(map(row, costs.by_type())),
        row(whole),
        title="Breakdown by type of layer",
        key="types",
        note=f"Unknown, and missing in the totals: {unknown}." if unknown else "",
    )


def _layer_rows(
    columns: Sequence[Column], layers: Iterable[LayerCost]
) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(_of_layer(cost, column.key) for column in columns) for cost in layers)


def _of_layer(cost: LayerCost, name: str) -> Cell:
    if name == "gradient_shape":
        return BLANK if cost.gradient_shape is None else (cost.gradient_shape,)
    return getattr(cost, name)


def _total_row(
    columns: Sequence[Column], total: Total, title: str, **own: Cell
) -> tuple[Cell, ...]:
    """Return a total's cells; `own` are those that the total itself does not have."""
    return (title, *(own.get(c.key) if c.key in own else _of_total(total, c) for c in columns[1:]))


def _of_total(total: Total, column: Column) -> Cell:
    if column.unit == "shapes":
        return BLANK
    value = getattr(total, column.key)
    if column.unit != "flops":
        return value
    # At least 0 FLOPs is no more than not knowing.
    is_unknown = total.lower_bound and not value and column.key != "bias_gradient_flops"
    return None if is_unknown else Sum(value, total.lower_bound)


def _part(part: int, whole: int, lower_bound: bool) -> float | None:
    """Return a share, unknown where the whole is."""
    return None if lower_bound or not whole else part / whole
