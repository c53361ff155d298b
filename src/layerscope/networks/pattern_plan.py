"""The layers of a pattern with keys, sizes and settings, worked out without building them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NoReturn

from layerscope.base.errors import UserError
from layerscope.networks.common import scaled_channels
from layerscope.networks.pattern_layers import POOLS, PatternLayer, pattern_layers
from layerscope.networks.pattern_order import (
    WINDOWED,
    blocks_of,
    check_order,
    completed,
    layer_keys,
)
from layerscope.networks.pattern_syntax import refuse
from layerscope.operations.shapes import conv_output_size

FIRST_CHANNELS = 16  # in block 1; each further block has twice as many
MAX_PARAMETERS = 2**30
MAX_ELEMENTS = 2**30  # in one layer's output for one image


@dataclass(frozen=True)
class Recipe:
    """The settings that decide a network: the keys of configs/model/pattern.yaml."""

    pattern: str
    input_shape: tuple[int, int, int]
    num_classes: int
    channels: tuple[int, ...] | None
    kernel_size: int
    stride: int
    padding: int | None
    hidden_units: int | tuple[int, ...]
    batch_norm: bool
    width: float


@dataclass(frozen=True)
class PlannedLayer:
    """A layer that can be built.

    Args:
        key: its module path.
        settings: `k`, `s`, `p` for a convolution or pooling; `rate` for Dropout.
        input_shape, output_shape: for one image, (C, H, W) or (features,).
    """

    key: str
    kind: str
    settings: Mapping[str, int | float]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        if self.kind == "BN":
            return 2 * self.input_shape[0]
        if self.kind == "Conv":
            k = int(self.settings["k"])
            return self.output_shape[0] * (self.input_shape[0] * k * k + 1)
        return self.output_shape[0] * (self.input_shape[0] + 1) if self.kind == "FC" else 0


def template(M: int, N: int, K: int, pool: bool) -> str:
    """Return a pattern: M blocks of N convolutions, K hidden FC layers and the last FC layer."""
    block = f"{_repeated('Conv → ReLU', N)}{' → Pool' if pool else ''}"
    parts = [_repeated(f"({block})", M)] * (M > 0) + [_repeated("FC → ReLU", K)] * (K > 0)
    return " → ".join(["Input", *parts, "FC"])


def _repeated(part: str, count: int) -> str:
    if count == 1:
        return part
    return f"{part} × {count}" if part.startswith("(") else f"({part}) × {count}"


def plan_network(recipe: Recipe) -> tuple[PlannedLayer, ...]:
    """Return every layer in order, including the flattening.

    Raises:
        UserError: `model.channels` or `model.hidden_units` has the wrong number of entries.
        MarkedError: the pattern has a mistake; the error shows its place.
    """
    layers = pattern_layers(recipe.pattern)
    if layers[0].kind == "Input":
        layers = layers[1:]
    check_order(recipe.pattern, layers)
    layers = completed(layers, recipe.batch_norm)
    blocks = blocks_of(layers)
    outputs = _outputs(recipe, layers, blocks)
    return tuple(_planned(recipe, layers, layer_keys(layers, blocks), outputs))


def _outputs(
    recipe: Recipe, layers: Sequence[PatternLayer], blocks: Sequence[int]
) -> Iterator[int]:
    """Yield the channels of each Conv and the features of each FC, in order."""
    convs = [(layer, block) for layer, block in zip(layers, blocks, strict=True) if _is_conv(layer)]
    defaults = _default_channels(recipe, [block for _, block in convs])
    channels = tuple(
        int(layer.arguments.get("channels", default))
        for (layer, _), default in zip(convs, defaults, strict=True)
    )
    *hidden, last = (layer for layer in layers if layer.kind == "FC")
    units = _hidden_units(recipe, len(hidden))
    given = last.arguments.get("units", recipe.num_classes)
    if given != recipe.num_classes:
        refuse(
            recipe.pattern,
            last.argument_places["units"],
            f"the last FC gives model.num_classes={recipe.num_classes} scores: leave out {given}",
        )
    yield from scaled_channels(channels, recipe.width)
    for layer, default in zip(hidden, units, strict=True):
        yield int(layer.arguments.get("units", default))
    yield recipe.num_classes


def _is_conv(layer: PatternLayer) -> bool:
    return layer.kind == "Conv"


def _default_channels(recipe: Recipe, blocks: Sequence[int]) -> list[int]:
    """Return the channels of each Conv, which its block decides."""
    ordinal = {block: index for index, block in enumerate(dict.fromkeys(blocks))}
    given = recipe.channels
    if given is None:
        return [FIRST_CHANNELS * 2 ** ordinal[block] for block in blocks]
    if len(given) == len(blocks):
        return list(given)
    if len(given) == len(ordinal):
        return [given[ordinal[block]] for block in blocks]
    raise UserError(
        f"model.channels={list(given)}: give one number for each of the {len(ordinal)} blocks, "
        f"or for each of the {len(blocks)} convolutions, or null"
    )


def _hidden_units(recipe: Recipe, num_hidden: int) -> tuple[int, ...]:
    units = recipe.hidden_units
    if isinstance(units, int):
        return (units,) * num_hidden
    if len(units) != num_hidden:
        raise UserError(
            f"model.hidden_units={list(units)}: give one number for each of the {num_hidden} "
            "hidden FC layers, or one for all"
        )
    return units


def _planned(
    recipe: Recipe, layers: Sequence[PatternLayer], keys: Sequence[str], outputs: Iterator[int]
) -> Iterator[PlannedLayer]:
    shape: tuple[int, ...] = recipe.input_shape
    num_parameters = 0
    for layer, key in zip(layers, keys, strict=True):
        settings = _settings(recipe, layer)
        after = shape
        if layer.kind in WINDOWED:
            channels = next(outputs) if layer.kind == "Conv" else shape[0]
            after = (channels, *_window_sizes(recipe, layer, settings, shape[1:]))
        elif layer.kind == "FC":
            after = (next(outputs),)
        elif layer.kind == "GAP":
            after = (shape[0], 1, 1)
        elif layer.kind == "Flatten":
            after = (prod(shape),)
        planned = PlannedLayer(key, layer.kind, settings, shape, after)
        num_parameters += planned.num_parameters
        if num_parameters > MAX_PARAMETERS:
            refuse(
                recipe.pattern,
                layer.place,
                f"with {key} the network has {_about(num_parameters)} parameters, at most "
                f"{MAX_PARAMETERS:,} are built: lower model.channels or model.hidden_units",
            )
        if prod(after) > MAX_ELEMENTS:
            refuse(
                recipe.pattern,
                layer.place,
                f"{key} makes {_about(prod(after))} numbers for one image, at most "
                f"{MAX_ELEMENTS:,} are computed: lower its padding or channels",
            )
        yield planned
        shape = after


def _about(count: int) -> str:
    return f"{count:,}" if count < 10**18 else "more than 10^18"


def _settings(recipe: Recipe, layer: PatternLayer) -> Mapping[str, int | float]:
    """Return the layer's own arguments; those of the recipe where the layer gives none."""
    arguments = layer.arguments
    if layer.kind == "Dropout":
        return {"rate": arguments.get("rate", 0.5)}
    if layer.kind in POOLS:
        k = arguments.get("k", 2)
        settings = {"k": k, "s": arguments.get("s", k), "p": arguments.get("p", 0)}
        if 2 * settings["p"] > k:
            place = layer.argument_places["p"]
            refuse(recipe.pattern, place, f"p={settings['p']} is more than half of k={k}: lower it")
        return settings
    if layer.kind != "Conv":
        return {}
    k = int(arguments.get("k", recipe.kernel_size))
    p = arguments.get("p", recipe.padding)
    if p is None and k % 2 == 0:
        place = layer.argument_places.get("k", layer.place)
        refuse(recipe.pattern, place, f"no padding keeps the size with k={k}: give p, or an odd k")
    return {
        "k": k,
        "s": arguments.get("s", recipe.stride),
        "p": k // 2 if p is None else p,
    }


def _window_sizes(
    recipe: Recipe,
    layer: PatternLayer,
    settings: Mapping[str, int | float],
    sizes: tuple[int, ...],
) -> tuple[int, ...]:
    k, s, p = (int(settings[name]) for name in "ksp")
    found = tuple(conv_output_size(size, k, s, p) for size in sizes)
    if min(found) < 1:
        _refuse_nothing_left(recipe, layer, k, p, sizes)
    return found


def _refuse_nothing_left(
    recipe: Recipe, layer: PatternLayer, k: int, p: int, sizes: tuple[int, ...]
) -> NoReturn:
    number, total = layer.repetition
    repetition = f" at repetition {number} of {total}" if total > 1 else ""
    padded = f" with padding {p}" if p else ""
    refuse(
        recipe.pattern,
        layer.place,
        f"nothing is left: the {k}×{k} window of {layer.kind}{repetition} does not fit into "
        f"{sizes[0]}×{sizes[1]}{padded}: pool less, or raise "
        f"model.input_shape={list(recipe.input_shape)}",
    )
