"""Where a layer's numbers are explained: what the user chose, checked, or the default."""

from dataclasses import dataclass
from difflib import get_close_matches

from layerscope.base.errors import UserError
from layerscope.dry_run import Shape
from layerscope.explain.explainer import Explainer
from layerscope.explain.explanation import Settings
from layerscope.explain.values import Position
from layerscope.networks.layer_calls import DescribedCall, NetworkCalls


@dataclass(frozen=True)
class Places:
    """Positions in one layer; None where it has none."""

    output: Position
    input: Position
    weight: Position | None
    bias: Position | None


def check_choice(network: NetworkCalls, settings: Settings) -> None:
    """Check that the chosen layer and positions are there.

    Raises:
        UserError: naming what there is instead.
    """
    if settings.layer is None:
        for name in ("position", "input_position", "weight_position"):
            position = getattr(settings, name)
            if position is not None:
                raise UserError(f"{name}={list(position)}: say of which layer, layer=...")
        return
    specs = {spec.key: spec for spec in reversed(network.layers)}  # of the first calls
    spec = specs.get(settings.layer)
    if spec is None:
        raise UserError(_unknown_layer(settings.layer, [*reversed(specs)]))
    _check("position", settings.position, spec.output_shape, f"{spec.key} returns")
    if spec.inputs:
        _check("input_position", settings.input_position, spec.input_shape, f"{spec.key} reads")
    weight = spec.parameters.get("weight")
    if weight is not None:
        has_weight = f"{spec.key} has a weight of"
        _check("weight_position", settings.weight_position, weight.shape, has_weight)
    elif settings.weight_position is not None:
        position = list(settings.weight_position)
        raise UserError(f"weight_position={position}: {spec.key} has no weight, leave it out")


def places(spec: DescribedCall, explainer: Explainer, settings: Settings) -> Places:
    """The chosen positions; where none is chosen, the defaults that follow from the output's."""
    output = settings.position or default_position(spec.output_shape)
    weight = settings.weight_position
    if weight is None and explainer.first_weight is not None and "weight" in spec.parameters:
        weight = explainer.first_weight(spec, output)
    has_bias = explainer.bias is not None and "bias" in spec.parameters
    return Places(
        output=output,
        input=settings.input_position or explainer.first_input(spec, output),
        weight=weight,
        bias=explainer.bias(spec, output) if has_bias and explainer.bias is not None else None,
    )


def default_position(shape: Shape) -> Position:
    """The first image's first channel; of a map, the place (1, 1) if it is that large."""
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
