"""Why the textbook's figure of a layer differs between two profiles."""

from collections.abc import Iterator, Sequence

from layerscope.base.formatting import shapes_tuple
from layerscope.compare.saved import SavedLayer, SavedProfile
from layerscope.reconcile.rows import Reason

# Parameters and buffers are there once, whatever the batch.
_WITHOUT_BATCH = frozenset({"num_parameters", "parameter_bytes", "buffer_bytes"})
# Buffers keep their own dtypes, counters and statistics, in the textbook too.
_OF_ELEMENTS = frozenset({"parameter_bytes", "output_bytes", "saved_bytes"})


# Of several layers together; what they have in common.
TOGETHER = {
    "added": "layers that only b has",
    "removed": "layers that only a has",
    "parameters": "layers with other numbers of parameters",
    "input_shape": "layers whose input has another shape",
    "calls": "layers that are called another number of times",
    "type": "layers of another type",
    "output_shape": "layers whose output has another shape",
}


def theory_reasons(
    a: SavedProfile, b: SavedProfile, layer: str, quantity: str, theories: tuple[int, int]
) -> tuple[Reason, ...]:
    """Split the difference of two theories by its causes, in this order.

    The batch changes first, then the size of an element, both in proportion; the rest is the
    layer's own, or its input's. The amounts sum to the difference.

    Args:
        theories: the textbook's figures of a and b, or those parts that an instrument counts.
    """
    return tuple(_reasons(a, b, layer, quantity, *theories))


def _reasons(
    a: SavedProfile, b: SavedProfile, layer: str, quantity: str, theory: int, wanted: int
) -> Iterator[Reason]:
    before, after = a.layers.get(layer), b.layers.get(layer)
    has_batch = before is not None and after is not None and _follows_batch(a, b, before, after)
    if has_batch and quantity not in _WITHOUT_BATCH:
        assert a.batch_size is not None
        assert b.batch_size is not None
        scaled = _scaled(theory, a.batch_size, b.batch_size)
        if scaled != theory:
            text = f"the batch is {b.batch_size:,}, not {a.batch_size:,}"
            yield Reason("batch_size", scaled - theory, text)
        theory = scaled
    if quantity in _OF_ELEMENTS:
        scaled = _scaled(theory, a.element_size, b.element_size)
        if scaled != theory:
            text = f"an element takes {b.element_size} B, not {a.element_size} B"
            yield Reason("element_size", scaled - theory, text)
        theory = scaled
    if theory != wanted:
        code, text = _own_cause(before, after, has_batch)
        yield Reason(code, wanted - theory, text)


def _follows_batch(a: SavedProfile, b: SavedProfile, before: SavedLayer, after: SavedLayer) -> bool:
    """Tell whether the layer's output grows with the network's batch, or has the same one."""
    if not a.batch_size or not b.batch_size or not before.output_shapes or not after.output_shapes:
        return False
    first, second = before.output_shapes[0], after.output_shapes[0]
    if not first or not second:
        return False
    return first[0] * b.batch_size == second[0] * a.batch_size


def _scaled(theory: int, old: int, new: int) -> int:
    """Return the figure in proportion; as it is where that is no integer."""
    return theory if not old or theory * new % old else theory * new // old


def _own_cause(
    before: SavedLayer | None, after: SavedLayer | None, has_batch: bool
) -> tuple[str, str]:
    """Return code and text of what the layer itself differs in."""
    if before is None or after is None:  # what a module runs between layers
        return "operations", "the operations between its layers are others"
    if before.type != after.type:
        return "type", f"it is a {after.type}, not a {before.type}"
    num_parameters = (before.figures["num_parameters"], after.figures["num_parameters"])
    found: list[tuple[str, str]] = []
    if num_parameters[0] != num_parameters[1]:
        found.append(
            ("parameters", f"it has {num_parameters[1]:,} parameters, not {num_parameters[0]:,}")
        )
    inputs = [_shapes(each.input_shapes, has_batch) for each in (before, after)]
    if inputs[0] != inputs[1]:
        found.append(("input_shape", f"its input is {inputs[1]}, not {inputs[0]}"))
    if before.num_calls != after.num_calls:
        found.append(("calls", f"it is called {after.num_calls} times, not {before.num_calls}"))
    outputs = [_shapes(each.output_shapes, has_batch) for each in (before, after)]
    if not found and outputs[0] != outputs[1]:
        found.append(("output_shape", f"its output is {outputs[1]}, not {outputs[0]}"))
    if not found:
        return "settings_of_layer", "its shapes are the same: it is set up differently"
    return found[0][0], "; ".join(text for _, text in found)


def _shapes(shapes: Sequence[Sequence[int]], has_batch: bool) -> str:
    """Return the shapes, without the batch where this is told apart."""
    shown = [shape[1:] if has_batch else shape for shape in shapes]
    return shapes_tuple(shown) or "nothing"
