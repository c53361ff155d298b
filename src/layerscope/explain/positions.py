"""Where a layer's numbers are explained: what the user chose, checked, or the default."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from layerscope.base.errors import UserError
from layerscope.dry_run import Shape
from layerscope.explain.explainer import Explainer
from layerscope.explain.explanation import ExplainSettings
from layerscope.explain.families import explainer_of
from layerscope.explain.operation import Operation
from layerscope.explain.values import Position


@dataclass(frozen=True)
class Places:
    """Positions in one layer.

    Args:
        operands: by symbol, of each whose gradient is explained.
    """

    output: Position
    operands: Mapping[str, Position]


def check_choice(operations: Mapping[str, Operation | None], settings: ExplainSettings) -> None:
    """Check that the chosen layer and positions are there.

    Args:
        operations: what the first call of each layer computes; None where it is not explained.

    Raises:
        UserError: naming what there is instead.
    """
    if settings.layer is None:
        for name in ("position", "input_position", "weight_position"):
            position = getattr(settings, name)
            if position is not None:
                raise UserError(f"{name}={list(position)}: say of which layer, layer=...")
        return
    if settings.layer not in operations:
        raise UserError(_unknown_layer(settings.layer, [*operations]))
    operation = operations[settings.layer]
    explainer = None if operation is None else explainer_of(operation)
    if operation is None or explainer is None:
        return
    key, read = operation.key, operation.shapes.get(explainer.input)
    _check("position", settings.position, operation.output_shape, f"{key} returns")
    if read is not None:
        _check("input_position", settings.input_position, read, f"{key} reads")
    weight = operation.shapes.get("w")
    if weight is not None:
        _check("weight_position", settings.weight_position, weight, f"{key} has a weight of")
    elif settings.weight_position is not None:
        position = list(settings.weight_position)
        raise UserError(f"weight_position={position}: {key} has no weight, leave it out")


def chosen_places(operation: Operation, explainer: Explainer, settings: ExplainSettings) -> Places:
    """Return the chosen positions; where none is chosen, those that follow from the output's."""
    output = settings.position or default_position(operation.output_shape)
    chosen = {explainer.input: settings.input_position, "w": settings.weight_position}
    symbols = (explainer.input, *explainer.others, "w", "b")
    return Places(
        output,
        {
            symbol: chosen.get(symbol) or explainer.first(operation, symbol, output)
            for symbol in symbols
            if symbol in operation.shapes
        },
    )


def default_position(shape: Shape) -> Position:
    """Return the first image's first channel; of a map, the place (1, 1) if it is that large."""
    return tuple(0 if dim < 2 else min(1, size - 1) for dim, size in enumerate(shape))


def _check(name: str, position: Position | None, shape: Shape, has: str) -> None:
    if position is None:
        return
    given = f"{name}={list(position)}"
    if len(position) != len(shape):
        raise UserError(
            f"{given} has {len(position)} of {len(shape)} indices: {has} {_sizes(shape)}"
        )
    for index, size in zip(position, shape, strict=True):
        if not 0 <= index < size:
            raise UserError(f"{given}: {index} is outside 0 to {size - 1}, {has} {_sizes(shape)}")


def _sizes(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a single number"


def _unknown_layer(layer: str, keys: list[str]) -> str:
    close = get_close_matches(layer, keys, n=1)
    if close:
        return f"layer={layer} is not there: did you mean {close[0]}?"
    shown = ", ".join(keys[:20]) + (f", and {len(keys) - 20} more" if keys[20:] else "")
    return f"layer={layer} is not there: choose one of {shown}"
